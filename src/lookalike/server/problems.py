"""What goes wrong, as problem documents (RFC 9457): what it is and what to do about it, never a traceback."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import ValidationError
from starlette.exceptions import HTTPException

from lookalike.errors import (
    BadInput,
    BadPicture,
    CatalogueBusy,
    CatalogueError,
    LookalikeError,
    StorageFull,
    WrongEncoder,
)

_STATES: Sequence[tuple[type[LookalikeError], int, str, int]] = (  # the first that fits; seconds to wait
    (CatalogueBusy, 503, "another process is writing to the catalogue", 5),
    (StorageFull, 507, "the disk is full", 0),
    (WrongEncoder, 503, "the catalogue was encoded anew: the service has to be started again", 30),
    (CatalogueError, 503, "the catalogue cannot be used at present", 5),
)
MEDIA = "application/problem+json"
_TEXT = {"type": "string"}
RESPONSES: dict[int | str, dict[str, Any]] = {  # of every operation, for OpenAPI
    status: {
        "description": "A problem document: what is wrong, and what to do.",
        "content": {
            MEDIA: {
                "schema": {
                    "type": "object",
                    "required": ["type", "title", "status", "detail"],
                    "properties": {
                        "type": _TEXT, "title": _TEXT, "status": {"type": "integer"}, "detail": _TEXT,
                        "hint": _TEXT,
                    },
                }
            }
        },
    }
    for status in ("4XX", "5XX")
}  # fmt: skip


class Problem(Exception):
    """An answer that is not what was asked for: a status with its reason, and what to do about it."""

    def __init__(
        self, status: int, detail: str, hint: str = "", headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(detail)
        self.status, self.detail, self.hint, self.headers = status, detail, hint, dict(headers or {})

    def document(self) -> dict[str, Any]:
        told: dict[str, Any] = {
            "type": "about:blank",
            "title": HTTPStatus(self.status).phrase,
            "status": self.status,
            "detail": self.detail,
        }
        if self.hint:
            told["hint"] = self.hint
        return told

    def response(self) -> JSONResponse:
        return JSONResponse(self.document(), self.status, self.headers, MEDIA)


def problem_of(error: LookalikeError) -> Problem | None:
    """What the library says, as an answer; None for what no request is to blame for.

    Of a catalogue its state alone: the library names folders.
    """
    if isinstance(error, BadPicture | BadInput):
        return Problem(422, str(error).removeprefix("picture: "), error.hint)
    for kind, status, detail, wait_s in _STATES:
        if isinstance(error, kind):
            return Problem(status, detail, headers={"Retry-After": str(wait_s)} if wait_s else None)
    return None


def handle(app: FastAPI) -> None:
    """Have an app answer with problem documents; what nobody foresaw is left to `watch.Watched`."""

    async def ours(_: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, Problem)
        return error.response()

    async def librarys(_: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, LookalikeError)
        problem = problem_of(error)
        if problem is None:
            raise error
        return problem.response()

    async def invalid(_: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, RequestValidationError)
        return Problem(422, faults(error), "see /docs").response()

    async def starlettes(_: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, HTTPException)
        return Problem(error.status_code, str(error.detail), headers=error.headers).response()

    app.add_exception_handler(Problem, ours)
    app.add_exception_handler(LookalikeError, librarys)
    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(HTTPException, starlettes)


def faults(error: ValidationError | RequestValidationError, whole: str = "body") -> str:
    """What is wrong with a request, the first five faults: where, and what. What was sent is not echoed.

    `whole` is the name of what was read, where nothing within it is at fault.
    """
    told = []
    for each in error.errors()[:5]:
        place = ".".join(str(part) for part in each["loc"] if part not in ("body", "query", "path"))
        told.append(f"{place[:80] or whole}: {str(each['msg'])[:200]}")
    return "; ".join(told) or "the request is not understood"
