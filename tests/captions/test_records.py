"""Files of captions: written line by line, resumed, looked up."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lookalike import images
from lookalike.captions.chat import Step
from lookalike.captions.records import FileCaptions, Record, Writing, read
from lookalike.errors import BadInput
from lookalike.testing import drawing
from lookalike.values import Box, Caption, Claim, Picture, Region

CLAIMS = (
    Claim("navy", "colour", "navy", {"pixels": 0.875}),
    Claim("a hood", "neckline", "hood", {"samples": 0.25}, believed=False),
)
STEP = Step("vlm", "what is it?", "a jacket", "a jacket", "ok", tokens_in=20, tokens_out=3, total_ms=5.5)


def _record(
    path: Path, text: str = "a navy jacket", error: str | None = None, box: Box | None = None
) -> Record:
    caption = Caption(text, "tester", error, CLAIMS if error is None else ())
    return Record(str(path), "jacket", "ab" * 32, box, caption, prose="It is navy.", transcript=(STEP,))


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_what_is_written_is_read_again(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"captions{suffix}"
    with Writing(path, "tester") as file:
        file.add(_record(tmp_path / "a.jpg", box=Box(1, 2, 30, 40)))
        file.add(_record(tmp_path / "b.jpg", text="", error="refused: it does not want to"))
    first, second = read(path)
    assert (first.path, first.item, first.box) == (str(tmp_path / "a.jpg"), "jacket", Box(1, 2, 30, 40))
    assert first.caption == Caption("a navy jacket", "tester", None, CLAIMS)
    assert first.caption.attributes == {"colour": ("navy",)}
    assert second.caption.error == "refused: it does not want to"
    assert [each.name for each in tmp_path.iterdir()] == [path.name]


def test_a_record_tells_what_it_cost(tmp_path: Path) -> None:
    cached = Step("vlm", "?", "navy", "navy", "ok", tokens_in=20, tokens_out=3, cached=True)
    record = Record("a.jpg", "a", "", None, Caption("navy", "tester"), transcript=(STEP, cached))
    assert (record.calls, record.tokens) == (1, (20, 3))
    assert [step["cached"] for step in record.as_json()["transcript"]] == [False, True]


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_a_run_goes_on_where_it_was_killed(tmp_path: Path, suffix: str) -> None:
    """The good lines stay; a line cut short and failures go, to be made anew."""
    path = tmp_path / f"captions{suffix}"
    lines = path if suffix == ".jsonl" else path.with_name("captions.parquet.lines")
    box = Box(0, 0, 9, 9)
    kept = [_record(tmp_path / "a.jpg"), _record(tmp_path / "c.jpg", box=box)]
    found = Record(str(tmp_path / "d.jpg"), "d", "", box, Caption("navy", "tester"), score=0.4)
    failed = _record(tmp_path / "b.jpg", text="", error="503")
    whole = [json.dumps(record.as_json()) for record in (kept[0], failed, kept[1], found)]
    lines.write_text("\n".join(whole) + "\n" + whole[0][:40])
    with Writing(path, "tester") as file:
        assert file.done == {
            (str(tmp_path / "a.jpg"), "jacket", None),
            (str(tmp_path / "c.jpg"), "jacket", box),
            (str(tmp_path / "d.jpg"), "d", None),  # a found box: no box was asked for
        }
        file.add(_record(tmp_path / "b.jpg"))
    assert [record.path[-5:] for record in read(path)] == ["a.jpg", "c.jpg", "d.jpg", "b.jpg"]
    with Writing(path, "tester") as file:
        assert len(file.done) == 4
    assert len(list(read(path))) == 4


def test_two_captioners_do_not_share_a_file(tmp_path: Path) -> None:
    path = tmp_path / "captions.jsonl"
    with Writing(path, "tester") as file:
        file.add(_record(tmp_path / "a.jpg"))
    with pytest.raises(BadInput, match="'tester', not by 'another'"):
        Writing(path, "another")
    assert len(list(read(path))) == 1


def test_captions_are_looked_up_by_content_then_by_path(tmp_path: Path) -> None:
    picture = Picture.of(drawing(1), str(tmp_path / "moved.jpg"), sha256="ab" * 32)
    box = Box(1, 2, 30, 40)
    path = tmp_path / "captions.jsonl"
    with Writing(path, "tester") as file:
        file.add(_record(tmp_path / "a.jpg", "in the box", box=box))
        file.add(_record(tmp_path / "a.jpg", "of all"))
    captioner = FileCaptions(path)
    named = Picture.of(drawing(1), str(tmp_path / "a.jpg"))
    other = Picture.of(drawing(2), str(tmp_path / "b.jpg"), sha256="cd" * 32)
    boxed, whole, by_path, elsewhere, unknown = captioner.captions(
        [
            Region(picture, box),
            Region(picture),
            Region(named, box),
            Region(picture, Box(5, 5, 9, 9)),
            Region(other),
        ]
    )
    assert [boxed.text, whole.text, by_path.text] == ["in the box", "of all", "in the box"]
    assert boxed.claims == CLAIMS
    assert boxed.by == captioner.name
    assert elsewhere.error and unknown.error  # two captions: which one, nobody knows


def test_one_caption_holds_for_any_region_of_its_picture(tmp_path: Path) -> None:
    table = tmp_path / "mine.csv"
    table.write_text("path,caption\na.jpg,a navy jacket\nb.jpg,\n")
    captioner = FileCaptions(table)
    a, b = (Picture.of(drawing(1), str(tmp_path / name)) for name in ("a.jpg", "b.jpg"))
    first, second = captioner.captions([Region(a, Box(1, 1, 9, 9)), Region(b)])
    assert (first.text, first.error, second.text) == ("a navy jacket", None, "")
    assert captioner.name.startswith("mine.csv #")


def test_the_name_changes_with_what_the_file_says(tmp_path: Path) -> None:
    table = tmp_path / "mine.csv"
    table.write_text("path,caption\na.jpg,a navy jacket\n")
    before = FileCaptions(table).name
    assert FileCaptions(table).name == before
    table.write_text("path,caption\na.jpg,a red jacket\n")
    assert FileCaptions(table).name != before


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{", "line 1: not JSON"),
        ("[]", "line 1: not a JSON object"),
        ('{"caption": "navy"}', "path: missing"),
        ('{"path": "a.jpg", "box": [1, 2]}', "not a record"),
        ('{"path": "a.jpg", "box": [4, 4, 1, 1]}', "x0 < x1"),
        ('{"path": "a.jpg", "claims": [{"value": "navy"}]}', "not a record"),
        ('{"path": "a.jpg", "claims": ["navy"]}', "not a record"),
    ],
)
def test_a_broken_file_is_refused_in_one_line(tmp_path: Path, line: str, said: str) -> None:
    path = tmp_path / "captions.jsonl"
    path.write_text(line + "\n")
    with pytest.raises(BadInput, match=said):
        FileCaptions(path)


def test_other_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="no file of captions"):
        FileCaptions(tmp_path / "captions.txt")
    with pytest.raises(BadInput, match="cannot be read"):
        FileCaptions(tmp_path / "captions.jsonl")
    with pytest.raises(BadInput, match="cannot write captions"):
        Writing(tmp_path / "captions.csv", "tester")
    table = tmp_path / "table.csv"
    table.write_text("path,title\na.jpg,A jacket\n")
    with pytest.raises(BadInput, match="a column caption"):
        FileCaptions(table)


def test_a_picture_that_was_read_has_the_sum_that_is_looked_up(tmp_path: Path) -> None:
    from PIL import Image

    Image.fromarray(drawing(3)).save(tmp_path / "a.png")
    picture = images.load(tmp_path / "a.png")
    record = Record("elsewhere.png", "a", picture.sha256, None, Caption("navy", "tester"))
    with Writing(tmp_path / "captions.jsonl", "tester") as file:
        file.add(record)
    assert FileCaptions(tmp_path / "captions.jsonl").captions([Region(picture)])[0].text == "navy"
