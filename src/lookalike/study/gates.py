"""Which queries want a caption: the product's gates, simulated on a model that a study has trained."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from lookalike.calibration import GATES, SURE, sure_from
from lookalike.datasets import Side
from lookalike.encoders.adapted import mixed
from lookalike.evaluation.intervals import Values
from lookalike.learn.models.adapted import Adapted
from lookalike.learn.sampling import NO_IDENTITY
from lookalike.learn.saved import load
from lookalike.learn.scoring import Described, described, queries
from lookalike.learn.sources import Source
from lookalike.learn.tokens import SIDES
from lookalike.ranking import prominence
from lookalike.study.arms import View
from lookalike.study.captions import ORACLE
from lookalike.study.conducting import Found, Section
from lookalike.study.drawing import Chart, Series, chart
from lookalike.study.kept import as_json, cells, share_kept
from lookalike.study.material import Material
from lookalike.study.results import Results
from lookalike.study.tables import grid
from lookalike.study.ways import TRAIN, both
from lookalike.values import Floats, Keys

LISTED = 10  # items that the gate "disagreement" compares
GATED = (ORACLE, "palette")  # sources whose captions are to be saved
SHARES = (0.1, 0.25, 0.5, 0.75, 1.0)  # of the queries, to be captioned
CURVE = tuple(step / 10 for step in range(11))


@dataclass(frozen=True, slots=True, eq=False)
class Sureness:
    """How sure the answers to Q bare queries are, by gate, (Q,) each, higher for surer.

    `right` says whose first answer is right, of those that have a right one: the others, False in
    `answerable`, tell nothing of a gate.
    """

    values: Mapping[str, Floats]
    right: NDArray[np.bool_]
    answerable: NDArray[np.bool_]

    def sure_from(self, gate: str) -> float:
        """From where on the product would let an answer pass; infinite where it lets none."""
        told = self.answerable
        found = sure_from(self.values[gate][told].tolist(), self.right[told].tolist())
        return np.inf if found is None else found

    def captioned(self, gate: str, share: float) -> Floats:
        """How often each query (Q,) is captioned, 0 to 1, if the least sure `share` of all is.

        Where equally sure ones would be only partly captioned it is by chance. No answer is looked at.
        """
        values, wanted = self.values[gate], share * len(self.right)
        last = np.sort(values)[min(int(wanted), len(values) - 1)]
        below, equal = values < last, values == last
        chance = below + equal * ((wanted - below.sum()) / equal.sum())
        return np.asarray(chance, np.float32)


def sureness(source: Source, bare: Described, told: Described, language: float) -> Sureness:
    """Of the source's queries, `bare`, in its gallery as it is `told`, as `calibration` measures it.

    Both describe all N regions; `language` is the weight of the language part. An item is an identity; a
    gallery region without one is an item of its own. A query's own region is never among the answers.
    """
    whole = bare.descriptors(language), told.descriptors(language)
    places = queries(source)
    gallery = np.flatnonzero(source.sides != SIDES.index(Side.QUERY))
    items = _items(source.identities)[gallery]
    margins, agreements, right, answerable = [], [], [], []
    for place in places:
        others = gallery != place
        owners = items[others]
        ranked, scores = _best(owners, (whole[1][gallery] @ whole[0][place])[others])
        spoken, _ = _best(owners, (told.language[gallery] @ bare.language[place])[others])
        margins.append(prominence(scores))
        agreements.append(_jaccard(ranked[:LISTED], spoken[:LISTED]))
        right.append(bool(ranked[0] == source.identities[place]))
        answerable.append(bool((owners == source.identities[place]).any()))
    values = dict(zip(GATES, (np.array(margins, np.float32), np.array(agreements, np.float32)), strict=True))
    return Sureness(values, np.array(right), np.array(answerable))


def _items(identities: Keys) -> Keys:
    """The items (N,) of regions: those without an identity are items of their own."""
    own = -2 - np.arange(len(identities))
    return np.where(identities == NO_IDENTITY, own, identities)


def _best(owners: Keys, scores: Floats) -> tuple[Keys, Floats]:
    """Each item's best region, best first: items and scores (T,)."""
    order = np.argsort(-scores, kind="stable")
    _, first = np.unique(owners[order], return_index=True)
    kept = order[np.sort(first)]
    return owners[kept], scores[kept]


def _jaccard(one: Keys, other: Keys) -> float:
    both = set(one.tolist()) & set(other.tolist())
    return len(both) / max(1, len(set(one.tolist()) | set(other.tolist())))


