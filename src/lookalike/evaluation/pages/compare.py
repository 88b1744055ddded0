"""Is one system really better than another, and on which queries? Two or more runs, side by side."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lookalike.errors import BadInput
from lookalike.evaluation.intervals import Difference as Paired
from lookalike.evaluation.intervals import holm, paired
from lookalike.evaluation.pages.page import Axis, p_value, percent, points, save_page
from lookalike.evaluation.pages.strips import Case, Strips
from lookalike.evaluation.runs import Answer, Difference, Run, System, finite, load_answers

_BELIEVED = 0.05  # p below which a difference is called real
_SHOWN = 12  # flipped queries of each kind on the page
_FIRST = 5  # hits shown


@dataclass(frozen=True, slots=True)
class Side:
    """One of the systems compared. `label` tells it from the others; the rest says what it is."""

    label: str
    folder: Path
    system: str
    rerank: str
    encoder: str
    regions: str
    regime: str
    gallery: int
    means: Mapping[str, float]  # by metric, over the queries compared; nan where there are none


@dataclass(frozen=True, slots=True)
class Flip:
    """A query that `of` or `than`, not both, answered right at rank 1; values of the headline metric."""

    query: str
    of: str
    than: str
    value_of: float
    value_than: float
    rank_of: int | None  # of the first right answer; None: not found
    rank_than: int | None

    @property
    def change(self) -> float:
        return self.value_than - self.value_of


@dataclass(frozen=True, slots=True)
class Comparison:
    """Every later side against the first, on the same queries, in the headline judgement."""

    sides: tuple[Side, ...]
    dataset: Mapping[str, Any]
    protocol: Mapping[str, Any]
    judgement: str
    metrics: Mapping[str, str]  # name -> definition, headline first
    queries: int  # compared: those with a right answer
    groups: int  # of queries, that were resampled
    differences: tuple[Difference, ...]  # of each later side in each metric, Holm over all of them
    flips: tuple[Flip, ...]  # by later side, then by change, the best gain first

    @property
    def headline(self) -> str:
        return next(iter(self.metrics))

    @property
    def verdicts(self) -> tuple[str, ...]:
        """One sentence for each later side, on the headline metric."""
        told = (each for each in self.differences if each.metric == self.headline)
        return tuple(_verdict(each, self.queries) for each in told)

    def flips_to(self, label: str) -> tuple[Flip, ...]:
        return tuple(flip for flip in self.flips if flip.than == label)

    def lines(self) -> list[str]:
        """All of it for a terminal: the verdicts, each metric, and how many queries flipped."""
        first = self.sides[0]
        lines = list(self.verdicts)
        for side in self.sides[1:]:
            lines += [
                "",
                f"{first.label} -> {side.label}, {self.queries:,} queries in {self.groups:,} groups",
            ]
            for each in (each for each in self.differences if each.than == side.label):
                means = f"{percent(first.means[each.metric]):>6} -> {percent(side.means[each.metric]):>5}"
                span = f"{points(each.value):>6} [{points(each.low)}, {points(each.high)}]"
                lines.append(
                    f"  {each.metric:14}{means}  {span:24}p {_equals(each.p)}, by Holm {_equals(each.p_holm)}"
                )
            won = sum(flip.rank_than == 1 for flip in self.flips_to(side.label))
            lost = len(self.flips_to(side.label)) - won
            lines.append(f"  right at rank 1 only in {side.label}: {won:,}; only in {first.label}: {lost:,}")
        return lines

    def as_json(self) -> dict[str, Any]:
        """What `json.dumps` takes; None for what has no value."""
        record = asdict(self)
        for side, shown in zip(self.sides, record["sides"], strict=True):
            shown["folder"] = str(side.folder)
        for flip, shown in zip(self.flips, record["flips"], strict=True):
            shown["change"] = flip.change
        told: dict[str, Any] = finite({"verdicts": list(self.verdicts), **record})
        return told


def compare(runs: Sequence[tuple[Path, str | None]]) -> Comparison:
    """Compare systems, each given as a run's folder and one of its systems (None: it has only one).

    BadInput for fewer than two, a system that is not named or given twice, and runs that did not measure the
    same: another data set, split, protocol or queries.
    """
    if len(runs) < 2:
        raise BadInput(
            "a comparison needs two systems at least", "lookalike compare RUN[:SYSTEM] RUN[:SYSTEM]"
        )
    opened = [_opened(folder, name) for folder, name in runs]
    _check_different(opened)
    for side in opened[1:]:
        _check_same_measure(opened[0], side)
    answers = [{answer.query: answer for answer in load_answers(s.folder, s.system.name)} for s in opened]
    for side, others in zip(opened[1:], answers[1:], strict=True):
        _check_same_queries(opened[0], answers[0], side, others)

    run, judgement = opened[0].run, _headline_judgement(answers[0])
    queries = [
        query
        for query in answers[0]
        if all(told[query].values[judgement][run.headline] is not None for told in answers)
    ]
    groups = [answers[0][query].group for query in queries]
    columns = {
        metric: [[_value(told[query], judgement, metric) for query in queries] for told in answers]
        for metric in run.metrics
    }
    labels = _labels(opened)
    found: list[tuple[str, str, Paired]] = []
    flips: list[Flip] = []
    for place, label in enumerate(labels[1:], start=1):
        found += [
            (label, metric, paired(columns[metric][0], columns[metric][place], groups))
            for metric in run.metrics
        ]
        pairs = [(answers[0][query], answers[place][query]) for query in queries]
        flips += _flips(pairs, (labels[0], label), run.headline)
    adjusted = _holm([difference.p for _, _, difference in found])
    return Comparison(
        sides=tuple(
            _side(label, side, {metric: _mean(columns[metric][place]) for metric in run.metrics})
            for place, (label, side) in enumerate(zip(labels, opened, strict=True))
        ),
        dataset=run.dataset,
        protocol=run.protocol,
        judgement=judgement,
        metrics=run.metrics,
        queries=len(queries),
        groups=len(set(groups)),
        differences=tuple(
            Difference(labels[0], label, metric, each.mean, each.low, each.high, each.p, p)
            for (label, metric, each), p in zip(found, adjusted, strict=True)
        ),
        flips=tuple(flips),
    )


def write_comparison(comparison: Comparison, path: Path) -> None:
    """Write the comparison as one HTML file that needs no network.

    Pictures come from where the runs' tables say they are. BadInput where a run's files are missing or
    `path` cannot be written, MissingExtra without jinja2.
    """
    first = comparison.sides[0]
    strips = {side.folder: Strips(side.folder) for side in comparison.sides}
    rounds = []
    for side in comparison.sides[1:]:
        flips = comparison.flips_to(side.label)
        won = [flip for flip in flips if flip.rank_than == 1]
        lost = [flip for flip in reversed(flips) if flip.rank_of == 1]
        shown = [*won[:_SHOWN], *lost[:_SHOWN]]
        before, after = (_answers_of({flip.query for flip in shown}, each) for each in (first, side))
        cases = {
            flip.query: Case(
                strips[first.folder].query(before[flip.query]),
                (
                    strips[first.folder].strip(before[flip.query], _FIRST),
                    strips[side.folder].strip(after[flip.query], _FIRST),
                ),
                (flip.value_of, flip.value_than),
            )
            for flip in shown
        }
        rounds.append(
            {
                "side": side,
                "differences": [each for each in comparison.differences if each.than == side.label],
                "won": [cases[flip.query] for flip in won[:_SHOWN]],
                "lost": [cases[flip.query] for flip in lost[:_SHOWN]],
                "all_won": len(won),
                "all_lost": len(lost),
            }
        )
    ends = [end for each in comparison.differences for end in (each.low, each.high, each.value)]
    save_page(
        "compare.html.jinja",
        {"comparison": comparison, "first": first, "rounds": rounds, "axis": Axis.over([0.0, *ends])},
        path,
    )


@dataclass(frozen=True, slots=True)
class _Opened:
    folder: Path
    run: Run
    system: System


def _opened(folder: Path, name: str | None) -> _Opened:
    run = Run.load(folder)
    if name is not None:
        return _Opened(folder, run, run.system(name))
    if len(run.systems) != 1:
        names = ", ".join(repr(system.name) for system in run.systems)
        raise BadInput(f"{folder} has {len(run.systems)} systems: {names}", f"name one: {folder}:SYSTEM")
    return _Opened(folder, run, run.systems[0])


def _check_different(opened: Sequence[_Opened]) -> None:
    seen: set[tuple[Path, str]] = set()
    for side in opened:
        key = (side.folder.resolve(), side.system.name)
        if key in seen:
            raise BadInput(
                f"{side.folder}:{side.system.name} is given twice", "compare it with another system"
            )
        seen.add(key)


def _check_same_measure(first: _Opened, other: _Opened) -> None:
    """The data (not where they lie), the protocol and the metrics are the same."""
    for what, ours, theirs in (
        ("data set", _known(first.run.dataset, "name"), _known(other.run.dataset, "name")),
        ("split", _known(first.run.dataset, "split"), _known(other.run.dataset, "split")),
        ("generator", _known(first.run.dataset, "synthetic"), _known(other.run.dataset, "synthetic")),
        ("protocol", _known(first.run.protocol, "name"), _known(other.run.protocol, "name")),
        ("metrics", ", ".join(first.run.metrics), ", ".join(other.run.metrics)),
    ):
        if ours != theirs:
            raise BadInput(
                f"not the same {what}: {ours or 'none'} in {first.folder}, "
                f"{theirs or 'none'} in {other.folder}",
                "compare runs that measured the same",
            )


def _known(facts: Mapping[str, Any], name: str) -> str:
    return str(facts.get(name) or "")


def _check_same_queries(
    first: _Opened, ours: Mapping[str, Answer], other: _Opened, theirs: Mapping[str, Answer]
) -> None:
    missing = [query for query in ours if query not in theirs]
    added = [query for query in theirs if query not in ours]
    if missing or added:
        query, folder = (missing[0], first.folder) if missing else (added[0], other.folder)
        raise BadInput(
            f"not the same queries: {query} is in {folder} only; {len(missing) + len(added)} differ in all",
            "evaluate both on the same data",
        )


def _headline_judgement(answers: Mapping[str, Answer]) -> str:
    for answer in answers.values():
        return next(iter(answer.values))
    raise BadInput("the runs have no queries", "evaluate on a split that has some")


def _value(answer: Answer, judgement: str, metric: str) -> float:
    value = answer.values[judgement][metric]
    return math.nan if value is None else value


def _mean(column: Sequence[float]) -> float:
    return math.fsum(column) / len(column) if column else math.nan


def _holm(p_values: Sequence[float]) -> list[float]:
    """Adjusted for how many there are; without queries there is nothing to adjust."""
    return list(p_values) if any(map(math.isnan, p_values)) else [float(p) for p in holm(p_values)]


def _labels(opened: Sequence[_Opened]) -> list[str]:
    """The shortest names that tell the sides apart."""
    systems = [side.system.name for side in opened]
    folders = [side.folder.resolve().name for side in opened]
    both = [f"{folder}: {system}" for folder, system in zip(folders, systems, strict=True)]
    paths = [f"{side.folder}: {side.system.name}" for side in opened]
    for names in (systems, folders, both):
        if len(set(names)) == len(names):
            return names
    return paths


def _side(label: str, side: _Opened, means: Mapping[str, float]) -> Side:
    run = side.run
    return Side(
        label, side.folder, side.system.name, side.system.rerank, str(run.encoder["name"]), run.regions,
        f"{run.regime}, {run.captions['by']}" if run.captions else run.regime, run.gallery, means,
    )  # fmt: skip


def _flips(pairs: Sequence[tuple[Answer, Answer]], labels: tuple[str, str], metric: str) -> list[Flip]:
    """The flipped among pairs of answers to one query, the best gain first."""
    flips = []
    for before, after in pairs:
        if (before.rank == 1) != (after.rank == 1):
            old, new = (_value(answer, next(iter(answer.values)), metric) for answer in (before, after))
            flips.append(Flip(before.query, *labels, old, new, before.rank, after.rank))
    return sorted(flips, key=lambda flip: (-flip.change, flip.query))


def _answers_of(queries: set[str], side: Side) -> dict[str, Answer]:
    told = load_answers(side.folder, side.system)
    return {answer.query: answer for answer in told if answer.query in queries}


def _verdict(difference: Difference, queries: int) -> str:
    of, than, metric = difference.of, difference.than, difference.metric
    if not math.isfinite(difference.value):
        return f"Nothing to compare {than} with {of} on: no query has a right answer."
    span = f"[{points(difference.low)}, {points(difference.high)}]"
    tail = f"p {_equals(difference.p_holm)}"
    if not difference.p_holm < _BELIEVED:
        return (
            f"No difference in {metric} between {than} and {of} that this many queries ({queries:,}) could "
            f"tell: {points(difference.value)} points {span}, {tail}."
        )
    side = "better" if difference.value > 0 else "worse"
    low, high = sorted((abs(difference.low), abs(difference.high)))
    if difference.low * difference.high > 0:
        span = f"[{percent(low)}, {percent(high)}]"
    return (
        f"{than} is {side} than {of} by {percent(abs(difference.value))} points of {metric} {span}, {tail}."
    )


def _equals(p: float) -> str:
    shown = p_value(p)
    return shown if shown.startswith("<") else f"= {shown}"
