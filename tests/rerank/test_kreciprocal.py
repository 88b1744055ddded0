import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lookalike.errors import BadInput
from lookalike.rerank import KReciprocal

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "rerank" / "sparse_3_per_item.npz")


@pytest.mark.parametrize(("k1", "k2", "weight"), [(20, 6, "0.3"), (8, 3, "0.3"), (4, 1, "0.3"), (8, 3, "0")])
def test_distances_equal_the_published_code(k1: int, k2: int, weight: str) -> None:
    made = KReciprocal(k1, k2, float(weight)).distances(GOLDEN["Q"], GOLDEN["G"])
    np.testing.assert_allclose(made, GOLDEN[f"kreciprocal_dist_{k1}_{k2}_{weight}"], atol=2e-3)


def naive(queries: np.ndarray, gallery: np.ndarray, k1: int, k2: int, weight: float) -> np.ndarray:
    """Section 3 of the paper, set by set."""
    pool = np.concatenate([queries, gallery])
    size = len(pool)
    apart = np.array([[float(((a - b) ** 2).sum()) for b in pool] for a in pool])
    apart /= apart.max(axis=1, keepdims=True)
    order = [sorted(range(size), key=lambda j, i=i: (j != i, apart[i, j])) for i in range(size)]

    def reciprocal(i: int, k: int) -> set[int]:
        return {j for j in order[i][: k + 1] if i in order[j][: k + 1]}

    membership = np.zeros((size, size))
    for i in range(size):
        core = reciprocal(i, k1)
        joined = set(core)
        for j in core:
            theirs = reciprocal(j, round(k1 / 2))
            if len(theirs & core) > 2 / 3 * len(theirs):
                joined |= theirs
        for j in joined:
            membership[i, j] = np.exp(-apart[i, j])
        membership[i] /= membership[i].sum()
    membership = np.array([membership[order[i][:k2]].mean(axis=0) for i in range(size)])
    final = np.empty((len(queries), len(gallery)))
    for i in range(len(queries)):
        for g in range(len(gallery)):
            j = len(queries) + g
            shared = sum(min(a, b) for a, b in zip(membership[i], membership[j], strict=True))
            final[i, g] = (1 - weight) * (1 - shared / (2 - shared)) + weight * apart[i, j]
    return final


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    queries=st.integers(1, 4),
    size=st.integers(1, 30),
    k1=st.integers(1, 25),
    k2=st.integers(1, 8),
    weight=st.floats(0, 1),
    block=st.sampled_from([1, 100, 1 << 22]),
)
def test_distances_equal_the_definition(
    seed: int, queries: int, size: int, k1: int, k2: int, weight: float, block: int
) -> None:
    random = np.random.default_rng(seed)
    rows = (
        random.standard_normal((queries + size, 6))
        + 3 * random.standard_normal((5, 6))[random.integers(0, 5, queries + size)]
    )
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lookalike.rerank.kreciprocal.BLOCK", block)
        made = KReciprocal(k1, k2, weight).distances(rows[:queries], rows[queries:])
    np.testing.assert_allclose(made, naive(rows[:queries], rows[queries:], k1, k2, weight), atol=1e-6)


def test_a_query_alone_differs_from_the_same_query_among_others() -> None:
    queries, gallery = GOLDEN["Q"], GOLDEN["G"]
    alone = KReciprocal().score(queries[0], gallery)
    np.testing.assert_array_equal(-alone, KReciprocal().distances(queries[:1], gallery)[0])
    among = KReciprocal(others=queries[1:]).score(queries[0], gallery)
    np.testing.assert_array_equal(-among, KReciprocal().distances(queries, gallery)[0])
    assert not np.allclose(alone, among, atol=1e-3)


def test_others_may_hold_the_query_itself() -> None:
    queries, gallery = GOLDEN["Q"], GOLDEN["G"]
    scores = [KReciprocal(others=others).score(queries[0], gallery) for others in (queries, queries[1:])]
    np.testing.assert_array_equal(*scores)


def test_no_more_others_take_part_than_the_shortlist_is_long() -> None:
    query, others, shortlist = GOLDEN["Q"][0], GOLDEN["Q"][1:], GOLDEN["G"][:5]
    nearest = others[np.sort(np.argsort(-(others @ query))[:5])]
    np.testing.assert_array_equal(
        KReciprocal(2, 1, others=others).score(query, shortlist),
        KReciprocal(2, 1, others=nearest).score(query, shortlist),
    )


def test_the_name_tells_whether_other_queries_take_part() -> None:
    assert KReciprocal().name == "k-reciprocal"
    assert KReciprocal(others=GOLDEN["Q"]).name == "k-reciprocal-transductive"


def test_no_matrix_of_all_against_all_is_held(monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(0)
    rows = random.standard_normal((1500, 16), np.float32)
    rows += 2 * rows[random.integers(0, 150, 1500)]
    monkeypatch.setattr("lookalike.rerank.kreciprocal.BLOCK", 32 * len(rows))
    tracemalloc.start()
    try:
        KReciprocal().distances(rows[:10], rows[10:])
        assert tracemalloc.get_traced_memory()[1] < 1500 * 1500 * 4
    finally:
        tracemalloc.stop()


def test_empty_sides_give_no_distances() -> None:
    queries, gallery = GOLDEN["Q"], GOLDEN["G"]
    assert KReciprocal().distances(queries[:0], gallery).shape == (0, 60)
    assert KReciprocal().distances(queries, gallery[:0]).shape == (20, 0)


def test_values_that_mean_nothing_are_refused() -> None:
    for values in ({"k1": 0}, {"k2": 0}, {"weight": 1.5}):
        with pytest.raises(BadInput, match="k-reciprocal with"):
            KReciprocal(**values)
