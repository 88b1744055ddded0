"""What finding the object is worth: IoU with the true box, mAP and R@1, by how the query's region is chosen.

Levels were chosen on DEV (drawn garments); TEST is a folder of product photographs. Queries are street views,
the gallery is the pictures and 500 crops of the scenery behind them.
"""

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from lookalike import images, regions
from lookalike.datasets import Listed, listing
from lookalike.datasets.garments import generated_garments
from lookalike.datasets.photos import product_photos, scenery
from lookalike.datasets.street import street_view
from lookalike.encoders import EfficientNet
from lookalike.evaluation.metrics import average_precision
from lookalike.ranking import prominence
from lookalike.values import Box, Picture, Region
from lookalike.weights import default_folder

CHOICES: dict[str, Sequence[float | str]] = {
    "given": ("given",),
    "whole": ("whole",),
    "loose": (0.5,),
    "tight": (0.65,),
    "tight or whole": (0.65, "whole"),
    "tight, loose or whole (the default)": (0.65, 0.5, "whole"),
    "tighter, loose or whole": (0.75, 0.5, "whole"),
    "three boxes or whole": (0.8, 0.6, 0.4, "whole"),
}
CROPS = 500


def crops(scenes: Sequence[Picture]) -> list[Region]:
    random = np.random.default_rng(3)
    found = []
    for number in range(CROPS):
        scene = scenes[number % len(scenes)]
        size = random.uniform(0.2, 0.6, 2) * (scene.width, scene.height)
        corner = random.uniform(0, 1, 2) * ((scene.width, scene.height) - size)
        found.append(Region(scene, Box(*map(float, (*corner, *(corner + size))))))
    return found


def measured(name: str, pictures: Sequence[Picture], scenes: Sequence[Picture], views: int) -> None:
    encoder = EfficientNet()
    queries, boxes, labels = [], [], []
    for number in range(len(pictures) * views):
        picture, scene = pictures[number // views], scenes[number % len(scenes)]
        view = street_view(picture.pixels, scene.pixels, 1_100_000 + number)
        queries.append(Picture.of(view.pixels))
        boxes.append(view.box)
        labels.append(number // views)
    gallery = encoder.pictures([*map(Region, pictures), *crops(scenes)])
    vectors = {
        "given": encoder.pictures([Region(q, box) for q, box in zip(queries, boxes, strict=True)]),
        "whole": encoder.pictures(list(map(Region, queries))),
    }
    ious: dict[float | str, float] = {"given": 1.0}
    whole = [Box(0, 0, q.width, q.height) for q in queries]
    ious["whole"] = float(np.mean([a.iou(b) for a, b in zip(whole, boxes, strict=True)]))
    for level in (0.4, 0.5, 0.6, 0.65, 0.75, 0.8):
        regions.LEVELS = (level,)
        found = [some[0] for some in regions.Salient(encoder).regions(queries)]
        vectors[level] = encoder.pictures(found)
        ious[level] = float(
            np.mean([(f.box or w).iou(b) for f, w, b in zip(found, whole, boxes, strict=True)])
        )
    for choice, candidates in CHOICES.items():
        precisions, firsts = [], []
        for place, label in enumerate(labels):
            scores = [gallery @ vectors[candidate][place] for candidate in candidates]
            best = max(scores, key=lambda s: prominence(np.sort(s)[::-1]))
            relevant = np.argsort(-best, kind="stable") == label
            precisions.append(average_precision(relevant))
            firsts.append(relevant[0])
        iou = f"{ious[candidates[0]]:.3f}"
        print(
            f"| {name} | {choice} | {iou} | {np.mean(precisions):.3f} | {np.mean(firsts):.3f} |", flush=True
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--views", type=int, default=2, help="queries per picture")
    arguments = parser.parse_args()
    scenes = [images.load(path) for path in scenery(default_folder())]
    print("| pictures | query region | IoU of the first | mAP | R@1 |\n|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        drawn = generated_garments(Path(folder), 100, seed=5)
        photographed = product_photos(default_folder())
        for name, table in (("DEV, 100 drawn garments", drawn), ("TEST, 54 photographs", photographed)):
            pictures = [images.load(entry.source) for entry in listing(table) if isinstance(entry, Listed)]
            measured(name, pictures, scenes, arguments.views)


if __name__ == "__main__":
    main()
