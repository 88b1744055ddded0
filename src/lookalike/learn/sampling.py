"""Which regions make a batch: P identities with K regions each, user and shop pictures mixed."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain, zip_longest

import numpy as np

from lookalike.errors import BadInput
from lookalike.values import Keys

NO_IDENTITY = -1  # of a region that takes part in no pair
_ROUNDS = 100  # of exchanging partners, until none meets its own identity


class PKSampler:
    """Batches for losses that compare regions, in the manner of Hermans et al., 2017 (arXiv 1703.07737).

    `identities` (N,) numbers what each of N regions shows, NO_IDENTITY where that is not known; `sides` (N,)
    numbers the side of the search it stands on. An identity of one region makes no pair and is left out:
    `left_out` says how many are. A batch has `p` identities of `k` regions; with `world` processes each
    draws `p`, and all of one step are different: joined in the order of `rank`, their batches are that of one
    process with `p` times `world`.

    There is no state. A batch is known by its epoch and step, so a run goes on where it stopped.
    BadInput where `p` or `k` is below 2, or there are fewer than `p` times `world` identities.
    """

    def __init__(
        self, identities: Keys, sides: Keys, p: int, k: int, seed: int, rank: int = 0, world: int = 1
    ) -> None:
        if identities.ndim != 1 or identities.shape != sides.shape or not 0 <= rank < world:
            raise ValueError(f"identities {identities.shape}, sides {sides.shape}, rank {rank} of {world}")
        if p < 2 or k < 2:
            raise BadInput(f"p = {p}, k = {k}: a batch needs at least 2 identities and 2 regions of each")
        known = np.flatnonzero(identities != NO_IDENTITY)
        order = known[np.argsort(identities[known], kind="stable")]
        members = np.split(order, np.flatnonzero(np.diff(identities[order])) + 1) if len(order) else []
        self._members = [regions for regions in members if len(regions) > 1]
        self.left_out = len(members) - len(self._members)
        if len(self._members) < p * world:
            raise _too_few(len(self._members), self.left_out, p, world)
        self._sides, self._p, self._k, self._seed = sides, p, k, seed
        self._rank, self._world = rank, world

    @property
    def identities(self) -> int:
        """How many identities are drawn from."""
        return len(self._members)

    @property
    def steps(self) -> int:
        """In an epoch: it visits every identity once, and a few a second time to fill its last step."""
        return -(-self.identities // (self._p * self._world))

    def batch(self, epoch: int, step: int) -> Keys:
        """The regions (P * K,) of a step counted from 0, K after K of one identity; see `_of_one`."""
        if not 0 <= step < self.steps:
            raise ValueError(f"step {step} of {self.steps}")
        every = np.random.default_rng([self._seed, epoch]).permutation(self.identities)
        first = (step * self._world + self._rank) * self._p
        drawn = np.take(every, np.arange(first, first + self._p), mode="wrap")
        return np.concatenate([self._of_one(int(number), epoch, step) for number in drawn])

    def batches(self, epoch: int, step: int = 0) -> Iterator[Keys]:
        """The rest of an epoch, from this step on."""
        return (self.batch(epoch, each) for each in range(step, self.steps))

    def _of_one(self, identity: int, epoch: int, step: int) -> Keys:
        """K regions (K,) of an identity, its sides in turn as long as each has regions that were not drawn.

        An identity with fewer than K regions has some of them again, each as often as the next, or once more.
        """
        random = np.random.default_rng([self._seed, epoch, step, identity])
        regions = random.permutation(self._members[identity])
        sides = random.permutation(np.unique(self._sides[regions]))
        columns = [regions[self._sides[regions] == side].tolist() for side in sides]
        mixed = [region for region in chain(*zip_longest(*columns)) if region is not None]
        return np.resize(np.array(mixed, np.int64), self._k)  # resize repeats


def _too_few(there: int, left_out: int, p: int, world: int) -> BadInput:
    wanted = f"{p} identities" if world == 1 else f"{p} identities in each of {world} processes"
    told = f"a batch of {wanted} needs {p * world:,} identities of two regions or more; there are {there:,}"
    if there >= 2 * world:
        return BadInput(told, f"take p of at most {there // world}, or more data")
    return BadInput(
        f"{told}, and {left_out:,} of a single region",
        "training needs several pictures of each product; lookalike doctor shows what a data set has",
    )


def others(identities: Keys) -> Keys:
    """The regions (N,) in an order by chance in which each meets one of another identity.

    By region, not by identity: were all regions of a product given another product's captions, these would
    still tell which regions belong together. Where one identity has half of the regions, some meet their own.
    """
    random = np.random.default_rng(0)
    order = random.permutation(len(identities))
    for _ in range(_ROUNDS):
        alike = np.flatnonzero((identities[order] == identities) & (identities != NO_IDENTITY))
        for place, partner in zip(alike, random.integers(len(order), size=len(alike)), strict=True):
            order[[place, partner]] = order[[partner, place]]
        if not len(alike):
            break
    return order
