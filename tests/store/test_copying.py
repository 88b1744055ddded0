"""Catalogues that move: to builds, from builds, between folders; what is checked, and what is refused."""

import json
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from making import DIM, many, row, vectors

import lookalike
from lookalike import building, copying
from lookalike.catalogue import Catalogue
from lookalike.errors import CatalogueError, WrongEncoder
from lookalike.settings import Settings, make_store, open_store, parts_of_build
from lookalike.store import Build, LocalStore
from lookalike.testing import ThumbnailEncoder
from lookalike.values import Box, Caption, Claim, Item, Row
from saving import save

FACTS = {"encoder": "drawn", "fingerprint": "f1", "dim": str(DIM), "regions": "whole", "regime": "image"}


def lookalike_cli(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "lookalike", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def full(folder: Path, items: int = 300) -> LocalStore:
    """A catalogue of drawn rows, some with boxes, captions, attributes and odd names."""
    make_store(folder, FACTS)
    store = LocalStore(folder, write=True)
    drawn = many(items)
    for number in range(0, items, 7):
        claims = (Claim("red", "colour", "red", {"pixels": 0.1234567}), Claim("a hood", believed=False))
        caption = Caption("a red thing", "me", claims=claims)
        more = {"caption": caption, "meaning": vectors(1, number)[0]}
        item = Item(f"item-{number}", "ü\u2028\0x", {"price": 1.5, "sizes": ("S", 2), "new": True})
        place = {"source": f"/odd-\udcff-{number}.jpg", "sha256": f"content {number}"}
        drawn.append(row(item, seed=7 * number, **place, **more))
        drawn.append(row(item, seed=8 * number, box=Box(0, 0.5, 3, 4), score=0.5, **place))
    store.add(drawn, store.start_run())
    return store


def all_of(store: LocalStore) -> list[tuple[object, ...]]:
    return [
        (
            repr((each.item, each.source, each.sha256, each.width, each.box, each.score, each.caption)),
            each.vector.tobytes(),
            None if each.meaning is None else each.meaning.tobytes(),
        )
        for each in store.scan()
    ]


def test_to_a_build_and_back(tmp_path: Path, bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(copying, "FRAGMENT", 50)
    with full(tmp_path / "one") as source:
        source.meta["confident_from"], source.meta["calibrated_at"] = "0.25", "1"
        copied = copying.to_build(source, f"{bucket}/build")
        assert copied.differences == ()
        assert (copied.counts, copied.queries) == (source.count(), copying.QUERIES)
        build = Build.open(f"{bucket}/build")
        assert (build.manifest.fragments, build.manifest.counts) == (7, source.count())
        make_store(tmp_path / "two", copying.facts_of(build))
        with LocalStore(tmp_path / "two", write=True) as target:
            assert copying.to_store(build, target).differences == ()
            assert all_of(target) == all_of(source)
            assert dict(target.meta)["confident_from"] == "0.25"
            before = target.count()
            assert copying.to_store(build, target).differences == ()  # once more changes nothing
            assert target.count() == before
            assert all_of(target) == all_of(source)


def test_replicas_of_one_build_name_their_versions_alike(tmp_path: Path) -> None:
    with full(tmp_path / "one", 60) as source:
        copying.to_build(source, str(tmp_path / "build"))
        versions = {_version(source)}
    build = Build.open(str(tmp_path / "build"))
    for name in ("first", "second"):
        made = lookalike_cli("copy", build.uri, tmp_path / name)
        assert made.returncode == 0, made.stderr
        with LocalStore(tmp_path / name) as replica:
            versions.add(_version(replica))
    assert len(versions) == 2


def _version(store: LocalStore) -> str:
    with store.view() as view:
        return view.version


def test_it_goes_on_after_a_kill(tmp_path: Path, bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(copying, "FRAGMENT", 50)
    with full(tmp_path / "one") as source:
        for uri in (f"{bucket}/build", f"{bucket}/other"):

            def stopped(done: int, _total: int) -> None:
                if done > 120:
                    raise KeyboardInterrupt

            with pytest.raises(KeyboardInterrupt):
                copying.to_build(source, uri, stopped)
            build = Build.open(uri)
            assert 0 < len(build.missing()) < build.manifest.fragments
            with pytest.raises(CatalogueError, match="not finished") as caught:
                copying.to_store(build, source)
            assert caught.value.hint
        assert copying.to_build(source, f"{bucket}/build").differences == ()
        source.add([row("another")], source.start_run())
        with pytest.raises(CatalogueError, match="something else"):
            copying.to_build(source, f"{bucket}/other")


COPIER = """
import sys
from pathlib import Path
from lookalike import copying
from lookalike.store import Build, LocalStore

with LocalStore(Path(sys.argv[2]), write=True) as target:
    copying.to_store(Build.open(sys.argv[1]), target, lambda done, _: print(done, flush=True))
"""


class Counting(LocalStore):
    """A store that knows how many rows it was given."""

    given = 0

    def add(self, rows: Sequence[Row], run: int) -> None:
        self.given += len(rows)
        super().add(rows, run)


def test_a_copy_of_a_build_goes_on_after_a_kill(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(copying, "FRAGMENT", 10)
    with full(tmp_path / "one") as source:
        copying.to_build(source, str(tmp_path / "build"))
    build = Build.open(str(tmp_path / "build"))
    make_store(tmp_path / "two", copying.facts_of(build))
    command = [sys.executable, "-c", COPIER, build.uri, tmp_path / "two"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as copier:
        assert copier.stdout
        done = [int(copier.stdout.readline()) for _ in range(3)][-1]
        copier.kill()
        done = max([done, *map(int, copier.stdout)])
    assert copier.returncode == -signal.SIGKILL
    with Counting(tmp_path / "two", write=True) as target:
        there = target.count().regions
        assert done <= there < build.finish().regions
        assert copying.to_store(build, target).differences == ()
        assert target.given <= build.finish().regions - done
        assert [each.item.id for each in target.scan()] == [each.item.id for each in source_rows(build)]
        target.remove(["item-5"])
        assert copying.to_store(build, target).differences == ()  # from its beginning


def source_rows(build: Build) -> Iterator[Row]:
    for number in range(build.manifest.fragments):
        yield from build.rows(number)


class Moving(LocalStore):
    """A store that loses an item before it is read for the second time."""

    scans = 0

    def scan(self) -> Iterator[Row]:
        self.scans += 1
        if self.scans == 2:
            self.remove(["item-299"])
        return super().scan()


def test_a_catalogue_that_changes_meanwhile(tmp_path: Path) -> None:
    full(tmp_path / "one").close()
    with Moving(tmp_path / "one", write=True) as source:
        with pytest.raises(CatalogueError, match="was changed"):
            copying.to_build(source, str(tmp_path / "build"))
        assert not Build.open(str(tmp_path / "build")).finished


def test_what_does_not_fit_is_refused(tmp_path: Path) -> None:
    with full(tmp_path / "one", 20) as source:
        for change, error in (
            ({"fingerprint": "f2"}, WrongEncoder),
            ({"regime": "train"}, CatalogueError),
            ({"regions": "salient"}, CatalogueError),
        ):
            folder = tmp_path / next(iter(change))
            make_store(folder, FACTS | change)
            with open_store(folder, write=True) as target:
                with pytest.raises(error) as caught:
                    copying.to_store(source, target)
                assert caught.value.hint
                assert target.count().items == 0


def test_what_differs_is_told(tmp_path: Path) -> None:
    make_store(tmp_path / "two", FACTS)
    with full(tmp_path / "one", 60) as source, LocalStore(tmp_path / "two", write=True) as target:
        (first, *_) = source.scan()
        target.add([row("stranger", "x.jpg", vector=first.vector)], target.start_run())
        copied = copying.to_store(source, target)
        assert len(copied.differences) == 2  # the counts, and what is answered with the stranger
        assert "61 items" in copied.differences[0]


class Changed(LocalStore):
    """A store that searches with descriptors that are not quite those it was given."""

    def add(self, rows, run):  # type: ignore[no-untyped-def]
        super().add([row(each.item, each.source, sha256=each.sha256, seed=7) for each in rows], run)


def test_other_descriptors_are_found_out_by_their_answers(tmp_path: Path) -> None:
    make_store(tmp_path / "one", FACTS)
    make_store(tmp_path / "two", FACTS)
    with LocalStore(tmp_path / "one", write=True) as source, Changed(tmp_path / "two", write=True) as target:
        source.add(many(30), source.start_run())
        (difference,) = copying.to_store(source, target).differences
        assert difference.startswith("30 of 30 stored descriptors")


def test_an_empty_catalogue(tmp_path: Path) -> None:
    make_store(tmp_path / "one", FACTS)
    make_store(tmp_path / "two", FACTS)
    with (
        LocalStore(tmp_path / "one", write=True) as source,
        LocalStore(tmp_path / "two", write=True) as target,
    ):
        assert copying.to_build(source, str(tmp_path / "build")).differences == ()
        assert copying.to_store(Build.open(str(tmp_path / "build")), target).queries == 0


def test_a_build_answers_as_the_catalogue_of_the_same_pictures(
    tmp_path: Path, bucket: str, open_shop: Callable[..., Catalogue]
) -> None:
    folder = tmp_path / "pictures"
    for seed in range(80):
        save(folder / f"item-{seed % 70}" / f"{seed}.png", seed)
    shop = open_shop()
    shop.add(folder, calibrate=False)
    settings = Settings(encoder=ThumbnailEncoder(), query_regions="whole")
    parts, facts = parts_of_build(f"{bucket}/build", settings)
    begun, plan = building.prepare(f"{bucket}/build", [folder], facts, size=30)
    building.build(begun, plan, parts)
    make_store(tmp_path / "copy", facts)
    with open_store(tmp_path / "copy", write=True) as target:
        assert copying.to_store(Build.open(f"{bucket}/build"), target).differences == ()
        assert copying.pictures_readable(target)
    with lookalike.open(tmp_path / "copy", settings) as copy:
        for seed in (0, 33, 79):
            query = folder / f"item-{seed % 70}" / f"{seed}.png"
            assert [(hit.item, hit.picture) for hit in copy.search(query)] == [
                (hit.item, hit.picture) for hit in shop.search(query)
            ]
        assert (
            copy.add(folder).encoded == 0
        )  # the origin came along: nothing is encoded twice or has vanished
        assert copy.add(folder).vanished == ()


def test_the_command_line(tmp_path: Path, bucket: str) -> None:
    folder = tmp_path / "pictures"
    for seed in range(60):
        save(folder / f"{seed}.png", seed)
    histogram = ("--encoder", "colour-histogram")
    assert lookalike_cli("index", folder, "--to", f"{bucket}/build", *histogram).returncode == 0
    done = lookalike_cli("copy", f"{bucket}/build", tmp_path / "shop")
    assert done.returncode == 0, done.stderr
    assert "60 items, 60 pictures" in done.stdout
    assert "50 stored descriptors" in done.stdout
    with lookalike.open(tmp_path / "shop", create=False) as shop:
        confident = shop.store.meta["confident_from"]  # it was calibrated, as `index` would
    assert lookalike_cli("copy", tmp_path / "shop", f"{bucket}/again").returncode == 0
    for path in folder.iterdir():
        path.unlink()
    copied = json.loads(lookalike_cli("copy", f"{bucket}/again", tmp_path / "second", "--json").stdout)
    assert copied == {
        "items": 60, "pictures": 60, "regions": 60, "captions": 0,
        "compared": 50, "differences": [], "calibrated": True,
    }  # fmt: skip
    with lookalike.open(tmp_path / "second", create=False) as second:
        assert second.store.meta["confident_from"] == confident
    blind = lookalike_cli("copy", f"{bucket}/build", tmp_path / "third")
    assert (blind.returncode, "not calibrated: its pictures cannot be read" in blind.stdout) == (0, True)
    save(folder / "x.png", 99)
    assert lookalike_cli("index", folder, "--to", tmp_path / "third").returncode == 0
    differs = lookalike_cli("copy", f"{bucket}/build", tmp_path / "third")
    assert differs.returncode == 1
    assert "is no copy" in differs.stderr and "hint: " in differs.stderr
    absent = lookalike_cli("copy", f"{bucket}/none", tmp_path / "x")
    assert (absent.returncode, "there is no build" in absent.stderr) == (1, True)
    assert not (tmp_path / "x").exists()
