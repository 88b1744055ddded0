"""The shipped graph with the pulled weights against torch; files that are not the weights."""

from __future__ import annotations

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from lookalike import weights
from lookalike.encoders import MiniLM, minilm
from lookalike.errors import WeightsError
from pulled import needs_minilm

ROOT = Path(__file__).parents[2]
CAPTIONS = [
    "",
    "red",
    "A long-sleeved red dress with white dots, worn over grey trousers",
    "CAFÉ au lait [SEP] 日本語 and zzyzx",
    "!?",
    "very " * 60,
    "unbelievably handkerchief-hemmed " * 30,
]


needs_torch = pytest.mark.skipif(find_spec("torch") is None, reason="the extra train")


@needs_minilm
@needs_torch
def test_states_are_those_of_the_text_tower_in_torch() -> None:
    """Where there is a word: what stands in the padding means nothing, and is ill-conditioned."""
    import torch
    from safetensors.torch import load_file

    from lookalike.learn.models.x2vlm import Words, X2VLMConfig
    from lookalike.learn.models.x2vlm.text import Bert

    bert = Bert(
        X2VLMConfig(text_width=384, text_heads=12, text_hidden=1536, text_layers=6, fusion_layers=0)
    ).eval()
    file = weights.locate("minilm", weights.default_folder())[0]
    bert.load_state_dict({k: v for k, v in load_file(file).items() if not k.startswith("pooler.")})
    captions = CAPTIONS + [f"{colour} coat with {n} buttons" for colour in ("red", "navy") for n in range(20)]
    ids, counted = Words().tokens(captions)
    with torch.inference_mode():
        due = bert.read(ids, counted).numpy()

    states, mask = MiniLM().states(captions)
    assert states.shape == due.shape == (len(captions), 40, 384) and states.dtype == np.float32
    assert mask.dtype == np.int64 and mask.tolist() == counted.tolist()
    for text, (found, row) in enumerate(zip(states, due, strict=True)):
        read = row[: mask[text].sum()]
        np.testing.assert_allclose(found[1 : len(read)], read[1:], atol=1e-5, rtol=0)
        np.testing.assert_allclose(found[0], read.mean(axis=0), atol=1e-5, rtol=0)


@needs_minilm
def test_a_texts_states_are_its_own() -> None:
    """Company, padding, threads and what was asked before change nothing."""
    encoder = MiniLM(threads=1)
    states, mask = encoder.states(CAPTIONS)
    for place, caption in enumerate(CAPTIONS):
        (alone,), (counted,) = encoder.states([caption])
        assert counted.all() and len(counted) == mask[place].sum()
        np.testing.assert_allclose(alone, states[place, : len(alone)], atol=1e-5, rtol=0)
    with ThreadPoolExecutor(4) as pool:
        for again, _ in pool.map(MiniLM().states, [CAPTIONS] * 4):
            np.testing.assert_allclose(again[mask > 0], states[mask > 0], atol=1e-5, rtol=0)


@needs_minilm
def test_sentences_that_mean_the_same_are_closest() -> None:
    """What the published model is for, and what a wrong reading of its weights would lose."""
    states, _ = MiniLM().states(["a red dress", "a crimson gown", "the stock market fell", ""])
    means = states[:, 0] / np.linalg.norm(states[:, 0], axis=1, keepdims=True)
    alike, unlike, empty = means[0] @ means[1:].T
    assert alike > 0.5 > 0.3 > max(unlike, empty)


@needs_minilm
def test_no_texts() -> None:
    states, mask = MiniLM().states([])
    assert states.shape == (0, 2, 384) and mask.shape == (0, 2)


def test_weights_that_were_not_pulled_are_asked_for_by_the_first_call(tmp_path: Path) -> None:
    encoder = MiniLM(tmp_path)
    assert encoder.fingerprint == MiniLM().fingerprint
    for _ in range(2):
        with pytest.raises(WeightsError, match="minilm is not on this machine") as caught:
            encoder.states(["red"])
        assert caught.value.hint == "lookalike models pull minilm"


