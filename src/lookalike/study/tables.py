"""Tables of trained models: means over seeds, clustered intervals, comparisons adjusted for their number."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lookalike.errors import BadInput, unknown_name
from lookalike.evaluation.intervals import Difference, Interval, Values, holm, mean_interval, paired
from lookalike.evaluation.runs import finite
from lookalike.study.results import Result, Results
from lookalike.values import Floats

_COLUMNS = (
    "", "mAP", "R@1", "R@10", "each seed", "points", "p (Holm)", "verdict", "seeds of that sign",
    "queries", "seeds", "steps", "s per training",
)  # fmt: skip

Runs = Mapping[int, Result]  # by seed


@dataclass(frozen=True, slots=True)
class Row:
    """One row: an arm in one view, compared with the row that is labelled `against` where that is given."""

    label: str
    arm: str
    view: str = "bare"
    against: str | None = None


@dataclass(frozen=True, slots=True)
class Table:
    """What a table shows. `margin` is how much mAP may be lost, 0 to 1, by what counts as non-inferior."""

    name: str
    title: str
    rows: Sequence[Row]
    note: str = ""
    margin: float | None = None

    def __post_init__(self) -> None:
        labels = [row.label for row in self.rows]
        if len(set(labels)) < len(labels):
            raise BadInput(f"table {self.name}: two rows have the same label")
        for row in self.rows:
            if row.against is not None and row.against not in labels:
                raise unknown_name(f"row of table {self.name}", row.against, labels)


@dataclass(frozen=True, slots=True)
class Comparison:
    """How much more mAP a row has than another, on the seeds that both were run with."""

    against: str
    seeds: tuple[int, ...]
    difference: Difference  # of the means over these seeds
    each: tuple[float, ...]  # difference by seed
    adjusted: float  # p, by Holm's method for the number of comparisons in the table

    @property
    def agreeing(self) -> int:
        """How many seeds differ in the same direction as their mean."""
        return int(np.count_nonzero(np.sign(self.each) == np.sign(self.difference.mean)))

    def verdict(self, margin: float) -> str:
        """Whether the whole interval lies above -margin, below it, or neither was shown."""
        if self.difference.low > -margin:
            return "non-inferior"
        return "inferior" if self.difference.high < -margin else "not shown"


@dataclass(frozen=True, slots=True)
class Line:
    """A row's figures. Where its arm was not run in its view, `seeds` is empty and every number is nan."""

    row: Row
    seeds: tuple[int, ...]
    mean: Interval  # of average precision, the seeds' mean for each query
    first: Interval  # R@1: share of queries whose first answer is right
    ten: Interval  # R@10: with a right one among ten
    each: tuple[float, ...]  # mAP by seed
    steps: tuple[int, ...]  # by seed
    seconds: float  # of one training, the seeds' median
    comparison: Comparison | None


def figures_of(table: Table, results: Results) -> list[Line]:
    """The table's figures, a line for each row in order.

    A query's value is its mean over the seeds; a query without a right answer is left out. Two rows are
    compared on the seeds that both have; without one in common, or where either was not run, they are not.
    """
    runs = {row.label: _runs(row, results) for row in table.rows}
    comparisons = _comparisons(table, runs, results.groups)
    return [_line(row, runs[row.label], results.groups, comparisons.get(row.label)) for row in table.rows]


