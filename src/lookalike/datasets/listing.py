"""What an indexing run reads: a folder, a table or one picture becomes a stream of pictures with their items.

Each of them may lie on object storage: s3://bucket/pictures, gs://…, az://…, see `objects`.

A folder: each first-level subfolder is an item, of all pictures in it and deeper; loose pictures are items
of their own. Pictures are what is named like one (.jpg .jpeg .jfif .mpo .png .webp .heic .heif); everything
else, and whatever is hidden (.DS_Store), is passed over. Links are followed, but no folder is entered twice.

A table (.csv, .jsonl, .ndjson, .parquet): one picture a row. Columns:
    path               (or picture) of the file, relative to the table's folder, or a URI; required
    item               its item's id; without it the file's name without suffix
    title              of the item
    box                "x0,y0,x1,y1" or a list of four numbers; or four columns x0, y0, x1, y1
    any other          an attribute of the item: text, number, true or false, or a list of those

CSV is UTF-8, with or without byte order mark, separated by comma, semicolon or tab. Its cells are typed one
by one: 12 and 12.50 are numbers, 00123 and 1e5 text, true and false truth values, a|b two values; an empty
cell is absent. In JSON lines and Parquet values have their types already; what cannot be an attribute
(objects, bytes, lists in lists) is left out. Rows are numbered from 1, of CSV with the header.
"""

from __future__ import annotations

import csv
import json
import math
import os
import posixpath
import re
import stat
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from datetime import date, time
from decimal import Decimal
from io import BytesIO, TextIOWrapper
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO, NoReturn, TextIO

from lookalike import objects
from lookalike.datasets.folders import at_uri, in_folder
from lookalike.datasets.listed import PICTURES, Listed, Unlisted, name_as_text
from lookalike.errors import BadInput, MissingExtra
from lookalike.images import shown
from lookalike.values import AttributeValue, Box, Item

_OWN = frozenset({"path", "item", "title", "box", "x0", "y0", "x1", "y1"})  # columns that are no attributes
_TABLES = (".csv", ".jsonl", ".ndjson", ".parquet")
_TABLE_BYTES = 2_000_000_000  # of a table on object storage, which is read at once
_BATCH = 1024  # rows of a Parquet file in memory
_WHOLE = re.compile(r"-?(0|[1-9][0-9]*)")
_DECIMAL = re.compile(r"-?(0|[1-9][0-9]*)\.[0-9]+([eE][+-]?[0-9]+)?")

Attribute = AttributeValue | tuple[AttributeValue, ...]


def origin_of(source: Path | str) -> str:
    """The absolute path of a SOURCE, or its URI, the same however it is written; links are not resolved."""
    return objects.normal(source) if objects.is_uri(source) else os.path.normpath(Path(source).absolute())


def listing(source: Path | str, written: Collection[str] = ()) -> Iterator[Listed | Unlisted]:
    """The pictures of a SOURCE, in an order that does not depend on the file system.

    In the columns `written`, which are named in small letters, the cells of a CSV table stay as they are.
    A bad row or an unreadable folder comes as an Unlisted in its place. BadInput, at once, where SOURCE is no
    folder, picture or table, or a table without the column `path`; MissingExtra for Parquet without pyarrow.
    """
    path = origin_of(source)
    kind = _kind(path)
    if kind == "folder":
        return in_folder(path) if not objects.is_uri(path) else _begun(at_uri(path))
    if kind == "picture":
        return iter([Listed(Item(name_as_text(Path(path).stem)), path)])
    if kind == ".csv":
        rows = _csv_rows(path, written)
    else:
        rows = {".jsonl": _json_rows, ".parquet": _parquet_rows}[kind](path)
    return _begun(_entries(path, rows))


def _begun(entries: Iterator[Listed | Unlisted]) -> Iterator[Listed | Unlisted]:
    """The same entries; the first is asked for now, so that a wrong table or URI fails here."""
    first = next(entries, None)
    return iter(()) if first is None else chain([first], entries)


def count(source: Path | str) -> int | None:
    """About how many entries `listing` will give, quickly; None where that cannot be told.

    Of CSV and JSON lines the lines are counted: blank ones, and line breaks in a cell, count too.
    """
    path = origin_of(source)
    kind = _kind(path)
    if kind == "picture":
        return 1
    if objects.is_uri(path):  # listing twice takes long, and costs
        return None
    if kind == "folder":
        return sum(1 for _ in in_folder(path))
    if kind == ".parquet":
        return int(_parquet_file(path).metadata.num_rows)
    lines, last = 0, b"\n"
    try:
        with open(path, "rb") as file:
            while block := file.read(1 << 20):
                lines, last = lines + block.count(b"\n"), block[-1:]
    except OSError:
        return None
    return max(0, lines + (last != b"\n") - (kind == ".csv"))


