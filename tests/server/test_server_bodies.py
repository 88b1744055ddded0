import contextlib
import json
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Annotated

import httpx
import pytest
import uvicorn
from fastapi import Body, FastAPI, Request
from fastapi.responses import StreamingResponse

from lookalike.server.bodies import Bodies, Guarded
from lookalike.server.limits import Limits
from lookalike.server.problems import Problem, handle

SMALL = replace(Limits(), body_bytes=10_000, bulk_bytes=50_000, body_s=60.0, idle_s=60.0)
ENOUGH_S = 30.0  # that a test waits for what must come


def app_of(limits: Limits, hosts: list[str] | None = None) -> FastAPI:
    app = FastAPI()
    handle(app)

    @app.post("/raw")
    @app.post("/v1/items")
    @app.put("/v1/items")
    async def raw(request: Request) -> dict[str, int]:
        return {"bytes": len(await request.body())}

    @app.post("/form")
    async def form(request: Request) -> dict[str, int]:
        async with request.form() as fields:
            return {"fields": len(fields)}

    @app.post("/json")
    async def read(values: Annotated[list[int], Body()]) -> dict[str, int]:
        return {"values": len(values)}

    @app.post("/unread")
    async def unread() -> None:
        raise Problem(401, "this needs a key")

    @app.get("/kept")
    async def kept() -> StreamingResponse:
        return StreamingResponse(iter(["one", "two"]), headers={"Cache-Control": "max-age=60"})

    app.add_middleware(Bodies, limits=limits, on_full=lambda: None)
    app.add_middleware(Guarded, hosts=hosts or [])
    return app


@contextlib.contextmanager
def serving(limits: Limits = SMALL, hosts: list[str] | None = None) -> Iterator[int]:
    """A real server on a port of its own."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        config = uvicorn.Config(app_of(limits, hosts), log_config=None, lifespan="off", ws="none")
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            while not server.started:
                assert thread.is_alive()
                time.sleep(0.01)
            yield listening.getsockname()[1]
        finally:
            server.should_exit = True
            thread.join(ENOUGH_S)


class Client:
    """One connection, byte by byte."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=ENOUGH_S)
        self.heard = self.socket.makefile("rb")

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_: object) -> None:
        self.heard.close()
        self.socket.close()

    def say(self, *parts: bytes) -> None:
        self.socket.sendall(b"".join(parts))

    def ask(self, path: str, *headers: str, method: str = "POST") -> None:
        self.say("\r\n".join([f"{method} {path} HTTP/1.1", "Host: here", *headers, "", ""]).encode())

    def answer(self) -> tuple[int, dict[str, str], dict[str, object]]:
        status = int(self.heard.readline().split()[1])
        headers = {}
        while line := self.heard.readline().strip():
            name, _, value = line.decode().partition(": ")
            headers[name.lower()] = value
        return status, headers, json.loads(self.heard.read(int(headers["content-length"])))

    def closed(self) -> bool:
        try:
            return self.heard.read(1) == b""
        except ConnectionResetError:
            return True


def chunk(size: int) -> bytes:
    return b"%x\r\n%s\r\n" % (size, b"x" * size)


def test_bodies_up_to_the_limit_pass_and_the_connection_is_kept() -> None:
    with serving() as port, Client(port) as client:
        for size in (0, 1, 9_999, 10_000):
            client.ask("/raw", f"Content-Length: {size}")
            client.say(b"x" * size)
            status, headers, told = client.answer()
            assert (status, told) == (200, {"bytes": size})
            assert "connection" not in headers
        client.ask("/raw", "Transfer-Encoding: chunked")
        client.say(chunk(4_000), chunk(6_000), b"0\r\n\r\n")
        assert client.answer()[::2] == (200, {"bytes": 10_000})


