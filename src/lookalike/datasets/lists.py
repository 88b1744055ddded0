"""Data sets that come as lists: In-shop, Consumer-to-shop, Street2Shop, Stanford Online Products, GLDv2.

Each reader finds its lists in the folder itself or in the subfolder where the release has them; lines that
cannot be used come as Unlisted. Except for GLDv2 the identities are the data set's own item or class numbers,
which no two splits share.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain, islice
from pathlib import Path

from lookalike.datasets.fields import ABSENT, corners, mapping, one_of, picture, records, text, whole
from lookalike.datasets.labelled import Dataset, Labelled, Side
from lookalike.datasets.listed import Unlisted
from lookalike.datasets.listing import listing
from lookalike.errors import BadInput
from lookalike.images import shown
from lookalike.values import Box

_PARTITION = "list_eval_partition.txt"
_POSES = ("front", "side", "back", "zoom-out", "zoom-in", "stand-alone")


def in_shop(folder: Path) -> Dataset:
    """DeepFashion's In-shop Clothes Retrieval: [Eval/]list_eval_partition.txt, [Anno/]list_bbox_inshop.txt.

    Lines are image_name, item_id, evaluation_status. The split `test` is all lines `query` and `gallery`;
    in `train` every picture is searched among the others. Boxes, where their list is there (image_name,
    clothes_type, pose_type, x_1, y_1, x_2, y_2), are then needed for every picture; the pose is a facet.
    """
    garments = _garments_in(folder, "list_bbox_inshop.txt", pairs=False)
    return Dataset("in-shop", folder, ("train", "test"), partial(_in_shop, garments))


def consumer_to_shop(folder: Path) -> Dataset:
    """DeepFashion's Consumer-to-shop: [Eval/]list_eval_partition.txt, [Anno/]list_bbox_consumer2shop.txt.

    Lines are image_pair_name_1 (a consumer's), image_pair_name_2 (the shop's), item_id, evaluation_status,
    one per pair: a picture that is in many pairs comes once. The gallery of a split is its own shop pictures.
    """
    garments = _garments_in(folder, "list_bbox_consumer2shop.txt", pairs=True)
    return Dataset("consumer-to-shop", folder, garments.statuses, partial(_consumer_to_shop, garments))


def is_of_pairs(folder: Path) -> bool:
    """Whether a folder's list_eval_partition.txt is that of Consumer-to-shop, by its second line."""
    path = _optional(folder, "Eval", _PARTITION)
    if path is None:
        return False
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return any("image_pair_name_1" in line for line in islice(file, 2))
    except OSError as error:
        raise BadInput(f"{shown(path)}: cannot be read: {error.strerror}") from error


def street_to_shop(folder: Path) -> Dataset:
    """Street2Shop (Hadi Kiapour et al., ICCV 2015): photos and [meta/][json/]*.json.

    retrieval_CATEGORY.json lists {"photo", "product"} of shop pictures, {train,test}_pairs_CATEGORY.json
    {"photo", "product", "bbox": {"left", "top", "width", "height"}} of street pictures. A garment (photo and
    box) in several pairs is one query; its truth "right" are the shop pictures of all its products that
    are there, its identity the product where there is one. Ids are CATEGORY/PHOTO.

    Assumed: pictures are images/NUMBER.EXTENSION, NUMBER being that of photos.txt with or without leading
    zeros (the release has addresses only, and scripts differ); the gallery of `test` is all shop pictures
    of its category, that of `train` the ones of its own products.
    """
    lists = _street_lists(folder)
    if lists is None:
        raise BadInput(f"{shown(folder)}: no retrieval_CATEGORY.json", "unpack Street2Shop's meta.zip there")
    return Dataset("street2shop", folder, ("train", "test"), partial(_street_to_shop, folder, lists))


def is_street_to_shop(folder: Path) -> bool:
    return _street_lists(folder) is not None


def online_products(folder: Path) -> Dataset:
    """Stanford Online Products: Ebay_{train,test}.txt of image_id, class_id, super_class_id, path.

    Every picture is searched among the others of its split.
    """
    return Dataset("online-products", folder, ("train", "test"), partial(_online_products, folder))


def is_online_products(folder: Path) -> bool:
    return any((folder / f"Ebay_{split}.txt").is_file() for split in ("train", "test"))


