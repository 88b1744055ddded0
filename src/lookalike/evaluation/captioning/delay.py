"""What captions cost at the query, in time, and what they bring for it.

Every query is searched without and with its caption, and the two are compared: one at a time (closed loop),
and as queries come by themselves (open loop), where the time that one waits for others counts too. All times
are milliseconds of a monotonic clock.
"""

from __future__ import annotations

import math
import os
import platform
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np

from lookalike.captions.captioner import Telling
from lookalike.captions.chat import Step
from lookalike.catalogue import Catalogue
from lookalike.errors import BadInput
from lookalike.evaluation.captioning.delay_report import (
    TOLERANCE_MS,
    Conditions,
    Cost,
    Delays,
    Phase,
    Spread,
    Worth,
)
from lookalike.evaluation.intervals import paired
from lookalike.evaluation.ranks import Ranks
from lookalike.looking import PictureLike, decoded
from lookalike.refining import Refinement, refined
from lookalike.roles import Captioner
from lookalike.values import Box, Caption, Hits, Picture, Progress, Region

__all__ = ["Conditions", "Delays", "Photo", "measure"]

Value = TypeVar("Value")

TOP = 10  # hits that are compared
STAGES = ("region", "encode", "search", "rerank")  # of the first search, once its picture is decoded
_SETTLED_S = 120.0  # how long a late caption is waited for before the next query is measured


@dataclass(frozen=True, slots=True)
class Photo:
    """A query: its object's place, and which items of the catalogue are right, None where nobody knows."""

    picture: PictureLike
    box: Box | None = None
    right: frozenset[str] | None = None


def measure(
    catalogue: Catalogue,
    captioner: Captioner,
    photos: Sequence[Photo],
    conditions: Conditions | None = None,
    on_progress: Progress | None = None,
) -> Delays:
    """Search with every photo, with and without its caption, and compare.

    The captioner should be ready and its cache empty. The models of the catalogue are warmed up before. In
    the closed loop every second photo is searched with its caption first, and nothing else runs meanwhile: a
    late caption is waited for, outside the measurement.

    BadInput where the catalogue takes no captions with queries, or there are too few photos.
    """
    conditions = conditions or Conditions()
    catalogue.check_query_captions()
    opened = [] if conditions.arrival_rate is None else list(range(1, len(photos), 2))
    closed = [place for place in range(len(photos)) if place not in set(opened)]
    if len(closed) < 1 or (conditions.arrival_rate is not None and not opened):
        raise BadInput(f"{len(photos)} photos", "give one for the closed loop and one for the open, at least")
    course = _Course(catalogue, captioner, photos, conditions)
    total = len(closed) * conditions.rounds + 2 * len(opened)
    course.note = _counting(on_progress, total)
    for caption in ("", "clothes"):
        catalogue.search(photos[0].picture, photos[0].box, top=TOP, caption=caption)
    rounds = [course.closed(closed) for _ in range(conditions.rounds)]
    cold, warm = rounds[0], [pair for each in rounds[1:] for pair in each]
    arrived = course.open(opened) if opened else []
    phases = [("closed", "cold", cold), ("closed", "warm", warm), ("open", "cold", arrived)]
    everything = [*cold, *warm, *arrived]
    wanted = [pair for pair in (*cold, *warm) if pair.told.wanted]
    hits = [pair for pair in wanted if pair.told.hit]
    misses = [pair for pair in wanted if not pair.told.hit]
    sizes = [pair.region.pixels.shape for pair in everything]
    return Delays(
        captioner=captioner.name,
        conditions=conditions,
        photos=len(photos),
        pixels=(int(np.median([size[1] for size in sizes])), int(np.median([size[0] for size in sizes]))),
        gallery=catalogue.store.count().pictures,
        machine=f"{os.cpu_count()} cores, {platform.machine()}",
        phases=tuple(_phase(loop, state, pairs) for loop, state, pairs in phases if pairs),
        d_hit=_spread(hits, lambda pair: pair.told.total_ms - pair.bare_ms),
        d_miss=_spread(misses, lambda pair: pair.told.total_ms - pair.bare_ms),
        hit_share=_mean([float(pair.told.hit) for pair in everything if pair.told.wanted]),
        worth=_worth(photos, [*cold, *arrived]),
        cost=_cost(everything),
    )


class _Watched:
    """A captioner, for one query, that remembers when it was asked and had answered, and by what calls."""

    def __init__(self, captioner: Captioner) -> None:
        self.name = captioner.name
        self._captioner = captioner
        self.began = self.ended = math.nan
        self.steps: tuple[Step, ...] = ()
        self.done = threading.Event()

    def captions(self, regions: Sequence[Region]) -> list[Caption]:
        self.began = time.perf_counter()
        try:
            tell: Callable[[Sequence[Region]], list[Telling]] | None
            tell = getattr(self._captioner, "tellings", None)
            if tell is None:
                return self._captioner.captions(regions)
            tellings = tell(regions)
            self.steps = tuple(step for telling in tellings for step in telling.steps)
            return [telling.caption for telling in tellings]
        finally:
            self.ended = time.perf_counter()
            self.done.set()

    @property
    def asked(self) -> bool:
        return not math.isnan(self.began)


