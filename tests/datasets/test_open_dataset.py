import gc
import json
import subprocess
import sys
import tracemalloc
from itertools import islice

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lookalike.datasets import Labelled, Side, Unlisted, open_dataset
from lookalike.errors import BadInput
from lookalike.values import Box


def files(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


class TestFolder:
    def test_each_picture_is_searched_among_the_others(self, tmp_path):
        files(tmp_path, "shoe/a.jpg", "shoe/b.png", "bag/a.jpg", "notes.txt")
        data = open_dataset(tmp_path)
        assert (data.name, data.splits, data.synthetic) == ("folder", ("all",), "")
        assert list(data.read("all")) == [
            Labelled(name, str(tmp_path / name), Side.BOTH, identity, identity)
            for name, identity in (("bag/a.jpg", "bag"), ("shoe/a.jpg", "shoe"), ("shoe/b.png", "shoe"))
        ]

    def test_queries_and_gallery_in_folders_of_their_own(self, tmp_path):
        files(
            tmp_path, "query/shoe/a.jpg", "gallery/shoe/a.jpg", "gallery/bag/deep/b.jpg", "gallery/loose.jpg"
        )
        regions = list(open_dataset(tmp_path).read("all"))
        assert [(each.id, each.side, each.identity) for each in regions] == [
            ("query/shoe/a.jpg", Side.QUERY, "shoe"),
            ("gallery/loose.jpg", Side.GALLERY, "loose"),
            ("gallery/bag/deep/b.jpg", Side.GALLERY, "bag"),
            ("gallery/shoe/a.jpg", Side.GALLERY, "shoe"),
        ]

    @pytest.mark.parametrize("names", [[], ["a.jpg", "b.jpg"], ["shoe/notes.txt"]])
    def test_a_folder_that_is_none_says_what_was_looked_for(self, tmp_path, names):
        files(tmp_path, *names)
        with pytest.raises(BadInput, match="no labelled data set here") as error:
            open_dataset(tmp_path)
        for sign in (
            "validation/annos",
            "list_eval_partition.txt",
            "gnd_roxford5k.pkl",
            "a folder per identity",
        ):
            assert sign in error.value.hint

    def test_no_such_folder(self, tmp_path):
        with pytest.raises(BadInput, match="No such file"):
            open_dataset(tmp_path / "nothing")

    def test_an_unknown_split(self, tmp_path):
        files(tmp_path, "shoe/a.jpg")
        with pytest.raises(BadInput, match="no split test"):
            open_dataset(tmp_path).read("test")


@pytest.fixture
def write(tmp_path):
    """Writes a table beside the pictures a.jpg and b.jpg."""
    files(tmp_path, "a.jpg", "b.jpg")

    def write(text, name="table.csv"):
        (tmp_path / name).write_text(text)
        return tmp_path / name

    return write


class TestTable:
    def test_every_column(self, write):
        table = write(
            "Path,Identity,side,group,box,category,caption,split,colour,weight\n"
            'a.jpg,00123,query,G1,"1,2,3,4",shoe,"a red|blue shoe",dev,red|blue,1.50\n'
        )
        data = open_dataset(table)
        assert (data.name, data.splits, data.folder) == ("table", ("dev",), table.parent)
        assert list(data.read("dev")) == [
            Labelled(
                id="row 2", source=str(table.parent / "a.jpg"), side=Side.QUERY, identity="00123", group="G1",
                box=Box(1, 2, 3, 4), category="shoe", captions=("a red|blue shoe",),
                attributes={"colour": "red, blue", "weight": "1.5"},
            )
        ]  # fmt: skip

    def test_what_is_left_out(self, write):
        first, second = open_dataset(write("path,identity\na.jpg,7\nb.jpg,\n")).read("all")
        assert (first.side, first.identity, first.group, first.box) == (Side.BOTH, "7", "7", None)
        assert (second.identity, second.group) == (None, "row 3")

    def test_identities_are_texts_not_numbers(self, write):
        table = write("path,identity\na.jpg,1.0\nb.jpg,1\na.jpg,1e3\nb.jpg,true\n")
        assert [each.identity for each in open_dataset(table).read("all")] == ["1.0", "1", "1e3", "true"]

    def test_json_lines(self, write):
        rows = [{"path": "a.jpg", "identity": 7, "side": "gallery", "box": [1, 2, 3, 4]}, {"path": "b.jpg"}]
        table = write("\n".join(map(json.dumps, rows)), "table.jsonl")
        first, second = open_dataset(table).read("all")
        assert (first.identity, first.side, first.box) == ("7", Side.GALLERY, Box(1, 2, 3, 4))
        assert second.identity is None

    def test_splits_come_in_the_order_of_the_table(self, write):
        table = write("path,identity,split\na.jpg,1,test\nb.jpg,1,dev\na.jpg,2,\nb.jpg,2,test\n")
        data = open_dataset(table)
        assert data.splits == ("test", "dev", "all")
        assert {split: [each.id for each in data.read(split)] for split in data.splits} == {
            "test": ["row 2", "row 5"], "dev": ["row 3"], "all": ["row 4"],
        }  # fmt: skip

    @pytest.mark.parametrize(
        ("row", "told"),
        [
            ("a.jpg,1,shop,", 'row 3: side: "shop" is text, none of query, gallery, both'),
            ('a.jpg,1,,"9,1,2,3"', "row 3: box 9,1,2,3: needs x0 < x1"),
            ('a.jpg,1,,"1,2,3"', "row 3: box '1,2,3': not four numbers"),
            ('a.jpg,1,,"1,2,3,nan"', "row 3: box 1,2,3,nan: coordinates must be finite"),
            ("gone.jpg,1,,", "row 3: picture "),
            (",1,,", "row 3: path: missing"),
        ],
    )
    def test_a_wrong_row_is_named_and_the_others_stay(self, write, row, told):
        table = write(f"path,identity,side,box\na.jpg,1,,\n{row}\nb.jpg,1,,\n")
        first, wrong, last = open_dataset(table).read("all")
        assert (first.id, last.id) == ("row 2", "row 4")
        assert isinstance(wrong, Unlisted) and wrong.error.startswith(f"{table}, {told}")

    def test_a_table_without_identities(self, write):
        with pytest.raises(BadInput, match="no row has an identity"):
            open_dataset(write("path,item\na.jpg,1\n"))

    def test_a_table_without_paths(self, write):
        with pytest.raises(BadInput, match="no column path"):
            open_dataset(write("file,identity\na.jpg,1\n"))

    def test_a_file_that_is_no_table(self, write):
        with pytest.raises(BadInput, match="neither a folder nor a picture nor a table"):
            open_dataset(write("text", "table.txt"))

    @given(
        identity=st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1)
        .map(str.strip)
        .filter(bool)
    )
    def test_any_identity_is_kept_as_it_is(self, tmp_path_factory, identity):
        root = tmp_path_factory.mktemp("any")
        files(root, "a.jpg")
        quoted = identity.replace('"', '""')
        (root / "table.csv").write_text(f'path,identity\na.jpg,"{quoted}"\n', encoding="utf-8")
        (region,) = open_dataset(root / "table.csv").read("all")
        assert region.identity == identity


