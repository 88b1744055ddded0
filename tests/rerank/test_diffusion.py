import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lookalike.errors import BadInput
from lookalike.rerank import Diffusion


def dense(query: np.ndarray, members: np.ndarray, method: Diffusion) -> tuple[np.ndarray, np.ndarray]:
    """I - alpha S and the y of (I - alpha S) f = y, entry by entry."""
    size = len(members)
    alike = members @ members.T
    near = [
        set(sorted(set(range(size)) - {i}, key=lambda j, i=i: -alike[i, j])[: method.k]) for i in range(size)
    ]
    joined = np.zeros((size, size))
    for i in range(size):
        for j in range(size):
            if j in near[i] and i in near[j]:
                joined[i, j] = max(0.0, alike[i, j]) ** method.gamma
    sums = joined.sum(axis=1)
    system = np.eye(size)
    for i, j in np.argwhere(joined):
        system[i, j] -= method.alpha * joined[i, j] / np.sqrt(sums[i] * sums[j])
    towards = members @ query
    start = np.zeros(size)
    for i in np.argsort(-towards)[: method.k_query]:
        start[i] = max(0.0, towards[i]) ** method.gamma
    return system, start


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    members=st.integers(1, 80),
    k=st.integers(1, 60),
    k_query=st.integers(1, 12),
    alpha=st.sampled_from([0.0, 0.5, 0.9, 0.99]),
    gamma=st.sampled_from([1.0, 3.0]),
)
def test_scores_solve_the_system_as_closely_as_twenty_steps_must(
    seed: int, members: int, k: int, k_query: int, alpha: float, gamma: float
) -> None:
    random = np.random.default_rng(seed)
    rows = random.standard_normal((members + 1, 5))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    method = Diffusion(k, k_query, alpha, gamma)
    made = method.score(rows[0], rows[1:])
    system, start = dense(rows[0], rows[1:], method)
    solved = np.linalg.solve(system, start)
    condition = np.sqrt((1 + alpha) / (1 - alpha))
    bound = 2 * ((condition - 1) / (condition + 1)) ** 20  # of conjugate gradients, in the system's norm
    error = made - solved
    assert error @ system @ error <= (bound**2 + 1e-20) * (solved @ system @ solved) + 1e-30
    if members <= 20:  # as many steps as unknowns are exact
        np.testing.assert_allclose(made, solved, atol=1e-6 * max(1, np.abs(solved).max()))


def test_the_published_values_come_close_at_the_length_of_a_shortlist() -> None:
    random = np.random.default_rng(0)
    rows = random.standard_normal((400, 64)) + random.standard_normal((80, 64)).repeat(5, axis=0)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    query = rows[0] + rows[1]
    query /= np.linalg.norm(query)
    system, start = dense(query, rows, Diffusion())
    solved = np.linalg.solve(system, start)
    made = Diffusion().score(query, rows)
    np.testing.assert_allclose(made, solved, atol=0.02 * solved.max())
    assert np.argsort(-made)[:5].tolist() == np.argsort(-solved)[:5].tolist()


def test_what_is_not_joined_to_the_querys_neighbours_keeps_its_order_at_the_end() -> None:
    near = np.array([[1.0, 0.1, 0, 0], [1, 0, 0.1, 0], [1, 0, 0, 0]])
    far = np.array([[0.0, 0, 1, 1], [0, 1, 1, 0], [0, 1, 0, 1]])
    members = np.concatenate([far, near])
    members /= np.linalg.norm(members, axis=1, keepdims=True)
    scores = Diffusion(k=2, k_query=1).score(np.array([1.0, 0, 0, 0]), members)
    np.testing.assert_array_equal(scores[:3], 0)
    assert (scores[3:] > 0).all()


def test_values_that_mean_nothing_are_refused() -> None:
    for values in ({"k": 0}, {"k_query": 0}, {"alpha": 1.0}, {"gamma": 0.0}):
        with pytest.raises(BadInput, match="diffusion with"):
            Diffusion(**values)
