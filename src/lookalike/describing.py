"""What an encoder is asked for: descriptors of regions, and what captions mean."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeGuard

import numpy as np

from lookalike.errors import BadInput
from lookalike.roles import CaptionedEncoder, Encoder
from lookalike.trust import UNKNOWN
from lookalike.values import Caption, Floats, Region

UNIT_WITHIN = 1e-3


def described(
    regions: Sequence[Region],
    captions: Sequence[Caption | None] | None,
    encoder: Encoder,
    doubts: Mapping[str, float],
) -> Floats:
    """Descriptors (N, D), each in the light of its caption, which counts as its source's doubt allows.

    BadInput where the encoder breaks its promise of rows of length 1.
    """
    said = captions or [None] * len(regions)
    words = [caption.text if caption else "" for caption in said]
    wrong = [doubts.get(caption.by, UNKNOWN) if caption else UNKNOWN for caption in said]
    vectors = encoded(regions, words, wrong, encoder)
    off = ~(np.abs(np.linalg.norm(vectors, axis=1) - 1) < UNIT_WITHIN)  # NaN is off too
    if off.any():
        region = regions[int(np.argmax(off))]
        raise BadInput(
            f"{region.picture.source}: its descriptor by {encoder.name} has not length 1",
            "an encoder gives finite rows of L2 norm 1",
        )
    return vectors


def encoded(
    regions: Sequence[Region], words: Sequence[str], wrong: Sequence[float], encoder: Encoder
) -> Floats:
    """What an encoder makes of regions (N,), told as much of their captions (N,), "" for none, as it takes.

    `wrong` (N,) are the doubts of the captions' sources. Descriptors (N, D).
    """
    if not any(words):
        return encoder.pictures(regions)
    return encoder.pictures(regions, words, wrong) if weighs(encoder) else encoder.pictures(regions, words)


def weighs(encoder: Encoder) -> TypeGuard[CaptionedEncoder]:
    """Whether the encoder weighs captions, and so asks for doubts."""
    return getattr(encoder, "trust", None) is not None


def meant(words: Sequence[str], encoder: Encoder) -> list[Floats | None]:
    """What the encoder makes of captions (N,), (D,) each; None for "" and where it has no language."""
    told = [place for place, text in enumerate(words) if text]
    meanings: list[Floats | None] = [None] * len(words)
    found = encoder.texts([words[place] for place in told]) if told else None
    if found is not None:
        for place, meaning in zip(told, found, strict=True):
            meanings[place] = meaning
    return meanings