@needs_minilm
def test_no_torch_is_loaded() -> None:
    code = (
        "import sys; from lookalike.encoders import MiniLM; made = MiniLM(); "
        "assert not {'onnxruntime', 'tokenizers'} & set(sys.modules); "
        "made.states(['red']); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_fresh_export_is_the_shipped_file(tmp_path: Path) -> None:
    out = tmp_path / "minilm.onnx"
    command = [sys.executable, str(ROOT / "tools/export_minilm.py"), "--out", str(out)]
    subprocess.run(command, check=True, capture_output=True)
    fresh, shipped = (
        onnx.load(out, load_external_data=False),
        onnx.load(minilm.GRAPH, load_external_data=False),
    )
    assert fresh == shipped
    assert minilm.GRAPH.stat().st_size < 100_000


SHAPES: dict[str, tuple[int, ...]] = {"a": (2, 3), "b": (2,)}
HEADER: dict[str, Any] = {
    "__metadata__": {"format": "pt"},
    "a": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]},
    "b": {"dtype": "F32", "shape": [2], "data_offsets": [24, 32]},
    "more": {"dtype": "I64", "shape": [1], "data_offsets": [24, 32]},
}


def stored(file: Path, header: object, length: int | None = None) -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    data = np.arange(8, dtype="<f4").tobytes()
    file.write_bytes((len(text) if length is None else length).to_bytes(8, "little") + text + data)
    return file


@pytest.mark.parametrize("spaces", range(4))  # at each place that a float may not begin at, too
def test_tensors_are_read_where_they_lie(spaces: int, tmp_path: Path) -> None:
    text = json.dumps(HEADER).encode() + b" " * spaces
    found = minilm._tensors(stored(tmp_path / "a.safetensors", text), SHAPES)
    assert found["a"].tolist() == [[0, 1, 2], [3, 4, 5]] and found["b"].tolist() == [6, 7]
    assert all(each.flags.aligned and each.dtype == np.float32 for each in found.values())


@pytest.mark.parametrize(
    "lie",
    [
        {"data_offsets": [24, 36]},
        {"data_offsets": [28, 36]},  # ends behind the file
        {"data_offsets": [-8, 0]},
        {"data_offsets": [32, 24]},
        {"data_offsets": [24, 10**30]},
        {"data_offsets": [24.0, 32.0]},
        {"data_offsets": "24"},
        {"shape": [1, 2]},
        {"shape": [-2]},
        {"shape": None},
        {"dtype": "F16"},
        {"dtype": ["F32"]},
    ],
    ids=str,
)
def test_a_header_that_lies_about_a_tensor(lie: dict[str, Any], tmp_path: Path) -> None:
    header = HEADER | {"b": HEADER["b"] | lie}
    with pytest.raises(WeightsError, match=r"has no b of shape \(2,\)") as caught:
        minilm._tensors(stored(tmp_path / "a.safetensors", header), SHAPES)
    assert caught.value.hint == "lookalike models pull minilm"


@pytest.mark.parametrize("header", [{}, {"b": None}, {"b": [1]}, {"a": HEADER["a"]}], ids=str)
def test_a_header_that_lacks_a_tensor(header: object, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="has no"):
        minilm._tensors(stored(tmp_path / "a.safetensors", header), SHAPES)


@pytest.mark.parametrize(
    ("header", "length"),
    [
        (b"{}", 2**64 - 1),
        (b"{}", 100),
        (b"[]", None),
        (b"{", None),
        (b"\xff\xfe\xfd", None),
        (b"[" * 100_000, None),
        (b'{"b": 1' + b"0" * 10_000 + b"}", None),
        (b" " * (2 << 20), None),
    ],
    ids=lambda value: str(value)[:12],
)
def test_files_without_a_header(header: bytes, length: int | None, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="no safetensors file") as caught:
        minilm._tensors(stored(tmp_path / "a.safetensors", header, length), SHAPES)
    assert "\n" not in str(caught.value)


def test_files_that_are_none(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    for path in (tmp_path / "absent", tmp_path, tmp_path / "empty"):
        with pytest.raises(WeightsError, match="cannot be read"):
            minilm._tensors(path, SHAPES)
    (tmp_path / "short").write_bytes(b"\0\0\0")
    with pytest.raises(WeightsError, match="no safetensors file"):
        minilm._tensors(tmp_path / "short", SHAPES)
