"""Comparisons against figures worked out by hand, and every way in which runs cannot be compared."""

import json
import math
from dataclasses import replace

import pytest
from html_pages import check_sound, read
from made_runs import EMPTY, make_run, run_of, saved

from lookalike.errors import BadInput
from lookalike.evaluation.intervals import holm
from lookalike.evaluation.pages.compare import compare, write_comparison
from lookalike.evaluation.runs import Answer

HOSTILE = """<script>alert("1")</script> & 'q'"""


def answer(query, ap, rank, group=None):
    values = {"mAP": ap, "R@1": None if ap is None else float(rank == 1), "R@5": None if ap is None else 1.0}
    return Answer(query, group or query, {"all": values}, rank, None if rank is None else "g", 1, (), 1)


def run_with(folder, systems, **changes):
    """A run of systems given as {name: {query: (average precision, rank of the first right one)}}."""
    told = {
        name: [answer(query, *value) for query, value in queries.items()] for name, queries in systems.items()
    }
    queries = [{"item": query} for query in next(iter(systems.values()))]
    for table in ("queries", "gallery"):
        folder.mkdir(exist_ok=True)
        (folder / f"{table}.jsonl").write_text("")
    return saved(replace(run_of(told, queries, 4), **changes), told, folder)


A = {"q1": (1.0, 1), "q2": (0.5, 2), "q3": (0.25, 4), "q4": (None, None), "q5": (1.0, 1)}
B = {"q1": (0.5, 2), "q2": (1.0, 1), "q3": (1.0, 1), "q4": (None, None), "q5": (0.9, 1)}


@pytest.fixture
def both(tmp_path):
    run_with(tmp_path / "a", {"none": A})
    run_with(tmp_path / "b", {"none": B})
    return [(tmp_path / "a", None), (tmp_path / "b", None)]


def test_means_differences_and_flips_are_those_worked_out_by_hand(both):
    found = compare(both)
    assert [side.label for side in found.sides] == ["a", "b"]
    assert found.sides[0].means == {"mAP": 2.75 / 4, "R@1": 0.5, "R@5": 1.0}
    assert found.sides[1].means == {"mAP": 3.4 / 4, "R@1": 0.75, "R@5": 1.0}
    assert (found.queries, found.groups, found.judgement, found.headline) == (4, 4, "all", "mAP")
    assert [(each.of, each.than, each.metric) for each in found.differences] == [
        ("a", "b", "mAP"), ("a", "b", "R@1"), ("a", "b", "R@5"),
    ]  # fmt: skip
    assert [each.value for each in found.differences] == pytest.approx([0.65 / 4, 0.25, 0.0])
    # Of the 16 ways to flip the signs of -.5, +.5, +.75, -.1 twelve differ from 0 by .65 or more.
    assert found.differences[0].p == pytest.approx(12 / 16, abs=0.05)
    assert found.differences[2].p == 1
    assert [each.p_holm for each in found.differences] == holm(
        [each.p for each in found.differences]
    ).tolist()
    assert [(f.query, f.rank_of, f.rank_than) for f in found.flips] == [
        ("q3", 4, 1), ("q2", 2, 1), ("q1", 1, 2),
    ]  # fmt: skip
    assert [flip.change for flip in found.flips] == [0.75, 0.5, -0.5]
    assert found.verdicts[0].startswith(
        "No difference in mAP between b and a that this many queries (4) could tell: +16.2 points ["
    )


def test_the_lines_for_a_terminal_tell_all_of_it(both):
    found = compare(both)
    lines = found.lines()
    assert lines[0] == found.verdicts[0]
    assert lines[2] == "a -> b, 4 queries in 4 groups"
    assert [line.split()[:4] for line in lines[3:6]] == [
        ["mAP", "68.8", "->", "85.0"],
        ["R@1", "50.0", "->", "75.0"],
        ["R@5", "100.0", "->", "100.0"],
    ]
    assert "+25.0 [" in lines[4]
    assert "p = 1.000, by Holm = 1.000" in lines[5]
    assert lines[6] == "  right at rank 1 only in b: 2; only in a: 1"


