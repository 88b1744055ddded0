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
class Seen:
    """Regions as the fusion takes them: tokens (B, 1 + N, Dv), first of them v₀, and a mask (B, 1 + N)."""

    tokens: Tensor
    mask: Tensor

    @property
    def v0(self) -> Tensor:
        return self.tokens[:, 0]


class Adapted(nn.Module):
    """A vision-language model whose regions have one descriptor, [identity part ; language part].

    The identity part starts as v₀ itself, so that training begins at the frozen tower's descriptor.
    `language` is the weight of the language part: 0 searches by identity alone, at 1 both count the same.
    """

    def __init__(self, vlm: X2VLM, language: float = 1.0) -> None:
        super().__init__()
        self.vlm = vlm
        self.language = language
        width, embedding = vlm.config.vision_width, vlm.config.embedding
        self.identity = nn.Linear(width + vlm.config.text_width, width, bias=False)
        with torch.no_grad():
            self.identity.weight.zero_()
            self.identity.weight[:, :width].copy_(torch.eye(width))
        self.imagined = nn.Sequential(
            nn.Linear(width, 2 * embedding), nn.GELU(), nn.Linear(2 * embedding, embedding)
        )

    @property
    def dim(self) -> int:
        """The descriptor's length."""
        return self.vlm.config.vision_width + self.vlm.config.embedding

    def forward(self, towers: Towers) -> Tensor:
        """Regions -> descriptors (B, D), unit rows."""
        seen = self.region(towers.image, towers.region)
        return self.joined(self.identity_part(seen, towers.text, towers.words), self.language_part(seen))

    def read(self, text: Tensor, words: Tensor) -> Tensor:
        """Ids (B, L) -> states (B, L, Dt) with the mask (B, L); states of a frozen tower stay as they are."""
        return text if text.is_floating_point() else self.vlm.text(text, words)

    def region(self, image: Tensor, region: Tensor) -> Seen:
        """`image` and `region` as in Towers; v₀ is the region's weighted mean."""
        share = region / region.sum(dim=1, keepdim=True).clamp(min=1e-6)
        patches = image[:, 1:]
        v0 = torch.einsum("bn,bnd->bd", share.to(patches.dtype), patches)
        inside = torch.cat([torch.ones_like(region[:, :1]), region], dim=1) > 0
        return Seen(torch.cat([v0[:, None], patches], dim=1), inside.long())

    def fused(self, seen: Seen, text: Tensor, words: Tensor) -> Tensor:
        """f₀ (B, Dt): what a caption (B, L, Dt), its words (B, L), says once it has seen the region."""
        return self.vlm.fuse(text, words, seen.tokens, seen.mask, first_only=True)[:, 0]

    def identity_part(self, seen: Seen, text: Tensor, words: Tensor) -> Tensor:
        """(B, Di), unit rows; ArcFace shapes it."""
        both = torch.cat([seen.v0, self.fused(seen, text, words)], dim=1)
        return F.normalize(self.identity(both), dim=1)

    def language_part(self, seen: Seen) -> Tensor:
        """(B, E), unit rows, from the picture alone; the contrast with captions shapes it."""
        return self.vlm.image_embedding(seen.tokens)

    def boxes(self, image: Tensor, text: Tensor, words: Tensor) -> Tensor:
        """Where in the picture (B, 1 + N, Dv) the object is: (B, 4) as cx, cy, w, h, 0 to 1.

        Its first token becomes the mean of all: nothing tells where the region is.
        """
        patches = image[:, 1:]
        whole = torch.cat([patches.mean(dim=1, keepdim=True), patches], dim=1)
        return self.vlm.boxes(self.vlm.fuse(text, words, whole, first_only=True)[:, 0])

    def imagined_caption(self, seen: Seen) -> Tensor:
        """A guess at the text embedding (B, E), unit rows, that the region's caption would have."""
        return F.normalize(self.imagined(seen.v0), dim=1)

    def joined(self, identity: Tensor, language: Tensor) -> Tensor:
        """[identity part ; language part], (B, D), unit rows."""
        return F.normalize(torch.cat([identity, self.language * language], dim=1), dim=1)

    def text_queries(self, text: Tensor) -> Tensor:
        """States of the text tower (B, L, Dt) -> (B, D) for the same index: zeros in the identity part."""
        embedding = self.vlm.text_embedding(text)
        return torch.cat([embedding.new_zeros(len(embedding), self.vlm.config.vision_width), embedding], 1)

    def agreement(self, seen: Seen, text: Tensor) -> Tensor:
        """How well each caption fits its picture (B,), -1 to 1: what the guard believes a caption by."""
        return (self.language_part(seen) * self.vlm.text_embedding(text)).sum(dim=1)
