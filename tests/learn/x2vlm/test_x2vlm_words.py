"""Captions and pictures on their way into the towers."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from x2vlm_golden import GOLDEN

from lookalike import weights
from lookalike.errors import WeightsError
from lookalike.learn.models.x2vlm import Words, clean_caption, pulled_vocabulary, to_pixels
from lookalike.testing import drawing

VOCABULARY = [
    "[PAD]",
    "[UNK]",
    "[CLS]",
    "[SEP]",
    "red",
    "dress",
    "##es",
    "with",
    "cafe",
    "[",
    "]",
    "se",
    "##p",
    "t",
]


@pytest.fixture
def vocabulary(tmp_path: Path) -> Path:
    (tmp_path / "vocab.txt").write_text("\n".join(VOCABULARY) + "\n", encoding="utf-8")
    return tmp_path / "vocab.txt"


def facts() -> list[dict[str, Any]]:
    return json.loads((GOLDEN / "facts.json").read_text(encoding="utf-8"))["pre_caption"]


@pytest.mark.parametrize("case", facts(), ids=lambda case: f"{case['caption'][:12]}-{case['max_words']}")
def test_captions_are_cleaned_as_the_authors_do(case: dict[str, Any]) -> None:
    """They refuse a caption of which nothing is left; here the empty one is a caption."""
    assert clean_caption(case["caption"], case["max_words"]) == (case["result"] or "")


@given(st.text(max_size=60))
def test_cleaning_twice_is_cleaning_once(caption: str) -> None:
    clean = clean_caption(caption)
    assert clean_caption(clean) == clean == " ".join(clean.split())


def test_tokens(vocabulary: Path) -> None:
    ids, mask = Words(vocabulary).tokens(["Red dresses, with zebras!", "", "CAFÉ"])
    names = [[VOCABULARY[place] for place in row] for row in ids.tolist()]
    assert names == [
        ["[CLS]", "red", "dress", "##es", "with", "[UNK]", "[SEP]"],
        ["[CLS]", "[SEP]", "[PAD]", "[PAD]", "[PAD]", "[PAD]", "[PAD]"],
        ["[CLS]", "cafe", "[SEP]", "[PAD]", "[PAD]", "[PAD]", "[PAD]"],
    ]
    assert mask.tolist() == [[int(name != "[PAD]") for name in row] for row in names]
    assert ids.dtype == mask.dtype == torch.int64


def test_long_captions_end_with_a_separator(vocabulary: Path) -> None:
    ids, mask = Words(vocabulary, length=5).tokens(["red dress with red dress", "red"])
    assert ids.tolist() == [[2, 4, 5, 7, 3], [2, 4, 3, 0, 0]] and mask.sum() == 8


def test_names_of_special_tokens_are_plain_text(vocabulary: Path) -> None:
    ids, _ = Words(vocabulary).tokens(["red [SEP] dress"])
    assert [VOCABULARY[place] for place in ids[0]] == [
        "[CLS]",
        "red",
        "[",
        "se",
        "##p",
        "]",
        "dress",
        "[SEP]",
    ]


def test_no_captions(vocabulary: Path) -> None:
    ids, mask = Words(vocabulary).tokens([])
    assert ids.shape == mask.shape == (0, 2)


def test_vocabularies_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="cannot be read"):
        Words(tmp_path / "absent.txt")
    (tmp_path / "some.txt").write_text("red\ndress\n", encoding="utf-8")
    with pytest.raises(WeightsError, match=r"lacks \[PAD\]"):
        Words(tmp_path / "some.txt")


def test_the_pulled_vocabulary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights, "default_folder", lambda: tmp_path)
    with pytest.raises(WeightsError) as caught:
        pulled_vocabulary()
    assert caught.value.hint == "lookalike models pull minilm"


def test_pictures_are_stretched_and_normalised() -> None:
    pictures = [drawing(1), drawing(2)[:40, :90]]
    pixels = to_pixels(pictures, 48)
    assert pixels.shape == (2, 3, 48, 48) and pixels.dtype == torch.float32
    for picture, found in zip(pictures, pixels, strict=True):
        square = np.asarray(Image.fromarray(picture).resize((48, 48), Image.Resampling.BICUBIC), np.float64)
        mean, deviation = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
        due = ((square / 255 - mean) / deviation).transpose(2, 0, 1)
        np.testing.assert_allclose(found.numpy(), due, atol=1e-6)
    assert to_pixels([], 48).shape == (0, 3, 48, 48)
