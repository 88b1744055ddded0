"""Runs of a study: real trainings of a few steps, and a whole study of two arms."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import psutil
import pytest

from ending import await_ended
from lookalike.captions import FileCaptions
from lookalike.datasets import open_dataset
from lookalike.errors import BadInput, LookalikeError
from lookalike.learn.recipes import Recipe, recipe
from lookalike.learn.saved import Saved, save
from lookalike.learn.scoring import queries
from lookalike.learn.session import new_model
from lookalike.study import conducting, material
from lookalike.study.arms import PARTS, VERIFIED, Arm, View, run
from lookalike.study.conducting import Found, Plan, Section, _possible, _wanted, _write, study
from lookalike.study.results import Measure, Result, Results
from lookalike.study.running import Place, conduct
from lookalike.study.tables import Row, Table

TINY = ("p=4", "k=2", "epochs=1")
FREE = Arm("free", recipe("compact", [*TINY, "itc=0", "caption_dropout=1"]), seeds=1)
READS = Arm("reads", recipe("compact", TINY), views=(View(gallery="palette"),), seeds=2)
RIVAL = Arm("frozen", recipe("compact", TINY), rival="superglobal-frozen", seeds=1)


def unheard(done: int, total: int | None) -> None: ...


def numbers(results: list[Result]) -> str:
    """All that was measured, as text: NaN is written alike."""
    told = [
        (each.arm, each.seed, each.steps, each.facts["tuning mAP"],
         {view: (measure.ap.tolist(), measure.first.tolist()) for view, measure in each.measures.items()})
        for each in sorted(results, key=lambda each: (each.arm, each.seed))
    ]  # fmt: skip
    return json.dumps(told)


def test_side_by_side_gives_the_same_numbers(place: Place, base: Path) -> None:
    arms, heard = [FREE, READS, RIVAL], list[tuple[int, int | None]]()
    alone = conduct(arms, place, 1, {"data": "drawn"}, lambda *told: heard.append(told))
    assert [(each.arm, each.seed) for each in alone.runs] == [
        ("free", 0), ("reads", 0), ("frozen", 0), ("reads", 1),
    ]  # fmt: skip
    assert heard == [(number, 4) for number in (1, 2, 3, 4)]
    asked = sum(
        each.side == "query" and each.identity is not None
        for each in open_dataset(base / "data").read("validation")
    )
    assert len(alone.groups) == asked
    told = json.loads((place.folder / "validation.json").read_text())
    assert told["groups"] == alone.groups.tolist() and len(set(told["queries"])) == asked
    assert alone.of("reads")[0].measures.keys() == {
        "bare", "bare/identity", "bare/language", "gallery palette",
    }  # fmt: skip
    for each in alone.runs:
        assert each.about["data"] == "drawn"
        for measure in each.measures.values():
            assert measure.ap.shape == measure.first.shape == (asked,)
            answered = measure.ap[~np.isnan(measure.ap)]
            assert len(answered) and (answered > 0).all() and (answered <= 1).all()

    (place.folder / "runs").rename(place.folder / "runs-before")
    both = conduct(arms, place, 2, {"data": "drawn"}, unheard)
    assert numbers([*both.runs]) == numbers([*alone.runs])


def test_what_is_finished_is_not_done_again(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    found, folder = place.opened(), place.folder / "runs" / "reads-0"
    bare = replace(READS, views=())
    first = run(bare, 0, found, folder, {"command": "first"})
    assert not (folder / "state.pt").exists() and first.facts["tuning mAP"] > 0

    def untrained(*_: object, **__: object) -> None:
        raise AssertionError("was trained again")

    monkeypatch.setattr("lookalike.study.arms.Trainer", untrained)
    again = run(bare, 0, found, folder, {"command": "second"})
    assert again.about["command"] == "first"
    for view, measure in first.measures.items():
        np.testing.assert_allclose(again.measures[view].ap, measure.ap, atol=1e-6)
    more = run(READS, 0, found, folder, {"command": "third", "data": "drawn"})  # a view that lacks
    assert more.about["command"] == "first"
    assert more.about["views"] == {"gallery palette": {"command": "third"}}
    assert more.measures.keys() - again.measures.keys() == {"gallery palette"}
    kept = Result.read(folder / "validation.json")
    assert kept is not None and kept.measures.keys() == more.measures.keys()
    for other, material_of in (
        (replace(READS, recipe=recipe("compact", [*TINY, "box=0"])), found),
        (replace(READS, captions="palette"), found),
        (replace(READS, identities=8), found),
        (READS, replace(found, given="another file")),
    ):
        with pytest.raises(BadInput, match="holds a run of reads that was trained in another way"):
            run(other, 0, material_of, folder, {})


def test_another_part_is_measured_without_training_again(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The final part, here the same regions under that name: the figures have to be the same."""
    trained = replace(RIVAL, name="pooled", rival="superglobal")
    folder = place.folder / "runs"
    arms, found = [replace(READS, seeds=1), trained], place.opened()
    first = [run(arm, 1, found, folder / arm.name, {"command": "first"}) for arm in arms]

    def untrained(*_: object, **__: object) -> None:
        raise AssertionError("was trained again")

    monkeypatch.setattr("lookalike.study.arms.Trainer", untrained)
    monkeypatch.setattr("lookalike.study.arms.train_rival", untrained)
    (place.folder / "tokens" / "validation").rename(place.folder / "tokens" / "final")
    for file in (place.folder / "sources").glob("*.validation.*"):
        file.rename(file.with_name(file.name.replace(".validation.", ".final.")))
    sources = {part.replace("validation", "final"): of for part, of in place.sources.items()}
    final = replace(place, parts=("training", "tuning", "final"), sources=sources).opened()
    again = [run(arm, 1, final, folder / arm.name, {"command": "second"}) for arm in arms]
    assert numbers(again) == numbers(first)
    for before, after in zip(first, again, strict=True):
        assert after.seconds == pytest.approx(before.seconds, abs=0.01) and after.about["command"] == "second"
        assert {"final.json", "validation.json"} <= {file.name for file in (folder / before.arm).iterdir()}
    with pytest.raises(BadInput, match="trained in another way"):  # known from the other part's file
        (folder / "pooled" / "final.json").unlink()
        run(replace(trained, recipe=recipe("compact", [*TINY, "lr=1e-2"])), 1, final, folder / "pooled", {})


