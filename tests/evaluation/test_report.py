"""Tables and the page say what the run says, whatever its names and pictures are."""

import csv
import json
import math
from dataclasses import replace

import numpy as np
import pytest
from html_pages import check_sound, read
from made_runs import EMPTY, METRICS, UNANSWERABLE, make_run, saved
from PIL import Image

from lookalike.errors import BadInput
from lookalike.evaluation.pages.report import write_report, write_tables
from lookalike.evaluation.runs import Figure, Run, load_answers, load_places

HOSTILE = """<script>alert("1")</script> & 'q' $x_1$ 50% {b} \\end{tabular} ~^#"""
SYSTEMS = {"none": 1.0, "superglobal": 0.9, "superglobal (tuned)": 0.5}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A run, its folder and its page."""
    folder = tmp_path_factory.mktemp("made") / "run"
    run = make_run(folder, SYSTEMS)
    return run, folder, read(write_report(run, folder))


def rewrite(table, changes):
    rows = [json.loads(line) | changes for line in table.read_text().splitlines()]
    table.write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_a_run_and_its_answers_are_read_as_they_were_written(made):
    run, folder, _ = made
    assert Run.load(folder) == run
    text = (folder / "run.json").read_text()
    json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    answers = list(load_answers(folder, "superglobal (tuned)"))
    assert len(answers) == run.queries
    saved(run, {"again": answers}, folder)
    assert list(load_answers(folder, "again")) == answers
    assert answers[-1].query == UNANSWERABLE
    assert answers[-1].rank is None
    assert set(answers[-1].values["all"].values()) == {None}


def test_the_csv_holds_every_figure(made):
    run, folder, _ = made
    path = write_tables(run, folder)[0]
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["system"] for row in rows] == list(SYSTEMS)
    for row, system in zip(rows, run.systems, strict=True):
        assert row["judgement"] == "all"
        for metric in METRICS:
            figure = system.figures["all"][metric]
            read_back = [float(row[name]) for name in (metric, f"{metric} low", f"{metric} high")]
            assert read_back == [figure.value, figure.low, figure.high]
            assert int(row[f"{metric} n"]) == figure.n == run.queries - 1


def tex_rows(path):
    lines = path.read_text().splitlines()
    comments, body = [x for x in lines if x.startswith("%")], [x for x in lines if not x.startswith("%")]
    rows = [
        [cell.strip() for cell in x.removesuffix("\\\\").split(" & ")] for x in body if x.endswith("\\\\")
    ]
    return comments, body, rows


def test_the_tex_rows_are_per_cent_and_the_best_is_bold(made):
    run, folder, _ = made
    comments, body, rows = tex_rows(write_tables(run, folder)[1])
    assert body[0] == r"\begin{tabular}{lrrr}"
    assert body[1:2] + body[-2:] == [r"\toprule", r"\bottomrule", r"\end{tabular}"]
    assert rows[0] == ["system", *METRICS]
    for column, metric in enumerate(METRICS, start=1):
        values = [f"{100 * system.figures['all'][metric].value:.1f}" for system in run.systems]
        best = max(values, key=float)
        expected = [rf"\textbf{{{value}}}" if value == best else value for value in values]
        assert [row[column] for row in rows[1:]] == expected
    told = "\n".join(comments)
    for fact in (*METRICS.values(), run.protocol["ties"], run.protocol["self_match"], "blotches 1, seed 0",
                 run.made["commit"], run.made["command"], f"{run.queries} queries, 1 of them"):  # fmt: skip
        assert fact in told


def test_tex_and_csv_hold_names_of_any_kind(tmp_path):
    run = make_run(tmp_path / "run", {"none": 1.0})
    system = replace(run.systems[0], name=HOSTILE)
    run = replace(run, systems=(system,), made={"command": "one\ntwo\u2028three\rfour"}, left_out=(HOSTILE,))
    csv_path, tex = write_tables(run, tmp_path / "run")
    with csv_path.open(newline="") as file:
        assert next(csv.DictReader(file))["system"] == HOSTILE
    comments, body, rows = tex_rows(tex)
    assert "% command: one two three four" in comments
    assert body[0].startswith(r"\begin{tabular}"), "no comment runs over its line"
    name = rows[1][0] if len(rows[1]) == 4 else " & ".join(rows[1][:-3])
    assert r"\textless{}script\textgreater{}" in name
    assert (
        r"\& 'q' \$x\_1\$ 50\% \{b\} \textbackslash{}end\{tabular\} \textasciitilde{}\textasciicircum{}\#"
        in name
    )


def test_several_judgements_stand_side_by_side(tmp_path):
    run = make_run(tmp_path / "run")
    systems = [
        replace(s, figures={"easy": s.figures["all"], "hard": {"mAP": s.figures["all"]["R@1"]}})
        for s in run.systems
    ]
    run = replace(run, systems=tuple(systems))
    csv_path, tex = write_tables(run, tmp_path / "run")
    with csv_path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["system"], row["judgement"]) for row in rows] == [
        ("none", "easy"), ("none", "hard"), ("superglobal", "easy"), ("superglobal", "hard"),
    ]  # fmt: skip
    assert rows[1]["R@1"] == "" != rows[1]["mAP"]
    text = tex.read_text()
    assert r" & \multicolumn{3}{c}{easy} & \multicolumn{1}{c}{hard} \\" in text
    assert r"\cmidrule(lr){2-4} \cmidrule(lr){5-5}" in text
    page = read(write_report(run, tmp_path / "run"))
    assert [caption.text for caption in page.one("table").all("caption")] == [
        "Judged easy (the headline)",
        "Judged hard",
    ]


def test_the_page_is_sound(made):
    _, folder, page = made
    check_sound(page)
    text = (folder / "report.html").read_text()
    assert "http://" not in text
    assert "https://" not in text


def test_the_page_says_what_was_measured(made):
    run, _, page = made
    header = page.all("header")[0].text
    counts = ("25", "1 without a right answer", "36 regions", "512 B a region")
    names = ("drawn", "validation", "B1", "thumbnail", "given", "image")
    for fact in (*counts, *names, run.protocol["about"], "Synthetic data", "blotches 1, seed 0"):
        assert fact in header
    definitions = page.one("definitions").text
    for fact in (*METRICS, *METRICS.values(), run.protocol["ties"], run.protocol["self_match"]):
        assert fact in definitions
    assert run.made["commit"] in page.one("made").text
    assert run.made["command"] in page.one("made").text


def test_real_data_are_not_called_synthetic(tmp_path):
    run = make_run(tmp_path / "run", dataset=EMPTY.dataset | {"synthetic": ""})
    assert "ynthetic" not in read(write_report(run, tmp_path / "run")).all("header")[0].text


def test_the_table_of_the_page_holds_every_figure_and_marks_the_best(made):
    run, _, page = made
    rows = page.one("table").all("tbody")[0].all("tr")
    assert len(rows) == len(run.systems)
    for row, system in zip(rows, run.systems, strict=True):
        assert row.all("th")[0].text.startswith(system.name)
        for cell, metric in zip(row.all("td"), METRICS, strict=False):
            figure = system.figures["all"][metric]
            assert f"{100 * figure.value:.1f}" in cell.text
            assert f"[{100 * figure.low:.1f}, {100 * figure.high:.1f}]" in cell.text
            top = max(round(100 * s.figures["all"][metric].value, 1) for s in run.systems)
            assert bool(cell.all("strong")) == (round(100 * figure.value, 1) == top)


def test_differences_are_shown_with_their_p(made):
    run, _, page = made
    rows = page.one("differences").all("tbody")[0].all("tr")
    for row, each in zip(rows, run.differences, strict=True):
        assert row.all("th")[0].text == each.than
        cells = [cell.text for cell in row.all("td")]
        assert cells[0].startswith(f"{100 * each.value:+.1f}".replace("-", "−"))
        assert cells[2:4] == [f"{p:.3f}" if p >= 0.001 else "< 0.001" for p in (each.p, each.p_holm)]
        assert cells[4] == ("▲ better" if each.p_holm < 0.05 else "cannot tell")


def test_slices_hold_every_value_that_some_query_has(made):
    run, folder, page = made
    tables = {t.all("caption")[0].text: t for t in page.one("slices").all("table")}
    assert list(tables) == ["category", "scale", "occlusion"]
    for facet, table in tables.items():
        rows = table.all("tbody")[0].all("tr")
        assert [row.all("th")[0].inside[0] for row in rows] == list(run.systems[0].slices[facet])
        for row in rows:
            value = row.all("th")[0].inside[0]
            shown = [line.text for line in row.all("span", "line")]
            expected = [100 * system.slices[facet][value].value for system in run.systems]
            assert all(f" {number:.1f} [" in line for number, line in zip(expected, shown, strict=True))
    empty = Figure(math.nan, math.nan, math.nan, 0, 0)
    bare = [
        replace(
            s, slices={"zoom": {}, "viewpoint": {"side": empty}, "scale": s.slices["scale"] | {"huge": empty}}
        )
        for s in run.systems
    ]
    page = read(write_report(replace(run, systems=tuple(bare)), folder))
    check_sound(page)
    assert [c.text for c in page.one("slices").all("caption")] == ["scale"]
    assert "huge" not in page.one("slices").text
    write_report(run, folder)


def test_stages_add_up_and_the_median_of_the_whole_is_no_stage(made):
    _, _, page = made
    section = page.one("cost")
    assert [head.text for head in section.all("th") if head.attributes["scope"] == "col"][:5] == [
        "system", "decode", "encode", "rerank", "together",
    ]  # fmt: skip
    last = section.all("tbody")[0].all("tr")[-1]
    assert [cell.text for cell in last.all("td")][:4] == ["3.1", "14", "3", "20.1"]
    widths = [float(bar.attributes["width"].rstrip("%")) for bar in last.all("rect")]
    assert sum(widths) == pytest.approx(100, abs=0.01), "it is the slowest"
    assert widths[0] == pytest.approx(100 * 3.1 / 20.1, abs=0.01)


def test_the_failures_are_the_worst_of_the_best_system_with_right_and_wrong_in_words(made):
    _, folder, page = made
    places, gallery = load_places(folder / "queries.jsonl"), load_places(folder / "gallery.jsonl")
    answers = [a for a in load_answers(folder, "superglobal (tuned)") if a.rank]
    worst = sorted(answers, key=lambda a: (a.values["all"]["mAP"], -a.rank))[:12]
    section = page.one("failures")
    assert section.all("h2")[0].text == "Failures of superglobal (tuned)"
    cases = section.all("li", "case")
    assert [case.all("h3")[0].text for case in cases] == [places[a.query].title for a in worst]
    for case, answer in zip(cases, worst, strict=True):
        shown = [li for li in case.all("ol", "strip")[0].all("li") if "stood" not in li.attributes["class"]]
        identity = places[answer.query].facts["identity"]
        for rank, (item, (name, score, _)) in enumerate(zip(shown, answer.top[:5], strict=True), start=1):
            right = gallery[name].facts["identity"] == identity
            assert item.text.startswith(f"{rank} ✓ right" if right else f"{rank} ✗ wrong")
            assert item.attributes["class"] == ("is-right" if right else "is-wrong")
            assert f"{score:.3f}" in item.text
            assert item.all("img")[0].attributes["alt"] == f"answer {rank}: {gallery[name].title}"
        stood = case.all("li", "stood")
        assert len(stood) == (answer.rank > 5)
        if stood:
            assert f"✓ right, at {answer.rank}" in stood[0].text
            assert stood[0].all("img")[0].attributes["alt"].endswith(gallery[answer.right].title)
    boxed = [case for case, a in zip(cases, worst, strict=True) if places[a.query].box]
    frame = boxed[0].all("div", "about")[0].all("span", "box")[0].attributes["style"]
    assert frame == "left:12.5%;top:12.5%;width:70.83%;height:73.44%"


def test_gains_and_losses_are_those_from_the_first_to_its_best_rival(made):
    _, folder, page = made
    titles = load_places(folder / "queries.jsonl")
    first, rival = (
        {a.query: a.values["all"]["mAP"] for a in load_answers(folder, name) if a.rank}
        for name in ("none", "superglobal (tuned)")
    )
    change = {query: rival[query] - first[query] for query in first}
    order = sorted(change, key=lambda query: (change[query], query))
    expected = [q for q in reversed(order[-5:]) if change[q] > 0] + [q for q in order[:5] if change[q] < 0]
    cases = page.one("changes").all("li", "case")
    assert [case.all("h4")[0].text for case in cases] == [titles[query].title for query in expected]
    for case, query in zip(cases, expected, strict=True):
        assert case.all("span", "change")[0].text == f"{100 * change[query]:+.1f}".replace("-", "−")
        assert len(case.all("ol", "strip")) == 2


def test_the_same_run_gives_the_same_bytes(made):
    run, folder, _ = made
    first = write_report(run, folder).read_bytes()
    assert write_report(Run.load(folder), folder).read_bytes() == first


def test_what_data_sets_call_their_things_is_never_read_as_html(tmp_path):
    folder = tmp_path / "run"
    run = make_run(folder)
    for table in ("queries.jsonl", "gallery.jsonl"):
        rewrite(folder / table, {"title": HOSTILE, "category": HOSTILE, HOSTILE: HOSTILE})
    systems = tuple(replace(s, slices={HOSTILE: {HOSTILE: s.slices["scale"]["small"]}}) for s in run.systems)
    systems = (replace(systems[0], parameters={HOSTILE: HOSTILE}), systems[1])
    run = replace(
        run,
        systems=systems,
        dataset=run.dataset | {"name": HOSTILE, "synthetic": HOSTILE},
        protocol=dict.fromkeys(run.protocol, HOSTILE),
        metrics=dict.fromkeys(run.metrics, HOSTILE),
        left_out=(HOSTILE,) * 30,
        tuning={HOSTILE: {HOSTILE: HOSTILE}},
        made=run.made | {HOSTILE: HOSTILE, "command": HOSTILE},
    )
    page = read(write_report(run, folder))
    check_sound(page)
    assert page.all("h1")[0].text.startswith(HOSTILE)
    alts = {image.attributes["alt"] for image in page.all("img")}
    assert f"query: {HOSTILE}" in alts
    assert HOSTILE in page.one("slices").text
    assert "and 10 more" in page.one("made").text


def test_pictures_that_are_gone_or_broken_leave_a_word(tmp_path):
    folder = tmp_path / "run"
    run = make_run(folder)
    whole = len(read(write_report(run, folder)).all("img"))
    pictures = sorted((folder / "pictures").iterdir())
    pictures[0].write_bytes(b"no picture")
    for path in pictures[1::2]:
        path.unlink()
    page = read(write_report(run, folder))
    check_sound(page)
    gone = [each.text for each in page.all("span", "gone")]
    assert set(gone) == {"picture not found"}
    assert len(page.all("img")) + len(gone) == whole
    assert len(page.all("img")) > 0


def test_a_region_that_no_table_knows_and_a_query_in_words_are_still_shown(tmp_path):
    folder = tmp_path / "run"
    run = make_run(folder)
    rewrite(folder / "queries.jsonl", {"path": "", "box": None})
    (folder / "gallery.jsonl").write_text("")
    page = read(write_report(run, folder))
    check_sound(page)
    assert {each.text for each in page.all("span", "gone")} == {"asked in words", "not in the run's table"}
    assert len(page.one("failures").all("h3")) == 12


def test_a_run_of_one_system_without_any_answer_is_still_a_page(tmp_path):
    folder = tmp_path / "run"
    made = make_run(folder, {"none": 1.0})
    answers = [a for a in load_answers(folder, "none") if a.query == UNANSWERABLE]
    system = replace(made.systems[0], figures={}, slices={}, recall_at=(), precision_recall=(), latency_ms={})
    run = replace(made, systems=(system,), queries=1, unanswerable=1)
    saved(run, {"none": answers}, folder)
    page = read(write_report(run, folder))
    check_sound(page)
    assert "No query has a right answer" in page.one("failures").text
    assert page.all("p", "value")[0].text == "– %"
    write_tables(run, folder)


def test_a_page_of_large_noisy_pictures_can_still_be_mailed(tmp_path):
    def noise(path, seed):
        pixels = np.random.default_rng(seed).integers(0, 256, (300, 400, 3), np.uint8)
        Image.fromarray(pixels).save(path)

    run = make_run(tmp_path / "run", picture=noise)
    assert write_report(run, tmp_path / "run").stat().st_size < 3_000_000


@pytest.mark.parametrize("name", ["queries.jsonl", "gallery.jsonl", "answers-superglobal.jsonl"])
@pytest.mark.parametrize("content", [None, "{", '{"item": 1}\n', "[]\n"])
def test_a_folder_that_lacks_something_is_named(name, content, tmp_path):
    run = make_run(tmp_path / "run")
    path = tmp_path / "run" / name
    path.unlink()
    if content is not None:
        path.write_text(content)
    with pytest.raises(BadInput, match=name) as caught:
        write_report(run, tmp_path / "run")
    assert caught.value.hint == "evaluate again"
