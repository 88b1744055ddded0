"""kill -9 at random moments: what was acknowledged is there once, and everything opens again."""

import random
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
from making import DIM, many, vectors

from lookalike.store import LocalStore

BATCH = 40

START = f"""
import sys
from pathlib import Path
sys.path.insert(0, {str(Path(__file__).parent)!r})
from making import DIM, many, vectors
from lookalike.store import LocalStore
store = LocalStore(Path(sys.argv[1]), DIM, write=True, graph_from=10)
"""

WRITE = f"""
number = store.count().items
while True:
    store.add(many({BATCH}, first=number), store.start_run())
    number += {BATCH}
    print(number, flush=True)
"""

BUILD = """
while True:
    print("building", flush=True)
    store.build_index()
    store.meta["epoch"] = str(int(store.meta["epoch"]) + 1)  # as if all descriptors were new
"""

REEMBED = """
while True:
    flipped = "no" if store.meta["flipped"] == "yes" else "yes"
    while todo := store.unstaged(500):
        store.stage([key for key, _ in todo], -store_vectors(todo))
        print("staged", flush=True)
    store.switch({"flipped": flipped})
"""


def killed(folder: Path, script: str, chance: random.Random) -> list[str]:
    """Run a script that never ends, kill it a moment after it reported; -> the lines of its report."""
    command = [sys.executable, "-c", START + script, str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stderr is not None
        first = process.stdout.readline()
        try:
            process.wait(timeout=chance.uniform(0, 0.15))
        except subprocess.TimeoutExpired:
            process.kill()
        rest = process.stdout.read()
        assert process.wait() == -9, process.stderr.read()
    return [first, *rest.splitlines(keepends=True)]


def test_acknowledged_rows_survive_twenty_kills(tmp_path: Path) -> None:
    chance = random.Random(0)
    acknowledged = 0
    for _ in range(20):
        lines = killed(tmp_path, WRITE, chance)
        acknowledged = max([acknowledged, *(int(line) for line in lines if line.endswith("\n"))])
        with LocalStore(tmp_path) as store:
            items = [found.item.id for found in store.scan()]
            assert items == [f"item-{n}" for n in range(len(items))]  # each once
            assert len(items) >= acknowledged
            assert len(items) % BATCH == 0  # no part of a batch
            with store.view() as view:
                asked = view.vectors(view.keys[-3:])
                assert view.search(asked, 1)[0].ravel().tolist() == view.keys[-3:].tolist()
    with LocalStore(tmp_path, write=True) as store:
        assert list(store.check()) == []


def test_a_kill_while_the_index_is_built_costs_nothing_but_the_index(tmp_path: Path) -> None:
    chance = random.Random(1)
    with LocalStore(tmp_path, DIM, write=True) as store:
        store.add(many(6500, clusters=300), run=1)
    asked = vectors(5, seed=9)
    for _ in range(6):
        killed(tmp_path, BUILD, chance)
        with LocalStore(tmp_path, graph_from=10) as store, store.view() as view:
            found, truth = (view.search(asked, 5, exact=exact)[0] for exact in (False, True))
            assert np.mean(found == truth) > 0.9
    with LocalStore(tmp_path, graph_from=10) as store:
        store.build_index()
        assert sorted(path.name for path in (tmp_path / "index").iterdir()) == [
            "regions.hnsw",
            "regions.lock",
        ]


def test_a_kill_while_descriptors_are_exchanged_leaves_one_kind(tmp_path: Path) -> None:
    chance = random.Random(2)
    with LocalStore(tmp_path, DIM, write=True, meta={"flipped": "no"}) as store:
        store.add(many(2000), run=1)
    helper = "import numpy as np\nstore_vectors = lambda todo: np.stack([row.vector for _, row in todo])\n"
    for _ in range(6):
        killed(tmp_path, helper + REEMBED, chance)
        with LocalStore(tmp_path) as store, store.view() as view:
            sign = -1 if store.meta["flipped"] == "yes" else 1
            assert np.array_equal(view.vectors(view.keys), sign * vectors(2000))


def test_a_kill_while_the_catalogue_is_made_leaves_none_or_all_of_it(tmp_path: Path) -> None:
    """Every prefix of what creation writes: the file has its name only when it is complete."""
    with LocalStore(tmp_path / "whole", DIM, write=True, meta={"encoder": "thumbnail"}):
        content = (tmp_path / "whole" / "catalogue.sqlite").read_bytes()
    for length in (0, 100, len(content) // 2, len(content)):
        shop = tmp_path / f"shop-{length}"
        shop.mkdir()
        (shop / "catalogue.sqlite.unfinished").write_bytes(content[:length])
        assert not LocalStore.exists(shop)
        with LocalStore(shop, DIM, write=True, meta={"encoder": "thumbnail"}) as store:
            assert store.meta["encoder"] == "thumbnail"
            assert list(store.check()) == []
        shutil.rmtree(shop)
