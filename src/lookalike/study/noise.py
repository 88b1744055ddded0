"""What wrong captions cost in training, in the gallery and at the query, and what guards save."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from lookalike.learn.saved import load
from lookalike.learn.scoring import described
from lookalike.study.arms import FREE, NO_CAPTIONS, TOLD, Arm, View
from lookalike.study.conducting import Found, Plan, Section
from lookalike.study.drawing import Chart, Series, chart
from lookalike.study.guards import RATES, Guarding
from lookalike.study.results import Results
from lookalike.study.tables import Row, Table, figures_of

ABOUT = (
    "What do wrong captions cost, and what do guards save? A stand-in for a model, which has read the "
    "labels, is wrong about a share of what it claims, 0 to all; its captions come through the real "
    "captioner. They are used in training alone, in the gallery alone, or at the query alone with right ones "
    "in the gallery. The bar was set beforehand: with the guard no point is worse than `image`, the best "
    "training without captions searched with bare pictures, by more than 0.5 points of mAP, 100 % wrong "
    "included."
)
IMAGE = "image: contrast + box"
MARGIN = 0.005  # of mAP
WRONG = (0.25, 0.5)  # of the captions that the fusion is given in training: another's
QUICK_RATES = (0.0, 0.5, 1.0)
_SEEDS = 3


@dataclass(frozen=True, slots=True)
class Way:
    """One way to take captions: whether pixels check their claims, which guard follows, how they are used."""

    label: str
    guard: str = ""
    checked: bool = True
    mixed: Literal["", "too", "alone"] = ""

    def view(self, place: str, rate: float) -> View:
        """In the gallery alone, or at the query with right captions in the gallery."""
        suffix = "" if self.checked else " unchecked"
        told = f"oracle-{rate:g}{suffix}"
        if place == "gallery":
            return View(gallery=told, guard=self.guard, mixed=self.mixed)
        return View(gallery=f"oracle-0{suffix}", queries=told, guard=self.guard, mixed=self.mixed)


NONE, SOURCE = Way("no guard", checked=False), Way("source", "source")
WAYS = (
    NONE,
    Way("pixels alone"),
    Way("claims", "claims"),
    Way("caption", "caption"),
    SOURCE,
    Way("weight", "weight"),
    Way("chance", "chance"),
    Way("no guard, mixed too", checked=False, mixed="too"),
    Way("chance, mixed too", "chance", mixed="too"),
    Way("chance, mixed alone", "chance", mixed="alone"),
)
_HIDDEN = ("pixels alone", "claims", "caption", "weight")  # more lines would hide one another
DRAWN = [way for way in WAYS if way.label not in _HIDDEN]
PLACES: Mapping[str, str] = {
    "gallery": "In the gallery, asked with bare pictures",
    "query": "At the query, the gallery's captions right",
}


def arms(plan: Plan) -> list[Arm]:
    rates = _rates(plan)
    made = [
        Arm(FREE, plan.recipe(*NO_CAPTIONS), seeds=_SEEDS),
        Arm(TOLD, plan.recipe(), views=_views(WAYS, rates), seeds=_SEEDS),
    ]
    for rate in rates:
        source = f"oracle-{rate:g}"
        made += [
            Arm(_trained(rate), plan.recipe(), captions=source, seeds=_SEEDS),
            Arm(f"{_trained(rate)}-weigh", plan.recipe("weigh=1"), captions=source, seeds=_SEEDS),
        ]
    for share in WRONG:
        views = _views((NONE, SOURCE), rates)
        made.append(Arm(f"wrong-{share:g}", plan.recipe(f"wrong={share:g}"), views=views, seeds=_SEEDS))
    return made


def sections(found: Found) -> list[Section]:
    rates = _rates(found.plan)
    training = [Row(IMAGE, FREE), Row("all, the annotation's captions", TOLD, against=IMAGE)]
    training += [Row(f"all, {rate:.0%} wrong", _trained(rate), against=IMAGE) for rate in rates]
    training += [
        Row(f"all, {rate:.0%} wrong, down-weighted by agreement", f"{_trained(rate)}-weigh", against=IMAGE)
        for rate in rates
    ]
    made = [
        Section(
            "In training",
            "Searched with bare pictures in a bare gallery. What pixels can tell is checked before.",
            tables=[Table("training", "Wrong captions in training alone", training, margin=MARGIN)],
            drawings={"training.svg": _drawn_training(found, rates)},
        ),
        _chosen_section(found, rates),
    ]
    for place, title in PLACES.items():
        rows = _rows({TOLD: "all"}, WAYS, place, rates) + (_unasked() if place == "query" else [])
        table = Table(place, title, rows, margin=MARGIN)
        drawn = _drawn(title, found.results, {way.label: (TOLD, way) for way in DRAWN}, place, rates)
        swapped = {f"wrong-{share:g}": f"trained with {share:.0%} swapped" for share in WRONG}
        rows = _rows(swapped, (NONE, SOURCE), place, rates)
        again = Table(f"{place}, trained with swaps", f"{title}: trained with swaps", rows, margin=MARGIN)
        made.append(Section(title, tables=[table, again], drawings={f"{place}.svg": drawn}))
    return [*made, _gone_by(found, rates)]


def chosen(results: Results, rates: Sequence[float]) -> Results:
    """The same with the arms "all-oracle-R chosen": trained on captions with R wrong, or on none."""
    return results.chosen({f"{_trained(rate)} chosen": (FREE, _trained(rate)) for rate in rates})


def _rates(plan: Plan) -> tuple[float, ...]:
    return QUICK_RATES if plan.quick else RATES


def _trained(rate: float) -> str:
    return f"all-oracle-{rate:g}"


def _views(ways: Sequence[Way], rates: Sequence[float]) -> tuple[View, ...]:
    return tuple(way.view(place, rate) for place in PLACES for way in ways for rate in rates)


def _rows(arms: Mapping[str, str], ways: Sequence[Way], place: str, rates: Sequence[float]) -> list[Row]:
    """`image`, then each arm bare and with captions of each rate, taken in each way."""
    rows = [Row(IMAGE, FREE)]
    for arm, named in arms.items():
        rows.append(Row(f"{named}, bare", arm, against=IMAGE))
        rows += [
            Row(f"{named}, {way.label}, {rate:.0%} wrong", arm, way.view(place, rate).name, IMAGE)
            for way in ways
            for rate in rates
        ]
    return rows


def _unasked() -> list[Row]:
    """Bare queries in the galleries with right captions that captioned queries are asked in."""
    ways = [way for way in WAYS if way.guard == "chance" or not way.checked]
    return [
        Row(f"all, {way.label}, bare queries in that gallery", TOLD, way.view("gallery", 0).name, IMAGE)
        for way in ways
    ]


def _chosen_section(found: Found, rates: Sequence[float]) -> Section:
    rows = [Row(IMAGE, FREE)]
    rows += [
        Row(f"chosen on tuning, {rate:.0%} wrong", f"{_trained(rate)} chosen", against=IMAGE)
        for rate in rates
    ]
    table = Table("training, chosen", "Training guarded as a whole", rows, margin=MARGIN)
    text = (
        "Guard: chosen on tuning. For each seed the training with captions counts if it is better on the "
        "tuning part than the one without, and the one without if not."
    )
    return Section("In training, guarded", text, [table], results=chosen(found.results, rates))


def _drawn(
    title: str, results: Results, told: Mapping[str, tuple[str, Way]], place: str, rates: Sequence[float]
) -> str:
    named = {
        label: [Row(f"{rate:.0%}", arm, way.view(place, rate).name) for rate in rates]
        for label, (arm, way) in told.items()
    }
    return _chart(title, results, named, rates)


def _drawn_training(found: Found, rates: Sequence[float]) -> str:
    suffixes = {"no guard": "", "down-weighted": "-weigh", "chosen on tuning": " chosen"}
    named = {
        label: [Row(f"{rate:.0%}", f"{_trained(rate)}{suffix}") for rate in rates]
        for label, suffix in suffixes.items()
    }
    return _chart("Wrong captions in training", chosen(found.results, rates), named, rates)


def _chart(title: str, results: Results, named: Mapping[str, Sequence[Row]], rates: Sequence[float]) -> str:
    """mAP by error rate, a line for each name; the horizontal one is `image`, with the margin below it."""
    series = []
    for label, rows in named.items():
        lines = figures_of(Table(label, label, rows), results)
        points = [
            (100 * rate, line.mean.mean, line.mean.low, line.mean.high)
            for rate, line in zip(rates, lines, strict=True)
            if line.seeds
        ]
        series.append(Series(label, points))
    image = figures_of(Table("image", IMAGE, [Row(IMAGE, FREE)]), results)[0]
    about = "mAP by the share of claims that are wrong, with 95 % intervals; the line across is `image`."
    line = image.mean.mean if image.seeds else None
    margin = MARGIN if image.seeds else None
    return chart(Chart(title, about, "% of claims wrong", "mAP", line=line, margin=margin), series)


def _gone_by(found: Found, rates: Sequence[float]) -> Section:
    """What the guards found out on the tuning part, and how much of each source they take for wrong."""
    material = found.place.opened()
    told: list[dict[str, Any]] = []
    rates = [rate for rate in rates if (f"oracle-{rate:g}", material.measured) in material.said]
    for run in found.results.of(TOLD) if rates else ():
        saved = load(found.place.folder / "runs" / f"{run.arm}-{run.seed}")
        bare = described(saved.model, material.queried, material.texts)
        guarding = Guarding(saved.model, material, material.measured, bare, saved.guard)
        shares = {f"{rate:g}": guarding.share(f"oracle-{rate:g}") for rate in rates}
        told.append({"seed": run.seed, **asdict(guarding.tuned), "shares": shares})
    if not told:
        return Section("What the guards go by", "Not run.")
    heads = [f"{rate:.0%} wrong" for rate in rates]
    lines = [
        "| seed | another's captions refused | bears in the gallery | bears at the query | "
        + " | ".join(f"taken for wrong at {head}" for head in heads)
        + " |",
        "|---" * (4 + len(heads)) + "|",
    ]
    for each in told:
        cells = [each["refused"], *each["pays"].values(), *each["shares"].values()]
        lines.append(f"| {each['seed']} | " + " | ".join(f"{cell:.2f}" for cell in cells) + " |")
    text = (
        "The first columns are known from the tuning part alone: what share of another identity's "
        "captions falls below what 95 % of right ones reach, and what share of wrong captions can be borne "
        "before they cost more than they bring (-1: none). The last columns are the share that each source "
        "seems to have wrong, by its mean agreement with the searched pictures. `source` believes nothing of "
        "one that seems to have more wrong than can be borne."
    )
    return Section("What the guards go by", "\n".join([text, "", *lines]), record=told)
