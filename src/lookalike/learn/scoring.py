"""How good a model is on regions that it was not trained on: search, boxes, and what it believes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import zip_longest

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from lookalike.datasets import Side
from lookalike.evaluation.metrics import Ranks, ranks_of
from lookalike.learn.models.adapted import Adapted
from lookalike.learn.processes import spread
from lookalike.learn.sampling import NO_IDENTITY, others
from lookalike.learn.sources import Looked, Source, Texts
from lookalike.learn.tokens import SIDES
from lookalike.trust import Trust
from lookalike.values import Floats, Keys
from lookalike.words import sentences

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
    model: Adapted,
    source: Source,
    texts: Texts,
    captions: Sequence[str] | None = None,
    together: bool = False,
) -> Described:
    """All regions as encoders see them; without captions as a bare query is, or with these (N,).

    `together` has the processes of a group, all of which must call it, share the work; each gets the whole.
    """
    rank, world = (dist.get_rank(), dist.get_world_size()) if together and spread() else (0, 1)
    mine: list[tuple[Floats, ...]] = []
    for looked, image, text, words in _batches(model, source, texts, captions, rank, world):
        seen = model.region(image, looked.region.to(image.device))
        parts = (
            model.identity_part(seen, text, words),
            model.language_part(seen),
            model.vlm.text_embedding(text),
            model.imagined_caption(seen),
        )
        mine.append(tuple(part.float().cpu().numpy() for part in parts))
    every = [mine] * world
    if world > 1:
        dist.all_gather_object(every, mine)
    in_order = [parts for turn in zip_longest(*every) for parts in turn if parts is not None]
    return Described(*(np.concatenate(column) for column in zip(*in_order, strict=True)))


@torch.no_grad()
def predicted_boxes(
    model: Adapted, source: Source, texts: Texts, captions: Sequence[str] | None = None
) -> tuple[Floats, Floats]:
    """Where the model thinks each region (N,) lies in its view, and where it does: (N, 4), cx, cy, w, h.

    In shares of the square; a true box is NaN where the view does not show it.
    """
    found, true = [], []
    for looked, image, text, words in _batches(model, source, texts, captions):
        found.append(model.boxes(image, text, words).float().cpu())
        true.append(looked.boxes)
    return torch.cat(found).numpy(), torch.cat(true).numpy()


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
    aps = [ranks.average_precision() for ranks in ranked(source, descriptors, descriptors)]
    return np.array(aps, np.float32)


@dataclass(frozen=True, slots=True, eq=False)
class Posed:
    """Protocol b1: the gallery's regions G scored for each of a source's `queries` Q."""

    queries: Keys  # (Q,) regions of the source
    gallery: Keys  # (G,)
    scores: Floats  # (Q, G), -inf where a query would be its own answer
    right: list[Keys]  # of each query its right answers' places in the gallery


def posed(source: Source, asked: Floats, searched: Floats) -> Posed:
    """The queries by `asked`, the gallery by `searched`, both descriptors (N, D) of all regions."""
    places = queries(source)
    gallery = np.flatnonzero(source.sides != SIDES.index(Side.QUERY))
    scores = asked[places] @ searched[gallery].T
    scores[places[:, None] == gallery] = -np.inf
    right = [
        np.flatnonzero((source.identities[gallery] == source.identities[place]) & (gallery != place))
        for place in places
    ]
    return Posed(places, gallery, scores, right)


def ranked(source: Source, asked: Floats, searched: Floats) -> list[Ranks]:
    """The gallery ranked for each of a source's `queries`, all regions described on either side, (N, D)."""
    task = posed(source, asked, searched)
    return ranks_of(task.scores, task.right)


def mean_average_precision(descriptors: Floats, source: Source) -> float:
    """The mean of `average_precisions`; NaN where no query has an answer."""
    aps = average_precisions(descriptors, source)
    return float(np.nanmean(aps)) if np.isfinite(aps).any() else float("nan")


