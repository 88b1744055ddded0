"""The pattern of cloth by contrast, orientation and repetition, and what it is measured with."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from lookalike.values import Pixels

Numbers = NDArray[np.float64]
Mask = NDArray[np.bool_]

SIDE = 96  # pixels of the longer side of all pictures that are measured
_TO_XYZ = np.array(  # from linear sRGB, over the white point of D65
    ((0.4124564, 0.2126729, 0.0193339), (0.3575761, 0.7151522, 0.1191920), (0.1804375, 0.0721750, 0.9503041))
) / (0.95047, 1.0, 1.08883)

_FEWEST = 200  # pixels that a pattern is told from


@dataclass(frozen=True, slots=True, eq=False)
class Cloth:
    """How the object varies about its neighbourhood, along the Lab direction in which it varies most.

    Shares are of the variance (rows, columns) or of the gradients' energy, each 0 to 1.
    """

    signal: Numbers  # (h, w), Lab units; 0 outside the object
    contrast: float  # its standard deviation
    quiet: float  # the same in the quietest quarter of its parts
    rows: float  # what the means of rows explain
    columns: float
    across: float  # gradients that point across, as upright edges have
    down: float
    slanted: float
    again: float  # the highest correlation with itself, moved on
    size: int  # pixels measured


def pattern_of(cloth: Cloth, second: float) -> str:
    """The kind of pattern, see `palette.Looks`; `second` is the share of a second colour.

    The numbers were fitted on drawn garments (street2shop, seed 21) and on plain drawings of patterns.
    """
    if cloth.size < _FEWEST:
        return ""
    if cloth.quiet < 4.8:
        return "plain" if second < 0.12 else ""
    if cloth.quiet < max(6.0, 0.62 * cloth.contrast):  # a print, a bag, an arm: here and not there
        return ""
    if cloth.contrast > 9 and cloth.slanted < 0.48:
        if cloth.rows > 0.5 and cloth.columns < 0.3 and cloth.down > 0.42:
            return "horizontal stripes"
        upright = cloth.columns > 0.5 and cloth.rows < 0.3 and cloth.across > 0.42
        if upright and cloth.contrast > 11:  # pleats have less
            return "vertical stripes"
        if min(cloth.rows, cloth.columns) > 0.3 and cloth.rows + cloth.columns > 0.68 and cloth.again > 0.4:
            return "checks"
        if cloth.slanted < 0.3 and min(cloth.across, cloth.down) > 0.25 and cloth.again > 0.8:
            return "checks"  # of a chessboard, whose rows are all alike
    if (
        cloth.contrast > 9
        and max(cloth.rows, cloth.columns) < 0.42
        and cloth.rows + cloth.columns < 0.62
        and 0.38 < cloth.slanted < 0.6
        and min(cloth.across, cloth.down) > 0.12
        and cloth.again > 0.42
    ):
        return "polka dots"
    return "patterned" if cloth.quiet > 9 or cloth.again > 0.45 else ""


def cloth_of(pixels: Pixels, inside: Mask) -> Cloth:
    """Measure the pixels (h, w, 3) of an object, of which `inside` (h, w) has at least one."""
    mask = inside.astype(np.float64)
    lab = np.moveaxis(lab_of(pixels), -1, 0)
    varied = (lab - local_mean(lab, mask, round(0.1 * SIDE))) * mask
    flat = varied.reshape(3, -1)
    strengths, directions = np.linalg.eigh(flat @ flat.T / mask.sum())
    signal = np.tensordot(directions[:, -1], varied, 1)
    power = float((signal**2).sum()) + 1e-9
    down, across = np.gradient(signal) if min(signal.shape) > 1 else (np.zeros_like(signal),) * 2
    deep = local_mean(mask, np.ones_like(mask), 1) > 0.99
    energy = np.where(deep, across**2 + down**2, 0.0)
    angle = np.degrees(np.arctan2(down, across)) % 180
    whole = float(energy.sum()) + 1e-9
    return Cloth(
        signal=signal,
        contrast=float(np.sqrt(max(strengths[-1], 0))),
        quiet=_quiet(signal, mask),
        rows=_explained(signal, mask) / power,
        columns=_explained(signal.T, mask.T) / power,
        across=float(energy[(angle < 20) | (angle > 160)].sum()) / whole,
        down=float(energy[np.abs(angle - 90) < 20].sum()) / whole,
        slanted=float(energy[np.abs(angle % 90 - 45) < 25].sum()) / whole,
        again=_again(signal, mask),
        size=int(mask.sum()),
    )


def _quiet(signal: Numbers, mask: Numbers) -> float:
    cell = SIDE // 8
    rows, columns = (range(0, size, cell) for size in mask.shape)
    counts, powers = (
        np.add.reduceat(np.add.reduceat(plane, rows, axis=0), columns, axis=1) for plane in (mask, signal**2)
    )
    enough = counts >= min(0.5 * cell**2, counts.max())
    return float(np.sqrt(np.percentile(powers[enough] / counts[enough], 25)))


def _explained(signal: Numbers, mask: Numbers) -> float:
    """The power in the means of rows, taken in upright strips so that a garment may bend."""
    strips = max(1, round(signal.shape[1] / (0.14 * SIDE)))
    edges = np.linspace(0, signal.shape[1], strips + 1).astype(int)[:-1]
    counts, sums = (np.add.reduceat(plane, edges, axis=1) for plane in (mask, signal))
    widths = np.diff(np.append(edges, signal.shape[1]))
    return float((sums**2 / np.maximum(counts, 1))[counts >= 0.5 * widths].sum())


def _again(signal: Numbers, mask: Numbers) -> float:
    """The highest correlation of the signal with itself, moved beyond its width, up to a third of SIDE."""
    reach = SIDE // 3
    shape = (SIDE + reach,) * 2
    both = np.fft.irfft2(np.abs(np.fft.rfft2(np.stack([signal, mask]), shape)) ** 2, shape)
    lags = np.arange(-reach, reach + 1)
    power, overlap = both[:, lags[reach:, None], lags]
    likeness = np.where(overlap > 0.25 * overlap[0, reach], power / np.maximum(overlap, 1), -np.inf)
    likeness = likeness / max(likeness[0, reach], 1e-9)
    far = np.hypot(lags[reach:, None], lags)
    width = far[(likeness < 0.2) & np.isfinite(likeness)].min(initial=np.inf)
    return float(likeness[far > 1.5 * width].max(initial=0.0))


def local_mean(values: Numbers | Mask, mask: Numbers, radius: int) -> Numbers:
    """The mean of the masked values (..., h, w) in a square around each pixel; 0 where it holds none."""
    return np.asarray(_sums(values * mask, radius) / np.maximum(_sums(mask, radius), 1e-9))


def _sums(values: Numbers, radius: int) -> Numbers:
    for axis in (values.ndim - 2, values.ndim - 1):
        place = np.arange(values.shape[axis])
        edge = [(int(each == axis), 0) for each in range(values.ndim)]
        running = np.pad(np.cumsum(values, axis=axis, dtype=np.float64), edge)
        last = np.minimum(place + radius + 1, len(place))
        values = np.take(running, last, axis) - np.take(running, np.maximum(place - radius, 0), axis)
    return values


def lab_of(pixels: Pixels) -> Numbers:
    """sRGB (..., 3) uint8 -> CIE L*a*b*, D65."""
    xyz = _linear()[pixels] @ _TO_XYZ
    root = np.where(xyz > 216 / 24389, np.cbrt(xyz), (24389 / 27 * xyz + 16) / 116)
    x, y, z = root[..., 0], root[..., 1], root[..., 2]
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=-1)


@lru_cache(maxsize=1)
def _linear() -> Numbers:
    level = np.arange(256) / 255
    return np.where(level <= 0.04045, level / 12.92, ((level + 0.055) / 1.055) ** 2.4)
