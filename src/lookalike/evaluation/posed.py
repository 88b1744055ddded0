"""A posed task: rankings from `Catalogue.rank`, the path that a search takes, and what they are worth."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lookalike import images, ranking
from lookalike.catalogue import Catalogue
from lookalike.datasets import Labelled, Side
from lookalike.datasets.deepfashion2 import CATEGORIES
from lookalike.datasets.photos import write_table
from lookalike.evaluation.intervals import mean_interval, sliced
from lookalike.evaluation.metrics import Ranks, ndcg
from lookalike.evaluation.protocols import GRADED_AT, Protocol, measure
from lookalike.evaluation.runs import Answer, Figure, System
from lookalike.evaluation.tasks import Asking, Judgement, Task, on_found_regions
from lookalike.settings import Settings, open_catalogue
from lookalike.values import Box, Floats, Keys, Progress, Query, Region, Row

if TYPE_CHECKING:
    from lookalike.evaluation.bench import Bench

GIVEN = "given"  # query regions: the annotated boxes
TRANSDUCTIVE = "k-reciprocal-transductive"  # it looks at the other queries too: no search can do that
SHOWN = 20  # of a ranking, what an answer keeps
TIMED = 20  # queries that single searches are timed with
DEPTHS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)  # of the recall curve
RECALLS = np.linspace(0, 1, 21)  # of the precision-recall curve

Stage = Callable[[str], Progress]
Values = NDArray[np.float64]


class Posed:
    """A task whose regions are encoded: ask it to measure systems."""

    def __init__(
        self,
        bench: Bench,
        how: Protocol,
        task: Task,
        regions: Sequence[Labelled],
        gallery: Path,
        queries: Path | None,
        left_out: tuple[str, ...],
    ) -> None:
        self.how, self.left_out = how, left_out
        self._bench, self._gallery = bench, gallery
        self._pictures = {
            region.source: region.id.partition("/")[0] for region in regions
        }  # DeepFashion2's ids
        asking = [] if queries is None else self._rows(queries)
        by_item: dict[str, list[Row]] = {}
        for row in asking:
            by_item.setdefault(row.item.id, []).append(row)
        self._seen = [by_item.get(query.id, []) for query in task.queries]  # candidate regions, best first
        searched = self._rows(gallery)
        if how.detected:
            best_first = sorted(asking, key=lambda row: -row.score)
            task, own = on_found_regions(task, regions, _found(best_first), _found(searched))
            self._seen = [[] if place is None else [best_first[place]] for place in own]
            places = np.arange(len(searched))
        else:  # what a protocol's filter keeps out is at place -1
            place_of = {region.id: place for place, region in enumerate(task.gallery)}
            places = np.array([place_of.get(row.item.id, -1) for row in searched], np.int64)
        self.task = task
        self.groups = [query.group for query in task.queries]
        with self._opened("none", {}) as catalogue, catalogue.store.view() as view:
            self._places = np.full(int(view.keys[-1]) + 1, -1, np.int64)  # by region key
            self._places[view.keys] = places
            self.bytes_per_region = catalogue.store.bytes_on_disk() // view.size
        self.encode_ms = self._timed_encoder()

    def _rows(self, folder: Path) -> list[Row]:
        """In the order of their keys."""
        with open_catalogue(folder, Settings(encoder=self._bench.encoder), create=False) as catalogue:
            return list(catalogue.store.scan())

    def measure(
        self, title: str, rerank: str, parameters: Mapping[str, Any], some: Sequence[int] | None = None
    ) -> tuple[System, list[Answer]]:
        """One system's figures, and its answers in the order of the queries (of `some` of them only)."""
        numbers = range(len(self.task.queries)) if some is None else some
        progress = self._bench.stage(f"ranking: {title}") if some is None else None
        answers: dict[int, Answer] = {}
        curves = _Curves(len(self.task.gallery))
        mark = np.zeros(len(self.task.gallery), np.int8)
        started = time.perf_counter()
        with self._opened(rerank, parameters) as catalogue:
            for number, order, scores in self._rankings(catalogue, numbers):
                answers[number] = self._judged(number, order, scores, mark, curves)
                if progress:
                    progress(len(answers), len(numbers))
            seconds = time.perf_counter() - started
            latency = self._latency(catalogue) if some is None else {}
        told = [answers[number] for number in numbers]
        system = System(
            name=title,
            rerank=rerank,
            parameters=parameters,
            figures=self._figures(told, numbers) if some is None else {},
            slices=self._slices(told) if some is None else {},
            recall_at=curves.recall_at(),
            precision_recall=curves.precision_recall(),
            latency_ms=latency,
            rank_ms=1000 * seconds / len(told),
        )
        return system, told

    @property
    def unanswerable(self) -> int:
        """Queries that are left out of the means."""
        right = self.task.judgements[0].right
        return 0 if self.how.detected else sum(len(places) == 0 for places in right)

    def column(self, answers: Sequence[Answer]) -> Values:
        """The headline's value of each answer (Q,), nan where there was nothing right to find."""
        return _values(answers, self.task.judgements[0].name, self.how.metrics[0])

    def sampled(self, about: int) -> list[int]:
        """The queries of random groups, `about` so many of them, ascending; the same ones every time."""
        names = sorted(set(self.groups))
        order = np.random.default_rng(0).permutation(len(names))
        by_group: dict[str, list[int]] = {}
        for number, group in enumerate(self.groups):
            by_group.setdefault(group, []).append(number)
        chosen: list[int] = []
        for place in order:
            if len(chosen) < about:
                chosen += by_group[names[place]]
        return sorted(chosen)

    def official_results(self, answers: Sequence[Answer]) -> list[dict[str, Any]]:
        """Answers on found regions in the form that DeepFashion2's own script reads."""
        gallery = {region.id: region for region in self.task.gallery}
        results = []
        for query, rows, answer in zip(self.task.queries, self._seen, answers, strict=True):
            found = [gallery[name] for name, _, _ in answer.top]
            for row in rows:
                box = row.box or Box(0, 0, row.width, row.height)
                results.append(
                    {
                        "query_image_id": int(self._pictures[query.source]),
                        "query_bbox": list(box.corners),
                        "query_cls": CATEGORIES.index(query.category) + 1,
                        "query_score": row.score,
                        "gallery_image_id": [int(self._pictures[region.source]) for region in found],
                        "gallery_bbox": [list(region.box.corners) for region in found if region.box],
                    }
                )
        return results

    def write_tables(self, folder: Path) -> None:
        for name, regions in (("queries", self.task.queries), ("gallery", self.task.gallery)):
            write_table(map(_shown, regions), folder / f"{name}.jsonl")

    def _opened(self, rerank: str, parameters: Mapping[str, Any]) -> Catalogue:
        reranker = None
        if rerank != "none":
            extra = {}
            if rerank == TRANSDUCTIVE:
                extra["others"] = np.stack([row.vector for rows in self._seen for row in rows])
            reranker = replace(self._bench.reranker(rerank), **parameters, **extra)
        finder = self._bench.regions
        settings = Settings(
            encoder=self._bench.encoder,
            query_regions="whole" if finder == GIVEN else finder,
            rerank=reranker or "none",
        )
        return open_catalogue(self._gallery, settings, create=False)

    def _rankings(self, catalogue: Catalogue, numbers: Sequence[int]) -> Iterator[tuple[int, Keys, Floats]]:
        """For each query, not in their order: gallery places and scores, both (N,), best first."""
        by_filter: dict[str | None, list[int]] = {}
        for number in numbers:
            by_filter.setdefault(self.task.where[number] if self.task.where else None, []).append(number)
        for where, alike in by_filter.items():
            blocks = catalogue.rank(self._asked(catalogue, alike), where=where)
            rows = ((keys, scores) for block in blocks for keys, scores in zip(*block, strict=True))
            for number, (keys, scores) in zip(alike, rows, strict=True):
                places = self._places[keys[keys >= 0]]
                yield number, *_in_order(places, scores[keys >= 0])

    def _asked(self, catalogue: Catalogue, numbers: Sequence[int]) -> Iterator[Query]:
        meanings: dict[int, Floats] = {}
        if self.task.texts:
            found = catalogue.encoder.texts([self.task.texts[number] for number in numbers])
            meanings = {} if found is None else dict(zip(numbers, found, strict=True))
        with catalogue.store.view() as view:
            for number in numbers:
                rows, words = self._seen[number], self.task.texts[number] if self.task.texts else None
                if len(rows) > 1:
                    place, _ = ranking.standing_out(view, np.stack([row.vector for row in rows]), 1)
                    rows = rows[place : place + 1]
                vector = ranking.combined([row.vector for row in rows], meanings.get(number))
                regions: tuple[Region, ...] = ()
                if catalogue.reranker is not None:  # it may want to look
                    regions = tuple(Region(images.load(row.source), row.box) for row in rows)
                yield Query(vector, regions, words)

    def _judged(
        self, number: int, order: Keys, scores: Floats, mark: NDArray[np.int8], curves: _Curves
    ) -> Answer:
        values: dict[str, dict[str, float | None]] = {}
        headline: tuple[Ranks, Keys, NDArray[np.bool_]] | None = None
        for judgement in self.task.judgements:
            ranks, raw, kept = _ranks(order, judgement, number, mark, least=int(self.how.detected))
            figures = {metric: self._value(metric, ranks, number, order[kept]) for metric in self.how.metrics}
            values[judgement.name] = {
                metric: None if math.isnan(value) else round(value, 9) for metric, value in figures.items()
            }
            headline = headline or (ranks, raw, kept)
        assert headline is not None
        ranks, raw, kept = headline
        curves.add(ranks)
        gallery = self.task.gallery
        first, right = order[kept][:SHOWN], set(order[raw].tolist())
        return Answer(
            query=self.task.queries[number].id,
            group=self.groups[number],
            values=values,
            rank=int(ranks.found[0]) + 1 if len(ranks.found) else None,
            right=gallery[order[raw[0]]].id if len(raw) else None,
            total=ranks.total,
            top=tuple(
                (gallery[place].id, round(float(score), 6), place in right)
                for place, score in zip(first.tolist(), scores[kept][:SHOWN], strict=True)
            ),
            found=len(ranks.found),
        )

    def _value(self, metric: str, ranks: Ranks, number: int, order: Keys) -> float:
        if self.task.grades is None or not metric.startswith("graded"):
            return measure(metric, ranks)
        grades = self.task.grades(number)
        return ndcg(grades[order], GRADED_AT, ideal=grades) if ranks.total else math.nan

    def _figures(self, answers: Sequence[Answer], numbers: Sequence[int]) -> dict[str, dict[str, Figure]]:
        groups = [self.groups[number] for number in numbers]
        table: dict[str, dict[str, Figure]] = {}
        for judgement in self.task.judgements:
            for metric in self.how.metrics:
                values = _values(answers, judgement.name, metric)
                if not np.isnan(values).all():
                    interval = mean_interval(values, groups)
                    table.setdefault(judgement.name, {})[metric] = _figure(interval)
        return table

    def _slices(self, answers: Sequence[Answer]) -> dict[str, dict[str, Figure]]:
        """The headline by category and by every facet that the queries have."""
        values = self.column(answers)
        told: dict[str, dict[str, Figure]] = {}
        for facet in ["category", *dict.fromkeys(name for q in self.task.queries for name in q.facets)]:
            labels = [
                query.category if facet == "category" else query.facets.get(facet, "")
                for query in self.task.queries
            ]
            parts = sliced(values, self.groups, labels)
            some = {label: _figure(part) for label, part in parts.items() if label and part.n}
            if len(some) > 1:
                told[facet] = some
        return told

    def _latency(self, catalogue: Catalogue) -> dict[str, float]:
        """Medians of the stages of single searches for the first ten items."""
        timings = []
        for number in self.sampled(TIMED)[: TIMED + 1]:
            query = self.task.queries[number]
            # A space and a pixel: a re-ranker that remembers what it compared shall not be timed remembering.
            words = f"{self.task.texts[number]} " if self.task.texts else None
            box = query.box if self._bench.regions == GIVEN else None
            if box is not None and box.x1 - box.x0 > 2:
                box = Box(box.x0 + 1, box.y0, box.x1, box.y1)
            picture = None if self.task.asking is Asking.WORDS else query.source
            timings.append(catalogue.search(picture, box if picture else None, words).timings_ms)
        timings = timings[1:] or timings  # the first one loads what is loaded once
        return {stage: round(median(t[stage] for t in timings), 3) for stage in timings[0]}

    def _timed_encoder(self) -> float:
        """Milliseconds a region in batches of 16, the median of three."""
        regions = [Region(images.load(region.source), region.box) for region in self.task.gallery[:16]]
        seconds = []
        for _ in range(3):
            started = time.perf_counter()
            self._bench.encoder.pictures(regions)
            seconds.append(time.perf_counter() - started)
        return round(1000 * median(seconds) / len(regions), 3)


