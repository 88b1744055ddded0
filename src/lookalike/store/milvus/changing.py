"""What is stored in Milvus, changed item by item: its regions are read, and the difference is written.

Milvus has no transactions. New rows are written before old ones go, so that a writer that is killed in the
middle loses nothing: until the items are written again, old pictures may stand beside new ones, or an item
be found by what was told of it before. The same call once more makes them whole.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import Any, NamedTuple

import numpy as np

from lookalike.errors import BadInput
from lookalike.store.grammar import SEEN
from lookalike.store.milvus.facts import Facts, State, grown
from lookalike.store.milvus.records import (
    ID,
    TITLE,
    Entry,
    Stored,
    checked,
    item_key,
    key_of,
    name_in,
    picture_key,
)
from lookalike.store.milvus.server import Server
from lookalike.values import Item, Row

WHOLE = ("item", "picture", "content", "told", "meaning", "asked", "vector")
_AT_ONCE = 500  # items that are removed together
_SEALED_EVERY_S = 60.0


class Collections(NamedTuple):
    """Where a catalogue's rows are."""

    build: str
    sightings: str
    facts: str
    staged: str | None


class Changes:
    """Writes to one build. Its caller holds the lease, and says what the state was when it was taken."""

    def __init__(self, server: Server, facts: Facts, state: State, dim: int) -> None:
        self._server = server
        self._facts = facts
        self._dim = dim
        self._moment = server.moment()
        self._names: dict[str, dict[str, Any]] | None = None
        self._unsealed = False
        self._sealed = time.monotonic()
        self.revision = state.revision

    @property
    def moment(self) -> int:
        """After the last write, of which there are no others: reading from here misses nothing."""
        return self._moment

    def add(self, where: Collections, rows: Sequence[Row], run: int) -> None:
        made = checked(rows, self._dim)
        before = self._entries(where, (row.item.id for row in made))
        after = {id_: _copied(entry) for id_, entry in before.items()}
        self._write(where, before, after, _put(after, made), run)

    def replace(self, where: Collections, items: Sequence[Item], rows: Sequence[Row], run: int) -> None:
        wanted: dict[str, set[str]] = {item.id: set() for item in items}
        if len(wanted) < len(items):
            raise BadInput("an item is told twice")
        for row in rows:
            if row.item.id not in wanted:
                raise BadInput(f"a picture of {row.item.id!r}, which is none of the items to replace")
            wanted[row.item.id].add(row.sha256)
        made = checked(rows, self._dim)
        before = self._entries(where, wanted)
        after = {id_: _copied(entry) for id_, entry in before.items()}
        seen = _put(after, made)
        for item in items:
            if item.id not in after:
                raise BadInput("a new item needs a picture")
            kept = after[item.id].pictures
            if wanted[item.id]:
                kept = {sha256: rows for sha256, rows in kept.items() if sha256 in wanted[item.id]}
            after[item.id] = Entry(item, kept)
        self._write(where, before, after, seen, run)

    def remove(self, where: Collections, items: Sequence[str]) -> int:
        ids = list(dict.fromkeys(items))
        before = self._entries(where, ids)
        if unknown := [id_ for id_ in ids if id_ not in before]:
            more = f" and {len(unknown) - 5} more" if len(unknown) > 5 else ""
            raise BadInput(f"no such item: {', '.join(map(repr, unknown[:5]))}{more}", "nothing was removed")
        self._write(where, before, {}, set(), 0)
        return sum(len(entry.pictures) for entry in before.values())

    def remove_regions(self, where: Collections, keys: Iterable[int]) -> None:
        gone = {int(key) for key in keys}
        found = self._server.by(where.build, "key", sorted(gone), ("item",), self._moment)
        for items in _chunks({row["item"] for row in found}):
            before = self._entries_by_key(where, items)
            after = {}
            for id_, entry in before.items():
                kept = Entry(entry.item)
                for sha256, rows in entry.pictures.items():
                    if left := [row for row in rows if Stored(row, 0).key not in gone]:
                        kept.pictures[sha256] = left
                after[id_] = kept
            self._write(where, before, after, set(), 0)

    def prune(self, where: Collections, origin: str, run: int) -> int:
        told = f"origin == {key_of('origin', origin)} and run < {run}"
        vanished = [
            row for page in self._server.pages(where.sightings, told, ("item",), self._moment) for row in page
        ]
        pictures = {row["key"] for row in vanished}
        removed = 0
        for items in _chunks({row["item"] for row in vanished}):
            before = self._entries_by_key(where, items)
            after = {}
            for id_, entry in before.items():
                left = {
                    sha256: rows for sha256, rows in entry.pictures.items()
                    if picture_key(id_, sha256) not in pictures
                }  # fmt: skip
                removed += len(entry.pictures) - len(left)
                after[id_] = Entry(entry.item, left)
            self._write(where, before, after, set(), 0)
        self._server.delete(where.sightings, sorted(pictures))  # of a removal that was broken off, too
        self.wrote(where)
        return removed

    def mark(self, where: Collections, origin: str, sources: Sequence[str], run: int) -> None:
        fields = ("item", "origin", "source", "run", "told", "vector")
        wanted = [key_of("source", origin, source) for source in sources]
        found = self._server.by(where.sightings, "source", wanted, fields, self._moment)
        self._server.upsert(where.sightings, [{**row, "run": run} for row in found if row["run"] < run])
        self.wrote(where)

    def wrote(self, where: Collections) -> None:
        """Something was written: reading goes on from after it, and now and then all is sealed."""
        self._moment = self._server.moment()
        self._unsealed = True
        if time.monotonic() - self._sealed > _SEALED_EVERY_S:
            self.seal(where)

    def seal(self, where: Collections) -> None:
        """Have the server write out what it holds in memory and in its log.

        It should come back from the log alone. Server 2.3.5 with more than 16 collections was seen to lose
        rows that it had not written out when it was killed.
        """
        if self._unsealed:
            with ThreadPoolExecutor() as pool:  # each takes a second or so
                collections = (where.build, where.sightings, where.facts, where.staged)
                list(pool.map(self._server.seal, filter(None, collections)))
        self._unsealed, self._sealed = False, time.monotonic()

    def bump(self) -> None:
        """A revision in which no item changes: another build is in place."""
        self._begin(())
        self._end()

    def _write(
        self,
        where: Collections,
        before: Mapping[str, Entry],
        after: Mapping[str, Entry],
        seen: set[tuple[str, str]],
        run: int,
    ) -> None:
        """Make the items of `before` those of `after`; note the pictures (item, sha256) `seen` in a run."""
        old = {key: record for entry in before.values() for key, record in entry.records().items()}
        new = {key: record for entry in after.values() for key, record in entry.records().items()}
        changed = [record for key, record in new.items() if key not in old or _differ(old[key], record)]
        gone = [key for key in old if key not in new]
        sighted = [
            _sighting(after[id_].pictures[sha256][0], id_, run) for id_, sha256 in seen
            if sha256 in after[id_].pictures
        ]  # fmt: skip
        unseen = sorted(
            {old[key]["picture"] for key in gone} - {record["picture"] for record in new.values()}
        )
        if changed or gone:
            self._learn(new.values(), after.values())
            touched = {record["item"] for record in changed} | {old[key]["item"] for key in gone}
            self._begin(sorted(touched))
            if where.staged:  # what is staged was made of the old ones
                self._server.delete(where.staged, [record["key"] for record in changed] + gone)
            self._server.upsert(where.build, changed)
            self._server.delete(where.build, gone)
        self._server.upsert(where.sightings, sighted)
        self._server.delete(where.sightings, unseen)
        if changed or gone:
            self._end()
        self.wrote(where)

    def _begin(self, items: Sequence[int]) -> None:
        self.revision += 1 + self.revision % 2
        self._facts.begin(self.revision, items)

    def _end(self) -> None:
        self.revision += 1
        self._facts.end(self.revision)

    def _learn(self, records: Iterable[Mapping[str, Any]], entries: Iterable[Entry]) -> None:
        """Filters have to know names, and how many values an item has, before any row has them."""
        if self._names is None:
            self._names = self._facts.names(self._moment)
        attributes: dict[str, str] = {}
        for entry in entries:
            told = [name for name in entry.item.attributes if not name.startswith(SEEN)]
            for rows in entry.pictures.values():
                told += [
                    SEEN + claim.attribute for row in rows if row.caption for claim in row.caption.claims
                ]
            attributes |= {name_in(name): name for name in told}
        asked = (pair for record in records for pair in record["asked"].items() if pair[0] not in (TITLE, ID))
        if new := grown(self._names, asked, attributes):
            self._facts.set_names(new)
            self._names |= new

    def _entries(self, where: Collections, ids: Iterable[str]) -> dict[str, Entry]:
        try:
            keys = sorted({item_key(id_) for id_ in ids})
        except UnicodeEncodeError as error:
            raise BadInput(f"text that is not valid Unicode cannot be stored: {error.object!r}") from None
        return self._entries_by_key(where, keys)

    def _entries_by_key(self, where: Collections, keys: Sequence[int]) -> dict[str, Entry]:
        found: dict[str, list[Stored]] = {}
        for record in self._server.by(where.build, "item", keys, WHOLE, self._moment):
            stored = Stored.read(record)
            found.setdefault(stored.row.item.id, []).append(stored)
        return {id_: Entry.of(stored) for id_, stored in found.items()}