def markdown(table: Table, lines: Sequence[Line]) -> str:
    """The table as Markdown, without its title; below it notes on what was measured and what intervals are.

    A column that would be empty in every row is left out; a row that was not run says so.
    """
    compared = [line.comparison for line in lines if line.comparison]
    rivals = sorted({comparison.against for comparison in compared})
    counts = sorted({(line.mean.n, line.mean.groups) for line in lines if line.seeds})
    rows = [_cells(line, table.margin, named=len(rivals) > 1, counted=len(counts) > 1) for line in lines]
    columns = [column for column in _COLUMNS if any(cells.get(column) for cells in rows)]
    heads = dict(zip(columns, columns, strict=True))
    if len(rivals) == 1:
        heads["points"] = f"points against {rivals[0]}"
    if table.margin is not None:
        heads["verdict"] = f"at a margin of {100 * table.margin:g} points"
    text = [_marked(heads[column] for column in columns), "|---" * len(columns) + "|"]
    text += [_marked(cells.get(column, "") for column in columns) for cells in rows]
    notes = [table.note] if table.note else []
    if len(counts) == 1:
        notes.append(f"{counts[0][0]:,} queries in {counts[0][1]:,} pairs.")
    if counts:
        notes.append("[]: 95 % interval of a bootstrap over pairs, seeds averaged.")
    if compared:
        adjusted = f", adjusted for {len(compared)} comparisons" if len(compared) > 1 else ""
        notes.append(f"p: whole pairs exchanged{adjusted}.")
    own = {line.row.label: line.seeds for line in lines}
    pairs = [(line.comparison, own[line.row.label]) for line in lines if line.comparison]
    if any(not each.seeds == seeds == own[each.against] for each, seeds in pairs):
        notes.append("Differences are of the seeds that both rows have.")
    return "\n".join([*text, "", " ".join(notes)]).rstrip() + "\n"


def as_json(table: Table, lines: Sequence[Line]) -> dict[str, Any]:
    """The table as JSON can hold it: finite numbers, and None for what is not known."""
    rows = [finite(_record(line, table.margin)) for line in lines]
    return {
        "name": table.name,
        "title": table.title,
        "note": table.note,
        "margin": table.margin,
        "rows": rows,
    }


def _runs(row: Row, results: Results) -> Runs:
    """In the seeds' order; none where the arm was not run, or not measured in this view."""
    return {run.seed: run for run in results.of(row.arm) if row.view in run.measures}


def _stacked(values: Iterable[Floats]) -> Values:
    """Values of S seeds as (S, Q), nan in a whole column where one of the seeds has none."""
    stacked = np.array(list(values), np.float64)
    stacked[:, np.isnan(stacked).any(axis=0)] = math.nan
    return stacked


def _means(values: Values) -> tuple[float, ...]:
    """The mean of each row of (S, Q) over the queries that have a value; nan where none has."""
    told = values[:, ~np.isnan(values).any(axis=0)]
    return tuple(told.mean(axis=1).tolist()) if told.size else (math.nan,) * len(values)


def _comparisons(table: Table, runs: Mapping[str, Runs], groups: NDArray[Any]) -> dict[str, Comparison]:
    """By the label of the row that is compared."""
    views = {row.label: row.view for row in table.rows}
    found: dict[str, tuple[str, tuple[int, ...], Difference, tuple[float, ...]]] = {}
    for row in table.rows:
        if row.against is None:
            continue
        theirs, ours = runs[row.against], runs[row.label]
        if seeds := tuple(sorted(theirs.keys() & ours.keys())):
            a = _stacked(theirs[seed].measures[views[row.against]].ap for seed in seeds)
            b = _stacked(ours[seed].measures[row.view].ap for seed in seeds)
            difference = paired(a.mean(axis=0), b.mean(axis=0), groups)
            if difference.n:
                found[row.label] = (row.against, seeds, difference, _means(b - a))
    adjusted = holm([difference.p for _, _, difference, _ in found.values()]).tolist()
    return {label: Comparison(*parts, p) for (label, parts), p in zip(found.items(), adjusted, strict=True)}


