"""The study of re-rankers: every one on every descriptor, as published and fitted, with what it costs.

OUT/descriptors/          what was encoded, shared by all
OUT/DESCRIPTOR/run.json   an evaluation with all re-rankers that work from descriptors, and its answers
OUT/DESCRIPTOR/geometric.json   geometric verification on a sample of its queries
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from lookalike.datasets import Dataset
from lookalike.errors import BadInput
from lookalike.evaluation import harness
from lookalike.evaluation.bench import Bench
from lookalike.evaluation.posed import GIVEN, TRANSDUCTIVE, Stage
from lookalike.evaluation.protocols import protocol, usual_protocol
from lookalike.evaluation.runs import Run, write_whole
from lookalike.rerank.geometric import Memory
from lookalike.roles import Encoder
from lookalike.settings import DEFAULT_ENCODER, RERANKERS, WITH_ENCODER, open_encoder, regime_for
from lookalike.study import captions, reranked
from lookalike.study.arms import FREE, TOLD, Arm
from lookalike.study.conducting import Found, Plan, Section
from lookalike.study.reranked import Measured
from lookalike.study.verifying import HELD, verification
from lookalike.values import Progress

ABOUT = (
    "Is re-ranking from descriptors enough, or does geometric verification bring more? Every re-ranker is "
    "measured on every descriptor, with its published parameters and with those that suit other queries "
    "best, and so is what it costs a query and what it has to keep. Geometric verification is also asked "
    "directly: of how many pictures that show the same product it can tell so at all, and how often it "
    "takes a wrong one for the same."
)
GEOMETRIC = "geometric"
FROM_DESCRIPTORS = (
    *(name for name in RERANKERS if name != GEOMETRIC and name not in WITH_ENCODER),
    TRANSDUCTIVE,
)
DESCRIPTORS = {  # by the arm of the study of captions that trains it
    "arcface": "compact, ArcFace alone",
    FREE: "compact, no captions",
    TOLD: "compact, captions in training",
}


def arms(plan: Plan) -> list[Arm]:
    """Some of the study of captions, one seed of each."""
    return [replace(arm, seeds=1, views=()) for arm in captions.arms(plan) if arm.name in DESCRIPTORS]


def sections(found: Found) -> list[Section]:
    """Measures what is not measured yet. A quick study leaves geometric verification out."""
    encoders = {f"{DEFAULT_ENCODER}, frozen": DEFAULT_ENCODER}
    for name, named in DESCRIPTORS.items():
        for run in found.results.of(name)[:1]:
            label = f"{named}, {run.steps:,} steps, seed {run.seed}"
            encoders[label] = str(found.place.folder / "runs" / f"{name}-{run.seed}")
    rerankers = FROM_DESCRIPTORS if found.plan.quick else None
    made = found.results.about
    tune = "tuning" if "tuning" in found.dataset.splits else None
    measure(found.dataset, encoders, found.folder, tune, found.split, rerankers, found.stage, made)
    return report(found.folder, encoders)


def measure(
    dataset: Dataset,
    encoders: Mapping[str, str | Encoder],
    out: Path,
    tune: str | None = "tuning",
    split: str | None = None,
    rerankers: Sequence[str] | None = None,
    stage: Stage | None = None,
    made: Mapping[str, Any] | None = None,
) -> None:
    """Measure encoders, by the names that tables give them, and leave a folder for each below `out`.

    `rerankers` are some of `FROM_DESCRIPTORS` and "geometric"; None is all. Parameters are fitted on the
    split `tune`; None leaves them at their defaults. What is there is not measured again: BadInput where it
    is of other data or of another model of that name. `made` is kept in the records.
    """
    chosen = [name for name in FROM_DESCRIPTORS if rerankers is None or name in rerankers]
    split = split or harness.usual_split(dataset)
    how = protocol(usual_protocol(dataset))
    memory = Memory(HELD)  # pairs that one descriptor had compared need not be compared for the next
    for label, named in encoders.items():
        folder = out / _file_name(label)
        encoder = open_encoder(named)
        if not (folder / "run.json").exists():
            plan = harness.Plan(
                protocol=how.name,
                split=split,
                encoder=encoder,
                rerank=("none", *chosen),
                tune=tune,
                descriptors=out / "descriptors",
            )
            harness.evaluate(dataset, folder, plan, {**(made or {}), "descriptor": label}, stage)
        run = Run.load(folder)
        _refuse_another(run, dataset, split, encoder, folder)
        verified = folder / "geometric.json"
        if (rerankers is None or GEOMETRIC in rerankers) and not verified.exists():
            bench = Bench(
                dataset, encoder, GIVEN, out / "descriptors", stage or _silent, regime=regime_for(encoder)
            )
            superglobal = run.tuning.get("superglobal", {}).get("best", {})
            record = verification(bench, how, split, tune, superglobal, memory)
            write_whole(verified, json.dumps({"made": dict(made or {}), **record}, indent=1) + "\n")


def report(out: Path, labels: Collection[str] | None = None) -> list[Section]:
    """What was measured below `out` of these encoders (None: all); BadInput where nothing was.

    The descriptor that is worst on its own comes first.
    """
    found = [Measured.read(file.parent) for file in sorted(out.glob("*/run.json"))]
    found = [each for each in found if labels is None or each.label in labels]
    if not found:
        raise BadInput(
            f"{out} holds no measured descriptor", "measure some: lookalike study rerank --out DIR"
        )
    return reranked.sections(found, FROM_DESCRIPTORS)


def _refuse_another(run: Run, dataset: Dataset, split: str, encoder: Encoder, folder: Path) -> None:
    data = run.dataset
    there = (Path(data["folder"]).absolute(), data["synthetic"], data["split"], run.encoder["fingerprint"])
    if there != (dataset.folder.absolute(), dataset.synthetic, split, encoder.fingerprint):
        raise BadInput(
            f"{folder} holds what was measured with other pictures or another model",
            "measure into another folder, or delete that one",
        )


def _file_name(label: str) -> str:
    return "".join(letter if letter.isalnum() or letter in "-." else "-" for letter in label)


def _silent(_name: str) -> Progress:
    return lambda _done, _total: None
