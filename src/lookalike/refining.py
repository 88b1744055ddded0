"""Searching with a caption that is written meanwhile: bare hits at once, better ones when it is there."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Literal

from lookalike.calibration import GATES, sureness
from lookalike.catalogue import Catalogue
from lookalike.errors import unknown_name
from lookalike.looking import PictureLike, decoded
from lookalike.roles import Captioner
from lookalike.values import Box, Caption, Hits, Region

Outcome = Literal["refined", "unchanged", "sure", "late", "failed", "nothing said"]


@dataclass(frozen=True, slots=True)
class Refinement:
    """What became of a query's caption.

    "refined": `hits` are other items, or in another order; "unchanged": the same; "sure": the gate saw no
    need of a caption; "late": none by the deadline; "failed": see `caption.error`; "nothing said": nothing
    of it is believed. But for "refined" the first hits stand.
    """

    outcome: Outcome
    hits: Hits | None
    caption: Caption | None
    first_ms: float  # until the first hits
    ms: float  # until now

    def as_json(self) -> dict[str, Any]:
        caption = self.caption
        return {
            "outcome": self.outcome,
            "text": caption.text if caption else None,
            "by": caption.by if caption else None,
            "claims": [claim.as_json() for claim in caption.claims] if caption else [],
            "first_ms": round(self.first_ms, 3),
            "ms": round(self.ms, 3),
        }


def refined(
    catalogue: Catalogue,
    captioner: Captioner,
    picture: PictureLike,
    box: Box | None = None,
    where: str | None = None,
    top: int = 10,
    deadline_s: float = 10.0,
    gate: str | None = None,
) -> Iterator[Hits | Refinement]:
    """First the hits of the bare picture, then what became of its caption; two things, in this order.

    With a `box` a captioner whose work is done `elsewhere` starts while the picture is still being encoded.
    One of this machine would only slow the encoder down: it starts after the first hits, as all do without a
    box. With a `gate` of `calibration.GATES` it is asked only where these are in doubt. A picture that the
    catalogue has with a caption needs none. Whatever goes wrong with the caption is told in the Refinement,
    and takes no longer than `deadline_s` after the call; a late caption is still finished, for the
    captioner's cache.

    BadInput, before anything else, unless the catalogue was built to be searched with captions.
    """
    started = time.perf_counter()
    catalogue.check_query_captions()
    if gate is not None and gate not in GATES:
        raise unknown_name("gate", gate, GATES)
    place = picture if isinstance(picture, Region) else decoded(picture)
    region = place if isinstance(place, Region) else Region(place, box) if box is not None else None
    early = gate is None and getattr(captioner, "elsewhere", False)
    asked = _asked(catalogue, captioner, region) if early and region is not None else None
    hits = catalogue.search(place if region is None else region, where=where, top=top)
    first_ms = (time.perf_counter() - started) * 1000
    yield hits

    region = region or hits.region
    assert region is not None

    def became(outcome: Outcome, caption: Caption | None = None, hits: Hits | None = None) -> Refinement:
        return Refinement(outcome, hits, caption, first_ms, (time.perf_counter() - started) * 1000)

    try:
        if gate is not None and _sure(catalogue, region, hits, gate):
            yield became("sure")
            return
        asked = asked or _asked(catalogue, captioner, region)
        caption = asked.result(timeout=max(0.0, deadline_s - (time.perf_counter() - started)))
    except TimeoutError:
        yield became("late")
        return
    if caption.error is not None:
        yield became("failed", caption)
        return
    if not caption.text:
        yield became("nothing said", caption)
        return
    better = catalogue.search(region, where=where, top=top, caption=caption)
    same = [hit.item for hit in better] == [hit.item for hit in hits]
    yield became("unchanged", caption) if same else became("refined", caption, better)


def _asked(catalogue: Catalogue, captioner: Captioner, region: Region) -> Future[Caption]:
    """The region's caption, being made in a thread that nobody waits for at the end of the program."""
    future: Future[Caption] = Future()

    def ask() -> None:
        try:
            caption = _stored(catalogue, region) or captioner.captions([region])[0]
        except Exception as error:  # of whatever kind: the bare answer stands
            caption = Caption("", captioner.name, error=str(error) or type(error).__name__)
        future.set_result(caption)

    threading.Thread(target=ask, name="query-caption", daemon=True).start()
    return future


def _stored(catalogue: Catalogue, region: Region) -> Caption | None:
    """The caption of the same region of the same picture in the catalogue."""
    rows = catalogue.store.find([region.picture.sha256]) if region.picture.sha256 else []
    return next((row.caption for row in rows if row.caption and row.box == region.box), None)


def _sure(catalogue: Catalogue, region: Region, hits: Hits, gate: str) -> bool:
    """Whether the gate lets the bare answer pass; one that could not be calibrated lets none."""
    threshold = catalogue.store.meta.get(gate)
    if threshold is None:
        return False
    if gate == "margin":
        return hits.prominence >= float(threshold)
    assert catalogue.language is not None  # else nothing would have been calibrated
    vector = catalogue.encoder.pictures([region])[0]
    with catalogue.store.view() as view:
        return sureness(view, vector, hits.prominence, catalogue.language)[gate] >= float(threshold)
