"""Searching a catalogue in Milvus: the view of one build, from one moment on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np

from lookalike.errors import BadInput, CatalogueError
from lookalike.store import filters, grammar, table, words
from lookalike.store.milvus import expressions
from lookalike.store.milvus.builds import GRAPH
from lookalike.store.milvus.facts import Facts, State
from lookalike.store.milvus.mirror import Mirror
from lookalike.store.milvus.records import KINDS, Stored, meaning_of
from lookalike.store.milvus.server import MOST_FOUND, Server
from lookalike.values import Facet, Floats, Keys, Row

FETCHED = 10_000  # rows that pass a filter, up to which they are fetched and compared here where a graph errs

_BREADTH = 1024  # HNSW's ef at least
_ANSWERED = 400_000  # hits of one call
_ASKED_ITEMS = 4096  # of which a filter is asked at once


class MilvusView:
    """A build of a catalogue. Sees all that was acknowledged before it was opened.

    Unlike the view of a local store it is no frozen moment: what is written meanwhile may show. It stays with
    its build when the catalogue is switched to another one. A region that was removed meanwhile is a
    CatalogueError where it is asked for.
    """

    def __init__(
        self, server: Server, facts: Facts, mirror: Mirror, build: str, state: State, moment: int
    ) -> None:
        self._server = server
        self._facts = facts
        self._mirror = mirror
        self._build = build
        self._state = state
        self._moment = moment
        self._dim = int(state.facts[build]["dim"])
        self._graph = state.facts[build]["index"] == GRAPH
        self._owner_of: dict[int, int] = {}
        under_way = "" if state.revision == state.settled else f".{moment}"
        self.version = f"{build}.{state.revision}{under_way}"

    @property
    def fingerprint(self) -> str:
        return self._state.facts[self._build]["fingerprint"]

    @cached_property
    def size(self) -> int:
        return self._server.count(self._build, "", self._moment)

    @cached_property
    def keys(self) -> Keys:
        """Read page by page when first asked for: 16 bytes a region over the wire."""
        pages = [
            [row["key"] for row in page]
            for page in self._server.pages(self._build, "", (), self._moment, MOST_FOUND)
        ]
        return np.array([key for page in pages for key in page], np.int64)

    def search(
        self, vectors: Floats, top: int, where: str | None = None, exact: bool = False
    ) -> tuple[Keys, Floats]:
        """(Q, D) -> keys and scores, both (Q, T), T = min(top, regions that pass), best first, ties by key.

        Exact in a build without a graph. With one: `exact`, `FETCHED` regions or fewer that pass a filter,
        and 16,384 hits or more are answered by fetching what passes and comparing it here; anything else by
        the graph, which under a filter may miss some.
        """
        if vectors.ndim != 2 or vectors.shape[1] != self._dim:
            raise ValueError(f"queries of shape {vectors.shape} for descriptors of length {self._dim}")
        if not np.isfinite(vectors).all():
            raise BadInput("a query's descriptor holds numbers that are not finite")
        vectors = np.ascontiguousarray(vectors, np.float32)
        expression = "" if where is None else self._compiled(where)
        passing = self._server.count(self._build, expression, self._moment)
        top = max(0, min(top, passing))
        if top == 0 or len(vectors) == 0:
            return np.zeros((len(vectors), top), np.int64), np.zeros((len(vectors), top), np.float32)
        here = self._graph and (exact or (where is not None and passing <= FETCHED))
        if here or top >= MOST_FOUND:
            return self._compared(vectors, top, expression)
        return self._asked(vectors, top, passing, expression)

    def vectors(self, keys: Keys) -> Floats:
        found = {row["key"]: row["vector"] for row in self._of(keys, ("vector",))}
        made = np.array([self._there(found, key) for key in keys.tolist()], np.float32)
        return made.reshape(-1, self._dim)

    def meanings(self, keys: Keys) -> Floats:
        found = {row["key"]: meaning_of(row["meaning"]) for row in self._of(keys, ("meaning",))}
        told = np.zeros((len(keys), self._dim), np.float32)
        for place, key in enumerate(keys.tolist()):
            if (meaning := found.get(key)) is not None:
                told[place] = meaning
        return told

    def owners(self, keys: Keys) -> Keys:
        """Of regions that this view has found before, without asking again."""
        lacking = [key for key in keys.tolist() if key not in self._owner_of]
        if lacking:
            for row in self._of(np.array(lacking), ("item",)):
                self._owner_of[row["key"]] = row["item"]
        return np.array([self._there(self._owner_of, key) for key in keys.tolist()], np.int64)

    def rows(self, keys: Keys) -> list[Row]:
        records = self._of(np.asarray(keys), ("told", "meaning", "vector"))
        found = {record["key"]: Stored.read(record).row for record in records}
        return [self._there(found, key) for key in np.asarray(keys).tolist()]

    def regions_of(self, items: Keys) -> Keys:
        found = self._server.by(self._build, "item", items.tolist(), ("item",), self._moment)
        self._owner_of |= {row["key"]: row["item"] for row in found}
        return np.array(sorted(row["key"] for row in found), np.int64)

    def words(self, text: str, top: int, where: str | None = None) -> tuple[Keys, Floats]:
        """As the local store answers, from the mirror; of a filter the server is asked."""
        with self._mirror.read(self._build, self._state, self._moment) as connection:
            most = top if where is None else -1  # no limit
            keys, scores = words.search(connection, text, most, filters.EVERYTHING)
        if where is None:
            return keys, scores
        expression = self._compiled(where)
        kept = np.zeros(len(keys), bool)
        for start in range(0, len(keys), _ASKED_ITEMS):
            some = keys[start : start + _ASKED_ITEMS]
            listed = ", ".join(map(str, some.tolist()))
            passing = {
                row["item"]
                for page in self._server.pages(
                    self._build, f"item in [{listed}] and {expression}", ("item",), self._moment
                )
                for row in page
            }
            kept[start : start + len(some)] = [key in passing for key in some.tolist()]
            if kept.sum() >= top:
                break
        return keys[kept][:top], scores[kept][:top]

    def facets(self, most: int) -> dict[str, Facet]:
        """Exact, from the mirror, which is brought up to date first."""
        with self._mirror.read(self._build, self._state, self._moment) as connection:
            return table.facets(connection, most)

    def _compiled(self, where: str) -> str:
        condition = grammar.read(where)
        names = self._facts.names(self._moment)
        known = {told["attribute"]: name for name, told in names.items()}
        places = {name: {kind: told[kind] for kind in KINDS} for name, told in names.items()}
        for name in grammar.names(condition):
            # A name may be known although its last item has gone.
            if name not in known or not self._used(known[name]):
                raise grammar.unknown(name, (other for other in known if self._used(known[other])))
        return expressions.compiled(condition, places)

    def _used(self, name: str) -> bool:
        return bool(
            self._server.query(self._build, f'exists asked["{name}"]', ["key"], self._moment, limit=1)
        )

    def _asked(self, vectors: Floats, top: int, passing: int, expression: str) -> tuple[Keys, Floats]:
        """The server's own answer."""
        best_keys = np.empty((len(vectors), top), np.int64)
        best_scores = np.empty((len(vectors), top), np.float32)
        places = np.arange(len(vectors))
        depth = min(top + 1, passing, MOST_FOUND)
        # It leaves open which of equals it drops: look deeper until the cut falls between unequal scores.
        while len(places):
            undecided = []
            size = max(1, _ANSWERED // depth)
            for start in range(0, len(places), size):
                some = places[start : start + size]
                ef = min(max(4 * depth, _BREADTH), 32_768) if self._graph else None
                found = self._server.search(self._build, vectors[some], depth, expression, ef, self._moment)
                for place, hits in zip(some.tolist(), found, strict=True):
                    self._owner_of |= {key: item for key, _score, item in hits}
                    if len(hits) < top:  # the graph did not reach as many, or rows went meanwhile
                        best_keys[place], best_scores[place] = self._exactly(vectors[place], top, expression)
                        continue
                    keys, scores = _ordered(hits)
                    best_keys[place], best_scores[place] = keys[:top], scores[:top]
                    tied = scores[top - 1] == scores[-1] and len(hits) == depth
                    if tied and depth < min(passing, MOST_FOUND):
                        undecided.append(place)
            places = np.array(undecided, np.int64)
            depth = min(2 * depth, passing, MOST_FOUND)
        return best_keys, best_scores

    def _exactly(self, vector: Floats, top: int, expression: str) -> tuple[Keys, Floats]:
        keys, scores = self._compared(vector[None], top, expression)
        if keys.shape[1] < top:
            raise _changed()
        return keys[0], scores[0]

    def _compared(self, vectors: Floats, top: int, expression: str) -> tuple[Keys, Floats]:
        """Everything that passes, fetched page by page and compared here; a few pages in memory at a time."""
        keys = np.zeros((len(vectors), 0), np.int64)
        scores = np.zeros((len(vectors), 0), np.float32)
        for page in self._server.pages(self._build, expression, ("item", "vector"), self._moment):
            self._owner_of |= {row["key"]: row["item"] for row in page}
            reached = vectors @ np.array([row["vector"] for row in page], np.float32).T
            some = np.array([row["key"] for row in page], np.int64)
            keys = np.concatenate([keys, np.broadcast_to(some, reached.shape)], axis=1)
            scores = np.concatenate([scores, reached], axis=1)
            order = np.lexsort((keys, -scores), axis=1)[:, :top]
            keys, scores = np.take_along_axis(keys, order, axis=1), np.take_along_axis(scores, order, axis=1)
        return keys, scores

    def _of(self, keys: Keys, fields: Sequence[str]) -> list[dict[str, Any]]:
        listed = np.unique(keys).tolist() if len(keys) else []
        return self._server.by(self._build, "key", listed, fields, self._moment)

    @staticmethod
    def _there(found: Mapping[int, Any], key: int) -> Any:
        if key not in found:
            raise _changed()
        return found[key]


def _ordered(hits: Sequence[tuple[int, float, int]]) -> tuple[Keys, Floats]:
    keys = np.array([key for key, _score, _item in hits], np.int64)
    scores = np.array([score for _key, score, _item in hits], np.float32)
    order = np.lexsort((keys, -scores))
    return keys[order], scores[order]


def _changed() -> CatalogueError:
    return CatalogueError("a region was removed from the catalogue while it was searched", "search again")
