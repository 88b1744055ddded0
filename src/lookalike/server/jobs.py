"""Many items in one request: it becomes a job, which is on disk when it is answered and outlives any kill.

Of all processes that serve a catalogue one works on its jobs. See `ledger` for what is kept of them.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import secrets
import threading
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, BinaryIO

from fastapi import APIRouter, Depends, Header, Query, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse
from filelock import FileLock, Timeout
from pydantic import Field, ValidationError
from starlette.requests import ClientDisconnect

from lookalike import calibration
from lookalike.catalogue import Catalogue
from lookalike.errors import BadInput, BadPicture, CatalogueBusy, LookalikeError, StorageFull, WrongEncoder
from lookalike.server import pictures
from lookalike.server.access import needs
from lookalike.server.items import Description, Page, Wanted, in_writer, prepared, replaced
from lookalike.server.ledger import FOLDER, Job, Ledger, Reached, fact, of_jobs, reached
from lookalike.server.limits import Limits
from lookalike.server.problems import Problem, faults
from lookalike.server.service import Service, service_of
from lookalike.server.watch import log
from lookalike.store import room_for

router = APIRouter(prefix="/v1", tags=["items"])

_PICTURES_AT_ONCE = 4  # are encoded and stored together: what a search may have to wait for
_LINES_AT_ONCE = 64
_UNFINISHED = 32  # jobs; the next is told to come back
_POLL_S = 0.5
_AGAIN_S = 5.0  # after something went wrong that may pass
_TIDY_S = 60.0  # between two looks whether index and calibration still fit the gallery
_WRITTEN = 1024 * 1024  # bytes of a body at once
_UNFORESEEN = "something went wrong here; the log tells more"
_KINDS = ("application/x-ndjson", "application/ndjson", "application/jsonl")


class Line(Description):
    """One item of a bulk request."""

    item: str
    pictures: list[str] = Field([], description="base64 of files; without any, the item keeps those it has")


@dataclass(frozen=True, slots=True)
class _Read:
    """A line of a job: what it wants, or what is wrong with it; neither for a blank one."""

    number: int
    end: int  # byte
    wanted: Wanted | None = None
    error: str | None = None


_BODY = {
    "requestBody": {
        "required": True,
        "description": "An item a line. A line that cannot be used is skipped, and told of by the job.",
        "content": {_KINDS[0]: {"schema": Line.model_json_schema()}},
    }
}


@router.post(
    "/items",
    status_code=202,
    openapi_extra=_BODY,
    responses={429: {"description": "too many jobs wait: see Retry-After"}},
)
async def put_items(
    request: Request,
    service: Annotated[Service, Depends(service_of)],
    who: Annotated[str, Depends(needs("write"))],
    idempotency_key: Annotated[str | None, Header(min_length=1, max_length=200)] = None,
) -> JSONResponse:
    """Put many items, each as `PUT /v1/items/{id}` does. The answer names the job that does it.

    Of an item that is put otherwise meanwhile, what the job comes to later stands in the end. With an
    `Idempotency-Key` that this API key has used before, that job is answered and nothing is read.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind not in _KINDS or request.headers.get("content-encoding", "identity") != "identity":
        raise Problem(415, "a body of another kind", f"send {_KINDS[0]}: a JSON object a line")
    ledger, meta = Ledger(service.folder), service.catalogue.store.meta
    id = secrets.token_hex(16)
    if idempotency_key is not None:
        id = hashlib.sha256(f"{who} {idempotency_key}".encode()).hexdigest()[:32]
    job = await run_in_threadpool(ledger.get, id, meta)
    if job is None:
        if len(await run_in_threadpool(ledger.unfinished)) >= _UNFINISHED:
            service.watch.refused("queue")
            raise Problem(429, "too many jobs are waiting", "try again later", {"Retry-After": "60"})
        part = await run_in_threadpool(ledger.part)
        try:
            total = await _received(request, part)
            if not total:
                raise Problem(422, "no items", "send a JSON object a line")
            job = await run_in_threadpool(ledger.accept, part, id, total)
        finally:
            part.unlink(missing_ok=True)
    return JSONResponse(asdict(job), 202, {"Location": f"/v1/jobs/{job.job}"})


@router.get("/jobs", dependencies=[Depends(needs("write"))])
async def list_jobs(
    service: Annotated[Service, Depends(service_of)], page: Annotated[Page, Query()]
) -> dict[str, Any]:
    """Jobs, the newest first; records are kept for 30 days. `next` is null on the last page."""
    meta = await run_in_threadpool(lambda: dict(service.catalogue.store.meta.items()))
    jobs = await run_in_threadpool(Ledger(service.folder).listed, meta)
    start = next((place + 1 for place, job in enumerate(jobs) if job.job == page.after), 0)
    if page.after and not start:
        raise Problem(422, "after: there is no such job", "begin without it")
    shown = jobs[start : start + page.limit]
    more = len(jobs) > start + page.limit
    return {"jobs": [asdict(job) for job in shown], "next": shown[-1].job if more else None}


