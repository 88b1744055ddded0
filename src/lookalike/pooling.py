"""From feature maps (B, C, H, W) to vectors (B, C): means, GeM, and what SuperGlobal adds to it.

Plain numpy; results keep the type of the maps. GeM is Radenović et al., PAMI 2018. Regional GeM, scale GeM
and ReLUP are Shao et al., ICCV 2023 ("SuperGlobal"), whose GeM+ is GeM with p = 4.6 and eps = 1e-8.

`shares` (B, H, W), summing to 1 for each map, says how much each cell counts; None means all alike.
`coverage` and `tapered` make them from boxes; `cell_weights` and `cell_masks` do where cells are tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lookalike.values import Box, Floats

Real = NDArray[np.floating[Any]]  # float32 or float64: what comes in is what goes out
Doubles = NDArray[np.float64]


def mean(maps: Real, shares: Real | None = None) -> Real:
    """Mean over the cells, (B, C, H, W) -> (B, C)."""
    if shares is None:
        return np.asarray(maps.mean((2, 3)))
    return np.asarray(np.einsum("bchw,bhw->bc", maps, shares.astype(maps.dtype)))


def salient(maps: Real, power: float, shares: Real | None = None) -> Real:
    """Mean over the cells, each weighted by a power of its own L2 norm, (B, C, H, W) -> (B, C).

    Cells that show an object are louder than plain ones, so large powers look past the background. Maps may
    be signed. In the manner of CroW (Kalantidis et al., ECCV workshops 2016), whose weights come from sums.
    """
    norms = np.linalg.norm(maps, axis=1)
    loudest = norms.max((1, 2), keepdims=True)
    weights = (norms / np.maximum(loudest, np.finfo(maps.dtype).tiny)) ** power
    if shares is not None:
        weights = weights * shares.astype(maps.dtype)
    return mean(maps, weights / np.maximum(weights.sum((1, 2), keepdims=True), np.finfo(maps.dtype).tiny))


def gem(maps: Real, p: float, eps: float = 1e-8, shares: Real | None = None) -> Real:
    """Generalised mean over the cells, (B, C, H, W) -> (B, C): p = 1 is the mean, large p nears the maximum.

    Values below `eps` count as `eps`, so the result is positive: signed maps lose their negative part.
    """
    return np.asarray(mean(np.maximum(maps, eps) ** p, shares) ** (1 / p))


def regional_gem(maps: Real, p: float = 2.5, window: int = 5) -> Real:
    """Each cell halfway to the generalised mean of the odd `window` round it: (B, C, H, W) -> the same.

    Maps are non-negative, with more than window // 2 cells each way: the border is mirrored.
    """
    around, (height, width) = window // 2, maps.shape[2:]
    mirrored = np.pad(maps**p, ((0, 0), (0, 0), (around, around), (around, around)), mode="reflect")
    down: Real = np.add.reduce([mirrored[:, :, shift : shift + height] for shift in range(window)])
    sums: Real = np.add.reduce([down[..., shift : shift + width] for shift in range(window)])
    return np.asarray(((sums / window**2) ** (1 / p) + maps) / 2)


def scale_gem(scales: Real, p: float = np.inf) -> Real:
    """One vector from those of several scales, (S, B, C) -> (B, C), not unit length.

    p = inf: the maximum of the unit vectors. Finite p: the generalised mean of the vectors as they are,
    measured from the smallest value of all.
    """
    if np.isinf(p):
        return np.asarray((scales / np.linalg.norm(scales, axis=2, keepdims=True)).max(0))
    floor = scales.min()
    return np.asarray(((scales - floor) ** p).mean(0) ** (1 / p) + floor)


def relup(maps: Real, alpha: float = 0.014) -> Real:
    """ReLU with a raised floor: values below `alpha` become `alpha`."""
    return np.maximum(maps, np.asarray(alpha, maps.dtype))


def coverage(boxes: Sequence[Box], height: int, width: int) -> Floats:
    """The part of each box that lies in each cell: boxes in cells -> (B, height, width), summing to 1.

    A box over columns 0 to 1.5 gives the first column 2/3 and the second 1/3. Boxes lie inside the map.
    """
    return _shares(boxes, height, width, lambda place: place)


def tapered(boxes: Sequence[Box], height: int, width: int) -> Floats:
    """Like `coverage`, but the middle of a box counts most: a cosine each way, down to 0 at the edges."""
    return _shares(boxes, height, width, lambda place: np.sin(np.pi * (place - 0.5)))


def cell_weights(
    cells: Real, boxes: Floats, frames: Floats, height: int, width: int, power: float = 3
) -> Floats:
    """How much each cell (B, height * width, C) counts for its region: (B, height * width), rows sum to 1.

    `tapered` and `salient` in one: the middle of the box counts most, and cells by a power of their length.
    Boxes and frames (B, 4) are cx, cy, w, h in shares of the map; where a box is NaN, the frame takes its
    place.
    """
    where = np.where(np.isnan(boxes), frames, boxes)
    inside = [
        Box(cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2).scaled(width, height).clipped(width, height)
        for cx, cy, w, h in where.tolist()
    ]
    taper = tapered(inside, height, width).reshape(len(inside), -1)
    lengths = np.linalg.norm(cells.astype(np.float32, copy=False), axis=2)
    weights = taper * (lengths / lengths.max(axis=1, keepdims=True).clip(1e-12)) ** power
    return np.asarray(weights / weights.sum(axis=1, keepdims=True), np.float32)


def cell_masks(boxes: Floats, height: int, width: int) -> NDArray[np.bool_]:
    """The cells that boxes touch: (B, 4) as cx, cy, w, h, 0 to 1, -> (B, height * width), at least one each.

    As X-VLM makes a region's mask (Zeng et al., ICML 2022). No cell where a box is NaN.
    """
    cx, cy, w, h = np.asarray(boxes, np.float64).reshape(-1, 4).T
    columns, rows = _touched(cx - w / 2, cx + w / 2, width), _touched(cy - h / 2, cy + h / 2, height)
    return (rows[:, :, None] & columns[:, None, :]).reshape(len(cx), height * width)


def _shares(boxes: Sequence[Box], height: int, width: int, integral: Callable[[Doubles], Doubles]) -> Floats:
    """`integral` is of the density along one side of a box, whose places run from 0 to 1."""
    corners = np.asarray([box.corners for box in boxes], np.float64).reshape(-1, 4)
    across = _masses(corners[:, 0], corners[:, 2], width, integral)
    down = _masses(corners[:, 1], corners[:, 3], height, integral)
    return np.asarray(down[:, :, None] * across[:, None, :], np.float32)


def _masses(starts: Doubles, ends: Doubles, cells: int, integral: Callable[[Doubles], Doubles]) -> Doubles:
    """What lies in each unit cell of intervals (B,), (B,) -> (B, cells), summing to 1."""
    borders = np.arange(cells + 1, dtype=np.float64)
    places = np.clip((borders - starts[:, None]) / (ends - starts)[:, None], 0, 1)
    masses = np.diff(integral(places), axis=1)
    return np.asarray(masses / masses.sum(1, keepdims=True))


def _touched(starts: Doubles, ends: Doubles, cells: int) -> NDArray[np.bool_]:
    """The cells of a side, (B, cells), that intervals (B,), (B,) of 0 to 1 touch."""
    slack = 1e-4  # of a cell: what float32 may lose
    first = np.minimum(np.floor(starts * cells + slack), cells - 1)[:, None]
    last = np.maximum(first + 1, np.minimum(np.ceil(ends * cells - slack), cells)[:, None])
    places = np.arange(cells)
    return np.asarray((first <= places) & (places < last))
