"""What can be asked, how OpenAPI tells of it, and how it is read: as JSON, or as a form with pictures."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Annotated, Any, Literal, TypeVar

from fastapi import Request
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from starlette.datastructures import UploadFile

from lookalike.server.limits import Limits
from lookalike.server.problems import Problem, faults
from lookalike.server.service import Service

Asked = TypeVar("Asked", bound=BaseModel)
_TEXT = Limits().text
_FIELD_BYTES = 64 * 1024  # of a form's field that is no picture
A_PICTURE = (  # a red square in base64, for examples that can be sent as they are
    "iVBORw0KGgoAAAANSUhEUgAAACAAAAAgAQMAAABJtOi3AAAAA1BMVEXIHijZMm0HAAAADElEQVR42mNgGNwAAACgAAGO+7G0AAAA"
    "AElFTkSuQmCC"
)


def _corners(value: object) -> object:
    """A box as forms write it, "x0,y0,x1,y1"."""
    return value.split(",") if isinstance(value, str) else value


Corners = Annotated[
    tuple[float, float, float, float],
    BeforeValidator(_corners),
    Field(description="x0, y0, x1, y1 in pixels of the upright picture", examples=[[40, 20, 300, 420]]),
]


_CORNERS = {  # in a form
    "type": "string",
    "description": "x0,y0,x1,y1 in pixels of the upright picture",
    "examples": ["40,20,300,420"],
}


class _Strict(BaseModel):
    """What every question has in common: no field that is not known."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


class Question(_Strict):
    """What to search with and for. In a form, pictures come as `picture` and the rest as fields."""

    item: str | None = Field(None, max_length=200, description="like this item of the catalogue")
    vector: list[float] | None = Field(None, max_length=65_536, description="like this descriptor")
    url: str | None = Field(
        None, max_length=2_000, description="a picture elsewhere, where the service allows it"
    )
    text: str | None = Field(None, max_length=_TEXT, description="words: alone, or with what is looked like")
    box: Corners | None = None
    where: str | None = Field(None, max_length=_TEXT, description="a filter, as in price < 50")
    top: int = Field(10, ge=1, le=Limits().top)
    offset: int = Field(0, ge=0, le=Limits().deepest)
    regions: Literal["best", "each"] = "best"
    caption: bool = Field(False, description="refine the hits by a caption that is written meanwhile")


class Explanation(_Strict):
    """Which hit to explain: an item, and which of its pictures."""

    item: str = Field(max_length=200)
    sha256: str = Field(pattern="^[0-9a-f]{64}$")
    box: Corners | None = None
    hit_box: Corners | None = None
    words: str | None = Field(None, max_length=_TEXT, description="what was said of the query")


class Image(_Strict):
    image: str = Field(description="base64 of a picture's file")


class Inputs(_Strict):
    """OpenAI's form: one input or several, words or pictures."""

    input: Annotated[str, Field(max_length=_TEXT)] | list[Annotated[str, Field(max_length=_TEXT)] | Image]
    model: str | None = Field(None, max_length=200)


def body(
    model: type[BaseModel], json_example: object = None, form_example: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """The body of an operation in OpenAPI: JSON, a form with pictures, or both, as there are examples.

    That of a form is without its pictures.
    """
    schema = model.model_json_schema()
    schema = _without_references(schema, schema.pop("$defs", {}))
    content: dict[str, Any] = {}
    if form_example is not None:
        fields: dict[str, Any] = {
            name: _CORNERS if name.endswith("box") else each
            for name, each in schema["properties"].items()
            if name not in ("item", "vector", "url") or model is Explanation
        }
        picture = {"type": "array", "items": {"type": "string", "format": "binary"}, "maxItems": 16}
        form = {
            "type": "object",
            "properties": {"picture": picture, **fields},
            "required": schema.get("required", []),
            "additionalProperties": False,
        }
        content["multipart/form-data"] = {"schema": form, "example": form_example}
    if json_example is not None:
        content["application/json"] = {"schema": schema, "example": json_example}
    return {"requestBody": {"required": True, "content": content}}


def _without_references(schema: Any, known: Mapping[str, Any]) -> Any:
    """A schema with what it refers to in the place of the references."""
    if isinstance(schema, list):
        return [_without_references(each, known) for each in schema]
    if not isinstance(schema, dict):
        return schema
    if "$ref" in schema:
        return _without_references(known[schema["$ref"].rpartition("/")[2]], known)
    return {name: _without_references(each, known) for name, each in schema.items()}


@asynccontextmanager
async def asked(
    request: Request, service: Service, model: type[Asked]
) -> AsyncIterator[tuple[Asked, list[UploadFile]]]:
    """The fields of a request, JSON or a form, and the pictures of a form, not yet in memory."""
    service.searches.check()
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == "application/json":
        try:
            fields = json.loads(await request.body())
        except (ValueError, RecursionError):
            raise Problem(400, "the body is not JSON") from None
        yield _valid(model, fields), []
        return
    if kind != "multipart/form-data":
        raise Problem(415, "a body of another kind", "send multipart/form-data or application/json")
    async with request.form(
        max_files=service.limits.pictures, max_fields=len(model.model_fields), max_part_size=_FIELD_BYTES
    ) as form:
        fields, files = {}, []
        for name, value in form.multi_items():
            if isinstance(value, UploadFile):
                if name != "picture":
                    raise Problem(422, "a file under another name than picture")
                files.append(value)
            elif name in fields:
                raise Problem(422, f"{name[:40]} is given twice")
            elif value != "":
                fields[name] = value
        yield _valid(model, fields), files


def _valid(model: type[Asked], fields: object) -> Asked:
    try:
        return model.model_validate(fields)
    except ValidationError as error:
        raise Problem(422, faults(error), "see /docs") from None
