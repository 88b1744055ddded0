"""Pictures that are named by a URL, fetched without being led astray.

Whoever names a URL has this machine open a connection, and it may reach what a stranger cannot: neighbours, a
cloud's metadata, itself. So only addresses of the public internet are connected to: a name is resolved once,
every address it has is looked at, and the connection goes to one of those, not to the name again. So it is
for each redirect.
"""

from __future__ import annotations

import asyncio
import re
import socket
import ssl
import zlib
from collections.abc import Awaitable, Callable, Sequence
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

import httpx

from lookalike.errors import BadInput
from lookalike.server.limits import Limits
from lookalike.server.problems import Problem

Address = IPv4Address | IPv6Address

_TOTAL_S = 10.0
_CONNECT_S = 3.0  # to one address; then the next is tried
_REDIRECTS = 3
_ADDRESSES = 3  # of a host that are tried
_LONGEST = 2_000  # characters of a URL
_PORTS = {"http": 80, "https": 443}
_NAME = re.compile(r"[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?(\.[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?)*")
_HOST = re.compile(rf"{_NAME.pattern}(:\d{{1,5}})?")
_NUMBER = re.compile(r"(.*\.)?(\d+|0x[0-9a-f]*)")  # 2130706433 and 0x7f.1 are 127.0.0.1 to some
_HEADERS = {
    "Accept": "image/*",
    "Accept-Encoding": "identity",
    "Connection": "close",
    "User-Agent": "lookalike",
}

# Beside what `is_global` knows of, which differs between versions of Python:
_REFUSED = [
    ip_network(network)
    for network in (
        "192.0.0.0/24",  # protocols' own; a cloud has its metadata there
        "192.88.99.0/24",  # 6to4 relays
        "168.63.129.16/32",  # a cloud's metadata, at an address that looks public
        "224.0.0.0/4",
        "240.0.0.0/4",
        "2001::/23",  # Teredo and others of the protocols' own
        "2001:db8::/32",
        "2002::/16",  # 6to4: an IPv4 address within
        "3fff::/20",
    )
]
_UNICAST = ip_network(
    "2000::/3"
)  # all that IPv6 gives out; not what stands for IPv4, as ::ffff:10.0.0.1 does


def public(address: Address) -> bool:
    """Whether it is one host's address in the public internet."""
    if isinstance(address, IPv6Address) and address not in _UNICAST:
        return False
    return address.is_global and not any(address in network for network in _REFUSED)


async def resolved(host: str) -> Sequence[str]:
    """All addresses of a host. OSError where there are none."""
    found = await asyncio.get_running_loop().getaddrinfo(host, None, type=socket.SOCK_STREAM)
    return [str(place[0]) for *_, place in found]


def check_hosts(hosts: Sequence[str]) -> None:
    """BadInput unless each is a host as `Fetcher` may be allowed it: "shop.example", or with a port."""
    for host in hosts:
        if not (_HOST.fullmatch(host.lower()) or _is_address(host)):
            raise BadInput(f"{host!r} is no host's name", "write shop.example or shop.example:8443")