def test_an_error_in_a_process_is_one_clear_line(place: Place) -> None:
    arms = [replace(FREE, name="many", recipe=recipe("compact", ["p=500"])), replace(READS, seeds=1)]
    for jobs in (1, 2):
        with pytest.raises(LookalikeError, match=r"^many-0: .*identities") as told:
            conduct(arms, place, jobs, {}, unheard)
        assert "\n" not in str(told.value)


LONG = """
import signal
import sys
from pathlib import Path
signal.signal(signal.SIGINT, signal.default_int_handler)  # who started the tests may have it ignored
sys.path.insert(0, sys.argv[1])
from looked_at import PARTS, SOURCES
from lookalike.learn.recipes import Recipe, recipe
from lookalike.learn.saved import Saved, save
from lookalike.learn.scoring import queries
from lookalike.learn.session import new_model
from lookalike.study.arms import Arm
from lookalike.study.running import Place, conduct
if __name__ == "__main__":
    long = recipe("compact", ["p=4", "k=2", "epochs=100000"])
    arms = [Arm(name, long, seeds=1) for name in ("one", "other")]
    conduct(arms, Place(Path(sys.argv[2]), PARTS, SOURCES), 2, {}, lambda done, total: None)
"""


def test_processes_end_with_the_one_that_started_them(place: Place, tmp_path: Path) -> None:
    (tmp_path / "long.py").write_text(LONG)
    command = [sys.executable, str(tmp_path / "long.py"), str(Path(__file__).parent), str(place.folder)]
    states = [place.folder / "runs" / f"{name}-0" / "state.pt" for name in ("one", "other")]
    for how in (signal.SIGINT, signal.SIGKILL):
        for state in states:
            state.unlink(missing_ok=True)
        started = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        while not all(state.exists() for state in states):
            assert started.poll() is None
            time.sleep(0.02)
        children = psutil.Process(started.pid).children()
        workers = [child for child in children if "spawn_main" in "".join(child.cmdline())]
        assert len(workers) == 2
        started.send_signal(how)
        _, told = started.communicate(timeout=60)  # its pipe is open as long as a worker is there
        assert started.returncode in (-how, 1) and "spawn" not in told
        await_ended(workers)


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A study of three arms that counts what it was given."""
    module = ModuleType("lookalike.study.tiny")
    module.ABOUT = "Does it run?"  # type: ignore[attr-defined]
    views = (View(gallery="palette"), View(gallery="annotation"), View(queries="shuffled"))
    wanted = [FREE, replace(READS, views=views, seeds=1), replace(READS, name="palette", captions="palette"),
              replace(READS, name="oracle", captions="oracle-0.1")]  # fmt: skip

    def sections(found: Found) -> list[Section]:
        rows = [Row("none", "free"), *(Row(each.name, each.name, against="none") for each in wanted[1:])]
        seen = {run.arm: sorted(run.measures) for run in found.results.runs}
        return [Section("One", "Words.", [Table("one", "A table", rows)], {"one.svg": "<svg/>"}, seen)]

    module.arms = lambda plan: wanted  # type: ignore[attr-defined]
    module.sections = sections  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "lookalike.study.tiny", module)
    monkeypatch.setitem(conducting.STUDIES, "tiny", "a trial")
    monkeypatch.setattr(material, "VIEWS", 1)
    return module


def test_a_study_without_captions_leaves_out_what_needs_them(
    tiny: ModuleType, uncaptioned: Path, tmp_path: Path, annotation_file: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    out, made = tmp_path / "out", {"command": "lookalike study tiny", "version": "0"}
    plan = Plan(seeds=1, jobs=1, data=uncaptioned)
    report = study("tiny", out, plan, made, lambda what: unheard)
    folder = out / "tiny"
    assert json.loads((folder / "report.json").read_text()) == report
    text = (folder / "report.md").read_text()
    assert "`lookalike study tiny`" in text and "![One](one.svg)" in text and "real" in text
    assert (folder / "one.svg").read_text() == "<svg/>"
    assert report["sections"][0]["record"] == {
        "free": ["bare", "bare/identity", "bare/language"],
        "palette": ["bare", "bare/identity", "bare/language", "gallery palette"],
    }
    assert text.count("not run") == 2  # reads, oracle
    assert "captions" not in report["about"]

    kept = sorted((out / "runs").iterdir())
    assert [each.name for each in kept] == ["free-0", "palette-0"]
    tiny.arms = lambda plan: [READS]
    with pytest.raises(BadInput, match="needs captions, and the data set has none") as refused:
        study("tiny", out, plan, made, lambda what: unheard)
    assert "--captions" in refused.value.hint

    views = (View(gallery="annotation"), View(queries="shuffled"), View(gallery="oracle-0.1"))
    tiny.arms = lambda plan: [replace(READS, views=views)]
    file = annotation_file(uncaptioned)
    told = study("tiny", out, replace(plan, given=file), made, lambda what: unheard)
    assert told["about"]["captions"] == FileCaptions(file).name
    assert told["sections"][0]["record"]["reads"] == [
        "bare", "bare/identity", "bare/language", "gallery annotation", "queries shuffled",
    ]  # fmt: skip
    other = annotation_file(uncaptioned, ("training", "tuning"))  # the runs are of another file
    with pytest.raises(LookalikeError, match="trained in another way"):
        study("tiny", out, replace(plan, given=other), made, lambda what: unheard)


def test_wrong_plans_are_refused_before_anything_is_made(tmp_path: Path, uncaptioned: Path) -> None:
    out = tmp_path / "out"
    for name, plan, told in (
        ("nonsense", Plan(), "no study is called 'nonsense'"),
        ("captions", Plan(final=True, data=uncaptioned), "the final set is drawn"),
        ("captions", Plan(data=uncaptioned, given=tmp_path / "none.jsonl"), "cannot be read"),
    ):
        with pytest.raises(BadInput, match=told):
            study(name, out, plan, {}, lambda what: unheard)
        assert not out.exists()


def test_nothing_is_measured_that_was_trained_on(tmp_path: Path, base: Path) -> None:
    rows = ["path,identity,group"]
    rows += [
        f"{region.source},{region.identity},{region.group}"
        for region in open_dataset(base / "data").read("training")
        if region.identity
    ]
    (tmp_path / "all.csv").write_text("\n".join(rows) + "\n")
    with pytest.raises(BadInput, match="would be trained on and measured on"):
        study("captions", tmp_path / "out", Plan(data=tmp_path / "all.csv"), {}, lambda what: unheard)


# What the studies themselves tell of data that lack what some arms and views need

PLAN = Plan(quick=True, seeds=1, trained=100)


def outcome(arm: Arm, number: int) -> Result:
    """As a run leaves it, by chance."""
    random = np.random.default_rng(len(arm.name))
    names = ["bare", VERIFIED, *(f"bare/{part}" for part in PARTS), *(view.name for view in arm.views)]
    measures = {
        name: Measure(random.uniform(size=number).astype(np.float32), np.ones(number, np.float32))
        for name in names
    }
    facts = {"tuning mAP": 0.5, "verified right pairs": 0.5, "verified wrong pairs": 0.1}
    return Result(arm.name, 0, 10, 1.0, {}, {}, measures, facts)


@pytest.mark.parametrize("captioned", [False, True])
def test_what_needs_missing_captions_is_told_as_not_run(
    captioned: bool, place: Place, base: Path, uncaptioned: Path, annotation_file: Callable[..., Path]
) -> None:
    """As on DeepFashion2: without captions, and with a file of them, where no stand-in for a model is."""
    given = FileCaptions(annotation_file(base / "data")) if captioned else None
    sources = ["annotation", "palette", "shuffled"] if captioned else ["palette"]
    place = replace(place, sources=dict.fromkeys(place.parts, sources), given=given)
    material = place.opened()
    number = len(queries(material.queried))
    recipe = Recipe()
    model, _ = new_model(recipe, None, None)
    untrained = Saved(model, recipe.trunk, material.towers, None, None, {})
    save(untrained, place.folder / "runs" / "all-0")
    for name in ("captions", "losses", "noise", "delay", "rivals"):
        study: Any = import_module(f"lookalike.study.{name}")
        every = _wanted(study.arms(PLAN), PLAN)
        arms = _possible(every, captioned, captioned, drawn=False)
        runs = [outcome(arm, number) for arm in arms]
        results = Results(
            np.arange(number) // 2, {"data": "real", "part": "validation", "torch": "none"}, runs
        )
        folder = place.folder / name
        folder.mkdir()
        found = Found(
            PLAN, results, open_dataset(uncaptioned), "validation", place, folder, lambda _: unheard
        )
        report = _write(name, study.ABOUT, study.sections(found), results, folder)
        assert json.loads(json.dumps(report, allow_nan=False)) == report
        lacking = any(arm not in arms for arm in every)
        assert ("not run" in (folder / "report.md").read_text().lower()) == lacking, name
