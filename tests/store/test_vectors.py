"""Search against brute force in numpy, with and without a graph."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from making import DIM, many, row, vectors

from lookalike.errors import BadInput
from lookalike.store import LocalStore
from lookalike.store.vectors import BLOCK, Gallery
from lookalike.values import Floats, Item, Keys


class Oracle:
    """All rows scored one by one in double precision."""

    def __init__(self, store: LocalStore) -> None:
        with store.view() as view:
            self.keys = view.keys
        self.rows = list(store.scan())

    def search(self, query: Floats, top: int, allowed: set[str] | None = None) -> list[tuple[int, float]]:
        scored = [
            (key, float(np.dot(found.vector.astype(np.float64), query.astype(np.float64))))
            for key, found in zip(self.keys.tolist(), self.rows, strict=True)
            if allowed is None or found.item.id in allowed
        ]
        return sorted(scored, key=lambda pair: (-pair[1], pair[0]))[:top]


def agree(found: tuple[Keys, Floats], oracle: list[list[tuple[int, float]]]) -> None:
    """The same scores; the same keys but where scores are closer than float32 tells apart."""
    keys, scores = found
    expected = np.array([[score for _, score in ranking] for ranking in oracle]).reshape(scores.shape)
    assert np.allclose(scores, expected, atol=1e-5)
    for place, ranking in enumerate(oracle):
        for rank, (key, score) in enumerate(ranking):
            if keys[place, rank] != key:
                others = [other for other in oracle[place] if abs(other[1] - score) < 1e-5]
                assert len(others) > 1, (place, rank)


@pytest.mark.parametrize("queries", [1, 3, 20])
@pytest.mark.parametrize("top", [1, 10, 10_000])
def test_exact_search_is_brute_force(tmp_path: Path, queries: int, top: int) -> None:
    with LocalStore(tmp_path, DIM, write=True) as store:
        store.add(many(700, clusters=30), run=1)
        oracle = Oracle(store)
        asked = vectors(queries, seed=99)
        with store.view() as view:
            found = view.search(asked, top)
        assert found[0].shape == found[1].shape == (queries, min(top, 700))
        assert found[0].dtype == np.int64
        agree(found, [oracle.search(query, top) for query in asked])


def test_search_stays_exact_through_additions_and_removals(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    with LocalStore(tmp_path, DIM, write=True) as store, LocalStore(tmp_path) as reader:
        living: list[str] = []
        for step in range(12):
            fresh = many(40, first=100 * step)
            store.add(fresh, run=1)
            living += [found.item.id for found in fresh]
            gone = rng.choice(living, 25 if step % 3 == 2 else 5, replace=False).tolist()
            store.remove(gone)
            living = [item for item in living if item not in gone]
            oracle = Oracle(store)
            asked = vectors(2, seed=step)
            for eyes in (store, reader):
                with eyes.view() as view:
                    assert view.size == len(living)
                    agree(view.search(asked, 30), [oracle.search(query, 30) for query in asked])
                    assert np.array_equal(view.vectors(view.keys), [found.vector for found in oracle.rows])


def test_more_rows_than_fit_in_a_block() -> None:
    """In memory only: the table would take a while to fill."""
    count = BLOCK + 5000
    drawn = vectors(count, dim=4)
    keys = np.arange(1, count + 1)
    gallery, none = Gallery.empty(4, "1", 0), np.zeros(0, np.int64)
    with ThreadPoolExecutor(2) as threads:
        for first, last in ((0, 100), (100, BLOCK - 3), (BLOCK - 3, BLOCK + 2), (BLOCK + 2, count)):
            before = gallery
            fresh = slice(first, last)
            gallery = gallery.grown(
                keys[fresh], keys[fresh] % 1000, [drawn[fresh].astype(np.float16)], none, 0
            )
            assert np.array_equal(gallery.vectors(keys[:last]), drawn[:last])
            assert len(before) == first
            for asked in (drawn[[7]], drawn[[7] * 10]):
                found, scores = gallery.search(asked, 50, None, True, threads)
                assert np.allclose(scores, -np.sort(-(asked @ drawn[:last].T), axis=1)[:, :50], atol=1e-6)
                assert 8 in found[0]
                filtered, _ = gallery.search(asked, 50, np.array([8]), True, threads)
                assert (filtered % 1000 == 8).all()
                assert filtered[0, 0] == 8


@pytest.mark.parametrize("top", [1, 5, 20, 29])
def test_ties_go_to_the_lower_key_wherever_the_list_is_cut(tmp_path: Path, top: int) -> None:
    near, far = vectors(2, seed=5)
    rows = [row(f"item-{n}", f"{n}.jpg", vector=near if n % 3 == 1 else far) for n in range(90)]
    with LocalStore(tmp_path, DIM, write=True) as store:
        store.add(rows, run=1)
        store.remove(["item-4"])
        with store.view() as view:
            for queries in (near[None], np.stack([near, near])):
                keys, _ = view.search(queries, top)
                assert keys[0].tolist() == [n + 1 for n in range(90) if n % 3 == 1 and n != 4][:top]


def test_filters_are_exact_and_shorten_the_answer(tmp_path: Path) -> None:
    drawn = vectors(400, clusters=20)
    with LocalStore(tmp_path, DIM, write=True) as store:
        store.add(
            [row(Item(f"item-{n}", "", {"shelf": n % 40}), f"{n}.jpg", vector=drawn[n]) for n in range(400)],
            run=1,
        )
        oracle = Oracle(store)
        asked = vectors(2, seed=9)
        with store.view() as view:
            for where, shelves in (
                ("shelf = 3", [3]),
                ("shelf < 20", range(20)),
                ("shelf = 3 and shelf = 4", []),
            ):
                allowed = {f"item-{n}" for n in range(400) if n % 40 in shelves}
                keys, scores = view.search(asked, 50, where)
                assert keys.shape == (2, min(50, len(allowed)))
                agree((keys, scores), [oracle.search(query, 50, allowed) for query in asked])


def test_replaced_regions_do_not_show_under_a_filter(tmp_path: Path) -> None:
    with LocalStore(tmp_path, DIM, write=True) as store:
        boot = Item("boot", "", {"shelf": 1})
        store.add([row(boot, "a.jpg", "old", seed=1), row(boot, "b.jpg", seed=2), *many(20)], run=1)
        with store.view() as view:
            before = view.keys
        store.add([row(boot, "a.jpg", "new", seed=3)], run=2)
        with store.view() as view:
            expected = [before[1], before[-1] + 1]
            assert np.sort(view.search(vectors(1), 9, "shelf = 1")[0][0]).tolist() == expected
            assert view.regions_of(view.owners(view.keys[:1])).tolist() == expected


def test_empty_answers_have_the_right_shapes(tmp_path: Path) -> None:
    with LocalStore(tmp_path, DIM, write=True) as store:
        with store.view() as view:
            assert view.size == 0
            assert view.search(vectors(3), 10)[0].shape == (3, 0)
            assert view.rows(view.keys) == []
            assert view.vectors(view.keys).shape == (0, DIM)
            assert view.regions_of(np.array([1])).shape == (0,)
        store.add(many(5), run=1)
        with store.view() as view:
            assert view.search(vectors(3), 0)[1].shape == (3, 0)
            assert view.search(vectors(3)[:0], 10)[0].shape == (0, 5)


def test_bad_queries_are_refused(tmp_path: Path) -> None:
    with LocalStore(tmp_path, DIM, write=True) as store:
        store.add(many(5), run=1)
        with store.view() as view:
            with pytest.raises(BadInput, match="finite"):
                view.search(np.full((1, DIM), np.nan, np.float32), 3)
            with pytest.raises(ValueError, match="shape"):
                view.search(vectors(1)[0], 3)
            with pytest.raises(ValueError, match="length"):
                view.search(np.zeros((1, DIM + 1), np.float32), 3)


def test_regions_and_owners(tmp_path: Path) -> None:
    with LocalStore(tmp_path, DIM, write=True) as store:
        store.add([row("boot", seed=1), row("shoe", "s.jpg"), row("boot", seed=2)], run=1)
        with store.view() as view:
            owners = view.owners(view.keys)
            boot = next(owner for owner in owners if list(owners).count(owner) == 2)
            assert view.regions_of(np.array([boot])).tolist() == view.keys[owners == boot].tolist()
            assert view.regions_of(owners).tolist() == view.keys.tolist()


@pytest.fixture(scope="module")
def shelves() -> list[tuple[str, Floats]]:
    """So many clustered vectors, under their items' ids, that a graph is asked."""
    return [(f"item-{n}", vector) for n, vector in enumerate(vectors(6600, seed=1, clusters=330))]


