"""Captions as the text tower reads them, in tensors."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from lookalike import words


class Words:
    """`lookalike.words.Words` whose ids and mask are tensors."""

    def __init__(self, vocabulary: Path | None = None, length: int = 40) -> None:
        self._words = words.Words(vocabulary, length)

    def tokens(self, captions: Sequence[str]) -> tuple[Tensor, Tensor]:
        """(B,) captions -> ids and mask, both (B, L) int64."""
        ids, mask = self._words.tokens(captions)
        return torch.from_numpy(ids), torch.from_numpy(mask)
