"""What a catalogue in Milvus says of itself: facts of its builds, its revision, what changed, who writes.

All of it are rows of one small collection. A revision is even; it is odd from before the first row of a
write is changed until after the last one is. A reader that meets an odd one trusts no cache, and a writer
that was killed leaves it odd until the next write.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping
from dataclasses import dataclass
from secrets import token_hex
from typing import Any

from lookalike.errors import CatalogueBusy, CatalogueError
from lookalike.store.milvus.records import FACTS, KINDS, key_of
from lookalike.store.milvus.server import Server

LEASE_S = 30.0

_CHANGED_AT_ONCE = 2000  # keys in one row of the log, which 64 KB hold
_LOGGED = 1000  # the latest revisions that the log of changes keeps


@dataclass(frozen=True, slots=True)
class State:
    """The catalogue at one moment."""

    facts: Mapping[str, Mapping[str, str]]  # by build
    born: str  # drawn when the catalogue was made
    revision: int
    run: int
    schema: int
    staged: str | None  # the build that holds the next descriptors
    superseded: Mapping[str, float]  # builds that answered once, and since when no more

    @property
    def settled(self) -> int:
        """The last revision of which all is written."""
        return self.revision - self.revision % 2


class Facts:
    """Reads and writes these rows."""

    def __init__(self, server: Server, collection: str) -> None:
        self._server = server
        self._collection = collection

    def create(self, build: str, facts: Mapping[str, str], schema: int) -> None:
        self._server.create(self._collection, FACTS, {"index_type": "FLAT"})
        self.set_facts(build, facts)
        self.set_state(born=token_hex(8), revision=0, run=0, schema=schema)

    def state(self, moment: int) -> State:
        """CatalogueError where these rows are not those of a catalogue."""
        facts: dict[str, dict[str, str]] = {}
        told: dict[str, str] = {}
        superseded = {}
        where = 'kind in ["fact", "state", "superseded"]'
        for row in self._server.query(self._collection, where, ["kind", "build", "name", "value"], moment):
            match row["kind"]:
                case "fact":
                    facts.setdefault(row["build"], {})[row["name"]] = row["value"]
                case "state":
                    told[row["name"]] = row["value"]
                case _:
                    superseded[row["build"]] = float(row["value"])
        try:
            return State(
                facts, told["born"], int(told["revision"]), int(told["run"]), int(told["schema"]),
                told.get("staged") or None, superseded,
            )  # fmt: skip
        except KeyError:
            raise CatalogueError(
                f"the collection {self._collection} is not that of a catalogue, or making it was broken off",
                "drop it with Milvus' own tools, or choose another name",
            ) from None

    def set_facts(self, build: str, facts: Mapping[str, str]) -> None:
        self._put(_row("fact", build, name, value) for name, value in facts.items())

    def drop_fact(self, build: str, name: str) -> None:
        self._drop([_row("fact", build, name, "")["id"]])

    def set_state(self, **told: object) -> None:
        self._put(_row("state", "", name, str(value)) for name, value in told.items())

    def supersede(self, build: str) -> None:
        self._put([_row("superseded", build, "", str(time.time()))])

    def forget(self, build: str, names: Iterable[str]) -> None:
        """Nothing is said any more of a build with facts of these names."""
        self._drop(
            [_row("superseded", build, "", "")["id"], *(_row("fact", build, n, "")["id"] for n in names)]
        )

    def begin(self, revision: int, items: Iterable[int]) -> None:
        """A write of this odd revision changes these items from now on."""
        keys = list(items)
        rows = [
            _row("change", f"{revision:020d}", str(start), json.dumps(keys[start : start + _CHANGED_AT_ONCE]))
            for start in range(0, max(1, len(keys)), _CHANGED_AT_ONCE)
        ]
        self._put([*rows, _row("state", "", "revision", str(revision))])

    def end(self, revision: int) -> None:
        """The write before this even revision is complete."""
        self.set_state(revision=revision)
        if revision % 200 == 0 and revision > 2 * _LOGGED:
            where = f'kind == "change" and build < "{revision - 2 * _LOGGED:020d}"'
            old = self._server.query(self._collection, where, ["id"], self._server.moment())
            self._drop([row["id"] for row in old])

    def changed(self, after: int, state: State, moment: int) -> set[int] | None:
        """The items that changed after an even revision, also in a write under way; None if not known."""
        where = f'kind == "change" and build > "{after:020d}" and build <= "{state.revision:020d}"'
        rows = self._server.query(self._collection, where, ["build", "value"], moment)
        if {int(row["build"]) for row in rows} != set(range(after + 1, state.revision + 1, 2)):
            return None
        return {key for row in rows for key in json.loads(row["value"])}

    def names(self, moment: int) -> dict[str, dict[str, Any]]:
        """By the names that attributes are stored under: the `attribute`, and places by kind."""
        rows = self._server.query(self._collection, 'kind == "name"', ["name", "value"], moment)
        return {row["name"]: json.loads(row["value"]) for row in rows}

    def set_names(self, names: Mapping[str, Mapping[str, Any]]) -> None:
        self._put(_row("name", "", name, json.dumps(told)) for name, told in names.items())

    def claims(self, moment: int) -> dict[str, float]:
        """Until when each writer claims to be one, by its id."""
        rows = self._server.query(self._collection, 'kind == "claim"', ["name", "value"], moment)
        return {row["name"]: float(row["value"]) for row in rows}

    def claim(self, holder: str, until: float) -> None:
        self._put([_row("claim", "", holder, repr(until))])

    def withdraw(self, holders: Iterable[str]) -> None:
        self._drop([_row("claim", "", holder, "")["id"] for holder in holders])

    def _put(self, rows: Iterable[Mapping[str, Any]]) -> None:
        if listed := list(rows):
            self._server.upsert(self._collection, listed)

    def _drop(self, ids: list[str]) -> None:
        if ids:
            self._server.delete(self._collection, ids, "id")


class Lease:
    """The right to write, for as long as it is renewed; a thread does that.

    Whoever wants it writes down a claim of its own, and then looks for others: of two that come at once at
    least one sees the other, and gives way. A writer that was killed holds it for `seconds` more. The clocks
    of the machines that write have to agree within a few seconds.
    """

    def __init__(self, facts: Facts, moment: Callable[[], int], place: str, seconds: float = LEASE_S) -> None:
        self._facts = facts
        self._place = place
        self._seconds = seconds
        self._holder = token_hex(8)
        self._renewed = time.monotonic()
        facts.claim(self._holder, time.time() + seconds)
        claims = facts.claims(moment())
        others = {holder: until - time.time() for holder, until in claims.items() if holder != self._holder}
        if living := [left for left in others.values() if left > 0]:
            facts.withdraw([self._holder])
            raise CatalogueBusy(
                f"{place} is being written by another process",
                f"try again when it has finished; if it was killed, in {max(living):.0f} seconds",
            )
        facts.withdraw(others)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._renew, name="lookalike-lease", daemon=True)
        self._thread.start()

    def check(self) -> None:
        """CatalogueBusy where it could not be renewed in time: another one may be writing by now."""
        if time.monotonic() - self._renewed > 0.8 * self._seconds:
            raise CatalogueBusy(
                f"{self._place}: the right to write could not be renewed in time",
                "run the same command again: what was acknowledged is kept",
            )

    def release(self) -> None:
        self._ended.set()
        self._thread.join()
        self._facts.withdraw([self._holder])

    def _renew(self) -> None:
        while not self._ended.wait(self._seconds / 4):
            begun = time.monotonic()
            try:
                self.check()
                self._facts.claim(self._holder, time.time() + self._seconds)
            except CatalogueError:
                continue  # `check` says so to whoever writes next
            self._renewed = begun


class Meta(MutableMapping[str, str]):
    """The facts of the present build as a mapping: read at each look, and kept by the server at return."""

    def __init__(
        self,
        read: Callable[[], Mapping[str, str]],
        write: Callable[[str, str | None], None],
    ) -> None:
        self._read = read
        self._write = write

    def __getitem__(self, key: str) -> str:
        return self._read()[key]

    def __setitem__(self, key: str, value: str) -> None:
        self._write(key, value)

    def __delitem__(self, key: str) -> None:
        if key not in self._read():
            raise KeyError(key)
        self._write(key, None)

    def __iter__(self) -> Iterator[str]:
        return iter(self._read())

    def __len__(self) -> int:
        return len(self._read())

    def items(self) -> Any:
        """All of one moment."""
        return dict(self._read()).items()


def grown(
    known: Mapping[str, Mapping[str, Any]],
    asked: Iterable[tuple[str, Mapping[str, list[Any]]]],
    attributes: Mapping[str, str],
) -> dict[str, dict[str, Any]]:
    """The names that are new, or have more values of a kind than any item had."""
    found: dict[str, dict[str, Any]] = {}
    for name, kinds in asked:
        before = found.get(name) or dict(known.get(name, {}))
        most = {kind: max(before.get(kind, 0), len(kinds.get(kind, ()))) for kind in KINDS}
        if any(most[kind] > before.get(kind, 0) for kind in KINDS):
            found[name] = {**most, "attribute": attributes[name]}
    return found


def _row(kind: str, build: str, name: str, value: str) -> dict[str, Any]:
    id_ = f"{kind}:{build}:{key_of(name)}"
    return {"id": id_, "kind": kind, "build": build, "name": name, "value": value, "vector": [0.0, 0.0]}
