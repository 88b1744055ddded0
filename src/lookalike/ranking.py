"""From stored regions to ranked items: pure functions on a view, shared by searching and calibration."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lookalike.roles import View
from lookalike.values import Floats, Hit, Keys, Region, Row, Shortlist, unit

SHORTLIST = 400  # regions re-ranked; SuperGlobal's M
WORDS_WEIGHT = 0.2  # what the best full-text match adds to a picture's score
CAPTION_WEIGHT = 0.5  # of a caption's meaning beside the picture, where words alone are searched with
MEANING_WEIGHT = 2.0  # of words beside a picture of weight 1; fitted with `compact` on drawn garments
CROWD = 50  # items that the first one has to stand out from


def standing_out(view: View, vectors: Floats, top: int, where: str | None = None) -> tuple[int, Shortlist]:
    """Of descriptors (C, D) of places where the object may be, the one whose first item stands out most.

    Its place among them, and what it found. The highest score would not do: scenery too may look like
    something in the gallery, but then like many things at once. It decides between equals, as where there is
    one item alone.
    """
    lists = shortlists(view, vectors, top, where)
    if len(lists) == 1 or not len(lists[0]):
        return 0, lists[0]
    reached = [best_of_items(view, some.keys, some.scores)[1] for some in lists]
    best = max(range(len(lists)), key=lambda place: (prominence(reached[place]), reached[place][0]))
    return best, lists[best]


def scores_without(view: View, candidates: list[tuple[Region, Floats]], item: int) -> Floats:
    """The scores of the items found (T,), best first, one item left out; none with fewer than `CROWD`."""
    best = np.zeros(0, np.float32)
    vectors = np.stack([vector for _, vector in candidates])
    for keys, scores in zip(*view.search(vectors, SHORTLIST), strict=True):
        others = view.owners(keys) != item
        _, reached = best_of_items(view, keys[others], scores[others])
        if len(reached) >= CROWD and prominence(reached) > prominence(best):
            best = reached
    return best


def agreement(view: View, vector: Floats, part: Floats, top: int = 10) -> float:
    """What the first `top` items by a descriptor (D,) and by a part of it have in common: Jaccard, 0 to 1.

    `part` (D,) has ones where the part is, zeros elsewhere.
    """
    lists = shortlists(view, unit(np.stack([vector, vector * part])), top, None)
    whole, partly = (
        set(view.owners(best_of_items(view, some.keys, some.scores)[0][:top]).tolist()) for some in lists
    )
    return len(whole & partly) / max(1, len(whole | partly))


def shortlists(
    view: View, vectors: Floats, top: int, where: str | None, exact: bool = False
) -> list[Shortlist]:
    """For descriptors (Q, D) the first `SHORTLIST` regions, or as many as it takes for `top` items."""
    size = SHORTLIST
    while True:
        found = [
            Shortlist(keys, scores, view)
            for keys, scores in zip(*view.search(vectors, size, where, exact), strict=True)
        ]
        if len(found[0]) < size or all(len(np.unique(view.owners(some.keys))) >= top for some in found):
            return found
        size *= 4


def by_words(view: View, items: Keys, scores: Floats) -> Shortlist:
    """All regions of full-text matches, items (W,) with scores (W,): each scores as its item."""
    if len(items) == 0:
        return Shortlist(np.zeros(0, np.int64), np.zeros(0, np.float32), view)
    keys = view.regions_of(items)
    by_key = np.argsort(items)
    reached = scores[by_key[np.searchsorted(items, view.owners(keys), sorter=by_key)]]
    order = np.argsort(-reached, kind="stable")
    return Shortlist(keys[order], reached[order], view)


def combined(seen: Sequence[Floats], meaning: Floats | None) -> Floats:
    """One descriptor (D,) for views of one object (each (D,)) and the meaning of words (D,), if any.

    (0,) where there is neither.
    """
    parts = [] if meaning is None else [MEANING_WEIGHT * meaning]
    if seen:
        parts.append(unit(np.mean(seen, axis=0)))
    return unit(np.sum(parts, axis=0)) if parts else np.zeros(0, np.float32)


def best_of_items(view: View, keys: Keys, scores: Floats) -> tuple[Keys, Floats]:
    """A ranking of regions (T,) cut to each item's best region, order kept."""
    order = np.argsort(-scores, kind="stable")
    _, first = np.unique(view.owners(keys[order]), return_index=True)
    kept = order[np.sort(first)]
    return keys[kept], scores[kept]


def filled(ranked: list[tuple[Keys, Floats]]) -> tuple[Keys, Floats]:
    longest = max(len(keys) for keys, _ in ranked)
    keys = np.full((len(ranked), longest), -1, np.int64)
    scores = np.full((len(ranked), longest), -np.inf, np.float32)
    for place, (some, reached) in enumerate(ranked):
        keys[place, : len(some)], scores[place, : len(some)] = some, reached
    return keys, scores


def prominence(scores: Floats) -> float:
    """How far the first of the items' scores (T,), best first, stands out from the crowd.

    Its way from the median of the first `CROWD` in parts of the way from there to a perfect 1, so that an
    exact copy has prominence 1 whatever the crowd. No scores give -inf.
    """
    if len(scores) == 0:
        return -np.inf
    crowd = float(np.median(scores[:CROWD]))
    return (float(scores[0]) - crowd) / max(1 - crowd, 1e-6)


def words_bonus(view: View, keys: Keys, items: Keys, scores: Floats) -> Floats:
    """What full-text matches, items (W,) with scores (W,), add to regions (M,): (M,), 0 to `WORDS_WEIGHT`."""
    if len(items) == 0:
        return np.zeros(len(keys), np.float32)
    by_key = np.argsort(items)
    owners = view.owners(keys)
    place = by_key[np.searchsorted(items, owners, sorter=by_key).clip(max=len(items) - 1)]
    matched = np.where(items[place] == owners, scores[place] / scores.max(), 0)
    return np.asarray(WORDS_WEIGHT * matched, np.float32)


def caption_bonus(view: View, keys: Keys, meaning: Floats) -> Floats:
    """What captions that mean the same as words (D,) add to regions (M,): (M,), up to `CAPTION_WEIGHT`."""
    return np.asarray(CAPTION_WEIGHT * (view.meanings(keys) @ meaning), np.float32)


def hits(view: View, keys: Keys, scores: Floats) -> list[Hit]:
    return [_hit(row, float(score)) for row, score in zip(view.rows(keys), scores, strict=True)]


def _hit(row: Row, score: float) -> Hit:
    caption = None if row.caption is None else row.caption.text
    item = row.item
    return Hit(item.id, score, row.source, row.box, caption, item.title, item.attributes, row.sha256)
