"""Filters: `price < 50 and color in ('red', 'blue')`, read by a parser and turned into SQL over items.

A name is an attribute, or the item's own `title` or `id` (`item` is the same); a name that is not one word
stands in `backticks`. A name that begins with `seen_` always speaks of what captions claim and is believed,
never of an attribute that is called so: of `seen_colour = 'navy'` one region of the item is enough.

Text compares without case (ids exactly), numbers only with numbers, booleans only by = and !=. Claims are
text. Of several values one is enough. `!=`, `not in`, `not like` and `not between` want a value to be there
and none to match; `not (...)` is true of every item that ... is not.
"""

from __future__ import annotations

import difflib
import functools
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from lookalike.errors import BadInput
from lookalike.store.table import folded

if TYPE_CHECKING:
    from lark import Lark, UnexpectedInput

_LONGEST = 2000  # characters
_DEEPEST = 32  # parentheses and nots in one another
_MOST = 64  # comparisons: each may walk through an index
_EXAMPLE = "for example: price < 50 and color = 'red'"

_GRAMMAR = r"""
    ?start: either
    either: both (_OR both)*
    both: _one (_AND _one)*
    _one: nested | negated | has | compare | among | between | like
    nested: "(" either ")"
    negated: NOT _one
    has: _HAS name
    compare: name SIGN _value
    among: name [NOT] _IN "(" _value ("," _value)* ")"
    between: name [NOT] _BETWEEN _value _AND _value
    like: name [NOT] _LIKE text
    name: NAME | QUOTED
    _value: number | text | yes | no
    number: NUMBER
    text: TEXT
    yes: _TRUE
    no: _FALSE

    _OR.2: /or(?!\w)/i
    _AND.2: /and(?!\w)/i
    NOT.2: /not(?!\w)/i
    _HAS.2: /has(?!\w)/i
    _IN.2: /in(?!\w)/i
    _BETWEEN.2: /between(?!\w)/i
    _LIKE.2: /like(?!\w)/i
    _TRUE.2: /true(?!\w)/i
    _FALSE.2: /false(?!\w)/i
    SIGN: "==" | "=" | "!=" | "<>" | "<=" | "<" | ">=" | ">"
    NAME: /[^\W\d]\w*/
    QUOTED: /`[^`]+`/
    NUMBER: /[+-]?(\d+(\.\d*)?|\.\d+)(e[+-]?\d+)?/i
    TEXT: /'([^']|'')*'/ | /"([^"]|"")*"/
    %ignore /\s+/
"""

_Value = str | int | float | bool


@dataclass(frozen=True, slots=True)
class Filter:
    """A condition on the table `items` with its bound parameters, and the attributes it speaks of."""

    sql: str
    parameters: tuple[Any, ...] = ()
    names: tuple[str, ...] = ()
    comparisons: int = 1
    depth: int = 0

    def within(self, before: str = "", after: str = "") -> Filter:
        """The same, one level deeper."""
        if self.depth == _DEEPEST:
            raise BadInput(f"a filter nests at most {_DEEPEST} deep")
        return replace(self, sql=before + self.sql + after, depth=self.depth + 1)

    @classmethod
    def joined(cls, parts: Sequence[Filter], word: str) -> Filter:
        if len(parts) == 1:
            return parts[0]
        comparisons = sum(part.comparisons for part in parts)
        if comparisons > _MOST:
            raise BadInput(f"a filter has at most {_MOST} comparisons", "write a list of values as in (...)")
        return cls(
            "(" + word.join(part.sql for part in parts) + ")",
            tuple(parameter for part in parts for parameter in part.parameters),
            tuple(name for part in parts for name in part.names),
            comparisons,
            max(part.depth for part in parts),
        )


EVERYTHING = Filter("1")


def matching(connection: sqlite3.Connection, where: str) -> Filter:
    """A `where` expression as a condition for this catalogue; BadInput where an attribute is unknown."""
    condition = parse(where)
    for name in condition.names:
        if not connection.execute(f"{_items_with(name)} LIMIT 1", (name,)).fetchone():
            raise _unknown(connection, name)
    return condition


def parse(where: str) -> Filter:
    """Read an expression without looking at any catalogue; BadInput says where it cannot be read."""
    from lark import UnexpectedInput

    if not where.strip():
        raise BadInput("the filter is empty", _EXAMPLE)
    if len(where) > _LONGEST:
        raise BadInput(f"a filter has at most {_LONGEST} characters, not {len(where)}")
    try:
        condition: Filter = _parser().parse(where)  # type: ignore[assignment]  # what _Compiler makes
    except UnexpectedInput as error:
        raise _unreadable(where, error) from None
    return condition


