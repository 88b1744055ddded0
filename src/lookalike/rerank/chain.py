"""One re-ranker after another."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from lookalike.roles import Reranker
from lookalike.values import Query, Shortlist


@dataclass(frozen=True, slots=True)
class Chain:
    """Each re-ranker gets the order and the scores of the one before it."""

    GRID: ClassVar[Mapping[str, tuple[Any, ...]]] = {}  # its parts are fitted one by one

    parts: tuple[Reranker, ...]

    @property
    def name(self) -> str:
        return "+".join(part.name for part in self.parts)

    def rerank(self, query: Query, shortlist: Shortlist) -> Shortlist:
        for part in self.parts:
            shortlist = part.rerank(query, shortlist)
        return shortlist
