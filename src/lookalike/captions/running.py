"""A captioning run: listed pictures in, a stream of records out, a few of them in memory at any time."""

from __future__ import annotations

import time
from collections.abc import Collection, Generator, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import groupby, islice

from lookalike import images
from lookalike.captions.captioner import Guarded, ModelCaptioner, of_item, tellings_of
from lookalike.captions.records import Record
from lookalike.captions.vocabulary import Vocabulary
from lookalike.datasets import Listed, Unlisted
from lookalike.errors import BadInput, BadPicture
from lookalike.roles import Captioner, RegionFinder
from lookalike.values import Box, Region

Entry = Listed | Unlisted


@dataclass(frozen=True, slots=True)
class Unread:
    """A listed picture that cannot be used, and why."""

    source: str
    error: str


def records(
    listed: Iterable[Entry],
    captioner: Captioner,
    width: int = 8,
    finder: RegionFinder | None = None,
    done: Collection[tuple[str, str, Box | None]] = (),
    vocabulary: Vocabulary | None = None,
    titles: bool = False,
) -> Generator[Record | Unread, None, None]:
    """A record for each region, in the order in which they are finished; `width` pictures at a time.

    A region is the given box, what `finder` finds first where there is none, or the whole picture. `done` are
    path, item and given box of those that have their record already. With a `vocabulary` the pictures of an
    item, which are then listed one after the other, share one caption: what they agree in, and in front of it
    the merchant's title if `titles` says so.

    Closing the iterator before its end breaks off what is under way, and closes a captioner that asks models.
    """
    shared = vocabulary is not None
    jobs = (
        job
        for job in (_by_item(listed) if shared else ([entry] for entry in listed))
        if not all(is_done(entry, done) for entry in job)
    )
    under_way: set[Future[list[Record | Unread]]] = set()
    pool = ThreadPoolExecutor(width, thread_name_prefix="caption")
    try:
        while True:
            for job in islice(jobs, 2 * width - len(under_way)):
                under_way.add(pool.submit(_records, job, captioner, finder, vocabulary, titles))
            if not under_way:
                return
            finished, under_way = wait(under_way, return_when=FIRST_COMPLETED)
            for future in finished:
                yield from future.result()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
        if under_way and isinstance(captioner, ModelCaptioner | Guarded):
            captioner.close()
        pool.shutdown()


def _records(
    job: Sequence[Entry],
    captioner: Captioner,
    finder: RegionFinder | None,
    vocabulary: Vocabulary | None,
    titles: bool,
) -> list[Record | Unread]:
    """Of the pictures of one item, or of one picture."""
    made: list[Record | Unread] = []
    regions: list[tuple[Listed, Region]] = []
    for entry in job:
        if isinstance(entry, Unlisted):
            made.append(Unread(entry.source, entry.error))
            continue
        try:
            regions.append((entry, _region(entry, finder)))
        except (BadPicture, BadInput) as error:
            made.append(Unread(entry.source, str(error)))
    started = time.perf_counter()
    tellings = tellings_of(captioner, [region for _, region in regions])
    seconds = (time.perf_counter() - started) / max(1, len(regions))
    if vocabulary is not None and tellings:
        title = regions[0][0].item.title if titles else ""
        shared = of_item([telling.caption for telling in tellings], vocabulary, title)
        tellings = [replace(telling, caption=shared) for telling in tellings]
    created = datetime.now(UTC).isoformat(timespec="seconds")
    made += [
        Record(
            path=entry.source,
            item=entry.item.id,
            sha256=region.picture.sha256,
            box=region.box,
            caption=telling.caption,
            score=region.score,
            prose=telling.prose,
            transcript=telling.steps,
            seconds=seconds,
            created=created,
        )
        for (entry, region), telling in zip(regions, tellings, strict=True)
    ]
    return made


def _region(entry: Listed, finder: RegionFinder | None) -> Region:
    picture = images.load(entry.source)
    if entry.box is not None or finder is None:
        return Region(picture, entry.box)
    return finder.regions([picture])[0][0]


def _by_item(listed: Iterable[Entry]) -> Iterator[list[Entry]]:
    """Neighbours in the list that belong to one item."""
    for _, group in groupby(listed, lambda entry: entry.item.id if isinstance(entry, Listed) else id(entry)):
        yield list(group)


def is_done(entry: Entry, done: Collection[tuple[str, str, Box | None]]) -> bool:
    """Whether a region is among those that have their record, see `records`; what is not listed never is."""
    return isinstance(entry, Listed) and (entry.source, entry.item.id, entry.box) in done
