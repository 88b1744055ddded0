"""Every branch of an exported file against torch, and files that must not be written."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from adapted_models import CONFIG, compact_model, states, x2vlm_model
from lookalike.cli import app
from lookalike.encoders import OnnxBranches
from lookalike.errors import BadInput, LookalikeError
from lookalike.learn import export as exporting
from lookalike.learn.branches import TorchBranches, located
from lookalike.learn.export import READS, export
from lookalike.learn.saved import Saved, save
from lookalike.values import Floats

CPU = torch.device("cpu")
Both = tuple[TorchBranches, OnnxBranches]


def blank_of(saved: Saved) -> Floats:
    if saved.trunk == "compact":
        return states()
    ids = torch.tensor([[101, 102]])
    return saved.model.vlm.text(ids, torch.ones_like(ids)).detach().numpy()


def both(saved: Saved, folder: Path) -> Both:
    blank, out = blank_of(saved), folder / "model.onnx"
    export(saved, blank, out)
    return TorchBranches(saved, blank, device=CPU), OnnxBranches(out, threads=1)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Both]:
    made = {"x2vlm": x2vlm_model(), "compact": compact_model()}
    return {name: both(saved, tmp_path_factory.mktemp(name)) for name, saved in made.items()}


def inputs(like: TorchBranches, rows: int, words: int, seed: int) -> dict[str, np.ndarray]:
    """Captions end anywhere, and regions are anything from one cell to all."""
    random, facts = np.random.default_rng(seed), like.facts
    width = 384 if facts.trunk == "compact" else CONFIG.text_width
    mask = (np.arange(words) < random.integers(2, words + 1, (rows, 1))).astype(np.int64)
    region = random.random((rows, facts.grid**2), np.float32)
    region *= random.random(region.shape) < random.random((rows, 1))
    region[np.arange(rows), random.integers(0, facts.grid**2, rows)] = 1
    return {
        "pixels": random.standard_normal((rows, 3, facts.resolution, facts.resolution), np.float32),
        "ids": random.integers(1, 30522, (rows, words)),
        "mask": mask,
        "words": mask,
        "tokens": random.standard_normal((rows, 1 + facts.grid**2, facts.identity), np.float32),
        "region": region,
        "states": random.standard_normal((rows, words, width), np.float32),
    }


@settings(max_examples=25, deadline=None)
@given(
    trunk=st.sampled_from(("x2vlm", "compact")),
    rows=st.integers(1, 5),
    words=st.integers(2, 40),
    seed=st.integers(0, 99),
)
def test_every_branch_gives_what_torch_gives(
    models: dict[str, Both], trunk: str, rows: int, words: int, seed: int
) -> None:
    expected, found = models[trunk]
    arrays = inputs(expected, rows, words, seed)
    assert set(found.branches) == set(READS) - ({"tokens", "words"} if trunk == "compact" else set())
    for branch in found.branches:
        asked = {name: arrays[name] for name in READS[branch]}
        due = expected.run(branch, **asked)
        got = found.run(branch, **asked)
        assert got.shape == due.shape and got.dtype == due.dtype == np.float32
        np.testing.assert_allclose(got, due, atol=1e-4, rtol=0, err_msg=branch)


def test_branches_are_the_models_own_passes(models: dict[str, Both]) -> None:
    saved = x2vlm_model()
    adapted, vlm = saved.model, saved.model.vlm
    expected, _ = models["x2vlm"]
    arrays = inputs(expected, 3, 6, seed=1)
    given = {name: torch.from_numpy(each) for name, each in arrays.items()}
    tokens, region, text, words = (given[name] for name in ("tokens", "region", "states", "words"))
    seen = adapted.region(tokens, region)
    blank = torch.from_numpy(blank_of(saved)).expand(3, -1, -1)
    due = {
        "tokens": vlm.vision(given["pixels"]),
        "words": vlm.text(given["ids"], given["mask"]),
        "image": adapted.joined(
            adapted.identity_part(seen, blank, torch.ones(3, 2)), adapted.language_part(seen)
        ),
        "fused": adapted.joined(adapted.identity_part(seen, text, words), adapted.language_part(seen)),
        "text": adapted.text_queries(text),
        "box": adapted.boxes(tokens, blank, torch.ones(3, 2)),
        "told_box": adapted.boxes(tokens, text, words),
        "match": vlm.match_logits(adapted.fused(seen, text, words)),
    }
    assert set(due) == set(READS)
    for branch, rows in due.items():
        got = expected.run(branch, **{name: arrays[name] for name in READS[branch]})
        np.testing.assert_allclose(got, rows.numpy(), atol=1e-6, rtol=0, err_msg=branch)


def test_facts_come_back_out_of_the_file(models: dict[str, Both]) -> None:
    for expected, found in models.values():
        assert replace(found.facts, fingerprint="") == replace(expected.facts, fingerprint="")
        assert found.facts.fingerprint and found.name.endswith("model.onnx")


def test_the_file_is_an_onnx_model_whose_metadata_say_what_it_takes(tmp_path: Path) -> None:
    about = {"recipe": {"itc": 1.0, "itm": 0.5, "box": 1.0}, "scores": {"mAP": 0.5}}
    out = tmp_path / "compact.onnx"
    told = export(compact_model(about=about), states(), out)
    made = onnx.load(out)
    onnx.checker.check_model(made, full_check=True)
    metadata = {each.key: each.value for each in made.metadata_props}
    assert metadata["name"] == "compact" and "EfficientNet" in metadata["preprocessing"]
    assert json.loads(metadata["about"]) == about
    assert json.loads(metadata["config"])["vision_width"] == 352
    assert "Apache-2.0" in metadata["licence"] and json.loads(metadata["versions"])["torch"]
    assert told.bytes == out.stat().st_size and max(told.parity.values()) < 1e-4
    stored = sum(len(each.raw_data) for each in made.graph.initializer)
    assert told.bytes < stored + 200_000  # each weight lies there once


def test_halves_are_half_the_size_and_nearly_the_same(tmp_path: Path) -> None:
    saved = x2vlm_model()
    whole = export(saved, blank_of(saved), tmp_path / "whole.onnx")
    half = export(saved, blank_of(saved), tmp_path / "half.onnx", half=True)
    assert half.bytes < 0.6 * whole.bytes
    assert 1e-6 < max(half.parity.values()) < 1e-2
    assert (
        OnnxBranches(tmp_path / "half.onnx").facts.fingerprint
        != OnnxBranches(tmp_path / "whole.onnx").facts.fingerprint
    )


def test_what_is_far_from_torch_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved, out = x2vlm_model(), tmp_path / "model.onnx"
    out.write_bytes(b"as it was")
    monkeypatch.setattr(exporting, "TOLERANCE", 1e-9)
    with pytest.raises(LookalikeError, match="differs from torch by"):
        export(saved, blank_of(saved), out)
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"] and out.read_bytes() == b"as it was"


def test_weights_that_are_no_numbers_are_not_written(tmp_path: Path) -> None:
    saved = x2vlm_model()
    saved.model.vlm.text_proj.bias.fill_(torch.nan)
    with pytest.raises(LookalikeError, match="the branch text differs"):
        export(saved, blank_of(saved), tmp_path / "model.onnx")


def test_a_model_that_no_onnx_file_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved = x2vlm_model()
    monkeypatch.setattr(exporting, "LARGEST", 1_000_000)
    with pytest.raises(LookalikeError, match="an ONNX file holds 1,000,000") as caught:
        export(saved, blank_of(saved), tmp_path / "model.onnx")
    assert "--half" in caught.value.hint


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    saved = x2vlm_model()
    (tmp_path / "file").touch()
    (tmp_path / "folder.onnx").mkdir()
    for out in ("absent/model.onnx", "file/model.onnx", "folder.onnx"):
        with pytest.raises(LookalikeError, match="cannot be written: "):
            export(saved, blank_of(saved), tmp_path / out)
    assert not any(path.name.endswith(".part") for path in tmp_path.rglob("*"))


@pytest.mark.parametrize(
    ("trained", "left"),
    [
        ({"itc": 1.0, "itm": 0.0, "box": 0.0}, ("image", "fused", "text")),
        ({"itc": 0.0, "itm": 0.0, "box": 1.0}, ("image", "fused", "box", "told_box")),
        ({"itc": 0.0, "itm": 1.0, "box": 0.0}, ("image", "fused", "match")),
    ],
    ids=str,
)
def test_what_was_not_trained_is_left_out(
    trained: dict[str, float], left: tuple[str, ...], tmp_path: Path
) -> None:
    _, found = both(compact_model(about={"recipe": trained}), tmp_path)
    assert set(found.branches) == set(left)
    with pytest.raises(BadInput, match="has no branch 'tokens'"):
        found.run("tokens")


@pytest.mark.parametrize(
    "lacking", [(), ("vision_proj",), ("text_proj", "itm_head"), ("bbox_head",)], ids=str
)
def test_official_checkpoints_whatever_heads_they_have(lacking: tuple[str, ...], tmp_path: Path) -> None:
    vlm = x2vlm_model().model.vlm
    state = {
        key: each.clone()
        for key, each in vlm.state_dict().items()
        if not key.startswith(lacking or ("none",))
    }
    torch.save({"model": state}, tmp_path / "official.th")
    saved, blank, name = located(f"x2vlm:{tmp_path / 'official.th'}@40")
    assert name == f"x2vlm:{tmp_path / 'official.th'}@40"
    out = tmp_path / "model.onnx"
    export(saved, blank, out)
    found = OnnxBranches(out)
    gone = {
        "vision_proj": {"text"},
        "text_proj": {"text"},
        "itm_head": {"match"},
        "bbox_head": {"box", "told_box"},
    }
    assert set(found.branches) == set(READS) - {branch for head in lacking for branch in gone[head]}
    assert found.facts.resolution == 40
    assert found.facts.language == (0 if {"vision_proj", "text_proj"} & set(lacking) else CONFIG.embedding)
    arrays = inputs(TorchBranches(saved, blank, device=CPU), 2, 3, seed=0)
    (row, _) = found.run("image", tokens=arrays["tokens"], region=arrays["region"])
    due = (arrays["region"][0] / arrays["region"][0].sum()) @ arrays["tokens"][0, 1:]  # v0
    identity = row[: CONFIG.vision_width]
    np.testing.assert_allclose(identity / np.linalg.norm(identity), due / np.linalg.norm(due), atol=1e-5)


def test_on_the_command_line(tmp_path: Path) -> None:
    save(x2vlm_model(), tmp_path / "model")
    out = tmp_path / "model.onnx"
    command = ["models", "export", str(tmp_path / "model"), "--out", str(out), "--json"]
    done = CliRunner().invoke(app, command, catch_exceptions=False)
    told = json.loads(done.stdout)
    assert told["file"] == str(out) and told["bytes"] == out.stat().st_size
    assert set(told["parity"]) == set(READS) and told["model"] == str(tmp_path / "model")
    done = CliRunner().invoke(app, [*command[:-1], "--half"], catch_exceptions=False)
    assert (
        done.exit_code == 0 and f"{out.stat().st_size:,} bytes" in done.stdout and "told_box" in done.stdout
    )
    with pytest.raises(BadInput, match=r"does not end in \.onnx"):
        CliRunner().invoke(app, [*command[:4], str(tmp_path / "model")], catch_exceptions=False)
