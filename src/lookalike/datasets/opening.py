"""Which labelled data set a folder or a table is, and the reader for it.

Besides the published data sets there are two kinds for one's own pictures. A folder: FOLDER/IDENTITY/*.jpg,
each picture searched among the others, or FOLDER/{query,gallery}/IDENTITY/*.jpg. And a table (.csv, .jsonl,
.ndjson, .parquet) as `listing` reads them, one region a row, with the columns
    path        of the picture, relative to the table's folder; required
    identity    which regions show the same product; empty: it is in no pair
    side        query, gallery or both (default): searched among the others
    group       what must stay together when data are split; default: the identity
    box         "x0,y0,x1,y1", or four columns x0, y0, x1, y1
    category    what kind of thing it is
    caption     a true one
    split       default: all
    any other   an attribute
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path

from lookalike.datasets.composed import circo, cirr, fashion_iq, is_circo, is_cirr, is_fashion_iq
from lookalike.datasets.deepfashion2 import deepfashion2
from lookalike.datasets.fields import one_of, picture
from lookalike.datasets.labelled import Dataset, Labelled, Side
from lookalike.datasets.listed import Listed, Unlisted
from lookalike.datasets.listing import listing, origin_of
from lookalike.datasets.lists import (
    consumer_to_shop,
    in_shop,
    is_landmarks,
    is_of_pairs,
    is_online_products,
    is_street_to_shop,
    landmarks,
    online_products,
    street_to_shop,
)
from lookalike.datasets.revisited import ground_truth, revisited
from lookalike.datasets.tars import is_tars, tars
from lookalike.errors import BadInput
from lookalike.images import shown

_ALL = "all"  # the split of what has no splits
_COLUMNS = ("identity", "side", "group", "category", "caption", "split")


def open_dataset(source: Path | str) -> Dataset:
    """The labelled data set in a folder or a table; BadInput says what was looked for where it is none."""
    path = Path(origin_of(source))
    if not path.is_dir():
        return _table(path)
    for _, fits, reader in _KINDS:
        if fits(path):
            return reader(path)
    looked_for = "; ".join(sign for sign, _, _ in _KINDS)
    raise BadInput(f"{shown(path)}: no labelled data set here", f"looked for {looked_for}")


def _is_deepfashion2(folder: Path) -> bool:
    annotations = ("annos", "train/annos", "validation/annos", "test/image")
    return any((folder / each).is_dir() for each in annotations)


def _is_partition(folder: Path) -> bool:
    return any(
        (folder / each).is_file() for each in ("list_eval_partition.txt", "Eval/list_eval_partition.txt")
    )


def _has_sides(folder: Path) -> bool:
    return (folder / "query").is_dir() and (folder / "gallery").is_dir()


def _has_identities(folder: Path) -> bool:
    return any(isinstance(each, Listed) and Path(each.source).parent != folder for each in listing(folder))


def _sides(folder: Path) -> Dataset:
    sides = {Side.QUERY: folder / "query", Side.GALLERY: folder / "gallery"}
    return Dataset("folder", folder, (_ALL,), partial(_pictures, folder, sides))


def _identities(folder: Path) -> Dataset:
    return Dataset("folder", folder, (_ALL,), partial(_pictures, folder, {Side.BOTH: folder}))


def _pictures(root: Path, sides: dict[Side, Path], split: str) -> Iterator[Labelled | Unlisted]:
    _check_split(split, (_ALL,))
    return (_picture(listed, root, side) for side, folder in sides.items() for listed in listing(folder))


def _picture(listed: Listed | Unlisted, root: Path, side: Side) -> Labelled | Unlisted:
    if isinstance(listed, Unlisted):
        return listed
    inner = os.path.relpath(listed.source, root)
    id = os.fsencode(inner).decode("utf-8", "backslashreplace")
    return Labelled(id=id, source=listed.source, side=side, identity=listed.item.id, group=listed.item.id)


def _table(path: Path) -> Dataset:
    splits: dict[str, None] = {}
    identities = False
    for listed in listing(path, _COLUMNS):  # one pass over the rows: no picture is touched
        if isinstance(listed, Listed):
            cells = _cells(listed)
            splits[cells["split"] or _ALL] = None
            identities = identities or bool(cells["identity"])
    if not identities:
        raise BadInput(
            f"{shown(path)}: no row has an identity", "add a column identity: equal for equal products"
        )
    return Dataset("table", path.parent, tuple(splits), partial(_rows, path, tuple(splits)))


def _rows(path: Path, splits: tuple[str, ...], split: str) -> Iterator[Labelled | Unlisted]:
    _check_split(split, splits)
    return _regions(path, split)


def _regions(path: Path, split: str) -> Iterator[Labelled | Unlisted]:
    for listed in listing(path, _COLUMNS):
        if isinstance(listed, Unlisted):
            yield listed
            continue
        cells = _cells(listed)
        if (cells["split"] or _ALL) != split:
            continue
        region: Labelled | Unlisted
        try:
            region = _region(listed, cells)
        except BadInput as error:
            region = Unlisted(str(path), f"{shown(path)}, row {listed.row}: {error}")
        yield region


def _region(listed: Listed, cells: Mapping[str, str]) -> Labelled:
    id = f"row {listed.row}"
    side = one_of(cells, "side", tuple(Side)) if cells["side"] else Side.BOTH
    others = {name: value for name, value in listed.item.attributes.items() if name.lower() not in _COLUMNS}
    return Labelled(
        id=id,
        source=picture(listed.source),
        side=Side(side),
        identity=cells["identity"] or None,
        group=cells["group"] or cells["identity"] or id,
        box=listed.box,
        category=cells["category"],
        attributes={name: _written(value) for name, value in others.items()},
        captions=(cells["caption"],) if cells["caption"] else (),
    )


def _cells(listed: Listed) -> dict[str, str]:
    """The cells of our own columns as text; "" for an empty one."""
    found = {name.lower(): _written(value) for name, value in listed.item.attributes.items()}
    return {name: found.get(name, "") for name in _COLUMNS}


def _written(value: object) -> str:
    """A cell as text: 12.0 is 12, for a column of whole numbers with gaps reads as floats."""
    if isinstance(value, tuple):
        return ", ".join(map(_written, value))
    if isinstance(value, bool):
        return str(value).lower()
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def _check_split(split: str, splits: tuple[str, ...]) -> None:
    if split not in splits:
        raise BadInput(f"no split {shown(split)} here", f"splits: {', '.join(map(shown, splits))}")


# What is looked for, whether it is there, and the reader; the first that fits is taken.
_KINDS: tuple[tuple[str, Callable[[Path], bool], Callable[[Path], Dataset]], ...] = (
    ("train/annos or validation/annos (DeepFashion2)", _is_deepfashion2, deepfashion2),
    ("list_eval_partition.txt of pairs (Consumer-to-shop)", is_of_pairs, consumer_to_shop),
    ("list_eval_partition.txt (In-shop)", _is_partition, in_shop),
    ("meta/json/retrieval_CATEGORY.json (Street2Shop)", is_street_to_shop, street_to_shop),
    ("Ebay_train.txt (Stanford Online Products)", is_online_products, online_products),
    ("retrieval_solution*.csv (GLDv2)", is_landmarks, landmarks),
    ("gnd_roxford5k.pkl or gnd_rparis6k.pkl", lambda each: ground_truth(each) is not None, revisited),
    ("captions/cap.dress.SPLIT.json (FashionIQ)", is_fashion_iq, fashion_iq),
    ("captions/cap.rc2.SPLIT.json (CIRR)", is_cirr, cirr),
    ("annotations/val.json with COCO2017_unlabeled (CIRCO)", is_circo, circo),
    ("*.tar with KEY.jpg and KEY.json in them (WebDataset)", is_tars, tars),
    ("the folders query and gallery", _has_sides, _sides),
    ("a folder per identity with pictures in it", _has_identities, _identities),
)  # fmt: skip
