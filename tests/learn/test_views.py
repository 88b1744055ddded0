"""Views for training: where a marked rectangle lies is where the moved box says."""

from dataclasses import fields, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lookalike.errors import BadInput
from lookalike.learn.views import Augmentation, plain, view
from lookalike.testing import drawing
from lookalike.values import Box, Picture, Region

UNLIT = Augmentation(
    brightness=0, contrast=0, saturation=0, white=0, blurred=0, noisy=0, compressed=0, erased=0
)  # only where it looks is random
STILL = replace(UNLIT, margin=0, loose=0, tight=0, coarse=0, aspect=0, flip=0, side=4096)
SEEDS = st.integers(0, 2**63 - 1)


@st.composite
def marked(draw: st.DrawFn, decoded: tuple[int, ...] = (1, 2)) -> tuple[Picture, Box]:
    """A dark picture with a bright rectangle; some are decoded at half of their size."""
    factor = draw(st.sampled_from(decoded))
    width, height = draw(st.integers(100, 400)), draw(st.integers(100, 400))
    x0, y0 = draw(st.integers(0, width - 40)), draw(st.integers(0, height - 40))
    x1, y1 = draw(st.integers(x0 + 40, width)), draw(st.integers(y0 + 40, height))
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[y0:y1, x0:x1] = 255
    picture = Picture(pixels, width * factor, height * factor, "marked", "")
    return picture, Box(x0, y0, x1, y1).scaled(factor, factor)


def bright(picture: Picture) -> Box:
    """Where the picture is bright."""
    seen = picture.pixels[:, :, 0] > 127
    rows, columns = np.flatnonzero(seen.any(1)), np.flatnonzero(seen.any(0))
    return Box(columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)


@settings(max_examples=150, deadline=None)
@given(marked(), SEEDS)
def test_the_box_moves_with_what_it_marks(mark: tuple[Picture, Box], seed: int) -> None:
    picture, box = mark
    seen = view(picture, [box], seed, UNLIT)
    (moved,) = seen.boxes
    assert moved is not None
    assert bright(seen.picture).iou(moved) > 0.9
    assert moved.clipped(seen.picture.width, seen.picture.height) == moved
    assert max(seen.picture.width, seen.picture.height) <= UNLIT.side


@settings(max_examples=60, deadline=None)
@given(marked(), SEEDS)
def test_a_margin_is_kept_and_no_more(mark: tuple[Picture, Box], seed: int) -> None:
    picture, box = mark
    seen = view(picture, [box], seed, replace(STILL, margin=0.25))
    (moved,) = seen.boxes
    assert moved is not None
    assert 1 / 1.5 - 0.02 < (moved.x1 - moved.x0) / seen.picture.width <= 1
    assert 1 / 1.5 - 0.02 < (moved.y1 - moved.y0) / seen.picture.height <= 1


@settings(max_examples=60, deadline=None)
@given(marked(decoded=(1,)), SEEDS)
def test_a_loose_view_holds_all_of_the_box_and_a_tight_one_most_of_it(
    mark: tuple[Picture, Box], seed: int
) -> None:
    picture, box = mark
    (loose,) = view(picture, [box], seed, replace(STILL, loose=1)).boxes
    assert loose is not None and loose.area == box.area
    tight = view(picture, [box], seed, replace(STILL, tight=1)).picture
    assert tight.pixels.min() == 255  # nothing but the rectangle
    assert tight.width >= 0.8 * (box.x1 - box.x0) and tight.height >= 0.8 * (box.y1 - box.y0)


def test_loose_views_reach_the_edges_of_the_picture() -> None:
    picture, box = Picture.of(drawing(0, 200, 200)), Box(80, 80, 120, 120)
    sizes = [view(picture, [box], seed, replace(STILL, loose=1)).picture.width for seed in range(200)]
    assert min(sizes) < 80 and max(sizes) > 170
    assert abs(np.mean(sizes) - 120) < 8  # both edges are drawn evenly


def test_without_any_change_a_view_is_the_region() -> None:
    picture, box = Picture.of(drawing(0)), Box(10, 20, 60, 90)
    seen = view(picture, [box], 0, STILL)
    assert np.array_equal(seen.picture.pixels, Region(picture, box).pixels)
    assert seen.boxes == (Box(0, 0, 50, 70),)


def test_a_mirrored_view_is_the_mirror_image() -> None:
    picture, box = Picture.of(drawing(0)), Box(10, 20, 60, 90)
    straight = view(picture, [box, Box(10, 20, 30, 90)], 0, STILL)
    mirrored = view(picture, [box, Box(10, 20, 30, 90)], 0, replace(STILL, flip=1))
    assert np.array_equal(mirrored.picture.pixels, straight.picture.pixels[:, ::-1])
    assert straight.boxes[1] == Box(0, 0, 20, 70)
    assert mirrored.boxes[1] == Box(30, 0, 50, 70)


