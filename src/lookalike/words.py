"""Captions on their way into a text tower: cleaned as X²-VLM's authors do, cut into BERT's word pieces."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lookalike.errors import WeightsError

SHIPPED = Path(__file__).with_name("bert-uncased.txt")

_SPACES = str.maketrans(dict.fromkeys(",.'!?\"()*#:;~-/", " "))
_SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")


def clean_caption(caption: str, most: int = 30) -> str:
    """A caption as the authors write it: lower case, little punctuation, `most` words at most; may be ""."""
    caption = caption.lower().translate(_SPACES).replace("<person>", "person")
    return " ".join(re.split(r"\s+", caption.strip())[:most])


def sentences(caption: str) -> list[str]:
    """The sentences and lines of a caption that have a word in them, in their order; what is "" has none."""
    found = re.split(r"(?<=[.!?;])\s+|\s*[\r\n]\s*", caption.strip())
    return [sentence for sentence in found if clean_caption(sentence)]


class Words:
    """BERT's uncased WordPiece: [CLS] … [SEP], at most `length` tokens with these two.

    `vocabulary` is a vocab.txt, a word a line; None is BERT's own, which ships. WeightsError where it cannot
    be read. Safe to call from several threads.
    """

    def __init__(self, vocabulary: Path | None = None, length: int = 40) -> None:
        from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

        vocabulary = vocabulary or SHIPPED
        try:
            lines = vocabulary.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise WeightsError(f"the vocabulary {vocabulary} cannot be read: {error}") from error
        ids = {word: place for place, word in enumerate(lines)}
        if lacking := [word for word in _SPECIAL if word not in ids]:
            raise WeightsError(f"{vocabulary} is no vocabulary of BERT: it lacks {lacking[0]}")
        self._tokenizer = Tokenizer(models.WordPiece(ids, unk_token="[UNK]", max_input_chars_per_word=100))
        self._tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
        self._tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        self._tokenizer.post_processor = processors.BertProcessing(
            ("[SEP]", ids["[SEP]"]), ("[CLS]", ids["[CLS]"])
        )
        self._tokenizer.enable_truncation(length)
        self._tokenizer.enable_padding(pad_id=ids["[PAD]"], pad_token="[PAD]")

    def tokens(self, captions: Sequence[str]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """(B,) captions -> ids and mask (1 word, 0 padding), (B, L) int64, L that of the longest.

        Captions are cleaned first. "" is a caption: [CLS] [SEP]. The names of special tokens are plain text.
        B = 0 gives (0, 2).
        """
        read = self._tokenizer.encode_batch([clean_caption(caption) for caption in captions])
        if not read:
            return np.empty((0, 2), np.int64), np.empty((0, 2), np.int64)
        return (
            np.array([each.ids for each in read], np.int64),
            np.array([each.attention_mask for each in read], np.int64),
        )
