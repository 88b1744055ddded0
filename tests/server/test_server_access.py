import asyncio
import hmac
import json
import os
import re
import stat
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Annotated

import httpx
import pytest
from fastapi import Depends, FastAPI, Request
from served import Running, Shop

from lookalike.errors import BadInput, CatalogueError
from lookalike.server.access import SCOPES, Access, Keys, Scope, needs
from lookalike.server.problems import handle
from lookalike.server.rates import Rate
from lookalike.server.watch import Watch


class Clock:
    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


def app_of(access: Access) -> FastAPI:
    app = FastAPI()
    app.state.service = SimpleNamespace(access=access, watch=Watch(), read_only=False)
    handle(app)

    def told(request: Request, who: str) -> dict[str, str]:
        return {"who": who, "logged": getattr(request.state, "key", "-")}

    @app.get("/search")
    async def search(request: Request, who: Annotated[str, Depends(needs("search"))]) -> dict[str, str]:
        return told(request, who)

    @app.get("/write")
    async def write(request: Request, who: Annotated[str, Depends(needs("write"))]) -> dict[str, str]:
        return told(request, who)

    @app.get("/admin")
    async def admin(request: Request, who: Annotated[str, Depends(needs("admin"))]) -> dict[str, str]:
        return told(request, who)

    return app


class Asking:
    """Asks a service from whatever address."""

    def __init__(
        self,
        folder: Path,
        searching_needs_key: bool = False,
        per_minute: int | None = None,
        proxies: Sequence[str] = (),
    ) -> None:
        self.keys, self.clock = Keys(folder), Clock()
        self.app = app_of(Access(self.keys, searching_needs_key, per_minute, proxies, self.clock))

    def __call__(
        self, path: str, token: str | None = None, address: str = "192.0.2.1", *forwarded: str, **headers: str
    ) -> httpx.Response:
        sent = [*headers.items(), *(("X-Forwarded-For", each) for each in forwarded)]
        if token is not None:
            sent.append(("Authorization", f"Bearer {token}"))

        async def ask() -> httpx.Response:
            transport = httpx.ASGITransport(self.app, client=(address, 4321))
            async with httpx.AsyncClient(transport=transport, base_url="http://shop") as client:
                return await client.get(path, headers=sent)

        return asyncio.run(ask())


