"""What a frozen vision network sees of a data set, computed once and kept on disk, so that an epoch costs
seconds.

Each region is kept in several views. View 0 is the region's own pixels, as encoders see them: what is pooled
from it is the encoder's descriptor. The others are augmented (`views`), seeded by the region's id and the
view's number. A view is a crop round the region and not the whole picture, with a mask for the region: at
the network's fixed size a garment that fills a quarter of a picture has a quarter of the cells, and pooling
them lost 8 to 17 points of mAP in docs/benchmarks.md. With the margins of the crop its box remains to be
found, and the mask to be made, from `boxes`.

A cache is a folder:

    facts.json     what it was made from and how: another encoder, data set or way of viewing is refused
    regions.jsonl  the labelled regions, in the data set's order
    tokens.npy     (N, K, cells, C) float16, N regions, K views, cells row by row
    boxes.npy      (N, K, 4) float32, where the true box lies
    frames.npy     (N, K, 4) float32, where the view lies: a view is fitted into the network's square
    written.jsonl  how many regions are written, and which pictures could not be used

Boxes and frames are cx, cy, w, h in shares of the network's square, 0 to 1.
"""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import shutil
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from lookalike import images
from lookalike.datasets import Dataset, Labelled, Side, Unlisted
from lookalike.errors import BadInput, CatalogueBusy, LookalikeError, StorageFull
from lookalike.learn.cells import Tokens, look, map_shape
from lookalike.learn.sampling import NO_IDENTITY
from lookalike.learn.views import USUAL, Augmentation, View, plain, view
from lookalike.pooling import cell_masks
from lookalike.roles import Encoder, RegionFinder
from lookalike.values import Box, Floats, Keys, Maps, Picture, Progress, Region

VERSION = 2  # of the layout and of how views are made
BLOCK = 16  # regions that a worker holds
CHUNK = 4  # views per call of the encoder
SIDES = (Side.QUERY, Side.GALLERY, Side.BOTH)  # numbers of `TokenCache.sides`


@dataclass(frozen=True, slots=True)
class Facts:
    """What a cache was made from and how."""

    version: int
    encoder: str
    fingerprint: str
    dataset: str
    synthetic: str
    split: str
    labels: str  # sha256 of regions.jsonl and of the pictures' sizes in bytes
    regions: int  # N
    unlisted: int  # what the data set could not read
    finder: str  # where the crops come from: "given", "whole", or a finder's name
    paired: bool  # only regions of a known identity
    views: int  # K
    seed: int
    augmentation: Augmentation
    shape: tuple[int, int, int]  # of the network's map: C, H, W

    @classmethod
    def read(cls, file: Path) -> Facts | None:
        """The facts in a file; None where there is none, BadInput where it holds something else."""
        try:
            record = json.loads(file.read_bytes())
            record["augmentation"] = Augmentation(**record["augmentation"])
            record["shape"] = tuple(record["shape"])
            return cls(**record)
        except FileNotFoundError:
            return None
        except (OSError, ValueError, TypeError, KeyError, BadInput) as error:
            raise BadInput(
                f"{file} is not what a token cache holds: {error}", "delete the folder: it only costs time"
            ) from error

    @property
    def bytes(self) -> int:
        """What the arrays take on disk."""
        return _bytes(self.regions, self.views, self.shape)


