"""Retrieval metrics on one ranking. Pure numpy, float64, no other row needed.

A ranking is `relevant` (N,) bool: whether the gallery item at rank 1, 2, … N is a right answer.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def average_precision(relevant: NDArray[np.bool_], total: int | None = None) -> float:
    """Plain (non-interpolated) average precision, 0 to 1: the mean of precision at every right answer.

    `total` is the number of right answers in the gallery; missing ones count as precision 0. Without it
    the ranking is taken as complete. No right answer at all gives nan: leave such queries out of the mean.
    """
    found = np.flatnonzero(relevant)
    right = len(found) if total is None else total
    if right == 0:
        return float("nan")
    return float(((np.arange(len(found)) + 1) / (found + 1)).sum() / right)


def recall_at(relevant: NDArray[np.bool_], k: int) -> float:
    """1 where a right answer is among the first k, else 0: the field's hit rate R@k."""
    return float(np.asarray(relevant)[:k].any())
