"""Data sets in tars: what is read is what was written, whoever wrote it, and bad tars are told."""

import io
import json
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lookalike import images
from lookalike.datasets import Dataset, Labelled, Side, Unlisted, open_dataset
from lookalike.datasets.sharding import make_shards
from lookalike.datasets.tars import INDEX
from lookalike.errors import BadInput, BadPicture
from lookalike.values import Box
from saving import save


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("pictures")
    for number in range(3):
        save(folder / f"{number}.png", number)
    return [str(folder / f"{number}.png") for number in range(3)]


def dataset(folder: Path, splits: dict[str, list[Labelled | Unlisted]]) -> Dataset:
    def read(split: str) -> Iterator[Labelled | Unlisted]:
        yield from splits[split]

    return Dataset("made", folder, tuple(splits), read, "generated for a test")


def seven(pictures: list[str]) -> dict[str, list[Labelled | Unlisted]]:
    """Three pictures, one of them with two regions, one in two splits."""
    full = Labelled(
        "a", pictures[0], Side.QUERY, "shoe", "pair", Box(-1, 2.5, 30, 40), "shoe", {"scale": "small"},
        {"colour": "röd"}, ("short", "a longer one"), "but red", {"easy": ("b", "c")},
    )  # fmt: skip
    bare = Labelled("b", pictures[0], Side.GALLERY, None, "other")
    return {
        "train": [full, bare, Labelled("c", pictures[1], Side.BOTH, "shoe", "pair")],
        "test": [Labelled("c", pictures[1], Side.BOTH, "shoe", "pair"), replace(bare, source=pictures[2])],
    }


def same(read: Dataset, splits: dict[str, list[Labelled | Unlisted]]) -> None:
    assert read.splits == tuple(splits)
    for split, expected in splits.items():
        found = list(read.read(split))
        assert all(isinstance(each, Labelled) for each in found), found
        assert [replace(each, source="") for each in found] == [replace(each, source="") for each in expected]
        for one, other in zip(found, expected, strict=True):
            assert images.read(one.source) == Path(other.source).read_bytes()
            assert images.size_of(one.source) == Path(other.source).stat().st_size


def test_what_was_written_is_read_with_an_index_and_without(pictures: list[str], tmp_path: Path) -> None:
    splits, out = seven(pictures), tmp_path / "out"
    made = make_shards(dataset(tmp_path, splits), out, 2)
    assert (made.shards, made.samples, made.left_out) == (2, 3, ())
    assert sorted(path.name for path in out.glob("*.tar")) == ["shop-000000.tar", "shop-000001.tar"]
    read = open_dataset(out)
    assert (read.name, read.synthetic) == ("made", "generated for a test")
    same(read, splits)
    (out / INDEX).unlink()
    read = open_dataset(out)
    assert (read.name, read.synthetic) == ("made", "generated for a test")
    same(read, splits)
    with pytest.raises(BadInput, match="no split val"):
        read.read("val")


names = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1).filter(str.strip)
regions = st.builds(
    Labelled,
    id=names,
    source=st.integers(0, 2).map(str),
    side=st.sampled_from(Side),
    identity=st.none() | names,
    group=names,
    box=st.none()
    | st.builds(lambda x, y, w: Box(x, y, x + w, y + w), *[st.integers(-9, 99)] * 2, st.integers(1, 99)),
    category=st.just("") | names,
    attributes=st.dictionaries(names, names, max_size=2),
    captions=st.lists(names, max_size=3).map(tuple),
    truth=st.dictionaries(names, st.lists(names, max_size=2).map(tuple), max_size=2),
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40, deadline=None)
@given(
    read=st.lists(regions, min_size=1, max_size=6, unique_by=lambda each: each.id), samples=st.integers(1, 3)
)
def test_any_label_comes_back(
    pictures: list[str], tmp_path_factory: pytest.TempPathFactory, read: list[Labelled], samples: int
) -> None:
    out = tmp_path_factory.mktemp("out")
    placed = [replace(each, source=pictures[int(each.source)]) for each in read]
    make_shards(dataset(out, {"all": list(placed)}), out, samples)
    by_picture = {each.source: None for each in placed}
    in_order = [each for source in by_picture for each in placed if each.source == source]
    same(open_dataset(out), {"all": list(in_order)})


