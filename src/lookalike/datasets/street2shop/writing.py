"""The data set on disk, in DeepFashion2's tree and annotation format.

FOLDER/{train,validation}/{image/NNNNNN.jpg, annos/NNNNNN.json} and, last, FOLDER/street2shop.json: what it
was made from, and one sha256 over all annotations. Every picture depends on the seed and its own number only.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from lookalike import images
from lookalike.datasets.street2shop.places import FRAME
from lookalike.datasets.street2shop.scenes import Scene, shop_picture, user_picture
from lookalike.datasets.street2shop.stage import Seen
from lookalike.datasets.street2shop.wardrobe import BOTTOMS, Garment, pair_of
from lookalike.datasets.street2shop.words import DROPPED, GENERIC, captions_of
from lookalike.errors import BadInput
from lookalike.values import Progress
from lookalike.weights import sha256_of

VERSION = "1"  # of the drawing: the same version, seed and number of identities give the same annotations
SPLITS = ("train", "validation")
RECORD = "street2shop.json"

_TRAIN = 0.7  # of the identities
_BATCH = 16  # pictures
_LANDMARKS = (25, 33, 31, 39, 15, 15, 10, 14, 8, 29, 37, 19, 19)  # of each category
_NECK, _WAIST = (1, 3, 5), (0, 1, 2)  # which landmarks are known: left, middle and right of a neck or a waist
_ERRORS = ("dropped", "generic", "wrong")


@dataclass(frozen=True, slots=True)
class Made:
    """A complete data set. `sha256` is over its annotations, `drawn` pictures are new."""

    folder: Path
    identities: int
    pictures: int
    drawn: int
    sha256: str

    def __str__(self) -> str:
        return f"{self.pictures} pictures of {self.identities} products, {self.drawn} of them new"


@dataclass(frozen=True, slots=True)
class _Task:
    """One picture: its number in its split, and which styles of which pair it shows, the first surely."""

    split: str
    number: int
    source: str  # user or shop
    pair: int
    styles: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class _Job:
    """What all pictures have in common."""

    folder: Path
    seed: int
    caption_errors: float
    backgrounds: tuple[Path, ...]
    pairs: dict[str, int]  # of each split


def make(
    folder: Path, identities: int, seed: int, backgrounds: Sequence[Path] | None = None,
    caption_errors: float = 0.0, workers: int | None = None, on_progress: Progress | None = None,
) -> Made:  # fmt: skip
    """A drawn data set of `identities` products in `folder`; one that was begun is finished, not begun again.

    An identity is a style of a pair. About 70 % of them are in train, the rest in validation, with 1 to 3
    user pictures and 1 to 4 shop pictures each. `backgrounds` are photographs to stand in, drawn scenes
    where there are none; annotations are the same with either. `caption_errors` is the share of garments
    whose captions are dropped, generic or another's. `workers` processes draw, as many as there are cores
    where it is None; with more than one the calling script needs an `if __name__ == "__main__"` guard.

    BadInput where a number is out of range, or the folder holds something else; BadPicture for a background
    that cannot be read.
    """
    if identities < 1:
        raise BadInput(f"{identities} identities: at least 1 is needed")
    if seed < 0:
        raise BadInput(f"seed {seed}: must not be negative")
    if not 0 <= caption_errors <= 1:  # NaN too
        raise BadInput(f"rate of caption errors {caption_errors:g}: must be between 0 and 1")
    if workers is not None and workers < 1:
        raise BadInput(f"{workers} workers: at least 1 is needed")
    facts = {
        "generator": "street2shop",
        "version": VERSION,
        "seed": seed,
        "identities": identities,
        "caption_errors": caption_errors,
        "backgrounds": [{"name": path.name, "sha256": sha256_of(path)} for path in backgrounds or ()],
    }
    try:
        return _made(folder, facts, tuple(backgrounds or ()), workers or _cores(), on_progress)
    except OSError as error:
        raise BadInput(f"{folder}: cannot be written: {error.strerror or error}") from error


def _made(
    folder: Path, facts: dict[str, Any], backgrounds: tuple[Path, ...], workers: int,
    on_progress: Progress | None,
) -> Made:  # fmt: skip
    complete = _opened(folder, facts)
    tasks, pairs = _plan(facts["identities"], facts["seed"])
    if complete is not None:
        return Made(folder, facts["identities"], len(tasks), 0, complete["sha256"])
    job = _Job(folder, facts["seed"], facts["caption_errors"], backgrounds, pairs)
    missing = [task for task in tasks if not all(path.exists() for path in _files(folder, task))]
    done = len(tasks) - len(missing)
    for drawn in _drawn(job, missing, workers):
        done += drawn
        if on_progress is not None:
            on_progress(done, len(tasks))
    digest = hashlib.sha256()
    for task in tasks:
        digest.update(_files(folder, task)[1].read_bytes())
    sha256 = digest.hexdigest()
    _write(folder / RECORD, _json(facts | {"pictures": len(tasks), "sha256": sha256}))
    return Made(folder, facts["identities"], len(tasks), len(missing), sha256)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _opened(folder: Path, facts: dict[str, Any]) -> dict[str, Any] | None:
    """The record of a complete data set; None where it is to be drawn, and then the folder is ready."""
    begun = folder / f"{RECORD}.part"
    if folder.exists():
        if not folder.is_dir():
            raise BadInput(f"{folder}: not a folder")
        foreign = {path.name for path in folder.iterdir()} - {*SPLITS, RECORD, begun.name}
        known = [path for path in (folder / RECORD, begun) if path.exists()]
        if foreign or (not known and any(folder.iterdir())):
            what = sorted(foreign)[0] if foreign else "a data set of unknown origin"
            raise BadInput(f"{folder} holds something else: {what}", "choose another folder")
        for path in known:
            record = _read(path)
            differing = [name for name, value in facts.items() if record.get(name) != value]
            if differing:
                raise BadInput(
                    f"{folder} holds a data set with another {differing[0].replace('_', ' ')}",
                    "choose another folder, or the same arguments",
                )
            if path.name == RECORD:
                return record
    for split in SPLITS:
        for kind in ("image", "annos"):
            (folder / split / kind).mkdir(parents=True, exist_ok=True)
    begun.write_bytes(_json(facts))
    return None


def _read(path: Path) -> dict[str, Any]:
    try:
        record = json.loads(path.read_bytes())
    except ValueError:
        record = None
    if not isinstance(record, dict):
        raise BadInput(f"{path}: not the record of a generated data set", "choose another folder")
    return record


def _json(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def _write(path: Path, content: bytes) -> None:
    """Whole or not at all."""
    part = path.with_name(f"{path.name}.part")
    part.write_bytes(content)
    part.replace(path)


def _files(folder: Path, task: _Task) -> tuple[Path, Path]:
    """Picture and annotation."""
    place, name = folder / task.split, f"{task.number:06}"
    return place / "image" / f"{name}.jpg", place / "annos" / f"{name}.json"


# What is to be drawn


def _plan(identities: int, seed: int) -> tuple[list[_Task], dict[str, int]]:
    """All pictures, and how many pairs each split has.

    In train the pictures of a pair follow one another; in validation users' come first, as in the real set.
    """
    train = max(1, math.ceil(_TRAIN * identities)) if identities > 1 else 1
    tasks: list[_Task] = []
    pairs = {}
    for split, count in zip(SPLITS, (train, identities - train), strict=True):
        wanted: list[tuple[str, int, tuple[int, ...]]] = []
        pair = 0
        while count > 0:
            styles = min(count, len(pair_of(seed, split, pair)))
            wanted += _pictures(seed, split, pair, styles)
            count, pair = count - styles, pair + 1
        if split == "validation":
            wanted.sort(key=lambda picture: picture[0] != "user")  # stable
        tasks += [_Task(split, number, *picture) for number, picture in enumerate(wanted, start=1)]
        pairs[split] = pair
    return tasks, pairs


def _pictures(seed: int, split: str, pair: int, styles: int) -> Iterator[tuple[str, int, tuple[int, ...]]]:
    random = np.random.default_rng([seed, SPLITS.index(split), pair, 3])
    for style in range(1, styles + 1):
        for _ in range(random.choice([1, 2, 3], p=[0.5, 0.3, 0.2])):
            yield "user", pair, (style,)
    for style in range(1, styles + 1):
        for _ in range(random.choice([1, 2, 3, 4], p=[0.15, 0.35, 0.3, 0.2])):
            yield "shop", pair, (style,)
    if styles > 1 and random.random() < 0.35:
        yield "shop", pair, tuple(range(1, styles + 1))


# Drawing it


def _drawn(job: _Job, tasks: Sequence[_Task], workers: int) -> Iterator[int]:
    """Draws the pictures; how many were finished, again and again."""
    scenes = _Scenes(job)
    if workers == 1 or len(tasks) <= 2 * _BATCH:
        for task in tasks:
            scenes.draw(task)
            yield 1
        return
    batches = [tasks[start : start + _BATCH] for start in range(0, len(tasks), _BATCH)]
    pool = ProcessPoolExecutor(
        min(workers, len(batches)), get_context("spawn"), initializer=_start, initargs=(job,)
    )
    try:
        yield from pool.map(_draw_batch, batches)
    finally:
        pool.shutdown(cancel_futures=True)


_scenes: _Scenes | None = None  # of a worker process


def _start(job: _Job) -> None:
    global _scenes
    _scenes = _Scenes(job)


def _draw_batch(tasks: Sequence[_Task]) -> int:
    assert _scenes is not None
    for task in tasks:
        _scenes.draw(task)
    return len(tasks)


class _Scenes:
    """Draws tasks; holds the backgrounds."""

    def __init__(self, job: _Job) -> None:
        self._job = job
        self._loaded: list[Image.Image] | None = None

    def draw(self, task: _Task) -> None:
        """The task's picture and annotation, written."""
        random = np.random.default_rng([self._job.seed, SPLITS.index(task.split), task.number, 4])
        pair = pair_of(self._job.seed, task.split, task.pair)
        wanted = [(pair[style - 1], style) for style in task.styles]
        if task.source == "user":
            scene = user_picture(wanted[0], random, self._backgrounds())
        else:
            scene = shop_picture(wanted, random)
        annotation: dict[str, Any] = {"source": task.source, "pair_id": task.pair + 1}
        for number, seen in enumerate(scene.seen, start=1):
            annotation[f"item{number}"] = _item(seen) | self._words(task, seen, number)
        picture, annotation_file = _files(self._job.folder, task)
        _write(picture, _jpeg(scene))
        _write(annotation_file, _json(annotation))  # last: where it is, the picture is

    def _backgrounds(self) -> list[Image.Image]:
        if self._loaded is None:
            self._loaded = [_shrunk(path) for path in self._job.backgrounds]
        return self._loaded

    def _words(self, task: _Task, seen: Seen, number: int) -> dict[str, Any]:
        """Captions, and what is wrong with them."""
        place = SPLITS.index(task.split)
        said = np.random.default_rng([self._job.seed, place, task.number, 5, number])
        captions = captions_of(seen.garment, seen.visible, said)
        luck = np.random.default_rng([self._job.seed, place, task.number, 6, number])
        error = str(luck.choice(_ERRORS)) if luck.random() < self._job.caption_errors else ""
        if error == "dropped":
            captions = DROPPED
        elif error == "generic":
            captions = GENERIC
        elif error == "wrong":
            other = self._another(task, seen.garment, luck)
            captions = captions_of(other, other.attributes, luck)
        words = {"captions": {"short": captions.short, "medium": captions.medium, "long": captions.long}}
        return words | ({"caption_error": error} if error else {})

    def _another(self, task: _Task, garment: Garment, luck: np.random.Generator) -> Garment:
        """A garment of another pair that other words describe; in a tiny set, of pairs it might have had."""
        while True:
            pair = int(luck.integers(max(10, self._job.pairs[task.split])))
            styles = pair_of(self._job.seed, task.split, pair)
            other = styles[int(luck.integers(len(styles)))]
            if pair != task.pair and other.attributes != garment.attributes:
                return other


