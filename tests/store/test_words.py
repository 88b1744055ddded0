"""Full-text search over titles, attributes and captions."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from making import DIM, row

from lookalike.errors import BadInput
from lookalike.store import LocalStore
from lookalike.values import Caption, Item


@pytest.fixture
def store(tmp_path: Path) -> Iterator[LocalStore]:
    items = [
        Item("boot", "Leather boots for winter", {"colour": "brown", "price": 50}),
        Item("dress", "Red summer dress", {"brand": "Crème Brûlée", "washable": True}),
        Item("shoe", "Red shoe", {"colour": ("red", "black")}),
        Item("sock", "Straße", {"price": 3}),
    ]
    with LocalStore(tmp_path, DIM, write=True) as store:
        store.add([row(item, f"{item.id}.jpg", seed=place) for place, item in enumerate(items)], run=1)
        store.add([row("sock", "2.jpg", caption=Caption("striped, knitted", "somebody"))], run=1)
        yield store


def found(store: LocalStore, text: str, top: int = 10, where: str | None = None) -> list[str]:
    with store.view() as view:
        items, scores = view.words(text, top, where)
        assert list(scores) == sorted(scores, reverse=True)
        assert (scores > 0).all()
        return [
            view.rows(view.regions_of(items[place : place + 1])[:1])[0].item.id for place in range(len(items))
        ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("boot", ["boot"]),  # stemmed: boots
        ("WINTERS", ["boot"]),
        ("brown", ["boot"]),
        ("creme brulee", ["dress"]),
        ("CRÈME", ["dress"]),
        ("cre\u0300me", ["dress"]),  # the accent as a letter of its own
        ("STRAßE", ["sock"]),
        ("50", ["boot"]),
        ("knitting", ["sock"]),
        ("red dress", ["dress", "shoe"]),  # both words before one
        ("zebra dress", ["dress"]),  # any word is enough
        ("zebra", []),
    ],
)
def test_words_are_found_where_they_stand(store: LocalStore, text: str, expected: list[str]) -> None:
    assert found(store, text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "  ",
        "!?",
        '"',
        "***",
        "-",
        "()",
        "_",
        "\0",
        "red AND",
        "NOT red",
        'red"',
        "title:red",
        "red*",
        "NEAR(red, 2)",
        "^red",
        "{red}",
    ],
)
def test_no_text_is_query_syntax(store: LocalStore, text: str) -> None:
    assert set(found(store, text)) == ({"dress", "shoe"} if "red" in text else set())


def test_a_very_long_text_is_cut(store: LocalStore) -> None:
    assert found(store, "dress " + " ".join(f"word{n}" for n in range(100_000))) == ["dress"]


def test_top_and_where(store: LocalStore) -> None:
    assert len(found(store, "red", top=1)) == 1
    assert found(store, "red", where="colour = 'black'") == ["shoe"]
    assert found(store, "red", where="price > 0") == []
    with pytest.raises(BadInput):
        found(store, "red", where="weight > 0")


def test_words_follow_changes(store: LocalStore) -> None:
    store.add([row(Item("shoe", "Green clog"), "shoe.jpg")], run=2)
    assert found(store, "red") == ["dress"]
    assert found(store, "clogs") == ["shoe"]
    store.add([row("sock", "2.jpg", caption=Caption("plain", "somebody"))], run=2)
    assert found(store, "striped") == []
    assert found(store, "plain") == ["sock"]
    store.add([row("sock", "2.jpg", "another content")], run=2)  # the file changed: its caption went with it
    assert found(store, "plain") == []
    store.remove(["shoe"])
    assert found(store, "clog") == []


def test_words_go_with_a_picture_whose_file_became_another(store: LocalStore) -> None:
    store.add([row("sock", "3.jpg")], run=1)
    store.add([row("sock", "2.jpg", "3.jpg")], run=2)  # 2.jpg now has the bytes of 3.jpg
    assert found(store, "striped") == []


def test_words_go_with_pruned_pictures(store: LocalStore) -> None:
    store.add([row("sock", "sock.jpg", seed=3)], run=2)
    store.prune("shop", 2)
    assert found(store, "striped") == []
    assert found(store, "boot") == []
    assert found(store, "Straße") == ["sock"]
