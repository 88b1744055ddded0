"""What captions say, held against an annotation; what checking makes of it; what the asking costs.

A claim about an annotated attribute is right where it names the value annotated, or one of several. It is
false where it names another, and where the garment lacks what others of the data set are annotated with.
Claims about anything else are not judged. A failed caption says nothing, and that counts.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Self, get_args

import numpy as np

from lookalike import images
from lookalike.captions import Record, Unread, Vocabulary, checking, records
from lookalike.captions.captioner import worded
from lookalike.captions.chat import Status, Step
from lookalike.datasets import Dataset, Labelled, Listed, Unlisted
from lookalike.errors import BadInput
from lookalike.evaluation.intervals import Interval, mean_interval
from lookalike.roles import Captioner, Encoder
from lookalike.values import Caption, Claim, Item, Progress, Region

LEAST = 0.5  # the support from which a check alone lets a claim through


@dataclass(frozen=True, slots=True)
class Sample:
    """Regions to caption. `attributes` are judged: annotated on any of them, and in the vocabulary."""

    regions: tuple[Labelled, ...]
    vocabulary: Vocabulary
    attributes: tuple[str, ...]
    left_out: int = 0  # that the data set lists and that cannot be used

    @classmethod
    def of(
        cls,
        dataset: Dataset,
        split: str,
        vocabulary: Vocabulary,
        first: int | None = None,
        seed: int | None = None,
    ) -> Self:
        """The first regions of a split, None for all; with a `seed` so many drawn from all of them.

        BadInput where nothing of the vocabulary is annotated.
        """
        read = list(dataset.read(split))
        regions = [entry for entry in read if not isinstance(entry, Unlisted)]
        left_out = len(read) - len(regions)
        if seed is not None and first is not None and first < len(regions):
            drawn = np.random.default_rng(seed).choice(len(regions), first, replace=False)
            regions = [regions[place] for place in sorted(drawn)]
        regions = regions[:first]
        annotated = {name for region in regions for name in truth(region)}
        known = tuple(each.name for each in vocabulary.attributes if each.name in annotated)
        if not known:
            raise BadInput(
                f"{split} annotates nothing that the vocabulary {vocabulary.name!r} knows",
                f"name another vocabulary, or attributes as it does: "
                f"{', '.join(each.name for each in vocabulary.attributes)}",
            )
        return cls(tuple(regions), vocabulary, known, left_out)

    @property
    def pictures(self) -> int:
        return len({region.source for region in self.regions})


@dataclass(frozen=True, slots=True)
class Said:
    """How much of the annotated attributes is claimed, and how much of the claims about them is right.

    For all claims, and for those believed. Intervals resample pictures.
    """

    coverage: Interval
    accuracy: Interval
    believed_coverage: Interval
    believed_accuracy: Interval


@dataclass(frozen=True, slots=True)
class Check:
    """What a check, alone or "all" together, does to the claims that are judged.

    The share of the false claims that it lets through and of the true ones that it holds back: of all, where
    one in which it has no say passes, and of those in which it has one.
    """

    name: str
    asked: int  # claims in which it has a say
    false_passed: Interval
    true_stopped: Interval
    asked_false_passed: Interval
    asked_true_stopped: Interval


@dataclass(frozen=True, slots=True)
class Cost:
    """What captions cost, a caption in the mean.

    An answer out of the cache counts as what it cost when it was given, so that a run costs the same again;
    `made` tells how many calls there really were. The seconds are of captions for which nothing came out of
    the cache, while others were under way; nan where there is none. `all_s` is the whole run's, nan where
    answers of earlier runs helped.
    """

    calls: float
    tokens_in: float
    tokens_out: float
    made: int
    cached: int
    timed: int  # captions, for the two that follow
    p50_s: float
    p95_s: float
    first_s: float  # a call's first token, in the median; nan where replies were not streamed
    all_s: float


@dataclass(frozen=True, slots=True)
class Measured:
    """What came of captioning a sample."""

    by: str  # the captioner's name
    captions: int  # asked for, failed ones too
    failed: Mapping[str, int]  # captions that could not be had, by status; "unread": the picture
    faults: Mapping[str, int]  # replies of no use, by status, repaired or not
    claims: float  # a caption, about whatever
    believed: float
    said: Said
    by_attribute: Mapping[str, Said]
    checks: tuple[Check, ...]  # "all" first
    true_confidence: float  # the mean of claims that are right; nan where there is none
    false_confidence: float
    cost: Cost

    def as_json(self) -> dict[str, Any]:
        document: dict[str, Any] = _plain(asdict(self))
        return document


def measure(
    sample: Sample,
    captioner: Captioner,
    width: int = 8,
    encoder: Encoder | None = None,
    on_progress: Progress | None = None,
    on_record: Callable[[Record], None] | None = None,
) -> Measured:
    """Caption a sample, `width` regions at a time, and hold what is said against the annotation.

    Where a caption has text and no claims, its text is heard by the vocabulary. An `encoder` with a guard is
    one more check; BadInput for one that has none. `on_record` gets each caption as it was judged.
    """
    if encoder is not None and None in (getattr(encoder, name, None) for name in ("agreement", "guard")):
        raise BadInput(f"{encoder.name} has no guard: it cannot check captions", "try --encoder compact")
    by_id = {region.id: region for region in sample.regions}
    listed = [
        Listed(Item(region.id), str(Path(region.source).absolute()), region.box) for region in sample.regions
    ]
    tally = _Tally(sample)
    with closing(records(listed, captioner, width)) as run:
        for done, record in enumerate(run, start=1):
            if isinstance(record, Unread):
                tally.failed["unread"] += 1
            else:
                record = replace(record, caption=_judgeable(record, sample.vocabulary, encoder))
                tally.note(record, by_id[record.item])
                if on_record is not None:
                    on_record(record)
            if on_progress is not None:
                on_progress(done, len(listed))
    return tally.measured(captioner.name)


def truth(region: Labelled) -> dict[str, frozenset[str]]:
    """What is annotated, by the names that vocabularies use; several values where a table has "a, b"."""
    told = {"category": region.category, **region.attributes}
    return {name.replace(" ", "_"): frozenset(value.split(", ")) for name, value in told.items() if value}


@dataclass(frozen=True, slots=True)
class _Judged:
    """One claim about an annotated attribute."""

    claim: Claim
    right: bool
    picture: str


@dataclass(frozen=True, slots=True)
class _Annotated:
    """One attribute of one region, and whether its caption speaks of it."""

    attribute: str
    claimed: bool
    believed: bool
    picture: str


class _Tally:
    """Counts captions as they come, in whatever order."""

    def __init__(self, sample: Sample) -> None:
        self.failed: Counter[str] = Counter()
        self._sample = sample
        self._judged: list[_Judged] = []
        self._annotated: list[_Annotated] = []
        self._faults: Counter[str] = Counter()
        self._captions = self._claims = self._believed = 0
        self._steps = self._made = self._tokens_in = self._tokens_out = 0
        self._seconds: list[float] = []
        self._firsts: list[float] = []  # seconds until the first token, of calls that were made
        self._began, self._began_at, self._old = time.perf_counter(), time.time(), False

    def note(self, record: Record, region: Labelled) -> None:
        caption, true = record.caption, truth(region)
        self._captions += 1
        self._spent(record)
        if caption.error is not None:
            self.failed[_status(caption.error)] += 1
        self._claims += len(caption.claims)
        self._believed += sum(claim.believed for claim in caption.claims)
        for name in self._sample.attributes:
            claims = [claim for claim in caption.claims if claim.attribute == name]
            if name in true:
                believed = any(claim.believed for claim in claims)
                self._annotated.append(_Annotated(name, bool(claims), believed, region.source))
            self._judged += [
                _Judged(claim, claim.value in true.get(name, ()), region.source) for claim in claims
            ]

    def measured(self, by: str) -> Measured:
        count = self._captions or math.nan
        fine = [each for each in self._judged if each.right]
        wrong = [each for each in self._judged if not each.right]
        names = sorted({check for each in self._judged for check in each.claim.support})
        return Measured(
            by=by,
            captions=self._captions + self.failed["unread"],
            failed=dict(+self.failed),
            faults=dict(self._faults),
            claims=self._claims / count,
            believed=self._believed / count,
            said=_said(self._judged, self._annotated),
            by_attribute={
                name: _said(
                    [each for each in self._judged if each.claim.attribute == name],
                    [each for each in self._annotated if each.attribute == name],
                )
                for name in self._sample.attributes
            },
            checks=(
                _check("all", fine, wrong, lambda claim: claim.believed, lambda claim: bool(claim.support)),
                *(_alone(name, fine, wrong) for name in names),
            ),
            true_confidence=_mean([each.claim.confidence for each in fine]),
            false_confidence=_mean([each.claim.confidence for each in wrong]),
            cost=self._cost(),
        )

    def _spent(self, record: Record) -> None:
        self._steps += len(record.transcript)
        self._made += record.calls
        for step in record.transcript:
            self._tokens_in += _at_first(step, "tokens_in")
            self._tokens_out += _at_first(step, "tokens_out")
            self._old = self._old or step.extra.get("asked", math.inf) < self._began_at
            if step.first_ms is not None:
                self._firsts.append(step.first_ms / 1000)
            if step.status not in ("ok", "unsure", "not_visible"):
                self._faults[step.status] += 1
        if record.calls == len(record.transcript):
            self._seconds.append(record.seconds)

    def _cost(self) -> Cost:
        count = self._captions or math.nan
        timed = np.array(self._seconds or [math.nan])
        return Cost(
            calls=self._steps / count,
            tokens_in=self._tokens_in / count,
            tokens_out=self._tokens_out / count,
            made=self._made,
            cached=self._steps - self._made,
            timed=len(self._seconds),
            p50_s=float(np.quantile(timed, 0.5)),
            p95_s=float(np.quantile(timed, 0.95)),
            first_s=float(np.median(self._firsts or [math.nan])),
            all_s=math.nan if self._old else time.perf_counter() - self._began,
        )


def _judgeable(record: Record, vocabulary: Vocabulary, encoder: Encoder | None) -> Caption:
    """A record's caption with claims in any case, and the encoder's say where there is one."""
    caption = record.caption
    if caption.text and not caption.claims:
        caption = replace(caption, claims=vocabulary.heard(caption.text))
    if encoder is None or not caption.claims:
        return caption
    region = Region(images.load(record.path), record.box)
    return worded(checking.agreement(caption.claims, region, encoder), vocabulary, caption.by)


def _said(judged: Sequence[_Judged], annotated: Sequence[_Annotated]) -> Said:
    pictures = [each.picture for each in annotated]
    believed = [each for each in judged if each.claim.believed]
    return Said(
        coverage=mean_interval([each.claimed for each in annotated], pictures),
        accuracy=_share(judged, lambda each: each.right),
        believed_coverage=mean_interval([each.believed for each in annotated], pictures),
        believed_accuracy=_share(believed, lambda each: each.right),
    )


def _alone(name: str, fine: Sequence[_Judged], wrong: Sequence[_Judged]) -> Check:
    def passes(claim: Claim) -> bool:
        return claim.support.get(name, 1.0) >= LEAST

    return _check(name, fine, wrong, passes, lambda claim: name in claim.support)


def _check(
    name: str,
    fine: Sequence[_Judged],
    wrong: Sequence[_Judged],
    passes: Callable[[Claim], bool],
    has_say: Callable[[Claim], bool],
) -> Check:
    def passed(judged: Sequence[_Judged]) -> Interval:
        return _share(judged, lambda each: passes(each.claim))

    def stopped(judged: Sequence[_Judged]) -> Interval:
        return _share(judged, lambda each: not passes(each.claim))

    asked_fine = [each for each in fine if has_say(each.claim)]
    asked_wrong = [each for each in wrong if has_say(each.claim)]
    asked = len(asked_fine) + len(asked_wrong)
    return Check(name, asked, passed(wrong), stopped(fine), passed(asked_wrong), stopped(asked_fine))


def _share(judged: Sequence[_Judged], holds: Callable[[_Judged], bool]) -> Interval:
    return mean_interval([holds(each) for each in judged], [each.picture for each in judged])


def _status(error: str) -> str:
    """Why a caption failed, of the statuses that a step may have."""
    head = error.partition(":")[0]
    return head if head in get_args(Status) else "failed"


def _at_first(step: Step, what: str) -> int:
    """Tokens that a step cost when its answer was given."""
    return int(step.extra.get(what, 0) if step.cached else getattr(step, what))


def _mean(values: Iterable[float]) -> float:
    told = list(values)
    return float(np.mean(told)) if told else math.nan


def _plain(value: Any) -> Any:
    """For JSON, which knows no nan: null."""
    if isinstance(value, Mapping):
        return {name: _plain(each) for name, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(each) for each in value]
    if isinstance(value, float):
        return None if math.isnan(value) else round(value, 4)
    return value
