"""What is stored, read: rows, pictures, counts, and the columns that a search needs.

Functions take a connection inside a transaction of `Database`, so what they tell belongs to one moment.
"""

from __future__ import annotations

import json
import math
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from operator import itemgetter
from urllib.parse import quote_from_bytes, unquote_to_bytes

import numpy as np
from numpy.typing import NDArray

from lookalike.errors import BadInput
from lookalike.store.database import Connection
from lookalike.values import AttributeValue, Box, Caption, Claim, Counts, Facet, Floats, Item, Keys, Row

Halves = NDArray[np.float16]
Stored = str | int | float | bytes  # an attribute's value in the table

HALF = np.dtype("<f2")
_ESCAPED = "bytes:"  # marks a source that is no valid text, percent-encoded
_WITHIN = "catalogue:"  # marks one in the catalogue's own folder, which may be moved: its way from there
_SCANNED = 1000  # rows read at a time


def fact(connection: sqlite3.Connection, key: str) -> str:
    """An entry of `meta` that every catalogue has: dim, epoch, run, fingerprint."""
    (value,) = connection.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
    return str(value)


def rows(connection: Connection, keys: Sequence[int]) -> list[Row]:
    """What is stored under region keys, in their order; KeyError for a key that is not there."""
    listed = json.dumps(list(keys))
    records = connection.execute(
        "SELECT regions.key, item, source, sha256, width, height, vectors.vector,"
        " x0, y0, x1, y1, score, text, by, meanings.vector, origin"
        " FROM regions JOIN pictures ON pictures.key = picture JOIN vectors ON vectors.region = regions.key"
        " LEFT JOIN captions ON captions.region = regions.key"
        " LEFT JOIN meanings ON meanings.region = regions.key"
        " WHERE regions.key IN (SELECT value FROM json_each(?))",
        (listed,),
    ).fetchall()
    items = _items(connection, {record[1] for record in records})
    claims = _claims(connection, listed)
    found = {}
    for key, item, source, sha256, width, height, vector, *box, score, text, by, meaning, origin in records:
        found[key] = Row(
            item=items[item],
            source=placed(connection, source),
            sha256=sha256,
            width=width,
            height=height,
            vector=np.frombuffer(vector, HALF).astype(np.float32),
            box=None if box[0] is None else Box(*box),
            score=score,
            caption=None if text is None else Caption(text, by, claims=claims.get(key, ())),
            meaning=None if meaning is None else np.frombuffer(meaning, HALF).astype(np.float32),
            origin=from_text(origin),
        )
    return [found[key] for key in keys]


def find(connection: Connection, sha256s: Sequence[str]) -> list[Row]:
    keys = connection.execute(
        "SELECT regions.key FROM pictures JOIN regions ON picture = pictures.key"
        " WHERE sha256 IN (SELECT value FROM json_each(?)) ORDER BY regions.key",
        (json.dumps(list(sha256s)),),
    ).fetchall()
    return rows(connection, [key for (key,) in keys])


def rows_of(connection: Connection, item: str) -> list[Row]:
    """All rows of an item, picture by picture; none where there is no such item."""
    keys = connection.execute(
        "SELECT regions.key FROM items JOIN pictures ON pictures.item = items.key"
        " JOIN regions ON regions.picture = pictures.key WHERE items.id = ? ORDER BY regions.key",
        (item,),
    )
    return rows(connection, [key for (key,) in keys])


def items_after(connection: sqlite3.Connection, after: str, limit: int) -> list[tuple[str, str]]:
    """Ids and titles of the first `limit` items with ids above `after`, ascending by code point."""
    return connection.execute(
        "SELECT id, title FROM items WHERE id > ? ORDER BY id LIMIT ?", (after, limit)
    ).fetchall()


def scan(connection: Connection) -> Iterator[Row]:
    """All rows in the order of their keys, a block in memory at a time."""
    last = 0
    while found := connection.execute(
        "SELECT key FROM regions WHERE key > ? ORDER BY key LIMIT ?", (last, _SCANNED)
    ).fetchall():
        last = found[-1][0]
        yield from rows(connection, [key for (key,) in found])


def count(connection: sqlite3.Connection) -> Counts:
    tables = ("items", "pictures", "regions", "captions")
    return Counts(*(connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0] for table in tables))


def vanished(connection: Connection, origin: str, run: int) -> Iterator[tuple[str, str]]:
    for item, source in connection.execute(
        "SELECT id, source FROM pictures JOIN items ON items.key = item"
        " WHERE origin = ? AND run < ? ORDER BY pictures.key",
        (to_text(origin), run),
    ):
        yield item, placed(connection, source)


