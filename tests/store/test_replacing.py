"""Items made what they are told to be: at once, or not at all."""

import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from making import DIM, row, vectors

from lookalike.errors import BadInput
from lookalike.store import LocalStore
from lookalike.values import Box, Item

KEEPER = f"""
import sys
from pathlib import Path
sys.path.insert(0, {str(Path(__file__).parent)!r})
from making import DIM, row
from lookalike.store import LocalStore
from lookalike.values import Item
with LocalStore(Path(sys.argv[1]), write=True) as store:
    number = 0
    while True:
        number += 1
        items = [Item("boot", f"round {{number}}", {{"round": number}}), Item("shoe", f"round {{number}}")]
        rows = [
            row(item, f"{{item.id}}-{{number}}-{{side}}.jpg", seed=number % 7)
            for item in items for side in range(1 + number % 3)
        ]
        store.replace(items, rows, {{"round": str(number)}})
        print(number, flush=True)
"""


@pytest.fixture
def store(tmp_path: Path) -> Iterator[LocalStore]:
    with LocalStore(tmp_path / "shop", DIM, write=True) as store:
        yield store


def test_an_item_has_the_title_attributes_and_pictures_that_it_is_told_and_no_others(
    store: LocalStore,
) -> None:
    boot = Item("boot", "Winter boot", {"price": 49.5, "sizes": (36, 37)})
    store.add([row(boot, "front.jpg", origin="a folder"), row(boot, "back.jpg"), row("shoe", "s.jpg")], run=1)
    summer = Item("boot", "Summer boot", {"price": 20})
    store.replace([summer], [row(summer, "new.jpg", origin="api"), row(summer, "back.jpg")])

    assert {found.source for found in store.rows_of("boot")} == {"new.jpg", "back.jpg"}
    assert all(found.item == summer for found in store.rows_of("boot"))
    assert [found.source for found in store.rows_of("shoe")] == ["s.jpg"]
    with store.view() as view:
        assert len(view.words("winter", 10)[0]) == 0
        assert len(view.words("summer", 10)[0]) == 1
    assert list(store.check()) == []


def test_an_item_without_pictures_keeps_its_own_and_may_lose_every_word(store: LocalStore) -> None:
    store.add([row(Item("boot", "Winter boot", {"price": 49.5}), box=Box(0, 0, 9, 9))], run=1)
    with store.view() as view:
        before = view.keys.tolist()
    store.replace([Item("boot")], [])

    (found,) = store.rows_of("boot")
    assert (found.item, found.box) == (Item("boot"), Box(0, 0, 9, 9))
    with store.view() as view:
        assert view.keys.tolist() == before
        assert len(view.words("winter", 10)[0]) == 0


def test_the_same_again_keeps_the_keys(store: LocalStore) -> None:
    boot = Item("boot", "Winter boot")
    rows = [row(boot, "a.jpg", box=Box(0, 0, 9, 9)), row(boot, "a.jpg", box=Box(5, 5, 20, 20), seed=1)]
    store.replace([boot], rows)
    with store.view() as view:
        before = view.keys.tolist()
    store.replace([boot], rows)
    with store.view() as view:
        assert view.keys.tolist() == before
        assert len(before) == 2


@pytest.mark.parametrize(
    ("items", "rows", "said"),
    [
        ([Item("new")], [], "needs a picture"),
        ([Item("new"), Item("new", "again")], [row("new")], "twice"),
        ([Item("new")], [row("new"), row("other")], "none of the items"),
        ([Item("new", "", {"stock": 2**63})], [row("new")], "beyond 64 bits"),
        ([Item("new", "\ud800")], [row("new")], "not valid Unicode"),
    ],
)
def test_what_cannot_be_leaves_everything_as_it_was(
    store: LocalStore, items: list[Item], rows: list[object], said: str
) -> None:
    store.add([row(Item("boot", "Winter boot"))], run=1)
    changed = [Item("boot", "Other"), *items]
    with pytest.raises(BadInput, match=said):
        store.replace(changed, [row(changed[0], "b.jpg"), *rows], {"note": "1"})  # type: ignore[list-item]
    assert [(found.item.title, found.source) for found in store.scan()] == [("Winter boot", "a.jpg")]
    assert "note" not in store.meta


def test_items_are_listed_in_the_order_of_their_ids(store: LocalStore) -> None:
    ids = ["a", "B", "b/../c", "ä", "靴", "z 1", "z", "'"]
    store.add([row(Item(name, f"title {name}"), f"{place}.jpg") for place, name in enumerate(ids)], run=1)
    listed: list[tuple[str, str]] = []
    while page := store.items_after(listed[-1][0] if listed else "", 3):
        listed += page
    assert listed == [(name, f"title {name}") for name in sorted(ids)]


def test_no_reader_sees_an_item_half_replaced_and_no_kill_leaves_one(tmp_path: Path) -> None:
    folder = tmp_path / "shop"
    LocalStore(folder, DIM, write=True).close()
    command = [sys.executable, "-c", KEEPER, str(folder)]
    for _ in range(3):
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as keeper:
            assert keeper.stdout is not None
            acknowledged = int(keeper.stdout.readline())
            killing = threading.Timer(1.0, keeper.kill)
            killing.start()
            with LocalStore(folder) as store:
                while keeper.poll() is None:
                    for name in ("boot", "shoe"):
                        of_one_round(store, name)
            acknowledged = max([acknowledged, *map(int, keeper.stdout.read().split())])
            killing.join()
        with LocalStore(folder) as store:
            last = int(store.meta["round"])
            assert last >= acknowledged
            assert {of_one_round(store, name) for name in ("boot", "shoe")} == {last}
            assert list(store.check()) == []


def of_one_round(store: LocalStore, name: str) -> int:
    rows = store.rows_of(name)
    (title,) = {found.item.title for found in rows}
    number = int(title.removeprefix("round "))
    wanted = {f"{name}-{number}-{side}.jpg" for side in range(1 + number % 3)}
    assert {found.source for found in rows} == wanted
    assert all((found.vector == vectors(1, number % 7)[0]).all() for found in rows)
    return number
