"""Small models with seeded weights, loud enough that pictures and captions differ."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import nn

from lookalike.learn.models.adapted import Adapted
from lookalike.learn.models.compact import compact
from lookalike.learn.models.x2vlm import X2VLM, X2VLMConfig
from lookalike.learn.saved import Saved
from lookalike.values import Floats

CONFIG = replace(X2VLMConfig.tiny(), vocabulary=30522)  # BERT's, so that captions can be read


def loud(module: nn.Module) -> None:
    with torch.no_grad():
        for parameter in module.parameters():
            size = parameter[0].numel() if parameter.ndim > 1 else parameter.numel()
            noise = torch.randn(parameter.shape) * size**-0.5
            parameter.copy_(noise if parameter.ndim > 1 else parameter + noise)


def x2vlm_model(seed: int = 0, language: float = 0.7, config: X2VLMConfig = CONFIG) -> Saved:
    return _saved(lambda: X2VLM(config), "x2vlm", seed, language)


def compact_model(
    seed: int = 0, towers: Mapping[str, str] | None = None, about: Mapping[str, Any] | None = None
) -> Saved:
    return replace(_saved(compact, "compact", seed, 0.7), towers=towers or {}, about=about or {})


def states(words: int = 2, seed: int = 5) -> Floats:
    """Made-up states of a caption for `compact`, (1, L, 384)."""
    return np.random.default_rng(seed).standard_normal((1, words, 384), np.float32)


def _saved(make: Callable[[], X2VLM], trunk: Any, seed: int, language: float) -> Saved:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = Adapted(make(), language).eval().requires_grad_(False)
        loud(model)
    return Saved(model, trunk, guard=0.25)
