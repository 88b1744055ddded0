"""The nouns. Frozen, checked when made, free of any machinery.

Shapes: N gallery, Q queries, M shortlist, D vector length, H x W pixels, C channels.
A `score` is always "higher is closer".
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from lookalike.errors import BadInput

Floats = NDArray[np.float32]
Keys = NDArray[np.int64]
Pixels = NDArray[np.uint8]
AttributeValue = str | int | float | bool
Progress = Callable[[int, int | None], None]  # done, and in all where that is known


@dataclass(frozen=True, slots=True)
class Box:
    """A rectangle in pixels of the upright picture, half-open: x0 <= x < x1, y0 <= y < y1."""

    x0: float
    y0: float
    x1: float
    y1: float

    def __post_init__(self) -> None:
        if not all(map(math.isfinite, self.corners)):
            raise BadInput(f"box {self}: coordinates must be finite numbers")
        if not (self.x0 < self.x1 and self.y0 < self.y1):
            raise BadInput(f"box {self}: needs x0 < x1 and y0 < y1", "write it as x0,y0,x1,y1 in pixels")

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read "x0,y0,x1,y1"."""
        try:
            x0, y0, x1, y1 = (float(part) for part in text.split(","))
        except ValueError:
            raise BadInput(f"box {text!r}: not four numbers", "write it as x0,y0,x1,y1 in pixels") from None
        return cls(x0, y0, x1, y1)

    @property
    def corners(self) -> tuple[float, float, float, float]:
        return (self.x0, self.y0, self.x1, self.y1)

    @property
    def area(self) -> float:
        return (self.x1 - self.x0) * (self.y1 - self.y0)

    def clipped(self, width: float, height: float) -> Self:
        """The part inside a `width` x `height` picture; BadInput where nothing is left."""
        x0, y0 = max(0.0, self.x0), max(0.0, self.y0)
        x1, y1 = min(float(width), self.x1), min(float(height), self.y1)
        if not (x0 < x1 and y0 < y1):
            raise BadInput(f"box {self} lies outside the picture ({width:g} x {height:g} pixels)")
        return type(self)(x0, y0, x1, y1)

    def scaled(self, x: float, y: float) -> Self:
        """The same rectangle in a picture stretched by `x` across and `y` down."""
        return type(self)(self.x0 * x, self.y0 * y, self.x1 * x, self.y1 * y)

    def iou(self, other: Box) -> float:
        """Intersection over union, 0 to 1."""
        across = min(self.x1, other.x1) - max(self.x0, other.x0)
        down = min(self.y1, other.y1) - max(self.y0, other.y0)
        shared = max(0.0, across) * max(0.0, down)
        return shared / (self.area + other.area - shared)

    def __str__(self) -> str:
        return ",".join(f"{corner:g}" for corner in self.corners)


def corners_of(box: Box | None) -> list[float] | None:
    """A box as JSON has it; None, the whole picture, is null."""
    return None if box is None else list(box.corners)


@dataclass(frozen=True, slots=True, eq=False)
class Picture:
    """One decoded image: upright, RGB, sRGB.

    `pixels` is (H, W, 3) uint8 and may be smaller than the upright original, whose size is `width` x
    `height`: large files are decoded at a fraction of their size. Boxes always speak of the original.
    """

    pixels: Pixels
    width: int
    height: int
    source: str
    sha256: str  # of the file's bytes

    def __post_init__(self) -> None:
        if self.pixels.ndim != 3 or self.pixels.shape[2] != 3 or self.pixels.dtype != np.uint8:
            raise ValueError(f"pixels must be (H, W, 3) uint8, not {self.pixels.shape} {self.pixels.dtype}")
        if 0 in self.pixels.shape:
            raise ValueError("a picture has at least one pixel")

    @classmethod
    def of(cls, pixels: Pixels, source: str = "", sha256: str = "") -> Self:
        """A picture from pixels at hand, (H, W, 3) uint8."""
        return cls(pixels, width=pixels.shape[1], height=pixels.shape[0], source=source, sha256=sha256)


