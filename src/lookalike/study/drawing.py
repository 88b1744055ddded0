"""Figures of a study as SVG files of their own: on a card, in light or dark as the reader's system is."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import StringIO
from itertools import accumulate
from textwrap import wrap
from typing import TYPE_CHECKING, Any

from lookalike.errors import BadInput, MissingExtra

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_INK, _MUTED, _GRID, _PAPER = "#23272f", "#5b6472", "#dfe3e8", "#fbfbfa"
# Told apart with normal sight and with either kind of red-green blindness, and 3:1 on the card.
_SERIES = ("#3b78e0", "#9c2f0a", "#14926a", "#4a17b0", "#b08a10", "#c23f97")
_DARK = {
    _INK: "#e6e8eb", _MUTED: "#a7b0bb", _GRID: "#353b44", _PAPER: "#1b1f24",
    **dict(zip(_SERIES, ("#c3d2fd", "#f17455", "#aaf8d1", "#ae88fc", "#f9ab10", "#f155a3"), strict=True)),
}  # fmt: skip
_COMPARED = ("-", (0, (4, 3)))  # the styles of the line to compare with and of the margin below it
_MARKS = ("o", "s", "D", "^", "v", "P")
_WIDTH, _EDGE, _LETTERS, _HEAD = 800.0, 24.0, 12.0, 15.0  # pixels: the card, its padding, sizes of text
_LEADING = 15.0  # pixels from line to line


@dataclass(frozen=True, slots=True)
class Chart:
    """What a figure says. `about` describes it for those who cannot see it.

    `line` is a value to compare with, `margin` how far below it still counts as good: both are drawn.
    """

    title: str
    about: str
    across: str  # the axes' labels
    up: str = ""
    logarithmic: bool = False  # the axis across
    line: float | None = None
    margin: float | None = None


@dataclass(frozen=True, slots=True)
class Series:
    """A line through points (x, y, low, high), by x; low and high are nan where there is no interval."""

    label: str
    points: Sequence[tuple[float, float, float, float]]  # none: not run
    dashed: bool = False


@dataclass(frozen=True, slots=True)
class Dot:
    """A labelled value with its interval; nan where it was not run."""

    label: str
    value: float
    low: float = math.nan
    high: float = math.nan
    strong: bool = False


def chart(about: Chart, series: Sequence[Series]) -> str:
    """An SVG file with a line for each of 1 to 6 series, labelled where it ends.

    Points at one place stand a little apart, so that their intervals can be seen. A series without points is
    named as not run. The same arguments give the same text. BadInput for more series than can be told apart
    or a place on a logarithmic axis that is not above 0; MissingExtra without matplotlib.
    """
    if not 1 <= len(series) <= len(_MARKS):
        raise BadInput(f"{len(series)} series in one figure: needs 1 to {len(_MARKS)}")
    places = sorted({point[0] for each in series for point in _told(each)})
    if about.logarithmic and places and places[0] <= 0:
        raise BadInput(f"{places[0]:g} on a logarithmic axis: needs numbers above 0")
    with _matplotlib(about):
        from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

        named = [each.label if _told(each) else f"{each.label}: not run" for each in series]
        labels = ["\n".join(wrap(name, 30)) for name in named]
        room = max(map(_breadth, labels)) + 58
        tall = max(300.0, sum(_tall(label) + 4 for label in labels) + 20)
        sheet = _Sheet(about, below=tall + (20 if about.up else 0))
        left, top = _EDGE + 44, sheet.top + (20 if about.up else 0)
        wide = _WIDTH - _EDGE - room - left
        sheet.say(_EDGE, top - 9, about.up, color=_MUTED, va="bottom")
        sheet.say(left + wide / 2, top + tall + 26, about.across, color=_MUTED, ha="center")
        axes = sheet.axes(left, top, wide, tall)
        if about.logarithmic:
            axes.set_xscale("log")
        axes.set_xlim(*_limits(places, about.logarithmic))
        heights = [height for each in series for point in _told(each) for height in point[1:]]
        compared = _compared(about)
        axes.set_ylim(*_limits([*filter(math.isfinite, heights), *compared]))
        axes.yaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 2.5, 5, 10]))
        axes.grid(axis="y", color=_GRID, linewidth=1)
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(FuncFormatter(lambda place, _: _number(place)))
        axes.xaxis.set_major_locator(FixedLocator(_apart(axes, places)))
        for value, style in zip(compared, _COMPARED, strict=False):
            axes.axhline(value, color=_MUTED, linewidth=1, linestyle=style, zorder=1)
        ends = [_drawn(sheet, axes, each, number, len(series)) for number, each in enumerate(series)]
        if len(compared) > 1:
            labels.append("margin")
            ends.append((left + wide, float(axes.transData.transform((1, compared[1]))[1])))
        wanted = [sheet.height - end[1] if end else top + tall for end in ends]
        x = left + wide + 14
        for number, y in enumerate(_spread(wanted, [_tall(label) + 4 for label in labels], top, top + tall)):
            told = number < len(series) and ends[number] is not None
            colour = _SERIES[number] if told else _MUTED
            if end := ends[number]:
                lead = {"color": colour, "linewidth": 1, "linestyle": (0, (1, 2))}
                sheet.stroke((end[0] + 6, x if told else x + 24), (wanted[number], y), **lead)
            if told:
                sheet.stroke((x, x + 11, x + 22), (y, y, y), markevery=[1], **_look(series[number], number))
            sheet.say(x + 28, y, labels[number], va="center", color=_INK if told else _MUTED)
        return sheet.svg()


def dots(about: Chart, rows: Sequence[Dot]) -> str:
    """An SVG file with a row for each value, in the given order: label, dot and interval.

    Strong rows stand out; a value that is not finite is named as not run. The same arguments give the same
    text. BadInput without rows; MissingExtra without matplotlib.
    """
    if not rows:
        raise BadInput("a figure without rows")
    with _matplotlib(about):
        from matplotlib.ticker import MaxNLocator

        labels = ["\n".join(wrap(row.label, 44)) for row in rows]
        room = max(_breadth(label, row.strong) for label, row in zip(labels, rows, strict=True)) + 20
        talls = [_tall(label) + 12 for label in labels]
        compared = _compared(about)
        above = 18 if len(compared) > 1 else 0
        sheet = _Sheet(about, below=sum(talls) + above)
        left, top = _EDGE + room, sheet.top + above
        wide = _WIDTH - _EDGE - left - 8
        axes = sheet.axes(left, top, wide, sum(talls))
        values = [value for row in rows for value in (row.value, row.low, row.high)]
        axes.set_xlim(*_limits([*filter(math.isfinite, values), *compared]))
        axes.set_ylim(sum(talls), 0)
        axes.yaxis.set_ticks([])
        axes.xaxis.set_major_locator(MaxNLocator(7, steps=[1, 2, 2.5, 5, 10]))
        axes.grid(axis="x", color=_GRID, linewidth=1)
        sheet.say(left + wide / 2, top + sum(talls) + 26, about.across, color=_MUTED, ha="center")
        for value, style in zip(compared, _COMPARED, strict=False):
            axes.axvline(value, color=_MUTED, linewidth=1.2, linestyle=style, zorder=1)
        for value in compared[1:]:
            axes.text(value, -5, "margin", color=_MUTED, ha="center", va="bottom", fontsize=_LETTERS - 1)
        for row, label, middle in zip(rows, labels, _middles(talls), strict=True):
            sheet.say(_EDGE, top + middle, label, va="center", weight="bold" if row.strong else "normal")
            colour = _SERIES[0] if row.strong else _MUTED
            if not math.isfinite(row.value):
                sheet.say(left + 6, top + middle, "not run", va="center", color=_MUTED)
                continue
            if math.isfinite(row.low + row.high):
                axes.hlines(middle, row.low, row.high, color=colour, linewidth=3 if row.strong else 2)
            axes.plot(
                [row.value], [middle], color=colour, marker="D" if row.strong else "o", markersize=8,
                markeredgecolor=_PAPER, markeredgewidth=1, clip_on=False, zorder=3,
            )  # fmt: skip
        return sheet.svg()


@contextmanager
def _matplotlib(about: Chart) -> Iterator[None]:
    """Its own rules while a figure is drawn: a reader's matplotlibrc does not count, and ids are the same."""
    try:
        import matplotlib
    except ImportError as error:
        raise MissingExtra("a figure", "report") from error
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(
            {
                "svg.fonttype": "none", "svg.hashsalt": about.title, "text.parse_math": False,
                "font.size": _LETTERS, "figure.dpi": 72, "axes.unicode_minus": True,
            }
        )  # fmt: skip
        yield