@router.get(
    "/jobs/{id}",
    dependencies=[Depends(needs("write"))],
    responses={404: {"description": "there is no such job"}},
)
async def get_job(service: Annotated[Service, Depends(service_of)], id: str) -> dict[str, Any]:
    """How far a job has come. `done` and `total` are lines."""
    job = await run_in_threadpool(Ledger(service.folder).get, id, service.catalogue.store.meta)
    if job is None:
        raise Problem(404, "there is no such job")
    return asdict(job)


async def _received(request: Request, part: Path) -> int:
    """Write a body to disk as it arrives; -> how many lines it has. It is for nobody else's eyes."""
    lines, last = 0, b"\n"
    with room_for(part.parent):
        file = await run_in_threadpool(
            lambda: os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb")
        )
        with file:
            arrived = bytearray()
            try:
                async for chunk in request.stream():
                    arrived += chunk
                    if len(arrived) >= _WRITTEN or not chunk:
                        lines, last = lines + arrived.count(b"\n"), bytes(arrived[-1:]) or last
                        await run_in_threadpool(file.write, bytes(arrived))
                        arrived.clear()
            except ClientDisconnect:
                raise Problem(400, "the client has left") from None
            await run_in_threadpool(_flushed, file)
    return lines + (last != b"\n")


def _flushed(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())


class Runner:
    """Works on jobs, one after the other, and looks after index and calibration, until it is stopped.

    Only while it holds the lock that one process can have. What it writes goes through the thread that
    requests write through; between two batches their turn may come.
    """

    def __init__(self, service: Service) -> None:
        self._service = service
        self._ledger = Ledger(service.folder)
        self._lock = FileLock(service.folder / FOLDER / ".runner.lock")
        self._stopping = threading.Event()
        self._tidied, self._version = 0.0, ""
        self._task = asyncio.create_task(self._run(), name="lookalike-jobs")

    async def stop(self) -> None:
        """What has begun to be written is; the rest is for the next process."""
        self._stopping.set()
        self._task.cancel()
        with suppress(asyncio.CancelledError):
            await self._task
        await in_writer(lambda: None)
        self._lock.release()

    async def _run(self) -> None:
        swept = False
        while True:
            pause = _POLL_S
            try:
                if self._has_lock():
                    if not swept:
                        await self._sweep()
                        swept = True
                    for job in await asyncio.to_thread(self._ledger.unfinished):
                        await self._work(job)
                        self._tidied = 0.0
                    await self._tidy()
            except CatalogueBusy:
                pause = _AGAIN_S
            except Exception as error:  # whatever it was, later jobs have their turn
                log.error("jobs", exc_info=error)
                pause = _AGAIN_S
            await asyncio.sleep(pause)

    def _has_lock(self) -> bool:
        if not self._lock.is_locked:
            with suppress(Timeout, LookalikeError, OSError):  # another's, or nothing can be written here
                pictures.within(self._service.folder, FOLDER)
                self._lock.acquire(timeout=0)
        return self._lock.is_locked

    async def _work(self, job: Job) -> None:
        """All lines of a job that are not done yet."""
        now = reached(job.job, self._service.catalogue.store.meta) or Reached()
        with self._ledger.body(job.job).open("rb") as file:
            lines: list[_Read] = []
            async for line in self._lines(file, now):
                if _full(lines, line):
                    now = await self._store(job, now, lines)
                    lines = []
                lines.append(line)
            now = await self._store(job, now, lines)
        await asyncio.to_thread(self._ledger.end, job.job, now)
        await in_writer(_forgotten, self._service.catalogue, [job.job])

    async def _lines(self, file: BinaryIO, now: Reached) -> AsyncIterator[_Read]:
        """The lines from there on, with their pictures decoded."""
        file.seek(now.at)
        number, longest = now.done, self._service.limits.body_bytes * 4 // 3 + 65536
        while raw := await asyncio.to_thread(file.readline, longest):
            number += 1
            cut = not raw.endswith(b"\n") and len(raw) == longest
            while cut and (rest := await asyncio.to_thread(file.readline, _WRITTEN)):
                cut = not rest.endswith(b"\n")
                raw = b""
            end = file.tell()
            if not raw:
                yield _Read(number, end, error=f"longer than {longest} bytes")
            elif not raw.strip():
                yield _Read(number, end)
            else:
                yield await self._read(raw, number, end)

    async def _read(self, raw: bytes, number: int, end: int) -> _Read:
        try:
            line, data = await asyncio.to_thread(_parsed, raw, self._service.limits)
            return _Read(number, end, await prepared(self._service, line.item, line, data))
        except (BadInput, BadPicture) as error:
            return _Read(number, end, error=str(error))
        except LookalikeError:  # it is not the line's fault
            raise
        except Exception as error:
            log.error("job", exc_info=error)
            return _Read(number, end, error=_UNFORESEEN)

    async def _store(self, job: Job, before: Reached, lines: Sequence[_Read]) -> Reached:
        """Store lines together, or one by one where that cannot be; -> how far the job has come."""
        now = before
        for line in lines:
            now = now.past(line.number, line.end, line.error)
        try:
            await self._replaced(job, [line.wanted for line in lines if line.wanted is not None], now)
            return now
        except (BadInput, BadPicture) as error:
            said = str(error)
        except Exception as error:  # whatever it was, it costs one line at most
            log.error("job", exc_info=error)
            said = _UNFORESEEN
        if len(lines) == 1:
            now = before.past(lines[0].number, lines[0].end, said)
            await self._replaced(job, [], now)
            return now
        for line in lines:
            before = await self._store(job, before, [line])
        return before

    async def _replaced(self, job: Job, wanted: Sequence[Wanted], now: Reached) -> None:
        """Store items with how far the job has come, as soon as that can be."""
        facts = {fact(job.job): json.dumps(asdict(now))}
        noted = job.error is not None
        while True:
            try:
                await in_writer(replaced, self._service.catalogue, self._service.folder, wanted, facts)
                break
            except (BadInput, BadPicture):
                raise
            except LookalikeError as error:
                pause, why = _AGAIN_S, _why(error)
                if isinstance(error, CatalogueBusy):
                    pause = _POLL_S
                else:
                    log.warning("job waits", exc_info=error)
            noted = True
            await self._note(job, why)
            await asyncio.sleep(pause)
        if noted:
            await self._note(job, None)

    async def _note(self, job: Job, why: str | None) -> None:
        with suppress(LookalikeError):
            await asyncio.to_thread(self._ledger.wait, job.job, why)

    async def _sweep(self) -> None:
        """Once, at the start."""
        catalogue, folder = self._service.catalogue, self._service.folder
        meta = dict(catalogue.store.meta.items())
        await asyncio.to_thread(self._ledger.sweep, meta)
        going = {job.job for job in self._ledger.unfinished()}
        if ended := [id for id in of_jobs(meta) if id not in going]:
            await in_writer(_forgotten, catalogue, ended)
        blocks = pictures.on_disk(folder)
        while block := await asyncio.to_thread(next, blocks, None):
            if gone := await asyncio.to_thread(pictures.unknown, catalogue.store, block):
                await in_writer(_swept, catalogue, folder, gone)

    async def _tidy(self) -> None:
        """Where the gallery has changed: the index, and what counts as a confident match."""
        if time.monotonic() < self._tidied + _TIDY_S and self._tidied:
            return
        self._tidied = time.monotonic()
        version = await asyncio.to_thread(self._service.version)
        if version == self._version:
            return
        catalogue = self._service.catalogue
        await asyncio.to_thread(catalogue.store.build_index, self._go_on)
        if facts := await asyncio.to_thread(catalogue.measured, catalogue.store):
            await in_writer(_calibrated, catalogue, facts)
        self._version = version

    def _go_on(self, _done: int, _total: int) -> None:
        if self._stopping.is_set():
            raise InterruptedError("the service stops")