def caption_trust(model: Adapted, source: Source, texts: Texts) -> Trust | None:
    """What the model's agreement with captions means, by the regions' own and by another identity's.

    Of each region the middle caption in length. None where no region has one.
    """
    said = [r.captions[len(r.captions) // 2] if r.captions else "" for r in source.regions]
    swapped = [said[place] for place in others(source.identities).tolist()]
    seen = described(model, source, texts).language
    right, wrong = (
        (seen * embedded(model, texts, each)).sum(axis=1)[[bool(caption) for caption in each]]
        for each in (said, swapped)
    )
    return Trust.of(right, wrong) if any(said) else None


@dataclass(frozen=True, slots=True)
class Guard:
    """A sentence is believed where its agreement with the picture, -1 to 1, is at least `threshold`."""

    threshold: float
    believed: float  # share of right sentences
    refused: float  # share of another identity's sentences


def sentence_agreements(model: Adapted, source: Source, texts: Texts) -> tuple[Floats, Floats]:
    """How far regions agree with the sentences of their captions (N,), and with another identity's (M,).

    What is said of both is not held against the other's. Regions without captions take no part.
    """
    own = [list(dict.fromkeys(s for text in r.captions for s in sentences(text))) for r in source.regions]
    told = np.array([place for place, some in enumerate(own) for _ in some], np.int64)
    said = [sentence for some in own for sentence in some]
    every = {sentence: row for row, sentence in enumerate(dict.fromkeys(said))}
    rows = np.array([every[sentence] for sentence in said], np.int64)
    meant, seen = embedded(model, texts, list(every)), described(model, source, texts).language[told]
    other = np.roll(np.arange(len(told)), len(told) // 2)
    unknown = [said[o] not in own[place] for place, o in zip(told.tolist(), other.tolist(), strict=True)]
    wrong = (source.identities[told] != source.identities[told[other]]) & np.array(unknown, bool)
    right, others = (
        np.asarray((seen * meant[which]).sum(axis=1), np.float32) for which in (rows, rows[other])
    )
    return right, others[wrong]


def calibrated(right: Floats, wrong: Floats, kept: float = 0.95) -> Guard:
    """The guard that believes a share `kept` of right sentences, by their agreement (N,).

    `refused` is the share of wrong ones (M,) that it turns away. N = 0 gives one that believes all.
    """
    threshold = float(np.quantile(right, 1 - kept)) if len(right) else -1.0
    return Guard(
        threshold,
        float((right >= threshold).mean()) if len(right) else 1.0,
        float((wrong < threshold).mean()) if len(wrong) else 0.0,
    )


@torch.no_grad()
def embedded(model: Adapted, texts: Texts, said: Sequence[str]) -> Floats:
    """Texts (N,) -> their embeddings (N, E), unit rows."""
    model.eval()
    parts = [np.empty((0, model.vlm.config.embedding), np.float32)]
    for start in range(0, len(said), AT_ONCE):
        text, words = (
            each.to(model.identity.weight.device) for each in texts.of(said[start : start + AT_ONCE])
        )
        parts.append(model.vlm.text_embedding(model.read(text, words)).float().cpu().numpy())
    return np.concatenate(parts)


def _batches(
    model: Adapted,
    source: Source,
    texts: Texts,
    captions: Sequence[str] | None,
    rank: int = 0,
    world: int = 1,
) -> Iterator[tuple[Looked, Tensor, Tensor, Tensor]]:
    """What is looked at; image tokens, states, words on the model's device. Of W processes each its turns."""
    model.eval()
    device = model.identity.weight.device
    for start in range(rank * AT_ONCE, len(source.regions), world * AT_ONCE):
        regions = np.arange(start, min(start + AT_ONCE, len(source.regions)))
        looked = source.look(regions)
        told = [""] * len(regions) if captions is None else [captions[place] for place in regions.tolist()]
        text, words = (each.to(device) for each in texts.of(told))
        yield looked, model.vlm.vision(looked.image.to(device)), model.read(text, words), words
