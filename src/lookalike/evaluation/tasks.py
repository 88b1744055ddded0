"""Tasks: which regions ask, which are searched, and which answers are right."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, replace
from enum import Enum

import numpy as np
from numpy.typing import NDArray

from lookalike.datasets import Labelled, Side
from lookalike.errors import BadInput
from lookalike.evaluation.metrics import SAME_BOX
from lookalike.values import Keys

NOBODY: Keys = np.zeros(0, np.int64)

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
