"""From a data set and a recipe to a model in a folder."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from lookalike.captions import FileCaptions
from lookalike.datasets import Dataset, Labelled, Unlisted, origin_of
from lookalike.errors import BadInput
from lookalike.learn.models.adapted import Adapted
from lookalike.learn.models.compact import compact
from lookalike.learn.models.x2vlm import X2VLMConfig, load_checkpoint
from lookalike.learn.recipes import Recipe
from lookalike.learn.saved import Saved, load, save
from lookalike.learn.scoring import (
    calibrated,
    caption_trust,
    described,
    mean_average_precision,
    overlaps,
    predicted_boxes,
    sentence_agreements,
)
from lookalike.learn.sources import Cells, Ids, Pictures, Source, Texts, Variant, said_by
from lookalike.learn.states import Frozen, TextTower
from lookalike.learn.tokens import make_tokens
from lookalike.learn.train import Trainer
from lookalike.learn.views import USUAL
from lookalike.roles import Encoder
from lookalike.values import Progress
from lookalike.words import sentences

_HELD_OUT: dict[str, Literal["given", "whole"]] = {"held-out": "given", "held-out-whole": "whole"}
_HEADS = ("vision_proj", "text_proj", "itm_head", "bbox_head")
Stage = Callable[[str], Progress]  # a progress bar for what is named


@dataclass(frozen=True, slots=True, eq=False)
class Data:
    """What is trained on, and identities held out from it, whose mAP is watched."""

    training: Source
    held_out: Source
    whole: Source  # the same in their whole pictures, where boxes are to be found
    texts: Texts
    towers: Mapping[str, str]  # frozen networks that it came through: fingerprints by name


def parts(dataset: Dataset, split: str | None, held_out: str | None) -> tuple[Dataset, str, str]:
    """The data set with the names of its training part and of its held-out one.

    Usually `training` and `tuning`. Where the data set has no such splits, or is so small that nothing is in
    the second, one group in eight is held out of its first split, the same ones everywhere. BadInput for a
    split that is not there.
    """
    for name in (split, held_out):
        if name is not None and name not in dataset.splits:
            raise BadInput(
                f"{dataset.name} has no split {name!r} here", f"splits: {', '.join(dataset.splits)}"
            )
    if split is not None and held_out is not None:
        return dataset, split, held_out
    if {"training", "tuning"} <= set(dataset.splits) and (split or "training") == "training":
        held_out = held_out or "tuning"
        if any(isinstance(entry, Labelled) and entry.identity for entry in dataset.read(held_out)):
            return dataset, "training", held_out
        split = held_out = None
    whole = split or ("train" if "train" in dataset.splits else dataset.splits[0])
    if held_out is not None:
        return dataset, whole, held_out
    groups = {entry.group for entry in dataset.read(whole) if isinstance(entry, Labelled)}
    by_chance = sorted(groups, key=lambda group: sha256(group.encode()).digest())
    held = frozenset(by_chance[: -(-len(groups) // 8)])

    def read(part: str) -> Iterator[Labelled | Unlisted]:
        for entry in dataset.read(whole):
            if isinstance(entry, Unlisted) or (entry.group in held) == (part == "tuning"):
                yield entry

    return replace(dataset, splits=("training", "tuning"), read=read), "training", "tuning"


def cell_data(
    dataset: Dataset,
    split: str,
    held_out: str,
    folder: Path,
    encoder: Encoder,
    tower: Callable[[], TextTower],
    views: int,
    stage: Stage,
    captions: FileCaptions | None = None,
) -> Data:
    """Cells of a frozen encoder, kept in `folder`, and states of a frozen text tower; for `compact`.

    `captions` take the place of the data set's own, and cells are the same with them. BadInput where they say
    nothing of the training part.
    """
    _check(captions, dataset, split)
    caches = [
        make_tokens(
            dataset, split, encoder, folder / "training", views, paired=True, on_progress=stage("training")
        )
    ]
    caches += [
        make_tokens(dataset, held_out, encoder, folder / name, 1, regions=where, on_progress=stage(name))
        for name, where in _HELD_OUT.items()
    ]
    training, held, whole = (_told(Cells(cache), captions) for cache in caches)
    said = [text for source in (training, held) for r in source.regions for text in r.captions]
    said += [claim for r in held.regions for text in r.captions for claim in sentences(text)]  # for the guard
    texts = Frozen(tower(), said, folder / "captions", stage("captions"))
    return Data(training, held, whole, texts, {encoder.name: encoder.fingerprint})


def picture_data(
    dataset: Dataset,
    split: str,
    held_out: str,
    config: X2VLMConfig,
    captions: FileCaptions | None = None,
) -> Data:
    """Pictures as they are asked for, and captions as word ids; for an X²-VLM with its own towers.

    `captions` as for `cell_data`.
    """
    _check(captions, dataset, split)
    kept = [Pictures(dataset, held_out, config, whole=where == "whole") for where in _HELD_OUT.values()]
    finer = replace(USUAL, side=max(USUAL.side, config.resolution * 10 // 7))  # views are not enlarged
    seen = Pictures(dataset, split, config, True, augmentation=finer)
    training, held, whole = (_told(pictures, captions) for pictures in (seen, *kept))
    return Data(training, held, whole, Ids(), {})


def captioned(dataset: Dataset, split: str, given: FileCaptions | None = None) -> bool:
    """Whether any region of a split has a caption, in the file where one is given."""
    regions = (entry for entry in dataset.read(split) if isinstance(entry, Labelled))
    if given is None:
        return any(region.captions for region in regions)
    return any(given.of(origin_of(region.source), region.box) for region in regions)


def _check(captions: FileCaptions | None, dataset: Dataset, split: str) -> None:
    """Before the towers look at anything: whether a file says anything of a split."""
    if captions and not captioned(dataset, split, captions):
        raise BadInput(
            f"the file of captions says nothing of any region of {dataset.name}'s split {split}",
            f"have them written: lookalike caption {dataset.folder} --split {split} --out FILE",
        )


def _told(source: Source, captions: FileCaptions | None) -> Source:
    return source if captions is None else Variant(source, said_by(captions, source.regions))


def new_model(
    recipe: Recipe, checkpoint: Path | None, resolution: int | None
) -> tuple[Adapted, frozenset[str]]:
    """A model to train, and the names of the weights that no checkpoint held."""
    torch.manual_seed(recipe.seed)
    if recipe.trunk == "compact":
        if checkpoint is not None:
            raise BadInput(
                "the recipe trains on frozen towers and takes no checkpoint", "--recipe x2vlm does"
            )
        model = Adapted(compact())
        return model, frozenset(name for name, _ in model.named_parameters())
    if checkpoint is None:
        raise BadInput("this recipe fine-tunes a checkpoint", "name one of X²-VLM's: --checkpoint FILE")
    vlm, report = load_checkpoint(checkpoint, resolution)
    model = Adapted(vlm.with_heads(_HEADS, recipe.recompute))
    lacking = {f"vlm.{name}" for name in report.missing}
    named = (name for name, _ in model.named_parameters())
    return model, frozenset(name for name in named if name in lacking or not name.startswith("vlm."))


def begin(
    model: Adapted,
    new: Collection[str],
    data: Data,
    recipe: Recipe,
    out: Path,
    about: Mapping[str, Any],
    device: torch.device | None = None,
    workers: int = 0,
) -> Trainer:
    """A training whose best model so far is kept in `out`; what was begun there goes on."""

    def score(model: Adapted) -> float:
        found = described(model, data.held_out, data.texts, together=True)
        return mean_average_precision(found.descriptors(model.language), data.held_out)

    def keep(model: Adapted, scores: Mapping[str, float]) -> None:
        told = {**about, "recipe": asdict(recipe), "data": data.training.facts, "scores": dict(scores)}
        save(Saved(model, recipe.trunk, data.towers, about=told), out)

    return Trainer(
        model, data.training, data.texts, recipe, out, score, keep, new.__contains__, device, workers
    )


def finish(out: Path, data: Data, device: torch.device | None = None) -> Saved:
    """The kept model with what was found out about it on held-out identities, saved again.

    That is what its agreement with captions means, where there are captions; how well boxes are predicted
    with captions and without; and how near the imagined caption's embedding comes to the true one's.
    """
    saved, held = load(out), data.held_out
    saved.model.to(device)
    captions = [region.captions[-1] if region.captions else "" for region in held.regions]
    told = np.array([bool(caption) for caption in captions])
    found: dict[str, Any] = {}
    if told.any() and saved.about["recipe"]["itc"]:
        guard = calibrated(*sentence_agreements(saved.model, held, data.texts))
        saved = replace(saved, guard=guard.threshold, trust=caption_trust(saved.model, held, data.texts))
        found["guard"] = asdict(guard)
    if saved.about["recipe"]["box"]:
        found["boxes"] = {"bare": box_scores(saved.model, data.whole, data.texts)}
        if told.any():
            found["boxes"]["captioned"] = box_scores(saved.model, data.whole, data.texts, captions)
    if told.any() and saved.about["recipe"]["imagine"]:
        rows = described(saved.model, held, data.texts, captions)
        alike = (rows.imagined * rows.text).sum(axis=1)[told]
        found["imagined"] = {"cosine": float(alike.mean()), "n": int(told.sum())}
    saved = replace(saved, about={**saved.about, "held out": found})
    save(saved, out)
    return saved


def box_scores(
    model: Adapted, source: Source, texts: Texts, captions: Sequence[str] | None = None
) -> dict[str, float]:
    """Mean intersection over union of predicted and true boxes, and the share of at least one half.

    Each region is looked for in the view that the source gives of it: its own crop is no test.
    """
    found, true = predicted_boxes(model, source, texts, captions)
    shown = ~np.isnan(true).any(axis=1)
    ious = overlaps(found[shown], true[shown])
    return {"iou": float(ious.mean()), "acc@.5": float((ious >= 0.5).mean()), "n": int(shown.sum())}