def test_reading_takes_no_more_memory_for_more_files(tmp_path):
    item = {
        "style": 1, "category_id": 7, "category_name": "shorts", "scale": 1, "occlusion": 1, "zoom_in": 1,
        "viewpoint": 1, "bounding_box": [0, 0, 5, 5], "segmentation": [list(range(2000))],
    }  # fmt: skip
    files(tmp_path, *(f"image/{number:06}.jpg" for number in range(400)))
    (tmp_path / "annos").mkdir()
    for number in range(400):
        record = {"source": "user", "pair_id": number, "item1": item}
        (tmp_path / "annos" / f"{number:06}.json").write_text(json.dumps(record))

    regions = open_dataset(tmp_path).read(tmp_path.name)
    assert len(list(islice(regions, 50))) == 50
    gc.collect()
    tracemalloc.start()
    held = 0
    for each in islice(regions, 300):  # parsed, the 300 files take 21 MB
        assert isinstance(each, Labelled)
        held = max(held, tracemalloc.get_traced_memory()[0])
    tracemalloc.stop()
    assert held < 8_000_000  # Python's table of interned names may grow by some


def test_opening_loads_no_torch_and_no_runtime():
    code = "import lookalike.datasets, sys; print({'torch', 'onnxruntime', 'faiss'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
