"""What is stored, changed: every statement that adds, replaces or removes items, pictures and regions.

Functions take the connection of a `Database.write` block, which makes them durable or undoes them. Removing a
row removes what hangs on it (foreign keys); the schema's triggers note removed regions and drop words.
"""

from __future__ import annotations

import json
import math
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import groupby
from operator import itemgetter
from typing import NamedTuple

from lookalike.errors import BadInput
from lookalike.store.database import Connection
from lookalike.store.table import fact, folded, halves, kept, to_text, to_value
from lookalike.values import AttributeValue, Claim, Item, Row


class _Picture(NamedTuple):
    item: str
    sha256: str
    origin: str
    source: str
    width: int
    height: int


# corners, score, vector: what makes two regions the same
_Seen = tuple[tuple[float | None, ...], float, bytes]
_Claim = tuple[str, str, str, str, bool]  # text, attribute, value, support as JSON, believed


class _Told(NamedTuple):
    """A caption as it is stored."""

    text: str
    by: str
    meaning: bytes | None
    claims: tuple[_Claim, ...]


class _Region(NamedTuple):
    seen: _Seen
    told: _Told | None


def add(connection: Connection, rows: Sequence[Row], run: int) -> None:
    """Upsert pictures: the rows of one (item, sha256) from one source are that picture's regions."""
    dim = int(fact(connection, "dim"))
    vectors = halves([row.vector for row in rows], dim)
    items: dict[str, Item] = {}
    pictures: dict[_Picture, list[_Region]] = {}
    for row, vector in zip(rows, vectors, strict=True):
        if _says_more(row.item) or row.item.id not in items:
            items[row.item.id] = row.item
        origin, source = to_text(row.origin), kept(connection, row.source)
        picture = _Picture(row.item.id, row.sha256, origin, source, row.width, row.height)
        pictures.setdefault(picture, []).append(_Region(_seen(row, vector.tobytes()), _told(row, dim)))
    with _storable():
        keys = {}
        reworded = set()
        for item in items.values():
            keys[item.id], changed = _put_item(connection, item)
            if changed:
                reworded.add(keys[item.id])
        for picture, regions in pictures.items():
            item_key = keys[picture.item]
            if _put_picture(connection, item_key, picture, run, regions):
                reworded.add(item_key)
    put_words(connection, reworded)


def replace(
    connection: Connection, items: Sequence[Item], rows: Sequence[Row], facts: Mapping[str, str]
) -> None:
    """Make items what they are told to be, and their pictures those of `rows`; `facts` go into `meta`.

    An item without rows keeps its pictures. BadInput for one that has none, for one that is told twice, and
    for a row of another item.
    """
    pictures: dict[str, list[str]] = {item.id: [] for item in items}
    if len(pictures) < len(items):
        raise BadInput("an item is told twice")
    for row in rows:
        if row.item.id not in pictures:
            raise BadInput(f"a picture of {row.item.id!r}, which is none of the items to replace")
        pictures[row.item.id].append(row.sha256)
    add(connection, rows, int(fact(connection, "run")))
    reworded = set()
    for item in items:
        with _storable():
            key, changed = _put_item(connection, item, with_less=True)
        if pictures[item.id]:
            gone = connection.execute(
                "DELETE FROM pictures WHERE item = ? AND sha256 NOT IN (SELECT value FROM json_each(?))",
                (key, json.dumps(pictures[item.id])),
            )
            changed |= gone.rowcount > 0
        elif not connection.execute("SELECT 1 FROM pictures WHERE item = ?", (key,)).fetchone():
            raise BadInput("a new item needs a picture")
        if changed:
            reworded.add(key)
    put_words(connection, reworded)
    connection.executemany("REPLACE INTO meta VALUES (?, ?)", facts.items())


def start_run(connection: sqlite3.Connection) -> int:
    (run,) = connection.execute(
        "UPDATE meta SET value = value + 1 WHERE key = 'run' RETURNING value"
    ).fetchone()
    return int(run)


def mark(connection: Connection, origin: str, sources: Iterable[str], run: int) -> None:
    origin = to_text(origin)
    connection.executemany(
        "UPDATE pictures SET run = ? WHERE origin = ? AND source = ? AND run < ?",
        ((run, origin, kept(connection, source), run) for source in sources),
    )


def prune(connection: sqlite3.Connection, origin: str, run: int) -> int:
    """Remove the pictures of `origin` not seen in `run`; -> how many."""
    gone = connection.execute(
        "DELETE FROM pictures WHERE origin = ? AND run < ? RETURNING item", (to_text(origin), run)
    ).fetchall()
    _settle(connection, {item for (item,) in gone})
    return len(gone)


