"""Street views: the product is where the box says, within the documented ranges, and nothing else is kept."""

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFilter

from lookalike.datasets.street import LONG_SIDE, cut_out, street_view
from lookalike.errors import BadInput
from lookalike.values import Box


def texture(width=800, height=600, seed=0):
    """A green and blue background without a red pixel."""
    cells = np.random.default_rng(seed).integers(40, 200, (height // 20, width // 20, 3), np.uint8)
    cells[..., 0] = 30
    return np.asarray(Image.fromarray(cells).resize((width, height), Image.Resampling.BICUBIC))


def disc(backdrop=(240, 240, 240), size=(500, 400)):
    """A red disc on a plain backdrop, and where it is (boolean, H, W)."""
    picture = Image.new("RGB", size, backdrop)
    ImageDraw.Draw(picture).ellipse((120, 80, 360, 320), (200, 20, 30))
    truth = Image.new("L", size)
    ImageDraw.Draw(truth).ellipse((120, 80, 360, 320), 255)
    return np.asarray(picture), np.asarray(truth) > 0


def red(pixels):
    levels = pixels.astype(int)
    return levels[..., 0] > np.maximum(levels[..., 1], levels[..., 2]) + 30


def extent(mask):
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return Box(columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)


def overlap(mask, truth):
    return (mask & truth).sum() / (mask | truth).sum()


def test_the_same_arguments_give_the_same_view_and_leave_the_global_generator_alone():
    product, background = disc()[0], texture()
    np.random.seed(1)
    expected_next = np.random.RandomState(1).random()
    first, again, other = (street_view(product, background, seed) for seed in (7, 7, 8))
    assert np.array_equal(first.pixels, again.pixels)
    assert first.box == again.box
    assert not np.array_equal(first.pixels, other.pixels)
    assert np.random.random() == expected_next


def test_inputs_are_not_changed():
    product, background = disc()[0].copy(), texture().copy()
    kept = product.copy(), background.copy()
    street_view(product, background, 3)
    assert np.array_equal(product, kept[0])
    assert np.array_equal(background, kept[1])


@pytest.mark.parametrize("seed", range(12))
def test_without_distortion_the_box_is_tight_around_the_product(seed):
    view = street_view(disc()[0], texture(), seed, strength=0)
    assert extent(red(view.pixels)).iou(view.box) > 0.95


def test_the_box_holds_all_that_is_seen_and_keeps_its_documented_size():
    product, background = disc()[0], texture()
    for seed in range(25):
        view = street_view(product, background, seed)
        height, width = view.pixels.shape[:2]
        assert view.pixels.dtype == np.uint8
        assert {width, height} == {LONG_SIDE, LONG_SIDE * 3 // 4}
        assert view.box == view.box.clipped(width, height)
        assert 0.22 < view.box.area / (width * height) < 0.62
        seen = red(view.pixels)
        x0, y0, x1, y1 = (int(corner) for corner in view.box.corners)
        inside = seen[y0:y1, x0:x1].sum()
        assert inside > 0.3 * view.box.area, "most of the disc is still seen"
        assert seen[max(0, y0 - 4) : y1 + 4, max(0, x0 - 4) : x1 + 4].sum() > 0.99 * seen.sum()


def test_seeds_differ_in_place_light_and_what_is_cut_off():
    product, background = disc()[0], texture()
    views = [street_view(product, background, seed) for seed in range(30)]
    assert len({view.box for view in views}) == 30
    light = [view.pixels.mean() for view in views]
    assert max(light) > 1.3 * min(light)
    at_the_edge = [
        view.box.x0 == 0 or view.box.y0 == 0 or view.box.x1 == view.pixels.shape[1]
        or view.box.y1 == view.pixels.shape[0] for view in views
    ]  # fmt: skip
    assert 3 < sum(at_the_edge) < 24


def test_a_picture_without_a_plain_backdrop_is_shown_as_a_print():
    product = texture(500, 400, seed=5)[..., ::-1]  # red and green
    view = street_view(product, texture(), 4, strength=0)
    x0, y0, x1, y1 = (int(corner) for corner in view.box.corners)
    shown = Image.fromarray(view.pixels[y0:y1, x0:x1])
    expected = Image.fromarray(product).resize(shown.size, Image.Resampling.BILINEAR)
    difference = np.asarray(shown, int) - np.asarray(expected, int)
    assert np.abs(difference).mean() < 12
    assert (x1 - x0) / (y1 - y0) == pytest.approx(500 / 400, rel=0.02)


@pytest.mark.parametrize("backdrop", [(255, 255, 255), (240, 240, 240), (120, 70, 170), (90, 150, 160)])
def test_cutting_out_finds_the_object_on_a_plain_backdrop(backdrop):
    picture, truth = disc(backdrop)
    mask = cut_out(Image.fromarray(picture))
    assert mask is not None
    assert mask.size == (500, 400)
    assert overlap(np.asarray(mask) > 127, truth) > 0.94


def test_cutting_out_looks_past_uneven_light_soft_shadow_and_grain():
    picture, truth = disc()
    shadow = Image.new("L", (500, 400), 255)
    ImageDraw.Draw(shadow).ellipse((140, 280, 420, 350), 150)
    light = np.asarray(shadow.filter(ImageFilter.GaussianBlur(14))) / 255
    light = light * np.linspace(1, 0.75, 500)[None, :]
    grain = np.random.default_rng(0).normal(0, 2, picture.shape)
    lit = np.where(truth[..., None], picture, picture * light[..., None]) + grain
    mask = cut_out(Image.fromarray(lit.clip(0, 255).astype(np.uint8)))
    assert mask is not None
    assert overlap(np.asarray(mask) > 127, truth) > 0.92


def test_cutting_out_keeps_what_looks_like_the_backdrop_inside_the_object():
    picture, truth = disc()
    labelled = Image.fromarray(picture)
    ImageDraw.Draw(labelled).rectangle((200, 160, 280, 220), (240, 240, 240))
    mask = cut_out(labelled)
    assert mask is not None
    assert np.asarray(mask)[190, 240] == 255
    assert overlap(np.asarray(mask) > 127, truth) > 0.94


def test_cutting_out_declines_where_there_is_no_plain_backdrop_or_no_object():
    noise = np.random.default_rng(0).integers(0, 256, (300, 300, 3), np.uint8)
    for pixels in (texture(), noise, np.full((300, 300, 3), 255, np.uint8), disc((20, 20, 25))[0]):
        assert cut_out(Image.fromarray(pixels)) is None


@pytest.mark.parametrize("shape", [(1, 1, 3), (3, 2, 3), (7, 900, 3), (900, 7, 3)])
def test_odd_sizes_of_product_and_background_still_give_a_view(shape):
    odd = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    for product, background in ((odd, texture()), (disc()[0], odd), (odd, odd)):
        for seed in range(3):
            view = street_view(product, background, seed)
            assert max(view.pixels.shape) == LONG_SIDE
            assert view.box.area > 0


@pytest.mark.parametrize("strength", [-0.1, 1.5, float("nan")])
def test_strength_outside_its_range_is_refused(strength):
    with pytest.raises(BadInput, match="between 0 and 1"):
        street_view(disc()[0], texture(), 0, strength)
