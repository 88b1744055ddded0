"""Descriptors in memory, searched exactly (faiss over fp16), or by a graph where there are very many."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lookalike.errors import BadInput
from lookalike.values import Floats, Keys

Halves = NDArray[np.float16]
Mask = NDArray[np.bool_]

BLOCK = 131_072  # rows whose memory is reserved at once
_PIECE = 32_768  # rows that are worth a thread of their own
_FEW = 8  # queries; faiss gives each one thread, whose start and end cost more than the search of a few
_DRIFT = 0.1  # a graph that misses, or still holds, more than this part of the rows is not asked


def load_faiss() -> Any:
    """faiss, imported where it is first needed, for it takes long. Untyped: its stubs miss half of it."""
    import faiss

    return faiss


@dataclass(frozen=True, eq=False)
class Graph:
    """A faiss HNSW index over the first `size` rows of a gallery."""

    index: Any
    size: int

    def search(self, queries: Floats, top: int, alive: Mask, threads: Executor) -> tuple[Keys, Floats] | None:
        """-> row numbers and scores, both (Q, top); None where exact search is the better choice.

        Recall of the first 400 is .95 for 100,000 vectors (length 352) in clusters of ten with nothing but
        noise between, and .96 for a million where clusters lie in larger ones (benchmarks/store.py).
        """
        dearest = self.size // 50  # breadth at which looking at every row costs no more
        breadth = max(4 * top, min(1024, dearest))  # HNSW's efSearch
        if breadth > dearest:
            return None
        params = load_faiss().SearchParametersHNSW(efSearch=breadth, sel=_only(alive))

        def ask(some: Floats) -> tuple[Floats, Keys]:
            found: tuple[Floats, Keys] = self.index.search(some, top, params=params)
            return found

        if 1 < len(queries) <= _FEW:
            scores, rows = map(np.concatenate, zip(*threads.map(ask, queries[:, None]), strict=True))
        else:
            scores, rows = ask(queries)
        return None if (rows < 0).any() else (rows, scores)


@dataclass(frozen=True, eq=False)
class Gallery:
    """The descriptors of a catalogue at one moment. Never changes; `grown` makes the next, sharing memory.

    N rows in the order of their region keys, removed ones included until the gallery is loaded anew.
    """

    keys: Keys  # (N,) ascending
    owners: Keys  # (N,) the keys of their items
    alive: Mask  # (N,)
    blocks: tuple[Halves, ...]  # the N rows, in arrays of at most BLOCK
    dim: int
    epoch: str
    last: int = 0  # the highest region key seen, and
    removals: int = 0  # the number of the last removal seen: where the next gallery goes on
    room: Halves | None = None  # the memory of the last block: rows beyond it are free
    graph: Graph | None = None

    @classmethod
    def empty(cls, dim: int, epoch: str, removals: int) -> Gallery:
        """Where loading starts; the removals so far concern rows that will not be seen."""
        nothing = np.zeros(0, np.int64)
        return cls(nothing, nothing, np.zeros(0, bool), (), dim, epoch, removals=removals)

    def __len__(self) -> int:
        return int(np.count_nonzero(self.alive))

    @cached_property
    def living_keys(self) -> Keys:
        """The region keys that are not removed, ascending."""
        return self.keys[self.alive]

    @property
    def drift(self) -> float:
        """The part of the rows that the graph lacks or holds although they are removed; 1 without one."""
        if self.graph is None:
            return 1.0
        dead = self.graph.size - np.count_nonzero(self.alive[: self.graph.size])
        return float(len(self.keys) - self.graph.size + dead) / max(1, len(self))

    @property
    def stale(self) -> bool:
        """Whether the graph is missing or so far from the rows that it is not asked."""
        return self.drift > _DRIFT

    def grown(
        self, keys: Keys, owners: Keys, vectors: Iterable[Halves], removed: Keys, removals: int
    ) -> Gallery:
        """The next gallery: with newer rows (`vectors` in blocks of any size), without the removed keys."""
        blocks, room = list(self.blocks), self.room
        for rows in vectors:
            while len(rows):
                used = len(blocks[-1]) if room is not None else BLOCK
                if used == BLOCK:
                    room, used = np.empty((BLOCK, self.dim), np.float16), 0
                    blocks.append(room[:0])
                assert room is not None
                taken = rows[: BLOCK - used]
                room[used : used + len(taken)] = taken
                blocks[-1] = room[: used + len(taken)]
                rows = rows[len(taken) :]
        all_keys = np.concatenate([self.keys, keys])
        alive = np.concatenate([self.alive, np.ones(len(keys), bool)])
        alive[_positions(all_keys, removed)[1]] = False
        return replace(
            self, keys=all_keys, owners=np.concatenate([self.owners, owners]), alive=alive,
            blocks=tuple(blocks), last=int(all_keys.max(initial=self.last)), removals=removals, room=room,
        )  # fmt: skip

    def search(
        self, queries: Floats, top: int, items: Keys | None, exact: bool, threads: Executor
    ) -> tuple[Keys, Floats]:
        """Queries (Q, D) -> region keys and scores, both (Q, T), best first, ties by key.

        T = min(top, rows that pass); `items` lets only the rows of these items pass. With a graph the answer
        is approximate unless `exact`; under a filter it is always exact.
        """
        if queries.ndim != 2 or queries.shape[1] != self.dim:
            raise ValueError(f"queries of shape {queries.shape} for descriptors of length {self.dim}")
        if not np.isfinite(queries).all():
            raise BadInput("a query's descriptor holds numbers that are not finite")
        queries = np.ascontiguousarray(queries, np.float32)
        passing = self.alive if items is None else self._of(items)
        top = max(0, min(top, int(np.count_nonzero(passing))))
        if top == 0 or len(queries) == 0:
            return np.zeros((len(queries), top), np.int64), np.zeros((len(queries), top), np.float32)
        if items is None and not exact and self.graph is not None and not self.stale:
            found = self._approximate(self.graph, queries, top, threads)
            if found is not None:
                return found
        return self._exact(queries, top, passing, threads)

    def vectors(self, keys: Keys) -> Floats:
        """Region keys (M,) -> descriptors (M, D); KeyError for a key that is not here."""
        return self._rows(self._found(keys)).astype(np.float32)

    def owners_of(self, keys: Keys) -> Keys:
        """Region keys (M,) -> the keys of their items (M,)."""
        return self.owners[self._found(keys)]

    def regions_of(self, items: Keys) -> Keys:
        """Item keys -> the keys of all their regions, ascending."""
        return self.keys[self._of(items)]

    def living(self, size: int) -> Iterable[tuple[Keys, Keys, Halves]]:
        """Keys, owners and descriptors of the rows that are not removed, `size` at a time."""
        living = np.flatnonzero(self.alive)
        for start in range(0, len(living), size):
            rows = living[start : start + size]
            yield self.keys[rows], self.owners[rows], self._rows(rows)

    def _approximate(
        self, graph: Graph, queries: Floats, top: int, threads: Executor
    ) -> tuple[Keys, Floats] | None:
        """The graph's rows and the newer ones; None where the graph has no answer."""
        found = graph.search(queries, top, self.alive[: graph.size], threads)
        if found is None:
            return None
        rows, scores = found
        lists = [(self.keys[rows], scores)]
        newer = self.alive.copy()
        newer[: graph.size] = False
        if newer.any():
            lists.append(self._exact(queries, top, newer, threads))
        return _merged(lists, top)

    def _exact(self, queries: Floats, top: int, passing: Mask, threads: Executor) -> tuple[Keys, Floats]:
        few = len(queries) <= _FEW
        size = max(_PIECE, -(-len(self.keys) // (os.cpu_count() or 1))) if few else BLOCK
        pieces = []
        first = 0  # row of the block
        for block in self.blocks:
            for start in range(0, len(block), size):
                rows = block[start : start + size]
                place = slice(first + start, first + start + len(rows))
                if passing[place].any():
                    pieces.append((rows, self.keys[place], passing[place]))
            first += len(block)

        def best(piece: tuple[Halves, Keys, Mask]) -> tuple[Keys, Floats]:
            return _best(queries, *piece, top)

        shared = few and len(pieces) > 1  # a thread for one piece is a way there and back for nothing
        return _merged(list(threads.map(best, pieces) if shared else map(best, pieces)), top)

    def _of(self, items: Keys) -> Mask:
        """Which rows belong to these items. Item keys are small numbers, so a table is the fastest way."""
        listed = np.zeros(self.owners.max(initial=0) + 1, bool)
        listed[items[items < len(listed)]] = True
        return self.alive & listed[self.owners]

    def _found(self, keys: Keys) -> Keys:
        present, positions = _positions(self.keys, np.asarray(keys, np.int64))
        if not (present.all() and self.alive[positions].all()):
            raise KeyError("a region key that is not in this view")
        return positions

    def _rows(self, positions: Keys) -> Halves:
        rows = np.empty((len(positions), self.dim), np.float16)
        start = 0
        for block in self.blocks:
            inside = (positions >= start) & (positions < start + len(block))
            rows[inside] = block[positions[inside] - start]
            start += len(block)
        return rows


def _positions(keys: Keys, wanted: Keys) -> tuple[Mask, Keys]:
    """Which of `wanted` are among the ascending `keys`, and the places of those that are."""
    places = np.searchsorted(keys, wanted)
    present = places < len(keys)
    present[present] = keys[places[present]] == wanted[present]
    return present, places[present]


def _best(queries: Floats, rows: Halves, keys: Keys, passing: Mask, top: int) -> tuple[Keys, Floats]:
    """The best of some rows, exactly: ties at the end of the list go to the lower keys."""
    index = _flat(rows)
    params = load_faiss().SearchParameters(sel=_only(passing))
    allowed = int(np.count_nonzero(passing))
    top, depth = min(top, allowed), min(top + 1, allowed)
    best_keys = np.empty((len(queries), top), np.int64)
    best_scores = np.empty((len(queries), top), np.float32)
    # faiss leaves open which of equals it drops: look deeper until the cut falls between unequal scores.
    asked = np.arange(len(queries))
    while len(asked):
        scores, found = index.search(queries[asked], depth, params=params)
        best_keys[asked], best_scores[asked] = _merged([(keys[found], scores)], top)
        asked = asked[scores[:, top - 1] == scores[:, -1]] if depth < allowed else asked[:0]
        depth = min(2 * depth, allowed)
    return best_keys, best_scores


def _merged(found: Sequence[tuple[Keys, Floats]], top: int) -> tuple[Keys, Floats]:
    """The best of several lists (Q, any): scores descending, ties by key ascending."""
    keys = np.concatenate([keys for keys, _scores in found], axis=1)
    scores = np.concatenate([scores for _keys, scores in found], axis=1)
    order = np.lexsort((keys, -scores), axis=1)[:, :top]
    return np.take_along_axis(keys, order, axis=1), np.take_along_axis(scores, order, axis=1)


def _only(passing: Mask) -> Any:
    """What tells faiss to look at these rows only; None for all."""
    return None if passing.all() else load_faiss().IDSelectorBitmap(np.packbits(passing, bitorder="little"))


def _flat(rows: Halves) -> Any:
    """A faiss index over rows where they lie: nothing is copied, so it costs microseconds."""
    faiss = load_faiss()
    index = faiss.IndexScalarQuantizer(
        rows.shape[1], faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_INNER_PRODUCT
    )
    unowned = faiss.MaybeOwnedVectorUInt8()  # lends its empty owner: faiss shall not free numpy's memory
    codes = faiss.swig_ptr(rows.view(np.uint8).reshape(-1))
    index.codes = faiss.MaybeOwnedVectorUInt8.create_view(codes, rows.nbytes, unowned.owner)
    index.ntotal = len(rows)
    index.referenced_objects = [rows]
    return index
