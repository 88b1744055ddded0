"""Which captions a trained model believes: the guards that a study compares.

The list, fixed before anything was measured:

    ""         none: every caption is believed
    "claims"   claim by claim, by the model's agreement with each: what `captions.Guarded` does
    "caption"  the whole caption, by its agreement; a disbelieved one becomes the empty one
    "source"   the same, and besides the source as a whole: where more of its captions seem to be wrong than
               captions can bear and still pay, none is believed
    "weight"   every caption, its effect scaled by the chance that it is right, where one in two is

and one that trials on the tuning part suggested:

    "chance"   the same, where as many are right as its source seems to have right

Agreement is the cosine of language part and text embedding. What it means is found out on the tuning part,
with the annotation's captions and with those of another identity (`Tuned`). Of the searched part a guard
sees pictures and captions, and no label.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from lookalike.captions import Vocabulary
from lookalike.errors import unknown_name
from lookalike.evaluation.metrics import Ranks
from lookalike.learn.models.adapted import Adapted
from lookalike.learn.sampling import others
from lookalike.learn.scoring import Described, described, embedded, ranked
from lookalike.learn.sources import Source
from lookalike.study.material import Material
from lookalike.trust import UNKNOWN, Trust
from lookalike.values import Claim, Floats, unit

GUARDS = ("", "claims", "caption", "source", "weight", "chance")
WEIGHING = ("weight", "chance")  # of the guards: they scale what a caption does
PLACES = ("gallery", "queries")
RATES = (0.0, 0.1, 0.25, 0.5, 0.75, 1.0)  # of wrong captions: what is tried on the tuning part
_KEPT = 0.95  # of right captions: believed
_DRAWS = 4  # of which captions are the wrong ones


@dataclass(frozen=True, slots=True)
class Tuned:
    """What a model's agreement with captions means, by captions known to be right or another identity's."""

    trust: Trust
    threshold: float  # 95 % of right captions agree as much or more
    refused: float  # share of another's captions below it
    pays: Mapping[str, float]  # by place: the share of wrong captions up to which captions bring anything


class Guarding:
    """A model that looks at captions of one part of the material, with one guard or the other.

    `bare` is what the model makes of the part without captions; `threshold` is the agreement that a sentence
    needs, as a trained model keeps it, for "claims".
    """

    def __init__(
        self, model: Adapted, material: Material, part: str, bare: Described, threshold: float | None = None
    ) -> None:
        self._model, self._material, self._part, self._bare = model, material, part, bare
        self._threshold = -1.0 if threshold is None else threshold

    @cached_property
    def tuned(self) -> Tuned:
        return tuned(self._model, self._material)

    def looked(self, guard: str, source: str, place: str = "gallery") -> tuple[Described, Floats]:
        """The part's regions with a source's captions as far as they are believed, and how far that is.

        Described, and trust (N,), 0 to 1.
        """
        said = self.believed(guard, source, place)
        trust = np.array([bool(caption) for caption in said], np.float32)
        if not trust.any():
            return self._bare, trust
        found = described(self._model, self._material.parts[self._part], self._material.texts, said)
        if guard in WEIGHING:  # the language part comes from the picture alone
            wrong = self.share(source) if guard == "chance" else UNKNOWN
            trust *= self.tuned.trust.chance(self.agreements(said), wrong)
            chance = trust[:, None]
            mixed = unit(chance * found.identity + (1 - chance) * self._bare.identity)
            found = replace(found, identity=mixed)
        return found, trust

    def believed(self, guard: str, source: str, place: str = "gallery") -> list[str]:
        """A source's captions of the part's regions (N,), "" where they are not believed.

        `place` is where they are used: captions bear more that is wrong at the query, where the gallery has
        right ones, than in a gallery that is asked with bare pictures.
        """
        if guard not in GUARDS:
            raise unknown_name("guard", guard, GUARDS)
        said = self._material.one_each(source, self._part)
        if guard in ("", *WEIGHING):
            return said
        if guard == "claims":
            return self._by_claim(said)
        agreements = self.agreements(said)
        if guard == "source" and self.share(source) > self.tuned.pays[place]:
            return [""] * len(said)
        return [
            caption if agreement >= self.tuned.threshold else ""
            for caption, agreement in zip(said, agreements.tolist(), strict=True)
        ]

    def share(self, source: str) -> float:
        """How many of a source's captions of the part seem to be wrong, 0 to 1."""
        said = self._material.one_each(source, self._part)
        return self.tuned.trust.share(self.agreements(said)[[bool(caption) for caption in said]])

    def agreements(self, said: Sequence[str]) -> Floats:
        """How far the part's regions agree with a caption each (N,), -1 to 1."""
        told = embedded(self._model, self._material.texts, said)
        return np.asarray((self._bare.language * told).sum(axis=1), np.float32)

    def _by_claim(self, said: Sequence[str]) -> list[str]:
        vocabulary = Vocabulary.open("fashion")
        heard = {caption: _claims(vocabulary, caption) for caption in set(said)}
        texts = sorted({claim.text for claims in heard.values() for claim in claims})
        rows = dict(zip(texts, embedded(self._model, self._material.texts, texts), strict=True))
        believed = []
        for seen, caption in zip(self._bare.language, said, strict=True):
            kept = [claim for claim in heard[caption] if float(seen @ rows[claim.text]) >= self._threshold]
            whole = len(kept) == len(heard[caption])
            believed.append(caption if whole else vocabulary.rendered(kept))
        return believed


