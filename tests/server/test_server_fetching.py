import asyncio
import contextlib
import gzip
import socket
import ssl
import subprocess
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from ipaddress import ip_address
from pathlib import Path

import pytest

from lookalike.server import fetching
from lookalike.server.fetching import Address, Fetcher, public, resolved
from lookalike.server.limits import Limits
from lookalike.server.problems import Problem

SMALL = replace(Limits(), body_bytes=100_000)
OUTSIDE, INSIDE = "127.0.0.1", "127.0.0.2"  # two addresses of this machine play the internet and a neighbour

Answer = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@dataclass
class Site:
    """A real web server, which keeps what it was asked."""

    port: int = 0
    asked: list[str] = field(default_factory=list)
    names: list[str | None] = field(default_factory=list)  # that TLS asked for

    def __str__(self) -> str:
        return str(self.port)


@asynccontextmanager
async def site(
    *answers: bytes | Answer, at: str = OUTSIDE, port: int = 0, tls: ssl.SSLContext | None = None
) -> AsyncIterator[Site]:
    """Answers its connections in turn, the last answer again and again."""
    made = Site()
    serving: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        serving.add(task)
        answer = answers[min(len(made.asked), len(answers) - 1)]
        made.asked.append("")
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            made.asked[-1] = (await reader.readuntil(b"\r\n\r\n")).decode()
            if isinstance(answer, bytes):
                writer.write(answer)
            else:
                await answer(reader, writer)
            await writer.drain()
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()

    if tls:
        tls.sni_callback = lambda _, name, __: made.names.append(name)
    server = await asyncio.start_server(serve, at, port, ssl=tls)
    made.port = server.sockets[0].getsockname()[1]
    try:
        yield made
    finally:
        server.close()
        for task in serving:
            task.cancel()
        if serving:
            await asyncio.wait(serving)
        await server.wait_closed()


def ok(body: bytes, *headers: str) -> bytes:
    return "\r\n".join(["HTTP/1.1 200 OK", f"Content-Length: {len(body)}", *headers, "", ""]).encode() + body


def moved(to: str, status: int = 302) -> bytes:
    return f"HTTP/1.1 {status} Moved\r\nLocation: {to}\r\nContent-Length: 0\r\n\r\n".encode()


class Names:
    """A resolver: answers for each name in turn, the last one again and again."""

    def __init__(self, **hosts: Sequence[Sequence[str]]) -> None:
        self.hosts = {name.replace("_", "."): list(answers) for name, answers in hosts.items()}
        self.asked: list[str] = []

    async def __call__(self, host: str) -> Sequence[str]:
        self.asked.append(host)
        answers = self.hosts.get(host)
        if answers is None:
            raise socket.gaierror("no such name")
        return answers.pop(0) if len(answers) > 1 else answers[0]


def only_outside(address: Address) -> bool:
    return str(address) == OUTSIDE


def fetcher(names: Names, *allow: object, **options: object) -> Fetcher:
    return Fetcher(SMALL, [str(each) for each in allow], names, only_outside, **options)  # type: ignore[arg-type]


async def problem(fetching: Awaitable[bytes]) -> Problem:
    with pytest.raises(Problem) as raised:
        await fetching
    return raised.value


def run(test: Coroutine[object, object, None]) -> None:
    asyncio.run(asyncio.wait_for(test, 60))


def test_a_picture_is_fetched_by_one_plain_request() -> None:
    async def test() -> None:
        names = Names(shop_example=[[OUTSIDE]])
        async with site(ok(b"picture")) as shop:
            made = fetcher(names, f"shop.example:{shop}")
            assert await made.fetch(f"http://shop.example:{shop}/a/b.jpg?size=1#part") == b"picture"
            [asked] = shop.asked
            assert asked.startswith("GET /a/b.jpg?size=1 HTTP/1.1\r\n")
            headers = dict(line.split(": ") for line in asked.splitlines()[1:-1])
            assert headers["Host"] == f"shop.example:{shop}"
            assert headers["Accept-Encoding"] == "identity"
            assert headers.keys().isdisjoint({"Cookie", "Authorization", "Referer"})
            assert names.asked == ["shop.example"]

    run(test())