class _Sheet:
    """A card with a title, measured in pixels from its upper left corner. `top` is where the rest begins."""

    def __init__(self, about: Chart, below: float) -> None:
        from matplotlib.figure import Figure

        self.about = about
        lines = wrap(about.title, 76)
        self.top = _EDGE + 20 * len(lines) + 14
        self.height = self.top + below + 52  # the axis's numbers and label
        self.figure = Figure(figsize=(_WIDTH / 72, self.height / 72), facecolor="none")  # at 72 dpi
        for number, line in enumerate(lines):
            self.say(_EDGE, _EDGE + 20 * number, line, fontsize=_HEAD, weight="bold")

    def say(self, x: float, y: float, text: str, **style: Any) -> None:
        x, y = self.place(x, y)
        self.figure.text(x, y, text, **{"color": _INK, "va": "top"} | style)

    def stroke(self, x: Sequence[float], y: Sequence[float], **style: Any) -> None:
        from matplotlib.lines import Line2D

        across, up = zip(*map(self.place, x, y), strict=True)
        self.figure.add_artist(Line2D(across, up, transform=self.figure.transFigure, **style))

    def place(self, x: float, y: float) -> tuple[float, float]:
        """The same in matplotlib's shares of the figure, from its lower left corner."""
        return x / _WIDTH, 1 - y / self.height

    def axes(self, left: float, top: float, wide: float, tall: float) -> Axes:
        corner = self.place(left, top + tall)
        axes = self.figure.add_axes((*corner, wide / _WIDTH, tall / self.height), facecolor="none")
        axes.set_axisbelow(True)
        axes.tick_params(length=0, colors=_MUTED, pad=7)
        for side in ("top", "right", "left"):
            axes.spines[side].set_visible(False)
        axes.spines["bottom"].set_color(_MUTED)
        return axes

    def svg(self) -> str:
        """The file, with the card behind, its words for those who cannot see it, and its dark colours."""
        from xml.sax.saxutils import escape

        file = StringIO()
        nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        self.figure.savefig(file, format="svg", metadata=nothing)
        drawn = file.getvalue()
        body = drawn[drawn.index("<svg") :]
        body = body[body.index(">") + 1 :].replace("xlink:href", "href")
        body = re.sub(r"font-family: [^;\"]*", "font-family: system-ui, Helvetica, Arial, sans-serif", body)
        body = "\n".join(line.rstrip() for line in body.splitlines())
        size = f"{_WIDTH:g} {self.height:g}"
        wide, tall = size.split()
        dark = "".join(
            f'[style*="{what}: {light}"]{{{what}:{other}!important}}'
            for light, other in _DARK.items()
            for what in ("fill", "stroke")
        )
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{wide}" height="{tall}" viewBox="0 0 {size}"'
            f' role="img" aria-labelledby="title about">\n'
            f'<title id="title">{escape(self.about.title)}</title>\n'
            f'<desc id="about">{escape(self.about.about)}</desc>\n'
            f"<style>@media (prefers-color-scheme: dark) {{{dark}}}</style>\n"
            f'<rect x="0.5" y="0.5" width="{_WIDTH - 1:g}" height="{self.height - 1:g}" rx="10"'
            f' style="fill: {_PAPER}; stroke: {_GRID}"/>{body}\n'
        )