def filled(folder: Path, rows: list[tuple[str, Floats]]) -> LocalStore:
    store = LocalStore(folder, DIM, write=True, graph_from=500)
    store.add([row(item, f"{item}.jpg", vector=vector) for item, vector in rows], run=1)
    return store


def recall(found: Keys, truth: Keys) -> float:
    return float(np.mean([np.isin(*pair).mean() for pair in zip(truth, found, strict=True)]))


def test_a_graph_finds_nearly_what_exact_search_finds(
    tmp_path: Path, shelves: list[tuple[str, Floats]]
) -> None:
    asked = vectors(50, seed=2, clusters=20)
    with filled(tmp_path, shelves[:400]) as store, LocalStore(tmp_path) as reader:
        assert store.build_index() is False  # too few
        store.add([row(item, f"{item}.jpg", vector=vector) for item, vector in shelves[400:]], run=1)
        steps: list[tuple[int, int]] = []
        assert store.build_index(lambda done, total: steps.append((done, total))) is True
        assert steps[-1] == (6600, 6600)
        assert store.build_index() is False  # up to date
        for eyes in (store, reader):
            with eyes.view() as view:
                found, scores = view.search(asked, 20)
                truth, exact_scores = view.search(asked, 20, exact=True)
                assert recall(found, truth) > 0.95
                for few in (1, 3):
                    assert np.array_equal(view.search(asked[:few], 20)[0], found[:few])
                both = found == truth
                assert np.array_equal(scores[both], exact_scores[both])
                assert np.array_equal(view.vectors(view.keys), [vector for _, vector in shelves])


