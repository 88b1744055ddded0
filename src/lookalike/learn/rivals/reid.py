"""The strong baseline of person re-identification on the frozen trunk (Luo et al., arXiv 1903.07071).

Mean pooling; the triplet and centre losses on the pooled vector, the identity loss with smoothed labels
behind a batch normalisation without bias (the BNNeck), whose output is what is searched; warm-up. What
differs: their ResNet-50 is trained whole, with stride 1 in its last stage, which `LastStage` stands for;
random erasing is that of the stored views; centres are learnt by the common optimiser instead of by SGD of
their own.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lookalike.learn import losses
from lookalike.learn.batches import Steps
from lookalike.learn.objective import Batch
from lookalike.learn.recipes import Recipe
from lookalike.learn.rivals.fitting import LastStage, fit, pooled
from lookalike.learn.rivals.trained import Made, Network, Trunk
from lookalike.learn.sources import Source, Texts
from lookalike.values import Progress

# Tried on held-out identities, one seed each: a rate of 0.001 (mAP .795), 0.003 (.774), and a linear layer to
# 512 behind the pooling (.792).
WIDTH = 352  # of the trained stage: as many as the trunk has channels
MARGIN, SMOOTHING, CENTRE = 0.3, 0.1, 5e-4  # the paper's


class BNNeck(Network):
    """`pool` gives what the triplet loss reads, calling it what the identity loss reads and searches use."""

    def __init__(self, trunk: Trunk) -> None:
        super().__init__()
        self.stage = LastStage(trunk.channels, WIDTH)
        self.neck = neck(WIDTH)

    def pool(self, cells: Tensor, region: Tensor) -> Tensor:
        return pooled(self.stage(cells), region)

    def forward(self, cells: Tensor, region: Tensor) -> Tensor:
        made: Tensor = self.neck(self.pool(cells, region))
        return made


class Heads(nn.Module):
    """What only training needs: a classifier without bias, and a centre of each identity."""

    def __init__(self, width: int, identities: int) -> None:
        super().__init__()
        self.classifier = classifier(width, identities)
        self.centres = nn.Parameter(torch.zeros(identities, width))

    def forward(self, raw: Tensor, normalised: Tensor, labels: Tensor) -> Tensor:
        """L_id + L_triplet + β · L_centre."""
        named = losses.identity(self.classifier(normalised), labels, SMOOTHING)
        return named + losses.triplet(raw, labels, MARGIN) + CENTRE * centre(raw, self.centres, labels)


def neck(width: int) -> nn.BatchNorm1d:
    """Batch normalisation whose bias stays 0."""
    made = nn.BatchNorm1d(width)
    made.bias.requires_grad_(False)
    return made


def classifier(width: int, identities: int) -> nn.Linear:
    made = nn.Linear(width, identities, bias=False)
    nn.init.normal_(made.weight, std=0.001)
    return made


def centre(features: Tensor, centres: Tensor, labels: Tensor) -> Tensor:
    """The squared distance of rows (B, D) to the centre of each one's identity, (C, D), averaged.

    Wen et al., ECCV 2016, with the mean over the batch that the baseline's published code takes.
    """
    return (features - centres[labels]).square().sum(dim=1).mean()


def train(source: Source, texts: Texts, recipe: Recipe, on_progress: Progress | None = None) -> Made:
    steps = Steps(source, texts, recipe, 0, 1)
    network = BNNeck(Trunk.of(source))
    heads = Heads(WIDTH, steps.identities)

    def loss(batch: Batch) -> Tensor:
        raw = network.pool(batch.image[:, 1:], batch.region)
        total: Tensor = heads(raw, network.neck(raw), batch.labels)
        return total

    taken = fit(nn.ModuleList([network, heads]), loss, steps, recipe, on_progress)
    settings = {"margin": MARGIN, "smoothing": SMOOTHING, "centre": CENTRE, "width": WIDTH}
    return Made(network, taken, settings)
