"""Means over seeds and queries, who is compared with whom, and what is printed of it."""

import json
import math
import random

import numpy as np
import pytest

from lookalike.errors import BadInput
from lookalike.evaluation.intervals import Difference, holm, mean_interval, paired
from lookalike.study.results import Measure, Result, Results
from lookalike.study.tables import Comparison, Row, Table, as_json, figures_of, markdown

NAN = math.nan


def run(arm: str, seed: int, ap: list[float], first: list[float] | None = None, **other: object) -> Result:
    precisions = np.array(ap, np.float32)
    ranks = np.array(first, np.float32) if first else np.where(np.isnan(precisions), np.nan, 1)
    known = {"steps": 560, "seconds": 100.0, "recipe": {}, "about": {}, "view": "bare"} | other
    return Result(arm, seed, measures={known.pop("view"): Measure(precisions, ranks)}, **known)  # type: ignore[arg-type]


def noisy(arm: str, seeds: range, better: float, queries: int = 40) -> list[Result]:
    """Runs of a system that is `better` than plain chance, each seed a little differently."""
    plain = np.random.default_rng(5).uniform(0.2, 0.7, queries)
    draws = [np.random.default_rng((seed, len(arm))).normal(better, 0.05, queries) for seed in seeds]
    return [run(arm, seed, (plain + drawn).tolist()) for seed, drawn in zip(seeds, draws, strict=True)]


def results(*runs: Result, per_group: int = 2) -> Results:
    queries = len(next(iter(runs[0].measures.values())).ap) if runs else 0
    return Results(np.arange(queries) // per_group, {}, runs)


def cells(line: str) -> list[str]:
    """Of a row of a Markdown table, whose bars inside a cell are escaped."""
    return [cell.strip() for cell in line.replace("\\|", "¦").strip("|").split("|")]


def printed(table: Table, found: Results) -> list[dict[str, str]]:
    """The rows that a reader sees, by column."""
    rows = [line for line in markdown(table, figures_of(table, found)).splitlines() if line.startswith("|")]
    head, ruler, *body = map(cells, rows)
    assert ruler == ["---"] * len(head)
    return [dict(zip(head, row, strict=True)) for row in body]


def test_seeds_are_averaged_first_and_a_query_without_an_answer_does_not_count() -> None:
    found = results(
        run("all", 0, [1, 0.5, 0, NAN], [1, 2, 20, NAN], seconds=90.0),
        run("all", 1, [0, 0.5, 1, NAN], [11, 2, 1, NAN], seconds=110.0),
    )
    (line,) = figures_of(Table("t", "T", [Row("all", "all")]), found)
    assert (line.seeds, line.steps, line.seconds) == ((0, 1), (560, 560), 100.0)
    assert (line.mean.mean, line.mean.n, line.mean.groups) == (0.5, 3, 2)
    assert line.mean == mean_interval([0.5, 0.5, 0.5, NAN], [0, 0, 1, 1])
    assert line.each == (0.5, 0.5)
    assert (line.first.mean, line.ten.mean) == (pytest.approx(1 / 3), pytest.approx(2 / 3))
    assert line.ten == mean_interval([0.5, 1, 0.5, NAN], [0, 0, 1, 1])
    assert line.comparison is None


def test_a_query_that_one_seed_has_no_value_for_is_left_out_of_all() -> None:
    found = results(run("all", 0, [1, 0.5, 0.5, 0.5]), run("all", 1, [NAN, 0.5, 0.5, 0.5]))
    (line,) = figures_of(Table("t", "T", [Row("all", "all")]), found)
    assert line.each == (0.5, 0.5) and line.mean.mean == 0.5 and line.mean.n == 3


def test_rows_are_compared_on_the_seeds_that_both_have() -> None:
    found = results(*noisy("image", range(3), 0), *noisy("all", range(1, 4), 0.1))
    rows = [Row("no captions", "image"), Row("captions", "all", against="no captions")]
    table = Table("t", "T", rows)
    _, line = figures_of(table, found)
    ours, theirs = ([each.measures["bare"].ap for each in found.of(arm)] for arm in ("all", "image"))
    expected = paired(np.mean(theirs[1:], 0, float), np.mean(ours[:2], 0, float), found.groups)
    assert line.seeds == (1, 2, 3)
    assert line.comparison is not None
    assert (line.comparison.against, line.comparison.seeds) == ("no captions", (1, 2))
    assert line.comparison.difference == expected
    each = [float(np.mean(b - a)) for a, b in zip(theirs[1:], ours[:2], strict=True)]
    assert line.comparison.each == pytest.approx(each, abs=1e-6)
    assert expected.mean == pytest.approx(np.mean(each))
    assert "of the seeds that both rows have" in markdown(table, figures_of(table, found))


def test_without_a_seed_in_common_nothing_is_compared() -> None:
    rows = [Row("a", "a"), Row("b", "b", against="a")]
    found = results(*noisy("a", range(2), 0), *noisy("b", range(2, 4), 0.1))
    assert [line.comparison for line in figures_of(Table("t", "T", rows), found)] == [None, None]
    assert set(printed(Table("t", "T", rows), found)[1]) == {
        "", "mAP", "R@1", "R@10", "each seed", "seeds", "steps", "s per training",
    }  # fmt: skip


def test_p_is_adjusted_for_the_comparisons_that_were_made() -> None:
    rows = [Row("a", "a"), *(Row(name, name, against="a") for name in ("better", "like", "worse", "absent"))]
    found = results(
        *noisy("a", range(2), 0), *noisy("better", range(2), 0.1), *noisy("like", range(2), 0.005),
        *noisy("worse", range(2), -0.03),
    )  # fmt: skip
    table = Table("t", "T", rows)
    made = [line.comparison for line in figures_of(table, found)]
    assert made[0] is None and made[4] is None
    compared = [each for each in made if each]
    assert [each.adjusted for each in compared] == holm([each.difference.p for each in compared]).tolist()
    least = min(compared, key=lambda each: each.difference.p)
    assert least.adjusted == pytest.approx(3 * least.difference.p)
    text = markdown(table, figures_of(table, found))
    assert "adjusted for 3 comparisons" in text and "both rows have" not in text


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [
        (0.001, 0.02, "non-inferior"),
        (-0.004, 0.002, "non-inferior"),
        (-0.005, 0.002, "not shown"),
        (-0.03, 0.02, "not shown"),
        (-0.03, -0.004, "not shown"),
        (-0.03, -0.006, "inferior"),
        (NAN, NAN, "not shown"),
    ],
)
def test_what_a_margin_says(low: float, high: float, verdict: str) -> None:
    difference = Difference(0.0, low, high, 0.5, 10, 5)
    assert Comparison("a", (0,), difference, (0.0,), 0.5).verdict(0.005) == verdict


