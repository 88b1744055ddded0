"""Records: what was said of each region, by whom, in which steps and at what cost; as JSON lines or Parquet.

One line a region: `path`, `item`, `box` and `sha256` tell which; `caption`, `claims`, `error` and `by` what
was said; `prose` is the models' own text, for people; `transcript` has every call.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

from lookalike.captions.chat import Step
from lookalike.datasets import Listed, listing
from lookalike.errors import BadInput, CatalogueError, MissingExtra
from lookalike.images import shown
from lookalike.values import Box, Caption, Claim, Region, corners_of

SUFFIXES = (".jsonl", ".parquet", ".csv")
_TEXTS = ("claims", "transcript")  # columns that are JSON texts where a table cannot nest


@dataclass(frozen=True, slots=True)
class Record:
    """One region's caption and how it came about."""

    path: str
    item: str
    sha256: str
    box: Box | None
    caption: Caption
    score: float = 1.0  # of the box: 1 for a given one, less for a found one
    prose: str = ""
    transcript: tuple[Step, ...] = ()
    seconds: float = 0.0
    created: str = ""  # UTC, ISO 8601

    @property
    def calls(self) -> int:
        """Those that were made now: a step out of the cache costs nothing."""
        return sum(not step.cached for step in self.transcript)

    @property
    def tokens(self) -> tuple[int, int]:
        """Read and written by the models in these calls."""
        made = [step for step in self.transcript if not step.cached]
        return sum(step.tokens_in for step in made), sum(step.tokens_out for step in made)

    def as_json(self) -> dict[str, Any]:
        tokens_in, tokens_out = self.tokens
        return {
            "path": self.path,
            "item": self.item,
            "box": corners_of(self.box),
            "score": self.score,
            "sha256": self.sha256,
            "caption": self.caption.text,
            "error": self.caption.error,
            "by": self.caption.by,
            "claims": [claim.as_json() for claim in self.caption.claims],
            "prose": self.prose,
            "calls": self.calls,
            "tokens_in": tokens_in,
            "tokens_out": tokens_out,
            "seconds": round(self.seconds, 3),
            "created": self.created,
            "transcript": [asdict(step) for step in self.transcript],
        }


class Writing:
    """A file of records that grows line by line; each line is on its way to the disk when `add` returns.

    What an earlier run left there is kept, but for a last line cut short by a kill and for `failed` captions:
    `done` names the regions that need not be captioned again by the captioner `by`. BadInput where the file
    was written by another captioner. A Parquet file is made of the lines when the block ends.
    """

    def __init__(self, path: Path, by: str) -> None:
        if path.suffix not in (".jsonl", ".parquet"):
            raise BadInput(f"cannot write captions to {path}", "name a .jsonl or .parquet file")
        if path.suffix == ".parquet":
            _pyarrow()
        self._path = path
        self._lines = path if path.suffix == ".jsonl" else path.with_name(f"{path.name}.lines")
        self.done: set[tuple[str, str, Box | None]] = set()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._keep(by)
            self._file = self._lines.open("a", encoding="utf-8", errors="surrogateescape")
        except OSError as error:
            raise CatalogueError(f"cannot write {path}: {error.strerror}", "choose another place") from None

    def __enter__(self) -> Writing:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        if kind is None and self._path != self._lines:
            _write_parquet(self._lines, self._path)
            self._lines.unlink()

    def add(self, record: Record) -> None:
        self._file.write(json.dumps(record.as_json(), ensure_ascii=False) + "\n")
        self._file.flush()

    def _keep(self, by: str) -> None:
        """The lines of an earlier run that stay, and nothing else."""
        if self._path != self._lines and self._path.exists() and not self._lines.exists():
            with open(self._lines, "w", encoding="utf-8", errors="surrogateescape") as file:
                file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in _parquet(self._path))
        if not self._lines.exists():
            return
        part = self._lines.with_name(f"{self._lines.name}.part")
        with open(part, "w", encoding="utf-8", errors="surrogateescape") as kept:
            for row in _lines(self._lines, cut_short=True):
                record = _read(row, self._lines)
                if record.caption.by != by:
                    raise BadInput(
                        f"{self._path} holds captions by {record.caption.by!r}, not by {by!r}",
                        "name another file, or remove this one",
                    )
                if record.caption.error is None:
                    kept.write(json.dumps(row, ensure_ascii=False) + "\n")
                    asked = record.box if record.score == 1 else None
                    self.done.add((record.path, record.item, asked))
        part.replace(self._lines)


