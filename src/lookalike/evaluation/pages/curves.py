"""Curves as SVG that takes its colours and its letters from the page it stands in."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from io import StringIO

from lookalike.errors import MissingExtra

_INK, _GRID, _PAPER = "#0a0100", "#0a0200", "#0a0300"
_SERIES = ("#0a0001", "#0a0002", "#0a0003", "#0a0004")
_MARKS = ("o", "s", "D", "^")  # as in the templates' legend
_STYLES = ("-", (0, (5, 2)), (0, (2, 1.5)), (0, (6, 2, 1.5, 2)))
_COLOURS = {  # matplotlib wants colours, the page has names for them in the light and in the dark
    _INK: "var(--muted)",
    _GRID: "var(--line)",
    _PAPER: "var(--card)",
    **{colour: f"var(--series-{place})" for place, colour in enumerate(_SERIES)},
}
SERIES = len(_SERIES)  # that can be told apart


@dataclass(frozen=True, slots=True)
class Plot:
    """What a plot says: its name (an id), a title and a description for those who cannot see it."""

    name: str
    title: str
    about: str
    across: str  # the axes' labels
    up: str


def curves(plot: Plot, lines: Sequence[Iterable[tuple[float, float]]], counted: bool = False) -> str:
    """One <svg> with a line for each of at most SERIES systems, shares in per cent.

    `counted` says that the horizontal axis counts (k of recall@k): it is then logarithmic and its ticks
    are the given values. The same lines give the same text. MissingExtra without matplotlib.
    """
    try:
        import matplotlib
        from matplotlib.figure import Figure
        from matplotlib.ticker import FixedLocator, FuncFormatter, MultipleLocator, NullLocator
    except ImportError as error:
        raise MissingExtra("the report", "report") from error

    file = StringIO()
    with matplotlib.rc_context():  # in here a reader's own matplotlibrc does not count
        matplotlib.rcdefaults()
        matplotlib.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": plot.name, "font.size": 9})
        figure = Figure(figsize=(4.6, 3.2), facecolor="none")
        axes = figure.add_axes((0.115, 0.145, 0.865, 0.83), facecolor="none")
        places: set[float] = set()
        for number, line in enumerate(lines):
            across, up = zip(*line, strict=True) if (line := list(line)) else ((), ())
            places.update(across)
            axes.plot(
                across, up, color=_SERIES[number], linestyle=_STYLES[number], linewidth=1.8,
                marker=_MARKS[number], markersize=6, markeredgecolor=_PAPER, markeredgewidth=1,
                markevery=max(1, len(across) // 10), clip_on=False, zorder=3,
            )  # fmt: skip
        if counted:
            axes.set_xscale("log")
            axes.xaxis.set_major_locator(FixedLocator(_apart(places)))
            axes.xaxis.set_minor_locator(NullLocator())
            axes.xaxis.set_major_formatter(FuncFormatter(lambda k, _: f"{k:g}"))
        else:
            axes.set_xlim(0, 1)
            axes.xaxis.set_major_locator(MultipleLocator(0.2))
            axes.xaxis.set_major_formatter(FuncFormatter(lambda share, _: f"{100 * share:.0f}"))
        axes.set_ylim(0, 1)
        axes.yaxis.set_major_locator(MultipleLocator(0.2))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda share, _: f"{100 * share:.0f}"))
        axes.set_xlabel(plot.across, color=_INK)
        axes.set_ylabel(plot.up, color=_INK)
        axes.grid(color=_GRID, linewidth=0.8)
        axes.tick_params(length=0, colors=_INK, pad=5)
        for side in ("top", "right", "left"):
            axes.spines[side].set_visible(False)
        axes.spines["bottom"].set_color(_INK)
        nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(file, format="svg", metadata=nothing)
    return _inlined(file.getvalue(), plot)


def _apart(places: Iterable[float]) -> list[float]:
    """Those of the places on a logarithmic axis whose labels do not run into the one before."""
    kept: list[float] = []
    for place in sorted(places):
        if not kept or place >= 1.8 * kept[-1]:
            kept.append(place)
    return kept


def _inlined(svg: str, plot: Plot) -> str:
    """The drawing without its file's head, its ids made the page's own, described in words."""
    from markupsafe import escape

    body = svg[svg.index("<svg") :]
    body = body[body.index(">") + 1 :]
    body = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>", "", body, flags=re.DOTALL)  # a rule for all: *{…}
    body = re.sub(r"font-family: [^;\"]*;? ?", "", body)
    body = re.sub(r'(\bid="|xlink:href="#|url\(#)', rf"\g<1>{plot.name}-", body).replace("xlink:href", "href")
    body = re.sub(r"#0a0[0-9a-f]{3}", lambda found: _COLOURS[found[0]], body)
    box = re.search(r'viewBox="[^"]*"', svg)
    assert box is not None, "matplotlib writes one"
    return (
        f'<svg class="plot" {box[0]} role="img" aria-labelledby="{plot.name}-title {plot.name}-about">'
        f'<title id="{plot.name}-title">{escape(plot.title)}</title>'
        f'<desc id="{plot.name}-about">{escape(plot.about)}</desc>{body.strip()}'
    )
