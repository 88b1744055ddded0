"""What comes in is counted as it arrives, and what goes out tells browsers to be careful with it."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Sequence

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from lookalike.server.limits import Limits
from lookalike.server.problems import Problem

_LINGER_S = 2.0  # how long a client that is still sending may go on, so that it gets to read the answer

_TOO_MUCH = Problem(429, "too much is arriving at once", "try again in a second", {"Retry-After": "1"})
# A proxy that believes the other one would take the rest for another request.
_TWO_ENDS = Problem(400, "the body's length is told in two ways", "send one of the two headers")
_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(self), microphone=(), geolocation=(), payment=(), usb=()",
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; "
        "connect-src 'self'; manifest-src 'self'; form-action 'none'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "Cache-Control": "no-store",
}


class Bodies:
    """ASGI middleware: a body that is too large, too slow or stalled is refused while it arrives.

    413 as soon as there are more bytes than the limits allow, or a header promises more; 400 where two
    headers tell where it ends; 408 where a piece takes longer than `idle_s`, or all of it longer than
    `body_s`. A POST to one of `bulk_paths` may bring `bulk_bytes`, in any time. 429, of which `on_full` is
    told, where all other bodies under way, until their answers, are together more than `held_bytes`. A
    connection on which a body was not read to its end is closed after the answer.
    """

    def __init__(
        self,
        app: ASGIApp,
        limits: Limits,
        on_full: Callable[[], None],
        bulk_paths: Sequence[str] = ("/v1/items",),
    ) -> None:
        self._app, self._limits, self._on_full, self._bulk_paths = app, limits, on_full, bulk_paths
        self._held = 0  # bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        bulk = scope["method"] == "POST" and scope["path"] in self._bulk_paths
        limits = self._limits
        held = 0

        def hold(count: int) -> bool:
            nonlocal held
            if not bulk:  # which goes to disk as it comes
                held += count
                self._held += count
            full = not bulk and self._held > limits.held_bytes
            if full:
                self._on_full()
            return not full

        body = _Body(
            scope, receive, send, hold, limits.bulk_bytes if bulk else limits.body_bytes,
            limits.idle_s, math.inf if bulk else limits.body_s,
        )  # fmt: skip
        if {b"content-length", b"transfer-encoding"} <= {name for name, _ in scope["headers"]}:
            await body.refuse(_TWO_ENDS)
            return
        if body.promised > body.most:
            await body.refuse(_too_large(body.most))
            return
        try:
            await self._app(scope, body.receive, body.send)
        except Exception:
            if not body.refused:  # else it has only found its body cut off
                raise
        finally:
            self._held -= held


class _Body:
    """One request's body on its way in, and the answer that may have to cut it off."""

    def __init__(
        self,
        scope: Scope,
        receive: Receive,
        send: Send,
        hold: Callable[[int], bool],
        most: int,
        idle_s: float,
        body_s: float,
    ) -> None:
        self._scope, self._receive, self._send, self._hold = scope, receive, send, hold
        self.most, self._idle_s, self._body_s = most, idle_s, body_s
        headers = dict(scope["headers"])
        self.promised = int(
            headers.get(b"content-length", b"0")
        )  # the server has checked that it is a number
        self._complete = not (self.promised or b"transfer-encoding" in headers)
        self._bytes = 0
        self._ends = math.inf  # when all of it must be there
        self._started = False  # the answer
        self.refused = False

    async def receive(self) -> Message:
        if self._complete:
            return await self._receive()
        if self.refused:
            return {"type": "http.disconnect"}
        now = asyncio.get_running_loop().time()
        self._ends = min(self._ends, now + self._body_s)
        try:
            async with asyncio.timeout_at(min(now + self._idle_s, self._ends)):
                message = await self._counted()
        except TimeoutError:
            return await self.refuse(Problem(408, "the body takes too long to arrive", "try again"))
        if self._bytes > self.most:
            return await self.refuse(_too_large(self.most))
        if not self._hold(len(message.get("body", b""))):
            return await self.refuse(_TOO_MUCH)
        return message

    async def _counted(self) -> Message:
        message = await self._receive()
        if message["type"] == "http.request":
            self._bytes += len(message.get("body", b""))
            self._complete = not message.get("more_body", False)
        else:
            self._complete = True
        return message

    async def send(self, message: Message) -> None:
        """Pass an answer on; after one that comes before the body's end, close the connection."""
        if self.refused:  # what the app has to say about a body cut off
            return
        if message["type"] == "http.response.start":
            self._started = True
            if not self._complete:
                MutableHeaders(scope=message)["Connection"] = "close"
        elif not self._complete and not message.get("more_body", False):
            await self._send({**message, "more_body": True})
            await self._linger()
            message = {"type": "http.response.body", "body": b""}
        await self._send(message)

    async def refuse(self, problem: Problem) -> Message:
        """Answer in the app's place, unless it has begun to; what is to tell the app instead of a body."""
        if not self._started:
            await problem.response()(self._scope, self._receive, self.send)
        self.refused = True
        return {"type": "http.disconnect"}

    async def _linger(self) -> None:
        """Let more of the body come for a moment: closed at once, a client may lose the answer unread."""
        self._bytes = 0
        try:
            async with asyncio.timeout(_LINGER_S):
                while not self._complete and self._bytes <= self.most:
                    await self._counted()
        except TimeoutError:
            pass


class Guarded:
    """ASGI middleware: the headers that keep browsers from being used against a visitor.

    Where `hosts` are named ("shop.example", "127.0.0.1"), requests for another one are refused with 421: a
    page of somebody else's can be made to bear an address of this network, but not this name.
    """

    def __init__(self, app: ASGIApp, hosts: Sequence[str] = ()) -> None:
        self._app, self._hosts = app, frozenset(host.lower() for host in hosts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        host = dict(scope["headers"]).get(b"host", b"").decode("latin-1").lower()
        if self._hosts and _without_port(host) not in self._hosts:
            await Problem(421, "this host is not served here").response()(scope, receive, guarded)
            return
        await self._app(scope, receive, guarded)


def _without_port(host: str) -> str:
    return host.partition("]")[0] + "]" if host.startswith("[") else host.partition(":")[0]


def _too_large(most: int) -> Problem:
    return Problem(413, f"the body is larger than the {most / 1e6:g} MB allowed", "send less at once")
