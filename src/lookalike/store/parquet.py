"""Rows as Parquet and back, without loss: descriptors as fp16, as everywhere they are stored."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from lookalike.errors import BadInput, CatalogueError, MissingExtra
from lookalike.store.table import from_text, halves, to_text, to_value
from lookalike.values import AttributeValue, Box, Caption, Claim, Floats, Item, Row

ABOUT = b"lookalike"  # the key in a file's metadata under which JSON says what it is


def packed(rows: Sequence[Row], dim: int, about: Mapping[str, Any]) -> bytes:
    """A Parquet file of rows whose descriptors are (`dim`,), with `about`, what JSON can say, beside them.

    BadInput for what no store keeps: text that is not valid Unicode, whole numbers beyond 64 bits,
    descriptors that are not finite.
    """
    pa, _ = arrow()
    captions = [row.caption for row in rows]
    try:
        columns = [
            pa.array([row.item.id for row in rows], pa.string()),
            pa.array([row.item.title for row in rows], pa.string()),
            pa.array([attributes_as_json(row.item) for row in rows], pa.string()),
            pa.array([to_text(row.source) for row in rows], pa.string()),
            pa.array([to_text(row.origin) for row in rows], pa.string()),
            pa.array([row.sha256 for row in rows], pa.string()),
            pa.array([row.width for row in rows], pa.int64()),
            pa.array([row.height for row in rows], pa.int64()),
            pa.array([row.box and list(row.box.corners) for row in rows], pa.list_(pa.float64())),
            pa.array([row.score for row in rows], pa.float64()),
            pa.array([caption and caption.text for caption in captions], pa.string()),
            pa.array([caption and caption.by for caption in captions], pa.string()),
            pa.array([caption and caption.error for caption in captions], pa.string()),
            pa.array([caption and _claims_as_json(caption) for caption in captions], pa.string()),
            _vectors(pa, [row.meaning for row in rows], dim),
            _vectors(pa, [row.vector for row in rows], dim),
        ]
    except UnicodeEncodeError as error:
        raise BadInput(f"text that is not valid Unicode cannot be stored: {error.object!r}") from None
    schema = _schema(pa, dim).with_metadata({ABOUT: json.dumps(about)})
    return written(pa.Table.from_arrays(columns, schema=schema))


def unpacked(data: bytes, name: str, dim: int) -> tuple[list[Row], Mapping[str, Any]]:
    """The rows of a file that `packed` wrote, and what it says about them.

    CatalogueError, which begins with `name`, where these bytes are nothing of the kind, or damaged.
    """
    pa, pq = arrow()
    try:
        table = pq.read_table(pa.BufferReader(data), page_checksum_verification=True)
    except (pa.ArrowException, OSError, ValueError):
        raise CatalogueError(f"{name}: damaged: not Parquet that can be read") from None
    if not table.schema.equals(_schema(pa, dim), check_metadata=False):
        raise CatalogueError(f"{name}: foreign: its columns are not those of rows with {dim} numbers each")
    try:
        about = about_of(table.schema)
        columns = {name: table.column(name).to_pylist() for name in table.column_names[:-2]}
        lines = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
        meanings, vectors = (_floats(table.column(name), dim) for name in ("meaning", "descriptor"))
        return [_row(*each) for each in zip(lines, meanings, vectors, strict=True)], about
    except (ValueError, KeyError, TypeError, AttributeError, BadInput):
        raise CatalogueError(f"{name}: damaged: its values are not those of rows") from None


def arrow() -> tuple[Any, Any]:
    """The libraries `pyarrow` and `pyarrow.parquet`."""
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError:
        raise MissingExtra("reading and writing builds", "parquet") from None
    return pa, pq


def written(table: Any) -> bytes:
    """A table as the bytes of a Parquet file, whose pages have checksums."""
    pa, pq = arrow()
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd", write_page_checksum=True)
    return bytes(sink.getvalue())


def about_of(schema: Any) -> Mapping[str, Any]:
    """What a file of ours says of itself; ValueError where it says nothing."""
    about = json.loads((schema.metadata or {}).get(ABOUT, b""))
    if not isinstance(about, dict):
        raise ValueError("not an object")
    return about


def attributes_as_json(item: Item) -> str:
    """An item's attributes, each with its type; BadInput for what no store keeps."""
    for values in item.attributes.values():
        for value in values if isinstance(values, tuple) else (values,):
            to_value(value)
            if isinstance(value, int) and not -(2**63) <= value < 2**63:
                raise BadInput("an attribute is a whole number beyond 64 bits", "give it as text")
    return json.dumps(dict(item.attributes), ensure_ascii=False)


