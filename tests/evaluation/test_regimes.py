"""Evaluation in the four regimes: whose captions are in which descriptors."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from trees import make_tree

from lookalike.datasets import Dataset, Labelled, Unlisted
from lookalike.datasets.deepfashion2 import deepfashion2
from lookalike.errors import BadInput
from lookalike.evaluation.harness import Plan, evaluate
from lookalike.evaluation.runs import Run
from lookalike.testing import ThumbnailEncoder
from lookalike.values import Caption, Floats, Maps, Picture, Region, unit

WORDS = 4096


class Listening:
    """A stand-in encoder that was trained with captions: it sees nothing and believes what it is told."""

    name, fingerprint, captioned = "listening", "listening-1", True
    dim = 2 + WORDS

    def pictures(self, regions: Sequence[Region], captions: Sequence[str] | None = None) -> Floats:
        seen = np.ones((len(regions), 2), np.float32)
        return unit(np.concatenate([0.1 * seen, self._bags(captions or [""] * len(regions))], axis=1))

    def texts(self, texts: Sequence[str]) -> Floats:
        return unit(np.concatenate([np.zeros((len(texts), 2), np.float32), self._bags(texts)], axis=1))

    def maps(self, pictures: Sequence[Picture]) -> Maps | None:
        return ThumbnailEncoder().maps(pictures)

    @staticmethod
    def _bags(texts: Sequence[str]) -> Floats:
        bags = np.zeros((len(texts), WORDS), np.float32)
        for row, text in enumerate(texts):
            for word in text.split():
                bags[row, int(hashlib.sha256(word.encode()).hexdigest(), 16) % WORDS] = 1
        return bags


class Knowing:
    """A captioner that says which product it is."""

    name = "knowing"

    def __init__(self, regions: Sequence[Labelled | Unlisted]) -> None:
        self._said = {
            (region.source, region.box): f"product {region.identity}"
            for region in regions
            if isinstance(region, Labelled)
        }

    def captions(self, regions: Sequence[Region]) -> list[Caption]:
        found = [self._said.get((region.picture.source, region.box), "") for region in regions]
        return [Caption(text, self.name, None if text else "never seen") for text in found]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return deepfashion2(make_tree(tmp_path_factory.mktemp("tree")))


def measured(dataset: Dataset, out: Path, **wanted: object) -> Run:
    return evaluate(dataset, out, Plan(**({"encoder": Listening()} | wanted)))  # type: ignore[arg-type]


def headline(run: Run) -> float:
    figures = next(iter(run.systems[0].figures.values()))
    return figures[run.headline].value


def test_captions_help_only_where_both_sides_have_them(dataset: Dataset, tmp_path: Path) -> None:
    knowing = Knowing(list(dataset.read("validation")))
    runs = {
        regime: measured(dataset, tmp_path / regime, regime=regime, captioner=captioner)
        for regime, captioner in (
            ("train", None),
            ("train+gallery", knowing),
            ("train+gallery+query", knowing),
        )
    }
    values = {regime: headline(run) for regime, run in runs.items()}
    assert values["train+gallery+query"] == 1
    assert values["train"] < 1
    assert values["train+gallery"] < 1
    assert [run.regime for run in runs.values()] == list(runs)
    assert runs["train"].captions == {}
    assert runs["train+gallery"].captions == {"by": "knowing", "lacking": {"gallery": 0}}
    assert runs["train+gallery+query"].captions == {"by": "knowing", "lacking": {"gallery": 0, "queries": 0}}
    assert Run.load(tmp_path / "train+gallery").captions == runs["train+gallery"].captions


def test_captions_of_the_annotation(dataset: Dataset, tmp_path: Path) -> None:
    def saying(captions: Callable[[Labelled], tuple[str, ...]]) -> Dataset:
        def read(split: str) -> Iterator[Labelled | Unlisted]:
            for region in dataset.read(split):
                yield replace(region, captions=captions(region)) if isinstance(region, Labelled) else region

        return replace(dataset, read=read)

    three = saying(lambda region: ("a", f"thing {region.identity}", "b"))
    run = measured(three, tmp_path / "three", regime="train+gallery+query", captioner="annotation")
    assert headline(run) == 1
    assert run.captions["by"] == "annotation"
    none = saying(lambda region: ())
    run = measured(none, tmp_path / "none", regime="train+gallery", captioner="annotation")
    assert run.captions["lacking"] == {"gallery": run.gallery}


def test_regimes_and_captions_that_do_not_go_together(dataset: Dataset, tmp_path: Path) -> None:
    knowing = Knowing([])
    with pytest.raises(BadInput, match="the regime 'train' has no place for captions"):
        measured(dataset, tmp_path, captioner=knowing)
    with pytest.raises(BadInput, match=r"the regime 'train\+gallery' wants captions"):
        measured(dataset, tmp_path, regime="train+gallery")
    with pytest.raises(BadInput, match="was not trained with captions"):
        measured(dataset, tmp_path, encoder=ThumbnailEncoder(), regime="train+gallery", captioner=knowing)
    assert not list(tmp_path.iterdir())
