"""What the data doctor found: findings, as lines, as JSON, as a contact sheet."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lookalike import images, sheets
from lookalike.errors import BadInput, BadPicture
from lookalike.evaluation.runs import Place
from lookalike.images import shown
from lookalike.values import Region, corners_of

NAMED = 5  # places in a finding about many
SHOWN = 5  # findings of a kind that `lines` spells out
DRAWN = 100  # rows of a contact sheet, which holds some two hundred

SEVERITIES = ("error", "warning", "note")
KINDS = {  # worst first; a note may well be right as it is
    "nothing to examine": "error",
    "unusable record": "error",
    "duplicate id": "error",
    "missing picture": "error",
    "broken picture": "error",
    "box outside the picture": "error",
    "fault in the catalogue": "error",
    "picture in two splits": "error",
    "group in two splits": "error",
    "one picture, two identities": "error",
    "one picture, two items": "warning",
    "almost the same in two splits": "warning",
    "almost the same, two identities": "warning",
    "almost the same, two items": "note",
    "query's own picture in the gallery": "warning",
    "query without an answer": "warning",
    "answer that is not in the gallery": "warning",
    "categories disagree": "warning",
    "attributes disagree": "warning",
    "attribute of two types": "warning",
    "tiny box": "warning",
    "lost picture": "warning",
    "changed picture": "warning",
    "unfaithful index": "warning",
    "keys open to others": "warning",
    "little room": "warning",
    "box partly outside the picture": "note",
    "identity on one side only": "note",
    "unlike pictures": "note",
    "empty caption": "note",
    "caption of many identities": "note",
    "caption names its picture": "note",
    "title of many items": "note",
}


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong, or looks so: what, in one line, and where."""

    kind: str  # of KINDS
    message: str
    places: tuple[Place, ...] = ()  # the regions or pictures involved; of very many the first few
    score: float | None = None  # how alike the first two are

    @property
    def severity(self) -> str:
        """ "error", "warning" or "note"."""
        return KINDS[self.kind]

    def as_json(self) -> dict[str, Any]:
        return {
            "kind": self.kind, "severity": self.severity, "message": self.message, "score": self.score,
            "places": [_place_json(place) for place in self.places],
        }  # fmt: skip


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """What was examined, facts about it, and all that was found, worst first."""

    subject: str
    facts: Mapping[str, Any]
    findings: tuple[Finding, ...]

    @classmethod
    def of(cls, subject: str, facts: Mapping[str, Any], findings: Sequence[Finding]) -> Diagnosis:
        """Findings come in any order; within a kind it is kept."""
        rank = {
            kind: (SEVERITIES.index(severity), place) for place, (kind, severity) in enumerate(KINDS.items())
        }
        return cls(subject, facts, tuple(sorted(findings, key=lambda finding: rank[finding.kind])))

    @property
    def sound(self) -> bool:
        """No errors; warnings and notes may be there."""
        return not any(finding.severity == "error" for finding in self.findings)

    def count(self, severity: str) -> int:
        return sum(finding.severity == severity for finding in self.findings)

    def as_json(self) -> dict[str, Any]:
        return {
            "subject": self.subject,
            "sound": self.sound,
            "facts": dict(self.facts),
            "findings": [finding.as_json() for finding in self.findings],
        }

    def lines(self) -> Iterator[str]:
        """The diagnosis in plain text: the verdict, findings by kind, worst first, then the facts."""
        counts = [f"{self.count(severity)} {severity}s" for severity in SEVERITIES]
        yield f"{self.subject}: {', '.join(counts)}" if self.findings else f"{self.subject}: nothing found"
        by_kind: dict[str, list[Finding]] = {}
        for finding in self.findings:
            by_kind.setdefault(finding.kind, []).append(finding)
        for kind, findings in by_kind.items():
            yield f"{KINDS[kind]}: {kind} ({len(findings)})"
            for finding in findings[:SHOWN]:
                yield f"    {finding.message}"
            if len(findings) > SHOWN:
                yield f"    and {len(findings) - SHOWN} more"
        for name, value in self.facts.items():
            yield f"{name}: {_told(value)}"


def _told(value: Any) -> str:
    """A fact in plain text: counts by name one after the other."""
    if not isinstance(value, Mapping):
        return str(value)
    return ", ".join(
        f"{name} ({_told(inner)})" if isinstance(inner, Mapping) else f"{name} {inner:,}"
        for name, inner in value.items()
    )


def quoted(text: str) -> str:
    text = shown(text)
    return f"“{text}”" if len(text) <= 60 else f"“{text[:60]}…”"


def draw_findings(diagnosis: Diagnosis, path: Path) -> None:
    """A contact sheet of the first `DRAWN` findings that set pictures side by side, worst first.

    JPEG or PNG by the path's suffix. BadInput where it cannot be written.
    """
    paired = [finding for finding in diagnosis.findings if len(finding.places) > 1]
    sheets.contact_sheet([_row(finding) for finding in paired[:DRAWN]], path)


def _row(finding: Finding) -> sheets.SheetRow:
    first, *others = finding.places
    score = math.nan if finding.score is None else finding.score  # nothing was measured
    hits = [sheets.SheetHit(_region(place), place.id, score, _title(place)) for place in others]
    about = _title(first) or first.id
    return sheets.SheetRow(_region(first), hits, asked=about, note=f"{finding.severity}: {finding.kind}")


def _title(place: Place) -> str:
    return place.title or place.facts.get("identity", "")


def _region(place: Place) -> Region | None:
    try:
        return Region(images.load(place.path), place.box)
    except (BadPicture, BadInput):
        return None


def _place_json(place: Place) -> dict[str, Any]:
    return {
        "id": place.id,
        "path": shown(place.path),
        "box": corners_of(place.box),
        "facts": dict(place.facts),
    }