def test_turned_round_it_says_the_opposite(both):
    there, back = compare(both), compare(both[::-1])
    for one, other in zip(there.differences, back.differences, strict=True):
        assert (one.of, one.than) == (other.than, other.of)
        assert one.value == pytest.approx(-other.value)
        assert one.p == other.p
    assert {flip.query: flip.change for flip in there.flips} == {
        flip.query: -flip.change for flip in back.flips
    }


def test_a_clear_difference_is_said_in_one_sentence(tmp_path):
    ours = {f"q{n}": (0.2 + 0.01 * (n % 7), 3) for n in range(40)}
    theirs = {query: (ap + 0.1, rank) for query, (ap, rank) in ours.items()}
    run_with(tmp_path / "run", {"none": ours, "superglobal": theirs})
    up = compare([(tmp_path / "run", "none"), (tmp_path / "run", "superglobal")])
    assert up.verdicts == ("superglobal is better than none by 10.0 points of mAP [10.0, 10.0], p = 0.001.",)
    down = compare([(tmp_path / "run", "superglobal"), (tmp_path / "run", "none")])
    assert down.verdicts == ("none is worse than superglobal by 10.0 points of mAP [10.0, 10.0], p = 0.001.",)
    assert up.differences[0].p == pytest.approx(1 / 2001)
    assert up.flips == ()


def test_queries_of_one_group_count_as_one(tmp_path):
    ours = {f"q{n}": (0.2, 3) for n in range(40)}
    theirs = dict.fromkeys(ours, (0.3, 3))
    for name, queries in (("a", ours), ("b", theirs)):
        run = run_with(tmp_path / name, {"none": queries})
        told = [answer(query, *value, group=f"g{int(query[1:]) % 2}") for query, value in queries.items()]
        saved(run, {"none": told}, tmp_path / name)
    found = compare([(tmp_path / "a", None), (tmp_path / "b", None)])
    assert (found.queries, found.groups) == (40, 2)
    assert found.differences[0].p == pytest.approx(0.5, abs=0.05), "two coins fall alike half the time"
    assert "No difference" in found.verdicts[0]


def test_three_systems_are_each_compared_with_the_first(tmp_path):
    run_with(tmp_path / "a", {"none": A, "superglobal": B})
    run_with(tmp_path / "b", {"none": B})
    found = compare([(tmp_path / "a", "none"), (tmp_path / "a", "superglobal"), (tmp_path / "b", "none")])
    assert [side.label for side in found.sides] == ["a: none", "a: superglobal", "b: none"]
    assert [each.than for each in found.differences] == ["a: superglobal"] * 3 + ["b: none"] * 3
    assert len(found.verdicts) == 2
    assert found.flips_to("b: none") == found.flips[3:]
    raw = [each.p for each in found.differences]
    assert [each.p_holm for each in found.differences] == holm(raw).tolist(), "over all six"


def test_labels_are_the_shortest_names_that_differ(tmp_path):
    def labels(*sides):
        return [side.label for side in compare(sides).sides]

    for place in ("x", "y"):
        (tmp_path / place).mkdir()
        run_with(tmp_path / place / "run", {"none": A, "best": B})
    x, y = tmp_path / "x" / "run", tmp_path / "y" / "run"
    assert labels((x, "none"), (x, "best")) == ["none", "best"]
    assert labels((x, "none"), (y, "none")) == [f"{x}: none", f"{y}: none"]


