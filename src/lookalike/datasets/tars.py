"""A labelled data set in tar shards in the WebDataset format: KEY.jpg beside KEY.json in FOLDER/*.tar.

A sample is a picture with what is true of it, and KEY.json holds
    regions     a list of objects, one for each region; all that follows is of a region and may be missing
    id          unique within a split; default: KEY/NUMBER
    splits      the splits that it is in; default: ["all"]
    identity    which regions show the same product; null: it is in no pair
    side        query, gallery or both (default)
    group       what must stay together when data are split; default: the identity
    box         [x0, y0, x1, y1] in pixels; null: the whole picture
    category, words, captions (a list, shortest first), facets, attributes, truth
and beside `regions` the name of the `dataset` and what it says of itself if it is `synthetic`.

Batches draw identities at random, so samples are not read as a stream: `index.jsonl` says where each lies,
and a picture is read from its place in its tar. Where there is no index the tars are gone through instead.
Tars come from strangers: names are keys and nothing else, a link or a device ends the reading of its tar,
sizes are limited, and nothing is ever unpacked.
"""

from __future__ import annotations

import json
import math
import re
import tarfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

from lookalike.datasets.fields import ABSENT, corners, mapping, one_of, sequence, text, texts, whole
from lookalike.datasets.labelled import Dataset, Labelled, Side
from lookalike.datasets.listed import Unlisted
from lookalike.errors import BadInput
from lookalike.images import member, shown

INDEX = "index.jsonl"
VERSION = 1  # of the index
_ALL = "all"  # the split of what names none
_NAME = re.compile(r"([\w-]{1,80})\.(json|jpg|jpeg|png|webp|heic)", re.ASCII)
_RECORD_BYTES = 4_000_000
_SKIPPED = (tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.DIRTYPE)  # times and the like; folders
_AGAIN = "copy the shard again, or make it again with lookalike make shards"


@dataclass(frozen=True, slots=True)
class Sample:
    """Where a picture lies in a shard, and the record beside it."""

    shard: str  # the tar's name
    key: str
    picture: str  # the member's name
    start: int
    size: int
    record: Any


def is_tars(folder: Path) -> bool:
    return next(folder.glob("*.tar"), None) is not None


def tars(folder: Path) -> Dataset:
    """The data set in the tars of a folder, by its index where it has one.

    What cannot be used comes as an Unlisted: a sample, or what remains of a tar that is broken. BadInput
    where the index does not fit the tars.
    """
    if (folder / INDEX).exists():
        head = _head(folder)
        name, synthetic, splits = head["dataset"], head["synthetic"], tuple(head["splits"])
    else:
        name, synthetic, splits = _described(folder)
    return Dataset(name, folder, splits, partial(_read, folder, splits), synthetic)


def write_index(folder: Path, head: Mapping[str, Any]) -> int:
    """Write the index of a folder's tars and say how many samples there are; BadInput where one is broken.

    `head` is what it says of the whole: dataset, synthetic, splits.
    """
    names = sorted(path.name for path in folder.glob("*.tar"))
    shards = {name: (folder / name).stat().st_size for name in names}
    part, count = folder / f"{INDEX}.part", 0
    with part.open("w", encoding="utf-8") as lines:
        lines.write(json.dumps({"version": VERSION, **head, "shards": shards}) + "\n")
        for sample in _scanned(folder):
            if isinstance(sample, Unlisted):
                raise BadInput(sample.error, _AGAIN)
            place = [sample.shard, sample.key, sample.picture, sample.start, sample.size]
            lines.write(json.dumps([*place, sample.record]) + "\n")
            count += 1
    part.replace(folder / INDEX)
    return count


def _read(folder: Path, splits: tuple[str, ...], split: str) -> Iterator[Labelled | Unlisted]:
    if split not in splits:
        raise BadInput(f"no split {shown(split)} here", f"splits: {', '.join(map(shown, splits))}")
    return _in_split(folder, split)


