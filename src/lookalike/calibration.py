"""From where on an answer is to be trusted, measured on made-up snapshots of the catalogue's own pictures."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from lookalike import images, ranking
from lookalike.datasets.street import street_view
from lookalike.errors import BadInput, BadPicture
from lookalike.looking import Candidates
from lookalike.ranking import CROWD
from lookalike.roles import Store, View
from lookalike.values import Floats, Picture, Region, Row

QUERIES = 100
FALSE_ACCEPTS = 0.05
SURE = 0.95  # of the answers that a gate lets pass without a caption are right
GATES = ("margin", "disagreement")  # what tells whether a query wants a caption; kept as facts of these names


def calibrate(store: Store, look: Callable[[Picture], Candidates], language: Floats | None) -> None:
    """Measure, and keep in the store's `meta` what came of it, see `measured`."""
    keep(store, measured(store, look, language))


def measured(
    store: Store, look: Callable[[Picture], Candidates], language: Floats | None
) -> dict[str, str | None]:
    """The prominence that `FALSE_ACCEPTS` of snapshots of unknown objects reach, as facts for `keep`.

    The snapshots are street views made from stored regions, and unknown because each is searched without its
    own item. With it they tell, where `language` says which part of a descriptor (D,) that is, from where on
    a bare query needs no caption (`GATES`). No facts while the gallery is within a fifth of the size it was
    calibrated at; one with fewer than `CROWD` other items gets no threshold of confidence.
    """
    with store.view() as view:
        if abs(view.size - int(store.meta.get("calibrated_at", 0))) <= view.size / 5:
            return {}
        if language is None and len(np.unique(view.owners(view.keys))) <= CROWD:  # nothing could come of it
            return {"confident_from": None, **dict.fromkeys(GATES), "calibrated_at": str(view.size)}
        keys = np.random.default_rng(0).permutation(view.keys)[:QUERIES]
        rows = view.rows(keys)
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            looks = pool.map(
                lambda seed, row, scenery: _seen(look, seed, row, scenery),
                range(len(rows)),
                rows,
                [*rows[1:], *rows[:1]],
            )
            shown = [pair for pair in zip(view.owners(keys), looks, strict=True) if pair[1]]
        reached = [
            ranking.prominence(ranking.scores_without(view, candidates, owner)) for owner, candidates in shown
        ]
        found: dict[str, float | None] = {"confident_from": None, **dict.fromkeys(GATES)}
        if language is not None and shown:
            found |= _gates(view, shown, language)
        size = view.size
    reached = [prominence for prominence in reached if prominence > -np.inf]
    if len(reached) >= CROWD:
        found["confident_from"] = float(np.quantile(reached, 1 - FALSE_ACCEPTS))
    told = {fact: None if value is None else f"{value:.4f}" for fact, value in found.items()}
    return {**told, "calibrated_at": str(size)}


def keep(store: Store, facts: Mapping[str, str | None]) -> None:
    """Have the store tell these facts, and no longer those that are None."""
    for fact, value in facts.items():
        if value is None:
            store.meta.pop(fact, None)
        else:
            store.meta[fact] = value


def sureness(view: View, vector: Floats, prominence: float, language: Floats) -> dict[str, float]:
    """How sure the answer to a bare query (D,) is by each gate, higher for surer.

    "margin" is its prominence; "disagreement" what the first ten items by the whole descriptor and those by
    its language part have in common (Jaccard, 0 to 1).
    """
    return {"margin": prominence, "disagreement": ranking.agreement(view, vector, language)}


def sure_from(values: Sequence[float], right: Sequence[bool]) -> float | None:
    """The least value from which on `SURE` of the answers are right, given values (Q,) and which are (Q,).

    None where there is no such value.
    """
    order = np.argsort(-np.asarray(values), kind="stable")
    ranked = np.asarray(values, np.float64)[order]
    share = np.cumsum(np.asarray(right, np.float64)[order]) / np.arange(1, len(order) + 1)
    last = np.append(ranked[1:] < ranked[:-1], True)[: len(share)]  # of equal values all or none
    sure = np.flatnonzero((share >= SURE) & last)
    return float(ranked[sure[-1]]) if len(sure) else None


def _gates(view: View, shown: Sequence[tuple[int, Candidates]], language: Floats) -> dict[str, float | None]:
    measured: dict[str, list[float]] = {gate: [] for gate in GATES}
    right = []
    for owner, candidates in shown:
        place, shortlist = ranking.standing_out(view, np.stack([vector for _, vector in candidates]), 1)
        keys, scores = ranking.best_of_items(view, shortlist.keys, shortlist.scores)
        for gate, value in sureness(view, candidates[place][1], ranking.prominence(scores), language).items():
            measured[gate].append(value)
        right.append(bool(view.owners(keys[:1])[0] == owner))
    return {gate: sure_from(values, right) for gate, values in measured.items()}


def _seen(look: Callable[[Picture], Candidates], seed: int, row: Row, scenery: Row) -> Candidates:
    """Where the object may be in a snapshot of a stored region; nowhere if a picture is gone."""
    try:
        product, behind = (Region(images.load(r.source), r.box).pixels for r in (row, scenery))
    except (BadPicture, BadInput):
        return []
    return look(Picture.of(street_view(product, behind, seed).pixels))
