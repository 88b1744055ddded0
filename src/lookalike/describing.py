"""What an encoder is asked for: descriptors of regions, and what captions mean."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast

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
    if captions is None or not any(captions):
        vectors = encoder.pictures(regions)
    else:
        words = [caption.text if caption else "" for caption in captions]
        if getattr(encoder, "trust", None) is None:
            vectors = encoder.pictures(regions, words)
        else:
            wrong = [doubts.get(caption.by, UNKNOWN) if caption else UNKNOWN for caption in captions]
            vectors = cast(CaptionedEncoder, encoder).pictures(regions, words, wrong)
    off = ~(np.abs(np.linalg.norm(vectors, axis=1) - 1) < UNIT_WITHIN)  # NaN is off too
    if off.any():
        region = regions[int(np.argmax(off))]
        raise BadInput(
            f"{region.picture.source}: its descriptor by {encoder.name} has not length 1",
            "an encoder gives finite rows of L2 norm 1",
        )
    return vectors


def meant(words: Sequence[str], encoder: Encoder) -> list[Floats | None]:
    """What the encoder makes of captions (N,), (D,) each; None for "" and where it has no language."""
    told = [place for place, text in enumerate(words) if text]
    meanings: list[Floats | None] = [None] * len(words)
    found = encoder.texts([words[place] for place in told]) if told else None
    if found is not None:
        for place, meaning in zip(told, found, strict=True):
            meanings[place] = meaning
    return meanings