@pytest.mark.parametrize("path", ["/raw", "/form", "/json", "/unread"])
def test_a_header_that_promises_too_much_is_answered_before_the_body(path: str) -> None:
    with serving() as port, Client(port) as client:
        client.ask(path, "Content-Length: 10001", "Content-Type: application/json")
        status, headers, told = client.answer()  # not a byte of the body was sent
        assert status == 413
        assert headers["content-type"] == "application/problem+json"
        assert headers["connection"] == "close"
        assert "0.01 MB" in str(told["detail"])


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/raw", "image/jpeg"),
        ("/json", "application/json"),
        ("/form", "multipart/form-data; boundary=b"),
        ("/form", "application/x-www-form-urlencoded"),
    ],
)
def test_what_arrives_is_counted_when_no_header_tells(path: str, kind: str) -> None:
    with serving() as port, Client(port) as client:
        client.ask(path, "Transfer-Encoding: chunked", f"Content-Type: {kind}")
        if "boundary" in kind:
            form = b'--b\r\nContent-Disposition: form-data; name="picture"; filename="a"\r\n\r\n'
            client.say(b"%x\r\n%s\r\n" % (len(form), form))
        client.say(chunk(6_000), chunk(6_000))  # and it goes on: there is no last chunk
        status, headers, told = client.answer()
        assert (status, told["status"], headers["connection"]) == (413, 413, "close")
        assert client.closed()


def test_a_client_that_does_not_listen_is_cut_off() -> None:
    with serving() as port, Client(port) as client:
        client.ask("/raw", "Transfer-Encoding: chunked")
        sent = 0
        with pytest.raises((BrokenPipeError, ConnectionResetError)):
            while sent < 500_000_000:
                client.say(chunk(50_000))
                sent += 50_000
        # What kernels have in their buffers has left this end too:
        assert sent < 100_000_000


def test_a_body_that_is_larger_than_its_header_says_ends_where_that_says() -> None:
    with serving() as port, Client(port) as client:
        client.ask("/raw", "Content-Length: 5")
        client.say(b"x" * 20_000)
        assert client.answer()[2] == {"bytes": 5}
        assert client.closed() or client.heard.read()  # the rest was no request


def test_only_bulk_posts_may_bring_more() -> None:
    with serving() as port:
        for path, method, size, status in [
            ("/v1/items", "POST", 50_000, 200),
            ("/v1/items", "POST", 50_001, 413),
            ("/v1/items", "PUT", 10_001, 413),
            ("/v1/items/", "POST", 10_001, 413),
            ("/v1/items?x=/v1/items", "POST", 50_000, 200),
        ]:
            with Client(port) as client:
                client.ask(path, f"Content-Length: {size}", method=method)
                if status == 200:
                    client.say(b"x" * size)
                assert client.answer()[0] == status, (path, method, size)


def test_bodies_that_are_too_much_together_are_refused_until_others_are_answered() -> None:
    with serving(replace(SMALL, held_bytes=12_000)) as port, Client(port) as first, Client(port) as second:
        for client in first, second:
            client.ask("/raw", "Content-Length: 9000")
        first.say(b"x" * 8999)
        status = 200
        while status == 200:  # until what the first has sent is seen to be there
            with Client(port) as third:
                third.ask("/raw", "Content-Length: 4000")
                third.say(b"x" * 4000)
                status, headers, _ = third.answer()
        assert (status, headers["retry-after"]) == (429, "1")
        with Client(port) as bulk:  # which lies on disk
            bulk.ask("/v1/items", "Content-Length: 40000")
            bulk.say(b"x" * 40_000)
            assert bulk.answer()[0] == 200
        first.say(b"x")
        assert first.answer()[0] == 200
        second.say(b"x" * 9000)
        assert second.answer()[0] == 200


def test_a_stalled_body_is_given_up() -> None:
    with serving(replace(SMALL, idle_s=0.3)) as port:
        for path in ("/raw", "/json", "/form", "/v1/items"):
            with Client(port) as client:
                kind = "multipart/form-data; boundary=b" if path == "/form" else "application/json"
                client.ask(path, "Content-Length: 100", f"Content-Type: {kind}")
                client.say(b"-")
                status, headers, told = client.answer()
                assert (status, headers["connection"]) == (408, "close"), path
                assert "too long" in str(told["detail"])
                assert client.closed()


def test_a_body_that_trickles_in_is_given_up_but_a_bulk_body_may_take_its_time() -> None:
    limits = replace(SMALL, idle_s=20.0, body_s=0.5)
    with serving(limits) as port, Client(port) as slow, Client(port) as bulk:
        slow.ask("/raw", "Content-Length: 1000")
        bulk.ask("/v1/items", "Content-Length: 12")
        slow.socket.settimeout(0.1)
        for _ in range(100):
            slow.say(b"x")
            try:
                assert slow.socket.recv(12, socket.MSG_PEEK) == b"HTTP/1.1 408"
                break
            except TimeoutError:
                continue
        else:
            raise AssertionError("it was never answered")
        for _ in range(12):  # more than body_s in all
            bulk.say(b"x")
            time.sleep(0.1)
        assert bulk.answer()[::2] == (200, {"bytes": 12})


