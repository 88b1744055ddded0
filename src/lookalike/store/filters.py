"""Filters as SQL: a condition of `grammar` compiled over the table of items, values bound as parameters."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from lookalike.store import grammar
from lookalike.store.grammar import COLUMNS, SEEN, Condition, Value
from lookalike.store.table import folded


@dataclass(frozen=True, slots=True)
class Filter:
    """A condition on the table `items` with its bound parameters."""

    sql: str
    parameters: tuple[Any, ...] = ()


EVERYTHING = Filter("1")


def matching(connection: sqlite3.Connection, where: str) -> Filter:
    """A `where` expression as a condition for this catalogue; BadInput where an attribute is unknown."""
    condition = grammar.read(where)
    for name in grammar.names(condition):
        if not connection.execute(f"{_items_with(name)} LIMIT 1", (name,)).fetchone():
            raise grammar.unknown(name, _names(connection))
    return _compiled(condition)


def _compiled(condition: Condition) -> Filter:
    if isinstance(condition, grammar.Joined):
        parts = [_compiled(part) for part in condition.parts]
        parameters = tuple(parameter for part in parts for parameter in part.parameters)
        if condition.word == "not":
            return Filter(f"NOT ({parts[0].sql})", parameters)
        return Filter("(" + f" {condition.word.upper()} ".join(part.sql for part in parts) + ")", parameters)
    name, values, inverted = condition.name, condition.values, condition.inverted
    match condition.sign:
        case "has" if name in COLUMNS:
            return Filter(f"{_COLUMN[name]} <> ''")
        case "has":
            return Filter(f"key IN ({_items_with(name)})", (name,))
        case "in":
            test = f"{{0}} IN ({', '.join('?' * len(values))})"
            return _tested(name, test, values, inverted, mixed=True)
        case "between":
            return _tested(name, "{0} BETWEEN ? AND ?", values, inverted)
        case "like":
            return _tested(name, "{0} GLOB ?", [_glob(str(values[0]))], inverted)
        case sign:
            return _tested(name, f"{{0}} {sign} ?", values, inverted)


_COLUMN = {name: "casefold(title)" if column == "title" else column for name, column in COLUMNS.items()}


def _items_with(name: str) -> str:
    """Selects the items that have a value, `folded`, under the name that is bound to it."""
    if not name.startswith(SEEN):
        return "SELECT item FROM attributes WHERE name = ?"
    return (
        "SELECT item FROM claims JOIN regions ON regions.key = region JOIN pictures ON pictures.key = picture"
        f" WHERE believed AND attribute <> '' AND attribute = substr(?, {len(SEEN) + 1})"
    )


def _tested(name: str, test: str, values: Sequence[Value], inverted: bool, mixed: bool = False) -> Filter:
    """`test`, written with {0} for what is compared, on an attribute or a column of the item."""
    if name in COLUMNS:
        parameters = tuple(map(folded, values)) if name == "title" else tuple(values)
        sql = test.format(_COLUMN[name])
        return Filter(f"NOT ({sql})" if inverted else sql, parameters)
    if (
        not mixed
    ):  # SQLite orders numbers before text before blobs: bounds keep a comparison among its own kind
        text = isinstance(values[0], str)
        test += (
            " AND {0} >= '' AND {0} < x''" if text else "" if isinstance(values[0], bool) else " AND {0} < ''"
        )
    named = _items_with(name)
    some = f"key IN ({named} AND {test.format('folded')})"
    parameters = (name, *map(folded, values))
    if inverted:
        return Filter(f"(key IN ({named}) AND NOT {some})", (name, *parameters))
    return Filter(some, parameters)


def _glob(pattern: str) -> str:
    """A LIKE pattern for GLOB, whose case does not depend on a setting of the connection."""
    signs = {"%": "*", "_": "?", "*": "[*]", "?": "[?]", "[": "[[]"}
    return "".join(signs.get(letter, letter) for letter in pattern)


def _names(connection: sqlite3.Connection) -> list[str]:
    found = connection.execute(
        f"SELECT name FROM attributes WHERE name NOT GLOB '{SEEN}*'"
        f" UNION SELECT '{SEEN}' || attribute FROM claims WHERE believed AND attribute <> ''"
    )
    return [name for (name,) in found]
