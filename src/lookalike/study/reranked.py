"""What the study of re-rankers found, as tables and figures."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np

from lookalike.errors import BadInput
from lookalike.evaluation import intervals
from lookalike.evaluation.intervals import Interval, Values, holm, mean_interval, paired
from lookalike.evaluation.posed import TRANSDUCTIVE
from lookalike.evaluation.runs import Difference, Figure, Run, System, finite, load_answers
from lookalike.study.conducting import Section
from lookalike.study.drawing import Chart, Series, chart
from lookalike.study.tables import bounded, grid

FLOORS = (8, 16)  # inliers from which a pair counts as verified
_DRAWN = ("query-expansion", "dba", "k-reciprocal", "diffusion", "superglobal")
GAINS = (
    "points",
    "points above the best fitted",
)  # of verification: above none, above the best fitted re-ranker
_HALF = 2  # bytes of a number as a catalogue keeps it


@dataclass(frozen=True)
class Measured:
    """A descriptor's evaluation in `folder`; `verified` is empty where verification was not measured."""

    folder: Path
    run: Run
    verified: Mapping[str, Any]

    @classmethod
    def read(cls, folder: Path) -> Self:
        file = folder / "geometric.json"
        try:
            verified = json.loads(file.read_bytes()) if file.exists() else {}
        except ValueError as error:
            raise BadInput(f"{file} is damaged: {error}", "delete it: it is measured again") from error
        return cls(folder, Run.load(folder), verified)

    @property
    def label(self) -> str:
        return str(self.run.made["descriptor"])

    @property
    def plain(self) -> System:
        return self.run.system("none")

    @property
    def bytes(self) -> int:
        """Of a region's descriptor."""
        return _HALF * int(self.run.encoder["dim"])

    @cached_property
    def chosen(self) -> System | None:
        """The fitted re-ranker that was best where it was fitted, of those that need no other queries."""
        reached = {
            name: max(trial[self.run.headline] for trial in tuned["trials"])
            for name, tuned in self.run.tuning.items()
            if name != TRANSDUCTIVE
        }
        return self.run.system(f"{max(reached, key=reached.__getitem__)} (tuned)") if reached else None

    def sampled(self, system: System) -> tuple[Values, Values]:
        """AP and rank of the first right answer of the queries that were verified too, (Q,) each."""
        judgement = next(iter(system.figures))
        told = {
            answer.query: (answer.values[judgement][self.run.headline], answer.rank)
            for answer in load_answers(self.folder, system.name)
        }
        ap, first = zip(*(told[query] for query in self.verified["queries"]), strict=True)
        return np.array(ap, np.float64), np.array(first, np.float64)

    def kinds(self) -> dict[str, Mapping[str, Any]]:
        """The kinds of local features that were measured."""
        kinds = self.verified.get("kinds", {})
        return {kind: told for kind, told in kinds.items() if "not_run" not in told}


def sections(found: Sequence[Measured], rerankers: Sequence[str]) -> list[Section]:
    """Tables and figures of descriptors on one data set; of `rerankers` those not run are named so."""
    ordered = sorted(found, key=lambda each: _headline(each.plain).value)
    verified = {each.label: _verified(each) for each in ordered}
    overview = [_overview(each, verified[each.label]) for each in ordered]
    made = {each.label: dict(each.run.made) for each in ordered}
    told = [
        Section(
            "Descriptors",
            "\n\n".join((_about(ordered), _markdown(overview), _NOTE_OVERVIEW)),
            record=finite({"rows": overview, "made": made}),
        )
    ]
    for each in ordered:
        rows = _reranked(each, rerankers)
        drawn = _drawn(each, rows, verified[each.label])
        told.append(
            Section(
                f"Re-ranking from descriptors: {each.label}",
                f"{_markdown(rows)}\n\n{_NOTE_RERANKED}",
                drawings={f"{each.folder.name}.svg": drawn} if drawn else {},
                record=finite(rows),
            )
        )
    for each in ordered:
        rows = verified[each.label]
        text = [_markdown(rows), _note_verified(each)] if rows else ["Not run."]
        for kind, kept in each.verified.get("kinds", {}).items():
            if "not_run" in kept:
                text.append(f"With {kind}: not run, {kept['not_run']}.")
        told.append(Section(f"Geometric verification: {each.label}", "\n\n".join(text), record=finite(rows)))
    pairs = [row for each in ordered for row in _pairs(each)]
    text = [_markdown(pairs), _NOTE_PAIRS] if pairs else ["Not run."]
    told.append(Section("Which pairs can be verified at all", "\n\n".join(text), record=finite(pairs)))
    return told


