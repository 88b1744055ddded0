"""The page and the API's description, as files that are kept in memory."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cache
from importlib import resources

from fastapi import APIRouter, Request
from fastapi.responses import Response

from lookalike.server.problems import Problem

router = APIRouter(include_in_schema=False)

_KINDS = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
    ".webmanifest": "application/manifest+json",
}


@dataclass(frozen=True, slots=True)
class Asset:
    """One file of the page: what it holds, what that is, and its strong ETag."""

    content: bytes
    kind: str
    etag: str


@cache
def assets() -> dict[str, Asset]:
    """Every file of the page by name, read once."""
    found = {}
    for file in (resources.files("lookalike.server") / "page").iterdir():
        content = file.read_bytes()
        kind = _KINDS["." + file.name.rpartition(".")[2]]
        found[file.name] = Asset(content, kind, f'"{hashlib.sha256(content).hexdigest()[:32]}"')
    return found


def _answer(request: Request, name: str) -> Response:
    """A file, or 304 where the browser has it: it asks each time, so that an update shows at once."""
    asset = assets().get(name)
    if asset is None:
        raise Problem(404, "the page has no such file")
    headers = {"ETag": asset.etag, "Cache-Control": "no-cache"}
    known = [tag.strip().removeprefix("W/") for tag in request.headers.get("if-none-match", "").split(",")]
    if asset.etag in known or "*" in known:
        return Response(status_code=304, headers=headers)
    return Response(asset.content, media_type=asset.kind, headers=headers)


@router.api_route("/", methods=["GET", "HEAD"])
async def index(request: Request) -> Response:
    return _answer(request, "index.html")


@router.api_route("/docs", methods=["GET", "HEAD"])
async def docs(request: Request) -> Response:
    return _answer(request, "docs.html")


@router.api_route("/favicon.ico", methods=["GET", "HEAD"])
async def favicon(request: Request) -> Response:
    return _answer(request, "icon.svg")


@router.api_route("/page/{name}", methods=["GET", "HEAD"])
async def page(request: Request, name: str) -> Response:
    return _answer(request, name)
