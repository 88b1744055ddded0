"""Captions cleaned as the authors do, and cut into BERT's word pieces."""

import hashlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lookalike import words
from lookalike.errors import WeightsError
from lookalike.weights import record
from lookalike.words import Words, clean_caption

FACTS = Path(__file__).parent / "golden/x2vlm/facts.json"
VOCABULARY = [
    "[PAD]", "[UNK]", "[CLS]", "[SEP]", "red", "dress", "##es", "with", "cafe", "[", "]", "se", "##p", "t",
]  # fmt: skip


@pytest.fixture
def vocabulary(tmp_path: Path) -> Path:
    (tmp_path / "vocab.txt").write_text("\n".join(VOCABULARY) + "\n", encoding="utf-8")
    return tmp_path / "vocab.txt"


def facts() -> list[dict[str, Any]]:
    return json.loads(FACTS.read_text(encoding="utf-8"))["pre_caption"]


def shipped() -> list[str]:
    return words.SHIPPED.read_text(encoding="utf-8").split("\n")[:-1]


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
    names = [[VOCABULARY[place] for place in row] for row in ids]
    assert names == [
        ["[CLS]", "red", "dress", "##es", "with", "[UNK]", "[SEP]"],
        ["[CLS]", "[SEP]", "[PAD]", "[PAD]", "[PAD]", "[PAD]", "[PAD]"],
        ["[CLS]", "cafe", "[SEP]", "[PAD]", "[PAD]", "[PAD]", "[PAD]"],
    ]
    assert mask.tolist() == [[int(name != "[PAD]") for name in row] for row in names]
    assert ids.dtype == mask.dtype == np.int64


def test_long_captions_end_with_a_separator(vocabulary: Path) -> None:
    ids, mask = Words(vocabulary, length=5).tokens(["red dress with red dress", "red"])
    assert ids.tolist() == [[2, 4, 5, 7, 3], [2, 4, 3, 0, 0]] and mask.sum() == 8


def test_names_of_special_tokens_are_plain_text(vocabulary: Path) -> None:
    ids, _ = Words(vocabulary).tokens(["red [SEP] dress"])
    assert [VOCABULARY[place] for place in ids[0]] == [
        "[CLS]", "red", "[", "se", "##p", "]", "dress", "[SEP]",
    ]  # fmt: skip


def test_no_captions(vocabulary: Path) -> None:
    ids, mask = Words(vocabulary).tokens([])
    assert ids.shape == mask.shape == (0, 2) and ids.dtype == mask.dtype == np.int64


def test_the_shipped_vocabulary_is_berts() -> None:
    """A line is a word: were one of them split or joined, all ids after it would be others."""
    assert hashlib.sha256(words.SHIPPED.read_bytes()).hexdigest() == record("bert-uncased").files[0].sha256
    names = shipped()
    assert len(names) == len(set(names)) == 30522
    assert [names.index(name) for name in ("[PAD]", "[UNK]", "[CLS]", "[SEP]")] == [0, 100, 101, 102]
    ids, _ = Words().tokens(["Hello world", ""])
    assert ids.tolist() == [[101, 7592, 2088, 102], [101, 102, 0, 0]]  # as in every description of BERT


@pytest.mark.parametrize("case", facts(), ids=lambda case: f"{case['caption'][:12]}-{case['max_words']}")
def test_the_shipped_vocabulary_reads_the_captions(case: dict[str, Any]) -> None:
    """Joined again, the pieces are the cleaned caption, accents and spaces apart."""
    ids, mask = Words(length=200).tokens([case["caption"]])
    names = shipped()
    first, *pieces, last = [names[place] for place in ids[0]]
    assert (first, last) == ("[CLS]", "[SEP]") and mask.all()
    joined = "".join(piece.removeprefix("##") for piece in pieces)
    plain = clean_caption(case["caption"]).replace(" ", "")
    assert joined == plain or not plain.isascii()


def test_vocabularies_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="cannot be read"):
        Words(tmp_path / "absent.txt")
    (tmp_path / "some.txt").write_text("red\ndress\n", encoding="utf-8")
    with pytest.raises(WeightsError, match=r"lacks \[PAD\]"):
        Words(tmp_path / "some.txt")


def test_captions_are_read_without_torch() -> None:
    code = (
        "import sys; from lookalike.words import Words; assert 'tokenizers' not in sys.modules; "
        "Words().tokens(['red']); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
