"""Pictures as the vision tower reads them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from lookalike.values import Pixels

MEAN = (0.48145466, 0.4578275, 0.40821073)  # CLIP's
DEVIATION = (0.26862954, 0.26130258, 0.27577711)


def to_pixels(pictures: Sequence[Pixels], resolution: int) -> Tensor:
    """RGB pictures (H, W, 3) uint8 of any size -> (B, 3, R, R) float32, stretched and normalised."""
    squares = np.empty((len(pictures), resolution, resolution, 3), np.uint8)
    for place, picture in enumerate(pictures):
        stretched = Image.fromarray(picture).resize((resolution, resolution), Image.Resampling.BICUBIC)
        squares[place] = np.asarray(stretched)
    values = torch.from_numpy(squares).permute(0, 3, 1, 2).float() / 255
    return (values - torch.tensor(MEAN)[:, None, None]) / torch.tensor(DEVIATION)[:, None, None]
