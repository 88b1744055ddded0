"""Pooling against SuperGlobal's own outputs, naive loops and known properties."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lookalike import pooling
from lookalike.values import Box

GOLDEN = Path(__file__).parent / "golden" / "superglobal"


@pytest.fixture(params=[("float64", 1e-12), ("float32", 1e-5)], ids=lambda param: param[0])
def golden(request: pytest.FixtureRequest) -> tuple[dict[str, Any], float]:
    name, tolerance = request.param
    with np.load(GOLDEN / f"pooling_{name}.npz") as file:
        return dict(file), tolerance


def same(got: Any, expected: Any, tolerance: float) -> None:
    assert got.dtype == expected.dtype
    np.testing.assert_allclose(got, expected, rtol=0, atol=tolerance)


def test_pooling_equals_superglobal(golden: tuple[dict[str, Any], float]) -> None:
    data, tolerance = golden
    p, eps, pr, window = float(data["p"]), float(data["gem_eps"]), float(data["pr"]), int(data["window"])

    same(pooling.gem(data["fmap"], p, eps), data["gemp"], tolerance)
    smoothed = pooling.regional_gem(data["fmap"], pr, window)
    same(smoothed, data["rgem"], tolerance)
    same(pooling.gem(smoothed, p, eps), data["gemp_after_rgem"], tolerance)
    same(pooling.scale_gem(data["scales"]), data["sgem_inf"], tolerance)
    same(pooling.scale_gem(data["scales"], float(data["ps"])), data["sgem_p10"], tolerance)
    same(pooling.relup(data["relup_in"], float(data["relup_alpha"])), data["relup"], tolerance)


def test_gem_runs_from_the_mean_to_the_maximum() -> None:
    maps = np.random.default_rng(1).uniform(0.1, 3, (2, 5, 4, 6))
    np.testing.assert_allclose(pooling.gem(maps, 1), maps.mean((2, 3)))
    np.testing.assert_allclose(pooling.gem(maps, 400), maps.max((2, 3)), rtol=0.02)


def test_gem_of_a_signed_map_counts_the_negative_part_as_nothing() -> None:
    maps = np.array([[[[-5.0, 2.0]]]])
    np.testing.assert_allclose(pooling.gem(maps, 2), [[np.sqrt(2)]])


boxes = st.builds(
    lambda x, y, width, height: Box(x, y, x + width, y + height),
    st.floats(0, 6), st.floats(0, 4), st.floats(0.01, 6), st.floats(0.01, 4),
)  # fmt: skip


@given(boxes)
def test_pooling_in_a_box_is_the_integral_over_it(box: Box) -> None:
    """Against a naive sum over the cells, one by one."""
    height, width = 9, 13
    maps = np.random.default_rng(0).normal(size=(1, 3, height, width))
    expected = np.zeros(3)
    for row in range(height):
        for column in range(width):
            across = max(0.0, min(box.x1, column + 1) - max(box.x0, column))
            down = max(0.0, min(box.y1, row + 1) - max(box.y0, row))
            expected += maps[0, :, row, column] * across * down / box.area

    shares = pooling.coverage([box], height, width)
    np.testing.assert_allclose(shares.sum(), 1, rtol=1e-5)
    np.testing.assert_allclose(pooling.mean(maps, shares)[0], expected, atol=1e-5)


@given(boxes)
def test_tapered_shares_are_a_cosine_over_the_box(box: Box) -> None:
    """Against the sum of the cosine at fine steps along each side."""
    shares = pooling.tapered([box], 9, 13)[0]
    for axis, start, end in ((0, box.x0, box.x1), (1, box.y0, box.y1)):
        places = (np.arange(20_000) + 0.5) / 20_000
        cells = np.floor(start + places * (end - start)).astype(int)
        expected = np.bincount(cells, np.cos(np.pi * (places - 0.5)), shares.shape[1 - axis])
        np.testing.assert_allclose(shares.sum(axis), expected / expected.sum(), atol=1e-3)


def test_a_box_over_the_whole_map_pools_like_no_box() -> None:
    maps = np.random.default_rng(2).uniform(0, 1, (2, 4, 3, 5))
    shares = pooling.coverage([Box(0, 0, 5, 3)] * 2, 3, 5)
    np.testing.assert_allclose(pooling.mean(maps, shares), pooling.mean(maps), rtol=1e-6)
    np.testing.assert_allclose(pooling.gem(maps, 3, shares=shares), pooling.gem(maps, 3), rtol=1e-6)


def test_salient_is_the_mean_weighted_by_the_norms() -> None:
    """Against a loop over the cells, with and without shares."""
    random = np.random.default_rng(3)
    maps, shares = random.normal(size=(2, 5, 3, 4)), random.uniform(size=(2, 3, 4))
    for given_shares in (None, shares / shares.sum((1, 2), keepdims=True)):
        expected = []
        for b in range(2):
            cells = [(maps[b, :, y, x], 1.0 if given_shares is None else given_shares[b, y, x])
                     for y in range(3) for x in range(4)]  # fmt: skip
            weights = [np.sqrt(float(cell @ cell)) ** 3 * share for cell, share in cells]
            expected.append(sum(w * cell for w, (cell, _) in zip(weights, cells, strict=True)) / sum(weights))
        np.testing.assert_allclose(pooling.salient(maps, 3, given_shares), expected)


def test_salient_runs_from_the_mean_to_the_loudest_cell_and_bears_silence() -> None:
    maps = np.random.default_rng(4).normal(size=(1, 5, 3, 4))
    loudest = maps[0].reshape(5, -1)[:, np.linalg.norm(maps[0], axis=0).argmax()]
    np.testing.assert_allclose(pooling.salient(maps, 0), maps.mean((2, 3)))
    np.testing.assert_allclose(pooling.salient(maps, 4000)[0], loudest)
    np.testing.assert_array_equal(pooling.salient(np.zeros_like(maps), 3), np.zeros((1, 5)))


def test_no_boxes_give_no_shares() -> None:
    assert pooling.coverage([], 3, 5).shape == (0, 3, 5)
    assert pooling.tapered([], 3, 5).shape == (0, 3, 5)
