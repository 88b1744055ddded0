"""What captions say, in exported tables."""

import csv
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from lookalike import upkeep
from lookalike.catalogue import Catalogue
from lookalike.values import Caption, Claim

OpenShop = Callable[..., Catalogue]

CLAIMS = (
    Claim("navy", "colour", "navy", {"pixels": 0.9, "views": 0.5}),
    Claim("a V-neck", "neckline", "V-neck", {"samples": 0.25}, believed=False),
)
WRITTEN = [
    {
        "text": "navy",
        "attribute": "colour",
        "value": "navy",
        "support": {"pixels": 0.9, "views": 0.5},
        "believed": True,
    },
    {
        "text": "a V-neck",
        "attribute": "neckline",
        "value": "V-neck",
        "support": {"samples": 0.25},
        "believed": False,
    },
]
CAPTIONS = {
    "item-0": Caption("navy", "somebody", claims=CLAIMS),
    "item-1": Caption("a plain thing", "somebody"),
}


@pytest.fixture
def captioned(pictures: Path, open_shop: OpenShop) -> Catalogue:
    """Six items, of which two have captions; those of item-0 make claims."""
    shop = open_shop()
    shop.add(pictures)
    with shop.open_writer() as store:
        store.add([replace(row, caption=CAPTIONS.get(row.item.id)) for row in list(shop.store.scan())], 1)
    return shop


def test_json_lines_hold_captions_and_claims(captioned: Catalogue, tmp_path: Path) -> None:
    assert upkeep.export(captioned, tmp_path / "out.jsonl") == 7
    records = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [record.get("claims") for record in records if record["item"] == "item-0"] == [WRITTEN] * 2
    assert ["claims" in record for record in records if record["item"] != "item-0"] == [False] * 5
    assert {record["item"]: record.get("caption") for record in records} == {
        "item-0": "navy",
        "item-1": "a plain thing",
        **dict.fromkeys(f"item-{number}" for number in range(2, 6)),
    }


def test_csv_holds_captions_alone(captioned: Catalogue, tmp_path: Path) -> None:
    assert upkeep.export(captioned, tmp_path / "out.csv") == 7
    with open(tmp_path / "out.csv", newline="") as file:
        records = list(csv.DictReader(file))
    assert set(records[0]) == {"path", "item", "title", "caption"}
    assert [record["caption"] for record in records] == ["navy", "navy", "a plain thing", "", "", "", ""]


def test_parquet_holds_claims_as_json(captioned: Catalogue, tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    assert upkeep.export(captioned, tmp_path / "out.parquet") == 7
    records = parquet.read_table(tmp_path / "out.parquet").to_pylist()
    claims = [record["claims"] and json.loads(record["claims"]) for record in records]
    assert claims == [WRITTEN, WRITTEN, *[None] * 5]
    assert records[2]["caption"] == "a plain thing"
    assert {record["attributes"] for record in records} == {"{}"}