def newest(connection: sqlite3.Connection) -> tuple[int, int]:
    """The highest region key that was ever given out, and the number of the last removal."""
    numbers = dict(connection.execute("SELECT name, seq FROM sqlite_sequence").fetchall())
    return numbers.get("regions", 0), numbers.get("removed", 0)


def owners_after(connection: sqlite3.Connection, last: int) -> tuple[Keys, Keys]:
    """The region keys above `last`, ascending, and the keys of their items."""
    pairs = connection.execute(
        "SELECT regions.key, item FROM regions JOIN pictures ON pictures.key = picture"
        " WHERE regions.key > ? ORDER BY regions.key",
        (last,),
    )
    keys, owners = np.fromiter(pairs, np.dtype((np.int64, 2))).T
    return np.ascontiguousarray(keys), np.ascontiguousarray(owners)


def vectors_after(connection: sqlite3.Connection, last: int, dim: int) -> Iterator[Halves]:
    """The descriptors of the regions with keys above `last`, ascending, in blocks (any, D)."""
    cursor = connection.execute("SELECT vector FROM vectors WHERE region > ? ORDER BY region", (last,))
    while block := cursor.fetchmany(_SCANNED):
        yield np.frombuffer(b"".join(vector for (vector,) in block), HALF).reshape(-1, dim)


def meanings(connection: sqlite3.Connection, keys: Keys, dim: int) -> Floats:
    """Region keys (M,) -> their captions' own descriptors (M, D); a row of zeros where there is none."""
    found = connection.execute(
        "SELECT json_each.key, vector FROM json_each(?) CROSS JOIN meanings ON region = value",
        (json.dumps(keys.tolist()),),
    ).fetchall()
    told = np.zeros((len(keys), dim), np.float32)
    if found:
        places, vectors = zip(*found, strict=True)
        told[list(places)] = np.frombuffer(b"".join(vectors), HALF).reshape(-1, dim)
    return told


def rewordings(connection: sqlite3.Connection) -> int:
    """How often titles, attributes or captions have been written."""
    found = connection.execute("SELECT value FROM meta WHERE key = 'reworded'").fetchone()
    return int(found[0]) if found else 0


def removed_after(connection: sqlite3.Connection, last: int) -> Keys:
    """The region keys of all removals with numbers above `last`."""
    found = connection.execute("SELECT region FROM removed WHERE seq > ?", (last,)).fetchall()
    return np.array(found, np.int64).reshape(-1)


def halves(vectors: Sequence[Floats] | Floats, dim: int) -> Halves:
    """Descriptors as they are stored, (N, D); BadInput where one has another length or is not finite."""
    for vector in vectors:
        if vector.shape != (dim,):
            raise BadInput(f"a descriptor of shape {vector.shape} in a catalogue of length {dim}")
    stacked = np.array(vectors, np.float32).reshape(-1, dim)
    if not (np.abs(stacked) <= np.finfo(np.float16).max).all():  # also false for NaN
        raise BadInput("a descriptor holds numbers that are not finite, or far from unit length")
    return stacked.astype(HALF)


def facets(connection: sqlite3.Connection, most: int) -> dict[str, Facet]:
    """Of each attribute, and of each `seen_` name of believed claims, how many items have which values."""
    seen = (
        "FROM claims JOIN regions ON regions.key = region JOIN pictures ON pictures.key = picture"
        " WHERE believed AND attribute <> ''"
    )
    asked = (
        ("", "name", "value", "FROM attributes"),
        ("seen_", "attribute", "claims.value", seen),
    )
    found: dict[str, Facet] = {}
    for prefix, name, value, place in asked:
        values: dict[str, dict[AttributeValue, int]] = {}
        counted = f"SELECT {name}, {value}, count(DISTINCT item) {place} GROUP BY {name}, folded"
        for named, stored, items in connection.execute(f"{counted} ORDER BY 3 DESC, 2"):
            told = values.setdefault(named, {})
            if len(told) < most:
                told[from_value(stored)] = items
        for named, items in connection.execute(
            f"SELECT {name}, count(DISTINCT item) {place} GROUP BY {name}"
        ):
            found[prefix + named] = Facet(items, values[named])
    return found


def to_value(value: AttributeValue) -> Stored:
    if isinstance(value, bool):
        return bytes([value])
    if not isinstance(value, str | int | float) or (isinstance(value, float) and math.isnan(value)):
        raise BadInput(f"an attribute cannot be {value!r}", "give text, numbers, true or false")
    return value


