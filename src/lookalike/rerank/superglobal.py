"""SuperGlobal re-ranking: refine a shortlist's global descriptors (Shao et al., ICCV 2023, section 3.3)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from lookalike.errors import BadInput
from lookalike.rerank.neighbours import finite, largest
from lookalike.values import Floats, Query, Shortlist


@dataclass(frozen=True, slots=True)
class SuperGlobal:
    """Let the members of a shortlist sharpen one another, then ask again.

    The published defaults suit landmarks with tens of positives each. With about three positives per item
    they lower mAP: one or two neighbours with beta of 0.3 to 0.5 fit there.
    """

    GRID: ClassVar[Mapping[str, tuple[float, ...]]] = {
        "neighbours": (1, 2, 3, 5, 9),
        "beta": (0.15, 0.3, 0.5),
    }

    neighbours: int = 9  # the paper's K
    beta: float = 0.15  # their weight

    def __post_init__(self) -> None:
        if self.neighbours < 0 or self.beta < 0:
            raise BadInput(
                f"superglobal with neighbours = {self.neighbours}, beta = {self.beta:g}: "
                "neither may be negative"
            )

    @property
    def name(self) -> str:
        return "superglobal"

    def rerank(self, query: Query, shortlist: Shortlist) -> Shortlist:
        return shortlist.rescored(self.score(query.vector, shortlist.vectors))

    def score(self, query: Floats, shortlist: Floats) -> Floats:
        """Score again: query (D,), shortlist (M, D), unit length -> (M,), higher is closer.

        Order follows `shortlist`; scores compare within one call only. M = 0 gives (0,).
        """
        query, shortlist = finite(query), finite(shortlist)
        if len(shortlist) == 0:
            return np.zeros(0, query.dtype)
        alike = shortlist @ shortlist.T  # (M, M)
        np.fill_diagonal(alike, -np.inf)  # each member counts apart, with weight 1
        nearest = largest(alike, min(self.neighbours, len(shortlist) - 1))  # (M, K)
        # Published weights may be negative, and their sum then vanish: here an unlike neighbour counts 0.
        weight = self.beta * np.take_along_axis(alike, nearest, axis=1).clip(min=0)
        total = 1 + weight.sum(axis=1)

        def refined_towards(direction: Floats) -> Floats:
            """Refined members times a direction (D,), without making the (M, D) refined members."""
            along = shortlist @ direction
            return np.asarray((along + (weight * along[nearest]).sum(axis=1)) / total)

        direct = refined_towards(query)
        best = np.argsort(-direct, kind="stable")[: self.neighbours + 1]
        drawn = (weight[best, None, :] @ shortlist[nearest[best]])[:, 0]
        refined = (shortlist[best] + drawn) / total[best, None]  # not unit, as published
        expanded = refined.max(axis=0)  # the query itself is left out, as published
        return np.asarray((direct + refined_towards(expanded)) / 2)