def _in_split(folder: Path, split: str) -> Iterator[Labelled | Unlisted]:
    for sample in _samples(folder):
        if isinstance(sample, Unlisted):
            yield sample
            continue
        for region in _regions(folder, sample):
            if isinstance(region, Unlisted):
                yield region
            elif split in region[0]:
                yield region[1]


def _samples(folder: Path) -> Iterator[Sample | Unlisted]:
    return _indexed(folder) if (folder / INDEX).exists() else _scanned(folder)


def _described(folder: Path) -> tuple[str, str, tuple[str, ...]]:
    """Name, whether it is synthetic, and splits, by going through all tars."""
    name, synthetic, splits = "tars", "", dict[str, None]()
    for sample in _scanned(folder):
        if isinstance(sample, Sample) and isinstance(sample.record, dict):
            name, synthetic = (
                str(sample.record.get(each, told))
                for each, told in (("dataset", name), ("synthetic", synthetic))
            )
            for region in _regions(folder, sample):
                splits |= {} if isinstance(region, Unlisted) else dict.fromkeys(region[0])
    return name, synthetic, tuple(splits) or (_ALL,)


def _head(folder: Path) -> Mapping[str, Any]:
    """What an index says of the whole; BadInput where it is none, or the tars are not as it found them."""
    file, hint = folder / INDEX, "delete it: the tars are then gone through instead"
    try:
        with file.open(encoding="utf-8") as lines:
            head = mapping(json.loads(lines.readline(_RECORD_BYTES)), "its first line")
        if whole(head, "version") != VERSION:
            raise BadInput("written by another version of lookalike")
        texts(head, "splits")
        for field in ("dataset", "synthetic"):
            if not isinstance(head.get(field), str):
                raise BadInput(f"{field}: missing")
        shards = mapping(head.get("shards", ABSENT), "shards")
    except (OSError, ValueError, BadInput) as error:
        raise BadInput(f"{shown(file)}: {shown(str(error))}", hint) from error
    for name in sorted({*shards, *(path.name for path in folder.glob("*.tar"))}):
        there, told = _size(folder / Path(name).name), shards.get(name)
        if there != told:
            raise BadInput(
                f"{shown(folder / name)}: {there} bytes, and {told} when its index was made",
                f"copy it again, or {hint}",
            )
    return head


def _size(path: Path) -> int | None:
    return path.stat().st_size if path.is_file() else None


def _indexed(folder: Path) -> Iterator[Sample | Unlisted]:
    shards = _head(folder)["shards"]
    with (folder / INDEX).open(encoding="utf-8") as lines:
        next(lines)
        for number, line in enumerate(lines, start=2):
            try:
                shard, key, picture, start, size, record = json.loads(line)
                name = _NAME.fullmatch(picture)
                whole({"start": start}, "start", least=tarfile.BLOCKSIZE)
                whole({"size": size}, "size")
                if shard not in shards or not name or name[1] != key:
                    raise ValueError("no member of its tars")
            except (ValueError, TypeError, BadInput) as error:
                told = f"{shown(folder / INDEX)}, line {number}: {shown(str(error))}"
                yield Unlisted(str(folder / INDEX), told)
                continue
            yield Sample(shard, key, picture, start, size, record)


def _scanned(folder: Path) -> Iterator[Sample | Unlisted]:
    for path in sorted(folder.glob("*.tar")):
        yield from _of_shard(path)


def _of_shard(path: Path) -> Iterator[Sample | Unlisted]:
    """The samples of a tar in its order: neighbours of one key."""
    key, picture, record = "", None, ABSENT

    def sample(whole: bool = True) -> Iterator[Sample | Unlisted]:
        if isinstance(record, BadInput):
            yield Unlisted(str(path), f"{shown(path)}: {record}")
        elif picture and record is not ABSENT:
            yield Sample(path.name, key, *picture, record)
        elif key and whole:
            missing = f"{key}.json" if picture else "picture"
            yield Unlisted(str(path), f"{shown(path)}: sample {key} has no {missing}")

    try:
        with path.open("rb") as file:
            for name, start, size in _members(file):
                found = _NAME.fullmatch(name)
                if not found:
                    yield Unlisted(
                        str(path), f"{shown(path)}: {shown(name)[:80]} is not named KEY.jpg or KEY.json"
                    )
                    continue
                if found[1] != key:
                    yield from sample()
                    key, picture, record = found[1], None, ABSENT
                if found[2] == "json":
                    record = _json(file, name, size)
                else:
                    picture = name, start, size
        yield from sample()
    except (OSError, BadInput) as error:
        yield from sample(whole=False)
        yield Unlisted(str(path), f"{shown(path)}: {error}; nothing behind it is read")