def test_the_document_is_json_even_where_nothing_was_right(tmp_path):
    nothing = dict.fromkeys(A, (None, None))
    run_with(tmp_path / "a", {"none": A})
    run_with(tmp_path / "b", {"none": B})
    normal = compare([(tmp_path / "a", None), (tmp_path / "b", None)]).as_json()
    assert json.loads(json.dumps(normal, allow_nan=False)) == normal
    assert normal["flips"][0]["change"] == 0.75
    assert normal["sides"][0]["folder"] == str(tmp_path / "a")
    for name in ("a", "b"):
        told = {"none": [answer(query, *value) for query, value in nothing.items()]}
        run = replace(EMPTY, systems=run_with(tmp_path / name, {"none": A}).systems)
        saved(run, told, tmp_path / name)
    empty = compare([(tmp_path / "a", None), (tmp_path / "b", None)])
    assert math.isnan(empty.differences[0].value)
    assert empty.as_json()["differences"][0]["value"] is None
    json.dumps(empty.as_json(), allow_nan=False)
    assert empty.verdicts == ("Nothing to compare b with a on: no query has a right answer.",)
    write_comparison(empty, tmp_path / "compare.html")
    check_sound(read(tmp_path / "compare.html"))


def test_the_page_shows_the_flipped_side_by_side(tmp_path):
    folder = tmp_path / "run"
    make_run(folder, {"none": 1.0, "superglobal (tuned)": 0.4}, identities=20)
    found = compare([(folder, "none"), (folder, "superglobal (tuned)")])
    write_comparison(found, tmp_path / "compare.html")
    page = read(tmp_path / "compare.html")
    check_sound(page)
    assert "http" not in (tmp_path / "compare.html").read_text()
    assert found.verdicts[0] in page.all("header")[0].text
    assert "Synthetic data" in page.all("header")[0].text
    rows = page.one("table").all("tbody")[0].all("tr")
    assert [row.all("th")[0].text for row in rows] == list(found.metrics)
    for row, each in zip(rows, found.differences, strict=True):
        cells = [cell.text for cell in row.all("td")]
        assert cells[:2] == [f"{100 * side.means[each.metric]:.1f}" for side in found.sides]
        assert cells[2].startswith(f"{100 * each.value:+.1f}".replace("-", "−"))
    won = [flip for flip in found.flips if flip.rank_than == 1]
    lost = [flip for flip in reversed(found.flips) if flip.rank_of == 1]
    assert won
    assert lost
    section = page.one("flipped-1")
    cases = section.all("li", "case")
    shown = won[:12] + lost[:12]
    changes = [case.all("span", "change")[0].text for case in cases]
    assert changes == [f"{100 * flip.change:+.1f}".replace("-", "−") for flip in shown]
    for case, flip in zip(cases, shown, strict=True):
        before, after = case.all("ol", "strip")
        assert ("✓ right" in before.all("li")[0].text) == (flip.rank_of == 1)
        assert ("✓ right" in after.all("li")[0].text) == (flip.rank_than == 1)
    assert f"{len(won)} quer" in section.text
    first = (tmp_path / "compare.html").read_bytes()
    write_comparison(compare([(folder, "none"), (folder, "superglobal (tuned)")]), tmp_path / "compare.html")
    assert (tmp_path / "compare.html").read_bytes() == first


