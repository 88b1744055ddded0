"""A build's plan: what is listed, cut into fragments, written once and never changed."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from lookalike import objects
from lookalike.datasets import Listed, Unlisted
from lookalike.errors import BadInput, CatalogueError
from lookalike.store.database import room_for
from lookalike.store.parquet import ABOUT, about_of, arrow, attributes_as_json, attributes_from_json
from lookalike.store.table import from_text, to_text
from lookalike.values import Box, Item

VERSION = 2
FILE = "plan.parquet"
TOGETHER = 10_000  # entries of a row group, more or less: the footer tells of each, and every worker reads it


class Planned(NamedTuple):
    """An entry of a listing, and the SOURCE that listed it."""

    origin: str
    entry: Listed | Unlisted


@dataclass(frozen=True, slots=True)
class Plan:
    """The plan at a build's `uri`: `listed` entries of `sources`, in `fragments` of at most `size`.

    Whoever reads many fragments should keep it: the file's footer is read once, when it is opened.
    """

    uri: str
    sources: tuple[str, ...]
    size: int
    listed: int
    fragments: int
    digest: str  # of all entries
    together: int  # fragments in a row group
    _footer: Any = field(repr=False, compare=False)

    @classmethod
    def make(cls, uri: str, sources: Sequence[str], planned: Iterable[Planned], size: int) -> Plan:
        """Write what is listed, unless there is a plan already, which stands.

        CatalogueError where that one was made of other sources; BadInput where nothing is listed.
        """
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / FILE
            with room_for(path.parent):
                listed = _write(path, sources, planned, size)
            if listed == 0:
                raise BadInput(
                    "no pictures found", "a folder's pictures end in .jpg, .jpeg, .png, .webp or .heic"
                )
            objects.put_if_absent(objects.join(uri, FILE), path)
        plan = cls.open(uri)
        plan.check(sources)
        return plan

    @classmethod
    def open(cls, uri: str) -> Plan:
        """NoObject where there is none; CatalogueError where it is damaged, or of another version."""
        with _file(uri) as file:
            about = about_of(file.schema_arrow)
            if about["version"] != VERSION:
                raise CatalogueError(
                    f"{uri}: its plan was written by another version of lookalike",
                    "go on with that one, or build somewhere else",
                )
            listed, size = file.metadata.num_rows, about["size"]
            digest = file.metadata.metadata[b"digest"].decode()
            return cls(
                uri, tuple(map(from_text, about["sources"])), size, listed, -(-listed // size), digest,
                about["together"], file.metadata,
            )  # fmt: skip

    def check(self, sources: Sequence[str]) -> None:
        """CatalogueError unless it was made of these sources."""
        if list(self.sources) != list(sources):
            raise CatalogueError(
                f"{self.uri} was begun with other sources: {', '.join(self.sources)}",
                "go on with those, or build somewhere else",
            )

    def length(self, fragment: int) -> int:
        """How many entries a fragment has."""
        return min(self.size, self.listed - fragment * self.size)

    def entries(self, fragment: int) -> list[Planned]:
        """What is listed in a fragment, numbered from 0."""
        group, place = divmod(fragment, self.together)
        with _file(self.uri, self._footer) as file:
            rows = file.read_row_group(group).slice(place * self.size, self.size)
            return [_planned(row) for row in rows.to_pylist()]


@contextmanager
def _file(uri: str, footer: Any = None) -> Iterator[Any]:
    """A plan's Parquet file, its footer if that is known; CatalogueError where it is damaged."""
    pa, pq = arrow()
    path = objects.join(uri, FILE)
    with objects.opened(path) as file:
        try:
            yield pq.ParquetFile(file, metadata=footer, page_checksum_verification=True)
        except (pa.ArrowException, ValueError, KeyError, TypeError, BadInput):
            raise CatalogueError(f"{path}: damaged, or no plan", "build somewhere else") from None


def _write(path: Path, sources: Sequence[str], planned: Iterable[Planned], size: int) -> int:
    """A plan as a local file; how many entries it has."""
    pa, pq = arrow()
    text = pa.string()
    schema = pa.schema(
        {
            "origin": text, "source": text, "item": text, "title": text, "attributes": text,
            "box": pa.list_(pa.float64()), "row": pa.int64(), "error": text,
        }
    )  # fmt: skip
    together = max(1, TOGETHER // size)
    about = {
        "version": VERSION, "sources": [to_text(source) for source in sources], "size": size,
        "together": together,
    }  # fmt: skip
    digest, listed = hashlib.sha256(), 0
    remaining = iter(planned)
    with pq.ParquetWriter(
        path, schema.with_metadata({ABOUT: json.dumps(about)}), compression="zstd", write_page_checksum=True
    ) as writer:
        while rows := [_recorded(each) for each in islice(remaining, together * size)]:
            digest.update(json.dumps(rows).encode())
            writer.write_table(pa.Table.from_pylist(rows, schema), row_group_size=len(rows))
            listed += len(rows)
        writer.add_key_value_metadata({"digest": digest.hexdigest()})
    return listed


def _recorded(planned: Planned) -> dict[str, Any]:
    origin, entry = planned
    record: dict[str, Any] = {"origin": to_text(origin), "source": to_text(entry.source)}
    if isinstance(entry, Unlisted):
        return {**record, "error": entry.error}
    return {
        **record,
        "item": entry.item.id,
        "title": entry.item.title,
        "attributes": attributes_as_json(entry.item),
        "box": None if entry.box is None else list(entry.box.corners),
        "row": entry.row,
    }


def _planned(row: Mapping[str, Any]) -> Planned:
    origin, source = from_text(row["origin"]), from_text(row["source"])
    if row["error"] is not None:
        return Planned(origin, Unlisted(source, row["error"]))
    item = Item(row["item"], row["title"], attributes_from_json(row["attributes"]))
    return Planned(origin, Listed(item, source, None if row["box"] is None else Box(*row["box"]), row["row"]))
