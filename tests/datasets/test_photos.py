"""The demonstration's table: every photograph once, with the facts a shop knows."""

import json
from collections import Counter

import pytest

from lookalike.datasets.photos import photo_rows, product_photos
from lookalike.errors import WeightsError

PRODUCTS = """\
name  ,slug ,description,assets             ,facets                                       ,price ,variants
Chair ,chair,"A ""seat"".",chair-1.jpg|chair-2.jpg,category:Home & Garden|category:Seats|color:red,129.90,
      ,     ,           ,                   ,                                             ,149.00,color:blue
Lily  ,lily ,           ,lily.jpg           ,category:Plants|plant type:Indoor            ,5     ,
Unseen,none ,           ,                   ,category:Plants                              ,1.00  ,
Lost  ,lost ,           ,gone.jpg           ,                                             ,1.00  ,
"""


@pytest.fixture
def shop(tmp_path):
    (tmp_path / "products.csv").write_text(PRODUCTS, encoding="utf-8")
    names = ("chair-1.jpg", "chair-2.jpg", "lily.jpg", "blue_garden-bench.jpg", "jane-doe-12345-unsplash.jpg")
    return tmp_path / "products.csv", [tmp_path / name for name in names]


def test_rows_carry_what_the_shop_knows(shop):
    rows = list(photo_rows(*shop))
    chair = {
        "path": "chair-1.jpg", "item": "chair", "title": "Chair", "price": 129.9,
        "category": ["Home & Garden", "Seats"], "color": "red", "about": 'A "seat".',
    }  # fmt: skip
    assert rows[0] == chair
    assert rows[1] == chair | {"path": "chair-2.jpg"}
    assert rows[2] == {
        "path": "lily.jpg", "item": "lily", "title": "Lily", "price": 5.0,
        "category": "Plants", "plant_type": "Indoor", "about": "",
    }  # fmt: skip


def test_products_without_pictures_are_left_out_and_pictures_without_product_are_items(shop):
    rest = list(photo_rows(*shop))[3:]
    assert rest == [
        {"path": "blue_garden-bench.jpg", "item": "blue_garden-bench", "title": "blue garden bench"},
        {"path": "jane-doe-12345-unsplash.jpg", "item": "jane-doe-12345-unsplash", "title": ""},
    ]


def test_the_real_photographs_are_all_in_the_table(tmp_path):
    try:
        table = product_photos(tmp_path)
    except WeightsError as error:
        if "cannot be downloaded" in str(error) or "not installed" in str(error):
            pytest.skip(str(error))
        raise
    rows = [json.loads(line) for line in table.read_text(encoding="utf-8").splitlines()]
    assert {row["path"] for row in rows} == {path.name for path in table.parent.glob("*.jpg")}
    assert len(rows) == len({row["item"] for row in rows}) == 54
    assert all(row["title"] and row["price"] > 0 for row in rows)
    assert {row["item"]: row["price"] for row in rows}["laptop"] == 1299.0
    categories = Counter(category for row in rows for category in row["category"])
    assert categories["Electronics"] == 20
    before = table.read_bytes()
    assert product_photos(tmp_path).read_bytes() == before
