"""Words, counts and facets: what the server holds but its descriptors, in a SQLite file of this machine.

Server 2.3.5 has no full-text search and counts no distinct values. The file has the tables of a catalogue's
own, without descriptors, so that both kinds of store ask the same questions of them. It is derived: deleting
it costs the time of reading the rows again. What changed since is read by the log of changes.
"""

from __future__ import annotations

import json
import sqlite3
import threading
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from lookalike.errors import CatalogueError
from lookalike.store import writing
from lookalike.store.database import FILE, Database, room_for
from lookalike.store.milvus.facts import Facts, State
from lookalike.store.milvus.records import Stored, item_key
from lookalike.store.milvus.server import Server
from lookalike.store.table import folded, to_text, to_value

_WAIT_S = 600.0  # for another process that fills the file
_FIELDS = ("told",)


class Mirror:
    """Such a file in a folder of its own. Safe from several threads and processes."""

    def __init__(self, folder: Path, server: Server, facts: Facts) -> None:
        self._folder = folder
        self._server = server
        self._facts = facts
        self._filling = threading.Lock()
        self._database: Database | None = None

    def close(self) -> None:
        if self._database is not None:
            self._database.close()

    @contextmanager
    def read(self, build: str, state: State, moment: int) -> Iterator[sqlite3.Connection]:
        """A connection that sees at least the catalogue's `state`."""
        with self._filling:
            if self._database is None and (self._folder / FILE).exists():
                self._database = Database(self._folder)
            if self._database is None or not self._current(self._database, state):
                self._fill(build, state, moment)
                self._database = self._database or Database(self._folder)
        with self._database.read() as connection:
            yield connection

    def _current(self, database: Database, state: State) -> bool:
        with database.read() as connection:
            born, seen = _seen(connection)
        return born == state.born and (seen > state.revision or seen == state.revision == state.settled)

    def _fill(self, build: str, state: State, moment: int) -> None:
        from filelock import FileLock, Timeout

        with room_for(self._folder):
            self._folder.mkdir(parents=True, exist_ok=True)
        try:
            with (
                FileLock(self._folder / ".filling.lock", timeout=_WAIT_S),
                closing(Database(self._folder, dim=1, write=True)) as database,
            ):
                if self._current(database, state):  # another process was faster
                    return
                with database.read() as connection:
                    born, seen = _seen(connection)
                changed = self._facts.changed(seen, state, moment) if born == state.born else None
                with database.write() as connection:
                    self._write(connection, build, changed, moment)
                    told = {"born": state.born, "seen": str(state.settled)}
                    connection.executemany("REPLACE INTO meta VALUES (?, ?)", told.items())
        except Timeout:
            raise CatalogueError(
                f"another process has been filling {self._folder} for long", "try again when it has finished"
            ) from None

    def _write(
        self, connection: sqlite3.Connection, build: str, changed: set[int] | None, moment: int
    ) -> None:
        """Have the changed items as the server has them, or all where it is not known which."""
        if changed is None:
            connection.execute("DELETE FROM items")
            pages: Iterable[list[dict[str, object]]] = self._server.pages(build, "", _FIELDS, moment)
        else:
            connection.executemany("DELETE FROM items WHERE key = ?", ((key,) for key in changed))
            pages = [self._server.by(build, "item", sorted(changed), _FIELDS, moment)]
        items: set[int] = set()
        for page in pages:
            for record in page:
                items.add(_put(connection, Stored.read(record)))
        writing.put_words(connection, items)
        connection.execute("DELETE FROM removed")  # nobody asks this file for removals


def _seen(connection: sqlite3.Connection) -> tuple[str, int]:
    """Which catalogue the file is of, and its last revision that is all here."""
    told = dict(connection.execute("SELECT key, value FROM meta WHERE key IN ('born', 'seen')").fetchall())
    return told.get("born", ""), int(told.get("seen", -1))


def _put(connection: sqlite3.Connection, stored: Stored) -> int:
    """One region with what it belongs to; -> the key of its item."""
    row, item = stored.row, item_key(stored.row.item.id)
    new = connection.execute(
        "INSERT OR IGNORE INTO items (key, id, title) VALUES (?, ?, ?)", (item, row.item.id, row.item.title)
    ).rowcount
    if new:
        values = [
            (name, value)
            for name, values in row.item.attributes.items()
            for value in (values if isinstance(values, tuple) else (values,))
        ]
        connection.executemany(
            "INSERT INTO attributes VALUES (?, ?, ?, ?, ?)",
            (
                (item, place, name, to_value(value), folded(value))
                for place, (name, value) in enumerate(values)
            ),
        )
    connection.execute(
        "INSERT OR IGNORE INTO pictures (key, item, origin, source, sha256, width, height, run)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, 0)",
        (stored.picture, item, to_text(row.origin), to_text(row.source), row.sha256, row.width, row.height),
    )
    corners = (None,) * 4 if row.box is None else row.box.corners
    connection.execute(
        "INSERT OR REPLACE INTO regions (key, picture, x0, y0, x1, y1, score) VALUES (?, ?, ?, ?, ?, ?, ?)",
        (stored.key, stored.picture, *corners, row.score),
    )
    if row.caption is not None:
        connection.execute(
            "INSERT INTO captions VALUES (?, ?, ?)", (stored.key, row.caption.text, row.caption.by)
        )
        connection.executemany(
            "INSERT INTO claims (region, position, folded, text, attribute, value, support, believed)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            (
                (stored.key, place, folded(claim.value), claim.text, claim.attribute, claim.value,
                 json.dumps(dict(claim.support)), claim.believed)
                for place, claim in enumerate(row.caption.claims)
            ),
        )  # fmt: skip
    return item
