"""What tests of studies look at: the parts of the small drawn set, and whose captions of them."""

from __future__ import annotations

from collections.abc import Mapping

from lookalike.datasets import Dataset
from lookalike.values import Progress

PARTS = ("training", "tuning", "validation")
SOURCES = {
    "training": ["annotation", "palette"],
    "tuning": ["annotation", "palette"],
    "validation": ["annotation", "oracle-0.0", "oracle-1.0", "palette", "palette unchecked", "shuffled"],
}


def silent(what: str) -> Progress:
    return lambda done, total: None


def splits(dataset: Dataset) -> Mapping[str, tuple[Dataset, str]]:
    return {part: (dataset, part) for part in PARTS}
