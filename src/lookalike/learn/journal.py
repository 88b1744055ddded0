"""What a training tells on its way: a line of JSON for each epoch, and TensorBoard events."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


class Journal:
    """`epochs.jsonl` in a folder and, where tensorboardX is installed, its events.

    Made with what earlier runs told, so that a training that goes on has one journal.
    """

    def __init__(self, folder: Path, history: Sequence[Mapping[str, float]]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._file = folder / "epochs.jsonl"
        self._file.write_text("".join(json.dumps(epoch) + "\n" for epoch in history), encoding="utf-8")
        self._events = _writer(folder, len(history))

    def add(self, epoch: Mapping[str, float]) -> None:
        with self._file.open("a", encoding="utf-8") as lines:
            lines.write(json.dumps(epoch) + "\n")
        if self._events is not None:
            for name, value in epoch.items():
                if name != "epoch":
                    self._events.add_scalar(_tag(name), value, int(epoch["epoch"]))

    def close(self) -> None:
        if self._events is not None:
            self._events.close()


def _tag(name: str) -> str:
    """A name's place in TensorBoard."""
    if name == "mAP":
        return name
    return name.replace("norm ", "gradient_norm/") if name.startswith("norm ") else f"loss/{name}"


def _writer(folder: Path, done: int) -> Any:
    try:
        from tensorboardX import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(folder / "events"), purge_step=done + 1, flush_secs=5)
