"""The data doctor: what is wrong with a data set or a catalogue before anything is measured on it.

One picture under two identities, one picture in training and in test, boxes that cannot be: each makes a
figure wrong without making anything fail. Pairs are found by their descriptors in a catalogue, so the search
goes through the product's own path and never compares all with all.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np

from lookalike import images, upkeep
from lookalike.catalogue import Catalogue, Report
from lookalike.datasets import Dataset, Side
from lookalike.datasets.photos import write_table
from lookalike.errors import BadPicture, CatalogueError
from lookalike.evaluation.doctor.diagnosis import NAMED, Diagnosis, Finding, quoted
from lookalike.evaluation.doctor.likeness import ALMOST, SIMILAR, Thumbnails, Unlike, unlike
from lookalike.evaluation.doctor.records import Regions, Seen, facts, read_regions
from lookalike.evaluation.runs import Place
from lookalike.images import shown
from lookalike.roles import Encoder, View
from lookalike.settings import Settings, open_catalogue
from lookalike.values import AttributeValue, Box, Progress, Row

SMALLEST = 8  # pixels a side: less is a slip of the mouse; an encoder would enlarge it thirtyfold
SMALLEST_SHARE = 0.001  # of the picture: 32 x 32 pixels of a megapixel
ROUNDING = 1.0  # pixels that a box may stick out
COINCIDING = 0.9  # intersection over union of two boxes around one thing

FAITHFUL = 0.9  # recall, as `Verification.sound` has it

SHARED_TITLE = 5  # items: variants of one product may share a title, not many products


def examine_dataset(
    dataset: Dataset,
    folder: Path | None = None,
    splits: Sequence[str] | None = None,
    encoder: str | Encoder | None = None,
    on_progress: Progress | None = None,
) -> Diagnosis:
    """What is wrong with a data set, in these splits or in all of them.

    Every region is described once, in a catalogue in `folder`, where a later run goes on (None: a temporary
    one). A split that consists of other splits is examined as those. A kilobyte a region stays in
    memory, descriptors and pictures only by the batch.
    """
    regions, findings = read_regions(dataset, splits or dataset.splits)
    if regions:
        with _described(regions, folder, encoder, on_progress) as (catalogue, report):
            with catalogue.store.view() as view:
                findings += _examine_pictures(view, regions, report)
            findings += _almost_the_same(catalogue, regions)
    else:
        findings.append(Finding("nothing to examine", f"{dataset.name}: no region can be used"))
    return Diagnosis.of(f"{dataset.name} in {shown(dataset.folder)}", facts(dataset, regions), findings)


@contextmanager
def _described(
    regions: Regions, folder: Path | None, encoder: str | Encoder | None, on_progress: Progress | None
) -> Iterator[tuple[Catalogue, Report]]:
    """A catalogue with one item per region, named like it, and nothing else."""
    with TemporaryDirectory() as temporary:
        place = Path(temporary) if folder is None else folder
        try:
            place.mkdir(parents=True, exist_ok=True)
            table = write_table(map(_row, regions.items()), place / "regions.jsonl")
        except OSError as error:
            raise CatalogueError(
                f"cannot write to {shown(place)}: {error.strerror}", "name another folder"
            ) from None
        settings = Settings(encoder=encoder, regions="whole", query_regions="whole")
        with open_catalogue(place / "catalogue", settings) as catalogue:
            yield catalogue, catalogue.add(table, prune=True, on_progress=on_progress, calibrate=False)


def _row(named: tuple[str, Seen]) -> dict[str, Any]:
    name, seen = named
    box = {} if seen.record.box is None else {"box": list(seen.record.box.corners)}
    return {"path": seen.record.source, "item": name, **box}


def _examine_pictures(view: View, regions: Regions, report: Report) -> Iterator[Finding]:
    """What the pictures' bytes, sizes and descriptors tell."""
    numbers: dict[str, int] = {}  # by identity, for arrays
    labels, asks, answers = (np.full(view.size, value) for value in (-1, False, False))
    contents: dict[str, list[Seen]] = {}
    missing = dict(regions)
    for place, row in enumerate(_rows(view)):
        seen = missing.pop(row.item.id, None)
        if seen is None:  # kept from an earlier run, of a record that cannot be read now
            continue
        record = seen.record
        yield from _misplaced(seen, row.width, row.height)
        seen.sha256 = row.sha256
        contents.setdefault(row.sha256, []).append(seen)
        if record.identity is not None:
            labels[place] = numbers.setdefault(record.identity, len(numbers))
        asks[place], answers[place] = record.side is not Side.GALLERY, record.side is not Side.QUERY
    yield from _unreadable(missing.values(), {skip.source: skip.error for skip in report.skipped})
    for alike in contents.values():
        yield from _same_bytes(alike)
    for suspect in unlike(view, labels, asks, answers):
        one, other = (regions[row.item.id] for row in view.rows(np.array(suspect.regions)))
        message = f"{one.name} and {other.name} are both {one.record.identity}, but {_doubt(suspect)}"
        yield Finding("unlike pictures", message, (one.place, other.place), suspect.score)


