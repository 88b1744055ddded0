"""A data set on the bench: its regions encoded, its tasks posed, re-rankers fitted.

Descriptors are made by the indexing loop of every catalogue and kept in catalogues: a killed evaluation, run
again, encodes what is missing.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from lookalike.datasets import Dataset, Labelled, Side, Unlisted, origin_of
from lookalike.datasets.photos import write_table
from lookalike.errors import BadInput
from lookalike.evaluation.posed import GIVEN, TRANSDUCTIVE, Posed, Stage
from lookalike.evaluation.protocols import Protocol
from lookalike.evaluation.tasks import Asking
from lookalike.roles import Captioner, Encoder
from lookalike.settings import Settings, open_catalogue, open_reranker
from lookalike.values import TOLD_GALLERY, TOLD_QUERIES, Caption, Region

_TOLD = {"gallery": TOLD_GALLERY, "queries": TOLD_QUERIES}
TUNED_ON = 300  # queries, about, that parameters are fitted to


class Bench:
    """A data set's descriptors by one encoder, and the tasks that are posed on them."""

    def __init__(
        self,
        dataset: Dataset,
        encoder: Encoder,
        regions: str,
        folder: Path,
        stage: Stage,
        allow_missing: bool = False,
        regime: str = "image",
        captioner: Captioner | None = None,
    ) -> None:
        """`regions` says where queries get their region from; descriptors are kept below `folder`.

        The `captioner` speaks of the gallery in the regimes "train+gallery…", of queries in the last.
        """
        self._dataset, self.encoder, self.regions = dataset, encoder, regions
        self._regime, self._captioner = regime, captioner
        self.uncaptioned: dict[str, int] = {}  # regions without a caption, by side
        self.stage, self._allow_missing = stage, allow_missing
        self._rerankers: dict[str, Any] = {}
        self._tuned_on: dict[tuple[str, str], Posed] = {}
        place = hashlib.sha256(str(dataset.folder.absolute()).encode()).hexdigest()[:8]
        self._folder = folder / f"{dataset.name}-{place}"

    def pose(self, how: Protocol, split: str) -> Posed:
        """A protocol's task on a split, with everything encoded."""
        regions, left_out = self._read(split)
        self._refuse(left_out)
        while True:  # posed anew without what turns out to be unusable
            if left_out:
                regions = _without_gaps(regions)
            task = how.pose(regions)
            queries, finder = task.queries, GIVEN
            gallery: Sequence[Labelled] = [region for region in regions if region.side is not Side.QUERY]
            if how.detected and self.regions != GIVEN:
                queries, gallery, finder = _pictures(queries), _pictures(gallery), self.regions
            titled = task.asking is not Asking.PICTURE and self.encoder.texts(["a"]) is None
            searched, lost = self._encoded(split, "gallery", gallery, finder, titled)
            asking = None
            if task.asking is not Asking.WORDS:
                asking, more = self._encoded(split, "queries", queries, self.regions, titled=False)
                lost |= more
            if not lost:
                break
            left_out += lost.values()
            self._refuse(left_out)
            regions = [region for region in regions if region.source not in lost]
        return Posed(self, how, task, regions, searched, asking, tuple(left_out))

    def tune(self, how: Protocol, split: str, name: str) -> dict[str, Any]:
        """Try the whole grid of a re-ranker on a split's queries: {"split", "queries", "trials", "best"}.

        The best in the headline metric; of equal ones the first.
        """
        if (how.name, split) not in self._tuned_on:  # the same for every re-ranker
            self._tuned_on[how.name, split] = self.pose(how, split)
        posed = self._tuned_on[how.name, split]
        some = posed.sampled(TUNED_ON)
        grid = self.reranker(name).GRID
        combinations = [dict(zip(grid, values, strict=True)) for values in product(*grid.values())]
        progress = self.stage(f"tuning {name}")
        reached = []
        for done, parameters in enumerate(combinations):
            progress(done, len(combinations))
            _, answers = posed.measure(name, name, parameters, some)
            reached.append(round(float(np.nanmean(posed.column(answers))), 6))
        return {
            "split": split,
            "queries": len(some),
            "trials": [
                {"parameters": parameters, how.metrics[0]: value}
                for parameters, value in zip(combinations, reached, strict=True)
            ],
            "best": combinations[int(np.argmax(reached))],
        }

    def fittable(self, name: str) -> bool:
        """Whether a re-ranker has parameters to fit."""
        return name != "none" and bool(getattr(self.reranker(name), "GRID", None))

    def reranker(self, name: str) -> Any:
        """With its defaults; the same one each time, since it may remember what it computed."""
        if name not in self._rerankers:
            self._rerankers[name] = open_reranker(class_of(name), self.encoder)
        return self._rerankers[name]

    def _refuse(self, left_out: Sequence[str]) -> None:
        if left_out and not self._allow_missing:
            raise BadInput(
                f"{len(left_out):,} regions of the data set cannot be used; the first: {left_out[0]}",
                "look at them with lookalike doctor, or leave them out with --allow-missing",
            )

    def _read(self, split: str) -> tuple[list[Labelled], list[str]]:
        regions: list[Labelled] = []
        left_out: list[str] = []
        progress = self.stage(f"reading {split}")
        for read, entry in enumerate(self._dataset.read(split), start=1):
            if isinstance(entry, Unlisted):
                left_out.append(entry.error)
            else:
                regions.append(entry)
            if read % 1000 == 0:
                progress(read, None)
        twice = [name for name, times in Counter(region.id for region in regions).items() if times > 1]
        if twice:
            raise BadInput(f"{split}: the id {twice[0]!r} stands for several regions", "ids are unique")
        return regions, left_out

    def _encoded(
        self, split: str, side: str, regions: Sequence[Labelled], finder: str, titled: bool
    ) -> tuple[Path, dict[str, str]]:
        """The catalogue of these regions, an item each; and what could not be encoded, by source."""
        parts = [side, self.encoder.name, self.encoder.fingerprint, finder, *(["captions"] if titled else [])]
        told = self._captioner if self._regime in _TOLD[side] else None
        if told is not None:
            parts.append(f"told-{hashlib.sha256(told.name.encode()).hexdigest()[:8]}")
        place = (
            self._folder / split / "".join(c if c.isalnum() or c in "-." else "-" for c in "-".join(parts))
        )
        place.mkdir(parents=True, exist_ok=True)
        rows = (
            {
                "path": region.source,
                "item": region.id,
                "category": region.category or None,
                "paired": region.identity is not None,
                "title": " ".join(region.captions) if titled else "",
            }
            | ({"box": region.box.corners} if finder == GIVEN and region.box else {})
            for region in regions
        )
        table = write_table(rows, place / "regions.jsonl")
        settings = Settings(
            encoder=self.encoder,
            regions="whole" if finder == GIVEN else finder,
            regime=None if told is None else "train+gallery",
        )
        progress = self.stage(f"encoding {side} of {split}")
        with open_catalogue(place, settings) as catalogue:
            gone = side == "gallery"  # what is there no more would be re-ranked along with the rest
            report = catalogue.add(table, gone, progress, calibrate=False, captioner=told)
            if told is not None:
                self.uncaptioned[side] = report.regions - report.captions
        return place, {skipped.source: skipped.error for skipped in report.skipped}


