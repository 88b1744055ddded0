"""k-reciprocal re-ranking (Zhong et al., CVPR 2017), with sparse sets of neighbours.

Published code holds two matrices of all against all. Here distances are made block by block, and only the
nearest few of each row and the sets made from them are kept.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from lookalike.errors import BadInput
from lookalike.rerank.neighbours import BLOCK, finite, largest
from lookalike.values import Floats, Keys, Query, Shortlist

Marks = NDArray[np.bool_]
Numbers = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class KReciprocal:
    """Compare the sets of descriptors that have one another among their nearest.

    20, 6, 0.3 are the paper's and suit ten positives or more. With about three per item k1 of 5 to 10, k2 = 3
    and a weight of 0.3 to 0.6 fit.

    With `others`, more queries (Q', D), the re-ranker is transductive: those nearest to the query, at most as
    many as the shortlist is long, take part as neighbours. Rows equal to the query are taken for itself.
    """

    GRID: ClassVar[Mapping[str, tuple[float, ...]]] = {
        "k1": (5, 10, 20),
        "k2": (1, 3, 6),
        "weight": (0.3, 0.6),
    }

    k1: int = 20
    k2: int = 6
    weight: float = 0.3  # of the plain distance: the paper's lambda
    others: Floats | None = None

    def __post_init__(self) -> None:
        if self.k1 < 1 or self.k2 < 1 or not 0 <= self.weight <= 1:
            raise BadInput(
                f"k-reciprocal with k1 = {self.k1}, k2 = {self.k2}, weight = {self.weight:g}: "
                "needs k1 >= 1, k2 >= 1 and 0 <= weight <= 1"
            )

    @property
    def name(self) -> str:
        return "k-reciprocal" if self.others is None else "k-reciprocal-transductive"

    def rerank(self, query: Query, shortlist: Shortlist) -> Shortlist:
        return shortlist.rescored(self.score(query.vector, shortlist.vectors))

    def score(self, query: Floats, shortlist: Floats) -> Floats:
        """Query (D,), shortlist (M, D) -> (M,): the negative distances, so higher is closer."""
        beside = shortlist[:0]
        if self.others is not None:
            others = finite(self.others)
            near = others[largest((others @ finite(query))[None], min(len(others), len(shortlist)))[0]]
            beside = near[(near != query).any(axis=1)]
        return np.asarray(-self._distances(query[None], beside, shortlist)[0])

    def distances(self, queries: Floats, gallery: Floats) -> Floats:
        """The paper's distances: queries (Q, D), gallery (N, D) -> (Q, N), 0 to 1, lower is closer.

        All queries take part as neighbours of each other: for a query on its own hand over that one alone.
        """
        return self._distances(queries, queries[:0], gallery)

    def _distances(self, queries: Floats, beside: Floats, gallery: Floats) -> Floats:
        """The same, with neighbours (B, D) `beside` them that are neither asked for nor found."""
        pool = np.concatenate([finite(queries), finite(beside), finite(gallery)])  # (P, D)
        found = slice(len(pool) - len(gallery), len(pool))
        plain = np.zeros((len(queries), len(gallery)), pool.dtype)
        if plain.size == 0:
            return plain
        depth = min(max(self.k1 + 1, self.k2), len(pool))
        step = max(1, BLOCK // len(pool))
        squares = np.einsum("pd,pd->p", pool, pool)

        @lru_cache(maxsize=1)  # a shortlist is one block, asked for twice
        def block(start: int) -> Floats:
            """Squared distances from rows `start` on to all, in parts of the row's largest: (B, P)."""
            rows = slice(start, start + step)
            apart = (squares[rows, None] + squares - 2 * (pool[rows] @ pool.T)).clip(min=0)
            largest_apart = apart.max(axis=1, keepdims=True)
            return np.asarray(apart / np.where(largest_apart > 0, largest_apart, 1), pool.dtype)

        nearest = np.empty((len(pool), depth), np.int64)  # itself first, then by distance
        for start in range(0, len(pool), step):
            apart = block(start)
            asked = plain[start : start + step]
            asked[:] = apart[: len(asked), found]
            nearest[start : start + step] = _nearest(apart, start, depth)

        near = nearest[:, : self.k1 + 1]
        mutual = _mutual(near)
        half = near[:, : round(self.k1 / 2) + 1]
        half_mutual = _mutual(half)
        kept = []
        for start in range(0, len(pool), step):
            some = slice(start, start + step)
            members = _expanded(near[some], mutual[some], half, half_mutual, len(pool))
            closeness = np.where(members, np.exp(-block(start)), 0)
            kept.append(_Rows.of(closeness / closeness.sum(axis=1, keepdims=True)))
        sets = _Rows.joined(kept)
        if self.k2 > 1:
            ahead = nearest[:, : self.k2]
            sets = _Rows.joined([sets.mean(ahead[p : p + step]) for p in range(0, len(pool), step)])
        for row, shared in zip(plain, _overlaps(sets, len(queries), found), strict=True):
            row[:] = (1 - self.weight) * (1 - shared / (2 - shared)) + self.weight * row
        return plain


@dataclass(frozen=True, slots=True, eq=False)
class _Rows:
    """A sparse matrix, row after row: row i is `columns` and `values` from starts[i] to starts[i + 1]."""

    starts: Keys
    columns: Keys
    values: Numbers
    width: int

    @classmethod
    def of(cls, dense: NDArray[Any]) -> _Rows:
        rows, columns = np.nonzero(dense > 0)  # twice as fast as of numbers
        return cls(_starts(rows, len(dense)), columns, dense[rows, columns], dense.shape[1])

    @classmethod
    def joined(cls, parts: list[_Rows]) -> _Rows:
        lengths = np.concatenate([np.diff(part.starts) for part in parts])
        starts = np.concatenate([[0], np.cumsum(lengths)])
        columns = np.concatenate([part.columns for part in parts])
        return cls(starts, columns, np.concatenate([part.values for part in parts]), parts[0].width)

    def taken(self, rows: Keys) -> tuple[Keys, Keys, Numbers]:
        """The entries of some rows (R,): which of them each is in, its column, its value, all (E,)."""
        lengths = self.starts[rows + 1] - self.starts[rows]
        ends = np.cumsum(lengths)
        entries = np.arange(lengths.sum()) + np.repeat(self.starts[rows] - ends + lengths, lengths)
        return np.repeat(np.arange(len(rows)), lengths), self.columns[entries], self.values[entries]

    def mean(self, groups: Keys) -> _Rows:
        """For each group of rows (G, k) their mean: G rows."""
        which, columns, values = self.taken(groups.ravel())
        place = which // groups.shape[1] * self.width + columns
        summed = np.bincount(place, values, minlength=len(groups) * self.width)
        return _Rows.of(summed.reshape(len(groups), self.width) / groups.shape[1])


def _starts(rows: Keys, count: int) -> Keys:
    """Where each of `count` rows starts among entries sorted by row (E,): (count + 1,)."""
    return np.searchsorted(rows, np.arange(count + 1))


def _nearest(apart: Floats, start: int, depth: int) -> Keys:
    """The `depth` nearest of rows `start` on, (B, P) -> (B, depth): each row itself, then by distance."""
    closeness = -apart
    place = np.arange(len(apart))
    closeness[place, start + place] = 1
    columns = largest(closeness, depth)
    order = np.argsort(-np.take_along_axis(closeness, columns, axis=1), axis=1, kind="stable")
    return np.take_along_axis(columns, order, axis=1)


def _mutual(near: Keys) -> Marks:
    """Which entries of each row's neighbours (P, k) have the row among theirs: (P, k)."""
    mutual = np.empty(near.shape, bool)
    step = max(1, BLOCK // near.shape[1] ** 2)
    for start in range(0, len(near), step):
        rows = np.arange(start, min(start + step, len(near)))
        mutual[rows] = (near[near[rows]] == rows[:, None, None]).any(axis=2)
    return mutual


def _expanded(near: Keys, mutual: Marks, half: Keys, half_mutual: Marks, width: int) -> Marks:
    """The paper's R*, for a block of rows: which of all descriptors are in each row's set, (B, width).

    A row's mutual neighbours, and the half-sized set of each of them that lies in there for more than 2/3.
    """
    rows, place = np.nonzero(mutual)
    neighbours = near[rows, place]  # (E,)
    members = np.zeros((len(near), width), bool)
    members[rows, neighbours] = True
    theirs, counted = half[neighbours], half_mutual[neighbours]  # (E, h)
    inside = (members[rows[:, None], theirs] & counted).sum(axis=1)
    joins = 3 * inside > 2 * counted.sum(axis=1)
    entry, place = np.nonzero(counted & joins[:, None])
    members[rows[entry], theirs[entry, place]] = True
    return members


def _overlaps(sets: _Rows, queries: int, found: slice) -> Iterator[Numbers]:
    """For each of the first rows its sums of the smaller of two memberships, with those found: (N,)."""
    asked = np.zeros(sets.width, bool)
    asked[sets.columns[: sets.starts[queries]]] = True
    _, columns, values = sets.taken(np.arange(found.start, found.stop))
    rows = np.repeat(np.arange(found.stop - found.start), np.diff(sets.starts[found.start : found.stop + 1]))
    shares = asked[columns]  # what no query has a part in adds nothing
    rows, columns, values = rows[shares], columns[shares], values[shares]
    order = np.argsort(columns, kind="stable")
    by_column = _Rows(_starts(columns[order], sets.width), rows[order], values[order], len(rows))
    for query in range(queries):
        _, columns, memberships = sets.taken(np.array([query]))
        which, holders, values = by_column.taken(columns)
        smaller = np.minimum(values, memberships[which])
        yield np.bincount(holders, smaller, found.stop - found.start).astype(np.float64, copy=False)
