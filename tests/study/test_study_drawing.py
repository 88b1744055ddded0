"""Figures are read as a reader's browser does: parsed, with their words, places and colours."""

import math
import re
from collections.abc import Callable
from itertools import pairwise
from xml.etree import ElementTree

import pytest

pytest.importorskip("matplotlib")

from lookalike.errors import BadInput
from lookalike.study.drawing import Chart, Dot, Series, chart, dots

SVG = "{http://www.w3.org/2000/svg}"
NAN = math.nan
PLAIN = Chart("A title", "What is seen", "across", "up")
LONG = "wrong in the gallery and at the query & <guarded> for $5 or $6"


def series(label: str, heights: list[float], places: list[float] | None = None, **more: bool) -> Series:
    places = places or [10.0 * number for number in range(len(heights))]
    return Series(label, [(x, y, y - 0.1, y + 0.1) for x, y in zip(places, heights, strict=True)], **more)


def many(count: int) -> list[Series]:
    """So many series that all end at one height."""
    return [
        series(f"{LONG} {number}", [0.1 * number, 0.3, 0.5], dashed=number % 2 > 0) for number in range(count)
    ]


def words(svg: str) -> str:
    return " ".join(text.text or "" for text in ElementTree.fromstring(svg).iter(f"{SVG}text"))


def placed(svg: str) -> list[tuple[str, tuple[float, float]]]:
    """Every line of text, and where it stands."""
    found = []
    for text in ElementTree.fromstring(svg).iter(f"{SVG}text"):
        place = re.findall(r"-?[\d.]+", text.get("transform", "").partition("translate")[2])
        x, y = place[:2] if place else (text.get("x", ""), text.get("y", ""))
        found.append((text.text or "", (float(x), float(y))))
    return found


def texts(svg: str) -> dict[str, tuple[float, float]]:
    """Where a line of text stands that is there once."""
    return dict(placed(svg))


def marks(svg: str, colour: str) -> list[tuple[float, float]]:
    """The middles of the marks of a colour, in the order in which they were drawn."""
    uses = ElementTree.fromstring(svg).iter(f"{SVG}use")
    return [
        (float(use.get("x", "")), float(use.get("y", "")))
        for use in uses
        if f"fill: {colour}" in use.get("style", "")
    ]


def first_colour(svg: str) -> str:
    """Of the marks of the series that is drawn first."""
    found = re.search(r"<use [^>]*fill: (#[0-9a-f]{6}); stroke: #fbfbfa", svg)
    assert found
    return found[1]


def compared() -> str:
    return chart(Chart("t", "a", "x", "y", line=0.5, margin=0.05), [*many(5), Series("absent", [])])


def rowed() -> str:
    return dots(Chart("t", "a", "x", line=0, margin=0.5), [Dot(LONG, 1, 0.5, 1.5, True), Dot("b", NAN)])


@pytest.fixture(scope="module")
def figures() -> dict[str, str]:
    return {
        **{f"{count} series": chart(PLAIN, many(count)) for count in range(1, 7)},
        "compared": compared(),
        "dots": rowed(),
        "nothing": chart(PLAIN, [Series("absent", [])]),
    }


def test_the_same_arguments_give_the_same_bytes_whatever_a_reader_s_own_settings_are(
    figures: dict[str, str],
) -> None:
    import matplotlib

    with matplotlib.rc_context({"font.size": 30, "axes.grid": True, "svg.fonttype": "path"}):
        assert (compared(), rowed()) == (figures["compared"], figures["dots"])
        assert matplotlib.rcParams["font.size"] == 30


def test_every_figure_is_a_file_of_its_own_with_a_title_and_a_description(figures: dict[str, str]) -> None:
    for svg in figures.values():
        root = ElementTree.fromstring(svg)
        assert root.tag == f"{SVG}svg" and root.get("role") == "img"
        ids = [element.get("id") for element in root.iter() if element.get("id")]
        assert len(ids) == len(set(ids)) and {"title", "about"} <= set(ids)
        assert root.get("viewBox") == f"0 0 {root.get('width')} {root.get('height')}"
        assert not re.search(r"\b(nan|inf)\b", svg)
        used = set(re.findall(r'href="#([^"]+)"|url\(#([^)]+)\)', svg))
        assert {one or other for one, other in used} <= set(ids)
        assert "http" not in svg.replace("http://www.w3.org/2000/svg", "")


def test_every_colour_has_one_for_the_dark(figures: dict[str, str]) -> None:
    for svg in figures.values():
        rules, body = (
            re.search(r"<style>(.*?)</style>", svg),
            re.sub(r"<style.*?</style>", "", svg, flags=re.DOTALL),
        )
        assert rules and "prefers-color-scheme: dark" in rules[1]
        painted = set(re.findall(r"(?:fill|stroke): #[0-9a-f]{6}", body))
        assert painted and painted <= set(re.findall(r'\*="((?:fill|stroke): #[0-9a-f]{6})"', rules[1]))


@pytest.mark.parametrize("count", range(1, 7))
def test_labels_are_whole_and_none_covers_another(figures: dict[str, str], count: int) -> None:
    svg = figures[f"{count} series"]
    for each in many(count):
        assert each.label in words(svg)
    height = float(ElementTree.fromstring(svg).get("height", ""))
    places = [place for _, place in placed(svg)]
    for left in {x for x, _ in places}:
        ys = sorted(y for x, y in places if x == left)
        assert all(after - before >= 12 for before, after in pairwise(ys))
        assert ys[0] > 0 and ys[-1] < height


