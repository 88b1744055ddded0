"""Moving a catalogue: rows from a store or a build to another one, and whether it answers the same."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

import numpy as np

from lookalike import doubting, images, objects
from lookalike.calibration import GATES
from lookalike.errors import BadPicture, CatalogueError, ObjectError, WrongEncoder
from lookalike.roles import Store
from lookalike.store import Build
from lookalike.store.shards import by_picture
from lookalike.values import Counts, Floats, Row

FRAGMENT = 2000  # pictures
QUERIES = 50  # stored descriptors that are searched for on both sides
TOP = 10
CALIBRATION = (
    "confident_from",
    "calibrated_at",
    *GATES,
    doubting.FACT,
)  # facts that hold for the same rows anywhere
_COPIED = "copied"  # a fact while a build is copied: its digest, and how many of its fragments are there
_ALIKE = 2e-3  # scores of fp16 descriptors that were multiplied in another order
_SPARE = 32  # candidates that are kept for the first `TOP`: a picture may come again

OnProgress = Callable[[int, int], None]  # regions done, regions in all


@dataclass(frozen=True, slots=True)
class Copied:
    """What was copied, and what the check of it found: nothing that differs, if all is well."""

    counts: Counts
    queries: int  # stored descriptors whose first `TOP` answers were compared
    differences: tuple[str, ...]


def to_store(source: Store | Build, target: Store, on_progress: OnProgress | None = None) -> Copied:
    """Copy all rows into a store of the same encoder and regime, and check that it answers the same.

    As `Store.add` does: what is there already stays as it is, so a copy that was killed is made again. Of a
    build it goes on: fragments that the target has noted as copied are read for the check alone.
    The facts of a calibration come with the rows. WrongEncoder or CatalogueError where the two do not fit.
    """
    _check_fit(facts_of(source), dict(target.meta.items()))
    counts, vectors = _counts(source), _sample(source)
    expected, done, run = _Nearest(vectors), 0, target.start_run()
    copied = _copied_before(source, target)
    for number, rows in enumerate(_pictures(source)):
        if number >= copied:
            target.add(rows, run)
            if isinstance(source, Build):
                target.meta[_COPIED] = f"{source.digest} {number + 1}"
        expected.see(rows)
        done += len(rows)
        if on_progress:
            on_progress(min(done, counts.regions), counts.regions)
    for fact, value in facts_of(source).items():
        if fact in CALIBRATION:
            target.meta[fact] = value
    target.build_index()
    target.meta.pop(_COPIED, None)  # who copies once more wants all of it, whatever became of the target
    found = _answers(target, vectors)
    return Copied(
        counts, len(vectors), tuple(_differences(counts, target.count(), expected.answers(), found))
    )


def to_build(source: Store, uri: str, on_progress: OnProgress | None = None) -> Copied:
    """Copy all rows into a build at a URI, which is made when absent, and check what was written.

    After a kill it goes on. CatalogueError where something else was begun there, or the source has changed
    since, or changes meanwhile.
    """
    objects.check_writable(uri)
    digest, fragments = hashlib.sha256(), 0
    for rows in _pictures(source):
        _digest(digest, rows)
        fragments += 1
    build = Build.create(uri, facts_of(source), f"copy {digest.hexdigest()}", fragments)
    missing, counts, done = set(build.missing()), _counts(source), 0
    again, vectors = hashlib.sha256(), _sample(source)
    expected, found = _Nearest(vectors), _Nearest(vectors)
    for number, rows in enumerate(_pictures(source)):
        _digest(again, rows)
        expected.see(rows)
        if number in missing:
            build.write(number, rows, {})
        done += len(rows)
        if on_progress:
            on_progress(min(done, counts.regions), counts.regions)
    if again.digest() != digest.digest():
        raise CatalogueError(
            "the catalogue was changed while it was copied", f"copy it again, to another place than {uri}"
        )
    facts = facts_of(source)
    written = build.finish({fact: facts[fact] for fact in CALIBRATION if fact in facts})
    for number in range(fragments):
        found.see(build.rows(number))
    differences = _differences(counts, written, expected.answers(), found.answers())
    return Copied(counts, len(vectors), tuple(differences))


def _copied_before(source: Store | Build, target: Store) -> int:
    """How many fragments of this build a copy that was broken off has brought to the target."""
    digest, _, number = target.meta.get(_COPIED, "").partition(" ")
    return int(number) if isinstance(source, Build) and digest == source.digest else 0


def pictures_readable(store: Store) -> bool:
    """Whether any of some stored pictures can be read from here."""
    with store.view() as view:
        keys = np.random.default_rng(0).permutation(view.keys)[:10]
        rows = view.rows(keys)
    for row in rows:
        with suppress(BadPicture, ObjectError):
            images.read(row.source)
            return True
    return not rows


def _check_fit(source: Mapping[str, str], target: Mapping[str, str]) -> None:
    if source["fingerprint"] != target["fingerprint"]:
        raise WrongEncoder(
            f"the source was built by {source['encoder']} ({source['fingerprint']}), "
            f"the target by {target['encoder']} ({target['fingerprint']})",
            "copy to another place, or reindex the target with that encoder first",
        )
    for fact in ("regime", "regions"):
        if source[fact] != target[fact]:
            raise CatalogueError(
                f"the source has the {fact} {source[fact]!r}, the target {target[fact]!r}",
                "copy to another place",
            )


def facts_of(source: Store | Build) -> Mapping[str, str]:
    """Whose descriptors these are: encoder, fingerprint, dim, regions, regime, and what else is known."""
    return source.manifest.facts if isinstance(source, Build) else dict(source.meta.items())


def _counts(source: Store | Build) -> Counts:
    if isinstance(source, Build):
        source.check_finished()
        return source.finish()
    return source.count()


def _pictures(source: Store | Build) -> Iterator[list[Row]]:
    """All rows, some thousand at a time, never a part of a picture."""
    if isinstance(source, Build):
        for number in range(source.manifest.fragments):
            yield source.rows(number)
        return
    block: list[Row] = []
    pictures, last = 0, None
    for row in source.scan():
        picture = (row.item.id, row.sha256)
        if picture != last:
            if pictures == FRAGMENT:
                yield block
                block, pictures = [], 0
            pictures, last = pictures + 1, picture
        block.append(row)
    if block:
        yield block


def _sample(source: Store | Build) -> Floats:
    """Descriptors (Q, D) to search with, the same ones at every call; Q = 0 for an empty source."""
    random = np.random.default_rng(0)
    if isinstance(source, Build):
        some = random.permutation(source.manifest.fragments)[:3]
        vectors = [row.vector for number in some for row in source.rows(int(number))]
        chosen = [vectors[place] for place in random.permutation(len(vectors))[:QUERIES]]
        return np.array(chosen, np.float32).reshape(-1, source.dim)
    with source.view() as view:
        return view.vectors(random.permutation(view.keys)[:QUERIES])


# item, sha256 and box of an answer
_Answer = tuple[str, str, tuple[float, ...] | None]


class _Nearest:
    """The best answers to descriptors (Q, D) among rows that pass by, found by comparing with each."""

    def __init__(self, queries: Floats) -> None:
        self._queries = queries
        self._best: list[dict[_Answer, float]] = [{} for _ in queries]

    def see(self, rows: Sequence[Row]) -> None:
        pictures = by_picture(rows)
        living = [row for regions in pictures.values() for row in regions]
        if not living or not len(self._queries):
            return
        vectors = np.stack([row.vector for row in living]).astype(np.float16).astype(np.float32)
        for place, scores in enumerate(self._queries @ vectors.T):
            old = {answer: score for answer, score in self._best[place].items() if answer[:2] not in pictures}
            for index in np.argsort(-scores)[:_SPARE]:
                old[_answer(living[index])] = float(scores[index])
            self._best[place] = dict(sorted(old.items(), key=lambda pair: -pair[1])[:_SPARE])

    def answers(self) -> list[dict[_Answer, float]]:
        return [dict(list(best.items())[:TOP]) for best in self._best]


def _answers(store: Store, queries: Floats) -> list[dict[_Answer, float]]:
    if not len(queries):
        return []
    with store.view() as view:
        keys, scores = view.search(queries, TOP, exact=True)
        return [
            dict(zip(map(_answer, view.rows(found)), reached.tolist(), strict=True))
            for found, reached in zip(keys, scores, strict=True)
        ]


def _answer(row: Row) -> _Answer:
    return row.item.id, row.sha256, None if row.box is None else row.box.corners


def _differences(
    counts: Counts,
    copied: Counts,
    expected: Sequence[Mapping[_Answer, float]],
    found: Sequence[Mapping[_Answer, float]],
) -> Iterator[str]:
    if counts != copied:
        yield f"{_said(counts)} were copied, and the target holds {_said(copied)}"
    unlike = sum(not _same(*pair) for pair in zip(expected, found, strict=True))
    if unlike:
        yield f"{unlike} of {len(expected)} stored descriptors are answered otherwise by the target"


def _same(one: Mapping[_Answer, float], other: Mapping[_Answer, float]) -> bool:
    """Whether two lists of answers are equal but for the order of equal scores, and what that cuts off."""
    mine, theirs = sorted(one.values()), sorted(other.values())
    if len(one) != len(other) or not np.allclose(mine, theirs, rtol=0, atol=_ALIKE):
        return False
    cut = min(mine, default=0.0) + _ALIKE
    return all(
        score <= cut or abs(other.get(answer, -np.inf) - score) <= _ALIKE for answer, score in one.items()
    )


def _said(counts: Counts) -> str:
    return (
        f"{counts.items:,} items, {counts.pictures:,} pictures, {counts.regions:,} regions, "
        f"{counts.captions:,} captions"
    )


def _digest(digest: hashlib._Hash, rows: Sequence[Row]) -> None:
    for row in rows:
        told = None if row.caption is None else (row.caption.text, row.caption.by, row.caption.claims)
        digest.update(
            repr((row.item, row.sha256, row.source, row.origin, row.box, row.score, told)).encode(
                "utf-8", "surrogatepass"
            )
        )
        digest.update(row.vector.astype(np.float16).tobytes())
