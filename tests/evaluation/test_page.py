"""Axes and numbers as they are printed; curves that are words and lines only."""

import re
import sys
from xml.etree import ElementTree

import matplotlib
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lookalike.errors import BadInput, MissingExtra
from lookalike.evaluation.pages import page
from lookalike.evaluation.pages.curves import SERIES, Plot, curves
from lookalike.evaluation.pages.page import Axis, save_page

PLOT = Plot("some-curve", 'a "title" & <more>', "what it shows", "across", "up")
LINES = [[(1, 0.2), (10, 0.5), (100, 0.9)], [(1, 0.1), (10, 0.4), (100, 1.0)]]


@given(st.lists(st.floats(-1, 1), max_size=8))
def test_an_axis_holds_its_values_between_round_ends(values):
    axis = Axis.over(values)
    assert axis.low < axis.high
    assert all(axis.low - 1e-9 <= value <= axis.high + 1e-9 for value in values)
    assert (axis.low, axis.high) == (axis.ticks[0], axis.ticks[-1])
    assert all(len(page.tick(tick)) <= 6 for tick in axis.ticks)
    assert 2 <= len(axis.ticks) <= 7


def test_an_axis_says_where_values_lie():
    axis = Axis.over([0.12, 0.37])
    assert (axis.low, axis.high) == (0.1, 0.4)
    assert axis.at(0.1) == "0.00"
    assert axis.at(0.4) == "100.00"
    assert axis.at(0.25) == "50.00"
    assert Axis.over([]).ticks == Axis.over([0.0, 1.0, float("nan")]).ticks
    assert Axis.over([0.5, 0.5]).low < Axis.over([0.5, 0.5]).high


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        (page.percent(0.41234), "41.2"),
        (page.percent(1.0), "100.0"),
        (page.percent(None), "–"),
        (page.percent(float("nan")), "–"),
        (page.points(0.031), "+3.1"),
        (page.points(-0.031), "−3.1"),
        (page.points(-0.0001), "+0.0"),
        (page.points(float("nan")), "–"),
        (page.p_value(0.0004), "< 0.001"),
        (page.p_value(0.0213), "0.021"),
        (page.p_value(1.0), "1.000"),
        (page.p_value(float("nan")), "–"),
        (page.tick(0.25), "25"),
        (page.tick(-0.005), "−0.5"),
        (page.count(1234567), "1,234,567"),
        (page.milliseconds(0.01234), "0.0123"),
        (page.milliseconds(12.34), "12.3"),
        (page.milliseconds(99.7), "100"),
        (page.milliseconds(1234.5), "1234"),
        (page.size(512), "512 B"),
        (page.size(1234), "1.23 kB"),
        (page.size(999_700), "1 MB"),
        (page.size(2.5e15), "2.5e+03 TB"),
        (
            page.plainly({"beta": 0.15, "of": [1, 2], "how": {"deep": True}}),
            "beta 0.15, of 1, 2, how deep True",
        ),
    ],
)
def test_numbers_are_written_for_people(shown, expected):
    assert shown == expected


def test_curves_take_colours_and_letters_from_the_page():
    svg = curves(PLOT, LINES, counted=True)
    root = ElementTree.fromstring(svg)
    assert root.attrib["role"] == "img"
    assert [root[0].tag, root[1].tag] == ["title", "desc"]
    assert root[0].text == PLOT.title
    assert "http" not in svg
    assert "font-family" not in svg
    assert not re.search(r"#[0-9a-f]{6}\b", svg), "a colour of its own"
    assert {"var(--series-0)", "var(--series-1)", "var(--line)"} <= set(re.findall(r"var\([^)]*\)", svg))
    assert "var(--series-2)" not in svg
    words = [element.text for element in root.iter("text")]
    assert words[:3] == ["1", "10", "100"]
    assert {"across", "up", "100", "0"} <= set(words)


def test_the_places_of_a_curve_are_those_of_its_values():
    svg = curves(PLOT, [[(0, 0.0), (0.5, 0.25), (1, 1.0)]])
    path = next(p for p in re.findall(r'<path d="([^"]*)"[^>]*var\(--series-0\)', svg) if p.count("L") == 2)
    (x0, y0), (x1, y1), (x2, y2) = (
        [float(n) for n in pair] for pair in re.findall(r"([\d.]+) ([\d.]+)", path)
    )
    assert x1 - x0 == pytest.approx((x2 - x0) / 2, abs=1e-3)
    assert y0 - y1 == pytest.approx((y0 - y2) / 4, abs=1e-3)


def test_ticks_that_would_run_into_each_other_are_left_out():
    ks = [1, 2, 5, 10, 11]
    svg = curves(PLOT, [[(k, k / 20) for k in ks]], counted=True)
    words = [element.text for element in ElementTree.fromstring(svg).iter("text")]
    assert words[: words.index("across")] == ["1", "2", "5", "10"]


def test_no_curve_and_as_many_as_can_be_told_apart_are_drawn():
    for lines in ([], [[]], [LINES[0]] * SERIES):
        ElementTree.fromstring(curves(PLOT, lines, counted=True))


def test_a_readers_own_settings_neither_count_nor_change():
    plain = curves(PLOT, LINES)
    with matplotlib.rc_context({"font.size": 30, "svg.fonttype": "path", "axes.grid": False}):
        assert curves(PLOT, LINES) == plain
        assert matplotlib.rcParams["font.size"] == 30
        assert matplotlib.rcParams["svg.fonttype"] == "path"


@pytest.mark.parametrize("package", ["jinja2", "matplotlib"])
def test_a_missing_package_is_named_by_its_extra(package, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingExtra) as caught:
        if package == "jinja2":
            save_page("page.html.jinja", {}, tmp_path / "page.html")
        else:
            curves(PLOT, LINES)
    assert caught.value.hint == "pip install 'lookalike[report]'"


def test_a_page_that_cannot_be_written_is_one_line(tmp_path):
    with pytest.raises(BadInput, match="cannot be written: No such file or directory"):
        save_page("page.html.jinja", {}, tmp_path / "missing" / "page.html")
