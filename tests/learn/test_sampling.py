"""Batches of P identities with K regions each."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lookalike.errors import BadInput
from lookalike.learn.sampling import NO_IDENTITY, PKSampler
from lookalike.values import Keys


@st.composite
def labels(draw: st.DrawFn, least: int = 8) -> tuple[Keys, Keys]:
    """Identities and sides of regions in any order: at least so many identities of two regions or more,
    others of one, and regions of none."""
    counts = draw(st.lists(st.integers(2, 9), min_size=least, max_size=least + 12))
    single = draw(st.integers(0, 5))
    identities = np.concatenate(
        [
            np.repeat(np.arange(len(counts)) * 7 + 3, counts),
            1000 + np.arange(single),
            np.full(draw(st.integers(0, 6)), NO_IDENTITY),
        ]
    )
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    return random.permutation(identities), random.integers(0, draw(st.integers(1, 3)), len(identities))


@settings(max_examples=60, deadline=None)
@given(labels(), st.integers(2, 8), st.integers(2, 7), st.integers(0, 99))
def test_a_batch_has_p_identities_of_k_regions(label: tuple[Keys, Keys], p: int, k: int, seed: int) -> None:
    identities, sides = label
    sampler = PKSampler(identities, sides, p, k, seed)
    sizes = Counter(identities[identities != NO_IDENTITY].tolist())
    for batch in sampler.batches(epoch=2):
        assert batch.shape == (p * k,)
        names = identities[batch].reshape(p, k)
        assert (names == names[:, :1]).all() and len(set(names[:, 0].tolist())) == p
        for name, regions in zip(names[:, 0].tolist(), batch.reshape(p, k), strict=True):
            assert sizes[name] > 1
            times = Counter(regions.tolist())
            assert len(times) == min(k, sizes[name])  # none twice before all are there
            assert max(times.values()) - min(times.values()) <= 1
            has = set(sides[identities == name].tolist())
            assert len({sides[region] for region in regions}) == min(len(has), k)
    assert sampler.left_out == sum(size == 1 for size in sizes.values())
    assert sampler.identities == sum(size > 1 for size in sizes.values())


def test_sides_are_mixed_evenly_while_both_last() -> None:
    identities = np.repeat([0, 1], 12)
    sides = np.tile([0] * 3 + [1] * 9, 2)
    sampler = PKSampler(identities, sides, p=2, k=4, seed=0)
    for epoch in range(20):
        drawn = sides[sampler.batch(epoch, 0)].reshape(2, 4)
        assert (drawn.sum(1) == 2).all()
    wide = PKSampler(identities, sides, p=2, k=8, seed=0)
    assert (sides[wide.batch(0, 0)].reshape(2, 8).sum(1) == 5).all()  # all three of the one side


@settings(max_examples=40, deadline=None)
@given(labels(), st.integers(2, 8), st.integers(0, 99))
def test_an_epoch_visits_every_identity_once_or_twice(label: tuple[Keys, Keys], p: int, seed: int) -> None:
    identities, sides = label
    sampler = PKSampler(identities, sides, p, 2, seed)
    visits = Counter(name for batch in sampler.batches(epoch=1) for name in identities[batch[::2]].tolist())
    assert len(visits) == sampler.identities
    assert set(visits.values()) <= {1, 2}
    assert sum(visits.values()) == sampler.steps * p < sampler.identities + p


def test_over_epochs_every_region_is_drawn_about_equally() -> None:
    identities, sides = np.repeat(np.arange(12), 6), np.tile([0, 0, 0, 1, 1, 1], 12)
    sampler = PKSampler(identities, sides, p=4, k=2, seed=5)
    drawn = Counter(
        region for epoch in range(300) for batch in sampler.batches(epoch) for region in batch.tolist()
    )
    times = np.array([drawn[region] for region in range(72)])
    assert np.abs(times - 100).max() < 5 * np.sqrt(100)


@settings(max_examples=30, deadline=None)
@given(labels(least=12), st.integers(1, 3), st.integers(2, 4), st.integers(0, 99))
def test_ranks_share_the_batch_of_one_process(
    label: tuple[Keys, Keys], world: int, p: int, seed: int
) -> None:
    identities, sides = label
    ranks = [PKSampler(identities, sides, p, 3, seed, rank, world) for rank in range(world)]
    whole = PKSampler(identities, sides, p * world, 3, seed)
    assert {sampler.steps for sampler in ranks} == {whole.steps}
    for step in range(whole.steps):
        parts = [sampler.batch(1, step) for sampler in ranks]
        assert np.array_equal(np.concatenate(parts), whole.batch(1, step))
        shown = [set(identities[part].tolist()) for part in parts]
        assert sum(map(len, shown)) == len(set.union(*shown))


@settings(max_examples=20, deadline=None)
@given(labels(), st.integers(0, 99), st.data())
def test_a_run_goes_on_where_it_stopped(label: tuple[Keys, Keys], seed: int, data: st.DataObject) -> None:
    first, again = (PKSampler(*label, p=3, k=3, seed=seed) for _ in range(2))
    step = data.draw(st.integers(0, first.steps))
    whole = list(first.batches(epoch=4))
    rest = list(again.batches(4, step))
    assert len(rest) == len(whole) - step
    assert all(map(np.array_equal, rest, whole[step:]))


def test_epochs_and_seeds_differ() -> None:
    identities, sides = np.repeat(np.arange(20), 4), np.tile([0, 1], 40)
    sampler, other = (PKSampler(identities, sides, 5, 2, seed) for seed in (0, 1))
    assert not np.array_equal(sampler.batch(0, 0), sampler.batch(1, 0))
    assert not np.array_equal(sampler.batch(0, 0), other.batch(0, 0))
    with pytest.raises(ValueError, match="step 4 of 4"):
        sampler.batch(0, 4)


def test_too_few_identities_are_refused_with_what_to_do() -> None:
    identities, sides = np.array([0, 0, 1, 1, 2, 2, 3, -1, -1]), np.zeros(9, np.int64)
    with pytest.raises(BadInput, match="needs 4 identities of two regions or more; there are 3") as refused:
        PKSampler(identities, sides, p=4, k=2, seed=0)
    assert "p of at most 3" in refused.value.hint
    with pytest.raises(BadInput, match="2 identities in each of 2 processes needs 4"):
        PKSampler(identities, sides, p=2, k=2, seed=0, world=2)
    with pytest.raises(BadInput, match="there are 0, and 2 of a single region") as refused:
        PKSampler(np.array([5, 6]), np.zeros(2, np.int64), p=2, k=2, seed=0)
    assert "doctor" in refused.value.hint
    with pytest.raises(BadInput, match="there are 0"):
        PKSampler(np.array([], np.int64), np.array([], np.int64), p=2, k=2, seed=0)
    for p, k in ((1, 2), (2, 1)):
        with pytest.raises(BadInput, match="at least 2"):
            PKSampler(identities, sides, p, k, seed=0)