def test_marks_stand_where_the_numbers_say() -> None:
    svg = chart(PLAIN, [series("a", [0.2, 0.4, 0.3], [0, 10, 40])])
    (x0, y0), (x1, y1), (x2, y2) = marks(svg, first_colour(svg))[:3]
    assert x2 - x0 == pytest.approx(4 * (x1 - x0)) and x1 > x0
    assert y1 - y0 == pytest.approx(2 * (y2 - y0)) and y1 < y0


def test_series_at_one_place_stand_apart() -> None:
    svg = chart(PLAIN, [series(label, [0.2, 0.4]) for label in ("a", "b")])
    lines = re.findall(
        r'<use href="#\w+" x="([\d.]+)" y="([\d.]+)" style="fill: (#[0-9a-f]+); stroke: #fbfbfa', svg
    )
    colours = sorted({colour for *_, colour in lines})
    assert len(colours) == 2
    (one, y), (other, same) = (marks(svg, colour)[0] for colour in colours)
    assert y == same and abs(one - other) == pytest.approx(3)


def test_a_logarithmic_axis_has_equal_steps_for_equal_ratios() -> None:
    svg = chart(Chart("t", "a", "x", "y", logarithmic=True), [series("a", [1, 1, 1], [20, 200, 2000])])
    (x0, _), (x1, _), (x2, _) = marks(svg, first_colour(svg))[:3]
    assert x2 - x1 == pytest.approx(x1 - x0)
    assert {"20", "200", "2,000"} <= set(texts(svg))
    with pytest.raises(BadInput, match="above 0"):
        chart(Chart("t", "a", "x", "y", logarithmic=True), [series("a", [1, 1], [0, 200])])


def test_numbers_that_would_run_into_one_another_are_left_out() -> None:
    shown = texts(chart(PLAIN, [series("a", [1, 2, 3], [1000, 1001, 2000])]))
    assert {"1,000", "2,000"} <= set(shown) and "1,001" not in shown


def test_what_was_not_run_is_said() -> None:
    svg = chart(PLAIN, [series("a", [1, 2]), Series("b", []), Series("c", [(1, NAN, NAN, NAN)])])
    assert "b: not run" in words(svg) and "c: not run" in words(svg) and "a: not run" not in words(svg)
    svg = dots(PLAIN, [Dot("a", 1), Dot("b", NAN)])
    assert words(svg).count("not run") == 1
    assert texts(svg)["not run"][1] == pytest.approx(texts(svg)["b"][1], abs=1)


def test_rows_are_in_order_with_dots_and_intervals_on_one_scale() -> None:
    rows = [Dot("low", 0.4), Dot("middle", 0.5, 0.4, 0.6), Dot("high", 0.6)]
    svg = dots(PLAIN, rows)
    (low, y0), (middle, y1), (high, y2) = marks(svg, first_colour(svg))
    assert y0 < y1 < y2 and middle == pytest.approx((low + high) / 2)
    ends = re.search(r"LineCollection[^>]*>\s*<path d=\"M ([\d.]+) ([\d.]+)\s*L ([\d.]+) ([\d.]+)", svg)
    assert ends and [float(end) for end in ends.groups()] == pytest.approx([low, y1, high, y1], abs=1e-4)
    places = texts(svg)
    assert places["low"][1] < places["middle"][1] < places["high"][1]


def test_the_line_and_the_margin_below_it_are_drawn() -> None:
    rows = [Dot("a", -1.0), Dot("b", 1.0)]
    svg = dots(Chart("t", "a", "x", line=0, margin=0.5), rows)
    (left, _), (right, _) = marks(svg, first_colour(svg))
    assert texts(svg)["margin"][0] < (left + right) / 2
    upright = [
        float(x) for x, same in re.findall(r'd="M ([\d.]+) [\d.]+\s*L ([\d.]+) [\d.]+\s*"', svg) if x == same
    ]
    for value in (0, -0.5):
        assert any(x == pytest.approx(left + (right - left) * (value + 1) / 2, abs=0.01) for x in upright)
    assert "margin" not in texts(dots(Chart("t", "a", "x", line=0), rows))
    assert "margin" in texts(chart(Chart("t", "a", "x", "y", line=0, margin=0.5), [series("a", [1, 2])]))


@pytest.mark.parametrize("count", [3, 14])
def test_rows_with_long_labels_get_the_room_that_they_need(count: int) -> None:
    rows = [
        Dot(f"{LONG} {number}", number, number - 1, number + 1, number % 2 > 0) for number in range(count)
    ]
    svg = dots(Chart(LONG, LONG, "x"), rows)
    assert all(row.label in words(svg) for row in rows) and words(svg).count(LONG) == count + 1
    heights = sorted(y for _, (x, y) in placed(svg) if x == texts(svg)[LONG][0])
    assert all(after - before >= 12 for before, after in pairwise(heights))


@pytest.mark.parametrize(
    "draw", [lambda: chart(PLAIN, []), lambda: chart(PLAIN, many(7)), lambda: dots(PLAIN, [])]
)
def test_what_cannot_be_drawn_is_refused(draw: Callable[[], str]) -> None:
    with pytest.raises(BadInput):
        draw()
