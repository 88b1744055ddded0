"""What all re-rankers from descriptors have in common, and the published figures of each."""

import itertools
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lookalike.errors import BadInput
from lookalike.rerank import DatabaseAugmentation, Diffusion, KReciprocal, QueryExpansion, SuperGlobal
from lookalike.testing import Kept
from lookalike.values import Query, Shortlist

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "rerank" / "sparse_3_per_item.npz")
PUBLISHED = dict(entry.split("=") for entry in GOLDEN["map_table"])
OTHERS = GOLDEN["Q"][:, :16] / np.linalg.norm(GOLDEN["Q"][:, :16], axis=1, keepdims=True)
RERANKERS = [
    SuperGlobal(neighbours=3),
    QueryExpansion(k=3),
    DatabaseAugmentation(k=3),
    DatabaseAugmentation(k=3, then=QueryExpansion(k=2)),
    KReciprocal(k1=6, k2=3),
    KReciprocal(k1=6, k2=3, others=OTHERS),
    Diffusion(k=5, k_query=3),
]
each = pytest.mark.parametrize("reranker", RERANKERS, ids=lambda reranker: reranker.name)


def general(members: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """A query (16,) and a shortlist (members, 16) of unit length, float64, no two scores alike."""
    random = np.random.default_rng(seed)
    rows = random.standard_normal((members + 1, 16)) + 1
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return rows[0], rows[1:]


@each
@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), members=st.integers(1, 40))
def test_scores_follow_permutations(reranker, seed: int, members: int) -> None:
    query, shortlist = general(members, seed)
    scores = reranker.score(query, shortlist)
    assert scores.shape == (members,)
    shuffled = np.random.default_rng(seed).permutation(members)
    np.testing.assert_allclose(reranker.score(query, shortlist[shuffled]), scores[shuffled], atol=1e-9)


@each
@pytest.mark.parametrize("members", [0, 1, 2, 30])
def test_rerank_keeps_members_and_sorts_them_by_the_new_score(reranker, members: int) -> None:
    query, rows = general(members)
    order = np.argsort(-(rows @ query))
    shortlist = Shortlist(order.astype(np.int64), (rows @ query)[order].astype(np.float32), Kept(rows))
    again = reranker.rerank(Query(query), shortlist)
    assert sorted(again.keys) == list(range(members))
    assert (np.diff(again.scores) <= 0).all()
    np.testing.assert_array_equal(again.vectors, rows[again.keys])
    np.testing.assert_allclose(again.scores, reranker.score(query, rows)[again.keys], atol=1e-5)


@each
def test_float32_gives_the_scores_of_float64(reranker) -> None:
    query, rows = general(50)
    exact = reranker.score(query, rows)
    single = reranker.score(query.astype(np.float32), rows.astype(np.float32))
    np.testing.assert_allclose(single, exact, atol=1e-4)
    kept = replace(reranker, others=OTHERS.astype(np.float32)) if hasattr(reranker, "others") else reranker
    assert kept.score(query.astype(np.float32), rows.astype(np.float32)).dtype == np.float32
    assert exact.dtype == np.float64


@each
def test_more_neighbours_than_members_are_all_members(reranker) -> None:
    query, rows = general(4)
    field = {"superglobal": "neighbours", "k-reciprocal": "k1", "k-reciprocal-transductive": "k1"}
    many, all_of_them = (
        replace(reranker, **{field.get(reranker.name, "k"): k}).score(query, rows) for k in (1000, 24)
    )
    np.testing.assert_allclose(many, all_of_them, atol=1e-12)


@each
def test_members_that_are_all_the_same_keep_their_order(reranker) -> None:
    rows = np.zeros((5, 16), np.float32)
    rows[:, 0] = 1
    shortlist = Shortlist(np.arange(5)[::-1].copy(), np.ones(5, np.float32), Kept(rows))
    again = reranker.rerank(Query(rows[0]), shortlist)
    assert again.keys.tolist() == [4, 3, 2, 1, 0]


