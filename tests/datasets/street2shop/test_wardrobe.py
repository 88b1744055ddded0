"""Garments: what pairs, styles and twins have in common, and that each difference can be seen."""

from collections import Counter
from itertools import combinations

import numpy as np
import pytest

from lookalike.datasets.street2shop.scenes import flat_picture
from lookalike.datasets.street2shop.wardrobe import CATEGORIES, pair_of, random_garment

LOOKS = {"colour", "second colour", "pattern", "print"}


@pytest.fixture(scope="module")
def pairs():
    return [pair_of(5, "validation", number) for number in range(300)]


def test_at_least_thirty_percent_share_all_their_attributes_with_another(pairs):
    told = [(g.category, *sorted(g.attributes.items())) for styles in pairs for g in styles]
    counts = Counter(told)
    assert np.mean([counts[each] > 1 for each in told]) >= 0.3


def test_twins_differ_in_what_words_do_not_tell(pairs):
    for number in range(0, 300, 5):
        first, second = pairs[number], pairs[number + 1]
        assert [g.attributes for g in first] == [g.attributes for g in second]
        assert all(a.measures != b.measures for a, b in zip(first, second, strict=True))


def test_styles_of_a_pair_share_the_cut_and_differ_in_looks(pairs):
    assert {len(styles) for styles in pairs} == {1, 2, 3}
    for styles in pairs:
        for one, other in combinations(styles, 2):
            assert one.measures == other.measures
            assert one.category == other.category
            assert one.attributes != other.attributes
            same = {n: v for n, v in one.attributes.items() if n not in LOOKS}
            assert same == {n: v for n, v in other.attributes.items() if n not in LOOKS}


def test_all_categories_come_and_a_second_colour_only_where_it_shows(pairs):
    garments = [g for styles in pairs for g in styles]
    assert {g.category for g in garments} == set(CATEGORIES)
    for garment in garments:
        shown = (
            not garment.has("pattern", "plain")
            or "print" in garment.attributes
            or garment.has("trim", "contrast edges", "side stripes", "contrast stitching")
        )
        assert ("second colour" in garment.attributes) == shown


def test_a_split_and_a_seed_have_garments_of_their_own(pairs):
    assert pair_of(5, "validation", 7) == pairs[7]
    assert pair_of(5, "train", 7) != pairs[7]
    assert pair_of(6, "validation", 7) != pairs[7]


@pytest.mark.parametrize("category", CATEGORIES)
def test_twins_can_be_told_apart_in_the_picture(category):
    random = np.random.default_rng(3)
    one = random_garment(random, [category])
    other = next(
        g for g in (random_garment(random, [category]) for _ in range(99)) if g.measures != one.measures
    )
    twin = type(one)(category, one.attributes, other.measures, one.colours, other.motif)
    pictures = [
        np.asarray(flat_picture(garment, (160, 160), np.random.default_rng(0)), int)
        for garment in (one, twin)
    ]
    assert (np.abs(pictures[0] - pictures[1]).max(axis=2) > 40).mean() > 0.01