def _kind(path: str) -> str:
    """What a SOURCE is: "folder", "picture" or the suffix of a table; BadInput for anything else."""
    hint = "give a folder, a picture (.jpg, .png, .webp, .heic) or a table (.csv, .jsonl, .ndjson, .parquet)"
    suffix = Path(path).suffix.lower()
    if objects.is_uri(path):  # a folder has no suffix of these, or is asked for with a table in it
        if suffix in PICTURES:
            return "picture"
        return {".ndjson": ".jsonl"}.get(suffix, suffix) if suffix in _TABLES else "folder"
    try:
        mode = Path(path).stat().st_mode
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise BadInput(f"{shown(path)}: {reason}", hint) from error
    if stat.S_ISDIR(mode):
        return "folder"
    if stat.S_ISREG(mode) and suffix in PICTURES:
        return "picture"
    if stat.S_ISREG(mode) and suffix in _TABLES:
        return ".jsonl" if suffix == ".ndjson" else suffix
    raise BadInput(f"{shown(path)}: neither a folder nor a picture nor a table", hint)


_Row = tuple[int, Mapping[str, Any] | BadInput]  # its number; its values by column, or what is wrong with it


def _csv_rows(path: str, written: Collection[str]) -> Iterator[_Row]:
    with TextIOWrapper(_file(path), "utf-8-sig", errors="surrogateescape", newline="") as file:
        separator, columns = _csv_header(path, file)
        file.seek(0)
        reader = csv.reader(file, delimiter=separator)
        next(reader)
        as_is = _OWN.union(written)
        number = 1
        while True:
            number += 1
            try:
                cells = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                yield number, BadInput(str(error))
                continue
            if any(cells[len(columns) :]):
                yield number, BadInput(f"{len(cells)} cells, but the header has {len(columns)}")
            elif any(cells):
                texts = zip(columns, map(str.strip, cells), strict=False)  # empty cells may miss at the end
                yield number, {name: text if name.lower() in as_is else _cell(text) for name, text in texts}


def _csv_header(path: str, file: TextIO) -> tuple[str, list[str]]:
    """The separator and the columns: what splits off a column `path`, or splits off most."""
    headers = {}
    for separator in ",;\t":
        file.seek(0)
        try:
            names = next(csv.reader(file, delimiter=separator), [])
        except csv.Error as error:
            raise BadInput(f"{shown(path)}: not a CSV table: {error}") from error
        headers[separator] = [_column(name) for name in names]
    separator = max(headers, key=lambda each: ("path" in headers[each], len(headers[each])))
    _check_columns(path, headers[separator])
    return separator, headers[separator]


def _cell(text: str) -> Any:
    """A CSV cell by its looks; several between bars are a list."""
    if "|" in text:
        return [_cell(part.strip()) for part in text.split("|")]
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    if _WHOLE.fullmatch(text) and len(text) < 19:  # within 64 bits
        return int(text)
    if _DECIMAL.fullmatch(text) and math.isfinite(number := float(text)):
        return number
    return text


def _json_rows(path: str) -> Iterator[_Row]:
    checked = False
    with TextIOWrapper(_file(path), "utf-8-sig", errors="surrogateescape") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line, parse_constant=_refuse)
            except (ValueError, RecursionError) as error:
                yield number, BadInput(f"not JSON: {error}")
                continue
            if not isinstance(row, dict):
                yield number, BadInput("not a JSON object")
                continue
            row = {_column(name): value for name, value in row.items()}
            if not checked:  # by the first row, which stands for all
                _check_columns(path, row)
                checked = True
            yield number, row


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not a number")


def _parquet_rows(path: str) -> Iterator[_Row]:
    file = _parquet_file(path)
    from pyarrow import ArrowException

    fields = [field for field in file.schema_arrow if _is_scalar(field.type) or _column(field.name) == "box"]
    _check_columns(path, [_column(field.name) for field in fields])
    batches = file.iter_batches(_BATCH, columns=[field.name for field in fields])
    number = 0
    while True:
        try:
            batch = next(batches, None)
            rows = [] if batch is None else batch.to_pylist()
        except (ArrowException, OSError, ValueError) as error:
            yield number + 1, BadInput(f"this row and all after it cannot be read: {error}")
            return
        if batch is None:
            return
        for row in rows:
            number += 1
            yield number, {_column(name): value for name, value in row.items()}


def _parquet_file(path: str) -> Any:
    try:
        from pyarrow import ArrowException
        from pyarrow.parquet import ParquetFile
    except ImportError as error:
        raise MissingExtra(f"{shown(path)}: reading Parquet", "parquet") from error
    try:
        return ParquetFile(_file(path) if objects.is_uri(path) else path)
    except (ArrowException, OSError) as error:
        raise BadInput(f"{shown(path)}: not a Parquet file that can be read: {shown(str(error))}") from error


def _file(path: str) -> BinaryIO:
    return BytesIO(objects.read(path, _TABLE_BYTES)) if objects.is_uri(path) else open(path, "rb")