def _item(seen: Seen) -> dict[str, Any]:
    garment = seen.garment
    landmarks = [0] * (3 * _LANDMARKS[garment.category_id - 1])
    for index, mark in zip(_WAIST if garment.category in BOTTOMS else _NECK, seen.marks, strict=True):
        landmarks[3 * index : 3 * index + 3] = mark
    return {
        "category_id": garment.category_id,
        "category_name": garment.category,
        "style": seen.style,
        "bounding_box": list(seen.box),
        "segmentation": seen.outlines,
        "landmarks": landmarks,
        "scale": seen.scale,
        "occlusion": seen.occlusion,
        "zoom_in": seen.zoom,
        "viewpoint": seen.viewpoint,
        "attributes": dict(garment.attributes),
    }


def _jpeg(scene: Scene) -> bytes:
    file = io.BytesIO()
    scene.picture.save(file, "JPEG", quality=scene.quality)
    return file.getvalue()


def _shrunk(path: Path) -> Image.Image:
    """A background, of the size that it is used in."""
    picture = Image.fromarray(images.load(path).pixels)
    factor = max(FRAME[0] / picture.width, FRAME[1] / picture.height, 900 / max(picture.size))
    if factor < 1:
        picture = picture.resize((round(picture.width * factor), round(picture.height * factor)))
    return picture