def test_seeds_agree_where_they_have_the_mean_s_sign() -> None:
    difference = Difference(-0.01, -0.02, 0.01, 0.2, 10, 5)
    assert Comparison("a", (0, 1, 2, 3), difference, (-0.02, 0.01, -0.03, 0.0), 0.2).agreeing == 2


def test_a_table_prints_every_figure_under_its_column() -> None:
    rows = [Row("a | b", "a"), Row("worse", "w", against="a | b"), Row("absent", "x", against="a | b")]
    found = results(
        run("a", 0, [0.5] * 8), run("a", 1, [0.75] * 8), *(run("w", s, [0.25] * 8) for s in (0, 1))
    )
    table = Table("t", "Title", rows, note="Drawn garments.", margin=0.005)
    text = markdown(table, figures_of(table, found))
    first, worse, absent = printed(table, found)
    assert first == {
        "": "a ¦ b", "mAP": "0.625 [0.625, 0.625]", "R@1": "1.000 [1.000, 1.000]",
        "R@10": "1.000 [1.000, 1.000]",
        "each seed": "0.500 0.750", "points against a ¦ b": "", "p (Holm)": "",
        "at a margin of 0.5 points": "", "seeds of that sign": "", "seeds": "2", "steps": "560",
        "s per training": "100",
    }  # fmt: skip
    assert worse["points against a ¦ b"] == "-37.5 [-37.5, -37.5]"
    assert worse["at a margin of 0.5 points"] == "inferior"
    assert worse["seeds of that sign"] == "2/2"
    assert {name: cell for name, cell in absent.items() if cell} == {"": "absent", "mAP": "not run"}
    assert text.startswith("|") and "Drawn garments. 8 queries in 4 pairs." in text
    assert text.endswith("p: whole pairs exchanged.\n")


def test_several_rows_to_compare_with_are_named_in_the_cells() -> None:
    rows = [Row("a", "a"), Row("b", "b", against="a"), Row("c", "c", against="b")]
    found = results(*(run(arm, 0, [0.5] * 4) for arm in "abc"))
    assert [row["points"] for row in printed(Table("t", "T", rows), found)] == [
        "", "+0.0 [+0.0, +0.0] against a", "+0.0 [+0.0, +0.0] against b",
    ]  # fmt: skip


