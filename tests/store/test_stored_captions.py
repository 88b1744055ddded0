"""Captions with their claims and their own descriptors: kept, exchanged, staged, searched, removed."""

import sqlite3
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from making import DIM, many, row, vectors

from lookalike.errors import BadInput
from lookalike.store import LocalStore
from lookalike.store.local import LocalView
from lookalike.values import Caption, Claim, Counts, Row

NAVY = Claim("navy", "colour", "navy", {"pixels": 0.9, "samples": 2 / 3})
NECK = Claim("a V-neck", "neckline", "V-neck", {"views": 0.2}, believed=False)
LOOSE = Claim("looks expensive")
CAPTION = Caption("navy", "somebody", claims=(NAVY, NECK, LOOSE))
OTHERS = [
    None,
    replace(CAPTION, text="dark blue"),
    replace(CAPTION, by="somebody else"),
    replace(CAPTION, claims=(NAVY, replace(NECK, believed=True), LOOSE)),
    replace(CAPTION, claims=(replace(NAVY, support={"pixels": 0.8, "samples": 2 / 3}), NECK, LOOSE)),
    replace(CAPTION, claims=(NECK, NAVY, LOOSE)),
    replace(CAPTION, claims=()),
]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[LocalStore]:
    with LocalStore(tmp_path, DIM, write=True) as store:
        yield store


def keys(store: LocalStore) -> list[int]:
    with store.view() as view:
        return view.keys.tolist()


def told(number: int, meaning: bool = True) -> Row:
    """An item of one picture with a caption, numbered."""
    caption = Caption(f"thing {number}", "somebody", claims=(Claim("a thing", "kind", str(number)),))
    return row(
        f"item-{number}",
        f"{number}.jpg",
        seed=number,
        caption=caption,
        meaning=vectors(1, seed=1000 + number)[0] if meaning else None,
    )


def found(view: LocalView, where: str) -> list[str]:
    matched, _ = view.search(np.ones((1, DIM), np.float32), 100, where)
    return sorted({row.item.id for row in view.rows(matched[0])})


def test_claims_and_meanings_come_back_as_they_were_stored(store: LocalStore) -> None:
    meaning = vectors(1, seed=5)[0]
    store.add([row("boot", caption=CAPTION, meaning=meaning), row("shoe", "b.jpg")], run=1)
    boot, shoe = store.scan()
    assert boot.caption == CAPTION
    assert boot.caption.attributes == {"colour": ("navy",)}
    assert boot.meaning is not None
    assert np.array_equal(boot.meaning, meaning)
    assert (shoe.caption, shoe.meaning) == (None, None)
    with store.view() as view:
        assert [row.caption for row in view.rows(view.keys[[1, 0, 1]])] == [None, CAPTION, None]


@pytest.mark.parametrize("other", OTHERS)
def test_another_caption_is_exchanged_in_place(store: LocalStore, other: Caption | None) -> None:
    first = row("boot", caption=CAPTION, meaning=vectors(1, seed=5)[0])
    store.add([first, row("shoe", "b.jpg")], run=1)
    with store.view() as view:
        before = view.keys.tolist()
        store.add([replace(first, caption=other)], run=2)
        assert view.rows(view.keys[:1])[0].caption == CAPTION  # the view is of one moment
    assert keys(store) == before
    assert next(store.scan()).caption == other
    store.add([first], run=3)
    assert keys(store) == before
    assert next(store.scan()).caption == CAPTION
    assert list(store.check()) == []


def test_another_meaning_is_exchanged_in_place(store: LocalStore) -> None:
    first = row("boot", caption=CAPTION)
    store.add([first], run=1)
    before = keys(store)
    for seed in (1, 2):
        store.add([replace(first, meaning=vectors(1, seed=seed)[0])], run=1)
        with store.view() as view:
            assert view.keys.tolist() == before
            assert np.array_equal(view.meanings(view.keys), vectors(1, seed=seed))
    store.add([first], run=1)
    assert next(store.scan()).meaning is None