_runners: list[Runner] = []


def start(service: Service) -> None:
    """Have this process work on jobs, where no other one does."""
    _runners.append(Runner(service))


async def stop() -> None:
    """Before the service is closed."""
    while _runners:
        await _runners.pop().stop()


def _full(lines: Sequence[_Read], line: _Read) -> bool:
    """Whether these are stored before the line joins them."""
    if line.wanted is None or not lines:
        return len(lines) >= _LINES_AT_ONCE
    wanted = [each.wanted for each in lines if each.wanted is not None]
    gathered = sum(len(each.pictures) for each in (*wanted, line.wanted))
    twice = any(each.item.id == line.wanted.item.id for each in wanted)
    return twice or gathered > _PICTURES_AT_ONCE or len(lines) >= _LINES_AT_ONCE


def _parsed(raw: bytes, limits: Limits) -> tuple[Line, list[bytes]]:
    """BadInput where a line is not what it should be."""
    try:
        line = Line.model_validate_json(raw)
        if len(line.pictures) > limits.pictures:
            raise BadInput(f"{len(line.pictures)} pictures, at most {limits.pictures} are allowed")
        return line, [pictures.from_base64(each) for each in line.pictures]
    except ValidationError as error:
        raise BadInput(faults(error, "item")) from None


def _why(error: LookalikeError) -> str:
    """What a job waits for; the error itself may name the server's folders."""
    if isinstance(error, CatalogueBusy):
        return "another process is writing to the catalogue"
    if isinstance(error, StorageFull):
        return "the disk is full"
    if isinstance(error, WrongEncoder):
        return "the catalogue has got another encoder, which this process has not loaded"
    return "the catalogue cannot be written"


def _forgotten(catalogue: Catalogue, ids: Sequence[str]) -> None:
    """In the writing thread: how far jobs had come that have ended."""
    with catalogue.open_writer() as store:
        for id in ids:
            store.meta.pop(fact(id), None)


def _swept(catalogue: Catalogue, folder: Path, sha256s: set[str]) -> None:
    with catalogue.open_writer() as store:
        pictures.forget(folder, store, sha256s)


def _calibrated(catalogue: Catalogue, facts: Mapping[str, str | None]) -> None:
    with catalogue.writing() as store:
        calibration.keep(store, facts)
