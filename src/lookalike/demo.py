"""The demonstration: real product photographs, queries made to look like snapshots of them, figures.

The queries are distorted copies of the gallery's own photographs. They show that the machinery works and
what each part of it is worth; they say nothing about photographs of another specimen of the product.
"""

from __future__ import annotations

import json
import shutil
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
from lookalike.errors import BadInput, WeightsError
from lookalike.evaluation.metrics import average_precision, recall_at
from lookalike.explain import draw_answers
from lookalike.settings import DEFAULT_ENCODER, Settings, open_catalogue
from lookalike.upkeep import info
from lookalike.values import Box, Progress

VIEWS = 2  # queries per photograph
OTHERS = 2000  # crops of other pictures that the gallery is padded with
SEED = 2026
TIMED = 4  # every fourth query is timed
SHEET_ROWS = 8
NOTE = (
    "Queries are distorted copies of the gallery's own photographs "
    "(datasets.street: cut out, other background, crop, angle, light, blur, occlusion, JPEG)."
)


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


def systems(encoder: str) -> tuple[System, ...]:
    """What is compared: an encoder in several ways, and colours alone."""
    return (
        System(encoder, "given"),
        System(encoder, "given", "superglobal"),
        System(encoder, "salient"),
        System(encoder, "whole"),
        System("colour-histogram", "given"),
        System("colour-histogram", "whole"),
    )


