"""Which regions of a catalogue look like one picture, and which look too unlike for one product."""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from lookalike import images
from lookalike.errors import BadInput, BadPicture
from lookalike.roles import View
from lookalike.values import Box, Floats, Keys, Region

# Cosines of efficientnet-lite2, measured on 54 real product photographs (54 products, no two the same) and
# 200 drawn garments (all different, some only in their buttons). Copies saved again as JPEG of quality 50,
# or at half the size, keep .95 in nineteen of twenty photographs, copies cut by 5 % on each side .93;
# different photographs reach .66 at most, but 38 of 19,900 pairs of drawings .95 and 10 of them .97.
SIMILAR = 0.95  # worth a look at the pixels
ALMOST = 0.97  # worth a person's look whatever the pixels say

# The largest difference of two regions shrunk to 16 x 16 cells, in levels, mean of the three colours. The
# same copies, uncut, differ by 5.3 at most (3.3 at full size), different drawings above SIMILAR by 8.3 at
# least, different photographs by 105. The largest, not the mean: a print is a few cells.
SAME_PIXELS = 6.0
_CELLS = 16

UNUSUAL = 0.05  # part of unrelated pairs that are less alike than a pair that looks wrong
SUSPECTS = 20
_UNRELATED = 4000  # pairs drawn by lot; some 200 of them lie below the bar
_ENOUGH = 50  # regions; with fewer, "less alike than most" says nothing
_MEMBERS = 200  # of one label that are compared with one another


class Thumbnails:
    """Compares regions by their pixels, on thumbnails of which the last thousands are kept."""

    def __init__(self) -> None:
        self._thumbnail = lru_cache(2000)(_thumbnail)

    def same(self, one: tuple[str, Box | None], other: tuple[str, Box | None]) -> bool:
        """Whether two regions, path and box, show one picture, maybe saved twice; unreadable ones do not."""
        a, b = self._thumbnail(*one), self._thumbnail(*other)
        return a is not None and b is not None and bool(np.abs(a - b).mean(axis=2).max() <= SAME_PIXELS)


def _thumbnail(source: str, box: Box | None) -> Floats | None:
    """(16, 16, 3), levels from 0 to 255."""
    try:
        pixels = Region(images.load(source, side=256), box).pixels
    except (BadPicture, BadInput):
        return None
    return np.asarray(Image.fromarray(pixels).resize((_CELLS, _CELLS), Image.Resampling.BOX), np.float32)


@dataclass(frozen=True, slots=True)
class Unlike:
    """Two regions of one label that look unlike each other. The second is the most alike the first has."""

    score: float
    beaten_by: float  # part of unrelated pairs that are more alike, 0 to 1
    regions: tuple[int, int]  # keys


def unlike(
    view: View,
    labels: Keys,
    asks: NDArray[np.bool_] | None = None,
    answers: NDArray[np.bool_] | None = None,
) -> list[Unlike]:
    """The regions least like all others of their label, `SUSPECTS` at most, the most unlike first.

    `labels` (N,) go with `view.keys`; -1 is none. Only a region that asks is compared with one that answers
    (N,), by default all with all. A region is a suspect if its nearest of that label is less like it than
    all but `UNUSUAL` of unrelated pairs. None where the gallery is too small to say.
    """
    unrelated = _unrelated(view, labels)
    if len(unrelated) == 0:
        return []
    everything = np.ones(view.size, bool)
    asks, answers = (everything if some is None else some for some in (asks, answers))
    bar = np.quantile(unrelated, UNUSUAL)
    found: dict[tuple[int, int], float] = {}
    for members in _by_label(labels):
        keys = view.keys[members]
        vectors = view.vectors(keys)
        compared = asks[members][:, None] & answers[members]
        compared |= compared.T
        np.fill_diagonal(compared, False)
        alike = np.where(compared, vectors @ vectors.T, -np.inf)
        nearest = alike.argmax(axis=1)
        scores = alike[np.arange(len(members)), nearest]
        for place in np.flatnonzero((scores < bar) & compared.any(axis=1)):
            pair = keys[place], keys[nearest[place]]
            if pair[::-1] not in found:
                found[pair] = float(scores[place])
    return [
        Unlike(
            score, 1 - float(np.searchsorted(unrelated, score, "right")) / len(unrelated), (int(a), int(b))
        )
        for (a, b), score in heapq.nsmallest(SUSPECTS, found.items(), key=lambda entry: entry[1])
    ]


def _unrelated(view: View, labels: Keys) -> Floats:
    """Scores of pairs drawn by lot that share no label, ascending; none in a small gallery."""
    if view.size < _ENOUGH:
        return np.zeros(0, np.float32)
    one, other = np.random.default_rng(0).integers(view.size, size=(2, _UNRELATED))
    apart = (one != other) & ((labels[one] != labels[other]) | (labels[one] < 0))
    pairs = (view.vectors(view.keys[some[apart]]) for some in (one, other))
    scores = np.einsum("pd,pd->p", *pairs)
    scores.sort()
    return np.asarray(scores, np.float32)


def _by_label(labels: Keys) -> Iterator[Keys]:
    """The places of each label that occurs twice or oftener, the first `_MEMBERS` of them."""
    order = np.argsort(labels, kind="stable")
    for places in np.split(order, np.flatnonzero(np.diff(labels[order])) + 1):
        if len(places) > 1 and labels[places[0]] >= 0:
            yield places[:_MEMBERS]