def _about(found: Sequence[Measured]) -> str:
    run = found[0].run
    figure = _headline(found[0].plain)
    data = f"{run.dataset['name']}, {run.dataset['split']}"
    synthetic = f", synthetic ({run.dataset['synthetic']})" if run.dataset["synthetic"] else ""
    fitted = next(iter(run.tuning.values()), None)
    return (
        f"{data}{synthetic}. Protocol {run.protocol['name']}, {run.regions} regions: {figure.n:,} queries in "
        f"{figure.groups:,} pairs, {run.gallery:,} gallery regions, no captions. "
        + (
            f"Tuned: the best of each re-ranker's grid on {fitted['queries']:,} queries of "
            f"{fitted['split']}. "
            if fitted
            else "Parameters were not fitted. "
        )
        + "A trained descriptor is one model: the intervals are over pairs of queries and say nothing of "
        "other seeds. []: 95 % interval of a bootstrap over pairs; p: whole pairs exchanged, adjusted by "
        "Holm's method for the comparisons in the table. pair-match is left out: a picture alone gives it "
        "nothing to match where the gallery has no captions."
    )


def _overview(each: Measured, verified: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    row = {
        "descriptor": each.label, "numbers": each.run.encoder["dim"], "bytes": each.bytes,
        "bytes on disk": each.run.bytes_per_region, "encoding, ms": each.run.encode_ms,
        "mAP": _mean(_headline(each.plain)), "R@1": _figure(each.plain, "R@1").value,
        "best when fitted": each.chosen.name if each.chosen else "not run",
    }  # fmt: skip
    if each.chosen:
        difference = next(one for one in each.run.differences if one.than == each.chosen.name)
        row["points"] = _gain(difference.value, difference, difference.p_holm)
    best = _best_verified(each, verified)
    row["verification"] = f"{best['re-rank']}, {best['features']}" if best else "not run"
    return row | ({f"verification: {gain}": best[gain] for gain in GAINS} if best else {})


_NOTE_OVERVIEW = (
    "Bytes are of a region's descriptor in half precision; on disk: with its index, row and picture's name. "
    "Best when fitted: on the split where it was fitted, not here; points are what it gains here. "
    "Verification: with the features that were best where its rule was fitted; above none and above the best "
    "when fitted, on the sample of the tables below."
)


def _reranked(each: Measured, rerankers: Sequence[str]) -> list[dict[str, Any]]:
    known = {system.name: system for system in each.run.systems}
    compared = {difference.than: difference for difference in each.run.differences}
    settings = ("", " (tuned)") if each.run.tuning else ("",)
    rows: list[dict[str, Any]] = []
    for name in ("none", *(f"{reranker}{setting}" for reranker in rerankers for setting in settings)):
        if name not in known:
            rows.append({"re-rank": name, "parameters": "not run"})
            continue
        system, difference = known[name], compared.get(name)
        rows.append(
            {
                "re-rank": name,
                "parameters": _parameters(system.parameters),
                "mAP": _mean(_headline(system)),
                "points": difference and _gain(difference.value, difference, difference.p_holm),
                "R@1": _figure(system, "R@1").value,
                "search, ms": system.latency_ms["search"],
                "re-ranking, ms": system.latency_ms["rerank"],
                "ranking all, ms": round(system.rank_ms, 3),
                "bytes": each.bytes,
                "other queries": "needed" if system.rerank == TRANSDUCTIVE else "",
            }
        )
    return rows


_NOTE_RERANKED = (
    "Points: mAP above none. Milliseconds: medians of single searches; ranking all, which the figures come "
    "from, is the mean and reads the query's picture. Bytes: what a gallery region needs; no re-ranker here "
    "keeps more than its descriptor. What needs other queries is transductive: no search can do it."
)


def _verified(each: Measured) -> list[dict[str, Any]]:
    """On the sample: none, the best fitted re-ranker from descriptors, and verification by kind."""
    kinds = each.kinds()
    if not kinds:
        return []
    search, groups = each.plain.latency_ms["search"], each.verified["groups"]
    rows: list[dict[str, Any]] = []
    aps: list[Values] = []

    def add(named: str, features: str, parameters: Mapping[str, Any], ap: Values, first: Values) -> None:
        aps.append(ap)
        row = {"re-rank": named, "features": features, "parameters": _parameters(parameters)}
        quality = {"mAP": _mean(mean_interval(ap, groups)), **dict.fromkeys(GAINS)}
        rows.append({**row, **quality, "R@1": float(np.mean(first[~np.isnan(ap)] == 1))})

    rivals = [each.plain, *([each.chosen] if each.chosen else [])]
    for system in rivals:
        add(system.name, "", system.parameters, *each.sampled(system))
        cost_ms = search + system.latency_ms["rerank"]
        rows[-1] |= {"ms, features kept": cost_ms, "bytes": each.bytes, "ms, pictures read": cost_ms}
    for kind, told in kinds.items():
        cost = told["cost"]
        for one in told["systems"]:
            ap, first = (np.array(one[name], np.float64) for name in ("ap", "first"))
            add(one["name"], kind, one["parameters"], ap, first)
            rows[-1] |= {
                "ms, features kept": search + cost["kept_ms"],
                "bytes": each.bytes + cost["bytes_per_region"],
            }
            rows[-1] |= {"ms, pictures read": search + cost["read_ms"]}
    found = [
        (row, title, paired(aps[rival], ap, groups))
        for place, (row, ap) in enumerate(zip(rows, aps, strict=True))
        for rival, title in enumerate(GAINS[: len(rivals)])
        if rival < place
    ]
    adjusted = holm([difference.p for _, _, difference in found]).tolist()
    for (row, title, difference), p in zip(found, adjusted, strict=True):
        row[title] = _gain(difference.mean, difference, p)
    return rows


def _note_verified(each: Measured) -> str:
    sample, groups = len(each.verified["queries"]), len(set(each.verified["groups"]))
    verify = max(told["verify"] for told in each.kinds().values())
    tuned = [told["tuning"]["queries"] for told in each.kinds().values() if told["tuning"]]
    return (
        f"On {sample:,} of {each.verified['of']:,} queries, of {groups:,} pairs drawn at random; the first "
        f"{verify:,} gallery regions are compared. Points: mAP above none on these queries"
        + (f"; best fitted: {each.chosen.name}. " if each.chosen else ". ")
        + (f"Tuned on {tuned[0]:,} queries. " if tuned else "")
        + "Milliseconds a query for search and verification, SuperGlobal's own not counted: with the "
        "gallery's local features in memory, and with its pictures read and described again. Bytes of a "
        "region: descriptor and local features; where pictures are read again only the descriptor is kept."
    )


def _pairs(each: Measured) -> Iterable[dict[str, Any]]:
    for kind, told in each.kinds().items():
        listed = [pair for pair in told["true"] if pair["listed"]]
        row: dict[str, Any] = {
            "descriptor": each.label, "features": kind, "points a region": told["cost"]["points"],
        }  # fmt: skip
        for name, pairs in (("true", told["true"]), ("listed", listed), ("wrong, first", told["wrong"])):
            counts = np.array([pair["inliers"] for pair in pairs])
            groups = [pair["group"] for pair in pairs]
            row[f"{name}: pairs"] = len(pairs)
            for floor in FLOORS:
                row[f"{name}: {floor} inliers"] = _mean(mean_interval(counts >= floor, groups))
        yield row


_NOTE_PAIRS = (
    "Share of pairs with at least so many inliers: of all true pairs of the sample's queries (drawn at "
    "random where there are more), of those true pairs that were in the short list that is compared, and of "
    "each query's first wrong answer, which would be verified falsely."
)


def _drawn(
    each: Measured, reranked: Sequence[Mapping[str, Any]], verified: Sequence[Mapping[str, Any]]
) -> str:
    """Gain over cost of the fitted re-rankers, of the default ones where nothing was fitted; "" for none."""
    setting = " (tuned)" if each.run.tuning else ""
    by_name = {row["re-rank"]: row for row in reranked if row.get("points")}
    series = []
    for name in _DRAWN:
        if row := by_name.get(name + setting):
            series.append(
                Series(name, [(row["search, ms"] + row["re-ranking, ms"], *_points(row["points"]))])
            )
    if best := _best_verified(each, verified):
        ends = [
            (best[place], *_points(best["points"])) for place in ("ms, features kept", "ms, pictures read")
        ]
        series.append(Series(f"geometric ({best['features']}): features kept, pictures read", ends))
    if not series:
        return ""
    said = " ".join(f"{one.label}: {one.points[0][1]:+.1f} points." for one in series)
    about = Chart(
        title=f"What re-ranking gains and costs: {each.label}",
        about=f"Points of mAP above no re-ranking over milliseconds a query, with 95 % intervals. {said}",
        across="milliseconds a query, search and re-ranking",
        up="points of mAP above no re-ranking" + (", fitted on other queries" if setting else ""),
        logarithmic=True,
        line=0.0,
    )
    return chart(about, series)


def _best_verified(each: Measured, verified: Sequence[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    """Verification alone, with the features that were best where its rule was fitted, if it was."""
    kinds = each.kinds()

    def reached(row: Mapping[str, Any]) -> float:
        trials = kinds[row["features"]]["tuning"].get("trials", ())
        return max((trial[each.run.headline] for trial in trials), default=0.0)

    named = "geometric (tuned)" if each.run.tuning else "geometric"
    return max((row for row in verified if row["re-rank"] == named), key=reached, default=None)


def _headline(system: System) -> Figure:
    name = next(iter(next(iter(system.figures.values()))))
    return _figure(system, name)


def _figure(system: System, metric: str) -> Figure:
    return next(iter(system.figures.values()))[metric]


def _mean(of: Interval | Figure) -> dict[str, float]:
    mean = of.value if isinstance(of, Figure) else of.mean
    return {"mean": mean, "low": of.low, "high": of.high, "n": of.n, "groups": of.groups}


def _gain(mean: float, difference: Difference | intervals.Difference, adjusted: float) -> dict[str, float]:
    """`adjusted` is p by Holm's method."""
    return {
        "mean": mean, "low": difference.low, "high": difference.high, "p": difference.p, "p_holm": adjusted
    }  # fmt: skip


def _points(gain: Mapping[str, float]) -> tuple[float, float, float]:
    """Mean, low and high, in points."""
    return 100 * gain["mean"], 100 * gain["low"], 100 * gain["high"]


def _parameters(parameters: Mapping[str, Any]) -> str:
    """In words, without the weight of a rule that has none; "" for the defaults."""
    unused = ("weight",) if parameters.get("rule") == "tie-breaker" else ()
    return ", ".join(f"{name} {value}" for name, value in parameters.items() if name not in unused)


def _markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    return grid([{name: _cell(name, value) for name, value in row.items()} for row in rows])


def _cell(column: str, value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.1f}" if "ms" in column else f"{value:.3f}"
    if "p" not in value:
        return bounded(value["mean"], value["low"], value["high"], ".3f")
    p = "< 0.001" if value["p_holm"] < 0.001 else f"= {value['p_holm']:.3f}"
    return f"{bounded(*_points(value), '+z.1f')}, p {p}"
