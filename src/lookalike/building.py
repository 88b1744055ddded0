"""The batch loop of a build: a plan's fragments, one after the other here, or by any number of workers.

What is listed is frozen into a plan first. From then on any process that has the same parts can make any
fragment: `fragment_rows` of what the plan lists for it, then `Build.write`. A killed run is run again, and
makes what is missing.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import groupby
from operator import attrgetter
from pathlib import Path
from typing import Any

from lookalike import doubting, objects
from lookalike.catalogue import Report
from lookalike.datasets import Listed, Unlisted, listing, origin_of
from lookalike.describing import weighs
from lookalike.errors import NoObject
from lookalike.indexing import Batch, Parts, Skipped, batches
from lookalike.store import Build, Plan, Planned
from lookalike.values import Progress, Row

FRAGMENT = 2000  # entries of a listing: some minutes of work on two cores, and some megabytes
_LOOKED_AT = 16  # fragments, for what they tell of captions


@dataclass(frozen=True, slots=True)
class Fragment:
    """What became of a fragment's entries."""

    rows: list[Row]
    listed: int
    encoded: int
    skipped: tuple[Skipped, ...]
    uncaptioned: tuple[Skipped, ...]
    encoder_seconds: float

    def about(self) -> dict[str, Any]:
        """What is kept beside the rows: the report is complete then, whoever made which fragment."""
        return {
            "listed": self.listed,
            "encoded": self.encoded,
            "skipped": [[each.source, each.error] for each in self.skipped],
            "uncaptioned": [[each.source, each.error] for each in self.uncaptioned],
            "encoder_seconds": self.encoder_seconds,
        }


def prepare(
    uri: str, sources: Sequence[Path | str], facts: Mapping[str, str], size: int = FRAGMENT
) -> tuple[Build, Plan]:
    """The build at `uri` and its plan, both begun unless they are there.

    CatalogueError where it was begun from other sources or by other parts than the `facts` tell, ObjectError
    where it cannot be written, both before anything is listed; BadInput where the sources have no pictures.
    """
    uri, origins = objects.normal(uri), [origin_of(source) for source in sources]
    if Build.exists(uri):
        Build.open(uri).check(facts)
    try:
        plan = Plan.open(uri)
        plan.check(origins)
    except NoObject:
        objects.check_writable(uri)
        plan = Plan.make(uri, origins, _planned(origins), size)
    return Build.create(uri, facts, plan.digest, plan.fragments), plan


def weighing(begun: Build, plan: Plan, parts: Parts) -> Parts:
    """The parts with the doubt of their captioner, where the encoder weighs captions by it.

    Found out once, by pictures from all over the plan, and kept in the build: all fragments are made with it.
    """
    if parts.captioner is None or not parts.fused or not weighs(parts.encoder):
        return parts
    if (settled := begun.doubts) is None:
        begun.settle(doubting.of_listed(_sampled(plan), parts))
        settled = begun.doubts
    return replace(parts, doubts=settled or {})


def fragment_rows(
    planned: Sequence[Planned],
    parts: Parts,
    on_batch: Callable[[Batch], None] | None = None,
    threads: int | None = None,
) -> Fragment:
    """Encode what a plan lists for one fragment, by the same steps as `lookalike index` does, on all cores or
    on so many `threads`.

    What cannot be used is in `skipped`. ObjectError where object storage does not answer: then the fragment
    is to be made again.
    """
    rows: list[Row] = []
    made: list[Batch] = []
    for origin, group in groupby(planned, key=attrgetter("origin")):
        with closing(batches((each.entry for each in group), origin, parts, threads=threads)) as encoded:
            for batch in encoded:
                rows += batch.rows
                made.append(batch)
                if on_batch:
                    on_batch(batch)
    return Fragment(
        rows=rows,
        listed=len(planned),
        encoded=sum(batch.encoded for batch in made),
        skipped=tuple(skipped for batch in made for skipped in batch.skipped),
        uncaptioned=tuple(failed for batch in made for failed in batch.uncaptioned),
        encoder_seconds=sum(batch.encoder_seconds for batch in made),
    )


def build(begun: Build, plan: Plan, parts: Parts, on_progress: Progress | None = None) -> Report:
    """Make the fragments that are missing, one after the other in this process, and finish the build."""
    started = time.perf_counter()
    missing, parts = begun.missing(), weighing(begun, plan, parts)
    done = plan.listed - sum(map(plan.length, missing))
    encoded, encoder_seconds = 0, 0.0

    def on_batch(batch: Batch) -> None:
        nonlocal done
        done += batch.listed
        if on_progress:
            on_progress(done, plan.listed)

    for number in missing:
        fragment = fragment_rows(plan.entries(number), parts, on_batch)
        begun.write(number, fragment.rows, fragment.about())
        encoded += fragment.encoded
        encoder_seconds += fragment.encoder_seconds
    return report(begun, plan, encoded, time.perf_counter() - started, encoder_seconds)


def report(begun: Build, plan: Plan, encoded: int, seconds: float, encoder_seconds: float) -> Report:
    """Finish a build of which every fragment is there; what all who made them have to tell.

    `encoded`, `seconds` and `encoder_seconds` are those of this run.
    """
    doubts = begun.doubts
    counts = begun.finish({} if doubts is None else doubting.fact(doubts))
    told = [begun.about(number) for number in range(plan.fragments)]
    return Report(
        listed=plan.listed,
        items=counts.items,
        pictures=counts.pictures,
        regions=counts.regions,
        encoded=encoded,
        vanished=(),
        pruned=0,
        skipped=tuple(Skipped(*each) for about in told for each in about["skipped"]),
        captions=counts.captions,
        uncaptioned=tuple(Skipped(*each) for about in told for each in about["uncaptioned"]),
        doubt=(doubts or {}).get(begun.manifest.facts["captioner"]),
        seconds=seconds,
        encoder_seconds=encoder_seconds,
    )


def _planned(origins: Sequence[str]) -> Iterator[Planned]:
    return (Planned(origin, entry) for origin in origins for entry in listing(origin))


def _sampled(plan: Plan) -> Iterator[Listed | Unlisted]:
    """Entries from some fragments, evenly spread."""
    fragments = range(0, plan.fragments, -(-plan.fragments // _LOOKED_AT))
    each = -(-doubting.SAMPLE // len(fragments))
    for number in fragments:
        entries = plan.entries(number)
        for planned in entries[:: max(1, len(entries) // each)]:
            yield planned.entry