class Annotation:
    """A captioner that says what a data set's annotation says: of its captions the middle one in length."""

    name = "annotation"

    def __init__(self, regions: Iterable[Labelled | Unlisted]) -> None:
        labelled = (region for region in regions if isinstance(region, Labelled) and region.captions)
        self._said = {(origin_of(r.source), r.box): r.captions[len(r.captions) // 2] for r in labelled}

    def captions(self, regions: Sequence[Region]) -> list[Caption]:
        found = [self._said.get((region.picture.source, region.box), "") for region in regions]
        return [Caption(text, self.name, None if text else "the annotation has none") for text in found]


def _without_gaps(regions: Sequence[Labelled]) -> list[Labelled]:
    """Listed answers only as far as they are there."""
    there = {region.id for region in regions}
    return [
        replace(r, truth={name: tuple(a for a in answers if a in there) for name, answers in r.truth.items()})
        if r.truth
        else r
        for r in regions
    ]


def _pictures(regions: Sequence[Labelled]) -> list[Labelled]:
    """Each picture once, as a whole."""
    whole = {r.source: replace(r, id=r.source, box=None) for r in regions}
    return list(whole.values())


def class_of(rerank: str) -> str:
    return rerank.removesuffix("-transductive") if rerank == TRANSDUCTIVE else rerank