def remove(connection: sqlite3.Connection, items: Iterable[str]) -> int:
    """Remove items by id; -> how many pictures they had. BadInput names unknown ids."""
    keys, unknown = [], []
    for item in dict.fromkeys(items):
        found = connection.execute("SELECT key FROM items WHERE id = ?", (item,)).fetchone()
        if found:
            keys.append(found)
        else:
            unknown.append(item)
    if unknown:
        more = f" and {len(unknown) - 5} more" if len(unknown) > 5 else ""
        raise BadInput(f"no such item: {', '.join(map(repr, unknown[:5]))}{more}", "nothing was removed")
    (before,) = connection.execute("SELECT count(*) FROM pictures").fetchone()
    connection.executemany("DELETE FROM items WHERE key = ?", keys)
    (after,) = connection.execute("SELECT count(*) FROM pictures").fetchone()
    return int(before - after)


def remove_regions(connection: sqlite3.Connection, keys: Iterable[int]) -> None:
    """Remove regions by key, then pictures and items that have none left. Unknown keys are passed over."""
    listed = json.dumps([int(key) for key in keys])
    touched = connection.execute(
        "SELECT DISTINCT picture, item FROM regions JOIN pictures ON pictures.key = picture"
        " WHERE regions.key IN (SELECT value FROM json_each(?))",
        (listed,),
    ).fetchall()
    connection.execute("DELETE FROM regions WHERE key IN (SELECT value FROM json_each(?))", (listed,))
    connection.executemany(
        "DELETE FROM pictures WHERE key = ?"
        " AND NOT EXISTS (SELECT 1 FROM regions WHERE picture = pictures.key)",
        ((picture,) for picture, _item in touched),
    )
    _settle(connection, {item for _picture, item in touched})


def _says_more(item: Item) -> bool:
    """Whether it tells more than its id."""
    return bool(item.title or item.attributes)


@contextmanager
def _storable() -> Iterator[None]:
    """Says in plain words what SQLite cannot store."""
    try:
        yield
    except UnicodeEncodeError as error:
        raise BadInput(f"text that is not valid Unicode cannot be stored: {error.object!r}") from None
    except OverflowError:
        raise BadInput("an attribute is a whole number beyond 64 bits", "give it as text") from None


def _put_item(connection: sqlite3.Connection, item: Item, with_less: bool = False) -> tuple[int, bool]:
    """-> the item's key, and whether anything changed.

    An item with only an id changes nothing stored, unless it is to be `with_less`.
    """
    wanted = [(name, value) for name, values in item.attributes.items() for value in _several(values)]
    pairs = [(name, to_value(value)) for name, value in wanted]
    stored = connection.execute("SELECT key, title FROM items WHERE id = ?", (item.id,)).fetchone()
    if stored is None:
        insert = "INSERT INTO items (id, title) VALUES (?, ?) RETURNING key"
        (key,) = connection.execute(insert, (item.id, item.title)).fetchone()
    else:
        key, title = stored
        if not (with_less or _says_more(item)):
            return key, False
        present = connection.execute(
            "SELECT name, value FROM attributes WHERE item = ? ORDER BY position", (key,)
        )
        if title == item.title and repr(present.fetchall()) == repr(pairs):  # repr, as 1 == 1.0
            return key, False
        connection.execute("UPDATE items SET title = ? WHERE key = ?", (item.title, key))
        connection.execute("DELETE FROM attributes WHERE item = ?", (key,))
    connection.executemany(
        "INSERT INTO attributes VALUES (?, ?, ?, ?, ?)",
        ((key, place, name, to_value(value), folded(value)) for place, (name, value) in enumerate(wanted)),
    )
    return key, True


def _several(values: AttributeValue | tuple[AttributeValue, ...]) -> tuple[AttributeValue, ...]:
    return values if isinstance(values, tuple) else (values,)


def _put_picture(
    connection: sqlite3.Connection, item: int, picture: _Picture, run: int, regions: list[_Region]
) -> bool:
    """-> whether anything changed that words are found by."""
    place = (picture.origin, picture.source, picture.width, picture.height, run)
    stored = connection.execute(
        "SELECT key FROM pictures WHERE item = ? AND sha256 = ?", (item, picture.sha256)
    ).fetchone()
    if stored is None:
        (key,) = connection.execute(
            "INSERT INTO pictures (origin, source, width, height, run, item, sha256)"
            " VALUES (?, ?, ?, ?, ?, ?, ?) RETURNING key",
            (*place, item, picture.sha256),
        ).fetchone()
    else:
        (key,) = stored
        connection.execute(
            "UPDATE pictures SET origin = ?, source = ?, width = ?, height = ?, run = ? WHERE key = ?",
            (*place, key),
        )
    changed = _put_regions(connection, key, regions)
    if picture.source:  # a source of an item holds one content: an older one is gone
        replaced = connection.execute(
            "DELETE FROM pictures WHERE item = ? AND origin = ? AND source = ? AND key <> ?",
            (item, picture.origin, picture.source, key),
        )
        changed |= replaced.rowcount > 0
    return changed