@each
def test_copies_and_zero_vectors_are_scored(reranker) -> None:
    query, rows = general(12)
    crowded = np.concatenate([rows.repeat(3, axis=0), np.zeros((3, 16))])
    scores = reranker.score(query, crowded)
    assert scores.shape == (39,)
    assert np.isfinite(scores).all()
    assert np.isfinite(reranker.score(np.zeros(16), crowded)).all()
    assert np.isfinite(reranker.score(np.zeros(16), np.zeros((4, 16)))).all()


@each
@pytest.mark.parametrize("fault", [np.nan, np.inf])
def test_numbers_that_are_not_finite_are_refused(reranker, fault: float) -> None:
    query, rows = general(10)
    spoilt = rows.copy()
    spoilt[3, 5] = fault
    for asked, members in ((query, spoilt), (spoilt[3], rows)):
        with pytest.raises(BadInput, match="not finite") as refusal:
            reranker.score(asked, members)
        assert "\n" not in str(refusal.value)


def test_others_that_are_not_finite_are_refused() -> None:
    query, rows = general(10)
    with pytest.raises(BadInput, match="not finite"):
        KReciprocal(others=np.full((3, 16), np.nan)).score(query, rows)


@pytest.mark.parametrize("method", list(dict.fromkeys(map(type, RERANKERS))))
def test_the_grid_holds_the_published_values_and_is_small(method: type) -> None:
    names, values = zip(*method.GRID.items(), strict=True)
    combinations = list(itertools.product(*values))
    assert len(combinations) <= 20
    assert tuple(getattr(method(), name) for name in names) in combinations
    query, rows = general(8)
    for combination in combinations:
        fitted = replace(method(), **dict(zip(names, combination, strict=True)))
        assert np.isfinite(fitted.score(query, rows)).all()


def test_importing_them_loads_no_engine() -> None:
    heavy = "torch onnxruntime faiss scipy cv2"
    code = f"import lookalike.rerank, sys; print(*sys.modules.keys() & set({heavy!r}.split()))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def mean_average_precision(scores: np.ndarray, right_first: bool) -> float:
    """Plain AP over all of the gallery; among equal scores the right ones come first, or last."""
    precisions = []
    for row, label in zip(np.round(scores, 12), GOLDEN["query_labels"], strict=True):
        right = GOLDEN["gallery_labels"] == label
        order = np.lexsort((right != right_first, -row))
        hits = np.flatnonzero(right[order])
        precisions.append(np.mean(np.arange(1, len(hits) + 1) / (hits + 1)))
    return float(np.mean(precisions))


def published_methods() -> dict[str, tuple[Callable[[], np.ndarray], float]]:
    """By the table's names: all scores (20, 60), and how near the figure must be."""
    queries, gallery = GOLDEN["Q"], GOLDEN["G"]
    methods: dict[str, tuple[Callable[[], np.ndarray], float]] = {"base": (lambda: queries @ gallery.T, 1e-6)}
    for k, alpha in ((3, 0), (3, 3), (5, 3), (10, 3)):
        expansion, augmentation = QueryExpansion(k, alpha), DatabaseAugmentation(k, alpha)
        both = replace(augmentation, then=expansion)
        for name, method in (("aqe", expansion), ("dba", augmentation), ("dba+aqe", both)):
            methods[f"{name}_k{k}_a{alpha}"] = (
                lambda method=method: np.stack([method.score(query, gallery) for query in queries]),
                1e-6,
            )
    for k1, k2, weight in ((20, 6, "0.3"), (8, 3, "0.3"), (4, 1, "0.3"), (8, 3, "0")):
        method = KReciprocal(k1, k2, float(weight))
        # Theirs are of distances in float16, where many are equal.
        methods[f"krecip_{k1}_{k2}_{weight}"] = (
            lambda method=method: -method.distances(queries, gallery),
            2e-3,
        )
    return methods


def test_every_published_figure_has_its_method() -> None:
    assert published_methods().keys() == PUBLISHED.keys()


@pytest.mark.parametrize("name", PUBLISHED)
def test_average_precision_is_the_published_one(name: str) -> None:
    scores, tolerance = published_methods()[name]
    most, least = (mean_average_precision(scores(), right_first) for right_first in (True, False))
    assert least - tolerance <= float(PUBLISHED[name]) <= most + tolerance
    assert most - least < 0.005
