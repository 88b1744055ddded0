"""What a labelled data set consists of: regions of pictures, and what is true of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from lookalike.datasets.listed import Listed, Unlisted
from lookalike.datasets.listing import origin_of
from lookalike.values import Box, Item


class Side(StrEnum):
    """Which side of a search a region stands on."""

    QUERY = "query"
    GALLERY = "gallery"
    BOTH = "both"  # a query that is searched among the others; it never counts as its own answer


@dataclass(frozen=True, slots=True)
class Labelled:
    """One region of a data set and what is true of it.

    `identity` says which regions show the same product; None takes part in no pair and is never a right
    answer. `group` is wider: what must stay together when data are split or resampled (DeepFashion2's
    pair_id). Both are unique over all splits. `truth` is for data sets that list the answers of a query
    instead of identities: ids of gallery regions by a name of the data set's own ("easy", "target").
    """

    id: str  # unique within its split, the same at every reading
    source: str  # path of the picture
    side: Side
    identity: str | None
    group: str
    box: Box | None = None  # None: the whole picture
    category: str = ""
    facets: Mapping[str, str] = field(default_factory=dict)  # how it is shown: scale, occlusion, …
    attributes: Mapping[str, str] = field(default_factory=dict)  # what it is like: colour, neckline, …
    captions: tuple[str, ...] = ()  # true ones, shortest first
    words: str = ""  # what a composed query changes: "the same in red"
    truth: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def listed(self) -> Listed:
        """As a picture to index: an identity is an item."""
        return Listed(Item(self.identity or self.id), origin_of(self.source), self.box)


@dataclass(frozen=True, slots=True)
class Dataset:
    """A labelled data set on disk. `read(split)` streams its regions in an order that never changes.

    What cannot be used comes as an Unlisted in its place, its error naming file and field.
    """

    name: str  # "deepfashion2", "in-shop", …
    folder: Path
    splits: tuple[str, ...]
    read: Callable[[str], Iterator[Labelled | Unlisted]]
    synthetic: str = ""  # for generated data: generator, version, seed and hash; "" for real ones
