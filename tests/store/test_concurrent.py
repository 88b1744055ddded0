"""Readers beside a writer: no errors, no steps back, and every view of one piece."""

import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
from making import DIM, many, vectors

from lookalike.store import LocalStore
from lookalike.store.local import LocalView

BATCH = 20

WRITER = f"""
import sys
from pathlib import Path
sys.path.insert(0, {str(Path(__file__).parent)!r})
from making import DIM, many
from lookalike.store import LocalStore
with LocalStore(Path(sys.argv[1]), write=True, graph_from=300) as store:
    for number in range({BATCH}, 1200, {BATCH}):
        store.add(many({BATCH}, first=number), run=1)
        if number % 300 == 0:
            store.build_index()
"""


def consistent(view: LocalView) -> None:
    """What is in memory and what is in the table are of the same moment."""
    assert view.size == len(view.keys)
    assert view.size % BATCH == 0
    sample = view.keys[:: max(1, view.size // 20)]
    rows = view.rows(sample)
    assert np.array_equal(view.vectors(sample), [row.vector for row in rows])
    asked = view.vectors(view.keys[-2:])
    keys, scores = view.search(asked, 5)
    assert np.isin(keys, view.keys).all()
    assert np.allclose(scores[:, 0], 1, atol=1e-3)
    found = np.stack([row.vector for row in view.rows(keys[0])])
    assert np.allclose(found @ asked[0], scores[0], atol=1e-5)


def test_a_reader_follows_a_writer_in_another_process(tmp_path: Path) -> None:
    LocalStore(tmp_path, DIM, write=True).close()
    with LocalStore(tmp_path, write=True) as store:
        store.add(many(BATCH), run=1)
    sizes = []
    with (
        LocalStore(tmp_path) as store,
        subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path)], stderr=subprocess.PIPE) as writer,
    ):
        while writer.poll() is None:
            with store.view() as view:
                consistent(view)
                sizes.append(view.size)
            sizes.append(store.count().regions)
        assert writer.stderr is not None
        assert (writer.returncode, writer.stderr.read()) == (0, b"")
        with store.view() as view:
            consistent(view)
            sizes.append(view.size)
    assert sizes == sorted(sizes)
    assert sizes[-1] == 1200
    assert len(set(sizes)) > 2  # it saw the catalogue grow


def test_threads_hold_views_while_another_adds_and_removes(tmp_path: Path) -> None:
    with LocalStore(tmp_path, DIM, write=True, graph_from=100) as store:
        store.add(many(200), run=1)
        store.build_index()
        stop = threading.Event()
        failures: list[BaseException] = []
        views = [0] * 4

        def read(place: int) -> None:
            try:
                while not stop.is_set():
                    with store.view() as view:
                        consistent(view)
                        views[place] += 1
            except BaseException as error:
                failures.append(error)

        threads = [threading.Thread(target=read, args=(place,)) for place in range(len(views))]
        for thread in threads:
            thread.start()
        try:
            for step in range(20):
                store.add(many(BATCH, first=1000 + step * BATCH), run=1)
                if step % 3 == 0:
                    store.remove([f"item-{n}" for n in range(step * BATCH // 3, step * BATCH // 3 + BATCH)])
            while min(views) == 0 and not failures:
                time.sleep(0.01)
        finally:
            stop.set()
            for thread in threads:
                thread.join()
        assert failures == []


def test_a_view_does_not_change(tmp_path: Path) -> None:
    with LocalStore(tmp_path, DIM, write=True) as store:
        store.add(many(100), run=1)
        asked = vectors(2, seed=5)
        with store.view() as view:
            before = [*view.search(asked, 20), view.keys, view.vectors(view.keys), *view.words("item", 5)]
            rows = [row.source for row in view.rows(view.keys)]
            store.remove(["item-3"])
            store.add(many(50, first=100), run=1)
            with store.view() as later:
                assert later.size == 149
            after = [*view.search(asked, 20), view.keys, view.vectors(view.keys), *view.words("item", 5)]
            assert all(map(np.array_equal, before, after))
            assert [row.source for row in view.rows(view.keys)] == rows


def test_two_builders_do_not_disturb_each_other(tmp_path: Path) -> None:
    with (
        LocalStore(tmp_path, DIM, write=True, graph_from=100) as store,
        LocalStore(tmp_path, graph_from=100) as other,
    ):
        store.add(many(500), run=1)
        met: list[bool] = []
        assert store.build_index(lambda _done, _total: met.append(other.build_index())) is True
        assert met == [False]
        with other.view() as view:
            asked = vectors(5, seed=5)
            assert np.mean(view.search(asked, 5)[0] == view.search(asked, 5, exact=True)[0]) > 0.9


REEMBEDDER = f"""
import sys
from pathlib import Path
import numpy as np
sys.path.insert(0, {str(Path(__file__).parent)!r})
from lookalike.store import LocalStore
from lookalike.values import unit
with LocalStore(Path(sys.argv[1]), write=True) as store:
    for dim in (8, 16, 4):
        while todo := store.unstaged(64):
            store.stage([key for key, _ in todo], unit([row.vector[:1].repeat(dim) for _, row in todo]))
        store.switch({{"encoder": f"first number, {{dim}} times"}})
"""


def test_a_reader_goes_on_while_descriptors_are_exchanged(tmp_path: Path) -> None:
    with LocalStore(tmp_path, DIM, write=True) as store:
        store.add(many(400), run=1)
    with (
        LocalStore(tmp_path) as store,
        subprocess.Popen([sys.executable, "-c", REEMBEDDER, str(tmp_path)], stderr=subprocess.PIPE) as writer,
    ):
        dims = []
        while writer.poll() is None:
            with store.view() as view:
                dims.append(view.vectors(view.keys).shape[1])
                assert view.size == 400
                assert view.search(view.vectors(view.keys[:2]), 3)[0].shape == (2, 3)
                assert np.array_equal(view.rows(view.keys[5:6])[0].vector, view.vectors(view.keys[5:6])[0])
        assert writer.stderr is not None
        assert (writer.returncode, writer.stderr.read()) == (0, b"")
        with store.view() as view:
            assert view.vectors(view.keys).shape == (400, 4)
        assert store.dim == 4
        assert store.meta["encoder"] == "first number, 4 times"
    assert dims[0] == DIM
    assert set(dims) <= {4, 8, 16}
