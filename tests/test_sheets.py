"""Contact sheets: the boxes and frames are where they belong, and no text or size breaks the drawing."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageColor

from lookalike import sheets
from lookalike.errors import BadInput
from lookalike.sheets import SheetHit, SheetRow, contact_sheet, explain_sheet, heat_overlay
from lookalike.values import Box, Picture, Region


def region(width=200, height=100, colour=(90, 90, 200), box=None):
    return Region(Picture.of(np.full((height, width, 3), colour, np.uint8)), box)


def hit(**changes):
    return SheetHit(**{"region": region(), "item": "shoe-1", "score": 0.9, "title": "Red shoe"} | changes)


def drawn(path):
    with Image.open(path) as picture:
        return np.asarray(picture.convert("RGB"))


def painted(pixels, colour):
    """Where exactly this colour is, (H, W)."""
    return (pixels == ImageColor.getrgb(colour)).all(axis=2)


def extent(mask):
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return columns[0], rows[0], columns[-1] + 1, rows[-1] + 1


def test_suffixes_choose_the_format(tmp_path):
    for name, kind in (("a.jpg", "JPEG"), ("b.JPEG", "JPEG"), ("c.png", "PNG")):
        contact_sheet([SheetRow(region(), [hit()])], tmp_path / name)
        with Image.open(tmp_path / name) as picture:
            assert picture.format == kind


@pytest.mark.parametrize("name", ["sheet.gif", "sheet", "sheet.pdf"])
def test_another_suffix_is_refused(name, tmp_path):
    with pytest.raises(BadInput) as caught:
        contact_sheet([], tmp_path / name)
    assert ".png" in caught.value.hint
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_cannot_be_written_is_one_line(tmp_path):
    with pytest.raises(BadInput, match="cannot be written"):
        contact_sheet([], tmp_path / "missing" / "sheet.png")


def test_a_box_is_drawn_where_it_is_in_the_picture(tmp_path):
    # 200 x 100 pixels standing for 2000 x 1000, in a square of 232: scaled by 1.16, 58 pixels down
    picture = Picture(np.zeros((100, 200, 3), np.uint8), 2000, 1000, "", "")
    contact_sheet([SheetRow(Region(picture, Box(500, 200, 1500, 800)), [])], tmp_path / "s.png")
    x0, y0, x1, y1 = extent(painted(drawn(tmp_path / "s.png"), sheets._BOX))
    left, top = sheets._MARGIN, sheets._MARGIN + 58
    expected = (left + 58, top + 23.2, left + 174, top + 92.8)
    assert (x0, y0, x1, y1) == pytest.approx(expected, abs=2.5)


def test_frames_say_right_and_wrong_and_nothing_where_it_is_not_known(tmp_path):
    rows = [SheetRow(region(), [hit(right=True), hit(right=False), hit(right=False), hit()])]
    contact_sheet(rows, tmp_path / "s.png")
    pixels = drawn(tmp_path / "s.png")
    green, red = painted(pixels, sheets._RIGHT), painted(pixels, sheets._WRONG)
    assert extent(green)[2] <= extent(red)[0], "in the order of the hits"
    assert red.sum() == 2 * green.sum() > 0
    contact_sheet([SheetRow(region(), [hit()])], tmp_path / "t.png")
    assert not painted(drawn(tmp_path / "t.png"), sheets._RIGHT).any()


def test_every_row_and_line_of_hits_has_its_place(tmp_path):
    def height(*counts):
        contact_sheet([SheetRow(region(), [hit()] * count) for count in counts], tmp_path / "s.png")
        return drawn(tmp_path / "s.png").shape[0]

    assert height(5) < height(6) < height(11)
    assert height(5, 5) > height(6)
    assert height(0) == height(1) == height(5)
    assert height() > 0


def test_a_hit_without_its_picture_and_a_query_in_words_are_still_drawn(tmp_path):
    contact_sheet([SheetRow(None, [hit(region=None)], "red shoe", "no confident match")], tmp_path / "s.png")
    pixels = drawn(tmp_path / "s.png")
    assert painted(pixels, sheets._CARD).sum() > 0.9 * (sheets._QUERY**2 + sheets._THUMB**2)
    contact_sheet([SheetRow(None, [hit(region=None)], "", "")], tmp_path / "t.png")
    assert (pixels != drawn(tmp_path / "t.png")).any(), "the words are there"


def test_pictures_of_any_form_are_fitted_into_their_places(tmp_path):
    odd = [region(1, 1), region(3000, 2), region(2, 3000), region(1, 1, box=Box(0, 0, 0.5, 0.5))]
    contact_sheet([SheetRow(each, [hit(region=each) for each in odd]) for each in odd], tmp_path / "s.png")
    pixels = drawn(tmp_path / "s.png")
    assert painted(pixels, "#5a5ac8").sum() > 4 * 5 * 100, "the thin ones are a pixel wide"


def test_more_rows_than_a_picture_holds_are_refused(tmp_path):
    with pytest.raises(BadInput, match="300 rows are too many"):
        contact_sheet([SheetRow(None, [])] * 300, tmp_path / "s.jpg")


@given(st.text(max_size=120), st.integers(60, 300))
def test_any_text_fits_its_place(text, room):
    line = sheets._fitted(text, 14, room)
    assert sheets._font(14).getlength(line) <= room
    assert "\n" not in line


def test_letters_the_font_lacks_are_spelt_with_those_it_has():
    assert sheets._drawable("Größe 38 – Café Øresund") == "Grosse 38 - Cafe Oresund"
    assert sheets._drawable("Lampe ☀ hell") == "Lampe ? hell"
    assert sheets._drawable("多肉植物") == ""
    assert sheets._drawable("two\nlines\t ") == "two lines"


def test_a_short_line_is_kept_and_a_long_one_ends_in_an_ellipsis():
    assert sheets._fitted("Red shoe", 14, 168) == "Red shoe"
    long = sheets._fitted("A very long title of a product that nobody can read", 14, 168)
    assert long.endswith("…")
    assert "A very long title of a product".startswith(long[:-1])


def test_heat_colours_the_warm_parts_and_leaves_the_cold_grey():
    pixels = np.random.default_rng(0).integers(0, 256, (60, 80, 3), np.uint8)
    heat = np.zeros((6, 8), np.float32)
    heat[:, 6:] = 1
    over = heat_overlay(pixels, heat).astype(int)
    assert over.shape == pixels.shape
    cold, hot = over[:, :40], over[:, 70:]
    assert np.ptp(cold, axis=2).max() <= 1, "grey"
    assert (hot[..., 0] > hot[..., 1:].max(axis=2) + 40).all(), "red"


def test_more_heat_is_more_red():
    pixels = np.full((40, 400, 3), 128, np.uint8)
    heat = np.repeat(np.linspace(0, 1, 20, dtype=np.float32)[None], 2, axis=0)
    over = heat_overlay(pixels, heat).astype(int)
    warmth = (over[20, :, 0] - over[20, :, 2])[::40]
    assert (np.diff(warmth[3:]) > 0).all()


def test_heat_outside_its_range_is_cut_off():
    pixels = np.full((40, 40, 3), 128, np.uint8)
    assert np.array_equal(
        heat_overlay(pixels, np.full((2, 2), 7, np.float32)),
        heat_overlay(pixels, np.ones((2, 2), np.float32)),
    )


def test_an_explanation_shows_the_regions_and_not_what_is_around_them():
    pixels = np.full((100, 100, 3), (0, 200, 0), np.uint8)
    pixels[20:60, 30:70] = (200, 0, 0)
    query = Region(Picture.of(pixels), Box(30, 20, 70, 60))
    heat = np.zeros((3, 3), np.float32)
    sheet = explain_sheet(query, heat, region(colour=(0, 0, 200)), heat, ["first line", "second line"])
    assert sheet.dtype == np.uint8
    red, green, blue = (painted(sheet, colour) for colour in ("#c80000", "#00c800", "#0000c8"))
    assert red.sum() == sheets._PANEL**2
    assert blue.sum() == sheets._PANEL**2 // 2
    assert not green.any()
    more = explain_sheet(query, heat, region(), heat, ["one", "two", "three", "four"])
    assert more.shape[0] > sheet.shape[0]


def test_the_same_rows_give_the_same_file(tmp_path):
    rows = [SheetRow(region(box=Box(10, 10, 50, 50)), [hit(), hit(right=True)], "query", "note")]
    contact_sheet(rows, tmp_path / "a.png")
    contact_sheet(rows, tmp_path / "b.png")
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
