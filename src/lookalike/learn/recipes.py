"""Recipes: all that decides what comes out of a training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Literal, get_args

from lookalike.errors import BadInput, unknown_name

Trunk = Literal["compact", "x2vlm"]
Precision = Literal["fp32", "bf16", "fp16"]
_SHARES = ("warm_up", "caption_dropout", "ema", "wrong")
_WHOLE = ("caption_dropout", "wrong")  # of the shares: may be 1


@dataclass(frozen=True, slots=True)
class Recipe:
    """A training, but for its data. It is kept in the checkpoint.

    A loss of weight 0 is not computed. `shuffled` gives every identity another's captions: the control that
    must bring nothing.
    """

    trunk: Trunk = "compact"
    p: int = 32  # identities of a batch, in each process
    k: int = 4  # regions of each
    accumulate: int = 1  # batches of a step
    epochs: int = 20
    patience: int = 0  # epochs without a better mAP on held-out identities before it stops; 0: never
    lr: float = 1e-3
    new: float = 1.0  # times lr, for what the checkpoint did not hold
    weight_decay: float = 0.01
    warm_up: float = 0.1  # of all steps
    clip: float = 5.0  # of the gradient's norm
    ema: float = 0.0  # of the weights, each step; 0: none
    precision: Precision = "fp32"
    recompute: bool = False  # what layers of trained towers hold for the backward pass: memory for time
    # Losses and their weights
    arcface: float = 1.0  # on the identity part
    triplet: float = 0.0  # on the identity part: its hardest pairs in the batch
    identity: float = 0.0  # on the identity part: a linear classifier, label-smoothed
    contrast: float = 1.0  # supervised, between pictures, on each part of the descriptor
    itc: float = 1.0  # between pictures and captions
    itm: float = 0.0  # whether picture and caption belong together
    mlm: float = 0.0  # which words are missing from the caption
    box: float = 1.0
    imagine: float = 0.0  # the caption's embedding guessed from the picture
    pull: float = 0.0  # the identity part without a caption to that with one
    margin: float = 0.3
    scale: float = 30.0
    temperature: float = 0.07  # of both contrasts
    learn_temperature: bool = False  # itc and itm by the model's own, which is trained along
    fusion: bool = True  # the identity part reads f₀ besides v₀
    caption_dropout: float = 0.5
    wrong: float = 0.0  # of the captions that the fusion is given: another identity's; no contrast sees them
    weigh: float = 0.0  # how much less a caption counts in itc that agrees less than others with its picture
    shuffled: bool = False
    language: float = 1.0  # weight of the language part in the descriptor
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("p", "k", "accumulate", "epochs", "lr", "new", "clip", "scale", "temperature"):
            if getattr(self, name) <= 0:
                raise BadInput(f"recipe: {name} {getattr(self, name):g} must be above 0")
        for name in ("patience", "weight_decay", "language", "seed", "weigh", *WEIGHTS):
            if getattr(self, name) < 0:
                raise BadInput(f"recipe: {name} {getattr(self, name):g} must not be negative")
        for name in _SHARES:
            if not 0 <= getattr(self, name) <= 1 - (name not in _WHOLE) * 1e-9:
                raise BadInput(f"recipe: {name} {getattr(self, name):g} is not a share below 1")
        for name, known in (("trunk", get_args(Trunk)), ("precision", get_args(Precision))):
            if getattr(self, name) not in known:
                raise unknown_name(name, getattr(self, name), known)
        if not any(getattr(self, name) for name in WEIGHTS):
            raise BadInput("recipe: no loss has a weight", "give one: arcface=1")
        if self.pull and not self.fusion:
            raise BadInput("recipe: pull moves what the fusion makes, and fusion is false", "set pull=0")

    @property
    def reads_captions(self) -> bool:
        return any(getattr(self, name) for name in OF_CAPTIONS)

    @property
    def has_identity(self) -> bool:
        """Whether a loss shapes the identity part."""
        return any(getattr(self, name) for name in _OF_IDENTITY)

    @property
    def fuses(self) -> bool:
        """Whether a loss goes through the fusion."""
        return bool((self.has_identity and self.fusion) or self.itm or self.mlm or self.box)

    @property
    def with_language(self) -> float:
        """The language part's weight in the descriptor: 0 where no loss shapes it."""
        return self.language if self.itc or self.contrast else 0.0

    def changed(self, settings: Sequence[str]) -> Recipe:
        """With some of its fields set, each "name=value"; BadInput says what can be set, and to what."""
        kinds = {field.name: type(getattr(self, field.name)) for field in fields(self)}
        wanted: dict[str, Any] = {}
        for setting in settings:
            name, equals, value = setting.partition("=")
            if not equals:
                raise BadInput(f"{setting!r} sets nothing", "write it as name=value")
            if name not in kinds:
                raise unknown_name("setting", name, kinds)
            wanted[name] = _read(name, value, kinds[name])
        return replace(self, **wanted)


_OF_IDENTITY = ("arcface", "triplet", "identity", "contrast", "pull")
OF_CAPTIONS = ("itc", "itm", "mlm", "imagine", "pull")
WEIGHTS = ("arcface", "triplet", "identity", "contrast", "itc", "itm", "mlm", "box", "imagine", "pull")
RECIPES = {
    "compact": Recipe(),
    "x2vlm": Recipe(
        trunk="x2vlm", p=16, epochs=10, patience=3, lr=3e-5, new=10.0, clip=1.0, ema=0.999, precision="bf16"
    ),
}


def recipe(name: str, settings: Sequence[str] = ()) -> Recipe:
    """A recipe by name, some of its fields changed; BadInput for what is not known."""
    if name not in RECIPES:
        raise unknown_name("recipe", name, RECIPES)
    return RECIPES[name].changed(settings)


def _read(name: str, value: str, kind: type) -> Any:
    if kind is bool:
        if value not in ("true", "false"):
            raise BadInput(f"{name}={value}: write true or false")
        return value == "true"
    try:
        return kind(value)
    except ValueError:
        raise BadInput(f"{name}={value}: not a{'n int' if kind is int else ' number'}") from None
