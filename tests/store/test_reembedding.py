"""Every descriptor exchanged for another encoder's, in steps that survive a stop, and at once in the end."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from making import DIM, many, row, vectors

from lookalike.errors import BadInput, CatalogueError
from lookalike.store import LocalStore


@pytest.fixture
def store(tmp_path: Path) -> Iterator[LocalStore]:
    with LocalStore(tmp_path, DIM, write=True, graph_from=50) as store:
        store.add(many(100), run=1)
        yield store


def test_all_is_staged_then_switched(store: LocalStore) -> None:
    after, seen = 0, []
    while todo := store.unstaged(30, after):
        after = todo[-1][0]
        seen += [row.source for _, row in todo]
        assert store.count_unstaged() == 100 - len(seen) + len(todo)
        store.stage([key for key, _ in todo], vectors(len(todo), seed=len(seen), dim=8))
    assert seen == [f"{n}.jpg" for n in range(100)]
    with store.view() as view:
        before = view.keys
        assert view.vectors(before).shape == (100, DIM)  # the old ones answer until the switch

    store.switch({"encoder": "new", "regime": "train"})
    assert (store.dim, store.meta["encoder"], store.meta["regime"]) == (8, "new", "train")
    assert store.count_unstaged() == 100  # ready for another time
    with store.view() as view:
        assert np.array_equal(view.keys, before)
        expected = np.concatenate(
            [vectors(n, seed=s, dim=8) for n, s in ((30, 30), (30, 60), (30, 90), (10, 100))]
        )
        assert np.array_equal(view.vectors(view.keys), expected)
    store.add([row("new", "new.jpg", vector=vectors(1, dim=8)[0])], run=2)
    store.remove(["item-0"])
    assert list(store.check()) == []
    with pytest.raises(BadInput):
        store.add(many(1), run=2)


def test_a_switch_waits_for_every_region(store: LocalStore) -> None:
    todo = store.unstaged(99)
    store.stage([key for key, _ in todo], vectors(99, dim=8))
    with pytest.raises(CatalogueError, match="1 regions"):
        store.switch({"encoder": "new"})
    assert "encoder" not in store.meta
    ((key, found),) = store.unstaged(10)
    assert found.source == "99.jpg"
    store.remove_regions([key])
    store.switch({"encoder": "new"})
    assert store.count().regions == 99


def test_what_comes_and_goes_meanwhile_is_respected(store: LocalStore) -> None:
    todo = store.unstaged(100)
    store.remove(["item-5"])
    store.stage([key for key, _ in todo], vectors(100, dim=8))  # one of them is gone
    store.add(many(2, first=500), run=1)
    assert [row.item.id for _, row in store.unstaged(10)] == ["item-500", "item-501"]
    assert store.count_unstaged() == 2


def test_staging_goes_on_after_reopening_and_can_be_discarded(tmp_path: Path) -> None:
    with LocalStore(tmp_path, DIM, write=True) as store:
        store.add(many(10), run=1)
        store.stage([1, 2, 3], vectors(3, dim=8))
    with LocalStore(tmp_path, write=True) as store:
        assert [key for key, _ in store.unstaged(100)] == list(range(4, 11))
        with pytest.raises(BadInput):
            store.stage([4], vectors(1, dim=9))
        store.discard_staged()
        assert store.count_unstaged() == 10
        store.stage([4], vectors(1, dim=9))


def test_a_graph_of_the_old_descriptors_is_not_used_for_the_new(store: LocalStore) -> None:
    assert store.build_index()
    todo = store.unstaged(100)
    fresh = vectors(100, seed=77)
    store.stage([key for key, _ in todo], fresh)
    store.switch({})
    for again in (False, True):
        with store.view() as view:
            assert view.search(fresh[:5], 1)[0].ravel().tolist() == view.keys[:5].tolist()
        assert store.build_index() is not again


def test_an_empty_catalogue_takes_its_length_from_meta(tmp_path: Path) -> None:
    with LocalStore(tmp_path, DIM, write=True) as store:
        store.switch({"encoder": "new", "dim": "8"})
        assert store.dim == 8
        store.add([row("boot", vector=vectors(1, dim=8)[0])], run=1)
