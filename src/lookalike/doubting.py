"""What share of a source's captions seems to be wrong: its doubt, by which an encoder weighs each of them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any, cast

import numpy as np

from lookalike import images
from lookalike.datasets import Listed, Unlisted, listing
from lookalike.describing import weighs
from lookalike.errors import BadInput, BadPicture
from lookalike.indexing import BATCH, Parts, chunks
from lookalike.roles import CaptionedEncoder, Encoder, Store
from lookalike.values import Caption, Region, Row

SAMPLE = 128  # captions of a source that are looked at
LEAST = 16  # fewer tell nothing
FACT = "doubts"  # in a store's `meta`, and in a build


def kept(meta: Mapping[str, str]) -> dict[str, float]:
    """The doubts that a store knows, by source."""
    return dict(json.loads(meta.get(FACT, "{}")))


def fact(doubts: Mapping[str, float]) -> dict[str, str]:
    """Doubts as facts for a store's `meta`."""
    return {FACT: json.dumps(doubts)}


def weighing(
    parts: Parts, sources: Sequence[Path | str], counted: Sequence[int | None], store: Store
) -> Parts:
    """The parts with a doubt of their captioner, where the encoder weighs captions by it.

    It is found out by pictures from all over the sources, of which `counted` are in each, and kept by the
    store. A captioner is looked at once: descriptors of one catalogue weigh its captions alike.
    """
    captioner = parts.captioner
    if captioner is None or not parts.fused or not weighs(parts.encoder) or captioner.name in parts.doubts:
        return parts
    each = SAMPLE // len(sources) + 1
    listed = (
        entry
        for source, total in zip(sources, counted, strict=True)
        for entry in islice(listing(source), 0, None, max(1, (total or 0) // each))
    )
    doubts = {**parts.doubts, **of_listed(listed, parts)}
    store.meta.update(fact(doubts))
    return replace(parts, doubts=doubts)


def of_listed(listed: Iterable[Listed | Unlisted], parts: Parts) -> dict[str, float]:
    """The doubt of a captioner, by what it says of the first `SAMPLE` listed pictures that can be used."""
    assert parts.captioner is not None
    seen = _Agreements(parts.encoder)
    for some in chunks(islice((each for each in listed if isinstance(each, Listed)), SAMPLE), BATCH):
        regions = [region for each in some if (region := _region(each, parts)) is not None]
        seen.add(regions, parts.captioner.captions(regions) if regions else [])
    return seen.doubts()


def of_stored(rows: Iterable[Row], encoder: Encoder) -> dict[str, float]:
    """The doubts of the sources that captioned the first `SAMPLE` stored regions with a caption."""
    seen = _Agreements(encoder)
    for some in chunks(islice((row for row in rows if row.caption), SAMPLE), BATCH):
        regions, captions = [], []
        for row in some:
            try:
                regions.append(Region(images.load(row.source), row.box, row.score))
                captions.append(row.caption)
            except (BadPicture, BadInput):  # told where all are encoded
                continue
        seen.add(regions, [caption for caption in captions if caption])
    return seen.doubts()


class _Agreements:
    """How far a source's captions agree with their regions, as they come in."""

    def __init__(self, encoder: Encoder) -> None:
        self._encoder = cast(CaptionedEncoder, encoder)
        self._found: dict[str, list[float]] = {}

    def add(self, regions: Sequence[Region], captions: Sequence[Caption]) -> None:
        told = [pair for pair in zip(regions, captions, strict=True) if pair[1].text]
        if not told:
            return
        found: Any = self._encoder.agreement([region for region, _ in told], [said.text for _, said in told])
        for (_, caption), agreement in zip(told, found, strict=True):
            self._found.setdefault(caption.by, []).append(float(agreement))

    def doubts(self) -> dict[str, float]:
        trust = self._encoder.trust
        assert trust is not None
        return {
            source: round(trust.share(np.array(found)), 4)
            for source, found in self._found.items()
            if len(found) >= LEAST
        }


def _region(listed: Listed, parts: Parts) -> Region | None:
    """What a listed picture shows, the first region that is found; None where it cannot be used."""
    try:
        picture = images.load(listed.source)
        return Region(picture, listed.box) if listed.box else parts.finder.regions([picture])[0][0]
    except (BadPicture, BadInput):
        return None
