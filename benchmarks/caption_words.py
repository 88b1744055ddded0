"""What captions of a gallery bring to search by words: none, `palette`'s, the annotation's.

    lookalike make street2shop --out DATASET --identities 200 --seed 22
    python benchmarks/caption_words.py DATASET [--split train] [--queries 300]

The gallery is the shop's side, encoded by `compact`; the words are the annotation's captions of customers'
pictures, in three lengths. Both sides speak one language here, which real customers and a real model do not:
the annotation's row is an upper end. Mean reciprocal rank of the right item, at most 100 looked at.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

import lookalike
from lookalike.captions import FileCaptions, Palette
from lookalike.catalogue import Catalogue
from lookalike.datasets import Labelled, Side, open_dataset
from lookalike.roles import Captioner
from lookalike.settings import Settings


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--split", default="train")
    parser.add_argument("--queries", type=int, default=300)
    arguments = parser.parse_args()
    regions = [r for r in open_dataset(arguments.dataset).read(arguments.split) if isinstance(r, Labelled)]
    gallery = [region for region in regions if region.side is Side.GALLERY and region.identity]
    held = {region.identity for region in gallery}
    asked = [r for r in regions if r.side is Side.QUERY and r.identity in held and r.captions]
    asked = asked[: arguments.queries]
    print(f"{len(held)} items, {len(gallery)} regions, {len(asked)} queries in each length\n")
    print(f"{'captions':14}{'short':>8}{'medium':>8}{'long':>8}")
    with tempfile.TemporaryDirectory() as folder:
        table = written(gallery, Path(folder) / "gallery.jsonl")
        captions = written(gallery, Path(folder) / "captions.jsonl", captioned=True)
        shop = Path(folder) / "shop"
        captioners: dict[str, Captioner | None] = {
            "none": None,
            "palette": Palette(),
            "annotation's": FileCaptions(captions),
        }
        for name, captioner in captioners.items():
            with lookalike.open(shop, Settings(encoder="compact")) as catalogue:
                catalogue.add(table, captioner=captioner, calibrate=False)
                print(f"{name:14}" + "".join(f"{reached(catalogue, asked, n):8.3f}" for n in range(3)))


def written(gallery: Sequence[Labelled], path: Path, captioned: bool = False) -> Path:
    """The gallery as a table to index, or as a file of the annotation's longest captions."""
    with path.open("w") as file:
        for region in gallery:
            assert region.box is not None
            record = {"path": region.source, "item": region.identity, "box": list(region.box.corners)}
            if captioned:
                record["caption"] = region.captions[-1] if region.captions else ""
            file.write(json.dumps(record) + "\n")
    return path


def reached(catalogue: Catalogue, asked: Sequence[Labelled], length: int) -> float:
    ranks = []
    for region in asked:
        words = region.captions[min(length, len(region.captions) - 1)]
        items = [hit.item for hit in catalogue.search(text=words, top=100)]
        ranks.append(1 / (items.index(region.identity) + 1) if region.identity in items else 0.0)
    return float(np.mean(ranks))


if __name__ == "__main__":
    main()
