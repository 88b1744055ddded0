"""A mask -> polygons around it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_CELL = 4  # pixels: how coarse the polygons are
_LEAST = 4  # cells of a polygon


def outlines_of(mask: NDArray[np.bool_]) -> list[list[int]]:
    """Polygons x, y, x, y, … around the parts of a mask (H, W), the largest first; holes are filled.

    They follow cells of four pixels of which at least half is in the mask, and stay inside the mask's box. A
    mask too small for that gets its box.
    """
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not len(rows):
        return []
    top, bottom, left, right = rows[0], rows[-1] + 1, columns[0], columns[-1] + 1
    part = mask[top:bottom, left:right]
    height, width = -(-part.shape[0] // _CELL), -(-part.shape[1] // _CELL)
    padded = np.zeros((height * _CELL, width * _CELL), np.uint8)
    padded[: part.shape[0], : part.shape[1]] = part
    cells = padded.reshape(height, _CELL, width, _CELL).sum(axis=(1, 3)) * 2 >= _CELL * _CELL
    found = []
    for loop in _loops(cells):
        x, y = np.array(loop, np.int64).T
        area = int((x * np.roll(y, -1) - np.roll(x, -1) * y).sum()) / 2
        if area >= _LEAST:  # negative: a hole
            points = _smoothed(np.stack([x, y], axis=1) * float(_CELL))
            points = points.clip(0, (right - left, bottom - top)) + np.array((left, top))
            found.append((-area, points.round().astype(int).ravel().tolist()))
    found.sort()
    box = [left, top, right, top, right, bottom, left, bottom]
    return [outline for _, outline in found] or [[int(corner) for corner in box]]


def _loops(cells: NDArray[np.bool_]) -> list[list[tuple[int, int]]]:
    """Closed walks along the edges of the cells, clockwise in the picture around what is set."""
    framed = np.pad(cells, 1)
    steps: dict[tuple[int, int], list[tuple[int, int]]] = {}
    for dy, dx, start, end in (
        (-1, 0, (0, 0), (1, 0)),  # nothing above: to the right along the upper edge
        (0, 1, (1, 0), (1, 1)),
        (1, 0, (1, 1), (0, 1)),
        (0, -1, (0, 1), (0, 0)),
    ):
        rim = cells & ~framed[1 + dy : framed.shape[0] - 1 + dy, 1 + dx : framed.shape[1] - 1 + dx]
        for y, x in np.argwhere(rim).tolist():
            steps.setdefault((x + start[0], y + start[1]), []).append((x + end[0], y + end[1]))
    loops = []
    while steps:
        at = first = next(iter(steps))
        loop = []
        while True:
            loop.append(at)
            onwards = steps[at]
            following = onwards.pop()
            if not onwards:
                del steps[at]
            at = following
            if at == first:
                break
        loops.append(loop)
    return loops


def _smoothed(points: NDArray[np.float64]) -> NDArray[np.float64]:
    """Stairs made slopes: the middles of edges, every other where there are many."""
    middles = (points + np.roll(points, -1, axis=0)) / 2
    return middles[::2] if len(middles) > 16 else middles
