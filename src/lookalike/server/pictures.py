"""Pictures that the service keeps in the catalogue's folder, and thumbnails of all that the catalogue has.

What is uploaded for an item is kept upright, in sRGB and without anything that was written beside its pixels,
in `pictures/` under the SHA-256 of what is kept. Thumbnails lie in `thumbnails/`; they may be deleted.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import os
import re
import secrets
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from enum import IntEnum
from io import BytesIO
from pathlib import Path
from typing import Annotated
from weakref import WeakValueDictionary

from fastapi import APIRouter, Depends, Query, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import Response
from PIL import Image

from lookalike import images
from lookalike.errors import BadInput, BadPicture, CatalogueError, ObjectError
from lookalike.indexing import chunks
from lookalike.roles import Store
from lookalike.server.access import needs
from lookalike.server.cores import cores
from lookalike.server.problems import Problem
from lookalike.server.service import Service, service_of
from lookalike.store import replacing, room_for
from lookalike.values import Box, Picture, Row

router = APIRouter(prefix="/v1", tags=["items"])

ORIGIN = "api"  # of pictures that came over HTTP, as the catalogue keeps it
KEPT, THUMBNAILS = "pictures", "thumbnails"
SUFFIXES = (".jpg", ".png")
_OURS = re.compile(r"([0-9a-f]{64})[.-]")  # how the names of the files begin
_SHA256 = re.compile(r"[0-9a-f]{64}")
_TALL = 2  # a thumbnail is at most so many times as high as it is wide
_FOR_EVER = "max-age=31536000, immutable"  # a picture's name is its content


class Width(IntEnum):
    """Of a thumbnail, in pixels; a narrower picture stays as it is."""

    SMALL = 160
    MEDIUM = 320
    LARGE = 640
    HUGE = 1280


@dataclass(frozen=True, slots=True)
class Upload:
    """A picture as it is kept, and the region of it that was asked for (in its pixels), or None."""

    data: bytes = field(repr=False)
    suffix: str
    box: Box | None
    sha256: str


def place_of(sha256: str) -> str:
    """Where a picture of the catalogue is to be had."""
    return f"/v1/pictures/{sha256}"


def from_base64(text: str) -> bytes:
    """A file that came within JSON; BadInput for what is no base64."""
    try:
        return base64.b64decode(text, validate=True)
    except ValueError:  # characters beyond ASCII are one, too
        raise BadInput("a picture that is not base64") from None


def upload(picture: Picture, box: Box | None, lossless: bool) -> Upload:
    """What is kept of a decoded picture: its pixels, at the size that encoders want (`images.SIDE`).

    `box` is in pixels of the upright original; BadInput where it lies outside. PNG where `lossless`, else
    JPEG. The same pixels always give the same bytes.
    """
    height, width = picture.pixels.shape[:2]
    if box is not None:
        box = box.clipped(picture.width, picture.height)
        box = box.scaled(width / picture.width, height / picture.height)
    file = BytesIO()
    image = Image.fromarray(picture.pixels)
    if lossless:
        image.save(file, "PNG")
    else:
        image.save(file, "JPEG", quality=95, subsampling=0)
    data = file.getvalue()
    return Upload(data, SUFFIXES[lossless], box, hashlib.sha256(data).hexdigest())


def keep(folder: Path, uploaded: Upload) -> Path:
    """Have a picture on disk in the catalogue's `folder`. To be called by its only writer."""
    path = within(folder, KEPT) / f"{uploaded.sha256}{uploaded.suffix}"
    if not path.exists():
        with replacing(path) as unfinished:
            unfinished.write_bytes(uploaded.data)
    return path


def forget(folder: Path, store: Store, sha256s: Iterable[str]) -> None:
    """Delete the files of those pictures that no item has any more. To be called by the only writer."""
    for gone in unknown(store, sha256s):
        kept = [folder / KEPT / f"{gone}{suffix}" for suffix in SUFFIXES]
        for path in (*kept, *(_thumbnail_of(folder, gone, width) for width in Width)):
            with suppress(OSError):  # not there, as a rule; what cannot go now does at the next start
                path.unlink()


def unknown(store: Store, sha256s: Iterable[str]) -> set[str]:
    """Those of the pictures that no item has."""
    wanted = set(sha256s)
    return wanted - {row.sha256 for row in store.find(sorted(wanted))}


def on_disk(folder: Path) -> Iterator[list[str]]:
    """The pictures that have a file in the catalogue's `folder`, some hundred at a time."""
    for place in (KEPT, THUMBNAILS):
        if (folder / place).is_dir():
            names = (entry.name for entry in (folder / place).iterdir())
            yield from chunks((found[1] for name in names if (found := _OURS.match(name))), 500)


def half_written(folder: Path) -> list[Path]:
    """What a writer that was killed has left; nobody but the only writer may delete it."""
    return list((folder / KEPT).glob("*.unfinished"))


