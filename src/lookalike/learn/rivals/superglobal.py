"""SuperGlobal's pooling on the frozen trunk (Shao et al., ICCV 2023): regional GeM, then GeM+, then a layer.

The paper adds its pooling to a trained network without training anything. Here one is trained with it: a
stage of its own on the trunk's cells, its pooling and a linear layer (the "whitening"), by ArcFace. ReLUP,
which there raises the floor of the activations of early stages, is on the stage that is trained; scale GeM
is that of one scale, which the stored cells have, and so does nothing.

`Untrained` is the pooling alone on what the trunk gives: signed cells, split into two non-negative halves.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from lookalike.learn import losses
from lookalike.learn.batches import Steps
from lookalike.learn.objective import Batch
from lookalike.learn.recipes import Recipe
from lookalike.learn.rivals.fitting import Centres, LastStage, fit, gem
from lookalike.learn.rivals.trained import Made, Network, Trunk
from lookalike.learn.sources import Source, Texts
from lookalike.values import Progress

WIDTH, LENGTH = 352, 512
ALPHA, REGIONAL, PLUS = 0.014, 2.5, 4.6  # the paper's: of ReLUP, regional GeM and GeM+
MARGIN = losses.Margin(angle=0.3, scale=30.0)  # compact's


class Pooled(Network):
    def __init__(self, trunk: Trunk) -> None:
        super().__init__()
        self.side = trunk.side
        self.stage = LastStage(trunk.channels, WIDTH)
        self.whitening = nn.Linear(WIDTH, LENGTH)

    def forward(self, cells: Tensor, region: Tensor) -> Tensor:
        made: Tensor = self.whitening(F.normalize(regional(self.stage(cells), region, self.side), dim=1))
        return made


class Untrained(Network):
    def __init__(self, trunk: Trunk) -> None:
        super().__init__()
        self.side = trunk.side

    def forward(self, cells: Tensor, region: Tensor) -> Tensor:
        halves = torch.cat([cells.clamp(min=0), (-cells).clamp(min=0)], dim=2)
        return regional(halves, region, self.side)


def regional(cells: Tensor, region: Tensor, side: int) -> Tensor:
    """ReLUP, regional GeM and GeM+ of non-negative cells (B, side * side, C) -> (B, C)."""
    maps = cells.clamp(min=ALPHA).transpose(1, 2).reshape(len(cells), -1, side, side)
    return gem(regional_gem(maps).flatten(2).transpose(1, 2), region, PLUS, eps=1e-8)


def regional_gem(maps: Tensor, p: float = REGIONAL, window: int = 5) -> Tensor:
    """`lookalike.pooling.regional_gem` of positive maps (B, C, H, W), with gradients."""
    around = [window // 2] * 4
    means = F.avg_pool2d(F.pad(maps.pow(p), around, mode="reflect"), window, stride=1)
    return (means.pow(1 / p) + maps) / 2


def train(source: Source, texts: Texts, recipe: Recipe, on_progress: Progress | None = None) -> Made:
    steps = Steps(source, texts, recipe, 0, 1)
    network = Pooled(Trunk.of(source))
    arcface = Centres(LENGTH, steps.identities, MARGIN)

    def loss(batch: Batch) -> Tensor:
        total: Tensor = arcface(network(batch.image[:, 1:], batch.region), batch.labels)
        return total

    taken = fit(nn.ModuleList([network, arcface]), loss, steps, recipe, on_progress)
    settings = {
        "regional p": REGIONAL, "gem p": PLUS, "relup": ALPHA, "margin": MARGIN.angle, "scale": MARGIN.scale,
        "width": WIDTH, "length": LENGTH,
    }  # fmt: skip
    return Made(network, taken, settings)


def untrained(source: Source, texts: Texts, recipe: Recipe, on_progress: Progress | None = None) -> Made:
    """The pooling alone: nothing is learnt."""
    settings = {"regional p": REGIONAL, "gem p": PLUS, "relup": ALPHA}
    return Made(Untrained(Trunk.of(source)), 0, settings)
