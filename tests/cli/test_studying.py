"""`lookalike study` as a user types it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest


def test_wrong_input_is_two_lines(tmp_path: Path, refused: Callable[..., list[str]]) -> None:
    out = ["--out", tmp_path / "out"]
    (tmp_path / "data").mkdir()
    for arguments, told in (
        (["nonsense", *out], ("no study is called 'nonsense'", "captions, losses, noise")),
        (["captions", *out, "--final", "--data", tmp_path / "data"], ("final set is drawn", "--final out")),
        (["captions", *out, "--captions", tmp_path / "none.jsonl"], ("none.jsonl: cannot be read", "")),
    ):
        lines = refused("study", *arguments)
        assert 1 <= len(lines) <= 2 and lines[0].startswith("error: ") and told[0] in lines[0], lines
        assert not told[1] or (lines[1].startswith("hint: ") and told[1] in lines[1]), lines
    assert not (tmp_path / "out" / "data").exists()


WITHOUT_TORCH = """
import sys
sys.modules["torch"] = None
from lookalike.cli import main
sys.argv[0] = "lookalike"
main()
"""


@pytest.mark.parametrize("command", ["study", "train"])
def test_without_torch_the_extra_is_named(command: str, tmp_path: Path) -> None:
    arguments = {"study": ["captions"], "train": [str(tmp_path)]}[command]
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH, command, *arguments, "--out", str(tmp_path / "out")],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert "needs a package that is not installed" in done.stderr and "lookalike[train]" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 2
    assert not (tmp_path / "out").exists()
