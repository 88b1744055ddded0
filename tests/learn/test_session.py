"""From a data set to a model in a folder, on the command line, with the real towers."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from garments import garments

from adapted_models import CONFIG, x2vlm_model
from lookalike.datasets import Labelled, open_dataset
from lookalike.datasets.street2shop import make
from lookalike.errors import BadInput, WeightsError
from lookalike.learn.models.x2vlm import X2VLM
from lookalike.learn.saved import load, save
from lookalike.learn.session import parts

SMALL = ["--set", "p=4", "--set", "k=2", "--set", "epochs=2", "--set", "lr=1e-3"]


def run(*arguments: object, **options: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "lookalike", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, **options)


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("street2shop") / "set"
    make(folder, 16, 5, workers=1)
    return folder


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny X²-VLM as the authors save theirs, without a head for boxes."""
    file = tmp_path_factory.mktemp("checkpoint") / "tiny.th"
    torch.manual_seed(0)
    vlm = X2VLM(replace(CONFIG, heads=("temp", "vision_proj", "text_proj", "itm_head")))
    torch.save({"model": vlm.state_dict()}, file)
    return file


def test_compact_is_trained_exported_and_measured(drawn: Path, tmp_path: Path) -> None:
    model, onnx = tmp_path / "model", tmp_path / "model.onnx"
    command = ["train", drawn, "--out", model, "--views", 2, *SMALL, "--set", "imagine=1", "--json"]
    first = run(*command)
    assert first.returncode == 0, first.stderr
    told = json.loads(first.stdout)
    assert [epoch["epoch"] for epoch in told["epochs"]] == [1, 2]
    assert {"arcface", "contrast", "itc", "box", "norm itc", "mAP"} <= told["epochs"][0].keys()
    assert set(told["held out"]["boxes"]) == {"bare", "captioned"}
    assert -1 <= told["held out"]["guard"]["threshold"] <= 1
    assert -1 <= told["held out"]["imagined"]["cosine"] <= 1
    lines = (model / "epochs.jsonl").read_text().splitlines()
    assert [json.loads(line)["epoch"] for line in lines] == [1, 2]
    assert list((model / "events").iterdir())
    again = run(*command)  # nothing is left to do
    assert json.loads(again.stdout) == told
    kept = load(model)
    assert kept.guard == told["held out"]["guard"]["threshold"]
    assert kept.trust is not None and kept.trust.deviation > 0
    assert kept.about["recipe"]["epochs"] == 2 and kept.about["data"]["synthetic"]
    exported = run("models", "export", model, "--out", onnx)
    assert exported.returncode == 0, exported.stderr
    measured = run(
        "eval", drawn, "--split", "validation", "--encoder", onnx, "--out", tmp_path / "run", "--json"
    )
    assert measured.returncode == 0, measured.stderr
    assert json.loads(measured.stdout)["queries"] > 0


def test_a_checkpoint_is_fine_tuned_on_pictures_and_says_what_was_new(
    drawn: Path, checkpoint: Path, tmp_path: Path
) -> None:
    command = [
        "train", drawn, "--recipe", "x2vlm", "--checkpoint", checkpoint, "--out", tmp_path / "model", *SMALL,
        "--set", "precision=fp32", "--set", "recompute=true", "--resolution", 40,
    ]  # fmt: skip
    done = run(*command)
    assert done.returncode == 0, done.stderr
    assert "epoch   2  mAP" in done.stdout and "boxes in whole pictures" in done.stdout
    saved = load(tmp_path / "model")
    assert saved.model.vlm.config.resolution == 40 and saved.trunk == "x2vlm" and not saved.towers
    assert saved.model.vlm.bbox_head is not None  # it was not in the file


