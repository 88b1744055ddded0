"""Connections that say nothing, or too little, at a real server and at the real service."""

from __future__ import annotations

import contextlib
import json
import resource
import select
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence

import psutil
import pytest
import uvicorn
from fastapi import FastAPI
from served import Running, Shop

from lookalike.server.connections import Connection, make_room

ASK = b"GET /now HTTP/1.1\r\nHost: localhost\r\n\r\n"
HALF = ASK[:20]
ENOUGH_S = 60  # that a test waits for what must come


@contextlib.contextmanager
def serving(kind: type[Connection]) -> Iterator[int]:
    """A real server on a port of its own."""
    app = FastAPI()
    held = threading.Event()

    @app.get("/now")
    async def now() -> str:
        return "now"

    @app.get("/held")
    def wait() -> str:
        held.wait(ENOUGH_S)
        return "held"

    with socket.create_server(("127.0.0.1", 0)) as listening:
        config = uvicorn.Config(app, log_config=None, lifespan="off", ws="none", http=kind)
        server = uvicorn.Server(config)
        running = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        running.start()
        try:
            yield listening.getsockname()[1]
        finally:
            held.set()
            server.should_exit = True
            running.join()


def connected(port: int, said: bytes = b"") -> socket.socket:
    made = socket.create_connection(("127.0.0.1", port), timeout=ENOUGH_S)
    made.sendall(said)
    return made


def answered(connection: socket.socket) -> bytes:
    """What comes next; b"" where the connection has been closed."""
    try:
        return connection.recv(65536)
    except ConnectionResetError:
        return b""


def told(connection: socket.socket) -> bool:
    """Ask, and read the answer to its end."""
    connection.sendall(ASK)
    read = b""
    while not read.endswith(b'"now"') and (more := answered(connection)):
        read += more
    return read.startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize("said", [b"", HALF, ASK, ASK + HALF])
def test_a_connection_without_a_request_is_closed(said: bytes) -> None:
    class Hasty(Connection):
        head_s = 0.3

    with serving(Hasty) as port, connected(port, said) as connection:
        assert answered(connection).startswith(b"HTTP/1.1 200" if said.startswith(ASK) else b"")
        while answered(connection):
            pass


def test_a_head_that_trickles_in_is_not_waited_for() -> None:
    class Hasty(Connection):
        head_s = 0.3

    with serving(Hasty) as port, connected(port) as connection:
        until = time.monotonic() + ENOUGH_S
        with contextlib.suppress(ConnectionError):
            for letter in ASK * 100:
                connection.sendall(bytes([letter]))
                if select.select([connection], [], [], 0.05)[0]:
                    break
        assert answered(connection) == b"" and time.monotonic() < until


def test_where_there_are_too_many_the_longest_idle_one_goes() -> None:
    class Few(Connection):
        most = 4

    with serving(Few) as port, contextlib.ExitStack() as opened:
        working = opened.enter_context(connected(port, ASK.replace(b"/now", b"/held")))
        idle = []
        for _ in range(5):  # each asks something first, so that it is known to be there
            idle.append(opened.enter_context(connected(port)))
            assert told(idle[-1])
        assert [answered(each) for each in idle[:2]] == [b"", b""]
        for each in idle[2:]:
            assert told(each)
        assert not select.select([working], [], [], 0)[0]


def test_the_limit_of_files_is_raised_as_far_as_it_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Connection, "most", Connection.most)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (1024, hard))
        make_room()
        now = resource.getrlimit(resource.RLIMIT_NOFILE)
        assert now[1] == hard and now[0] >= 1024 and Connection.most < now[0]
        assert Connection.most == min(10_000, max(now[0] - 1500, now[0] // 2))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.fixture(scope="module")
def running(drawn_shop: Shop, serve: Callable[..., Running]) -> Running:
    """A service for this file alone, whose memory is looked at."""
    return serve(drawn_shop.folder)


def test_searches_go_on_among_many_connections_that_do_nothing(drawn_shop: Shop, running: Running) -> None:
    search = {"picture": drawn_shop.query.read_bytes()}
    running.client.post("/v1/search", files=search).raise_for_status()
    before = _resident(running.process.pid)
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    count = max(30, min(900, soft - 200))
    slow = (
        b"POST /v1/search HTTP/1.1\r\nHost: localhost\r\nContent-Type: multipart/form-data; boundary=part\r\n"
        b'Content-Length: 20000000\r\n\r\n--part\r\nContent-Disposition: form-data; name="picture"; '
        b'filename="a"\r\n\r\n' + bytes(1000)
    )
    port = int(running.url.rpartition(":")[2])
    with contextlib.ExitStack() as opened:
        crowd = [opened.enter_context(connected(port, (b"", HALF, slow)[n % 3])) for n in range(count)]
        for _ in range(5):
            running.client.post("/v1/search", files=search).raise_for_status()
        assert _resident(running.process.pid) - before < 100_000_000
        _await_closed(crowd)
    running.client.post("/v1/search", files=search).raise_for_status()


START = b"POST /v1/search HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
MANY = b"".join(b"X-%d: 1\r\n" % number for number in range(10_000))
TWICE = b"Content-Length: 16\r\nTransfer-Encoding: chunked\r\nContent-Type: application/json\r\n"


@pytest.mark.parametrize(
    ("head", "rest"),
    [
        (b"X: " + b"a" * 1_000_000 + b"\r\n", b""),
        (MANY, b""),
        (TWICE, b'10\r\n{"text": "hats"}\r\n0\r\n\r\n'),
        (b"Content-Length: 1\r\nContent-Length: 2\r\n", b"{}"),
        (b"Content-Length: -1\r\n", b"{}"),
        (b"X : y\r\n", b""),
        (b"X: y\0z\r\n", b""),
    ],
)
def test_a_head_that_is_too_large_or_contradicts_itself_is_refused(
    running: Running, head: bytes, rest: bytes
) -> None:
    with connected(int(running.url.rpartition(":")[2])) as connection:
        with contextlib.suppress(ConnectionError):
            connection.sendall(START + head + b"\r\n" + rest)
        read = b""
        while more := answered(connection):
            read += more
    if read:  # else the connection was closed while the head was still being sent
        assert read.startswith(b"HTTP/1.1 4")
        said, _, document = read.partition(b"\r\n\r\n")
        assert b"content-type: application/problem+json" in said.lower()
        assert json.loads(document)["status"] == int(read.split()[1])
    assert running.client.get("/readyz").status_code == 200


def _await_closed(crowd: Sequence[socket.socket]) -> None:
    """Until the server has let go of them all."""
    for each in crowd:
        while answered(each):
            pass


def _resident(pid: int) -> int:
    """The bytes of a process that are in memory."""
    return int(psutil.Process(pid).memory_info().rss)