@dataclass(frozen=True, slots=True, eq=False)
class _Told:
    """One query with its caption; times from its arrival."""

    arrived: float
    waited_ms: float  # until it was begun
    decode_ms: float
    first_ms: float
    total_ms: float
    hits: Hits
    refinement: Refinement
    watched: _Watched

    @property
    def wanted(self) -> bool:
        """Whether a caption was wanted at all: the gate may see no need of one."""
        return self.refinement.outcome != "sure"

    @property
    def hit(self) -> bool:
        """Whether its caption was there already: in the catalogue, or all its answers in the cache."""
        if not self.watched.asked:
            return self.refinement.caption is not None
        steps = self.watched.steps
        return bool(steps) and all(step.cached for step in steps)

    def spans(self) -> dict[str, float]:
        """Where `total_ms` went, one after the other; the rest is "residual"."""
        spans = {"arrival": self.waited_ms, "decode": self.decode_ms}
        spans |= {stage: self.hits.timings_ms[stage] for stage in STAGES}
        after = self.total_ms - self.first_ms
        answered = (self.watched.ended - self.arrived) * 1000
        waited = 0.0
        if self.refinement.outcome == "late":
            waited = after
        elif self.watched.asked:
            waited = min(max(0.0, answered - self.first_ms), after)
        again = after - waited if self.refinement.outcome in ("refined", "unchanged") else 0.0
        spans |= {"caption": waited, "search again": again}
        return spans | {"residual": self.total_ms - sum(spans.values())}

    def behind(self) -> dict[str, float] | None:
        """Where the captioner's time went; None where it was not asked.

        Where calls overlap "other" is negative.
        """
        if not self.watched.asked or not self.watched.done.is_set():
            return None
        steps, whole = self.watched.steps, (self.watched.ended - self.watched.began) * 1000
        parts = {
            "queue": sum(step.queue_ms for step in steps),
            "call": sum(step.total_ms for step in steps),
            "retry": sum(step.retry_ms for step in steps),
        }
        return parts | {"other": whole - sum(parts.values()), "whole": whole}


@dataclass(frozen=True, slots=True, eq=False)
class _Pair:
    """The same query without and with its caption."""

    place: int  # among the photos
    bare_ms: float
    bare: Hits
    told: _Told

    @property
    def region(self) -> Region:
        assert self.bare.region is not None  # a picture was searched
        return self.bare.region


@dataclass(slots=True)
class _Course:
    """The searches of one measurement."""

    catalogue: Catalogue
    captioner: Captioner
    photos: Sequence[Photo]
    conditions: Conditions
    note: Callable[[], None] = field(default=lambda: None)

    def closed(self, places: Sequence[int]) -> list[_Pair]:
        """One query after the other, each without and with its caption, in alternating order."""
        pairs = []
        for number, place in enumerate(places):
            if number % 2:
                told = self._settled(self._told(place, time.perf_counter()))
                bare = self._bare(place, time.perf_counter())
            else:
                bare = self._bare(place, time.perf_counter())
                told = self._settled(self._told(place, time.perf_counter()))
            pairs.append(_Pair(place, *bare, told))
            self.note()
        return pairs

    def open(self, places: Sequence[int]) -> list[_Pair]:
        """The queries at the same random moments twice: all of them bare, then all with their captions."""
        rate = self.conditions.arrival_rate
        assert rate is not None
        random = np.random.default_rng(self.conditions.seed)
        moments = np.cumsum(random.exponential(1 / rate, len(places))).tolist()
        bare = self._arriving(places, moments, self._bare)
        told = [self._settled(each) for each in self._arriving(places, moments, self._told)]
        return [_Pair(place, *seen, each) for place, seen, each in zip(places, bare, told, strict=True)]

    def _arriving(
        self, places: Sequence[int], moments: Sequence[float], search: Callable[[int, float], Value]
    ) -> list[Value]:
        """`search` for each place at its moment, or when a worker is free; it is told the moment."""

        def served(place: int, arrival: float) -> Value:
            found = search(place, arrival)
            self.note()
            return found

        with ThreadPoolExecutor(self.conditions.workers) as pool:
            started = time.perf_counter()
            under_way = []
            for place, moment in zip(places, moments, strict=True):
                time.sleep(max(0.0, started + moment - time.perf_counter()))
                under_way.append(pool.submit(served, place, started + moment))
            return [each.result() for each in under_way]

    def _bare(self, place: int, arrived: float) -> tuple[float, Hits]:
        photo = self.photos[place]
        hits = self.catalogue.search(_seen(photo), photo.box, top=TOP)
        return (time.perf_counter() - arrived) * 1000, hits

    def _told(self, place: int, arrived: float) -> _Told:
        photo, conditions = self.photos[place], self.conditions
        watched = _Watched(self.captioner)
        begun = time.perf_counter()
        seen = _seen(photo)
        decode_s = time.perf_counter() - begun
        left_s = conditions.deadline_s - decode_s
        search = refined(
            self.catalogue, watched, seen, photo.box, top=TOP, deadline_s=left_s, gate=conditions.gate
        )
        hits = next(search)
        first_ms = (time.perf_counter() - arrived) * 1000
        refinement = next(search)
        total_ms = (time.perf_counter() - arrived) * 1000
        assert isinstance(hits, Hits)
        assert isinstance(refinement, Refinement)
        waited_ms = (begun - arrived) * 1000
        if refinement.outcome == "late":
            total_ms = max(first_ms, waited_ms + conditions.deadline_s * 1000)
        return _Told(arrived, waited_ms, decode_s * 1000, first_ms, total_ms, hits, refinement, watched)

    def _settled(self, told: _Told) -> _Told:
        """The same, once its captioner is done: a late caption goes on for the cache's sake."""
        if told.watched.asked:
            told.watched.done.wait(_SETTLED_S)
        return told


