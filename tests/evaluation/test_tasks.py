"""Tasks that data sets with listed answers pose."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lookalike import images
from lookalike.datasets import Dataset, Labelled, Side, open_dataset
from lookalike.errors import BadInput
from lookalike.evaluation.harness import Plan, evaluate
from lookalike.evaluation.metrics import revisited
from lookalike.evaluation.protocols import protocol
from lookalike.evaluation.runs import load_answers
from lookalike.testing import ThumbnailEncoder, drawing
from lookalike.values import Region


def dataset_of(name: str, regions: Sequence[Labelled], folder: Path) -> Dataset:
    return Dataset(name, folder, ("test",), lambda _split: iter(regions))


def region(folder: Path, name: str, seed: int, side: Side, **facts: object) -> Labelled:
    path = folder / f"{name}.png"
    Image.fromarray(drawing(seed)).save(path)
    return Labelled(name, str(path), side, None, name, **facts)  # type: ignore[arg-type]


def test_revisited_judges_one_ranking_three_times(tmp_path: Path) -> None:
    random = np.random.default_rng(3)
    gallery = [region(tmp_path, f"g{number}", number, Side.GALLERY) for number in range(30)]
    truths = []
    for _ in range(6):
        some = random.permutation(30)[:9]
        truths.append({"easy": some[:3], "hard": some[3:6], "junk": some[6:]})
    truths[5]["easy"] = np.zeros(0, int)
    queries = [
        region(
            tmp_path,
            f"q{number}",
            100 + number,
            Side.QUERY,
            truth={name: tuple(f"g{place}" for place in places) for name, places in truth.items()},
        )
        for number, truth in enumerate(truths)
    ]
    dataset = dataset_of("roxford5k", [*queries, *gallery], tmp_path)
    run = evaluate(dataset, tmp_path / "run", Plan(encoder=ThumbnailEncoder()))
    assert run.protocol["name"] == "revisited"
    described = [
        ThumbnailEncoder().pictures([Region(images.load(each.source)) for each in side])
        for side in (queries, gallery)
    ]
    ranks = np.argsort(-(described[1] @ described[0].T), axis=0, kind="stable")
    expected = revisited(
        ranks, [{name: list(map(int, places)) for name, places in truth.items()} for truth in truths]
    )
    for name, letter in (("easy", "E"), ("medium", "M"), ("hard", "H")):
        figures = run.systems[0].figures[name]
        assert figures["mAP (trapezoid)"].value == pytest.approx(expected[letter]["mAP"])
        for k in (1, 5, 10):
            assert figures[f"mP@{k}"].value == pytest.approx(expected[letter][f"mP@{k}"])  # type: ignore[literal-required]
    assert run.systems[0].figures["easy"]["mP@1"].n == 5  # one has no easy answer


def test_composed_queries_may_list_targets_a_reference_and_a_group(tmp_path: Path) -> None:
    gallery = [region(tmp_path, f"g{number}", number, Side.GALLERY) for number in range(8)]
    truth = {"target": ("g1",), "reference": ("g0",), "members": ("g0", "g1", "g2")}
    query = region(tmp_path, "q", 0, Side.QUERY, words="but wider", truth=truth)
    run = evaluate(
        dataset_of("cirr", [query, *gallery], tmp_path), tmp_path / "run", Plan(encoder=ThumbnailEncoder())
    )
    (answer,) = load_answers(tmp_path / "run", "none")
    assert "g0" not in {item for item, _, _ in answer.top}  # the reference is the query's own picture
    assert run.systems[0].figures["target within its group"]["R@5"].value == 1
    within = [item for item, _, _ in answer.top if item in ("g1", "g2")]
    expected = float(within[0] == "g1")
    assert run.systems[0].figures["target within its group"]["R@1"].value == expected


def test_listed_answers_that_are_not_there_are_told(tmp_path: Path) -> None:
    query = region(tmp_path, "q", 0, Side.QUERY, truth={"right": ("g9",)})
    gallery = region(tmp_path, "g0", 0, Side.GALLERY)
    with pytest.raises(BadInput, match="g9"):
        protocol("gldv2").pose([query, gallery])


def test_a_plain_folder_is_searched_picture_by_picture(tmp_path: Path) -> None:
    for identity in range(4):
        for view in range(3):
            place = tmp_path / "folder" / f"product-{identity}"
            place.mkdir(parents=True, exist_ok=True)
            noisy = drawing(identity) + np.random.default_rng(view).normal(0, 5, (128, 96, 3))
            Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(place / f"{view}.png")
    run = evaluate(
        open_dataset(tmp_path / "folder"), tmp_path / "run", Plan(encoder=ThumbnailEncoder(), regions="whole")
    )
    assert run.protocol["name"] == "identity"
    assert (run.queries, run.gallery) == (12, 12)
    assert run.systems[0].figures["same identity"]["mAP"].value == 1
    assert all(answer.total == 2 for answer in load_answers(tmp_path / "run", "none"))