def _line(row: Row, runs: Runs, groups: NDArray[Any], comparison: Comparison | None) -> Line:
    if not runs:
        nothing = Interval(math.nan, math.nan, math.nan, 0, 0)
        return Line(row, (), nothing, nothing, nothing, (), (), math.nan, None)
    measures = [run.measures[row.view] for run in runs.values()]
    precisions = _stacked(measure.ap for measure in measures)
    first, ten = (
        mean_interval(_stacked(each.hits_at(k) for each in measures).mean(axis=0), groups) for k in (1, 10)
    )
    return Line(
        row=row,
        seeds=tuple(runs),
        mean=mean_interval(precisions.mean(axis=0), groups),
        first=first,
        ten=ten,
        each=_means(precisions),
        steps=tuple(run.steps for run in runs.values()),
        seconds=float(np.median([run.seconds for run in runs.values()])),
        comparison=comparison,
    )


def _cells(line: Line, margin: float | None, named: bool, counted: bool) -> dict[str, str]:
    """The cells that have something to say, by column."""
    if not line.seeds:
        return {"": line.row.label, "mAP": "not run"}
    mean, compared = line.mean, line.comparison
    cells = {"": line.row.label, "mAP": bounded(mean.mean, mean.low, mean.high, ".3f")}
    for name, recall in (("R@1", line.first), ("R@10", line.ten)):
        cells[name] = bounded(recall.mean, recall.low, recall.high, ".3f")
    if len(line.seeds) > 1:
        cells["each seed"] = " ".join(_number(each, ".3f") for each in line.each)
    if compared:
        found = compared.difference
        told = bounded(100 * found.mean, 100 * found.low, 100 * found.high, "+z.1f")
        cells["points"] = f"{told} against {compared.against}" if named else told
        cells["p (Holm)"] = "< 0.001" if compared.adjusted < 0.001 else f"{compared.adjusted:.3f}"
        if margin is not None:
            cells["verdict"] = compared.verdict(margin)
        if len(compared.seeds) > 1:
            cells["seeds of that sign"] = f"{compared.agreeing}/{len(compared.seeds)}"
    if counted:
        cells["queries"] = f"{mean.n:,} in {mean.groups:,} pairs"
    steps = ", ".join(f"{count:,}" for count in sorted(set(line.steps)))
    return cells | {"seeds": f"{len(line.seeds)}", "steps": steps, "s per training": f"{line.seconds:.0f}"}


def _record(line: Line, margin: float | None) -> dict[str, Any]:
    record = asdict(line.row) | {"seeds": line.seeds}
    if not line.seeds:
        return record
    mean = line.mean
    record |= {
        "steps": line.steps, "seconds": line.seconds, "queries": mean.n, "pairs": mean.groups,
        "map": {"mean": mean.mean, "low": mean.low, "high": mean.high, "each": line.each},
        "recall": {
            k: {"mean": recall.mean, "low": recall.low, "high": recall.high}
            for k, recall in (("1", line.first), ("10", line.ten))
        },
    }  # fmt: skip
    if compared := line.comparison:
        record["difference"] = asdict(compared.difference) | {
            "seeds": compared.seeds, "each": compared.each, "p_holm": compared.adjusted,
            "agreeing": compared.agreeing,
            "verdict": None if margin is None else compared.verdict(margin),
        }  # fmt: skip
    return record


def _number(value: float, form: str) -> str:
    return "–" if math.isnan(value) else format(value, form)


def bounded(mean: float, low: float, high: float, form: str) -> str:
    """ "0.606 [0.590, 0.622]", without an interval where there is none."""
    if math.isnan(low) or math.isnan(high):
        return _number(mean, form)
    return f"{mean:{form}} [{low:{form}}, {high:{form}}]"


def grid(rows: Sequence[Mapping[str, str]]) -> str:
    """Cells by column as a Markdown table; a column that would be empty in every row is left out."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    columns = [name for name in columns if any(row.get(name) for row in rows)]
    lines = [_marked(columns), "|---" * len(columns) + "|"]
    return "\n".join([*lines, *(_marked(row.get(name, "") for name in columns) for row in rows)])


def _marked(cells: Iterable[str]) -> str:
    """A row of a Markdown table."""
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
