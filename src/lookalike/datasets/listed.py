"""What a listing consists of."""

from __future__ import annotations

import os
from dataclasses import dataclass, field

from lookalike.values import Box, Item

PICTURES = frozenset({".jpg", ".jpeg", ".jfif", ".mpo", ".png", ".webp", ".heic", ".heif"})


@dataclass(frozen=True, slots=True)
class Listed:
    """A picture to index. `source` is its absolute path, odd bytes kept as surrogates, or its URI."""

    item: Item
    source: str
    box: Box | None = None
    row: int = field(default=0, compare=False)  # of the table; 0: not from one


@dataclass(frozen=True, slots=True)
class Unlisted:
    """A row of the table, or a folder, `source` that cannot be listed, and why in one line."""

    source: str
    error: str


def name_as_text(name: str) -> str:
    """A file name as it may be stored: bytes that are not UTF-8 are written as \\xff."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def named_like_picture(name: str) -> bool:
    return name[name.rfind(".") :].lower() in PICTURES