def test_the_same_data_make_the_same_bytes_and_a_killed_run_goes_on(
    pictures: list[str], tmp_path: Path
) -> None:
    made = dataset(tmp_path, seven(pictures))
    make_shards(made, tmp_path / "whole", 1)
    make_shards(made, tmp_path / "killed", 1)
    untouched = tmp_path / "killed" / "shop-000000.tar"
    before = untouched.stat().st_mtime_ns
    (tmp_path / "killed" / "shop-000002.tar").unlink()
    (tmp_path / "killed" / "shop-000002.tar.part").write_bytes(b"half")
    (tmp_path / "killed" / INDEX).unlink()
    make_shards(made, tmp_path / "killed", 1)
    assert untouched.stat().st_mtime_ns == before
    one, other = (
        {path.name: path.read_bytes() for path in (tmp_path / name).iterdir()} for name in ("whole", "killed")
    )
    assert one == other
    with pytest.raises(BadInput, match="other data"):
        make_shards(made, tmp_path / "whole", 2)
    with pytest.raises(BadInput, match="other data"):
        make_shards(dataset(tmp_path, {"train": made_of(pictures[0])}), tmp_path / "whole", 1)


def made_of(picture: str) -> list[Labelled | Unlisted]:
    return [Labelled("x", picture, Side.BOTH, "y", "y")]


def test_what_cannot_be_written_is_told(pictures: list[str], tmp_path: Path) -> None:
    (tmp_path / "no.jpg").write_text("no picture")
    bad = [
        *made_of(str(tmp_path / "no.jpg")),
        *made_of(str(tmp_path / "gone.jpg")),
        Unlisted("row", "a bad row"),
    ]
    made = make_shards(dataset(tmp_path, {"all": [*bad, *made_of(pictures[0])]}), tmp_path / "out")
    assert made.samples == 1
    assert [line.rpartition(": ")[2] for line in made.left_out] == [
        "a bad row", "not a picture", "No such file or directory",
    ]  # fmt: skip
    assert len(list(open_dataset(tmp_path / "out").read("all"))) == 1


RECORD = json.dumps({"regions": [{"identity": "shoe"}]}).encode()
LINK = tarfile.TarInfo("00.jpg")
LINK.type, LINK.linkname = tarfile.SYMTYPE, "/etc/passwd"


def tar(path: Path, *members: tuple[str, bytes] | tarfile.TarInfo) -> Path:
    with tarfile.open(path, "w") as file:
        for each in members:
            info = each if isinstance(each, tarfile.TarInfo) else tarfile.TarInfo(each[0])
            data = b"" if isinstance(each, tarfile.TarInfo) else each[1]
            info.size = len(data)
            file.addfile(info, io.BytesIO(data))
    return path


@pytest.mark.parametrize(
    ("members", "told"),
    [
        ([("../x.jpg", b"x")], "../x.jpg is not named KEY.jpg"),
        ([("/x.jpg", b"x")], "/x.jpg is not named KEY.jpg"),
        ([("a\nb.jpg", b"x")], r"a\nb.jpg is not named KEY.jpg"),
        ([LINK, ("00.json", RECORD)], "00.jpg is a link"),
        ([("00.jpg", b"x")], "sample 00 has no 00.json"),
        ([("00.json", RECORD)], "sample 00 has no picture"),
        ([("00.jpg", b"x"), ("00.json", b"{")], "00.json: not JSON"),
        ([("00.jpg", b"x"), ("00.json", b"[" * 100_000)], "00.json: not JSON"),
        ([("00.jpg", b"x"), ("00.json", b" " * 4_000_001)], "more than the 4 MB allowed"),
        ([("00.jpg", b"x"), ("00.json", b"{}")], "sample 00: regions: missing"),
        ([("00.jpg", b"x"), ("00.json", b'{"regions": [{"box": [3, 3, 1, 1]}]}')], "region 1: box: [3, 3"),
        ([("00.jpg", b"x"), ("00.json", b'{"regions": [{"side": "left"}]}')], "region 1: side"),
    ],
)  # fmt: skip
def test_bad_samples_are_one_line_each_and_the_others_are_read(
    pictures: list[str], tmp_path: Path, members: list, told: str
) -> None:
    good = Path(pictures[0]).read_bytes()
    tar(tmp_path / "a.tar", ("99.png", good), ("99.json", RECORD), *members)
    found = list(open_dataset(tmp_path).read("all"))
    (bad,) = {each.error: each for each in found if isinstance(each, Unlisted)}.values()
    assert told in bad.error and "\n" not in bad.error
    (read,) = [each for each in found if isinstance(each, Labelled)]
    assert (read.id, read.identity, read.group, read.side) == ("99/1", "shoe", "shoe", Side.BOTH)
    assert images.read(read.source) == good