def test_what_runs_call_their_things_is_never_read_as_html(tmp_path):
    facts = {"dataset": EMPTY.dataset | {"name": HOSTILE, "synthetic": HOSTILE}}
    facts |= {"protocol": dict.fromkeys(EMPTY.protocol, HOSTILE), "encoder": {"name": HOSTILE}}
    for name in ("<b>a", "<b>b"):
        run_with(tmp_path / name, {"<i>": A if name == "<b>a" else B}, **facts)
    write_comparison(compare([(tmp_path / "<b>a", None), (tmp_path / "<b>b", None)]), tmp_path / "page.html")
    page = read(tmp_path / "page.html")
    check_sound(page)
    assert page.all("h1")[0].text == "<b>a against <b>b"
    assert not page.all("i", of="x")
    assert HOSTILE in page.all("header")[0].text


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"dataset": {"name": "other"}}, "not the same data set: drawn in .*a, other in .*b"),
        ({"dataset": {"split": "train"}}, "not the same split: validation in .*a, train in .*b"),
        ({"dataset": {"synthetic": ""}}, "not the same generator: blotches 1, seed 0 in .*a, none in"),
        ({"protocol": {"name": "B2"}}, "not the same protocol: B1 in .*a, B2 in .*b"),
        ({"metrics": {"mAP": ""}}, "not the same metrics: mAP, R@1, R@5 in .*a, mAP in .*b"),
    ],
)
def test_runs_that_measured_something_else_are_refused(changes, line, tmp_path):
    run_with(tmp_path / "a", {"none": A})
    run = run_with(tmp_path / "b", {"none": B})
    changed = {
        name: value if name == "metrics" else dict(getattr(run, name)) | value
        for name, value in changes.items()
    }
    replace(run, **changed).save(tmp_path / "b")
    with pytest.raises(BadInput, match=line) as caught:
        compare([(tmp_path / "a", None), (tmp_path / "b", None)])
    assert caught.value.hint == "compare runs that measured the same"


def test_a_data_set_may_have_moved(both):
    run = run_with(both[1][0], {"none": B}, dataset=EMPTY.dataset | {"folder": "/elsewhere"})
    assert run.dataset["folder"] == "/elsewhere"
    assert compare(both).queries == 4


@pytest.mark.parametrize(
    ("other", "line"),
    [
        ({q: B[q] for q in ("q1", "q2")}, "q3 is in .*a only; 3 differ in all"),
        (B | {"q6": (1.0, 1)}, "q6 is in .*b only; 1 differ"),
        ({q: B[q] for q in ("q1", "q2", "q3", "q4")} | {"q6": (1.0, 1)}, "q5 is in .*a only; 2 differ"),
    ],
)
def test_other_queries_are_refused(other, line, tmp_path):
    run_with(tmp_path / "a", {"none": A})
    run_with(tmp_path / "b", {"none": other})
    with pytest.raises(BadInput, match=line):
        compare([(tmp_path / "a", None), (tmp_path / "b", None)])


def test_what_cannot_be_compared_is_one_line_each(both, tmp_path):
    a, b = (folder for folder, _ in both)
    run_with(tmp_path / "many", {"none": A, "best": B})
    for runs, line, hint in (
        ([], "needs two systems at least", "lookalike compare"),
        ([(a, None)], "needs two systems at least", "lookalike compare"),
        ([(a, None), (tmp_path / "many", None)], "has 2 systems: 'none', 'best'", "many:SYSTEM"),
        ([(a, None), (b, "better")], "no system 'better'", "'none'"),
        ([(a, None), (a, "none")], "a:none is given twice", "another system"),
        ([(a, None), (tmp_path / "nowhere", None)], "holds no evaluation", "lookalike eval"),
    ):
        with pytest.raises(BadInput, match=line) as caught:
            compare(runs)
        assert hint in caught.value.hint
    run_with(tmp_path / "none", {"none": A})
    for folder in (a, tmp_path / "none"):
        (folder / "answers-none.jsonl").write_text("")
    with pytest.raises(BadInput, match="have no queries"):
        compare([(a, None), (tmp_path / "none", None)])
    (b / "answers-none.jsonl").unlink()
    with pytest.raises(BadInput, match="answers-none"):
        compare(both)


def test_a_comparison_that_cannot_be_written_is_one_line(both, tmp_path):
    found = compare(both)
    with pytest.raises(BadInput, match="cannot be written"):
        write_comparison(found, tmp_path / "missing" / "compare.html")
    (tmp_path / "a" / "gallery.jsonl").unlink()
    with pytest.raises(BadInput, match=r"gallery\.jsonl"):
        write_comparison(found, tmp_path / "compare.html")
