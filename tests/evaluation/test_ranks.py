import math

import ir_measures
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lookalike.errors import BadInput
from lookalike.evaluation.ranks import COUNTED, Ranks, ranks_of

rankings = st.lists(st.booleans(), max_size=60)
MEASURES = {
    "average_precision": Ranks.average_precision,
    "average_precision of 5": lambda ranks: ranks.average_precision(5),
    "map_at_r": Ranks.map_at_r,
    "trapezoid_ap": Ranks.trapezoid_ap,
    "hit_at": lambda ranks: ranks.hit_at(5),
    "share_at": lambda ranks: ranks.share_at(5),
    "precision_at": lambda ranks: ranks.precision_at(5),
    "precision_within": lambda ranks: ranks.precision_within(5),
    "r_precision": Ranks.r_precision,
    "reciprocal_rank": Ranks.reciprocal_rank,
    "ndcg_at": lambda ranks: ranks.ndcg_at(5),
}


@pytest.mark.parametrize("measure", MEASURES.values(), ids=MEASURES)
def test_a_measure_is_1_for_the_best_ranking_0_for_nothing_found_and_nan_for_nothing_to_find(measure) -> None:
    assert measure(Ranks(np.arange(5), total=5)) == pytest.approx(1, abs=1e-15)
    assert measure(Ranks(np.arange(0), total=5)) == 0
    assert math.isnan(measure(Ranks(np.arange(0), total=0)))


@pytest.mark.parametrize("measure", MEASURES.values(), ids=MEASURES)
@given(ranking=rankings, missing=st.integers(0, 3), data=st.data())
def test_a_measure_never_falls_when_a_right_answer_moves_up(measure, ranking, missing, data) -> None:
    wrong_before = [n for n in range(1, len(ranking)) if ranking[n] and not ranking[n - 1]]
    if not wrong_before:
        return
    place = data.draw(st.sampled_from(wrong_before))
    better = ranking.copy()
    better[place - 1 : place + 1] = True, False
    total = sum(ranking) + missing
    assert 0 <= measure(Ranks.of(ranking, total)) <= measure(Ranks.of(better, total)) + 1e-15 <= 1 + 2e-15


@given(ranking=rankings, missing=st.integers(0, 5), k=st.integers(1, 70))
def test_measures_agree_with_trec_eval(ranking: list[bool], missing: int, k: int) -> None:
    judged = [ir_measures.Qrel("q", f"{n}", int(right)) for n, right in enumerate(ranking)]
    judged += [ir_measures.Qrel("q", f"missing {n}", 1) for n in range(missing)]
    run = [ir_measures.ScoredDoc("q", f"{n}", -float(n)) for n in range(len(ranking))]
    ranks = Ranks.of(ranking, sum(ranking) + missing)
    if ranks.total == 0 or not ranking:
        return
    ours = {
        ir_measures.AP: ranks.average_precision(),
        ir_measures.AP @ k: ranks.cut(k).average_precision(),
        ir_measures.P @ k: ranks.precision_at(k),
        ir_measures.R @ k: ranks.share_at(k),
        ir_measures.Success @ k: ranks.hit_at(k),
        ir_measures.RR: ranks.reciprocal_rank(),
        ir_measures.Rprec: ranks.r_precision(),
        ir_measures.nDCG @ k: ranks.ndcg_at(k),
    }
    theirs = ir_measures.calc_aggregate(list(ours), judged, run)
    assert ours == pytest.approx(theirs, abs=1e-12)


def test_worked_examples_of_the_measures_that_trec_eval_does_not_have() -> None:
    ranks = Ranks(np.array([0, 2, 9]), total=4)
    assert ranks.average_precision(3) == pytest.approx((1 + 2 / 3) / 3)
    assert ranks.average_precision(10) == pytest.approx((1 + 2 / 3 + 3 / 10) / 4)
    assert ranks.map_at_r() == pytest.approx((1 + 2 / 3) / 4)
    assert ranks.trapezoid_ap() == pytest.approx(((1 + 1) + (1 / 2 + 2 / 3) + (2 / 9 + 3 / 10)) / 8)
    assert [ranks.precision_within(k) for k in (1, 2, 10, 50)] == [1, 1 / 2, 3 / 10, 3 / 10]
    assert Ranks(np.array([0, 1]), total=2).precision_within(10) == 1


@given(ranking=st.lists(st.sampled_from(["right", "wrong", "junk"]), max_size=40), seed=st.integers(0, 99))
def test_junk_taken_out_leaves_the_ranking_that_never_had_it(ranking: list[str], seed: int) -> None:
    kept = [label == "right" for label in ranking if label != "junk"]
    junk = np.flatnonzero([label == "junk" for label in ranking])
    np.random.default_rng(seed).shuffle(junk)
    cleaned = Ranks.of([label == "right" for label in ranking]).without(junk)
    assert cleaned.found.tolist() == np.flatnonzero(kept).tolist()
    assert cleaned.total == sum(kept)


@given(
    seed=st.integers(0, 2**32 - 1),
    gallery=st.integers(0, 80),
    right=st.integers(0, 40),
    different=st.integers(1, 100),
    dtype=st.sampled_from([np.float16, np.float32, np.float64]),
)
def test_ranks_are_those_of_a_stable_sort(
    seed: int, gallery: int, right: int, different: int, dtype: type
) -> None:
    random = np.random.default_rng(seed)
    scores = random.choice(random.standard_normal(different), (3, gallery)).astype(dtype)  # with ties
    answers = [random.permutation(gallery)[:some] for some in (right, right // 2, 0)]
    for row, some, ranks in zip(scores, answers, ranks_of(scores, answers), strict=True):
        order = np.argsort(-row, kind="stable")
        assert ranks.found.tolist() == np.flatnonzero(np.isin(order, some)).tolist()
        assert ranks.total == len(some)


@pytest.mark.parametrize("right", [2, COUNTED + 1])
def test_all_scores_equal_or_infinite(right: int) -> None:
    answers = np.arange(right) + 3
    equal, infinite = np.zeros((1, 30)), np.full((1, 30), -np.inf)
    infinite[0, :5] = np.inf
    for scores in (equal, infinite):
        assert ranks_of(scores, [answers])[0].found.tolist() == answers.tolist()


@pytest.mark.parametrize("right", [0, 2, COUNTED + 1])
def test_a_score_that_is_not_a_number_is_refused_by_name(right: int) -> None:
    scores = np.zeros((2, 30), np.float32)
    scores[1, 29] = np.nan
    with pytest.raises(BadInput, match=r"query 1: .*NaN"):
        ranks_of(scores, [np.arange(right)] * 2)


def test_mistakes_of_the_caller_are_refused() -> None:
    scores = np.zeros((1, 4))
    for wrong in ([np.array([4])], [np.array([-1])], [np.array([1, 1])], []):
        with pytest.raises(ValueError):
            ranks_of(scores, wrong)
    for found, total in (([2, 1], 2), ([1, 1], 2), ([-1], 1), ([0, 1], 1)):
        with pytest.raises(ValueError):
            Ranks(np.array(found), total)
    with pytest.raises(BadInput, match="k = 0"):
        Ranks(np.array([0]), 1).hit_at(0)