def folded(value: AttributeValue) -> Stored:
    """What filters compare: text without case, anything else as it is stored."""
    return value.casefold() if isinstance(value, str) else to_value(value)


def from_value(value: Stored) -> AttributeValue:
    return bool(value[0]) if isinstance(value, bytes) else value


def to_text(source: str) -> str:
    """A source may be a file name that is no valid text (PEP 383): such a one is stored percent-encoded."""
    try:
        valid = bool(source.encode()) or not source
    except UnicodeEncodeError:
        valid = False
    if valid and not source.startswith((_ESCAPED, _WITHIN)):
        return source
    return _ESCAPED + quote_from_bytes(source.encode("utf-8", "surrogatepass"))


def from_text(stored: str) -> str:
    if not stored.startswith(_ESCAPED):
        return stored
    return unquote_to_bytes(stored.removeprefix(_ESCAPED)).decode("utf-8", "surrogatepass")


def kept(connection: Connection, source: str) -> str:
    """A picture's source as it is stored; `placed` gives it back."""
    within = source.removeprefix(connection.folder)
    return to_text(source) if within == source else _WITHIN + to_text(within)


def placed(connection: Connection, stored: str) -> str:
    """A stored source as a path, wherever the catalogue's folder is now."""
    if not stored.startswith(_WITHIN):
        return from_text(stored)
    return connection.folder + from_text(stored.removeprefix(_WITHIN))


def _items(connection: sqlite3.Connection, keys: Iterable[int]) -> dict[int, Item]:
    listed = json.dumps(list(keys))
    values = connection.execute(
        "SELECT item, name, value FROM attributes WHERE item IN (SELECT value FROM json_each(?))"
        " ORDER BY item, position",
        (listed,),
    )
    attributes: dict[int, dict[str, AttributeValue | tuple[AttributeValue, ...]]] = {}
    for (item, name), records in groupby(values, key=lambda record: (record[0], record[1])):
        several = tuple(from_value(value) for _item, _name, value in records)
        attributes.setdefault(item, {})[name] = several if len(several) > 1 else several[0]
    found = connection.execute(
        "SELECT key, id, title FROM items WHERE key IN (SELECT value FROM json_each(?))", (listed,)
    )
    return {key: Item(name, title, attributes.get(key, {})) for key, name, title in found}


def _claims(connection: sqlite3.Connection, listed: str) -> dict[int, tuple[Claim, ...]]:
    """The claims of the captions of region keys, a JSON list, by key."""
    records = connection.execute(
        "SELECT region, text, attribute, value, support, believed FROM claims"
        " WHERE region IN (SELECT value FROM json_each(?)) ORDER BY region, position",
        (listed,),
    )
    return {
        region: tuple(
            Claim(text, attribute, value, json.loads(support), bool(believed))
            for _region, text, attribute, value, support, believed in claims
        )
        for region, claims in groupby(records, key=itemgetter(0))
    }


def check(connection: sqlite3.Connection) -> Iterator[str]:
    """Every fault in the table, in words: its pages, its references, its descriptors."""
    for (line,) in connection.execute("PRAGMA integrity_check"):
        if line != "ok":
            yield f"the file is damaged: {line}"
    for table, key, parent, _reference in connection.execute("PRAGMA foreign_key_check"):
        yield f"row {key} of {table} belongs to no row of {parent}"
    for rows_, lack, present in (
        ("regions", "descriptor", "SELECT region FROM vectors"),
        ("pictures", "region", "SELECT picture FROM regions"),
        ("items", "picture", "SELECT item FROM pictures"),
        ("items", "words", "SELECT rowid FROM words"),
    ):
        (number,) = connection.execute(
            f"SELECT count(*) FROM {rows_} WHERE key NOT IN ({present})"
        ).fetchone()
        if number:
            yield f"{number} {rows_} have no {lack}"
    size = 2 * int(fact(connection, "dim"))
    for key, vector in connection.execute("SELECT region, vector FROM vectors ORDER BY region"):
        if len(vector) != size:
            yield f"the descriptor of region {key} has {len(vector) // 2} numbers instead of {size // 2}"
            continue
        length = np.linalg.norm(np.frombuffer(vector, HALF).astype(np.float32))
        if not 0.99 < length < 1.01:
            yield f"the descriptor of region {key} has length {length:.3f} instead of 1"
    for key, length in connection.execute(
        "SELECT region, length(vector) FROM meanings WHERE length(vector) <> ? ORDER BY region", (size,)
    ):
        yield f"the caption's descriptor of region {key} has {length // 2} numbers instead of {size // 2}"