class _Compiler:
    """What becomes of each rule. The parser calls it from the inside out: however deep, nothing recurses."""

    def either(self, parts: list[Filter]) -> Filter:
        return Filter.joined(parts, " OR ")

    def both(self, parts: list[Filter]) -> Filter:
        return Filter.joined(parts, " AND ")

    def nested(self, parts: list[Filter]) -> Filter:
        return parts[0].within()

    def negated(self, parts: list[Any]) -> Filter:
        _not, condition = parts
        return condition.within("NOT (", ")")  # type: ignore[no-any-return]

    def has(self, parts: list[str]) -> Filter:
        (name,) = parts
        if name in _ITEM_COLUMNS:
            return Filter(f"{_ITEM_COLUMNS[name]} <> ''")
        return Filter(f"key IN ({_items_with(name)})", (name,), (name,))

    def compare(self, parts: list[Any]) -> Filter:
        name, sign, value = parts
        sign = {"==": "=", "<>": "!="}.get(sign, str(sign))
        if isinstance(value, bool) and sign not in ("=", "!="):
            raise BadInput(f"{name} {sign} {str(value).lower()}: true and false compare by = and != only")
        return _condition(name, "{0} = ?" if sign == "!=" else f"{{0}} {sign} ?", [value], sign == "!=")

    def among(self, parts: list[Any]) -> Filter:
        name, inverted, *values = parts
        return _condition(name, f"{{0}} IN ({', '.join('?' * len(values))})", values, inverted, mixed=True)

    def between(self, parts: list[Any]) -> Filter:
        name, inverted, low, high = parts
        if isinstance(low, bool) or isinstance(high, bool) or isinstance(low, str) != isinstance(high, str):
            raise BadInput(f"{name} between: give two numbers or two texts", _EXAMPLE)
        return _condition(name, "{0} BETWEEN ? AND ?", [low, high], inverted)

    def like(self, parts: list[Any]) -> Filter:
        name, inverted, pattern = parts
        return _condition(name, "{0} GLOB ?", [_glob(pattern)], inverted)

    def name(self, parts: list[str]) -> str:
        return parts[0].strip("`")

    def number(self, parts: list[str]) -> int | float:
        number = float(parts[0])
        whole = parts[0].lstrip("+-").isdigit() and abs(number) < 2**63
        return int(parts[0]) if whole else number

    def text(self, parts: list[str]) -> str:
        quote = parts[0][0]
        return parts[0][1:-1].replace(2 * quote, quote)

    def yes(self, parts: list[str]) -> bool:
        return True

    def no(self, parts: list[str]) -> bool:
        return False


_ITEM_COLUMNS = {"title": "casefold(title)", "id": "id", "item": "id"}
_SEEN = "seen_"


def _items_with(name: str) -> str:
    """Selects the items that have a value, `folded`, under the name that is bound to it."""
    if not name.startswith(_SEEN):
        return "SELECT item FROM attributes WHERE name = ?"
    return (
        "SELECT item FROM claims JOIN regions ON regions.key = region JOIN pictures ON pictures.key = picture"
        f" WHERE believed AND attribute <> '' AND attribute = substr(?, {len(_SEEN) + 1})"
    )


def _condition(
    name: str, test: str, values: Sequence[_Value], inverted: object, mixed: bool = False
) -> Filter:
    """`test`, written with {0} for what is compared, on an attribute or a column of the item."""
    if name in _ITEM_COLUMNS:
        if not all(isinstance(value, str) for value in values):
            raise BadInput(f"{name} is text", f"put the value in quotes: {name} = '...'")
        parameters = tuple(map(folded, values)) if name == "title" else tuple(values)
        sql = test.format(_ITEM_COLUMNS[name])
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
        return Filter(f"(key IN ({named}) AND NOT {some})", (name, *parameters), (name,))
    return Filter(some, parameters, (name,))


def _glob(pattern: str) -> str:
    """A LIKE pattern for GLOB, whose case does not depend on a setting of the connection."""
    signs = {"%": "*", "_": "?", "*": "[*]", "?": "[?]", "[": "[[]"}
    return "".join(signs.get(letter, letter) for letter in pattern)


@functools.cache
def _parser() -> Lark:
    from lark import Lark

    return Lark(_GRAMMAR, parser="lalr", transformer=_Compiler())


def _unreadable(where: str, error: UnexpectedInput) -> BadInput:
    from lark import UnexpectedToken

    place, hint = error.pos_in_stream or 0, _EXAMPLE
    if isinstance(error, UnexpectedToken):
        if error.token.type == "$END":
            place = len(where)
        if error.token.type == "NAME" and "TEXT" in error.expected:
            hint = f"put text in quotes: '{error.token}'"
    context = where[max(0, place - 30) : place] + "^" + where[place : place + 30]
    return BadInput(f"the filter cannot be read at ^: {' '.join(context.split())}", hint)


def _unknown(connection: sqlite3.Connection, name: str) -> BadInput:
    seen = name.startswith(_SEEN)
    message = f"no believed caption speaks of {name!r}" if seen else f"no item has an attribute {name!r}"
    found = connection.execute(
        f"SELECT name FROM attributes WHERE name NOT GLOB '{_SEEN}*'"
        f" UNION SELECT '{_SEEN}' || attribute FROM claims WHERE believed AND attribute <> '' ORDER BY 1"
    )
    # its own kind first
    known = sorted((name for (name,) in found), key=lambda other: other.startswith(_SEEN) != seen)
    lowered = {other.casefold(): other for other in reversed(known)}
    near = [lowered[match] for match in difflib.get_close_matches(name.casefold(), lowered, n=3, cutoff=0.5)]
    if not known:
        return BadInput(message, "no item here has any attribute; title and id can be used")
    return BadInput(message, "there is " + ", ".join(near or known[:8]))
