"""What captions bring to search by picture: in training, in the gallery, at the query."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Literal

from lookalike.study.arms import FREE, NO_CAPTIONS, TOLD, Arm, View
from lookalike.study.conducting import Found, Plan, Section
from lookalike.study.drawing import Chart, Dot, Series, chart, dots
from lookalike.study.tables import Row, Table, figures_of

ABOUT = (
    "Do captions used in training help search by bare pictures, and what do they add in gallery and "
    "query? The same towers, pictures, steps and seeds each time. What captions bring is their difference to "
    "the best training without any, which has the same second head, trained by contrast between pictures; "
    "beside it stands the same training with everybody given another's captions, which must bring nothing."
)
ORACLE = "oracle-0.1"  # a model that is wrong about a tenth of what it says
SOURCES = {
    "annotation": "the annotation's (true)",
    ORACLE: "a stand-in model's, a tenth wrong",
    "palette": "palette's",
}
MIXED: tuple[Literal["too", "alone"], ...] = ("too", "alone")
COUNTS = (100, 200, 400)  # training identities; all there are come from the other arms
MANY = 3000
QUICK_COUNT = 50
PICTURES = (2, 3)  # of each identity


def arms(plan: Plan) -> list[Arm]:
    seeds = 5
    usual = plan.recipe()
    told = [View(gallery=source) for source in SOURCES]
    told += [View(gallery=source, queries=source) for source in (*SOURCES, "shuffled")]
    told += [replace(view, mixed=how) for how in MIXED for view in told]
    made = [
        Arm("arcface", plan.recipe("contrast=0", "box=0", *NO_CAPTIONS), seeds=seeds),
        Arm(FREE, plan.recipe(*NO_CAPTIONS), seeds=seeds),
        Arm(TOLD, usual, views=tuple(told), seeds=seeds),
        Arm("all-shuffled", plan.recipe("shuffled=true"), seeds=seeds),
    ]
    for source in (ORACLE, "palette"):
        views = View(gallery=source), View(gallery=source, queries=source)
        made.append(Arm(f"all-{source}", usual, captions=source, views=views, seeds=seeds))
    for count in filter(plan.trained.__gt__, _counts(plan)):
        made += _three(plan, f"{count}-identities", seeds, identities=count)
    for pictures in PICTURES[: 1 if plan.quick else None]:
        made += _three(plan, f"{pictures}-pictures", seeds, pictures=pictures)
    return made


def _counts(plan: Plan) -> list[int]:
    """Of training identities, besides all there are; larger ones are not run."""
    wanted = (QUICK_COUNT,) if plan.quick else (*COUNTS, MANY)
    return [count for count in wanted if count != plan.trained]


def _three(
    plan: Plan, name: str, seeds: int, identities: int | None = None, pictures: int | None = None
) -> list[Arm]:
    """Without captions, with them, and with another's."""
    kinds = {FREE: NO_CAPTIONS, TOLD: (), "all-shuffled": ("shuffled=true",)}
    return [
        Arm(
            f"{kind}-{name}",
            plan.recipe(*settings, identities=identities),
            identities=identities,
            pictures=pictures,
            seeds=seeds,
        )
        for kind, settings in kinds.items()
    ]


