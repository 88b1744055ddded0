"""Searching over HTTP: by pictures, an item, a vector, words, or a picture with words."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Annotated, Any, cast

import numpy as np
from fastapi import APIRouter, Depends, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse

from lookalike.captions import Vocabulary
from lookalike.errors import BadInput, BadPicture, LookalikeError
from lookalike.explain import patch_similarity
from lookalike.refining import Refinement, refined
from lookalike.server.access import needs
from lookalike.server.answers import STREAM, About, Answer, Embeddings, Why, answered
from lookalike.server.pictures import from_base64, original, place_of
from lookalike.server.problems import Problem, problem_of
from lookalike.server.questions import A_PICTURE, Explanation, Image, Inputs, Question, asked, body
from lookalike.server.service import Service, public_name, service_of
from lookalike.values import Box, Floats, Hit, Hits, Picture, Region, Row, corners_of

router = APIRouter(prefix="/v1", tags=["search"])


@router.post(
    "/search",
    dependencies=[Depends(needs("search"))],
    openapi_extra=body(Question, {"text": "felt hat", "top": 5}, {"top": 5}),
    **answered(Answer, about=STREAM),
)
async def search(request: Request, service: Annotated[Service, Depends(service_of)]) -> Response:
    """The items most like a picture, an item, a descriptor, or words.

    With `caption` and `Accept: text/event-stream` hits come at once as the event `hits`, then what became of
    the caption as `caption`, and, where it changes anything, other hits as `refined`; `done` is last. What
    goes wrong after the first hits comes as `problem`.
    """
    async with asked(request, service, Question) as (question, files):
        given = [name for name in ("item", "vector", "url") if getattr(question, name) is not None]
        if len(given) + bool(files) > 1:
            raise Problem(422, "more than one thing to search with", "send pictures, item, vector or url")
        if not given and not files and not question.text:
            raise Problem(422, "nothing to search with", "send a picture, item, vector, url or text")
        if question.regions == "each" and len(files) > 1:
            raise Problem(422, "each region goes with one picture", "leave out regions, or other pictures")
        if question.caption:
            _check_caption(service, question, len(files) + (question.url is not None))
        fetched = [] if question.url is None else [await _fetched(service, question.url)]
        async with service.turn(request):  # pictures take memory from here on
            data = fetched or [await file.read() for file in files]
            began = time.perf_counter()
            pictures = [await service.decoder.decode(each) for each in data]
            decode_ms = (time.perf_counter() - began) * 1000
            await service.stays(request)
            asking = _Asking(service, question, pictures, decode_ms)
            if not question.caption:
                return JSONResponse(await service.run(asking.answer))
            steps = asking.refined()
            first = cast("Hits", await service.run(next, steps))
    if "text/event-stream" in request.headers.get("accept", ""):
        stream = _events(service, asking, steps, first)
        return StreamingResponse(stream, media_type="text/event-stream", headers={"X-Accel-Buffering": "no"})
    await service.stays(request)
    told = cast("Refinement", await service.later(next, steps))
    service.watch.caption(told.outcome)
    return JSONResponse(asking.document(told.hits or first, told))


@router.post(
    "/explain",
    dependencies=[Depends(needs("search"))],
    openapi_extra=body(Explanation, None, {"item": "jacket-1", "sha256": "5c1f" * 16}),
    **answered(Why),
)
async def explain(request: Request, service: Annotated[Service, Depends(service_of)]) -> Response:
    """Why an item was found: which patches of the query and of the item's picture look alike, 0 to 1."""
    async with asked(request, service, Explanation) as (question, files):
        if len(files) != 1:
            raise Problem(422, "an explanation takes one picture", "send it as the form's field picture")
        rows = await service.run(service.catalogue.store.find, [question.sha256])
        row = next((row for row in rows if row.item.id == question.item), None)
        if row is None:
            raise Problem(404, "the catalogue has no such picture of this item")
        async with service.turn(request):
            ours = Region(await service.decoder.decode(await files[0].read()), _box(question.box))
            found = await _found(service, row)
            theirs = Region(found, _box(question.hit_box) or row.box)
            await service.stays(request)
            alike = await service.run(patch_similarity, service.catalogue.encoder, ours, theirs)
    claims = [claim.text for claim in row.caption.claims if claim.believed] if row.caption else []
    said = {claim.text for claim in Vocabulary.open("fashion").heard(question.words or "")}
    return JSONResponse(
        {
            "query": {"box": corners_of(ours.box), "patches": _rounded(alike[0])},
            "hit": {
                "box": corners_of(theirs.box),
                "patches": _rounded(alike[1]),
                "picture": place_of(row.sha256),
            },
            "words": {
                "shared": [text for text in claims if text in said],
                "theirs": [text for text in claims if text not in said],
            },
        }
    )


