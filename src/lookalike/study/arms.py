"""One arm of a study: how a model is trained, and in which views it is looked at."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from lookalike.encoders.adapted import mixed
from lookalike.errors import BadInput
from lookalike.learn.models.adapted import Adapted
from lookalike.learn.recipes import Recipe
from lookalike.learn.rivals import load_rival, train_rival, verified
from lookalike.learn.saved import Saved, load, save
from lookalike.learn.scoring import (
    Described,
    calibrated,
    caption_trust,
    described,
    ranked,
    sentence_agreements,
)
from lookalike.learn.session import new_model
from lookalike.learn.sources import Source, Variant
from lookalike.learn.train import Trainer
from lookalike.study.guards import Guarding
from lookalike.study.material import MEASURED, Material
from lookalike.study.results import Measure, Result
from lookalike.values import Floats, Progress

BARE = "bare"
FREE = "contrast+box"  # the arm that is the best training without captions
TOLD = "all"  # the usual recipe, on the annotation's captions
NO_CAPTIONS = ("itc=0", "caption_dropout=1")  # settings: neither a loss nor the fusion sees any
VERIFIED = "verified"  # DELG's answers after geometric verification
_MADE = ("version", "commit", "command", "date")  # how a view came about that was measured later than others
PARTS = ("identity", "language")  # of the descriptor: measured alone in "bare/identity", "bare/language"


@dataclass(frozen=True, slots=True)
class View:
    """How a trained model is looked at: whose captions the regions of each side are given, "" for none.

    The sources are those of `material`; `guard` is one of `guards.GUARDS`, "" for none. A caption goes
    through the fusion into the identity part. `mixed` says whether its embedding is "too" added to the
    language part, `SHARE` of it to one of that, or "alone", without the fusion; times how far the guard
    believes the caption. Where none is read that is the one imagined from the picture, if the model was
    trained to.
    """

    gallery: str = ""
    queries: str = ""
    guard: str = ""
    mixed: Literal["", "too", "alone"] = ""

    @property
    def name(self) -> str:
        """ "bare", "gallery palette, queries palette, guard source", "gallery palette, mixed too", …"""
        told = asdict(self)
        return ", ".join(f"{what} {named}" for what, named in told.items() if named) or BARE


@dataclass(frozen=True, slots=True)
class Arm:
    """One way to train, and the views that are wanted of it besides the bare one.

    `name` is a file's name and stands for one way alone in all studies. `recipe` is without a seed;
    `captions` is the source that training reads; `identities` and `pictures` limit how many there are, and
    how many pictures of each. A `rival` is trained in its own way, with batches, epochs and rate of the
    recipe.
    """

    name: str
    recipe: Recipe
    captions: str = "annotation"
    identities: int | None = None
    pictures: int | None = None
    rival: str = ""
    views: tuple[View, ...] = ()
    seeds: int = 3

    @property
    def reads_captions(self) -> bool:
        """Whether training needs any."""
        if self.rival:
            return self.rival == "clip-reid"
        return self.recipe.reads_captions or self.recipe.caption_dropout < 1

    @property
    def key(self) -> dict[str, Any]:
        """What the training is, without its seed; of the recipe what is not as usual."""
        usual = asdict(Recipe())
        recipe = {name: value for name, value in asdict(self.recipe).items() if value != usual[name]}
        told = {"identities": self.identities, "pictures": self.pictures, "rival": self.rival}
        read = self.captions if self.reads_captions or self.rival else ""
        return {**told, "captions": read, "recipe": recipe}


def run(
    arm: Arm, seed: int, material: Material, folder: Path, about: Mapping[str, Any],
    on_progress: Progress | None = None,
) -> Result:  # fmt: skip
    """Train and measure, or what an earlier run left in `folder`; views that lack are measured.

    What was trained and measured on another part of the data is only measured. BadInput where the folder
    holds a run of another arm, or on other captions.
    """
    key = arm.key | ({"given": material.given} if material.given else {})
    file = folder / f"{material.measured}.json"
    kept = Result.read(file)
    trained = kept or next(filter(None, (Result.read(folder / f"{part}.json") for part in MEASURED)), None)
    if trained is not None and trained.about["key"] != key:
        raise BadInput(
            f"{folder} holds a run of {trained.arm} that was trained in another way",
            "delete it, or name another folder",
        )
    wanted = {view.name: view for view in arm.views}
    if kept is not None and wanted.keys() <= kept.measures.keys():
        return kept
    folder.mkdir(parents=True, exist_ok=True)
    if arm.rival:
        result = _rival(arm, seed, material, folder, trained, on_progress)
    else:
        result = _adapted(arm, seed, material, folder, wanted, kept, on_progress)
    result = replace(result, about={**about, "key": key, **result.about})
    if kept is not None:
        made = {what: about[what] for what in _MADE if what in about}
        later = dict.fromkeys(result.measures.keys() - kept.measures.keys(), made)
        result = replace(result, about={**result.about, "views": {**kept.about.get("views", {}), **later}})
    result.write(file)
    return result


def _adapted(
    arm: Arm, seed: int, material: Material, folder: Path, wanted: Mapping[str, View], kept: Result | None,
    on_progress: Progress | None,
) -> Result:  # fmt: skip
    if not (folder / "model.json").exists():
        _train(arm, seed, material, folder, on_progress)
    saved = load(folder)
    about = saved.about["study"]
    known = saved.guard, bool(saved.about["recipe"]["imagine"])
    if kept is None:
        tuning = Looking(saved.model, material, "tuning", *known).measure(View())
        facts = {"tuning mAP": float(np.nanmean(tuning.ap)), **saved.about.get("guard", {})}
    else:
        facts = dict(kept.facts)
    looking = Looking(saved.model, material, material.measured, *known)
    measures = dict(kept.measures) if kept else looking.parts()
    for name, view in wanted.items():
        if name not in measures:
            measures[name] = looking.measure(view)
    return Result(
        arm.name, seed, about["steps"], about["seconds"], saved.about["recipe"],
        kept.about if kept else {"identities": about["identities"], "regions": about["regions"]},
        measures, facts,
    )  # fmt: skip


def _train(arm: Arm, seed: int, material: Material, folder: Path, on_progress: Progress | None) -> None:
    """The model of the last step, with its guard, in `folder`."""
    source = _source(arm, material)
    recipe = replace(arm.recipe, seed=seed)
    model, new = new_model(recipe, None, None)
    trainer = Trainer(model, source, material.texts, recipe, folder, is_new=new.__contains__)
    left = 1 - trainer.epoch / recipe.epochs  # of a training that was interrupted
    began = time.process_time()
    for _ in trainer.run(on_progress):
        pass
    seconds = (time.process_time() - began) / left if left else 0.0
    known = source.identities[source.identities >= 0]
    told: dict[str, Any] = {
        "recipe": asdict(recipe),
        "data": dict(source.facts),
        "study": {
            "steps": recipe.epochs * trainer.steps, "seconds": seconds,
            "identities": len(np.unique(known)), "regions": len(known),
        },
    }  # fmt: skip
    threshold = trust = None
    tuning = material.parts["tuning"]
    if recipe.itc and any(region.captions for region in tuning.regions):
        guard = calibrated(*sentence_agreements(trainer.model, tuning, material.texts))
        threshold, told["guard"] = guard.threshold, asdict(guard)
        trust = caption_trust(trainer.model, tuning, material.texts)
    save(Saved(trainer.model, recipe.trunk, material.towers, threshold, trust, told), folder)
    (folder / "state.pt").unlink()


def _rival(
    arm: Arm, seed: int, material: Material, folder: Path, trained: Result | None,
    on_progress: Progress | None,
) -> Result:  # fmt: skip
    if trained is not None:
        rival, seconds = load_rival(folder), trained.seconds
    else:
        began = time.process_time()
        source = _source(arm, material)
        rival = train_rival(arm.rival, source, material.texts, seed, arm.recipe, on_progress)
        seconds = time.process_time() - began
        rival.save(folder)
    tuned, found = (rival.describe(part) for part in (material.parts["tuning"], material.queried))
    facts = {"tuning mAP": float(np.nanmean(measured(material.parts["tuning"], tuned, tuned).ap))}
    measures = {BARE: measured(material.queried, found, found)}
    if arm.rival == "delg":
        again = verified(rival, material.queried)
        measures[VERIFIED] = Measure(again.ap, again.first)
        facts |= {"verified right pairs": again.right, "verified wrong pairs": again.wrong}
    return Result(arm.name, seed, rival.steps, seconds, dict(rival.settings), {}, measures, facts)


def _source(arm: Arm, material: Material) -> Source:
    none = ((),) * len(material.training.regions)
    said = material.said[arm.captions, "training"] if arm.reads_captions else none
    return Variant(material.training, said, arm.identities, arm.pictures)


class Looking:
    """A trained model looked at a part of the material, in one view after the other."""

    def __init__(
        self, model: Adapted, material: Material, part: str, guard: float | None = None,
        imagines: bool = False,
    ) -> None:  # fmt: skip
        """`guard` is the agreement that a sentence needs; `imagines` says that captions can be imagined."""
        self._model = model
        self._source = material.parts[part]
        self._made: dict[tuple[str, str, str], tuple[Described, Floats]] = {}
        self._bare = described(model, self._source, material.texts)
        self._imagined = self._bare.imagined if imagines else np.zeros_like(self._bare.imagined)
        self._guarding = Guarding(model, material, part, self._bare, guard)

    def parts(self) -> dict[str, Measure]:
        """The bare view, of the whole descriptor and of each of its parts."""
        found = {BARE: self.measure(View())}
        for part in PARTS if self._model.language else ():
            rows = getattr(self._bare, part)
            found[f"{BARE}/{part}"] = measured(self._source, rows, rows)
        return found

    def measure(self, view: View) -> Measure:
        """By what a view compares."""
        sides = {"queries": view.queries, "gallery": view.gallery}
        rows = (self._rows(source, view, place) for place, source in sides.items())
        return measured(self._source, *rows)

    def _rows(self, source: str, view: View, place: str) -> Floats:
        """Descriptors (N, D) of all regions, with the captions of a source."""
        found, said = self._described(source, view.guard, place if view.guard else "")
        if view.mixed:
            found = replace(found, language=mixed(found.language, said))
        if view.mixed == "alone":
            found = replace(found, identity=self._bare.identity)
        return found.descriptors(self._model.language)

    def _described(self, source: str, guard: str, place: str) -> tuple[Described, Floats]:
        """All regions with a source's captions, and what is mixed in (N, E); where none is, see `View`."""
        if not source:
            return self._bare, self._imagined
        if (source, guard, place) not in self._made:
            found, trust = self._guarding.looked(guard, source, place)
            told = trust[:, None] * found.text
            self._made[source, guard, place] = found, np.where(trust[:, None] > 0, told, self._imagined)
        return self._made[source, guard, place]


def measured(source: Source, asked: Floats, searched: Floats) -> Measure:
    """Protocol b1: a source's queries by `asked` (N, D) in its gallery by `searched` (N, D), unit rows."""
    ranks = ranked(source, asked, searched)
    first = [each.found[0] + 1 if len(each.found) else np.nan for each in ranks]
    return Measure(
        np.array([each.average_precision() for each in ranks], np.float32), np.array(first, np.float32)
    )


def sources_of(arms: Sequence[Arm]) -> tuple[set[str], set[str]]:
    """The caption sources that training reads, and those that views do."""
    read = {arm.captions for arm in arms if arm.reads_captions}
    looked = {source for arm in arms for view in arm.views for source in (view.gallery, view.queries)}
    return read, looked - {""}
