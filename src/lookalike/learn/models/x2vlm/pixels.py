"""Pictures as the vision tower reads them, in tensors."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lookalike.squares import stretched
from lookalike.values import Pixels


def to_pixels(pictures: Sequence[Pixels], resolution: int) -> Tensor:
    """RGB pictures (H, W, 3) uint8 of any size -> (B, 3, R, R) float32, stretched and normalised."""
    return torch.from_numpy(stretched(pictures, resolution))