def _drawn(sheet: _Sheet, axes: Axes, series: Series, number: int, of: int) -> tuple[float, float] | None:
    """Draws a series; where it ends, in pixels from the lower left corner, None where it has no points."""
    from matplotlib.transforms import offset_copy

    points = _told(series)
    shifted = offset_copy(axes.transData, sheet.figure, x=3 * (number - (of - 1) / 2), units="points")
    bars = [(x, low, high) for x, _, low, high in points if math.isfinite(low + high)]
    if bars:
        axes.vlines(
            *zip(*bars, strict=True), color=_SERIES[number], linewidth=1.6, alpha=0.6, transform=shifted
        )
    if not points:
        return None
    across, up, _, _ = zip(*points, strict=True)
    axes.plot(across, up, transform=shifted, clip_on=False, zorder=3, **_look(series, number))
    x, y = shifted.transform((across[-1], up[-1]))
    return float(x), float(y)


def _look(series: Series, number: int) -> dict[str, Any]:
    return {
        "color": _SERIES[number], "linestyle": (0, (4, 2)) if series.dashed else "-", "linewidth": 2,
        "marker": _MARKS[number], "markersize": 7.5, "markeredgecolor": _PAPER, "markeredgewidth": 1,
    }  # fmt: skip


def _told(series: Series) -> list[tuple[float, float, float, float]]:
    """Its points that have a value, by x."""
    told = (point for point in series.points if math.isfinite(point[1]))
    return sorted(told, key=lambda point: point[0])


