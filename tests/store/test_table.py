"""What is kept, replaced and removed."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from making import DIM, many, row, vectors

from lookalike.errors import BadInput, CatalogueError
from lookalike.store import LocalStore
from lookalike.values import Box, Caption, Counts, Item, Row


@pytest.fixture
def store(tmp_path: Path) -> Iterator[LocalStore]:
    with LocalStore(tmp_path / "shop", DIM, write=True) as store:
        yield store


def keys(store: LocalStore) -> list[int]:
    with store.view() as view:
        return view.keys.tolist()


def same(one: Row, other: Row) -> bool:
    fields = [field for field in Row.__slots__ if field != "vector"]
    return np.array_equal(one.vector, other.vector) and all(
        getattr(one, field) == getattr(other, field) for field in fields
    )


def test_a_row_comes_back_as_it_was_stored(store: LocalStore) -> None:
    item = Item(
        "boot",
        "Winter boot",
        {"price": 49.5, "sizes": (36, 37, 38), "lined": True, "sole": "Rubber", "stock": 0, "rating": 1.0},
    )
    stored = row(
        item, box=Box(1.5, 2, 300, 400), score=0.75, caption=Caption("a brown boot", "somebody"), seed=3
    )
    store.add([stored], run=1)

    (found,) = store.scan()
    assert same(found, stored)
    assert [type(value) for value in found.item.attributes.values()] == [float, tuple, bool, str, int, float]
    assert same(store.find([stored.sha256])[0], stored)
    with store.view() as view:
        assert same(view.rows(view.keys)[0], stored)
        assert np.array_equal(view.vectors(view.keys), stored.vector[None])
    assert store.count() == Counts(items=1, pictures=1, regions=1, captions=1)


def test_rows_come_in_the_order_asked_for_and_an_unknown_key_is_an_error(store: LocalStore) -> None:
    store.add(many(5), run=1)
    with store.view() as view:
        wanted = view.keys[[3, 0, 3, 4]]
        assert [row.source for row in view.rows(wanted)] == ["3.jpg", "0.jpg", "3.jpg", "4.jpg"]
        assert np.array_equal(view.vectors(wanted), vectors(5)[[3, 0, 3, 4]])
        for ask in (view.rows, view.vectors, view.owners):
            with pytest.raises(KeyError):
                ask(np.array([999]))


@pytest.mark.parametrize(
    "source",
    ["plain.jpg", "grün/靴.jpg", b"caf\xe9/\xff.jpg".decode(errors="surrogateescape"), "bytes:%41", "\ud800"],
)
def test_sources_round_trip_whatever_their_bytes(store: LocalStore, source: str) -> None:
    store.add([row("boot", source, "x", origin=source)], run=1)
    (found,) = store.scan()
    assert (found.source, found.origin) == (source, source)
    store.mark(source, [source], run=2)
    assert list(store.vanished(source, run=2)) == []
    assert list(store.vanished(source, run=3)) == [("boot", source)]


def test_adding_the_same_again_keeps_the_keys_and_moves_the_source(store: LocalStore) -> None:
    regions = [row("boot", box=Box(0, 0, 9, 9), seed=1), row("boot", box=Box(5, 5, 20, 20), seed=2)]
    store.add(regions, run=1)
    before = keys(store)
    moved = [row("boot", "b.jpg", "a.jpg", box=one.box, vector=one.vector) for one in regions]
    store.add(moved, run=2)
    assert keys(store) == before
    assert [found.source for found in store.scan()] == ["b.jpg", "b.jpg"]


@pytest.mark.parametrize(
    "change",
    [
        {"box": Box(0, 0, 9, 8)},
        {"score": 0.5},
        {"vector": vectors(1, seed=7)[0]},
    ],
)
def test_a_region_that_differs_gets_a_key_never_used_before(
    store: LocalStore, change: dict[str, object]
) -> None:
    first = row("boot", seed=1)
    store.add([first, row("shoe", "s.jpg")], run=1)
    before = keys(store)
    store.add([row("boot", **{"vector": first.vector, **change})], run=1)  # type: ignore[arg-type]
    after = keys(store)
    assert after[0] == before[1]
    assert after[1] > before[1]
    assert store.count().regions == 2


def test_a_difference_that_fp16_does_not_hold_is_none(store: LocalStore) -> None:
    first = row("boot")
    store.add([first], run=1)
    before = keys(store)
    store.add([row("boot", vector=first.vector * np.float32(1 + 1e-6))], run=1)
    assert keys(store) == before


def test_a_changed_file_replaces_its_old_content(store: LocalStore) -> None:
    store.add([row("boot", "a.jpg", "old"), row("boot", "b.jpg", "other")], run=1)
    store.add([row("boot", "a.jpg", "new")], run=2)
    assert {(found.source, found.sha256) for found in store.scan()} == {
        ("a.jpg", "sha of new"),
        ("b.jpg", "sha of other"),
    }
    assert store.find(["sha of old"]) == []


def test_pictures_without_a_source_do_not_replace_one_another(store: LocalStore) -> None:
    store.add([row("boot", "", "one"), row("boot", "", "two")], run=1)
    assert store.count().pictures == 2


def test_the_same_bytes_twice_under_one_item_are_one_picture(store: LocalStore) -> None:
    store.add([row("boot", "a.jpg", "x"), row("boot", "copy of a.jpg", "x")], run=1)
    assert store.count() == Counts(items=1, pictures=1, regions=1, captions=0)


def test_the_same_bytes_under_two_items_are_two_pictures(store: LocalStore) -> None:
    store.add([row("boot", "a.jpg", "x"), row("shoe", "b.jpg", "x")], run=1)
    assert [found.item.id for found in store.find(["sha of x"])] == ["boot", "shoe"]
    store.remove(["boot"])
    assert [found.item.id for found in store.find(["sha of x"])] == ["shoe"]


def test_an_item_with_only_an_id_leaves_title_and_attributes_alone(store: LocalStore) -> None:
    store.add([row(Item("boot", "Winter boot", {"price": 5}))], run=1)
    store.add([row("boot", "b.jpg")], run=1)
    assert {(found.item.title, found.item.attributes["price"]) for found in store.scan()} == {
        ("Winter boot", 5)
    }
    store.add([row(Item("boot", "", {"colour": "red"}))], run=1)
    assert {found.item.title for found in store.scan()} == {""}
    assert all(found.item.attributes == {"colour": "red"} for found in store.scan())


def test_a_value_that_only_changes_its_type_is_replaced(store: LocalStore) -> None:
    for value in (1, 1.0, True, "1"):
        store.add([row(Item("boot", "", {"lined": value}))], run=1)
        (found,) = store.scan()
        assert type(found.item.attributes["lined"]) is type(value)


def test_failed_and_empty_captions_are_not_kept(store: LocalStore) -> None:
    captions = [Caption("", "somebody", "no answer"), Caption("", "somebody")]
    store.add([row("boot", f"{n}.jpg", caption=caption) for n, caption in enumerate(captions)], run=1)
    assert store.count().captions == 0
    assert [found.caption for found in store.scan()] == [None, None]


@pytest.mark.parametrize(
    "bad",
    [
        row("x", vector=np.full(DIM, np.nan, np.float32)),
        row("x", vector=np.full(DIM, 1e5, np.float32)),
        row("x", vector=np.ones(DIM + 1, np.float32)),
        row("x", score=float("nan")),
        row(Item("x", "\ud800")),
        row(Item("x", "", {"price": float("nan")})),
        row(Item("x", "", {"price": 2**70})),
        row(Item("x", "", {"price": None})),  # type: ignore[dict-item]
        row("x", caption=Caption("\udcff", "somebody")),
    ],
)
def test_a_bad_row_is_refused_with_its_whole_batch(store: LocalStore, bad: Row) -> None:
    with pytest.raises(BadInput):
        store.add([row("boot", "b.jpg"), bad], run=1)
    assert store.count() == Counts(0, 0, 0, 0)
    store.add([row("boot", "b.jpg")], run=1)
    assert store.count().items == 1


def test_nothing_to_add_is_fine(store: LocalStore) -> None:
    store.add([], run=1)
    assert store.remove([]) == 0
    assert store.find([]) == []
    assert list(store.scan()) == []


def test_remove_tells_how_many_pictures_went(store: LocalStore) -> None:
    store.add([row("boot", "a.jpg"), row("boot", "b.jpg"), row("shoe", "c.jpg")], run=1)
    with pytest.raises(BadInput, match="'sock'"):
        store.remove(["boot", "sock"])
    assert store.count().items == 2
    assert store.remove(["boot", "boot"]) == 2
    assert store.count() == Counts(items=1, pictures=1, regions=1, captions=0)


def test_removed_regions_take_empty_pictures_and_items_with_them(store: LocalStore) -> None:
    store.add([row("boot", "a.jpg", seed=1), row("boot", "a.jpg", seed=2), row("shoe", "b.jpg")], run=1)
    first, second, third = keys(store)
    store.remove_regions([first])
    assert store.count() == Counts(items=2, pictures=2, regions=2, captions=0)
    store.remove_regions([second, third, 999])
    assert store.count() == Counts(0, 0, 0, 0)


def test_prune_removes_what_a_run_did_not_see(store: LocalStore) -> None:
    first = store.start_run()
    listed = [row("boot", "a.jpg"), row("boot", "b.jpg"), row("shoe", "c.jpg"), row("sock", "d.jpg")]
    store.add([*listed, row("hat", "e.jpg", origin="elsewhere")], first)
    second = store.start_run()
    assert second > first
    store.add(listed[:1], second)
    store.mark("shop", ["d.jpg"], second)  # listed, but could not be read this time

    assert list(store.vanished("shop", second)) == [("boot", "b.jpg"), ("shoe", "c.jpg")]
    assert store.prune("shop", second) == 2
    assert [(found.item.id, found.source) for found in store.scan()] == [
        ("boot", "a.jpg"),
        ("sock", "d.jpg"),
        ("hat", "e.jpg"),
    ]
    assert store.count().items == 3  # the shoe went with its last picture
    assert store.prune("shop", second) == 0


def test_runs_go_on_counting_after_reopening(tmp_path: Path) -> None:
    with LocalStore(tmp_path, DIM, write=True) as store:
        first = store.start_run()
    with LocalStore(tmp_path, write=True) as store:
        assert store.start_run() > first


def test_meta_is_kept(tmp_path: Path) -> None:
    with LocalStore(tmp_path, DIM, write=True, meta={"encoder": "thumbnail"}) as store:
        store.meta["regime"] = "image"
        store.meta["gone"] = "soon"
        del store.meta["gone"]
        with pytest.raises(KeyError):
            del store.meta["gone"]
    with LocalStore(tmp_path) as store:
        assert store.dim == DIM
        assert {name: store.meta[name] for name in ("encoder", "regime")} == {
            "encoder": "thumbnail",
            "regime": "image",
        }
        assert "gone" not in store.meta
        with pytest.raises(CatalogueError, match="reading"):
            store.meta["regime"] = "train"


def test_a_scan_shows_one_moment(store: LocalStore) -> None:
    store.add(many(2500), run=1)
    scan = store.scan()
    first = next(scan)
    store.remove(["item-2400"])
    store.add(many(10, first=3000), run=1)
    assert [first.source, *(found.source for found in scan)] == [f"{number}.jpg" for number in range(2500)]
    assert store.count().regions == 2509


def test_a_sound_store_has_no_faults_and_a_broken_one_tells(store: LocalStore, tmp_path: Path) -> None:
    import sqlite3

    store.add(many(10), run=1)
    assert list(store.check()) == []
    with sqlite3.connect(tmp_path / "shop" / "catalogue.sqlite") as connection:
        connection.execute("UPDATE vectors SET vector = zeroblob(2) WHERE region = 2")
        connection.execute("UPDATE vectors SET vector = zeroblob(?) WHERE region = 3", (2 * DIM,))
        connection.execute("DELETE FROM vectors WHERE region = 4")
        connection.execute("DELETE FROM items WHERE id = 'item-8'")  # foreign keys are off here
    connection.close()
    faults = "\n".join(store.check())
    for fault in (
        "region 2 has 1 numbers",
        "region 3 has length 0",
        "1 regions have no",
        "pictures belongs to no row",
    ):
        assert fault in faults
