"""Pictures as the square that a vision transformer reads: stretched and normalised."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image

from lookalike.values import Floats, Pixels

MEAN = (0.48145466, 0.4578275, 0.40821073)  # CLIP's
DEVIATION = (0.26862954, 0.26130258, 0.27577711)


def stretched(pictures: Sequence[Pixels], side: int) -> Floats:
    """RGB pictures (H, W, 3) of any size -> (B, 3, side, side), bicubic, as X²-VLM's authors do."""
    squares = np.empty((len(pictures), side, side, 3), np.uint8)
    for place, picture in enumerate(pictures):
        squares[place] = np.asarray(Image.fromarray(picture).resize((side, side), Image.Resampling.BICUBIC))
    values = squares.transpose(0, 3, 1, 2).astype(np.float32) / np.float32(255)
    mean, deviation = (np.array(each, np.float32)[:, None, None] for each in (MEAN, DEVIATION))
    return np.ascontiguousarray((values - mean) / deviation)
