from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lookalike.errors import BadInput
from lookalike.rerank import DatabaseAugmentation, QueryExpansion

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "rerank" / "sparse_3_per_item.npz")
PARAMETERS = [(3, 0), (3, 3), (5, 3), (10, 3)]


@pytest.mark.parametrize(("k", "alpha"), PARAMETERS)
def test_descriptors_equal_the_published_code(k: int, alpha: int) -> None:
    queries, gallery = GOLDEN["Q"], GOLDEN["G"]
    expansion = QueryExpansion(k, alpha)
    augmented = DatabaseAugmentation(k, alpha).augment(gallery)
    for made, of in (
        (expansion.expand(queries, gallery), "aqe"),
        (augmented, "dba"),
        (expansion.expand(queries, augmented), "dba_then_aqe"),
    ):
        np.testing.assert_allclose(made, GOLDEN[f"{of}_k{k}_a{alpha}"], atol=1e-12, err_msg=of)


def naive(row: np.ndarray, others: np.ndarray, k: int, alpha: float) -> np.ndarray:
    nearest = sorted(range(len(others)), key=lambda j: -float(row @ others[j]))[:k]
    total = row.copy()
    for j in nearest:
        total = total + max(0.0, float(row @ others[j])) ** alpha * others[j]
    return total / np.linalg.norm(total)


@settings(max_examples=40)
@given(
    seed=st.integers(0, 2**32 - 1),
    size=st.integers(0, 20),
    k=st.integers(1, 25),
    alpha=st.sampled_from([0.0, 0.5, 1.0, 3.0]),
    block=st.sampled_from([1, 50, 1 << 22]),
)
def test_descriptors_equal_the_definition_with_unlike_neighbours_too(
    seed: int, size: int, k: int, alpha: float, block: int
) -> None:
    random = np.random.default_rng(seed)
    rows = random.standard_normal((size + 4, 5))  # about half of all scores are negative
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    queries, gallery = rows[:4], rows[4:]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lookalike.rerank.expansion.BLOCK", block)
        expanded = QueryExpansion(k, alpha).expand(queries, gallery)
        augmented = DatabaseAugmentation(k, alpha).augment(gallery)
    np.testing.assert_allclose(expanded, [naive(row, gallery, k, alpha) for row in queries], atol=1e-12)
    assert augmented.shape == gallery.shape
    for place, row in enumerate(gallery):
        others = np.delete(gallery, place, axis=0)
        np.testing.assert_allclose(augmented[place], naive(row, others, k, alpha), atol=1e-12)


def test_scores_are_those_of_the_descriptors_made() -> None:
    query, gallery = GOLDEN["Q"][0], GOLDEN["G"]
    expansion, augmentation = QueryExpansion(3), DatabaseAugmentation(5)
    augmented = augmentation.augment(gallery)
    for made, expected in (
        (expansion.score(query, gallery), gallery @ expansion.expand(query[None], gallery)[0]),
        (augmentation.score(query, gallery), augmented @ query),
        (
            DatabaseAugmentation(5, then=expansion).score(query, gallery),
            augmented @ expansion.expand(query[None], augmented)[0],
        ),
    ):
        np.testing.assert_allclose(made, expected, atol=1e-12)


@pytest.mark.parametrize("method", [QueryExpansion, DatabaseAugmentation])
def test_values_that_mean_nothing_are_refused(method: type) -> None:
    for values in ({"k": 0}, {"alpha": -1.0}):
        with pytest.raises(BadInput, match="expansion with"):
            method(**values)