class _Curves:
    """The headline's curves, summed up query by query."""

    def __init__(self, gallery: int) -> None:
        self._depths = [depth for depth in DEPTHS if depth < gallery] + [gallery]
        self._hits = np.zeros(len(self._depths))
        self._precision = np.zeros(len(RECALLS))
        self._queries = 0

    def add(self, ranks: Ranks) -> None:
        if ranks.total == 0:
            return
        self._queries += 1
        self._hits += [ranks.hit_at(depth) for depth in self._depths]
        precision = (np.arange(len(ranks.found)) + 1) / (ranks.found + 1)
        best_from = np.maximum.accumulate(precision[::-1])[::-1]  # interpolated: at this recall or more
        needed = np.maximum(np.ceil(RECALLS * ranks.total - 1e-9).astype(int), 1) - 1
        reached = needed < len(best_from)
        self._precision[reached] += best_from[needed[reached]]

    def recall_at(self) -> tuple[tuple[int, float], ...]:
        shares = (self._hits / max(self._queries, 1)).round(6).tolist()
        return tuple(zip(self._depths, shares, strict=True))

    def precision_recall(self) -> tuple[tuple[float, float], ...]:
        precision = (self._precision / max(self._queries, 1)).round(6).tolist()
        return tuple(zip(RECALLS.round(3).tolist(), precision, strict=True))


