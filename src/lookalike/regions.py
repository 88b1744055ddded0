"""Where the object is in a picture: region finders."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from lookalike.errors import BadInput
from lookalike.roles import Encoder
from lookalike.values import Box, Floats, Picture, Region

LEVELS = (0.65, 0.5)  # of the contrast's range: a tight box and a loose one
CHUNK = 16  # pictures whose maps are held at once
FINER = 8  # boxes are read off the map at an eighth of a cell


class Whole:
    """No search: each picture is one region."""

    name = "whole"

    def __init__(self, encoder: Encoder | None = None) -> None:
        """Finders are made with the encoder at hand; this one has no use for it."""

    def regions(self, pictures: Sequence[Picture]) -> list[list[Region]]:
        return [[Region(picture)] for picture in pictures]


class Salient:
    """The object is what looks least like the picture's border, in the encoder's own feature map.

    Up to three regions: a tight box, a loose box, and last the whole picture, which is right where the
    object fills the frame. Scores are the mean contrast inside less that outside, 0 for the whole picture.
    With an encoder that has no feature maps, the whole picture is all there is.
    """

    name = "salient"

    def __init__(self, encoder: Encoder) -> None:
        self._encoder = encoder

    def regions(self, pictures: Sequence[Picture]) -> list[list[Region]]:
        found = []
        for start in range(0, len(pictures), CHUNK):
            chunk = pictures[start : start + CHUNK]
            maps = self._encoder.maps(chunk)
            if maps is None:
                return Whole().regions(pictures)
            found += [_regions(picture, contrast(maps.cells(place))) for place, picture in enumerate(chunk)]
        return found


class Predicts(Protocol):
    """An encoder that knows where the object is."""

    def boxes(self, pictures: Sequence[Picture]) -> list[Box]:
        """One in each picture (B,); BadInput, for B = 0 too, where it was not taught to find them."""


class Predicted:
    """The object is where the encoder's own model predicts its box, of the picture alone.

    Two regions: the box, and last the whole picture, which is right where the object fills the frame or the
    model is misled. It gives one box and no confidence in it, so the score of every box is 0.5, and of the
    whole picture 0.

    BadInput with an encoder that predicts no boxes, or was trained without the loss of boxes.
    """

    name = "predicted"

    def __init__(self, encoder: Encoder | Predicts) -> None:
        if not hasattr(encoder, "boxes"):
            raise BadInput(
                f"{getattr(encoder, 'name', 'the encoder')} predicts no boxes",
                "find regions with salient, or take an encoder that lookalike train made",
            )
        encoder.boxes([])  # one that was not taught to says so now, not after a catalogue was made
        self._encoder = encoder

    def regions(self, pictures: Sequence[Picture]) -> list[list[Region]]:
        found = []
        for start in range(0, len(pictures), CHUNK):
            chunk = pictures[start : start + CHUNK]
            found += [
                [Region(picture, box, score=0.5), Region(picture, score=0.0)]
                for picture, box in zip(chunk, self._encoder.boxes(chunk), strict=True)
            ]
        return found


def contrast(cells: Floats) -> Floats:
    """How unlike the border each cell is: features (C, h, w) of length 1 -> (h, w), 0 (the same) to 2.

    One less the mean cosine to the cells on the border, as in the boundary prior of salient-object detection
    (Zhu et al., CVPR 2014).
    """
    edge = np.ones(cells.shape[1:], bool)
    edge[1:-1, 1:-1] = False
    return np.asarray(1 - np.einsum("chw,c->hw", cells, cells[:, edge].mean(axis=1)), np.float32)


def _regions(picture: Picture, salience: Floats) -> list[Region]:
    height, width = salience.shape
    size = (width * FINER, height * FINER)
    fine = np.asarray(Image.fromarray(salience).resize(size, Image.Resampling.BICUBIC))
    low, high = float(fine.min()), float(fine.max())
    found = [Region(picture, score=0.0)]
    for level in sorted(LEVELS):
        object_ = _around_peak(fine, low + level * (high - low))
        if object_.all() or high - low < 1e-6:
            continue
        rows, columns = np.flatnonzero(object_.any(axis=1)), np.flatnonzero(object_.any(axis=0))
        box = Box(columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)
        box = box.scaled(picture.width / size[0], picture.height / size[1])
        score = float(fine[object_].mean() - fine[~object_].mean())
        found.insert(0, Region(picture, box, min(max(score, 0.0), 0.999)))
    return found


def _around_peak(values: Floats, level: float) -> NDArray[np.bool_]:
    """The connected part of values (H, W) above `level` that holds the maximum."""
    above = values >= min(level, values.max())
    part = np.zeros(above.shape, np.bool_)
    part[np.unravel_index(np.argmax(values), values.shape)] = True
    while True:
        grown = part.copy()
        grown[1:] |= part[:-1]
        grown[:-1] |= part[1:]
        grown[:, 1:] |= part[:, :-1]
        grown[:, :-1] |= part[:, 1:]
        grown &= above
        if np.array_equal(grown, part):
            return part
        part = grown