def test_of_several_regions_each_has_its_own_caption(store: LocalStore) -> None:
    regions = [
        replace(told(number), item=row("boot").item, source="a.jpg", sha256="a") for number in range(3)
    ]
    regions[1] = replace(regions[1], caption=None, meaning=None)
    store.add(regions, run=1)
    before = keys(store)
    changed = [regions[0], replace(regions[1], caption=CAPTION), regions[2]]
    store.add(changed, run=1)
    assert keys(store) == before
    assert [row.caption for row in store.scan()] == [row.caption for row in changed]
    assert store.count() == Counts(items=1, pictures=1, regions=3, captions=3)


def test_a_reader_follows_without_loading_descriptors_again(store: LocalStore, tmp_path: Path) -> None:
    store.add([told(number) for number in range(20)], run=1)
    with LocalStore(tmp_path) as reader:
        with reader.view() as view:
            old = view.vectors(view.keys)
        store.add([replace(told(3), caption=CAPTION)], run=2)
        with sqlite3.connect(tmp_path / "catalogue.sqlite") as connection:  # nothing to load from
            connection.execute("UPDATE vectors SET vector = zeroblob(?)", (2 * DIM,))
        connection.close()
        with reader.view() as view:
            assert view.rows(view.keys[3:4])[0].caption == CAPTION
            assert np.array_equal(view.vectors(view.keys), old)


def test_meanings_are_those_of_the_rows_in_any_order(store: LocalStore) -> None:
    store.add([told(number, meaning=number % 3 > 0) for number in range(50)], run=1)
    store.add(many(10, first=100), run=1)
    with store.view() as view:
        asked = np.random.default_rng(0).choice(view.keys, 200)  # some of them many times
        expected = [np.zeros(DIM) if row.meaning is None else row.meaning for row in view.rows(asked)]
        meanings = view.meanings(asked)
        assert meanings.dtype == np.float32
        assert np.array_equal(meanings, expected)
        assert 0 < np.count_nonzero(meanings.any(axis=1)) < 200
        assert view.meanings(asked[:0]).shape == (0, DIM)


@pytest.mark.parametrize(
    "bad",
    [
        row("x", caption=CAPTION, meaning=np.ones(DIM + 1, np.float32)),
        row("x", caption=CAPTION, meaning=np.full(DIM, np.nan, np.float32)),
        row("x", caption=Caption("x", "y", claims=(Claim("x", support={"pixels": float("nan")}),))),
        row("x", caption=Caption("x", "y", claims=(Claim("\udcff"),))),
    ],
)
def test_a_bad_caption_is_refused_with_its_whole_batch(store: LocalStore, bad: Row) -> None:
    with pytest.raises(BadInput):
        store.add([told(1), bad], run=1)
    assert store.count() == Counts(0, 0, 0, 0)


def test_a_caption_without_text_takes_its_claims_and_meaning_along(store: LocalStore) -> None:
    store.add([row("boot", caption=Caption("", "somebody", claims=(NECK,)), meaning=vectors(1)[0])], run=1)
    (boot,) = store.scan()
    assert (boot.caption, boot.meaning) == (None, None)
    assert store.count().captions == 0


def test_filters_and_words_follow_captions(store: LocalStore) -> None:
    store.add([row("boot", caption=CAPTION), row("shoe", "b.jpg", caption=replace(CAPTION, by="x"))], run=1)
    with store.view() as view:
        assert found(view, "seen_colour = 'NAVY'") == ["boot", "shoe"]
        with pytest.raises(BadInput, match="seen_neckline"):  # nobody believes it
            found(view, "has seen_neckline")
    red = Caption("red", "somebody", claims=(Claim("red", "colour", "red"), replace(NECK, believed=True)))
    store.add([row("boot", caption=red)], run=2)
    with store.view() as view:
        assert found(view, "seen_colour = 'navy'") == ["shoe"]
        assert found(view, "seen_colour != 'navy'") == ["boot"]
        assert found(view, "has seen_neckline") == ["boot"]
        assert len(view.words("navy", 10)[0]) == 1
        assert len(view.words("red", 10)[0]) == 1
    store.add([row("boot")], run=3)
    with store.view() as view:
        assert found(view, "has seen_colour") == ["shoe"]
        assert len(view.words("red", 10)[0]) == 0


