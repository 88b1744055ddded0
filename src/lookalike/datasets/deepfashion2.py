"""DeepFashion2: snapshots of customers and shop pictures of the same garments.

On disk FOLDER/{train,validation}/{image,annos}/NNNNNN.{jpg,json}, one annotation file a picture; FOLDER may
also be one of these splits. Annotations of the test split are not public, so everybody tests on validation
and what is to be tuned is tuned on a part of train: of the split `train` (all of it), `tuning` is about a
tenth, cut by pair_id, and `training` the rest.

One region per item. Style numbers repeat across pair_ids and pair_ids across splits, so an identity is split,
pair_id and style together; style 0 takes part in no pair. Two keys of an item are our own, written by the
generated Street2Shop set, which says what it is in FOLDER/street2shop.json: `captions` with `short`, `medium`
and `long`, and `attributes`.
"""

from __future__ import annotations

import hashlib
import math
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from lookalike.datasets.fields import (
    ABSENT,
    corners,
    json_in,
    mapping,
    number,
    one_of,
    picture,
    records,
    sequence,
    text,
    whole,
)
from lookalike.datasets.labelled import Dataset, Labelled, Side
from lookalike.datasets.listed import Unlisted
from lookalike.errors import BadInput
from lookalike.images import shown

CATEGORIES = (  # category_id counts from 1
    "short sleeve top", "long sleeve top", "short sleeve outwear", "long sleeve outwear", "vest", "sling",
    "shorts", "trousers", "skirt", "short sleeve dress", "long sleeve dress", "vest dress", "sling dress",
)  # fmt: skip
_IDS = {name: number for number, name in enumerate(CATEGORIES, start=1)}
_SIDES = {"user": Side.QUERY, "shop": Side.GALLERY}
_FACETS = {  # field on disk -> our name for it, and words for the values 1, 2 and 3
    "scale": ("scale", ("small", "modest", "large")),
    "occlusion": ("occlusion", ("slight or none", "medium", "heavy")),
    "zoom_in": ("zoom", ("none", "medium", "large")),
    "viewpoint": ("viewpoint", ("not worn", "frontal", "side or back")),
}
_LENGTHS = ("short", "medium", "long")
_ITEM = re.compile(r"item([0-9]+)")
_SPLITS = ("train", "validation")
_RECORD = "street2shop.json"  # with .part while the set is being drawn


def deepfashion2(folder: Path) -> Dataset:
    """The data set in this folder: a tree with splits, or one split; BadInput where there are no annotations.

    A region's id is "NNNNNN/itemK"; regions come by file number, then item number. A picture or an item that
    cannot be used comes as an Unlisted.
    """
    trees = {name: folder / name for name in _SPLITS if (folder / name / "annos").is_dir()}
    top = folder
    if (folder / "annos").is_dir():
        trees, top = {folder.name: folder}, folder.parent
    if not trees:
        _refuse_test(folder)
    return Dataset("deepfashion2", folder, _splits(trees), partial(_read, trees), _synthetic(folder, top))


