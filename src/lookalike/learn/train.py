"""Train an adapted model on the tokens of frozen towers.

A step is known by its epoch and number: batch, views, dropped captions and dropout follow from the recipe's
seed and these. So a run that was killed goes on from its last epoch and ends with the same weights.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from lookalike import pooling
from lookalike.datasets import Side
from lookalike.errors import BadInput
from lookalike.evaluation.metrics import ranks_of
from lookalike.learn import losses
from lookalike.learn.cells import Tokens
from lookalike.learn.models.adapted import Adapted, Parts, Towers
from lookalike.learn.sampling import NO_IDENTITY, PKSampler
from lookalike.learn.tokens import SIDES, TokenCache
from lookalike.values import Box, Floats, Keys, Progress

POWER = 3  # of a cell's length in its weight, as in the frozen descriptor
DESCRIBED_AT_ONCE = 256


@dataclass(frozen=True, slots=True)
class Recipe:
    """All that decides what comes out of a training; it is kept in the checkpoint.

    Weights of 0 switch a loss off. `shuffled` gives every identity another's captions: the control that must
    bring nothing.
    """

    p: int = 32  # identities of a batch
    k: int = 4  # regions of each
    epochs: int = 15
    lr: float = 1e-3
    weight_decay: float = 0.01
    warm_up: float = 0.1  # of all steps
    clip: float = 5.0  # of the gradient's norm
    arcface: float = 1.0
    contrast: float = 0.0  # supervised contrast between pictures, on the language part
    itc: float = 1.0
    box: float = 1.0
    margin: float = 0.3
    scale: float = 30.0
    temperature: float = 0.07
    caption_dropout: float = 0.5
    shuffled: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        if self.epochs < 1 or self.lr <= 0:
            raise BadInput(f"epochs {self.epochs}, lr {self.lr:g}: must be positive")
        if not 0 <= self.caption_dropout <= 1 or not 0 <= self.warm_up < 1:
            raise BadInput(
                f"caption_dropout {self.caption_dropout:g} or warm_up {self.warm_up:g} out of range"
            )


class Captions:
    """The text tower's states of captions, made once: row 0 is the empty caption's."""

    def __init__(self, texts: Sequence[str], read: Callable[[Sequence[str]], tuple[Tensor, Tensor]]) -> None:
        """`read` makes states (B, L, Dt) and word masks (B, L) of texts; "" is put before them."""
        self._row = {text: row for row, text in enumerate(dict.fromkeys(["", *texts]))}
        every = list(self._row)
        self._states: list[Tensor] = []
        for start in range(0, len(every), 64):
            states, words = read(every[start : start + 64])
            self._states += [row[: int(mask.sum())].half() for row, mask in zip(states, words, strict=True)]

    def of(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """States (B, L, Dt) float32 and mask (B, L), L that of the longest."""
        rows = [self._states[self._row[text]] for text in texts]
        states = nn.utils.rnn.pad_sequence(rows, batch_first=True).float()
        lengths = torch.tensor([len(row) for row in rows])
        return states, (torch.arange(states.shape[1]) < lengths[:, None]).long()


def weights_of(seen: Tokens, height: int, width: int) -> Floats:
    """How much each cell counts for the region's v₀: (B, cells), summing to 1.

    As in the frozen descriptor: the middle of the box most, and cells by a power of their length.
    """
    boxes = np.where(np.isnan(seen.boxes), seen.frames, seen.boxes)
    cells = [
        Box(cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2).scaled(width, height).clipped(width, height)
        for cx, cy, w, h in boxes.tolist()
    ]
    taper = pooling.tapered(cells, height, width).reshape(len(cells), -1)
    lengths = np.linalg.norm(seen.tokens.astype(np.float32), axis=2)
    weights = taper * (lengths / lengths.max(axis=1, keepdims=True)) ** POWER
    return np.asarray(weights / weights.sum(axis=1, keepdims=True), np.float32)


def towers_of(
    cache: TokenCache, captions: Captions, regions: Keys, views: Keys, texts: Sequence[str]
) -> Towers:
    seen = cache.read(regions, views)
    image = torch.from_numpy(np.asarray(seen.tokens, np.float32))
    image = torch.cat([image.mean(dim=1, keepdim=True), image], dim=1)
    states, words = captions.of(texts)
    return Towers(image, torch.from_numpy(weights_of(seen, *cache.facts.shape[1:])), states, words)


class Trainer:
    """An adapted model, its class centres and its optimiser, in training on the regions of a cache."""

    def __init__(
        self, model: Adapted, cache: TokenCache, captions: Captions, recipe: Recipe, out: Path
    ) -> None:
        """`out` keeps the state after every epoch; where it holds one of this recipe, training goes on."""
        self.model, self.recipe, self._cache, self._captions, self._out = model, recipe, cache, captions, out
        usable = cache.identities != NO_IDENTITY
        names, labels = np.unique(cache.identities[usable], return_inverse=True)
        self._labels = np.full(len(cache.identities), NO_IDENTITY, np.int64)
        self._labels[usable] = labels
        self._sampler = PKSampler(self._labels, cache.sides, recipe.p, recipe.k, recipe.seed)
        self._texts = self._own_or_shuffled(len(names))
        torch.manual_seed(recipe.seed)
        width = model.identity.out_features
        self.centres = nn.Parameter(torch.randn(len(names), width) / width**0.5)
        trained = [*(p for p in model.parameters() if p.requires_grad), self.centres]
        decayed = [p for p in trained if p.ndim > 1 and p is not self.centres]
        plain = [p for p in trained if p.ndim <= 1 or p is self.centres]
        groups = [
            {"params": decayed, "weight_decay": recipe.weight_decay},
            {"params": plain, "weight_decay": 0.0},
        ]
        self._optimiser = torch.optim.AdamW(groups, lr=recipe.lr, betas=(0.9, 0.98))
        self._steps = recipe.epochs * self._sampler.steps
        self.epoch = 0
        self._resume()

    def run(self, on_progress: Progress | None = None) -> Iterator[Mapping[str, float]]:
        """Train epoch by epoch; after each, its mean losses. What an earlier run did is not repeated."""
        while self.epoch < self.recipe.epochs:
            sums: dict[str, float] = {}
            for step in range(self._sampler.steps):
                for name, value in self._step(self.epoch, step).items():
                    sums[name] = sums.get(name, 0.0) + value / self._sampler.steps
                if on_progress:
                    on_progress(self.epoch * self._sampler.steps + step + 1, self._steps)
            self.epoch += 1
            self._save()
            yield sums

    def _step(self, epoch: int, step: int) -> dict[str, float]:
        recipe, number = self.recipe, epoch * self._sampler.steps + step
        torch.manual_seed(int(np.random.SeedSequence([recipe.seed, epoch, step]).generate_state(1)[0]))
        random = np.random.default_rng([recipe.seed, epoch, step, 1])
        regions = self._sampler.batch(epoch, step)
        views = random.integers(self._cache.facts.views, size=len(regions))
        texts = [self._text(int(region), random) for region in regions]
        told = [text if random.random() >= recipe.caption_dropout else "" for text in texts]
        self.model.train()
        towers = towers_of(self._cache, self._captions, regions, views, told)
        parts = self.model(towers, with_boxes=recipe.box > 0)
        labels = torch.from_numpy(self._labels[regions])
        weighed = self._losses(parts, texts, labels, regions, views)
        total = torch.stack(list(weighed.values())).sum()
        if not torch.isfinite(total):
            raise BadInput(
                f"the loss is not a number any more in epoch {epoch + 1}, step {step + 1}",
                "lower the learning rate; the last epoch's state is kept",
            )
        rate = recipe.lr * _schedule(number, self._steps, recipe.warm_up)
        for group in self._optimiser.param_groups:
            group["lr"] = rate
        self._optimiser.zero_grad(set_to_none=True)
        total.backward()  # type: ignore[no-untyped-call]
        trained = [p for group in self._optimiser.param_groups for p in group["params"]]
        nn.utils.clip_grad_norm_(trained, recipe.clip)
        self._optimiser.step()
        return {name: float(value.detach()) for name, value in weighed.items()} | {
            "loss": float(total.detach())
        }

    def _losses(
        self, parts: Parts, texts: Sequence[str], labels: Tensor, regions: Keys, views: Keys
    ) -> dict[str, Tensor]:
        recipe = self.recipe
        weighed = {}
        if recipe.arcface:
            margin = losses.Margin(angle=recipe.margin, scale=recipe.scale)
            weighed["arcface"] = recipe.arcface * losses.arcface(parts.identity, self.centres, labels, margin)
        if recipe.contrast:
            contrast = losses.supcon(parts.image, labels, temperature=recipe.temperature)
            weighed["contrast"] = recipe.contrast * contrast
        if recipe.itc and any(texts):
            captioned = torch.tensor([bool(text) for text in texts])
            states, _ = self._captions.of(texts)
            text = self.model.vlm.text_embedding(states)  # undropped: ITC is of the caption itself
            weighed["itc"] = recipe.itc * losses.itc(
                parts.image[captioned], text[captioned], recipe.temperature, labels[captioned]
            )
        if recipe.box and parts.boxes is not None:
            target = torch.from_numpy(np.array(self._cache.read(regions, views).boxes))
            shown = ~target.isnan().any(dim=1)
            l1, giou = losses.box(parts.boxes[shown], target[shown])
            weighed["box"] = recipe.box * (l1 + giou)
        return weighed

    def _own_or_shuffled(self, identities: int) -> list[int]:
        """Whose captions each region has: its own, or those of a region of another identity."""
        own = list(range(len(self._labels)))
        if not self.recipe.shuffled:
            return own
        random = np.random.default_rng([self.recipe.seed, 2])
        order = random.permutation(identities)
        other = np.empty_like(order)
        other[order] = np.roll(order, 1)  # never the same
        by_label = [np.flatnonzero(self._labels == label) for label in range(identities)]
        return [
            place if self._labels[place] == NO_IDENTITY
            else int(random.choice(by_label[other[self._labels[place]]]))
            for place in own
        ]  # fmt: skip

    def _text(self, region: int, random: np.random.Generator) -> str:
        told = self._cache.regions[self._texts[region]].captions
        return str(told[random.integers(len(told))]) if told else ""

    def _save(self) -> None:
        self._out.mkdir(parents=True, exist_ok=True)
        part = self._out / "state.pt.part"
        state = {
            "recipe": self._recipe_hash(),
            "epoch": self.epoch,
            "model": self.model.state_dict(),
            "centres": self.centres.detach(),
            "optimiser": self._optimiser.state_dict(),
        }
        torch.save(state, part)
        part.replace(self._out / "state.pt")

    def _resume(self) -> None:
        file = self._out / "state.pt"
        if not file.exists():
            return
        state = torch.load(file, weights_only=True)
        if state["recipe"] != self._recipe_hash():
            raise BadInput(f"{self._out} holds a training by another recipe", "choose another folder")
        self.epoch = state["epoch"]
        self.model.load_state_dict(state["model"])
        with torch.no_grad():
            self.centres.copy_(state["centres"])
        self._optimiser.load_state_dict(state["optimiser"])

    def _recipe_hash(self) -> str:
        facts = {"recipe": asdict(self.recipe), "tokens": asdict(self._cache.facts)}
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


@torch.no_grad()
def described(model: Adapted, cache: TokenCache, captions: Captions, regions: Keys) -> tuple[Parts, Floats]:
    """Regions without captions, as a bare query is: their parts and descriptors (N, D)."""
    model.eval()
    found: list[Parts] = []
    for start in range(0, len(regions), DESCRIBED_AT_ONCE):
        some = regions[start : start + DESCRIBED_AT_ONCE]
        found.append(model(towers_of(cache, captions, some, np.zeros(len(some), np.int64), [""] * len(some))))
    parts = Parts(
        identity=torch.cat([part.identity for part in found]),
        image=torch.cat([part.image for part in found]),
        text=torch.cat([part.text for part in found]),
        boxes=None,
    )
    return parts, model.joined(parts).numpy()


def mean_average_precision(descriptors: Floats, cache: TokenCache) -> float:
    """Protocol b1 on a cache's regions, all of them described (N, D): plain mAP of bare queries."""
    query = SIDES.index(Side.QUERY)
    asked = np.flatnonzero((cache.sides == query) & (cache.identities != NO_IDENTITY))
    gallery = np.flatnonzero(cache.sides != query)
    right = [np.flatnonzero(cache.identities[gallery] == cache.identities[place]) for place in asked]
    aps = [
        ranks.average_precision() for ranks in ranks_of(descriptors[asked] @ descriptors[gallery].T, right)
    ]
    return float(np.nanmean(aps))


def _schedule(step: int, steps: int, warm_up: float) -> float:
    """Linear from 0 up, then a cosine down to 0."""
    rising = max(1, math.ceil(warm_up * steps))
    if step < rising:
        return (step + 1) / rising
    return 0.5 * (1 + math.cos(math.pi * (step - rising) / max(1, steps - rising)))