class TokenCache:
    """The tokens of a split, read from disk as they are asked for; N regions, K views.

    `identities`, `groups` and `categories` (N,) number the names of the regions in their sorted order;
    `sides` (N,) are places in SIDES. An identity is NO_IDENTITY where the region has none, or where its
    picture could not be used: `lost` then says why, by the region's place, and its tokens are 0.
    BadInput where the folder holds no finished cache.
    """

    def __init__(self, folder: Path) -> None:
        facts = Facts.read(folder / "facts.json")
        if facts is None:
            raise BadInput(f"{folder} holds no tokens", "they are made before training, by lookalike train")
        written, self.lost = _written(folder)
        if written < facts.regions:
            raise BadInput(
                f"{folder} is unfinished: {written:,} of {facts.regions:,} regions",
                "run again what made it: it goes on where it stopped",
            )
        self.folder, self.facts = folder, facts
        with (folder / "regions.jsonl").open(encoding="utf-8") as lines:
            self.regions = tuple(map(_labelled, lines))
        self._tokens, self._boxes, self._frames = (
            np.load(folder / f"{name}.npy", mmap_mode="r") for name in _arrays(facts)
        )
        usable = [None if place in self.lost else r.identity for place, r in enumerate(self.regions)]
        self.identities = _numbered(usable)
        self.groups = _numbered([region.group for region in self.regions])
        self.categories = _numbered([region.category for region in self.regions])
        self.sides = np.array([SIDES.index(region.side) for region in self.regions], np.int64)

    def read(self, regions: Keys, views: Keys) -> Tokens:
        """Regions (B,) each in one view (B,) -> its tokens."""
        return Tokens(self._tokens[regions, views], self._boxes[regions, views], self._frames[regions, views])

    def maps(self, regions: Keys, views: Keys) -> Maps:
        """The same as the encoder's own maps, (B, C, H, W) float32."""
        seen = self.read(regions, views)
        channels, height, width = self.facts.shape
        values = seen.tokens.astype(np.float32).transpose(0, 2, 1)
        return Maps(
            np.ascontiguousarray(values).reshape(-1, channels, height, width),
            tuple(
                Box(cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2)
                .scaled(width, height)
                .clipped(width, height)
                for cx, cy, w, h in seen.frames.tolist()
            ),
        )

    def masks(self, boxes: Floats) -> NDArray[np.bool_]:
        """Boxes or frames (B, 4) as they are read -> (B, cells); see `cell_masks`."""
        return cell_masks(boxes, *self.facts.shape[1:])


def size_of(regions: int, views: int, encoder: Encoder) -> int:
    """Bytes on disk that the tokens of so many regions will take; BadInput for an encoder without maps."""
    return _bytes(regions, views, map_shape(encoder))


def make_tokens(
    dataset: Dataset,
    split: str,
    encoder: Encoder,
    folder: Path,
    views: int = 4,
    seed: int = 0,
    regions: RegionFinder | Literal["given", "whole"] = "given",
    augmentation: Augmentation = USUAL,
    paired: bool = False,
    on_progress: Progress | None = None,
) -> TokenCache:
    """The tokens of the regions of a split, in `folder`; a killed run goes on where it stopped.

    `regions` says what views are round: the given boxes, nothing (whole pictures), or the best region that a
    finder finds in the region's picture; `boxes` are those of the true box in any case. `views` 1 is for
    evaluation: nothing is augmented. `paired` leaves out regions without an identity, which training does not
    draw. There is a thread for every core: an encoder is best held to one of its own.

    `on_progress` hears of regions once they are on disk. A picture that cannot be used is no error: see
    `TokenCache.lost`. BadInput where the folder holds other tokens or the split no region, StorageFull
    where the disk has no room.
    """
    if views < 1:
        raise BadInput(f"views {views}: a region is seen at least once")
    if isinstance(regions, str) and regions not in ("given", "whole"):
        raise BadInput(f"regions {regions!r}: neither 'given' nor 'whole' nor a region finder")
    from filelock import FileLock, Timeout

    with _room(folder):
        folder.mkdir(parents=True, exist_ok=True)
    listed = folder / "regions.jsonl.part"
    try:
        with FileLock(folder / ".lock", timeout=0):
            count, unlisted, digest = _list(dataset, split, paired, listed)
            facts = Facts(
                version=VERSION,
                encoder=encoder.name,
                fingerprint=encoder.fingerprint,
                dataset=dataset.name,
                synthetic=dataset.synthetic,
                split=split,
                labels=digest,
                regions=count,
                unlisted=unlisted,
                finder=regions if isinstance(regions, str) else regions.name,
                paired=paired,
                views=views,
                seed=seed,
                augmentation=augmentation,
                shape=map_shape(encoder),
            )
            _prepare(folder, facts)
            listed.replace(folder / "regions.jsonl")
            _fill(folder, facts, encoder, regions, on_progress)
    except Timeout as error:
        raise CatalogueBusy(f"another process is writing tokens to {folder}", "wait for it") from error
    return TokenCache(folder)


