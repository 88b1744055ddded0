"""Objects at URIs: on disk, and on a stand-in for S3 that runs as a process of its own."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import obstore
import pytest
from obstore.store import from_url

from lookalike import images, objects
from lookalike.catalogue import Catalogue
from lookalike.datasets import Listed, Unlisted, count, listing, origin_of
from lookalike.errors import BadInput, BadPicture, NoObject, ObjectError
from saving import save
from stores_on_loopback import CREDENTIALS, Storage, refusing

OpenShop = Callable[..., Catalogue]
ODD = "a b/ü#1?%41&.png"


@pytest.fixture(params=["disk", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty place, by its URI."""
    if request.param == "disk":
        return str(tmp_path / "place")
    return request.getfixturevalue("bucket") + "/place"


def test_what_is_written_is_read(place: str) -> None:
    for name in ("plain.bin", ODD):
        uri = objects.join(place, name)
        assert not objects.exists(uri)
        objects.put(uri, b"first")
        objects.put(uri, b"second")
        assert objects.exists(uri)
        assert objects.read(uri) == b"second"
    assert list(objects.listed(place)) == [objects.join(place, ODD), objects.join(place, "plain.bin")]
    assert objects.children(place) == ([objects.join(place, "plain.bin")], [objects.join(place, "a b")])


def test_only_the_first_creates(place: str, tmp_path: Path) -> None:
    uri = objects.join(place, "once")
    with ThreadPoolExecutor(8) as pool:
        new = list(pool.map(lambda number: objects.put_if_absent(uri, b"%d" % number), range(8)))
    assert sum(new) == 1
    assert objects.read(uri) == b"%d" % new.index(True)
    (tmp_path / "file").write_bytes(b"x" * 6_000_000)  # beyond what would be sent in parts
    assert objects.put_if_absent(objects.join(place, "large"), tmp_path / "file")
    assert not objects.put_if_absent(objects.join(place, "large"), tmp_path / "file")
    assert len(objects.read(objects.join(place, "large"))) == 6_000_000


def test_a_limit_is_checked_before_reading(place: str) -> None:
    uri = objects.join(place, "large")
    objects.put(uri, b"x" * 3_000_000)
    assert len(objects.read(uri, 3_000_000)) == 3_000_000
    with pytest.raises(BadInput, match=r"3\.0 MB, more than the 2 MB"):
        objects.read(uri, 2_000_000)


def test_parts_of_an_object(place: str) -> None:
    uri = objects.join(place, "digits")
    objects.put(uri, b"0123456789")
    with objects.opened(uri) as file:
        assert file.seek(-3, os.SEEK_END) == 7
        assert file.read(2) == b"78"
        assert file.tell() == 9
        assert file.read() == b"9"
        assert file.read(1) == b""
        file.seek(2)
        assert file.read(3) == b"234"


def test_nothing_there(place: str) -> None:
    objects.put(objects.join(place, "folder/x"), b"")
    for uri in (objects.join(place, "none"), objects.join(place, "folder")):
        with pytest.raises(NoObject, match="nothing there"):
            objects.read(uri)
    assert list(objects.listed(objects.join(place, "none"))) == []
    assert objects.children(objects.join(place, "none")) == ([], [])


def test_listings_are_complete_and_in_order(bucket: str) -> None:
    names = [f"{bucket}/{number % 7}/{number:05}" for number in range(1203)]  # S3 tells 1,000 at a time
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda name: objects.put(name, b""), names))
    assert list(objects.listed(bucket)) == sorted(names)
    assert list(objects.listed(f"{bucket}/3")) == [name for name in sorted(names) if "/3/" in name]


def test_addresses() -> None:
    assert objects.normal("s3://bucket/folder/") == "s3://bucket/folder"
    assert objects.normal("S3://bucket") == "s3://bucket"
    assert objects.normal("file:///a%20b/c/") == "/a b/c"
    assert objects.normal("/a b//c/../d%20") == "/a b/d%20"
    assert objects.is_uri("gs://x") and not objects.is_uri("/gs://x") and not objects.is_uri(Path("s3://x"))
    for wrong in (
        "ftp://host/x",
        "s3://",
        "s3:///key",
        "s3://bucket/a//b",
        "s3://bucket/../b",
        "file://host/x",
    ):
        with pytest.raises(BadInput) as caught:
            objects.normal(wrong)
        assert caught.value.hint