class FileCaptions:
    """A captioner that looks captions up in a file: one that `lookalike caption` wrote, or a table with the
    columns path and caption (and box) of whatever origin.

    A region is found by its picture's content and box, else by its picture's path and box; where the file has
    one caption for the picture, that one is taken whatever the box. Its name changes with what the file says.
    """

    def __init__(self, path: Path) -> None:
        if path.suffix not in SUFFIXES:
            raise BadInput(f"{path}: no file of captions", "give a .jsonl, .parquet or .csv file")
        self._known: dict[tuple[str, Box | None], Caption] = {}
        self._only: dict[str, Caption | None] = {}
        self._hashed = False  # whether pictures are known by their content too
        authors: dict[str, None] = {}
        said = hashlib.sha256()
        for record in read(path):
            if record.caption.error is None:
                authors[record.caption.by] = None
                self._hashed = self._hashed or bool(record.sha256)
                for name in filter(None, (record.sha256, record.path)):
                    self._known[name, record.box] = record.caption
                    if record.score < 1:  # of the whole picture, in which a box was found
                        self._known[name, None] = record.caption
                    self._only[name] = None if name in self._only else record.caption
                told = [record.path, record.sha256, str(record.box), record.caption.text]
                said.update(json.dumps(told).encode())
        author = next(iter(authors)) if len(authors) == 1 else path.name
        self.name = f"{author} #{said.hexdigest()[:8]}"

    def captions(self, regions: Sequence[Region]) -> list[Caption]:
        return [self._caption(region) for region in regions]

    def of(self, path: str, box: Box | None) -> Caption | None:
        """What it says of a box in a picture, or of the whole picture; None where it says neither.

        Unlike `captions`, it never takes what is said of another box. The picture is read only where its path
        is not in the file, which may have been written elsewhere.
        """
        name = path
        if path not in self._only and self._hashed:
            with suppress(OSError):
                name = hashlib.sha256(Path(path).read_bytes()).hexdigest()
        return self._known.get((name, box)) or self._known.get((name, None))

    def _caption(self, region: Region) -> Caption:
        for name in (region.picture.sha256, region.picture.source):
            found = self._known.get((name, region.box)) or self._only.get(name)
            if found is not None:
                return replace(found, by=self.name)
        return Caption("", self.name, error="the file has no caption for it")


def read(path: Path) -> Iterator[Record]:
    """The records of a file; BadInput where a line cannot be read."""
    if path.suffix == ".jsonl":
        for row in _lines(path):
            yield _read(row, path)
        return
    rows = _parquet(path) if path.suffix == ".parquet" and _is_ours(path) else None
    if rows is not None:
        for row in rows:
            yield _read(row, path)
        return
    captioned = False
    for entry in listing(path, written=("caption",)):
        if not isinstance(entry, Listed):
            raise BadInput(entry.error)
        said = entry.item.attributes.get("caption")
        captioned = captioned or said is not None
        by = str(entry.item.attributes.get("by", path.name))
        yield Record(entry.source, entry.item.id, "", entry.box, Caption(str(said or ""), by))
    if not captioned:
        raise BadInput(f"{shown(path)}: no row has anything in a column caption")


def _lines(path: Path, cut_short: bool = False) -> Iterator[dict[str, Any]]:
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            for number, line in enumerate(file, start=1):
                if not line.strip():
                    continue
                try:
                    row = json.loads(line)
                except ValueError as error:
                    if cut_short and not line.endswith("\n"):
                        return
                    raise BadInput(f"{shown(path)}, line {number}: not JSON: {error}") from None
                if not isinstance(row, dict):
                    raise BadInput(f"{shown(path)}, line {number}: not a JSON object")
                yield row
    except OSError as error:
        raise BadInput(f"{shown(path)}: cannot be read: {error.strerror}") from None


def _read(row: Mapping[str, Any], path: Path) -> Record:
    """One record out of a file, whose lines are input like any other."""
    try:
        source = row.get("path") or row.get("picture")
        if not isinstance(source, str):
            raise ValueError("path: missing")
        box = row.get("box")
        caption = Caption(
            text=str(row.get("caption") or ""),
            by=str(row.get("by") or path.name),
            error=None if row.get("error") is None else str(row["error"]),
            claims=tuple(_claim(claim) for claim in row.get("claims") or ()),
        )
        return Record(
            path=os.path.normpath(path.parent.absolute() / source),
            item=str(row.get("item") or ""),
            sha256=str(row.get("sha256") or ""),
            box=None if box is None else Box(*map(float, box)),
            caption=caption,
            score=float(row.get("score", 1.0)),
        )
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        raise BadInput(f"{shown(path)}: not a record of a caption: {error}") from None


def _claim(claim: Mapping[str, Any]) -> Claim:
    return Claim(
        text=str(claim["text"]),
        attribute=str(claim.get("attribute") or ""),
        value=str(claim.get("value") or ""),
        support={str(check): float(value) for check, value in (claim.get("support") or {}).items()},
        believed=bool(claim.get("believed", True)),
    )


def _pyarrow() -> tuple[Any, Any]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise MissingExtra("captions as Parquet", "parquet") from None
    return pyarrow, pyarrow.parquet


def _is_ours(path: Path) -> bool:
    _, parquet = _pyarrow()
    return "transcript" in parquet.ParquetFile(path).schema_arrow.names


def _parquet(path: Path) -> Iterator[dict[str, Any]]:
    _, parquet = _pyarrow()
    for batch in parquet.ParquetFile(path).iter_batches(1000):
        for row in batch.to_pylist():
            yield row | {name: json.loads(row[name]) for name in _TEXTS}


def _write_parquet(lines: Path, path: Path) -> None:
    pyarrow, parquet = _pyarrow()
    text, number = pyarrow.string(), pyarrow.int64()
    schema = pyarrow.schema(
        {
            "path": text, "item": text, "box": pyarrow.list_(pyarrow.float64()), "score": pyarrow.float64(),
            "sha256": text, "caption": text, "error": text, "by": text, "claims": text, "prose": text,
            "calls": number, "tokens_in": number, "tokens_out": number, "seconds": pyarrow.float64(),
            "created": text, "transcript": text,
        }
    )  # fmt: skip
    part = path.with_name(f"{path.name}.part")
    rows = _lines(lines)
    with parquet.ParquetWriter(part, schema) as writer:
        while block := list(islice(rows, 1000)):
            flat = [row | {name: json.dumps(row[name]) for name in _TEXTS} for row in block]
            writer.write_table(pyarrow.Table.from_pylist(flat, schema))
    part.replace(path)
