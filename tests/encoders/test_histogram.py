"""The colour histogram against counting by hand."""

from __future__ import annotations

import colorsys

import numpy as np
import pytest

from lookalike.encoders import ColourHistogram
from lookalike.encoders.histogram import HUES, SATURATIONS, VALUES
from lookalike.roles import Encoder
from lookalike.values import Box, Picture, Region

ENCODER: Encoder = ColourHistogram()


def plain(*colours: tuple[int, int, int]) -> Picture:
    """Vertical stripes of the same width, 10 x 12 pixels at most."""
    stripes = np.array(colours, np.uint8).repeat(12 // len(colours), 0)
    return Picture.of(np.broadcast_to(stripes, (10, *stripes.shape)).copy())


@pytest.mark.parametrize("colour", [(255, 0, 0), (20, 200, 90), (50, 50, 160), (250, 250, 250), (0, 0, 0)])
def test_one_colour_fills_one_bin(colour: tuple[int, int, int]) -> None:
    hue, saturation, value = colorsys.rgb_to_hsv(*(level / 255 for level in colour))
    bins = (
        round(hue * HUES) % HUES,  # red in the middle of the first
        min(int(saturation * SATURATIONS), SATURATIONS - 1),
        min(int(value * VALUES), VALUES - 1),
    )
    (row,) = ENCODER.pictures([Region(plain(colour))])
    expected = np.zeros((HUES, SATURATIONS, VALUES), np.float32)
    expected[bins] = 1
    np.testing.assert_array_equal(row, expected.ravel())


def test_the_score_is_the_overlap_of_the_histograms() -> None:
    """The Bhattacharyya coefficient: sum over the colours of the square root of the product of the shares."""
    red, green, blue = (255, 0, 0), (0, 255, 0), (0, 0, 255)
    half, third, other = ENCODER.pictures(
        [Region(plain(red, blue)), Region(plain(red, red, blue)), Region(plain(green))]
    )
    assert half @ half == pytest.approx(1)
    assert half @ third == pytest.approx((1 / 2 * 2 / 3) ** 0.5 + (1 / 2 * 1 / 3) ** 0.5)
    assert half @ other == 0


def test_only_the_region_counts_and_its_size_does_not() -> None:
    striped = plain((255, 0, 0), (0, 0, 255))
    large = Picture.of(striped.pixels.repeat(60, 0).repeat(60, 1))
    a, b, c, d = ENCODER.pictures(
        [Region(striped, Box(0, 0, 6, 10)), Region(plain((255, 0, 0))), Region(striped), Region(large)]
    )
    np.testing.assert_array_equal(a, b)
    assert c @ d == pytest.approx(1, abs=0.02)


def test_rows_are_unit_and_nothing_else_is_offered() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (3, 40, 30, 3), np.uint8)
    rows = ENCODER.pictures([Region(Picture.of(each)) for each in noise], ["", "", ""])
    assert rows.dtype == np.float32
    assert rows.shape == (3, ENCODER.dim)
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, rtol=1e-5)
    assert ENCODER.pictures([]).shape == (0, ENCODER.dim)
    assert ENCODER.texts(["red"]) is None
    assert ENCODER.maps([plain((1, 2, 3))]) is None