def test_a_client_that_leaves_in_the_middle_harms_nobody() -> None:
    with serving() as port:
        for _ in range(5):
            with Client(port) as client:
                client.ask("/raw", "Content-Length: 1000")
                client.say(b"x" * 10)
        assert httpx.post(f"http://127.0.0.1:{port}/raw", content=b"x" * 9).json() == {"bytes": 9}


def test_an_early_answer_is_readable_while_the_client_still_sends() -> None:
    with serving(replace(SMALL, body_bytes=2_000_000)) as port, Client(port) as client:
        client.ask("/unread", "Content-Length: 1500000")
        client.say(b"x" * 1_500_000)  # all of it, before looking
        status, headers, told = client.answer()
        assert (status, told["detail"], headers["connection"]) == (401, "this needs a key", "close")
        assert client.closed()


def test_a_client_that_waits_to_be_asked_for_its_body_is_not_asked() -> None:
    with serving() as port, Client(port) as client:
        client.ask("/raw", "Content-Length: 20000", "Expect: 100-continue")
        assert client.answer()[0] == 413
        client.socket.shutdown(socket.SHUT_WR)
        assert client.closed()


def test_many_slow_bodies_leave_others_alone() -> None:
    with serving() as port, contextlib.ExitStack() as open_ones:
        for _ in range(50):
            slow = open_ones.enter_context(Client(port))
            slow.ask("/raw", "Content-Length: 1000")
            slow.say(b"x")
        assert httpx.post(f"http://127.0.0.1:{port}/raw", content=b"x" * 9).json() == {"bytes": 9}


def test_every_answer_bears_the_headers_that_guard_browsers() -> None:
    with serving() as port, httpx.Client(base_url=f"http://127.0.0.1:{port}") as client:
        answers = [
            client.post("/raw", content=b"x"),
            client.post("/raw", content=b"x" * 20_000),
            client.post("/unread"),
            client.get("/nowhere"),
            client.post("/json", content=b"nonsense"),
        ]
        assert [answer.status_code for answer in answers] == [200, 413, 401, 404, 422]
        for answer in answers:
            assert answer.headers["x-content-type-options"] == "nosniff"
            assert answer.headers["x-frame-options"] == "DENY"
            assert answer.headers["referrer-policy"] == "no-referrer"
            assert answer.headers["cross-origin-opener-policy"] == "same-origin"
            assert answer.headers["cross-origin-resource-policy"] == "same-origin"
            assert answer.headers["permissions-policy"].startswith("camera=(self),")
            assert answer.headers["cache-control"] == "no-store"
            policy = answer.headers["content-security-policy"]
            assert policy.startswith("default-src 'none';")
            assert "unsafe" not in policy
            assert "access-control-allow-origin" not in answer.headers
        kept = client.get("/kept")
        assert (kept.text, kept.headers["cache-control"]) == ("onetwo", "max-age=60")


def test_other_sites_get_no_permission_to_ask() -> None:
    with serving() as port, httpx.Client(base_url=f"http://127.0.0.1:{port}") as client:
        origin = {"Origin": "https://elsewhere.example", "Access-Control-Request-Method": "POST"}
        asked = client.options("/raw", headers=origin)
        assert asked.status_code == 405
        assert not [name for name in asked.headers if name.startswith("access-control")]


def test_only_named_hosts_are_served_where_there_are_any() -> None:
    with serving(hosts=["Shop.example", "[::1]"]) as port:
        for host, status in [
            ("shop.example", 200),
            ("SHOP.example:8080", 200),
            ("[::1]:80", 200),
            ("elsewhere.example", 421),
            ("shop.example.elsewhere.example", 421),
            ("shop.example@elsewhere.example", 421),
            ("127.0.0.1", 421),
            ("", 421),
        ]:
            answer = httpx.get(f"http://127.0.0.1:{port}/kept", headers={"Host": host})
            assert answer.status_code == status, host
            assert answer.headers["x-content-type-options"] == "nosniff"
