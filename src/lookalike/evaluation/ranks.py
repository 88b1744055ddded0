"""Where right answers stand in a ranking, and every formula that follows from it, once. Numpy, float64.

A query without right answers has the value nan, whatever is measured: leave it out of the mean, and say how
many queries the mean is over. Equal scores are ordered by gallery index, as a stable sort would.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import wraps
from typing import Any, Concatenate, ParamSpec, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lookalike.errors import BadInput

Scores = NDArray[np.floating[Any]]
Indices = NDArray[np.integer[Any]]
P = ParamSpec("P")

COUNTED = 16  # up to so many right answers, counting what scores higher is faster than sorting the scores


def _nan_without_answers(
    formula: Callable[Concatenate[Ranks, P], Any],
) -> Callable[Concatenate[Ranks, P], float]:
    @wraps(formula)
    def measure(self: Ranks, /, *args: P.args, **kwargs: P.kwargs) -> float:
        return float(formula(self, *args, **kwargs)) if self.total else math.nan

    return measure


@dataclass(frozen=True, slots=True, eq=False)
class Ranks:
    """Where the right answers of one query stand in its ranking.

    `found` (R,) holds the ranks of those that were found, counted from 0, ascending. `total` is the number
    of right answers in the gallery; what is not among `found` counts as never reached. Every measure is
    between 0 and 1, and nan where `total` is 0.
    """

    found: Indices
    total: int

    def __post_init__(self) -> None:
        found = self.found
        if found.ndim != 1 or (len(found) and (found[0] < 0 or (found[1:] <= found[:-1]).any())):
            raise ValueError(f"ranks {found}: needs different integers from 0, ascending")
        if self.total < len(found):
            raise ValueError(f"{len(found)} right answers found, but only {self.total} in the gallery")

    @classmethod
    def of(cls, relevant: ArrayLike, total: int | None = None) -> Self:
        """From a ranking (N,) bool, best first; without `total` it is taken as complete."""
        found = np.flatnonzero(relevant)
        return cls(found, len(found) if total is None else total)

    def cut(self, k: int) -> Self:
        """The same ranking ended after its first k places."""
        if k < 1:
            raise BadInput(f"k = {k}: a ranking is cut after at least 1 place")
        return type(self)(self.found[self.found < k], self.total)

    def without(self, junk: Indices) -> Self:
        """The same answers after what stands at the ranks `junk` (J,), in any order, is taken out.

        Each rank is lowered by the junk before it: [0, 3, 5] without [1, 4] is [0, 2, 3]. Radenović et al.,
        CVPR 2018; a query searched among the others takes itself out in this way.
        """
        return type(self)(self.found - np.searchsorted(np.sort(junk), self.found), self.total)

    @_nan_without_answers
    def average_precision(self, k: int | None = None) -> Any:
        """Plain (non-interpolated) average precision: the mean of the precisions at the right answers.

        Manning, Raghavan and Schütze, Introduction to Information Retrieval, 8.4. With `k`, precisions in
        the first k places over min(total, k), so that 1 can be reached: the AP@k of Google Landmarks v2
        (Weyand et al., CVPR 2020) and CIRCO (Baldrati et al., ICCV 2023). Other libraries' AP@k divide by
        all right answers (`cut(k).average_precision()`), or by those found in the first k places.
        """
        first, right = (self, self.total) if k is None else (self.cut(k), min(self.total, k))
        return ((np.arange(len(first.found)) + 1) / (first.found + 1)).sum() / right

    @_nan_without_answers
    def map_at_r(self) -> Any:
        """Average precision in the first R = `total` places, over R.

        Musgrave et al., A Metric Learning Reality Check, ECCV 2020.
        """
        return self.average_precision(k=self.total)

    @_nan_without_answers
    def trapezoid_ap(self) -> Any:
        """Area under the precision-recall curve by trapezoids: the AP of revisited Oxford and Paris.

        Philbin et al., CVPR 2007; Radenović et al., CVPR 2018. Never above `average_precision`.
        """
        before = np.arange(len(self.found))
        left = np.where(self.found == 0, 1, before / np.maximum(self.found, 1))  # precision just before
        right = (before + 1) / (self.found + 1)
        return (left + right).sum() / (2 * self.total)

    @_nan_without_answers
    def hit_at(self, k: int) -> Any:
        """1 where a right answer is in the first k places, else 0.

        The Recall@k of metric learning (Oh Song et al., CVPR 2016), the CMC of re-identification, top-k
        accuracy.
        """
        return len(self.cut(k).found) > 0

    @_nan_without_answers
    def share_at(self, k: int) -> Any:
        """The share of all right answers that is in the first k places: recall in its first meaning.

        Manning, Raghavan and Schütze, 8.3. Cannot reach 1 where k is below `total`.
        """
        return len(self.cut(k).found) / self.total

    @_nan_without_answers
    def precision_at(self, k: int) -> Any:
        """The share of right answers among the first k places, over k however long the ranking is.

        Manning, Raghavan and Schütze, 8.4.
        """
        return len(self.cut(k).found) / k

    @_nan_without_answers
    def r_precision(self) -> Any:
        """Precision in the first R = `total` places. Manning, Raghavan and Schütze, 8.4."""
        return self.precision_at(self.total)

    @_nan_without_answers
    def precision_within(self, k: int) -> Any:
        """Precision in the first k places or up to the last right answer, whichever ends earlier.

        The P@k of revisited Oxford and Paris (Radenović et al., CVPR 2018, published code): two right
        answers on top give 1 at k = 10. 0 where nothing was found.
        """
        if not len(self.found):
            return 0
        return self.precision_at(min(int(self.found[-1]) + 1, k))

    @_nan_without_answers
    def reciprocal_rank(self) -> Any:
        """1 / place of the first right answer, places counted from 1; 0 where none was found.

        Voorhees, The TREC-8 Question Answering Track, 1999.
        """
        return 1 / (self.found[0] + 1) if len(self.found) else 0

    @_nan_without_answers
    def ndcg_at(self, k: int) -> Any:
        """Binary normalised discounted cumulative gain in the first k places.

        Järvelin and Kekäläinen, TOIS 2002, with discount log2(1 + place). For graded gains see `ndcg`.
        """
        ideal = np.arange(min(self.total, k))
        return discounts(self.cut(k).found).sum() / discounts(ideal).sum()


def discounts(ranks: Indices) -> NDArray[np.float64]:
    """What gains at ranks (R,), counted from 0, are worth: 1 / log2(1 + place)."""
    return np.asarray(1 / np.log2(ranks + 2), np.float64)


def ranks_of(scores: Scores, right: Sequence[Indices]) -> list[Ranks]:
    """Where the right answers stand when the gallery is ordered by score, for each query.

    `scores` (Q, N), higher is closer; `right` names for each query the gallery indices of its right
    answers, different ones in any order, perhaps none. Infinite scores are allowed. BadInput where a score
    is not a number. Beside `scores` it needs memory for one row; cut long lists of queries into blocks.
    """
    if scores.ndim != 2 or len(scores) != len(right):
        raise ValueError(f"scores {scores.shape} for {len(right)} queries: needs one row each")
    ranks = []
    for query, (row, answers) in enumerate(zip(scores, right, strict=True)):
        if np.isnan(row.min(initial=np.inf)):
            raise BadInput(
                f"query {query}: a score is not a number (NaN)",
                "look for descriptors that hold NaN, in the queries and in the gallery",
            )
        answers = np.asarray(answers, np.int64)
        if len(answers) and not 0 <= answers.min() <= answers.max() < len(row):
            raise ValueError(f"query {query}: a right answer lies outside the gallery of {len(row)}")
        found = _counted(row, answers) if len(answers) <= COUNTED else _sorted(row, answers)
        ranks.append(Ranks(np.sort(found), len(answers)))
    return ranks


def _counted(row: Scores, answers: Indices) -> NDArray[np.int64]:
    """Ranks (R,) by R passes over a row (N,)."""
    return np.array(
        [
            np.count_nonzero(row[:answer] >= row[answer]) + np.count_nonzero(row[answer + 1 :] > row[answer])
            for answer in answers
        ],
        np.int64,
    )


def _sorted(row: Scores, answers: Indices) -> NDArray[np.int64]:
    """Ranks (R,) by sorting a row (N,). An unstable sort of the bare scores is some ten times as fast as a
    stable argsort; ties, rare as they are, are then counted."""
    ascending, own = np.sort(row), row[answers]
    upper = np.searchsorted(ascending, own, side="right")
    ranks = len(row) - upper
    for tied in np.flatnonzero(upper - np.searchsorted(ascending, own) > 1):
        ranks[tied] += np.count_nonzero(row[: answers[tied]] == own[tied])
    return ranks