def test_what_goes_wrong_is_one_line(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each bucket has a name of its own: connections are kept by bucket."""

    def told(uri: str) -> str:
        lines = []
        for attempt in (
            lambda: objects.read(f"{uri}/key"),
            lambda: objects.exists(f"{uri}/key"),
            lambda: objects.put(f"{uri}/key", b""),
            lambda: objects.put_if_absent(f"{uri}/key", b""),
            lambda: list(objects.listed(uri)),
            lambda: objects.children(uri),
        ):
            with pytest.raises(ObjectError) as caught:
                attempt()
            assert not isinstance(caught.value, NoObject)
            assert "\n" not in str(caught.value)
            assert caught.value.hint
            lines.append(str(caught.value).partition(": ")[2])
        assert len(set(lines)) == 1, lines
        return lines[0]

    with refusing() as wrong:
        for name, value in wrong.items():
            monkeypatch.setenv(name, value)
        assert "access is refused" in told("s3://refusing")
    monkeypatch.setenv("AWS_ENDPOINT_URL", wrong["AWS_ENDPOINT_URL"])  # which has stopped
    assert "no connection" in told("s3://stopped")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://storage.example")
    assert "plain HTTP" in told("s3://elsewhere")
    monkeypatch.setenv("AWS_ENDPOINT_URL", storage.url)
    with pytest.raises(ObjectError, match="no such bucket"):
        objects.read("s3://no-such-bucket/key")
    with pytest.raises(ObjectError, match="no such bucket"):
        list(objects.listed("s3://no-such-bucket/key"))


def test_a_server_that_never_answers_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen(8)
        endpoint = f"http://127.0.0.1:{silent.getsockname()[1]}"
        for name, value in {**CREDENTIALS, "AWS_ENDPOINT_URL": endpoint}.items():
            monkeypatch.setenv(name, value)
        with pytest.raises(ObjectError, match="no connection"):
            objects.read("s3://silent/key")


def test_a_full_disk(tmp_path: Path) -> None:
    code = (
        "import resource, sys\n"
        "from lookalike import objects\n"
        "from lookalike.errors import StorageFull\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"  # no file grows beyond, as on a full disk
        "for put in (objects.put, objects.put_if_absent):\n"
        "    try:\n"
        "        put(sys.argv[1], b'x' * 5000)\n"
        "    except StorageFull as error:\n"
        "        print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, tmp_path / "x"], capture_output=True, text=True, check=True
    )
    assert done.stdout.count("the disk is full") == 2
    assert list(tmp_path.iterdir()) == []


class TestSources:
    def test_the_folder_convention(self, bucket: str) -> None:
        names = (
            "shoe/b.jpg", "shoe/a.JPG", "shoe/more/deep/c.webp", "bag/1.png", "hat.jpeg", "bag.jpg",
            "shoe/.hidden.jpg", ".trash/x.jpg", "shoe/notes.txt", "readme.txt", "bag/ü #1.png",
        )  # fmt: skip
        for name in names:
            objects.put(f"{bucket}/pictures/{name}", b"x")
        objects.put(f"{bucket}/pictures-of-others/x.jpg", b"x")
        found = [
            (entry.item.id, entry.source.removeprefix(f"{bucket}/pictures/"))
            for entry in listing(f"{bucket}/pictures/")
            if isinstance(entry, Listed)
        ]
        assert found == [
            ("bag.jpg", "bag.jpg"),  # beside the folder of that name
            ("hat", "hat.jpeg"),
            ("bag", "bag/1.png"),
            ("bag", "bag/ü #1.png"),
            ("shoe", "shoe/a.JPG"),
            ("shoe", "shoe/b.jpg"),
            ("shoe", "shoe/more/deep/c.webp"),
        ]
        assert count(f"{bucket}/pictures") is None
        assert origin_of(f"{bucket}/pictures/") == f"{bucket}/pictures"
        (single,) = listing(f"{bucket}/pictures/hat.jpeg")
        assert (single.item.id, single.source) == ("hat", f"{bucket}/pictures/hat.jpeg")
        with pytest.raises(BadInput, match="nothing there"):
            listing(f"{bucket}/picturs")

    @pytest.mark.parametrize("form", ["csv", "jsonl", "parquet"])
    def test_tables(self, bucket: str, form: str) -> None:
        paths = [
            "a.jpg",
            "../other/b.jpg",
            "s3://elsewhere/c.jpg",
            "/etc/d.jpg",
            "file:///etc/e.jpg",
            "../../../f.jpg",
        ]
        if form == "csv":
            objects.put(
                f"{bucket}/shop/list.csv", "\n".join(["path,price", *(f"{p},1.5" for p in paths)]).encode()
            )
        elif form == "jsonl":
            lines = "\n".join(json.dumps({"path": path, "price": 1.5}) for path in paths)
            objects.put(f"{bucket}/shop/list.jsonl", lines.encode())
        else:
            import pyarrow as pa
            from pyarrow import parquet

            sink = pa.BufferOutputStream()
            parquet.write_table(pa.table({"path": paths, "price": [1.5] * len(paths)}), sink)
            objects.put(f"{bucket}/shop/list.parquet", bytes(sink.getvalue()))
        entries = list(listing(f"{bucket}/shop/list.{form}"))
        assert [entry.source for entry in entries if isinstance(entry, Listed)] == [
            f"{bucket}/shop/a.jpg",
            f"{bucket}/other/b.jpg",
            "s3://elsewhere/c.jpg",
            f"{bucket}/f.jpg",  # there is nothing above a bucket
        ]
        assert all(
            dict(entry.item.attributes) == {"price": 1.5} for entry in entries if isinstance(entry, Listed)
        )
        refused = [entry.error for entry in entries if isinstance(entry, Unlisted)]
        assert len(refused) == 2 and "/etc/d.jpg" in refused[0] and "file:" in refused[1]

    def test_a_table_on_disk_names_pictures_elsewhere(self, tmp_path: Path) -> None:
        (tmp_path / "list.csv").write_text("path,item\ns3://bucket/a b.jpg,a\nb.jpg,b\n")
        assert [entry.source for entry in listing(tmp_path / "list.csv")] == [
            "s3://bucket/a b.jpg",
            str(tmp_path / "b.jpg"),
        ]

    def test_pictures(self, bucket: str, tmp_path: Path) -> None:
        objects.put(f"{bucket}/{ODD}", save(tmp_path / "x.png", 1))
        picture = images.load(f"{bucket}/{ODD}")
        assert picture.source == f"{bucket}/{ODD}"
        assert picture.sha256 == images.load(tmp_path / "x.png").sha256
        for data, words in ((b"", "empty"), (b"text", "not a picture"), (b"x" * 2000, "more than")):
            objects.put(f"{bucket}/bad.png", data)
            with pytest.raises(BadPicture, match=words) as caught:
                images.load(f"{bucket}/bad.png", images.Limits(bytes=1000, pixels=10**6))
            assert str(caught.value).startswith(f"{bucket}/bad.png: ")
        with pytest.raises(BadPicture, match="nothing there"):
            images.load(f"{bucket}/none.png")

    def test_changed_and_vanished_pictures(self, bucket: str, open_shop: OpenShop, tmp_path: Path) -> None:
        for number in range(3):
            objects.put(f"{bucket}/pictures/item-{number}/front.png", save(tmp_path / "x.png", number))
        shop = open_shop()
        report = shop.add(f"{bucket}/pictures")
        assert (report.items, report.encoded) == (3, 3)
        assert shop.add(f"{bucket}/pictures/").encoded == 0
        objects.put(f"{bucket}/pictures/item-0/front.png", save(tmp_path / "x.png", 9))
        objects.put(f"{bucket}/other/item-1/front.png", save(tmp_path / "x.png", 1))
        obstore.delete(from_url(bucket, client_options={"allow_http": True}), "pictures/item-2/front.png")
        assert shop.add(f"{bucket}/other").vanished == ()  # another SOURCE
        report = shop.add(f"{bucket}/pictures")
        gone = ("item-2", f"{bucket}/pictures/item-2/front.png")
        assert (report.encoded, report.pictures, report.vanished) == (1, 3, (gone,))
        report = shop.add(f"{bucket}/pictures", prune=True)
        assert (report.items, report.pruned) == (2, 1)
        (hit,) = shop.search(f"{bucket}/pictures/item-0/front.png", top=1)
        assert (hit.item, hit.picture) == ("item-0", f"{bucket}/pictures/item-0/front.png")

    def test_storage_that_goes_away_ends_the_run_and_skips_nothing(
        self, pictures: Path, tmp_path: Path
    ) -> None:
        """It must not look as if every picture were broken."""
        server = Storage()
        bucket = server.bucket()
        with pytest.MonkeyPatch.context() as patch:
            for name, value in server.environment.items():
                patch.setenv(name, value)
            table = tmp_path / "list.csv"
            table.write_text("path\n" + "\n".join(f"{bucket}/{number}.png" for number in range(3)))
            server.stop()
            command = [sys.executable, "-m", "lookalike", "index", table, "--to", tmp_path / "shop"]
            done = subprocess.run(
                [*command, "--encoder", "colour-histogram"],
                capture_output=True,
                text=True,
            )
        assert done.returncode == 1
        assert done.stdout == ""
        assert "no connection" in done.stderr
        assert "Traceback" not in done.stderr
