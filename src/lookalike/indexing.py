"""The batch loop: listed pictures in, durable rows out.

Each worker thread carries one batch from bytes to descriptors (read, hash, decode, find regions, encode),
so every core is busy whatever the mixture of decoding and encoding costs. The calling thread alone writes,
one transaction a batch. A batch that was written is never encoded again: a killed run is simply run again.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import islice
from typing import TypeVar

import numpy as np

from lookalike import images
from lookalike.datasets import Listed, Unlisted
from lookalike.errors import BadInput, BadPicture
from lookalike.roles import Encoder, RegionFinder, Store
from lookalike.values import Box, Floats, Picture, Region, Row

Entry = TypeVar("Entry")

BATCH = 16  # pictures a worker holds decoded at once
UNIT_WITHIN = 1e-3


@dataclass(frozen=True, slots=True)
class Skipped:
    """A picture or table row that could not be used, and why."""

    source: str
    error: str


@dataclass(frozen=True, slots=True)
class Batch:
    """What became of some listed pictures."""

    listed: int
    rows: list[Row]
    skipped: list[Skipped]
    encoded: int  # pictures that went through the encoder
    encoder_seconds: float


def encode_batch(
    listed: Sequence[Listed | Unlisted], origin: str, encoder: Encoder, finder: RegionFinder, store: Store
) -> Batch:
    """Bytes to rows. Contents that the store knows are not decoded again: their descriptors are reused."""
    skipped = [Skipped(entry.source, entry.error) for entry in listed if isinstance(entry, Unlisted)]
    contents: list[tuple[Listed, bytes, str]] = []
    for entry in listed:
        if isinstance(entry, Listed):
            try:
                data = images.read(entry.source)
            except BadPicture as error:
                skipped.append(Skipped(entry.source, str(error)))
            else:
                contents.append((entry, data, hashlib.sha256(data).hexdigest()))
    stored: dict[tuple[str, Box | None], list[Row]] = {}
    for row in store.find(sorted({sha256 for _, _, sha256 in contents})):
        asked = row.box if row.score == 1 else None  # a given box scores 1, a found one less
        stored.setdefault((row.sha256, asked), []).append(row)

    rows: list[Row] = []
    pictures: dict[str, Picture] = {}
    fresh: dict[tuple[str, Box | None], list[Listed]] = {}
    for entry, data, sha256 in contents:
        wanted = (sha256, entry.box)
        if known := _of_one_picture(stored.get(wanted, []), entry.item.id):
            rows += [replace(row, item=entry.item, source=entry.source, origin=origin) for row in known]
            continue
        try:
            if sha256 not in pictures:
                pictures[sha256] = images.decode(data, entry.source, sha256=sha256)
        except BadPicture as error:
            skipped.append(Skipped(entry.source, str(error)))
        else:
            fresh.setdefault(wanted, []).append(entry)
    del contents

    regions, owners = _regions(
        [(pictures[sha256], entries) for (sha256, _), entries in fresh.items()], finder, skipped
    )
    started = time.perf_counter()
    vectors = _described(regions, encoder) if regions else None
    seconds = time.perf_counter() - started
    for place, (region, entries) in enumerate(zip(regions, owners, strict=True)):
        picture = region.picture
        assert vectors is not None
        rows += [
            Row(
                item=entry.item,
                source=entry.source,
                sha256=picture.sha256,
                width=picture.width,
                height=picture.height,
                vector=vectors[place],
                box=region.box,
                score=region.score,
                origin=origin,
            )
            for entry in entries
        ]
    return Batch(len(listed), rows, skipped, encoded=len(fresh), encoder_seconds=seconds)


def index(
    listed: Iterable[Listed | Unlisted],
    origin: str,
    encoder: Encoder,
    finder: RegionFinder,
    store: Store,
    run: int,
    on_written: Callable[[Batch], None],
) -> None:
    """Index everything listed under `origin`; `on_written` hears of each batch once it is on disk."""
    workers = os.cpu_count() or 1
    batches = chunks(listed, BATCH)
    waiting: deque[Future[Batch]] = deque()
    with ThreadPoolExecutor(workers, thread_name_prefix="index") as pool:
        try:
            while True:
                for chunk in islice(batches, workers + 1 - len(waiting)):  # one batch ahead of the workers
                    waiting.append(pool.submit(encode_batch, chunk, origin, encoder, finder, store))
                if not waiting:
                    return
                batch = waiting.popleft().result()
                store.add(batch.rows, run)
                if batch.skipped:
                    store.mark(origin, [skipped.source for skipped in batch.skipped], run)
                on_written(batch)
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _described(regions: Sequence[Region], encoder: Encoder) -> Floats:
    """Descriptors (N, D); BadInput where the encoder breaks its promise of rows of length 1."""
    vectors = encoder.pictures(regions)
    off = ~(np.abs(np.linalg.norm(vectors, axis=1) - 1) < UNIT_WITHIN)  # NaN is off too
    if off.any():
        region = regions[int(np.argmax(off))]
        raise BadInput(
            f"{region.picture.source}: its descriptor by {encoder.name} has not length 1",
            "an encoder gives finite rows of L2 norm 1",
        )
    return vectors


def _of_one_picture(rows: list[Row], item: str) -> list[Row]:
    """The regions of one stored picture, the item's own where it has the content, else another item's."""
    own = [row for row in rows if row.item.id == item]
    return own or [row for row in rows if row.item.id == rows[0].item.id]


def _regions(
    pictures: Sequence[tuple[Picture, list[Listed]]], finder: RegionFinder, skipped: list[Skipped]
) -> tuple[list[Region], list[list[Listed]]]:
    """Given boxes as given, else what the finder finds; each region beside the entries that share it."""
    regions: list[Region] = []
    owners: list[list[Listed]] = []
    unknown = [pair for pair in pictures if pair[1][0].box is None]
    for (_, entries), found in zip(unknown, finder.regions([picture for picture, _ in unknown]), strict=True):
        regions += found
        owners += [entries] * len(found)
    for picture, entries in pictures:
        if (box := entries[0].box) is not None:
            try:
                regions.append(Region(picture, box))
                owners.append(entries)
            except BadInput as error:
                skipped += [Skipped(entry.source, str(error)) for entry in entries]
    return regions, owners


def chunks(entries: Iterable[Entry], size: int) -> Iterator[list[Entry]]:
    """Entries in lists of at most `size`, none empty."""
    remaining = iter(entries)
    while chunk := list(islice(remaining, size)):
        yield chunk