def saved_by_gates(found: Found) -> list[Section]:
    """What is kept if only queries in doubt are captioned: a section for each source that was measured."""
    material = found.place.opened()
    sure: dict[str, list[tuple[Sureness, Sureness]]] = {}
    for run in found.results.of(TRAIN.arm):
        model = load(found.place.folder / "runs" / f"{run.arm}-{run.seed}").model
        for source in GATED:
            if both(source, "too").name in run.measures:
                tuned = _looked(model, material, source, "tuning")
                seen = _looked(model, material, source, material.measured)
                sure.setdefault(source, []).append((tuned, seen))
    return [saved_by_gate(found.results, source, each) for source, each in sure.items()]


def _looked(model: Adapted, material: Material, source: str, part: str) -> Sureness:
    """Of a part's bare queries in its gallery with the captions of a source."""
    cells, said = material.parts[part], material.one_each(source, part)
    bare, told = (described(model, cells, material.texts, captions) for captions in (None, said))
    there = np.array([[bool(caption)] for caption in said], np.float32)
    told = replace(told, language=mixed(told.language, there * told.text))
    return sureness(cells, bare, told, model.language)


def saved_by_gate(results: Results, source: str, sure: Sequence[tuple[Sureness, Sureness]]) -> Section:
    """`sure` are, for each seed, the tuning part's queries, for thresholds, and the measured part's."""
    runs = results.of(TRAIN.arm)
    unasked = View(gallery=source, mixed="too")
    bare = np.array([run.measures[unasked.name].ap for run in runs], np.float64)
    asked = np.array([run.measures[both(source, "too").name].ap for run in runs], np.float64)

    def gated(gate: str, share: float | None) -> tuple[float, Values]:
        """The share of queries that are captioned, and the average precisions (Q,), both over seeds."""
        captioned = np.array(
            [
                seen.values[gate] < tuned.sure_from(gate) if share is None else seen.captioned(gate, share)
                for tuned, seen in sure
            ],
            np.float64,
        )
        return float(captioned.mean()), (bare + captioned * (asked - bare)).mean(axis=0)

    record = []
    for gate in GATES:
        for share in (None, *SHARES):
            captioned, kept_aps = gated(gate, share)
            kept = share_kept(bare.mean(axis=0), asked.mean(axis=0), kept_aps, results.groups)
            record.append(
                {
                    "gate": gate, "aimed": share, "captioned": captioned,
                    "map": float(np.nanmean(kept_aps)), **as_json(kept),
                }
            )  # fmt: skip
    rows = [
        {
            "gate": each["gate"],
            "wanted": f"until {SURE:.0%} of the rest are right"
            if each["aimed"] is None
            else f"{each['aimed']:.0%}",
            "captioned": f"{each['captioned']:.0%}",
            "mAP": f"{each['map']:.3f}",
            **{name: text for name, text in cells(each).items() if name not in ("way", "of the gain of")},
        }
        for each in record
    ]
    named = "palette" if source == "palette" else "a model, a tenth wrong"
    low, high = float(np.nanmean(bare)), float(np.nanmean(asked))
    text = (
        f"Query captions by {named}, their embeddings mixed in; the gallery has them. A query whose bare "
        f"answer is in doubt is captioned, another keeps its bare answer: mAP {low:.3f} without any, "
        f"{high:.3f} with all. Either a wanted share of the queries is captioned, the least sure, or, as a "
        "catalogue calibrates itself, "
        f"those below where {SURE:.0%} of first answers are right among other products' queries in their own "
        "gallery. Kept is of what captions of all queries add to a captioned gallery. Seeds: "
        f"{len(runs)}.\n\n"
    )
    series = []
    for gate in GATES:
        curve = [gated(gate, share) for share in CURVE]
        series.append(
            Series(
                gate, [(captioned, float(np.nanmean(aps)), math.nan, math.nan) for captioned, aps in curve]
            )
        )
    chance = [(0.0, low, math.nan, math.nan), (1.0, high, math.nan, math.nan)]
    series.append(Series("by chance", chance, dashed=True))
    about = Chart(
        f"Queries that are captioned, by {named}",
        "mAP by the share of queries whose caption is asked for, where a gate chooses them and by chance.",
        "share of queries captioned",
        "mAP",
    )
    file = f"gate-{'palette' if source == 'palette' else 'model'}.svg"
    title = f"What a gate saves: {named}"
    return Section(title, text + grid(rows), drawings={file: chart(about, series)}, record=record)
