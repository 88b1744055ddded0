"""What people read of a run: a table for programs, one for papers, and a page to look at."""

from __future__ import annotations

import csv
import heapq
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

from lookalike.evaluation.pages.curves import SERIES, Plot, curves
from lookalike.evaluation.pages.page import Axis, save_page
from lookalike.evaluation.pages.strips import Case, Strips
from lookalike.evaluation.runs import Answer, Figure, Run, System, load_answers, write_whole

_WORST = 12  # queries in the failure gallery
_CHANGED = 5  # best gains, and as many worst losses
_FIRST = 5  # hits shown
_LEFT_OUT = 20  # things left out that are named
_NONE = Figure(math.nan, math.nan, math.nan, 0, 0)


def write_tables(run: Run, folder: Path) -> list[Path]:
    """Write table.csv and table.tex into the run's folder, and say where they are."""
    written = {folder / "table.csv": _csv(run), folder / "table.tex": _tex(run)}
    for path, text in written.items():
        write_whole(path, text)
    return list(written)


def write_report(run: Run, folder: Path) -> Path:
    """Write report.html into the run's folder, which holds its answers and tables: one file, no network.

    The same run gives the same bytes. BadInput where the folder's files are missing or broken, MissingExtra
    without jinja2 or matplotlib.
    """
    strips = Strips(folder)
    first, best = run.systems[0], _best(run, run.systems)
    plotted = _plotted(run)
    others = [system for system in run.systems if system is not first]
    rival = _best(run, others) if others else None
    save_page(
        "report.html.jinja",
        {
            "run": run,
            "best": best,
            "first": first,
            "rival": rival,
            "headline": _headline(run, best),
            "judgements": [_judged(run, judgement) for judgement in first.figures],
            "difference_axis": Axis.over(
                [0.0, *(end for each in run.differences for end in (each.low, each.high))]
            ),
            "plotted": plotted,
            "curves": _curves(plotted),
            "facets": _facets(plotted),
            "stages": _stages(run.systems),
            "slowest": max((sum(_parts(system).values()) for system in run.systems), default=0.0),
            "parts": _parts,
            "failures": _failures(run, best, folder, strips),
            "left_out_shown": _LEFT_OUT,
            "changes": _changes(run, first, rival, folder, strips) if rival else None,
        },
        path := folder / "report.html",
    )
    return path


@dataclass(frozen=True, slots=True)
class _Judged:
    """The table of one judgement: which figures are the best of their metric, and each metric's axis."""

    name: str
    metrics: tuple[str, ...]
    axes: Mapping[str, Axis]
    best: Mapping[str, float]

    def figure(self, system: System, metric: str) -> Figure:
        return system.figures.get(self.name, {}).get(metric, _NONE)

    def is_best(self, figure: Figure, metric: str) -> bool:
        return math.isfinite(figure.value) and _printed(figure.value) == self.best[metric]

    def queries(self, system: System) -> int:
        return max(self.figure(system, metric).n for metric in self.metrics)


def _judged(run: Run, judgement: str) -> _Judged:
    tables = [system.figures.get(judgement, {}) for system in run.systems]
    metrics = tuple(metric for metric in run.metrics if any(metric in table for table in tables))
    figures = {metric: [table[metric] for table in tables if metric in table] for metric in metrics}
    return _Judged(
        judgement,
        metrics,
        {metric: _axis(figures[metric]) for metric in metrics},
        {metric: max(_printed(figure.value) for figure in figures[metric]) for metric in metrics},
    )


def _axis(figures: Iterable[Figure]) -> Axis:
    return Axis.over(end for figure in figures for end in (figure.low, figure.value, figure.high))


def _printed(value: float) -> float:
    """As tables print it, so that what reads alike counts as equally good; nothing is below any value."""
    return round(100 * value, 1) if math.isfinite(value) else -1.0


def _headline(run: Run, system: System) -> Figure:
    judgement = next(iter(system.figures.values()), {})
    return judgement.get(run.headline, _NONE)


