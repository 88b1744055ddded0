"""Re-ranking by whether picture and words belong together: the matching head of a vision-language model."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from lookalike import images
from lookalike.errors import BadInput, BadPicture
from lookalike.rerank.geometric import Memory
from lookalike.values import Floats, Keys, Query, Region, Row, Shortlist

AT_ONCE = 8  # members whose pictures are held decoded


class Matcher(Protocol):
    """What tells whether words belong to a region; `lookalike.encoders.AdaptedEncoder` is one."""

    def match(self, regions: Sequence[Region], captions: Sequence[str]) -> Floats:
        """(N,) and (N,) -> log odds (N,), above 0 for yes; BadInput, even for N = 0, if not taught to."""


@dataclass(frozen=True, slots=True)
class PairMatch:
    """Put those of the first members in front that the matching head says belong to the query.

    The head looks at a region and at words together, which costs a pass of the network for each pair, so
    only the `first` members are asked about, as X²-VLM's authors do after a search by embeddings (Zeng et
    al., arXiv 2211.12402). What is asked depends on the query:

    - words: do they belong to the member's region, read again from its file?
    - a picture: does the member's stored caption belong to its region (of several views the first)?
    - a picture and words: both. Where captions are there for some members only, the answers compared are to
      the question that most members have an answer to, lest one without a caption win for want of a doubt.

    A member that cannot be asked about (no caption; a picture that is gone, broken or changed) keeps its
    place. The others change places among themselves: by log odds with `weight` 1, as published; below that
    by a mixture with their scores, both brought to mean 0 and deviation 1. Half of each, the default, gained
    where log odds alone lost: docs/model.md. No answer is ever weighed against
    a score of someone who has none. Scores stay with the places, so they still compare with those behind.

    Copies made by `dataclasses.replace` share their `memory` of answers. BadInput with an encoder that has no
    such head.
    """

    GRID: ClassVar[Mapping[str, tuple[float, ...]]] = {"weight": (0.25, 0.5, 0.75, 1.0)}

    matcher: Matcher
    first: int = 32
    weight: float = 0.5
    memory: Memory = field(default_factory=Memory, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.first < 0 or not 0 <= self.weight <= 1:
            raise BadInput(
                f"pair-match with first = {self.first}, weight = {self.weight:g}",
                "first is 0 or more, weight from 0 to 1",
            )
        if not hasattr(self.matcher, "match"):
            raise BadInput(
                f"{getattr(self.matcher, 'name', 'the encoder')} cannot tell which words belong to a picture",
                "pair-match needs an X²-VLM with its itm_head, or a model that was trained with the itm loss",
            )
        self.matcher.match([], [])  # one that was not taught to says so

    @property
    def name(self) -> str:
        return "pair-match"

    def rerank(self, query: Query, shortlist: Shortlist) -> Shortlist:
        if not self.first or len(shortlist) == 0:
            return shortlist
        order = self.order(shortlist.scores, self.odds(query, shortlist.rows(self.first)))
        return Shortlist(shortlist.keys[order], shortlist.scores, shortlist.stored)

    def order(self, scores: Floats, odds: Floats) -> Keys:
        """Places (M,) in their new order; scores (M,), log odds of the first (F,), F <= M, NaN for none."""
        order = np.arange(len(scores))
        asked = np.flatnonzero(~np.isnan(odds))
        mixed = (1 - self.weight) * _standard(scores[asked]) + self.weight * _standard(odds[asked])
        order[asked] = asked[np.argsort(-mixed, kind="stable")]
        return order

    def odds(self, query: Query, rows: Sequence[Row]) -> Floats:
        """Whether each member (F,) belongs to the query: log odds (F,), NaN where there is no answer."""
        shown = [(region.picture.sha256, region.box) for region in query.regions[:1]]
        if shown and not shown[0][0]:  # pixels that came without a file
            return self._odds(query, rows)
        told = [(row.sha256, row.box, row.caption and row.caption.text) for row in rows]
        question = hashlib.sha256(repr((shown, query.text, told)).encode()).digest()
        return self.memory.recall(question, lambda: self._odds(query, rows))

    def _odds(self, query: Query, rows: Sequence[Row]) -> Floats:
        answers = np.full((len(rows), 2), np.nan, np.float32)
        if query.text:
            for start in range(0, len(rows), AT_ONCE):
                part = {
                    start + place: _region(row) for place, row in enumerate(rows[start : start + AT_ONCE])
                }
                seen = {place: region for place, region in part.items() if region is not None}
                asked = [query.text] * len(seen)
                answers[list(seen), 0] = self.matcher.match(list(seen.values()), asked)
        if query.regions:
            told = {place: row.caption.text for place, row in enumerate(rows) if row.caption is not None}
            said = {place: text for place, text in told.items() if text}
            asking = [query.regions[0]] * len(said)
            answers[list(said), 1] = self.matcher.match(asking, list(said.values()))
        return comparable(answers)


def comparable(answers: Floats) -> Floats:
    """Answers (F, K) to K questions, NaN for none -> their mean (F,), over the same questions for everybody.

    The question that most have answered, of equal ones the first, says who is compared: who has not is NaN.
    Another question counts if all of these have answered it too.
    """
    there = ~np.isnan(answers)
    compared = there[:, there.sum(axis=0).argmax()]
    counts = there[compared].all(axis=0)
    mean: Floats = answers[:, counts].mean(axis=1)
    mean[~compared] = np.nan
    return mean


def _standard(values: Floats) -> NDArray[np.float64]:
    """(N,) -> mean 0 and deviation 1; zeros where all are the same."""
    exact = np.asarray(values, np.float64)
    spread = np.ptp(exact) if len(exact) else 0.0
    return np.zeros(len(exact)) if spread == 0 else (exact - exact.mean()) / exact.std()


def _region(row: Row) -> Region | None:
    """The row's region, None where it cannot be had any more."""
    try:
        picture = images.load(row.source)
        return Region(picture, row.box) if picture.sha256 == row.sha256 else None
    except (BadPicture, BadInput):
        return None
