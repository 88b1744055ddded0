"""The ways to search with one picture that the study of delay compares."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from lookalike.evaluation.intervals import Values
from lookalike.study.arms import FREE, NO_CAPTIONS, TOLD, View
from lookalike.study.captions import ORACLE
from lookalike.study.results import Results


@dataclass(frozen=True, slots=True)
class Way:
    """A trained model, and whose captions gallery and queries are given."""

    label: str
    arm: str
    view: View


def both(source: str, mixed: Literal["", "too", "alone"] = "") -> View:
    """With captions of a source in the gallery and at the query."""
    return View(gallery=source, queries=source, mixed=mixed)


_BARE, _TOLD, _MIXED = View(), View(gallery=ORACLE), View(gallery=ORACLE, mixed="too")
IMAGE = Way("image: no captions anywhere", FREE, _BARE)
TRAIN = Way("train", TOLD, _BARE)
MODEL = Way("query captions: a model's, a tenth wrong", TOLD, both(ORACLE))
PALETTE = Way("query captions: palette's", TOLD, both("palette"))
MIXED = Way("query captions: the model's, mixed too", TOLD, both(ORACLE, "too"))
PALETTE_MIXED = Way("query captions: palette's, mixed too", TOLD, both("palette", "too"))
GALLERY = Way("train+gallery", TOLD, _TOLD)
GALLERY_MIXED = Way("train+gallery, mixed too", TOLD, _MIXED)
PULLED = Way("pull at 3, gallery", "all-pull-3", _TOLD)
IMAGINED = Way("caption imagined, gallery", "all-imagine-1", _MIXED)
WITHOUT = (  # a caption at the query
    TRAIN,
    GALLERY,
    GALLERY_MIXED,
    Way("pull at 1", "all-pull-1", _BARE),
    Way("pull at 1, gallery", "all-pull-1", _TOLD),
    Way("pull at 3", "all-pull-3", _BARE),
    PULLED,
    Way("pull at 3, a quarter wrong in training", "all-pull-3-wrong-0.25", _BARE),
    Way("pull at 3, a quarter wrong in training, gallery", "all-pull-3-wrong-0.25", _TOLD),
    Way("caption imagined", "all-imagine-1", View(mixed="too")),
    IMAGINED,
    Way("pull at 3, caption imagined, gallery", "all-pull-3-imagine-1", _MIXED),
)
ASKING = (
    PALETTE,
    MODEL,
    MIXED,
    Way("query captions: the model's, mixed alone", TOLD, both(ORACLE, "alone")),
    PALETTE_MIXED,
    Way("query captions: the annotation's (true)", TOLD, both("annotation")),
)
OWN_ARM = f"all-{ORACLE}"
OWN = (  # trained on the model's captions as well
    Way("train, on the model's captions", OWN_ARM, _BARE),
    Way("train+gallery, on the model's captions", OWN_ARM, _TOLD),
    Way("query captions: the model's, trained on them too", OWN_ARM, both(ORACLE)),
)
SETTINGS: Mapping[str, tuple[str, ...]] = {
    FREE: NO_CAPTIONS,
    TOLD: (),
    OWN_ARM: (),
    "all-pull-1": ("pull=1",),
    "all-pull-3": ("pull=3",),
    "all-pull-3-wrong-0.25": ("pull=3", "wrong=0.25"),
    "all-imagine-1": ("imagine=1",),
    "all-pull-3-imagine-1": ("pull=3", "imagine=1"),
}


def precisions(results: Results, *ways: Way) -> list[Values]:
    """Average precisions (Q,) of each way, the mean over the seeds that all were run with; none without."""
    runs = [
        {
            run.seed: run.measures[way.view.name].ap
            for run in results.of(way.arm)
            if way.view.name in run.measures
        }
        for way in ways
    ]
    seeds = sorted(set.intersection(*(set(each) for each in runs)))
    if not seeds:
        return []
    return [np.mean([each[seed] for seed in seeds], axis=0, dtype=np.float64) for each in runs]
