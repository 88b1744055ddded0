"""Write a labelled data set as tar shards; see `tars` for what is in them."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from lookalike import images
from lookalike.datasets.labelled import Dataset, Labelled
from lookalike.datasets.listed import Unlisted
from lookalike.datasets.tars import write_index
from lookalike.errors import BadInput, BadPicture, CatalogueBusy, StorageFull
from lookalike.values import Progress

_PLAN = "plan.json"  # what the shards are made from: another data set is not mixed in


@dataclass(frozen=True, slots=True)
class Sharded:
    """What lies in the shards, and each picture or region that could not be used, in a line."""

    shards: int
    samples: int
    left_out: tuple[str, ...]


def make_shards(
    dataset: Dataset, out: Path, samples: int = 1000, on_progress: Progress | None = None
) -> Sharded:
    """All splits of a data set as shop-NNNNNN.tar in `out`, so many samples each, and their index.

    A sample is a picture with its regions, in the order in which the splits first name it; all labels are
    held in memory meanwhile. The same data make the same bytes. A shard appears when it is whole, so a killed
    run goes on with the next. BadInput where `out` holds shards of other data, StorageFull where there is no
    room.
    """
    out.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(out / ".lock", timeout=0), _room(out):
            records, left_out = _planned(dataset)
            if not records:
                raise BadInput(f"{dataset.name}: no regions to write", "look with lookalike doctor")
            _check_plan(out, records, samples)
            sources = list(records)
            starts = range(0, len(sources), samples)
            for number, start in enumerate(starts):
                shard, some = out / f"shop-{number:06}.tar", sources[start : start + samples]
                if not shard.exists():
                    _write(shard, {source: records[source] for source in some}, start, dataset)
                if on_progress:
                    on_progress(min(start + samples, len(sources)), len(sources))
            head = {"dataset": dataset.name, "synthetic": dataset.synthetic, "splits": dataset.splits}
            count = write_index(out, head)
    except Timeout as error:
        raise CatalogueBusy(f"another process is writing shards to {out}", "wait for it") from error
    left_out += [str(error) for error in map(_trouble, sources) if error] if count < len(sources) else []
    return Sharded(len(starts), count, tuple(left_out))


def _planned(dataset: Dataset) -> tuple[dict[str, list[dict[str, Any]]], list[str]]:
    """The regions of each picture as they are written, and what cannot be."""
    records: dict[str, dict[str, dict[str, Any]]] = {}
    left_out = dict[str, None]()
    for split in dataset.splits:
        for entry in dataset.read(split):
            if isinstance(entry, Unlisted):
                left_out[entry.error] = None
                continue
            record = _record(entry)
            same = records.setdefault(entry.source, {}).setdefault(
                json.dumps(record), record | {"splits": []}
            )
            same["splits"].append(split)
    return {source: list(regions.values()) for source, regions in records.items()}, list(left_out)


def _record(region: Labelled) -> dict[str, Any]:
    """What is true of a region, without what is empty."""
    told = asdict(region) | {"box": region.box and region.box.corners}
    del told["source"]
    return {name: value for name, value in told.items() if value}


def _check_plan(out: Path, records: Mapping[str, Sequence[Mapping[str, Any]]], samples: int) -> None:
    digest = hashlib.sha256()
    for source, regions in records.items():
        digest.update(json.dumps([images.size_of(source), regions]).encode())
    plan, file = {"samples": samples, "data": digest.hexdigest()}, out / _PLAN
    if not file.exists():
        if any(out.glob("*.tar")):
            raise BadInput(f"{out} holds other tars", "name another folder")
        part = file.with_name(f"{_PLAN}.part")
        part.write_text(json.dumps(plan), encoding="utf-8")
        part.replace(file)
    elif file.read_text(encoding="utf-8") != json.dumps(plan):
        raise BadInput(f"{out} holds shards of other data, or of another size", "name another folder")


def _write(
    shard: Path, records: Mapping[str, Sequence[Mapping[str, Any]]], first: int, dataset: Dataset
) -> None:
    """Pictures that cannot be read, or are none, are left out; the numbers of the others do not change."""
    part = shard.with_name(f"{shard.name}.part")
    with part.open("wb") as file:
        with tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as tar:
            for number, (source, regions) in enumerate(records.items(), start=first):
                try:
                    data = images.read(source)
                    kind = images.kind_of(data)
                except BadPicture:
                    continue
                told = {"dataset": dataset.name, "synthetic": dataset.synthetic, "regions": regions}
                _add(tar, f"{number:08}.{kind}", data)
                _add(tar, f"{number:08}.json", json.dumps(told).encode())
        file.flush()
        os.fsync(file.fileno())
    part.replace(shard)


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    tar.addfile(info, BytesIO(data))


def _trouble(source: str) -> BadPicture | None:
    """Why a picture was left out."""
    try:
        images.kind_of(images.read(source))
    except BadPicture as error:
        return error
    return None


@contextmanager
def _room(out: Path) -> Iterator[None]:
    """Writing to `out`: a full disk is a StorageFull, anything else that fails a BadInput."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise StorageFull(
                f"cannot write to {out}: the disk is full, or a quota or file size limit is reached",
                "make room and run the same command again: finished shards are kept",
            ) from error
        raise BadInput(f"cannot write to {out}: {error.strerror or error}") from error
