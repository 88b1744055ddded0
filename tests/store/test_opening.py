"""Opening: absent, foreign, older, newer and damaged files, folders that cannot be written, two writers."""

import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from making import DIM, many, row, vectors

from lookalike.errors import CatalogueBusy, CatalogueError, StorageFull, WrongEncoder
from lookalike.store import LocalStore, schema
from lookalike.store.database import network_file_system
from lookalike.values import Caption, Claim


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    """A finished catalogue of 50 rows."""
    with LocalStore(tmp_path / "shop", DIM, write=True) as store:
        store.add(many(50), run=1)
    return tmp_path / "shop"


def test_what_is_absent_is_not_opened(tmp_path: Path) -> None:
    assert not LocalStore.exists(tmp_path)
    for write in (False, True):
        with pytest.raises(CatalogueError, match="no catalogue") as caught:
            LocalStore(tmp_path / "shop", write=write)
        assert "lookalike index" in caught.value.hint
    assert not (tmp_path / "shop").exists()


def test_what_is_made_is_there_at_once_with_its_facts(tmp_path: Path) -> None:
    with LocalStore(tmp_path / "a" / "b", DIM, write=True, meta={"encoder": "thumbnail"}):
        assert LocalStore.exists(tmp_path / "a" / "b")
        with LocalStore(tmp_path / "a" / "b") as reader:
            assert reader.meta["encoder"] == "thumbnail"
            assert reader.dim == DIM


@pytest.mark.parametrize(
    "name", ["plain", "with space?#%20", "grün", b"caf\xe9".decode(errors="surrogateescape")]
)
def test_folders_may_have_any_name(tmp_path: Path, name: str) -> None:
    with LocalStore(tmp_path / name, DIM, write=True, graph_from=10) as store:
        store.add(many(50), run=1)
        assert store.build_index()
    with LocalStore(tmp_path / name) as store, store.view() as view:
        assert view.search(vectors(1), 5)[0].shape == (1, 5)
    assert sorted(path.name for path in tmp_path.iterdir()) == [name]


def test_pictures_within_the_folder_move_with_it(tmp_path: Path) -> None:
    before, after = tmp_path / "before", tmp_path / "after"
    names = ["a.jpg", "odd-\udcff.jpg", "bytes:b.jpg", "catalogue:c.jpg"]
    apart = [str(tmp_path / "before-and-elsewhere.jpg"), "catalogue:a.jpg", "bytes:a.jpg", "a.jpg"]
    sources = [str(before / "pictures" / name) for name in names] + apart
    with LocalStore(before, DIM, write=True) as store:
        rows = [row(f"item-{n}", source, f"{n}", origin="shelf") for n, source in enumerate(sources)]
        store.add(rows, run=1)
        assert [each.source for each in store.scan()] == sources
    before.rename(after)
    sources = [str(after / "pictures" / name) for name in names] + apart
    with LocalStore(after, write=True) as store:
        assert [each.source for each in store.scan()] == sources
        store.mark("shelf", sources[1:], run=2)
        assert list(store.vanished("shelf", run=2)) == [("item-0", sources[0])]


def test_another_length_is_another_encoder(shop: Path) -> None:
    with pytest.raises(WrongEncoder, match=f"length {DIM}, not 7"):
        LocalStore(shop, 7, write=True)


def test_there_is_one_writer(shop: Path) -> None:
    with LocalStore(shop, write=True):
        with pytest.raises(CatalogueBusy):
            LocalStore(shop, write=True)
        with LocalStore(shop) as reader:
            assert reader.count().items == 50
    LocalStore(shop, write=True).close()


def test_a_second_writing_process_is_refused(shop: Path) -> None:
    code = "from pathlib import Path; from lookalike.store import LocalStore; "
    code += f"LocalStore(Path({str(shop)!r}), write=True)"
    with LocalStore(shop, write=True):
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "CatalogueBusy" in done.stderr
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_closed_store_says_so(shop: Path) -> None:
    store = LocalStore(shop, write=True)
    store.close()
    store.close()
    for use in (store.count, store.start_run):
        with pytest.raises(ValueError, match="closed"):
            use()


def test_a_newer_file_is_refused(shop: Path) -> None:
    with sqlite3.connect(shop / "catalogue.sqlite") as connection:
        connection.execute(f"PRAGMA user_version = {len(schema.MIGRATIONS) + 1}")
    connection.close()
    for write in (False, True):
        with pytest.raises(CatalogueError, match="newer lookalike") as caught:
            LocalStore(shop, write=write)
        assert "upgrade" in caught.value.hint