def test_newer_rows_and_removals_show_through_a_graph(
    tmp_path: Path, shelves: list[tuple[str, Floats]]
) -> None:
    with (
        filled(tmp_path, shelves[:6500]) as store,
        LocalStore(tmp_path) as reader,
        LocalStore(tmp_path) as fresh,
    ):
        store.build_index()
        with reader.view() as view:
            assert view.size == 6500
        store.remove([item for item, _ in shelves[:100]])
        store.add([row(item, f"{item}.jpg", vector=vector) for item, vector in shelves[6500:]], run=1)
        newcomers = np.stack([vector for _, vector in shelves[6500:]])
        gone = np.stack([vector for _, vector in shelves[:100]])
        for eyes in (store, reader, fresh):
            with eyes.view() as view:
                assert view.size == 6500
                found, _ = view.search(newcomers, 10)
                assert np.array_equal(np.sort(found[:, 0]), view.keys[-100:])
                found, _ = view.search(gone, 10)
                assert np.isin(found, view.keys).all()
                assert recall(found, view.search(gone, 10, exact=True)[0]) > 0.95


def test_where_a_whole_neighbourhood_was_removed_the_answer_is_still_full(tmp_path: Path) -> None:
    crowd = np.repeat(vectors(1, seed=3), 240, axis=0)
    others = vectors(6260, seed=4, clusters=300)
    rows = [(f"item-{n}", vector) for n, vector in enumerate(np.concatenate([crowd, others]))]
    with filled(tmp_path, rows) as store:
        store.build_index()
        store.remove([f"item-{n}" for n in range(240)])
        with store.view() as view:
            found, _ = view.search(crowd[:1], 20)
            truth, _ = view.search(crowd[:1], 20, exact=True)
            assert found.shape == (1, 20)
            assert np.isin(found, view.keys).all()
            assert recall(found, truth) > 0.9