def evaluation_json(dataset: Dataset, split: str) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The ground truth of a split in the official evaluation's form: (query_gt, gallery_gt).

    Items of style 0 are in both, as they are in the official files. BadInput, the first one, where an item
    cannot be used: a ground truth with gaps would change what is measured.
    """
    queries: list[dict[str, Any]] = []
    gallery: list[dict[str, Any]] = []
    for region in dataset.read(split):
        if isinstance(region, Unlisted):
            raise BadInput(region.error)
        side = "query" if region.side is Side.QUERY else "gallery"
        style = 0 if region.identity is None else int(region.identity.rpartition("/")[2])
        entry: dict[str, Any] = {f"{side}_image_id": int(region.id.partition("/")[0]), "style": style}
        if side == "query":
            entry["cls"] = _IDS[region.category]
        entry["pair_id"] = int(region.group.rpartition("/")[2])
        entry["bbox"] = [] if region.box is None else list(region.box.corners)
        (queries if side == "query" else gallery).append(entry)
    return queries, gallery


def read_json(path: Path) -> list[dict[str, Any]]:
    """The entries of an official query_gt, gallery_gt or results file, checked; which it is, its keys tell.

    BadInput names the file, the entry (from 1) and the field. Results may hold any number of gallery boxes a
    query, as many as gallery image ids.
    """
    check = None
    entries = []
    for place, entry in records(path):
        try:
            check = check or _check_of(mapping(entry, "the entry"))
            check(mapping(entry, "the entry"))
        except BadInput as error:
            raise BadInput(f"{place}: {error}") from error
        entries.append(entry)
    return entries


def _check_of(entry: Mapping[str, Any]) -> Callable[[Mapping[str, Any]], None]:
    if "query_bbox" in entry:
        return _check_result
    return _check_gallery if "gallery_image_id" in entry else _check_query


def _check_query(entry: Mapping[str, Any]) -> None:
    _check_truth(entry, "query_image_id")
    _check_class(entry, "cls")


def _check_gallery(entry: Mapping[str, Any]) -> None:
    _check_truth(entry, "gallery_image_id")


def _check_truth(entry: Mapping[str, Any], image: str) -> None:
    for field in (image, "style", "pair_id"):
        whole(entry, field)
    corners(entry.get("bbox", ABSENT), "bbox")


def _check_result(entry: Mapping[str, Any]) -> None:
    whole(entry, "query_image_id")
    _check_class(entry, "query_cls")
    corners(entry.get("query_bbox", ABSENT), "query_bbox", least=-math.inf)  # detectors overshoot
    number(entry.get("query_score", ABSENT), "query_score")
    images = sequence(entry.get("gallery_image_id", ABSENT), "gallery_image_id")
    boxes = sequence(entry.get("gallery_bbox", ABSENT), "gallery_bbox")
    if len(images) != len(boxes):
        raise BadInput(f"gallery_bbox: {len(boxes)} boxes for {len(images)} gallery_image_id")
    for image, box in zip(images, boxes, strict=True):
        whole({"gallery_image_id": image}, "gallery_image_id")
        corners(box, "gallery_bbox", least=-math.inf)


def _check_class(entry: Mapping[str, Any], field: str) -> None:
    if whole(entry, field, least=1) > len(CATEGORIES):
        raise BadInput(f"{field}: {entry[field]} is more than {len(CATEGORIES)}")


def _splits(trees: Iterable[str]) -> tuple[str, ...]:
    return tuple(
        split for name in trees for split in ((name, "training", "tuning") if name == "train" else (name,))
    )


def _read(trees: Mapping[str, Path], split: str) -> Iterator[Labelled | Unlisted]:
    if split in trees:
        return _regions(trees[split], split, lambda pair: True)
    if split == "tuning" and "train" in trees:
        return _regions(trees["train"], "train", _is_tuning)
    if split == "training" and "train" in trees:
        return _regions(trees["train"], "train", lambda pair: not _is_tuning(pair))
    if split == "test":
        _refuse_test(next(iter(trees.values())).parent)
    raise BadInput(f"DeepFashion2 has no split {shown(split)} here", f"splits: {', '.join(_splits(trees))}")


def _refuse_test(folder: Path) -> None:
    raise BadInput(
        f"{shown(folder)}: no annotations of DeepFashion2 here; those of its test split are not public",
        "use the split validation: FOLDER/validation/image and FOLDER/validation/annos",
    )


def _is_tuning(pair: int) -> bool:
    """About one pair_id in ten, the same ones everywhere."""
    return hashlib.sha256(str(pair).encode()).digest()[0] < 26


def _regions(tree: Path, split: str, wanted: Callable[[int], bool]) -> Iterator[Labelled | Unlisted]:
    for stem in _stems(tree / "annos"):
        file = f"{tree}/annos/{stem}.json"
        try:
            if not _is_number(stem):
                raise BadInput("annotation files are named by numbers")
            record = mapping(json_in(file), "the file")
            if not wanted(pair := whole(record, "pair_id")):
                continue
            side = _SIDES[one_of(record, "source", _SIDES)]
            source = picture(f"{tree}/image/{stem}.jpg")
        except BadInput as error:
            yield Unlisted(file, f"{shown(file)}: {error}")
            continue
        for name in _items(record):
            region: Labelled | Unlisted
            try:
                item = mapping(record[name], name)
                region = _labelled(item, f"{stem}/{name}", source, side, f"{split}/{pair}")
            except BadInput as error:
                region = Unlisted(file, f"{shown(file)}: {error}")
            yield region


def _stems(annos: Path) -> list[str]:
    """The stems of the annotation files in the order of their numbers; others last."""
    try:
        with os.scandir(annos) as entries:
            names = [entry.name for entry in entries if not entry.name.startswith(".")]
    except OSError as error:
        raise BadInput(f"{shown(annos)}: cannot be read: {error.strerror}") from error
    stems = [name.removesuffix(".json") for name in names if name.endswith(".json")]
    return sorted(stems, key=lambda stem: (not _is_number(stem), int(stem) if _is_number(stem) else 0, stem))


def _is_number(stem: str) -> bool:
    return stem.isascii() and stem.isdigit()


def _items(record: Mapping[str, Any]) -> list[str]:
    numbers = {name: int(match[1]) for name in record if (match := _ITEM.fullmatch(name))}
    return sorted(numbers, key=lambda name: (numbers[name], name))


def _labelled(item: Mapping[str, Any], id: str, source: str, side: Side, group: str) -> Labelled:
    try:
        style = whole(item, "style")
        return Labelled(
            id=id,
            source=source,
            side=side,
            identity=f"{group}/{style}" if style else None,
            group=group,
            box=corners(item.get("bounding_box", ABSENT), "bounding_box"),
            category=_category(item),
            facets=_facets(item),
            attributes=_attributes(item),
            captions=_captions(item),
        )
    except BadInput as error:
        raise BadInput(f"{id.partition('/')[2]}.{error}") from None


def _category(item: Mapping[str, Any]) -> str:
    category = one_of(item, "category_name", _IDS)
    if (id := whole(item, "category_id", least=1)) != _IDS[category]:
        raise BadInput(f"category_id: {id}, but category_name {category} has {_IDS[category]}")
    return category


def _facets(item: Mapping[str, Any]) -> dict[str, str]:
    facets = {}
    for field, (facet, words) in _FACETS.items():
        value = whole(item, field, least=1)
        if value > len(words):
            raise BadInput(f"{field}: {value} is more than {len(words)}")
        facets[facet] = words[value - 1]
    return facets


def _attributes(item: Mapping[str, Any]) -> dict[str, str]:
    attributes = mapping(item.get("attributes", {}), "attributes")
    return {name: _inner(attributes, "attributes", name) for name in attributes}


def _captions(item: Mapping[str, Any]) -> tuple[str, ...]:
    captions = mapping(item.get("captions", {}), "captions")
    return tuple(
        _inner(captions, "captions", length) for length in _LENGTHS if captions.get(length, "") != ""
    )


def _inner(record: Mapping[str, Any], outer: str, name: str) -> str:
    try:
        return text(record, name)
    except BadInput as error:
        raise BadInput(f"{outer}.{shown(str(error))}") from None


def _synthetic(*folders: Path) -> str:
    """What the record of a generated set says about how it was made; "" where there is none."""
    files = [folder / name for folder in folders for name in (_RECORD, f"{_RECORD}.part")]
    file = next((each for each in files if each.is_file()), None)
    if file is None:
        return ""
    if file.name != _RECORD:
        return "generated street2shop, unfinished"
    try:
        facts = mapping(json_in(file), "the file")
    except BadInput as error:
        return f"generated street2shop, {file.name}: {error}"
    simple = {name: value for name, value in facts.items() if isinstance(value, str | int | float)}
    told = [f"{name} {value}" for name, value in simple.items() if name != "generator"]
    return f"generated {simple.get('generator', 'street2shop')}: {', '.join(told)}"
