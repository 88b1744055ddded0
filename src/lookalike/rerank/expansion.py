"""Query expansion and its twin for the gallery: a descriptor joined by its nearest neighbours.

αQE: Radenović et al., TPAMI 2019; average query expansion (alpha = 0): Chum et al., ICCV 2007.
DBA: Turcot and Lowe, ICCV workshops 2009; weighted as in Gordo et al., IJCV 2017.
A neighbour of score s counts max(0, s)^alpha, the descriptor itself 1. Code that leaves negative scores as
they are subtracts unlike neighbours when alpha is odd; here they count 0.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from lookalike.errors import BadInput
from lookalike.rerank.neighbours import BLOCK, finite, largest
from lookalike.values import Floats, Query, Shortlist


@dataclass(frozen=True, slots=True)
class QueryExpansion:
    """Ask again with the query and its nearest neighbours together.

    k = 10 with alpha = 3 is usual for landmarks. With about three positives per item k of 1 to 3 and alpha of
    1 to 3 fit: a larger k needs the larger alpha, by which strangers count little.
    """

    GRID: ClassVar[Mapping[str, tuple[float, ...]]] = {"k": (1, 2, 3, 5, 10), "alpha": (0.0, 1.0, 3.0)}

    k: int = 10
    alpha: float = 3.0

    def __post_init__(self) -> None:
        _check(self.k, self.alpha)

    @property
    def name(self) -> str:
        return "query-expansion"

    def rerank(self, query: Query, shortlist: Shortlist) -> Shortlist:
        return shortlist.rescored(self.score(query.vector, shortlist.vectors))

    def score(self, query: Floats, shortlist: Floats) -> Floats:
        """The query (D,), expanded by members of the shortlist (M, D), against each of them -> (M,)."""
        return np.asarray(shortlist @ self.expand(query[None], shortlist)[0])

    def expand(self, queries: Floats, gallery: Floats) -> Floats:
        """Queries (Q, D) with their `k` nearest of the gallery (N, D), unit length -> (Q, D), unit rows.

        N = 0 leaves the queries as they are. A zero row with no neighbour stays zero.
        """
        queries, gallery = finite(queries), finite(gallery)
        return _joined(queries, gallery, self.k, self.alpha, same=False)


@dataclass(frozen=True, slots=True)
class DatabaseAugmentation:
    """Replace each descriptor of the gallery by itself and its nearest neighbours together.

    As a re-ranker: each member of a shortlist, by its neighbours among them; `then` expands the query too.
    k = 10 to 20 with alpha = 3 is usual for landmarks. With about three positives per item k of 1 to 5 and
    alpha of 1 to 3 fit.
    """

    GRID: ClassVar[Mapping[str, tuple[float, ...]]] = {"k": (1, 2, 3, 5, 10), "alpha": (0.0, 1.0, 3.0)}

    k: int = 10
    alpha: float = 3.0
    then: QueryExpansion | None = None  # by the augmented members

    def __post_init__(self) -> None:
        _check(self.k, self.alpha)

    @property
    def name(self) -> str:
        return "dba" if self.then is None else f"dba-{self.then.name}"

    def rerank(self, query: Query, shortlist: Shortlist) -> Shortlist:
        return shortlist.rescored(self.score(query.vector, shortlist.vectors))

    def score(self, query: Floats, shortlist: Floats) -> Floats:
        """Query (D,) against each augmented member of the shortlist (M, D) -> (M,)."""
        query, members = finite(query), self.augment(shortlist)
        return np.asarray(members @ query) if self.then is None else self.then.score(query, members)

    def augment(self, gallery: Floats) -> Floats:
        """Each of the gallery (N, D), unit length, with its `k` nearest others -> (N, D), unit rows."""
        gallery = finite(gallery)
        return _joined(gallery, gallery, self.k, self.alpha, same=True)


def dba_query_expansion() -> DatabaseAugmentation:
    """Both with their defaults: the query is expanded with augmented members."""
    return DatabaseAugmentation(then=QueryExpansion())


def _check(k: int, alpha: float) -> None:
    if k < 1 or alpha < 0:
        raise BadInput(f"expansion with k = {k}, alpha = {alpha:g}: needs k >= 1 and alpha >= 0")


def _joined(rows: Floats, gallery: Floats, k: int, alpha: float, same: bool) -> Floats:
    """Rows (R, D) plus their `k` nearest, weighted; with `same` a row is no neighbour of its own."""
    take = max(0, min(k, len(gallery) - same))
    joined = rows.astype(np.result_type(rows, gallery))
    step = max(1, BLOCK // max(1, len(gallery)))
    for start in range(0, len(rows) if take else 0, step):
        place = np.arange(len(rows[start : start + step]))
        alike = rows[start : start + step] @ gallery.T
        if same:
            alike[place, start + place] = -np.inf
        nearest = largest(alike, take)
        weight = np.zeros_like(alike)  # full: one product of matrices is faster than gathering (R, k, D)
        chosen = np.take_along_axis(alike, nearest, axis=1).clip(min=0) ** alpha
        np.put_along_axis(weight, nearest, chosen, axis=1)
        joined[start : start + step] += weight @ gallery
    norms = np.linalg.norm(joined, axis=1, keepdims=True)
    return np.asarray(joined / np.maximum(norms, np.finfo(joined.dtype).tiny))