def _doubt(suspect: Unlike) -> str:
    return (
        f"{suspect.beaten_by:.1%} of unrelated pairs are more alike ({suspect.score:.2f}): "
        "only a suspicion, look at them"
    )


def _rows(view: View) -> Iterator[Row]:
    """All rows in the order of `view.keys`."""
    for start in range(0, view.size, 1000):
        yield from view.rows(view.keys[start : start + 1000])


def _misplaced(seen: Seen, width: int, height: int) -> Iterator[Finding]:
    """What is odd about a box that has a part in its picture."""
    box = seen.record.box
    if box is None:
        return
    inside = box.clipped(width, height)
    out = max(abs(a - b) for a, b in zip(box.corners, inside.corners, strict=True))
    if out > ROUNDING:
        message = f"{seen.name}: box {box} sticks out of the picture ({width} x {height}) by {out:g} pixels"
        yield Finding("box partly outside the picture", message, (seen.place,))
    across, down = inside.x1 - inside.x0, inside.y1 - inside.y0
    if min(across, down) < SMALLEST or inside.area < SMALLEST_SHARE * width * height:
        message = f"{seen.name}: its box shows {across:g} x {down:g} of {width} x {height} pixels"
        yield Finding("tiny box", message, (seen.place,))


def _unreadable(unread: Iterable[Seen], errors: Mapping[str, str]) -> Iterator[Finding]:
    """Regions that could not be described, by picture: it is missing, broken, or the box is not in it."""
    by_source: dict[str, list[Seen]] = {}
    for seen in unread:
        by_source.setdefault(seen.record.source, []).append(seen)
    for source, some in by_source.items():
        try:
            images.load(source)
        except BadPicture as error:
            kind = "missing picture" if images.size_of(source) is None else "broken picture"
            yield Finding(kind, str(error), tuple(seen.place for seen in some[:NAMED]))
            continue
        for seen in some:
            message = f"{seen.name}: {errors.get(source, 'could not be described')}"
            kind = "unusable record" if seen.record.box is None else "box outside the picture"
            yield Finding(kind, message, (seen.place,))


class _Conflict(NamedTuple):
    """What is wrong with two regions if they show the same: the finding's kind, and in words."""

    same: str  # where they are one picture
    almost: str | None  # where they look like it; None: that is no fault
    wrong: str


def _conflict(one: Seen, other: Seen) -> _Conflict | None:
    a, b = one.record.identity, other.record.identity
    if not one.shares_split(other):
        related = one.record.group == other.record.group or (a is not None and a == b)
        who = "of the same group" if related else "of different groups"
        wrong = f"{who}, in {one.splits[0]} and in {other.splits[0]}"
        return _Conflict("picture in two splits", "almost the same in two splits", wrong)
    if a is None or b is None:
        return None
    if a != b:
        kinds = "one picture, two identities", "almost the same, two identities"
        return _Conflict(*kinds, f"of identities {a} and {b}")
    if {one.record.side, other.record.side} == {Side.QUERY, Side.GALLERY}:
        return _Conflict("query's own picture in the gallery", None, "too easy a query")
    return None


