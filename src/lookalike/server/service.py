"""What the endpoints share: a catalogue, its encoder, the workers around it, and how long a queue may be."""

from __future__ import annotations

import asyncio
import contextvars
import re
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
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
from lookalike.values import Facet

_READING = 4  # threads for what does not wait for a turn
_VALUES = 20  # of a facet, the most frequent
_LATER = 32  # threads for captions of queries, which others write
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
    captioner: Captioner | None = None
    deadline_s: float = 10.0  # for a query's caption
    read_only: bool = False  # nothing but thumbnails is written
    _threads: ThreadPoolExecutor = field(init=False)
    _waiters: ThreadPoolExecutor = field(init=False)
    _turns: asyncio.Semaphore = field(init=False)
    _waiting: int = field(init=False, default=0)
    _facets: tuple[str, Mapping[str, Facet]] = field(init=False, default=("", {}))  # of a view's version

    def __post_init__(self) -> None:
        self._waiters = ThreadPoolExecutor(_LATER, "lookalike-later")
        self._threads = ThreadPoolExecutor(self.limits.searching + _READING, "lookalike-serve")
        self._turns = asyncio.Semaphore(self.limits.searching)

    def check_line(self) -> None:
        """429 where too many wait: better said before a body is read than after."""
        if self._waiting >= self.limits.waiting + self.limits.searching:
            self.watch.refused("queue")
            raise Problem(429, "too many requests are waiting", "try again in a second", {"Retry-After": "1"})

    @contextmanager
    def _in_line(self) -> Iterator[None]:
        self.check_line()
        self._waiting += 1
        self.watch.waiting(self._waiting)
        try:
            yield
        finally:
            self._waiting -= 1
            self.watch.waiting(self._waiting)

    @asynccontextmanager
    async def turn(self, request: Request) -> AsyncIterator[None]:
        """One of the `limits.searching` turns, for what takes time or memory; 429 where too many wait.

        A client that leaves before its turn gives up its place in the line at once, see `stays`.
        """
        with self._in_line():
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