@pytest.mark.parametrize(
    "url",
    [
        "",
        "shop.example/a.jpg",
        "//shop.example/a.jpg",
        "/etc/passwd",
        "file:///etc/passwd",
        "ftp://shop.example/a.jpg",
        "gopher://shop.example/_GET",
        "data:image/png;base64,AAAA",
        "javascript:alert(1)",
        "http://",
        "http:///a.jpg",
        "http://user@shop.example/",
        "http://user:secret@shop.example/",
        "http://shop.example:80@127.0.0.1/",
        "http://shop.example\\@127.0.0.1/",
        "http://shop.example /a.jpg",
        "http://shop.example/a b.jpg",
        "http://shop.example/a.jpg HTTP/1.1\r\nX-Evil: 1\r\n\r\n",
        "http://shop.example/\r\nX-Evil:1",
        "http://shop.example\r\nX-Evil:1/",
        "http://shop.example/\x00",
        "http://shop.example/\u2028",
        "http://shop%0d%0aX-Evil.example/",
        "http://shop%2eexample/",
        "http://shop..example/",
        "http://.shop.example/",
        "http://-shop.example/",
        "http://2130706433/",
        "http://0x7f000001/",
        "http://0x7f.1/",
        "http://127.1/",
        "http://0177.0.0.1/",
        "http://127.0.0.1./",
        "http://shop.0x7f/",
        "http://[::1%25lo]/",
        "http://[fe80::1%25eth0]/",
        "http://[::1/",
        "http://shop.example/" + "a" * 2_000,
    ],
)
def test_what_is_no_plain_url_is_not_looked_up(url: str) -> None:
    async def test() -> None:
        names = Names()
        told = await problem(Fetcher(SMALL, (), names).fetch(url))
        assert (told.status, told.detail) == (422, "not a URL of a picture")
        assert names.asked == []

    run(test())


@pytest.mark.parametrize("port", [-1, 0, 22, 25, 8080, 6379, 11211, 65535, 99999])
def test_other_ports_than_those_of_the_web_are_refused(port: int) -> None:
    async def test() -> None:
        names = Names()
        told = await problem(Fetcher(SMALL, (), names).fetch(f"http://shop.example:{port}/"))
        assert (told.status, names.asked) == (422, [])

    run(test())


def test_where_hosts_are_named_no_other_is_asked() -> None:
    async def test() -> None:
        names = Names()
        made = Fetcher(SMALL, ["Shop.example", "other.example:8443"], names)
        for url, looked_up in [
            ("https://SHOP.example/", True),
            ("http://shop.example/", True),
            ("https://other.example:8443/", True),
            ("https://other.example/", False),
            ("https://shop.example:8443/", False),
            ("https://shop.example.evil.example/", False),
            ("https://evilshop.example/", False),
            ("https://1.1.1.1/", False),
        ]:
            names.asked.clear()
            assert (await problem(made.fetch(url))).status == 422
            assert bool(names.asked) == looked_up, url

    run(test())


REFUSED = [
    "0.0.0.0", "10.0.0.1", "100.64.0.1", "100.100.100.200", "127.0.0.1", "127.255.255.254",
    "169.254.169.254", "172.16.0.1", "172.31.255.255", "192.0.0.192", "192.0.2.1", "192.88.99.1",
    "192.168.1.1", "198.18.0.1", "198.51.100.1", "203.0.113.1", "224.0.0.1", "239.255.255.250", "240.0.0.1",
    "255.255.255.255", "168.63.129.16", "::", "::1", "::7f00:1", "::ffff:127.0.0.1", "::ffff:10.0.0.1",
    "::ffff:8.8.8.8", "64:ff9b::7f00:1", "64:ff9b::808:808", "64:ff9b:1::1", "100::1", "2001::1",
    "2001:0:7f00:1::1", "2001:10::1", "2001:db8::1", "2002:7f00:1::", "2002:a00:1::1", "3fff::1", "5f00::1",
    "fc00::1", "fd00:ec2::254", "fe80::1", "fe80::a9fe:a9fe", "fec0::1", "ff02::1",
]  # fmt: skip


def test_only_addresses_of_the_public_internet_are_public() -> None:
    assert [text for text in REFUSED if public(ip_address(text))] == []
    for text in ("1.1.1.1", "8.8.8.8", "93.184.216.34", "2606:4700:4700::1111", "2a00:1450:4001::200e"):
        assert public(ip_address(text)), text


