"""Evaluation protocols: which regions ask, which are searched, and which answers are right.

A protocol poses a task from the labelled regions of a split. To add one, write a function from regions to a
Task and an entry in `PROTOCOLS`; everything else (descriptors, ranking, intervals, report) follows.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from enum import Enum

import numpy as np
from numpy.typing import NDArray

from lookalike.datasets import Dataset, Labelled, Side
from lookalike.errors import BadInput
from lookalike.evaluation.metrics import SAME_BOX, Ranks
from lookalike.values import Keys

NOBODY: Keys = np.zeros(0, np.int64)
GRADED_AT = 5  # of graded nDCG

Grades = NDArray[np.float64]


class Asking(Enum):
    """What a query consists of."""

    PICTURE = "picture"
    WORDS = "words"
    BOTH = "picture and words"


@dataclass(frozen=True, slots=True)
class Judgement:
    """Which answers are right: for each query the places of gallery regions, ascending.

    `ignored` ones are taken out of the ranking before it is judged: junk, and the query itself.
    """

    name: str
    right: Sequence[Keys]
    ignored: Sequence[Keys]


@dataclass(frozen=True, slots=True)
class Task:
    """Queries, the gallery they are searched in, and one or more judgements of the same ranking.

    `where` is a filter a query on the gallery, or None: what does not pass is not ranked. `texts` are the
    queries' words. `grades(q)` tells how right each gallery region is for query q, (N,), 0 to 1.
    """

    queries: Sequence[Labelled]
    gallery: Sequence[Labelled]
    judgements: tuple[Judgement, ...]
    asking: Asking = Asking.PICTURE
    texts: Sequence[str] = ()
    where: Sequence[str | None] = ()
    grades: Callable[[int], Grades] | None = None


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
        near = get_close_matches(name, PROTOCOLS, n=1)
        meant = f"did you mean {near[0]}? " if near else ""
        raise BadInput(f"no protocol is called {name!r}", f"{meant}known: {', '.join(PROTOCOLS)}")
    return PROTOCOLS[name]


def usual_protocol(dataset: Dataset) -> str:
    """The protocol that a data set of this kind is measured by unless another is named."""
    return USUAL.get(dataset.name, "identity")


def by_identity(regions: Sequence[Labelled]) -> Task:
    """Queries with an identity against all gallery regions; right is the same identity."""
    queries, gallery = _sides(regions)
    return Task(queries, gallery, (_judged(queries, gallery, "same identity", lambda r: r.identity),))


def b1(regions: Sequence[Labelled]) -> Task:
    """Protocol B1: the whole gallery, unpaired regions included."""
    queries, gallery = _sides(regions)
    return Task(
        queries,
        gallery,
        (
            _judged(queries, gallery, "pair and style", lambda r: r.identity),
            _judged(queries, gallery, "pair, style and category", _identity_and_category),
        ),
    )


def b2(regions: Sequence[Labelled]) -> Task:
    """Protocol B2: gallery regions that take part in a pair."""
    task = b1([region for region in regions if region.identity is not None])
    return _filtered(task, lambda _query: "paired = true")


def b1_in_category(regions: Sequence[Labelled]) -> Task:
    """Protocol B1 with the gallery cut to the query's category before it is ranked."""
    queries, gallery = _sides(regions)
    judgement = _judged(queries, gallery, "pair, style and category", _identity_and_category)
    task = Task(queries, gallery, (judgement,))
    return _filtered(task, lambda query: "category = '{}'".format(query.category.replace("'", "''")))


def official(regions: Sequence[Labelled]) -> Task:
    """Every customer's garment with style > 0; see `on_found_regions` for what it is searched in."""
    queries, gallery = _sides(regions)
    judgement = _judged(queries, gallery, "pair and style, overlapping", lambda r: r.identity)
    return Task(queries, gallery, (judgement,))


