"""The commands on labelled data sets, as a user types them."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
from trees import make_tree


def lookalike(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "lookalike", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True)


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tree(tmp_path_factory.mktemp("tree"), pairs=8)


@pytest.fixture(scope="module")
def runs(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs with shared descriptors."""
    folder = tmp_path_factory.mktemp("runs")
    for name, encoder in (("histogram", "colour-histogram"), ("network", "efficientnet-lite2")):
        asked = ("--encoder", encoder, "--rerank", "none", "--rerank", "superglobal")
        done = lookalike("eval", tree, "--out", folder / name, "--descriptors", folder / "kept", *asked)
        assert done.returncode == 0, done.stderr
    return folder


def test_eval_leaves_tables_a_page_and_a_record(runs: Path) -> None:
    for name in ("run.json", "table.csv", "table.tex", "report.html", "answers-none.jsonl", "queries.jsonl"):
        assert (runs / "network" / name).stat().st_size > 0
    record = json.loads((runs / "network" / "run.json").read_text())
    assert record["made"]["command"].startswith("lookalike eval")
    assert record["made"]["version"]
    assert not (runs / "network" / "descriptors").exists()


def test_eval_prints_figures_or_one_document(tree: Path, runs: Path, tmp_path: Path) -> None:
    asked = ("eval", tree, "--encoder", "colour-histogram", "--descriptors", runs / "kept", "--out", tmp_path)
    told = lookalike(*asked)
    assert told.returncode == 0
    assert "protocol b1" in told.stdout and "mAP" in told.stdout and "[" in told.stdout
    document = json.loads(lookalike(*asked, "--json").stdout)
    assert document["protocol"]["name"] == "b1"
    assert 0 <= document["systems"][0]["figures"]["pair and style"]["mAP"]["value"] <= 1


def test_compare_tells_which_is_better(runs: Path, tmp_path: Path) -> None:
    histogram, network = f"{runs / 'histogram'}:none", f"{runs / 'network'}:none"
    told = lookalike("compare", histogram, network, "--out", tmp_path / "compare.html")
    assert told.returncode == 0, told.stderr
    assert "mAP" in told.stdout
    assert (tmp_path / "compare.html").read_text().startswith("<!")
    document = json.loads(lookalike("compare", histogram, network, "--json").stdout)
    assert {"differences", "flips"} <= set(document)
    unclear = lookalike("compare", runs / "histogram", network)
    assert unclear.returncode == 1 and "superglobal" in unclear.stderr
    assert lookalike("compare", runs, network).returncode == 1


def test_doctor_looks_at_data_sets_and_catalogues(tree: Path, tmp_path: Path) -> None:
    asked = ("--encoder", "colour-histogram", "--split", "validation", "--descriptors", tmp_path / "kept")
    sound = lookalike("doctor", tree, *asked)
    assert "validation" in sound.stdout
    document = json.loads(lookalike("doctor", tree, *asked, "--json").stdout)
    assert document["facts"]
    (catalogue,) = (tmp_path / "kept").glob("**/catalogue.sqlite")
    examined = lookalike("doctor", catalogue.parent, "--sheet", tmp_path / "sheet.jpg")
    assert examined.returncode in (0, 1) and "catalogue" in examined.stdout
    assert lookalike("doctor", tmp_path / "absent").returncode == 1


def test_a_killed_evaluation_ends_as_if_nothing_had_happened(tmp_path: Path) -> None:
    tree = make_tree(tmp_path / "tree", pairs=30)
    command = [sys.executable, "-m", "lookalike", "eval", str(tree), "--out"]
    killed = subprocess.Popen([*command, str(tmp_path / "killed")], stderr=subprocess.DEVNULL)
    stored = tmp_path / "killed" / "descriptors"
    deadline = time.monotonic() + 60
    while not list(stored.glob("**/catalogue.sqlite")) and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.3)  # some batches are written by now, perhaps in the middle of one
    killed.kill()
    killed.wait()
    figures = []
    for name in ("killed", "whole"):
        assert subprocess.run([*command, str(tmp_path / name)], capture_output=True).returncode == 0
        record = json.loads((tmp_path / name / "run.json").read_text())
        figures.append(record["systems"][0]["figures"])
    assert figures[0] == figures[1]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--protocol", "b7"], "no protocol is called 'b7'"),
        (["--rerank", "superglobol"], "did you mean superglobal"),
        (["--encoder", "efficientnet"], "did you mean efficientnet-lite2"),
        (["--split", "tests"], "splits:"),
        (["--tune", "tests", "--rerank", "superglobal"], "splits:"),
        (["--regions", "sailent"], "did you mean salient"),
    ],
)
def test_wrong_options_are_two_lines(tree: Path, tmp_path: Path, arguments: list[str], told: str) -> None:
    chosen = [] if "--encoder" in arguments else ["--encoder", "colour-histogram"]
    done = lookalike("eval", tree, "--out", tmp_path / "run", *chosen, *arguments)
    assert done.returncode == 1
    assert told in done.stderr and "Traceback" not in done.stderr
    assert len(done.stderr.splitlines()) <= 2


def test_a_folder_without_a_data_set_is_told(tmp_path: Path) -> None:
    (tmp_path / "bare").mkdir()
    done = lookalike("eval", tmp_path / "bare", "--out", tmp_path / "run")
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert not (tmp_path / "run").exists()
