"""Builds: fragments written once, read without loss, refused where they are not sound."""

import json
import math
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from making import DIM, row, vectors

from lookalike import objects
from lookalike.datasets import Listed, Unlisted
from lookalike.errors import BadInput, CatalogueError, LookalikeError, WrongEncoder
from lookalike.store import Build, LocalStore, Plan, Planned, plans
from lookalike.store.parquet import packed, unpacked
from lookalike.values import Box, Caption, Claim, Counts, Item, Row

FACTS = {
    "encoder": "drawn", "fingerprint": "f1", "dim": str(DIM), "regions": "whole", "regime": "image",
    "captioner": "",
}  # fmt: skip

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
NAMES = TEXTS.filter(bool)
NUMBERS = st.floats(allow_nan=False, allow_infinity=False)
VALUES = st.one_of(TEXTS, st.integers(-(2**63), 2**63 - 1), NUMBERS, st.booleans())
CLAIMS = st.builds(Claim, TEXTS, TEXTS, TEXTS, st.dictionaries(TEXTS, NUMBERS, max_size=2), st.booleans())
CAPTIONS = st.builds(Caption, TEXTS, TEXTS, st.none() | TEXTS, st.lists(CLAIMS, max_size=2).map(tuple))
BOXES = st.builds(
    lambda x, y, w, h: Box(x, y, x + w, y + h), *[st.floats(0, 1e4)] * 2, *[st.floats(1, 1e4)] * 2
)
ATTRIBUTES = st.dictionaries(TEXTS, VALUES | st.lists(VALUES, max_size=3).map(tuple), max_size=3)
VECTORS = st.integers(0, 99).map(lambda seed: vectors(1, seed)[0])
ROWS = st.builds(
    Row,
    item=st.builds(Item, NAMES, TEXTS, ATTRIBUTES),
    source=TEXTS | st.just("/odd-\udcff.jpg") | st.just("bytes:x"),
    sha256=TEXTS,
    width=st.integers(1, 10**6),
    height=st.integers(1, 10**6),
    vector=VECTORS,
    box=st.none() | BOXES,
    score=NUMBERS,
    caption=st.none() | CAPTIONS,
    meaning=st.none() | VECTORS,
    origin=TEXTS | st.just("/\udcfe"),
)


def told(row: Row) -> tuple[object, ...]:
    """All of a row, for comparing; `repr` tells 1 from 1.0 and True."""
    return (
        repr(
            (
                row.item,
                row.source,
                row.sha256,
                row.width,
                row.height,
                row.box,
                row.score,
                row.caption,
                row.origin,
            )
        ),
        row.vector.tobytes(),
        None if row.meaning is None else row.meaning.tobytes(),
    )


@settings(max_examples=40, deadline=None)
@given(st.lists(ROWS, max_size=4))
def test_rows_come_back_as_they_were(rows: list[Row]) -> None:
    back, about = unpacked(packed(rows, DIM, {"why": ["ü", 1]}), "a fragment", DIM)
    assert list(map(told, back)) == list(map(told, rows))
    assert about == {"why": ["ü", 1]}


@pytest.mark.parametrize(
    "bad",
    [
        row(Item("a", "half a pair \ud800")),
        row(Item("a", attributes={"size": 2**63})),
        row(Item("a", attributes={"size": math.nan})),
        row(Item("a", attributes={"size": "\ud800"})),
        row("a", vector=np.full(DIM, np.nan, np.float32)),
        row("a", vector=np.ones(DIM + 1, np.float32)),
    ],
)
def test_what_no_store_keeps_no_build_keeps(bad: Row, tmp_path: Path) -> None:
    with pytest.raises(BadInput):
        packed([bad], DIM, {})
    with LocalStore(tmp_path, DIM, write=True) as store, pytest.raises(BadInput):
        store.add([bad], store.start_run())