def on_found_regions(
    task: Task, regions: Sequence[Labelled], queries: Sequence[Labelled], gallery: Sequence[Labelled]
) -> tuple[Task, list[int | None]]:
    """DeepFashion2's official rule: the task on found regions, and which of `queries` asks for each query.

    `regions` is all that is annotated, `queries` (best first in each picture) and `gallery` are found. A
    found region belongs to the annotated one of its picture with the largest IoU, the first one where none
    overlaps.
    """
    annotated: dict[str, list[Labelled]] = {}
    for region in regions:
        annotated.setdefault(region.source, []).append(region)
    asking: dict[str, int] = {}
    for place, found in enumerate(queries):
        nearest = max(annotated[found.source], key=lambda region: _overlap(region, found))
        asking.setdefault(nearest.id, place)
    right: dict[str | None, list[int]] = {}
    for place, found in enumerate(gallery):
        covered = [region for region in annotated[found.source] if _overlap(region, found) >= SAME_BOX]
        for identity in {region.identity for region in covered}:
            right.setdefault(identity, []).append(place)
    (judgement,) = task.judgements
    places = [np.array(right.get(query.identity, []), np.int64) for query in task.queries]
    posed = replace(task, gallery=gallery, judgements=(replace(judgement, right=places),))
    return posed, [asking.get(query.id) for query in task.queries]


def _overlap(one: Labelled, other: Labelled) -> float:
    return one.box.iou(other.box) if one.box and other.box else float(one.box is other.box)


def fine(regions: Sequence[Labelled]) -> Task:
    """Right is the same category with all the same attributes; graded by the share of attributes."""
    return _alike(regions, "same category and attributes", lambda r: (r.category, _sorted(r)))


def coarse(regions: Sequence[Labelled]) -> Task:
    """Right is the same category."""
    return _alike(regions, "same category", lambda r: r.category)


def revisited(regions: Sequence[Labelled]) -> Task:
    """Revisited Oxford and Paris: easy, medium and hard, judged on one ranking."""
    queries, gallery = _sides(regions)
    easy, hard, junk = (_listed(queries, gallery, name) for name in ("easy", "hard", "junk"))
    return Task(
        queries,
        gallery,
        (
            Judgement("medium", _joined(easy, hard), junk),
            Judgement("hard", hard, _joined(junk, easy)),
            Judgement("easy", easy, _joined(junk, hard)),
        ),
    )


def listed(regions: Sequence[Labelled]) -> Task:
    """The data set lists each query's right answers."""
    queries, gallery = _sides(regions)
    right = _listed(queries, gallery, "right")
    return Task(queries, gallery, (Judgement("listed", right, [NOBODY] * len(queries)),))


def text(regions: Sequence[Labelled]) -> Task:
    """A true caption alone asks; right is the identity that it describes."""
    queries, gallery = _sides(regions)
    queries = [query for query in queries if query.captions]
    if not queries:
        raise BadInput("no query of this data set has a caption", "protocol text needs captions")
    return Task(
        queries,
        gallery,
        (_judged(queries, gallery, "same identity", lambda r: r.identity),),
        Asking.WORDS,
        texts=[query.captions[-1] for query in queries],
    )


def composed(regions: Sequence[Labelled]) -> Task:
    """A picture and words that change it. Where the data set lists no targets they are made from attributes:
    each other style of the query's group is asked for by what it has in place of the query's own."""
    queries, gallery = _sides(regions)
    asked = [query for query in queries if query.words]
    if asked:
        targets = _listed(asked, gallery, "target")
        reference, members = _listed(asked, gallery, "reference"), _listed(asked, gallery, "members")
        judgements = [Judgement("target", targets, reference)]
        if any(len(some) for some in members):
            everyone = np.arange(len(gallery))
            others = [np.setdiff1d(everyone, some) for some in members]
            judgements.append(Judgement("target within its group", targets, _joined(others, reference)))
        words = [query.words for query in asked]
        return Task(asked, gallery, tuple(judgements), Asking.BOTH, texts=words)
    by_group = _places(gallery, _group)
    changed = [found for query in queries for found in _changes(query, gallery, by_group)]
    if not changed:
        raise BadInput(
            "this data set has no composed queries", "it needs words with targets, or styles with attributes"
        )
    asked, targets = [query for query, _ in changed], [places for _, places in changed]
    judgement = Judgement("changed style", targets, [NOBODY] * len(asked))
    words = [query.words for query in asked]
    return Task(asked, gallery, (judgement,), Asking.BOTH, texts=words)