def sections(found: Found) -> list[Section]:
    free = "contrast + box, no captions"
    training = [
        Row("ArcFace alone", "arcface", against=free),
        Row(free, FREE),
        *(Row(f"all, {SOURCES[source]}", _trained(source), against=free) for source in SOURCES),
        Row("all, another's (control)", "all-shuffled", against=free),
    ]
    bare = "image: contrast + box"
    regimes = [Row(bare, FREE), Row("train: the annotation's, bare search", TOLD, against=bare)]
    for source, named in SOURCES.items():
        for view in (View(gallery=source), View(gallery=source, queries=source)):
            regime = "train+gallery+query" if view.queries else "train+gallery"
            regimes.append(Row(f"{regime}: {named}", TOLD, view.name, bare))
            if source != "annotation":
                label = f"{regime}: {named}, trained on them too"
                regimes.append(Row(label, f"all-{source}", view.name, bare))
    wrong = View(gallery="shuffled", queries="shuffled")
    regimes.append(Row("train+gallery+query: another's (control)", TOLD, wrong.name, bare))
    mixed = [Row(bare, FREE)]
    for source, named in {**SOURCES, "shuffled": "another's (control)"}.items():
        for view in (View(gallery=source), View(gallery=source, queries=source)):
            if view.queries or source != "shuffled":
                regime = "train+gallery+query" if view.queries else "train+gallery"
                label = f"{regime}: {named}"
                mixed += [Row(f"{label}, {how}", TOLD, replace(view, mixed=how).name, bare) for how in MIXED]
    tables = [
        Table("training", "Captions in training alone; queries and gallery are bare pictures", training),
        Table("regimes", "Captions in training, gallery and query", regimes),
        Table(
            "mixed",
            "The same, captions' embeddings added to language parts",
            mixed,
            "Half of what the text tower makes of a caption is added to the picture's language part (that "
            "weight was chosen on other products). Too: the fusion reads the caption as before; alone: the "
            "identity part comes from the picture.",
        ),
    ]
    everything = found.plan.trained
    counts = _counts(found.plan)
    by_count = _by_amount("identities", "By training identities", counts, everything)
    by_pictures = _by_amount("pictures", "By pictures of each identity", PICTURES, "all")
    return [
        Section(
            "Captions in training", tables=tables[:1], drawings=_drawings(found, {"training.svg": tables[0]})
        ),
        Section(
            "Regimes",
            tables=tables[1:],
            drawings=_drawings(found, {"regimes.svg": tables[1], "mixed.svg": tables[2]}),
        ),
        Section(
            "Where data are few",
            tables=[by_count, by_pictures],
            drawings={"identities.svg": _curves(found, counts, everything)},
        ),
    ]


def _by_amount(name: str, title: str, amounts: Sequence[int], everything: int | str) -> Table:
    """Three rows for each amount, and for all there is, which the other arms have."""
    rows = []
    for amount in (*amounts, everything):
        suffix = "" if amount == everything else f"-{amount}-{name}"
        free = f"{amount} {name}: without captions"
        rows += [
            Row(free, f"{FREE}{suffix}"),
            Row(f"{amount} {name}: with captions", f"{TOLD}{suffix}", against=free),
            Row(f"{amount} {name}: with another's", f"all-shuffled{suffix}", against=free),
        ]
    return Table(name, title, rows)


def _drawings(found: Found, wanted: Mapping[str, Table]) -> dict[str, str]:
    """By file name, what each row has more than the one it is compared with; none where no row was run."""
    drawn = {}
    for file, table in wanted.items():
        rows = [
            Dot(line.row.label, 100 * more.mean, 100 * more.low, 100 * more.high)
            for line in figures_of(table, found.results)
            if line.comparison and (more := line.comparison.difference)
        ]
        against = next(row.against for row in table.rows if row.against)
        if rows:
            about = f"Points of mAP against {against}, with 95 % intervals."
            up = f"points of mAP against {against}"
            drawn[file] = dots(Chart(table.title, about, up, line=0.0), rows)
    return drawn


def _curves(found: Found, counts: Sequence[int], everything: int) -> str:
    """mAP by the number of training identities."""
    series = []
    for label, arm in (("with captions", TOLD), ("without", FREE), ("with another's", "all-shuffled")):
        rows = [Row(str(count), f"{arm}-{count}-identities") for count in counts] + [Row("all", arm)]
        lines = figures_of(Table("curve", label, rows), found.results)
        points = [
            (float(count), line.mean.mean, line.mean.low, line.mean.high)
            for count, line in zip((*counts, everything), lines, strict=True)
            if line.seeds
        ]
        series.append(Series(label, sorted(points)))
    about = "mAP of bare search by the number of training identities, with 95 % intervals."
    return chart(Chart("Where data are few", about, "training identities", "mAP", logarithmic=True), series)


def _trained(source: str) -> str:
    return TOLD if source == "annotation" else f"all-{source}"
