"""How what captions say is told: tables with a row for each way of asking, by its name."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from lookalike.evaluation.captioning.accuracy import Measured
from lookalike.evaluation.intervals import Interval


@dataclass(frozen=True, slots=True)
class Table:
    """Headings, and rows of as many cells; below it lines of text."""

    headings: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    below: tuple[str, ...] = ()


def tables(
    found: Mapping[str, Measured], at_once: int, prices: tuple[float, float] | None = None
) -> Iterator[Table]:
    """What is said, what checking makes of it, what it costs, and what is said by attribute.

    `prices` are of a million tokens read and written.
    """
    yield _said(found)
    yield _checking(found)
    yield _cost(found, at_once, prices)
    yield _attributes(found)


def _said(found: Mapping[str, Measured]) -> Table:
    rows = tuple(
        (
            name,
            f"{each.captions:,}",
            f"{sum(each.failed.values()):,}" + (f" ({_kinds(each.failed)})" if each.failed else ""),
            _number(each.claims),
            _number(each.believed),
            _interval(each.said.coverage),
            _interval(each.said.accuracy),
            _interval(each.said.believed_coverage),
            _interval(each.said.believed_accuracy),
        )
        for name, each in found.items()
    )
    below = tuple(
        f"{name}: replies of no use: {_kinds(each.faults)}" for name, each in found.items() if each.faults
    )
    headings = ("asked by", "captions", "failed", "claims", "believed", "coverage", "accuracy")
    return Table((*headings, "believed coverage", "believed accuracy"), rows, below)


def _checking(found: Mapping[str, Measured]) -> Table:
    rows = []
    for name, each in found.items():
        for check in each.checks:
            sure = (each.true_confidence, each.false_confidence) if check.name == "all" else ()
            rows.append(
                (
                    name,
                    check.name,
                    _interval(check.false_passed),
                    _interval(check.true_stopped),
                    f"{check.asked:,}",
                    _interval(check.asked_false_passed),
                    _interval(check.asked_true_stopped),
                    *([_number(value, 3) for value in sure] or ["", ""]),
                )
            )
    headings = ("checking", "by", "false let through", "true held back", "has a say in")
    of_these = ("of these: false let through", "true held back")
    return Table((*headings, *of_these, "confidence of true", "of false"), tuple(rows))


def _cost(found: Mapping[str, Measured], at_once: int, prices: tuple[float, float] | None) -> Table:
    rows = []
    for name, each in found.items():
        cost = each.cost
        row = [name, _number(cost.calls), _number(cost.tokens_in, 0), _number(cost.tokens_out, 0)]
        row += [
            _number(cost.p50_s, 3),
            _number(cost.p95_s, 3),
            _number(cost.first_s, 3),
            f"{cost.made:,}",
            _number(1e3 * cost.calls, 0),
        ]
        row += [
            _number(1e3 * (cost.tokens_in + cost.tokens_out), 0),
            _number(1e3 * cost.all_s / each.captions, 1),
        ]
        if prices is not None:
            row.append(_number((cost.tokens_in * prices[0] + cost.tokens_out * prices[1]) / 1e3, 3))
        rows.append(tuple(row))
    headings = ("cost of a caption", "calls", "tokens read", "written", "p50 s", "p95 s", "first token s")
    headings += ("calls made now", "per 1,000: calls", "tokens", "s", *(() if prices is None else ("money",)))
    below = (
        f"Seconds with {at_once} at once, of captions for which nothing came out of the cache; calls and "
        "tokens as if nothing ever had."
    )
    return Table(headings, tuple(rows), (below,))


def _attributes(found: Mapping[str, Measured]) -> Table:
    """An attribute a row; for each way of asking coverage, accuracy, and the accuracy of what is believed."""
    rows = []
    for attribute in next(iter(found.values())).by_attribute:
        told = [each.by_attribute[attribute] for each in found.values()]
        cells = [(said.coverage, said.accuracy, said.believed_accuracy) for said in told]
        rows.append(
            (
                attribute,
                f"{told[0].coverage.n:,}",
                *(" ".join(_number(each.mean) for each in cell) for cell in cells),
            )
        )
    below = "Coverage, accuracy and believed accuracy of each."
    return Table(("attribute", "annotated", *found), tuple(rows), (below,))


def _kinds(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{kind} {count:,}" for kind, count in sorted(counts.items()))


def _interval(found: Interval) -> str:
    if math.isnan(found.mean):
        return "–"
    return f"{found.mean:.3f} [{found.low:.3f}, {found.high:.3f}]"


def _number(value: float, digits: int = 2) -> str:
    return "–" if math.isnan(value) else f"{value:,.{digits}f}"