class TestKeys:
    def test_a_key_is_told_once_and_kept_as_a_hash(self, tmp_path: Path) -> None:
        keys = Keys(tmp_path)
        token = keys.new("write")
        assert re.fullmatch(r"lk_[A-Za-z0-9_-]{43}", token)
        [key] = keys.listed()
        assert keys.scope_of(token) == (key.id, "write")
        for file in tmp_path.iterdir():
            assert token not in file.read_text()
            assert token[3:] not in file.read_text()
        assert key.created.endswith("+00:00")
        assert len({keys.new("search") for _ in range(20)}) == 20

    def test_the_file_is_the_owners_alone_whatever_the_umask(self, tmp_path: Path) -> None:
        before = os.umask(0)
        try:
            keys = Keys(tmp_path)
            for _ in range(2):
                keys.new("search")
                assert stat.S_IMODE((tmp_path / "keys.json").stat().st_mode) == 0o600
        finally:
            os.umask(before)

    @pytest.mark.parametrize(
        "token", ["", "lk_", "lk_x", "nonsense", "\x00", "é" * 43, "x" * 100_000, "lk_" + "A" * 43]
    )
    def test_what_is_no_key_has_no_scope(self, tmp_path: Path, token: str) -> None:
        keys = Keys(tmp_path)
        assert keys.scope_of(token) is None
        keys.new("admin")
        assert keys.scope_of(token) is None

    def test_nearly_a_key_is_none(self, tmp_path: Path) -> None:
        keys = Keys(tmp_path)
        token = keys.new("admin")
        for other in (token[:-1], token + "A", token.swapcase(), f" {token}", keys.listed()[0].sha256):
            assert keys.scope_of(other) is None

    def test_every_hash_is_compared_whichever_key_it_is(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        keys = Keys(tmp_path)
        tokens = [keys.new("search") for _ in range(5)]
        compared: list[str] = []
        really = hmac.compare_digest

        def counted(kept: str, given: str) -> bool:
            compared.append(kept)
            return really(kept, given)

        monkeypatch.setattr(hmac, "compare_digest", counted)
        for token in (tokens[0], tokens[4], "lk_" + "A" * 43):
            compared.clear()
            keys.scope_of(token)
            assert compared == [key.sha256 for key in keys.listed()]

    def test_a_removed_key_is_refused_by_services_that_run(self, tmp_path: Path) -> None:
        service, command = Keys(tmp_path), Keys(tmp_path)
        token, other = command.new("write"), command.new("search")
        known = service.scope_of(token)
        assert known is not None
        command.remove(known[0])
        assert service.scope_of(token) is None
        assert service.scope_of(other) is not None
        with pytest.raises(BadInput, match="no key has the id"):
            command.remove(known[0])
        (tmp_path / "keys.json").unlink()
        assert service.scope_of(other) is None

    def test_a_key_made_by_another_process_is_known_at_once(self, tmp_path: Path) -> None:
        service = Keys(tmp_path)
        assert service.listed() == ()
        code = "import sys, pathlib; from lookalike.server.access import Keys; "
        code += "print(Keys(pathlib.Path(sys.argv[1])).new('admin'))"
        done = subprocess.run([sys.executable, "-c", code, tmp_path], capture_output=True, check=True)
        known = service.scope_of(done.stdout.decode().strip())
        assert known is not None
        assert known[1] == "admin"

    def test_keys_made_at_the_same_time_are_all_kept(self, tmp_path: Path) -> None:
        with ThreadPoolExecutor(8) as threads:
            tokens = list(threads.map(lambda _: Keys(tmp_path).new("search"), range(24)))
        keys = Keys(tmp_path)
        assert all(keys.scope_of(token) for token in tokens)

    def test_what_a_crash_left_is_no_hindrance(self, tmp_path: Path) -> None:
        (tmp_path / "keys.json.unfinished").write_text("half a")
        keys = Keys(tmp_path)
        assert keys.scope_of(keys.new("search"))
        assert not (tmp_path / "keys.json.unfinished").exists()

    @pytest.mark.parametrize(
        "content",
        [
            "", "{", "[]", "null", '{"keys": 1}', '{"keys": [1]}', '{"keys": [{}]}',
            '{"keys": [{"id": "a", "scope": "root", "sha256": "%s", "created": ""}]}' % ("0" * 64),
            '{"keys": [{"id": "a", "scope": "admin", "sha256": "é", "created": ""}]}',
            '{"keys": [{"id": "a", "scope": "admin", "sha256": null, "created": ""}]}',
        ],
    )  # fmt: skip
    def test_a_damaged_file_lets_nobody_in(self, tmp_path: Path, content: str) -> None:
        ask = Asking(tmp_path)
        token = ask.keys.new("admin")
        assert ask("/write", token).status_code == 200
        (tmp_path / "keys.json").write_text(content)
        with pytest.raises(CatalogueError, match="cannot be read"):
            ask.keys.scope_of(token)
        with pytest.raises(CatalogueError):
            ask.keys.new("search")  # it would write over the others
        answer = ask("/write", token)
        assert answer.status_code == 503
        assert "keys.json" not in answer.text

    def test_a_scope_that_is_none_makes_no_key(self, tmp_path: Path) -> None:
        with pytest.raises(BadInput, match="no scope is called 'root'") as raised:
            Keys(tmp_path).new("root")  # type: ignore[arg-type]
        assert "admin" in raised.value.hint
        assert list(tmp_path.iterdir()) == []


class TestScopes:
    def test_each_scope_may_do_what_those_below_it_may(self, tmp_path: Path) -> None:
        ask = Asking(tmp_path, searching_needs_key=True)
        tokens = {scope: ask.keys.new(scope) for scope in SCOPES}
        allowed = {
            (scope, path)
            for scope, token in tokens.items()
            for path in SCOPES
            if ask(f"/{path}", token).status_code == 200
        }
        wanted: set[tuple[Scope, Scope]] = {
            ("search", "search"), ("write", "search"), ("write", "write"),
            ("admin", "search"), ("admin", "write"), ("admin", "admin"),
        }  # fmt: skip
        assert allowed == wanted
        answer = ask("/write", tokens["search"])
        assert (answer.status_code, answer.json()["status"]) == (403, 403)

    def test_who_asks_is_the_keys_id_for_the_log_too(self, tmp_path: Path) -> None:
        ask = Asking(tmp_path)
        token = ask.keys.new("search")
        [key] = ask.keys.listed()
        assert ask("/search", token).json() == {"who": key.id, "logged": key.id}
        assert ask("/search").json() == {"who": "192.0.2.1", "logged": "-"}
        assert key.id not in token

    @pytest.mark.parametrize("address", ["127.0.0.1", "::1", "192.0.2.1"])
    def test_writing_needs_a_key_from_wherever_it_comes(self, tmp_path: Path, address: str) -> None:
        ask = Asking(tmp_path)
        assert ask("/search", None, address).status_code == 200
        for path in ("/write", "/admin"):
            answer = ask(path, None, address)
            assert answer.status_code == 401
            assert answer.headers["www-authenticate"] == "Bearer"
            assert answer.headers["content-type"] == "application/problem+json"

    def test_searching_needs_one_where_that_is_wanted(self, tmp_path: Path) -> None:
        ask = Asking(tmp_path, searching_needs_key=True)
        assert ask("/search").status_code == 401
        assert ask("/search", ask.keys.new("search")).status_code == 200

    def test_a_wrong_key_is_refused_where_none_is_needed_and_is_not_repeated(self, tmp_path: Path) -> None:
        ask = Asking(tmp_path)
        wrong = "lk_" + "secret" * 7 + "x"
        answer = ask("/search", wrong)
        assert answer.status_code == 401
        assert answer.headers["www-authenticate"] == "Bearer"
        assert "secret" not in answer.text

    def test_keys_are_taken_from_the_header_alone(self, tmp_path: Path) -> None:
        ask = Asking(tmp_path)
        token = ask.keys.new("admin")
        for path in (f"/write?key={token}", f"/write?access_token={token}"):
            assert ask(path).status_code == 401
        assert ask("/write", Cookie=f"key={token}").status_code == 401
        assert ask("/write", Authorization=f"Basic {token}").status_code == 401
        assert ask("/write", Authorization=token).status_code == 401
        assert ask("/write", Authorization=f"bearer  {token}").status_code == 200
        assert ask("/search", Authorization="Basic c2hvcDpwdw==").status_code == 200  # a proxy's own

    def test_openapi_says_which_endpoints_take_keys(self, tmp_path: Path) -> None:
        document = Asking(tmp_path).app.openapi()
        assert document["components"]["securitySchemes"]["HTTPBearer"]["scheme"] == "bearer"
        assert all(path["get"]["security"] == [{"HTTPBearer": []}] for path in document["paths"].values())


class TestRates:
    def test_so_many_in_any_minute(self) -> None:
        clock = Clock()
        rate = Rate(3, clock)
        waits = []
        for moment in (0, 10, 20, 30, 59, 60, 60.5, 70, 70):
            clock.now = 1_000.0 + moment
            waits.append(rate.wait("a"))
        assert waits == [0, 0, 0, 30, 1, 0, 9.5, 0, 10]
        assert rate.wait("b") == 0

    def test_in_no_minute_are_there_more_whatever_the_rhythm(self) -> None:
        clock, rate, taken = Clock(), None, []
        rate = Rate(7, clock)
        for step in range(2_000):
            clock.now += (step * 7919 % 13) / 2
            if rate.wait("a") == 0:
                taken.append(clock.now)
        assert max(sum(start <= moment < start + 60 for moment in taken) for start in taken) == 7

    def test_quiet_names_are_forgotten(self) -> None:
        clock = Clock()
        rate = Rate(5, clock)
        for number in range(1_000):
            clock.now += 1.0
            rate.wait(f"address {number}")
            rate.wait("busy")
            assert len(rate) <= 62
        clock.now += 60.0
        rate.wait("another")
        assert len(rate) == 1

    def test_processes_count_together_and_outlive_one_another(self, tmp_path: Path) -> None:
        taken = """
            import os, signal, sys
            from pathlib import Path
            from lookalike.server.rates import Rate
            rate = Rate(20, file=Path(sys.argv[1]))
            print(*[rate.wait("a") for _ in range(6)], flush=True)
            os.kill(os.getpid(), signal.SIGKILL)
        """
        command = [sys.executable, "-c", textwrap.dedent(taken), str(tmp_path / "rates")]
        running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
        assert [each.communicate()[0].split() for each in running] == [["0.0"] * 6] * 3
        rate = Rate(20, file=tmp_path / "rates")
        waits = [rate.wait("a") for _ in range(4)]
        assert waits[:2] == [0, 0] and 0 < min(waits[2:]) <= max(waits[2:]) <= 60

    def test_all_processes_of_a_service_count_together(
        self, drawn_shop: Shop, serve: Callable[..., Running]
    ) -> None:
        running = serve(drawn_shop.folder, "--workers", "2", "--per-minute", "10")
        seen = [httpx.get(f"{running.url}/v1/items?limit=1").status_code for _ in range(24)]
        assert seen == [200] * 10 + [429] * 14
        running.process.kill()
        running.process.wait()
        until = time.monotonic() + 30
        with pytest.raises(httpx.ConnectError):  # the others stop when they find themselves alone
            while time.monotonic() < until:
                with suppress(httpx.ReadError, httpx.RemoteProtocolError):
                    httpx.get(f"{running.url}/healthz")

    def test_those_who_ask_too_often_are_told_when_to_come_back(self, tmp_path: Path) -> None:
        ask = Asking(tmp_path, per_minute=2)
        assert [ask("/search").status_code for _ in range(3)] == [200, 200, 429]
        ask.clock.now += 17.5
        answer = ask("/search")
        assert answer.status_code == 429
        assert answer.headers["retry-after"] == "43"
        assert ask("/search", None, "192.0.2.2").status_code == 200  # others
        ask.clock.now += 43
        assert ask("/search").status_code == 200
        refused = b'lookalike_refused_requests_total{why="rate"} 2.0'
        assert refused in ask.app.state.service.watch.text()

    def test_keys_count_for_themselves_wherever_they_are_used(self, tmp_path: Path) -> None:
        ask = Asking(tmp_path, per_minute=2)
        one, other = ask.keys.new("search"), ask.keys.new("search")
        statuses = [ask("/search", one, f"192.0.2.{number}").status_code for number in range(3)]
        assert statuses == [200, 200, 429]
        assert [ask("/search", other).status_code for _ in range(3)] == [200, 200, 429]
        assert ask("/search").status_code == 200
        assert [ask("/write", ask.keys.new("search")).status_code for _ in range(3)] == [403, 403, 403]

    def test_guesses_count_for_their_address(self, tmp_path: Path) -> None:
        ask = Asking(tmp_path, per_minute=3)
        right = ask.keys.new("write")
        guesses = [ask("/write", f"lk_{number}").status_code for number in range(5)]
        assert guesses == [401, 401, 401, 429, 429]
        assert ask("/search").status_code == 429
        assert ask("/write", right).status_code == 200  # whoever has a key is not kept out by a neighbour

    def test_there_is_no_limit_where_none_is_set(self, tmp_path: Path) -> None:
        ask = Asking(tmp_path)
        assert {ask("/search").status_code for _ in range(50)} == {200}

    def test_a_limit_of_nothing_is_a_mistake(self, tmp_path: Path) -> None:
        with pytest.raises(BadInput, match="0 requests a minute"):
            Asking(tmp_path, per_minute=0)

    def test_a_household_of_ipv6_is_one(self, tmp_path: Path) -> None:
        ask = Asking(tmp_path, per_minute=2)
        addresses = ["2001:db8:1:2::1", "2001:db8:1:2:ffff::9", "2001:db8:1:2::3", "2001:db8:1:3::1"]
        assert [ask("/search", None, each).status_code for each in addresses] == [200, 200, 429, 200]
        mapped = ["::ffff:192.0.2.7", "192.0.2.7", "::ffff:192.0.2.7"]
        assert [ask("/search", None, each).status_code for each in mapped] == [200, 200, 429]


class TestProxies:
    @pytest.mark.parametrize(
        ("address", "forwarded", "who"),
        [
            ("10.0.0.7", ("203.0.113.5",), "203.0.113.5"),
            ("10.0.0.7", ("1.1.1.1, 203.0.113.5",), "203.0.113.5"),  # what the client itself wrote is left
            ("10.0.0.7", ("1.1.1.1", "203.0.113.5"), "203.0.113.5"),  # in a header of its own
            ("10.0.0.7", ("203.0.113.5, 10.9.9.9, 192.0.2.44",), "203.0.113.5"),  # through three of ours
            ("10.0.0.7", ("10.1.1.1, 10.2.2.2",), "10.1.1.1"),
            ("10.0.0.7", (), "10.0.0.7"),
            ("10.0.0.7", ("",), "10.0.0.7"),
            ("10.0.0.7", ("nonsense",), "10.0.0.7"),
            ("10.0.0.7", ("203.0.113.5, nonsense",), "10.0.0.7"),
            ("10.0.0.7", ("203.0.113.5,",), "10.0.0.7"),
            ("10.0.0.7", ("nonsense, 10.9.9.9",), "10.9.9.9"),
            ("10.0.0.7", ("203.0.113.5:4711",), "203.0.113.5"),
            ("10.0.0.7", ('"[2001:db8::5]:4711"',), "2001:db8::5"),
            ("10.0.0.7", ("2001:db8::5",), "2001:db8::5"),
            ("10.0.0.7", ("::ffff:203.0.113.5",), "203.0.113.5"),
            ("::ffff:10.0.0.7", ("203.0.113.5",), "203.0.113.5"),
            ("192.0.2.44", ("203.0.113.5",), "203.0.113.5"),
            ("192.0.2.45", ("203.0.113.5",), "192.0.2.45"),  # none of ours: not believed
            ("203.0.113.9", ("10.0.0.7", "127.0.0.1"), "203.0.113.9"),
            ("fd00::1", ("2001:db8::5",), "2001:db8::5"),
        ],
    )
    def test_the_address_is_the_last_that_was_told_by_one_of_ours(
        self, tmp_path: Path, address: str, forwarded: tuple[str, ...], who: str
    ) -> None:
        ask = Asking(tmp_path, proxies=["10.0.0.0/8", "192.0.2.44", "fd00::/8"])
        assert ask("/search", None, address, *forwarded).json()["who"] == who

    def test_without_proxies_nothing_that_is_told_is_believed(self, tmp_path: Path) -> None:
        ask = Asking(tmp_path, per_minute=2)
        statuses = [ask("/search", None, "127.0.0.1", f"203.0.113.{each}").status_code for each in range(3)]
        assert statuses == [200, 200, 429]
        others = {"Forwarded": "for=203.0.113.9", "X-Real-IP": "203.0.113.9", "Client-IP": "203.0.113.9"}
        assert ask("/search", None, "127.0.0.1", **others).status_code == 429

    def test_a_client_behind_a_proxy_cannot_get_another_address_by_lying(self, tmp_path: Path) -> None:
        ask = Asking(tmp_path, per_minute=2, proxies=["10.0.0.7"])
        statuses = [
            ask("/search", None, "10.0.0.7", f"198.51.100.{each}, 10.0.0.7, 203.0.113.5").status_code
            for each in range(3)
        ]
        assert statuses == [200, 200, 429]
        assert ask("/search", None, "10.0.0.7", "203.0.113.6").status_code == 200

    @pytest.mark.parametrize("proxy", ["nonsense", "10.0.0.0/99", "proxy.example", "*"])
    def test_a_proxy_that_is_no_address_is_a_mistake(self, tmp_path: Path, proxy: str) -> None:
        with pytest.raises(BadInput, match="no address"):
            Asking(tmp_path, proxies=[proxy])


def test_the_file_of_keys_is_plain_json(tmp_path: Path) -> None:
    keys = Keys(tmp_path)
    keys.new("search")
    [kept] = json.loads((tmp_path / "keys.json").read_text())["keys"]
    assert kept.keys() == {"id", "scope", "sha256", "created"}
