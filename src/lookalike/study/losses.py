"""Which part of the loss earns its place in search by bare pictures."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lookalike.study.arms import FREE, NO_CAPTIONS, TOLD, Arm
from lookalike.study.conducting import Found, Plan, Section
from lookalike.study.drawing import Chart, Dot, Series, chart, dots
from lookalike.study.results import Results
from lookalike.study.tables import Line, Row, Table, figures_of

ABOUT = (
    "Which part of the loss earns its place? The same towers, pictures, steps and seeds each time; captions "
    "are the annotation's and reach a model in training alone. Each part is added to ArcFace, and taken from "
    "all of them; then ArcFace has others in its place, weights are changed, captions are kept from the "
    "fusion more or less often, and what X²-VLM's authors train by besides is added."
)
DROPOUTS = (0, 0.25, 0.5, 0.75, 0.9, 1)
WEIGHTS = (0.3, 3)


@dataclass(frozen=True, slots=True)
class Way:
    """One way to train: the usual recipe with these settings."""

    label: str
    arm: str
    settings: tuple[str, ...] = ()


PARTS = (
    Way("ArcFace", "arcface", ("contrast=0", "box=0", *NO_CAPTIONS)),
    Way("ArcFace + box", "box", ("contrast=0", *NO_CAPTIONS)),
    Way("ArcFace + ITC", "itc", ("contrast=0", "box=0")),
    Way("ArcFace + box + ITC", "box+itc", ("contrast=0",)),
    Way("ArcFace + contrast", "contrast", ("box=0", *NO_CAPTIONS)),
    Way("ArcFace + contrast + box", FREE, NO_CAPTIONS),
    Way("ArcFace + contrast + ITC", "contrast+itc", ("box=0",)),
    Way("all: ArcFace + contrast + box + ITC", TOLD),
)
USUAL, BEST_FREE = PARTS[-1], PARTS[5]
TAKEN = (
    Way("without ArcFace", "all-no-arcface", ("arcface=0",)),
    Way("without contrast", "box+itc", ("contrast=0",)),
    Way("without box", "contrast+itc", ("box=0",)),
    Way("without ITC and captions", FREE, NO_CAPTIONS),
    Way("without the fusion: identity part from the picture alone", "all-no-fusion", ("fusion=false",)),
)
INSTEAD = (
    Way("label-smoothed classes for ArcFace", "all-identity", ("arcface=0", "identity=1")),
    Way("hardest triplets for ArcFace", "all-triplet", ("arcface=0", "triplet=1")),
    Way("classes and triplets for ArcFace", "all-identity+triplet", ("arcface=0", "identity=1", "triplet=1")),
)
WEIGHED = tuple(
    Way(f"{name} at {weight:g}", f"all-{name}-{weight:g}", (f"{name}={weight:g}",))
    for name in ("contrast", "box", "itc")
    for weight in WEIGHTS
)
DROPPED = tuple(
    USUAL
    if share == 0.5
    else Way(
        f"{share:.0%} of the captions kept from the fusion",
        f"all-dropout-{share:g}",
        (f"caption_dropout={share:g}",),
    )
    for share in DROPOUTS
)
PULLED = tuple(
    Way(f"pull at {weight:g}", f"all-pull-{weight:g}", (f"pull={weight:g}",)) for weight in (0.3, 1, 3)
)
MORE = (
    *PULLED,
    Way("imagine at 1", "all-imagine-1", ("imagine=1",)),
    Way("+ ITM", "all-itm", ("itm=1",)),
    Way("+ MLM", "all-mlm", ("mlm=1",)),
    Way("temperature learnt", "all-learnt-temperature", ("learn_temperature=true",)),
    Way(
        "the authors' own loss: ITC + ITM + MLM + box",
        "authors",
        ("arcface=0", "contrast=0", "itm=1", "mlm=1", "learn_temperature=true", "caption_dropout=0"),
    ),
)


def arms(plan: Plan) -> list[Arm]:
    ways = {way.arm: way for way in (*PARTS, *TAKEN, *INSTEAD, *WEIGHED, *DROPPED, *MORE)}
    return [Arm(name, plan.recipe(*way.settings)) for name, way in ways.items()]


def sections(found: Found) -> list[Section]:
    results = found.results
    parts = Table("parts", "Parts of the loss, added to ArcFace", _against(PARTS, BEST_FREE))
    taken = Table("taken", "One taken away", [Row(USUAL.label, TOLD), *_rows(TAKEN)])
    instead = Table("instead", "In ArcFace's place", [Row(USUAL.label, TOLD), *_rows(INSTEAD)])
    weighed = Table("weights", "Weights, which are 1 in all", [Row(USUAL.label, TOLD), *_rows(WEIGHED)])
    dropped = Table(
        "dropout",
        "How often captions are kept from the fusion",
        _against(DROPPED, USUAL),
        note="In all it is half of them. At 100 % the fusion learns from empty captions alone.",
    )
    more = Table(
        "more",
        "Added to all, or instead of it",
        [Row(USUAL.label, TOLD), *_rows(MORE)],
        note="MLM asks f₀ for all missing words of a caption at once: the text tower is frozen. By the "
        "authors' loss the identity part stays the frozen tower's.",
    )
    return [
        Section(
            "Parts of the loss",
            "The comparisons are with the best training that sees no captions.",
            tables=[parts],
            drawings={"parts.svg": _dots(parts, results)},
        ),
        Section(
            "Parts of the descriptor",
            "The identity part and the language part of the same models, searched alone, beside both "
            "together. A model without contrast and ITC has no language part.",
            tables=[_of_descriptor()],
        ),
        Section(
            "What each brings where the others are",
            tables=[taken],
            drawings={"taken.svg": _dots(taken, results)},
        ),
        Section("In ArcFace's place", tables=[instead]),
        Section("Weights", tables=[weighed]),
        Section("Captions kept from the fusion", tables=[dropped], drawings={"dropout.svg": _drawn(results)}),
        Section("What else can be trained", tables=[more]),
    ]


def _rows(ways: Sequence[Way]) -> list[Row]:
    return [Row(way.label, way.arm, against=USUAL.label) for way in ways]


def _against(ways: Sequence[Way], rival: Way) -> list[Row]:
    return [Row(way.label, way.arm, against=None if way == rival else rival.label) for way in ways]


def _of_descriptor() -> Table:
    rows = []
    for way in PARTS[2:]:
        whole = f"{way.label}: both"
        rows.append(Row(whole, way.arm))
        rows += [
            Row(f"{way.label}: {part} part", way.arm, f"bare/{part}", whole)
            for part in ("identity", "language")
        ]
    return Table("descriptor", "Parts of the descriptor", rows)


def _dots(table: Table, results: Results) -> str:
    lines = figures_of(table, results)
    rows = [
        Dot(line.row.label, line.mean.mean, line.mean.low, line.mean.high, strong=line.row.arm == TOLD)
        for line in lines
    ]
    against = {row.against for row in table.rows}
    rival = next(line.mean.mean for line in lines if line.row.label in against)
    about = Chart(
        table.title,
        "mAP of bare queries with its 95 % interval; the line is what is compared with.",
        "mAP",
        line=None if math.isnan(rival) else rival,
    )
    return dots(about, rows)


def _drawn(results: Results) -> str:
    """mAP of the descriptor and of its parts by the share of captions that the fusion is not given."""
    views: Mapping[str, str] = {
        "descriptor": "bare",
        "identity part": "bare/identity",
        "language part": "bare/language",
    }
    series = []
    for label, view in views.items():
        rows = [Row(way.label, way.arm, view) for way in DROPPED]
        lines: list[Line] = figures_of(Table(label, label, rows), results)
        points = [
            (float(share), line.mean.mean, line.mean.low, line.mean.high)
            for share, line in zip(DROPOUTS, lines, strict=True)
            if line.seeds
        ]
        series.append(Series(label, points, dashed=view != "bare"))
    about = Chart(
        "Captions kept from the fusion",
        "mAP of bare queries by the share of captions that the fusion is not given in training.",
        "share of captions that the fusion is not given",
        "mAP",
    )
    return chart(about, series)
