"""A build: a catalogue's rows in fragments, in a folder or on object storage, made by many, searched by none.

    doubts.json                 how wrong caption sources seem, where an encoder weighs captions by that
    manifest.json               whose descriptors these are, of which plan, how many fragments, if finished
    plan.parquet                what is listed, fragment by fragment (`plans`); a copy of a catalogue has none
    fragments/00000000.parquet  rows, and what became of the entries that gave none

A fragment is written whole and only where it is absent: of two workers that make the same one, one is kept.
Who reads a build wants it finished: then the manifest has the sha256 of every fragment. Nothing in a build
is code.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lookalike import objects
from lookalike.errors import CatalogueError, NoObject, WrongEncoder
from lookalike.store.parquet import packed, unpacked
from lookalike.values import Counts, Row

VERSION = 1
FACTS = ("encoder", "fingerprint", "dim", "regions", "regime", "captioner")  # what all fragments share
_FORMAT = "lookalike build"
_MANIFEST, _DOUBTS = "manifest.json", "doubts.json"
_AT_ONCE = 8  # fragments that `finish` reads


@dataclass(frozen=True, slots=True)
class Manifest:
    facts: Mapping[str, str]  # FACTS, and once it is finished those of a calibration, where there is one
    plan: str  # digest of what is to be built
    fragments: int
    sums: tuple[str, ...] = ()  # sha256 of each fragment, once all are there
    counts: Counts | None = None  # what a catalogue of it holds; None until it is finished
    size: int = 0  # bytes of all fragments


class Build:
    """A build at a URI or in a folder. Safe to share between threads and to open in many processes."""

    def __init__(self, uri: str, manifest: Manifest) -> None:
        self.uri = uri
        self.manifest = manifest
        self._known: dict[int, _Sum] = {}  # of fragments that this object wrote, read or heard of

    @classmethod
    def create(cls, uri: str, facts: Mapping[str, str], plan_digest: str, fragments: int) -> Build:
        """The build of this plan, begun here unless it is there already; see `check` for what is refused."""
        uri = objects.normal(uri)
        manifest = Manifest({fact: facts.get(fact, "") for fact in FACTS}, plan_digest, fragments)
        objects.put_if_absent(objects.join(uri, _MANIFEST), _as_json(manifest))
        build = cls.open(uri)
        build.check(facts, plan_digest)
        return build

    @classmethod
    def open(cls, uri: str) -> Build:
        """CatalogueError where there is no build, or one that cannot be read."""
        uri = objects.normal(uri)
        try:
            return cls(uri, _from_json(uri, objects.read(objects.join(uri, _MANIFEST))))
        except NoObject:
            raise CatalogueError(
                f"there is no build at {uri}", f"make one: lookalike index PICTURES --to {uri}"
            ) from None

    @staticmethod
    def exists(uri: str) -> bool:
        """Whether there is a build to open, be it damaged."""
        return objects.exists(objects.join(objects.normal(uri), _MANIFEST))

    @property
    def dim(self) -> int:
        return int(self.manifest.facts["dim"])

    @property
    def finished(self) -> bool:
        return self.manifest.counts is not None

    @property
    def digest(self) -> str:
        """Tells this finished build from all others, by what its fragments hold."""
        return hashlib.sha256("".join(self.manifest.sums).encode()).hexdigest()

    @property
    def epoch(self) -> str:
        """The same for all stores that are made of this finished build: they name their versions alike."""
        return str(int.from_bytes(bytes.fromhex(self.digest)[:8], "little") >> 2)

    def info(self) -> dict[str, Any]:
        """What it holds, in the words of a catalogue's info, once it is finished; how far it is before."""
        manifest, told = self.manifest, {"finished": self.finished, "fragments": self.manifest.fragments}
        facts = {fact: manifest.facts[fact] for fact in ("encoder", "fingerprint", "regime")}
        if manifest.counts is None:
            return {**facts, **told, "missing": len(self.missing())}
        doubts = json.loads(manifest.facts.get("doubts", "{}"))
        return {**asdict(manifest.counts), **facts, "doubts": doubts, "bytes": manifest.size, **told}

    def check(self, facts: Mapping[str, str], plan_digest: str | None = None) -> None:
        """WrongEncoder or CatalogueError unless it is built by these parts, and of this plan."""
        ours = self.manifest.facts
        if ours["fingerprint"] != facts["fingerprint"]:
            raise WrongEncoder(
                f"{self.uri} was begun by {ours['encoder']} ({ours['fingerprint']}), "
                f"not by {facts['encoder']} ({facts['fingerprint']})",
                "go on with that encoder, or build somewhere else",
            )
        for fact in ("regime", "regions", "captioner"):
            if ours[fact] != facts.get(fact, ""):
                raise CatalogueError(
                    f"{self.uri} was begun with the {fact} {ours[fact] or 'none'!r}, not {facts.get(fact)!r}",
                    "go on with the same options, or build somewhere else",
                )
        if plan_digest not in (None, self.manifest.plan):
            raise CatalogueError(f"{self.uri} was begun from something else", "build somewhere else")

    def check_finished(self) -> None:
        if not self.finished:
            done = self.manifest.fragments - len(self.missing())
            raise CatalogueError(
                f"{self.uri} is not finished: {done} of {self.manifest.fragments} fragments are there",
                "run the command that builds it again: it goes on",
            )

    @property
    def doubts(self) -> dict[str, float] | None:
        """The share of captions that seems to be wrong, by source; None until `settle` was called."""
        try:
            found = json.loads(objects.read(objects.join(self.uri, _DOUBTS)))
            return {str(source): float(share) for source, share in found.items()}
        except NoObject:
            return None
        except (ValueError, AttributeError, TypeError):
            raise CatalogueError(f"{self.uri}: {_DOUBTS} is damaged", "build somewhere else") from None

    def settle(self, doubts: Mapping[str, float]) -> None:
        """Have all fragments made with these doubts, unless others were settled before."""
        objects.put_if_absent(objects.join(self.uri, _DOUBTS), json.dumps(dict(doubts)).encode())

    def write(self, fragment: int, rows: Sequence[Row], about: Mapping[str, Any]) -> bool:
        """Put a fragment, with `about`, what else is to be known of it; False where it was there already."""
        if not 0 <= fragment < self.manifest.fragments:
            raise ValueError(f"fragment {fragment} of {self.manifest.fragments}")
        identity = {"version": VERSION, **self._identity(fragment)}
        data = packed(rows, self.dim, {**identity, "about": dict(about)})
        if not objects.put_if_absent(self._fragment(fragment), data):
            return False
        self._known[fragment] = _Sum.of(data, rows, about)
        return True

    def told(self, fragment: int) -> str:
        """What `finish` wants to know of a fragment that was written or read here: for `learn` elsewhere."""
        return self._known[fragment].as_json()

    def learn(self, fragment: int, told: str) -> None:
        """Take the word of whoever made a fragment: `finish` and `about` do not read it then."""
        self._known[fragment] = _Sum.from_json(told)

    def missing(self) -> list[int]:
        """The numbers of the fragments that are not there, ascending."""
        if self.finished:
            return []
        name = re.compile(r"/(\d{8})\.parquet$")
        found = map(name.search, objects.listed(objects.join(self.uri, "fragments")))
        return sorted(set(range(self.manifest.fragments)) - {int(match[1]) for match in found if match})

    def rows(self, fragment: int) -> list[Row]:
        """The rows of a fragment, in the order they were written; CatalogueError where it is not sound."""
        return self.read(fragment)[0]

    def read(self, fragment: int) -> tuple[list[Row], Mapping[str, Any]]:
        """A fragment's rows, and what was written beside them; CatalogueError where it is not sound."""
        name = self._fragment(fragment)
        hint = "delete it and run the command that builds it again"
        try:
            data = objects.read(name)
        except NoObject:
            raise CatalogueError(f"{name}: missing", "run the command that builds it again") from None
        if self.finished and hashlib.sha256(data).hexdigest() != self.manifest.sums[fragment]:
            raise CatalogueError(f"{name}: damaged: it is not what was written", "build it again elsewhere")
        try:
            rows, told = unpacked(data, name, self.dim)
            if told.get("version", 0) > VERSION:
                raise CatalogueError(f"{name}: written by a newer lookalike", "update this one")
            if any(told.get(key) != value for key, value in self._identity(fragment).items()):
                raise CatalogueError(f"{name}: foreign: a fragment of another build")
        except CatalogueError as error:
            raise CatalogueError(str(error), error.hint or hint) from None
        about = told.get("about", {})
        self._known[fragment] = _Sum.of(data, rows, about)
        return rows, about

    def about(self, fragment: int) -> Mapping[str, Any]:
        """What was written beside a fragment's rows."""
        if fragment not in self._known:
            self.read(fragment)
        return self._known[fragment].about

    def finish(
        self,
        calibration: Mapping[str, str] | None = None,
        on_progress: Callable[[int, int], None] | None = None,
    ) -> Counts:
        """Record that every fragment is there, and what all hold together; those that are not known are read.

        CatalogueError where one lacks or is not sound. Finishing twice changes nothing.
        """
        if self.manifest.counts is not None:
            return self.manifest.counts
        numbers = range(self.manifest.fragments)
        with ThreadPoolExecutor(_AT_ONCE, "lookalike-build") as pool:
            unread = [number for number in numbers if number not in self._known]
            for done, _ in enumerate(pool.map(self.about, unread), start=1):
                if on_progress:
                    on_progress(done, len(unread))
        sums = [self._known[number] for number in numbers]
        self.manifest = replace(
            self.manifest,
            facts={**self.manifest.facts, **(calibration or {})},
            sums=tuple(each.sha256 for each in sums),
            counts=counted(each.tally for each in sums),
            size=sum(each.size for each in sums),
        )
        objects.put(objects.join(self.uri, _MANIFEST), _as_json(self.manifest))
        assert self.manifest.counts is not None
        return self.manifest.counts

    def _fragment(self, fragment: int) -> str:
        return objects.join(self.uri, "fragments", f"{fragment:08}.parquet")

    def _identity(self, fragment: int) -> dict[str, Any]:
        """What tells a fragment from those of other builds."""
        return {
            "fingerprint": self.manifest.facts["fingerprint"],
            "regime": self.manifest.facts["regime"],
            "plan": self.manifest.plan,
            "fragment": fragment,
        }


