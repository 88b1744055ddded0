"""How sure a mean over queries is, and whether one system is really better than another.

Queries of one group (DeepFashion2's pair_id) resemble each other, so whole groups are drawn, not queries.
Everywhere `values` (Q,) are one measure of each query, nan where it has no value (no right answer): such
queries are left out. `groups` (Q,) says what each query belongs to. Same arguments, same answer: the draws
come from `seed`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lookalike.errors import BadInput

Values = NDArray[np.float64]

DRAWN = 1 << 20  # groups drawn at a time: 8 MB


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean over `n` queries in `groups` groups with its confidence interval."""

    mean: float
    low: float
    high: float
    n: int
    groups: int


@dataclass(frozen=True, slots=True)
class Difference:
    """The mean of b - a over `n` queries in `groups` groups, its interval, and p for "there is none"."""

    mean: float
    low: float
    high: float
    p: float
    n: int
    groups: int


def mean_interval(
    values: ArrayLike, groups: ArrayLike, level: float = 0.95, draws: int = 2000, seed: int = 0
) -> Interval:
    """The mean of `values` (Q,) with the percentile interval of a bootstrap over groups.

    As many groups as there are, drawn with replacement, give one mean: the ratio of the sum of their values
    to their number of queries. Efron and Tibshirani, An Introduction to the Bootstrap, chapter 13; for
    clusters Field and Welsh, JRSS B 2007. With fewer than some thirty groups the interval is too narrow;
    fewer than two tell nothing: low and high are nan. Without any value the mean is nan too.
    """
    sums, counts = _per_group(values, groups)
    low, high = _bounds(sums, counts, level, draws, np.random.default_rng(seed))
    n = int(counts.sum())
    return Interval(float(sums.sum() / n) if n else math.nan, low, high, n, len(sums))


def paired(
    a: ArrayLike, b: ArrayLike, groups: ArrayLike, level: float = 0.95, draws: int = 2000, seed: int = 0
) -> Difference:
    """How much better system b is than a on the same queries, (Q,) each: positive where b is better.

    A query that has no value in either is left out of both. The interval is `mean_interval`'s, of the
    differences. p is two-sided, from a randomisation test that exchanges a and b in whole groups: the share
    of random sign flips of the groups' sums that differ from 0 at least as much, with the flips made plus
    the one observed (Phipson and Smyth, 2010), so that it is at least 1 / (draws + 1). Smucker et al.,
    CIKM 2007, show the test for retrieval. 1 where a and b are the same; nan without any value.
    """
    first, second = np.asarray(a, np.float64), np.asarray(b, np.float64)
    if first.shape != second.shape:
        raise BadInput(
            f"{first.size} values of one system and {second.size} of the other: needs the same queries"
        )
    sums, counts = _per_group(second - first, groups)
    random = np.random.default_rng(seed)
    low, high = _bounds(sums, counts, level, draws, random)
    n = int(counts.sum())
    if n == 0:
        return Difference(math.nan, low, high, math.nan, 0, 0)
    observed = abs(sums.sum()) - 1e-12 * np.abs(sums).sum()  # rounding must not decide what is as large
    as_large = 0
    for size in _blocks(draws, len(sums)):
        signs = random.integers(0, 2, (size, len(sums))) * 2.0 - 1
        as_large += int(np.count_nonzero(np.abs(signs @ sums) >= observed))
    return Difference(float(sums.sum() / n), low, high, (as_large + 1) / (draws + 1), n, len(sums))


def holm(p_values: ArrayLike) -> Values:
    """p-values (C,) of C comparisons, adjusted for their number, in the same order; none above 1.

    Holm, Scandinavian Journal of Statistics 1979: where only those below .05 are believed, the chance of
    one false belief or more is below .05. The smallest is multiplied by C, the next by C - 1, …, and none
    ends below a smaller one: (.01, .04, .03) becomes (.03, .06, .06). BadInput for what is no probability.
    """
    given = np.asarray(p_values, np.float64)
    if not ((given >= 0) & (given <= 1)).all():
        raise BadInput(f"p-values {given}: needs numbers from 0 to 1")
    order = np.argsort(given, kind="stable")
    adjusted = np.empty_like(given)
    factors = np.arange(len(given), 0, -1)
    adjusted[order] = np.minimum(np.maximum.accumulate(given[order] * factors), 1)
    return adjusted


def sliced(
    values: ArrayLike,
    groups: ArrayLike,
    labels: ArrayLike,
    level: float = 0.95,
    draws: int = 2000,
    seed: int = 0,
) -> dict[str, Interval]:
    """`mean_interval` of each slice: {label: Interval}, labels (Q,) of text in alphabetical order."""
    measured, owners, names = np.asarray(values, np.float64), np.asarray(groups), np.asarray(labels, str)
    if names.shape != measured.shape or owners.shape != measured.shape:
        raise BadInput(f"{measured.size} values, {owners.size} groups, {names.size} labels: needs one each")
    return {
        str(name): mean_interval(measured[names == name], owners[names == name], level, draws, seed)
        for name in np.unique(names)
    }


def _per_group(values: ArrayLike, groups: ArrayLike) -> tuple[Values, Values]:
    """The sum of the values and the number of queries of each group, (G,) each, without nan."""
    measured, owners = np.asarray(values, np.float64), np.asarray(groups)
    if measured.ndim != 1 or measured.shape != owners.shape:
        raise BadInput(f"{measured.size} values and {owners.size} groups: needs one group for each value")
    told = ~np.isnan(measured)
    _, group = np.unique(owners[told], return_inverse=True)
    sums = np.bincount(group, measured[told]).astype(np.float64)
    return sums, np.bincount(group).astype(np.float64)


def _bounds(
    sums: Values, counts: Values, level: float, draws: int, random: np.random.Generator
) -> tuple[float, float]:
    """The middle `level` of the means that drawing the groups again gives."""
    if not (0 < level < 1 and draws > 0):
        raise BadInput(f"level {level:g}, draws {draws}: needs a level between 0 and 1 and at least one draw")
    if len(sums) < 2:
        return math.nan, math.nan
    means: list[NDArray[Any]] = []
    for size in _blocks(draws, len(sums)):
        drawn = random.integers(0, len(sums), (size, len(sums)))
        means.append(sums[drawn].sum(axis=1) / counts[drawn].sum(axis=1))
    low, high = np.quantile(np.concatenate(means), [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def _blocks(draws: int, groups: int) -> Iterator[int]:
    """How many draws to make at a time."""
    size = max(1, DRAWN // groups)
    for start in range(0, draws, size):
        yield min(size, draws - start)
