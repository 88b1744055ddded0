"""What the study of losses trains, and that each of its tables has what it compares with."""

from dataclasses import asdict, replace
from types import SimpleNamespace

import numpy as np
import pytest

from lookalike.study import losses
from lookalike.study.conducting import Plan
from lookalike.study.results import Measure, Result, Results
from lookalike.study.tables import figures_of, markdown

PLAN = Plan(trained=100)
ARMS = {arm.name: arm for arm in losses.arms(PLAN)}
QUERIES = 12


def of(name: str) -> dict[str, object]:
    """What the recipe has otherwise than the usual one."""
    ours, usual = asdict(ARMS[name].recipe), asdict(PLAN.recipe())
    return {field: value for field, value in ours.items() if value != usual[field]}


def test_a_name_stands_for_one_way_to_train() -> None:
    everything = [
        *losses.PARTS, *losses.TAKEN, *losses.INSTEAD, *losses.WEIGHED, *losses.DROPPED, *losses.MORE
    ]  # fmt: skip
    for way in everything:
        assert PLAN.recipe(*way.settings) == ARMS[way.arm].recipe, way
    recipes = [replace(arm.recipe) for arm in ARMS.values()]
    assert len(set(recipes)) == len(recipes), "two arms train alike"
    assert len(ARMS) == 32


def test_arms_are_what_they_are_called() -> None:
    assert of("all") == {}
    assert of("arcface") == {"contrast": 0, "box": 0, "itc": 0, "caption_dropout": 1}
    assert of("contrast+box") == {"itc": 0, "caption_dropout": 1}
    assert of("all-identity+triplet") == {"arcface": 0, "identity": 1, "triplet": 1}
    assert of("all-dropout-0.25") == {"caption_dropout": 0.25} and "all-dropout-0.5" not in ARMS
    authors = {"arcface": 0, "contrast": 0, "itm": 1, "mlm": 1, "learn_temperature": True}
    assert of("authors") == {**authors, "caption_dropout": 0}
    weighed = [name for name, weight in of("authors").items() if name in ("itm", "mlm") and weight]
    assert weighed == ["itm", "mlm"] and ARMS["authors"].recipe.itc == ARMS["authors"].recipe.box == 1
    silent = [arm for arm in ARMS.values() if not arm.recipe.reads_captions]
    assert {arm.recipe.caption_dropout for arm in silent} == {1}


def found(names: list[str]) -> SimpleNamespace:
    random, runs = np.random.default_rng(0), []
    for name in names:
        views = ["bare", *(("bare/identity", "bare/language") if ARMS[name].recipe.with_language else ())]
        for seed in range(2):
            measures = {
                view: Measure(random.random(QUERIES, np.float32), np.ones(QUERIES, np.float32))
                for view in views
            }
            runs.append(Result(name, seed, 10, 1.0, {}, {}, measures))
    return SimpleNamespace(results=Results(np.arange(QUERIES) // 2, {}, runs))


def test_every_row_has_its_arm_and_every_arm_its_row() -> None:
    everything = found(list(ARMS))
    tables = [table for section in losses.sections(everything) for table in section.tables]
    lines = [line for table in tables for line in figures_of(table, everything.results)]
    assert all(line.seeds for line in lines)
    assert {line.row.arm for line in lines} == ARMS.keys()
    by_name = {table.name: figures_of(table, everything.results) for table in tables}
    assert len(by_name) == len(tables)
    for name, rows in by_name.items():
        free = sum(line.comparison is None for line in rows)
        assert free == (6 if name == "descriptor" else 1), name


@pytest.mark.parametrize("names", [[], ["all"]])
def test_what_was_not_run_is_said(names: list[str]) -> None:
    some = found(names)
    for section in losses.sections(some):
        for table in section.tables:
            assert "not run" in markdown(table, figures_of(table, some.results))
        for drawing in section.drawings.values():
            assert drawing.lstrip().startswith("<?xml") or drawing.lstrip().startswith("<svg")