def _list(dataset: Dataset, split: str, paired: bool, file: Path) -> tuple[int, int, str]:
    """Write the labelled regions down: how many, how many could not be read, and their hash.

    Where the data set lies does not count, the sizes of its pictures do.
    """
    count, unlisted, digest = 0, 0, hashlib.sha256()
    with _room(file.parent), file.open("w", encoding="utf-8") as lines:
        for entry in dataset.read(split):
            if isinstance(entry, Unlisted):
                unlisted += 1
                continue
            if paired and entry.identity is None:
                continue
            count += 1
            record = asdict(entry)
            lines.write(json.dumps(record) + "\n")
            place = os.path.relpath(entry.source, dataset.folder)
            size = images.size_of(entry.source)
            told = {"source": place, "bytes": -1 if size is None else size}
            digest.update(json.dumps(record | told).encode())
    if not count:
        raise BadInput(f"{dataset.name}: no regions in its split {split}", "look with lookalike doctor")
    return count, unlisted, digest.hexdigest()


def _prepare(folder: Path, facts: Facts) -> None:
    """An empty cache, or the one that is there if it was made the same way."""
    there = Facts.read(folder / "facts.json")
    for each in fields(facts) if there else ():
        old, new = getattr(there, each.name), getattr(facts, each.name)
        if old != new:
            raise BadInput(
                f"{folder} holds tokens of another {each.name}: {old}, not {new}",
                "name another folder, or delete this one: it only costs time",
            )
    if there:
        return
    if (free := shutil.disk_usage(folder).free) < facts.bytes:
        raise StorageFull(
            f"tokens of {facts.regions:,} regions in {facts.views} views take {facts.bytes / 1e9:.1f} GB; "
            f"{folder} has room for {free / 1e9:.1f} GB",
            "name a folder on another disk, or take fewer views",
        )
    (folder / "written.jsonl").unlink(missing_ok=True)
    with _room(folder):
        for name, (tail, kind) in _arrays(facts).items():
            shape = (facts.regions, facts.views, *tail)
            np.lib.format.open_memmap(folder / f"{name}.npy", "w+", kind, shape)
        part = folder / "facts.json.part"
        part.write_text(json.dumps(asdict(facts), indent=1), encoding="utf-8")
        part.replace(folder / "facts.json")


def _fill(
    folder: Path,
    facts: Facts,
    encoder: Encoder,
    finder: RegionFinder | str,
    on_progress: Progress | None,
) -> None:
    """Write what is not written yet. Workers look, the calling thread writes, in order."""
    written, _ = _written(folder)
    workers = os.cpu_count() or 1
    waiting: deque[Future[tuple[Tokens, dict[int, str]]]] = deque()
    with (
        (folder / "regions.jsonl").open(encoding="utf-8") as lines,
        ThreadPoolExecutor(workers, thread_name_prefix="tokens") as pool,
    ):
        blocks = _blocks(islice(lines, written, None))
        try:
            while True:
                for block in islice(blocks, workers + 1 - len(waiting)):  # one ahead of the workers
                    waiting.append(pool.submit(_look, block, facts, encoder, finder))
                if on_progress:
                    on_progress(written, facts.regions)
                if not waiting:
                    return
                seen, lost = waiting.popleft().result()
                _write(folder, seen, lost, written)
                written += len(seen.tokens)
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _blocks(lines: Iterable[str]) -> Iterator[list[Labelled]]:
    remaining = map(_labelled, lines)
    while block := list(islice(remaining, BLOCK)):
        yield block


def _labelled(line: str) -> Labelled:
    record = json.loads(line)
    record["side"] = Side(record["side"])
    record["box"] = record["box"] and Box(**record["box"])
    record["captions"] = tuple(record["captions"])
    record["truth"] = {name: tuple(answers) for name, answers in record["truth"].items()}
    return Labelled(**record)


