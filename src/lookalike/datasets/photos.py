"""The pictures of the demonstration: real product photographs as a table to index, and backgrounds."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from lookalike import weights

_PHOTOGRAPHER = re.compile(r".*-\d+-unsplash")


def product_photos(folder: Path) -> Path:
    """The table `products.jsonl` of 54 product photographs, pulled into `folder` where they are not yet.

    One row a picture: path (in the table's folder), item, title, price, category, brand, color and other
    facets, and the description as `about`. Several values of a facet are a list. WeightsError where the
    photographs cannot be had.
    """
    products, *pictures = weights.pull("demo-photos", folder)
    return write_table(photo_rows(products, pictures), products.with_name("products.jsonl"))


def scenery(folder: Path) -> list[Path]:
    """Photographs and textures to put behind products, pulled into `folder` where they are not yet.

    WeightsError where they cannot be had.
    """
    return weights.pull("scenery", folder)


def photo_rows(products: Path, pictures: Sequence[Path]) -> Iterator[dict[str, Any]]:
    """Rows for an index from a shop's product table (CSV; padded cells; one row a variant).

    A product is on its first row, the variants' rows that follow have no name. A product's pictures are one
    row each; products without a picture are left out, and pictures without a product are items of their own.
    """
    unused = {picture.name: picture for picture in pictures}
    with products.open(encoding="utf-8", newline="") as file:
        for padded in csv.DictReader(file):
            cells = {name.strip(): (cell or "").strip() for name, cell in padded.items()}
            for asset in cells["assets"].split("|") if cells["name"] else ():
                if unused.pop(asset.strip(), None):
                    yield {"path": asset.strip(), "item": cells["slug"], "title": cells["name"]} | _facts(
                        cells
                    )
    for name, picture in sorted(unused.items()):
        yield {"path": name, "item": picture.stem, "title": _title(picture.stem)}


def _facts(cells: dict[str, str]) -> dict[str, Any]:
    facets: dict[str, list[str]] = {}
    for facet in filter(None, cells["facets"].split("|")):
        name, _, value = facet.partition(":")
        facets.setdefault(name.strip().replace(" ", "_"), []).append(value.strip())
    return {
        "price": float(cells["price"]),
        **{name: values if len(values) > 1 else values[0] for name, values in facets.items()},
        "about": cells["description"],
    }


def _title(stem: str) -> str:
    """Words from a file's name; none where it only says who took the photograph."""
    return "" if _PHOTOGRAPHER.fullmatch(stem) else re.sub(r"[-_\s]+", " ", stem).strip()


def write_table(rows: Iterable[Mapping[str, Any]], path: Path) -> Path:
    """Write rows as JSON lines, whole or not at all; escaped, since a path need not be valid text."""
    part = path.with_name(f"{path.name}.part")
    with part.open("w", encoding="utf-8") as file:
        for row in rows:
            file.write(json.dumps(row) + "\n")
    part.replace(path)
    return path
