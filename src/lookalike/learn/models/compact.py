"""`compact`: the same class on two small frozen towers, so that it trains on two CPU cores.

Pictures come as the cells of EfficientNet-Lite2's last block (352 channels), captions as the states of MiniLM
(384 wide). What is trained: one fusion layer, the projections and heads, and what `Adapted` adds.
"""

from __future__ import annotations

from torch import nn

from lookalike.learn.models.x2vlm import X2VLM, X2VLMConfig

CONFIG = X2VLMConfig(
    resolution=144, patch=16,  # a grid of 9 x 9, as the map of a square of 288 pixels
    vision_width=352, vision_depth=1, vision_heads=11, vision_hidden=352,
    vocabulary=1, positions=1,
    text_width=384, text_heads=12, text_hidden=1536, text_layers=0, fusion_layers=1,
    embedding=256, heads=("temp", "vision_proj", "text_proj", "itm_head", "bbox_head"),
)  # fmt: skip


def compact() -> X2VLM:
    """Random fusion and heads; `vision` gives back the tokens (B, 1 + 81, 352) it is given."""
    model = X2VLM(CONFIG)
    model.vision_encoder = nn.Identity()  # type: ignore[assignment]
    model.text_encoder.bert.embeddings = nn.Identity()  # type: ignore[assignment]
    return model
