"""How far captions are believed by their agreement, and as their source goes."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from lookalike.trust import Trust

TRUST = Trust(right=0.6, wrong=0.1, deviation=0.2)
NONE = np.zeros(0, np.float32)


def test_the_share_of_wrong_captions_follows_their_mean_agreement() -> None:
    for share in (0.0, 0.25, 1.0):
        mixed = np.array([0.6] * round(100 * (1 - share)) + [0.1] * round(100 * share), np.float32)
        assert TRUST.share(mixed) == pytest.approx(share, abs=1e-6)
    assert TRUST.share(np.array([0.9], np.float32)) == 0 and TRUST.share(np.array([-0.9], np.float32)) == 1
    assert TRUST.share(NONE) == 1
    assert replace(TRUST, right=0.1).share(np.array([0.9], np.float32)) == 1


def test_the_chance_that_a_caption_is_right_is_bayes_rule() -> None:
    agreements = np.array([-0.2, 0.1, 0.35, 0.6, 0.8], np.float32)
    right, wrong = (np.exp(-(((agreements - mean) / 0.2) ** 2) / 2) for mean in (0.6, 0.1))
    np.testing.assert_allclose(TRUST.chance(agreements), right / (right + wrong), rtol=1e-5)
    shares = np.array([0.1, 0.3, 0.5, 0.7, 0.9], np.float32)
    due = (1 - shares) * right / ((1 - shares) * right + shares * wrong)
    np.testing.assert_allclose(TRUST.chance(agreements, shares), due, rtol=1e-5)
    assert not replace(TRUST, right=0.0).chance(agreements).any()
    assert TRUST.chance(NONE).shape == (0,)


def test_a_caption_is_the_less_likely_the_more_of_its_source_is_wrong() -> None:
    agreements = np.linspace(-1, 1, 9, dtype=np.float32)
    chances = [TRUST.chance(agreements, wrong) for wrong in (0.0, 0.1, 0.5, 0.9, 1.0)]
    assert (chances[0] == 1).all() and (chances[-1] == 0).all()
    assert all((more >= less).all() for more, less in pairwise(chances))
    sharp = replace(TRUST, deviation=0.0).chance(agreements)  # no overflow, no division by zero
    assert set(sharp.tolist()) == {0.0, 1.0}


def test_it_is_made_from_captions_known_to_be_right_and_wrong() -> None:
    random = np.random.default_rng(0)
    right, wrong = (random.normal(mean, 0.15, 4000).astype(np.float32) for mean in (0.5, 0.2))
    trust = Trust.of(right, wrong)
    assert (trust.right, trust.wrong) == (float(right.mean()), float(wrong.mean()))
    assert trust.deviation == pytest.approx(0.15, abs=0.005)
    mixed = np.concatenate([right[:700], wrong[:300]])
    assert trust.share(mixed) == pytest.approx(0.3, abs=0.03)
    chance = trust.chance(mixed, trust.share(mixed))
    assert chance.mean() == pytest.approx(0.7, abs=0.02)  # calibrated: as many are right as it says