class Fetcher:
    """Fetches pictures by URL from hosts of the public internet, or only from those that `allow` names.

    `allow` has names as "shop.example", or with a port as "shop.example:8443"; without one, and where
    everybody may be asked, it is ports 80 and 443. An allowed host still needs a public address.
    """

    def __init__(
        self,
        limits: Limits,
        allow: Sequence[str] = (),
        resolve: Callable[[str], Awaitable[Sequence[str]]] = resolved,
        permitted: Callable[[Address], bool] = public,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._most = limits.body_bytes
        self._turns = asyncio.Semaphore(limits.searching)
        self._allow = frozenset(name.lower() for name in allow)
        self._resolve, self._permitted = resolve, permitted
        self._tls = tls or httpx.create_ssl_context()

    async def fetch(self, url: str) -> bytes:
        """What is at a URL, at most `limits.body_bytes`, within 10 s and 3 redirects.

        Problem 422: the URL, or one that it leads to, is not one to be fetched, or there is too much; 502:
        its host does not answer, or has no picture there; 504: it takes too long.
        """
        try:
            async with asyncio.timeout(_TOTAL_S), self._turns:
                return await self._followed(url)
        except TimeoutError:
            raise Problem(504, f"the URL's host takes longer than {_TOTAL_S:g} s") from None
        except (httpx.TransportError, OSError):
            raise Problem(502, "the URL's host does not answer as it should") from None

    async def _followed(self, url: str) -> bytes:
        place = self._checked(url)
        for _ in range(_REDIRECTS + 1):
            found = await self._asked(place, await self._addresses(_host(place)))
            if isinstance(found, bytes):
                return found
            place = self._checked(found, place)
        raise Problem(502, f"the URL leads to another, and so on, more than {_REDIRECTS} times")

    def _checked(self, text: str, base: httpx.URL | None = None) -> httpx.URL:
        """A URL that may be asked, or Problem 422."""
        try:
            if len(text) > _LONGEST or not text.isprintable() or "\\" in text or " " in text:
                raise ValueError
            url = base.join(text) if base else httpx.URL(text)
            host = _host(url)
            port = _PORTS[url.scheme] if url.port is None else url.port
            if url.userinfo or not (_is_address(host) or _NAME.fullmatch(host)):
                raise ValueError
            if not _is_address(host) and _NUMBER.fullmatch(host):
                raise ValueError
        except (httpx.InvalidURL, ValueError, KeyError):
            raise Problem(
                422, "not a URL of a picture", "write https://host/path, without a user's name"
            ) from None
        named = f"{host}:{port}" in self._allow
        if port not in _PORTS.values() and not named:
            raise Problem(422, "pictures are not fetched from this port", "ports 80 and 443 are")
        if self._allow and not named and host not in self._allow:
            raise Problem(422, "pictures are not fetched from this host")
        return url

    async def _addresses(self, host: str) -> Sequence[Address]:
        """Where a host is. That it is nowhere, and that it is inside, is told in the same words."""
        try:
            texts = [host] if _is_address(host) else await self._resolve(host)
            addresses = [ip_address(text) for text in dict.fromkeys(texts)]
        except (OSError, ValueError):
            addresses = []
        if not addresses or not all(map(self._permitted, addresses)):
            raise Problem(422, "the URL's host has no public address")
        return addresses[:_ADDRESSES]

    async def _asked(self, place: httpx.URL, addresses: Sequence[Address]) -> bytes | str:
        """What is there, or the URL that it leads to."""
        failed: httpx.TransportError | None = None
        async with httpx.AsyncHTTPTransport(verify=self._tls) as transport:
            for address in addresses:
                request = httpx.Request(
                    "GET",
                    place.copy_with(host=str(address)),
                    headers={"Host": place.netloc.decode("ascii"), **_HEADERS},
                    extensions={"sni_hostname": _host(place), "timeout": {"connect": _CONNECT_S}},
                )
                try:
                    response = await transport.handle_async_request(request)
                except (httpx.ConnectError, httpx.ConnectTimeout) as error:
                    failed = error
                    continue
                try:
                    return await self._read(response)
                finally:
                    await response.aclose()
        assert failed is not None  # there was an address to try
        raise failed

    async def _read(self, response: httpx.Response) -> bytes | str:
        if response.status_code in (301, 302, 303, 307, 308):
            return str(response.headers.get("location", ""))
        if response.status_code != 200:
            raise Problem(502, f"the URL's host answers with {response.status_code}")
        coding = response.headers.get("content-encoding", "identity").strip().lower()
        if coding not in ("identity", "gzip", "deflate"):
            raise Problem(502, "the URL's host sends what was not asked for")
        unpacker = None if coding == "identity" else zlib.decompressobj(zlib.MAX_WBITS | 32)
        got, arrived = bytearray(), 0
        async for piece in response.aiter_raw():
            arrived += len(piece)
            try:
                got += piece if unpacker is None else unpacker.decompress(piece, self._most + 1 - len(got))
            except zlib.error:
                raise Problem(502, "the URL's host sends what cannot be unpacked") from None
            if max(arrived, len(got)) > self._most:
                raise Problem(422, f"at the URL is more than the {self._most / 1e6:g} MB allowed")
        return bytes(got)


def _host(url: httpx.URL) -> str:
    return url.raw_host.decode("ascii").lower()


def _is_address(host: str) -> bool:
    try:
        return not getattr(ip_address(host), "scope_id", None)
    except ValueError:
        return False
