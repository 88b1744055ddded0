"""Captions as the text tower reads them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from lookalike import weights
from lookalike.errors import MissingExtra, WeightsError

_SPACES = str.maketrans(dict.fromkeys(",.'!?\"()*#:;~-/", " "))
_SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")


def clean_caption(caption: str, most: int = 30) -> str:
    """A caption as the authors write it: lower case, little punctuation, `most` words at most; may be ""."""
    caption = caption.lower().translate(_SPACES).replace("<person>", "person")
    return " ".join(re.split(r"\s+", caption.strip())[:most])


def pulled_vocabulary() -> Path:
    """BERT's uncased vocabulary, a part of the model `minilm`; WeightsError where that was not pulled."""
    files = weights.locate("minilm", weights.default_folder())
    return next(file for file in files if file.name == "vocab.txt")


class Words:
    """BERT's uncased WordPiece over a vocab.txt. [CLS] … [SEP], at most `length` tokens with these two.

    WeightsError where the vocabulary cannot be read, MissingExtra without the extra `train`.
    """

    def __init__(self, vocabulary: str | Path, length: int = 40) -> None:
        try:
            from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
        except ImportError:
            raise MissingExtra("reading captions", "train") from None
        try:
            lines = Path(vocabulary).read_text(encoding="utf-8").splitlines()
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

    def tokens(self, captions: Sequence[str]) -> tuple[Tensor, Tensor]:
        """(B,) captions -> ids and mask, both (B, L) int64, L that of the longest; B = 0 gives (0, 2).

        Captions are cleaned first. "" is a caption: [CLS] [SEP]. The names of special tokens are plain text.
        """
        read = self._tokenizer.encode_batch([clean_caption(caption) for caption in captions])
        if not read:
            empty = torch.empty(0, 2, dtype=torch.int64)
            return empty, empty
        return torch.tensor([each.ids for each in read]), torch.tensor([each.attention_mask for each in read])
