"""Composed retrieval: a reference picture and words that change it. FashionIQ, CIRR, CIRCO.

Queries carry `words` and truth "target"; the gallery is all pictures of the split. Targets of the splits the
authors test on their servers are not public, so these splits are not offered.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from lookalike.datasets.fields import (
    ABSENT,
    mapping,
    object_in,
    picture,
    records,
    sequence,
    text,
    texts,
    whole,
)
from lookalike.datasets.labelled import Dataset, Labelled, Side
from lookalike.datasets.listed import Unlisted
from lookalike.errors import BadInput
from lookalike.images import shown

_FASHION = ("dress", "shirt", "toptee")
_CIRCO_PICTURES = "COCO2017_unlabeled"


def fashion_iq(folder: Path) -> Dataset:
    """FashionIQ: captions/cap.CATEGORY.SPLIT.json, image_splits/split.CATEGORY.SPLIT.json, images/NAME.png.

    An entry has `candidate`, `target` and two `captions`, joined here by " and ". A picture may be a query,
    and in the gallery, of several categories: ids are CATEGORY/NAME and CATEGORY/query/NUMBER. The gallery is
    the whole list of the split; the smaller one some papers use is what the queries name.
    """
    return Dataset("fashion-iq", folder, _splits(folder, "cap.dress"), partial(_fashion_iq, folder))


def cirr(folder: Path) -> Dataset:
    """CIRR: captions/cap.rc2.SPLIT.json, image_splits/split.rc2.SPLIT.json; pictures in img_raw or beside.

    Beside "target" a query's truth has "reference", which is taken out of the ranking, and "members", the six
    pictures of its set, for the protocol within a set. Ids are the names of the pictures and query/PAIRID.
    """
    return Dataset("cirr", folder, _splits(folder, "cap.rc2"), partial(_cirr, folder))


def circo(folder: Path) -> Dataset:
    """CIRCO: annotations/val.json, pictures COCO2017_unlabeled/unlabeled2017 as image_info_unlabeled2017.json
    in COCO2017_unlabeled/annotations lists them. The truth "target" are all of a query's right answers. Ids
    are COCO's numbers and query/ID.
    """
    return Dataset("circo", folder, ("val",), partial(_circo, folder))


def is_fashion_iq(folder: Path) -> bool:
    return bool(_splits(folder, "cap.dress"))


def is_cirr(folder: Path) -> bool:
    return bool(_splits(folder, "cap.rc2"))


def is_circo(folder: Path) -> bool:
    return (folder / "annotations" / "val.json").is_file() and (folder / _CIRCO_PICTURES).is_dir()


def _splits(folder: Path, name: str) -> tuple[str, ...]:
    return tuple(each for each in ("train", "val") if (folder / "captions" / f"{name}.{each}.json").is_file())


def _check_split(split: str, splits: tuple[str, ...]) -> None:
    if split not in splits:
        test = split.startswith("test")
        why = "the targets of its test split are not public" if test else f"no split {shown(split)} here"
        raise BadInput(why, f"splits: {', '.join(splits)}")


def _fashion_iq(folder: Path, split: str) -> Iterator[Labelled | Unlisted]:
    _check_split(split, _splits(folder, "cap.dress"))
    return _fashion_regions(folder, split)


def _fashion_regions(folder: Path, split: str) -> Iterator[Labelled | Unlisted]:
    images = folder / "images"
    for category in _FASHION:
        captions = folder / "captions" / f"cap.{category}.{split}.json"

        def query(entry: Mapping[str, Any], number: int, category: str = category) -> Labelled:
            reference, target = text(entry, "candidate"), text(entry, "target")
            picture(_fashion_picture(images, target))  # some can no longer be had
            return Labelled(
                id=f"{category}/query/{number}",
                source=picture(_fashion_picture(images, reference)),
                side=Side.QUERY,
                identity=None,
                group=f"{category}/{reference}",
                category=category,
                words=" and ".join(words.strip(" .") for words in texts(entry, "captions")),
                truth={"target": (f"{category}/{target}",)},
            )

        yield from _queries(captions, query)
        names = folder / "image_splits" / f"split.{category}.{split}.json"
        for place, name in records(names):
            region: Labelled | Unlisted
            try:
                name = text({"name": name}, "name")
                region = Labelled(
                    id=f"{category}/{name}",
                    source=picture(_fashion_picture(images, name)),
                    side=Side.GALLERY,
                    identity=None,
                    group=f"{category}/{name}",
                    category=category,
                )
            except BadInput as error:
                region = Unlisted(str(names), f"{place}: {error}")
            yield region


def _fashion_picture(images: Path, name: str) -> Path:
    """Releases differ in the suffix."""
    paths = [images / f"{name}{suffix}" for suffix in (".png", ".jpg", ".jpeg")]
    return next((path for path in paths if path.is_file()), paths[0])


def _cirr(folder: Path, split: str) -> Iterator[Labelled | Unlisted]:
    _check_split(split, _splits(folder, "cap.rc2"))
    return _cirr_regions(folder, split)


def _cirr_regions(folder: Path, split: str) -> Iterator[Labelled | Unlisted]:
    root = folder / "img_raw" if (folder / "img_raw").is_dir() else folder
    names = folder / "image_splits" / f"split.rc2.{split}.json"
    paths = object_in(names)

    def query(entry: Mapping[str, Any], number: int) -> Labelled:
        reference = text(entry, "reference")
        members = mapping(entry.get("img_set", ABSENT), "img_set")
        return Labelled(
            id=f"query/{whole(entry, 'pairid')}",
            source=picture(root / text(paths, reference)),
            side=Side.QUERY,
            identity=None,
            group=f"{split}/{whole(members, 'id')}",
            words=text(entry, "caption"),
            truth={
                "target": (text(entry, "target_hard"),),
                "reference": (reference,),
                "members": texts(members, "members"),
            },
        )

    yield from _queries(folder / "captions" / f"cap.rc2.{split}.json", query)
    for name in paths:
        region: Labelled | Unlisted
        try:
            source = picture(root / text(paths, name))
            region = Labelled(id=name, source=source, side=Side.GALLERY, identity=None, group=name)
        except BadInput as error:
            region = Unlisted(str(names), f"{shown(names)}: {error}")
        yield region


def _circo(folder: Path, split: str) -> Iterator[Labelled | Unlisted]:
    _check_split(split, ("val",))
    return _circo_regions(folder)


def _circo_regions(folder: Path) -> Iterator[Labelled | Unlisted]:
    pictures = folder / _CIRCO_PICTURES / "unlabeled2017"
    info = folder / _CIRCO_PICTURES / "annotations" / "image_info_unlabeled2017.json"

    def query(entry: Mapping[str, Any], number: int) -> Labelled:
        reference = whole(entry, "reference_img_id")
        answers = sequence(entry.get("gt_img_ids", ABSENT), "gt_img_ids")
        return Labelled(
            id=f"query/{whole(entry, 'id')}",
            source=picture(pictures / f"{reference:012}.jpg"),
            side=Side.QUERY,
            identity=None,
            group=str(reference),
            words=text(entry, "relative_caption"),
            truth={"target": tuple(str(whole({"gt_img_ids": each}, "gt_img_ids")) for each in answers)},
        )

    yield from _queries(folder / "annotations" / "val.json", query)
    for place, entry in records(info, "images"):
        region: Labelled | Unlisted
        try:
            record = mapping(entry, "the entry")
            id = str(whole(record, "id"))
            source = picture(pictures / text(record, "file_name"))
            region = Labelled(id=id, source=source, side=Side.GALLERY, identity=None, group=id)
        except BadInput as error:
            region = Unlisted(str(info), f"{place}: {error}")
        yield region


def _queries(
    path: Path, query: Callable[[Mapping[str, Any], int], Labelled]
) -> Iterator[Labelled | Unlisted]:
    for number, (place, entry) in enumerate(records(path), start=1):
        region: Labelled | Unlisted
        try:
            region = query(mapping(entry, "the entry"), number)
        except BadInput as error:
            region = Unlisted(str(path), f"{place}: {error}")
        yield region
