"""Drawn garments: as many different ones as asked for, on white, and the table says what is drawn."""

import json

import numpy as np
from PIL import Image

from lookalike.datasets.garments import COLOURS, KINDS, SIDE, Garment, draw_garment, generated_garments


def rows_of(table):
    return [json.loads(line) for line in table.read_text(encoding="utf-8").splitlines()]


def pixels_of(picture):
    return np.asarray(picture, int)


PLAIN = Garment("t-shirt", "red", "none", "plain", "none", "round", pocket=False, buttons=False)


def test_the_table_lists_every_picture_and_says_what_it_shows(tmp_path):
    rows = rows_of(generated_garments(tmp_path / "shop", 9, seed=3))
    assert len(rows) == len({row["item"] for row in rows}) == 9
    assert {row["path"] for row in rows} == {path.name for path in (tmp_path / "shop").glob("*.jpg")}
    assert {row["category"] for row in rows} == set(KINDS)
    for row in rows:
        assert row["color"] in row["title"].lower()
        assert row["category"] in row["title"].lower()
        assert row["price"] > 0
        assert "none" not in row.values()


def test_all_are_different_and_the_same_arguments_give_the_same(tmp_path):
    first = rows_of(generated_garments(tmp_path / "a", 9, seed=1))
    again = rows_of(generated_garments(tmp_path / "b", 9, seed=1))
    other = rows_of(generated_garments(tmp_path / "c", 9, seed=2))
    assert first == again
    assert first != other
    pictures = {(tmp_path / "a" / row["path"]).read_bytes() for row in first}
    assert pictures == {(tmp_path / "b" / row["path"]).read_bytes() for row in again}
    assert len(pictures) == 9
    named = ("category", "color", "pattern", "print", "neckline", "pocket", "buttons", "title")
    assert len({tuple(row.get(name) for name in named) for row in first}) == 9


def test_fewer_are_the_first_of_more(tmp_path):
    few = rows_of(generated_garments(tmp_path / "few", 3, seed=9))
    assert few == rows_of(generated_garments(tmp_path / "more", 5, seed=9))[:3]


def test_a_garment_lies_on_white_in_its_own_colour():
    for kind in KINDS:
        for name, colour in COLOURS.items():
            if name not in ("red", "green"):
                continue
            picture = draw_garment(Garment(kind, name, "none", "plain", "none", "round", False, False), 0)
            assert picture.size == (SIDE, SIDE)
            pixels = pixels_of(picture)
            edge = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
            assert edge.min() >= 250
            cloth = np.median(pixels[pixels.min(axis=2) < 200], axis=0)
            nearest = min(COLOURS, key=lambda known: np.abs(cloth / cloth.max() - _hue(known)).sum())
            assert np.abs(cloth / cloth.max() - _hue(name)).max() < 0.08, (kind, name, nearest)
            assert colour == COLOURS[name]


def _hue(name):
    return np.array(COLOURS[name]) / max(COLOURS[name])


def test_every_difference_in_words_is_a_difference_in_the_picture():
    plain = pixels_of(draw_garment(PLAIN, 0))
    changes = [
        {"colour": "blue"}, {"pattern": "dots", "second": "white"}, {"pattern": "checks", "second": "white"},
        {"pattern": "horizontal stripes", "second": "white"}, {"pattern": "two colours", "second": "white"},
        {"print": "star", "second": "white"}, {"print": "heart", "second": "white"}, {"neckline": "V"},
        {"neckline": "boat"}, {"pocket": True}, {"buttons": True}, {"kind": "jumper"},
    ]  # fmt: skip
    fields = ("kind", "colour", "second", "pattern", "print", "neckline", "pocket", "buttons")
    for change in changes:
        other = Garment(**{name: getattr(PLAIN, name) for name in fields} | change)
        changed = (np.abs(pixels_of(draw_garment(other, 0)) - plain).max(axis=2) > 40).sum()
        assert changed > 100, change


def test_cloth_falls_differently_with_another_seed_only():
    assert np.array_equal(pixels_of(draw_garment(PLAIN, 5)), pixels_of(draw_garment(PLAIN, 5)))
    assert not np.array_equal(pixels_of(draw_garment(PLAIN, 5)), pixels_of(draw_garment(PLAIN, 6)))


def test_the_table_is_one_that_pillow_can_open(tmp_path):
    table = generated_garments(tmp_path, 3, seed=0)
    for row in rows_of(table):
        with Image.open(tmp_path / row["path"]) as picture:
            assert (picture.format, picture.mode, picture.size) == ("JPEG", "RGB", (SIDE, SIDE))
