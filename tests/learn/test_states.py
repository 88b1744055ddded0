"""The states of captions, kept on disk."""

from pathlib import Path

import numpy as np
import pytest
import torch

from lookalike.errors import BadInput
from lookalike.learn.states import Frozen


class Counted:
    """Words as states of length 1, to see what is asked of a tower, and how often."""

    def __init__(self, fingerprint: str = "counted") -> None:
        self.fingerprint = fingerprint
        self.asked: list[str] = []

    def states(self, texts):
        self.asked += texts
        lengths = [2 + len(text.split()) for text in texts]
        states = np.zeros((len(texts), max(lengths), 1), np.float32)
        for row, length in enumerate(lengths):
            states[row, :length] = length
        return states, (np.arange(max(lengths)) < np.array(lengths)[:, None]).astype(np.int64)


def test_each_caption_is_read_once_and_padding_is_masked(tmp_path: Path) -> None:
    tower = Counted()
    texts = Frozen(tower, ["a b c", "a", "a b c", ""], tmp_path)
    assert sorted(tower.asked) == ["", "", "a", "a b c"]  # once to see how wide states are
    states, words = texts.of(["a", "", "a b c"])
    assert states.shape == (3, 5, 1) and words.sum(1).tolist() == [3, 2, 5]
    assert torch.equal(states[..., 0], words * words.sum(1, keepdim=True))


def test_what_is_on_disk_is_not_read_again(tmp_path: Path) -> None:
    first = Frozen(Counted(), ["a b c", "a"], tmp_path)
    tower = Counted()
    second = Frozen(tower, ["a", "d e f g"], tmp_path)
    assert tower.asked == ["d e f g"]
    for text in ("a b c", "a", ""):
        assert torch.equal(second.of([text])[0], first.of([text])[0])
    assert second.of(["d e f g"])[0].flatten().tolist() == [6] * 6


def test_a_killed_run_loses_the_captions_it_was_at(tmp_path: Path) -> None:
    Frozen(Counted(), ["a b c", "a"], tmp_path)
    listed = tmp_path / "states.jsonl"
    whole = listed.read_bytes()
    listed.write_bytes(whole[:-5])  # the last line is cut off, its states are there
    tower = Counted()
    texts = Frozen(tower, ["a b c", "a", "x y"], tmp_path)
    assert set(tower.asked) == {"a b c", "x y"}
    assert texts.of(["a b c"])[0].flatten().tolist() == [5] * 5
    assert texts.of(["x y"])[0].flatten().tolist() == [4] * 4


def test_another_tower_s_states_and_damage_are_refused(tmp_path: Path) -> None:
    Frozen(Counted(), ["a"], tmp_path)
    with pytest.raises(BadInput, match="another tower's"):
        Frozen(Counted("other"), ["a"], tmp_path)
    (tmp_path / "states.jsonl").write_text("nothing\n")
    with pytest.raises(BadInput, match="damaged"):
        Frozen(Counted(), ["a"], tmp_path)