def _is_scalar(kind: Any) -> bool:
    """Whether a Parquet column holds texts, numbers, truth values, times, or lists of them."""
    from pyarrow import types

    if types.is_list(kind) or types.is_large_list(kind):  # lists of a fixed length are vectors
        kind = kind.value_type
    return not (
        types.is_nested(kind)
        or types.is_binary(kind)
        or types.is_large_binary(kind)
        or types.is_fixed_size_binary(kind)
    )


def _column(name: str) -> str:
    """A column's name; our own in any case of letters, `picture` as `path`."""
    name = name.strip()
    own = name.lower()
    if own == "picture":
        return "path"
    return own if own in _OWN else name


def _check_columns(path: str, columns: Iterable[str]) -> None:
    names = [name for name in columns if name]
    if "path" not in names:
        found = shown(", ".join(names)) or "none"
        raise BadInput(f"{shown(path)}: there is no column path; columns: {found}")
    twice = [name for name, times in Counter(names).items() if times > 1]
    if twice:
        raise BadInput(f"{shown(path)}: there are two columns {shown(twice[0])}")


def _entries(path: str, rows: Iterator[_Row]) -> Iterator[Listed | Unlisted]:
    folder = path[: path.rfind("/")] if objects.is_uri(path) else Path(path).parent
    try:
        for number, row in rows:
            try:
                if isinstance(row, BadInput):
                    raise row
                entry: Listed | Unlisted = _listed(row, folder, number)
            except BadInput as error:
                entry = Unlisted(path, f"{shown(path)}, row {number}: {shown(str(error))}")
            yield entry
    except OSError as error:
        raise BadInput(f"{shown(path)}: cannot be read: {error.strerror}") from error


def _listed(row: Mapping[str, Any], folder: Path | str, number: int) -> Listed:
    path = row.get("path")
    if not isinstance(path, str) or not path.strip():
        raise BadInput("path: missing")
    source = _source(folder, path.strip())
    attributes = {name: _attribute(name, row[name]) for name in row if name and name not in _OWN}
    item = Item(
        id=_text(row, "item") or name_as_text(Path(source).stem),
        title=_text(row, "title"),
        attributes={name: value for name, value in attributes.items() if value is not None},
    )
    return Listed(item, source, _box(row), number)


def _source(folder: Path | str, path: str) -> str:
    """Where a table's picture is: below its folder, on this disk, or at the URI that it gives."""
    if objects.is_uri(path):
        if (uri := objects.normal(path)).startswith("/"):
            raise BadInput(f"path: {path}: write a file's path without file:")
        return uri
    if isinstance(folder, Path):
        return os.path.normpath(folder / path)
    if path.startswith("/"):  # no table from elsewhere names files of this machine
        raise BadInput(f"path: {path}: a path here is relative to {folder}, or a URI")
    bucket = "/".join(folder.split("/")[:3])
    below = posixpath.normpath(posixpath.join("/", folder.removeprefix(bucket).lstrip("/"), path))
    return bucket + below


def _text(row: Mapping[str, Any], name: str) -> str:
    """A cell written out; "" where it is empty."""
    value = row.get(name)
    if isinstance(value, float) and value.is_integer():
        value = int(value)  # a column of whole numbers with gaps reads as floats
    if isinstance(value, dict | list | bytes):
        raise BadInput(f"{name}: neither text nor a number")
    scalar = _scalar(name, value)
    return "" if scalar is None else str(scalar)


def _box(row: Mapping[str, Any]) -> Box | None:
    value = row.get("box")
    if value is None or value == "":
        value = [row.get(corner) for corner in ("x0", "y0", "x1", "y1")]
        if all(_scalar("box", corner) is None for corner in value):
            return None
    if isinstance(value, str):
        return Box.parse(value)
    try:
        x0, y0, x1, y1 = map(float, value)
    except (TypeError, ValueError):
        raise BadInput(f"box {value}: not four numbers", "write it as x0,y0,x1,y1 in pixels") from None
    return Box(x0, y0, x1, y1)


def _attribute(name: str, value: Any) -> Attribute | None:
    """A cell as an attribute; None where it is empty, or nothing that can be one."""
    if not isinstance(value, list):
        return _scalar(name, value)
    scalars = [_scalar(name, part) for part in value]
    return tuple(scalar for scalar in scalars if scalar is not None) or None


def _scalar(name: str, value: Any) -> AttributeValue | None:
    if isinstance(value, Decimal):
        value = float(value)
    elif isinstance(value, date | time):
        value = value.isoformat()
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError:
            raise BadInput(f"{name}: not UTF-8 text") from None
        return value.strip() or None
    if isinstance(value, float):
        if math.isinf(value):
            raise BadInput(f"{name}: not a finite number")
        return None if math.isnan(value) else value
    if isinstance(value, int):  # true and false too
        return value if -(2**63) <= value < 2**63 else str(value)
    return None
