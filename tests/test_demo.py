import json
from pathlib import Path

import pytest
from PIL import Image

from lookalike.demo import run_demo
from lookalike.errors import BadInput
from lookalike.settings import open_catalogue


def test_the_demonstration_in_small(tmp_path: Path) -> None:
    said: list[str] = []
    run_demo(tmp_path / "demo", said.append, views=1, others=60)
    figures = json.loads((tmp_path / "demo" / "figures.json").read_text())
    rows = {
        (row["encoder"], row["regions"], row["rerank"], row["gallery"][8:]): row for row in figures["results"]
    }
    padded, alone = " + 60 crops", ""
    default = rows["efficientnet-lite2", "salient", "none", padded]
    assert default["mAP"] > 0.8
    assert default["mAP"] > rows["efficientnet-lite2", "whole", "none", padded]["mAP"]
    assert default["mAP"] > rows["colour-histogram", "given", "none", padded]["mAP"] + 0.2
    assert rows["efficientnet-lite2", "given", "none", alone]["R@10"] > 0.9
    assert figures["queries"] == 54
    assert {made["regions"] for made in figures["indexing"].values()} == {54, 114}
    with Image.open(tmp_path / "demo" / "sheet.jpg") as sheet:
        assert sheet.width > 1000
    with open_catalogue(tmp_path / "demo" / "shop", create=False) as shop:
        assert shop.search(text="camera")
    assert any("lookalike search" in line for line in said)


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "shop").mkdir()
    with pytest.raises(BadInput, match="not empty"):
        run_demo(tmp_path, print)
    assert (tmp_path / "shop").exists()