def test_captions_go_with_their_regions(store: LocalStore, tmp_path: Path) -> None:
    store.add([told(number) for number in range(4)], run=1)
    store.stage(keys(store), vectors(4), vectors(4, seed=1))
    store.remove(["item-0"])
    store.remove_regions([2])
    store.add([replace(told(2), score=0.5, caption=None)], run=2)
    assert list(store.check()) == []  # with references
    connection = sqlite3.connect(tmp_path / "catalogue.sqlite")
    for table in ("captions", "claims", "meanings", "meanings_next"):
        assert connection.execute(f"SELECT region FROM {table}").fetchall() == [(4,)]
    connection.close()


def test_a_meaning_of_another_length_is_a_fault(store: LocalStore, tmp_path: Path) -> None:
    store.add([told(number) for number in range(3)], run=1)
    assert list(store.check()) == []
    with sqlite3.connect(tmp_path / "catalogue.sqlite") as connection:
        connection.execute("UPDATE meanings SET vector = zeroblob(6) WHERE region = 2")
    connection.close()
    assert list(store.check()) == [f"the caption's descriptor of region 2 has 3 numbers instead of {DIM}"]


def test_staged_meanings_take_the_places_of_the_present_ones(store: LocalStore) -> None:
    store.add([told(number) for number in range(4)], run=1)
    store.add([row("bare", "bare.jpg")], run=1)
    asked = np.array(keys(store))
    present = np.concatenate([vectors(1, seed=1000 + number) for number in range(4)] + [np.zeros((1, DIM))])
    staged = vectors(5, seed=3, dim=8)
    staged[1] = 0  # none
    store.stage(asked, vectors(5, dim=8), staged)
    with store.view() as view:
        assert np.array_equal(view.meanings(asked), present)
    store.switch({})
    staged[4] = 0  # a region without a caption has no meaning either
    for again in (False, True):
        with store.view() as view:
            assert np.array_equal(view.meanings(asked), staged)
        assert [row.meaning is None for row in store.scan()] == [False, True, False, False, True]
        assert list(store.check()) == []
        if not again:  # and another time, with as many tables
            store.stage(asked, vectors(5, dim=8), staged)
            store.switch({})


def test_meanings_that_nobody_staged_are_gone_after_the_switch(store: LocalStore) -> None:
    store.add([told(number) for number in range(4)], run=1)
    store.stage(keys(store), vectors(4, dim=8), vectors(4, dim=8))
    store.stage(keys(store), vectors(4, dim=8))  # thought better of it
    store.switch({})
    with store.view() as view:
        assert np.array_equal(view.meanings(view.keys), np.zeros((4, 8)))
    assert [row.caption for row in store.scan()] == [told(number).caption for number in range(4)]


def test_staged_meanings_can_be_discarded(store: LocalStore) -> None:
    store.add([told(number) for number in range(4)], run=1)
    store.stage(keys(store), vectors(4, dim=8), vectors(4, dim=8))
    store.discard_staged()
    store.stage(keys(store), vectors(4, dim=9))
    store.switch({})
    assert [row.meaning for row in store.scan()] == [None] * 4


def test_a_caption_that_changes_meanwhile_is_staged_again(store: LocalStore) -> None:
    store.add([told(number) for number in range(4)], run=1)
    store.stage(keys(store), vectors(4, dim=8), vectors(4, dim=8))
    store.add([replace(told(2), caption=CAPTION), told(3)], run=2)
    ((key, waiting),) = store.unstaged(10)
    assert (key, waiting.caption) == (3, CAPTION)


def test_meanings_of_another_length_are_not_staged(store: LocalStore) -> None:
    store.add([told(1)], run=1)
    with pytest.raises(BadInput):
        store.stage(keys(store), vectors(1, dim=8), vectors(1, dim=9))
    assert store.count_unstaged() == 1