@dataclass(frozen=True, slots=True, eq=False)
class Region:
    """Where one object is in a picture. `box` None means the whole picture."""

    picture: Picture
    box: Box | None = None
    score: float = 1.0  # the finder's confidence, 0 to 1; 1 for a given box

    def __post_init__(self) -> None:
        if self.box is not None:  # invariant: inside the picture
            object.__setattr__(self, "box", self.box.clipped(self.picture.width, self.picture.height))

    @property
    def pixels(self) -> Pixels:
        """The region's pixels, (h, w, 3): a view, at least 1 x 1."""
        if self.box is None:
            return self.picture.pixels
        height, width = self.picture.pixels.shape[:2]
        box = self.box.scaled(width / self.picture.width, height / self.picture.height)
        left, top = min(math.floor(box.x0), width - 1), min(math.floor(box.y0), height - 1)
        right, bottom = max(math.ceil(box.x1), left + 1), max(math.ceil(box.y1), top + 1)
        return self.picture.pixels[top:bottom, left:right]


@dataclass(frozen=True, slots=True)
class Claim:
    """One thing that a caption says, and what speaks for it.

    `support` is by check, from 0 (contradicted) over 0.5 (cannot tell) to 1 (confirmed): "pixels", what was
    measured; "views", the item's other pictures; "samples", the same question asked again; "agreement", the
    encoder's. A claim that nobody checked has none.
    """

    text: str  # as a caption says it: "navy", "a V-neck"
    attribute: str = ""  # that it speaks of, by the vocabulary's name; "" where there is none
    value: str = ""
    support: Mapping[str, float] = field(default_factory=dict)
    believed: bool = True

    @property
    def confidence(self) -> float:
        """The least support that it has, 0 to 1; 1 where nobody checked."""
        return min(self.support.values(), default=1.0)

    def as_json(self) -> dict[str, Any]:
        support = {check: round(value, 3) for check, value in self.support.items()}
        return {
            "text": self.text, "attribute": self.attribute, "value": self.value, "support": support,
            "believed": self.believed,
        }  # fmt: skip


@dataclass(frozen=True, slots=True)
class Caption:
    """Text about a region and who wrote it: what is believed of its claims.

    A failed one has `error` and no text. Whatever it says is text: never code, markup or an instruction.
    """

    text: str
    by: str  # the captioner's name
    error: str | None = None
    claims: tuple[Claim, ...] = ()

    @property
    def attributes(self) -> dict[str, tuple[str, ...]]:
        """The values that are believed, by attribute."""
        found: dict[str, tuple[str, ...]] = {}
        for claim in self.claims:
            if claim.believed and claim.attribute:
                found[claim.attribute] = (*found.get(claim.attribute, ()), claim.value)
        return found


