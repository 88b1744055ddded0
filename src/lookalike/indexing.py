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
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import TypeVar

from lookalike import images
from lookalike.datasets import Listed, Unlisted
from lookalike.describing import described, meant
from lookalike.errors import BadInput, BadPicture
from lookalike.roles import Captioner, Encoder, RegionFinder, Store
from lookalike.values import Box, Caption, Floats, Item, Picture, Region, Row

Entry = TypeVar("Entry")

Find = Callable[[Sequence[str]], Sequence[Row]]  # the rows that are known of contents, see `Store.find`

BATCH = 16  # pictures a worker holds decoded at once


@dataclass(frozen=True, slots=True)
class Skipped:
    """A picture or table row that could not be used, and why."""

    source: str
    error: str


@dataclass(frozen=True, slots=True)
class Parts:
    """What makes rows of pictures. With `fused` captions take part in descriptors.

    `doubts` are the shares of captions that seem to be wrong, by source.
    """

    encoder: Encoder
    finder: RegionFinder
    captioner: Captioner | None = None
    fused: bool = False
    doubts: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Batch:
    """What became of some listed pictures."""

    listed: int
    rows: list[Row]
    skipped: list[Skipped]
    encoded: int  # pictures that were decoded: new, changed, or in want of a caption
    uncaptioned: list[Skipped]  # pictures of which a region has got no caption, and why
    encoder_seconds: float


def _nothing(_sha256s: Sequence[str]) -> Sequence[Row]:
    return ()


def encode_batch(
    listed: Sequence[Listed | Unlisted], origin: str, parts: Parts, find: Find = _nothing
) -> Batch:
    """Bytes to rows. Contents that `find` knows are not decoded again: their descriptors are reused.

    With a captioner that goes for those alone that have its captions; the others are captioned, and encoded
    anew where captions take part in descriptors.
    """
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
    for row in find(sorted({sha256 for _, _, sha256 in contents})):
        asked = row.box if row.score == 1 else None  # a given box scores 1, a found one less
        stored.setdefault((row.sha256, asked), []).append(row)

    rows: list[Row] = []
    pictures: dict[str, Picture] = {}
    fresh: dict[tuple[str, Box | None], list[Listed]] = {}
    for entry, data, sha256 in contents:
        wanted = (sha256, entry.box)
        known = _of_one_picture(stored.get(wanted, []), entry.item.id)
        if known and _captioned(known, parts.captioner):
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

    made = _Work()
    for (sha256, box), entries in fresh.items():
        if (sha256, box) in stored:
            made.keep(pictures[sha256], entries, _of_one_picture(stored[sha256, box], ""), parts.fused)
    skipped += made.find(
        [(pictures[sha256], fresh[sha256, box]) for sha256, box in fresh if (sha256, box) not in stored],
        parts.finder,
    )
    uncaptioned = made.caption(parts.captioner) if parts.captioner else []
    started = time.perf_counter()
    rows += made.describe(origin, parts)
    seconds = time.perf_counter() - started
    return Batch(len(listed), rows, skipped, len(fresh), uncaptioned, encoder_seconds=seconds)


