"""X²-VLM with one descriptor for image-to-image retrieval: what is seen, what can be said of it, where it is.

    image tokens in the region ─┬─► v₀ ─► image embedding ──────────────► language part ┐
                                └─► fusion with the caption ─► f₀ ┐                      ├─► descriptor
                                            [v₀ ; f₀] ────────────┴─► identity part ─────┘
    all image tokens ───────────────► fusion with the caption ─► f_box ─► box

The caption is optional: without one it is the empty text, which the model knows from training. The language
part comes from the picture alone, so a text query meets it in the same index. The true box never enters the
pass that predicts it: that one sees all tokens.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from lookalike.learn.models.x2vlm import X2VLM


@dataclass(frozen=True, slots=True, eq=False)
class Towers:
    """What the two towers made of B regions and their captions.

    `image` (B, 1 + N, Dv): the first token is not read, the others are patches or cells of a map. `region`
    (B, N) says how much each counts for the region, 0 outside of it. `text` (B, L, Dt) with `words` (B, L),
    1 for a word, 0 for padding; the empty caption is [CLS] [SEP].
    """

    image: Tensor
    region: Tensor
    text: Tensor
    words: Tensor


@dataclass(frozen=True, slots=True, eq=False)
class Parts:
    """A batch in the parts that losses and searches are made of, each row of length 1 but the boxes."""

    identity: Tensor  # (B, Di)
    image: Tensor  # (B, E): the language part, from the picture alone
    text: Tensor  # (B, E): of the captions
    boxes: Tensor | None  # (B, 4) as cx, cy, w, h; None where they were not asked for


class Adapted(nn.Module):
    """A vision-language model whose regions have one descriptor, [identity part ; language part].

    The identity part starts as v₀ itself, so that training begins at the frozen tower's descriptor.
    `language` is the weight of the language part: 0 searches by identity alone, at 1 both count the same.
    """

    def __init__(self, vlm: X2VLM, language: float = 1.0) -> None:
        super().__init__()
        self.vlm = vlm
        self.language = language
        width = vlm.config.vision_width
        self.identity = nn.Linear(width + vlm.config.text_width, width, bias=False)
        with torch.no_grad():
            self.identity.weight.zero_()
            self.identity.weight[:, :width].copy_(torch.eye(width))

    @property
    def dim(self) -> int:
        """The descriptor's length."""
        return self.vlm.config.vision_width + self.vlm.config.embedding

    def forward(self, towers: Towers, with_boxes: bool = False) -> Parts:
        tokens, seen = self._region(towers)
        f0 = self.vlm.fuse(towers.text, towers.words, tokens, seen)[:, 0]
        boxes = None
        if with_boxes:
            boxes = self.vlm.boxes(self.vlm.fuse(towers.text, towers.words, self._whole(towers))[:, 0])
        return Parts(
            identity=F.normalize(self.identity(torch.cat([tokens[:, 0], f0], dim=1)), dim=1),
            image=self.vlm.image_embedding(tokens),
            text=self.vlm.text_embedding(towers.text),
            boxes=boxes,
        )

    def descriptors(self, towers: Towers) -> Tensor:
        """Regions -> (B, D), unit rows."""
        return self.joined(self(towers))

    def joined(self, parts: Parts) -> Tensor:
        """[identity part ; language part], (B, D), unit rows."""
        return F.normalize(torch.cat([parts.identity, self.language * parts.image], dim=1), dim=1)

    def text_queries(self, text: Tensor) -> Tensor:
        """States of the text tower (B, L, Dt) -> (B, D) for the same index: zeros in the identity part."""
        embedding = self.vlm.text_embedding(text)
        return torch.cat([embedding.new_zeros(len(embedding), self.vlm.config.vision_width), embedding], 1)

    def agreement(self, parts: Parts) -> Tensor:
        """How well each caption fits its picture (B,), -1 to 1: what the guard believes a caption by."""
        return (parts.image * parts.text).sum(dim=1)

    def _region(self, towers: Towers) -> tuple[Tensor, Tensor]:
        """Tokens whose first is v₀, the region's weighted mean, and which of them the fusion sees."""
        share = towers.region / towers.region.sum(dim=1, keepdim=True).clamp(min=1e-6)
        patches = towers.image[:, 1:]
        v0 = torch.einsum("bn,bnd->bd", share.to(patches.dtype), patches)
        seen = torch.cat([torch.ones_like(towers.region[:, :1]), towers.region], dim=1) > 0
        return torch.cat([v0[:, None], patches], dim=1), seen.long()

    def _whole(self, towers: Towers) -> Tensor:
        """Tokens whose first is the mean of all: nothing tells where the region is."""
        patches = towers.image[:, 1:]
        return torch.cat([patches.mean(dim=1, keepdim=True), patches], dim=1)