@router.post(
    "/embeddings",
    dependencies=[Depends(needs("search"))],
    openapi_extra=body(Inputs, {"input": [{"image": A_PICTURE}]}),
    **answered(Embeddings),
)
async def embeddings(request: Request, service: Annotated[Service, Depends(service_of)]) -> dict[str, Any]:
    """Descriptors of words and pictures, as the catalogue's encoder makes them; unit length."""
    async with asked(request, service, Inputs) as (inputs, files):
        if files:
            raise Problem(415, "a body of another kind", "send application/json")
    encoder = service.catalogue.encoder
    if inputs.model not in (None, encoder.name):
        raise Problem(422, "another model than the catalogue's", f"leave model out, or say {encoder.name}")
    wanted = [inputs.input] if isinstance(inputs.input, str) else inputs.input
    if not 1 <= len(wanted) <= service.limits.vectors:
        raise Problem(422, f"{len(wanted)} inputs", f"send 1 to {service.limits.vectors}")
    texts = {place: each for place, each in enumerate(wanted) if isinstance(each, str)}
    files_of = {
        place: from_base64(each.image) for place, each in enumerate(wanted) if isinstance(each, Image)
    }
    rows: dict[int, Floats] = {}
    async with service.turn(request):
        if texts:
            said = await service.run(encoder.texts, list(texts.values()))
            if said is None:
                hint = "send pictures, or index with --encoder compact"
                raise Problem(422, f"{encoder.name} has no language", hint)
            rows |= dict(zip(texts, said, strict=True))
        for place, file in files_of.items():
            await service.stays(request)
            region = Region(await service.decoder.decode(file))
            rows[place] = (await service.run(encoder.pictures, [region]))[0]
    data = [
        {"object": "embedding", "index": place, "embedding": [round(float(each), 6) for each in rows[place]]}
        for place in range(len(wanted))
    ]
    usage = {"prompt_tokens": 0, "total_tokens": 0}  # none are counted: clients of OpenAI's want the field
    return {"object": "list", "model": encoder.name, "data": data, "usage": usage}


@router.get("/catalogue", dependencies=[Depends(needs("search"))], **answered(About))
async def catalogue(service: Annotated[Service, Depends(service_of)]) -> dict[str, Any]:
    """What is searched in, and what filters can ask of it."""
    return await service.run(_about, service)


def _about(service: Service) -> dict[str, Any]:
    shop = service.catalogue
    counts = shop.store.count()
    with shop.store.view() as view:
        facets, version = service.facets(view), view.version
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
    decode_ms: float

    def answer(self) -> dict[str, Any]:
        like = _like(self.service, self.question)
        first = self._search(list(self.pictures) or None, _box(self.question.box), like)
        if self.question.regions == "best" or not first.found:
            return self.document(first)
        each = [first if first.region is region else self._search(region, None) for region in first.found]
        told = self.document(first)
        del told["hits"], told["more"], told["confident"]
        told["groups"] = [
            {"box": corners_of(region.box), "score": region.score, **self._page(hits)}
            for region, hits in zip(first.found, each, strict=True)
        ]
        return told

    def refined(self) -> Any:
        """First hits, then what became of the caption; see `refining.refined`.

        It is late at once where too many are being written: nobody is asked.
        """
        captioner = self.service.captioner
        assert captioner is not None
        question = self.question
        if captioner.under_way >= self.service.limits.captions:
            return self._bare()
        return refined(
            self.service.catalogue, captioner, self.pictures[0], _box(question.box), question.where,
            self._wanted, self.service.deadline_s,
        )  # fmt: skip

    def _bare(self) -> Iterator[Hits | Refinement]:
        started = time.perf_counter()
        self.service.catalogue.check_query_captions()
        yield self._search(self.pictures[0], _box(self.question.box))
        ms = (time.perf_counter() - started) * 1000
        yield Refinement("late", None, None, ms, ms)

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
                "box": corners_of(box),
                "caption": caption.text if caption else None,
            },
            "regions": [{"box": corners_of(region.box), "score": region.score} for region in hits.found],
            **self._page(hits),
            "offset": self.question.offset,
            "timings_ms": timings,
            "version": hits.version,
        }

    @property
    def _wanted(self) -> int:
        """How many hits: those before the page, the page, one that tells of more, and the item itself."""
        return self.question.offset + self.question.top + 1 + (self.question.item is not None)

    def _search(self, picture: Any, box: Box | None, like: Floats | None = None) -> Hits:
        question = self.question
        return self.service.catalogue.search(
            picture, box, question.text, question.where, self._wanted, like=like
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
    try:
        told = cast("Refinement", await service.later(next, steps))
    except LookalikeError as error:  # the hits stand; the catalogue may have been encoded anew meanwhile
        if (problem := problem_of(error)) is None:
            raise
        yield _event("problem", problem.document())
        yield _event("done", {})
        return
    service.watch.caption(told.outcome)
    caption = told.as_json()  # without its error, which may name a server of ours
    yield _event("caption", {**caption, "by": caption["by"] and public_name(caption["by"])})
    if told.hits is not None:
        yield _event("refined", asking.document(told.hits, told))
    yield _event("done", {})


def _event(name: str, told: Mapping[str, Any]) -> str:
    return f"event: {name}\ndata: {json.dumps(told)}\n\n"


async def _found(service: Service, row: Row) -> Picture:
    """The picture of a row; 404 where its file has gone, or is not the one that was indexed."""
    data = await service.run(original, [row])
    with suppress(BadPicture):
        if data is not None:
            return await service.decoder.decode(data)
    raise Problem(404, "the item's picture cannot be read any more")


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
    service.catalogue.check_encoder()  # these may be another one's already, of another length
    return np.stack([row.vector for row in rows])


def _hit(hit: Hit) -> dict[str, Any]:
    """A hit without the place where the server keeps its picture."""
    return {**hit.as_json(), "picture": place_of(hit.sha256), "sha256": hit.sha256}


def _box(corners: Sequence[float] | None) -> Box | None:
    return None if corners is None else Box(*corners)


def _rounded(patches: Floats) -> list[list[float]]:
    return cast("list[list[float]]", patches.round(3).tolist())


def _kind(values: Iterable[object]) -> str:
    kinds = {type(value) for value in values}
    if kinds <= {bool}:
        return "boolean"
    return "number" if kinds <= {int, float} else "text"