def _seen(photo: Photo) -> Picture | Region:
    return photo.picture if isinstance(photo.picture, Region) else decoded(photo.picture)


def _phase(loop: str, state: str, pairs: Sequence[_Pair]) -> Phase:
    outcomes: dict[str, float] = {}
    for pair in pairs:
        outcome: str = pair.told.refinement.outcome
        outcomes[outcome] = outcomes.get(outcome, 0.0) + 1 / len(pairs)
    spans = [pair.told.spans() for pair in pairs]
    return Phase(
        loop,
        state,
        bare=_spread(pairs, lambda pair: pair.bare_ms),
        first=_spread(pairs, lambda pair: pair.told.first_ms),
        refined=_spread(pairs, lambda pair: pair.told.total_ms),
        d_first=_spread(pairs, lambda pair: pair.told.first_ms - pair.bare_ms),
        d_online=_spread(pairs, lambda pair: pair.told.total_ms - pair.bare_ms),
        outcomes=outcomes,
        hits=_mean([float(pair.told.hit) for pair in pairs if pair.told.wanted]),
        spans=_means(spans),
        accounted=_mean([float(abs(each["residual"]) <= TOLERANCE_MS) for each in spans]),
        behind=_means([each for pair in pairs if (each := pair.told.behind()) is not None]),
    )


def _worth(photos: Sequence[Photo], pairs: Sequence[_Pair]) -> Worth:
    changed, rightly, wrongly = [], [], []
    measures: dict[str, tuple[list[float], list[float]]] = {n: ([], []) for n in ("R@1", "R@10", "AP@10")}
    places = []
    for pair in pairs:
        before, better = pair.told.hits, pair.told.refinement.hits
        after = before if better is None else better
        changed.append(float([hit.item for hit in before[:1]] != [hit.item for hit in after[:1]]))
        right = photos[pair.place].right
        if not right:
            continue
        places.append(pair.place)
        sides = [Ranks.of([hit.item in right for hit in hits], total=len(right)) for hits in (before, after)]
        was, is_ = (ranks.hit_at(1) for ranks in sides)
        rightly.append(float(is_ > was))
        wrongly.append(float(is_ < was))
        for side, ranks in enumerate(sides):
            for name, value in (
                ("R@1", ranks.hit_at(1)),
                ("R@10", ranks.hit_at(TOP)),
                ("AP@10", ranks.average_precision(TOP)),
            ):
                measures[name][side].append(value)
    gains = {name: paired(*sides, places) for name, sides in measures.items()} if places else {}
    return Worth(len(places), _mean(changed), _mean(rightly), _mean(wrongly), gains)


def _cost(pairs: Sequence[_Pair]) -> Cost:
    """Of the captions whose calls were made, at least in part."""
    made = [
        [step for step in pair.told.watched.steps if not step.cached]
        for pair in pairs
        if pair.told.watched.steps and not pair.told.hit
    ]
    return Cost(
        len(made),
        calls=_mean([float(len(steps)) for steps in made]),
        tokens_in=_mean([float(sum(step.tokens_in for step in steps)) for steps in made]),
        tokens_out=_mean([float(sum(step.tokens_out for step in steps)) for steps in made]),
        call_s=_mean([sum(step.total_ms for step in steps) / 1000 for steps in made]),
    )


def _spread(pairs: Sequence[_Pair], value: Callable[[_Pair], float]) -> Spread:
    return Spread.of([value(pair) for pair in pairs], [pair.place for pair in pairs])


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if values else math.nan


def _means(rows: Sequence[Mapping[str, float]]) -> dict[str, float]:
    return {name: _mean([row[name] for row in rows]) for name in rows[0]} if rows else {}


def _counting(on_progress: Progress | None, total: int) -> Callable[[], None]:
    """Counts what is done, from whatever thread."""
    lock, done = threading.Lock(), 0

    def note() -> None:
        nonlocal done
        with lock:
            done += 1
            if on_progress:
                on_progress(done, total)

    return note
