"""Pages that need nothing but themselves: templates, the axes of plots, and how numbers are written.

A page is one HTML file without script, font or address: it opens from a mail, an archive or a stick.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from lookalike.errors import BadInput, MissingExtra
from lookalike.evaluation.runs import write_whole

NOTHING = "–"  # where there is no number
_STEPS = (1, 2, 5, 10)


@dataclass(frozen=True, slots=True)
class Axis:
    """A line from `low` to `high`, both round numbers, with `ticks` on it."""

    low: float
    high: float
    ticks: tuple[float, ...]

    @classmethod
    def over(cls, values: Iterable[float]) -> Self:
        """The shortest axis with round ends that holds all values; 0 to 1 where there are none."""
        finite = [value for value in values if math.isfinite(value)]
        low, high = (min(finite), max(finite)) if finite else (0.0, 1.0)
        rough = max(high - low, 0.01) / 4
        power = math.floor(math.log10(rough))
        times = next(times for times in _STEPS if times * 10.0**power >= rough * 0.999)
        step = times * 10.0**power
        first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
        last = max(last, first + 1)
        # Rounded, since 3 * 0.1 is 0.30000000000000004 and would be printed so.
        ticks = tuple(round(place * step, 12) for place in range(first, last + 1))
        return cls(ticks[0], ticks[-1], ticks)

    def at(self, value: float) -> str:
        """Where a value lies, in per cent of the axis from its low end."""
        return f"{100 * (value - self.low) / (self.high - self.low):.2f}"


def save_page(template: str, values: dict[str, Any], path: Path) -> None:
    """Fill one of the templates beside this file and write it, whole or not at all.

    Whatever comes from data is escaped. BadInput where the file cannot be written, MissingExtra without
    jinja2.
    """
    try:
        import jinja2
    except ImportError as error:
        raise MissingExtra("the report", "report") from error
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {
        "percent": percent, "points": points, "p_value": p_value, "tick": tick, "count": count,
        "ms": milliseconds, "bytes": size, "plainly": plainly,
    }  # fmt: skip
    page = environment.get_template(template).render(values)
    try:
        write_whole(path, page.encode("utf-8", "backslashreplace").decode())  # odd bytes of file names
    except OSError as error:
        raise BadInput(f"{path}: cannot be written: {error.strerror or error}") from error


def percent(value: float | None) -> str:
    """0.4123 -> 41.2"""
    return NOTHING if value is None or not math.isfinite(value) else f"{100 * value:.1f}"


def points(value: float | None) -> str:
    """A difference: 0.031 -> +3.1, with a real minus sign where it is negative."""
    if value is None or not math.isfinite(value):
        return NOTHING
    return f"{round(100 * value, 1) + 0:+.1f}".replace("-", "−")  # + 0: no minus before nothing


def p_value(p: float) -> str:
    """0.0213 -> 0.021; < 0.001 below that."""
    if not math.isfinite(p):
        return NOTHING
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def tick(value: float) -> str:
    """A tick's label, in per cent: 0.25 -> 25"""
    return f"{100 * value:.6g}".replace("-", "−")


def count(value: int) -> str:
    return f"{value:,}"


def milliseconds(value: float) -> str:
    """Three digits that count: 0.0123, 1.23, 12.3, 123"""
    if not math.isfinite(value):
        return NOTHING
    return f"{value:.0f}" if value >= 99.5 else f"{value:.3g}"


def size(number: float) -> str:
    """1234 -> 1.23 kB"""
    units = ["B", "kB", "MB", "GB", "TB"]
    while number >= 999.5 and len(units) > 1:
        number, units = number / 1000, units[1:]
    return f"{number:.3g} {units[0]}"


def plainly(value: object) -> str:
    """A small table as words: {"beta": 0.15, "neighbours": 9} -> beta 0.15, neighbours 9"""
    if isinstance(value, dict):
        return ", ".join(f"{name} {plainly(part)}" for name, part in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(plainly(part) for part in value)
    return f"{value:g}" if isinstance(value, float) else str(value)
