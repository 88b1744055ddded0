"""Evaluation protocols: a task, what it means in words, and the metrics it is measured by.

To add one, write a function from labelled regions to a Task and an entry in `PROTOCOLS`; everything else
(descriptors, ranking, intervals, report) follows.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from lookalike.datasets import Dataset, Labelled
from lookalike.errors import unknown_name
from lookalike.evaluation import tasks
from lookalike.evaluation.metrics import Ranks
from lookalike.evaluation.tasks import Task

GRADED_AT = 5  # of graded nDCG


@dataclass(frozen=True, slots=True)
class Protocol:
    name: str
    about: str  # the definition, in words that go into every report
    metrics: tuple[str, ...]  # the columns, headline first
    pose: Callable[[Sequence[Labelled]], Task]
    detected: bool = False  # found regions are ranked, and judged by their overlap with the annotated ones


def protocol(name: str) -> Protocol:
    """By name; BadInput with the near ones where there is none."""
    if name not in PROTOCOLS:
        raise unknown_name("protocol", name, PROTOCOLS)
    return PROTOCOLS[name]


def usual_protocol(dataset: Dataset) -> str:
    """The protocol that a data set of this kind is measured by unless another is named."""
    return USUAL.get(dataset.name, "identity")


_B = (
    "DeepFashion2 consumer-to-shop with annotated boxes. Queries: every garment of a customer's picture with "
    "style > 0 whose pair and style occur in the shop gallery. "
)
_PLAIN = ("mAP", "mAP@20", "R@1", "R@5", "R@10", "R@20", "MRR")

PROTOCOLS = {
    made.name: made
    for made in (
        Protocol(
            "b1",
            _B + "Gallery: every garment of every shop picture; those of style 0 are never right. "
            "Right: same pair and style. No filter by category.",
            _PLAIN,
            tasks.b1,
        ),
        Protocol(
            "b2", _B + "Gallery: garments with style > 0. Right: same pair and style.", _PLAIN, tasks.b2
        ),
        Protocol(
            "b1-category",
            _B + "Gallery: every garment of every shop picture, cut to the query's category before ranking, "
            "which is easier. Right: same pair, style and category.",
            _PLAIN,
            tasks.b1_in_category,
        ),
        Protocol(
            "official",
            "DeepFashion2's own measure on found regions: each goes to the annotated garment that it "
            "overlaps most; a customer's garment with style > 0 asks with the best of its regions; an answer "
            "is right where it overlaps a garment of the same pair and style in its shop picture by an IoU "
            "of 0.5 or more. A garment without a region, or without an answer, counts as missed. Finders "
            "tell no categories, so regions are taken to have the right one.",
            ("top-1", "top-5", "top-10", "top-15", "top-20"),
            tasks.official,
            detected=True,
        ),
        Protocol(
            "identity",
            "Every query against the whole gallery; right is the same identity.",
            _PLAIN,
            tasks.by_identity,
        ),
        Protocol(
            "in-shop",
            "DeepFashion In-shop: every query picture against the whole gallery, all categories together.",
            ("R@1", "R@10", "R@20", "R@30", "mAP", "mAP@R"),
            tasks.by_identity,
        ),
        Protocol(
            "consumer-to-shop",
            "DeepFashion Consumer-to-shop: every consumer picture against the shop pictures, all categories.",
            ("R@20", "R@1", "R@10", "R@50", "mAP"),
            tasks.by_identity,
        ),
        Protocol(
            "sop",
            "Stanford Online Products: every test picture against all the others.",
            ("R@1", "R@10", "R@100", "R@1000", "mAP@R"),
            tasks.by_identity,
        ),
        Protocol(
            "revisited",
            "Revisited Oxford and Paris. Easy: easy answers, hard ones are junk; medium: both; hard: hard "
            "ones, easy ones are junk. Junk is in the ranking that is re-ranked and taken out before it is "
            "judged (as SuperGlobal does; DELG takes it out before re-ranking).",
            ("mAP (trapezoid)", "mP@1", "mP@5", "mP@10"),
            tasks.revisited,
        ),
        Protocol(
            "gldv2",
            "Google Landmarks v2 retrieval: every query against the whole index.",
            ("mAP@100", "R@1", "R@10"),
            tasks.listed,
        ),
        Protocol(
            "fine",
            "After look-bench: right is a gallery region of the same category with all the same attributes, "
            "whatever its identity. nDCG is graded by the share of attributes that agree.",
            ("R@1", "R@5", "R@10", "mAP", f"graded nDCG@{GRADED_AT}"),
            tasks.fine,
        ),
        Protocol(
            "coarse",
            "After look-bench: right is a gallery region of the same category.",
            ("R@1", "R@5", "R@10", "mAP", f"graded nDCG@{GRADED_AT}"),
            tasks.coarse,
        ),
        Protocol(
            "text",
            "Text to image: the longest true caption of a query region, without its picture; right is the "
            "same identity. Encoders without language search the words in the gallery's own true captions.",
            ("mAP", "R@1", "R@5", "R@10", "MRR"),
            tasks.text,
        ),
        Protocol(
            "composed",
            "Composed retrieval: a picture and words that change it. Right: the listed targets or, where "
            "none are listed, the other style of the pair that the words name. Encoders without language "
            "search the words in the gallery's own true captions.",
            ("R@1", "R@5", "R@10", "R@50", "mAP", "mAP@5"),
            tasks.composed,
        ),
    )
}
USUAL = {
    "deepfashion2": "b1",
    "in-shop": "in-shop",
    "consumer-to-shop": "consumer-to-shop",
    "sop": "sop",
    "roxford5k": "revisited",
    "rparis6k": "revisited",
    "gldv2": "gldv2",
    "fashioniq": "composed",
    "cirr": "composed",
    "circo": "composed",
}

TIES = "equal scores stand in the order in which the gallery lists them"
SELF_MATCH = "a query that is in the gallery too is taken out of its own ranking"

# A metric's name without its k: how it is read off the ranks of the right answers, and its definition.
_MEASURES: dict[str, tuple[Callable[[Ranks, int], float], str]] = {
    "mAP@R": (lambda ranks, _k: ranks.map_at_r(), "average precision in the first R places over R, R right"),
    "mAP (trapezoid)": (
        lambda ranks, _k: ranks.trapezoid_ap(),
        "area under the precision-recall curve by trapezoids, as revisited Oxford and Paris are measured",
    ),
    "mAP": (
        lambda ranks, k: ranks.average_precision(k or None),
        "plain average precision, not interpolated, over all R right answers and the whole ranking",
    ),
    "mAP@": (
        lambda ranks, k: ranks.average_precision(k),
        "average precision in the first {k} places over min(R, {k})",
    ),
    "top-": (
        lambda ranks, k: ranks.hit_at(k),
        "share of queries with a right answer in the first {k} places",
    ),
    "R@": (lambda ranks, k: ranks.hit_at(k), "share of queries with a right answer in the first {k} places"),
    "mP@": (
        lambda ranks, k: ranks.precision_within(k),
        "precision in the first {k} places, or up to the last right answer where that is earlier",
    ),
    "MRR": (lambda ranks, _k: ranks.reciprocal_rank(), "mean of 1 / place of the first right answer"),
}


def measure(metric: str, ranks: Ranks) -> float:
    """A metric by its name for one query; nan where the query has no right answer."""
    formula, _, k = _measure(metric)
    return formula(ranks, k)


def definition(metric: str) -> str:
    """In words; means are over the queries that have a right answer in the gallery."""
    if metric.startswith("graded"):
        return f"nDCG in the first {GRADED_AT} places, gains graded by the share of attributes that agree"
    _, words, k = _measure(metric)
    return words.format(k=k)


def _measure(metric: str) -> tuple[Callable[[Ranks, int], float], str, int]:
    if metric in _MEASURES:
        return *_MEASURES[metric], 0
    name, k = re.fullmatch(r"(.*[@-])(\d+)", metric).groups()  # type: ignore[union-attr]
    return *_MEASURES[name], int(k)
