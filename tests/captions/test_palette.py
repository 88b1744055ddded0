"""Colours and patterns of drawn pixels whose truth is known, and what must not change them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lookalike.captions.palette import COLOURS, Looks, Palette, looks, support
from lookalike.captions.vocabulary import Vocabulary
from lookalike.datasets.street2shop.scenes import flat_picture
from lookalike.datasets.street2shop.wardrobe import random_garment
from lookalike.values import Box, Caption, Picture, Pixels, Region

SIZE = 240
TYPICAL = {
    "white": (245, 245, 243), "black": (20, 20, 22), "grey": (128, 128, 130), "navy": (30, 40, 80),
    "blue": (40, 90, 170), "light blue": (165, 200, 230), "red": (190, 30, 40), "burgundy": (95, 22, 40),
    "pink": (235, 165, 185), "orange": (230, 120, 40), "yellow": (240, 205, 60), "green": (45, 125, 70),
    "olive": (100, 102, 55), "beige": (215, 195, 160), "brown": (105, 68, 45), "purple": (115, 75, 150),
}  # fmt: skip
Y, X = np.mgrid[0:SIZE, 0:SIZE]
MASKS = {
    "horizontal stripes": Y // 15 % 2 == 0,
    "vertical stripes": X // 15 % 2 == 0,
    "polka dots": ((X + Y // 24 % 2 * 12) % 24 - 12) ** 2 + (Y % 24 - 12) ** 2 < 49,
}


def filled(colour: str) -> Pixels:
    return np.full((SIZE, SIZE, 3), TYPICAL[colour], np.uint8)


def patterned(kind: str, first: str, second: str) -> Pixels:
    if kind == "checks":
        columns, rows = (np.where(plane // 15 % 2, 0.5, 0.0) for plane in (X, Y))
        part = (columns + rows)[..., None]
        return (filled(first) * (1 - part) + filled(second) * part).astype(np.uint8)
    return np.where(MASKS[kind][..., None], filled(second), filled(first))


def on(backdrop: str, thing: Pixels) -> Pixels:
    """The thing, with rounded sides, on a backdrop."""
    scene = filled(backdrop)
    inside = ((X - SIZE / 2) / 85) ** 4 + ((Y - SIZE / 2) / 100) ** 4 < 1
    scene[inside] = thing[inside]
    return scene


def caption(pixels: Pixels) -> Caption:
    return Palette().captions([Region(Picture.of(pixels))])[0]


def seen(pixels: Pixels) -> Looks:
    return looks(Region(Picture.of(pixels)))


def told(pixels: Pixels) -> set[str]:
    """All values, whichever of two equally frequent colours comes first."""
    return {value for values in caption(pixels).attributes.values() for value in values}


@pytest.mark.parametrize("colour", COLOURS)
def test_a_plain_thing_has_its_colour_and_no_pattern(colour: str) -> None:
    noise = np.random.default_rng(3).normal(0, 6, (SIZE, SIZE, 1))
    shade = (1 - 0.18 * X / SIZE)[..., None]
    backdrop = "grey" if colour in ("white", "light blue", "yellow", "beige", "pink") else "white"
    pixels = on(backdrop, np.clip(filled(colour) * shade + noise, 0, 255).astype(np.uint8))
    assert caption(pixels).attributes == {"colour": (colour,), "pattern": ("plain",)}


@pytest.mark.parametrize("colour", COLOURS)
def test_a_picture_that_one_colour_fills_is_called_by_it(colour: str) -> None:
    assert caption(filled(colour)).attributes == {"colour": (colour,), "pattern": ("plain",)}


@pytest.mark.parametrize("kind", ["horizontal stripes", "vertical stripes", "checks", "polka dots"])
@pytest.mark.parametrize(
    ("first", "second"), [("navy", "white"), ("yellow", "black"), ("red", "light blue"), ("beige", "purple")]
)
@pytest.mark.parametrize("backdrop", ["white", "grey", "green"])
def test_patterns_have_their_kind_and_both_colours(kind: str, first: str, second: str, backdrop: str) -> None:
    measured = seen(on(backdrop, patterned(kind, first, second)))
    assert measured.pattern == kind
    assert {first, second} <= {name for name, _ in measured.colours[:3]}


def test_a_caption_says_what_it_claims_and_how_sure_it_is() -> None:
    written = caption(on("grey", patterned("horizontal stripes", "navy", "white")))
    assert written.by == "palette/1"
    assert written.error is None
    heard = Vocabulary.open("fashion").heard(written.text)
    assert {(claim.attribute, claim.value) for claim in heard} == {
        (claim.attribute, claim.value) for claim in written.claims
    }
    assert {claim.attribute for claim in written.claims} == {"colour", "second_colour", "pattern"}
    assert all(0.5 < claim.support["pixels"] <= 1 for claim in written.claims)


def test_a_chessboard_is_checked() -> None:
    board = np.where(((X // 24 + Y // 24) % 2 == 0)[..., None], filled("white"), filled("black"))
    assert caption(board).attributes["pattern"] == ("checks",)
    assert told(board) == {"white", "black", "checks"}


def test_an_unclear_pattern_is_not_claimed() -> None:
    blots = np.random.default_rng(5).random((12, 12)) < 0.45
    pixels = np.where(np.kron(blots, np.ones((20, 20), bool))[..., None], filled("olive"), filled("black"))
    assert seen(pixels).pattern in ("patterned", "")
    assert "pattern" not in caption(pixels).attributes


def test_the_backdrop_is_not_the_thing() -> None:
    measured = seen(on("green", filled("orange")))
    shares = dict(measured.colours)
    assert shares["orange"] > 0.95
    assert 0.4 < measured.filled < 0.6
    assert measured.aspect == pytest.approx(0.85, abs=0.06)


def test_bright_surroundings_tell_the_light() -> None:
    warm = np.clip(on("white", filled("beige")) * np.array((1.0, 0.86, 0.72)), 0, 255).astype(np.uint8)
    assert caption(warm).attributes["colour"] == ("beige",)
    dark = (on("white", filled("red")) * 0.7).astype(np.uint8)
    assert caption(dark).attributes["colour"] == ("red",)


def test_a_painted_wall_is_no_light() -> None:
    assert caption(on("light blue", filled("grey"))).attributes["colour"] == ("grey",)
    assert caption(on("yellow", filled("grey"))).attributes["colour"] == ("grey",)


@pytest.mark.parametrize("shape", [(1, 1), (1, 400), (400, 1), (2, 3), (13, 7), (97, 96)])
def test_any_region_gets_a_colour(shape: tuple[int, int]) -> None:
    pixels = np.full((*shape, 3), TYPICAL["red"], np.uint8)
    assert caption(pixels).attributes["colour"] == ("red",)


@given(
    st.integers(1, 40),
    st.integers(1, 40),
    st.integers(0, 2**32 - 1),
    st.sampled_from(["noise", "two", "one"]),
)
@settings(max_examples=60, deadline=None)
def test_any_pixels_can_be_measured(width: int, height: int, seed: int, what: str) -> None:
    random = np.random.default_rng(seed)
    palette = random.integers(0, 256, ({"noise": 64, "two": 2, "one": 1}[what], 3), np.uint8)
    pixels = palette[random.integers(0, len(palette), (height, width))]
    region = Region(Picture.of(pixels), Box(0, 0, max(1, width // 2), height))
    measured = looks(region)
    assert sum(share for _, share in measured.colours) == pytest.approx(1)
    assert [share for _, share in measured.colours] == sorted(
        (share for _, share in measured.colours), reverse=True
    )
    assert 0 < measured.filled <= 1
    assert measured.aspect > 0
    assert np.isfinite(measured.contrast)


SAMPLES = {
    **{kind: on("grey", patterned(kind, "navy", "white")) for kind in (*MASKS, "checks")},
    "plain": on("white", filled("green")),
}
TURNS: list[tuple[str, Callable[[Pixels], Pixels]]] = [
    ("mirrored", lambda pixels: pixels[:, ::-1]),
    ("upside down", lambda pixels: pixels[::-1]),
]


@pytest.mark.parametrize("kind", SAMPLES)
@pytest.mark.parametrize(("turn", "turned"), TURNS, ids=[name for name, _ in TURNS])
def test_mirroring_keeps_all_claims(kind: str, turn: str, turned: Callable[[Pixels], Pixels]) -> None:
    assert told(turned(SAMPLES[kind])) == told(SAMPLES[kind])


@pytest.mark.parametrize("kind", SAMPLES)
def test_a_quarter_turn_swaps_the_stripes(kind: str) -> None:
    swapped = {"horizontal stripes": "vertical stripes", "vertical stripes": "horizontal stripes"}
    straight, turned = seen(SAMPLES[kind]), seen(np.rot90(SAMPLES[kind]))
    assert turned.pattern == swapped.get(kind, kind)
    assert {*(turned.pair or ())} == {*(straight.pair or ())}


@pytest.mark.parametrize("kind", SAMPLES)
def test_scaling_keeps_the_colours(kind: str) -> None:
    larger = SAMPLES[kind].repeat(3, axis=0).repeat(3, axis=1)
    small, large = (dict(seen(pixels).colours) for pixels in (SAMPLES[kind], larger))
    assert all(abs(small.get(name, 0) - large.get(name, 0)) < 0.05 for name in COLOURS)
    assert told(larger) == told(SAMPLES[kind])


def plain(**colours: float) -> Looks:
    named = {name.replace("_", " "): share for name, share in colours.items()}
    ordered = tuple(sorted(named.items(), key=lambda pair: -pair[1]))
    return Looks(ordered, "plain", None, contrast=4, aspect=0.7, filled=0.6)


def test_support_of_colours() -> None:
    mostly_navy = plain(navy=0.8, black=0.1, red=0.1)
    assert support(mostly_navy, "colour", "navy") == pytest.approx(1)
    black, yellow = support(mostly_navy, "colour", "black"), support(mostly_navy, "colour", "yellow")
    assert black is not None and yellow is not None
    assert yellow < 0.1 < 0.4 < black < 0.8


@pytest.mark.parametrize(
    ("measured", "said"),
    [("navy", "black"), ("black", "navy"), ("grey", "white"), ("beige", "white"), ("burgundy", "red")],
)
def test_shades_are_not_contradicted_hard(measured: str, said: str) -> None:
    shades = support(plain(**{measured: 0.9, "green": 0.1}), "colour", said)
    assert shades is not None
    assert 0.35 < shades < 0.7


def test_support_of_second_colours() -> None:
    striped = replace(plain(navy=0.6, white=0.4), pattern="horizontal stripes", pair=("navy", "white"))
    confirmed, missing = (support(striped, "second_colour", value) for value in ("white", "yellow"))
    assert confirmed is not None and missing is not None
    assert missing < 0.5 < confirmed
    assert support(plain(navy=0.96, white=0.04), "second_colour", "white") is None


def test_support_of_patterns() -> None:
    striped = replace(plain(navy=0.6, white=0.4), pattern="horizontal stripes")
    order = [
        support(striped, "pattern", said) for said in ("vertical stripes", "zigzag", "horizontal stripes")
    ]
    assert None not in order
    assert order == sorted(order, key=lambda value: value or 0)
    assert order[0] is not None and order[0] < 0.5 < (order[-1] or 0)
    assert support(replace(striped, pattern="checks"), "pattern", "plaid") == support(
        replace(striped, pattern="checks"), "pattern", "checks"
    )


@pytest.mark.parametrize(
    ("attribute", "value"),
    [
        ("neckline", "V-neck"),
        ("colour", "mauve"),
        ("pattern", "tie-dye"),
        ("second_colour", ""),
        ("", "navy"),
    ],
)
def test_pixels_do_not_speak_of_other_things(attribute: str, value: str) -> None:
    assert support(plain(navy=1.0), attribute, value) is None


def test_pixels_that_do_not_tell_a_pattern_speak_for_none() -> None:
    assert support(replace(plain(navy=1.0), pattern=""), "pattern", "plain") is None


def test_every_value_is_the_vocabularys() -> None:
    vocabulary = Vocabulary.open("fashion")
    assert set(COLOURS) == set(vocabulary.attribute("colour").values)
    for kind, pixels in SAMPLES.items():
        assert seen(pixels).pattern == kind
        assert kind in vocabulary.attribute("pattern").values


def garment_region(pixels: Pixels) -> Region:
    """Where a picture on white is not white."""
    rows, columns = (np.flatnonzero((pixels < 235).any(axis=2).any(axis=axis)) for axis in (1, 0))
    box = Box(float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1))
    return Region(Picture.of(pixels), box)


def test_drawn_garments() -> None:
    """Floors below what is measured in the garments' own boxes; whole pictures fare worse."""
    random = np.random.default_rng(77)
    garments = [random_garment(random) for _ in range(120)]
    regions = [garment_region(np.asarray(flat_picture(each, (240, 320), random))) for each in garments]
    captions = Palette().captions(regions)
    truths = [
        {name.replace(" ", "_"): value.replace("plaid", "checks") for name, value in each.attributes.items()}
        for each in garments
    ]

    def right(attribute: str) -> list[bool]:
        return [
            truth.get(attribute) == written.attributes[attribute][0]
            for truth, written in zip(truths, captions, strict=True)
            if attribute in written.attributes
        ]

    pairs = [
        {truth["colour"], truth.get("second_colour")} == {*written.attributes["colour"], *second}
        for truth, written in zip(truths, captions, strict=True)
        if (second := written.attributes.get("second_colour"))
    ]
    supports = [
        support(looks(region), "colour", truth["colour"])
        for region, truth in zip(regions, truths, strict=True)
    ]
    assert np.mean(right("colour")) > 0.77  # measured: .84
    assert len(right("pattern")) > 55  # 71
    assert np.mean(right("pattern")) > 0.8  # .87
    assert len(pairs) > 10  # 16
    assert np.mean(pairs) > 0.8  # .94
    assert np.mean([value is not None and value >= 0.5 for value in supports]) > 0.95  # 1