def _best(run: Run, systems: Iterable[System]) -> System:
    """The first of those with the highest headline figure."""
    return max(systems, key=lambda system: _printed(_headline(run, system).value))


def _plotted(run: Run) -> list[System]:
    """The systems that plots show: the first and the best of the others, in the table's order."""
    ranked = sorted(run.systems[1:], key=lambda system: -_printed(_headline(run, system).value))
    shown = [run.systems[0], *ranked[: SERIES - 1]]
    return [system for system in run.systems if system in shown]


def _curves(systems: list[System]) -> list[str]:
    names = ", ".join(system.name for system in systems)
    precision = Plot(
        "precision-recall",
        "Precision and recall",
        f"Mean interpolated precision at each recall, of {names}.",
        "recall, %",
        "precision, %",
    )
    recall = Plot(
        "recall-at-k",
        "Recall at k",
        f"Share of the queries with a right answer among the first k, of {names}.",
        "k, the answers looked at",
        "queries with a right answer, %",
    )
    return [
        curves(precision, [system.precision_recall for system in systems]),
        curves(recall, [system.recall_at for system in systems], counted=True),
    ]


@dataclass(frozen=True, slots=True)
class _Facet:
    name: str
    axis: Axis
    rows: tuple[tuple[str, int, tuple[Figure, ...]], ...]  # value, queries, a figure a system


def _facets(systems: list[System]) -> list[_Facet]:
    """The slices by facet, without values and facets that no query has."""
    facets = []
    for name, values in systems[0].slices.items():
        rows = []
        for value in values:
            figures = tuple(system.slices.get(name, {}).get(value, _NONE) for system in systems)
            if queries := max(figure.n for figure in figures):
                rows.append((value, queries, figures))
        if rows:
            axis = _axis(figure for _, _, figures in rows for figure in figures)
            facets.append(_Facet(name, axis, tuple(rows)))
    return facets


def _parts(system: System) -> dict[str, float]:
    """The stages of a search that add up: a median of the whole is none of them."""
    return {stage: spent for stage, spent in system.latency_ms.items() if stage != "total"}


def _stages(systems: Iterable[System]) -> list[str]:
    return list(dict.fromkeys(stage for system in systems for stage in _parts(system)))


def _values(run: Run, folder: Path, system: System) -> Iterable[tuple[float, Answer]]:
    """The answerable queries' answers with their headline values, in the order of the queries."""
    for answer in load_answers(folder, system.name):
        value = next(iter(answer.values.values()))[run.headline]
        if value is not None:
            yield value, answer


def _failures(run: Run, system: System, folder: Path, strips: Strips) -> list[Case]:
    """The queries that fared worst; of equal ones first those whose right answer stood furthest back."""

    def badness(each: tuple[float, Answer]) -> tuple[float, float]:
        value, answer = each
        return value, -(answer.rank or math.inf)

    worst = heapq.nsmallest(_WORST, _values(run, folder, system), key=badness)
    return [Case(strips.query(answer), (strips.strip(answer, _FIRST),), (value,)) for value, answer in worst]


def _changes(
    run: Run, first: System, rival: System, folder: Path, strips: Strips
) -> tuple[list[Case], list[Case]]:
    """The queries that gained and lost most from the first system to its best rival, most first."""
    before = {answer.query: (value, answer) for value, answer in _values(run, folder, first)}
    pairs = [
        (after - before[answer.query][0], answer.query, (before[answer.query], (after, answer)))
        for after, answer in _values(run, folder, rival)
        if answer.query in before
    ]
    pairs.sort(key=lambda pair: (pair[0], pair[1]))

    def cases(chosen: Iterable[tuple[float, str, Any]]) -> list[Case]:
        return [
            Case(
                strips.query(pair[0][1]),
                tuple(strips.strip(answer, _FIRST) for _, answer in pair),
                tuple(value for value, _ in pair),
            )
            for _, _, pair in chosen
        ]

    gains = [pair for pair in reversed(pairs[-_CHANGED:]) if pair[0] > 0]
    losses = [pair for pair in pairs[:_CHANGED] if pair[0] < 0]
    return cases(gains), cases(losses)


