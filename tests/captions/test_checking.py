"""What speaks for claims: each check by hand, and by what must hold whatever is claimed."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lookalike.captions.checking import agreement, decided, pixels, samples, views
from lookalike.captions.palette import looks, support
from lookalike.testing import ThumbnailEncoder
from lookalike.values import Claim, Floats, Picture, Region

RED = Region(Picture.of(np.full((64, 64, 3), (190, 30, 40), np.uint8)))


def colour(value: str, **support: float) -> Claim:
    return Claim(value, "colour", value, support)


def neck(value: str, **support: float) -> Claim:
    return Claim(f"a {value}", "neckline", value, support)


def told(claims: Sequence[Claim], check: str) -> list[tuple[str, float | None]]:
    return [(claim.value or claim.text, claim.support.get(check)) for claim in claims]


CLAIMS = st.lists(
    st.builds(
        lambda pair, sure: Claim(pair[1], *pair, support={"pixels": sure}),
        st.sampled_from([("colour", "red"), ("colour", "navy"), ("neckline", "hood"), ("pattern", "plain")]),
        st.sampled_from([0.25, 0.5, 1.0]),
    ),
    max_size=4,
    unique_by=lambda claim: claim.value,
)


# Pixels


def test_pixels_speak_of_colours_and_leave_the_rest() -> None:
    claims = (colour("red"), colour("green", views=0.75), neck("hood"), Claim("A bird sings."))
    red, green, *others = pixels(claims, RED)
    assert red.confidence > 0.8
    assert green.support["pixels"] < 0.2
    assert green.support["views"] == 0.75
    assert green.support["pixels"] == support(looks(RED), "colour", "green")
    assert others == list(claims[2:])


def test_pixels_have_nothing_to_say_of_prose() -> None:
    assert pixels([Claim("A bird sings.")], RED) == (Claim("A bird sings."),)
    assert pixels([], RED) == ()


# Samples


def test_samples_put_the_more_frequent_answer_first() -> None:
    asked = [
        [colour("navy"), neck("hood"), Claim("A bird sings.")],
        [colour("black"), neck("hood")],
        [colour("black")],
    ]
    assert told(samples(asked), "samples") == [
        ("black", 2 / 3),
        ("navy", 1 / 3),
        ("hood", 2 / 3),
        ("A bird sings.", 1 / 3),
    ]
    assert [claim.value for claim in decided(samples(asked)) if claim.believed] == ["black", "hood"]


def test_samples_keep_to_the_first_answer_on_a_tie() -> None:
    assert told(samples([[colour("navy")], [colour("black")]]), "samples") == [("navy", 0.5)]


def test_samples_count_silence_as_an_answer() -> None:
    assert samples([[], [neck("hood")]]) == ()
    assert told(samples([[], [neck("hood")], [neck("hood")]]), "samples") == [("hood", 2 / 3)]
    assert samples([[], [neck("hood")], [neck("V-neck")], [neck("V-neck")], [], []]) == ()


@given(st.lists(CLAIMS, min_size=1, max_size=5))
def test_samples_are_shares(asked: list[list[Claim]]) -> None:
    checked = samples(asked)
    kept = {(claim.attribute, claim.value) for claim in checked}
    assert len(kept) == len(checked)
    assert kept >= {(claim.attribute, claim.value) for claim in asked[0]}
    for claim in checked:
        said = sum(
            any((each.attribute, each.value) == (claim.attribute, claim.value) for each in answer)
            for answer in asked
        )
        assert claim.support["samples"] == said / len(asked)
        assert "pixels" in claim.support


@given(CLAIMS, st.integers(1, 4))
def test_the_same_answer_again_and_again_is_sure(claims: list[Claim], times: int) -> None:
    checked = samples([claims] * times)
    assert {claim.value for claim in checked} == {claim.value for claim in claims}
    assert all(claim.support["samples"] == 1 for claim in checked)


# Views


def test_views_agree_on_what_most_of_them_say() -> None:
    item = views(
        [
            [colour("navy", pixels=0.5), neck("hood")],
            [colour("black", pixels=0.6)],
            [colour("navy", pixels=0.9), Claim("A bird sings.")],
            [],
        ]
    )
    assert [(claim.value or claim.text, dict(claim.support)) for claim in item] == [
        ("navy", {"pixels": 0.9, "views": pytest.approx(1.4 / 2)}),
        ("hood", {}),  # a single view's: nobody else could tell
        ("A bird sings.", {}),
    ]


def test_one_sure_view_outweighs_two_doubtful_ones() -> None:
    item = views([[colour("navy", pixels=0.2)], [colour("navy", pixels=0.3)], [colour("red", pixels=0.9)]])
    assert told(item, "views") == [("red", pytest.approx(0.9 / 1.4))]


def test_views_that_nobody_believes_cannot_tell() -> None:
    item = views([[colour("navy", pixels=0.0)], [colour("red", pixels=0.0)]])
    assert told(item, "views") == [("navy", 0.5)]
    assert item[0].confidence == 0


def test_an_attribute_may_have_as_many_values_as_a_view_gives_it() -> None:
    both = [Claim("laces", "closure", "laces"), Claim("a zip", "closure", "zip")]
    assert told(views([both, both[1:], both[1:]]), "views") == [("zip", 1.0), ("laces", pytest.approx(1 / 3))]


@given(CLAIMS)
def test_one_view_is_what_it_says(claims: list[Claim]) -> None:
    assert sorted(views([claims]), key=str) == sorted(claims, key=str)


@given(st.lists(CLAIMS, max_size=4))
def test_views_take_claims_from_views(captions: list[list[Claim]]) -> None:
    item = views(captions)
    said = {(claim.attribute, claim.value) for view in captions for claim in view}
    assert {claim.attribute for claim in item} == {attribute for attribute, _ in said}
    assert {(claim.attribute, claim.value) for claim in item} <= said
    for claim in item:
        speaking = [view for view in captions if any(each.attribute == claim.attribute for each in view)]
        assert ("views" in claim.support) == (len(speaking) > 1)
        assert 0 <= claim.support.get("views", 0) <= 1


@given(CLAIMS.filter(bool), st.integers(2, 4))
def test_equal_views_confirm_each_other(claims: list[Claim], times: int) -> None:
    alone = [claim for claim in claims if sum(each.attribute == claim.attribute for each in claims) == 1]
    item = {claim.value: claim for claim in views([claims] * times)}
    assert all(item[claim.value].support["views"] == 1 for claim in alone)


# Agreement


class Agreeing(ThumbnailEncoder):
    """An encoder that agrees with texts by their numbers."""

    def __init__(self, guard: float | None = 0.2) -> None:
        self.guard = guard

    def agreement(self, regions: Sequence[Region], texts: Sequence[str]) -> Floats:
        assert all(region is RED for region in regions)
        return np.array([float(text) for text in texts], np.float32)


def test_agreement_is_even_at_the_guard_and_certain_a_tenth_from_it() -> None:
    claims = [Claim(text) for text in ("0.2", "0.25", "0.3", "0.9", "0.1", "-1")]
    checked = agreement(claims, RED, Agreeing())
    assert [claim.support["agreement"] for claim in checked] == pytest.approx(
        [0.5, 0.75, 1, 1, 0, 0], abs=1e-6
    )
    assert [claim.text for claim in checked] == [claim.text for claim in claims]
    assert agreement([], RED, Agreeing()) == ()


def test_encoders_without_a_guard_have_no_say() -> None:
    claims = (colour("red", pixels=0.75),)
    assert agreement(claims, RED, ThumbnailEncoder()) == claims
    assert agreement(claims, RED, Agreeing(guard=None)) == claims


# The verdict


def test_a_claim_is_believed_by_the_least_of_its_support() -> None:
    claims = [colour("red"), colour("red", pixels=0.9, views=0.5), colour("red", pixels=0.9, views=0.49)]
    assert [claim.believed for claim in decided(claims)] == [True, True, False]
    assert [claim.believed for claim in decided(claims, least=0.4)] == [True] * 3
    assert [claim.believed for claim in decided(decided(claims), least=0.4)] == [True] * 3