def test_filters_are_exact_over_a_graph_too(tmp_path: Path) -> None:
    drawn = vectors(6500, seed=6, clusters=300)
    with LocalStore(tmp_path, DIM, write=True, graph_from=500) as store:
        rows = [
            row(Item(f"item-{n}", "", {"shelf": n % 100}), f"{n}.jpg", vector=drawn[n]) for n in range(6500)
        ]
        store.add(rows, run=1)
        store.build_index()
        with store.view() as view:
            keys, scores = view.search(drawn[:20], 10, "shelf = 3")
            allowed = drawn[3::100]
            assert np.allclose(scores, -np.sort(-(drawn[:20] @ allowed.T), axis=1)[:, :10], atol=1e-6)
            assert np.isin(keys, view.keys[3::100]).all()


def test_a_graph_that_lags_far_behind_is_not_asked_and_is_built_anew(tmp_path: Path) -> None:
    drawn = vectors(6600, dim=64)  # without clusters: a graph misses some
    asked = vectors(50, seed=7, dim=64)
    with LocalStore(tmp_path, 64, write=True, graph_from=500) as store, LocalStore(tmp_path) as reader:
        store.add([row(f"item-{n}", f"{n}.jpg", vector=vector) for n, vector in enumerate(drawn)], run=1)
        store.build_index()
        with store.view() as view:
            assert not np.array_equal(view.search(asked, 30)[0], view.search(asked, 30, exact=True)[0])
        store.remove([f"item-{n}" for n in range(700)])
        with store.view() as view:
            assert np.array_equal(view.search(asked, 30)[0], view.search(asked, 30, exact=True)[0])
        store.remove([f"item-{n}" for n in range(700, 2000)])  # so many that the rows are loaded anew
        for eyes in (store, reader):
            with eyes.view() as view:
                assert np.array_equal(view.vectors(view.keys), drawn[2000:])
        assert store.build_index() is True
        assert store.build_index() is False


@pytest.mark.parametrize(
    "damage",
    ["cut", "bit of a link", "bit of a row", "bit of a key", "emptied", "of another catalogue", "noise"],
)
def test_a_damaged_graph_is_ignored_and_replaced(
    tmp_path: Path, shelves: list[tuple[str, Floats]], damage: str
) -> None:
    with filled(tmp_path / "shop", shelves[:600]) as store:
        store.build_index()
    file = tmp_path / "shop" / "index" / "regions.hnsw"
    content = bytearray(file.read_bytes())
    if damage == "cut":
        content = content[: len(content) * 2 // 3]
    elif damage.startswith("bit"):
        place = {"bit of a link": len(content) // 3, "bit of a row": -10_000, "bit of a key": -5_000}[damage]
        content[place] ^= 16
    elif damage == "emptied":
        content.clear()
    elif damage == "of another catalogue":
        with filled(tmp_path / "other", shelves[600:1200]) as other:
            other.build_index()
        content = bytearray((tmp_path / "other" / "index" / "regions.hnsw").read_bytes())
    else:
        content = bytearray(np.random.default_rng(0).bytes(1000))
    file.write_bytes(content)

    asked = vectors(5, seed=8)
    with LocalStore(tmp_path / "shop", write=True, graph_from=500) as store:
        truth = np.stack([vector for _, vector in shelves[:600]])
        with store.view() as view:
            scores = view.search(asked, 10)[1]
        assert np.allclose(scores, -np.sort(-(asked @ truth.T), axis=1)[:, :10], atol=1e-6)
        assert store.build_index() is True
        assert file.read_bytes() != content
        with store.view() as view:
            assert recall(view.search(asked, 10)[0], view.search(asked, 10, exact=True)[0]) > 0.95