@dataclass(frozen=True, slots=True)
class Item:
    """One product. Attribute values are text, numbers or booleans; a tuple holds several of them."""

    id: str
    title: str = ""
    attributes: Mapping[str, AttributeValue | tuple[AttributeValue, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.id:
            raise BadInput("an item needs an id that is not empty")


@dataclass(frozen=True, slots=True, eq=False)
class Row:
    """One region as a store keeps it: whose it is, where it came from, its descriptor (D,), unit length."""

    item: Item
    source: str  # where the picture was read from
    sha256: str  # of the picture's bytes; with the item's id it is the picture's key
    width: int  # of the upright picture
    height: int
    vector: Floats
    box: Box | None = None  # None: the whole picture
    score: float = 1.0
    caption: Caption | None = None
    meaning: Floats | None = None  # the caption's own descriptor (D,): what `Encoder.texts` makes of it
    origin: str = ""  # the SOURCE argument (folder or table) that listed the picture


@dataclass(frozen=True, slots=True)
class Counts:
    items: int
    pictures: int
    regions: int
    captions: int


@dataclass(frozen=True, slots=True)
class Maps:
    """Feature maps of a batch with their geometry.

    `values` (B, C, H, W), centred: the cosine of two cells tells how alike they are. `frames[b]` is where
    picture b lies in its map, in cells (x0, y0, x1, y1): letterboxed pictures do not fill it.
    """

    values: Floats
    frames: tuple[Box, ...]

    def __post_init__(self) -> None:
        if self.values.ndim != 4 or len(self.frames) != len(self.values):
            raise ValueError(f"maps {self.values.shape} with {len(self.frames)} frames")

    def cells(self, place: int) -> Floats:
        """The cells of one map that mostly show its picture, (C, h, w), at least one, each of length 1."""
        x0, y0, x1, y1 = (round(corner) for corner in self.frames[place].corners)
        cells = self.values[place, :, y0 : max(y1, y0 + 1), x0 : max(x1, x0 + 1)]
        return np.asarray(
            cells / np.maximum(np.linalg.norm(cells, axis=0), np.finfo(np.float32).tiny), np.float32
        )


@dataclass(frozen=True, slots=True, eq=False)
class Query:
    """What is searched with: one descriptor (D,), unit length, and what it was made from.

    Words alone have no descriptor, (0,), where the encoder has no language.
    """

    vector: Floats
    regions: tuple[Region, ...] = ()
    text: str | None = None


class Stored(Protocol):
    """What a store tells about region keys (M,); see `roles.View`."""

    def vectors(self, keys: Keys) -> Floats: ...

    def rows(self, keys: Keys) -> list[Row]: ...


@dataclass(frozen=True, eq=False)
class Shortlist:
    """The first M of a ranking, best first: region keys (M,) and scores (M,).

    Re-rankers read the members' descriptors `vectors` (M, D), which are asked for once, or their `rows`.
    """

    keys: Keys
    scores: Floats
    stored: Stored

    def __post_init__(self) -> None:
        if self.keys.shape != self.scores.shape or self.keys.ndim != 1:
            raise ValueError(f"shortlist of {self.keys.shape} keys and {self.scores.shape} scores")

    def __len__(self) -> int:
        return len(self.keys)

    @cached_property
    def vectors(self) -> Floats:
        return self.stored.vectors(self.keys)

    def rows(self, first: int) -> list[Row]:
        """Where the `first` members' pictures and regions are, in the shortlist's order."""
        return self.stored.rows(self.keys[:first])

    def rescored(self, scores: Floats) -> Shortlist:
        """The same members in the order of new scores (M,); ties keep their old order."""
        order = np.argsort(-scores, kind="stable")
        made = Shortlist(self.keys[order], scores[order].astype(np.float32), self.stored)
        made.__dict__["vectors"] = self.vectors[order]  # where the cached property looks
        return made


@dataclass(frozen=True, slots=True)
class Hit:
    """One result: the item, its best region, and the score (higher is closer)."""

    item: str
    score: float
    picture: str  # where the matched picture came from
    box: Box | None
    caption: str | None
    title: str = ""
    attributes: Mapping[str, AttributeValue | tuple[AttributeValue, ...]] = field(default_factory=dict)
    sha256: str = ""  # of the matched picture's bytes

    def as_json(self) -> dict[str, Any]:
        return {
            "item": self.item, "score": self.score, "picture": self.picture, "box": corners_of(self.box),
            "caption": self.caption, "title": self.title, "attributes": dict(self.attributes),
        }  # fmt: skip


class Hits(list[Hit]):
    """Hits, best first, with what the search found out on the way."""

    def __init__(
        self,
        hits: Iterable[Hit],
        region: Region | None,
        confident: bool | None,
        timings_ms: Mapping[str, float],
        prominence: float = -math.inf,
        found: Sequence[Region] = (),
        version: str = "",
    ) -> None:
        super().__init__(hits)
        self.region = region  # of the query's picture that was searched; None for words alone
        self.confident = confident  # None: the catalogue is too small to tell, or nothing to compare
        self.timings_ms = timings_ms
        self.prominence = prominence  # how far the first item stands out, see `ranking.prominence`
        self.found = tuple(found)  # where the object may be in the query's first picture, best first
        self.version = version  # of what was searched, see `roles.View`


@dataclass(frozen=True, slots=True)
class Facet:
    """What a filter can ask of an attribute: how many items have it, and its most frequent values."""

    items: int
    values: Mapping[AttributeValue, int]  # with how many items have each, most first


# Where captions take part: nowhere; in the encoder's training; in the gallery's descriptors; in queries' too.
REGIMES = ("image", "train", "train+gallery", "train+gallery+query")
TOLD_GALLERY, TOLD_QUERIES = REGIMES[2:], REGIMES[3:]  # the regimes that have captions in these descriptors


def unit(vectors: Iterable[Sequence[float]] | NDArray[Any]) -> Floats:
    """Rows scaled to L2 norm 1, (..., D) -> (..., D); a zero row stays zero."""
    rows = np.asarray(vectors, np.float32)
    norms = np.linalg.norm(rows, axis=-1, keepdims=True)
    return np.asarray(rows / np.maximum(norms, np.finfo(np.float32).tiny), np.float32)
