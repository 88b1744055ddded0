"""Searching over HTTP: by pictures, an item, a vector, words, or a picture with words."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeVar, cast

import numpy as np
from fastapi import APIRouter, Depends, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from starlette.datastructures import UploadFile

from lookalike import images
from lookalike.captions import Vocabulary
from lookalike.errors import BadInput, BadPicture
from lookalike.explain import patch_similarity
from lookalike.refining import Refinement, refined
from lookalike.server.access import needs
from lookalike.server.limits import Limits
from lookalike.server.problems import Problem, faults
from lookalike.server.service import Service, service_of
from lookalike.values import Box, Floats, Hit, Hits, Picture, Region

router = APIRouter(prefix="/v1", tags=["search"])
Asked = TypeVar("Asked", bound=BaseModel)
_TEXT = Limits().text
_FIELD_BYTES = 64 * 1024  # of a form's field that is no picture


def _corners(value: object) -> object:
    """A box as forms write it, "x0,y0,x1,y1"."""
    return value.split(",") if isinstance(value, str) else value


Corners = Annotated[
    tuple[float, float, float, float],
    BeforeValidator(_corners),
    Field(description="x0, y0, x1, y1 in pixels of the upright picture", examples=[[40, 20, 300, 420]]),
]


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
    where: str | None = Field(None, max_length=_TEXT, examples=["price < 50 and color = 'red'"])
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


def _body(model: type[BaseModel], example: object = None, pictured: bool = True) -> dict[str, Any]:
    """The body of an operation in OpenAPI: JSON like the example, where `pictured` a form with pictures."""
    schema = model.model_json_schema()
    schema = _without_references(schema, schema.pop("$defs", {}))
    content: dict[str, Any] = {}
    if pictured:
        fields: dict[str, Any] = {
            name: {**each, "type": "string"} if name.endswith("box") else each
            for name, each in schema["properties"].items()
            if name not in ("item", "vector", "url") or model is Explanation
        }
        picture = {"type": "array", "items": {"type": "string", "format": "binary"}, "maxItems": 16}
        form = {"type": "object", "properties": {"picture": picture, **fields}, "additionalProperties": False}
        content["multipart/form-data"] = {"schema": form}
    if example is not None:
        content["application/json"] = {"schema": schema, "example": example}
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


_QUESTION = {"text": "felt hat", "where": "price < 50", "top": 5}
_INPUTS = {"input": ["a felt hat"]}


@router.post("/search", dependencies=[Depends(needs("search"))], openapi_extra=_body(Question, _QUESTION))
async def search(request: Request, service: Annotated[Service, Depends(service_of)]) -> Response:
    """The items most like a picture, an item, a descriptor, or words.

    With `caption` and `Accept: text/event-stream` hits come at once as the event `hits`, then what became of
    the caption as `caption`, and, where it changes anything, other hits as `refined`; `done` is last.
    """
    async with _form(request, service, Question) as (question, files):
        given = [name for name in ("item", "vector", "url") if getattr(question, name) is not None]
        if len(given) + bool(files) > 1:
            raise Problem(422, "more than one thing to search with", "send pictures, item, vector or url")
        if not given and not files and not question.text:
            raise Problem(422, "nothing to search with", "send a picture, item, vector, url or text")
        if question.caption:
            _check_caption(service, question, len(files) + (question.url is not None))
        fetched = [] if question.url is None else [await _fetched(service, question.url)]
        async with service.turn(request):  # pictures take memory from here on
            data = fetched or [await file.read() for file in files]
            began = time.perf_counter()
            pictures = [await service.decoder.decode(each) for each in data]
            decode_ms = (time.perf_counter() - began) * 1000
            like = await service.run(_like, service, question)
            asking = _Asking(service, question, pictures, like, decode_ms)
            if not question.caption:
                return JSONResponse(await service.run(asking.answer))
            steps = asking.refined()
            first = cast("Hits", await service.run(next, steps))
    if "text/event-stream" in request.headers.get("accept", ""):
        stream = _events(service, asking, steps, first)
        return StreamingResponse(stream, media_type="text/event-stream", headers={"X-Accel-Buffering": "no"})
    told = cast("Refinement", await service.later(next, steps))
    service.watch.caption(told.outcome)
    return JSONResponse(asking.document(told.hits or first, told))


@router.post("/explain", dependencies=[Depends(needs("search"))], openapi_extra=_body(Explanation))
async def explain(request: Request, service: Annotated[Service, Depends(service_of)]) -> Response:
    """Why an item was found: which patches of the query and of the item's picture look alike, 0 to 1."""
    async with _form(request, service, Explanation) as (question, files):
        if len(files) != 1:
            raise Problem(422, "an explanation takes one picture", "send it as the form's field picture")
        rows = await service.run(service.catalogue.store.find, [question.sha256])
        row = next((row for row in rows if row.item.id == question.item), None)
        if row is None:
            raise Problem(404, "the catalogue has no such picture of this item")
        async with service.turn(request):
            ours = Region(await service.decoder.decode(await files[0].read()), _box(question.box))
            try:
                found = await service.decoder.decode(await service.run(images.read, row.source))
            except BadPicture:
                raise Problem(404, "the item's picture cannot be read any more") from None
            theirs = Region(found, _box(question.hit_box) or row.box)
            alike = await service.run(patch_similarity, service.catalogue.encoder, ours, theirs)
    claims = [claim.text for claim in row.caption.claims if claim.believed] if row.caption else []
    said = {claim.text for claim in Vocabulary.open("fashion").heard(question.words or "")}
    return JSONResponse(
        {
            "query": {"box": _listed(ours.box), "patches": _rounded(alike[0])},
            "hit": {"box": _listed(theirs.box), "patches": _rounded(alike[1]), "picture": _place(row.sha256)},
            "words": {
                "shared": [text for text in claims if text in said],
                "theirs": [text for text in claims if text not in said],
            },
        }
    )


