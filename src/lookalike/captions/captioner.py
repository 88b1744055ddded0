"""Captioners: what a catalogue asks for captions."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Coroutine, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self, TypeVar

from lookalike.captions import checking
from lookalike.captions.asking import Desk
from lookalike.captions.chat import CallFailed, Step
from lookalike.captions.prompts import load
from lookalike.captions.replies import Unusable
from lookalike.captions.strategies import STRATEGIES
from lookalike.captions.vocabulary import Vocabulary
from lookalike.errors import BadInput, unknown_name
from lookalike.roles import Captioner, Encoder
from lookalike.values import Caption, Claim, Region

Value = TypeVar("Value")


@dataclass(frozen=True, slots=True)
class Telling:
    """A caption, and how it came about."""

    caption: Caption
    prose: str = ""  # the models' own words, for people
    steps: tuple[Step, ...] = ()


class ModelCaptioner:
    """Asks a vision-language model, and in some strategies an LLM, about each region.

    `prompt` is a version of the strategy's wordings, None the newest; `models` are the models' names, for the
    captioner's own. Everything runs in an event loop of its own, in a thread that starts with the first
    caption; it may be used from several threads. `check` compares claims with the region's pixels.
    `deadline_s` bounds one caption.

    A caption that cannot be had is one with an error. What is raised ends a run: `BudgetSpent`, where too
    many calls failed and going on would cost for nothing, and `CacheError`. Once closed it cannot be used
    again.
    """

    def __init__(
        self,
        desk: Desk,
        strategy: str = "attributes",
        prompt: str | None = None,
        vocabulary: Vocabulary | None = None,
        samples: int = 1,
        check: bool = True,
        deadline_s: float | None = None,
        models: str = "",
    ) -> None:
        if strategy not in STRATEGIES:
            raise unknown_name("strategy", strategy, STRATEGIES)
        if samples < 1:
            raise BadInput(f"{samples} samples", "ask at least once")
        self._desk, self._ask = desk, STRATEGIES[strategy]
        self._prompt = load(strategy, prompt)
        self.vocabulary = vocabulary or Vocabulary.open("fashion")
        self._samples, self._check, self._deadline_s = samples, check, deadline_s
        self._protocol = f"{strategy}/{self._prompt.version} {self.vocabulary.name}:{self.vocabulary.version}"
        checks = [*([f"{samples} samples"] if samples > 1 else []), *([] if check else ["unchecked"])]
        self.name = " ".join(filter(None, [desk.name, models, self._protocol, *checks]))
        self.elsewhere = desk.elsewhere
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._closed = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def captions(self, regions: Sequence[Region]) -> list[Caption]:
        return [telling.caption for telling in self.tellings(regions)]

    def tellings(self, regions: Sequence[Region]) -> list[Telling]:
        """`captions` with their transcripts; the regions of one call are asked about side by side."""
        return self._run(self._all(regions))

    def ready(self) -> None:
        """Find out now, with one try, whether the models can be asked; CallFailed says why not."""
        self._run(self._desk.ready(patient=False))

    def models(self) -> dict[str, dict[str, str]]:
        """What decides the replies of each of the two, "vlm" and "llm": server, model, dialect."""
        self.ready()
        return {role: dict(self._desk.identity(role)) for role in ("vlm", "llm")}

    def close(self) -> None:
        """Break off what is under way. What was answered is in the cache."""
        with self._lock:
            loop, self._loop, self._closed = self._loop, None, True
        if loop is not None:
            asyncio.run_coroutine_threadsafe(_closed(self._desk), loop).result()
            loop.call_soon_threadsafe(loop.stop)
            self._thread.join()

    async def _all(self, regions: Sequence[Region]) -> list[Telling]:
        return list(await asyncio.gather(*map(self._one, regions)))

    async def _one(self, region: Region) -> Telling:
        deadline = None if self._deadline_s is None else time.monotonic() + self._deadline_s
        talk = self._desk.talk(self._protocol, deadline)
        try:
            told = await self._ask(talk, region, self.vocabulary, self._prompt, self._samples)
        except Unusable as error:
            return self._failed(f"{error.status}: {error.why}", talk.steps)
        except CallFailed as error:
            return self._failed(str(error), talk.steps)
        claims = checking.samples(told.sampled) if len(told.sampled) > 1 else told.claims
        if self._check:
            claims = await asyncio.to_thread(checking.pixels, claims, region)
        return Telling(worded(claims, self.vocabulary, self.name), told.prose, tuple(talk.steps))

    def _failed(self, why: str, steps: Sequence[Step]) -> Telling:
        return Telling(Caption("", self.name, error=why), steps=tuple(steps))

    def _run(self, work: Coroutine[Any, Any, Value]) -> Value:
        with self._lock:
            if self._closed:
                work.close()
                raise ValueError("the captioner is closed")
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                self._thread = threading.Thread(
                    target=_turn, args=(self._loop,), name="captions", daemon=True
                )
                self._thread.start()
            future = asyncio.run_coroutine_threadsafe(work, self._loop)
        return future.result()


class Guarded:
    """A captioner whose claims the encoder has a say in: what disagrees with the picture is not believed.

    It is for encoders with a guard, the agreement that a sentence needs with its picture by the model's own
    image-text loss; with others captions pass as they are.
    """

    def __init__(self, captioner: Captioner, encoder: Encoder, vocabulary: Vocabulary | None = None) -> None:
        self._captioner, self._encoder = captioner, encoder
        self._vocabulary = vocabulary or Vocabulary.open("fashion")
        self.name = f"{captioner.name}, checked by {encoder.name}"

    def captions(self, regions: Sequence[Region]) -> list[Caption]:
        return [telling.caption for telling in self.tellings(regions)]

    def tellings(self, regions: Sequence[Region]) -> list[Telling]:
        told = tellings_of(self._captioner, regions)
        return [
            replace(telling, caption=self._checked(region, telling.caption))
            for region, telling in zip(regions, told, strict=True)
        ]

    def close(self) -> None:
        if isinstance(self._captioner, ModelCaptioner):
            self._captioner.close()

    def _checked(self, region: Region, caption: Caption) -> Caption:
        if caption.error or not caption.claims:
            return replace(caption, by=self.name)
        claims = checking.agreement(caption.claims, region, self._encoder)
        return worded(claims, self._vocabulary, self.name)


def tellings_of(captioner: Captioner, regions: Sequence[Region]) -> list[Telling]:
    """A captioner's captions, with their transcripts where it has any."""
    if isinstance(captioner, ModelCaptioner | Guarded):
        return captioner.tellings(regions) if regions else []
    return [Telling(caption) for caption in captioner.captions(regions)] if regions else []


def worded(claims: Iterable[Claim], vocabulary: Vocabulary, by: str) -> Caption:
    """The caption that says what is believed of the claims."""
    claims = checking.decided(tuple(claims))
    return Caption(vocabulary.rendered([claim for claim in claims if claim.believed]), by, claims=claims)


def of_item(captions: Sequence[Caption], vocabulary: Vocabulary, title: str = "") -> Caption:
    """One caption for an item, of the captions of its views: what most of them say of each attribute.

    The merchant's `title` goes in front, as a claim of the attribute "title" that nobody checked. Where every
    view failed, the first error.
    """
    told = [caption for caption in captions if caption.error is None]
    if not told:
        return captions[0]
    claims = checking.decided(checking.views([caption.claims for caption in told]))
    text = vocabulary.rendered([claim for claim in claims if claim.believed])
    if title:
        claims = (Claim(title, "title", title), *claims)
        text = f"{title}. {text}" if text else title
    return Caption(text, told[0].by, claims=claims)


def _turn(loop: asyncio.AbstractEventLoop) -> None:
    loop.run_forever()
    loop.close()


async def _closed(desk: Desk) -> None:
    others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)
    await desk.close()
