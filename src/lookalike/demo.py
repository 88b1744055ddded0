"""The demonstration: real product photographs, queries made to look like snapshots of them, figures.

The queries are distorted copies of the gallery's own photographs. They show that the machinery works and
what each part of it is worth; they say nothing about photographs of another specimen of the product.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from PIL import Image

from lookalike import images
from lookalike.catalogue import Catalogue, Report
from lookalike.datasets import Listed, listing
from lookalike.datasets.garments import generated_garments
from lookalike.datasets.photos import product_photos, scenery
from lookalike.datasets.street import street_view
from lookalike.errors import WeightsError
from lookalike.evaluation.metrics import average_precision, recall_at
from lookalike.explain import draw_answers
from lookalike.settings import Settings, open_catalogue
from lookalike.upkeep import info
from lookalike.values import Box

VIEWS = 2  # queries per photograph
OTHERS = 2000  # crops of other pictures that the gallery is padded with
SEED = 2026
DEPTH = 100  # items looked at; a right one below counts 0
SHEET_ROWS = 8
NOTE = (
    "Queries are distorted copies of the gallery's own photographs "
    "(datasets.street: cut out, other background, crop, angle, light, blur, occlusion, JPEG)."
)

Progress = Callable[[int, int | None], None]


@dataclass(frozen=True, slots=True)
class StreetQuery:
    """A made-up snapshot: its file, where the product truly is, and which item that is."""

    path: Path
    box: Box
    item: str


@dataclass(frozen=True, slots=True)
class System:
    """One row of the table."""

    encoder: str
    regions: str  # of the query: given, salient or whole
    rerank: str = "none"


SYSTEMS = (
    System("efficientnet-lite2", "given"),
    System("efficientnet-lite2", "given", "superglobal"),
    System("efficientnet-lite2", "salient"),
    System("efficientnet-lite2", "whole"),
    System("colour-histogram", "given"),
    System("colour-histogram", "whole"),
)


def run_demo(folder: Path, say: Callable[[str], None], on_progress: Progress | None = None) -> None:
    """Build everything under `folder`, write figures.json and sheet.jpg; `say` hears what people should."""
    folder.mkdir(parents=True, exist_ok=True)
    try:
        products, about = product_photos(folder / "photos"), "54 product photographs"
    except WeightsError as error:
        say(f"{error}; drawn garments take the photographs' place")
        products, about = generated_garments(folder / "garments", 54, SEED), "54 drawn garments"
    backgrounds = scenery(folder / "scenery")
    queries = list(make_queries(products, backgrounds, folder / "queries"))
    others = list_crops(backgrounds, folder / "others.jsonl")
    say(f"{about}; {len(queries)} street-like queries in {folder / 'queries'}")

    rows: list[dict[str, Any]] = []
    for encoder in dict.fromkeys(system.encoder for system in SYSTEMS):
        for gallery, sources in (
            ("products", [products]),
            (f"products + {OTHERS} crops", [products, others]),
        ):
            place = folder / f"{encoder}-{'padded' if len(sources) > 1 else 'products'}"
            place = folder / "shop" if place.name == "efficientnet-lite2-products" else place
            with open_catalogue(place, Settings(encoder=encoder)) as catalogue:
                report = catalogue.add(sources, on_progress=on_progress)
                if place.name == "shop":
                    indexing = _indexing_figures(catalogue, report)
            for system in SYSTEMS:
                if system.encoder == encoder:
                    rows.append(_measured(place, system, queries) | {"gallery": gallery})
    figures = {
        "note": NOTE,
        "photographs": about,
        "queries": len(queries),
        "seed": SEED,
        "results": rows,
        "indexing": indexing,
    }
    (folder / "figures.json").write_text(json.dumps(figures, indent=2) + "\n")
    with open_catalogue(folder / "shop") as catalogue:
        some = queries[:: max(1, len(queries) // SHEET_ROWS)][:SHEET_ROWS]
        draw_answers(
            [(catalogue.search(query.path, top=5), query.item) for query in some], folder / "sheet.jpg"
        )
    for line in _told(figures, folder, queries[0]):
        say(line)


def make_queries(products: Path, backgrounds: Sequence[Path], folder: Path) -> Iterator[StreetQuery]:
    """`VIEWS` street views of every picture in the table `products`, written as JPEG files to `folder`."""
    folder.mkdir(exist_ok=True)
    listed = [entry for entry in listing(products) if isinstance(entry, Listed)]
    scenes = [images.load(path).pixels for path in backgrounds]
    for place, entry in enumerate(listed):
        picture = images.load(entry.source)
        for view in range(VIEWS):
            number = place * VIEWS + view
            made = street_view(picture.pixels, scenes[number % len(scenes)], seed=SEED * 1000 + number)
            path = folder / f"{number:03}-{Path(entry.source).stem}.jpg"
            Image.fromarray(made.pixels).save(path, quality=90)
            yield StreetQuery(path, made.box, entry.item.id)


def list_crops(pictures: Sequence[Path], table: Path) -> Path:
    """A table of `OTHERS` random regions of `pictures`, each an item of its own."""
    random = np.random.default_rng(SEED)
    sizes = [(picture.width, picture.height) for picture in map(images.load, pictures)]
    with table.open("w") as file:
        for number in range(OTHERS):
            place = number * len(pictures) // OTHERS  # crops of one picture follow one another: read once
            width, height = sizes[place]
            w, h = random.uniform(0.2, 0.6, 2) * (width, height)
            x, y = random.uniform(0, (width - w, height - h))
            box = Box(*(round(float(corner)) for corner in (x, y, x + w, y + h)))
            record = {
                "path": str(pictures[place].resolve()),
                "item": f"other-{number:04}",
                "box": list(box.corners),
            }
            file.write(json.dumps(record) + "\n")
    return table


def _measured(place: Path, system: System, queries: Sequence[StreetQuery]) -> dict[str, Any]:
    """mAP@100, R@1, R@10 and the median milliseconds of every stage, through `Catalogue.search`."""
    finder = "whole" if system.regions == "given" else system.regions
    settings = Settings(query_regions=finder, rerank=system.rerank)
    precisions, firsts, tens, timings = [], [], [], []
    with open_catalogue(place, settings) as catalogue:
        catalogue.search(queries[0].path)  # the first search loads the model
        for query in queries:
            box = query.box if system.regions == "given" else None
            hits = catalogue.search(query.path, box, top=DEPTH)
            relevant = np.array([hit.item == query.item for hit in hits])
            precisions.append(average_precision(relevant, total=1))
            firsts.append(recall_at(relevant, 1))
            tens.append(recall_at(relevant, 10))
            timings.append(hits.timings_ms)
    return {
        "encoder": system.encoder,
        "regions": system.regions,
        "rerank": system.rerank,
        "mAP@100": round(float(np.mean(precisions)), 4),
        "R@1": round(float(np.mean(firsts)), 4),
        "R@10": round(float(np.mean(tens)), 4),
        "query_ms": {stage: round(median(t[stage] for t in timings), 2) for stage in timings[0]},
    }


def _indexing_figures(catalogue: Catalogue, report: Report) -> dict[str, Any]:
    facts = info(catalogue)
    return {
        "pictures": facts["pictures"],
        "pictures_per_s": round(report.encoded / report.seconds, 1) if report.encoded else None,
        "seconds": round(report.seconds, 2),
        "bytes_per_picture": facts["bytes"] // facts["pictures"],
    }


def _told(figures: dict[str, Any], folder: Path, query: StreetQuery) -> Iterator[str]:
    yield ""
    head = f"{'gallery':24}{'encoder':20}{'query region':14}{'re-rank':13}"
    yield head + f"{'mAP@100':>8}{'R@1':>7}{'R@10':>7}{'ms':>7}"
    for row in figures["results"]:
        names = f"{row['gallery']:24}{row['encoder']:20}{row['regions']:14}{row['rerank']:13}"
        numbers = f"{row['mAP@100']:8.3f}{row['R@1']:7.3f}{row['R@10']:7.3f}{row['query_ms']['total']:7.1f}"
        yield names + numbers
    indexing = figures["indexing"]
    yield ""
    yield figures["note"]
    if indexing["pictures_per_s"]:
        speed, size = indexing["pictures_per_s"], indexing["bytes_per_picture"]
        yield f"indexing: {speed} pictures/s; {size:,} bytes a picture"
    yield f"figures: {folder / 'figures.json'}    contact sheet: {folder / 'sheet.jpg'}"
    yield ""
    yield "next:"
    yield f"  .venv/bin/lookalike search {query.path} --in {folder / 'shop'}"
    yield f"  .venv/bin/lookalike search --text camera --where 'price < 500' --in {folder / 'shop'}"
    yield "  .venv/bin/lookalike index YOUR-PICTURES --to my-shop"
