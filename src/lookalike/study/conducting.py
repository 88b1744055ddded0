"""From the name of a study to its report."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import sha256
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

from filelock import FileLock, Timeout

from lookalike.captions import FileCaptions
from lookalike.datasets import Dataset, Labelled, Unlisted, open_dataset
from lookalike.datasets.street2shop import make
from lookalike.errors import BadInput, CatalogueBusy, unknown_name
from lookalike.evaluation.harness import usual_split
from lookalike.learn.recipes import Recipe, recipe
from lookalike.learn.session import Stage, captioned, parts
from lookalike.study.arms import Arm, View, sources_of
from lookalike.study.material import MEASURED, prepare, to_be_had
from lookalike.study.results import Results
from lookalike.study.running import Place, conduct
from lookalike.study.tables import Table, as_json, figures_of, markdown

STUDIES = {
    "captions": "what captions bring, in training, in the gallery and at the query",
    "losses": "which part of the loss earns its place",
    "noise": "what wrong captions cost, and what guards save",
    "delay": "what captions at the query cost in time, and what can be had without the delay",
    "rerank": "what re-ranking brings on each descriptor",
    "rivals": "other ways to train, on the same pictures",
}
SEED, FINAL_SEED = 3, 1907  # of the drawn sets: one to try things on, one that is looked at once, at the end
IDENTITIES, QUICK_IDENTITIES = 1450, 150  # drawn; about 62 % of them are trained on
QUICK_EPOCHS = 6


@dataclass(frozen=True, slots=True)
class Plan:
    """How a study is conducted.

    Without `data` on a drawn set of `identities` products; with it on a labelled data set, of whose training
    part as many identities are taken (None: all). `seeds` None is as many as each arm asks for. `final`
    measures on drawn products that no study looks at before. `given` is a file of captions, which take the
    place of the data set's own.
    """

    quick: bool = False
    seeds: int | None = None
    jobs: int = field(default_factory=lambda: os.cpu_count() or 1)
    identities: int | None = None
    data: Path | None = None
    final: bool = False
    given: Path | None = None
    backgrounds: Sequence[Path] | None = None  # photographs that drawn people stand before; None: drawn ones
    trained: int = 0  # identities that can be trained on; found out when the data are read

    def recipe(self, *settings: str, identities: int | None = None) -> Recipe:
        """`compact` with some fields set; with fewer identities as many steps as with all."""
        usual = recipe("compact", settings)
        epochs = QUICK_EPOCHS if self.quick else usual.epochs
        if identities is not None:
            per_epoch = [-(-number // usual.p) for number in (self.trained, identities)]
            epochs = max(1, round(epochs * per_epoch[0] / per_epoch[1]))
        return replace(usual, epochs=epochs)


@dataclass(frozen=True, slots=True, eq=False)
class Found:
    """What a study has to tell of: its runs, and where everything lies."""

    plan: Plan
    results: Results
    dataset: Dataset  # that is measured on
    split: str
    place: Place
    folder: Path  # of the study's own report
    stage: Stage


@dataclass(frozen=True, slots=True, eq=False)
class Section:
    """A part of a report: words, tables, and drawings by file name. `record` goes into the JSON as it is.

    Tables are of `results`, None: of the study's own.
    """

    title: str
    text: str = ""
    tables: Sequence[Table] = ()
    drawings: Mapping[str, str] = field(default_factory=dict)  # SVG
    record: Any = None
    results: Results | None = None


class Study(Protocol):
    ABOUT: str

    def arms(self, plan: Plan) -> list[Arm]: ...
    def sections(self, found: Found) -> list[Section]: ...


def study(name: str, out: Path, plan: Plan, made: Mapping[str, Any], stage: Stage) -> dict[str, Any]:
    """Conduct a study in `out`, which studies may share, and write `out`/NAME/report.{md,json} with drawings.

    What was finished before is not done again. Where data have no captions, what needs them is left out.
    `made` says how the report came about. The answer is what report.json holds. BadInput for a wrong name or
    data that do not do.
    """
    if name not in STUDIES:
        raise unknown_name("study", name, STUDIES)
    module: Any = import_module(f"lookalike.study.{name}")
    if plan.final and plan.data is not None:
        raise BadInput("the final set is drawn, and does not go with other data", "leave --final out")
    given = None if plan.given is None else FileCaptions(plan.given)
    out.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(out / ".lock", timeout=0):
            return _conducted(name, module, out, plan, given, made, stage)
    except Timeout as error:
        raise CatalogueBusy(f"another study is being conducted in {out}", "wait for it") from error


def _conducted(
    name: str, of_study: Study, out: Path, plan: Plan, given: FileCaptions | None, made: Mapping[str, Any],
    stage: Stage,
) -> dict[str, Any]:  # fmt: skip
    dataset = _data(out / "data", plan, SEED, stage)
    training, split, held_out = parts(dataset, None, None)
    if plan.data is not None and plan.identities is not None:
        training = _limited(training, split, plan.identities)
    measured, tested = dataset, usual_split(dataset)
    if plan.final:
        measured, tested = _data(out / "final", plan, FINAL_SEED, stage), "validation"
    part = MEASURED[plan.final]
    splits = {"training": (training, split), "tuning": (training, held_out), part: (measured, tested)}
    trained = _identities(training, split)
    if not plan.final and (both := trained & _identities(measured, tested)):
        raise BadInput(
            f"{len(both):,} identities of {measured.name} would be trained on and measured on",
            "a study needs splits of a data set, training and another: see docs/evaluation.md",
        )
    plan = replace(plan, trained=len(trained))
    every = _wanted(of_study.arms(plan), plan)
    known = {part: captioned(*each, given) for part, each in splits.items()}
    arms = _possible(every, known["training"], known[part], bool(dataset.synthetic))
    if not arms:
        raise BadInput(
            f"all that the study {name} trains needs captions, and the data set has none",
            "write some with lookalike caption, and name the file: --captions FILE",
        )
    read, looked = sources_of(arms)
    sources = {"training": sorted(read), "tuning": sorted(looked), part: sorted(looked)}
    prepare(splits, sources, out, stage, given)
    place = Place(out, tuple(splits), sources, given)
    about = {**made, "data": measured.synthetic or f"{measured.name}, real", "part": part, **_versions()}
    about |= {"captions": given.name} if given else {}
    results = conduct(arms, place, plan.jobs, about, stage("training and measuring"))
    folder = out / (f"{name}-final" if plan.final else name)
    folder.mkdir(exist_ok=True)
    sections = of_study.sections(Found(plan, results, measured, tested, place, folder, stage))
    return _write(name, of_study.ABOUT, sections, results, folder)


def _data(folder: Path, plan: Plan, seed: int, stage: Stage) -> Dataset:
    if plan.data is not None:
        return open_dataset(plan.data)
    identities = plan.identities or (QUICK_IDENTITIES if plan.quick else IDENTITIES)
    progress = stage(f"drawing {folder.name}")
    make(folder, identities, seed, plan.backgrounds, workers=plan.jobs, on_progress=progress)
    return open_dataset(folder)


def _limited(dataset: Dataset, split: str, identities: int) -> Dataset:
    """With so many identities in a split, by chance, the same everywhere."""
    by_chance = sorted(_identities(dataset, split), key=lambda name: sha256(name.encode()).digest())
    kept = frozenset(by_chance[:identities])

    def read(part: str) -> Iterator[Labelled | Unlisted]:
        for entry in dataset.read(part):
            if part != split or isinstance(entry, Unlisted) or entry.identity in kept:
                yield entry

    return replace(dataset, read=read)


def _identities(dataset: Dataset, split: str) -> set[str]:
    return {
        entry.identity
        for entry in dataset.read(split)
        if isinstance(entry, Labelled) and entry.identity is not None
    }


def _wanted(arms: Sequence[Arm], plan: Plan) -> list[Arm]:
    seeds = 1 if plan.quick and plan.seeds is None else plan.seeds
    return [arm if seeds is None else replace(arm, seeds=seeds) for arm in arms]


def _possible(arms: Sequence[Arm], trained: bool, measured: bool, drawn: bool) -> list[Arm]:
    """Without the arms and the views whose captions are not to be had: tables then say "not run".

    `trained` and `measured` say whether the part that is trained on, or measured on, has captions.
    """

    def seen(view: View) -> bool:
        sources = filter(None, (view.gallery, view.queries))
        return all(to_be_had(source, measured, drawn) for source in sources)

    return [
        replace(arm, views=tuple(filter(seen, arm.views)))
        for arm in arms
        if not arm.reads_captions or to_be_had(arm.captions, trained, drawn)
    ]


def _versions() -> dict[str, str]:
    import torch

    return {"torch": torch.__version__}


def _write(
    name: str, about: str, sections: Sequence[Section], results: Results, folder: Path
) -> dict[str, Any]:
    lines = [f"# {name}", "", about, "", _how(results), ""]
    told: list[dict[str, Any]] = []
    for section in sections:
        lines += [f"## {section.title}", ""]
        if section.text:
            lines += [section.text, ""]
        for file, drawing in section.drawings.items():
            (folder / file).write_text(drawing, encoding="utf-8")
            lines += [f"![{section.title}]({file})", ""]
        told_of = section.results or results
        tables = [(table, figures_of(table, told_of)) for table in section.tables]
        for table, rows in tables:
            lines += [f"**{table.title}**", "", markdown(table, rows), ""]
        told.append(
            {
                "title": section.title,
                "tables": [as_json(table, rows) for table, rows in tables],
                "drawings": sorted(section.drawings),
                "record": section.record,
            }
        )
    report = {"study": name, "about": dict(results.about), "queries": len(results.groups), "sections": told}
    (folder / "report.md").write_text("\n".join(lines), encoding="utf-8")
    (folder / "report.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    return report


def _how(results: Results) -> str:
    told = results.about
    captions = f"; captions: {told['captions']}" if "captions" in told else ""
    return (
        f"Made by `{told.get('command', '')}` at {told.get('commit') or told.get('version', '')}, "
        f"{told.get('date', '')}; data: {told['data']}{captions}; "
        f"{len(results.groups):,} queries of {told['part']}; torch {told['torch']}."
    )
