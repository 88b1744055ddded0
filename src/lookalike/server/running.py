"""Work on jobs: their lines become items, and index and calibration follow; where it stops, it goes on.

Of all processes that serve a catalogue one does it.
"""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import BinaryIO

from filelock import FileLock, Timeout
from pydantic import Field, ValidationError

from lookalike import calibration
from lookalike.catalogue import Catalogue
from lookalike.errors import BadInput, BadPicture, CatalogueBusy, LookalikeError, StorageFull, WrongEncoder
from lookalike.server import pictures
from lookalike.server.items import Description, Wanted, in_writer, prepared, replaced
from lookalike.server.ledger import FOLDER, Job, Ledger, Reached, fact, of_jobs, reached
from lookalike.server.limits import Limits
from lookalike.server.problems import faults
from lookalike.server.service import Service
from lookalike.server.watch import log

_PICTURES_AT_ONCE = 4  # are encoded and stored together: what a search may have to wait for
_LINES_AT_ONCE = 64
_POLL_S = 0.5
_AGAIN_S = 5.0  # after something went wrong that may pass
_TIDY_S = 60.0  # between two looks whether index and calibration still fit the gallery
_PIECE = 1024 * 1024  # bytes of an overlong line at once
_UNFORESEEN = "something went wrong here; the log tells more"


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
            while cut and (rest := await asyncio.to_thread(file.readline, _PIECE)):
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
        if pictures.half_written(folder):
            await in_writer(_cleared, catalogue, folder)
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


def _cleared(catalogue: Catalogue, folder: Path) -> None:
    with catalogue.open_writer():  # so that nobody is at it
        for left in pictures.half_written(folder):
            left.unlink(missing_ok=True)


def _swept(catalogue: Catalogue, folder: Path, sha256s: set[str]) -> None:
    with catalogue.open_writer() as store:
        pictures.forget(folder, store, sha256s)


def _calibrated(catalogue: Catalogue, facts: Mapping[str, str | None]) -> None:
    with catalogue.writing() as store:
        calibration.keep(store, facts)
