"""Models that say what a test tells them to, asked through a real desk."""

import asyncio
import json
from collections.abc import Callable, Iterable, Mapping

import numpy as np

from lookalike.captions.asking import Desk, Talk
from lookalike.captions.cache import Cache
from lookalike.captions.chat import Ask, Reply
from lookalike.captions.pacing import Pace
from lookalike.captions.prompts import load
from lookalike.captions.strategies import STRATEGIES, Told
from lookalike.captions.vocabulary import Vocabulary
from lookalike.values import Box, Picture, Region

FASHION = Vocabulary.open("fashion")
PIXELS = np.random.default_rng(0).integers(0, 255, (40, 30, 3), np.uint8)
REGION = Region(Picture.of(PIXELS), Box(3, 4, 28, 36))
WORDS = (
    "buckles",
    "ribbons",
    "tassels",
    "fringes",
    "pleats",
    "darts",
    "gathers",
    "ruffles",
    "rivets",
    "bows",
)


class Scripted:
    """An engine whose models reply as `speak` says; `asks` are the calls that it got."""

    name = "scripted"
    elsewhere = True

    def __init__(self, speak: Callable[[Ask], str | Reply]) -> None:
        self._speak = speak
        self.asks: list[Ask] = []

    async def ready(self) -> None: ...

    def identity(self, to: str) -> Mapping[str, str]:
        return {"model": to}

    async def complete(self, ask: Ask) -> Reply:
        self.asks.append(ask)
        said = self._speak(ask)
        return said if isinstance(said, Reply) else Reply(said)

    async def close(self) -> None: ...

    def to(self, role: str) -> list[Ask]:
        return [ask for ask in self.asks if ask.to == role]


class Couple:
    """Speaks for both models of a dialogue: `answers`, `questions` and a summary, each in its turn."""

    def __init__(
        self,
        version: str,
        answers: Iterable[str | dict | Reply],
        questions: Iterable[str | Reply] = (),
        summary: str | Reply = "A navy skirt.",
    ) -> None:
        self._sum = load("dialogue", version).says("sum")
        self._answers, self._questions, self._summary = iter(answers), iter(questions), summary

    def __call__(self, ask: Ask) -> str | Reply:
        if ask.to == "vlm":
            answer = next(self._answers)
            return json.dumps(answer) if isinstance(answer, dict) else answer
        return self._summary if ask.turns[-1].text.endswith(self._sum) else next(self._questions)


def asked(
    strategy: str,
    version: str,
    engine: Scripted,
    region: Region = REGION,
    samples: int = 1,
    vocabulary: Vocabulary = FASHION,
) -> tuple[Told, Talk]:
    async def ask() -> tuple[Told, Talk]:
        with Cache() as cache:
            talk = Desk(engine, cache, Pace(attempts=1)).talk(f"{strategy}/{version}")
            told = await STRATEGIES[strategy](talk, region, vocabulary, load(strategy, version), samples)
            return told, talk

    return asyncio.run(ask())


def ok(answer: str) -> dict[str, str]:
    return {"answer": answer, "status": "ok"}


def unsure(answer: str) -> dict[str, str]:
    return {"answer": answer, "status": "unsure"}


def filled(ask: Ask, **values: object) -> str:
    """A reply to the ask's form: the given values, and "not_visible" for the rest."""
    properties = ask.schema["properties"]
    rest = {name: [] if form["type"] == "array" else "not_visible" for name, form in properties.items()}
    return json.dumps(rest | {name: value for name, value in values.items() if name in properties})


def attributes_of(told: Told) -> dict[str, str]:
    return {claim.attribute: claim.value for claim in told.claims}
