"""What a training minimises: the losses of a batch, over all processes together."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from lookalike.learn import losses
from lookalike.learn.models.adapted import Adapted, Seen
from lookalike.learn.recipes import Recipe


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """B regions of one process, their B captions and, as the last row of `text`, the empty caption.

    `image`, `region` and `boxes` as in sources.Looked; `text` (B + 1, L) ids or (B + 1, L, Dt) states, with
    `words` (B + 1, L). `told` (B,) says which captions the fusion is given, `captioned` (B,) which are there
    at all; `labels` (B,) number the identities.
    """

    image: Tensor
    region: Tensor
    boxes: Tensor
    text: Tensor
    words: Tensor
    told: Tensor
    captioned: Tensor
    labels: Tensor

    def to(self, device: torch.device) -> Batch:
        return Batch(*(getattr(self, each.name).to(device, non_blocking=True) for each in fields(self)))


class Objective(nn.Module):
    """A model with its class centres -> the weighed losses of a batch, by name.

    With several processes each one compares its rows with those of all, gradients included, and all come to
    the same losses: the mean of their gradients is that of one process with the joined batch. Only wrong
    pairs for `itm` are drawn within a process, as the authors do.
    """

    def __init__(self, model: Adapted, identities: int, recipe: Recipe) -> None:
        super().__init__()
        self.model, self.recipe = model, recipe
        width = model.identity.out_features
        self.centres = nn.Parameter(torch.randn(identities, width) / width**0.5)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        recipe, model, rows = self.recipe, self.model, len(batch.labels)
        image = model.vlm.vision(batch.image)
        text = model.read(batch.text, batch.words)
        seen = model.region(image, batch.region)
        own = torch.arange(rows, device=text.device)
        given = torch.where(batch.told, own, rows)  # the empty caption is the last
        labels, captioned = _everyone(batch.labels), _everyone(batch.captioned)
        weighed: dict[str, Tensor] = {}
        if recipe.arcface or recipe.contrast or recipe.pull:
            identity = model.identity_part(seen, text[given], batch.words[given])
        if recipe.arcface:
            margin = losses.Margin(angle=recipe.margin, scale=recipe.scale)
            weighed["arcface"] = losses.arcface(_everyone(identity), self.centres, labels, margin)
        if recipe.contrast or recipe.itc or recipe.itm:
            language = model.language_part(seen)
        if recipe.contrast:
            both = [
                losses.supcon(_everyone(part), labels, temperature=recipe.temperature)
                for part in (identity, language)
            ]
            weighed["contrast"] = torch.stack(both).sum()
        if recipe.reads_captions and captioned.any():
            said = model.vlm.text_embedding(text[:rows])
            if recipe.itc:
                pictures, captions = _everyone(language)[captioned], _everyone(said)[captioned]
                weighed["itc"] = losses.itc(pictures, captions, recipe.temperature, labels[captioned])
            if recipe.imagine:
                cosine = (model.imagined_caption(seen) * said.detach()).sum(dim=1)
                weighed["imagine"] = 1 - _everyone(cosine)[captioned].mean()
            if recipe.pull:
                weighed["pull"] = self._pull(seen, text, batch, identity, captioned)
            if recipe.itm:
                weighed["itm"] = self._itm(seen, text, batch, language.detach(), said.detach())
        if recipe.box:
            boxes = _everyone(model.boxes(image, text[given], batch.words[given]))
            target = _everyone(batch.boxes)
            shown = ~target.isnan().any(dim=1)
            l1, giou = losses.box(boxes[shown], target[shown])
            weighed["box"] = l1 + giou
        return {name: getattr(recipe, name) * value for name, value in weighed.items()}

    def _pull(self, seen: Seen, text: Tensor, batch: Batch, identity: Tensor, captioned: Tensor) -> Tensor:
        """Without a caption towards where the caption leads, which itself does not move."""
        with torch.no_grad():
            goal = self.model.identity_part(seen, text[:-1], batch.words[:-1])
        bare = self.model.identity_part(
            seen, text[-1:].expand(len(goal), -1, -1), batch.words[-1:].expand(len(goal), -1)
        )
        bare = torch.where(batch.told[:, None], bare, identity)
        return 1 - _everyone((bare * goal).sum(dim=1))[captioned].mean()

    def _itm(self, seen: Seen, text: Tensor, batch: Batch, language: Tensor, said: Tensor) -> Tensor:
        """Right pairs, each picture with a wrong caption, and each caption with a wrong picture."""
        rows = batch.captioned.nonzero()[:, 0]
        if bool((batch.labels[rows] == batch.labels[rows[:1]]).all()):
            return language.new_zeros(())
        of_images, of_texts = losses.hard_negative_weights(
            language[rows], said[rows], self.recipe.temperature, batch.labels[rows]
        )
        other_text, other_image = (rows[losses.hard_negatives(each)] for each in (of_images, of_texts))
        pictures, captions = torch.cat([rows, rows, other_image]), torch.cat([rows, other_text, rows])
        asked = Seen(seen.tokens[pictures], seen.mask[pictures])
        logits = self.model.vlm.match_logits(self.model.fused(asked, text[captions], batch.words[captions]))
        return losses.itm(logits[: len(rows)], logits[len(rows) :])


def spread() -> bool:
    """Whether this is one process of a group."""
    return dist.is_available() and dist.is_initialized()


def _everyone(rows: Tensor) -> Tensor:
    """The rows (B, …) of all processes, (W · B, …), in the order of rank."""
    if not spread():
        return rows
    joined: Tensor = _Gather.apply(rows)  # type: ignore[no-untyped-call]
    return joined


class _Gather(torch.autograd.Function):
    """All-gather whose backward pass sums what every process wants of these rows."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        rows = rows.contiguous()
        every = [torch.empty_like(rows) for _ in range(dist.get_world_size())]
        dist.all_gather(every, rows)
        return torch.cat(every)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        gradient = gradient.contiguous()
        dist.all_reduce(gradient)
        return gradient.chunk(dist.get_world_size())[dist.get_rank()]