def landmarks(folder: Path) -> Dataset:
    """Google Landmarks v2, retrieval: [test/|meta/]retrieval_solution*.csv of id, images, Usage.

    Splits are the solution's public and private queries; the ignored are left out. A query's truth "right"
    is its list of index pictures. Pictures are test/a/b/c/abc….jpg and index/a/b/c/abc….jpg, or lie flat in
    these folders; the gallery is whatever lies in index.
    """
    solution = _solution(folder)
    if solution is None:
        raise BadInput(f"{shown(folder)}: no retrieval_solution*.csv")
    return Dataset("gldv2", folder, ("public", "private"), partial(_landmarks, folder, solution))


def is_landmarks(folder: Path) -> bool:
    return _solution(folder) is not None


def _optional(folder: Path, inner: str, name: str) -> Path | None:
    return next((path for path in (folder / name, folder / inner / name) if path.is_file()), None)


def _check_split(split: str, splits: Collection[str]) -> None:
    if split not in splits:
        raise BadInput(f"no split {shown(split)} here", f"splits: {', '.join(splits)}")


def _lines(path: Path, columns: Sequence[str], header: int) -> Iterator[tuple[str, list[str] | BadInput]]:
    """(where it is, its cells) of every line after the header that is not blank."""
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            for number, line in enumerate(islice(file, header, None), start=header + 1):
                cells = line.split()
                if not cells:
                    continue
                fits = len(cells) == len(columns)
                wrong = f"{len(cells)} columns, not {len(columns)}: {', '.join(columns)}"
                yield f"{shown(path)}, line {number}", cells if fits else BadInput(wrong)
    except OSError as error:
        raise BadInput(f"{shown(path)}: cannot be read: {error.strerror}") from error


@dataclass(frozen=True, slots=True)
class _Garments:
    """One of DeepFashion's two lists of garments."""

    root: Path  # where the names of pictures begin
    partition: Path
    boxes: Path | None
    columns: tuple[str, ...]  # one or two names of pictures, then item_id and evaluation_status
    statuses: tuple[str, ...]
    poses: tuple[str, ...] = ()  # what 1, 2, … in the third column of the list of boxes mean


def _garments_in(folder: Path, boxes: str, pairs: bool) -> _Garments:
    partition = _optional(folder, "Eval", _PARTITION)
    if partition is None:
        raise BadInput(f"{shown(folder)}: no {_PARTITION}, nor Eval/{_PARTITION}")
    root = folder / "Img" if (folder / "Img" / "img").is_dir() else folder
    names = ("image_pair_name_1", "image_pair_name_2") if pairs else ("image_name",)
    return _Garments(
        root=root,
        partition=partition,
        boxes=_optional(folder, "Anno", boxes),
        columns=(*names, "item_id", "evaluation_status"),
        statuses=("train", "val", "test") if pairs else ("train", "query", "gallery"),
        poses=() if pairs else _POSES,
    )


def _in_shop(garments: _Garments, split: str) -> Iterator[Labelled | Unlisted]:
    _check_split(split, ("train", "test"))
    sides = {"train": Side.BOTH} if split == "train" else {"query": Side.QUERY, "gallery": Side.GALLERY}
    return _read_garments(garments, sides)


def _consumer_to_shop(garments: _Garments, split: str) -> Iterator[Labelled | Unlisted]:
    _check_split(split, garments.statuses)
    return _read_garments(garments, {split: Side.QUERY})


def _read_garments(garments: _Garments, sides: Mapping[str, Side]) -> Iterator[Labelled | Unlisted]:
    """The pictures of the lines whose status is in `sides`, each once; the second of a pair is the shop's."""
    shapes = None if garments.boxes is None else _shapes(garments.boxes)
    items: dict[str, str] = {}
    for place, cells in _lines(garments.partition, garments.columns, header=2):
        if isinstance(cells, BadInput):
            yield Unlisted(str(garments.partition), f"{place}: {cells}")
            continue
        *names, item, status = cells
        if status not in garments.statuses:
            wrong = f"evaluation_status: {shown(status)}, none of {', '.join(garments.statuses)}"
            yield Unlisted(str(garments.partition), f"{place}: {wrong}")
            continue
        if status not in sides:
            continue
        for name, side in zip(names, (sides[status], Side.GALLERY), strict=False):
            known = items.get(name)
            if known == item:
                continue  # in another pair of its item
            region: Labelled | Unlisted
            try:
                if known is not None:
                    raise BadInput(f"item_id: {shown(item)}, but {shown(name)} is of {shown(known)} above")
                items[name] = item
                region = _garment(garments, name, item, side, shapes)
            except BadInput as error:
                region = Unlisted(str(garments.root / name), f"{place}: {error}")
            yield region


