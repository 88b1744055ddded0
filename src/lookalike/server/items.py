"""Items over HTTP: put, got, removed, listed. What is answered with success is on disk.

All writing of this process is done by one thread, which takes the catalogue's writer lock each time: another
process, such as `lookalike index`, may hold it. Encoding for the catalogue happens in that thread too.
"""

from __future__ import annotations

import asyncio
import os
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any, ParamSpec, TypeVar
from urllib.parse import quote

from fastapi import APIRouter, Depends, Query, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse, Response
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StrictBool,
    StrictFloat,
    StrictInt,
    ValidationError,
)
from starlette.datastructures import UploadFile

from lookalike.catalogue import Catalogue
from lookalike.datasets import Listed
from lookalike.errors import BadInput, BadPicture, CatalogueBusy
from lookalike.server import answers
from lookalike.server.access import needs
from lookalike.server.limits import Limits
from lookalike.server.pictures import ORIGIN, Upload, forget, keep, place_of, upload
from lookalike.server.problems import Problem, faults
from lookalike.server.service import Service, service_of
from lookalike.values import AttributeValue, Box, Item, Row, corners_of

router = APIRouter(prefix="/v1", tags=["items"])
P = ParamSpec("P")
R = TypeVar("R")

_WRITER = ThreadPoolExecutor(1, "lookalike-write")  # this process's one; its thread starts when it is asked
_PATIENCE_S = 5.0  # of a request that waits for those who write before it
_PAUSE_S = 0.02  # between two tries to become the catalogue's writer
_FIELD_BYTES = 512 * 1024  # of a form's field that is no picture
_ID, _TEXT, _ATTRIBUTES, _VALUES = 200, Limits().text, 200, 200
_PNG = b"\x89PNG"


def _plain(value: object) -> object:
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        raise ValueError("a whole number beyond 64 bits: give it as text")
    return value


Text = Annotated[str, Field(max_length=_TEXT, pattern=r"^[^\x00]*$")]
Scalar = Annotated[StrictBool | StrictInt | StrictFloat | Text, BeforeValidator(_plain)]
Name = Annotated[str, Field(min_length=1, max_length=100, pattern=r"^[^\x00]*$")]
Corners = tuple[float, float, float, float]


