"""How good a model is on regions that it was not trained on: search, boxes, and what it believes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lookalike.datasets import Side
from lookalike.evaluation.metrics import ranks_of
from lookalike.learn.models.adapted import Adapted
from lookalike.learn.sampling import NO_IDENTITY
from lookalike.learn.sources import Source, Texts
from lookalike.learn.tokens import SIDES
from lookalike.values import Floats, Keys

AT_ONCE = 256


@dataclass(frozen=True, slots=True, eq=False)
class Described:
    """N regions in the parts that searches are made of, rows of length 1."""

    identity: Floats  # (N, Di)
    language: Floats  # (N, E)
    text: Floats  # (N, E), of their captions; of the empty one where they were not read
    imagined: Floats  # (N, E)

    def descriptors(self, language: float) -> Floats:
        """[identity part ; language part · `language`], (N, D), unit rows."""
        joined = np.concatenate([self.identity, language * self.language], axis=1)
        return np.asarray(joined / np.linalg.norm(joined, axis=1, keepdims=True), np.float32)


@torch.no_grad()
def described(
    model: Adapted, source: Source, texts: Texts, captions: Sequence[str] | None = None
) -> Described:
    """All regions as encoders see them; without captions as a bare query is, or with these (N,)."""
    parts: list[tuple[Tensor, ...]] = []
    for image, region, text, words in _batches(model, source, texts, captions):
        seen = model.region(image, region)
        parts.append(
            (
                model.identity_part(seen, text, words),
                model.language_part(seen),
                model.vlm.text_embedding(text),
                model.imagined_caption(seen),
            )
        )
    return Described(*(torch.cat(column).float().cpu().numpy() for column in zip(*parts, strict=True)))


@torch.no_grad()
def predicted_boxes(
    model: Adapted, source: Source, texts: Texts, captions: Sequence[str] | None = None
) -> Floats:
    """Where the model thinks each region (N,) lies in its view: (N, 4) as cx, cy, w, h in shares."""
    found = [
        model.boxes(image, text, words) for image, _, text, words in _batches(model, source, texts, captions)
    ]
    return np.asarray(torch.cat(found).float().cpu().numpy())


def overlaps(boxes: Floats, others: Floats) -> Floats:
    """Intersection over union of boxes (N, 4) and (N, 4), both cx, cy, w, h: (N,), 0 to 1."""
    low, high = ([each[:, :2] + sign * each[:, 2:] / 2 for each in (boxes, others)] for sign in (-1, 1))
    shared = np.clip(np.minimum(*high) - np.maximum(*low), 0, None).prod(axis=1)
    areas = [each[:, 2:].prod(axis=1) for each in (boxes, others)]
    return np.asarray(shared / np.maximum(sum(areas) - shared, 1e-12), np.float32)


def queries(source: Source) -> Keys:
    """The regions (Q,) of a source that are searched with: on the query side, of a known identity."""
    return np.flatnonzero((source.sides != SIDES.index(Side.GALLERY)) & (source.identities != NO_IDENTITY))


def average_precisions(descriptors: Floats, source: Source) -> Floats:
    """Protocol b1 on a source's regions, all described (N, D): plain AP of its `queries` (Q,), 0 to 1.

    NaN for a query without an answer.
    """
    asked = queries(source)
    gallery = np.flatnonzero(source.sides != SIDES.index(Side.QUERY))
    scores = descriptors[asked] @ descriptors[gallery].T
    scores[asked[:, None] == gallery] = -np.inf  # on both sides: never its own answer
    right = [
        np.flatnonzero((source.identities[gallery] == source.identities[place]) & (gallery != place))
        for place in asked
    ]
    aps = [ranks.average_precision() for ranks in ranks_of(scores, right)]
    return np.array(aps, np.float32)


def mean_average_precision(descriptors: Floats, source: Source) -> float:
    """The mean of `average_precisions`; NaN where no query has an answer."""
    aps = average_precisions(descriptors, source)
    return float(np.nanmean(aps)) if np.isfinite(aps).any() else float("nan")


@dataclass(frozen=True, slots=True)
class Guard:
    """A caption is believed where its agreement with the picture, -1 to 1, is at least `threshold`."""

    threshold: float
    believed: float  # share of right captions
    refused: float  # share of another identity's captions


def calibrated(picture: Floats, caption: Floats, identities: Keys, kept: float = 0.95) -> Guard:
    """The guard that believes a share `kept` of right captions; embeddings (N, E), unit rows.

    Wrong captions are those of another identity, one for each region: `refused` is the share that it turns
    away.
    """
    right = (picture * caption).sum(axis=1)
    other = np.roll(np.arange(len(identities)), len(identities) // 2)
    wrong = (picture * caption[other]).sum(axis=1)[identities != identities[other]]
    threshold = float(np.quantile(right, 1 - kept)) if len(right) else -1.0
    return Guard(
        threshold,
        float((right >= threshold).mean()) if len(right) else 1.0,
        float((wrong < threshold).mean()) if len(wrong) else 0.0,
    )


def _batches(
    model: Adapted, source: Source, texts: Texts, captions: Sequence[str] | None
) -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor]]:
    """Image tokens, region weights, states and words, on the model's device."""
    model.eval()
    device = model.identity.weight.device
    for start in range(0, len(source.regions), AT_ONCE):
        regions = np.arange(start, min(start + AT_ONCE, len(source.regions)))
        looked = source.look(regions)
        told = [""] * len(regions) if captions is None else [captions[place] for place in regions.tolist()]
        text, words = (each.to(device) for each in texts.of(told))
        if not text.is_floating_point():
            text = model.vlm.text(text, words)
        yield model.vlm.vision(looked.image.to(device)), looked.region.to(device), text, words