@pytest.mark.parametrize("address", REFUSED)
def test_an_address_that_is_not_public_is_refused_by_itself_and_by_a_name(address: str) -> None:
    async def test() -> None:
        made = Fetcher(SMALL, (), Names(evil_example=[[address]], mixed_example=[["1.1.1.1", address]]))
        host = f"[{address}]" if ":" in address else address
        for url in (f"http://{host}/", "http://evil.example/", "https://mixed.example/"):
            told = await problem(made.fetch(url))
            assert (told.status, told.detail) == (422, "the URL's host has no public address")
            assert address not in told.hint

    run(test())


def test_a_name_that_is_nowhere_is_answered_like_one_that_is_inside() -> None:
    async def test() -> None:
        made = Fetcher(
            SMALL, (), Names(inside_example=[["10.0.0.1"]], empty_example=[[]], odd_example=[["x"]])
        )
        answers = [
            await problem(made.fetch(f"http://{name}.example/"))
            for name in ("inside", "nowhere", "empty", "odd")
        ]
        assert len({(told.status, told.detail, told.hint) for told in answers}) == 1

    run(test())


def test_by_itself_it_never_connects_to_this_machine() -> None:
    """With the resolver and the rule for addresses that the service has."""

    async def test() -> None:
        async with site(ok(b"secret")) as inside:
            for host in ("localhost", "127.0.0.1", "[::1]", "[::ffff:127.0.0.1]", socket.gethostname()):
                made = Fetcher(SMALL, [f"{host}:{inside}", f"{host.strip('[]')}:{inside}"])
                told = await problem(made.fetch(f"http://{host}:{inside}/"))
                assert told.status == 422, host
            assert inside.asked == []

    run(test())


def test_the_systems_resolver_tells_all_addresses() -> None:
    async def test() -> None:
        assert {ip_address(each).is_loopback for each in await resolved("localhost")} == {True}
        with pytest.raises((OSError, ValueError)):
            await resolved("a" * 70 + ".invalid")

    run(test())


def test_a_name_is_looked_up_once_and_the_connection_goes_to_what_was_checked() -> None:
    async def test() -> None:
        names = Names(rebinds_example=[[OUTSIDE], [INSIDE]])
        async with site(ok(b"outside")) as shop, site(ok(b"inside"), at=INSIDE, port=shop.port) as inside:
            made = fetcher(names, f"rebinds.example:{shop}")
            assert await made.fetch(f"http://rebinds.example:{shop}/") == b"outside"
            assert names.asked == ["rebinds.example"]
            assert (await problem(made.fetch(f"http://rebinds.example:{shop}/"))).status == 422
            assert inside.asked == []

    run(test())


def test_redirects_are_followed_and_each_is_checked_anew() -> None:
    async def test() -> None:
        names = Names(shop_example=[[OUTSIDE]], images_example=[[OUTSIDE]])
        for status in (301, 302, 303, 307, 308):
            async with site(ok(b"picture")) as images:
                to = moved(f"http://images.example:{images}/b.jpg", status)
                async with site(moved("/other?x=1"), moved("next"), to) as shop:
                    made = fetcher(names, f"shop.example:{shop}", f"images.example:{images}")
                    assert await made.fetch(f"http://shop.example:{shop}/first/a") == b"picture"
                    paths = [asked.split()[1] for asked in shop.asked]
                    assert paths == ["/first/a", "/other?x=1", "/next"]
                    assert f"Host: images.example:{images}\r\n" in images.asked[0]

    run(test())


def test_a_redirect_leads_nowhere_that_a_url_could_not() -> None:
    async def test() -> None:
        async with site(ok(b"secret"), at=INSIDE) as inside:
            for to in (
                f"http://{INSIDE}:{inside}/",
                f"http://inside.example:{inside}/",
                f"//inside.example:{inside}/",
                "http://169.254.169.254/latest/meta-data/",
                "http://[::1]/",
                "http://2130706433/",
                "http://user:pw@shop.example/",
                "file:///etc/passwd",
                "gopher://inside.example/",
                "http://shop.example:22/",
                "http://shop.example/%0d%0a\x7f",
            ):
                async with site(moved(to)) as shop:
                    named = [f"{INSIDE}:{inside}", f"inside.example:{inside}", "169.254.169.254", "::1"]
                    names = Names(shop_example=[[OUTSIDE]], inside_example=[[INSIDE]])
                    made = fetcher(names, f"shop.example:{shop}", "shop.example", *named)
                    told = await problem(made.fetch(f"http://shop.example:{shop}/"))
                    assert told.status == 422, to
                    assert len(shop.asked) == 1
            assert inside.asked == []

    run(test())


