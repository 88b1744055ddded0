"""Geometric verification on top of a descriptor: what it gains and costs, and which pairs it can verify.

Pictures are read and compared pair by pair, so a sample of the queries asks, the same for every descriptor.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from pathlib import Path
from statistics import median
from typing import Any, get_args

import numpy as np

from lookalike import images
from lookalike.datasets import Labelled
from lookalike.errors import MissingExtra, WeightsError
from lookalike.evaluation.bench import Bench
from lookalike.evaluation.posed import Posed
from lookalike.evaluation.protocols import Protocol
from lookalike.evaluation.runs import Answer
from lookalike.rerank import Geometric, SuperGlobal
from lookalike.rerank.geometric import Features, Kind, Memory, inliers, local_features
from lookalike.roles import Reranker
from lookalike.values import Box, Query, Region, Shortlist

SAMPLE = 150  # queries, about
PAIRS = 300  # true pairs, at most
TIMED = 8  # queries
HELD = 2_000_000_000  # bytes of memory for local features and comparisons: nothing is worked out twice


def verification(
    bench: Bench, how: Protocol, split: str, tune: str | None, superglobal: Mapping[str, Any], memory: Memory
) -> dict[str, Any]:
    """What geometric verification comes to on a descriptor, with each kind of local features, for JSON.

    {"queries", "groups": of the sample, "of": queries in all, "kinds": {kind: …}}. A kind has "systems"
    (name, parameters, and each query's "ap" and "first" rank, None where there is none), "verify": pairs a
    query, "cost", "true" and "wrong" pairs; or "not_run", the reason. The rule is fitted on the split `tune`,
    if any; `superglobal` holds the parameters of SuperGlobal where it runs before. `memory` may be shared by
    all descriptors: what was compared for one need not be compared for the next.
    """
    posed = bench.pose(how, split)
    numbers = posed.sampled(SAMPLE)
    tuned_on = bench.pose(how, tune) if tune else None
    kinds: dict[str, Any] = {}
    for kind in get_args(Kind):
        try:
            geometric = Geometric(kind, memory=memory)
        except (MissingExtra, WeightsError) as error:
            kinds[kind] = {"not_run": str(error).replace(str(Path.home()), "~")}  # reports are published
            continue
        cost = _cost(bench, posed, geometric)
        seen = _compared(bench, posed, geometric, numbers, cost["kept_ms"])
        fitted = _fitted(bench, tuned_on, geometric, cost["kept_ms"]) if tuned_on is not None else {}
        best = fitted.get("best", {})
        suited, setting = replace(geometric, **best), " (tuned)" if fitted else ""
        ways: list[tuple[str, Mapping[str, Any], tuple[Reranker, ...]]] = [("geometric", {}, (geometric,))]
        if fitted:
            ways.append((f"geometric{setting}", best, (suited,)))
        chain = (SuperGlobal(**superglobal), suited)
        ways.append((f"superglobal+geometric{setting}", {**superglobal, **best}, chain))
        true, wrong, kept = _pairs(bench, posed, numbers, seen, kind)
        kinds[kind] = {
            "systems": [_system(posed, numbers, *way) for way in ways],
            "verify": geometric.verify, "tuning": fitted, "cost": {**cost, **kept},
            "true": true, "wrong": wrong,
        }  # fmt: skip
    return {
        "queries": [posed.task.queries[number].id for number in numbers],
        "groups": [posed.groups[number] for number in numbers],
        "of": len(posed.task.queries),
        "kinds": kinds,
    }


@dataclass(frozen=True, slots=True)
class _Witness:
    """Geometric verification that remembers the inliers of what it compared, by gallery id, best first."""

    part: Geometric
    seen: dict[str, int] = field(default_factory=dict)
    name: str = "geometric"

    def rerank(self, query: Query, shortlist: Shortlist) -> Shortlist:
        counts = self.part.verified(query.regions[0], shortlist)
        rows = shortlist.rows(self.part.verify)
        self.seen.update((row.item.id, count) for row, count in zip(rows, counts.tolist(), strict=True))
        return shortlist


@dataclass(frozen=True, slots=True)
class _Clock:
    """Times a query twice: nothing remembered, then with the features of the gallery at hand."""

    part: Geometric
    read: list[float] = field(default_factory=list)  # seconds
    kept: list[float] = field(default_factory=list)
    name: str = "geometric"

    def rerank(self, query: Query, shortlist: Shortlist) -> Shortlist:
        part = replace(self.part, memory=Memory(HELD))
        region = query.regions[0]
        for asked, seconds in ((region, self.read), (_moved(region), self.kept)):
            started = time.perf_counter()
            part.verified(asked, shortlist)
            seconds.append(time.perf_counter() - started)
        return shortlist


def _moved(region: Region) -> Region:
    """A pixel narrower: another region to what remembers comparisons, the same to what makes them."""
    picture = region.picture
    box = region.box or Box(0, 0, picture.width, picture.height)
    if box.x1 - box.x0 <= 2:
        return region
    return Region(picture, Box(box.x0 + 1, box.y0, box.x1, box.y1))


def _asked(posed: Posed, numbers: Sequence[int], parts: tuple[Reranker, ...]) -> list[Answer]:
    """Answers with re-rankers of one's own, which a task takes as the parts of a chain."""
    return posed.measure("", "superglobal+geometric", {"parts": parts}, numbers)[1]


def _system(
    posed: Posed,
    numbers: Sequence[int],
    name: str,
    parameters: Mapping[str, Any],
    parts: tuple[Reranker, ...],
) -> dict[str, Any]:
    answers = _asked(posed, numbers, parts)
    values = posed.column(answers).tolist()
    return {
        "name": name,
        "parameters": dict(parameters),
        "ap": [None if value != value else round(value, 6) for value in values],
        "first": [answer.rank for answer in answers],
    }


def _cost(bench: Bench, posed: Posed, geometric: Geometric) -> dict[str, float]:
    """Medians of single queries, in milliseconds: `read_ms` with all pictures read, `kept_ms` without."""
    clock = _Clock(geometric)
    numbers = posed.sampled(TIMED + 1)[: TIMED + 1]
    progress = bench.stage(f"timing geometric ({geometric.features})")
    for done, number in enumerate(numbers):
        progress(done, len(numbers))
        _asked(posed, [number], (clock,))
    later = slice(1 if len(numbers) > 1 else 0, None)  # the first one loads what is loaded once
    read, kept = (1000 * median(seconds[later]) for seconds in (clock.read, clock.kept))
    return {"read_ms": round(read, 1), "kept_ms": round(kept, 1), "timed": len(clock.read[later])}


def _compared(
    bench: Bench, posed: Posed, geometric: Geometric, numbers: Sequence[int], each_ms: float
) -> list[dict[str, int]]:
    """For each query the inliers with its first V gallery regions, by id, best first."""
    about = f"about {max(1, round(len(numbers) * each_ms / 60_000))} min and reading the gallery"
    progress = bench.stage(f"geometric ({geometric.features}), {len(numbers)} queries, {about}")
    found = []
    for done, number in enumerate(numbers):
        progress(done, len(numbers))
        witness = _Witness(geometric)
        _asked(posed, [number], (witness,))
        found.append(witness.seen)
    return found


def _fitted(bench: Bench, posed: Posed, geometric: Geometric, each_ms: float) -> dict[str, Any]:
    """The whole grid on a sample of other queries: {"queries", "trials", "best"}, of equal ones the first."""
    numbers = posed.sampled(SAMPLE)
    _compared(bench, posed, geometric, numbers, each_ms)
    grid = Geometric.GRID
    trials = []
    progress = bench.stage(f"tuning geometric ({geometric.features})")
    combinations = [dict(zip(grid, values, strict=True)) for values in product(*grid.values())]
    for done, parameters in enumerate(combinations):
        progress(done, len(combinations))
        answers = _asked(posed, numbers, (replace(geometric, **parameters),))  # type: ignore[arg-type]
        reached = round(float(np.nanmean(posed.column(answers))), 6)
        trials.append({"parameters": parameters, posed.how.metrics[0]: reached})
    best = max(trials, key=lambda trial: trial[posed.how.metrics[0]])  # type: ignore[arg-type, return-value]
    return {"queries": len(numbers), "trials": trials, "best": best["parameters"]}


def _pairs(
    bench: Bench, posed: Posed, numbers: Sequence[int], seen: Sequence[Mapping[str, int]], kind: Kind
) -> tuple[list[dict[str, Any]], list[dict[str, Any]], dict[str, float]]:
    """True pairs, each query's first wrong answer, and what the true pairs' gallery features are like.

    True pairs are drawn from all of the queries' right answers; `listed` are those that were in the short
    list, the others are compared here.
    """
    right = {number: posed.task.judgements[0].right[number].tolist() for number in numbers}
    every = [(place, number, answer) for place, number in enumerate(numbers) for answer in right[number]]
    drawn = np.random.default_rng(0).permutation(len(every))[:PAIRS]
    progress = bench.stage(f"true pairs ({kind})")
    true = []
    points, sizes = [], []
    for done, (place, number, answer) in enumerate(every[pair] for pair in sorted(drawn)):
        progress(done, len(drawn))
        member = posed.task.gallery[answer]
        theirs = _features(member, kind)
        points.append(len(theirs))
        sizes.append(theirs.nbytes)
        count = seen[place].get(member.id)
        if count is None:
            own = _features(posed.task.queries[number], kind)
            true.append({"group": posed.groups[number], "inliers": inliers(own, theirs), "listed": False})
        else:
            true.append({"group": posed.groups[number], "inliers": count, "listed": True})
    wrong: list[dict[str, Any]] = []
    for number, compared in zip(numbers, seen, strict=True):
        known = {posed.task.gallery[answer].id for answer in right[number]}
        first = next((count for name, count in compared.items() if name not in known), None)
        if first is not None:
            wrong.append({"group": posed.groups[number], "inliers": first})
    about: dict[str, float] = {
        "points": round(float(np.mean(points))),
        "bytes_per_region": round(float(np.mean(sizes))),
    }
    return true, wrong, about


def _features(region: Labelled, kind: Kind) -> Features:
    return local_features(Region(images.load(region.source), region.box), kind)
