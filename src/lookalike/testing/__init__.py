"""Stand-ins for tests, without weights: fast, deterministic, and named as what they are."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image

from lookalike.values import Box, Floats, Keys, Maps, Picture, Pixels, Region, Row, unit


class ThumbnailEncoder:
    """A stand-in encoder: the descriptor is the region shrunk to 8 x 8, each colour centred on its mean."""

    name = "thumbnail"
    dim = 8 * 8 * 3
    fingerprint = "thumbnail-8x8"

    def pictures(self, regions: Sequence[Region], captions: Sequence[str] | None = None) -> Floats:
        if not regions:
            return np.zeros((0, self.dim), np.float32)
        small = np.stack([_shrunk(region.pixels, 8) for region in regions])  # (N, 8, 8, 3)
        return unit((small - small.mean(axis=(1, 2), keepdims=True)).reshape(len(regions), self.dim) + 1e-3)

    def texts(self, texts: Sequence[str]) -> Floats | None:
        return None

    def maps(self, pictures: Sequence[Picture]) -> Maps | None:
        values = np.stack([_shrunk(picture.pixels, 8).transpose(2, 0, 1) for picture in pictures])
        return Maps(values, tuple(Box(0, 0, 8, 8) for _ in pictures))


class Kept:
    """A stand-in for a store's view behind a shortlist: region key k has vectors[k] (N, D) and rows[k]."""

    def __init__(self, vectors: Floats, rows: Sequence[Row] = ()) -> None:
        self._vectors, self._rows = vectors, rows

    def vectors(self, keys: Keys) -> Floats:
        return self._vectors[keys]

    def rows(self, keys: Keys) -> list[Row]:
        return [self._rows[key] for key in keys]


def drawing(seed: int, width: int = 96, height: int = 128) -> Pixels:
    """A picture (height, width, 3) of coloured blotches; another seed is another picture."""
    random = np.random.default_rng(seed)
    coarse = random.integers(0, 256, (4, 3, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))


def _shrunk(pixels: Pixels, side: int) -> Floats:
    small = Image.fromarray(pixels).resize((side, side), Image.Resampling.BOX)
    return np.asarray(np.asarray(small, np.float32) / 255 - 0.5, np.float32)
