"""Drawn garments: a table of pictures that are what it says, the same every time."""

import json

import numpy as np
import pytest
from PIL import Image

from lookalike.datasets.garments import SIDE, generated_garments
from lookalike.datasets.street2shop.wardrobe import CATEGORIES


def rows_of(table):
    return [json.loads(line) for line in table.read_text().splitlines()]


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    folder = tmp_path_factory.mktemp("garments")
    return folder, rows_of(generated_garments(folder, 15, seed=3))


def test_the_table_names_every_picture_and_what_it_shows(shop):
    folder, rows = shop
    assert len({row["item"] for row in rows}) == 15
    assert {row["path"] for row in rows} == {path.name for path in folder.glob("*.jpg")}
    assert {row["category"] for row in rows} == set(CATEGORIES)
    for row in rows:
        assert row["color"] in row["title"].lower()
        assert row["price"] > 0
        assert all(row.values())
    named = [
        tuple(sorted((k, v) for k, v in row.items() if k not in ("path", "item", "price"))) for row in rows
    ]
    assert len(set(named)) == 15


def test_a_garment_lies_on_white_within_the_picture(shop):
    folder, rows = shop
    for row in rows:
        with Image.open(folder / row["path"]) as picture:
            assert (picture.format, picture.mode, picture.size) == ("JPEG", "RGB", (SIDE, SIDE))
            pixels = np.asarray(picture, int)
        corners = pixels[[0, 0, -1, -1], [0, -1, 0, -1]]
        assert corners.min() >= 245, row["item"]
        assert 0.1 < (np.abs(pixels - 255).max(axis=2) > 40).mean() < 0.85, row["item"]


def test_the_same_arguments_give_the_same_and_fewer_are_the_first_of_more(shop, tmp_path):
    folder, rows = shop
    again = rows_of(generated_garments(tmp_path / "again", 3, seed=3))
    other = rows_of(generated_garments(tmp_path / "other", 3, seed=4))
    assert again == rows[:3]
    assert other != again
    for row in again:
        assert (tmp_path / "again" / row["path"]).read_bytes() == (folder / row["path"]).read_bytes()
