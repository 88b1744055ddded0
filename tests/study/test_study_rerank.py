"""The study of re-rankers, real ones, with the stand-in encoder on a few drawn prints."""

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from lookalike import images, weights
from lookalike.datasets import Dataset, Labelled, Side, open_dataset
from lookalike.errors import BadInput
from lookalike.evaluation import harness
from lookalike.evaluation.intervals import holm
from lookalike.evaluation.runs import Run, load_answers
from lookalike.rerank import Geometric
from lookalike.rerank.geometric import inliers, local_features
from lookalike.study import captions, rerank, verifying
from lookalike.study.conducting import Plan, Section
from lookalike.testing import ThumbnailEncoder
from lookalike.values import Floats, Region

LABEL = "thumbnails, 8 x 8"
CHOSEN = ("superglobal", "query-expansion", "geometric")


class Exhausted(ThumbnailEncoder):
    """Has the stand-in's fingerprint, and encodes nothing."""

    def pictures(self, regions: Sequence[Region], captions: Sequence[str] | None = None) -> Floats:
        raise AssertionError("was measured again")


class Other(ThumbnailEncoder):
    fingerprint = "another"


def picture(identity: int, view: int) -> Image.Image:
    """A print, moved and in another light in every view; every third identity has hardly any details."""
    random = np.random.default_rng(identity)
    size = 3 if identity % 3 == 0 else 14
    print_ = random.integers(40, 216, (size, size, 3), dtype=np.uint8)
    seen = Image.fromarray(print_).resize((120, 120), Image.Resampling.BICUBIC)
    seen = seen.rotate(11 * view, Image.Resampling.BICUBIC, fillcolor=(128, 128, 128))
    noise = np.random.default_rng((identity, view)).normal(9 * view, 6, (120, 120, 3))
    return Image.fromarray((np.asarray(seen) + noise).clip(0, 255).astype(np.uint8))


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """In each split 9 products, two of a group, each asked for with one picture and found in two."""
    folder = tmp_path_factory.mktemp("prints")
    lines = []
    for place, split in enumerate(("tuning", "validation")):
        for identity in range(20 * place, 20 * place + 9):
            for view in range(3):
                name = f"{identity}-{view}.png"
                picture(identity, view).save(folder / name)
                side = "gallery" if view else "query"
                row = {"path": name, "identity": f"{identity}", "group": f"{identity // 2}"}
                lines.append(json.dumps({**row, "side": side, "split": split}))
    (folder / "prints.jsonl").write_text("\n".join(lines))
    return open_dataset(folder / "prints.jsonl")


