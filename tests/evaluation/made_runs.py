"""A folder as an evaluation leaves it: drawn pictures, rankings of noisy descriptors, honest figures."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from lookalike.evaluation.intervals import holm, mean_interval, paired, sliced
from lookalike.evaluation.metrics import average_precision
from lookalike.evaluation.runs import Answer, Difference, Figure, Run, System, save_answers
from lookalike.testing import drawing

METRICS = {
    "mAP": "mean over queries of the mean of precision at every right answer, all of the gallery ranked",
    "R@1": "share of queries whose first answer is right",
    "R@5": "share of queries with a right answer among the first 5",
}
FACETS = {"scale": ("small", "modest", "large"), "occlusion": ("slight", "medium", "heavy")}
CATEGORIES = ("short sleeve top", "trousers", "skirt")
DEPTHS = (1, 2, 5, 10, 20, 50)
UNANSWERABLE = "query-lone"  # its product is not in the gallery
EMPTY = Run(
    dataset={
        "name": "drawn",
        "folder": "/data/drawn",
        "split": "validation",
        "synthetic": "blotches 1, seed 0",
    },
    protocol={
        "name": "B1",
        "about": "A region of a street picture is the query; the regions of shop pictures are the gallery.",
        "ties": "equal scores stand in the order of the gallery",
        "self_match": "a query never counts as its own answer",
    },
    encoder={"name": "thumbnail", "fingerprint": "thumbnail-8x8", "dim": 192},
    regions="given",
    regime="image",
    queries=0,
    unanswerable=0,
    gallery=0,
    left_out=(),
    bytes_per_region=512,
    encode_ms=4.2,
    metrics=METRICS,
    systems=(),
    differences=(),
    made={"version": "0.1.0", "commit": "0123456789abcdef", "command": "lookalike eval drawn --out run"},
)  # fmt: skip


def make_run(
    folder: Path,
    noise: Mapping[str, float] | None = None,
    identities: int = 12,
    picture: Callable[[Path, int], None] | None = None,
    seed: int = 0,
    **changes: Any,
) -> Run:
    """A saved run: two queries and three gallery regions an identity; more noise is a worse system."""
    noise = noise or {"none": 1.0, "superglobal": 0.6}
    random = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    means = random.standard_normal((identities, 16))
    queries = [_place("query", n // 2, n % 2, folder, picture, random) for n in range(2 * identities)]
    queries.append(queries[0] | {"item": UNANSWERABLE, "title": "the lone one", "identity": "lone/1"})
    gallery = [_place("shop", n // 3, n % 3, folder, picture, random) for n in range(3 * identities)]
    for name, rows in (("queries", queries), ("gallery", gallery)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    shown = np.repeat(means, 3, axis=0) + random.standard_normal((3 * identities, 16))
    asked = np.concatenate([np.repeat(means, 2, axis=0), random.standard_normal((1, 16))])
    shared = random.standard_normal(asked.shape)
    told = {}
    for name, much in noise.items():
        off = 2 * much * (0.8 * shared + 0.6 * random.standard_normal(asked.shape))
        told[name] = [
            answer(query, gallery, shown @ mean) for query, mean in zip(queries, asked + off, strict=True)
        ]
    run = run_of(told, queries, len(gallery))
    return saved(replace(run, **changes), told, folder)


def saved(run: Run, told: Mapping[str, Sequence[Answer]], folder: Path) -> Run:
    folder.mkdir(parents=True, exist_ok=True)
    run.save(folder)
    for name, answers in told.items():
        save_answers(folder, name, answers)
    return run


def answer(query: Mapping[str, Any], gallery: Sequence[Mapping[str, Any]], scores: Any) -> Answer:
    order = np.argsort(-scores, kind="stable")
    relevant = np.array([gallery[place]["identity"] == query["identity"] for place in order])
    found = np.flatnonzero(relevant)
    group = str(query["identity"]).split("/")[0]
    values: dict[str, float | None] = dict.fromkeys(METRICS)
    if len(found):
        values = {
            "mAP": average_precision(relevant),
            "R@1": float(relevant[0]),
            "R@5": float(relevant[:5].any()),
        }
    return Answer(
        query=str(query["item"]),
        group=group,
        values={"all": values},
        rank=int(found[0]) + 1 if len(found) else None,
        right=gallery[order[found[0]]]["item"] if len(found) else None,
        total=len(found),
        top=tuple(
            (gallery[place]["item"], round(float(scores[place]), 4), bool(is_right))
            for place, is_right in zip(order[:10], relevant, strict=False)
        ),
        found=len(found),
    )


def run_of(told: Mapping[str, Sequence[Answer]], queries: Sequence[Mapping[str, Any]], gallery: int) -> Run:
    """The record of these answers, its figures computed from them."""
    groups = [each.group for each in next(iter(told.values()))]
    columns = {
        name: {metric: _column(answers, metric) for metric in METRICS} for name, answers in told.items()
    }
    systems = []
    for name, answers in told.items():
        figures = {metric: _figure(mean_interval(column, groups)) for metric, column in columns[name].items()}
        slices = {}
        for facet in ("category", *FACETS):
            labels = [str(query.get(facet, "")) for query in queries]
            parts = sliced(columns[name]["mAP"], groups, labels)
            slices[facet] = {label: _figure(part) for label, part in parts.items()}
        ranks = np.array([each.rank or np.inf for each in answers if each.total])
        recalls = np.linspace(0, 1, 11).tolist()
        systems.append(
            System(
                name=name,
                rerank=name.split(" ")[0],
                parameters={} if name == "none" else {"neighbours": 2, "beta": 0.15},
                figures={"all": figures},
                slices=slices,
                recall_at=tuple((k, float((ranks <= k).mean())) for k in DEPTHS),
                precision_recall=tuple((r, figures["mAP"].value ** (0.3 + r)) for r in recalls),
                latency_ms={"decode": 3.1, "encode": 14.0, "rerank": len(systems) * 1.5, "total": 21.0},
                rank_ms=1.25,
            )
        )  # fmt: skip
    first, *others = told
    found = [paired(columns[first]["mAP"], columns[other]["mAP"], groups) for other in others]
    adjusted = holm([each.p for each in found])
    return replace(
        EMPTY,
        queries=len(groups),
        unanswerable=sum(each.total == 0 for each in told[first]),
        gallery=gallery,
        systems=tuple(systems),
        differences=tuple(
            Difference(first, other, "mAP", each.mean, each.low, each.high, each.p, float(p))
            for other, each, p in zip(others, found, adjusted, strict=True)
        ),
    )


def _place(
    kind: str,
    identity: int,
    number: int,
    folder: Path,
    picture: Callable[[Path, int], None] | None,
    random: np.random.Generator,
) -> dict[str, Any]:
    name = f"{kind}-{identity}-{number}"
    path = folder / "pictures" / f"{name}.jpg"
    path.parent.mkdir(exist_ok=True)
    seed = 10 * identity + number + 5 * (kind == "shop")
    if picture:
        picture(path, seed)
    else:
        Image.fromarray(drawing(seed)).save(path, quality=90)
    row: dict[str, Any] = {
        "path": str(path),
        "item": name,
        "identity": f"{identity // 2}/{identity % 2 + 1}",
        "title": f"{CATEGORIES[identity % 3]} {identity}-{number}",
        "category": CATEGORIES[identity % 3],
    }
    if number == 0:
        row["box"] = [12, 16, 80, 110]
    if kind == "query":
        row |= {name: str(random.choice(values)) for name, values in FACETS.items()}
    return row


def _column(answers: Sequence[Answer], metric: str) -> list[float]:
    values = (each.values["all"][metric] for each in answers)
    return [float("nan") if value is None else value for value in values]


def _figure(interval: Any) -> Figure:
    return Figure(interval.mean, interval.low, interval.high, interval.n, interval.groups)
