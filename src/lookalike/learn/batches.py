"""The batches of a training: which regions, in which view, with which captions.

All that is drawn follows from the recipe's seed, the epoch and the batch's number.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from lookalike.learn.masking import Cloze, Masker
from lookalike.learn.objective import Batch, Blanks
from lookalike.learn.recipes import Recipe
from lookalike.learn.sampling import NO_IDENTITY, PKSampler
from lookalike.learn.sources import Source, Texts
from lookalike.values import Floats, Keys

_DRAWN, _SHUFFLED = 0, 2  # random streams of the recipe's seed


class Steps(Dataset[Batch]):
    """Batches by epoch and number, prepared here or in another process."""

    def __init__(self, source: Source, texts: Texts, recipe: Recipe, rank: int, world: int) -> None:
        self._source, self._texts, self._recipe = source, texts, recipe
        self._rank, self._world = rank, world
        known = source.identities != NO_IDENTITY
        names, labels = np.unique(source.identities[known], return_inverse=True)
        self.identities = len(names)
        self._labels = np.full(len(known), NO_IDENTITY, np.int64)
        self._labels[known] = labels
        self._sampler = PKSampler(self._labels, source.sides, recipe.p, recipe.k, recipe.seed, rank, world)
        self.batches = self._sampler.steps
        self._whose = self._own_or_shuffled()
        self._blanker = self._blanked() if recipe.mlm else None

    @property
    def missing(self) -> int:
        """How many words `mlm` chooses from where the text tower is frozen."""
        return len(self._blanker.numbers) if isinstance(self._blanker, Cloze) else 0

    def __getitem__(self, place: tuple[int, int]) -> Batch:
        epoch, step = place
        random = np.random.default_rng([self._recipe.seed, _DRAWN, epoch, step])
        regions = self._sampler.batch(epoch, step)
        # Drawn for the batches of all processes, of which this one takes its own.
        shape = self._world, len(regions)
        draws = random.integers(1 << 62, size=shape)[self._rank]
        chosen, kept = random.random((2, *shape))[:, self._rank]
        captions = [self._caption(*one) for one in zip(regions.tolist(), chosen.tolist(), strict=True)]
        swapped, blanked = random.random(shape)[self._rank], random.integers(1 << 62, size=shape)[self._rank]
        told = kept >= self._recipe.caption_dropout
        given = self._given(captions, self._labels[regions], swapped) if self._recipe.wrong else None
        looked = self._source.look(regions, draws)
        text, words = self._texts.of([*captions, ""])
        captioned = torch.tensor([bool(caption) for caption in captions])
        return Batch(
            image=looked.image, region=looked.region, boxes=looked.boxes, text=text, words=words,
            told=torch.from_numpy(told) & captioned, captioned=captioned,
            labels=torch.from_numpy(self._labels[regions]), given=given,
            blanks=self._blanks(captions, blanked),
        )  # fmt: skip

    def _given(self, captions: Sequence[str], labels: Keys, swapped: Floats) -> Tensor:
        """Whose caption the fusion is given, by numbers (B,) from 0 to below 1: (B,) rows of the batch.

        Below the recipe's `wrong` it is one of another identity that reads otherwise, if there is one.
        """
        rows, wrong = np.arange(len(labels)), self._recipe.wrong
        said = np.array(captions, object)
        for row in np.flatnonzero(swapped < wrong).tolist():
            others = np.flatnonzero((labels != labels[row]) & (said != "") & (said != said[row]))
            if len(others):
                rows[row] = others[int(swapped[row] / wrong * len(others))]
        return torch.from_numpy(rows)

    def _blanked(self) -> Cloze | Masker:
        """What leaves words out: of texts where the tower is frozen, of ids where it is trained."""
        if not self._texts.of([""])[0].is_floating_point():
            return Masker()
        return Cloze.of(text for region in self._source.regions for text in region.captions)

    def _blanks(self, captions: Sequence[str], draws: Keys) -> Blanks | None:
        if self._blanker is None:
            return None
        if isinstance(self._blanker, Cloze):
            left, missing = self._blanker.draw(captions, draws)
            text, words = self._texts.of(left)
            places = np.zeros_like(missing)
        else:
            text, words = self._texts.of(captions)
            ids, places, missing = self._blanker.draw(text.numpy(), words.numpy(), draws)
            text = torch.from_numpy(ids)
        return Blanks(text, words, torch.from_numpy(missing), torch.from_numpy(places))

    def _caption(self, region: int, chosen: float) -> str:
        """One of the region's captions, by a number from 0 to below 1; "" where it has none."""
        told = self._source.regions[self._whose[region]].captions
        return told[int(chosen * len(told))] if told else ""

    def _own_or_shuffled(self) -> Keys:
        """Whose captions each region (N,) has: its own, or those of a region of another identity."""
        own = np.arange(len(self._labels))
        if not self._recipe.shuffled:
            return own
        random = np.random.default_rng([self._recipe.seed, _SHUFFLED])
        order = random.permutation(self.identities)
        other = np.empty_like(order)
        other[order] = np.roll(order, 1)  # never the same
        members = [np.flatnonzero(self._labels == label) for label in range(self.identities)]
        for place in np.flatnonzero(self._labels != NO_IDENTITY):
            own[place] = random.choice(members[other[self._labels[place]]])
        return own
