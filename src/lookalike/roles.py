"""The exchangeable parts. Implementations need not inherit; a user may pass any object of this shape."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol

from lookalike.trust import Trust
from lookalike.values import (
    Caption,
    Counts,
    Facet,
    Floats,
    Item,
    Keys,
    Maps,
    Picture,
    Query,
    Region,
    Row,
    Shortlist,
)


class Encoder(Protocol):
    """Turns regions and words into descriptors. Safe to call from several threads at once.

    One that was trained with captions has `captioned = True`; the others pass over the captions of
    `pictures`, and no catalogue hands them any. One that weighs them is a `CaptionedEncoder`.
    """

    name: str
    dim: int
    fingerprint: str  # weights, preprocessing, pooling: a catalogue refuses another one

    def pictures(self, regions: Sequence[Region], captions: Sequence[str] | None = None) -> Floats:
        """(N,) regions, each in the light of its caption, "" for none -> (N, D), unit rows."""

    def texts(self, texts: Sequence[str]) -> Floats | None:
        """(N,) texts -> (N, D) for the same index; None where the encoder has no language."""

    def maps(self, pictures: Sequence[Picture]) -> Maps | None:
        """(B,) whole pictures -> feature maps (B, C, H, W); None where the encoder has none."""


class CaptionedEncoder(Encoder, Protocol):
    """An encoder that believes each caption as far as it agrees with its picture and as its source goes."""

    captioned: bool
    trust: Trust | None  # what agreement means; None where that is not known: all are believed

    def pictures(
        self,
        regions: Sequence[Region],
        captions: Sequence[str] | None = None,
        wrong: Sequence[float] | None = None,
    ) -> Floats:
        """As of any encoder; `wrong` (N,) is the share of its source's captions that seems to be wrong."""

    def agreement(self, regions: Sequence[Region], captions: Sequence[str]) -> Floats:
        """How well each caption (N,) fits its region (N,), -1 to 1."""


class RegionFinder(Protocol):
    name: str

    def regions(self, pictures: Sequence[Picture]) -> list[list[Region]]:
        """For each picture its regions, best first, at least one."""


class Captioner(Protocol):
    """Says what regions show. One that leaves the work to another machine may have `elsewhere = True`."""

    name: str  # engine, model, strategy, prompt version

    def captions(self, regions: Sequence[Region]) -> list[Caption]:
        """One each; a failure is a Caption with `.error`, never an exception for the batch."""


class View(Protocol):
    """A store at one moment: what is written meanwhile does not show. Q queries, N stored regions."""

    version: str  # of this moment: another one when anything that is searched or told came, went or changed

    @property
    def fingerprint(self) -> str:
        """Of the encoder whose descriptors these are."""

    @property
    def size(self) -> int:
        """N."""

    @property
    def keys(self) -> Keys:
        """(N,) of all regions, ascending."""

    def search(
        self, vectors: Floats, top: int, where: str | None = None, exact: bool = False
    ) -> tuple[Keys, Floats]:
        """(Q, D) -> region keys and scores, both (Q, T), T = min(top, regions that pass), best first."""

    def vectors(self, keys: Keys) -> Floats:
        """Region keys (M,) -> descriptors (M, D)."""

    def meanings(self, keys: Keys) -> Floats:
        """Region keys (M,) -> their captions' own descriptors (M, D), rows of zeros where there is none."""

    def owners(self, keys: Keys) -> Keys:
        """Region keys (M,) -> the keys of their items (M,)."""

    def rows(self, keys: Keys) -> list[Row]:
        """Region keys (M,) -> what is stored, in the same order."""

    def words(self, text: str, top: int, where: str | None = None) -> tuple[Keys, Floats]:
        """Full-text search -> item keys and scores (T,), best first."""

    def regions_of(self, items: Keys) -> Keys:
        """Item keys -> the keys of all their regions, ascending."""

    def facets(self, most: int) -> Mapping[str, Facet]:
        """What filters can ask, by name, captions' `seen_` names among them; `most` values of each."""


class Store(Protocol):
    """Keeps rows durably. One writer, many readers; readers see each finished batch without reopening."""

    meta: MutableMapping[str, str]  # small facts about the catalogue: encoder, fingerprint, regime

    def view(self) -> AbstractContextManager[View]: ...

    def add(self, rows: Sequence[Row], run: int) -> None:
        """Upsert by picture (item id, sha256), all or nothing, on disk when it returns."""

    def replace(
        self, items: Sequence[Item], rows: Sequence[Row], facts: Mapping[str, str] | None = None
    ) -> None:
        """Make items what they are told to be and, of those that have rows, their pictures exactly these.

        All or nothing, on disk when it returns, with `facts` for `meta`. BadInput for a new item without any.
        """

    def remove(self, items: Sequence[str]) -> int:
        """Remove items with their pictures; how many pictures that was. BadInput for an unknown id."""

    def start_run(self) -> int:
        """A new number for an indexing run, greater than all before."""

    def mark(self, origin: str, sources: Sequence[str], run: int) -> None:
        """These listed pictures could not be read this time: they have not vanished."""

    def vanished(self, origin: str, run: int) -> Iterator[tuple[str, str]]:
        """(item id, source) of pictures that `origin` listed once and not in this run."""

    def prune(self, origin: str, run: int) -> int:
        """Remove the vanished; how many pictures that was."""

    def build_index(self, on_progress: Callable[[int, int], None] | None = None) -> bool:
        """Bring the approximate index up to date where the gallery's size asks for one; whether it did."""

    def unstaged(self, limit: int, after: int = 0) -> list[tuple[int, Row]]:
        """The first regions above key `after` that have no staged descriptor, with their keys."""

    def count_unstaged(self) -> int: ...

    def stage(self, keys: Sequence[int] | Keys, vectors: Floats, meanings: Floats | None = None) -> None:
        """Keep another encoder's descriptors (M, D) of region keys (M,) beside the present ones, on disk.

        `meanings` (M, D) are those of their captions, with rows of zeros where there is none.
        """

    def switch(self, meta: Mapping[str, str]) -> None:
        """Put the staged descriptors in place and set `meta`, all at once; CatalogueError where one lacks."""

    def discard_staged(self) -> None: ...

    def remove_regions(self, keys: Iterable[int]) -> None:
        """Remove regions, then pictures and items that have none left."""

    def find(self, sha256s: Sequence[str]) -> list[Row]:
        """All rows, of whatever item, whose picture has one of these contents."""

    def rows_of(self, item: str) -> list[Row]:
        """All rows of an item by its id; none where there is no such item."""

    def items_after(self, after: str, limit: int) -> list[tuple[str, str]]:
        """Ids and titles of the first `limit` items with ids above `after`, ascending by code point."""

    def scan(self) -> Iterator[Row]: ...

    def snapshot(self, folder: Path) -> None: ...

    def count(self) -> Counts: ...

    def check(self) -> Iterator[str]:
        """Every fault in what is stored, in words."""

    def bytes_on_disk(self) -> int: ...

    def close(self) -> None: ...


class Reranker(Protocol):
    @property
    def name(self) -> str: ...

    def rerank(self, query: Query, shortlist: Shortlist) -> Shortlist:
        """The same members in a new order."""
