"""Many items in one request: it becomes a job, which is on disk when it is answered and outlives any kill.

`running` works on them; `ledger` says what is kept of them.
"""

from __future__ import annotations

import hashlib
import os
import secrets
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, BinaryIO

from fastapi import APIRouter, Depends, Header, Query, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse

from lookalike.server.access import needs
from lookalike.server.answers import Jobs, answered
from lookalike.server.items import Page
from lookalike.server.ledger import Job, Ledger
from lookalike.server.problems import Problem
from lookalike.server.questions import A_PICTURE
from lookalike.server.running import Line
from lookalike.server.service import Service, service_of
from lookalike.store import room_for

router = APIRouter(prefix="/v1", tags=["items"])

_UNFINISHED = 32  # jobs; the next is told to come back
_WRITTEN = 1024 * 1024  # bytes of a body at once
_KINDS = ("application/x-ndjson", "application/ndjson", "application/jsonl")


_BODY = {
    "requestBody": {
        "required": True,
        "description": "An item a line. A line that cannot be used is skipped, and told of by the job.",
        "content": {
            _KINDS[0]: {
                "schema": Line.model_json_schema(),
                "example": {"item": "hat-7", "title": "Felt hat", "pictures": [A_PICTURE]},
            }
        },
    }
}


@router.post(
    "/items",
    status_code=202,
    openapi_extra=_BODY,
    **answered(Job, 202, {429: {"description": "too many jobs wait: see Retry-After"}}),
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


@router.get("/jobs", dependencies=[Depends(needs("write"))], **answered(Jobs))
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
    **answered(Job, others={404: {"description": "there is no such job"}}),
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
            async for chunk in request.stream():
                arrived += chunk
                if len(arrived) >= _WRITTEN or not chunk:
                    lines, last = lines + arrived.count(b"\n"), bytes(arrived[-1:]) or last
                    await run_in_threadpool(file.write, bytes(arrived))
                    arrived.clear()
            await run_in_threadpool(_flushed, file)
    return lines + (last != b"\n")


def _flushed(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())