_PICTURE = np.dtype([("picture", "u8"), ("item", "u8"), ("regions", "i4"), ("captions", "i4")])
Tally = NDArray[np.void]  # of `_PICTURE`


def by_picture(rows: Sequence[Row]) -> dict[tuple[str, str], list[Row]]:
    """What a store keeps of rows that are added at once, by item id and sha256: see `Store.add`.

    The rows of a picture are its regions; of one that has several sources the last counts.
    """
    named: dict[tuple[str, str, str, str], list[Row]] = {}
    for row in rows:
        named.setdefault((row.item.id, row.sha256, row.origin, row.source), []).append(row)
    return {(item, sha256): regions for (item, sha256, _origin, _source), regions in named.items()}


def tally(rows: Sequence[Row]) -> Tally:
    """What `counted` needs to know of some rows, 24 bytes a picture."""
    found = []
    for (item, sha256), regions in by_picture(rows).items():
        told = sum(bool(row.caption and row.caption.text) for row in regions)
        found.append((_hash(f"{item}\0{sha256}"), _hash(item), len(regions), told))
    return np.array(found, _PICTURE)


def counted(tallies: Iterable[Tally]) -> Counts:
    """What a catalogue holds after it was given these rows: of a picture that comes again the last counts."""
    all_ = np.concatenate([np.zeros(0, _PICTURE), *tallies])[::-1]
    last = all_[np.unique(all_["picture"], return_index=True)[1]]
    return Counts(
        items=len(np.unique(last["item"])),
        pictures=len(last),
        regions=int(last["regions"].sum()),
        captions=int(last["captions"].sum()),
    )


