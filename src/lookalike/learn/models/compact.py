"""`compact`: the same class on two small frozen towers, so that it trains on two CPU cores.

Pictures come as the cells of EfficientNet-Lite2's last block (352 channels), captions as the states of MiniLM
(6 layers of BERT, 384 wide). What is trained: two fusion layers, the projections, the box head, and the
identity part of `Adapted`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from lookalike import weights
from lookalike.errors import WeightsError
from lookalike.learn.models.x2vlm import X2VLM, Words, X2VLMConfig, pulled_vocabulary

FUSION_LAYERS = 2
CONFIG = X2VLMConfig(
    resolution=144, patch=16,  # a grid of 9 x 9, as the map of a square of 288 pixels
    vision_width=352, vision_depth=1, vision_heads=11, vision_hidden=352,
    text_width=384, text_heads=12, text_hidden=1536, text_layers=6, fusion_layers=FUSION_LAYERS,
    embedding=256, heads=("temp", "vision_proj", "text_proj", "bbox_head"),
)  # fmt: skip


def compact() -> X2VLM:
    """Random fusion and heads on MiniLM's text tower, frozen; pictures come as tokens (B, 1 + 81, 352).

    WeightsError where `minilm` was not pulled.
    """
    model = X2VLM(CONFIG)
    model.vision_encoder = nn.Identity()  # type: ignore[assignment]
    _load_minilm(model)
    for name, parameter in model.text_encoder.bert.named_parameters():
        layer = name.split(".")[2] if name.startswith("encoder.layer.") else "-1"
        parameter.requires_grad = int(layer) >= CONFIG.text_layers
    return model


class Reader:
    """Captions through the frozen text tower; the first state is the mean, as MiniLM is meant to be read."""

    def __init__(self, model: X2VLM) -> None:
        self._model, self._words = model, Words(pulled_vocabulary())

    @torch.no_grad()
    def __call__(self, captions: Sequence[str]) -> tuple[Tensor, Tensor]:
        """(B,) captions -> states (B, L, 384) and mask (B, L)."""
        self._model.eval()
        ids, mask = self._words.tokens(captions)
        states = self._model.text(ids, mask)
        counted = mask[..., None].to(states.dtype)
        mean = (states * counted).sum(dim=1) / counted.sum(dim=1)
        return torch.cat([mean[:, None], states[:, 1:]], dim=1), mask


def _load_minilm(model: X2VLM) -> None:
    from safetensors.torch import load_file

    files: list[Path] = weights.locate("minilm", weights.default_folder())
    file = next(path for path in files if path.suffix == ".safetensors")
    found = {key: value for key, value in load_file(file).items() if not key.startswith("pooler.")}
    lacking, unknown = model.text_encoder.bert.load_state_dict(found, strict=False)
    own = [f"encoder.layer.{CONFIG.text_layers + number}." for number in range(FUSION_LAYERS)]
    if unknown or any(not key.startswith(tuple(own)) for key in lacking):
        raise WeightsError(f"{file.name} is not MiniLM's", "lookalike models pull minilm")
