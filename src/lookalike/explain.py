"""Why a hit is a hit: which patches of two regions look alike, and sheets that show it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from lookalike import images, sheets
from lookalike.errors import BadInput, BadPicture
from lookalike.roles import Encoder
from lookalike.values import Floats, Hit, Hits, Picture, Region


def patch_similarity(encoder: Encoder, query: Region, hit: Region) -> tuple[Floats, Floats]:
    """How well each patch of one region is matched by its best counterpart in the other.

    Two maps, (h, w) over the query's region and (h', w') over the hit's: the largest cosine between a cell's
    feature and any of the other's, clipped to 0 … 1. BadInput where the encoder has no feature maps.
    """
    maps = encoder.maps([Picture.of(query.pixels), Picture.of(hit.pixels)])
    if maps is None:
        raise BadInput(f"the encoder {encoder.name} has no feature maps to explain a hit with")
    alike = np.einsum("chw,cij->hwij", maps.cells(0), maps.cells(1))
    return alike.max(axis=(2, 3)).clip(0, 1), alike.max(axis=(0, 1)).clip(0, 1)


def draw_answers(answers: Sequence[tuple[Hits, str | None]], path: Path) -> None:
    """A contact sheet of searches, each with the id of the item that is right, where that is known."""
    sheets.contact_sheet([_row(hits, right) for hits, right in answers], path)


def draw_explanation(encoder: Encoder, hits: Hits, path: Path) -> None:
    """Draw the query's region and the first hit's, each with its patch similarity laid over it."""
    hit, query = hits[0], hits.region
    if query is None:
        raise BadInput("words alone have no patches to compare", "search with a picture")
    found = Region(images.load(hit.picture), hit.box)
    ours, theirs = patch_similarity(encoder, query, found)
    lines = [f"{hit.item}  {hit.title}".strip(), f"score {hit.score:.3f}"]
    lines += [f"{stage} {ms:.1f} ms" for stage, ms in hits.timings_ms.items()]
    Image.fromarray(sheets.explain_sheet(query, ours, found, theirs, lines)).save(path, quality=90)


def _row(hits: Hits, right: str | None) -> sheets.SheetRow:
    note = "no confident match" if hits.confident is False else ""
    return sheets.SheetRow(hits.region, [_sheet_hit(hit, right) for hit in hits], note=note)


def _sheet_hit(hit: Hit, right: str | None) -> sheets.SheetHit:
    try:
        region = Region(images.load(hit.picture), hit.box)
    except BadPicture:  # moved or deleted since it was indexed
        region = None
    verdict = None if right is None else hit.item == right
    return sheets.SheetHit(region, hit.item, hit.score, hit.title, verdict)
