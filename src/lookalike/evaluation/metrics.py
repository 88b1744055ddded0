"""Retrieval metrics by name. Pure numpy, float64.

A ranking is `relevant` (N,) bool, best first: whether the gallery item at rank 1, 2, … N is a right answer.
Each function says which measure of `Ranks` it is; there the formulas are, with their sources. Who has scores
instead of rankings starts from `ranks_of`.

A query without right answers has the value nan: leave it out of the mean.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any, Self, TypedDict, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lookalike.errors import BadInput
from lookalike.evaluation.ranks import Indices, Ranks, discounts, ranks_of
from lookalike.values import Box

__all__ = [
    "Ranks", "average_precision", "deepfashion2_top_k", "map_at_r", "mean_reciprocal_rank", "ndcg",
    "precision_at", "ranks_of", "recall_at", "revisited",
]  # fmt: skip

Value = TypeVar("Value")

TOP_K = (1, 5, 10, 15, 20)  # of DeepFashion2's retrieval table
SAME_BOX = 0.5  # IoU from which a found gallery box counts as the annotated one
LISTS = ("easy", "hard", "junk")
REVISITED = {  # protocol: the lists that are right answers, the lists that are taken out
    "E": (("easy",), ("junk", "hard")),
    "M": (("easy", "hard"), ("junk",)),
    "H": (("hard",), ("junk", "easy")),
}
Revisited = TypedDict(
    "Revisited",
    {"mAP": float, "aps": NDArray[np.float64], "mP@1": float, "mP@5": float, "mP@10": float},
)


def average_precision(relevant: ArrayLike, total: int | None = None) -> float:
    """Plain average precision of a ranking (N,) bool: see `Ranks.average_precision`.

    `total` is the number of right answers in the gallery; missing ones count as precision 0. Without it
    the ranking is taken as complete. No right answer at all gives nan.
    """
    return Ranks.of(relevant, total).average_precision()


def recall_at(relevant: ArrayLike, k: int, total: int | None = None) -> float:
    """Hit rate R@k of a ranking (N,) bool, 1 or 0: see `Ranks.hit_at`. No right answer gives nan."""
    return Ranks.of(relevant, total).hit_at(k)


def precision_at(relevant: ArrayLike, k: int, total: int | None = None) -> float:
    """Precision in the first k places of a ranking (N,) bool: see `Ranks.precision_at`."""
    return Ranks.of(relevant, total).precision_at(k)


def map_at_r(relevant: ArrayLike, total: int | None = None) -> float:
    """MAP@R of a ranking (N,) bool: see `Ranks.map_at_r`. No right answer gives nan."""
    return Ranks.of(relevant, total).map_at_r()


def mean_reciprocal_rank(relevant: ArrayLike) -> float:
    """The mean of `Ranks.reciprocal_rank` over complete rankings (Q, N) bool, or of one, (N,).

    Queries without a right answer are left out; nan where none is left.
    """
    return _mean(Ranks.of(row).reciprocal_rank() for row in np.atleast_2d(relevant))


def ndcg(gains: ArrayLike, k: int | None = None, ideal: ArrayLike | None = None) -> float:
    """Normalised discounted cumulative gain with graded, linear gains; on bool the same as `Ranks.ndcg_at`.

    Järvelin and Kekäläinen, TOIS 2002, with discount log2(1 + place). `gains` (N,) in rank order, none
    negative; `k` cuts after the first k places; `ideal` (T,) holds the gains of everything in the gallery,
    in any order, where the ranking is not complete. No gain anywhere gives nan. BadInput for a gain that is
    negative, infinite or not a number.
    """
    if k is not None and k < 1:
        raise BadInput(f"k = {k}: a ranking is cut after at least 1 place")
    ranked = np.asarray(gains, np.float64)
    best = np.sort(ranked if ideal is None else np.asarray(ideal, np.float64))[::-1]
    if not all((some >= 0).all() and (some < np.inf).all() for some in (ranked, best)):
        raise BadInput("gains: needs finite numbers that are not negative")
    reached, possible = (some[:k] @ discounts(np.arange(len(some[:k]))) for some in (ranked, best))
    return float(reached / possible) if possible else math.nan


def _mean(values: Iterable[float]) -> float:
    told = [value for value in values if not math.isnan(value)]
    return float(np.mean(told)) if told else math.nan


def revisited(ranks: Indices, ground_truth: Sequence[Mapping[str, Sequence[int]]]) -> dict[str, Revisited]:
    """The Easy, Medium and Hard protocols of revisited Oxford and Paris: {"E": …, "M": …, "H": …}.

    Radenović et al., CVPR 2018, 3.3, and their published code. `ranks` (N, Q) has one column of gallery
    indices a query, best first, as the original has it; `ground_truth` one {"easy", "hard", "junk"} a query,
    disjoint lists of gallery indices. "mAP" is the mean of the trapezoidal "aps" (Q,), which are nan for
    queries without right answers in a protocol: these are left out of it, and of "mP@1", "mP@5" and
    "mP@10", the means of `Ranks.precision_within`. Right answers that a shorter ranking lacks count as
    never reached. BadInput names the query and what is wrong.
    """
    if ranks.ndim != 2 or ranks.shape[1] != len(ground_truth):
        raise BadInput(
            f"ranks {ranks.shape} for {len(ground_truth)} queries: needs one column a query",
            "ranks is (gallery, queries), as np.argsort(-scores, axis=0) gives it",
        )
    places = [
        _places(column, truth)
        for column, truth in zip(ranks.T, _Entry.each("ground_truth", ground_truth), strict=True)
    ]
    measured: dict[str, Revisited] = {}
    for protocol, (right, out) in REVISITED.items():
        answers = [
            Ranks(
                np.sort(np.concatenate([found[name] for name in right])),
                total=sum(totals[name] for name in right),
            ).without(np.concatenate([found[name] for name in out]))
            for found, totals in places
        ]
        aps = np.array([of.trapezoid_ap() for of in answers], np.float64)
        measured[protocol] = {
            "mAP": _mean(aps),
            "aps": aps,
            "mP@1": _mean(of.precision_within(1) for of in answers),
            "mP@5": _mean(of.precision_within(5) for of in answers),
            "mP@10": _mean(of.precision_within(10) for of in answers),
        }
    return measured


def _places(column: Indices, truth: _Entry) -> tuple[dict[str, Indices], dict[str, int]]:
    """Where the indices of each list stand in a ranking (N,), and how many the list has."""
    lists = {name: truth.read(name, _wholes) for name in LISTS}
    together = [index for indices in lists.values() for index in indices]
    if len(set(together)) < len(together):
        raise BadInput(f"{truth}: an index stands in its lists twice")
    found: dict[str, Indices] = {
        name: np.flatnonzero(np.isin(column, indices)) for name, indices in lists.items()
    }
    if any(len(found[name]) > len(indices) for name, indices in lists.items()):
        raise BadInput(f"{truth}: the ranking holds a right answer or junk twice")
    return found, {name: len(indices) for name, indices in lists.items()}


def deepfashion2_top_k(
    results: Sequence[Mapping[str, Any]],
    query_gt: Sequence[Mapping[str, Any]],
    gallery_gt: Sequence[Mapping[str, Any]],
) -> dict[int, float]:
    """DeepFashion2's own measure on detected boxes: {k: top-k accuracy} for k = 1, 5, 10, 15, 20.

    Ge et al., CVPR 2019, and their retrieval evaluation script; the lists are its JSON files' contents:

        query_gt    query_image_id, style, cls, pair_id, bbox (x0, y0, x1, y1)
        gallery_gt  gallery_image_id, style, pair_id, bbox
        results     query_image_id, query_bbox, query_cls, query_score, gallery_image_id, gallery_bbox

    Each detection goes to the annotated garment of its image with the largest IoU, the first one where none
    overlaps. A garment with style > 0 is a query; the highest-scoring of its detections that has its class
    answers for it. The answer at rank t is right where a garment of the same pair and style is annotated in
    that gallery image with an IoU of at least 0.5; the gallery's classes are never compared. Queries without
    a detection are never right and stay in the denominator. nan where there are no queries.

    BadInput names the entry and the field that is missing or of the wrong kind.
    """
    images: dict[int, list[_Garment]] = {}  # of each consumer image, in the order of the file
    for entry in _Entry.each("query_gt", query_gt):
        images.setdefault(entry.read("query_image_id", _whole), []).append(_Garment.of(entry))
    shop: dict[tuple[int, int, int], list[Box]] = {}  # boxes by pair, style and gallery image
    for entry in _Entry.each("gallery_gt", gallery_gt):
        key = (
            entry.read("pair_id", _whole), entry.read("style", _whole), entry.read("gallery_image_id", _whole)
        )  # fmt: skip
        shop.setdefault(key, []).append(entry.read("bbox", _box))
    best: dict[_Garment, _Detection] = {}
    for entry in _Entry.each("results", results):
        detection = _Detection.of(entry)
        garments = images.get(entry.read("query_image_id", _whole))
        if not garments:
            continue  # an image that is not in the ground truth
        garment = max(garments, key=lambda garment: detection.box.iou(garment.box))  # the first of equal ones
        rival = best.get(garment)
        if detection.category == garment.category and (rival is None or detection.score > rival.score):
            best[garment] = detection

    found = []
    for query in (garment for garments in images.values() for garment in garments if garment.style > 0):
        answers = best[query].answers[: max(TOP_K)] if query in best else ()
        right = [
            any(box.iou(other) >= SAME_BOX for other in shop.get((query.pair, query.style, image), ()))
            for image, box in answers
        ]
        found.append(Ranks.of(right, total=max(TOP_K)))  # however many there are: only hits are looked at
    return {k: _mean(ranks.hit_at(k) for ranks in found) for k in TOP_K}


@dataclass(frozen=True, slots=True, eq=False)  # two equal annotations are two queries
class _Garment:
    pair: int
    style: int
    category: int
    box: Box

    @classmethod
    def of(cls, entry: _Entry) -> Self:
        pair, style, category = (entry.read(field, _whole) for field in ("pair_id", "style", "cls"))
        return cls(pair, style, category, entry.read("bbox", _box))


@dataclass(frozen=True, slots=True)
class _Detection:
    box: Box
    category: int
    score: float
    answers: tuple[tuple[int, Box], ...]  # gallery images and boxes, best first

    @classmethod
    def of(cls, entry: _Entry) -> Self:
        images = entry.read("gallery_image_id", _wholes)
        boxes = entry.read("gallery_bbox", lambda value: [_box(each) for each in _list(value)])
        if len(images) != len(boxes):
            raise BadInput(f"{entry}: {len(images)} in gallery_image_id, but {len(boxes)} in gallery_bbox")
        return cls(
            entry.read("query_bbox", _box), entry.read("query_cls", _whole),
            entry.read("query_score", _number), tuple(zip(images, boxes, strict=True)),
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Entry:
    """One entry of a list that was JSON once. What is wrong in it is told with its list, place and field."""

    source: str
    place: int
    fields: Mapping[str, Any]

    @classmethod
    def each(cls, source: str, values: Sequence[Mapping[str, Any]]) -> Iterator[Self]:
        for place, fields in enumerate(_list(values)):
            if not isinstance(fields, Mapping):
                raise BadInput(f"{source}[{place}]: {fields!r:.60} is not an object")
            yield cls(source, place, fields)

    def read(self, field: str, kind: Callable[[Any], Value]) -> Value:
        if field not in self.fields:
            raise BadInput(f"{self}: the field {field} is missing")
        try:
            return kind(self.fields[field])
        except BadInput as error:
            raise BadInput(f"{self}.{field}: {error}", error.hint) from None

    def __str__(self) -> str:
        return f"{self.source}[{self.place}]"


def _list(value: Any) -> list[Any]:
    if not isinstance(value, list | tuple | np.ndarray):
        raise BadInput(f"{value!r:.60} is not a list")
    return list(value)


def _whole(value: Any) -> int:
    if not isinstance(value, Integral) or isinstance(value, bool):
        raise BadInput(f"{value!r:.60} is not a whole number")
    return int(value)


def _wholes(value: Any) -> list[int]:
    return [_whole(each) for each in _list(value)]


def _number(value: Any) -> float:
    if not isinstance(value, Real) or isinstance(value, bool) or not math.isfinite(value):
        raise BadInput(f"{value!r:.60} is not a finite number")
    return float(value)


def _box(value: Any) -> Box:
    corners = [_number(each) for each in _list(value)]
    if len(corners) != 4:
        raise BadInput(f"{value!r:.60} is not a box of four numbers")
    return Box(*corners)
