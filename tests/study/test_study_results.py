"""Results as they are kept."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from lookalike.errors import BadInput
from lookalike.study.results import Measure, Result, Results


def result(arm: str = "all", seed: int = 3) -> Result:
    measures = {
        "bare": Measure(np.array([0.25, np.nan, 1], np.float32), np.array([4, np.nan, 1], np.float32)),
        "gallery palette": Measure(np.array([1, np.nan, 0.5], np.float32), np.array([1, np.nan, 2])),
    }
    return Result(arm, seed, 24, 1.25, {"p": 4}, {"key": {"captions": ""}}, measures, {"tuning mAP": 0.5})


def test_a_result_comes_back_as_it_was_written(tmp_path: Path) -> None:
    kept = result()
    kept.write(tmp_path / "run.json")
    back = Result.read(tmp_path / "run.json")
    assert back is not None
    for name in ("arm", "seed", "steps", "seconds", "recipe", "about", "facts"):
        assert getattr(back, name) == getattr(kept, name), name
    assert back.measures.keys() == kept.measures.keys()
    for view, measure in kept.measures.items():
        np.testing.assert_array_equal(back.measures[view].ap, measure.ap)
        np.testing.assert_array_equal(back.measures[view].first, measure.first)
    told = json.loads((tmp_path / "run.json").read_text())
    assert told["measures"]["bare"] == {"ap": [0.25, None, 1.0], "first": [4, None, 1]}
    assert [each.name for each in tmp_path.iterdir()] == ["run.json"]


def test_what_is_not_there_is_none_and_damage_is_told(tmp_path: Path) -> None:
    file = tmp_path / "run.json"
    assert Result.read(file) is None
    result().write(file)
    whole = file.read_text()
    told = json.loads(whole)
    lacking = {name: value for name, value in told.items() if name != "measures"}
    for damaged in (
        whole[:-20], "[]", "{}", json.dumps(lacking), json.dumps(told | {"colour": 1}),
        json.dumps(told | {"measures": {"bare": {"ap": [1]}}}),
    ):  # fmt: skip
        file.write_text(damaged)
        with pytest.raises(BadInput, match=r"run\.json is damaged") as refused:
            Result.read(file)
        assert "delete it" in refused.value.hint


def test_hits_are_counted_where_there_is_an_answer() -> None:
    measure = result().measures["bare"]
    for k, hits in ((1, [0, np.nan, 1]), (3, [0, np.nan, 1]), (4, [1, np.nan, 1])):
        np.testing.assert_array_equal(measure.hits_at(k), hits)


def test_runs_of_an_arm_come_by_seed() -> None:
    results = Results(np.arange(3), {}, [result("b", 1), result("a", 2), result("a", 0), result("a", 1)])
    assert [run.seed for run in results.of("a")] == [0, 1, 2]
    assert [run.arm for run in results.of("b")] == ["b"]
    assert results.of("c") == []
