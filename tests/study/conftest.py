"""A small drawn set, looked at by the real towers once for all tests of studies."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from looked_at import PARTS, SOURCES, silent, splits

from lookalike.captions import FileCaptions
from lookalike.datasets import open_dataset
from lookalike.datasets.street2shop import make
from lookalike.study import material
from lookalike.study.running import Place


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study's folder with the drawn set, its tokens in one view, and what the sources said."""
    folder = tmp_path_factory.mktemp("study")
    make(folder / "data", 24, 5, workers=1)  # fewer, and nothing is held out
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(material, "VIEWS", 1)
        material.prepare(splits(open_dataset(folder / "data")), SOURCES, folder, silent)
    return folder


@pytest.fixture
def place(base: Path, tmp_path: Path) -> Place:
    """The same in a folder of one's own, without runs."""
    for name in ("tokens", "sources"):
        shutil.copytree(base / name, tmp_path / name)
    return Place(tmp_path, PARTS, SOURCES)


@pytest.fixture(scope="session")
def uncaptioned(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same pictures as a data set without captions that is not known to be drawn, as DeepFashion2 is."""
    folder = tmp_path_factory.mktemp("real") / "data"
    shutil.copytree(base / "data", folder)
    (folder / "street2shop.json").unlink()
    for file in folder.glob("*/annos/*.json"):
        told = json.loads(file.read_text())
        for item in told.values():
            if isinstance(item, dict):
                item.pop("captions", None)
        file.write_text(json.dumps(told))
    return folder


@pytest.fixture(scope="session")
def annotation_file(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Writes the drawn set's true captions as a table beside the pictures of another copy of it."""

    def written(data: Path, parts: tuple[str, ...] = PARTS) -> Path:
        file = tmp_path_factory.mktemp("told") / "captions.jsonl"
        with file.open("w") as lines:
            for part in parts:
                for region in open_dataset(base / "data").read(part):
                    source = str(data / Path(region.source).relative_to(base / "data"))
                    row = {"path": source, "box": region.box.corners, "caption": region.captions[0]}
                    lines.write(json.dumps(row) + "\n")
        assert FileCaptions(file).name
        return file

    return written