def test_a_tar_cut_anywhere_never_gives_a_wrong_picture(pictures: list[str], tmp_path: Path) -> None:
    data = [Path(picture).read_bytes() for picture in pictures[:2]]
    members = [
        (f"{n}.{kind}", data[n] if kind == "png" else RECORD) for n in (0, 1) for kind in ("png", "json")
    ]
    whole = tar(tmp_path / "whole.tar", *members).read_bytes()
    (tmp_path / "whole.tar").unlink()
    for size in [*range(0, len(whole), 1999), 511, 512, 513]:
        (tmp_path / "a.tar").write_bytes(whole[:size])
        found = list(open_dataset(tmp_path).read("all"))
        read = [images.read(each.source) for each in found if isinstance(each, Labelled)]
        assert read == data[: len(read)]
        errors = [each.error for each in found if isinstance(each, Unlisted)]
        assert len(read) == 2 or errors, size
        assert all("cut off" in error or "has no" in error for error in errors), errors


def test_an_index_that_does_not_fit_its_tars_is_told(pictures: list[str], tmp_path: Path) -> None:
    out = tmp_path / "out"
    make_shards(dataset(tmp_path, seven(pictures)), out, 2)
    source = next(each.source for each in open_dataset(out).read("train") if isinstance(each, Labelled))
    shard = out / "shop-000000.tar"
    whole = shard.read_bytes()
    shard.write_bytes(whole[:2000])
    with pytest.raises(BadInput, match="2000 bytes"):
        open_dataset(out)
    with pytest.raises(BadPicture, match="ends within it"):
        images.read(source)
    shard.write_bytes(whole[512:] + bytes(512))
    with pytest.raises(BadPicture, match="something else") as error:
        images.load(source)
    assert "delete" in error.value.hint
    shard.write_bytes(whole)
    (out / "other.tar").write_bytes(whole)
    with pytest.raises(BadInput, match=r"other\.tar: \d+ bytes, and None"):
        open_dataset(out)
    (out / "other.tar").unlink()
    head, *lines = (out / INDEX).read_text().splitlines()
    for broken in (
        "",
        "{",
        "[]",
        head.replace('"version": 1', '"version": 9'),
        head.replace("splits", "parts"),
    ):
        (out / INDEX).write_text("\n".join([broken, *lines]))
        with pytest.raises(BadInput) as error:
            open_dataset(out)
        assert "delete it" in error.value.hint
    for broken in (
        "{",
        "[]",
        lines[0].replace("shop-000000", "../shop"),
        lines[0].replace(".png", ".png/.."),
    ):
        (out / INDEX).write_text("\n".join([head, broken]))
        (bad,) = open_dataset(out).read("train")
        assert isinstance(bad, Unlisted) and "line 2" in bad.error


def test_a_member_that_is_no_picture_is_one_line(tmp_path: Path) -> None:
    tar(tmp_path / "a.tar", ("00.jpg", b"no picture at all"), ("00.json", RECORD))
    (read,) = open_dataset(tmp_path).read("all")
    with pytest.raises(BadPicture, match=r"00\.jpg@512\+17: not a picture"):
        images.load(read.source)
    done = subprocess.run(
        [sys.executable, "-m", "lookalike", "doctor", str(tmp_path)], capture_output=True, text=True
    )
    assert done.returncode == 1 and "broken picture" in done.stdout, done


THEIRS = """
import json, sys, webdataset
from pathlib import Path

out, theirs = map(Path, sys.argv[1:])
shards = sorted(map(str, out.glob("*.tar")))
with webdataset.TarWriter(str(theirs / "0.tar")) as sink:
    for each in webdataset.WebDataset(shards, shardshuffle=False):
        print(each["__key__"], len(each["png"]), json.loads(each["json"])["regions"][0]["id"])
        sink.write({name: each[name] for name in ("__key__", "png", "json")})
"""


def test_the_webdataset_package_reads_and_writes_the_same(pictures: list[str], tmp_path: Path) -> None:
    splits, out, theirs = seven(pictures), tmp_path / "out", tmp_path / "theirs"
    make_shards(dataset(tmp_path, splits), out, 2)
    theirs.mkdir()
    # In a process of its own: it leaves files open, which is an error here.
    command = [sys.executable, "-c", THEIRS, str(out), str(theirs)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    sizes = [Path(picture).stat().st_size for picture in pictures]
    assert done.stdout.splitlines() == [
        f"{number:08} {size} {id}" for number, (size, id) in enumerate(zip(sizes, "acb", strict=True))
    ]
    same(open_dataset(theirs), splits)
