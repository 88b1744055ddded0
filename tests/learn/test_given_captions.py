"""Training on the captions of a file instead of the data set's own."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
from garments import CONFIG, Spelled, garments
from PIL import Image

from lookalike.captions import FileCaptions
from lookalike.datasets import Dataset
from lookalike.errors import BadInput
from lookalike.learn.session import Data, cell_data, picture_data
from lookalike.testing import ThumbnailEncoder, drawing
from lookalike.values import Box, Progress


def silent(what: str) -> Progress:
    return lambda done, total: None


def table(file: Path, rows: list[tuple[str, Box | None, str]]) -> FileCaptions:
    lines = ({"path": path, "box": box and box.corners, "caption": said} for path, box, said in rows)
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return FileCaptions(file)


def data(dataset: Dataset, folder: Path, captions: FileCaptions | None) -> Data:
    return cell_data(dataset, "training", "tuning", folder, ThumbnailEncoder(), Spelled, 2, silent, captions)


def test_trainings_with_other_captions_share_tokens(tmp_path: Path) -> None:
    dataset = garments(tmp_path)
    regions = list(dataset.read("training"))
    files = [
        table(tmp_path / f"{word}.jsonl", [(each.source, each.box, f"{word} {each.id}") for each in regions])
        for word in ("one", "other")
    ]
    own = data(dataset, tmp_path / "tokens", None)
    arrays = {file: file.stat().st_mtime_ns for file in (tmp_path / "tokens").glob("*/tokens.npy")}
    told = [data(dataset, tmp_path / "tokens", file) for file in files]
    assert len(arrays) == 3 and all(file.stat().st_mtime_ns == written for file, written in arrays.items())
    for word, each in zip(("one", "other"), told, strict=True):
        for source in (each.training, each.held_out, each.whole):
            assert [region.captions for region in source.regions] == [(f"{word} {r.id}",) for r in regions]
        assert each.texts.of([f"{word} {regions[0].id}"])[0].shape[2] == CONFIG.text_width
    variants = {json.dumps(each.training.facts, default=str) for each in (own, *told)}
    assert len(variants) == 3  # a training that was begun with others is refused
    some = np.array([3, 1])
    assert np.array_equal(told[0].training.look(some, some).image, own.training.look(some, some).image)


def test_regions_that_the_file_does_not_name_are_bare(tmp_path: Path) -> None:
    dataset = garments(tmp_path)
    regions = list(dataset.read("training"))
    rows = [
        (regions[1].source, regions[1].box, "a box"),
        (regions[2].source, Box(0, 0, 5, 5), "another box of the picture"),
        (regions[4].source, None, "the whole picture"),
        (regions[5].source, regions[5].box, ""),
    ]
    told = data(dataset, tmp_path / "tokens", table(tmp_path / "said.jsonl", rows)).training
    expected = {1: ("a box",), 4: ("the whole picture",)}
    assert [region.captions for region in told.regions] == [expected.get(n, ()) for n in range(len(regions))]


def test_pictures_that_have_moved_are_known_by_their_content(tmp_path: Path) -> None:
    dataset = garments(tmp_path)
    (tmp_path / "elsewhere").mkdir()
    moved = tmp_path / "elsewhere" / "x.png"
    region = list(dataset.read("training"))[3]
    shutil.copy(region.source, moved)
    line = {"path": "gone.png", "box": region.box.corners, "caption": "a coat",
            "sha256": sha256(moved.read_bytes()).hexdigest()}  # fmt: skip
    (tmp_path / "said.jsonl").write_text(json.dumps(line) + "\n")
    captions = FileCaptions(tmp_path / "said.jsonl")
    for path, box, said in ((moved, region.box, "a coat"), (moved, Box(0, 0, 4, 4), None)):
        found = captions.of(str(path), box)
        assert (found and found.text) == said
    assert captions.of(str(tmp_path / "nowhere.png"), region.box) is None


def test_pictures_for_trained_towers_have_them_too(tmp_path: Path) -> None:
    dataset = garments(tmp_path)
    regions = list(dataset.read("training"))
    file = table(tmp_path / "said.jsonl", [(regions[0].source, regions[0].box, "a piece")])
    told = picture_data(dataset, "training", "tuning", CONFIG, file)
    for source in (told.training, told.held_out, told.whole):
        assert [region.captions for region in source.regions[:2]] == [("a piece",), ()]
    useless = table(tmp_path / "useless.jsonl", [("else.png", None, "a piece")])
    with pytest.raises(BadInput, match="says nothing of any region of made's split training"):
        picture_data(dataset, "training", "tuning", CONFIG, useless)


def lookalike(*arguments: object) -> tuple[int, list[str], str]:
    command = [sys.executable, "-m", "lookalike", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    return done.returncode, done.stderr.strip().splitlines(), done.stdout


def test_the_command_trains_on_a_file(tmp_path: Path) -> None:
    folder, file = tmp_path / "shop", tmp_path / "said.csv"
    rows = ["path,caption"]
    for number in range(9):
        (folder / f"{number}").mkdir(parents=True)
        for view in range(2):
            noise = np.random.default_rng(view).normal(0, 25, (128, 96, 3))
            path = folder / f"{number}" / f"{view}.png"
            Image.fromarray((drawing(number) + noise).clip(0, 255).astype(np.uint8)).save(path)
            rows.append(f"{path},a {'red' if number % 2 else 'blue'} piece")
    file.write_text("\n".join(rows) + "\n")
    small = ["--views", 1, "--set", "p=4", "--set", "k=2", "--set", "epochs=1", "--json"]
    command = ["train", folder, "--tokens", tmp_path / "tokens", *small]
    status, told, out = lookalike(*command, "--out", tmp_path / "model", "--captions", file)
    assert status == 0, told
    assert json.loads(out)["epochs"][0]["itc"] > 0
    about = json.loads((tmp_path / "model" / "model.json").read_text())["about"]
    assert about["captions"] == FileCaptions(file).name
    file.write_text("path,caption\nelsewhere.png,a coat\n")
    status, told, _ = lookalike(*command, "--out", tmp_path / "other", "--captions", file)
    assert status == 1 and "says nothing of any region" in told[0] and len(told) == 2
    assert "lookalike caption" in told[1]
