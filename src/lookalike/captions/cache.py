"""The step cache: what models replied, so that nothing is asked twice."""

from __future__ import annotations

import json
import sqlite3
import threading
import time
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

from lookalike.errors import LookalikeError

_APPLICATION = 0x4C4F4B43  # "LOKC": tells a cache from any other SQLite file
_VERSION = 1
IN_MEMORY = 20_000  # rows, of about a kilobyte each


class CacheError(LookalikeError):
    """The cache cannot be opened, read or written."""


class Cache:
    """JSON objects by key, in a SQLite file that is made where there is none; in memory where `path` is None.

    In memory the oldest make room for the newest, see `IN_MEMORY`.

    Threads and processes may share the file, which belongs on a local disk. What `put` took outlasts a killed
    process; a power failure may cost the last few. A damaged row is as good as none. The file may be deleted
    at any time: that costs only the calls that have to be made again.
    """

    def __init__(self, path: Path | None = None) -> None:
        self._where = ":memory:" if path is None else str(path)
        self._lock = threading.Lock()
        if path is not None:
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise CacheError(f"cannot make {path.parent}: {error.strerror}") from error
        with self._explained():
            self._connection = sqlite3.connect(
                self._where, timeout=60, isolation_level=None, check_same_thread=False
            )
            try:
                self._prepare()
            except BaseException:
                self._connection.close()
                raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __len__(self) -> int:
        """Rows, those past their time included."""
        with self._lock, self._explained():
            count: int = self._connection.execute("SELECT count(*) FROM steps").fetchone()[0]
        return count

    def get(self, key: str) -> dict[str, Any] | None:
        """What was put under the key; None where nothing was, its time is over, or it is damaged."""
        with self._lock, self._explained():
            row = self._connection.execute(
                "SELECT value, checksum, until FROM steps WHERE key = ?", (key,)
            ).fetchone()
        if row is None:
            return None
        value, checksum, until = row
        if zlib.crc32(value) != checksum or (until is not None and until <= time.time()):
            return None
        found: dict[str, Any] = json.loads(value)
        return found

    def put(self, key: str, value: Mapping[str, Any], ttl_s: float | None = None) -> None:
        """Keep the value, for `ttl_s` seconds or for ever, in the place of what was there."""
        kept, now = json.dumps(value, allow_nan=False).encode(), time.time()
        with self._lock, self._explained():
            self._connection.execute(
                "REPLACE INTO steps (key, value, checksum, written, until) VALUES (?, ?, ?, ?, ?)",
                (key, kept, zlib.crc32(kept), now, None if ttl_s is None else now + ttl_s),
            )
            if self._where == ":memory:":
                self._connection.execute(
                    "DELETE FROM steps WHERE rowid <= (SELECT max(rowid) FROM steps) - ?", (IN_MEMORY,)
                )

    def forget(self, key: str) -> None:
        with self._lock, self._explained():
            self._connection.execute("DELETE FROM steps WHERE key = ?", (key,))

    def close(self) -> None:
        """Closing twice is allowed."""
        with self._lock, self._explained():
            self._connection.close()

    def _prepare(self) -> None:
        """Make the table, or refuse a file that is something else before anything is changed in it."""
        run = self._connection.execute
        run("BEGIN IMMEDIATE")
        (application,) = run("PRAGMA application_id").fetchone()
        (version,) = run("PRAGMA user_version").fetchone()
        if (application, version) != (_APPLICATION, _VERSION):
            tables = run("SELECT count(*) FROM sqlite_schema").fetchone()[0]
            if application == _APPLICATION:
                raise CacheError(
                    f"{self._where} was written by another version of lookalike",
                    "use another file, or delete it: that costs only the calls that have to be made again",
                )
            if application or tables:
                raise CacheError(f"{self._where} is a database of something else", "use another file")
            run(
                "CREATE TABLE steps (key TEXT PRIMARY KEY, value BLOB NOT NULL, checksum INTEGER NOT NULL,"
                " written REAL NOT NULL, until REAL)"
            )
            run(f"PRAGMA application_id = {_APPLICATION}")
            run(f"PRAGMA user_version = {_VERSION}")
        run("COMMIT")
        run("PRAGMA journal_mode = WAL")
        run("PRAGMA synchronous = NORMAL")

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Say in plain words what SQLite complains about."""
        try:
            yield
        except sqlite3.DatabaseError as error:
            match getattr(error, "sqlite_errorcode", 0) & 0xFF:
                case sqlite3.SQLITE_FULL:
                    what, hint = "cannot be written: the disk is full", "make room and run again"
                case sqlite3.SQLITE_NOTADB:
                    what, hint = "is not a cache", "use another file"
                case sqlite3.SQLITE_CORRUPT:
                    what = "is damaged"
                    hint = "delete it: that costs only the calls that have to be made again"
                case sqlite3.SQLITE_BUSY:
                    what, hint = "is being written by another process", "try again when it has finished"
                case sqlite3.SQLITE_READONLY | sqlite3.SQLITE_CANTOPEN:
                    what, hint = "cannot be opened for writing", "check the permissions, or use another file"
                case sqlite3.SQLITE_IOERR:
                    what, hint = f"cannot be read or written: {error}", "check the disk"
                case _:
                    raise
            raise CacheError(f"{self._where} {what}", hint) from error
