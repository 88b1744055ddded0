"""The jobs of a catalogue: their files, and what its meta says of how far they have come.

In `jobs/`, ID.ndjson is what was sent, an item a line; it goes when the job has ended. ID.json is the job's
record, written when it is accepted and when it ends. How far it has come stands in the catalogue's meta,
written in the transaction that stores the items: no line is forgotten, and none is put again over what came
after it.
"""

from __future__ import annotations

import json
import re
import secrets
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal

from filelock import FileLock

from lookalike.server.pictures import THUMBNAILS, within
from lookalike.store import replacing

FOLDER = "jobs"
_SKIPPED = 1000  # lines of a job, told one by one; of the rest the number
_ABANDONED_S = 3600.0  # a file whose writer has not touched it for so long has none
_KEPT = timedelta(days=30)  # a job's record after its end
_ID = re.compile(r"[0-9a-f]{32}")


@dataclass(frozen=True, slots=True)
class Job:
    """A job as it is told. What it has skipped are lines, numbered from 1, with what is wrong with them."""

    job: str
    state: Literal["waiting", "running", "done", "failed"]
    done: int  # lines
    total: int
    skipped: Sequence[Mapping[str, Any]]
    more_skipped: int  # beyond those told
    error: str | None  # why it has failed, or what it waits for
    created: str  # ISO 8601, UTC
    finished: str | None = None


@dataclass(frozen=True, slots=True)
class Reached:
    """How far a job has come."""

    done: int = 0  # lines
    at: int = 0  # the byte where the next one begins
    skipped: Sequence[Mapping[str, Any]] = ()
    more_skipped: int = 0

    def past(self, number: int, end: int, error: str | None) -> Reached:
        """One line further; `error` says why that one was skipped."""
        now = replace(self, done=number, at=end)
        if error is None:
            return now
        if len(self.skipped) >= _SKIPPED:
            return replace(now, more_skipped=self.more_skipped + 1)
        return replace(now, skipped=(*self.skipped, {"line": number, "error": error}))


def reached(id: str, meta: Mapping[str, str]) -> Reached | None:
    """How far a job has come; None before its first line, and after its end."""
    told = meta.get(fact(id))
    return None if told is None else Reached(**json.loads(told))


def fact(id: str) -> str:
    """The name of that in the catalogue's meta."""
    return f"job {id}"


def of_jobs(meta: Iterable[str]) -> list[str]:
    """The ids of the jobs that the catalogue's meta tells of."""
    return [name.removeprefix("job ") for name in meta if name.startswith("job ")]


class Ledger:
    """The records and bodies in a catalogue's folder."""

    def __init__(self, folder: Path) -> None:
        self._home, self._folder = folder, folder / FOLDER

    def body(self, id: str) -> Path:
        """What was sent."""
        return self._folder / f"{id}.ndjson"

    def part(self) -> Path:
        """A name for a body that arrives."""
        return within(self._home, FOLDER) / f"{secrets.token_hex(16)}.part"

    def accept(self, part: Path, id: str, total: int) -> Job:
        """Make a job of a body that is on disk; the one that has this id already, where there is one."""
        with FileLock(self._folder / ".lock"):
            job = self._read(id)
            if job is None:
                part.replace(self.body(id))
                job = Job(id, "waiting", 0, total, (), 0, None, _now())
                self._write(job)
        part.unlink(missing_ok=True)
        return job

    def get(self, id: str, meta: Mapping[str, str]) -> Job | None:
        """A job as it stands; None where there is no such job."""
        job = self._read(id)
        if job is None or job.finished is not None:
            return job
        now = reached(id, meta)
        if now is None:
            return self._read(id)  # not begun, unless it has ended just now
        return replace(
            job, state="running", done=now.done, skipped=now.skipped, more_skipped=now.more_skipped
        )

    def listed(self, meta: Mapping[str, str]) -> list[Job]:
        """All jobs, the newest first."""
        found = [self.get(path.stem, meta) for path in self._folder.glob("*.json")]
        return sorted(filter(None, found), key=lambda job: (job.created, job.job), reverse=True)

    def unfinished(self) -> list[Job]:
        """Those to work on, the oldest first: their bodies are there."""
        found = [self._read(path.stem) for path in self._folder.glob("*.ndjson")]
        going = [job for job in found if job is not None and job.finished is None]
        return sorted(going, key=lambda job: (job.created, job.job))

    def wait(self, id: str, why: str | None) -> None:
        """Note what an unfinished job waits for, or that it goes on."""
        job = self._read(id)
        if job is not None and job.error != why:
            self._write(replace(job, error=why))

    def end(self, id: str, now: Reached, failed: str | None = None) -> None:
        """Note that a job has ended, and delete what was sent."""
        job = self._read(id)
        if job is not None:
            self._write(
                replace(
                    job,
                    state="failed" if failed else "done",
                    done=now.done,
                    skipped=now.skipped,
                    more_skipped=now.more_skipped,
                    error=failed,
                    finished=_now(),
                )
            )
        self.body(id).unlink(missing_ok=True)

    def sweep(self, meta: Mapping[str, str]) -> None:
        """Delete what killed processes left, and the records of jobs that ended long ago."""
        for place in (self._folder, self._home / THUMBNAILS):
            for part in place.glob("*.part"):
                with suppress(FileNotFoundError):
                    if time.time() - part.stat().st_mtime > _ABANDONED_S:
                        part.unlink()
        oldest = (datetime.now(UTC) - _KEPT).isoformat()
        with FileLock(self._folder / ".lock"):
            going = {job.job for job in self.unfinished()}
            for body in self._folder.glob("*.ndjson"):
                if body.stem not in going:
                    body.unlink()
            for job in self.listed(meta):
                if job.finished is None and job.job not in going:
                    now = reached(job.job, meta) or Reached()
                    self.end(job.job, now, "what was sent is not there any more")
                elif job.finished is not None and job.finished < oldest:
                    (self._folder / f"{job.job}.json").unlink()

    def _read(self, id: str) -> Job | None:
        if not _ID.fullmatch(id):
            return None
        try:
            return Job(**json.loads((self._folder / f"{id}.json").read_bytes()))
        except FileNotFoundError:
            return None

    def _write(self, job: Job) -> None:
        with replacing(self._folder / f"{job.job}.json") as unfinished:
            unfinished.write_text(json.dumps(asdict(job)))


def _now() -> str:
    return datetime.now(UTC).isoformat()
