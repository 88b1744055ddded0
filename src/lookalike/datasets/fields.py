"""Values in other people's files, checked one by one.

Each function answers with the value or raises a BadInput that begins with the field's name, so that who knows
the file and the entry only has to put them in front: "000012.json: item2.style: "1" is text, not …".
"""

from __future__ import annotations

import json
import os
import reprlib
import stat
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from lookalike.errors import BadInput
from lookalike.images import shown
from lookalike.values import Box

ABSENT = object()  # what `record.get(field, ABSENT)` hands over where a field is missing
_MOST = sys.float_info.max  # whole numbers may be larger, and cannot be turned into a float
_KINDS = {
    bool: "true or false", int: "a whole number", float: "a number", str: "text",
    list: "a list", dict: "an object", type(None): "null",
}  # fmt: skip


def json_in(path: Path | str) -> Any:
    """What a JSON file holds; BadInput where it cannot be read or is no JSON."""
    try:
        with open(path, "rb") as file:
            return json.loads(file.read())
    except OSError as error:
        raise BadInput(f"cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise BadInput(f"not JSON: {shown(str(error))}") from error


def object_in(path: Path) -> Mapping[str, Any]:
    """What a JSON file that holds an object says; BadInput, which names the file, where it holds none."""
    try:
        return mapping(json_in(path), "the file")
    except BadInput as error:
        raise BadInput(f"{shown(path)}: {error}") from error


def records(path: Path, field: str = "") -> Iterator[tuple[str, Any]]:
    """(where it is, the entry) for each entry of the list that a JSON file, or one field of it, holds.

    BadInput, which names the file, where there is no list.
    """
    try:
        held = mapping(json_in(path), "the file").get(field, ABSENT) if field else json_in(path)
        entries = sequence(held, field or "the file")
    except BadInput as error:
        raise BadInput(f"{shown(path)}: {error}") from error
    for place, entry in enumerate(entries, start=1):
        yield f"{shown(path)}, {f'{field}, ' if field else ''}entry {place}", entry


def mapping(value: Any, field: str) -> Mapping[str, Any]:
    if type(value) is not dict:
        raise BadInput(f"{field}: {_said(value)}, not an object")
    return value


def sequence(value: Any, field: str) -> Sequence[Any]:
    if type(value) is not list:
        raise BadInput(f"{field}: {_said(value)}, not a list")
    return value


def whole(record: Mapping[str, Any], field: str, least: int = 0) -> int:
    """A whole number that is at least `least`; 3.0, "3" and true are none."""
    value = record.get(field, ABSENT)
    if type(value) is not int:
        raise BadInput(f"{field}: {_said(value)}, not a whole number")
    if value < least:
        raise BadInput(f"{field}: {value} is less than {least}")
    return value


def number(value: Any, field: str) -> float:
    """A finite number."""
    if type(value) not in (int, float) or not -_MOST <= value <= _MOST:
        raise BadInput(f"{field}: {_said(value)}, not a finite number")
    return float(value)


def text(record: Mapping[str, Any], field: str) -> str:
    """A text that is not blank."""
    value = record.get(field, ABSENT)
    if type(value) is not str:
        raise BadInput(f"{field}: {_said(value)}, not text")
    if not value.strip():
        raise BadInput(f"{field}: empty")
    if not value.isascii():
        _check_unicode(value, field)
    return value


def texts(record: Mapping[str, Any], field: str) -> tuple[str, ...]:
    """A list of texts."""
    values = sequence(record.get(field, ABSENT), field)
    for value in values:
        if type(value) is not str:
            raise BadInput(f"{field}: {_said(value)}, not text")
        _check_unicode(value, field)
    return tuple(values)


def one_of(record: Mapping[str, Any], field: str, names: Mapping[str, Any] | Sequence[str]) -> str:
    """A text that is one of `names`."""
    value = text(record, field)
    if value not in names:
        raise BadInput(f"{field}: {_said(value)}, none of {', '.join(names)}")
    return value


def corners(value: Any, field: str, least: float = 0) -> Box:
    """A box from [x0, y0, x1, y1]: finite, from `least`, not inverted. It may reach out of its picture."""
    if len(sequence(value, field)) != 4:
        raise BadInput(f"{field}: {len(value)} numbers, not four")
    for corner in value:
        if number(corner, field) < least:
            raise BadInput(f"{field}: {corner} is less than {least:g}")
    x0, y0, x1, y1 = value
    if not (x0 < x1 and y0 < y1):
        raise BadInput(f"{field}: {value} is inverted or empty: x0 < x1 and y0 < y1 are needed")
    return Box(x0, y0, x1, y1)


def picture(path: Path | str) -> str:
    """The path of a file that is there; what is in it is not looked at."""
    try:
        regular = stat.S_ISREG(Path(path).stat().st_mode)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise BadInput(f"picture {shown(path)}: {reason}") from error
    if not regular:
        raise BadInput(f"picture {shown(path)}: not a regular file")
    return os.fspath(path)


def _check_unicode(value: str, field: str) -> None:
    try:
        value.encode()
    except UnicodeEncodeError:  # half of a surrogate pair
        raise BadInput(f"{field}: {_said(value)} that is not UTF-8") from None


def _said(value: Any) -> str:
    if value is ABSENT:
        return "missing"
    inner = isinstance(value, list | dict)  # may be long and deep: reprlib writes the beginning
    written = reprlib.repr(value) if inner else json.dumps(value, ensure_ascii=False, default=str)
    written = shown(written if len(written) <= 60 else f"{written[:60]}…")
    return f"{written} is {_KINDS.get(type(value), 'of another kind')}"