@pytest.fixture(params=["disk", "s3"])
def uri(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "disk":
        return str(tmp_path / "build")
    return request.getfixturevalue("bucket") + "/build"


def test_a_fragment_is_written_once(uri: str) -> None:
    first, second = (Build.create(uri, FACTS, "plan", 2) for _ in range(2))
    assert Build.exists(uri)
    with ThreadPoolExecutor(2) as pool:
        new = list(
            pool.map(
                lambda build, item: build.write(0, [row(item)], {"by": item}), (first, second), ("one", "two")
            )
        )
    assert sorted(new) == [False, True]
    kept = ("one", "two")[new.index(True)]
    for build in (first, second, Build.open(uri)):
        assert [each.item.id for each in build.rows(0)] == [kept]
        assert build.about(0) == {"by": kept}
        assert build.missing() == [1]


def test_it_is_finished_when_all_are_there(uri: str) -> None:
    build = Build.create(uri, FACTS, "plan", 3)
    build.write(2, [row("c", "c.jpg")], {})
    build.write(0, [row("a", "a.jpg"), row("a", "a.jpg", box=Box(1, 2, 3, 4)), row("b", "a.jpg")], {})
    with pytest.raises(CatalogueError, match="2 of 3 fragments") as caught:
        build.check_finished()
    assert caught.value.hint
    with pytest.raises(CatalogueError, match="missing"):
        Build.open(uri).finish()
    told = row("c", "again.jpg", "c.jpg", caption=Caption("red", "me"))  # a picture of fragment 2
    Build.open(uri).write(1, [row("d", "d.jpg"), told], {})
    counts = Build.open(uri).finish({"confident_from": "0.5"})
    assert counts == Counts(items=4, pictures=4, regions=5, captions=0)  # the last tells: that of fragment 2
    finished = Build.open(uri)
    finished.check_finished()
    assert finished.manifest.facts["confident_from"] == "0.5"
    assert finished.info()["pictures"] == 4
    assert finished.finish() == counts


def test_counts_are_those_of_a_store(tmp_path: Path) -> None:
    """Several sources of one content, two items with one content, regions, pictures that come again."""
    random = np.random.default_rng(4)
    build = Build.create(str(tmp_path / "build"), FACTS, "plan", 6)
    with LocalStore(tmp_path / "store", DIM, write=True) as store:
        for number in range(6):
            rows = [
                row(
                    f"item-{random.integers(4)}",
                    f"{random.integers(9)}.jpg",
                    content=f"content-{random.integers(5)}",
                    box=Box(0, 0, 1 + random.integers(3), 9),
                    caption=Caption("red", "me") if random.integers(2) else None,
                    origin=f"{number}",  # so that no source holds two contents
                )
                for _ in range(12)
            ]
            build.write(number, rows, {})
            store.add(build.rows(number), store.start_run())
        assert build.finish() == store.count()


def test_other_parts_are_refused(tmp_path: Path) -> None:
    uri = str(tmp_path)
    Build.create(uri, FACTS, "plan", 1)
    for change, error in (
        ({"fingerprint": "f2"}, WrongEncoder),
        ({"regime": "train"}, CatalogueError),
        ({"regions": "salient"}, CatalogueError),
        ({"captioner": "palette"}, CatalogueError),
    ):
        with pytest.raises(error) as caught:
            Build.create(uri, {**FACTS, **change}, "plan", 1)
        assert caught.value.hint
    with pytest.raises(CatalogueError, match="something else"):
        Build.create(uri, FACTS, "another plan", 1)


def test_what_is_not_sound_is_one_line(uri: str) -> None:
    build = Build.create(uri, FACTS, "plan", 1)
    build.write(0, [row("a")], {})
    name = objects.join(build.uri, "fragments", "00000000.parquet")
    good = objects.read(name)
    identity = {"version": 1, "fingerprint": "f1", "regime": "image", "plan": "plan", "fragment": 0}
    cases = {
        "damaged": good[: len(good) // 2],
        "not Parquet": b"\x80\x04pickle.",
        "its columns": packed([row("a", vector=vectors(1, dim=DIM + 1)[0])], DIM + 1, identity),
        "of another build": packed([row("a")], DIM, {**identity, "plan": "other"}),
        "another build": packed([row("a")], DIM, {**identity, "fragment": 3}),
        "newer lookalike": packed([row("a")], DIM, {**identity, "version": 2}),
    }
    flipped = bytearray(good)
    flipped[len(good) // 3] ^= 0xFF
    cases["00000000.parquet: "] = bytes(flipped)
    for words, data in cases.items():
        objects.put(name, data)
        with pytest.raises(CatalogueError, match=words) as caught:
            Build.open(uri).rows(0)
        assert "\n" not in str(caught.value)
        assert caught.value.hint
    objects.put(name, good)
    Build.open(uri).finish()
    objects.put(name, packed([row("b")], DIM, {**identity, "about": {}}))  # sound, and not what was recorded
    with pytest.raises(CatalogueError, match="not what was written"):
        Build.open(uri).rows(0)


def test_a_manifest_that_cannot_be_read_is_one_line(tmp_path: Path) -> None:
    uri = str(tmp_path)
    with pytest.raises(CatalogueError, match="no build") as caught:
        Build.open(uri)
    assert caught.value.hint
    Build.create(uri, FACTS, "plan", 1)
    manifest = tmp_path / "manifest.json"
    good = json.loads(manifest.read_text())
    for bad in ("", "[]", "{}", "[" * 100_000, '{"format": "other"}'):
        manifest.write_text(bad)
        with pytest.raises(CatalogueError, match="damaged"):
            Build.open(uri)
    for change in ({"facts": {}}, {"fragments": "x"}, {"finished": True}, {"facts": {**FACTS, "dim": "0"}}):
        manifest.write_text(json.dumps({**good, **change}))
        with pytest.raises(CatalogueError, match="damaged"):
            Build.open(uri)
    manifest.write_text(json.dumps({**good, "version": 2}))
    with pytest.raises(CatalogueError, match="newer") as caught:
        Build.open(uri)
    assert caught.value.hint


def entries(count: int) -> list[Planned]:
    return [
        Planned(
            "/odd-\udcff" if number % 2 else "s3://bucket/pictures",
            Unlisted(f"/{number}", f"row {number}: bad")
            if number % 5 == 4
            else Listed(
                Item(f"item-{number}", "ü", {"price": 1.5, "new": True, "size": ("S", 2)}),
                f"/\udcff-{number}.jpg",
                Box(0, 1, 2.5, number + 2) if number % 3 else None,
                row=number,
            ),
        )
        for number in range(count)
    ]


@pytest.mark.parametrize("together", [1, 12, 10_000])  # entries that are kept together
def test_a_plan_is_written_once(uri: str, together: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plans, "TOGETHER", together)
    sources = ["/odd-\udcff", "s3://bucket/pictures"]
    plan = Plan.make(uri, sources, iter(entries(23)), size=5)
    assert (plan.listed, plan.fragments, plan.size) == (23, 5, 5)
    read = [each for number in range(5) for each in plan.entries(number)]
    assert read == entries(23)
    assert [len(plan.entries(number)) for number in range(5)] == [5, 5, 5, 5, 3]
    assert Plan.open(uri) == plan and Plan.open(uri).entries(3) == plan.entries(3)
    assert [getattr(each.entry, "row", None) for each in read] == [
        getattr(each.entry, "row", None) for each in entries(23)
    ]
    again = Plan.make(uri, sources, iter(entries(7)), size=2)  # another listing came second
    assert again == plan
    with pytest.raises(CatalogueError, match="other sources") as caught:
        Plan.make(uri, ["/elsewhere"], iter(entries(7)), size=2)
    assert caught.value.hint


def test_a_plan_of_nothing_is_refused_and_not_kept(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="no pictures"):
        Plan.make(str(tmp_path), ["/x"], iter([]), size=2)
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_plan_is_one_line_or_harmless(tmp_path: Path) -> None:
    uri = str(tmp_path)
    plan = Plan.make(uri, ["/x"], iter(entries(50)), size=10)
    path = tmp_path / "plan.parquet"
    good, refused, places = path.read_bytes(), 0, range(0, path.stat().st_size - 8, 113)
    for place in places:
        bad = bytearray(good)
        bad[place : place + 8] = bytes(8)
        path.write_bytes(bad)
        try:
            read = [each for number in range(plan.fragments) for each in Plan.open(uri).entries(number)]
        except LookalikeError as error:
            refused += 1
            assert "plan.parquet" in str(error) and "\n" not in str(error)
        else:
            assert read == entries(50)  # those bytes say nothing: of statistics, or zero anyway
    assert refused > len(places) / 2
