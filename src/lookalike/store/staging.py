"""Re-embedding: each region's next descriptor is kept beside the present one, then all change places at once.

A run that is broken off goes on where it stopped: what is staged stays. Whoever starts over with another
encoder discards first.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence

from lookalike.errors import CatalogueError
from lookalike.store import table
from lookalike.store.database import Connection, fresh_epoch
from lookalike.values import Floats, Keys, Row


def stage(
    connection: sqlite3.Connection,
    keys: Sequence[int] | Keys,
    vectors: Floats,
    meanings: Floats | None,
) -> None:
    """Keep the next descriptors (M, D) of region keys (M,), and those of their captions.

    A row of zeros is none. Regions that were removed meanwhile are passed over.
    """
    staged = _dim(connection)
    dim = vectors.shape[1] if staged is None else staged
    halves = table.halves(vectors, dim)
    connection.executemany(
        "INSERT OR REPLACE INTO vectors_next SELECT key, ? FROM regions WHERE key = ?",
        ((vector.tobytes(), int(key)) for key, vector in zip(keys, halves, strict=True)),
    )
    connection.executemany("DELETE FROM meanings_next WHERE region = ?", ((int(key),) for key in keys))
    if meanings is not None:
        connection.executemany(
            "INSERT INTO meanings_next SELECT region, ? FROM captions WHERE region = ?",
            (
                (meaning.tobytes(), int(key))
                for key, meaning in zip(keys, table.halves(meanings, dim), strict=True)
                if meaning.any()
            ),
        )


def unstaged(connection: Connection, limit: int, after: int) -> list[tuple[int, Row]]:
    """The first `limit` regions above key `after` that have no next descriptor yet, with their keys."""
    keys = connection.execute(
        "SELECT key FROM regions LEFT JOIN vectors_next ON region = key"
        " WHERE key > ? AND region IS NULL ORDER BY key LIMIT ?",
        (after, limit),
    ).fetchall()
    found = [key for (key,) in keys]
    return list(zip(found, table.rows(connection, found), strict=True))


def count_unstaged(connection: sqlite3.Connection) -> int:
    (missing,) = connection.execute(
        "SELECT (SELECT count(*) FROM regions) - (SELECT count(*) FROM vectors_next)"
    ).fetchone()
    return int(missing)


def switch(connection: sqlite3.Connection, meta: Mapping[str, str]) -> None:
    """Put the staged descriptors in the place of the present ones, and `meta` with them.

    A caption whose own descriptor was not staged has none afterwards. CatalogueError where a region lacks
    its next descriptor.
    """
    if missing := count_unstaged(connection):
        raise CatalogueError(f"{missing} regions have no new descriptor yet", "run the same command again")
    facts = dict(meta)
    if staged := _dim(connection):  # without regions, nothing says how long descriptors are but `meta`
        facts["dim"] = str(staged)
    facts["epoch"] = fresh_epoch()
    for name in ("vectors", "meanings"):  # dropping and renaming move no descriptor, however many there are
        (again,) = connection.execute(
            "SELECT sql FROM sqlite_schema WHERE name = ?", (f"{name}_next",)
        ).fetchone()
        connection.execute(f"DROP TABLE {name}")
        connection.execute(f"ALTER TABLE {name}_next RENAME TO {name}")
        connection.execute(again)
    connection.execute("DELETE FROM removed")  # readers load anew, so nobody asks for older removals
    connection.executemany("REPLACE INTO meta VALUES (?, ?)", facts.items())


def discard(connection: sqlite3.Connection) -> None:
    connection.execute("DELETE FROM vectors_next")
    connection.execute("DELETE FROM meanings_next")


def _dim(connection: sqlite3.Connection) -> int | None:
    found = connection.execute("SELECT length(vector) FROM vectors_next LIMIT 1").fetchone()
    return None if found is None else found[0] // 2
