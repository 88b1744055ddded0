"""Filters as Milvus expressions: a condition of `grammar` compiled over the JSON field `asked`.

There an attribute is `{"t": [texts], "n": [numbers], "b": [truths]}`. Of several values one is enough, and
Milvus compares no list but places in it: a comparison is written once for each place that any item fills.
"""

from __future__ import annotations

from collections.abc import Mapping

from lookalike.errors import BadInput
from lookalike.store.grammar import COLUMNS, Condition, Test, Value
from lookalike.store.milvus.records import ID, KINDS, PRESENT, TITLE, name_in, text_in

Places = Mapping[str, Mapping[str, int]]  # by name as it is stored and kind: the most values that an item has

NOTHING = "key < 0"
_LONGEST = 60_000  # characters of an expression
_EXACT = 2**53  # from here on Milvus compares whole numbers with others through doubles


def compiled(condition: Condition, places: Places) -> str:
    """As an expression; BadInput for what this server cannot tell exactly."""
    expression = _compiled(condition, {**places, TITLE: {"t": 1}, ID: {"t": 1}})
    if len(expression) > _LONGEST:
        raise BadInput(
            "the filter is too long for Milvus: its attributes have many values each",
            "ask for fewer things at once",
        )
    return expression


def _compiled(condition: Condition, places: Places) -> str:
    if isinstance(condition, Test):
        return _tested(condition, places)
    parts = [_compiled(part, places) for part in condition.parts]
    if condition.word == "not":
        return f"(not ({parts[0]}))"
    return parts[0] if len(parts) == 1 else "(" + f" {condition.word} ".join(parts) + ")"


def _tested(test: Test, places: Places) -> str:
    own = {"title": TITLE, "id": ID}.get(COLUMNS.get(test.name, ""))
    name = own or name_in(test.name)
    most = places.get(name, {})
    if test.sign == "has":
        return f'(not (asked["{name}"]["t"][0] == ""))' if own else _present(name, most)
    passing = _passing(test, name, most)
    if not test.inverted:
        return passing
    return f"(not ({passing}))" if own else f"({_present(name, most)} and (not ({passing})))"


def _present(name: str, most: Mapping[str, int]) -> str:
    """Whether the item has a value of any kind. The `exists` of server 2.3.5 does not go with `and`."""
    return _any([f'asked["{name}"]["{PRESENT}"][0] == 1'] if most else [])


def _passing(test: Test, name: str, most: Mapping[str, int]) -> str:
    """Whether one value at least passes."""
    comparisons: list[tuple[str, str]] = []  # the kind, and the comparison with {0} for the value
    match test.sign:
        case "in":
            comparisons = [(_kind(value), f"{{0}} == {_value(value, test)}") for value in test.values]
        case "between":
            low, high = (_value(value, test) for value in test.values)
            comparisons = [(_kind(test.values[0]), f"({{0}} >= {low} and {{0}} <= {high})")]
        case "like":
            comparisons = [("t", _like(str(test.values[0]), test))]
        case sign:
            sign = "==" if sign == "=" else sign
            comparisons = [(_kind(test.values[0]), f"{{0}} {sign} {_value(test.values[0], test)}")]
    return _any(
        [
            comparison.format(f'asked["{name}"]["{kind}"][{place}]')
            for kind, comparison in comparisons
            for place in range(most.get(kind, 0))
        ]
    )


def _any(parts: list[str]) -> str:
    return f"({NOTHING})" if not parts else parts[0] if len(parts) == 1 else "(" + " or ".join(parts) + ")"


def _kind(value: Value) -> str:
    text, number, truth = KINDS
    return truth if isinstance(value, bool) else text if isinstance(value, str) else number


def _value(value: Value, test: Test) -> str:
    if isinstance(value, str):
        exact = COLUMNS.get(test.name) == "id"
        return f'"{text_in(value if exact else value.casefold())}"'
    if abs(value) > _EXACT:
        raise BadInput(
            f"{test.name} {test.sign} {value}: Milvus compares numbers beyond 2^53 only roughly",
            "keep such numbers as text",
        )
    return str(int(value)) if isinstance(value, bool) else repr(value)


def _like(pattern: str, test: Test) -> str:
    """A beginning and %, or plain text: all that server 2.3.5 matches."""
    beginning, percent, rest = pattern.partition("%")
    if "_" in beginning or rest.strip("%"):
        raise BadInput(
            f"{test.name} like {pattern!r}: this store matches beginnings only",
            f"write {test.name} like 'text%', or search by words",
        )
    exact = COLUMNS.get(test.name) == "id"
    told = text_in(beginning if exact else beginning.casefold())
    return f'{{0}} like "{told}%"' if percent else f'{{0}} == "{told}"'
