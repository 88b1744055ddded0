import csv
import json
import math
import os
import re
import sys
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lookalike.datasets import Listed, Unlisted, count, listing, origin_of
from lookalike.errors import BadInput, MissingExtra
from lookalike.values import Box, Item

POSIX = pytest.mark.skipif(os.name != "posix", reason="needs POSIX file names, links and pipes")


def files(root, *names):
    """Empty files; nothing that is listed is opened."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def pictures(root):
    """(item id, path below the root) of everything listed, which must be without errors."""
    entries = list(listing(root))
    assert all(isinstance(entry, Listed) for entry in entries), entries
    return [(entry.item.id, str(Path(entry.source).relative_to(origin_of(root)))) for entry in entries]


def table(root, text, name="table.csv"):
    path = root / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def row_of(root, text, name="table.csv"):
    """The one row of a table."""
    (entry,) = listing(table(root, text, name))
    assert isinstance(entry, Listed), entry
    return entry


class TestFolder:
    def test_subfolders_are_items_and_loose_files_items_of_their_own(self, tmp_path):
        files(tmp_path, "shoe/b.jpg", "shoe/a.JPG", "shoe/more/deep/c.webp", "bag/1.png", "hat.jpeg")
        assert pictures(tmp_path) == [
            ("hat", "hat.jpeg"),
            ("bag", "bag/1.png"),
            ("shoe", "shoe/a.JPG"),
            ("shoe", "shoe/b.jpg"),
            ("shoe", "shoe/more/deep/c.webp"),
        ]

    def test_every_kind_of_picture_and_nothing_else(self, tmp_path):
        listed = ["a.jpg", "b.JPEG", "c.png", "d.webp", "e.HEIC", "f.heif", "g.mpo", "h.jfif"]
        files(
            tmp_path, *listed, "notes.txt", "table.csv", "README", "x.jpg.part", "jpg", ".DS_Store", ".a.jpg"
        )
        files(tmp_path, ".git/a.jpg", "item/.thumbnails/a.jpg", "item/Thumbs.db")
        assert [path for _, path in pictures(tmp_path)] == listed

    def test_loose_files_never_share_an_id(self, tmp_path):
        files(tmp_path, "a.jpg", "a.png", "a.jpg.png", "b.jpg", "b/1.jpg", "c.jpg")
        assert pictures(tmp_path) == [
            ("a.jpg", "a.jpg"),
            ("a.jpg.png", "a.jpg.png"),
            ("a.png", "a.png"),
            ("b.jpg", "b.jpg"),
            ("c", "c.jpg"),
            ("b", "b/1.jpg"),
        ]

    def test_the_order_does_not_depend_on_the_file_system(self, tmp_path):
        names = [f"item{number % 7}/{number * 37 % 100:02}.jpg" for number in range(100)]
        files(tmp_path / "forth", *names)
        files(tmp_path / "back", *reversed(names))
        assert pictures(tmp_path / "forth") == pictures(tmp_path / "back")
        assert [path for _, path in pictures(tmp_path / "forth")] == sorted(set(names))

    @POSIX
    def test_odd_names(self, tmp_path):
        names = ["two words/it's.jpg", 'a "quote"\n and a line/1.jpg', "ünïcödé/鞋.jpg", "-rf/--.jpg"]
        files(tmp_path, *names)
        assert sorted(path for _, path in pictures(tmp_path)) == sorted(names)
        assert {item for item, _ in pictures(tmp_path)} == {name.split("/")[0] for name in names}

    @POSIX
    def test_names_that_are_not_utf8(self, tmp_path):
        root = os.fsencode(tmp_path)
        Path(os.fsdecode(root + b"/sch\xfche")).mkdir()
        for name in [b"/sch\xfche/\xff.jpg", b"/h\xfct.jpg"]:
            with open(root + name, "wb") as file:
                file.write(b"bytes")
        loose, inner = listing(tmp_path)
        assert (loose.item.id, inner.item.id) == (r"h\xfct", r"sch\xfche")
        for entry, name in [(loose, b"/h\xfct.jpg"), (inner, b"/sch\xfche/\xff.jpg")]:
            assert os.fsencode(entry.source) == root + name
            assert Path(entry.source).read_bytes() == b"bytes"

    @POSIX
    def test_two_names_for_one_file_are_both_listed(self, tmp_path):
        files(tmp_path, "shoe/a.jpg")
        (tmp_path / "shoe/b.jpg").hardlink_to(tmp_path / "shoe/a.jpg")
        (tmp_path / "loose.jpg").symlink_to(tmp_path / "shoe/a.jpg")
        assert pictures(tmp_path) == [("loose", "loose.jpg"), ("shoe", "shoe/a.jpg"), ("shoe", "shoe/b.jpg")]

    @POSIX
    def test_links_in_a_circle_end(self, tmp_path):
        files(tmp_path, "shoe/a.jpg", "shoe/deep/b.jpg")
        (tmp_path / "shoe/deep/up").symlink_to(tmp_path / "shoe")
        (tmp_path / "shoe/root").symlink_to(tmp_path)
        (tmp_path / "shoe/self").symlink_to(tmp_path / "shoe/self")
        entries = list(listing(tmp_path))
        listed = [entry.source for entry in entries if isinstance(entry, Listed)]
        assert listed == [str(tmp_path / "shoe/a.jpg"), str(tmp_path / "shoe/deep/b.jpg")]
        unlisted = {entry.source: entry.error for entry in entries if isinstance(entry, Unlisted)}
        assert set(unlisted) == {str(tmp_path / "shoe/deep/up"), str(tmp_path / "shoe/root")}
        assert all("listed elsewhere" in error for error in unlisted.values())

    @POSIX
    def test_links_out_of_the_tree_are_followed_once(self, tmp_path):
        files(tmp_path, "store/shoe/a.jpg", "store/bag/b.jpg", "tree/x/c.jpg")
        for name, target in [("shoe", "store/shoe"), ("shoe2", "store/shoe"), ("x/bag", "store/bag")]:
            (tmp_path / "tree" / name).symlink_to(tmp_path / target)
        entries = list(listing(tmp_path / "tree"))
        assert [(e.item.id, Path(e.source).name) for e in entries if isinstance(e, Listed)] == [
            ("shoe", "a.jpg"), ("x", "c.jpg"), ("x", "b.jpg")
        ]  # fmt: skip
        assert [Path(e.source).name for e in entries if isinstance(e, Unlisted)] == ["shoe2"]

    @POSIX
    def test_a_folder_by_its_own_name_goes_before_a_link_to_it(self, tmp_path):
        files(tmp_path, "shoe/a.jpg", ".hidden/b.jpg")
        (tmp_path / "a-link").symlink_to(tmp_path / "shoe")
        (tmp_path / "shown").symlink_to(tmp_path / ".hidden")
        link, shoe, hidden = listing(tmp_path)
        assert isinstance(link, Unlisted) and link.source == str(tmp_path / "a-link")
        assert (shoe.item.id, shoe.source) == ("shoe", str(tmp_path / "shoe/a.jpg"))
        assert (hidden.item.id, hidden.source) == ("shown", str(tmp_path / "shown/b.jpg"))

    @POSIX
    def test_a_link_to_the_source_itself(self, tmp_path):
        files(tmp_path, "real/shoe/a.jpg")
        (tmp_path / "link").symlink_to(tmp_path / "real")
        assert pictures(tmp_path / "link") == [("shoe", "shoe/a.jpg")]

    @POSIX
    def test_dead_links_and_pipes_are_listed_for_the_reader_to_report(self, tmp_path):
        (tmp_path / "dead.jpg").symlink_to(tmp_path / "nowhere")
        os.mkfifo(tmp_path / "pipe.jpg")
        assert pictures(tmp_path) == [("dead", "dead.jpg"), ("pipe", "pipe.jpg")]

    @pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may read everything")
    def test_an_unreadable_folder_is_reported_and_the_rest_is_listed(self, tmp_path):
        files(tmp_path, "a/1.jpg", "b/2.jpg", "c/3.jpg")
        (tmp_path / "b").chmod(0)
        try:
            first, bad, last = listing(tmp_path)
        finally:
            (tmp_path / "b").chmod(0o700)
        assert isinstance(bad, Unlisted) and "Permission denied" in bad.error
        assert (first.item.id, last.item.id) == ("a", "c")

    def test_a_folder_that_vanishes_is_reported(self, tmp_path):
        files(tmp_path, "a/1.jpg", "b/2.jpg")
        entries = listing(tmp_path)
        assert next(entries).item.id == "a"
        (tmp_path / "b/2.jpg").unlink()
        (tmp_path / "b").rmdir()
        (gone,) = entries
        assert isinstance(gone, Unlisted) and gone.source == str(tmp_path / "b")
        assert gone.error.startswith(f"{tmp_path / 'b'}: not entered: ")

    def test_deep_folders(self, tmp_path):
        deep = "/".join(["d"] * 300)
        files(tmp_path, f"{deep}/a.jpg")
        assert pictures(tmp_path) == [("d", f"{deep}/a.jpg")]

    def test_an_empty_folder(self, tmp_path):
        assert list(listing(tmp_path)) == []
        assert count(tmp_path) == 0

    def test_count(self, tmp_path):
        files(tmp_path, "shoe/a.jpg", "shoe/deep/b.jpg", "c.jpg", "notes.txt")
        assert count(tmp_path) == 3


class TestSource:
    def test_one_picture(self, tmp_path):
        files(tmp_path, "red shoe.JPG")
        assert list(listing(tmp_path / "red shoe.JPG")) == [
            Listed(Item("red shoe"), str(tmp_path / "red shoe.JPG"))
        ]
        assert count(tmp_path / "red shoe.JPG") == 1

    def test_origin_is_the_same_however_it_is_written(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        for source in ["shop", "shop/", "./shop", "other/../shop", Path("shop"), tmp_path / "shop"]:
            assert origin_of(source) == str(tmp_path / "shop")

    def test_sources_are_absolute(self, tmp_path, monkeypatch):
        files(tmp_path, "shop/a/1.jpg", "one.jpg")
        table(tmp_path, "path\nshop/../shop/a/1.jpg\n")
        monkeypatch.chdir(tmp_path)
        for source, path in [("shop", "shop/a/1.jpg"), ("one.jpg", "one.jpg"), ("table.csv", "shop/a/1.jpg")]:
            (entry,) = listing(source)
            assert entry.source == str(tmp_path / path)

    @pytest.mark.parametrize("name", ["notes.txt", "archive.zip", "noname"])
    def test_other_files_are_refused(self, tmp_path, name):
        files(tmp_path, name)
        for ask in [listing, count]:
            with pytest.raises(BadInput, match="neither a folder nor a picture nor a table") as caught:
                ask(tmp_path / name)
            assert "folder" in caught.value.hint and ".csv" in caught.value.hint

    @pytest.mark.parametrize("name", ["gone", "gone.csv", "gone.jpg", "a\0b", "x" * 5000])
    def test_missing_files_are_refused(self, tmp_path, name):
        for ask in [listing, count]:
            with pytest.raises(BadInput) as caught:
                ask(tmp_path / name)
            assert str(caught.value).isprintable()

    @POSIX
    def test_a_pipe_is_not_waited_for(self, tmp_path):
        os.mkfifo(tmp_path / "pipe.csv")
        with pytest.raises(BadInput):
            listing(tmp_path / "pipe.csv")


class TestColumns:
    def test_the_whole_of_it(self, tmp_path):
        header = "path,item,title,box,colour,price,sizes,new\n"
        cells = 'pics/a.jpg,42,Red shoe,"1,2,30,40",red,12.50,36|37,true\n'
        assert row_of(tmp_path, header + cells) == Listed(
            Item("42", "Red shoe", {"colour": "red", "price": 12.5, "sizes": (36, 37), "new": True}),
            str(tmp_path / "pics/a.jpg"),
            Box(1, 2, 30, 40),
        )

    def test_the_same_as_json(self, tmp_path):
        row = {
            "path": "pics/a.jpg", "item": 42, "title": "Red shoe", "box": [1, 2, 30, 40],
            "colour": "red", "price": 12.5, "sizes": [36, 37], "new": True, "nothing": None,
        }  # fmt: skip
        assert row_of(tmp_path, json.dumps(row), "table.jsonl") == Listed(
            Item("42", "Red shoe", {"colour": "red", "price": 12.5, "sizes": (36, 37), "new": True}),
            str(tmp_path / "pics/a.jpg"),
            Box(1, 2, 30, 40),
        )

    def test_only_the_path_is_needed(self, tmp_path):
        assert row_of(tmp_path, "path\npics/red.shoe.jpg\n") == Listed(
            Item("red.shoe"), str(tmp_path / "pics/red.shoe.jpg")
        )

    def test_names_in_any_case_and_picture_for_path(self, tmp_path):
        entry = row_of(tmp_path, " Picture ,Item,TITLE, Colour \na.jpg,1,t,red\n")
        assert entry == Listed(Item("1", "t", {"Colour": "red"}), str(tmp_path / "a.jpg"))

    def test_absolute_paths(self, tmp_path):
        assert row_of(tmp_path, "path\n/pictures/a.jpg\n").source == str(Path("/pictures/a.jpg"))

    @pytest.mark.parametrize(
        ("header", "cells"),
        [("box", '"1.5,2,30,40"'), ("x0,y0,x1,y1", "1.5,2,30,40"), ("Y0,X0,X1,Y1", "2,1.5,30,40")],
    )
    def test_boxes(self, tmp_path, header, cells):
        entry = row_of(tmp_path, f"path,{header}\na.jpg,{cells}\n")
        assert entry.box == Box(1.5, 2, 30, 40)
        assert entry.item.attributes == {}

    @pytest.mark.parametrize("header", ["box", "x0,y0,x1,y1"])
    def test_an_empty_box_is_none(self, tmp_path, header):
        commas = "," * header.count(",")
        assert row_of(tmp_path, f"path,{header}\na.jpg,{commas}\n").box is None

    @pytest.mark.parametrize(
        ("header", "cells"),
        [
            ("box", '"1,2,3"'),
            ("box", '"a,b,c,d"'),
            ("box", '"5,5,1,1"'),
            ("box", '"0,0,nan,1"'),
            ("x0,y0,x1,y1", "1,2,,4"),
            ("x0,y0,x1,y1", "1,2,three,4"),
        ],
    )
    def test_a_bad_box_is_a_bad_row(self, tmp_path, header, cells):
        bad, good = listing(table(tmp_path, f"path,{header}\na.jpg,{cells}\nb.jpg\n"))
        assert isinstance(bad, Unlisted) and "table.csv, row 2: box" in bad.error
        assert good.item.id == "b"

    def test_without_the_path_column(self, tmp_path):
        for text, name in [("file,item\na.jpg,1\n", "t.csv"), ('{"file": "a.jpg", "item": 1}\n', "t.jsonl")]:
            with pytest.raises(
                BadInput, match=re.escape(f"{name}: there is no column path; columns: file, item")
            ):
                listing(table(tmp_path, text, name))

    def test_two_columns_of_one_name(self, tmp_path):
        for header in ["path,colour,colour ", "path,picture"]:
            with pytest.raises(BadInput, match="two columns"):
                listing(table(tmp_path, f"{header}\na.jpg,1,2\n"))

    def test_columns_without_a_name_are_left_out(self, tmp_path):
        assert row_of(tmp_path, ",path,colour,\n0,a.jpg,red,\n").item.attributes == {"colour": "red"}


class TestCsv:
    @pytest.mark.parametrize(
        ("cell", "value"),
        [
            ("12", 12), ("-3", -3), ("0", 0), ("12.50", 12.5), ("-0.5", -0.5), ("1.5e3", 1500.0),
            ("true", True), ("FALSE", False), (" red ", "red"),
            ("00123", "00123"), ("007.5", "007.5"), ("1e5", "1e5"), ("+49123", "+49123"), ("12,50", "12,50"),
            ("1_000", "1_000"), ("٣", "٣"), ("yes", "yes"), ("nan", "nan"), ("inf", "inf"), ("1.", "1."),
            ("-Infinity", "-Infinity"), ("1.0e999", "1.0e999"), (".5", ".5"),
            ("9" * 18, int("9" * 18)), ("9" * 19, "9" * 19),
            ("a|b", ("a", "b")), ("1| 2.5 |x|true", (1, 2.5, "x", True)), ("a|", ("a",)),
        ],
    )  # fmt: skip
    def test_cells_are_typed_by_their_looks(self, tmp_path, cell, value):
        read = row_of(tmp_path, f'path,x\na.jpg,"{cell}"\n').item.attributes["x"]
        assert read == value
        assert type(read) is type(value)

    @pytest.mark.parametrize("cell", ["", "  ", "|", " | "])
    def test_empty_cells_are_absent(self, tmp_path, cell):
        assert row_of(tmp_path, f"path,x,y\na.jpg,{cell},1\n").item.attributes == {"y": 1}

    @given(st.text(st.characters(codec="utf-8")) | st.floats().map(str) | st.integers().map(str))
    def test_any_cell_gives_what_can_be_stored(self, cell):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "table.csv"
            with path.open("w", newline="", encoding="utf-8") as file:
                csv.writer(file).writerows([["path", "x"], ["a.jpg", cell]])
            (entry,) = listing(path)
        value = entry.item.attributes.get("x", ())
        for scalar in value if isinstance(value, tuple) else (value,):
            assert isinstance(scalar, str | bool | float | int)
            assert not isinstance(scalar, float) or math.isfinite(scalar)
            assert not isinstance(scalar, int) or -(2**63) <= scalar < 2**63

    def test_ids_stay_as_they_are_written(self, tmp_path):
        for cell in ["00123", "12.50", "true", "a|b", "1e5"]:
            assert row_of(tmp_path, f"path,item,title\na.jpg,{cell},{cell}\n").item == Item(cell, cell)

    @pytest.mark.parametrize("separator", [",", ";", "\t"])
    @pytest.mark.parametrize("mark", ["", "\ufeff"])
    @pytest.mark.parametrize("line_end", ["\n", "\r\n"])
    def test_separators_marks_and_line_ends(self, tmp_path, separator, mark, line_end):
        lines = [["path", "item", "a,b;c\td"], ["a.jpg", "1", "x"], ["b.jpg", "2", "y"]]
        text = line_end.join(separator.join(f'"{cell}"' for cell in line) for line in lines)
        entries = list(listing(table(tmp_path, mark + text + line_end)))
        assert [entry.item for entry in entries] == [
            Item("1", attributes={"a,b;c\td": "x"}),
            Item("2", attributes={"a,b;c\td": "y"}),
        ]

    def test_one_column_with_commas_in_quotes(self, tmp_path):
        assert row_of(tmp_path, 'path\n"a,b;c.jpg"\n').source == str(tmp_path / "a,b;c.jpg")

    def test_bad_rows_are_reported_and_the_rest_is_listed(self, tmp_path):
        text = (
            "path,item\na.jpg,1\n,2\n\nb.jpg,3,surplus,4\nc.jpg\nd.jpg,5,,\n"
            + "e" * 140_000
            + ",6\nf.jpg,7\n"
        )
        path = table(tmp_path, text)
        entries = list(listing(path))
        assert [entry.item.id for entry in entries if isinstance(entry, Listed)] == ["1", "c", "5", "7"]
        errors = [entry for entry in entries if isinstance(entry, Unlisted)]
        assert [error.error.removeprefix(f"{path}, ") for error in errors] == [
            "row 3: path: missing",
            "row 5: 4 cells, but the header has 2",
            "row 8: field larger than field limit (131072)",
        ]
        assert {error.source for error in errors} == {str(path)}

    def test_line_breaks_in_cells(self, tmp_path):
        first, second = listing(table(tmp_path, 'path,title\na.jpg,"two\nlines"\n,x\n'))
        assert first.item.title == "two\nlines"
        assert "row 3: path: missing" in second.error

    @POSIX
    def test_bytes_that_are_not_utf8(self, tmp_path):
        path = table(tmp_path, b"path,title\nh\xfct.jpg,ok\nb.jpg,h\xfct\n")
        first, second = listing(path)
        assert os.fsencode(first.source) == os.fsencode(tmp_path) + b"/h\xfct.jpg"
        assert first.item == Item(r"h\xfct", "ok")
        assert second.error == f"{path}, row 3: title: not UTF-8 text"

    @pytest.mark.parametrize(
        "text", ["", "\n", "\ufeff", b"\xff\xfep\0a\0t\0h\0", b"\x89PNG\r\n\x1a\n\0\0", b"x" * 200_000]
    )
    def test_no_table_at_all(self, tmp_path, text):
        with pytest.raises(BadInput) as caught:
            listing(table(tmp_path, text))
        assert str(caught.value).isprintable()

    def test_a_table_without_rows(self, tmp_path):
        assert list(listing(table(tmp_path, "path,item\n"))) == []

    @pytest.mark.parametrize(
        ("text", "rows"), [("path\na\nb\n", 2), ("path\na\nb", 2), ("path\n", 0), ("", 0)]
    )
    def test_count(self, tmp_path, text, rows):
        assert count(table(tmp_path, text)) == rows

    def test_rows_stream(self, tmp_path):
        path = table(tmp_path, "path\n" + "a.jpg\n" * 100_000)
        entries = listing(path)
        next(entries)
        path.write_text("path\n")  # had it been read at once, 99,999 more would come
        assert sum(1 for _ in entries) < 50_000


class TestJsonLines:
    def test_bad_rows_are_reported_and_the_rest_is_listed(self, tmp_path):
        cases = [
            ('\ufeff{"path": "a.jpg"}', None),
            ("", None),
            ("{broken", "row 3: not JSON: "),
            ("[1, 2]", "row 4: not a JSON object"),
            ('{"item": "x"}', "row 5: path: missing"),
            ('{"path": 7}', "row 6: path: missing"),
            ('{"path": "b.jpg"}', None),
            ('{"path": "c.jpg", "price": NaN}', "row 8: not JSON: NaN"),
            ('{"path": "d.jpg", "price": 1e999}', "row 9: price: not a finite number"),
            ('{"path": "e.jpg", "box": 5}', "row 10: box 5: not four numbers"),
            ('{"path": "f.jpg", "item": {}}', "row 11: item: neither text nor a number"),
            (r'{"path": "g.jpg", "title": "\ud800"}', "row 12: title: not UTF-8 text"),
            ("[" * 100_000, "row 13: not JSON: "),
            ('{"path": "h.jpg", "box": "1,2,3,4"}', None),
        ]
        path = table(tmp_path, "\n".join(line for line, _ in cases), "rows.NDJSON")
        entries = list(listing(path))
        assert [entry.item.id for entry in entries if isinstance(entry, Listed)] == ["a", "b", "h"]
        errors = [entry.error for entry in entries if isinstance(entry, Unlisted)]
        for error, expected in zip(errors, filter(None, (text for _, text in cases)), strict=True):
            assert error.startswith(f"{path}, {expected}")

    def test_types_are_kept(self, tmp_path):
        row = {
            "path": "a.jpg",
            "a": "12",
            "b": 12,
            "c": 12.0,
            "d": False,
            "e": ["x", 1, None],
            "f": 2**70,
            "g": " ",
        }
        attributes = row_of(tmp_path, json.dumps(row), "t.jsonl").item.attributes
        assert attributes == {"a": "12", "b": 12, "c": 12.0, "d": False, "e": ("x", 1), "f": str(2**70)}
        assert [type(value) for value in attributes.values()] == [str, int, float, bool, tuple, str]

    def test_what_cannot_be_an_attribute_is_left_out(self, tmp_path):
        row = {"path": "a.jpg", "object": {"a": 1}, "nested": [[1], {"b": 2}], "empty": [], "mixed": [1, [2]]}
        assert row_of(tmp_path, json.dumps(row), "t.jsonl").item.attributes == {"mixed": (1,)}

    @pytest.mark.parametrize(
        ("value", "item"), [(7, "7"), (7.0, "7"), ("007", "007"), (None, "a"), ("", "a")]
    )
    def test_ids(self, tmp_path, value, item):
        assert row_of(tmp_path, json.dumps({"path": "a.jpg", "item": value}), "t.jsonl").item.id == item

    @POSIX
    def test_escaped_odd_bytes_in_a_path(self, tmp_path):
        path = str(tmp_path / "h\udcfct.jpg")
        entry = row_of(tmp_path, json.dumps({"path": path}), "t.jsonl")
        assert (entry.source, entry.item.id) == (path, r"h\xfct")

    def test_count(self, tmp_path):
        assert count(table(tmp_path, '{"path": "a"}\n{"path": "b"}', "t.jsonl")) == 2


class TestParquet:
    def test_without_the_extra_it_is_named(self, tmp_path, monkeypatch):
        monkeypatch.setitem(sys.modules, "pyarrow", None)
        for ask in [listing, count]:
            with pytest.raises(MissingExtra) as caught:
                ask(table(tmp_path, b"PAR1", "t.parquet"))
            assert caught.value.hint == "pip install 'lookalike[parquet]'"

    def written(self, path, columns):
        pyarrow = pytest.importorskip("pyarrow")
        from pyarrow import parquet

        parquet.write_table(pyarrow.table(columns), path, row_group_size=700)
        return path

    def test_rows(self, tmp_path):
        path = self.written(
            tmp_path / "t.parquet",
            {
                "path": ["a.jpg", None, "c.jpg"],
                "item": [1.0, None, float("nan")],
                "box": [[1.0, 2.0, 3.0, 4.0], None, None],
                "colour": ["red", "blue", ""],
                "price": [12.5, float("nan"), float("nan")],
                "sizes": [[36, 37], [], None],
                "pixels": [b"\xff", b"", None],
                "meta": [{"a": 1}, None, None],
            },
        )
        first, bad, last = listing(path)
        assert first == Listed(
            Item("1", attributes={"colour": "red", "price": 12.5, "sizes": (36, 37)}),
            str(tmp_path / "a.jpg"),
            Box(1, 2, 3, 4),
        )
        assert bad == Unlisted(str(path), f"{path}, row 2: path: missing")
        assert last == Listed(Item("c"), str(tmp_path / "c.jpg"))
        assert count(path) == 3

    def test_times_and_decimals(self, tmp_path):
        from datetime import date
        from decimal import Decimal

        path = self.written(
            tmp_path / "t.parquet",
            {"path": ["a.jpg"], "day": [date(2026, 5, 1)], "price": [Decimal("12.50")]},
        )
        (entry,) = listing(path)
        assert entry.item.attributes == {"day": "2026-05-01", "price": 12.5}

    def test_many_row_groups(self, tmp_path):
        path = self.written(tmp_path / "t.parquet", {"path": [f"{number}.jpg" for number in range(3000)]})
        assert [entry.item.id for entry in listing(path)] == [str(number) for number in range(3000)]

    def test_without_the_path_column(self, tmp_path):
        path = self.written(tmp_path / "t.parquet", {"file": ["a.jpg"], "item": ["x"]})
        with pytest.raises(BadInput, match="there is no column path; columns: file, item"):
            listing(path)

    def test_damaged_files(self, tmp_path):
        path = self.written(
            tmp_path / "t.parquet", {"path": [f"{number * 7919}.jpg" for number in range(5000)]}
        )
        whole = path.read_bytes()
        for data in [b"", b"PAR1", whole[:-9], whole[: len(whole) // 2]]:
            path.write_bytes(data)
            for ask in [listing, count]:
                with pytest.raises(BadInput, match="not a Parquet file"):
                    ask(path)
        middle = len(whole) // 2
        path.write_bytes(whole[:middle] + b"\xaa" * 4000 + whole[middle + 4000 :])
        entries = list(listing(path))
        assert isinstance(entries[0], Listed)
        assert isinstance(entries[-1], Unlisted) and "cannot be read" in entries[-1].error
