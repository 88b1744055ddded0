"""SuperGlobal re-ranking: refine a shortlist's global descriptors (Shao et al., ICCV 2023, section 3.3)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lookalike.values import Floats, Query, Shortlist


@dataclass(frozen=True, slots=True)
class SuperGlobal:
    """Let the members of a shortlist sharpen one another, then ask again.

    The published defaults suit landmarks with tens of positives each; with about three positives per item
    they lower mAP, so fit `neighbours` to the gallery.
    """

    neighbours: int = 9  # the paper's K
    beta: float = 0.15  # their weight

    @property
    def name(self) -> str:
        return "superglobal"

    def rerank(self, query: Query, shortlist: Shortlist) -> Shortlist:
        return shortlist.rescored(self.score(query.vector, shortlist.vectors))

    def score(self, query: Floats, shortlist: Floats) -> Floats:
        """Score again: query (D,), shortlist (M, D), unit length -> (M,), higher is closer.

        Order follows `shortlist`; scores compare within one call only. M = 0 gives (0,).
        """
        if len(shortlist) == 0:
            return np.zeros(0, query.dtype)
        take = min(self.neighbours + 1, len(shortlist))  # a candidate is its own first neighbour
        alike = shortlist @ shortlist.T  # (M, M)
        nearest = _largest(alike, take)  # (M, take)
        # Published weights may be negative, and their sum then vanish: here an unlike neighbour counts 0.
        weight = self.beta * np.take_along_axis(alike, nearest, axis=1).clip(min=0)
        weight[:, 0] = 1
        weight /= weight.sum(axis=1, keepdims=True)

        def refined_towards(direction: Floats) -> Floats:
            """Refined members times a direction (D,), without making the (M, D) refined members."""
            return np.asarray((weight * (shortlist @ direction)[nearest]).sum(axis=1))

        direct = refined_towards(query)
        best = np.argsort(-direct, kind="stable")[:take]
        refined = np.einsum("bk,bkd->bd", weight[best], shortlist[nearest[best]])  # not unit, as published
        expanded = refined.max(axis=0)  # the query itself is left out, as published
        return np.asarray((direct + refined_towards(expanded)) / 2)


def _largest(rows: Floats, take: int) -> np.ndarray:
    """Columns of the `take` largest entries of each row, largest first: (M, M) -> (M, take)."""
    if take < rows.shape[1]:
        some = np.argpartition(-rows, take - 1, axis=1)[:, :take]
    else:
        some = np.broadcast_to(np.arange(rows.shape[1]), rows.shape)
    order = np.argsort(-np.take_along_axis(rows, some, axis=1), axis=1, kind="stable")
    return np.take_along_axis(some, order, axis=1)