def _sides(regions: Sequence[Labelled]) -> tuple[list[Labelled], list[Labelled]]:
    queries = [
        r for r in regions if r.side != Side.GALLERY and (r.identity is not None or r.truth or r.words)
    ]
    gallery = [r for r in regions if r.side != Side.QUERY]
    if not queries or not gallery:
        lacking = "queries" if not queries else "gallery regions"
        raise BadInput(f"the split has no {lacking}", "look at it with: lookalike doctor DATASET")
    return queries, gallery


def _places(gallery: Sequence[Labelled], key: Callable[[Labelled], Hashable]) -> dict[Hashable, Keys]:
    """Gallery places by key, ascending; regions with key None are nowhere."""
    lists: dict[Hashable, list[int]] = {}
    for place, region in enumerate(gallery):
        if (value := key(region)) is not None:
            lists.setdefault(value, []).append(place)
    return {value: np.array(places, np.int64) for value, places in lists.items()}


def _judged(
    queries: Sequence[Labelled],
    gallery: Sequence[Labelled],
    name: str,
    key: Callable[[Labelled], Hashable],
) -> Judgement:
    """Right is what has the query's key; a query that is in the gallery does not count as its own answer."""
    by_key, own = _places(gallery, key), _places(gallery, lambda r: r.id)
    ignored = [own.get(q.id, NOBODY) if q.side is Side.BOTH else NOBODY for q in queries]
    right = [
        np.setdiff1d(by_key.get(key(query), NOBODY), itself)
        for query, itself in zip(queries, ignored, strict=True)
    ]
    return Judgement(name, right, ignored)


def _listed(queries: Sequence[Labelled], gallery: Sequence[Labelled], name: str) -> list[Keys]:
    place = {region.id: place for place, region in enumerate(gallery)}
    found = []
    for query in queries:
        try:
            found.append(np.array(sorted(place[region] for region in query.truth.get(name, ())), np.int64))
        except KeyError as error:
            raise BadInput(
                f"query {query.id}: its {name} names {error}, which is not in the gallery",
                "look at it with: lookalike doctor DATASET",
            ) from None
    return found


def _joined(some: Sequence[Keys], others: Sequence[Keys]) -> list[Keys]:
    return [np.union1d(a, b) for a, b in zip(some, others, strict=True)]


def _filtered(task: Task, where: Callable[[Labelled], str]) -> Task:
    filters = [where(query) for query in task.queries]
    return Task(task.queries, task.gallery, task.judgements, where=filters)


def _identity_and_category(region: Labelled) -> Hashable:
    return None if region.identity is None else (region.identity, region.category)


def _group(region: Labelled) -> Hashable:
    return None if region.identity is None else region.group


def _sorted(region: Labelled) -> tuple[tuple[str, str], ...]:
    return tuple(sorted(region.attributes.items()))


def _alike(regions: Sequence[Labelled], name: str, key: Callable[[Labelled], Hashable]) -> Task:
    queries, gallery = _sides(regions)
    if not any(query.attributes for query in queries):
        raise BadInput("this data set has no attributes", "protocols fine and coarse need them")
    names = sorted({name for region in gallery for name in region.attributes})
    values: dict[str, int] = {}

    def coded(region: Labelled) -> list[int]:
        mine = [region.category, *(region.attributes.get(name, "") for name in names)]
        return [values.setdefault(value, len(values)) for value in mine]

    codes = np.array([coded(region) for region in gallery])  # (N, 1 + attributes)

    def grades(query: int) -> Grades:
        alike = codes == np.array(coded(queries[query]))
        return np.asarray(alike[:, 1:].mean(axis=1) * alike[:, 0], np.float64)

    return Task(queries, gallery, (_judged(queries, gallery, name, key),), grades=grades)


