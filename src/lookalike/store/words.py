"""Full-text search of a catalogue's items."""

from __future__ import annotations

import re
import sqlite3
import unicodedata

import numpy as np

from lookalike.store.filters import Filter
from lookalike.values import Floats, Keys

_MOST = 64  # words of a query; the rest is not looked at


def search(connection: sqlite3.Connection, text: str, top: int, condition: Filter) -> tuple[Keys, Floats]:
    """-> the keys of the items that have any of the words and meet the condition, and their scores.

    Both (T,), T at most `top`, best first. Words match in any of their English forms and without accents;
    BM25 ranks.
    """
    terms = list(dict.fromkeys(re.findall(r"[^\W_]+", unicodedata.normalize("NFC", text))))[:_MOST]
    if not terms:
        return np.zeros(0, np.int64), np.zeros(0, np.float32)
    found = connection.execute(
        "SELECT rowid, -rank FROM words WHERE words MATCH ?"
        f" AND +rowid IN (SELECT key FROM items WHERE {condition.sql}) ORDER BY rank, rowid LIMIT ?",
        (" OR ".join(f'"{term}"' for term in terms), *condition.parameters, top),
    ).fetchall()
    keys, scores = zip(*found, strict=True) if found else ((), ())
    return np.array(keys, np.int64), np.array(scores, np.float32)