@router.post(
    "/embeddings",
    dependencies=[Depends(needs("search"))],
    openapi_extra=_body(Inputs, _INPUTS, pictured=False),
)
async def embeddings(request: Request, service: Annotated[Service, Depends(service_of)]) -> dict[str, Any]:
    """Descriptors of words and pictures, as the catalogue's encoder makes them; unit length."""
    async with _form(request, service, Inputs) as (inputs, files):
        if files:
            raise Problem(415, "a body of another kind", "send application/json")
    encoder = service.catalogue.encoder
    if inputs.model not in (None, encoder.name):
        raise Problem(422, "another model than the catalogue's", f"leave model out, or say {encoder.name}")
    wanted = [inputs.input] if isinstance(inputs.input, str) else inputs.input
    if not 1 <= len(wanted) <= service.limits.vectors:
        raise Problem(422, f"{len(wanted)} inputs", f"send 1 to {service.limits.vectors}")
    texts = {place: each for place, each in enumerate(wanted) if isinstance(each, str)}
    files_of = {place: _decoded(each.image) for place, each in enumerate(wanted) if isinstance(each, Image)}
    rows: dict[int, Floats] = {}
    async with service.turn(request):
        if texts:
            said = await service.run(encoder.texts, list(texts.values()))
            if said is None:
                hint = "send pictures, or index with --encoder compact"
                raise Problem(422, f"{encoder.name} has no language", hint)
            rows |= dict(zip(texts, said, strict=True))
        for place, file in files_of.items():
            region = Region(await service.decoder.decode(file))
            rows[place] = (await service.run(encoder.pictures, [region]))[0]
    data = [
        {"object": "embedding", "index": place, "embedding": [round(float(each), 6) for each in rows[place]]}
        for place in range(len(wanted))
    ]
    usage = {"prompt_tokens": 0, "total_tokens": 0}  # none are counted: clients of OpenAI's want the field
    return {"object": "list", "model": encoder.name, "data": data, "usage": usage}


@router.get("/catalogue", dependencies=[Depends(needs("search"))])
async def catalogue(service: Annotated[Service, Depends(service_of)]) -> dict[str, Any]:
    """What is searched in, and what filters can ask of it."""
    return await service.run(_about, service)


