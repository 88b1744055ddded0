"""What comes back, as OpenAPI tells of it. The service does not check its answers by these; tests do."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from lookalike.server.ledger import Job

Corners = tuple[float, float, float, float]
Value = bool | int | float | str


class _Told(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Claim(_Told):
    text: str
    attribute: str = Field(description="that it speaks of; empty where that is not known")
    value: str
    support: dict[str, float] = Field(description="0 (contradicted) to 1 (confirmed), by check")
    believed: bool


class Place(_Told):
    """Where an object may be in a picture."""

    box: Corners | None = Field(description="null: the whole picture")
    score: float


class Hit(_Told):
    item: str
    score: float = Field(description="higher is closer")
    picture: str = Field(description="where the matched picture is to be had")
    sha256: str
    box: Corners | None
    caption: str | None
    title: str
    attributes: dict[str, Value | list[Value]]


class Group(Place):
    """The hits of one region."""

    hits: list[Hit]
    more: bool
    confident: bool | None


class Query(_Told):
    size: tuple[int, int] | None = Field(description="width and height of the upright picture")
    box: Corners | None = Field(description="the region that was searched")
    caption: str | None


class Answer(_Told):
    """One page of hits; with `regions=each` `groups` in the place of `hits`, `more` and `confident`."""

    query: Query
    regions: list[Place]
    hits: list[Hit] = []
    more: bool = Field(False, description="whether there are hits beyond this page")
    confident: bool | None = Field(None, description="null where the catalogue is too small to tell")
    groups: list[Group] = []
    offset: int
    timings_ms: dict[str, float]
    version: str = Field(description="of the catalogue: another one when anything in it has changed")


class Patches(_Told):
    box: Corners | None
    patches: list[list[float]] = Field(description="row by row, how well each is matched, 0 to 1")


class HitPatches(Patches):
    picture: str


class Words(_Told):
    shared: list[str]
    theirs: list[str]


class Why(_Told):
    query: Patches
    hit: HitPatches
    words: Words


class Embedding(_Told):
    object: str
    index: int
    embedding: list[float]


class Embeddings(_Told):
    object: str
    model: str
    data: list[Embedding]
    usage: dict[str, int] = Field(description="nothing is counted: clients of OpenAI's want the field")


class Filter(_Told):
    """What a filter can ask of an attribute."""

    kind: str
    items: int
    values: list[Value] = Field(description="the most frequent ones")


class About(_Told):
    items: int
    pictures: int
    regions: int
    captions: int
    encoder: str
    regime: str
    version: str
    language: bool = Field(description="whether words have a meaning of their own, beside being matched")
    captions_at_query: bool
    filters: dict[str, Filter]


class PictureRegion(_Told):
    box: Corners | None
    caption: str | None
    claims: list[Claim]


class Picture(_Told):
    picture: str
    sha256: str
    width: int
    height: int
    regions: list[PictureRegion]


class Item(_Told):
    item: str
    title: str
    attributes: dict[str, Value | list[Value]]
    pictures: list[Picture]


class Listed(_Told):
    item: str
    title: str


class Items(_Told):
    items: list[Listed]
    next: str | None


class Jobs(_Told):
    jobs: list[Job]
    next: str | None


STREAM = {
    "description": "The hits; as a stream where a caption was asked for by `Accept: text/event-stream`.",
    "content": {
        "text/event-stream": {
            "schema": {"type": "string"},
            "example": (
                "event: hits\ndata: {…}\n\nevent: caption\ndata: {…}\n\n"
                "event: refined\ndata: {…}\n\nevent: done\ndata: {}\n\n"
            ),
        }
    },
}


def answered(
    model: type[Any],
    status: int = 200,
    others: Mapping[int | str, Any] | None = None,
    about: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The options of a route whose answer a model and `about` describe; `others` are by their status."""
    return {
        "response_model": None,
        "responses": {status: {"model": model, **(about or {})}, **(others or {})},
    }