def tuned(model: Adapted, material: Material) -> Tuned:
    """What the annotation's captions of the tuning part tell of a model's agreement, and when captions pay.

    Of the tuning part's captions ever more are swapped for another identity's, and "caption" guards them.
    Captions pay up to the share where mAP falls below that without them: in the gallery against bare
    pictures, at the query in a gallery with right captions against bare queries there. Where the tuning part
    has no captions, none is believed.
    """
    source, texts = material.parts["tuning"], material.texts
    said = [
        region.captions[len(region.captions) // 2] if region.captions else "" for region in source.regions
    ]
    swapped = [said[place] for place in others(source.identities).tolist()]
    bare, right, wrong = (described(model, source, texts, each) for each in (None, said, swapped))
    own, other = ((each.language * each.text).sum(axis=1) for each in (right, wrong))
    there = np.array([bool(one and another) for one, another in zip(said, swapped, strict=True)])
    if not there.any():
        return Tuned(Trust(0.0, 0.0, 0.0), 1.0, 1.0, dict.fromkeys(PLACES, -1.0))
    threshold = float(np.quantile(own[there], 1 - _KEPT))
    without = bare.descriptors(model.language)
    told = [
        np.where((agreements >= threshold)[:, None], each.descriptors(model.language), without)
        for each, agreements in ((right, own), (wrong, other))
    ]
    return Tuned(
        Trust.of(own[there], other[there]),
        threshold,
        float((other[there] < threshold).mean()),
        dict(zip(PLACES, _pays(source, without, *told), strict=True)),
    )


def _pays(source: Source, bare: Floats, right: Floats, wrong: Floats) -> tuple[float, float]:
    """The share of wrong captions that they may have in the gallery, and at the query.

    All regions described (N, D) without captions, with their own, and with another's.
    """
    chances = np.random.default_rng(0).random((_DRAWS, len(bare), 1))
    gains: tuple[list[float], list[float]] = ([], [])
    base = _map(source, bare, bare), _map(source, bare, right)
    for rate in RATES:
        mixes = [np.where(chance < rate, wrong, right) for chance in chances[: None if 0 < rate < 1 else 1]]
        gains[0].append(float(np.mean([_map(source, bare, mixed) for mixed in mixes])) - base[0])
        gains[1].append(float(np.mean([_map(source, mixed, right) for mixed in mixes])) - base[1])
    return crossing(RATES, gains[0]), crossing(RATES, gains[1])


def crossing(rates: Sequence[float], gains: Sequence[float]) -> float:
    """Where gains, by ascending rates, first fall below 0, on a straight line between two rates.

    -1 where the first is below 0 already, so that no share is small enough; the last rate where none is.
    """
    if gains[0] < 0:
        return -1.0
    for place in range(1, len(rates)):
        before, after = gains[place - 1], gains[place]
        if after < 0:
            return rates[place - 1] + (rates[place] - rates[place - 1]) * before / (before - after)
    return rates[-1]


def _map(source: Source, asked: Floats, searched: Floats) -> float:
    ranks: list[Ranks] = ranked(source, asked, searched)
    return float(np.nanmean([each.average_precision() for each in ranks]))


def _claims(vocabulary: Vocabulary, caption: str) -> tuple[Claim, ...]:
    """A caption's claims, in the words that captioners claim them in."""
    values: dict[str, list[str]] = {}
    for claim in vocabulary.heard(caption):
        if claim.attribute:
            values.setdefault(claim.attribute, []).append(claim.value)
    return vocabulary.claims(values)
