import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lookalike.errors import BadInput
from lookalike.testing import Kept
from lookalike.values import Box, Item, Picture, Region, Shortlist, unit

SIDES = st.integers(0, 40)


def boxes() -> st.SearchStrategy[Box]:
    return st.tuples(SIDES, SIDES, st.integers(1, 40), st.integers(1, 40)).map(
        lambda four: Box(four[0], four[1], four[0] + four[2], four[1] + four[3])
    )


@given(boxes(), boxes())
def test_iou_counts_shared_pixels(a: Box, b: Box) -> None:
    grid = np.zeros((2, 80, 80), bool)
    for layer, box in zip(grid, (a, b), strict=True):
        layer[int(box.y0) : int(box.y1), int(box.x0) : int(box.x1)] = True
    assert a.iou(b) == pytest.approx((grid[0] & grid[1]).sum() / (grid[0] | grid[1]).sum())


@pytest.mark.parametrize(
    "text", ["1,2,3", "a,b,c,d", "", "1,2,3,4,5", "5,5,5,9", "9,1,3,4", "0,0,nan,4", "0,0,inf,4"]
)
def test_a_wrong_box_is_refused(text: str) -> None:
    with pytest.raises(BadInput):
        Box.parse(text)


def test_a_box_survives_being_written_and_read() -> None:
    assert Box.parse(str(Box(1.5, 2, 30, 40))) == Box(1.5, 2, 30, 40)


def test_a_box_is_clipped_to_its_picture_and_refused_outside() -> None:
    picture = Picture.of(np.zeros((20, 10, 3), np.uint8))
    assert Region(picture, Box(-5, -5, 50, 50)).box == Box(0, 0, 10, 20)
    with pytest.raises(BadInput, match="outside"):
        Region(picture, Box(10, 0, 20, 5))


@given(boxes())
def test_a_region_of_a_reduced_picture_covers_the_same_place(box: Box) -> None:
    full = np.zeros((80, 80, 3), np.uint8)
    full[..., 0], full[..., 1] = np.mgrid[:80, :80]
    reduced = Picture(np.ascontiguousarray(full[::2, ::2]), 80, 80, "", "")
    pixels = Region(reduced, box).pixels
    assert pixels[0, 0, 1] in (box.x0, box.x0 - 1)
    assert pixels[0, 0, 0] in (box.y0, box.y0 - 1)
    assert pixels.shape[1] * 2 >= box.x1 - box.x0


def test_the_smallest_region_has_a_pixel() -> None:
    reduced = Picture(np.zeros((4, 4, 3), np.uint8), 400, 400, "", "")
    assert Region(reduced, Box(399, 399, 400, 400)).pixels.shape == (1, 1, 3)


def test_pictures_and_items_keep_their_invariants() -> None:
    with pytest.raises(ValueError, match="uint8"):
        Picture.of(np.zeros((4, 4, 3), np.float32))
    with pytest.raises(ValueError, match="pixel"):
        Picture.of(np.zeros((0, 4, 3), np.uint8))
    with pytest.raises(BadInput):
        Item("")


def test_rescoring_sorts_with_ties_in_the_old_order() -> None:
    vectors = unit(np.eye(4))
    shortlist = Shortlist(np.array([0, 1, 2, 3]), np.zeros(4, np.float32), Kept(vectors))
    again = shortlist.rescored(np.array([1.0, 2.0, 1.0, 2.0], np.float32))
    assert again.keys.tolist() == [1, 3, 0, 2]
    np.testing.assert_array_equal(again.vectors, vectors[[1, 3, 0, 2]])


def test_unit_rows_have_length_one_and_zero_stays_zero() -> None:
    rows = unit([[3, 4], [0, 0]])
    np.testing.assert_allclose(rows, [[0.6, 0.8], [0, 0]])
