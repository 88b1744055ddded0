from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lookalike.errors import BadInput
from lookalike.rerank import SuperGlobal
from lookalike.testing import Kept
from lookalike.values import Query, Shortlist, unit

GOLDEN = Path(__file__).parents[1] / "golden" / "superglobal"


@pytest.mark.parametrize("file", sorted(GOLDEN.glob("*_M*.npz")), ids=lambda path: path.stem)
def test_scores_equal_the_published_code(file: Path) -> None:
    golden = np.load(file)
    gallery, queries, ranks = golden["X"], golden["Q"], golden["ranks_initial"]
    reranker = SuperGlobal(neighbours=int(golden["K"]), beta=float(golden["beta"]))
    length = golden["score1_by_initial_rank"].shape[1]
    for column, query in enumerate(queries):
        shortlist = gallery[ranks[:length, column]]
        scores = reranker.score(query, shortlist)
        order = golden["order1"][column]
        np.testing.assert_allclose(scores[order], golden["final_score_by_order1"][column], atol=1e-12)
        final = ranks[:length, column][np.argsort(-scores, kind="stable")]
        assert final.tolist() == golden["ranks_final"][:length, column].tolist()


def naive(query: np.ndarray, shortlist: np.ndarray, neighbours: int, beta: float) -> np.ndarray:
    """Section 3.3 of the paper, one sum at a time."""
    refined = []
    for member in shortlist:
        likeness = [float(member @ other) for other in shortlist]
        nearest = sorted(range(len(shortlist)), key=lambda j: -likeness[j])[: neighbours + 1]
        weights = [1.0] + [beta * likeness[j] for j in nearest[1:]]
        refined.append(sum(w * shortlist[j] for w, j in zip(weights, nearest, strict=True)) / sum(weights))
    direct = [float(query @ r) for r in refined]
    best = sorted(range(len(refined)), key=lambda i: -direct[i])[: neighbours + 1]
    expanded = np.max([refined[i] for i in best], axis=0)
    return np.array([(d + float(expanded @ r)) / 2 for d, r in zip(direct, refined, strict=True)])


@given(
    seed=st.integers(0, 2**32 - 1),
    members=st.integers(1, 30),
    neighbours=st.integers(1, 12),
    beta=st.floats(0, 0.3),
)
def test_scores_equal_the_definition_and_follow_permutations(
    seed: int, members: int, neighbours: int, beta: float
) -> None:
    random = np.random.default_rng(seed)
    vectors = np.abs(random.standard_normal((members + 1, 16)))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    query, shortlist = vectors[0], vectors[1:]
    reranker = SuperGlobal(neighbours, beta)
    scores = reranker.score(query, shortlist)
    np.testing.assert_allclose(scores, naive(query, shortlist, neighbours, beta), atol=1e-12)
    shuffled = random.permutation(members)
    np.testing.assert_allclose(reranker.score(query, shortlist[shuffled]), scores[shuffled], atol=1e-12)


def test_opposite_members_do_not_cancel_the_weights() -> None:
    shortlist = np.array([[1.0, 0.0], [-1.0, 0.0]])
    scores = SuperGlobal(neighbours=1, beta=1.0).score(np.array([1.0, 0.0]), shortlist)
    np.testing.assert_allclose(scores, [1.0, -1.0])


def test_values_that_mean_nothing_are_refused() -> None:
    for values in ({"neighbours": -1}, {"beta": -0.1}):
        with pytest.raises(BadInput, match="superglobal with"):
            SuperGlobal(**values)


def test_an_empty_shortlist_gives_no_scores() -> None:
    assert SuperGlobal().score(np.ones(4, np.float32) / 2, np.zeros((0, 4), np.float32)).shape == (0,)


def test_rerank_keeps_members_and_sorts_them_by_the_new_score() -> None:
    random = np.random.default_rng(1)
    vectors = unit(random.standard_normal((40, 8)))
    query = unit(random.standard_normal(8))
    first = np.argsort(-(vectors @ query))
    shortlist = Shortlist(first.astype(np.int64), (vectors @ query)[first], Kept(vectors))
    again = SuperGlobal(neighbours=3).rerank(Query(query), shortlist)
    assert sorted(again.keys) == sorted(shortlist.keys)
    assert (np.diff(again.scores) <= 0).all()
    np.testing.assert_array_equal(again.vectors, vectors[again.keys])
