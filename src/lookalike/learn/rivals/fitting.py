"""What rivals share: how they are fitted, and what they put on the frozen trunk's cells."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from lookalike.errors import BadInput
from lookalike.learn import losses
from lookalike.learn.batches import Steps
from lookalike.learn.objective import Batch
from lookalike.learn.optimiser import AdamW, groups, linear_schedule
from lookalike.learn.recipes import Recipe
from lookalike.values import Progress


def fit(
    trained: nn.Module,
    loss: Callable[[Batch], Tensor],
    steps: Steps,
    recipe: Recipe,
    on_progress: Progress | None = None,
) -> int:
    """Train what of `trained` needs a gradient, as `Trainer` does; the number of steps that took."""
    return descend(trained, lambda *place: loss(steps[place]), steps.batches, recipe, on_progress)


def descend(
    trained: nn.Module,
    loss: Callable[[int, int], Tensor],
    steps: int,
    recipe: Recipe,
    on_progress: Progress | None = None,
) -> int:
    """The same for the loss of an epoch and a step in it; an epoch has so many.

    AdamW, warm-up and linear decay, a clipped gradient. BadInput where the loss is no number any more.
    """
    named = [(name, each) for name, each in trained.named_parameters() if each.requires_grad]
    fixed = [each for name, each in named if name.split(".")[-1] == "centres"]
    free = [(name, each) for name, each in named if name.split(".")[-1] != "centres"]
    optimiser = AdamW(
        [*groups(free, recipe.weight_decay), {"params": fixed, "times": 1.0, "decay": 0.0}], recipe.lr
    )
    total = recipe.epochs * steps
    for number in range(total):
        trained.train()
        optimiser.zero_grad(set_to_none=True)
        value = loss(*divmod(number, steps))
        if not torch.isfinite(value):
            raise BadInput(f"the loss is not a number any more in step {number + 1}", "lower the rate")
        value.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_([each for _, each in named], recipe.clip)
        optimiser.set_rate(recipe.lr * linear_schedule(number, total, recipe.warm_up))
        optimiser.step()
        if on_progress:
            on_progress(number + 1, total)
    trained.eval()
    return total


class LastStage(nn.Module):
    """What a rival trains of the network: of each cell (B, N, C) a non-negative one (B, N, W).

    A 1 x 1 convolution, batch normalisation and ReLU. The rivals' papers train their whole network; here the
    trunk is frozen, for `compact` too, so each gets a stage of its own to train. Without it, with a linear
    layer behind the pooling alone, the mAP of DELG's global branch on held-out identities was .52 instead of
    .69 after ten epochs, one seed.
    """

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.convolution = nn.Linear(channels, width)
        self.norm = nn.BatchNorm1d(width)

    def forward(self, cells: Tensor) -> Tensor:
        rows = self.norm(self.convolution(cells.flatten(0, 1)))
        return torch.relu(rows).view(*cells.shape[:2], -1)


class Centres(nn.Module):
    """ArcFace's centre of each identity."""

    def __init__(self, length: int, identities: int, margin: losses.Margin) -> None:
        super().__init__()
        self._margin = margin
        self.centres = nn.Parameter(torch.randn(identities, length) / length**0.5)

    def forward(self, features: Tensor, labels: Tensor) -> Tensor:
        return losses.arcface(features, self.centres, labels, self._margin)


def pooled(cells: Tensor, region: Tensor) -> Tensor:
    """The mean of cells (B, N, C), each counting as `region` (B, N) says -> (B, C)."""
    share = region / region.sum(dim=1, keepdim=True).clamp(min=1e-6)
    return torch.einsum("bn,bnc->bc", share, cells)


def gem(cells: Tensor, region: Tensor, p: float = 3.0, eps: float = 1e-6) -> Tensor:
    """The generalised mean of cells (B, N, C) -> (B, C); see `lookalike.pooling.gem`."""
    return pooled(cells.clamp(min=eps).pow(p), region).pow(1 / p)
