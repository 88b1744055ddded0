"""AdamW, its groups of parameters and its schedule, as X²-VLM's authors have them in their code."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import nn

# Any name that contains one of these is not decayed: position biases count as biases, CLS and gammas do not.
_PLAIN = ("bias", "LayerNorm.weight", "norm.weight", "norm1.weight", "norm2.weight")


class AdamW(torch.optim.Adam):
    """Adam, then each parameter shrunk by lr · weight_decay: after the step, PyTorch's does it before."""

    def __init__(self, groups: Iterable[Mapping[str, Any]], lr: float) -> None:
        """Each group has `params`, `decay`, and `times`, its own factor of the learning rate."""
        super().__init__([dict(group) for group in groups], lr=lr, betas=(0.9, 0.98), eps=1e-8)

    def set_rate(self, lr: float) -> None:
        for group in self.param_groups:
            group["lr"] = lr * group["times"]

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        loss: float | None = super().step(closure)
        for group in self.param_groups:
            shrunk = [parameter for parameter in group["params"] if parameter.grad is not None]
            if group["decay"] and shrunk:
                torch._foreach_mul_(shrunk, 1 - group["lr"] * group["decay"])
        return loss


def groups(
    named: Iterable[tuple[str, nn.Parameter]],
    decay: float,
    times: Callable[[str], float] = lambda name: 1.0,
) -> list[dict[str, Any]]:
    """Parameters by their factor of the learning rate, `times(name)`, and by whether they are decayed.

    What needs no gradient is left out. The order is that of the first of each group.
    """
    made: dict[tuple[float, float], dict[str, Any]] = {}
    for name, parameter in named:
        if parameter.requires_grad:
            kind = times(name), 0.0 if any(part in name for part in _PLAIN) else decay
            group = made.setdefault(kind, {"params": [], "times": kind[0], "decay": kind[1]})
            group["params"].append(parameter)
    return list(made.values())


def linear_schedule(step: int, steps: int, warm_up: float) -> float:
    """The factor of the learning rate at a step counted from 0: up from 0 over a share of all, then down."""
    rising = math.floor(warm_up * steps)
    if step < rising:
        return step / rising
    return max(0.0, (steps - step) / max(1, steps - rising))
