"""What a search is given, made into what it searches with: regions and descriptors, timed by stage."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from lookalike import images
from lookalike.describing import described
from lookalike.errors import BadInput
from lookalike.roles import Encoder, RegionFinder
from lookalike.values import Box, Caption, Floats, Picture, Region, unit

PictureLike = Region | Picture | Path | str | bytes  # a region is searched as it is
Candidates = list[tuple[Region, Floats]]  # where the object may be in a picture, with descriptors (D,)


class Clock:
    """Milliseconds by stage of one search."""

    def __init__(self) -> None:
        self._started = time.perf_counter()
        self._stages = dict.fromkeys(("decode", "region", "encode", "search", "rerank"), 0.0)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        started = time.perf_counter()
        yield
        self._stages[name] += (time.perf_counter() - started) * 1000

    def finish(self) -> dict[str, float]:
        total = (time.perf_counter() - self._started) * 1000
        return {name: round(ms, 3) for name, ms in {**self._stages, "total": total}.items()}


def candidates(
    given: PictureLike | Sequence[PictureLike] | None,
    box: Box | None,
    finder: RegionFinder,
    encoder: Encoder,
    clock: Clock,
    caption: Caption | None,
    doubts: Mapping[str, float],
) -> list[Candidates]:
    """For each picture given the regions where the object may be: the `box`, or those that are found.

    All in the light of the `caption`, which counts as the doubt of its source allows.
    """
    if given is None:
        return []
    views = [given] if isinstance(given, PictureLike) else list(given)
    if box is not None and len(views) != 1:
        raise BadInput("a box goes with one picture", "crop the others, or search with one picture")
    with clock.stage("decode"):
        places = [view if isinstance(view, Region) else decoded(view) for view in views]
    with clock.stage("region"):
        if box is not None:
            (place,) = places
            found = [[Region(place.picture if isinstance(place, Region) else place, box)]]
        else:
            searched = iter(finder.regions([place for place in places if isinstance(place, Picture)]))
            found = [[place] if isinstance(place, Region) else next(searched) for place in places]
    with clock.stage("encode"):
        regions = [region for regions in found for region in regions]
        told = [caption] * len(regions) if caption else None
        vectors = iter(described(regions, told, encoder, doubts))
    return [[(region, next(vectors)) for region in regions] for regions in found]


def decoded(given: Picture | Path | str | bytes) -> Picture:
    if isinstance(given, Picture):
        return given
    if isinstance(given, bytes):
        return images.decode(given, "the given bytes")
    return images.load(given)


def descriptors(like: Floats, dim: int) -> Floats:
    """Descriptors that were given, as searched with: (V, D), unit rows."""
    rows = np.atleast_2d(np.asarray(like, np.float32))
    if rows.ndim != 2 or not len(rows) or rows.shape[1] != dim:
        raise BadInput(f"a descriptor of {rows.shape[-1]} numbers: {dim} are needed")
    if not np.isfinite(rows).all() or not rows.any(axis=1).all():
        raise BadInput("a descriptor needs finite numbers, not all of them 0")
    return unit(rows)