def _shapes(path: Path) -> dict[str, str]:
    """What a list of boxes says of each picture, as written: parsed it would take four times the memory."""
    shapes = {}
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            for line in islice(file, 2, None):
                name, _, shape = line.strip().partition(" ")
                shapes[name] = shape
    except OSError as error:
        raise BadInput(f"{shown(path)}: cannot be read: {error.strerror}") from error
    return shapes


def _garment(
    garments: _Garments, name: str, item: str, side: Side, shapes: Mapping[str, str] | None
) -> Labelled:
    box, facets = None, {}
    if shapes is not None:
        try:
            _, kind, *numbers = map(int, shapes[name].split())
        except (KeyError, ValueError):
            raise BadInput(f"box: none in {shown(garments.boxes or '')}, or not in whole numbers") from None
        box = corners(numbers, "box")
        if garments.poses:
            if not 1 <= kind <= len(garments.poses):
                raise BadInput(f"pose_type: {kind} is not from 1 to {len(garments.poses)}")
            facets["pose"] = garments.poses[kind - 1]
    folders = name.split("/")[:-1]  # img, a section, a category, the item
    return Labelled(
        id=name,
        source=picture(garments.root / name),
        side=side,
        identity=item,
        group=item,
        box=box,
        category=folders[2] if len(folders) > 2 else "",
        facets=facets,
    )


def _street_lists(folder: Path) -> Path | None:
    places = (folder, folder / "meta", folder / "meta" / "json", folder / "json")
    return next((place for place in places if any(place.glob("retrieval_*.json"))), None)


def _street_to_shop(folder: Path, lists: Path, split: str) -> Iterator[Labelled | Unlisted]:
    _check_split(split, ("train", "test"))
    return _street_regions(folder / "images", lists, split)


def _street_regions(images: Path, lists: Path, split: str) -> Iterator[Labelled | Unlisted]:
    files = _numbered(images)
    for retrieval in sorted(lists.glob("retrieval_*.json")):
        category = retrieval.stem.removeprefix("retrieval_")
        pairs = lists / f"{split}_pairs_{category}.json"
        products, unusable = _shop_pictures(retrieval)  # by photo
        yield from unusable
        garments, unusable = _street_garments(pairs)
        yield from unusable
        shown_on: dict[int, list[str]] = {}
        for photo, product in products.items():
            if photo in files:  # many addresses are dead: what was not fetched is no answer
                shown_on.setdefault(product, []).append(f"{category}/{photo}")
        boxes = Counter(photo for photo, _ in garments)
        for (photo, box), wanted in garments.items():
            id = f"{category}/street/{photo}"
            region: Labelled | Unlisted
            try:
                region = Labelled(
                    id=id if boxes[photo] == 1 else f"{id}/{box}",
                    source=picture(_photo(files, images, photo)),
                    side=Side.QUERY,
                    identity=str(wanted[0]) if len(wanted) == 1 else None,
                    group=str(min(wanted)),
                    box=box,
                    category=category,
                    truth={"right": tuple(id for product in wanted for id in shown_on.get(product, ()))},
                )
            except BadInput as error:
                region = Unlisted(str(pairs), f"{shown(pairs)}, photo {photo}: {error}")
            yield region
        paired = {product for wanted in garments.values() for product in wanted}
        for photo, product in products.items():
            if split == "train" and product not in paired:
                continue
            try:
                region = Labelled(
                    id=f"{category}/{photo}",
                    source=picture(_photo(files, images, photo)),
                    side=Side.GALLERY,
                    identity=str(product),
                    group=str(product),
                    category=category,
                )
            except BadInput as error:
                region = Unlisted(str(retrieval), f"{shown(retrieval)}, photo {photo}: {error}")
            yield region


def _numbered(images: Path) -> dict[int, str]:
    """The names of the pictures in a folder by the numbers they are."""
    try:
        with os.scandir(images) as entries:
            names = sorted(entry.name for entry in entries)
    except OSError as error:
        raise BadInput(f"{shown(images)}: cannot be read: {error.strerror}") from error
    stems = ((name.partition(".")[0], name) for name in names)
    return {int(stem): name for stem, name in stems if stem.isascii() and stem.isdigit()}


