"""Diffusion on the graph of a shortlist's neighbours (Iscen et al., CVPR 2017)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from lookalike.errors import BadInput
from lookalike.rerank.neighbours import finite, largest
from lookalike.values import Floats, Query, Shortlist

ITERATIONS = 20  # of conjugate gradients, as published


@dataclass(frozen=True, slots=True)
class Diffusion:
    """Let what is near the query pass its score on along the neighbours of neighbours.

    Two members are joined where each is among the other's `k` nearest, by max(0, x_i x_j)^gamma; the scores f
    solve (I - alpha S) f = y, where S is the joined matrix divided by the roots of its row sums and y holds
    the `k_query` members nearest to the query. The published defaults are for tens of positives. With ten or
    fewer per item k of 5 to 10 and alpha = 0.9, by which scores do not travel far, fit.
    """

    GRID: ClassVar[Mapping[str, tuple[float, ...]]] = {
        "k": (5, 10, 50),
        "k_query": (3, 10),
        "alpha": (0.7, 0.9, 0.99),
    }

    k: int = 50
    k_query: int = 10
    alpha: float = 0.99
    gamma: float = 3.0

    def __post_init__(self) -> None:
        if self.k < 1 or self.k_query < 1:
            raise BadInput(f"diffusion with k = {self.k}, k_query = {self.k_query}: both must be at least 1")
        if not (0 <= self.alpha < 1 and self.gamma > 0):
            raise BadInput(
                f"diffusion with alpha = {self.alpha:g}, gamma = {self.gamma:g}: "
                "needs 0 <= alpha < 1 and gamma > 0"
            )

    @property
    def name(self) -> str:
        return "diffusion"

    def rerank(self, query: Query, shortlist: Shortlist) -> Shortlist:
        return shortlist.rescored(self.score(query.vector, shortlist.vectors))

    def score(self, query: Floats, shortlist: Floats) -> Floats:
        """Query (D,), shortlist (M, D), unit length -> (M,), higher is closer; M = 0 gives (0,).

        Members that nothing joins to the query's neighbours score 0.
        """
        query, shortlist = finite(query), finite(shortlist)
        if len(shortlist) == 0:
            return np.zeros(0, query.dtype)
        towards = shortlist @ query
        near = largest(towards[None], min(self.k_query, len(shortlist)))[0]
        start = np.zeros_like(towards)
        start[near] = towards[near].clip(min=0) ** self.gamma
        return _solved(_graph(shortlist, self.k, self.gamma), self.alpha, start)


def _graph(members: Floats, k: int, gamma: float) -> Floats:
    """S (M, M): mutual neighbours, each entry divided by the roots of its row's and its column's sum."""
    alike = members @ members.T
    np.fill_diagonal(alike, -np.inf)
    near = np.zeros(alike.shape, bool)
    np.put_along_axis(near, largest(alike, min(k, len(members) - 1)), True, axis=1)
    near &= near.T
    joined = np.zeros_like(alike)
    joined[near] = alike[near].clip(min=0) ** gamma
    sums = joined.sum(axis=1)
    scale = np.zeros_like(sums)
    np.divide(1, np.sqrt(sums), out=scale, where=sums > 0)
    joined *= scale[:, None]
    joined *= scale
    return joined


def _solved(graph: Floats, alpha: float, start: Floats) -> Floats:
    """f (M,) of (I - alpha S) f = y by conjugate gradients: a tenth of the time of solving at M = 400."""
    found = np.zeros_like(start)
    rest, direction = start.copy(), start.copy()
    size = rest @ rest
    enough = size * np.finfo(start.dtype).eps ** 2
    for _ in range(ITERATIONS):
        if size <= enough:
            break
        image = direction - alpha * (graph @ direction)
        step = size / (direction @ image)
        found += step * direction
        rest -= step * image
        size, before = rest @ rest, size
        direction *= size / before
        direction += rest
    return found
