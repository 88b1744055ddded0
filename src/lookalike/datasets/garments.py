"""Drawn garments: flat pictures of clothes on white, for where no photographs can be had.

Their table says what each is like. They are drawings: figures measured on them are figures about drawings.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from lookalike.datasets.photos import write_table
from lookalike.datasets.street2shop.scenes import flat_picture
from lookalike.datasets.street2shop.wardrobe import CATEGORIES, random_garment
from lookalike.datasets.street2shop.words import captions_of

SIDE = 512  # pixels of a picture


def generated_garments(folder: Path, count: int, seed: int) -> Path:
    """The table `products.jsonl` of `count` drawn garments, all different, written to `folder` with it.

    One row a picture: path, item, title, price, category, color and what else sets it apart. The same
    arguments give the same garments; fewer of them are the first of more.
    """
    folder.mkdir(parents=True, exist_ok=True)
    return write_table(_rows(folder, count, seed), folder / "products.jsonl")


def _rows(folder: Path, count: int, seed: int) -> Iterator[dict[str, Any]]:
    random = np.random.default_rng(seed)
    seen: set[tuple[str, ...]] = set()
    while len(seen) < count:
        category = CATEGORIES[len(seen) % len(CATEGORIES)]
        garment = random_garment(random, [category])
        facts = {
            name.replace("colour", "color").replace(" ", "_"): value
            for name, value in garment.attributes.items()
        }
        told = (category, *map(":".join, sorted(facts.items())))
        if told in seen:
            continue
        seen.add(told)
        name = f"{category.replace(' ', '-')}-{len(seen):04}"
        picture = flat_picture(garment, (SIDE, SIDE), random)
        picture.save(folder / f"{name}.jpg", quality=92)
        title = captions_of(garment, garment.attributes, random).short
        price = float(random.integers(12, 180)) + 0.9
        title = f"{title[0].upper()}{title[1:]}"
        yield {
            "path": f"{name}.jpg",
            "item": name,
            "title": title,
            "price": price,
            "category": category,
        } | facts