class _Work:
    """Regions on their way to rows: whose they are, and what is known of their captions and descriptors."""

    def __init__(self) -> None:
        self.regions: list[Region] = []
        self.owners: list[list[Listed]] = []  # the entries that share a region
        self.captions: list[Caption | None] = []
        self.vectors: list[Floats | None] = []

    def keep(self, picture: Picture, entries: list[Listed], rows: Sequence[Row], fused: bool) -> None:
        """Stored regions that only want a caption: their descriptors hold unless captions are `fused`."""
        for row in rows:
            self._put(
                Region(picture, row.box, row.score), entries, row.caption, None if fused else row.vector
            )

    def find(self, pictures: Sequence[tuple[Picture, list[Listed]]], finder: RegionFinder) -> list[Skipped]:
        """Given boxes as given, else what the finder finds; what lies outside its picture is skipped."""
        skipped: list[Skipped] = []
        unknown = [pair for pair in pictures if pair[1][0].box is None]
        found = finder.regions([picture for picture, _ in unknown])
        for (_, entries), regions in zip(unknown, found, strict=True):
            for region in regions:
                self._put(region, entries)
        for picture, entries in pictures:
            if (box := entries[0].box) is not None:
                try:
                    self._put(Region(picture, box), entries)
                except BadInput as error:
                    skipped += [Skipped(entry.source, str(error)) for entry in entries]
        return skipped

    def caption(self, captioner: Captioner) -> list[Skipped]:
        """Ask for captions; where one fails the old one stays. -> the failures."""
        failed = []
        told = captioner.captions(self.regions) if self.regions else []
        for place, caption in enumerate(told):
            if caption.error:
                failed.append(Skipped(self.regions[place].picture.source, caption.error))
            else:
                self.captions[place] = caption
        return failed

    def describe(self, origin: str, parts: Parts) -> list[Row]:
        """Encode what has no descriptor yet. -> a row for each region and entry."""
        words = [caption.text if caption else "" for caption in self.captions]
        lacking = [place for place, vector in enumerate(self.vectors) if vector is None]
        if lacking:
            told = [self.captions[place] for place in lacking] if parts.fused else None
            found = described([self.regions[place] for place in lacking], told, parts.encoder, parts.doubts)
            for place, vector in zip(lacking, found, strict=True):
                self.vectors[place] = vector
        meanings = meant(words, parts.encoder)
        rows = []
        for region, entries, caption, vector, meaning in zip(
            self.regions, self.owners, self.captions, self.vectors, meanings, strict=True
        ):
            assert vector is not None
            picture = region.picture
            rows += [
                Row(
                    item=entry.item,
                    source=entry.source,
                    sha256=picture.sha256,
                    width=picture.width,
                    height=picture.height,
                    vector=vector,
                    box=region.box,
                    score=region.score,
                    caption=caption,
                    meaning=meaning,
                    origin=origin,
                )
                for entry in entries
            ]
        return rows

    def _put(
        self,
        region: Region,
        entries: list[Listed],
        caption: Caption | None = None,
        vector: Floats | None = None,
    ) -> None:
        self.regions.append(region)
        self.owners.append(entries)
        self.captions.append(caption)
        self.vectors.append(vector)


def index(
    listed: Iterable[Listed | Unlisted],
    origin: str,
    parts: Parts,
    store: Store,
    run: int,
    on_written: Callable[[Batch], None],
) -> None:
    """Index everything listed under `origin`; `on_written` hears of each batch once it is on disk."""
    with closing(batches(listed, origin, parts, store.find)) as made:
        for batch in made:
            store.add(batch.rows, run)
            if batch.skipped:
                store.mark(origin, [skipped.source for skipped in batch.skipped], run)
            on_written(batch)


def batches(
    listed: Iterable[Listed | Unlisted],
    origin: str,
    parts: Parts,
    find: Find = _nothing,
    threads: int | None = None,
) -> Generator[Batch, None, None]:
    """What `encode_batch` makes of everything listed, in its order, by `threads`: by default one a core."""
    workers = threads or os.cpu_count() or 1
    chunked = chunks(listed, BATCH)
    waiting: deque[Future[Batch]] = deque()
    with ThreadPoolExecutor(workers, thread_name_prefix="index") as pool:
        try:
            while True:
                for chunk in islice(chunked, workers + 1 - len(waiting)):  # one batch ahead of the workers
                    waiting.append(pool.submit(encode_batch, chunk, origin, parts, find))
                if not waiting:
                    return
                yield waiting.popleft().result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def put(
    items: Sequence[Item],
    listed: Sequence[Listed],
    origin: str,
    parts: Parts,
    store: Store,
    facts: Mapping[str, str] | None = None,
) -> Batch:
    """Make items what they are told to be, with exactly the pictures listed, see `Store.replace`.

    One batch, which this thread alone carries, and one transaction: BadPicture where a picture cannot be
    used, and nothing has changed.
    """
    batch = encode_batch(listed, origin, parts, store.find)
    if batch.skipped:
        raise BadPicture(batch.skipped[0].error)
    store.replace(items, batch.rows, facts)
    return batch


def _captioned(rows: Sequence[Row], captioner: Captioner | None) -> bool:
    """Whether the rows have what this captioner says, or nobody asks for it."""
    return captioner is None or all(row.caption and row.caption.by == captioner.name for row in rows)


def _of_one_picture(rows: list[Row], item: str) -> list[Row]:
    """The regions of one stored picture, the item's own where it has the content, else another item's."""
    own = [row for row in rows if row.item.id == item]
    return own or [row for row in rows if row.item.id == rows[0].item.id]


def chunks(entries: Iterable[Entry], size: int) -> Iterator[list[Entry]]:
    """Entries in lists of at most `size`, none empty."""
    remaining = iter(entries)
    while chunk := list(islice(remaining, size)):
        yield chunk