def _same_bytes(alike: Sequence[Seen]) -> Iterator[Finding]:
    """What should not be among regions of pictures with the same bytes; linear in their number."""
    by_splits: dict[tuple[str, ...], Seen] = {}
    by_box: list[Seen] = []
    pairs: list[tuple[Seen, Seen]] = []
    for seen in alike:
        by_splits.setdefault(seen.splits, seen)
        twin = next((other for other in by_box if _coincide(other.record.box, seen.record.box)), None)
        if twin is None:
            by_box.append(seen)
        elif twin.shares_split(seen):
            pairs.append((twin, seen))
    pairs += [pair for pair in combinations(by_splits.values(), 2) if not pair[0].shares_split(pair[1])]
    for one, other in pairs:
        if conflict := _conflict(one, other):
            message = f"{one.name} and {other.name} have the same bytes: {conflict.wrong}"
            yield Finding(conflict.same, message, (one.place, other.place), 1.0)


def _coincide(one: Box | None, other: Box | None) -> bool:
    return one == other or (one is not None and other is not None and one.iou(other) >= COINCIDING)


def _almost_the_same(catalogue: Catalogue, regions: Regions) -> Iterator[Finding]:
    """Pairs in files with other bytes that look the same and should not be there."""
    thumbnails = Thumbnails()
    for near in upkeep.near_duplicates(catalogue, SIMILAR):
        pair = [regions[item] for item in near.items if item in regions]  # not those of an earlier run
        if len(pair) < 2 or pair[0].sha256 == pair[1].sha256:
            continue
        one, other = pair
        conflict = _conflict(one, other)
        if conflict is None:
            continue
        told = f"({near.score:.3f}): {conflict.wrong}"
        places = one.place, other.place
        if thumbnails.same(*((seen.record.source, seen.record.box) for seen in pair)):
            message = f"{one.name} and {other.name} are one picture, saved twice {told}"
            yield Finding(conflict.same, message, places, near.score)
        elif conflict.almost is not None and near.score >= ALMOST:
            message = f"{one.name} and {other.name} look almost the same {told}"
            yield Finding(conflict.almost, message, places, near.score)


def examine_catalogue(
    catalogue: Catalogue, on_progress: Progress | None = None, folder: Path | None = None
) -> Diagnosis:
    """What is wrong with a catalogue: its table and index, its pictures on disk, its items.

    Every picture's file is read again. `folder` is where a service keeps its keys and has its disk.
    """
    checked = upkeep.verify(catalogue)
    findings = [Finding("fault in the catalogue", problem) for problem in checked.problems]
    if folder is not None:
        findings += _examine_folder(folder, catalogue.store.bytes_on_disk())
    recall = min(checked.recall_at_10, checked.recall_at_400)
    if recall < FAITHFUL:
        message = f"the index finds {recall:.0%} of what exact search finds: add something, or reindex"
        findings.append(Finding("unfaithful index", message))
    with catalogue.store.view() as view:
        findings += _examine_rows(view, on_progress)
        for suspect in unlike(view, view.owners(view.keys)):
            one, other = view.rows(np.array(suspect.regions))
            if one.sha256 != other.sha256:  # two objects in one picture may well differ
                message = f"two pictures of {one.item.id}: {_doubt(suspect)}"
                findings.append(
                    Finding("unlike pictures", message, (_stored(one), _stored(other)), suspect.score)
                )
    thumbnails = Thumbnails()
    for near in upkeep.near_duplicates(catalogue, SIMILAR):
        same = thumbnails.same(*((picture, None) for picture in near.pictures))
        if same or near.score >= ALMOST:
            places = tuple(map(_pictured, near.items, near.pictures))
            kind, words = (
                ("one picture", "show one picture") if same else ("almost the same", "look almost the same")
            )
            message = f"{near.items[0]} and {near.items[1]} {words} ({near.score:.3f})"
            findings.append(Finding(f"{kind}, two items", message, places, near.score))
    return Diagnosis.of("the catalogue", upkeep.info(catalogue), findings)