def _csv(run: Run) -> str:
    """One row for each system and judgement; a metric's columns are empty where it has no value."""
    text = StringIO()
    writer = csv.writer(text, lineterminator="\n")
    columns = [f"{metric} {part}".rstrip() for metric in run.metrics for part in ("", "low", "high", "n")]
    writer.writerow(["system", "rerank", "judgement", *columns])
    for system in run.systems:
        for judgement, figures in system.figures.items():
            row: list[str | float] = [system.name, system.rerank, judgement]
            for metric in run.metrics:
                figure = figures.get(metric, _NONE)
                ends = (figure.value, figure.low, figure.high)
                row += [*(end if math.isfinite(end) else "" for end in ends), figure.n]
            writer.writerow(row)
    return text.getvalue()


def _tex(run: Run) -> str:
    """A tabular for booktabs, below comments that say what its numbers are."""
    judgements = [_judged(run, judgement) for judgement in run.systems[0].figures]
    heads = [metric for judged in judgements for metric in judged.metrics]
    lines = [f"% {_one_line(line)}" for line in _tex_facts(run)]
    lines += [rf"\begin{{tabular}}{{l{'r' * len(heads)}}}", r"\toprule"]
    if len(judgements) > 1:
        spans, rules, column = [], [], 2
        for judged in judgements:
            last = column + len(judged.metrics) - 1
            spans.append(rf"\multicolumn{{{len(judged.metrics)}}}{{c}}{{{_escaped(judged.name)}}}")
            rules.append(rf"\cmidrule(lr){{{column}-{last}}}")
            column = last + 1
        lines += [rf" & {' & '.join(spans)} \\", " ".join(rules)]
    lines += [rf"system & {' & '.join(map(_escaped, heads))} \\", r"\midrule"]
    for system in run.systems:
        cells = [_tex_number(judged, system, metric) for judged in judgements for metric in judged.metrics]
        lines.append(rf"{_escaped(system.name)} & {' & '.join(cells)} \\")
    lines += [r"\bottomrule", r"\end{tabular}"]
    return "".join(f"{line}\n" for line in lines)


def _tex_facts(run: Run) -> list[str]:
    about = [f"{name} {value}" for name, value in run.dataset.items() if value and name != "folder"]
    facts = [
        "Needs \\usepackage{booktabs}. Numbers in per cent; the best of each column in bold.",
        f"data: {', '.join(about)}",
        f"protocol: {run.protocol['name']}: {run.protocol['about']}",
        f"ties: {run.protocol['ties']}",
        f"self-match: {run.protocol['self_match']}",
        f"encoder: {run.encoder['name']} ({run.encoder['fingerprint']}); regions {run.regions}; "
        f"regime {run.regime}" + (f", captions by {run.captions['by']}" if run.captions else ""),
        f"{run.queries} queries, {run.unanswerable} of them without a right answer and left out of the means",
        f"{run.gallery} gallery regions",
    ]
    facts += [f"{metric}: {definition}" for metric, definition in run.metrics.items()]
    for system in run.systems:
        figure = _headline(run, system)
        facts.append(f"{system.name}: {run.headline} {figure}, {figure.n} queries in {figure.groups} groups")
    if run.left_out:
        facts.append(f"left out: {len(run.left_out)} that could not be used, named in run.json")
    return facts + [f"{name}: {value}" for name, value in run.made.items()]


def _tex_number(judged: _Judged, system: System, metric: str) -> str:
    figure = judged.figure(system, metric)
    if not math.isfinite(figure.value):
        return "--"
    number = f"{100 * figure.value:.1f}"
    return rf"\textbf{{{number}}}" if judged.is_best(figure, metric) else number


def _one_line(text: str) -> str:
    """Without line breaks of any kind, which would end a comment."""
    return " ".join(text.split())


_TEX = str.maketrans(
    {letter: rf"\{letter}" for letter in "&%$#_{}"}
    | {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    | {"<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}"}
)


def _escaped(text: str) -> str:
    return _one_line(text).translate(_TEX)
