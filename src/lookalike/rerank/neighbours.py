"""What every re-ranker starts with: descriptors that can be compared, and the nearest ones."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike

from lookalike.errors import BadInput
from lookalike.values import Floats, Keys

BLOCK = 1 << 22  # scores held at once: 16 MB in float32


def finite(descriptors: ArrayLike) -> Floats:
    """The descriptors (..., D) as float32, or float64 where they are; BadInput for NaN and infinity."""
    rows = np.asarray(descriptors)
    rows = rows.astype(np.result_type(rows, np.float32), copy=False)
    if not math.isfinite(np.vdot(rows, rows)):
        raise BadInput(
            "descriptors to re-rank hold numbers that are not finite",
            "look for the fault in the encoder that made them",
        )
    return rows


def largest(scores: Floats, take: int) -> Keys:
    """Columns of the `take` largest of each row, ascending: (R, N) -> (R, take), take <= N.

    Of equal scores the first columns are taken.
    """
    if take == 0:
        return np.zeros((len(scores), 0), np.int64)
    # Partitioning values and looking the columns up takes a third of the time of argpartition.
    least = np.partition(scores, -take, axis=1)[:, -take]
    chosen = scores >= least[:, None]
    columns = np.nonzero(chosen)[1]
    if len(columns) > len(scores) * take:  # in some rows more than one entry equals the least
        tied = np.flatnonzero(chosen.sum(axis=1) > take)
        order = np.argsort(-scores[tied], axis=1, kind="stable")
        chosen[tied] = False
        chosen[tied[:, None], order[:, :take]] = True
        columns = np.nonzero(chosen)[1]
    return columns.reshape(len(scores), take)