def _members(file: BinaryIO) -> Iterator[tuple[str, int, int]]:
    """Name, beginning and bytes of the plain files in a tar; the file may be read in between.

    BadInput where it is no tar or cut off, or a member is a link or the like.
    """
    end, at = file.seek(0, 2), 0
    while True:
        file.seek(at)
        header = file.read(tarfile.BLOCKSIZE)
        if len(header) < tarfile.BLOCKSIZE:
            raise BadInput("cut off")
        if not any(header):  # the end mark
            return
        try:
            info = tarfile.TarInfo.frombuf(header, "utf-8", "surrogateescape")
        except tarfile.HeaderError:
            raise BadInput("not a tar that is whole") from None
        start = at + tarfile.BLOCKSIZE
        at = start + -(-info.size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
        if info.size < 0 or at > end:
            raise BadInput(f"cut off within {shown(info.name)[:80]}")
        if info.isreg():
            yield info.name, start, info.size
        elif info.type not in _SKIPPED:
            raise BadInput(f"{shown(info.name)[:80]} is a link or another thing that is not read")


def _json(file: BinaryIO, name: str, size: int) -> Any:
    """The record where the file stands, or what is wrong with it."""
    if size > _RECORD_BYTES:
        return BadInput(f"{name}: {size / 1e6:.1f} MB, more than the {_RECORD_BYTES / 1e6:g} MB allowed")
    try:
        return json.loads(file.read(size))
    except (ValueError, RecursionError) as error:
        return BadInput(f"{name}: not JSON: {shown(str(error))}")


def _regions(folder: Path, sample: Sample) -> Iterator[tuple[tuple[str, ...], Labelled] | Unlisted]:
    """Each region with its splits."""
    path = folder / sample.shard
    try:
        record = mapping(sample.record, "the record")
        entries = sequence(record.get("regions", ABSENT), "regions")
    except BadInput as error:
        yield Unlisted(str(path), f"{shown(path)}, sample {sample.key}: {error}")
        return
    source = member(path, sample.picture, sample.start, sample.size)
    for number, entry in enumerate(entries, start=1):
        region: tuple[tuple[str, ...], Labelled] | Unlisted
        try:
            fields = {name: value for name, value in mapping(entry, "it").items() if value not in (None, "")}
            splits = texts(fields, "splits") if "splits" in fields else (_ALL,)
            region = splits, _labelled(fields, f"{sample.key}/{number}", source)
        except BadInput as error:
            region = Unlisted(str(path), f"{shown(path)}, sample {sample.key}, region {number}: {error}")
        yield region


def _labelled(fields: Mapping[str, Any], id: str, source: str) -> Labelled:
    """A region by its fields, of which none is empty."""

    def told(field: str, default: str = "") -> str:
        return text(fields, field) if field in fields else default

    id, identity = told("id", id), told("identity")
    truth = mapping(fields.get("truth", {}), "truth")
    return Labelled(
        id=id,
        source=source,
        side=Side(one_of(fields, "side", tuple(Side))) if "side" in fields else Side.BOTH,
        identity=identity or None,
        group=told("group", identity or id),
        box=corners(fields["box"], "box", least=-math.inf) if "box" in fields else None,
        category=told("category"),
        facets=_named(fields, "facets"),
        attributes=_named(fields, "attributes"),
        captions=texts(fields, "captions") if "captions" in fields else (),
        words=told("words"),
        truth={name: texts(truth, name) for name in truth},
    )


def _named(fields: Mapping[str, Any], field: str) -> dict[str, str]:
    values = mapping(fields.get(field, {}), field)
    return {name: text(values, name) if values[name] else "" for name in values}
