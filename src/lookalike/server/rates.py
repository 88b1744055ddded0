"""How often somebody has asked, counted for all processes of a service together."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from lookalike.errors import BadInput

_WINDOW_S = 60.0


class Rate:
    """At most `per_minute` in any 60 s, for each name by itself, over all processes that share the `file`.

    Names are forgotten once they have been quiet for that long. The file is for one run of the service: a
    killed process leaves it sound, a machine that stops need not.
    """

    def __init__(
        self, per_minute: int, clock: Callable[[], float] = time.monotonic, file: Path | None = None
    ) -> None:
        if per_minute < 1:
            raise BadInput(f"{per_minute} requests a minute", "at least one; leave the limit out for none")
        self._per_minute, self._clock = per_minute, clock
        self._taken = sqlite3.connect(file or ":memory:", isolation_level=None, check_same_thread=False)
        for statement in (
            "PRAGMA journal_mode = WAL",
            "PRAGMA synchronous = OFF",
            "CREATE TABLE IF NOT EXISTS taken (name TEXT, moment REAL)",
            "CREATE INDEX IF NOT EXISTS by_name ON taken (name, moment)",
            "CREATE INDEX IF NOT EXISTS by_moment ON taken (moment)",
        ):
            self._taken.execute(statement)

    def wait(self, name: str) -> float:
        """Take one: 0.0, or where none is left the seconds until there is one."""
        try:
            self._taken.execute("BEGIN IMMEDIATE")
            wait = self._wait(name, self._clock())
            self._taken.execute("COMMIT")
        except sqlite3.OperationalError:  # a full disk, say: nobody is turned away because of that
            with suppress(sqlite3.OperationalError):
                self._taken.rollback()
            return 0.0
        return wait

    def _wait(self, name: str, now: float) -> float:
        self._taken.execute("DELETE FROM taken WHERE moment <= ?", (now - _WINDOW_S,))
        counted = "SELECT count(*), min(moment) FROM taken WHERE name = ?"
        count, first = self._taken.execute(counted, (name,)).fetchone()
        if count >= self._per_minute:
            return float(first) + _WINDOW_S - now
        self._taken.execute("INSERT INTO taken VALUES (?, ?)", (name, now))
        return 0.0

    def __len__(self) -> int:
        """How many names are remembered."""
        (count,) = self._taken.execute("SELECT count(DISTINCT name) FROM taken").fetchone()
        return int(count)