def within(folder: Path, name: str) -> Path:
    """A folder of the catalogue's, made where it is not there; a loss of power does not lose it."""
    place = folder / name
    if not place.exists():
        with room_for(folder):
            place.mkdir(exist_ok=True)
            descriptor = os.open(folder, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
    return place


@router.get(
    "/pictures/{sha256}",
    dependencies=[Depends(needs("search"))],
    response_class=Response,
    responses={
        200: {"content": {"image/jpeg": {}}, "description": "the thumbnail"},
        304: {"description": "the client has it"},
        404: {"description": "the catalogue has no such picture"},
        410: {"description": "its file has gone or changed"},
        429: {"description": "too many pictures wait to be made smaller: see Retry-After"},
    },
)
async def picture(
    request: Request,
    service: Annotated[Service, Depends(service_of)],
    sha256: str,
    width: Annotated[Width, Query()] = Width.LARGE,
) -> Response:
    """A picture of the catalogue as a JPEG of this width, upright and without metadata."""
    rows = []
    if _SHA256.fullmatch(sha256):
        rows = await run_in_threadpool(service.catalogue.store.find, [sha256])
    if not rows:
        raise Problem(404, "the catalogue has no such picture")
    asked_with_key = "authorization" in request.headers
    headers = {
        "ETag": f'"{sha256}-{width:d}"',
        "Cache-Control": f"{'private' if asked_with_key else 'public'}, {_FOR_EVER}",
    }
    known = request.headers.get("if-none-match", "")
    if headers["ETag"] in known or known.strip() == "*":
        return Response(status_code=304, headers=headers)
    content = await _thumbnail(request, service, rows, width)
    return Response(content, media_type="image/jpeg", headers=headers)


@dataclass(slots=True)
class _Making:
    """One app's thumbnails in the making: each once, and few at a time, for searches decode pictures too."""

    turns: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(max(1, cores() // 2)))
    by_path: WeakValueDictionary[Path, asyncio.Lock] = field(default_factory=WeakValueDictionary)


async def _thumbnail(request: Request, service: Service, rows: list[Row], width: int) -> bytes:
    """The file's content, made where it is not there. Problem 410 where there is nothing to make it of."""
    state = request.app.state
    if not hasattr(state, "making"):
        state.making = _Making()
    making: _Making = state.making
    path = _thumbnail_of(service.folder, rows[0].sha256, width)
    with suppress(OSError):  # not there yet
        return await run_in_threadpool(path.read_bytes)
    with service.thumbnails.place():
        return await _made(making, service, rows, width, path)


async def _made(making: _Making, service: Service, rows: list[Row], width: int, path: Path) -> bytes:
    async with making.by_path.setdefault(path, asyncio.Lock()):
        with suppress(OSError):  # another one may have made it meanwhile
            return await run_in_threadpool(path.read_bytes)
        async with making.turns:
            data = await run_in_threadpool(original, rows)
            if data is None:
                raise Problem(410, "the picture's file has gone, or is not the one that was indexed")
            try:
                picture = await service.decoder.decode(data)
            except BadPicture:
                raise Problem(410, "the picture is too large for a thumbnail, or broken") from None
            content = await run_in_threadpool(_shrunk, picture, width)
            with suppress(CatalogueError):  # where nothing can be written they are made each time
                await run_in_threadpool(_put, path, content)
    find = service.catalogue.store.find
    if not await run_in_threadpool(find, [rows[0].sha256]):  # it was removed meanwhile
        with suppress(OSError):
            path.unlink()
    return content


def _thumbnail_of(folder: Path, sha256: str, width: int) -> Path:
    return folder / THUMBNAILS / f"{sha256}-{width:d}.jpg"


def original(rows: Sequence[Row]) -> bytes | None:
    """The file of a picture, under any of the names that it was indexed by; None where it has gone."""
    for row in rows:
        with suppress(BadPicture, ObjectError):
            data = images.read(row.source)
            if hashlib.sha256(data).hexdigest() == row.sha256:
                return data
    return None


def _shrunk(picture: Picture, width: int) -> bytes:
    image = Image.fromarray(picture.pixels)
    image.thumbnail((width, _TALL * width), Image.Resampling.LANCZOS)
    file = BytesIO()
    image.save(file, "JPEG", quality=85, optimize=True, progressive=True)
    return file.getvalue()


def _put(path: Path, content: bytes) -> None:
    """Write a file that is whole or not there; other processes may be writing the same."""
    with room_for(path.parent):
        path.parent.mkdir(exist_ok=True)
        part = path.with_suffix(f".{secrets.token_hex(8)}.part")
        try:
            with part.open("xb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            part.replace(path)
        except BaseException:
            part.unlink(missing_ok=True)
            raise