def test_columns_that_say_nothing_are_left_out() -> None:
    none = Table("t", "T", [Row("a", "a"), Row("b", "b", against="a")], margin=0.005)
    assert printed(none, Results(np.arange(0), {})) == [
        {"": "a", "mAP": "not run"}, {"": "b", "mAP": "not run"},
    ]  # fmt: skip
    once = printed(Table("t", "T", [Row("a", "a")]), results(run("a", 0, [0.5] * 4)))
    assert set(once[0]) == {"", "mAP", "R@1", "R@10", "seeds", "steps", "s per training"}


def test_a_row_looks_at_its_own_view_and_is_not_run_where_that_was_not_measured() -> None:
    found = results(run("a", 0, [0.5] * 4), run("b", 0, [0.25] * 4, view="gallery"))
    rows = [Row("a", "a"), Row("b", "b"), Row("b, gallery", "b", "gallery", against="a")]
    shown = printed(Table("t", "T", rows), found)
    assert [row["mAP"].split()[0] for row in shown] == ["0.500", "not", "0.250"]
    assert shown[2]["points against a"].startswith("-25.0")


def test_unlike_numbers_of_queries_and_steps_are_told_apart() -> None:
    found = results(
        run("a", 0, [0.5] * 4), run("b", 0, [0.5, 0.5, 0.5, NAN], steps=10), run("b", 1, [0.5] * 4)
    )
    table = Table("t", "T", [Row("a", "a"), Row("b", "b")])
    assert [(row["queries"], row["steps"]) for row in printed(table, found)] == [
        ("4 in 2 pairs", "560"), ("3 in 2 pairs", "10, 560"),
    ]  # fmt: skip


def test_json_holds_what_is_printed_and_nothing_that_is_not_finite() -> None:
    rows = [Row("a", "a"), Row("b", "b", against="a"), Row("c", "c", against="a")]
    found = results(*(run(arm, s, [0.25 * (1 + s)] * 4) for arm in "ab" for s in (0, 1)), per_group=4)
    table = Table("t", "T", rows, margin=0.005)
    read = json.loads(json.dumps(as_json(table, figures_of(table, found)), allow_nan=False))
    a, b, c = read["rows"]
    assert (read["name"], read["title"], read["margin"]) == ("t", "T", 0.005)
    assert a["map"] == {"mean": 0.375, "low": None, "high": None, "each": [0.25, 0.5]}
    assert (a["queries"], a["pairs"], a["seeds"]) == (4, 1, [0, 1])
    assert a["recall"] == {k: {"mean": 1.0, "low": None, "high": None} for k in ("1", "10")}
    assert b["difference"]["mean"] == 0 and b["difference"]["low"] is None
    assert b["difference"]["verdict"] == "not shown" and b["difference"]["p_holm"] == 1
    assert c == {"label": "c", "arm": "c", "view": "bare", "against": "a", "seeds": []}


def test_an_arm_that_no_query_could_be_answered_for_is_shown_without_numbers() -> None:
    found = results(run("a", 0, [NAN] * 4), run("b", 0, [0.5] * 4))
    table = Table("t", "T", [Row("a", "a"), Row("b", "b", against="a")])
    lines = figures_of(table, found)
    assert lines[1].comparison is None
    assert printed(table, found)[0]["mAP"] == "–"
    assert as_json(table, lines)["rows"][0]["map"]["mean"] is None


def test_the_order_in_which_runs_were_read_does_not_matter() -> None:
    runs = [*noisy("a", range(4), 0), *noisy("b", range(4), 0.02)]
    table = Table("t", "T", [Row("a", "a"), Row("b", "b", against="a")], margin=0.01)
    shuffled = random.Random(3).sample(runs, len(runs))
    expected, other = (figures_of(table, results(*each)) for each in (runs, shuffled))
    assert markdown(table, expected) == markdown(table, other)
    assert as_json(table, expected) == as_json(table, other)


def test_a_table_that_cannot_be_read_is_refused() -> None:
    with pytest.raises(BadInput) as caught:
        Table("t", "T", [Row("all", "all"), Row("b", "b", against="al")])
    assert "did you mean all?" in caught.value.hint
    with pytest.raises(BadInput, match="same label"):
        Table("t", "T", [Row("all", "a"), Row("all", "b")])