def _hash(text: str) -> int:
    digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8)
    return int.from_bytes(digest.digest(), "little")


@dataclass(frozen=True, slots=True, eq=False)
class _Sum:
    """What is kept of a fragment once its rows are let go."""

    sha256: str
    size: int
    tally: Tally
    about: Mapping[str, Any]

    @classmethod
    def of(cls, data: bytes, rows: Sequence[Row], about: Mapping[str, Any]) -> _Sum:
        return cls(hashlib.sha256(data).hexdigest(), len(data), tally(rows), about)

    def as_json(self) -> str:
        pictures = base64.b64encode(self.tally.tobytes()).decode()
        return json.dumps([self.sha256, self.size, pictures, dict(self.about)])

    @classmethod
    def from_json(cls, told: str) -> _Sum:
        sha256, size, pictures, about = json.loads(told)
        return cls(sha256, size, np.frombuffer(base64.b64decode(pictures), _PICTURE), about)


def _as_json(manifest: Manifest) -> bytes:
    counts = manifest.counts
    document = {
        "format": _FORMAT,
        "version": VERSION,
        "facts": dict(manifest.facts),
        "plan": manifest.plan,
        "fragments": manifest.fragments,
        "finished": counts is not None,
    }
    if counts is not None:
        document["counts"] = [counts.items, counts.pictures, counts.regions, counts.captions]
        document["bytes"] = manifest.size
        document["sha256"] = list(manifest.sums)
    return json.dumps(document, indent=1).encode()


def _from_json(uri: str, data: bytes) -> Manifest:
    name = objects.join(uri, _MANIFEST)
    try:
        document = json.loads(data)
        if document["format"] != _FORMAT:
            raise ValueError
        if document["version"] > VERSION:
            raise CatalogueError(
                f"{name}: version {document['version']}, of a newer lookalike", "update this one"
            )
        facts = {str(fact): str(value) for fact, value in document["facts"].items()}
        if not set(FACTS) <= facts.keys() or int(facts["dim"]) < 1:
            raise ValueError
        manifest = Manifest(facts, str(document["plan"]), int(document["fragments"]))
        if not document["finished"]:
            return manifest
        counts, sums = Counts(*map(int, document["counts"])), tuple(map(str, document["sha256"]))
        if len(sums) != manifest.fragments:
            raise ValueError
        return replace(manifest, sums=sums, counts=counts, size=int(document["bytes"]))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise CatalogueError(
            f"{name}: damaged, or no build's manifest", "is this the place you meant?"
        ) from None
