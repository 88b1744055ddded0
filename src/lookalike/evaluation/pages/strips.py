"""What was asked and what came first, as small pictures that travel inside a page."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Mapping
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

from PIL import Image

from lookalike import images
from lookalike.errors import LookalikeError
from lookalike.evaluation.runs import Answer, Place, load_places
from lookalike.values import Region

_SIDE = 160  # pixels, the longer one
_QUALITY = 72


@dataclass(frozen=True, slots=True)
class Thumbnail:
    uri: str  # data:image/jpeg;base64,…
    width: int
    height: int
    frame: tuple[float, float, float, float] | None  # of the box: left, top, width, height in per cent


@dataclass(frozen=True, slots=True)
class Seen:
    """A region as it is shown; `thumbnail` None where its picture cannot be."""

    id: str
    title: str
    thumbnail: Thumbnail | None
    instead: str  # what to say where there is no thumbnail
    facts: Mapping[str, str]

    @property
    def name(self) -> str:
        return self.title or self.id


@dataclass(frozen=True, slots=True)
class SeenHit:
    rank: int
    score: float
    right: bool
    region: Seen


@dataclass(frozen=True, slots=True)
class Strip:
    """One system's answer to a query: what came first, and where the first right one stood."""

    hits: tuple[SeenHit, ...]
    rank: int | None
    right: Seen | None
    total: int  # right answers in the gallery


@dataclass(frozen=True, slots=True)
class Case:
    """A query with one or two systems' answers, and one metric's values of them."""

    query: Seen
    strips: tuple[Strip, ...]
    values: tuple[float, ...]

    @property
    def change(self) -> float:
        return self.values[-1] - self.values[0]


class Strips:
    """Makes strips of the answers in a run's folder, whose tables are read once.

    Pictures are small JPEGs; one that is gone or broken leaves a word in its place. BadInput where a table
    is missing or broken.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._queries = load_places(folder / "queries.jsonl")
        self._gallery = load_places(folder / "gallery.jsonl")
        self._made: dict[int, Seen] = {}  # by the id() of their place, which lives as long as this

    def query(self, answer: Answer) -> Seen:
        return self._seen(answer.query, self._queries)

    def strip(self, answer: Answer, first: int) -> Strip:
        hits = tuple(
            SeenHit(rank, score, right, self._seen(region, self._gallery))
            for rank, (region, score, right) in enumerate(answer.top[:first], 1)
        )
        right = None if answer.right is None else self._seen(answer.right, self._gallery)
        return Strip(hits, answer.rank, right, answer.total)

    def _seen(self, name: str, places: Mapping[str, Place]) -> Seen:
        place = places.get(name)
        if place is None:
            return Seen(name, "", None, "not in the run's table", {})
        if id(place) not in self._made:
            self._made[id(place)] = self._drawn(place)
        return self._made[id(place)]

    def _drawn(self, place: Place) -> Seen:
        if not place.path:
            return Seen(place.id, place.title, None, "asked in words", place.facts)
        try:
            thumbnail = _thumbnail(Region(images.load(self._folder / place.path, side=_SIDE), place.box))
        except LookalikeError:
            return Seen(place.id, place.title, None, "picture not found", place.facts)
        return Seen(place.id, place.title, thumbnail, "", place.facts)


def _thumbnail(region: Region) -> Thumbnail:
    small = Image.fromarray(region.picture.pixels)
    small.thumbnail((_SIDE, _SIDE), Image.Resampling.LANCZOS)
    file = BytesIO()
    small.save(file, "JPEG", quality=_QUALITY, optimize=True)
    frame = None
    if region.box is not None:
        box = region.box.scaled(100 / region.picture.width, 100 / region.picture.height)
        frame = (
            round(box.x0, 2), round(box.y0, 2), round(box.x1 - box.x0, 2), round(box.y1 - box.y0, 2),
        )  # fmt: skip
    uri = f"data:image/jpeg;base64,{b64encode(file.getvalue()).decode()}"
    return Thumbnail(uri, small.width, small.height, frame)
