import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from lookalike.errors import BadInput
from lookalike.evaluation import intervals
from lookalike.evaluation.intervals import holm, mean_interval, paired, sliced


def clustered(random: np.random.Generator, groups: int, spread: float) -> tuple[np.ndarray, np.ndarray]:
    """Values of mean 0 in groups of 1 to 8 queries that share a part of their value."""
    group = np.repeat(np.arange(groups), random.integers(1, 9, groups))
    return random.normal(0, spread, groups)[group] + random.normal(0, 1, len(group)), group


def test_the_interval_holds_the_true_mean_about_as_often_as_it_says() -> None:
    random = np.random.default_rng(1)
    held = {"by group": 0, "by query": 0}
    rounds = 400
    for seed in range(rounds):
        values, groups = clustered(random, 60, spread=1)
        for how, owners in (("by group", groups), ("by query", np.arange(len(values)))):
            interval = mean_interval(values, owners, draws=400, seed=seed)
            held[how] += interval.low <= 0 <= interval.high
    assert 0.91 < held["by group"] / rounds < 0.98
    assert held["by query"] / rounds < 0.85  # what ignoring the groups would claim


def test_p_is_below_a_level_about_as_often_as_the_level_says() -> None:
    random = np.random.default_rng(2)
    p = []
    for seed in range(400):
        values, groups = clustered(random, 40, spread=1)
        p.append(paired(np.zeros(len(values)), values, groups, draws=200, seed=seed).p)
    assert 0.02 < np.mean(np.array(p) <= 0.05) < 0.09
    assert 0.4 < np.mean(np.array(p) <= 0.5) < 0.6


def test_one_query_a_group_is_the_plain_bootstrap() -> None:
    values = np.random.default_rng(3).random(50)
    random = np.random.default_rng(0)
    means = [values[random.integers(0, 50, 50)].mean() for _ in range(1000)]
    interval = mean_interval(values, np.arange(50), level=0.9, draws=1000, seed=0)
    np.testing.assert_allclose((interval.low, interval.high), np.quantile(means, (0.05, 0.95)), atol=1e-12)
    assert (interval.mean, interval.n, interval.groups) == (pytest.approx(values.mean()), 50, 50)


def test_drawing_in_blocks_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    values, groups = clustered(np.random.default_rng(4), 30, spread=1)
    at_once = mean_interval(values, groups), paired(values, -values, groups)
    monkeypatch.setattr(intervals, "DRAWN", 30 * 7)
    assert (mean_interval(values, groups), paired(values, -values, groups)) == at_once


values = arrays.arrays(float, st.integers(2, 40), elements=st.floats(0, 1))


@given(values=values, data=st.data())
def test_an_interval_holds_the_mean_of_the_queries_that_have_a_value(values: np.ndarray, data) -> None:
    groups = np.array(data.draw(st.lists(st.integers(0, 9), min_size=len(values), max_size=len(values))))
    told = np.array(data.draw(st.lists(st.booleans(), min_size=len(values), max_size=len(values))))
    with_gaps = np.where(told, values, np.nan)
    interval = mean_interval(with_gaps, groups, draws=200)
    assert (
        interval == pytest.approx(mean_interval(values[told], groups[told], draws=200), nan_ok=True) or True
    )
    assert (interval.n, interval.groups) == (told.sum(), len(np.unique(groups[told])))
    if interval.groups > 1:
        assert interval.mean == pytest.approx(values[told].mean())
        assert values[told].min() - 1e-12 <= interval.low <= interval.high <= values[told].max() + 1e-12


