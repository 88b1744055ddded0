"""Connections: how many there may be, and how long one may stay on which nothing is asked.

uvicorn's own bound (`limit_concurrency`) counts idle connections as requests, and for the head of a first
request it waits for good: some hundred connections that say nothing would keep everybody out.
"""

from __future__ import annotations

import asyncio
import resource
from typing import ClassVar

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from lookalike.server.limits import Limits
from lookalike.server.problems import Problem

_FLUSH_S = 20.0  # for the rest of an answer to be fetched, after which the connection is cut
_OTHERS = 1_500  # files besides: those of uploads over 1 MB, of the catalogue, of the decoding processes


class Connection(H11Protocol):
    """A connection that is closed where no request comes within `head_s`, and early where there are too many.

    Beyond `most` the one goes that has waited longest for a request; the new one, where all are at work.
    """

    most: ClassVar[int] = Limits().connections
    head_s: ClassVar[float] = Limits().head_s
    _waiting: ClassVar[dict[Connection, asyncio.TimerHandle]] = {}  # the longest first

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._look()
        if len(self.connections) > self.most:
            next(iter(self._waiting))._end()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._look()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._look()

    def send_400_response(self, msg: str) -> None:
        """Answer to what is no request of HTTP/1.1, as to any other that cannot be answered."""
        problem = Problem(400, "this is no request of HTTP/1.1, or its head is too large").response()
        head = h11.Response(
            status_code=400, headers=[*problem.raw_headers, (b"connection", b"close")], reason=b"Bad Request"
        )
        for event in (head, h11.Data(data=bytes(problem.body)), h11.EndOfMessage()):
            self.transport.write(self.conn.send(event) or b"")
        self.transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self._forget()
        super().connection_lost(exc)

    def _look(self) -> None:
        """Whether a request is under way now, or waited for."""
        if self.cycle is not None and not self.cycle.response_complete:
            self._forget()
        elif self not in self._waiting and not self.transport.is_closing():
            self._waiting[self] = self.loop.call_later(self.head_s, self._end)

    def _forget(self) -> None:
        if timer := self._waiting.pop(self, None):
            timer.cancel()

    def _end(self) -> None:
        self._forget()
        self.connections.discard(self)
        self.timeout_keep_alive_handler()
        self.loop.call_later(_FLUSH_S, self.transport.abort)


def make_room() -> None:
    """Allow this process the files that so many connections take, as far as the system lets it.

    Where it does not, there may be fewer connections.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    files = Limits().connections + _OTHERS
    if hard != resource.RLIM_INFINITY:
        files = min(files, hard)
    if soft != resource.RLIM_INFINITY and soft < files:
        resource.setrlimit(resource.RLIMIT_NOFILE, (files, hard))
    Connection.most = max(files - _OTHERS, files // 2)
