"""What the endpoints share: a catalogue, its encoder, the workers around it, and how long a queue may be."""

from __future__ import annotations

import asyncio
import contextvars
import re
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from fastapi import Request
from starlette.requests import ClientDisconnect

from lookalike.captions.strategies import STRATEGIES
from lookalike.catalogue import Catalogue
from lookalike.roles import Captioner, View
from lookalike.server.access import Access
from lookalike.server.decoding import Decoder
from lookalike.server.fetching import Fetcher
from lookalike.server.limits import Limits
from lookalike.server.problems import Problem
from lookalike.server.watch import Watch
from lookalike.values import Caption, Facet, Region

_READING = 4  # threads for what does not wait for a turn
_VALUES = 20  # of a facet, the most frequent
_SERVER = re.compile(r"(?<=\bopenai:)\S+ ?")
_FOLDERS = re.compile(rf"(?<![^\s:+])/(?:(?! (?:{'|'.join(STRATEGIES)})/)[^+])*/")  # may hold spaces
P = ParamSpec("P")
R = TypeVar("R")


def public_name(name: str) -> str:
    """The name of an encoder or a captioner as clients are told it: without a server's address or a folder.

    "/srv/models/shoes.onnx" is "shoes.onnx", "openai:http://10.0.0.7/v1 llava attributes/3" is
    "openai:llava attributes/3". The full name is how a catalogue finds them again.
    """
    return _FOLDERS.sub("", _SERVER.sub("", name))


class Line:
    """Places for those who are served and those who wait for that; 429 where none is left.

    `on_full` is told of each that is turned away.
    """

    def __init__(self, most: int, on_full: Callable[[], None]) -> None:
        self._most, self._on_full = most, on_full
        self.length = 0

    def check(self) -> None:
        """Whether there is a place: better said before a body is read than after."""
        if self.length >= self._most:
            self._on_full()
            raise Problem(429, "too many requests are waiting", "try again in a second", {"Retry-After": "1"})

    @contextmanager
    def place(self) -> Iterator[None]:
        self.check()
        self.length += 1
        try:
            yield
        finally:
            self.length -= 1


class Counted:
    """A captioner before another, which knows how many captions are being written, late ones too."""

    def __init__(self, captioner: Captioner) -> None:
        self.name, self.elsewhere = captioner.name, getattr(captioner, "elsewhere", False)
        self.under_way = 0
        self._captioner, self._lock = captioner, threading.Lock()

    def captions(self, regions: Sequence[Region]) -> list[Caption]:
        with self._lock:
            self.under_way += 1
        try:
            return self._captioner.captions(regions)
        finally:
            with self._lock:
                self.under_way -= 1


@dataclass(slots=True)
class Service:
    """One process's parts. `fetcher` and `captioner` are None where they are off, as they are at first."""

    catalogue: Catalogue
    folder: Path  # of the catalogue
    limits: Limits
    decoder: Decoder
    access: Access
    watch: Watch
    fetcher: Fetcher | None = None
    captioner: Counted | None = None
    deadline_s: float = 10.0  # for a query's caption
    read_only: bool = False  # nothing but thumbnails is written
    _threads: ThreadPoolExecutor = field(init=False)
    _waiters: ThreadPoolExecutor = field(init=False)
    _turns: asyncio.Semaphore = field(init=False)
    searches: Line = field(init=False)
    writes: Line = field(init=False)
    thumbnails: Line = field(init=False)
    _facets: tuple[str, Mapping[str, Facet]] = field(init=False, default=("", {}))  # of a view's version

    def __post_init__(self) -> None:
        waiters = self.limits.captions + self.limits.searching  # so that who gets no caption hears it at once
        self._waiters = ThreadPoolExecutor(waiters, "lookalike-later")
        self._threads = ThreadPoolExecutor(self.limits.searching + _READING, "lookalike-serve")
        self._turns = asyncio.Semaphore(self.limits.searching)
        self.searches = self._line(self.limits.searching + self.limits.waiting)
        self.writes, self.thumbnails = self._line(self.limits.writing), self._line(self.limits.thumbnails)
        self.watch.count_waiting(lambda: self.searches.length)

    def _line(self, most: int) -> Line:
        return Line(most, lambda: self.watch.refused("queue"))

    @asynccontextmanager
    async def turn(self, request: Request) -> AsyncIterator[None]:
        """One of the `limits.searching` turns, for what takes time or memory; 429 where too many wait.

        A client that leaves before its turn gives up its place in the line at once, see `stays`.
        """
        with self.searches.place():
            came = time.perf_counter()
            await self._taken(request)
            try:
                self.watch.stage("wait", time.perf_counter() - came)
                await self.run(self.catalogue.check_encoder)  # `lookalike reindex` may have come
                yield
            finally:
                self._turns.release()

    async def _taken(self, request: Request) -> None:
        """Take a turn when there is one. ClientDisconnect once the client has left: then it has none."""
        turn = asyncio.ensure_future(self._turns.acquire())
        left = asyncio.ensure_future(_left(request))
        try:
            await asyncio.wait((turn, left), return_when=asyncio.FIRST_COMPLETED)
            if left.done():
                raise ClientDisconnect
        except BaseException:
            if not turn.cancel():  # it had come already
                self._turns.release()
            raise
        finally:
            left.cancel()

    async def stays(self, request: Request) -> None:
        """ClientDisconnect where the client has left: whatever comes next would be for nobody."""
        if await request.is_disconnected():
            raise ClientDisconnect

    async def later(self, job: Callable[P, R], /, *args: P.args, **named: P.kwargs) -> R:
        """Run in a thread what mostly waits, so that nothing else waits for it."""
        return await self._in(self._waiters, partial(job, *args, **named))

    async def run(self, job: Callable[P, R], /, *args: P.args, **named: P.kwargs) -> R:
        """Run in a thread at once."""
        return await self._in(self._threads, partial(job, *args, **named))

    async def _in(self, threads: ThreadPoolExecutor, job: Callable[[], R]) -> R:
        told = contextvars.copy_context()  # the request's id, for the log
        return await asyncio.get_running_loop().run_in_executor(threads, told.run, job)

    def facets(self, view: View) -> Mapping[str, Facet]:
        """What filters can ask; counted anew where the catalogue has changed."""
        if self._facets[0] != view.version:
            self._facets = view.version, view.facets(_VALUES)
        return self._facets[1]

    def version(self) -> str:
        """Of what is searched now: another one when something came or went."""
        with self.catalogue.store.view() as view:
            return view.version

    async def close(self) -> None:
        """After the last answer: what was accepted is finished first."""
        self._waiters.shutdown(wait=True)
        self._threads.shutdown(wait=True)
        await self.decoder.close()
        self.catalogue.close()


async def _left(request: Request) -> None:
    """Returns when the client has left; its body has been read."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def service_of(request: Request) -> Service:
    """For `Depends`, which would give a plain function a thread."""
    made: Any = request.app.state.service
    assert isinstance(made, Service)
    return made