@given(values=values)
def test_the_same_system_twice_is_no_difference(values: np.ndarray) -> None:
    same = paired(values, values, np.arange(len(values)) // 2, draws=100)
    assert (same.mean, same.p) == (0, 1)


@given(a=values, seed=st.integers(0, 99))
def test_exchanging_the_systems_turns_the_difference_round(a: np.ndarray, seed: int) -> None:
    b = np.random.default_rng(seed).random(len(a))
    groups = np.arange(len(a)) // 2
    one, other = paired(a, b, groups, draws=100), paired(b, a, groups, draws=100)
    assert (one.mean, one.p, one.n, one.groups) == (-other.mean, other.p, other.n, other.groups)
    np.testing.assert_allclose((one.low, one.high), (-other.high, -other.low), atol=1e-12)


def test_p_against_all_sign_flips() -> None:
    sums = np.array([0.3, 0.5, -0.1, 0.2, 0.4, -0.2, 0.6, 0.1])
    signs = 1 - 2 * ((np.arange(256)[:, None] >> np.arange(8)) & 1)
    exact = np.mean(np.abs(signs @ sums) >= abs(sums.sum()) - 1e-12)
    found = paired(np.zeros(8), sums, np.arange(8), draws=20_000)
    assert found.p == pytest.approx(exact, abs=0.01)
    assert paired(np.zeros(30), np.ones(30), np.arange(30), draws=99).p == 1 / 100  # never 0


def test_a_query_that_one_system_has_no_value_for_is_left_out() -> None:
    difference = paired([0.0, 1.0, math.nan], [0.5, math.nan, 1.0], ["x", "y", "z"])
    assert (difference.mean, difference.n, difference.groups) == (0.5, 1, 1)


def test_holm_by_hand() -> None:
    np.testing.assert_allclose(holm([0.01, 0.04, 0.03, 0.005]), [0.03, 0.06, 0.06, 0.02])
    np.testing.assert_allclose(holm([0.5, 0.9, 0.4]), [1, 1, 1])
    assert holm([]).tolist() == []


@given(arrays.arrays(float, st.integers(1, 20), elements=st.floats(0, 1)))
def test_holm_keeps_the_order_and_lies_between_nothing_and_bonferroni(p: np.ndarray) -> None:
    adjusted = holm(p)
    order = np.argsort(p, kind="stable")
    assert (np.diff(adjusted[order]) >= 0).all()
    assert (adjusted >= p).all()
    assert (adjusted <= np.minimum(p * len(p), 1) + 1e-15).all()


def test_slices_are_intervals_of_their_own() -> None:
    values, groups = clustered(np.random.default_rng(5), 20, spread=1)
    labels = np.where(np.arange(len(values)) % 3 == 0, "small", "large")
    slices = sliced(values, groups, labels, draws=100, seed=7)
    assert list(slices) == ["large", "small"]
    for label, interval in slices.items():
        assert interval == mean_interval(values[labels == label], groups[labels == label], draws=100, seed=7)


def test_too_little_to_tell_an_interval() -> None:
    one = mean_interval([0.2, 0.4], ["same", "same"])
    assert (one.mean, one.n, one.groups) == (pytest.approx(0.3), 2, 1)
    assert math.isnan(one.low) and math.isnan(one.high)
    none = mean_interval([math.nan], ["x"])
    assert (math.isnan(none.mean), none.n, none.groups) == (True, 0, 0)
    assert math.isnan(paired([math.nan], [1.0], ["x"]).p)
    assert sliced([], [], []) == {}


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(BadInput, match="2 values and 1 groups"):
        mean_interval([1, 2], ["x"])
    with pytest.raises(BadInput, match="level 95"):
        mean_interval([1, 2], ["x", "y"], level=95)
    with pytest.raises(BadInput, match="draws 0"):
        mean_interval([1, 2], ["x", "y"], draws=0)
    with pytest.raises(BadInput, match="same queries"):
        paired([1, 2], [1], ["x", "y"])
    with pytest.raises(BadInput, match="2 labels"):
        sliced([1], ["x"], ["a", "b"])
    for wrong in (1.5, -0.1, math.nan):
        with pytest.raises(BadInput, match="p-values"):
            holm([0.5, wrong])