def attributes_from_json(text: str) -> dict[str, AttributeValue | tuple[AttributeValue, ...]]:
    return {
        name: tuple(value) if isinstance(value, list) else value for name, value in json.loads(text).items()
    }


def _schema(pa: Any, dim: int) -> Any:
    text, numbers = pa.string(), pa.list_(pa.float16(), dim)
    always = {
        "item": text, "title": text, "attributes": text, "source": text, "origin": text, "sha256": text,
        "width": pa.int64(), "height": pa.int64(),
    }  # fmt: skip
    return pa.schema(
        [
            *(pa.field(name, kind, nullable=False) for name, kind in always.items()),
            pa.field("box", pa.list_(pa.float64())),
            pa.field("score", pa.float64(), nullable=False),
            *(pa.field(name, text) for name in ("caption", "caption_by", "caption_error", "claims")),
            pa.field("meaning", numbers),
            pa.field("descriptor", numbers, nullable=False),
        ]
    )


def _row(line: Mapping[str, Any], meaning: Floats | None, vector: Floats | None) -> Row:
    if vector is None:
        raise ValueError("no descriptor")
    caption = None
    if line["caption"] is not None:
        claims = tuple(Claim(**claim) for claim in json.loads(line["claims"]))
        caption = Caption(line["caption"], line["caption_by"], line["caption_error"], claims)
    return Row(
        item=Item(line["item"], line["title"], attributes_from_json(line["attributes"])),
        source=from_text(line["source"]),
        sha256=line["sha256"],
        width=line["width"],
        height=line["height"],
        vector=vector,
        box=None if line["box"] is None else Box(*line["box"]),
        score=line["score"],
        caption=caption,
        meaning=meaning,
        origin=from_text(line["origin"]),
    )


def _claims_as_json(caption: Caption) -> str:
    return json.dumps(
        [
            {
                "text": claim.text,
                "attribute": claim.attribute,
                "value": claim.value,
                "support": {check: float(share) for check, share in claim.support.items()},
                "believed": claim.believed,
            }
            for claim in caption.claims
        ],
        ensure_ascii=False,
    )


def _vectors(pa: Any, vectors: Sequence[Floats | None], dim: int) -> Any:
    """A column of descriptors (`dim`,), null where there is none."""
    none = np.zeros(dim, np.float32)
    stored = halves([none if vector is None else vector for vector in vectors], dim)
    absent = np.array([vector is None for vector in vectors], bool)
    mask = pa.array(absent, pa.bool_()) if absent.any() else None
    return pa.FixedSizeListArray.from_arrays(pa.array(stored.reshape(-1)), dim, mask=mask)


def _floats(column: Any, dim: int) -> list[Floats | None]:
    found: list[Floats | None] = []
    for chunk in column.chunks:
        absent = chunk.is_null().to_numpy(zero_copy_only=False)
        numbers = chunk.values.to_numpy(zero_copy_only=False)  # of null rows too
        numbers = numbers[chunk.offset * dim : (chunk.offset + len(chunk)) * dim].reshape(-1, dim)
        found += [
            None if gone else vector for gone, vector in zip(absent, numbers.astype(np.float32), strict=True)
        ]
    return found