def run_demo(
    folder: Path,
    say: Callable[[str], None],
    on_progress: Progress | None = None,
    views: int = VIEWS,
    others: int = OTHERS,
    encoder: str = DEFAULT_ENCODER,
) -> None:
    """Build everything under `folder`, write figures.json and sheet.jpg; `say` hears what people should.

    Pictures that are there are kept, catalogues of an earlier demonstration are built anew. BadInput where
    the folder holds anything else.
    """
    _cleared(folder)
    try:
        products, about = product_photos(folder / "photos"), "54 product photographs"
    except WeightsError as error:
        say(f"{error}; drawn garments take the photographs' place")
        products, about = generated_garments(folder / "garments", 54, SEED), "54 drawn garments"
    backgrounds = scenery(folder / "scenery")
    queries = list(make_queries(products, backgrounds, folder / "queries", views))
    crops = list_crops(backgrounds, folder / "others.jsonl", others)
    say(f"{about}; {len(queries)} street-like queries in {folder / 'queries'}")

    galleries = {"products": [products], f"products + {others} crops": [products, crops]}
    results: list[dict[str, Any]] = []
    indexing: dict[str, Any] = {}
    compared = systems(encoder)
    for each in dict.fromkeys(system.encoder for system in compared):
        for gallery, sources in galleries.items():
            name = f"{each}, {gallery}"
            is_shop = name == f"{encoder}, products"
            place = folder / "shop" if is_shop else folder / "catalogues" / name.replace("/", "-")
            with open_catalogue(place, Settings(encoder=each)) as catalogue:
                indexing[name] = _indexing_figures(catalogue, catalogue.add(sources, False, on_progress))
            results += [
                _measured(place, system, queries) | {"gallery": gallery}
                for system in compared
                if system.encoder == each
            ]
    figures = {
        "note": NOTE,
        "photographs": about,
        "queries": len(queries),
        "seed": SEED,
        "results": results,
        "indexing": indexing,
    }
    (folder / "figures.json").write_text(json.dumps(figures, indent=2) + "\n")
    with open_catalogue(folder / "shop") as shop:
        some = queries[:: max(1, len(queries) // SHEET_ROWS)][:SHEET_ROWS]
        answers = [(shop.search(query.path, top=5), query.item) for query in some]
    draw_answers(answers, folder / "sheet.jpg")
    for line in _told(figures, folder, queries[0]):
        say(line)


def _cleared(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    mark = folder / ".lookalike-demo"
    if not mark.exists() and any(folder.iterdir()):
        raise BadInput(f"{folder} is not empty and no earlier demonstration", "choose another folder")
    mark.touch()
    for made in ("catalogues", "shop", "queries"):
        shutil.rmtree(folder / made, ignore_errors=True)


def make_queries(
    products: Path, backgrounds: Sequence[Path], folder: Path, views: int
) -> Iterator[StreetQuery]:
    """`views` street views of every picture in the table `products`, written as JPEG files to `folder`."""
    folder.mkdir(exist_ok=True)
    listed = [entry for entry in listing(products) if isinstance(entry, Listed)]
    scenes = [images.load(path).pixels for path in backgrounds]
    for place, entry in enumerate(listed):
        picture = images.load(entry.source)
        for view in range(views):
            number = place * views + view
            made = street_view(picture.pixels, scenes[number % len(scenes)], seed=SEED * 1000 + number)
            path = folder / f"{number:03}-{Path(entry.source).stem}.jpg"
            Image.fromarray(made.pixels).save(path, quality=90)
            yield StreetQuery(path, made.box, entry.item.id)


def list_crops(pictures: Sequence[Path], table: Path, count: int) -> Path:
    """A table of `count` random regions of `pictures`, each an item of its own."""
    random = np.random.default_rng(SEED)
    sizes = [(picture.width, picture.height) for picture in map(images.load, pictures)]
    with table.open("w") as file:
        for number in range(count):
            place = number * len(pictures) // count  # crops of one picture follow one another: read once
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
    """mAP, R@1, R@10 over the whole ranking, and the median milliseconds of every stage of a usual search."""
    finder = "whole" if system.regions == "given" else system.regions
    settings = Settings(query_regions=finder, rerank=system.rerank)
    precisions, firsts, tens, timings = [], [], [], []
    with open_catalogue(place, settings) as catalogue:
        items = catalogue.store.count().items
        catalogue.search(queries[0].path)  # the first search loads the model
        for number, query in enumerate(queries):
            box = query.box if system.regions == "given" else None
            relevant = np.array(
                [hit.item == query.item for hit in catalogue.search(query.path, box, top=items)]
            )
            precisions.append(average_precision(relevant))
            firsts.append(recall_at(relevant, 1))
            tens.append(recall_at(relevant, 10))
            if number % TIMED == 0:
                timings.append(catalogue.search(query.path, box).timings_ms)
    return {
        "encoder": system.encoder,
        "regions": system.regions,
        "rerank": system.rerank,
        "mAP": round(float(np.mean(precisions)), 4),
        "R@1": round(float(np.mean(firsts)), 4),
        "R@10": round(float(np.mean(tens)), 4),
        "query_ms": {stage: round(median(t[stage] for t in timings), 2) for stage in timings[0]},
    }


def _indexing_figures(catalogue: Catalogue, report: Report) -> dict[str, Any]:
    facts = info(catalogue)
    return {
        "regions": facts["regions"],
        "pictures_per_s": round(report.encoded / report.seconds, 1),
        "seconds": round(report.seconds, 2),
        "bytes_per_picture": facts["bytes"] // facts["pictures"],
    }


def _told(figures: dict[str, Any], folder: Path, query: StreetQuery) -> Iterator[str]:
    yield ""
    head = f"{'gallery':24}{'encoder':20}{'query region':14}{'re-rank':13}"
    yield head + f"{'mAP':>6}{'R@1':>7}{'R@10':>7}{'ms':>7}"
    for row in figures["results"]:
        names = f"{row['gallery']:24}{row['encoder']:20}{row['regions']:14}{row['rerank']:13}"
        numbers = f"{row['mAP']:6.3f}{row['R@1']:7.3f}{row['R@10']:7.3f}{row['query_ms']['total']:7.1f}"
        yield names + numbers
    yield ""
    yield figures["note"]
    for name, made in figures["indexing"].items():
        speed, size = made["pictures_per_s"], made["bytes_per_picture"]
        yield f"indexing ({name}): {speed} pictures/s, {size:,} bytes a picture"
    yield f"figures: {folder / 'figures.json'}    contact sheet: {folder / 'sheet.jpg'}"
    yield ""
    yield "next:"
    yield f"  .venv/bin/lookalike search {query.path} --in {folder / 'shop'}"
    yield f"  .venv/bin/lookalike search --text camera --where 'price < 500' --in {folder / 'shop'}"
    yield "  .venv/bin/lookalike index YOUR-PICTURES --to my-shop"
