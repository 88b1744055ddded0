"""What captions at the query bring for the time that they take, and how much of it can be had without."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lookalike.study.arms import Arm, View
from lookalike.study.captions import ORACLE
from lookalike.study.conducting import Found, Plan, Section
from lookalike.study.drawing import Chart, Dot, dots
from lookalike.study.gates import GATED, saved_by_gates
from lookalike.study.kept import BAR, Kept, as_json, cells, share_kept
from lookalike.study.results import Results
from lookalike.study.tables import Row, Table, figures_of, grid
from lookalike.study.waiting import waiting
from lookalike.study.ways import (
    ASKING,
    IMAGE,
    MIXED,
    MODEL,
    OWN,
    OWN_ARM,
    SETTINGS,
    TRAIN,
    WITHOUT,
    Way,
    precisions,
)

ABOUT = (
    "What do captions at the query bring for the time that they take, and how much of that can be had "
    "without? The gallery's captions are the same source's as the query's. The bar, set before: at least "
    "90 % of what the captions of a model that is wrong about a tenth add is kept without a caption at the "
    "query. Captions' embeddings are mixed into language parts besides the fusion, as a catalogue does it; "
    "what the fusion alone brings is told beside it."
)


def arms(plan: Plan) -> list[Arm]:
    wanted: dict[str, list[View]] = {name: [] for name in SETTINGS}
    for way in (*WITHOUT, *ASKING, *OWN):
        wanted[way.arm].append(way.view)
    wanted["all"] += [View(gallery=source, mixed="too") for source in GATED]
    return [
        Arm(
            name,
            plan.recipe(*settings),
            captions=ORACLE if name == OWN_ARM else "annotation",
            views=tuple(dict.fromkeys(view for view in wanted[name] if view != View())),
        )
        for name, settings in SETTINGS.items()
    ]


def sections(found: Found) -> list[Section]:
    table = _table()
    return [
        Section(
            "With and without a caption at the query",
            tables=[table],
            drawings={"ways.svg": _dots(found.results, table)},
        ),
        _kept(found.results),
        *([waiting(found, table)] if found.dataset.synthetic else []),  # a drawn model is asked
        *saved_by_gates(found),
    ]


def _table() -> Table:
    ways = (IMAGE, *WITHOUT, *ASKING, *OWN)
    rows = [Row(way.label, way.arm, way.view.name, None if way == TRAIN else TRAIN.label) for way in ways]
    note = (
        "train: captions in training alone; gallery: in the gallery's descriptors too. Imagined: to the "
        "query's language part the caption's embedding is added as it is guessed from the picture, to the "
        "gallery's that of its caption. Mixed too: captions' embeddings are added to both sides' language "
        "parts."
    )
    return Table("ways", "Ways to search with one picture", rows, note)


def _kept(results: Results) -> Section:
    """What each way without a caption at the query keeps of the gain that captions bring."""
    record: list[dict[str, Any]] = []
    for way in WITHOUT[1:]:
        for gain, bare, asked in (("mixed", TRAIN, MIXED), ("query", TRAIN, MODEL), ("all", IMAGE, MIXED)):
            if told := _share(results, bare, asked, way):
                record.append({"way": way.label, "gain": gain, **as_json(told)})
    if told := _share(results, OWN[0], OWN[2], OWN[1]):
        record.append({"way": OWN[1].label, "gain": "own", **as_json(told)})
    rows = [cells(each) for each in record]
    answers = {
        gain: _answer([each for each in record if each["gain"] == gain]) for gain in ("mixed", "query")
    }
    text = (
        f"{answers['mixed']} Of what the fusion alone brings: {answers['query'][0].lower()}"
        f"{answers['query'][1:]} The gain of query captions is what the model's in gallery and query add to "
        "train; the bar is for this one. The gain of all captions is what they add to training "
        "without any. A share is a ratio of means, with the 95 % interval of a bootstrap over pairs, seeds "
        f"averaged, each way by itself. Seeds: {len(results.of(TRAIN.arm))}.\n\n"
    )
    return Section("What is kept without a caption at the query", text + grid(rows), record=record)


def _answer(kept: Sequence[Mapping[str, Any]]) -> str:
    """Whether the bar is met, and by which ways."""
    if not kept:
        return "Not run."
    shared = [each for each in kept if each["share"] is not None]
    if not shared:
        return "There is no gain of query captions to keep: its interval reaches 0."
    if meeting := [each["way"] for each in shared if each["low"] is not None and each["low"] >= BAR]:
        return f"The bar of {BAR:.0%} is met by: {'; '.join(meeting)}."
    most = max(shared, key=lambda each: float(each["share"]))
    told = f"the most is kept by {most['way']}, {most['share']:.0%}"
    return f"No way is shown to keep {BAR:.0%} of the gain of query captions: {told}."


def _share(results: Results, bare: Way, told: Way, way: Way) -> Kept | None:
    """None where they were not run with a seed in common."""
    found = precisions(results, bare, told, way)
    return share_kept(found[0], found[1], found[2], results.groups) if found else None


def _dots(results: Results, table: Table) -> str:
    rows = [
        Dot(
            line.row.label,
            line.mean.mean,
            line.mean.low,
            line.mean.high,
            strong=bool(line.row.label.startswith("query")),
        )
        for line in figures_of(table, results)
    ]
    about = "mAP with its 95 % interval; what stands out asks for a caption at the query."
    return dots(Chart(table.title, about, "mAP"), rows)