def _about(service: Service) -> dict[str, Any]:
    shop = service.catalogue
    counts = shop.store.count()
    with shop.store.view() as view:
        facets, version = view.facets(20), view.version
    told = service.captioner is not None
    try:
        shop.check_query_captions()
    except BadInput:
        told = False
    return {
        "items": counts.items, "pictures": counts.pictures, "regions": counts.regions,
        "captions": counts.captions, "encoder": shop.encoder.name, "regime": shop.regime,
        "version": version, "language": shop.language is not None, "captions_at_query": told,
        "filters": {
            name: {"kind": _kind(facet.values), "items": facet.items, "values": list(facet.values)}
            for name, facet in facets.items()
        },
    }  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Asking:
    """A question with its pictures decoded; its methods take their time and run in threads."""

    service: Service
    question: Question
    pictures: Sequence[Picture]
    like: Floats | None
    decode_ms: float

    def answer(self) -> dict[str, Any]:
        first = self._search(list(self.pictures) or None, _box(self.question.box))
        if self.question.regions == "best" or not first.found:
            return self.document(first)
        each = [first if first.region is region else self._search(region, None) for region in first.found]
        told = self.document(first)
        del told["hits"], told["more"], told["confident"]
        told["groups"] = [
            {"box": _listed(region.box), "score": region.score, **self._page(hits)}
            for region, hits in zip(first.found, each, strict=True)
        ]
        return told

    def refined(self) -> Any:
        """First hits, then what became of the caption; see `refining.refined`."""
        captioner = self.service.captioner
        assert captioner is not None
        question = self.question
        return refined(
            self.service.catalogue, captioner, self.pictures[0], _box(question.box), question.where,
            self._wanted, self.service.deadline_s,
        )  # fmt: skip

    def document(self, hits: Hits, refinement: Refinement | None = None) -> dict[str, Any]:
        """The answer: what was searched, and one page of hits."""
        timings = dict(hits.timings_ms)
        timings["decode"] = round(self.decode_ms, 3)
        timings["total"] = round(timings["total"] + self.decode_ms, 3)
        for stage, ms in timings.items():
            self.service.watch.stage(stage, ms / 1000)
        picture = self.pictures[0] if self.pictures else None
        box = hits.region.box if hits.region else None
        caption = refinement.caption if refinement else None
        return {
            "query": {
                "size": [picture.width, picture.height] if picture else None,
                "box": _listed(box),
                "caption": caption.text if caption else None,
            },
            "regions": [{"box": _listed(region.box), "score": region.score} for region in hits.found],
            **self._page(hits),
            "offset": self.question.offset,
            "timings_ms": timings,
            "version": self.service.version(),
        }

    @property
    def _wanted(self) -> int:
        """How many hits: those before the page, the page, one that tells of more, and the item itself."""
        return self.question.offset + self.question.top + 1 + (self.question.item is not None)

    def _search(self, picture: Any, box: Box | None) -> Hits:
        question = self.question
        return self.service.catalogue.search(
            picture, box, question.text, question.where, self._wanted, like=self.like
        )

    def _page(self, hits: Hits) -> dict[str, Any]:
        start, top = self.question.offset, self.question.top
        others = [hit for hit in hits if hit.item != self.question.item]
        shown = others[start : start + top]
        return {
            "hits": [_hit(hit) for hit in shown],
            "more": len(others) > start + top,
            "confident": hits.confident,
        }


async def _events(service: Service, asking: _Asking, steps: Any, first: Hits) -> AsyncIterator[str]:
    yield _event("hits", asking.document(first))
    told = cast("Refinement", await service.later(next, steps))
    service.watch.caption(told.outcome)
    caption = told.caption
    yield _event(
        "caption",
        {
            "outcome": told.outcome,
            "text": caption.text if caption else None,
            "by": caption.by if caption else None,
            "claims": [claim.as_json() for claim in caption.claims] if caption else [],
            "ms": round(told.ms, 1),
        },
    )
    if told.hits is not None:
        yield _event("refined", asking.document(told.hits, told))
    yield _event("done", {})


def _event(name: str, told: Mapping[str, Any]) -> str:
    return f"event: {name}\ndata: {json.dumps(told)}\n\n"


@asynccontextmanager
async def _form(
    request: Request, service: Service, model: type[Asked]
) -> AsyncIterator[tuple[Asked, list[UploadFile]]]:
    """The fields of a request, JSON or a form, and the pictures of a form, not yet in memory."""
    service.check_line()
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


def _check_caption(service: Service, question: Question, pictures: int) -> None:
    if pictures != 1 or question.text or question.regions == "each":
        raise Problem(422, "a caption goes with one picture alone", "leave out text, regions and others")
    if service.captioner is None:
        raise Problem(422, "this service writes no captions", "leave caption out")


async def _fetched(service: Service, url: str) -> bytes:
    if service.fetcher is None:
        raise Problem(422, "this service fetches no pictures", "send the picture itself")
    return await service.fetcher.fetch(url)


def _like(service: Service, question: Question) -> Floats | None:
    """The descriptors (V, D) of what is searched like, where no picture is."""
    if question.vector is not None:
        return np.array([question.vector], np.float32)
    if question.item is None:
        return None
    rows = service.catalogue.store.rows_of(question.item)
    if not rows:
        raise Problem(404, "the catalogue has no such item")
    return np.stack([row.vector for row in rows])


def _decoded(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except ValueError:  # characters beyond ASCII are one, too
        raise Problem(422, "an image that is not base64") from None


def _hit(hit: Hit) -> dict[str, Any]:
    """A hit without the place where the server keeps its picture."""
    return {**hit.as_json(), "picture": _place(hit.sha256), "sha256": hit.sha256}


def _place(sha256: str) -> str:
    return f"/v1/pictures/{sha256}"


def _box(corners: Sequence[float] | None) -> Box | None:
    return None if corners is None else Box(*corners)


def _listed(box: Box | None) -> list[float] | None:
    return None if box is None else list(box.corners)


def _rounded(patches: Floats) -> list[list[float]]:
    return cast("list[list[float]]", patches.round(3).tolist())


def _kind(values: Iterable[object]) -> str:
    kinds = {type(value) for value in values}
    if kinds <= {bool}:
        return "boolean"
    return "number" if kinds <= {int, float} else "text"