@pytest.fixture(scope="module")
def out(dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Measured, fitted on the tuning split, without XFeat's weights."""
    folder = tmp_path_factory.mktemp("rerank")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(weights, "default_folder", lambda: folder / "nothing")
        patch.setattr(verifying, "TIMED", 2)
        patch.setattr(verifying, "SAMPLE", 6)
        measured(dataset, folder)
    return folder


def measured(dataset: Dataset, folder: Path, **other: object) -> None:
    wanted = {"encoders": {LABEL: ThumbnailEncoder()}, "tune": "tuning", "rerankers": CHOSEN} | other
    rerank.measure(dataset, out=folder, made={"command": "a test"}, **wanted)  # type: ignore[arg-type]


def verified(out: Path) -> dict[str, Any]:
    return json.loads((out / "thumbnails--8-x-8" / "geometric.json").read_text())


def told(out: Path) -> dict[str, Section]:
    return {section.title: section for section in rerank.report(out)}


def test_verification_is_what_an_evaluation_of_all_queries_gives(
    dataset: Dataset, out: Path, tmp_path: Path
) -> None:
    harness.evaluate(
        dataset, tmp_path, harness.Plan(encoder=ThumbnailEncoder(), rerank=["none", "geometric"])
    )
    answers = {answer.query: answer for answer in load_answers(tmp_path, "geometric")}
    record = verified(out)
    default = record["kinds"]["rootsift"]["systems"][0]
    assert default["name"] == "geometric" and default["parameters"] == {}
    sampled = [answers[query] for query in record["queries"]]
    assert [answer.group for answer in sampled] == record["groups"]
    expected = [answer.values["same identity"]["mAP"] for answer in sampled]
    assert default["ap"] == pytest.approx(expected, abs=1e-6)
    assert default["first"] == [answer.rank for answer in sampled]
    assert 1 < len(sampled) < record["of"] == len(answers)


def test_true_pairs_are_all_right_answers_of_the_sample(dataset: Dataset, out: Path) -> None:
    record = verified(out)
    regions = [region for region in dataset.read("validation") if isinstance(region, Labelled)]
    features = {
        region.id: local_features(Region(images.load(region.source), region.box)) for region in regions
    }
    asked = [region for region in regions if region.id in record["queries"]]
    shop = [region for region in regions if region.side is Side.GALLERY]
    expected = sorted(
        inliers(features[query.id], features[member.id])
        for query in asked
        for member in shop
        if member.identity == query.identity
    )
    kind = record["kinds"]["rootsift"]
    assert sorted(pair["inliers"] for pair in kind["true"]) == expected
    assert all(pair["listed"] for pair in kind["true"])  # fewer than 100 gallery regions
    assert min(expected) < 8 < max(expected)
    assert len(kind["wrong"]) == len(asked)


def test_pairs_outside_the_short_list_are_compared_too(
    dataset: Dataset, out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(weights, "default_folder", lambda: tmp_path / "nothing")
    monkeypatch.setattr(verifying, "TIMED", 1)
    monkeypatch.setattr(verifying, "SAMPLE", 6)

    monkeypatch.setattr(verifying, "Geometric", partial(Geometric, verify=3))
    measured(dataset, tmp_path, rerankers=("geometric",), tune=None)
    few, all_of_them = verified(tmp_path)["kinds"]["rootsift"], verified(out)["kinds"]["rootsift"]
    assert [pair["inliers"] for pair in few["true"]] == [pair["inliers"] for pair in all_of_them["true"]]
    assert {pair["listed"] for pair in few["true"]} == {True, False}
    assert [system["name"] for system in few["systems"]] == ["geometric", "superglobal+geometric"]


def test_what_is_there_is_not_measured_again(dataset: Dataset, out: Path) -> None:
    files = sorted(out.glob("*/*.json"))
    before = [file.read_bytes() for file in files]
    measured(dataset, out, encoders={LABEL: Exhausted()})
    assert [file.read_bytes() for file in files] == before


@pytest.mark.parametrize("other", [{"encoders": {LABEL: Other()}}, {"split": "tuning"}])
def test_another_model_or_other_data_of_that_name_are_refused(
    dataset: Dataset, out: Path, other: dict[str, object]
) -> None:
    with pytest.raises(BadInput, match="another model"):
        measured(dataset, out, **other)


def test_the_table_has_every_re_ranker_and_says_what_was_not_run(out: Path) -> None:
    run = Run.load(out / "thumbnails--8-x-8")
    section = told(out)[f"Re-ranking from descriptors: {LABEL}"]
    rows = {row["re-rank"]: row for row in section.record}
    settings = [f"{name}{setting}" for name in rerank.FROM_DESCRIPTORS for setting in ("", " (tuned)")]
    assert list(rows) == ["none", *settings]
    for name, row in rows.items():
        if name.removesuffix(" (tuned)") not in ("none", *CHOSEN):
            assert row["parameters"] == "not run" and "mAP" not in row
            continue
        system = run.system(name)
        assert row["mAP"]["mean"] == system.figures["same identity"]["mAP"].value
        assert row["bytes"] == 2 * ThumbnailEncoder.dim
    assert f"| {rows['superglobal']['mAP']['mean']:.3f} [" in section.text
    assert rows["none"]["points"] is None
    assert rows["superglobal"]["points"]["p_holm"] == run.differences[0].p_holm
    (drawing,) = section.drawings.values()
    assert ElementTree.fromstring(drawing).tag.endswith("svg")


def test_the_rival_of_verification_is_chosen_where_it_was_fitted(out: Path) -> None:
    run = Run.load(out / "thumbnails--8-x-8")
    reached = {name: max(trial["mAP"] for trial in tuned["trials"]) for name, tuned in run.tuning.items()}
    sections = told(out)
    (row,) = sections["Descriptors"].record["rows"]
    assert row["best when fitted"] == f"{max(reached, key=reached.__getitem__)} (tuned)"
    assert row["verification"] == "geometric (tuned), rootsift"
    rows = sections[f"Geometric verification: {LABEL}"].record
    assert [row["re-rank"] for row in rows[:2]] == ["none", row["best when fitted"]]
    gains = [row[gain] for row in rows for gain in ("points", "points above the best fitted") if row[gain]]
    assert len(gains) == 1 + 2 * (len(rows) - 2)
    assert [gain["p_holm"] for gain in gains] == holm([gain["p"] for gain in gains]).tolist()
    for row in rows[2:]:
        assert row["points"]["mean"] == pytest.approx(row["mAP"]["mean"] - rows[0]["mAP"]["mean"])
        assert 0 < row["ms, features kept"] < row["ms, pictures read"]
        assert row["bytes"] > 2 * ThumbnailEncoder.dim


def test_the_report_says_what_could_not_be_run_and_is_json(out: Path) -> None:
    sections = told(out)
    text = sections[f"Geometric verification: {LABEL}"].text
    assert "With xfeat: not run" in text
    assert "9 queries in 5 pairs, 18 gallery regions" in sections["Descriptors"].text
    (row,) = sections["Which pairs can be verified at all"].record
    pairs = verified(out)["kinds"]["rootsift"]["true"]
    share = np.mean([pair["inliers"] >= 8 for pair in pairs])
    assert row["true: 8 inliers"]["mean"] == pytest.approx(share)
    assert row["true: pairs"] == len(pairs)
    assert json.dumps([section.record for section in sections.values()], allow_nan=False)


def test_a_folder_without_measurements_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="no measured descriptor"):
        rerank.report(tmp_path)


def test_only_the_named_descriptors_are_reported(out: Path) -> None:
    assert [section.title for section in rerank.report(out, [LABEL])] == list(told(out))
    with pytest.raises(BadInput, match="no measured descriptor"):
        rerank.report(out, ["another"])


def test_descriptors_are_trained_as_in_the_study_of_captions() -> None:
    trained = {arm.name: arm for arm in captions.arms(Plan())}
    wanted = rerank.arms(Plan())
    assert {arm.name for arm in wanted} == rerank.DESCRIPTORS.keys()
    for arm in wanted:
        assert (arm.seeds, arm.views, arm.key) == (1, (), trained[arm.name].key)
