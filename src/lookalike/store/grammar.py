"""What a filter says: `price < 50 and color in ('red', 'blue')` read into a tree, which a store compiles.

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
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from lookalike.errors import BadInput

if TYPE_CHECKING:
    from lark import Lark, UnexpectedInput

SEEN = "seen_"
COLUMNS = {"title": "title", "id": "id", "item": "id"}  # of the item itself: always there, and text

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

Value = str | int | float | bool


@dataclass(frozen=True, slots=True)
class Test:
    """One comparison. `sign` is "=", "<", "<=", ">", ">=", "in", "between", "like" or "has".

    An `inverted` one wants a value to be there and none to pass.
    """

    name: str
    sign: str
    values: tuple[Value, ...] = ()
    inverted: bool = False

    comparisons: ClassVar[int] = 1
    depth: ClassVar[int] = 0


@dataclass(frozen=True, slots=True)
class Joined:
    """Conditions under one word: "and", "or", or "not" before a single one."""

    word: str
    parts: tuple[Condition, ...]
    comparisons: int
    depth: int

    @classmethod
    def of(cls, word: str, parts: Sequence[Condition], deeper: bool = False) -> Joined:
        comparisons = sum(part.comparisons for part in parts)
        if comparisons > _MOST:
            raise BadInput(f"a filter has at most {_MOST} comparisons", "write a list of values as in (...)")
        depth = max(part.depth for part in parts) + deeper
        if depth > _DEEPEST:
            raise BadInput(f"a filter nests at most {_DEEPEST} deep")
        return cls(word, tuple(parts), comparisons, depth)


Condition = Test | Joined


def read(where: str) -> Condition:
    """Read an expression without looking at any catalogue; BadInput says where it cannot be read."""
    from lark import UnexpectedInput

    if not where.strip():
        raise BadInput("the filter is empty", _EXAMPLE)
    if len(where) > _LONGEST:
        raise BadInput(f"a filter has at most {_LONGEST} characters, not {len(where)}")
    try:
        condition: Condition = _parser().parse(where)  # type: ignore[assignment]  # what _Reader makes
    except UnexpectedInput as error:
        raise _unreadable(where, error) from None
    return condition


def names(condition: Condition) -> list[str]:
    """The attributes that it speaks of, in its order, the item's own columns left out."""
    if isinstance(condition, Test):
        return [] if condition.name in COLUMNS else [condition.name]
    return [name for part in condition.parts for name in names(part)]


def unknown(name: str, known: Iterable[str]) -> BadInput:
    """What to raise where no item has a value under this name; the hint tells the nearest known ones."""
    seen = name.startswith(SEEN)
    message = f"no believed caption speaks of {name!r}" if seen else f"no item has an attribute {name!r}"
    # its own kind first
    ordered = sorted(sorted(known), key=lambda other: other.startswith(SEEN) != seen)
    lowered = {other.casefold(): other for other in reversed(ordered)}
    near = [lowered[match] for match in difflib.get_close_matches(name.casefold(), lowered, n=3, cutoff=0.5)]
    if not ordered:
        return BadInput(message, "no item here has any attribute; title and id can be used")
    return BadInput(message, "there is " + ", ".join(near or ordered[:8]))


class _Reader:
    """What becomes of each rule. The parser calls it from the inside out: however deep, nothing recurses."""

    def either(self, parts: list[Condition]) -> Condition:
        return parts[0] if len(parts) == 1 else Joined.of("or", parts)

    def both(self, parts: list[Condition]) -> Condition:
        return parts[0] if len(parts) == 1 else Joined.of("and", parts)

    def nested(self, parts: list[Condition]) -> Condition:
        return Joined.of("and", parts, deeper=True)

    def negated(self, parts: list[Any]) -> Condition:
        return Joined.of("not", parts[1:], deeper=True)

    def has(self, parts: list[str]) -> Condition:
        return Test(parts[0], "has")

    def compare(self, parts: list[Any]) -> Condition:
        name, sign, value = parts
        sign = {"==": "=", "<>": "!="}.get(sign, str(sign))
        if isinstance(value, bool) and sign not in ("=", "!="):
            raise BadInput(f"{name} {sign} {str(value).lower()}: true and false compare by = and != only")
        return _test(name, "=" if sign == "!=" else sign, [value], sign == "!=")

    def among(self, parts: list[Any]) -> Condition:
        name, inverted, *values = parts
        return _test(name, "in", values, inverted)

    def between(self, parts: list[Any]) -> Condition:
        name, inverted, low, high = parts
        if isinstance(low, bool) or isinstance(high, bool) or isinstance(low, str) != isinstance(high, str):
            raise BadInput(f"{name} between: give two numbers or two texts", _EXAMPLE)
        return _test(name, "between", [low, high], inverted)

    def like(self, parts: list[Any]) -> Condition:
        name, inverted, pattern = parts
        return _test(name, "like", [pattern], inverted)

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


def _test(name: str, sign: str, values: Sequence[Value], inverted: object) -> Test:
    if name in COLUMNS and not all(isinstance(value, str) for value in values):
        raise BadInput(f"{name} is text", f"put the value in quotes: {name} = '...'")
    return Test(name, sign, tuple(values), bool(inverted))


@functools.cache
def _parser() -> Lark:
    from lark import Lark

    return Lark(_GRAMMAR, parser="lalr", transformer=_Reader())


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
