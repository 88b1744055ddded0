"""What the study of wrong captions trains and looks at, and that each of its tables has what it compares."""

from dataclasses import asdict
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

pytest.importorskip("matplotlib")

from lookalike.study import captions, noise
from lookalike.study.conducting import Plan
from lookalike.study.guards import GUARDS, RATES
from lookalike.study.results import Measure, Result, Results
from lookalike.study.tables import figures_of, markdown

PLAN = Plan(trained=100)
ARMS = {arm.name: arm for arm in noise.arms(PLAN)}
QUERIES = 12


def run(arm: str, seed: int, views: list[str], tuned: float = 0.5, ap: float | None = None) -> Result:
    random = np.random.default_rng([seed, len(arm)])
    measures = {
        view: Measure(
            random.random(QUERIES, np.float32) if ap is None else np.full(QUERIES, ap, np.float32),
            np.ones(QUERIES, np.float32),
        )
        for view in views
    }
    return Result(arm, seed, 10, 1.0, {}, {}, measures, {"tuning mAP": tuned})


def results(names: list[str]) -> Results:
    runs = [
        run(name, seed, ["bare", *(view.name for view in ARMS[name].views)])
        for name in names
        for seed in range(2)
    ]
    return Results(np.arange(QUERIES) // 2, {}, runs)


@pytest.fixture
def found(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A study's outcome from made-up numbers; no models lie there for what the guards go by."""
    monkeypatch.setattr(noise, "_gone_by", lambda found, rates: noise.Section("left out"))
    return lambda names: SimpleNamespace(plan=PLAN, results=results(names))


def test_each_arm_is_one_way_to_train_and_the_same_as_in_other_studies() -> None:
    usual = asdict(PLAN.recipe())
    for rate in RATES:
        plain, weighed = ARMS[f"all-oracle-{rate:g}"], ARMS[f"all-oracle-{rate:g}-weigh"]
        assert plain.captions == weighed.captions == f"oracle-{rate:g}"
        assert asdict(plain.recipe) == usual and asdict(weighed.recipe) == {**usual, "weigh": 1.0}
    assert [ARMS[f"wrong-{share:g}"].recipe.wrong for share in (0.25, 0.5)] == [0.25, 0.5]
    shared = {arm.name: arm for arm in captions.arms(PLAN)}
    assert {"all", "contrast+box", "all-oracle-0.1"} <= shared.keys() & ARMS.keys()
    assert all(shared[name].key == ARMS[name].key for name in shared.keys() & ARMS.keys())


def test_models_are_looked_at_with_each_rate_place_and_guard() -> None:
    views = ARMS["all"].views
    assert len({view.name for view in views}) == len(views) == 2 * 10 * len(RATES)
    assert {view.guard for view in views} == set(GUARDS)
    assert {(view.guard, view.mixed) for view in views if view.mixed} == {
        ("", "too"), ("chance", "too"), ("chance", "alone")
    }  # fmt: skip
    for view in views:
        assert view.queries == "" or view.gallery.split()[0] == "oracle-0"
        assert view.guard == "" or "unchecked" not in view.gallery + view.queries
    galleries = {view.gallery for view in views if not view.queries}
    assert galleries == {f"oracle-{rate:g}{more}" for rate in RATES for more in ("", " unchecked")}
    for share in (0.25, 0.5):
        assert set(ARMS[f"wrong-{share:g}"].views) < set(views)


def test_every_row_has_its_arm_and_every_arm_its_row(found: Any) -> None:
    everything = found(list(ARMS))
    told = noise.sections(everything)
    tables = [table for section in told for table in section.tables]
    shown = {section.title: section.results or everything.results for section in told}
    lines = [
        line
        for section in told
        for table in section.tables
        for line in figures_of(table, shown[section.title])
    ]
    assert all(line.seeds for line in lines)
    chosen = {f"all-oracle-{rate:g} chosen" for rate in RATES}
    assert {line.row.arm for line in lines} == ARMS.keys() | chosen
    for name in ARMS:
        views = {line.row.view for line in lines if line.row.arm == name}
        assert {view.name for view in ARMS[name].views} <= views
    for table in tables:
        assert table.margin == 0.005
        assert sum(row.against is None for row in table.rows) == 1, table.name
    assert {file for section in told for file in section.drawings} == {
        "training.svg", "gallery.svg", "query.svg"
    }  # fmt: skip


@pytest.mark.parametrize("names", [[], ["all"]])
def test_what_was_not_run_is_said(found: Any, names: list[str]) -> None:
    some = found(names)
    for section in noise.sections(some):
        texts = [markdown(table, figures_of(table, some.results)) for table in section.tables]
        texts += [section.text] if section.record else []
        assert all("not run" in text for text in texts)


def test_of_each_seed_the_training_that_is_better_on_tuning_counts() -> None:
    wrong = "all-oracle-1"
    runs = [
        run("contrast+box", 0, ["bare"], tuned=0.6, ap=0.3), run(wrong, 0, ["bare"], tuned=0.5, ap=0.9),
        run("contrast+box", 1, ["bare"], tuned=0.4, ap=0.2), run(wrong, 1, ["bare"], tuned=0.5, ap=0.1),
        run(wrong, 2, ["bare"], tuned=0.5, ap=0.1),
    ]  # fmt: skip
    before = Results(np.arange(QUERIES) // 2, {}, runs)
    after = noise.chosen(before, [0.5, 1.0])
    kept = after.of(f"{wrong} chosen")
    assert [(each.seed, float(each.measures["bare"].ap[0])) for each in kept] == [
        (0, pytest.approx(0.3)), (1, pytest.approx(0.1))
    ]  # fmt: skip
    assert after.of("all-oracle-0.5 chosen") == [] and len(before.runs) == 5


def test_a_quick_run_has_fewer_rates() -> None:
    quick = {arm.name for arm in noise.arms(Plan(quick=True, trained=100))}
    assert "all-oracle-1" in quick and "all-oracle-0.1" not in quick