def test_an_older_file_is_brought_up_to_date_by_a_writer(shop: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    later = "CREATE TABLE shelves (name TEXT);\nINSERT INTO shelves VALUES ('top');\n"
    monkeypatch.setattr(schema, "MIGRATIONS", (*schema.MIGRATIONS, later))
    with pytest.raises(CatalogueError, match="older lookalike"):
        LocalStore(shop)
    for _ in range(2):  # the second time there is nothing to do
        with LocalStore(shop, write=True) as store:
            assert store.count().items == 50
    with sqlite3.connect(shop / "catalogue.sqlite") as connection:
        assert connection.execute("SELECT name FROM shelves").fetchall() == [("top",)]
    connection.close()


def test_a_catalogue_of_the_first_version_is_brought_up_to_date(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(schema, "MIGRATIONS", schema.MIGRATIONS[:1])
        LocalStore(tmp_path, DIM, write=True).close()
    old = row("boot", caption=Caption("a navy boot", "somebody"))
    with sqlite3.connect(tmp_path / "catalogue.sqlite") as connection:
        connection.execute("INSERT INTO items VALUES (1, 'boot', '')")
        connection.execute(
            "INSERT INTO pictures VALUES (1, 1, 'shop', 'a.jpg', ?, 640, 480, 1)", (old.sha256,)
        )
        connection.execute("INSERT INTO regions VALUES (1, 1, NULL, NULL, NULL, NULL, 1)")
        connection.execute("INSERT INTO vectors VALUES (1, ?)", (old.vector.astype("<f2").tobytes(),))
        connection.execute("INSERT INTO captions VALUES (1, 'a navy boot', 'somebody')")
        connection.execute("INSERT INTO words (rowid, captions) VALUES (1, 'a navy boot')")
        tables = "SELECT name FROM sqlite_schema WHERE name IN ('claims', 'meanings')"
        assert connection.execute(tables).fetchall() == []
    connection.close()

    with pytest.raises(CatalogueError, match="older lookalike") as caught:
        LocalStore(tmp_path)
    assert "lookalike index" in caught.value.hint
    claimed = replace(old.caption, claims=(Claim("navy", "colour", "navy"),))
    with LocalStore(tmp_path, write=True) as store:
        (found,) = store.scan()
        assert (found.caption, found.meaning) == (old.caption, None)
        store.add([replace(old, caption=claimed, meaning=vectors(1)[0])], run=2)
        assert list(store.check()) == []
    with LocalStore(tmp_path) as store, store.view() as view:
        assert view.keys.tolist() == [1]
        assert view.rows(view.keys)[0].caption == claimed
        assert np.array_equal(view.meanings(view.keys), vectors(1))


def test_a_migration_that_fails_changes_nothing(shop: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = "CREATE TABLE shelves (name TEXT);\nINSERT INTO nowhere VALUES (1);\n"
    with monkeypatch.context() as patch:
        patch.setattr(schema, "MIGRATIONS", (*schema.MIGRATIONS, broken))
        with pytest.raises(sqlite3.OperationalError):
            LocalStore(shop, write=True)
    with LocalStore(shop, write=True) as store:
        assert store.count().items == 50


@pytest.mark.parametrize("content", [b"", b"hello", bytes(100_000), "another database"])
def test_what_is_no_catalogue_is_refused_and_left_alone(tmp_path: Path, content: bytes | str) -> None:
    file = tmp_path / "catalogue.sqlite"
    if isinstance(content, bytes):
        file.write_bytes(content)
    else:
        with sqlite3.connect(file) as connection:
            connection.execute("CREATE TABLE recipes (name TEXT)")
        connection.close()
    before = file.read_bytes()
    for write in (False, True):
        with pytest.raises(CatalogueError, match="damaged or not a catalogue"):
            LocalStore(tmp_path, DIM if write else None, write=write)
    assert file.read_bytes() == before


def test_a_damaged_page_is_one_clear_line(shop: Path) -> None:
    file = shop / "catalogue.sqlite"
    content = bytearray(file.read_bytes())
    content[8192:] = os.urandom(len(content) - 8192)  # everything but the first page
    file.write_bytes(content)
    with pytest.raises(CatalogueError, match="damaged"), LocalStore(shop) as store:
        list(store.scan())


def test_a_truncated_file_is_one_clear_line(shop: Path) -> None:
    file = shop / "catalogue.sqlite"
    os.truncate(file, file.stat().st_size // 2)
    with pytest.raises(CatalogueError, match="damaged"), LocalStore(shop) as store:
        list(store.scan())


def test_a_file_in_the_place_of_the_folder(tmp_path: Path) -> None:
    (tmp_path / "shop").write_text("hello")
    with pytest.raises(CatalogueError, match="cannot write"):
        LocalStore(tmp_path / "shop", DIM, write=True)


READ_AND_WRITE = """
import os, sys
import faiss, filelock, mmap, numpy  # now: Python's own folders may be closed to other users
from pathlib import Path
from lookalike.errors import CatalogueError
from lookalike.store import LocalStore

folder = Path(sys.argv[1])
if os.getuid() == 0:  # permissions do not bind root
    os.setgroups([]), os.setgid(65534), os.setuid(65534)
with LocalStore(folder) as store, store.view() as view:
    assert view.search(view.vectors(view.keys[:1]), 3)[0][0, 0] == view.keys[0]
    print(view.size, len(list(store.scan())))
try:
    LocalStore(folder, write=True)
except CatalogueError as error:
    print(error)
"""


@pytest.mark.parametrize("killed", [False, True])
def test_a_folder_without_permission_to_write_is_read(
    tmp_path_factory: pytest.TempPathFactory, killed: bool
) -> None:
    folder = tmp_path_factory.getbasetemp() / f"shop-{killed}"
    shutil.rmtree(folder, ignore_errors=True)
    store = LocalStore(folder, DIM, write=True)
    store.add(many(50), run=1)
    if killed:  # what a killed writer leaves: rows that are in the log only, with the lock file beside it
        copy = folder.with_name("left")
        shutil.copytree(folder, copy)
        store.close()
        shutil.rmtree(folder)
        copy.rename(folder)
    else:
        store.close()
    for parent in folder.parents:
        if parent == Path(tempfile.gettempdir()):
            break
        parent.chmod(0o755)
    for path in (*folder.iterdir(), folder):
        path.chmod(0o555 if path.is_dir() else 0o444)
    try:
        command = [sys.executable, "-c", READ_AND_WRITE, str(folder)]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.stderr == ""
        assert done.stdout.startswith("50 50\n")
        assert "cannot write" in done.stdout
    finally:
        folder.chmod(0o755)


def test_a_reader_that_could_not_lock_follows_a_writer_that_comes_later(shop: Path, tmp_path: Path) -> None:
    """As with a folder mounted read-only here and writable elsewhere."""
    if os.getuid() != 0 or subprocess.run(["mount", "--bind", shop, shop], capture_output=True).returncode:
        pytest.skip("needs permission to mount")
    window = tmp_path / "window"
    window.mkdir()
    try:
        subprocess.run(["mount", "--bind", shop, window], check=True)
        subprocess.run(["mount", "-o", "remount,ro,bind", window], check=True)
        with LocalStore(window) as reader:
            assert reader.count().items == 50
            with LocalStore(shop, write=True) as writer:
                writer.add(many(5, first=50), run=1)
                assert reader.count().items == 55
                writer.remove(["item-0"])
                with reader.view() as view:
                    assert view.size == 54
            assert reader.count().items == 54
        with pytest.raises(CatalogueError, match="cannot write"):
            LocalStore(window, write=True)
    finally:
        subprocess.run(["umount", "--lazy", window], check=False)
        subprocess.run(["umount", "--lazy", shop], check=True)


@pytest.mark.parametrize(
    ("mounts", "kind"),
    [
        ("/dev/sda / ext4 rw 0 0\nhost:/x /data nfs4 rw 0 0\n", "nfs4"),
        ("/dev/sda / ext4 rw 0 0\n//nas/x /data cifs rw 0 0\n/dev/sdb /data/fast xfs rw 0 0\n", None),
        ("me@host: /data/fast/my\\040shop fuse.sshfs rw 0 0\n/dev/sda / ext4 rw 0 0\n", "fuse.sshfs"),
        ("C:\\134 / 9p rw 0 0\n/dev/sdb /data ext4 rw 0 0\n", None),
        ("C:\\134 / 9p rw 0 0\n", "9p"),
        ("/dev/sda / ext4 rw 0 0\n", None),
        ("", None),
    ],
)
def test_network_file_systems_are_known_by_their_mount(tmp_path: Path, mounts: str, kind: str | None) -> None:
    (tmp_path / "mounts").write_text(mounts)
    assert network_file_system(Path("/data/fast/my shop"), tmp_path / "mounts") == kind


def test_where_nobody_lists_mounts_none_is_a_network(tmp_path: Path) -> None:
    assert network_file_system(tmp_path, tmp_path / "absent") is None


def test_a_snapshot_is_a_catalogue_of_its_own(shop: Path, tmp_path: Path) -> None:
    copy = tmp_path / "backups" / "monday"
    with LocalStore(shop, write=True) as store:
        scan = store.scan()
        next(scan)  # somebody reads meanwhile
        store.snapshot(copy)
        scan.close()
        store.add(many(5, first=50), run=1)
        with pytest.raises(CatalogueError, match="already holds"):
            store.snapshot(copy)
    assert [path.name for path in copy.iterdir()] == ["catalogue.sqlite"]
    with LocalStore(copy, write=True) as restored, restored.view() as view:
        assert view.size == 50
        assert np.array_equal(view.vectors(view.keys), vectors(50))
        assert list(restored.check()) == []
        restored.add(many(3, first=50), run=1)
        assert restored.count().items == 53


def test_a_snapshot_put_back_does_not_trust_the_index_that_was_there(tmp_path: Path) -> None:
    with LocalStore(tmp_path / "shop", DIM, write=True, graph_from=100) as store:
        store.add(many(200), run=1)
        store.snapshot(tmp_path / "copy")
        store.add(many(200, first=200), run=1)
        store.build_index()
    shutil.copy(tmp_path / "copy" / "catalogue.sqlite", tmp_path / "shop" / "catalogue.sqlite")
    with LocalStore(tmp_path / "shop", write=True) as store:
        others = many(300, first=1000)  # the same keys as before, other descriptors
        store.add(others, run=1)
        with store.view() as view:
            expected = np.concatenate([vectors(200), [found.vector for found in others]])
            assert np.array_equal(view.vectors(view.keys), expected)


FILL = """
import resource, sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from making import DIM, many
from lookalike.errors import StorageFull
from lookalike.store import LocalStore

limit = int(sys.argv[3])
with LocalStore(Path(sys.argv[1]), DIM, write=True, graph_from=10) as store:
    if limit:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    number = 0
    try:
        while True:
            store.add(many(200, first=number), run=1)
            number += 200
            print(number, flush=True)
    except StorageFull as error:
        print(error.hint, file=sys.stderr)
    with store.view() as view:  # it can still be searched
        assert view.size == number, (view.size, number)
    try:
        while True:
            store.build_index()
            store.add(many(1, first=number), run=1)
            number += 1
    except StorageFull:
        pass
    print(number, flush=True)
"""


def fill(folder: Path, limit: int = 0) -> int:
    """Write until nothing fits; -> how many rows were acknowledged."""
    command = [sys.executable, "-c", FILL, str(folder), str(Path(__file__).parent), str(limit)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "make room" in done.stderr
    return int(done.stdout.split()[-1])


def all_there(folder: Path, acknowledged: int) -> None:
    with LocalStore(folder, write=True, graph_from=10) as store:
        assert list(store.check()) == []
        assert [found.item.id for found in store.scan()] == [f"item-{n}" for n in range(acknowledged)]


@pytest.mark.parametrize("kilobytes", [600, 1000])
def test_where_files_may_not_grow_everything_acknowledged_is_kept(tmp_path: Path, kilobytes: int) -> None:
    acknowledged = fill(tmp_path / "shop", kilobytes * 1024)
    assert acknowledged > 0
    all_there(tmp_path / "shop", acknowledged)
    with LocalStore(tmp_path / "shop", write=True) as store:  # with room again, work goes on
        store.add(many(200, first=acknowledged), run=1)
        assert store.count().items == acknowledged + 200


def test_on_a_full_disk_everything_acknowledged_is_kept(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", disk]
    if os.getuid() != 0 or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("needs permission to mount")
    try:
        acknowledged = fill(disk / "shop")
        assert acknowledged > 0
        with LocalStore(disk / "shop") as store, pytest.raises(StorageFull):
            store.snapshot(disk / "copy")
        assert list((disk / "copy").iterdir()) == []
        shutil.copytree(disk / "shop", tmp_path / "rescued")
        all_there(tmp_path / "rescued", acknowledged)
    finally:
        subprocess.run(["umount", "--lazy", disk], check=True)