def test_reading_in_other_processes_changes_nothing(drawn: Path, checkpoint: Path, tmp_path: Path) -> None:
    told = []
    for workers in (0, 2):
        done = run(
            "train", drawn, "--recipe", "x2vlm", "--checkpoint", checkpoint, "--out", tmp_path / f"{workers}",
            *SMALL, "--set", "epochs=1", "--workers", workers, "--json",
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        told.append(json.loads(done.stdout)["epochs"])
    assert told[0] == told[1]


def test_two_processes_train_one_model(drawn: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2",
         "-m", "lookalike", "train", str(drawn), "--out", str(tmp_path / "model"), "--views", "1", *SMALL,
         "--set", "p=2", "--json"],
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert len(json.loads(done.stdout)["epochs"]) == 2
    assert load(tmp_path / "model").about["recipe"]["p"] == 2


def test_a_killed_command_goes_on(drawn: Path, tmp_path: Path) -> None:
    command = ["train", drawn, "--views", 1, *SMALL, "--set", "epochs=4", "--json"]
    whole = run(*command, "--out", tmp_path / "whole")
    tokens = ["--tokens", tmp_path / "whole" / "tokens"]
    killed = subprocess.Popen(
        [sys.executable, "-m", "lookalike", *map(str, [*command, *tokens, "--out", tmp_path / "killed"])],
        stdout=subprocess.DEVNULL,
    )
    while not (tmp_path / "killed" / "state.pt").exists():
        assert killed.poll() is None
        time.sleep(0.01)
    os.kill(killed.pid, signal.SIGKILL)
    killed.wait()
    again = run(*command, *tokens, "--out", tmp_path / "killed")
    assert json.loads(again.stdout)["epochs"] == json.loads(whole.stdout)["epochs"]
    one, other = (load(tmp_path / name).model.state_dict() for name in ("whole", "killed"))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_wrong_input_is_two_lines(
    drawn: Path, checkpoint: Path, tmp_path: Path, refused: Callable[..., list[str]]
) -> None:
    common = ["--out", tmp_path / "model"]
    for arguments, told in (
        ([drawn, "--recipe", "x2vlm", *common], "--checkpoint"),
        ([drawn, "--checkpoint", checkpoint, *common], "--recipe x2vlm"),
        ([drawn, "--recipe", "x2vlm", "--checkpoint", drawn / "street2shop.json", *common], "no checkpoint"),
        ([drawn, "--set", "lrr=1", *common], "lr"),
        ([drawn, "--split", "training ", *common], "splits: "),
        ([drawn, "--set", "p=500", *common], "identities"),
        ([drawn, "--device", "abacus", *common], "cpu is always there"),
        ([tmp_path / "nowhere", *common], "nowhere"),
    ):
        lines = refused("train", *arguments)
        assert len(lines) == 2 and told in "\n".join(lines), (arguments, lines)
    assert not (tmp_path / "model" / "model.json").exists()


def test_a_folder_without_splits_holds_an_eighth_of_its_groups_out(tmp_path: Path) -> None:
    made = garments(tmp_path, identities=17)
    dataset, training, tuning = parts(replace(made, splits=("all",)), None, None)
    held, rest = ({entry.group for entry in dataset.read(part)} for part in (tuning, training))
    assert len(held) == 3 and len(rest) == 14 and not held & rest
    assert parts(made, None, None)[1:] == ("training", "tuning")
    assert parts(replace(made, splits=("train", "val")), "train", "val")[1:] == ("train", "val")
    with pytest.raises(BadInput, match="no split 'test'"):
        parts(made, "test", None)


def test_deepfashion2_is_cut_by_its_pairs(drawn: Path) -> None:
    dataset, training, tuning = parts(open_dataset(drawn), None, None)
    held, rest = (
        {entry.group for entry in dataset.read(part) if isinstance(entry, Labelled)}
        for part in (tuning, training)
    )
    assert rest and not held & rest


def test_a_model_comes_back_as_it_was_saved(tmp_path: Path) -> None:
    saved = replace(x2vlm_model(3), about={"recipe": {"p": 4}})
    save(saved, tmp_path)
    back = load(tmp_path)
    assert (back.trunk, back.guard, back.about) == ("x2vlm", 0.25, {"recipe": {"p": 4}})
    for (name, one), other in zip(
        saved.model.state_dict().items(), back.model.state_dict().values(), strict=True
    ):
        assert torch.equal(one, other), name
    assert not any(p.requires_grad for p in back.model.parameters()) and not back.model.training


def test_damaged_models_are_refused(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="no trained model"):
        load(tmp_path)
    save(x2vlm_model(), tmp_path)
    weights, facts = tmp_path / "model.safetensors", tmp_path / "model.json"
    whole, told = weights.read_bytes(), facts.read_text()
    weights.write_bytes(whole[:-4] + b"\0\1\2\3")
    with pytest.raises(WeightsError, match="checksum"):
        load(tmp_path)
    weights.write_bytes(whole)
    for broken in ("{", told.replace('"trunk"', '"trunks"'), told.replace('"version": 1', '"version": 9'),
                   told.replace('"vision_width": 48', '"vision_width": 96')):  # fmt: skip
        facts.write_text(broken)
        with pytest.raises(WeightsError):
            load(tmp_path)
    np.testing.assert_array_equal(
        np.frombuffer(weights.read_bytes(), np.uint8), np.frombuffer(whole, np.uint8)
    )