def _photo(files: Mapping[int, str], images: Path, photo: int) -> Path:
    return images / files.get(photo, f"{photo}.jpg")


def _shop_pictures(path: Path) -> tuple[dict[int, int], list[Unlisted]]:
    """The product of each photo, in the order of the list, and the entries that cannot be used."""
    products: dict[int, int] = {}
    unusable = []
    for place, entry in records(path):
        try:
            record = mapping(entry, "the entry")
            photo, product = whole(record, "photo"), whole(record, "product")
            if products.setdefault(photo, product) != product:
                raise BadInput(f"product: {product}, but photo {photo} is of {products[photo]} above")
        except BadInput as error:
            unusable.append(Unlisted(str(path), f"{place}: {error}"))
    return products, unusable


def _street_garments(path: Path) -> tuple[dict[tuple[int, Box], list[int]], list[Unlisted]]:
    """The products of each garment, that is photo and box, and the entries that cannot be used."""
    garments: dict[tuple[int, Box], list[int]] = {}
    unusable = []
    for place, entry in records(path):
        try:
            record = mapping(entry, "the entry")
            frame = mapping(record.get("bbox", ABSENT), "bbox")
            left, top, width, height = (whole(frame, side) for side in ("left", "top", "width", "height"))
            garment = whole(record, "photo"), corners([left, top, left + width, top + height], "bbox")
            products = garments.setdefault(garment, [])
            if (product := whole(record, "product")) not in products:
                products.append(product)
        except BadInput as error:
            unusable.append(Unlisted(str(path), f"{place}: {error}"))
    return garments, unusable


def _online_products(folder: Path, split: str) -> Iterator[Labelled | Unlisted]:
    _check_split(split, ("train", "test"))
    return _product_regions(folder, folder / f"Ebay_{split}.txt")


def _product_regions(folder: Path, path: Path) -> Iterator[Labelled | Unlisted]:
    for place, cells in _lines(path, ("image_id", "class_id", "super_class_id", "path"), header=1):
        region: Labelled | Unlisted
        try:
            if isinstance(cells, BadInput):
                raise cells
            image, identity, _, name = cells
            region = Labelled(
                id=image,
                source=picture(folder / name),
                side=Side.BOTH,
                identity=identity,
                group=identity,
                category=name.partition("/")[0].removesuffix("_final"),
            )
        except BadInput as error:
            region = Unlisted(str(path), f"{place}: {error}")
        yield region


def _solution(folder: Path) -> Path | None:
    places = (folder, folder / "test", folder / "meta")
    return next((path for place in places for path in sorted(place.glob("retrieval_solution*.csv"))), None)


def _landmarks(folder: Path, solution: Path, split: str) -> Iterator[Labelled | Unlisted]:
    _check_split(split, ("public", "private"))
    return chain(_landmark_queries(folder / "test", solution, split), _landmark_gallery(folder / "index"))


def _landmark_queries(test: Path, solution: Path, split: str) -> Iterator[Labelled | Unlisted]:
    with open(solution, encoding="utf-8", errors="surrogateescape") as file:
        for number, line in enumerate(islice(file, 1, None), start=2):
            # by hand: nothing is quoted, and a list of pictures may be longer than the csv module allows
            row = dict(zip(("id", "images", "Usage"), line.strip().split(","), strict=False))
            region: Labelled | Unlisted
            try:
                name, images = text(row, "id"), text(row, "images")
                usage = one_of(row, "Usage", ("Public", "Private", "Ignored"))
                if usage.lower() != split:
                    continue
                deep = test.joinpath(*name[:3], f"{name}.jpg")
                region = Labelled(
                    id=name,
                    source=picture(deep if deep.is_file() else test / f"{name}.jpg"),
                    side=Side.QUERY,
                    identity=None,
                    group=name,
                    truth={"right": tuple(images.split())},
                )
            except BadInput as error:
                region = Unlisted(str(solution), f"{shown(solution)}, row {number}: {error}")
            yield region


def _landmark_gallery(index: Path) -> Iterator[Labelled | Unlisted]:
    for listed in listing(index):
        if isinstance(listed, Unlisted):
            yield listed
        else:
            name = Path(listed.source).stem
            yield Labelled(id=name, source=listed.source, side=Side.GALLERY, identity=None, group=name)
