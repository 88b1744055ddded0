"""What a training minimises: the losses of a batch, over all processes together."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from lookalike.errors import WeightsError
from lookalike.learn import losses
from lookalike.learn.models.adapted import Adapted, Seen
from lookalike.learn.processes import spread
from lookalike.learn.recipes import Recipe


@dataclass(frozen=True, slots=True, eq=False)
class Blanks:
    """The captions of a batch with words left out, B rows of ids (B, L) or states (B, L, Dt), and their mask.

    `missing` (B, M) are the words, LEFT_OUT where there are fewer. Where `text` is ids, `places` (B, M) are
    where they stood; where it is states they are in no order, and numbers of the objective's own words.
    """

    text: Tensor
    words: Tensor
    missing: Tensor
    places: Tensor

    def to(self, device: torch.device) -> Blanks:
        return Blanks(*(getattr(self, each.name).to(device, non_blocking=True) for each in fields(self)))


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """B regions of one process, their B captions and, as the last row of `text`, the empty caption.

    `image`, `region` and `boxes` as in sources.Looked; `text` (B + 1, L) ids or (B + 1, L, Dt) states, with
    `words` (B + 1, L). `told` (B,) says which captions the fusion is given, `captioned` (B,) which are there
    at all; `labels` (B,) number the identities. `given` (B,) are the rows whose captions the fusion is given
    where it is told any: None is each its own.
    """

    image: Tensor
    region: Tensor
    boxes: Tensor
    text: Tensor
    words: Tensor
    told: Tensor
    captioned: Tensor
    labels: Tensor
    given: Tensor | None = None
    blanks: Blanks | None = None

    def to(self, device: torch.device) -> Batch:
        parts = (getattr(self, each.name) for each in fields(self))
        return Batch(*(_moved(part, device) for part in parts))


class Objective(nn.Module):
    """A model with its class centres -> the weighed losses of a batch, by name.

    With several processes each one compares its rows with those of all, gradients included, and all come to
    the same losses: the mean of their gradients is that of one process with the joined batch. Only `itm` and
    `mlm` are of each process's own rows, as the authors have them.

    `words` is how many words `mlm` chooses from where the text tower is frozen. WeightsError where the recipe
    asks for what the model's checkpoint lacks.
    """

    def __init__(self, model: Adapted, identities: int, recipe: Recipe, words: int = 0) -> None:
        super().__init__()
        self.model, self.recipe = model, recipe
        width = model.identity.out_features
        self.centres = nn.Parameter(torch.randn(identities, width) / width**0.5)
        self.centres.requires_grad_(bool(recipe.arcface or recipe.identity))
        self.missing = nn.Linear(model.vlm.config.text_width, words) if words else None
        lacking = []
        if recipe.learn_temperature and model.vlm.temp is None:
            lacking.append("temp")
        if recipe.mlm and self.missing is None and model.vlm.text_encoder.cls is None:
            lacking.append("text_encoder.cls")
        if lacking:
            raise WeightsError(
                f"the recipe trains {' and '.join(lacking)}, which the checkpoint does not hold",
                "name one of X²-VLM's pre-trained checkpoints, or leave out mlm and learn_temperature",
            )

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        recipe, model, rows = self.recipe, self.model, len(batch.labels)
        image = model.vlm.vision(batch.image)
        text = model.read(batch.text, batch.words)
        seen = model.region(image, batch.region)
        own = torch.arange(rows, device=text.device) if batch.given is None else batch.given
        given = torch.where(batch.told, own, rows)  # the empty caption is the last
        told = text[given], batch.words[given]
        temperature = self._temperature()
        labels, captioned = _everyone(batch.labels), _everyone(batch.captioned)
        weighed: dict[str, Tensor] = {}
        if recipe.has_identity:
            identity = self._identity(seen, *told)
        if recipe.arcface:
            margin = losses.Margin(angle=recipe.margin, scale=recipe.scale)
            weighed["arcface"] = losses.arcface(_everyone(identity), self.centres, labels, margin)
        if recipe.triplet:
            weighed["triplet"] = losses.triplet(_everyone(identity), labels)
        if recipe.identity:
            logits = losses.linear_logits(_everyone(identity), self.centres, recipe.scale)
            weighed["identity"] = losses.identity(logits, labels)
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
                trust = None
                if recipe.weigh:
                    trust = losses.agreement(pictures, captions, temperature / recipe.weigh)
                weighed["itc"] = losses.itc(pictures, captions, temperature, labels[captioned], trust)
            if recipe.imagine:
                cosine = (model.imagined_caption(seen) * said.detach()).sum(dim=1)
                weighed["imagine"] = 1 - _everyone(cosine)[captioned].mean()
            if recipe.pull:
                weighed["pull"] = self._pull(seen, text, batch, identity, captioned)
            if recipe.itm:
                weighed["itm"] = self._itm(seen, text, batch, language.detach(), said.detach(), temperature)
        if recipe.mlm and batch.blanks is not None:
            weighed["mlm"] = self._mlm(seen, batch.blanks)
        if recipe.box:
            boxes = _everyone(model.boxes(image, *told))
            target = _everyone(batch.boxes)
            shown = ~target.isnan().any(dim=1)
            l1, giou = losses.box(boxes[shown], target[shown])
            weighed["box"] = l1 + giou
        return {name: getattr(recipe, name) * value for name, value in weighed.items()}

    def _temperature(self) -> Tensor | float:
        if not self.recipe.learn_temperature:
            return self.recipe.temperature
        temp = self.model.vlm.temp
        assert temp is not None
        with torch.no_grad():
            temp.clamp_(0.001, 0.5)  # as the authors do before each step
        return temp

    def _identity(self, seen: Seen, text: Tensor, words: Tensor) -> Tensor:
        if self.recipe.fusion:
            return self.model.identity_part(seen, text, words)
        # The columns of W that read f₀ start at 0. They get no gradient here, so no encoder's f₀ counts.
        blind = seen.v0.new_zeros(len(seen.v0), self.model.vlm.config.text_width)
        return F.normalize(self.model.identity(torch.cat([seen.v0, blind], dim=1)), dim=1)

    def _mlm(self, seen: Seen, blanks: Blanks) -> Tensor:
        model = self.model
        text = model.read(blanks.text, blanks.words)
        if self.missing is None:
            states = model.vlm.fuse(text, blanks.words, seen.tokens, seen.mask)
            return losses.mlm(model.vlm.masked_words(states, blanks.places), blanks.missing)
        # A frozen tower does not say which state is which word: f₀ is asked for all that are missing.
        scores = self.missing(model.fused(seen, text, blanks.words))
        return losses.mlm(scores[:, None].expand(-1, blanks.missing.shape[1], -1), blanks.missing)

    def _pull(self, seen: Seen, text: Tensor, batch: Batch, identity: Tensor, captioned: Tensor) -> Tensor:
        """Without a caption towards where the caption leads, which itself does not move."""
        with torch.no_grad():
            goal = self.model.identity_part(seen, text[:-1], batch.words[:-1])
        bare = self.model.identity_part(
            seen, text[-1:].expand(len(goal), -1, -1), batch.words[-1:].expand(len(goal), -1)
        )
        bare = torch.where(batch.told[:, None], bare, identity)
        return 1 - _everyone((bare * goal).sum(dim=1))[captioned].mean()

    def _itm(
        self,
        seen: Seen,
        text: Tensor,
        batch: Batch,
        language: Tensor,
        said: Tensor,
        temperature: Tensor | float,
    ) -> Tensor:
        """Right pairs, each picture with a wrong caption, and each caption with a wrong picture."""
        rows = batch.captioned.nonzero()[:, 0]
        if bool((batch.labels[rows] == batch.labels[rows[:1]]).all()):
            return language.new_zeros(())
        of_images, of_texts = losses.hard_negative_weights(
            language[rows], said[rows], temperature, batch.labels[rows]
        )
        other_text, other_image = (rows[losses.hard_negatives(each)] for each in (of_images, of_texts))
        pictures, captions = torch.cat([rows, rows, other_image]), torch.cat([rows, other_text, rows])
        asked = Seen(seen.tokens[pictures], seen.mask[pictures])
        logits = self.model.vlm.match_logits(self.model.fused(asked, text[captions], batch.words[captions]))
        return losses.itm(logits[: len(rows)], logits[len(rows) :])


def _moved(part: Tensor | Blanks | None, device: torch.device) -> Any:
    if isinstance(part, Tensor):
        return part.to(device, non_blocking=True)
    return part and part.to(device)


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