def _put(entries: dict[str, Entry], rows: Sequence[Row]) -> set[tuple[str, str]]:
    """Upsert pictures by (item, sha256) into entries; -> which these were.

    The rows of one picture from one source are its regions. A source of an item holds one content. An item
    with only an id leaves title and attributes alone.
    """
    told: dict[str, Item] = {}
    pictures: dict[tuple[object, ...], list[Row]] = {}
    for row in rows:
        if row.item.title or row.item.attributes or row.item.id not in told:
            told[row.item.id] = row.item
        named = (row.item.id, row.sha256, row.origin, row.source, row.width, row.height)
        pictures.setdefault(named, []).append(row)
    for id_, item in told.items():
        if id_ not in entries:
            entries[id_] = Entry(item)
        elif item.title or item.attributes:
            entries[id_] = entries[id_].told(item)
    for regions in pictures.values():
        first = regions[0]
        kept = entries[first.item.id].pictures
        kept[first.sha256] = list({row.box: row for row in reversed(regions)}.values())[::-1]
        for sha256, others in list(kept.items()):
            same = (others[0].origin, others[0].source) == (first.origin, first.source)
            if first.source and same and sha256 != first.sha256:
                del kept[sha256]
    return {(row.item.id, row.sha256) for row in rows}


def _copied(entry: Entry) -> Entry:
    return Entry(entry.item, dict(entry.pictures))


def _sighting(row: Row, item: str, run: int) -> dict[str, Any]:
    return {
        "key": picture_key(item, row.sha256), "item": item_key(item), "origin": key_of("origin", row.origin),
        "source": key_of("source", row.origin, row.source), "run": run,
        "told": json.dumps({"item": item, "source": row.source}), "vector": [0.0, 0.0],
    }  # fmt: skip


def _differ(old: Mapping[str, Any], new: Mapping[str, Any]) -> bool:
    return any(old[name] != new[name] for name in ("told", "meaning", "asked")) or not np.array_equal(
        old["vector"], new["vector"]
    )


def _chunks(items: Iterable[int]) -> Iterator[list[int]]:
    remaining = iter(sorted(items))
    while chunk := list(islice(remaining, _AT_ONCE)):
        yield chunk