def _write(folder: Path, seen: Tokens, lost: dict[int, str], start: int) -> None:
    """All of a block on disk, then the line that says so: what a crash leaves without one is made again."""
    with _room(folder):
        for name, rows in (("tokens", seen.tokens), ("boxes", seen.boxes), ("frames", seen.frames)):
            file = folder / f"{name}.npy"
            begins = np.load(file, mmap_mode="r").offset  # behind the header
            with file.open("r+b") as out:  # not through the map: a full disk would kill the process
                out.seek(begins + start * rows[0].nbytes)
                out.write(rows.data)
                out.flush()
                os.fsync(out.fileno())
        told = {start + place: error for place, error in lost.items()}
        with (folder / "written.jsonl").open("a", encoding="utf-8") as out:
            # The line break comes first, in case a crash cut the last line off.
            out.write("\n" + json.dumps({"written": start + len(seen.tokens), "lost": told}))
            out.flush()
            os.fsync(out.fileno())


def _written(folder: Path) -> tuple[int, dict[int, str]]:
    """How many regions are on disk, and those of them that could not be used."""
    written, lost = 0, dict[int, str]()
    try:
        lines = (folder / "written.jsonl").read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return written, lost
    for line in lines:
        try:
            record = json.loads(line)
        except ValueError:  # empty, or cut off
            continue
        written = record["written"]
        lost |= {int(place): error for place, error in record["lost"].items()}
    return written, lost


def _look(
    regions: Sequence[Labelled], facts: Facts, encoder: Encoder, finder: RegionFinder | str
) -> tuple[Tokens, dict[int, str]]:
    """What is seen of a few regions in K views each; and by their place those that could not be used."""
    lost: dict[int, str] = {}
    shown: list[tuple[int, int, View]] = []
    picture: Picture | None = None
    for place, region in enumerate(regions):
        try:
            if picture is None or picture.source != region.source:  # a picture's regions come together
                picture = images.load(region.source)
            views = _views(region, picture, facts, finder)
        except LookalikeError as error:
            lost[place] = str(error)
        else:
            shown += [(place, number, each) for number, each in enumerate(views)]
    arrays = {
        name: np.zeros((len(regions), facts.views, *tail), kind)
        for name, (tail, kind) in _arrays(facts).items()
    }
    for start in range(0, len(shown), CHUNK):
        places, numbers, views = map(list, zip(*shown[start : start + CHUNK], strict=True))
        seen = look(views, encoder)
        for name, array in arrays.items():
            array[places, numbers] = getattr(seen, name)
    return Tokens(**arrays), lost


def _views(region: Labelled, picture: Picture, facts: Facts, finder: RegionFinder | str) -> list[View]:
    """The K views of a region; the true box is the last of each one's boxes."""
    whole = Box(0, 0, picture.width, picture.height)
    true = (region.box or whole).clipped(picture.width, picture.height)
    if finder == "given":
        looked, boxes = Region(picture, region.box), [true]
    else:
        looked = Region(picture, None) if isinstance(finder, str) else finder.regions([picture])[0][0]
        boxes = [looked.box or whole, true]
    drawn = [
        int.from_bytes(hashlib.sha256(f"{facts.seed}/{region.id}/{number}".encode()).digest()[:8], "big")
        for number in range(1, facts.views)
    ]
    return [plain(looked, boxes), *(view(picture, boxes, seed, facts.augmentation) for seed in drawn)]


def _arrays(facts: Facts) -> dict[str, tuple[tuple[int, ...], type[np.floating[Any]]]]:
    """What is kept of each view: shape and kind."""
    channels, height, width = facts.shape
    return {
        "tokens": ((height * width, channels), np.float16),
        "boxes": ((4,), np.float32),
        "frames": ((4,), np.float32),
    }


def _bytes(regions: int, views: int, shape: tuple[int, int, int]) -> int:
    return regions * views * (math.prod(shape) * 2 + 2 * 4 * 4)


def _numbered(names: Sequence[str | None]) -> Keys:
    numbers = {name: number for number, name in enumerate(sorted({n for n in names if n is not None}))}
    return np.array([NO_IDENTITY if name is None else numbers[name] for name in names], np.int64)


@contextmanager
def _room(folder: Path) -> Iterator[None]:
    """Writing to `folder`: a full disk is a StorageFull, anything else that fails a BadInput."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise StorageFull(
                f"cannot write to {folder}: the disk is full, or a quota or file size limit is reached",
                "make room and run the same command again: what was finished is kept",
            ) from error
        raise BadInput(f"cannot write to {folder}: {error.strerror or error}") from error
