"""Captions with words left out, for a model to guess from what is left and from the picture.

As X²-VLM's authors mask (arXiv 2211.12402 and their code): half of a caption's word pieces, twelve at most,
whole words, and in one case of five two or three words in a row.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lookalike.values import Keys
from lookalike.words import SHIPPED, clean_caption

SHARE, MOST, RUNS = 0.5, 12, 0.2
VARIANTS = 2  # of each caption, for a text tower that is frozen
LEFT_OUT = -100  # no word to guess
_BLANK = "□"  # a word that BERT does not know: it reads [UNK]


def variants(caption: str) -> list[tuple[str, list[str]]]:
    """A caption with words left out in VARIANTS ways, the same each time, and the words; [] for "".

    Each is a text as well as the caption was, so any text tower can read it.
    """
    words = clean_caption(caption).split()
    made = []
    for number in range(VARIANTS if words else 0):
        seed = hashlib.sha256(f"{number} {caption}".encode()).digest()
        hidden = _hidden([[place] for place in range(len(words))], np.random.default_rng(list(seed)))
        text = " ".join(_BLANK if place in hidden else word for place, word in enumerate(words))
        made.append((text, [words[place] for place in hidden]))
    return made


@dataclass(frozen=True, slots=True, eq=False)
class Cloze:
    """Captions for a frozen text tower: what is left of them, and which words of `numbers` are missing."""

    numbers: Mapping[str, int]

    @classmethod
    def of(cls, captions: Iterable[str]) -> Cloze:
        """Asks for the words that occur in captions."""
        words = sorted({word for caption in set(captions) for word in clean_caption(caption).split()})
        return cls({word: number for number, word in enumerate(words)})

    def draw(self, captions: Sequence[str], draws: Keys) -> tuple[list[str], Keys]:
        """(B,) captions, each in the variant that its draw (B,) says -> texts and missing words (B, MOST).

        Numbers of words, in no order, then LEFT_OUT; nothing is missing from "".
        """
        texts, missing = [], np.full((len(captions), MOST), LEFT_OUT, np.int64)
        for row, (caption, draw) in enumerate(zip(captions, draws.tolist(), strict=True)):
            made = variants(caption)
            text, words = made[draw % VARIANTS] if made else ("", [])
            texts.append(text)
            missing[row, : len(words)] = [self.numbers[word] for word in words]
        return texts, missing


class Masker:
    """Word ids for a text tower that is trained, by BERT's vocabulary."""

    def __init__(self) -> None:
        vocabulary = SHIPPED.read_text(encoding="utf-8").splitlines()
        self._continues = np.array([word.startswith("##") for word in vocabulary])
        self._mask = vocabulary.index("[MASK]")

    def draw(self, ids: Keys, mask: Keys, draws: Keys) -> tuple[Keys, Keys, Keys]:
        """Ids and mask (B, L) -> ids with some hidden, places and what stood there, both (B, MOST).

        Of the hidden ones eight in ten become [MASK], one any word, one stays. The draw (B,) of a row decides
        all of it. Where there are fewer than MOST, the place is 0 and the word LEFT_OUT.
        """
        ids = ids.copy()
        places = np.zeros((len(ids), MOST), np.int64)
        missing = np.full((len(ids), MOST), LEFT_OUT, np.int64)
        for row, (length, draw) in enumerate(zip(mask.sum(axis=1).tolist(), draws.tolist(), strict=True)):
            random = np.random.default_rng(draw)
            starts = [place for place in range(1, length - 1) if not self._continues[ids[row, place]]]
            spans = zip(starts, [*starts[1:], length - 1], strict=False)  # "" has no start
            hidden = _hidden([list(range(*span)) for span in spans], random)
            places[row, : len(hidden)], missing[row, : len(hidden)] = hidden, ids[row, hidden]
            what = random.random(len(hidden))
            any_word = random.integers(len(self._continues), size=len(hidden))
            kept = np.where(what < 0.9, any_word, ids[row, hidden])
            ids[row, hidden] = np.where(what < 0.8, self._mask, kept)
        return ids, places, missing


def _hidden(words: Sequence[Sequence[int]], random: np.random.Generator) -> list[int]:
    """Which places are hidden, of words that have one or several each; ascending, [] without words."""
    pieces = sum(map(len, words))
    wanted = min(MOST, max(1, round(SHARE * pieces))) if pieces else 0
    hidden: set[int] = set()
    starts: NDArray[np.int64] = random.permutation(len(words))
    for start in starts.tolist():
        run = int(random.integers(2, 4)) if random.random() < RUNS else 1
        for word in words[start : start + run]:
            if len(hidden.union(word)) <= wanted:
                hidden.update(word)
    return sorted(hidden)