def test_a_host_that_moves_inside_between_two_steps_is_refused() -> None:
    async def test() -> None:
        names = Names(shop_example=[[OUTSIDE], [INSIDE]])
        async with site(moved("/again")) as shop, site(ok(b"secret"), at=INSIDE, port=shop.port) as inside:
            made = fetcher(names, f"shop.example:{shop}")
            assert (await problem(made.fetch(f"http://shop.example:{shop}/"))).status == 422
            assert (len(shop.asked), inside.asked) == (1, [])

    run(test())


@pytest.mark.parametrize("answer", [moved("/again"), b"HTTP/1.1 302 Moved\r\nContent-Length: 0\r\n\r\n"])
def test_redirects_that_never_end_do(answer: bytes) -> None:
    async def test() -> None:
        async with site(answer) as shop:
            made = fetcher(Names(shop_example=[[OUTSIDE]]), f"shop.example:{shop}")
            told = await problem(made.fetch(f"http://shop.example:{shop}/"))
            assert (told.status, len(shop.asked)) == (502, 4)

    run(test())


async def endless(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    while True:
        writer.write(b"1000\r\n" + b"x" * 4096 + b"\r\n")
        await writer.drain()


async def endless_until_closed(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.0 200 OK\r\nContent-Length: 99999999999\r\n\r\n")
    while True:
        writer.write(b"x" * 4096)
        await writer.drain()


def packed(size: int) -> bytes:
    return ok(gzip.compress(bytes(size)), "Content-Encoding: gzip")


def test_bodies_are_counted_as_they_arrive_and_as_they_unpack() -> None:
    plain = zlib.compress(b"picture")

    async def test() -> None:
        names = Names(shop_example=[[OUTSIDE]])
        for answer, outcome in [
            (ok(b"x" * 100_000), b"x" * 100_000),
            (packed(100_000), bytes(100_000)),
            (ok(plain, "Content-Encoding: deflate"), b"picture"),
            (ok(b"x" * 100_001), 422),
            (endless, 422),
            (endless_until_closed, 422),
            (packed(100_001), 422),
            (packed(50_000_000), 422),  # a bomb
            (ok(plain, "Content-Encoding: br"), 502),
            (ok(plain, "Content-Encoding: gzip, gzip"), 502),
            (ok(b"nonsense", "Content-Encoding: gzip"), 502),
        ]:
            async with site(answer) as shop:
                made = fetcher(names, f"shop.example:{shop}")
                got = made.fetch(f"http://shop.example:{shop}/")
                if isinstance(outcome, bytes):
                    assert await got == outcome
                else:
                    assert (await problem(got)).status == outcome, answer

    run(test())


async def headers_without_end(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\n")
    while True:
        writer.write(b"X-More: " + b"x" * 1_000 + b"\r\n")
        await writer.drain()


def test_hosts_that_answer_badly_are_told_of_in_one_line() -> None:
    async def test() -> None:
        names = Names(shop_example=[[OUTSIDE]])
        for answer in (
            b"",
            b"SSH-2.0-OpenSSH_9.6\r\n",
            b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nless",
            b"HTTP/1.1 404 Not Found\r\nContent-Length: 6\r\n\r\nsecret",
            b"HTTP/1.1 206 Partial\r\nContent-Length: 0\r\n\r\n",
            b"HTTP/1.1 304 Not Modified\r\n\r\n",
            b"HTTP/1.1 999999 What\r\n\r\n",
            headers_without_end,
        ):
            async with site(answer) as shop:
                made = fetcher(names, f"shop.example:{shop}")
                told = await problem(made.fetch(f"http://shop.example:{shop}/secret.jpg"))
                assert told.status == 502, answer
                assert told.detail.isprintable()
                assert "secret" not in told.detail
        told = await problem(made.fetch(f"http://shop.example:{shop}/"))  # nobody is there any more
        assert told.status == 502

    run(test())


async def silent(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
    await reader.read()


async def trickling(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
    while True:
        writer.write(b"x")
        await writer.drain()
        await asyncio.sleep(0.05)


async def for_ever_about_to_answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while True:
        writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        await writer.drain()
        await asyncio.sleep(0.05)


@pytest.mark.parametrize("answer", [silent, trickling, for_ever_about_to_answer])
def test_slow_hosts_are_given_up(monkeypatch: pytest.MonkeyPatch, answer: Answer) -> None:
    monkeypatch.setattr(fetching, "_TOTAL_S", 0.5)

    async def test() -> None:
        async with site(answer) as shop:
            made = fetcher(Names(shop_example=[[OUTSIDE]]), f"shop.example:{shop}")
            assert (await problem(made.fetch(f"http://shop.example:{shop}/"))).status == 504

    run(test())


def test_a_slow_resolver_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetching, "_TOTAL_S", 0.2)

    async def never(_: str) -> Sequence[str]:
        await asyncio.sleep(600)
        return []

    async def test() -> None:
        assert (await problem(Fetcher(SMALL, (), never).fetch("http://shop.example/"))).status == 504

    run(test())


def test_of_several_addresses_the_next_is_tried_where_one_does_not_answer() -> None:
    async def test() -> None:
        async with site(ok(b"picture"), at=INSIDE) as shop:  # nobody listens at the other address
            names = Names(shop_example=[[OUTSIDE, INSIDE]])
            made = Fetcher(SMALL, [f"shop.example:{shop}"], names, lambda address: address.is_loopback)
            assert await made.fetch(f"http://shop.example:{shop}/") == b"picture"

    run(test())


def test_only_so_many_are_fetched_at_a_time() -> None:
    inside, most = 0, 0

    async def counting(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal inside, most
        inside += 1
        most = max(most, inside)
        await asyncio.sleep(0.05)
        writer.write(ok(b"x"))
        inside -= 1

    async def test() -> None:
        async with site(counting) as shop:
            names = Names(shop_example=[[OUTSIDE]])
            limits = replace(SMALL, searching=2)
            made = Fetcher(limits, [f"shop.example:{shop}"], names, only_outside)
            await asyncio.gather(*(made.fetch(f"http://shop.example:{shop}/") for _ in range(9)))
            assert most == 2

    run(test())


def certificate(folder: Path, name: str) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """A server that proves to be `name`, and a client that believes it."""
    key, cert = folder / f"{name}.key", folder / f"{name}.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
         "-days", "2", "-keyout", key, "-out", cert, "-subj", f"/CN={name}",
         "-addext", f"subjectAltName=DNS:{name}"],
        check=True, capture_output=True,
    )  # fmt: skip
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(cert, key)
    return server, ssl.create_default_context(cafile=str(cert))


def test_over_tls_the_host_must_prove_its_name_though_it_is_connected_to_by_address(tmp_path: Path) -> None:
    server, believing = certificate(tmp_path, "shop.example")

    async def test() -> None:
        names = Names(shop_example=[[OUTSIDE]], other_example=[[OUTSIDE]])
        async with site(ok(b"picture"), tls=server) as shop:
            allow = (f"shop.example:{shop}", f"other.example:{shop}")
            made = fetcher(names, *allow, tls=believing)
            assert await made.fetch(f"https://shop.example:{shop}/") == b"picture"
            assert shop.names == ["shop.example"]
            assert f"Host: shop.example:{shop}\r\n" in shop.asked[0]
            assert (await problem(made.fetch(f"https://other.example:{shop}/"))).status == 502
            doubting = fetcher(names, *allow)
            assert (await problem(doubting.fetch(f"https://shop.example:{shop}/"))).status == 502
            assert len(shop.asked) == 1

    run(test())


def test_proxies_of_the_environment_are_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test() -> None:
        async with site(ok(b"proxied")) as proxy, site(ok(b"picture")) as shop:
            for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
                monkeypatch.setenv(name, f"http://127.0.0.1:{proxy}")
            made = fetcher(Names(shop_example=[[OUTSIDE]]), f"shop.example:{shop}")
            assert await made.fetch(f"http://shop.example:{shop}/") == b"picture"
            assert proxy.asked == []

    run(test())


def test_nothing_of_a_url_gets_into_the_logs(caplog: pytest.LogCaptureFixture) -> None:
    async def test() -> None:
        async with site(moved("/b?token=s3cret"), ok(b"picture")) as shop:
            made = fetcher(Names(shop_example=[[OUTSIDE]]), f"shop.example:{shop}")
            with caplog.at_level("INFO"):
                await made.fetch(f"http://shop.example:{shop}/a?token=s3cret")
            assert "s3cret" not in caplog.text

    run(test())
