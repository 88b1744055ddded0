"""What the records of a data set alone tell, before any picture is opened."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median
from typing import Any

from lookalike.datasets import Dataset, Labelled, Side, Unlisted, origin_of
from lookalike.evaluation.doctor.diagnosis import NAMED, Finding, quoted
from lookalike.evaluation.runs import Place
from lookalike.images import shown

SHARED_CAPTION, SHARED_CAPTION_PART = 10, 0.02  # identities, at least, and as a part of all
_TELLING = 5  # letters of a name that a caption cannot hold by chance


@dataclass(slots=True)
class Seen:
    """A region that was read: its name (split and id), what is needed of its record, the splits it is in."""

    name: str
    record: Labelled  # without attributes, facets and captions
    splits: tuple[str, ...]
    sha256: str = ""  # of its picture, once that was read

    @property
    def place(self) -> Place:
        record = self.record
        known = {"split": ", ".join(self.splits), "side": str(record.side), "category": record.category}
        known["identity"] = record.identity or ""
        told = {name: value for name, value in known.items() if value}
        return Place(self.name, record.source, record.box, "", told)

    def shares_split(self, other: Seen) -> bool:
        return not set(self.splits).isdisjoint(other.splits)


Regions = Mapping[str, Seen]  # by name, in the order they were read


def read_regions(dataset: Dataset, splits: Sequence[str]) -> tuple[Regions, list[Finding]]:
    """The regions of these splits by name, and what is wrong with their records."""
    reading = _Reading()
    for split in splits:
        for entry in dataset.read(split):
            reading.take(entry, split)
    regions = reading.finish()
    findings = [*reading.findings, *_cut_groups(regions), *_unanswered(regions), *_one_sided(regions)]
    return regions, findings


@dataclass(slots=True)
class _Reading:
    """Regions as they are read, and what their records alone tell."""

    regions: dict[str, Seen] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)
    splits: dict[str, None] = field(default_factory=dict)
    unusable: set[Unlisted] = field(default_factory=set)
    repeated: set[tuple[str, str]] = field(default_factory=set)  # region and the source of its namesake
    disagreeing: set[tuple[str, str]] = field(default_factory=set)  # identity and attribute
    first: dict[str, tuple[Seen, Mapping[str, str]]] = field(default_factory=dict)  # by identity
    captions: dict[str, dict[str, Seen]] = field(default_factory=dict)  # text -> identity -> its first region
    captioned: set[str] = field(default_factory=set)

    def take(self, entry: Labelled | Unlisted, split: str) -> None:
        self.splits[split] = None
        if isinstance(entry, Unlisted):
            if entry not in self.unusable:  # splits may overlap
                self.unusable.add(entry)
                places = (Place(Path(entry.source).name, entry.source, None, "", {"split": split}),)
                self.findings.append(Finding("unusable record", entry.error, places))
            return
        source = origin_of(entry.source)
        for earlier in self.splits:
            seen = self.regions.get(_name(earlier, entry.id))
            if seen is None:
                continue
            if split in seen.splits:
                if (seen.name, source) not in self.repeated:  # splits may overlap
                    self.repeated.add((seen.name, source))
                    other = Place(seen.name, source, entry.box, "", {"split": split})
                    message = f"{seen.name} is the id of two regions"
                    self.findings.append(Finding("duplicate id", message, (seen.place, other)))
                return
            if seen.record.source == source:  # the same region, in another split too
                seen.splits = (*seen.splits, split)
                return
        name = _name(split, entry.id)
        kept = replace(entry, source=source, facets={}, attributes={}, captions=())
        seen = self.regions[name] = Seen(name, kept, (split,))
        self._compare(seen, entry.attributes)
        self._read_captions(seen, entry.captions)

    def _compare(self, seen: Seen, attributes: Mapping[str, str]) -> None:
        """With the first region of the same identity; each contradiction once."""
        if seen.record.identity is None:
            return
        first, known = self.first.setdefault(seen.record.identity, (seen, dict(attributes)))
        both = {name: (known[name], value) for name, value in attributes.items() if name in known}
        kinds = dict.fromkeys(both, "attributes disagree") | {"category": "categories disagree"}
        if first.record.category and seen.record.category:
            both["category"] = (first.record.category, seen.record.category)
        for name, (ours, theirs) in both.items():
            if ours != theirs and (seen.record.identity, name) not in self.disagreeing:
                self.disagreeing.add((seen.record.identity, name))
                message = f"{name} of {seen.record.identity}: {ours} at {first.name}, {theirs} at {seen.name}"
                self.findings.append(Finding(kinds[name], message, (first.place, seen.place)))

    def _read_captions(self, seen: Seen, captions: Sequence[str]) -> None:
        record = seen.record
        names = {record.id, Path(record.source).stem, record.identity or "", record.group}
        telling = [name.casefold() for name in names if len(name) >= _TELLING]
        for text in captions:
            if not text.strip():
                self.findings.append(
                    Finding("empty caption", f"{seen.name} has an empty caption", (seen.place,))
                )
            elif any(name in text.casefold() for name in telling):
                message = f"{seen.name}: its caption names it: {quoted(text)}"
                self.findings.append(Finding("caption names its picture", message, (seen.place,)))
            if record.identity is not None:
                self.captions.setdefault(text, {}).setdefault(record.identity, seen)
                self.captioned.add(record.identity)

    def finish(self) -> Regions:
        """The regions, in those splits only that do not consist of others."""
        for text, identities in self.captions.items():
            if len(identities) >= max(SHARED_CAPTION, SHARED_CAPTION_PART * len(self.captioned)):
                message = f"{len(identities)} identities share the caption {quoted(text)}"
                places = tuple(seen.place for seen in list(identities.values())[:NAMED])
                self.findings.append(Finding("caption of many identities", message, places))
        unions = _unions([seen.splits for seen in self.regions.values()])
        for seen in self.regions.values():
            seen.splits = tuple(split for split in seen.splits if split not in unions)
        return self.regions


def _name(split: str, id: str) -> str:
    return shown(f"{split}/{id}").strip()


def _unions(memberships: Sequence[tuple[str, ...]]) -> set[str]:
    """The splits all of whose regions are also in smaller splits that lie within them."""
    sizes = Counter(split for splits in memberships for split in splits)
    shared = Counter((a, b) for splits in memberships for a in splits for b in splits if a != b)
    parts = {a: {b for b in sizes if shared[a, b] == sizes[b] < sizes[a]} for a in sizes}
    return {a for a in sizes if all(parts[a].intersection(splits) for splits in memberships if a in splits)}


def _cut_groups(regions: Regions) -> Iterator[Finding]:
    """Groups of which no split has all regions."""
    firsts: dict[str, Seen] = {}
    cut: set[str] = set()
    for seen in regions.values():
        group = seen.record.group
        first = firsts.setdefault(group, seen)
        if group not in cut and not first.shares_split(seen):
            cut.add(group)
            message = f"group {group}: {first.name} is in {first.splits[0]}, {seen.name} in {seen.splits[0]}"
            yield Finding("group in two splits", message, (first.place, seen.place))


def _unanswered(regions: Regions) -> Iterator[Finding]:
    """Queries that nothing in the gallery of their split answers; answers that are not there."""
    answers: Counter[tuple[str, str]] = Counter()  # regions by split and identity
    gallery: set[tuple[str, str]] = set()  # ids by split, where answers are listed
    listed = any(seen.record.truth for seen in regions.values())
    for seen in regions.values():
        if seen.record.side is not Side.QUERY:
            answers.update((split, seen.record.identity) for split in seen.splits if seen.record.identity)
            if listed:
                gallery.update((split, seen.record.id) for split in seen.splits)
    without: dict[str, list[Seen]] = {}
    for seen in regions.values():
        record = seen.record
        if record.side is Side.GALLERY or not (record.truth or record.identity):
            continue
        for split in seen.splits:
            named = [id for ids in record.truth.values() for id in ids]
            gone = [id for id in named if (split, id) not in gallery]
            if gone:
                message = f"{seen.name}: {len(gone)} of its answers are not in the gallery: {shown(gone[0])}"
                yield Finding("answer that is not in the gallery", message, (seen.place,))
            others = answers[split, record.identity or ""] - (record.side is Side.BOTH)
            if len(gone) == len(named) and others < 1:
                without.setdefault(split, []).append(seen)
    for split, queries in without.items():
        message = f"{len(queries)} queries of {split} have no right answer in the gallery"
        yield _of_many("query without an answer", message, queries)


def _one_sided(regions: Regions) -> Iterator[Finding]:
    """Identities that are only searched for, or only found, where a split has both sides."""
    sides: dict[tuple[str, str], dict[Side, Seen]] = {}
    for seen in regions.values():
        if seen.record.identity is not None and seen.record.side is not Side.BOTH:
            for split in seen.splits:
                sides.setdefault((split, seen.record.identity), {}).setdefault(seen.record.side, seen)
    alone: dict[tuple[str, Side], list[Seen]] = {}
    totals: Counter[str] = Counter()
    for (split, _identity), held in sides.items():
        totals[split] += 1
        if len(held) == 1:
            [(side, seen)] = held.items()
            alone.setdefault((split, side), []).append(seen)
    for (split, side), some in alone.items():
        message = f"{len(some)} of {totals[split]} identities of {split} have {side} regions only"
        yield _of_many("identity on one side only", message, some)


def _of_many(kind: str, message: str, some: Sequence[Seen]) -> Finding:
    names = ", ".join(seen.name for seen in some[:NAMED])
    rest = f" and {len(some) - NAMED} more" if len(some) > NAMED else ""
    return Finding(kind, f"{message}: {names}{rest}", tuple(seen.place for seen in some[:NAMED]))


def facts(dataset: Dataset, regions: Regions) -> dict[str, Any]:
    """Counts; a region that is in two splits counts in both."""
    groups = Counter(seen.record.group for seen in regions.values())
    identities = Counter(seen.record.identity for seen in regions.values() if seen.record.identity)
    splits: dict[str, Counter[str]] = {}
    for seen in regions.values():
        for split in seen.splits:
            counts = splits.setdefault(split, Counter())
            counts["regions"] += 1
            counts[str(seen.record.side)] += 1
            counts["without identity"] += seen.record.identity is None
    return {
        **({"synthetic": dataset.synthetic} if dataset.synthetic else {}),
        "regions": len(regions),
        "pictures": len({seen.record.source for seen in regions.values()}),
        "identities": len(identities),
        "groups": len(groups),
        "regions per identity": _spread(identities),
        "regions per group": _spread(groups),
        "splits": {split: dict(counts) for split, counts in splits.items()},
    }


def _spread(sizes: Counter[str]) -> dict[str, float]:
    many = sorted(sizes.values())
    return {"least": many[0], "median": median(many), "most": many[-1]} if many else {}