def _put_regions(connection: sqlite3.Connection, picture: int, regions: list[_Region]) -> bool:
    """Make these the picture's regions; the same ones keep their keys. -> whether anything changed."""
    present = connection.execute(
        "SELECT key, x0, y0, x1, y1, score, vector FROM regions JOIN vectors ON vectors.region = key"
        " WHERE picture = ? ORDER BY key",
        (picture,),
    ).fetchall()
    if [region.seen for region in regions] == [
        (tuple(corners), score, vector) for _key, *corners, score, vector in present
    ]:
        stored = _told_of(connection, picture)
        wanted = {key: region.told for (key, *_), region in zip(present, regions, strict=True)}
        changed = {key: told for key, told in wanted.items() if told != stored.get(key)}
        for key, told in changed.items():
            _put_caption(connection, key, told)
        return bool(changed)
    connection.execute("DELETE FROM regions WHERE picture = ?", (picture,))
    for (corners, score, vector), told in regions:
        (key,) = connection.execute(
            "INSERT INTO regions (picture, x0, y0, x1, y1, score) VALUES (?, ?, ?, ?, ?, ?) RETURNING key",
            (picture, *corners, score),
        ).fetchone()
        connection.execute("INSERT INTO vectors VALUES (?, ?)", (key, vector))
        _put_caption(connection, key, told)
    return True


def _told_of(connection: sqlite3.Connection, picture: int) -> dict[int, _Told]:
    """The captions of a picture's regions, by region key."""
    records = connection.execute(
        "SELECT key, captions.text, by, vector, claims.text, attribute, value, support, believed"
        " FROM regions JOIN captions ON captions.region = key"
        " LEFT JOIN meanings ON meanings.region = captions.region"
        " LEFT JOIN claims ON claims.region = captions.region"
        " WHERE picture = ? ORDER BY key, position",
        (picture,),
    )
    return {
        key: _Told(text, by, meaning, tuple(record[4:] for record in group if record[4] is not None))
        for (key, text, by, meaning), group in groupby(records, key=itemgetter(0, 1, 2, 3))
    }


def _put_caption(connection: sqlite3.Connection, region: int, told: _Told | None) -> None:
    """Make this the region's caption. What is staged for a region was made with its old one: it goes."""
    connection.execute("DELETE FROM vectors_next WHERE region = ?", (region,))
    connection.execute("DELETE FROM captions WHERE region = ?", (region,))
    if told is None:
        return
    connection.execute("INSERT INTO captions VALUES (?, ?, ?)", (region, told.text, told.by))
    if told.meaning is not None:
        connection.execute("INSERT INTO meanings VALUES (?, ?)", (region, told.meaning))
    connection.executemany(
        "INSERT INTO claims (region, position, folded, text, attribute, value, support, believed)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        ((region, place, folded(claim[2]), *claim) for place, claim in enumerate(told.claims)),
    )


def _seen(row: Row, vector: bytes) -> _Seen:
    if not math.isfinite(row.score):
        raise BadInput(f"{row.source}: a region's score must be a finite number, not {row.score}")
    corners = (None, None, None, None) if row.box is None else row.box.corners
    return corners, float(row.score), vector


def _told(row: Row, dim: int) -> _Told | None:
    if row.caption is None or not row.caption.text:
        return None
    meaning = None if row.meaning is None else halves([row.meaning], dim).tobytes()
    return _Told(row.caption.text, row.caption.by, meaning, tuple(map(_claim, row.caption.claims)))


def _claim(claim: Claim) -> _Claim:
    support = {check: float(share) for check, share in sorted(claim.support.items())}
    if not all(map(math.isfinite, support.values())):
        raise BadInput(f"{claim.text!r}: a claim's support must be finite numbers, not {support}")
    return claim.text, claim.attribute, claim.value, json.dumps(support), bool(claim.believed)


def _settle(connection: sqlite3.Connection, items: Iterable[int]) -> None:
    """After pictures went: items without any go too, and the words of the others follow."""
    connection.executemany(
        "DELETE FROM items WHERE key = ? AND NOT EXISTS (SELECT 1 FROM pictures WHERE item = items.key)",
        ((item,) for item in items),
    )
    put_words(connection, items)


def put_words(connection: sqlite3.Connection, items: Iterable[int]) -> None:
    """Write anew what full-text search finds the items by; `table.rewordings` tells of it."""
    reworded = sorted(items)
    if reworded:
        connection.execute(
            "INSERT INTO meta VALUES ('reworded', 1) ON CONFLICT (key) DO UPDATE SET value = value + 1"
        )
    for key in reworded:
        connection.execute("DELETE FROM words WHERE rowid = ?", (key,))
        connection.execute(
            "INSERT INTO words (rowid, title, attributes, captions) SELECT key, title,"
            " (SELECT group_concat(value, ' ') FROM attributes"
            "  WHERE item = items.key AND typeof(value) <> 'blob'),"
            " (SELECT group_concat(text, ' ') FROM pictures JOIN regions ON picture = pictures.key"
            "  JOIN captions ON region = regions.key WHERE item = items.key)"
            " FROM items WHERE key = ?",
            (key,),
        )