def _changes(
    query: Labelled, gallery: Sequence[Labelled], groups: dict[Hashable, Keys]
) -> Iterator[tuple[Labelled, Keys]]:
    """For each other style of the query's group: the query with words, and the gallery places it asks for."""
    others: dict[str | None, list[int]] = {}
    for place in groups.get(query.group, NOBODY).tolist():
        region = gallery[place]
        if region.identity != query.identity and region.category == query.category:
            others.setdefault(region.identity, []).append(place)
    for number, places in enumerate(others.values(), start=1):
        wanted = gallery[places[0]].attributes
        new = [value for name, value in wanted.items() if query.attributes.get(name) != value]
        if new:
            made = replace(query, id=f"{query.id}#{number}", words="but " + ", ".join(new))
            yield made, np.array(places, np.int64)


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
            b1,
        ),
        Protocol("b2", _B + "Gallery: garments with style > 0. Right: same pair and style.", _PLAIN, b2),
        Protocol(
            "b1-category",
            _B + "Gallery: every garment of every shop picture, cut to the query's category before ranking, "
            "which is easier. Right: same pair, style and category.",
            _PLAIN,
            b1_in_category,
        ),
        Protocol(
            "official",
            "DeepFashion2's own measure on found regions: each goes to the annotated garment that it "
            "overlaps most; a customer's garment with style > 0 asks with the best of its regions; an answer "
            "is right where it overlaps a garment of the same pair and style in its shop picture by an IoU "
            "of 0.5 or more. A garment without a region, or without an answer, counts as missed. Finders "
            "tell no categories, so regions are taken to have the right one.",
            ("top-1", "top-5", "top-10", "top-15", "top-20"),
            official,
            detected=True,
        ),
        Protocol(
            "identity",
            "Every query against the whole gallery; right is the same identity.",
            _PLAIN,
            by_identity,
        ),
        Protocol(
            "in-shop",
            "DeepFashion In-shop: every query picture against the whole gallery, all categories together.",
            ("R@1", "R@10", "R@20", "R@30", "mAP", "mAP@R"),
            by_identity,
        ),
        Protocol(
            "consumer-to-shop",
            "DeepFashion Consumer-to-shop: every consumer picture against the shop pictures, all categories.",
            ("R@20", "R@1", "R@10", "R@50", "mAP"),
            by_identity,
        ),
        Protocol(
            "sop",
            "Stanford Online Products: every test picture against all the others.",
            ("R@1", "R@10", "R@100", "R@1000", "mAP@R"),
            by_identity,
        ),
        Protocol(
            "revisited",
            "Revisited Oxford and Paris. Easy: easy answers, hard ones are junk; medium: both; hard: hard "
            "ones, easy ones are junk. Junk is in the ranking that is re-ranked and taken out before it is "
            "judged (as SuperGlobal does; DELG takes it out before re-ranking).",
            ("mAP (trapezoid)", "mP@1", "mP@5", "mP@10"),
            revisited,
        ),
        Protocol(
            "gldv2",
            "Google Landmarks v2 retrieval: every query against the whole index.",
            ("mAP@100", "R@1", "R@10"),
            listed,
        ),
        Protocol(
            "fine",
            "After look-bench: right is a gallery region of the same category with all the same attributes, "
            "whatever its identity. nDCG is graded by the share of attributes that agree.",
            ("R@1", "R@5", "R@10", "mAP", f"graded nDCG@{GRADED_AT}"),
            fine,
        ),
        Protocol(
            "coarse",
            "After look-bench: right is a gallery region of the same category.",
            ("R@1", "R@5", "R@10", "mAP", f"graded nDCG@{GRADED_AT}"),
            coarse,
        ),
        Protocol(
            "text",
            "Text to image: the longest true caption of a query region, without its picture; right is the "
            "same identity. Encoders without language search the words in the gallery's own true captions.",
            ("mAP", "R@1", "R@5", "R@10", "MRR"),
            text,
        ),
        Protocol(
            "composed",
            "Composed retrieval: a picture and words that change it. Right: the listed targets or, where "
            "none are listed, the other style of the pair that the words name. Encoders without language "
            "search the words in the gallery's own true captions.",
            ("R@1", "R@5", "R@10", "R@50", "mAP", "mAP@5"),
            composed,
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
