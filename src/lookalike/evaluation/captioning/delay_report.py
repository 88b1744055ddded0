"""What was measured of captions' delay at the query, and how it is told."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Self

import numpy as np

from lookalike.calibration import GATES
from lookalike.errors import BadInput, unknown_name
from lookalike.evaluation.intervals import Difference, mean_interval

TOLERANCE_MS = 5.0  # a query's spans are expected to make up its total to within this
SHARES = (0.0, 0.5, 0.9)  # of cached captions, for which the effective delay is told


@dataclass(frozen=True, slots=True)
class Conditions:
    """What is measured, and how.

    `rounds` of the closed loop: the first asks the captioner for what it has not seen, the later ones for the
    same again. With an `arrival_rate` (queries a second, at random moments: Poisson) half of the photos are
    kept for the open loop, so that their captions are new there too; at most `workers` queries run at once.
    `simulated` says by what the delay is made up, "" for a real captioner.
    """

    rounds: int = 2
    arrival_rate: float | None = None
    workers: int = 8
    deadline_s: float = 10.0
    gate: str | None = None
    seed: int = 0
    simulated: str = ""
    volume: int = 1_000_000  # queries over which the gallery's captions are spread

    def __post_init__(self) -> None:
        if min(self.rounds, self.workers, self.volume) < 1 or self.deadline_s <= 0:
            raise BadInput(
                f"{self.rounds} rounds, {self.workers} workers, {self.volume} queries, "
                f"deadline {self.deadline_s:g} s",
                "at least one of each, and a deadline above 0",
            )
        if self.arrival_rate is not None and not 0 < self.arrival_rate < math.inf:
            raise BadInput(f"{self.arrival_rate:g} queries a second", "a rate above 0, or none")
        if self.gate is not None and self.gate not in GATES:
            raise unknown_name("gate", self.gate, GATES)


@dataclass(frozen=True, slots=True)
class Spread:
    """Milliseconds: the mean with its 95 % interval (whole photos are drawn again), and percentiles."""

    mean: float
    low: float
    high: float
    p50: float
    p95: float
    p99: float
    n: int

    @classmethod
    def of(cls, values: Sequence[float], photos: Sequence[int], seed: int = 0) -> Self:
        """Of values (N,) of the photos (N,); all nan where there is none."""
        if not values:
            return cls(math.nan, math.nan, math.nan, math.nan, math.nan, math.nan, 0)
        interval = mean_interval(values, photos, seed=seed)
        p50, p95, p99 = map(float, np.percentile(values, [50, 95, 99]))
        return cls(interval.mean, interval.low, interval.high, p50, p95, p99, interval.n)


@dataclass(frozen=True, slots=True)
class Phase:
    """One way of asking: `loop` "closed" or "open", `state` "cold" (captions not seen before) or "warm".

    `d_first` and `d_online` are differences on the same query: what captions add until the first hits, and
    until the refined ones. A late caption counts as there at the deadline. In the open loop every time runs
    from the scheduled arrival. `spans` are means by stage and add up, with the residual, to the mean of
    `refined`; those of `behind` run beside them, in the captioner.
    """

    loop: str
    state: str
    bare: Spread
    first: Spread
    refined: Spread
    d_first: Spread
    d_online: Spread
    outcomes: Mapping[str, float]  # the share of queries by `Refinement.outcome`
    hits: float  # the share of captions that were in the captioner's cache, or in the catalogue
    spans: Mapping[str, float]
    accounted: float  # the share of queries whose residual is within `TOLERANCE_MS`
    behind: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Worth:
    """What the captions changed, over the photos of the cold phases. b - a is refined - bare."""

    photos: int  # with a known answer
    top1_changed: float  # a share of all photos, as the next two are of those with a known answer
    rightly: float  # from a wrong item to a right one
    wrongly: float
    gains: Mapping[str, Difference]  # "R@1", "R@10", "AP@10"

    def per_100_ms(self, delay_ms: float) -> dict[str, float]:
        """Each gain for 100 ms of added delay; nan where captions add none."""
        return {
            name: gain.mean / delay_ms * 100 if delay_ms > 0 else math.nan
            for name, gain in self.gains.items()
        }


@dataclass(frozen=True, slots=True)
class Cost:
    """Of one caption that had to be made, means: by the server's own count of tokens, and the calls' time."""

    captions: int
    calls: float
    tokens_in: float
    tokens_out: float
    call_s: float


@dataclass(frozen=True, slots=True)
class Delays:
    """What was measured, see `measure`. `as_json` for programs, `lines` for people."""

    captioner: str
    conditions: Conditions
    photos: int
    pixels: tuple[int, int]  # of the photos' regions, width and height, medians
    gallery: int  # pictures
    machine: str
    phases: tuple[Phase, ...]
    d_hit: Spread  # `d_online` of the closed loop's captions out of the cache
    d_miss: Spread  # of those that had to be made
    hit_share: float  # of all captions of this run
    worth: Worth
    cost: Cost

    def effective(self, share: float) -> float:
        """The mean delay where `share` of the captions are cached: h D_hit + (1 - h) D_miss.

        nan where a mean that it takes was not measured.
        """
        parts = [(share, self.d_hit.mean), (1 - share, self.d_miss.mean)]
        return sum(weight * mean for weight, mean in parts if weight != 0)

    def as_json(self) -> dict[str, Any]:
        """Plain values; None for what could not be measured."""
        effective = {f"{share:g}": self.effective(share) for share in SHARES}
        derived = {
            "d_effective": effective | {"measured": self.effective(self.hit_share)},
            "per_100_ms": self.worth.per_100_ms(self.d_miss.mean),
        }
        told: dict[str, Any] = _plain(asdict(self) | derived)
        return told

    def lines(self) -> Iterator[str]:
        """Tables in Markdown. Each row says whose delay it is, and that it is simulated where it is."""
        how, whose = self.conditions, self._whose
        yield f"Captions by {self.captioner}; {self.machine}; {self.gallery:,} pictures in the gallery, "
        yield (
            f"{self.photos:,} photos (regions of {self.pixels[0]} x {self.pixels[1]} pixels), deadline "
            f"{how.deadline_s:g} s, gate: {how.gate or 'none'}. Milliseconds; means with their 95 % interval."
        )
        if how.arrival_rate is not None:
            yield (
                f"The open loop has {how.arrival_rate:g} queries a second (Poisson, seed {how.seed}) and at "
                f"most {how.workers} at once; its times run from the scheduled arrival."
            )
        yield from _table(
            ["delay", "loop, captions", "n", "image only, p50", "first hits, p50", "refined, p50", "D_first",
             "D_first, p50", "D_online", "D_online p50 / p95 / p99"],
            [
                [whose, f"{each.loop}, {each.state}", f"{each.bare.n}", f"{each.bare.p50:.1f}",
                 f"{each.first.p50:.1f}", f"{each.refined.p50:.1f}", _interval(each.d_first),
                 f"{each.d_first.p50:.1f}",
                 _interval(each.d_online),
                 f"{each.d_online.p50:.0f} / {each.d_online.p95:.0f} / {each.d_online.p99:.0f}"]
                for each in self.phases
            ],
        )  # fmt: skip
        yield from _table(
            ["delay", "loop, captions", "in the cache", "refined", "unchanged", "late", "failed",
             "nothing said", "sure (gate)"],
            [
                [whose, f"{each.loop}, {each.state}", _share(each.hits)]
                + [_share(each.outcomes.get(name, 0.0))
                   for name in ("refined", "unchanged", "late", "failed", "nothing said", "sure")]
                for each in self.phases
            ],
        )  # fmt: skip
        yield from _table(
            ["delay", "D_hit", "D_miss", *(f"D_effective({share:g})" for share in SHARES),
             f"at this run's {_share(self.hit_share)} hits"],
            [[whose, _interval(self.d_hit), _interval(self.d_miss)]
             + [_number(self.effective(share), ".1f") for share in (*SHARES, self.hit_share)]],
        )  # fmt: skip
        yield from _spans(whose, self.phases, "one after the other", lambda phase: phase.spans)
        yield from _spans(whose, self.phases, "beside them, the captioner", lambda phase: phase.behind)
        yield ""
        for each in self.phases:
            yield (
                f"{whose}, {each.loop}, {each.state}: the spans of {_share(each.accounted)} of the queries "
                f"make up their total to within {TOLERANCE_MS:g} ms."
            )
        yield from self._worth_lines()
        yield from self._cost_lines()

    @property
    def _whose(self) -> str:
        simulated = self.conditions.simulated
        return f"simulated ({simulated})" if simulated else "measured"

    def _worth_lines(self) -> Iterator[str]:
        worth = self.worth
        per = worth.per_100_ms(self.d_miss.mean)
        yield from _table(
            ["delay", "top 1 changed", "rightly", "wrongly", "photos with an answer",
             *(f"Δ{name}" for name in worth.gains), *(f"Δ{name} per 100 ms" for name in worth.gains)],
            [[self._whose, _share(worth.top1_changed), _share(worth.rightly), _share(worth.wrongly),
              f"{worth.photos}",
              *(f"{gain.mean:+.3f} [{gain.low:+.3f}, {gain.high:+.3f}]" for gain in worth.gains.values()),
              *(_number(value, "+.4f") for value in per.values())]],
        )  # fmt: skip

    def _cost_lines(self) -> Iterator[str]:
        cost, volume = self.cost, self.conditions.volume
        once = self.gallery / volume * 1000  # captions of the gallery that fall to 1,000 queries
        scales = [
            ("a caption", 1.0),
            ("1,000 pictures", 1000.0),
            (f"1,000 of {volume:,} queries: their share of the gallery", once),
        ]
        yield from _table(
            ["delay", f"cost ({cost.captions} captions made) of", "calls", "tokens read", "tokens written",
             "seconds of calls"],
            [[self._whose, name, _number(cost.calls * factor, ",.1f"),
              _number(cost.tokens_in * factor, ",.0f"), _number(cost.tokens_out * factor, ",.0f"),
              _number(cost.call_s * factor, ",.2f")] for name, factor in scales],
        )  # fmt: skip


def _spans(
    whose: str, phases: Sequence[Phase], title: str, spans: Callable[[Phase], Mapping[str, float]]
) -> Iterator[str]:
    told = [(f"{phase.loop}, {phase.state}", spans(phase)) for phase in phases if spans(phase)]
    if told:
        columns = list(told[0][1])
        yield from _table(
            ["delay", f"{title}, ms", *columns],
            [[whose, name, *(f"{values[column]:.1f}" for column in columns)] for name, values in told],
        )


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    yield ""
    yield f"| {' | '.join(head)} |"
    yield "|---" * len(head) + "|"
    for row in rows:
        yield f"| {' | '.join(row)} |"


def _interval(spread: Spread) -> str:
    return "none" if spread.n == 0 else f"{spread.mean:.1f} [{spread.low:.1f}, {spread.high:.1f}]"


def _number(value: float, form: str) -> str:
    return "unknown" if math.isnan(value) else format(value, form)


def _share(value: float) -> str:
    return _number(value, ".0%")


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _plain(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return None if isinstance(value, float) and math.isnan(value) else value