def _compared(about: Chart) -> list[float]:
    """The line to compare with and, below it, the margin."""
    if about.line is None:
        return []
    return [about.line] if about.margin is None else [about.line, about.line - about.margin]


def _limits(values: Sequence[float], logarithmic: bool = False) -> tuple[float, float]:
    """The ends of an axis that shows all of these with a little room on either side."""
    if not values:
        return (1, 10) if logarithmic else (0, 1)
    low, high = min(values), max(values)
    if logarithmic:
        room = (high / low) ** 0.05 if high > low else 2
        return low / room, high * room
    room = 0.05 * (high - low) if high > low else 0.5
    return low - room, high + room


def _apart(axes: Axes, places: Sequence[float]) -> list[float]:
    """Those of the places in order whose numbers do not run into the one before."""
    kept: list[float] = []
    free = -math.inf  # pixels
    for place in places:
        x = float(axes.transData.transform((place, 0))[0])
        half = _breadth(_number(place)) / 2
        if x - half >= free:
            kept.append(place)
            free = x + half + 8
    return kept


def _spread(wanted: Sequence[float], talls: Sequence[float], top: float, bottom: float) -> list[float]:
    """Middles of labels near where they are wanted, from top to bottom, none over another.

    Pushing them down and then up keeps them apart, so does up and then down, and so does the mean of both.
    """
    order = sorted(range(len(wanted)), key=lambda place: wanted[place])

    def pushed(middles: Sequence[float], down: bool) -> list[float]:
        moved, free = list(middles), top if down else bottom
        for place in order if down else reversed(order):
            half = talls[place] / 2 if down else -talls[place] / 2
            moved[place] = max(moved[place], free + half) if down else min(moved[place], free + half)
            free = moved[place] + half
        return moved

    first, second = pushed(pushed(wanted, True), False), pushed(pushed(wanted, False), True)
    return [(one + other) / 2 for one, other in zip(first, second, strict=True)]


def _middles(talls: Sequence[float]) -> list[float]:
    """Of rows below one another."""
    return [below - tall / 2 for below, tall in zip(accumulate(talls), talls, strict=True)]


def _number(value: float) -> str:
    return f"{value:,.6g}"


def _tall(text: str) -> float:
    """How high lines of text are, in pixels."""
    return _LEADING * (text.count("\n") + 1)


def _breadth(text: str, strong: bool = False) -> float:
    """How wide the widest line is in pixels, in matplotlib's own wide letters: no system's are much wider."""
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import TextPath

    letters = FontProperties(weight="bold" if strong else "normal")
    return max(
        TextPath((0, 0), line, _LETTERS, prop=letters).get_extents().width for line in text.split("\n")
    )
