"""Builds: the collections that hold a catalogue's regions, one in place and others in the making."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from lookalike.errors import CatalogueError
from lookalike.store.database import fresh_epoch
from lookalike.store.milvus.changing import WHOLE, Collections
from lookalike.store.milvus.facts import Facts, State
from lookalike.store.milvus.records import SIGHTINGS, Stored, meaning_in, regions
from lookalike.store.milvus.server import Server
from lookalike.store.table import halves
from lookalike.values import Floats

FLAT, GRAPH = "FLAT", "HNSW"  # what the facts call a build's index

_INDEXES: dict[str, dict[str, Any]] = {
    FLAT: {"index_type": "FLAT"},
    GRAPH: {"index_type": "HNSW", "params": {"M": 32, "efConstruction": 120}},
}
_PATIENCE_S = 600.0  # without any progress of the server's


class Builds:
    """The builds of one catalogue: made, and dropped when nobody reads them any more."""

    def __init__(self, server: Server, facts: Facts, name: str, sightings: str) -> None:
        self._server = server
        self._facts = facts
        self._name = name
        self._sightings = sightings

    def has(self, collection: str) -> bool:
        """Whether this is one of them, by its name."""
        return collection.startswith(f"{self._name}__b")

    def create(self, dim: int, meta: Mapping[str, str], schema: int) -> str:
        """Make the catalogue; -> its first build. The alias comes last: all is there from then on."""
        build = self._name_one()
        for collection in self._server.collections():  # of a creation that was broken off
            if collection.startswith(f"{self._name}__"):
                self._server.drop(collection)
        facts = {"dim": str(dim), "index": FLAT, **meta}
        with ThreadPoolExecutor() as pool:  # the server takes seconds for each
            for made in (
                pool.submit(self._facts.create, build, facts, schema),
                pool.submit(self._server.create, self._sightings, SIGHTINGS, _INDEXES[FLAT]),
                pool.submit(self._server.create, build, regions(dim), _INDEXES[FLAT]),
            ):
                made.result()
        self._server.point(self._name, build)
        return build

    def new(self, dim: int, index: str) -> str:
        """An empty build beside the one in place."""
        build = self._name_one()
        self._server.create(build, regions(dim), _INDEXES[index])
        self._facts.set_facts(build, {"dim": str(dim), "index": index})
        return build

    def sweep(self, state: State, where: Collections, kept_s: float) -> None:
        """Drop builds that were switched away `kept_s` ago, and those whose making was broken off."""
        kept = {where.build, where.staged}
        kept |= {build for build, since in state.superseded.items() if time.time() - since < kept_s}
        for collection in self._server.collections():
            if self.has(collection) and collection not in kept:
                self.drop(collection, state)

    def drop(self, build: str, state: State) -> None:
        self._server.drop(build)
        self._facts.forget(build, state.facts.get(build, {}))

    def _name_one(self) -> str:
        return f"{self._name}__b{fresh_epoch()}"


def copy(server: Server, build: str, to: str, moment: int) -> None:
    for page in server.pages(build, "", WHOLE, moment):
        server.upsert(to, page)


def finish(server: Server, build: str, on_progress: Callable[[int, int], None] | None) -> bool:
    """Have all rows in the index; whether there was anything to do."""
    server.seal(build)
    rows = server.count(build, "", server.moment())
    indexed, total = server.indexed(build)
    begun_with = indexed
    waited_from, pause = time.monotonic(), 0.1
    while indexed < total or total < rows:  # it hears of sealed rows a little later; removed ones count too
        if time.monotonic() - waited_from > _PATIENCE_S:
            raise CatalogueError(
                f"the server has indexed {indexed} of {rows} regions and does not go on",
                "look at the server's log; the catalogue can be searched all the same",
            )
        if on_progress is not None:
            on_progress(min(indexed, rows), rows)
        time.sleep(pause)
        pause = min(2 * pause, 2.0)
        before = indexed
        indexed, total = server.indexed(build)
        if indexed > before:
            waited_from = time.monotonic()
    if on_progress is not None:
        on_progress(rows, rows)
    return indexed > begun_with


def stage(
    server: Server,
    where: Collections,
    keys: Sequence[int],
    vectors: Floats,
    meanings: Floats | None,
    moment: int,
) -> None:
    """The rows of these keys, with other descriptors, into the staged build; removed ones are passed over."""
    assert where.staged is not None
    dim = vectors.shape[1]
    told = dict(zip(keys, halves(vectors, dim).astype(np.float32), strict=True))
    meant: dict[int, Floats] = {}
    if meanings is not None:
        meant = dict(zip(keys, halves(meanings, dim).astype(np.float32), strict=True))
    rows = []
    for row in server.by(where.build, "key", keys, [name for name in WHOLE if name != "vector"], moment):
        meaning = meant.get(row["key"]) if Stored.read(row).row.caption else None
        meaning = meaning if meaning is not None and meaning.any() else None
        rows.append({**row, "vector": told[row["key"]], "meaning": meaning_in(meaning)})
    server.upsert(where.staged, rows)


def lacking(server: Server, keys: Sequence[int], staged: str | None, moment: int) -> list[int]:
    """Of keys those that the staged build does not have, in their order."""
    if staged is None:
        return list(keys)
    there = {row["key"] for row in server.by(staged, "key", keys, (), moment)}
    return [key for key in keys if key not in there]


def faults(server: Server, build: str, sightings: str, moment: int) -> Iterator[str]:
    """What is wrong with the rows, in words."""
    pictures: set[int] = set()
    for page in server.pages(build, "", ("picture", "told", "vector"), moment):
        for row in page:
            pictures.add(row["picture"])
            try:
                key = Stored.read(row).key
            except (ValueError, KeyError, TypeError):
                yield f"what is told of region {row['key']} cannot be read"
                continue
            if key != row["key"]:
                yield f"region {row['key']} is not the one that it says it is"
            length = np.linalg.norm(row["vector"])
            if not 0.99 < length < 1.01:
                yield f"the descriptor of region {row['key']} has length {length:.3f} instead of 1"
    seen = {row["key"] for page in server.pages(sightings, "", (), moment) for row in page}
    if lost := pictures - seen:
        yield f"{len(lost)} pictures were seen by no run: index their sources again"
    if left := seen - pictures:
        yield f"{len(left)} pictures are noted that are not there: index their sources again, with --prune"
