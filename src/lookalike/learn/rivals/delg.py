"""DELG on the frozen trunk: one global descriptor and local features (Cao et al., ECCV 2020, section 3).

The global branch is GeM with p = 3, a linear layer (the "whitening") and ArcFace. The local branch reads the
trunk's cells: an autoencoder makes short local descriptors, an attention says which to keep. It has losses
of its own, and no gradient of it reaches the global branch or the trunk, as published.

What differs. The trunk is frozen, so a stage of its own is trained in the global branch, in place of the
paper's last block. The trunk's cells are signed, so what is reconstructed has no ReLU. Local features come
from a map of 9 x 9 cells and one scale, where the paper's have 64 x 64 and seven scales: they are coarse,
a region has `MOST` of them at most instead of 1,000, and what they verify says little about DELG's on
pictures of full size. `lookalike.learn.rivals.verified` compares them.
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
LOCAL, ATTENTION = 128, 512  # lengths of a local descriptor, and of what attention is worked out from
POWER = 3.0
MARGIN = losses.Margin(angle=0.1, scale=LENGTH**0.5)  # the paper's: the scale is the root of the length
RECONSTRUCTION = 10.0  # the loss's weight; the attention's is 1


class Delg(Network):
    """Calling it gives the global descriptors; `local` the local branch's part."""

    def __init__(self, trunk: Trunk) -> None:
        super().__init__()
        self.stage = LastStage(trunk.channels, WIDTH)
        self.whitening = nn.Linear(WIDTH, LENGTH)
        self.local = Local(trunk.channels)

    def forward(self, cells: Tensor, region: Tensor) -> Tensor:
        made: Tensor = self.whitening(gem(self.stage(cells), region, POWER))
        return made


class Local(nn.Module):
    """Cells (B, N, C) -> local descriptors (B, N, LOCAL), cells made of them again, and attention (B, N)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.shorten = nn.Linear(channels, LOCAL)
        self.restore = nn.Linear(LOCAL, channels)
        self.attend = nn.Linear(channels, ATTENTION)
        self.norm = nn.BatchNorm1d(ATTENTION)
        self.score = nn.Linear(ATTENTION, 1)

    def forward(self, cells: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        cells = cells.detach()
        short = self.shorten(cells)
        again = self.restore(short)
        attended = torch.relu(self.norm(self.attend(again).flatten(0, 1)))
        return short, again, F.softplus(self.score(attended)).view(cells.shape[:2])


class LocalHead(nn.Module):
    """What only the training of the local branch needs: a classifier of what attention pools."""

    def __init__(self, channels: int, identities: int) -> None:
        super().__init__()
        self.classifier = nn.Linear(channels, identities)

    def forward(self, local: Local, cells: Tensor, labels: Tensor) -> Tensor:
        """L_attention + 10 · L_reconstruction."""
        cells = cells.detach()
        _, again, attention = local(cells)
        seen = (attention[:, :, None] * F.normalize(cells, dim=2)).mean(dim=1)
        named = F.cross_entropy(self.classifier(seen), labels)
        return named + RECONSTRUCTION * F.mse_loss(again, cells)


def train(source: Source, texts: Texts, recipe: Recipe, on_progress: Progress | None = None) -> Made:
    steps = Steps(source, texts, recipe, 0, 1)
    trunk = Trunk.of(source)
    network = Delg(trunk)
    arcface = Centres(LENGTH, steps.identities, MARGIN)
    head = LocalHead(trunk.channels, steps.identities)

    def loss(batch: Batch) -> Tensor:
        cells = batch.image[:, 1:]
        branches: tuple[Tensor, Tensor] = (
            arcface(network(cells, batch.region), batch.labels),
            head(network.local, cells, batch.labels),
        )
        return branches[0] + branches[1]

    taken = fit(nn.ModuleList([network, arcface, head]), loss, steps, recipe, on_progress)
    settings = {
        "gem p": POWER, "margin": MARGIN.angle, "scale": MARGIN.scale, "reconstruction": RECONSTRUCTION,
        "width": WIDTH, "length": LENGTH, "local": LOCAL,
    }  # fmt: skip
    return Made(network, taken, settings)
