"""A catalogue in a Milvus server, behind the same roles as the one in a folder.

The catalogue NAME is an alias of the collection of one build, `NAME__b…`, a row for each region. Beside it
`NAME__facts` says what builds there are, what changed, and who writes; `NAME__pictures` which run saw a
picture last. Another encoder's descriptors, or a graph, make another build, and the alias moves.

What is weaker here than in a folder, for Milvus has no transactions:
- A view sees what was acknowledged before it; it is not frozen, and what is written meanwhile may show.
- A batch is not all or nothing for readers, nor for a writer that is killed: see `changing`. What `add`
  acknowledged is never lost by that, and the same call again makes the items whole.
- One writer is held by a lease that is renewed, not by a lock: see `facts.Lease`.
- Keys are hashes and do not grow: equal scores, and rows that are told, stand in another order.
- `snapshot` is not offered, and what a catalogue takes on disk is not known: the server does not say it.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Self

from lookalike.errors import CatalogueError, WrongEncoder
from lookalike.store import table
from lookalike.store.address import Address
from lookalike.store.milvus import builds
from lookalike.store.milvus.builds import FLAT, GRAPH, Builds
from lookalike.store.milvus.changing import Changes, Collections
from lookalike.store.milvus.facts import LEASE_S, Facts, Lease, Meta, State
from lookalike.store.milvus.mirror import Mirror
from lookalike.store.milvus.records import Stored, item_key, key_of
from lookalike.store.milvus.server import PAGE, Server
from lookalike.store.milvus.view import MilvusView
from lookalike.values import Counts, Floats, Item, Keys, Row

SCHEMA = 1
GRAPH_FROM = 400_000  # regions; below, every row is compared: exact, and at 100,000 faster than the graph
KEPT_S = 600.0  # how long a build that was switched away still answers the views that are on it

_ROW = ("told", "meaning", "vector")


class MilvusStore:
    """Rows in a Milvus server: one process writes, any number on any machines read.

    `address` is `milvus://HOST:PORT/NAME`. Opening with `write` takes the lease (CatalogueBusy where another
    holds it) and, given the descriptors' length `dim`, creates what is absent, with the facts `meta`. `token`
    is USER:PASSWORD or an API key. `cache` is a folder for what is derived (see `mirror`), deleted without
    loss.
    """

    def __init__(
        self,
        address: str,
        dim: int | None = None,
        write: bool = False,
        meta: Mapping[str, str] | None = None,
        *,
        cache: Path,
        token: str | None = None,
        graph_from: int = GRAPH_FROM,
        lease_s: float = LEASE_S,
        kept_s: float = KEPT_S,
    ) -> None:
        self._address = Address.parse(address)
        self._name = self._address.name
        self._graph_from = graph_from
        self._kept_s = kept_s
        self._server = Server(self._address, token)
        self._where = Collections("", f"{self._name}__pictures", f"{self._name}__facts", None)
        self._facts = Facts(self._server, self._where.facts)
        self._builds = Builds(self._server, self._facts, self._name, self._where.sightings)
        folder = cache / hashlib.sha256(str(self._address).encode()).hexdigest()[:16]
        self._mirror = Mirror(folder, self._server, self._facts)
        self._writing = threading.RLock()
        self._changes: Changes | None = None
        self._lease: Lease | None = None
        self._viewed: list[tuple[str, State]] = []  # the builds and states of views that are open
        self.meta: MutableMapping[str, str] = Meta(self._present_facts, self._put_fact)
        try:
            self._open(dim, write, dict(meta or {}), lease_s)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    def close(self) -> None:
        """Give the lease back and let go of the connection. Closing twice is allowed."""
        if self._lease is not None:
            with suppress(
                CatalogueError
            ):  # what is acknowledged is in the server's log; a lease ends by itself
                if self._changes is not None:
                    self._changes.seal(self._where)
                self._lease.release()
            self._lease = None
        self._mirror.close()
        self._server.close()

    @staticmethod
    def exists(address: str, token: str | None = None) -> bool:
        where = Address.parse(address)
        server = Server(where, token)
        try:
            return server.collection_of(where.name) is not None
        finally:
            server.close()

    @property
    def dim(self) -> int:
        """The length of the descriptors."""
        return int(self.meta["dim"])

    @contextmanager
    def view(self) -> Iterator[MilvusView]:
        moment = self._server.moment()
        build = self._build()
        state = self._facts.state(moment)
        self._viewed.append((build, state))
        try:
            yield MilvusView(self._server, self._facts, self._mirror, build, state, moment)
        finally:
            self._viewed.remove((build, state))

    def count(self) -> Counts:
        """From the mirror, which is brought up to date first."""
        with self._mirrored() as connection:
            return table.count(connection)

    def items_after(self, after: str, limit: int) -> list[tuple[str, str]]:
        """Ids and titles of the first `limit` items with ids above `after`, ascending, from the mirror."""
        with self._mirrored() as connection:
            return table.items_after(connection, after, limit)

    def find(self, sha256s: Sequence[str]) -> list[Row]:
        wanted = set(sha256s)
        found = self._stored("content", [key_of("content", sha256) for sha256 in wanted])
        return [each.row for each in found if each.row.sha256 in wanted]

    def rows_of(self, item: str) -> list[Row]:
        """All rows of an item, picture by picture; none where there is no such item."""
        return [each.row for each in self._stored("item", [item_key(item)]) if each.row.item.id == item]

    def scan(self) -> Iterator[Row]:
        """All rows by their keys, a page in memory at a time. What is written meanwhile may show."""
        build, moment = self._build(), self._moment()
        for page in self._server.pages(build, "", _ROW, moment):
            yield from (Stored.read(record).row for record in page)

    def snapshot(self, folder: Path) -> None:
        raise CatalogueError(
            "a catalogue in Milvus cannot be written to a folder as it stands",
            f"copy it row by row: lookalike copy {self._address} {folder}",
        )

    def start_run(self) -> int:
        with self._write():
            run = self._facts.state(self._moment()).run + 1
            self._facts.set_state(run=run)
            self._changed()
            return run

    def add(self, rows: Sequence[Row], run: int) -> None:
        """Upsert by picture (item id, sha256); kept by the server at return. See `LocalStore.add`."""
        with self._write() as changes:
            changes.add(self._where, rows, run)

    def replace(
        self, items: Sequence[Item], rows: Sequence[Row], facts: Mapping[str, str] | None = None
    ) -> None:
        """Make items what they are told to be, see `LocalStore.replace`; the facts come last."""
        with self._write() as changes:
            changes.replace(self._where, items, rows, self._facts.state(changes.moment).run)
            if facts:
                self._facts.set_facts(self._where.build, facts)
                self._changed()

    def remove(self, items: Sequence[str]) -> int:
        with self._write() as changes:
            return changes.remove(self._where, items)

    def remove_regions(self, keys: Iterable[int]) -> None:
        with self._write() as changes:
            changes.remove_regions(self._where, keys)

    def mark(self, origin: str, sources: Sequence[str], run: int) -> None:
        with self._write() as changes:
            changes.mark(self._where, origin, sources, run)

    def vanished(self, origin: str, run: int) -> Iterator[tuple[str, str]]:
        where = f"origin == {key_of('origin', origin)} and run < {run}"
        for page in self._server.pages(self._where.sightings, where, ("told",), self._moment()):
            for row in page:
                told = json.loads(row["told"])
                yield told["item"], told["source"]

    def prune(self, origin: str, run: int) -> int:
        with self._write() as changes:
            return changes.prune(self._where, origin, run)

    def unstaged(self, limit: int, after: int = 0) -> list[tuple[int, Row]]:
        """The first `limit` regions above key `after` that have no staged descriptor, with their keys."""
        found: list[int] = []
        moment = self._moment()
        for page in self._server.pages(self._where.build, f"key > {after}", (), moment, max(limit, PAGE)):
            found += builds.lacking(self._server, [row["key"] for row in page], self._staged(), moment)
            if len(found) >= limit:
                break
        stored = {each.key: each.row for each in self._stored("key", found[:limit])}
        return [(key, stored[key]) for key in found[:limit]]

    def count_unstaged(self) -> int:
        moment, staged = self._moment(), self._staged()
        there = self._server.count(staged, "", moment) if staged else 0
        return self._server.count(self._build(), "", moment) - there

    def stage(self, keys: Sequence[int] | Keys, vectors: Floats, meanings: Floats | None = None) -> None:
        """Keep another encoder's descriptors in a build of their own; kept by the server at return."""
        with self._write() as changes:
            if self._where.staged is None:
                staged = self._builds.new(vectors.shape[1], self._index_for())
                self._facts.set_state(staged=staged)
                self._where = self._where._replace(staged=staged)
            told = [int(key) for key in keys]
            builds.stage(self._server, self._where, told, vectors, meanings, changes.moment)
            self._changed()

    def switch(self, meta: Mapping[str, str]) -> None:
        """Put the staged build in place, with `meta`: the alias moves, readers follow at their next view.

        CatalogueError where a region has no staged descriptor. The former build goes some minutes later, when
        somebody opens the catalogue for writing.
        """
        with self._write() as changes:
            if missing := self.count_unstaged():
                raise CatalogueError(
                    f"{missing} regions have no new descriptor yet", "run the same command again"
                )
            facts = {**self._present_facts(), **meta}
            # Without regions, nothing says how long descriptors are but `meta`.
            staged = self._where.staged or self._builds.new(int(facts["dim"]), FLAT)
            told = self._facts.state(self._server.moment()).facts[staged]
            self._move(staged, {**facts, "dim": told["dim"], "index": told["index"]}, changes)

    def discard_staged(self) -> None:
        with self._write():
            if self._where.staged is not None:
                self._builds.drop(self._where.staged, self._facts.state(self._moment()))
                self._facts.set_state(staged="")
                self._where = self._where._replace(staged=None)
                self._changed()

    def build_index(self, on_progress: Callable[[int, int], None] | None = None) -> bool:
        """From `graph_from` regions on have the server search by a graph of all of them; whether it made one.

        What was added since is in it only after this. A first graph is a build of its own: readers go on.
        """
        with self._write() as changes:
            size = self._server.count(self._where.build, "", changes.moment)
            if size < max(1, self._graph_from):
                return False
            if self.meta["index"] != GRAPH:
                facts = {**self._present_facts(), "index": GRAPH}
                copied = self._builds.new(self.dim, GRAPH)
                builds.copy(self._server, self._where.build, copied, changes.moment)
                builds.finish(self._server, copied, on_progress)
                self._move(copied, facts, changes)
                return True
            return builds.finish(self._server, self._where.build, on_progress)

    def check(self) -> Iterator[str]:
        """Every fault in what is stored, in words."""
        moment = self._moment()
        state, build = self._facts.state(moment), self._build()
        if state.revision != state.settled and self._lease is None and not self._facts.claims(moment):
            yield "a write was broken off: run the same command again"
        yield from builds.faults(self._server, build, self._where.sightings, moment)

    def bytes_on_disk(self) -> int:
        """0: server 2.3.5 tells its clients how many rows there are, not what they take."""
        return 0

    def _open(self, dim: int | None, write: bool, meta: dict[str, str], lease_s: float) -> None:
        build = self._server.collection_of(self._name)
        if made := build is None:
            if not (write and dim is not None):
                raise CatalogueError(
                    f"there is no catalogue at {self._address}",
                    f"make one: lookalike index SOURCE --to {self._address}",
                )
            build = self._builds.create(dim, meta, SCHEMA)
        elif not self._builds.has(build):
            raise CatalogueError(
                f"{self._address} is no catalogue but another collection", "choose another name"
            )
        for collection in (build, self._where.facts, self._where.sightings):
            self._server.load(collection)
        state = self._facts.state(self._server.moment())
        if state.schema != SCHEMA:
            raise CatalogueError(
                f"{self._address} was written by a {'newer' if state.schema > SCHEMA else 'older'} lookalike",
                "pip install --upgrade lookalike" if state.schema > SCHEMA else "index the sources again",
            )
        stored = state.facts[build]["dim"]
        if dim is not None and str(dim) != stored:
            raise WrongEncoder(
                f"{self._address} holds descriptors of length {stored}, not {dim}",
                "use the encoder it was built with, or change it: lookalike reindex --encoder NAME",
            )
        if write:
            self._lease = Lease(self._facts, self._server.moment, str(self._address), lease_s)
            state = self._facts.state(self._server.moment())  # nobody else changes it from here on
            self._where = self._where._replace(build=self._build(), staged=state.staged)
            self._changes = Changes(
                self._server, self._facts, state, int(state.facts[self._where.build]["dim"])
            )
            self._builds.sweep(state, self._where, self._kept_s)
            if made:
                self._changed()

    def _move(self, build: str, facts: Mapping[str, str], changes: Changes) -> None:
        """Make a build the catalogue's. Its facts are there before it is."""
        former = self._where.build
        self._facts.set_facts(build, facts)
        self._facts.supersede(former)
        self._server.point(self._name, build)
        staged = None if build == self._where.staged else self._where.staged
        self._facts.set_state(staged=staged or "")
        self._where = self._where._replace(build=build, staged=staged)
        changes.bump()
        changes.wrote(self._where)
        changes.seal(self._where)
        state = self._facts.state(self._server.moment())
        self._changes = Changes(self._server, self._facts, state, int(facts["dim"]))

    def _build(self) -> str:
        """The collection that the catalogue's name leads to."""
        build = self._server.collection_of(self._name)
        if build is None:
            raise CatalogueError(f"there is no catalogue at {self._address} any more", "was it dropped?")
        return build

    def _staged(self) -> str | None:
        return self._where.staged or self._facts.state(self._moment()).staged

    def _index_for(self) -> str:
        size = self._server.count(self._where.build, "", self._moment())
        return GRAPH if size >= max(1, self._graph_from) else FLAT

    def _present_facts(self) -> dict[str, str]:
        """Those of the build in place; within a `with view()` block those that the newest view saw."""
        if self._viewed and self._lease is None:
            build, state = self._viewed[-1]
        else:
            build, state = self._build(), self._facts.state(self._moment())
        return dict(state.facts[build])

    def _put_fact(self, name: str, value: str | None) -> None:
        with self._write():
            if value is None:
                self._facts.drop_fact(self._where.build, name)
            else:
                self._facts.set_facts(self._where.build, {name: value})
            self._changed()

    def _moment(self) -> int:
        """For reading: of the writer the end of its last write, for nobody else writes."""
        return self._server.moment() if self._changes is None else self._changes.moment

    def _changed(self) -> None:
        if self._changes is not None:
            self._changes.wrote(self._where)

    def _stored(self, field: str, values: Sequence[int]) -> list[Stored]:
        """Rows picture by picture, each in the order of its regions."""
        found = self._server.by(self._build(), field, values, _ROW, self._moment())
        return sorted(map(Stored.read, found), key=lambda each: (each.picture, each.place))

    @contextmanager
    def _mirrored(self) -> Iterator[sqlite3.Connection]:
        moment = self._moment()
        with self._mirror.read(self._build(), self._facts.state(moment), moment) as connection:
            yield connection

    @contextmanager
    def _write(self) -> Iterator[Changes]:
        with self._writing:
            if self._changes is None or self._lease is None:
                raise CatalogueError(f"{self._address} was opened for reading only")
            self._lease.check()
            yield self._changes
