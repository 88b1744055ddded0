"""A catalogue in a real Milvus server: it answers as a folder does, and loses nothing when something dies."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import httpx
import numpy as np
import pytest
from hypothesis import given, settings
from making import DIM, many, row, vectors
from test_filters import ITEMS, SEEN, Expression, expressions, found

import lookalike
from lookalike.errors import BadInput, CatalogueBusy, CatalogueError, WrongEncoder
from lookalike.roles import Store
from lookalike.settings import Settings
from lookalike.store import LocalStore
from lookalike.store.address import Address
from lookalike.store.milvus import MilvusStore
from lookalike.store.milvus.facts import Facts
from lookalike.store.milvus.server import Server
from lookalike.store.milvus.store import SCHEMA
from lookalike.testing import ThumbnailEncoder
from lookalike.values import Caption, Claim, Item, Row, unit

milvus = pytest.importorskip("milvus")

TOKEN = "root:Milvus"  # as a server is delivered
HERE = Path(__file__).parent

# The package that starts the server leaves a socket open while it looks for a port.
pytestmark = pytest.mark.filterwarnings(
    "ignore:Exception ignored in. <socket:pytest.PytestUnraisableExceptionWarning"
)


class Running:
    """A server process on loopback that wants credentials; its files stay when it is killed."""

    def __init__(self, folder: Path) -> None:
        config = milvus.MilvusServerConfig(data_dir=str(folder))
        config.set("authorization_enabled", True)
        config.set(
            "common.session.ttl", 3
        )  # seconds until a server that is started again replaces the killed one
        self._server = milvus.MilvusServer(config, wait_for_started=False)
        client, peer = (f"http://127.0.0.1:{free_port()}" for _ in range(2))  # it would take one fixed port
        (folder / "etcd.yaml").write_text(
            f"{{name: default, data-dir: '{folder}/etcd', initial-cluster: 'default={peer}',"
            f" listen-client-urls: '{client}', advertise-client-urls: '{client}',"
            f" listen-peer-urls: '{peer}', initial-advertise-peer-urls: '{peer}'}}"
        )
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("ETCD_CONFIG_PATH", str(folder / "etcd.yaml"))
            self._server.start()
        self.port = self._server.listen_port
        self._process = self._server.server_proc
        self._folder = folder
        self._environment = {
            **os.environ, "ETCD_CONFIG_PATH": str(folder / "etcd.yaml"), "DEPLOY_MODE": "STANDALONE",
            "METRICS_PORT": str(self._server.webservice_port), "MILVUS_RUN_DIR": str(folder / "run"),
            "LD_LIBRARY_PATH": str(folder / "bin"),
        }  # fmt: skip
        self._wait()

    def start_again(self) -> None:
        """On the same files and the same ports, which `MilvusServer.start` would choose anew."""
        self._process = subprocess.Popen(
            self._process.args, env=self._environment, cwd=self._folder,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        self._wait()

    def _wait(self) -> None:
        deadline = time.monotonic() + 120
        while not self._healthy():
            assert self._process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.1)

    def kill(self) -> None:
        """At once, as a power cut would; the files stay."""
        self._process.kill()
        self._process.wait()

    def stop(self) -> None:
        self.kill()
        self._server.stop()

    def _healthy(self) -> bool:
        try:
            with urlopen(f"http://127.0.0.1:{self._server.webservice_port}/healthz", timeout=5) as answer:
                return b"OK" in answer.read()
        except OSError:
            return False


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
        return port


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    running = Running(tmp_path_factory.mktemp("milvus"))
    yield running
    running.stop()


Opener = Callable[..., MilvusStore]


@pytest.fixture(scope="module")
def opener(server: Running, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Opener]:
    """Opens a catalogue by its name; all are closed in the end."""
    cache = tmp_path_factory.mktemp("cache")
    stores: list[MilvusStore] = []

    def open_it(name: str, dim: int | None = None, **how: Any) -> MilvusStore:
        how = {"cache": cache, "token": TOKEN} | how
        stores.append(MilvusStore(f"milvus://127.0.0.1:{server.port}/{name}", dim, **how))
        return stores[-1]

    yield open_it
    for store in stores:
        store.close()


def shop() -> list[Row]:
    """Sixty items; every third has two pictures, one of them with two regions, and captions."""
    from lookalike.values import Box

    drawn = iter(vectors(200, 3, clusters=12))
    rows = []
    for number in range(60):
        attributes = {
            "price": number % 17,
            "colour": ("red", "blue") if number % 4 else "Grün",
            "new": number % 5 == 0,
        }
        item = Item(f"item-{number:02}", f"{'Running shoes' if number % 3 else 'a hat'} {number}", attributes)
        rows.append(row(item, f"{number}.jpg", vector=next(drawn)))
        if number % 3 == 0:
            for box in (Box(0, 0, 10, 20), Box(5, 5, 50, 50)):
                claims = (Claim("navy", "colour", "navy", {"pixels": 0.75}, believed=number % 2 == 0),)
                caption = Caption(f"a hat in navy wool {number}", "somebody", claims=claims)
                meaning = next(drawn)
                rows.append(
                    row(
                        item,
                        f"{number} back.jpg",
                        vector=next(drawn),
                        box=box,
                        caption=caption,
                        meaning=meaning,
                    )
                )
    return rows


def told(rows: list[Row]) -> list[str]:
    """Rows in words, in an order of their own."""
    return sorted(
        repr((r.item, r.source, r.sha256, r.width, r.height, r.box, r.score, r.caption, r.origin))
        + repr(r.vector.tolist()) + repr(None if r.meaning is None else r.meaning.tolist())
        for r in rows
    )  # fmt: skip


@pytest.fixture(scope="module")
def both(opener: Opener, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Store, Store]]:
    """The same rows, written in the same way to a server and to a folder."""
    with LocalStore(tmp_path_factory.mktemp("folder"), DIM, write=True) as local:
        remote = opener("both", DIM, write=True, meta={"encoder": "thumbnail"})
        for store in (remote, local):
            rows, run = shop(), store.start_run()
            store.add(rows[:50], run)
            store.add(rows[50:], run)
        yield remote, local
        remote.close()


def answers(store: Store, where: str | None, top: int) -> list[dict[str, float]]:
    """Of each query what it finds, with the scores, best first."""
    with store.view() as view:
        keys, scores = view.search(vectors(6, 9), top, where)
        assert (np.diff(scores, axis=1) <= 0).all()
        return [
            {
                f"{each.item.id} {each.source} {each.box}": score
                for each, score in zip(view.rows(some), reached, strict=True)
            }
            for some, reached in zip(keys, scores.tolist(), strict=True)
        ]


def same_answers(one: Store, other: Store, where: str | None, top: int = 25) -> None:
    """The same regions with the same scores; what differs by rounding alone may change places."""
    for ours, theirs in zip(*(answers(store, where, top) for store in (one, other)), strict=True):
        assert ours == pytest.approx(theirs, abs=1e-5)


def test_rows_come_back_as_they_were_written(both: tuple[Store, Store]) -> None:
    remote, local = both
    assert told(list(remote.scan())) == told(list(local.scan()))
    assert remote.count() == local.count()
    assert remote.items_after("item-07", 5) == local.items_after("item-07", 5)
    assert told(remote.rows_of("item-09")) == told(local.rows_of("item-09"))
    assert remote.rows_of("nobody") == []
    contents = ["sha of 3.jpg", "sha of 9 back.jpg", "unknown"]
    assert told(remote.find(contents)) == told(local.find(contents))
    assert list(remote.check()) == []


@pytest.mark.parametrize(
    "where", [None, "price < 5", "colour = 'BLUE' and not new = true", "has seen_colour", "price > 99"]
)
def test_search_finds_what_a_folder_finds(both: tuple[Store, Store], where: str | None) -> None:
    remote, local = both
    for top in (25, 1000):
        same_answers(remote, local, where, top)


def test_views_tell_the_same(both: tuple[Store, Store]) -> None:
    with both[0].view() as remote, both[1].view() as local:
        assert remote.size == local.size == len(remote.keys)
        assert (np.diff(remote.keys) > 0).all()
        assert dict(remote.facets(3)) == dict(local.facets(3))
        for where in (None, "price < 9"):
            for text in ("hats of wool", "shoe", "RÉD", "nothing such"):
                ours, theirs = (view.words(text, 12, where) for view in (remote, local))
                assert np.allclose(ours[1], theirs[1])
                assert len(ours[0]) == len(theirs[0])
        hats, _ = remote.words("hat", 100)
        regions = remote.regions_of(hats)
        assert set(remote.owners(regions).tolist()) == set(hats.tolist())
        stored = {r.sha256 + str(r.box): r for r in shop()}
        for each, vector, meaning in zip(
            remote.rows(regions), remote.vectors(regions), remote.meanings(regions), strict=True
        ):
            original = stored[each.sha256 + str(each.box)]
            assert np.array_equal(vector, original.vector)
            assert np.array_equal(meaning, np.zeros(DIM) if original.meaning is None else original.meaning)


@pytest.fixture(scope="module")
def filtered(opener: Opener) -> MilvusStore:
    store = opener("filtered", DIM, write=True)
    store.add(
        [
            row(
                item if item.id != "d?" else replace(item, attributes={**item.attributes, "price": 12345}),
                f"{place} {number}.jpg",
                seed=place,
                caption=Caption("a thing", "somebody", claims=(Claim("nice"), *claims)),
            )
            for place, item in enumerate(ITEMS)
            for number, claims in enumerate(SEEN.get(item.id, [()]))
        ],
        run=1,
    )
    return store


REFUSED = ("matches beginnings only", "beyond 2^53", "no item has", "no believed caption")


@given(expressions)
@settings(max_examples=60, deadline=None)
def test_filters_mean_what_the_oracle_says_or_are_refused(
    filtered: MilvusStore, expression: Expression
) -> None:
    text, test = expression
    items = [
        item if item.id != "d?" else replace(item, attributes={**item.attributes, "price": 12345})
        for item in ITEMS
    ]
    try:
        answer = found(filtered, text)
    except BadInput as error:
        assert any(reason in str(error) for reason in REFUSED)
    else:
        assert answer == {item.id for item in items if test(item)}


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        ("colour != 'red'", {"b[2]", "c*", "d?"}),
        ("not colour = 'red'", {"b[2]", "c*", "d?", "e", "f"}),
        ("price between 1 and 11", {"A1", "a1", "e"}),
        ("title like 'RED%'", {"A1", "d?"}),
        ("note = 'it''s \"so\"'", {"b[2]"}),
        ("seen_colour = 'red' and colour = 'blue'", {"a1"}),
        ("`two words` = 'JA'", {"d?"}),
        ("sizes in (37, 'x', true)", {"A1"}),
    ],
)
def test_filters_by_example(filtered: MilvusStore, where: str, expected: set[str]) -> None:
    assert found(filtered, where) == expected


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ("title like '%shoe'", "beginnings only"),
        ("price = 9007199254740993", "2^53"),
        ("clour = 1", "'clour'"),
    ],
)
def test_what_the_server_cannot_tell_is_one_line(filtered: MilvusStore, where: str, message: str) -> None:
    with pytest.raises(BadInput, match=message.replace("^", r"\^")) as caught:
        found(filtered, where)
    assert caught.value.hint


def changes(store: Store) -> list[object]:
    """A life of a catalogue, and what is told of it on the way."""
    heard: list[object] = []

    def hear() -> None:
        heard.append(told(list(store.scan())))
        heard.append(store.count())
        with store.view() as view:
            heard.append(np.round(view.words("boot coat wool", 50)[1], 4).tolist())
            heard.append(dict(view.facets(5)))

    boot = Item("boot", "A boot", {"price": 5})
    first = store.start_run()
    store.add([row(boot, "1.jpg"), row(boot, "2.jpg", seed=2), row("coat", "3.jpg", seed=3)], first)
    hear()
    store.add([row("boot", "1.jpg", content="another", seed=7)], first)  # the file was changed
    store.add(
        [row(Item("coat", "A coat", {"price": 7}), "3.jpg", seed=3, caption=Caption("wool", "me"))], first
    )
    hear()
    second = store.start_run()
    store.add([row(boot, "2.jpg", seed=2)], second)
    store.mark("shop", ["3.jpg"], second)
    heard += [second > first, sorted(store.vanished("shop", second)), store.prune("shop", second)]
    heard.append(list(store.vanished("shop", second)))
    hear()
    store.replace([Item("boot", "Boots"), Item("hat", "Hat")], [row("hat", "9.jpg", seed=9)], {"job": "done"})
    store.replace([Item("coat")], [row("coat", "new.jpg", seed=4), row("coat", "newer.jpg", seed=5)])
    heard.append(store.meta["job"])
    hear()
    for wrong in ([Item("new")], [boot, boot]):
        with pytest.raises(BadInput) as caught:
            store.replace(wrong, [])
        heard.append(str(caught.value))
    with pytest.raises(BadInput) as caught:
        store.remove(["boot", "nobody"])
    heard += [str(caught.value), store.remove(["hat", "boot"])]
    with store.view() as view:
        key = int(view.search(vectors(1, 4), 1)[0][0, 0])
    store.remove_regions([key, 1])
    hear()
    store.meta["note"] = "kept"
    heard.append(store.meta.pop("note"))
    heard.append("note" in store.meta)
    return heard


def test_a_life_of_changes_is_that_of_a_folder(opener: Opener, tmp_path: Path) -> None:
    with opener("life", DIM, write=True) as remote, LocalStore(tmp_path, DIM, write=True) as local:
        for ours, theirs in zip(changes(remote), changes(local), strict=True):
            assert ours == theirs
        assert list(remote.check()) == []
        with pytest.raises(BadInput, match="length 16"):
            remote.add([row("long", vector=np.ones(3, np.float32))], 1)
        with pytest.raises(CatalogueError) as caught:
            remote.snapshot(tmp_path / "copy")
        assert "lookalike copy" in caught.value.hint


def test_a_switch_reaches_readers_at_their_next_view(opener: Opener) -> None:
    rows = many(40)
    writer, reader = (
        opener("switched", DIM, write=True, meta={"encoder": "old"}, kept_s=0),
        opener("switched"),
    )
    writer.add(rows, 1)
    with reader.view() as before:
        keys = before.keys
        # Half is staged, a run comes between, and what it changed has to be staged again.
        waiting = writer.unstaged(20)
        writer.stage([key for key, _ in waiting], unit(np.ones((20, 4))))
        assert writer.count_unstaged() == 20
        with pytest.raises(CatalogueError, match="20 regions"):
            writer.switch({"encoder": "new"})
        changed = waiting[0][1]
        writer.add([replace(changed, caption=Caption("a word", "me"))], 1)
        assert writer.count_unstaged() == 21
        while todo := writer.unstaged(15):
            drawn = unit(np.arange(1, 4 * len(todo) + 1).reshape(-1, 4))
            writer.stage([key for key, _ in todo], drawn, drawn)
        writer.switch({"encoder": "new"})
        assert np.array_equal(before.keys, keys)
        assert before.vectors(keys[:3]).shape == (3, DIM)  # stays with what it saw
        assert before.search(vectors(1), 5)[0].shape == (1, 5)
    with reader.view() as after:
        assert np.array_equal(after.keys, keys)
        assert after.vectors(keys).shape == (40, 4)
        assert after.meanings(keys).any(axis=1).sum() == 1  # only captions have a meaning
        assert after.version != before.version
        assert reader.meta["encoder"] == "new"
        assert reader.meta["dim"] == "4"
    assert list(reader.check()) == []
    writer.close()
    with opener("switched", write=True, kept_s=0) as again:  # drops the former build
        again.add([row("one", vector=unit(np.ones((1, 4)))[0])], 1)
        again.discard_staged()
        with pytest.raises(CatalogueError):
            before.vectors(keys[:3])


def test_a_graph_is_made_where_it_pays_and_filters_stay_exact(opener: Opener, tmp_path: Path) -> None:
    rows = [
        row(Item(f"item-{n}", "", {"price": n % 10}), f"{n}.jpg", vector=vector)
        for n, vector in enumerate(vectors(1200, 5, clusters=60))
    ]
    with (
        LocalStore(tmp_path, DIM, write=True) as local,
        opener("graph", DIM, write=True, graph_from=1000) as remote,
    ):
        for store in (local, remote):
            store.add(rows[:900], 1)
        assert not remote.build_index()  # too few: every row is compared
        for store in (local, remote):
            store.add(rows[900:], 1)
        heard: list[tuple[int, int]] = []
        assert remote.build_index(lambda done, total: heard.append((done, total)))
        assert heard[-1] == (1200, 1200)
        assert remote.meta["index"] == "HNSW"
        same_answers(remote, local, "price = 3")
        with remote.view() as view, local.view() as truth:
            asked = vectors(20, 8)
            exact = view.search(asked, 10, exact=True)
            assert np.allclose(exact[1], truth.search(asked, 10)[1], atol=1e-5)
            close = view.search(asked, 10)[0]
            assert np.mean([len(np.intersect1d(*pair)) for pair in zip(close, exact[0], strict=True)]) >= 9


WRITER = f"""
import sys
from pathlib import Path
sys.path.insert(0, {str(HERE)!r})
from making import DIM, many
from lookalike.store.milvus import MilvusStore
store = MilvusStore(sys.argv[1], DIM, write=True, cache=Path(sys.argv[2]), token={TOKEN!r}, lease_s=2)
number = int(sys.argv[3])
run = store.start_run()
print("writing", flush=True)
while True:
    store.add(many(20, first=number), run)
    number += 20
    print(number, flush=True)
