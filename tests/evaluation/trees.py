"""A small data set in DeepFashion2's tree: coloured blotches as garments, so that the stand-in encoder finds
them, with other garments beside them."""

import json
from pathlib import Path

import numpy as np
from PIL import Image

from lookalike.datasets.deepfashion2 import CATEGORIES
from lookalike.testing import drawing

WIDTH, HEIGHT = 96, 128


def make_tree(folder: Path, pairs: int = 5, seed: int = 0) -> Path:
    """`pairs` pairs of two styles each in train and validation; a customer's picture and two of the shop's
    for each style, the first shop picture with a garment of style 0 beside it."""
    for split, shift in (("train", 1000), ("validation", 0)):
        number = 0
        for source in ("user", "shop"):
            for pair in range(1, pairs + 1):
                for style in (1, 2):
                    for view in range(1 if source == "user" else 2):
                        number += 1
                        name = seed + shift + 10 * pair + style
                        wanted = (name, style, pair)
                        bystander = (name + 5000 + view, 0, pair) if view == 0 else None
                        _write(folder / split, number, source, pair, wanted, bystander, view)
    return folder


def _write(
    tree: Path,
    number: int,
    source: str,
    pair: int,
    wanted: tuple[int, int, int],
    bystander: tuple[int, int, int] | None,
    view: int,
) -> None:
    page = np.full((HEIGHT, 2 * WIDTH, 3), 220, np.uint8)
    record: dict[str, object] = {"source": source, "pair_id": pair}
    noise = np.random.default_rng([number, view]).normal(0, 40 if source == "user" else 6, (HEIGHT, WIDTH, 3))
    for place, garment in enumerate(filter(None, (wanted, bystander))):
        seed, style, _ = garment
        pixels = drawing(seed, WIDTH, HEIGHT) * 1.0
        if source == "user":  # something else shines through
            pixels = 0.4 * pixels + 0.6 * drawing(seed + number, WIDTH, HEIGHT)
        pixels = (pixels + noise).clip(0, 255).astype(np.uint8)
        left = place * WIDTH
        page[:, left : left + WIDTH] = pixels
        category = pair % 3
        record[f"item{place + 1}"] = {
            "category_id": category + 1,
            "category_name": CATEGORIES[category],
            "style": style,
            "bounding_box": [left, 0, left + WIDTH, HEIGHT],
            "landmarks": [],
            "segmentation": [[left, 0, left + WIDTH, 0, left + WIDTH, HEIGHT, left, HEIGHT]],
            "scale": 3,
            "occlusion": 1 + pair % 3,
            "zoom_in": 1,
            "viewpoint": 2,
            "attributes": {"colour": "red" if style == 1 else "blue"},
            "captions": {"short": f"{'red' if style == 1 else 'blue'} piece {chr(96 + pair) * 3}"},
        }
    stem = f"{number:06}"
    for kind in ("image", "annos"):
        (tree / kind).mkdir(parents=True, exist_ok=True)
    Image.fromarray(page).save(tree / "image" / f"{stem}.jpg", quality=95)
    (tree / "annos" / f"{stem}.json").write_text(json.dumps(record))
