"""Measure systems on a data set, and leave a run."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from lookalike.datasets import Dataset
from lookalike.errors import BadInput
from lookalike.evaluation.bench import Annotation, Bench, class_of
from lookalike.evaluation.intervals import holm, paired
from lookalike.evaluation.posed import GIVEN, Stage, Values
from lookalike.evaluation.protocols import SELF_MATCH, TIES, definition, protocol, usual_protocol
from lookalike.evaluation.runs import (
    Difference,
    Run,
    System,
    answers_file,
    save_answers,
    write_whole,
)
from lookalike.evaluation.tasks import Asking
from lookalike.roles import Captioner, Encoder
from lookalike.settings import DEFAULT_ENCODER, open_encoder, open_reranker, regime_for
from lookalike.values import TOLD_GALLERY, Progress


@dataclass(frozen=True, slots=True)
class Plan:
    """What to measure. None is the data set's usual protocol, its last split, the default encoder."""

    protocol: str | None = None
    split: str | None = None
    encoder: str | Encoder | None = None
    regions: str = GIVEN  # of the queries: given, whole, or a region finder
    rerank: Sequence[str] = ("none",)
    tune: str | None = None  # a split to fit the re-rankers on; they are then measured fitted too
    descriptors: Path | None = None  # a folder that runs may share; None keeps them in the run's own
    regime: str | None = None  # where captions are in descriptors; None is the encoder's usual one
    captioner: Captioner | Literal["annotation"] | None = None  # who wrote them; "annotation": the data set
    allow_missing: bool = False  # leave out what cannot be used, and say so, instead of stopping


def evaluate(
    dataset: Dataset,
    out: Path,
    plan: Plan,
    made: Mapping[str, Any] | None = None,
    stage: Stage | None = None,
) -> Run:
    """Measure `plan` on a data set and leave the run in the folder `out`.

    `stage` is called with the name of each long step and answers with its progress; `made` is kept in the
    record. BadInput where data are missing (unless allowed) or a name is wrong.
    """
    how = protocol(plan.protocol or usual_protocol(dataset))
    split = plan.split or usual_split(dataset)
    if plan.tune and plan.tune not in dataset.splits:
        raise BadInput(f"there is no split {plan.tune!r} to tune on", f"splits: {', '.join(dataset.splits)}")
    encoder = open_encoder(plan.encoder or DEFAULT_ENCODER)
    for name in plan.rerank:
        open_reranker(class_of(name), encoder)  # a mistyped name fails here
    out.mkdir(parents=True, exist_ok=True)
    folder = plan.descriptors or out / "descriptors"
    regime = regime_for(encoder, plan.regime)
    if (plan.captioner is not None) != (regime in TOLD_GALLERY):
        raise BadInput(
            f"the regime {regime!r} {'has no place for' if plan.captioner else 'wants'} captions",
            "with --captions annotation or FILE goes --regime train+gallery, or train+gallery+query",
        )
    captioner = Annotation(dataset.read(split)) if plan.captioner == "annotation" else plan.captioner
    bench = Bench(
        dataset, encoder, plan.regions, folder, stage or _silent, plan.allow_missing, regime, captioner
    )

    posed = bench.pose(how, split)
    if posed.unanswerable == len(posed.groups):
        raise BadInput(
            f"no query of {split} has a right answer in the gallery",
            "look at it with: lookalike doctor DATASET",
        )
    posed.write_tables(out)
    systems: list[System] = []
    columns: list[Values] = []  # the headline's values by query, of each system
    tuning: dict[str, Any] = {}
    for name in plan.rerank:
        wanted: list[tuple[str, Mapping[str, Any]]] = [(name, {})]
        if plan.tune and bench.fittable(name):
            tuning[name] = bench.tune(how, plan.tune, name)
            wanted.append((f"{name} (tuned)", tuning[name]["best"]))
        for title, parameters in wanted:
            system, answers = posed.measure(title, name, parameters)
            save_answers(out, title, answers)
            if how.detected:
                results = json.dumps(posed.official_results(answers))
                write_whole(answers_file(out, title).with_suffix(".json"), results)
            systems.append(system)
            columns.append(posed.column(answers))
    run = Run(
        dataset={
            "name": dataset.name,
            "folder": str(dataset.folder),
            "split": split,
            "synthetic": dataset.synthetic,
        },
        protocol={"name": how.name, "about": how.about, "ties": TIES, "self_match": SELF_MATCH},
        encoder={"name": encoder.name, "fingerprint": encoder.fingerprint, "dim": encoder.dim},
        regions="none" if posed.task.asking is Asking.WORDS else plan.regions,
        regime=regime,
        captions={} if captioner is None else {"by": captioner.name, "lacking": bench.uncaptioned},
        queries=len(posed.task.queries),
        unanswerable=posed.unanswerable,
        gallery=len(posed.task.gallery),
        left_out=posed.left_out,
        bytes_per_region=posed.bytes_per_region,
        encode_ms=posed.encode_ms,
        metrics={metric: definition(metric) for metric in how.metrics},
        systems=tuple(systems),
        differences=_differences([system.name for system in systems], columns, posed.groups, how.metrics[0]),
        tuning=tuning,
        made=made or {},
    )
    run.save(out)
    return run


def usual_split(dataset: Dataset) -> str:
    """The split that everybody tests on: the last of validation and test, else the last that there is."""
    for name in ("test", "validation"):
        if name in dataset.splits:
            return name
    return dataset.splits[-1]


def _differences(
    names: Sequence[str], columns: Sequence[Values], groups: Sequence[str], metric: str
) -> tuple[Difference, ...]:
    """Every system to the first, Holm over all."""
    found = [paired(columns[0], column, groups) for column in columns[1:]]
    adjusted = holm([difference.p for difference in found])
    return tuple(
        Difference(names[0], name, metric, each.mean, each.low, each.high, each.p, float(p))
        for name, each, p in zip(names[1:], found, adjusted, strict=True)
    )


def _silent(_name: str) -> Progress:
    return lambda _done, _total: None