def _examine_folder(folder: Path, taken: int) -> Iterator[Finding]:
    keys = folder / "keys.json"
    with suppress(FileNotFoundError):
        if keys.stat().st_mode & 0o077:
            message = f"{keys.name} can be read or written by other users: chmod 600 {shown(keys)}"
            yield Finding("keys open to others", message)
    free = shutil.disk_usage(folder).free
    if free < taken:
        message = (
            f"{free / 1e9:.1f} GB are free, and the catalogue takes {taken / 1e9:.1f}: "
            "a snapshot, or another encoder, needs as much again"
        )
        yield Finding("little room", message)


def _examine_rows(view: View, on_progress: Progress | None) -> Iterator[Finding]:
    items: set[str] = set()
    files: set[tuple[str, str]] = set()
    types: dict[str, dict[str, _Some]] = {}  # attribute -> type
    titles: dict[str, _Some] = {}
    for done, row in enumerate(_rows(view), start=1):
        if (row.source, row.sha256) not in files:
            files.add((row.source, row.sha256))
            yield from _examine_file(row)
        if row.box is not None and not _is_inside(row.box, row.width, row.height):
            message = (
                f"{row.item.id}: box {row.box} in {shown(row.source)} ({row.width} x {row.height} pixels)"
            )
            yield Finding("box outside the picture", message, (_stored(row),))
        if row.item.id not in items:
            items.add(row.item.id)
            if row.item.title:
                titles.setdefault(row.item.title.casefold(), _Some()).add(row)
            for name, value in row.item.attributes.items():
                for kind in {_type(one) for one in (value if isinstance(value, tuple) else (value,))}:
                    types.setdefault(name, {}).setdefault(kind, _Some()).add(row)
        if on_progress:
            on_progress(done, view.size)
    for name, kinds in types.items():
        if len(kinds) > 1:
            rarest = min(kinds.values(), key=lambda some: some.count)
            counts = ", ".join(f"{kind} in {some.count}" for kind, some in kinds.items())
            message = f"attribute {name} is {counts} items, for example {rarest.first[0].id}"
            yield Finding("attribute of two types", message, tuple(rarest.first))
    for some in titles.values():
        if some.count >= SHARED_TITLE:
            message = f"{some.count} items have the title {quoted(some.first[0].title)}"
            yield Finding("title of many items", message, tuple(some.first))


@dataclass(slots=True)
class _Some:
    """How many items, and where the first of them are."""

    count: int = 0
    first: list[Place] = field(default_factory=list)

    def add(self, row: Row) -> None:
        self.count += 1
        if len(self.first) < NAMED:
            self.first.append(_stored(row))


def _is_inside(box: Box, width: int, height: int) -> bool:
    return min(box.x0, box.y0) >= 0 and box.x1 <= width and box.y1 <= height


def _examine_file(row: Row) -> Iterator[Finding]:
    try:
        data = images.read(row.source)
    except BadPicture as error:
        yield Finding("lost picture", f"{row.item.id}: {error}", (_stored(row),))
        return
    if hashlib.sha256(data).hexdigest() != row.sha256:
        message = f"{row.item.id}: {shown(row.source)} is not what was indexed: index it again"
        yield Finding("changed picture", message, (_stored(row),))


def _type(value: AttributeValue) -> str:
    if isinstance(value, bool):
        return "true or false"
    return "text" if isinstance(value, str) else "a number"


def _stored(row: Row) -> Place:
    return Place(row.item.id, row.source, row.box, row.item.title, {})


def _pictured(item: str, picture: str) -> Place:
    return Place(item, picture, None, "", {})