"""


def writing(server: Running, cache: Path, first: int = 0) -> subprocess.Popen[str]:
    command = [
        sys.executable,
        "-c",
        WRITER,
        f"milvus://127.0.0.1:{server.port}/killed",
        str(cache),
        str(first),
    ]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def until(process: subprocess.Popen[str], number: int) -> int:
    """Wait for a report that so many rows are acknowledged."""
    assert process.stdout is not None
    for line in process.stdout:
        if line.strip().isdigit() and int(line) >= number:
            return int(line)
    assert process.stderr is not None
    raise AssertionError(process.stderr.read())


def opened_for_writing(opener: Opener, name: str) -> MilvusStore:
    """As soon as the lease of a writer that was killed has ended."""
    deadline = time.monotonic() + 30
    while True:
        try:
            return opener(name, write=True, lease_s=2)
        except CatalogueBusy:
            assert time.monotonic() < deadline
            time.sleep(0.1)


def test_a_writer_or_a_server_that_is_killed_loses_nothing(
    server: Running, opener: Opener, tmp_path: Path
) -> None:
    acknowledged = 0
    for victim in ("writer", "writer", "server"):
        with writing(server, tmp_path, acknowledged) as process:
            acknowledged = until(process, acknowledged + 60)
            with pytest.raises(CatalogueBusy, match="another process"):
                opener("killed", write=True)  # there is one writer
            if victim == "writer":
                process.send_signal(signal.SIGKILL)
            else:
                server.kill()
                assert process.stderr is not None
                assert process.stdout is not None
                reported = [int(line) for line in process.stdout.read().split()]
                acknowledged = max([acknowledged, *reported])
                error = process.stderr.read()
                assert "CatalogueError: no Milvus server answers" in error or "CatalogueBusy" in error, error
                server.start_again()
        with opened_for_writing(opener, "killed") as store:
            ids = {found.item.id for found in store.scan()}
            assert ids >= {f"item-{n}" for n in range(acknowledged)}
            again = many(
                max(20, len(ids) - acknowledged), first=acknowledged
            )  # what was under way, once more
            store.add(again, store.start_run())
            acknowledged += len(again)
            assert store.count().items == acknowledged
            assert list(store.check()) == []
            with store.view() as view:
                asked = np.stack([each.vector for each in again])
                hits = [each.item.id for each in view.rows(view.search(asked, 1)[0].ravel())]
                assert hits == [each.item.id for each in again]


def test_a_write_that_was_broken_off_is_healed_by_the_next(server: Running, opener: Opener) -> None:
    with opener("torn", DIM, write=True) as store:
        store.add(many(3), 1)
        with store.view() as view:
            settled = view.version
    # What a kill between the first row and the last leaves: an odd revision.
    address = Address.parse(f"milvus://127.0.0.1:{server.port}/torn")
    with closing(Server(address, TOKEN)) as connection:
        facts = Facts(connection, "torn__facts")
        facts.begin(facts.state(connection.moment()).revision + 1, [1])
    with opener("torn") as reader:
        assert "broken off" in next(reader.check())
        with reader.view() as first, reader.view() as second:
            assert len({settled, first.version, second.version}) == 3  # nobody may take an answer for another
        assert reader.count().items == 3
    with opener("torn", write=True) as store:
        store.add(many(2, first=2), 1)
        assert list(store.check()) == []
        assert store.count().items == 4


@pytest.mark.usefixtures("both")
def test_what_cannot_be_opened_is_one_line(server: Running, opener: Opener, tmp_path: Path) -> None:
    started = time.monotonic()
    address = f"milvus://127.0.0.1:{server.port}"
    for wrong, token, message in (
        (f"{address}/absent", TOKEN, "there is no catalogue"),
        (f"{address}/nowhere/shop", TOKEN, "no database 'nowhere'"),
        (f"{address}/shop", "root:wrong", "refuses the credentials"),
        (f"{address}/shop", None, "refuses the credentials"),
        ("milvus://127.0.0.1:1/shop", TOKEN, "no Milvus server answers"),
    ):
        with pytest.raises(CatalogueError, match=message) as caught:
            MilvusStore(wrong, cache=tmp_path, token=token)
        assert "\n" not in str(caught.value)
        assert caught.value.hint
    for wrong in (
        f"{address}/",
        f"{address}/a-b",
        f"{address}/a__b",
        "milvus://u:p@host/shop",
        f"{address}/x?token=t",
    ):
        with pytest.raises(BadInput):
            MilvusStore(wrong, cache=tmp_path, token=TOKEN)
    assert time.monotonic() - started < 60
    with pytest.raises(WrongEncoder, match="length 16"):
        opener("both", 8)
    with pytest.raises(CatalogueError, match="reading only"):
        opener("both").add(many(1), 1)
    with closing(Server(Address.parse(f"{address}/both"), TOKEN)) as connection:
        facts = Facts(connection, "both__facts")
        for schema, word in ((SCHEMA + 1, "newer"), (SCHEMA - 1, "older")):
            facts.set_state(schema=schema)
            with pytest.raises(CatalogueError, match=f"was written by a {word} lookalike") as caught:
                opener("both")
            assert caught.value.hint
        facts.set_state(schema=SCHEMA)


def run(*arguments: object, home: Path, check: int = 0) -> Any:
    done = subprocess.run(
        [sys.executable, "-m", "lookalike", *map(str, arguments)], capture_output=True, text=True,
        timeout=120, env={**os.environ, "HOME": str(home), "MILVUS_TOKEN": TOKEN},
    )  # fmt: skip
    assert done.returncode == check, done.stderr
    return done


def served_by_a_replica(address: str, query: Path, home: Path) -> None:
    """A service that only reads, and keeps what it keeps in the cache."""
    command = [sys.executable, "-m", "lookalike", "serve", address, "--read-only", "--port", "0"]
    environment = {**os.environ, "HOME": str(home), "MILVUS_TOKEN": TOKEN}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as service:
        assert service.stdout is not None
        url = service.stdout.readline().split()[0]
        try:
            with httpx.Client(base_url=url, timeout=60) as client:
                deadline = time.monotonic() + 60
                while not _ready(client):
                    assert service.poll() is None and time.monotonic() < deadline
                    time.sleep(0.1)
                box = "0,0,95,127"
                found = client.post("v1/search", files={"picture": query.read_bytes()}, data={"box": box})
                assert found.status_code == 200, found.text
                assert found.json()["hits"][0]["item"] == "item-3"
                assert client.get("v1/catalogue").json()["pictures"] == 7
                thumbnail = client.get(found.json()["hits"][0]["picture"])
                assert thumbnail.headers["content-type"] == "image/jpeg"
                refused = client.delete("v1/items/item-3")
                assert refused.status_code == 403, refused.text
        finally:
            service.terminate()


def _ready(client: httpx.Client) -> bool:
    try:
        return client.get("readyz").status_code == 200
    except httpx.TransportError:
        return False


def test_commands_and_python_work_with_an_address(
    server: Running, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))  # where the cache is
    address = f"milvus://127.0.0.1:{server.port}/commands"
    indexed = run(
        "index", pictures, "--to", address, "--encoder", "colour-histogram", "--json", home=tmp_path
    )
    assert json.loads(indexed.stdout)["pictures"] == 7
    query = pictures / "item-3" / "front.png"
    answer = run("search", query, "--in", address, "--regions", "whole", "--json", home=tmp_path)
    assert json.loads(answer.stdout)["hits"][0]["item"] == "item-3"
    assert "add --read-only" in run("serve", address, home=tmp_path, check=1).stderr
    assert "--keys-file" in run("serve", address, "--new-key", "search", home=tmp_path, check=1).stderr
    for source, target in (
        (address, tmp_path / "copy"),
        (address, tmp_path.as_uri() + "/build"),
        (tmp_path.as_uri() + "/build", f"{address}_again"),
    ):
        copied = json.loads(run("copy", source, target, "--json", home=tmp_path).stdout)
        assert (copied["pictures"], copied["differences"]) == (7, [])
    served_by_a_replica(address, query, tmp_path)
    with pytest.raises(WrongEncoder):
        lookalike.open(address, Settings(encoder=ThumbnailEncoder(), token=TOKEN))
    with lookalike.open(address, Settings(token=TOKEN), create=False) as catalogue:
        assert catalogue.remove(["item-3"]) == 1
        assert catalogue.search(query)[0].item != "item-3"
        assert catalogue.add(pictures).encoded == 1