def test_other_boxes_are_clipped_and_dropped_when_less_than_half_is_seen() -> None:
    picture, box = Picture.of(drawing(0, 200, 100)), Box(100, 0, 150, 100)
    others = [Box(80, 0, 120, 100), Box(81, 0, 119, 100), Box(79, 0, 119, 100), Box(0, 0, 60, 100)]
    assert view(picture, [box, *others], 0, STILL).boxes == (
        Box(0, 0, 50, 100), Box(0, 0, 20, 100), Box(0, 0, 19, 100), None, None,
    )  # fmt: skip
    seen = view(picture, [box, *others], 0, replace(STILL, visible=0.1)).boxes
    assert seen[3] == Box(0, 0, 19, 100) and seen[4] is None


def test_a_plain_view_is_what_encoders_see() -> None:
    half = Picture(drawing(0, 100, 80), 200, 160, "half", "")
    region = Region(half, Box(31, 41, 120, 100))  # pixels 15 to 60 and 20 to 50
    seen = plain(region, [Box(30, 40, 120, 100), Box(60, 60, 80, 80), Box(0, 0, 30, 160)])
    assert np.array_equal(seen.picture.pixels, region.pixels)
    assert seen.boxes == (Box(0, 0, 45, 30), Box(15, 10, 25, 20), None)
    whole = plain(Region(half), [Box(60, 60, 80, 80)])
    assert whole.boxes == (Box(30, 30, 40, 40),) and whole.picture.width == 100


@settings(max_examples=20, deadline=None)
@given(SEEDS)
def test_a_seed_stands_for_one_view(seed: int) -> None:
    picture, boxes = Picture.of(drawing(1)), [Box(10, 20, 60, 90)]
    first, again, other = (view(picture, boxes, number, Augmentation()) for number in (seed, seed, seed + 1))
    assert np.array_equal(first.picture.pixels, again.picture.pixels) and first.boxes == again.boxes
    assert first.boxes != other.boxes or not np.array_equal(first.picture.pixels, other.picture.pixels)
    unlit = view(picture, boxes, seed, UNLIT)
    assert unlit.boxes == first.boxes  # light does not move anything


@pytest.mark.parametrize(
    ("change", "differs"),
    [
        ({"brightness": 0.3}, 0.02), ({"contrast": 0.3}, 0.01), ({"saturation": 0.3}, 0.004),
        ({"white": 0.08}, 0.004), ({"blurred": 1.0, "blur": 3.0}, 0.0005), ({"noisy": 1.0}, 0.004),
        ({"compressed": 1.0, "quality": 10}, 0.002), ({"erased": 1.0}, 0.01),
    ],
)  # fmt: skip
def test_each_change_of_light_and_camera_is_seen_and_bounded(
    change: dict[str, float], differs: float
) -> None:
    checks = np.kron(np.random.default_rng(0).integers(0, 256, (32, 24, 3)), np.ones((4, 4, 1)))
    picture = Picture.of(checks.astype(np.uint8))
    augmentation = replace(STILL, **change)
    box = Box(0, 0, 96, 128)
    changes = [
        np.abs(view(picture, [box], seed, augmentation).picture.pixels / 255 - picture.pixels / 255).mean()
        for seed in range(40)
    ]
    assert differs < np.mean(changes) < 0.25
    assert len({round(change, 6) for change in changes}) > 20  # each time another amount


def test_colours_are_drawn_about_the_picture_itself() -> None:
    grey = Picture.of(np.full((64, 64, 3), 100, np.uint8))
    augmentation = replace(STILL, brightness=0.3, white=0.08, saturation=1)
    colours = np.array(
        [view(grey, [Box(0, 0, 64, 64)], seed, augmentation).picture.pixels[0, 0] for seed in range(400)],
        float,
    )
    assert colours[:, 1].min() >= 69 and colours[:, 1].max() <= 131  # a grey has no saturation to change
    assert np.abs(colours.mean(0) - 100).max() < 3
    assert np.abs(colours[:, [0, 2]] / colours[:, [1]] - 1).max() < 0.1


def test_a_patch_hides_at_most_its_share_of_the_box() -> None:
    picture = Picture.of(np.full((200, 200, 3), 255, np.uint8))
    hidden = [
        (view(picture, [Box(50, 50, 150, 150)], seed, replace(STILL, loose=1, erased=1)).picture.pixels < 255)
        for seed in range(60)
    ]
    shares = np.array([each[:, :, 0].sum() / 100**2 for each in hidden])
    assert 0.15 < shares.max() <= 0.21


def test_ranges_are_checked() -> None:
    for field in fields(Augmentation):
        with pytest.raises(BadInput, match=field.name):
            replace(Augmentation(), **{field.name: -1})
    with pytest.raises(BadInput, match="more than all"):
        Augmentation(loose=0.6, tight=0.6)
    with pytest.raises(BadInput, match="needs the box"):
        view(Picture.of(drawing(0)), [], 0, UNLIT)
    with pytest.raises(BadInput, match="outside"):
        view(Picture.of(drawing(0)), [Box(200, 0, 300, 10)], 0, UNLIT)