def _ranks(
    order: Keys, judgement: Judgement, number: int, mark: NDArray[np.int8], least: int
) -> tuple[Ranks, Keys, NDArray[np.bool_]]:
    """Ranks of the right answers among what counts; where they stand in `order` (N,), and what counts there.

    `mark` (gallery,) is all zeros, and is so again afterwards. Right answers count as `least` at least: 1
    makes a miss of a query that has none.
    """
    right, ignored = judgement.right[number], judgement.ignored[number]
    mark[right], mark[ignored] = 1, 2
    marked = mark[order]
    mark[right] = mark[ignored] = 0
    found = np.flatnonzero(marked == 1)
    ranks = Ranks(found, total=max(len(right), least)).without(np.flatnonzero(marked == 2))
    return ranks, found, marked != 2


def _in_order(places: Keys, scores: Floats) -> tuple[Keys, Floats]:
    """A ranking (N,) with equal scores in the order of the gallery, not of when they were stored."""
    if (scores[1:] < scores[:-1]).all():
        return places, scores
    order = np.lexsort((places, -scores))
    return places[order], scores[order]


def _values(answers: Sequence[Answer], judgement: str, metric: str) -> Values:
    values = (answer.values[judgement][metric] for answer in answers)
    return np.array([math.nan if value is None else value for value in values], np.float64)


def _figure(interval: Any) -> Figure:
    low, high = (0.0, 1.0) if math.isnan(interval.low) else (interval.low, interval.high)  # one group
    return Figure(interval.mean, low, high, interval.n, interval.groups)


def _shown(region: Labelled) -> dict[str, Any]:
    """A row for people and reports."""
    row: dict[str, Any] = {"path": region.source, "item": region.id, "identity": region.identity or ""}
    if region.box is not None:
        row["box"] = list(region.box.corners)
    if region.captions or region.words:
        row["title"] = region.words or region.captions[0]
    return row | {"category": region.category, **region.facets}


def _found(rows: Sequence[Row]) -> list[Labelled]:
    """What a finder found; no region is the whole picture's box."""
    return [
        Labelled(
            id=f"{row.item.id}/{number}",
            source=row.source,
            side=Side.GALLERY,
            identity=None,
            group="",
            box=row.box or Box(0, 0, row.width, row.height),
        )
        for number, row in enumerate(rows)
    ]
