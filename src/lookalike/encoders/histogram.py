"""The baseline every other encoder has to beat: how much of which colour."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
from PIL import Image

from lookalike.values import Floats, Picture, Pixels, Region

HUES, SATURATIONS, VALUES = 12, 4, 4
SIDE = 128  # pixels of the longer side that are counted
RECIPE = f"joint HSV {HUES} x {SATURATIONS} x {VALUES}, hues centred, square root, longer side {SIDE}"


class ColourHistogram:
    """Square root of the joint hue, saturation and value histogram; captions are not looked at.

    The dot product of two descriptors is the Bhattacharyya coefficient of their histograms, 0 to 1.
    """

    name = "colour-histogram"
    dim = HUES * SATURATIONS * VALUES
    fingerprint = hashlib.sha256(RECIPE.encode()).hexdigest()[:16]

    def pictures(self, regions: Sequence[Region], captions: Sequence[str] | None = None) -> Floats:
        """(N,) regions -> (N, 192), unit rows."""
        rows = [_histogram(region.pixels) for region in regions]
        return np.sqrt(np.asarray(rows, np.float32).reshape(-1, self.dim))

    def texts(self, texts: Sequence[str]) -> None:
        """None: no language."""

    def maps(self, pictures: Sequence[Picture]) -> None:
        """None: no feature maps."""


def _histogram(pixels: Pixels) -> Floats:
    """Share of the pixels in each of the joint bins, summing to 1."""
    image = Image.fromarray(pixels)
    image.thumbnail((SIDE, SIDE), Image.Resampling.BILINEAR)
    levels = np.asarray(image.convert("HSV")).reshape(-1, 3).astype(np.int64)
    hue = (levels[:, 0] * HUES + 128) // 256 % HUES  # bins centred on red, yellow, green and so on
    saturation, value = (levels[:, 1:] * (SATURATIONS, VALUES) // 256).T
    counts = np.bincount((hue * SATURATIONS + saturation) * VALUES + value, minlength=ColourHistogram.dim)
    return np.asarray(counts / counts.sum(), np.float32)
