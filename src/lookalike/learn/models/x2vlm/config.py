"""The sizes of an X²-VLM."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Self

from lookalike.errors import BadInput

# Parts that a checkpoint may lack, by the beginning of their keys.
HEADS = ("temp", "vision_proj", "text_proj", "itm_head", "bbox_head", "text_encoder.cls")


@dataclass(frozen=True, slots=True)
class X2VLMConfig:
    """What an X²-VLM is made of. BadInput where the numbers do not fit together.

    `resolution` is the side of the square picture in pixels, `patch` that of a patch. The text tower has
    `text_layers` and the fusion `fusion_layers` more of the same width; without any text layers the fusion is
    given states that were made elsewhere. `embedding` is the length of
    image_embedding and text_embedding. `frames` > 0 adds a position for each frame of a video. `heads` are
    the parts beyond the towers, of HEADS. `dropout` (BERT) and `drop_path` (BEiT) act in training only.
    `recompute` keeps no activations inside the layers for the backward pass, but computes them again.
    """

    resolution: int = 224
    patch: int = 16
    vision_width: int = 768
    vision_depth: int = 12
    vision_heads: int = 12
    vision_hidden: int = 3072
    vocabulary: int = 30522
    positions: int = 512
    text_width: int = 768
    text_heads: int = 12
    text_hidden: int = 3072
    text_layers: int = 12
    fusion_layers: int = 6
    embedding: int = 256
    frames: int = 0
    heads: tuple[str, ...] = HEADS
    dropout: float = 0.1
    drop_path: float = 0.1
    recompute: bool = False

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if type(value) is int and value < (field.name not in _MAY_BE_NONE):
                raise BadInput(f"an X²-VLM with {field.name} = {value}")
        if self.resolution % self.patch:
            raise BadInput(
                f"a picture of {self.resolution} pixels cannot be cut into patches of {self.patch}",
                f"take a multiple of {self.patch}",
            )
        for width, heads in ((self.vision_width, self.vision_heads), (self.text_width, self.text_heads)):
            if width % heads:
                raise BadInput(f"a width of {width} cannot be shared by {heads} attention heads")
        if unknown := set(self.heads) - set(HEADS):
            raise BadInput(f"an X²-VLM has no head {min(unknown)!r}", f"known: {', '.join(HEADS)}")
        if not (0 <= self.dropout < 1 and 0 <= self.drop_path < 1):
            raise BadInput(f"dropout {self.dropout} and drop_path {self.drop_path} must be in [0, 1)")

    @property
    def grid(self) -> int:
        """Patches along a side; the picture is 1 + grid² tokens."""
        return self.resolution // self.patch

    @classmethod
    def base(cls, resolution: int = 224) -> Self:
        return cls(resolution=resolution)

    @classmethod
    def large(cls, resolution: int = 224) -> Self:
        return cls(
            resolution=resolution,
            vision_width=1024, vision_depth=24, vision_heads=16, vision_hidden=4096,
            text_width=1024, text_heads=16, text_hidden=4096,
        )  # fmt: skip

    @classmethod
    def tiny(cls, resolution: int = 32) -> Self:
        """Small enough for tests; the two widths differ on purpose."""
        return cls(
            resolution=resolution, patch=8,
            vision_width=48, vision_depth=3, vision_heads=4, vision_hidden=192,
            vocabulary=96, positions=40, text_width=32, text_heads=4, text_hidden=64,
            text_layers=2, fusion_layers=2, embedding=16,
        )  # fmt: skip


_MAY_BE_NONE = ("frames", "text_layers", "fusion_layers")
