"""What share of a gain is kept by a cheaper way to the same end."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from lookalike.evaluation.intervals import Difference, Values, paired
from lookalike.evaluation.runs import finite

BAR = 0.9  # of the gain
GAINS = {
    "query": "query captions, through the fusion",
    "mixed": "query captions, mixed too",
    "all": "all captions",
    "own": "query captions, trained on the model's",
}


@dataclass(frozen=True, slots=True)
class Kept:
    """How much of what `told` gains over `bare` a way gains: `share` with its interval, 1 is all of it.

    nan where there is no gain to keep; an end is infinite where the draws do not bound it.
    """

    gain: Difference
    residual: Difference  # what is still to be gained on top of the way
    share: float
    low: float
    high: float

    @property
    def verdict(self) -> str:
        """Whether at least `BAR` of the gain is kept, by the whole interval."""
        if not self.gain.low > 0:
            return "no gain to keep"
        if self.low >= BAR:
            return f"at least {BAR:.0%} kept"
        return f"less than {BAR:.0%} kept" if self.high < BAR else "cannot be told"


def share_kept(
    bare: Values, told: Values, way: Values, groups: ArrayLike,
    level: float = 0.95, draws: int = 2000, seed: int = 0,
) -> Kept:  # fmt: skip
    """The share of a gain that a way keeps, by the average precision of the same queries (Q,) in each.

    The share is a ratio of means, (way - bare) / (told - bare), its interval the percentiles of a bootstrap
    that draws whole groups, numerator and denominator together (Efron and Tibshirani, An Introduction to the
    Bootstrap, chapters 10 and 13). A draw without a gain counts as both unboundedly little and much. Where
    the gain's own interval reaches 0 there is nothing to share. A query that lacks a value is left out.
    """
    gained, kept = told - bare, way - bare
    both = ~np.isnan(gained + kept)
    owners = np.asarray(groups)[both]
    gain = paired(bare[both], told[both], owners, level, draws, seed)
    residual = paired(way[both], told[both], owners, level, draws, seed)
    if not gain.low > 0:
        return Kept(gain, residual, math.nan, math.nan, math.nan)
    _, group = np.unique(owners, return_inverse=True)
    whole, part = (np.bincount(group, values[both]) for values in (gained, kept))
    drawn = np.random.default_rng(seed).integers(0, len(whole), (draws, len(whole)))
    over, under = part[drawn].sum(axis=1), whole[drawn].sum(axis=1)
    ratios = over / np.where(under > 0, under, np.nan)
    low, high = (
        float(np.quantile(np.where(under > 0, ratios, end), at, method="nearest"))
        for end, at in ((-np.inf, (1 - level) / 2), (np.inf, (1 + level) / 2))
    )
    return Kept(gain, residual, float(part.sum() / whole.sum()), low, high)


def as_json(kept: Kept) -> dict[str, Any]:
    """For JSON, without numbers that are not finite: None for a share that is not known or not bounded."""
    share, low, high = finite([kept.share, kept.low, kept.high])
    return {
        "share": share, "low": low, "high": high, "verdict": kept.verdict,
        "of": finite(asdict(kept.gain)), "residual": finite(asdict(kept.residual)),
    }  # fmt: skip


def cells(record: Mapping[str, Any]) -> dict[str, str]:
    """A row of a table from what `as_json` made, with its `way` and `gain` where these are given."""
    share, low, high = (record[name] for name in ("share", "low", "high"))
    ends = [f"{end:.0%}" if end is not None else "unbounded" for end in (low, high)]
    return {
        "way": record.get("way", ""),
        "of the gain of": GAINS.get(record.get("gain", ""), ""),
        "gain, points": points(record["of"]),
        "kept": "" if share is None else f"{share:.0%} [{', '.join(ends)}]",
        "verdict": record["verdict"],
        "left to gain, points": points(record["residual"]),
    }


def points(of: Mapping[str, Any] | None) -> str:
    """A difference of mAP with its interval, in hundredths; "" where it was not measured."""
    if of is None or of["mean"] is None:
        return ""
    if of["low"] is None:
        return f"{100 * of['mean']:+z.1f}"
    return "{:+z.1f} [{:+z.1f}, {:+z.1f}]".format(*(100 * of[name] for name in ("mean", "low", "high")))
