"""The frozen trunk as it is: the region's mean, each cell counting as it does for the embedded encoder."""

from __future__ import annotations

from torch import Tensor

from lookalike.learn.recipes import Recipe
from lookalike.learn.rivals.fitting import pooled
from lookalike.learn.rivals.trained import Made, Network, Trunk
from lookalike.learn.sources import Source, Texts
from lookalike.values import Progress


class Frozen(Network):
    def __init__(self, trunk: Trunk) -> None:
        super().__init__()

    def forward(self, cells: Tensor, region: Tensor) -> Tensor:
        return pooled(cells, region)


def train(source: Source, texts: Texts, recipe: Recipe, on_progress: Progress | None = None) -> Made:
    """Nothing is learnt."""
    return Made(Frozen(Trunk.of(source)), 0, {})
