"""Rivals of `compact`, trained on the same frozen trunk, with the same batches and as many steps.

`RIVALS` names them:

- "frozen": the trunk alone, nothing trained.
- "delg": global and local branch (Cao et al., 2020); `verified` re-ranks by its local features.
- "superglobal": its pooling (Shao et al., 2023) and a trained layer; "superglobal-frozen": the pooling alone.
- "clip-reid": CLIP-ReID's losses on that trunk (Li et al., 2023), in both stages.
- "reid": the strong baseline of re-identification (Luo et al., 2019).

Each module says what differs from the paper, and which of its values were tried on held-out identities.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from lookalike.errors import unknown_name
from lookalike.learn.recipes import RECIPES, Recipe
from lookalike.learn.rivals import clipreid, delg, frozen, reid, superglobal, trained
from lookalike.learn.rivals.trained import Made, Network, Rival, Trunk
from lookalike.learn.rivals.verified import Verified, verified
from lookalike.learn.sources import Source, Texts
from lookalike.values import Progress

__all__ = ["RIVALS", "Rival", "Verified", "load_rival", "train_rival", "verified"]


@dataclass(frozen=True, slots=True)
class Kind:
    """How a rival's network is made, and how it is trained."""

    network: Callable[[Trunk], Network]
    train: Callable[[Source, Texts, Recipe, Progress | None], Made]


RIVALS: Mapping[str, Kind] = {
    "frozen": Kind(frozen.Frozen, frozen.train),
    "delg": Kind(delg.Delg, delg.train),
    "superglobal": Kind(superglobal.Pooled, superglobal.train),
    "superglobal-frozen": Kind(superglobal.Untrained, superglobal.untrained),
    "clip-reid": Kind(clipreid.ImageSide, clipreid.train),
    "reid": Kind(reid.BNNeck, reid.train),
}


def train_rival(
    name: str,
    source: Source,
    texts: Texts,
    seed: int,
    recipe: Recipe = RECIPES["compact"],
    on_progress: Progress | None = None,
) -> Rival:
    """Train a rival on cells of the frozen trunk; the last step's network counts.

    Of the recipe batches, epochs and rate count: the losses are the rival's own.
    BadInput for an unknown name, and where there are too few identities for a batch, or for "clip-reid" no
    captions.
    """
    if name not in RIVALS:
        raise unknown_name("rival", name, RIVALS)
    recipe = replace(recipe, seed=seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        made = RIVALS[name].train(source, texts, recipe, on_progress)
    settings = {
        "seed": seed, "epochs": recipe.epochs, "p": recipe.p, "k": recipe.k, "lr": recipe.lr, **made.settings,
    }  # fmt: skip
    return Rival(name, settings, made.steps, Trunk.of(source), made.network)


def load_rival(folder: Path) -> Rival:
    """The rival that `Rival.save` wrote to a folder; WeightsError where there is none or it is damaged."""
    return trained.load(folder, {name: kind.network for name, kind in RIVALS.items()})
