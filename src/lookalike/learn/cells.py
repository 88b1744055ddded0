"""From views to the cells of a vision network's map: tokens, and what of the map shows a region.

A network fits a picture into its square, keeping the aspect, so that a part of the map shows nothing. Boxes
are therefore in shares of the square, 0 to 1, as cx, cy, w, h; `frames` says where the view itself lies.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lookalike.errors import BadInput
from lookalike.learn.views import View
from lookalike.roles import Encoder
from lookalike.values import Box, Floats, Maps, Picture

Halves = NDArray[np.float16]


@dataclass(frozen=True, slots=True, eq=False)
class Tokens:
    """What the network sees in B views: tokens (B, cells, C) float16, boxes and frames (B, 4).

    A box is NaN where a view does not show it: only views round a found region may miss the true box.
    """

    tokens: Halves
    boxes: Floats
    frames: Floats


def look(views: Sequence[View], encoder: Encoder) -> Tokens:
    """What the network sees in B views, and where the last of each one's boxes lies.

    BadInput for an encoder without maps, or with maps beyond half precision.
    """
    maps = _maps(encoder, [each.picture for each in views])
    with np.errstate(over="ignore"):  # seen below
        tokens = maps.values.reshape(*maps.values.shape[:2], -1).transpose(0, 2, 1).astype(np.float16)
    if not np.isfinite(tokens).all():
        raise BadInput(f"{encoder.name}: its maps do not fit into half precision", "take another encoder")
    return Tokens(tokens, *_placed(views, maps))


def map_shape(encoder: Encoder) -> tuple[int, int, int]:
    """C, H and W of the encoder's maps; BadInput where it has none."""
    grey = Picture.of(np.full((64, 64, 3), 128, np.uint8))
    channels, height, width = _maps(encoder, [grey]).values.shape[1:]
    return channels, height, width


def _maps(encoder: Encoder, pictures: Sequence[Picture]) -> Maps:
    maps = encoder.maps(pictures)
    if maps is None:
        raise BadInput(f"{encoder.name} has no feature maps, so it has no tokens", "take another encoder")
    return maps


def _placed(views: Sequence[View], maps: Maps) -> tuple[Floats, Floats]:
    """True boxes and frames (B, 4) in shares of the network's square, as cx, cy, w, h."""
    height, width = maps.values.shape[2:]
    boxes, frames = np.full((2, len(views), 4), np.nan, np.float32)
    for place, (seen, frame) in enumerate(zip(views, maps.frames, strict=True)):
        frame = frame.scaled(1 / width, 1 / height)
        frames[place] = _centred(frame)
        if box := seen.boxes[-1]:
            across = (frame.x1 - frame.x0) / seen.picture.width
            down = (frame.y1 - frame.y0) / seen.picture.height
            x0, y0, x1, y1 = box.scaled(across, down).corners
            boxes[place] = _centred(Box(frame.x0 + x0, frame.y0 + y0, frame.x0 + x1, frame.y0 + y1))
    return boxes, frames


def _centred(box: Box) -> tuple[float, float, float, float]:
    return (box.x0 + box.x1) / 2, (box.y0 + box.y1) / 2, box.x1 - box.x0, box.y1 - box.y0
