"""What an evaluation leaves behind in its folder, and reading it again.

    run.json              everything a table needs: what was measured, how, on what, with which figures
    queries.jsonl         the query regions, gallery.jsonl the gallery's: tables for `lookalike index`
    answers-SYSTEM.jsonl  one line a query: its figures, and what came first
    report.html, table.csv, table.tex

A **system** is one row of the table: the run's encoder and regions with one re-ranker. A **judgement** is one
way to say which gallery regions are right answers ("easy", "medium", "hard"); the first is the headline.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

from lookalike.errors import BadInput
from lookalike.values import Box

FORMAT = 1


@dataclass(frozen=True, slots=True)
class Figure:
    """A mean over queries with its 95 % interval (bootstrap over groups of queries)."""

    value: float
    low: float
    high: float
    n: int  # queries with a right answer
    groups: int  # that were resampled

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


@dataclass(frozen=True, slots=True)
class Difference:
    """What `than` has more than `of`, paired by query; `p` is two-sided, `p_holm` over all compared."""

    of: str
    than: str
    metric: str
    value: float
    low: float
    high: float
    p: float
    p_holm: float


@dataclass(frozen=True, slots=True)
class System:
    """One row of the table."""

    name: str  # unique in its run: "none", "superglobal", "superglobal (tuned)"
    rerank: str
    parameters: Mapping[str, Any]  # of the re-ranker
    figures: Mapping[str, Mapping[str, Figure]]  # by judgement, then metric
    slices: Mapping[str, Mapping[str, Figure]]  # of the headline: by facet, then its value
    recall_at: tuple[tuple[int, float], ...]  # (k, share of queries with a right answer among the first k)
    precision_recall: tuple[tuple[float, float], ...]  # (recall, mean interpolated precision)
    latency_ms: Mapping[str, float]  # medians of single searches, by stage
    rank_ms: float  # a query, for the ranking of the whole gallery that the figures come from


@dataclass(frozen=True, slots=True)
class Run:
    """What run.json holds."""

    dataset: Mapping[str, Any]  # name, folder, split, synthetic
    protocol: Mapping[str, Any]  # name, about, ties, self_match
    encoder: Mapping[str, Any]  # name, fingerprint, dim
    regions: str  # how queries got their region: given, whole, or a region finder
    regime: str
    queries: int  # all of them
    unanswerable: int  # of these have no right answer in the gallery and are left out of the means
    gallery: int  # regions
    left_out: tuple[str, ...]  # what could not be used, in words
    bytes_per_region: int  # of the gallery on disk, text and all
    encode_ms: float  # a region, in the encoder alone
    metrics: Mapping[str, str]  # name -> definition, headline first
    systems: tuple[System, ...]
    differences: tuple[Difference, ...]  # of every system to the first, in the headline metric
    captions: Mapping[str, Any] = field(default_factory=dict)  # by whom; regions without one, by side
    tuning: Mapping[str, Any] = field(default_factory=dict)  # re-ranker -> split, queries, trials
    made: Mapping[str, Any] = field(default_factory=dict)  # version, commit, command, date, machine

    @property
    def headline(self) -> str:
        """The first metric's name."""
        return next(iter(self.metrics))

    def system(self, name: str) -> System:
        for system in self.systems:
            if system.name == name:
                return system
        known = ", ".join(repr(system.name) for system in self.systems)
        raise BadInput(f"the run has no system {name!r}", f"it has {known}")

    def save(self, folder: Path) -> None:
        record = {"format": FORMAT, **asdict(self)}
        write_whole(folder / "run.json", json.dumps(record, indent=2, ensure_ascii=False) + "\n")

    @classmethod
    def load(cls, folder: Path) -> Self:
        """BadInput where the folder holds no run, or one of another version."""
        try:
            record = json.loads((folder / "run.json").read_text())
        except FileNotFoundError:
            raise BadInput(
                f"{folder} holds no evaluation", "make one: lookalike eval DATASET --out FOLDER"
            ) from None
        except (OSError, ValueError) as error:
            raise BadInput(f"{folder / 'run.json'}: {error}", "evaluate again") from error
        if not isinstance(record, dict) or record.pop("format", None) != FORMAT:
            raise BadInput(f"{folder / 'run.json'} was written by another version", "evaluate again")
        try:
            systems = tuple(_system(system) for system in record.pop("systems"))
            differences = tuple(Difference(**difference) for difference in record.pop("differences"))
            left_out = tuple(record.pop("left_out"))
            return cls(systems=systems, differences=differences, left_out=left_out, **record)
        except (KeyError, TypeError, AttributeError) as error:
            raise BadInput(f"{folder / 'run.json'}: {error}", "evaluate again") from error


@dataclass(frozen=True, slots=True)
class Answer:
    """What one system answered to one query."""

    query: str
    group: str
    values: Mapping[str, Mapping[str, float | None]]  # by judgement, then metric; None: no right answer
    rank: int | None  # 1-based, of the first right answer of the headline; None: not found
    right: str | None  # the gallery region that is
    total: int  # right answers in the gallery, of the headline
    top: tuple[tuple[str, float, bool], ...]  # the first gallery regions: score, and whether it is right
    found: int  # of the right answers, how many the ranking holds


@dataclass(frozen=True, slots=True)
class Place:
    """Where a query or gallery region is to be seen, and what is true of it."""

    id: str
    path: str
    box: Box | None
    title: str
    facts: Mapping[str, str]  # identity, category and facets


def save_answers(folder: Path, system: str, answers: Iterable[Answer]) -> None:
    lines = (json.dumps(asdict(answer), ensure_ascii=False) for answer in answers)
    write_whole(answers_file(folder, system), "".join(f"{line}\n" for line in lines))


def load_answers(folder: Path, system: str) -> Iterator[Answer]:
    """In the order of the queries."""
    path = answers_file(folder, system)
    try:
        with path.open() as file:
            for line in file:
                record = json.loads(line)
                yield Answer(
                    **record | {"top": tuple((item, score, right) for item, score, right in record["top"])}
                )
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise BadInput(f"{path}: {error}", "evaluate again") from error


def answers_file(folder: Path, system: str) -> Path:
    plain = "".join(letter if letter.isalnum() or letter in "-." else "-" for letter in system)
    return folder / f"answers-{plain.strip('-')}.jsonl"


def load_places(table: Path) -> dict[str, Place]:
    """queries.jsonl or gallery.jsonl by id; BadInput where it cannot be read."""
    places = {}
    try:
        with table.open() as file:
            for line in file:
                record = json.loads(line)
                box = record.pop("box", None)
                name, path, title = record.pop("item"), record.pop("path"), record.pop("title", "")
                places[name] = Place(name, path, None if box is None else Box(*box), title, record)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise BadInput(f"{table}: {error}", "evaluate again") from error
    return places


def write_whole(path: Path, text: str) -> None:
    """Write a file whole or not at all."""
    part = path.with_name(f"{path.name}.part")
    with part.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)


def _system(record: dict[str, Any]) -> System:
    def figures(table: dict[str, Any]) -> dict[str, dict[str, Figure]]:
        return {
            name: {key: Figure(**value) for key, value in column.items()} for name, column in table.items()
        }

    return System(
        **record
        | {
            "figures": figures(record["figures"]),
            "slices": figures(record["slices"]),
            "recall_at": tuple((k, share) for k, share in record["recall_at"]),
            "precision_recall": tuple((r, p) for r, p in record["precision_recall"]),
        }
    )


def finite(value: Any) -> Any:
    """The same with lists for tuples and None for what is not finite."""
    if isinstance(value, dict):
        return {name: finite(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