class Description(BaseModel):
    """What is told of an item besides its pictures."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    title: Text = ""
    attributes: Annotated[
        dict[Name, Scalar | Annotated[list[Scalar], Field(min_length=1, max_length=_VALUES)]],
        Field(
            max_length=_ATTRIBUTES, description="text, numbers, booleans; several in a list, one as itself"
        ),
    ] = {}
    boxes: list[Corners | None] = Field(
        [],
        description="for each picture x0, y0, x1, y1 of the item in its pixels, or null; or none at all",
    )

    def of(self, id: str) -> Item:
        """The item; BadInput where the id cannot be one."""
        attributes: dict[str, AttributeValue | tuple[AttributeValue, ...]] = {
            name: tuple(value) if isinstance(value, list) else value
            for name, value in self.attributes.items()
        }
        return Item(checked_id(id), self.title, attributes)


@dataclass(frozen=True, slots=True)
class Wanted:
    """An item as it is to be. Without pictures it keeps those that it has."""

    item: Item
    pictures: tuple[Upload, ...]


class Page(BaseModel):
    """Where to go on, and how far."""

    model_config = ConfigDict(extra="forbid")

    after: str = Field("", description="the `next` of the page before")
    limit: int = Field(100, ge=1, le=1000)


_FORM = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "properties": {
                        "item": Description.model_json_schema(),
                        "picture": {
                            "type": "array",
                            "items": {"type": "string", "format": "binary"},
                            "maxItems": Limits().pictures,
                        },
                    },
                    "additionalProperties": False,
                },
                "encoding": {"item": {"contentType": "application/json"}},
                "example": {"item": {"title": "Waxed jacket", "attributes": {"price": 129}}},
            }
        },
    }
}
_WRITTEN: dict[int | str, dict[str, Any]] = {
    429: {"description": "too many others write: see Retry-After"},
    503: {"description": "another process writes to the catalogue: see Retry-After"},
}


@router.put(
    "/items/{id:path}",
    dependencies=[Depends(needs("write"))],
    openapi_extra=_FORM,
    **answers.answered(
        answers.Item,
        others={201: {"model": answers.Item, "description": "there was no such item before"}, **_WRITTEN},
    ),
)
async def put_item(
    request: Request, service: Annotated[Service, Depends(service_of)], id: str
) -> JSONResponse:
    """Make an item, or replace it: its title, attributes and pictures are exactly those sent.

    Without pictures only title and attributes change; a new item needs one. Pictures are kept without
    metadata, at the size that the encoder wants; sizes and boxes that are answered speak of these.
    """
    checked_id(id)
    service.writes.check()
    described, data = await _form(request, service.limits)
    with service.writes.place():
        wanted = await prepared(service, id, described, data)
        new, rows = (await in_turn(service, replaced, service.catalogue, service.folder, [wanted]))[0]
    place = {"Location": _place(id)} if new else None
    return JSONResponse(_document(rows), 201 if new else 200, place)


@router.get(
    "/items/{id:path}",
    dependencies=[Depends(needs("search"))],
    **answers.answered(answers.Item, others={404: {"description": "the catalogue has no such item"}}),
)
async def get_item(service: Annotated[Service, Depends(service_of)], id: str) -> dict[str, Any]:
    """An item with its pictures, and what is known of their regions."""
    rows = await run_in_threadpool(service.catalogue.store.rows_of, id)
    if not rows:
        raise Problem(404, "the catalogue has no such item")
    return _document(rows)


@router.delete(
    "/items/{id:path}",
    dependencies=[Depends(needs("write"))],
    status_code=204,
    responses={404: {"description": "the catalogue has no such item"}, **_WRITTEN},
)
async def delete_item(service: Annotated[Service, Depends(service_of)], id: str) -> Response:
    """Remove an item with its pictures, thumbnails and all."""
    if not await in_turn(service, _removed, service.catalogue, service.folder, id):
        raise Problem(404, "the catalogue has no such item")
    return Response(status_code=204)


@router.get("/items", dependencies=[Depends(needs("search"))], **answers.answered(answers.Items))
async def list_items(
    service: Annotated[Service, Depends(service_of)], page: Annotated[Page, Query()]
) -> dict[str, Any]:
    """Ids and titles in the order of ids; `next` is null on the last page."""
    found = await run_in_threadpool(service.catalogue.store.items_after, page.after, page.limit + 1)
    shown = found[: page.limit]
    return {
        "items": [{"item": id, "title": title} for id, title in shown],
        "next": shown[-1][0] if len(found) > page.limit else None,
    }


def checked_id(id: str) -> str:
    """BadInput unless it is 1 to 200 characters without control characters; it names no file anywhere."""
    if not 1 <= len(id) <= _ID:
        raise BadInput(f"an item's id has 1 to {_ID} characters, this one {len(id)}")
    if any(unicodedata.category(char) in ("Cc", "Cs") or char == "\ufffd" for char in id):
        raise BadInput("an item's id is UTF-8 text without control characters")
    return id


async def prepared(service: Service, id: str, described: Description, data: Sequence[bytes]) -> Wanted:
    """Decode pictures one by one, each in a worker process. BadPicture or BadInput where one is no good."""
    item = described.of(id)
    if described.boxes and len(described.boxes) != len(data):
        raise BadInput(f"{len(described.boxes)} boxes for {len(data)} pictures")
    pictures: dict[tuple[str, Box | None], Upload] = {}
    for place, content in enumerate(data):
        try:
            picture = await service.decoder.decode(content)
            corners = described.boxes[place] if described.boxes else None
            box = None if corners is None else Box(*corners)
            kept = await run_in_threadpool(upload, picture, box, content.startswith(_PNG))
        except (BadPicture, BadInput) as error:
            raise type(error)(f"picture {place + 1}: {error}", error.hint) from None
        pictures[kept.sha256, kept.box] = kept  # the same once more is the same picture
    return Wanted(item, tuple(pictures.values()))


def replaced(
    catalogue: Catalogue, folder: Path, wanted: Sequence[Wanted], facts: Mapping[str, str] | None = None
) -> list[tuple[bool, list[Row]]]:
    """In the writing thread: make items what they are to be, all or none; -> whether each is new, its rows.

    `facts` go into the catalogue's meta with them. Pictures that no item has any more go.
    """
    folder = folder.absolute()  # as the catalogue keeps it
    with catalogue.writing() as store:
        before = {each.item.id: store.rows_of(each.item.id) for each in wanted}
        touched = {row.sha256 for rows in before.values() for row in rows}
        touched |= {picture.sha256 for each in wanted for picture in each.pictures}
        try:
            listed = [
                Listed(each.item, str(keep(folder, picture)), picture.box)
                for each in wanted
                for picture in each.pictures
            ]
            catalogue.put(store, [each.item for each in wanted], listed, ORIGIN, facts)
        except (BadPicture, BadInput) as error:  # which names a file by its full path
            raise type(error)(str(error).replace(f"{folder}{os.sep}", ""), error.hint) from None
        finally:
            forget(folder, store, touched)
        return [(not before[each.item.id], store.rows_of(each.item.id)) for each in wanted]


async def in_turn(service: Service, job: Callable[P, R], /, *args: P.args, **named: P.kwargs) -> R:
    """Run in the thread that writes: 429 where that is busy with others for longer than a request can wait,
    503 where another process writes for as long.
    """
    clock = asyncio.get_running_loop().time
    until = clock() + _PATIENCE_S
    while True:
        future = _WRITER.submit(partial(job, *args, **named))
        waiting = asyncio.wrap_future(future)
        done, _ = await asyncio.wait([waiting], timeout=until - clock())
        if not done and future.cancel():
            service.watch.refused("queue")
            raise Problem(429, "too many are writing", "try again later", {"Retry-After": "5"})
        try:
            return await waiting  # what has begun is not left
        except CatalogueBusy:
            if clock() + _PAUSE_S > until:
                break
        await asyncio.sleep(_PAUSE_S)
    service.watch.refused("queue")
    raise Problem(503, "the catalogue is being written by another", "try again later", {"Retry-After": "5"})


async def in_writer(job: Callable[P, R], /, *args: P.args, **named: P.kwargs) -> R:
    """Run in the thread that writes, after those that wait for it already."""
    return await asyncio.wrap_future(_WRITER.submit(partial(job, *args, **named)))


def _removed(catalogue: Catalogue, folder: Path, id: str) -> bool:
    """In the writing thread: whether there was such an item."""
    with catalogue.open_writer() as store:
        rows = store.rows_of(id)
        if rows:
            store.remove([id])
            forget(folder, store, (row.sha256 for row in rows))
    return bool(rows)


async def _form(request: Request, limits: Limits) -> tuple[Description, list[bytes]]:
    """The description and the pictures of a form."""
    if not request.headers.get("content-type", "").lower().startswith("multipart/form-data"):
        raise Problem(415, "a body of another kind", "send multipart/form-data")
    described: str | bytes = "{}"
    data: list[bytes] = []
    most = limits.pictures
    async with request.form(max_files=most + 1, max_fields=2, max_part_size=_FIELD_BYTES) as form:
        for name, value in form.multi_items():
            if isinstance(value, UploadFile) and name == "picture":
                data.append(await value.read())
            elif isinstance(value, UploadFile) and name == "item":  # as a part with a name and a type
                described = await value.read()
            elif name == "item" and isinstance(value, str):
                described = value
            else:
                raise Problem(422, "a field that is not known", "send item, and picture for each picture")
    if len(data) > most:
        raise Problem(422, f"{len(data)} pictures, at most {most} are allowed")
    try:
        return Description.model_validate_json(described), data
    except ValidationError as error:
        raise Problem(422, faults(error, "item"), "see /docs") from None


def _document(rows: Sequence[Row]) -> dict[str, Any]:
    item = rows[0].item
    pictures: dict[str, list[Row]] = {}
    for row in rows:
        pictures.setdefault(row.sha256, []).append(row)
    return {
        "item": item.id,
        "title": item.title,
        "attributes": dict(item.attributes),
        "pictures": [
            {
                "picture": place_of(sha256),
                "sha256": sha256,
                "width": regions[0].width,
                "height": regions[0].height,
                "regions": [_region(row) for row in regions],
            }
            for sha256, regions in pictures.items()
        ],
    }


def _region(row: Row) -> dict[str, Any]:
    return {
        "box": corners_of(row.box),
        "caption": row.caption.text if row.caption else None,
        "claims": [claim.as_json() for claim in row.caption.claims] if row.caption else [],
    }


def _place(id: str) -> str:
    return f"/v1/items/{quote(id, safe='')}"
