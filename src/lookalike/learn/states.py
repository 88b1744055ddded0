"""The states of captions in a frozen text tower, made once for each caption and kept on disk.

states.f16     (words of all captions, width) float16, one caption's after the other's
states.jsonl   first the tower and its width, then each caption with its number of words
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from filelock import FileLock
from torch import Tensor, nn

from lookalike.errors import BadInput
from lookalike.values import Floats, Keys, Progress

_AT_ONCE = 64


class TextTower(Protocol):
    @property
    def fingerprint(self) -> str: ...
    def states(self, texts: Sequence[str]) -> tuple[Floats, Keys]:
        """(B,) texts -> states (B, L, Dt) and mask (B, L); "" is a text."""


class Frozen:
    """The states of texts, the empty one among them. What `folder` lacks is made and added to it.

    Processes may share a folder. BadInput where it holds another tower's states, or is damaged.
    """

    def __init__(
        self, tower: TextTower, texts: Iterable[str], folder: Path, on_progress: Progress | None = None
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._tower, self._folder = tower, folder
        self.add(["", *texts], on_progress)

    def add(self, texts: Iterable[str], on_progress: Progress | None = None) -> None:
        with FileLock(self._folder / ".lock"):
            self._places, width = _listed(self._folder / "states.jsonl", self._tower)
            lacking = sorted(set(texts) - self._places.keys(), key=len)  # alike in length: little padding
            if lacking:
                self._make(lacking, on_progress)
        self._states = np.memmap(
            self._folder / "states.f16", np.float16, "r", shape=(_words(self._places), width)
        )

    def of(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        if any(text not in self._places for text in texts):
            self.add(texts)
        places = [self._places[text] for text in texts]
        rows = [
            torch.from_numpy(self._states[start : start + words].astype(np.float32))
            for start, words in places
        ]
        lengths = torch.tensor([words for _, words in places])
        states = nn.utils.rnn.pad_sequence(rows, batch_first=True)
        return states, (torch.arange(states.shape[1]) < lengths[:, None]).long()

    def _make(self, texts: Sequence[str], on_progress: Progress | None) -> None:
        arrays = self._folder / "states.f16"
        arrays.touch()
        end = _words(self._places)
        with arrays.open("r+b") as out, (self._folder / "states.jsonl").open("a", encoding="utf-8") as lines:
            for start in range(0, len(texts), _AT_ONCE):
                if on_progress:
                    on_progress(start, len(texts))
                said = texts[start : start + _AT_ONCE]
                states, mask = self._tower.states(said)
                out.seek(end * states.shape[2] * 2)  # over what a crash left without its line
                for text, row, words in zip(said, states, mask.sum(axis=1).tolist(), strict=True):
                    out.write(row[:words].astype(np.float16).tobytes())
                    self._places[text] = end, words
                    end += words
                out.flush()
                lines.writelines(json.dumps([text, self._places[text][1]]) + "\n" for text in said)
                lines.flush()


def _listed(file: Path, tower: TextTower) -> tuple[dict[str, tuple[int, int]], int]:
    """Where each caption's states begin and how many there are; and their width."""
    if not file.exists():
        width = tower.states([""])[0].shape[2]
        file.write_text(json.dumps([tower.fingerprint, width]) + "\n", encoding="utf-8")
    places: dict[str, tuple[int, int]] = {}
    try:
        lines = file.read_bytes().split(b"\n")
        if lines.pop():  # cut off by a crash
            whole = b"\n".join([*lines, b""])
            file.write_bytes(whole)
        fingerprint, width = json.loads(lines[0])
        end = 0
        for text, words in map(json.loads, lines[1:]):
            places[text] = end, words
            end += words
    except (OSError, ValueError, IndexError) as error:
        raise BadInput(f"{file} is damaged: {error}", "delete the folder: it only costs time") from error
    if fingerprint != tower.fingerprint:
        raise BadInput(f"{file.parent} holds another tower's states", "name another folder, or delete it")
    return places, width


def _words(places: dict[str, tuple[int, int]]) -> int:
    return sum(words for _, words in places.values())
