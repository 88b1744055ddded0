"""How long a query takes: what this machine really needs, and what calls to a model's server would add.

No vision-language model is run here. Calls are made by the real captioner to a stand-in and counted; how long
each would take is a stated model of a server, so every such time is a simulated one.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lookalike import images
from lookalike.captions import ModelCaptioner, Palette
from lookalike.captions.captioner import Telling
from lookalike.captions.chat import Step
from lookalike.datasets import Dataset, Labelled
from lookalike.roles import Encoder
from lookalike.study.material import captioner_of
from lookalike.values import Progress, Region

STRATEGIES = ("attributes", "targeted", "dialogue")
AT_ONCE = 8  # pictures that the stand-in is asked about at a time


@dataclass(frozen=True, slots=True)
class Server:
    """Seconds that calls take at a server, one after the other."""

    form: float  # a picture and all attributes of the vocabulary, some 70 words out
    answer: float  # a picture and one question
    question: float  # the LLM asks
    summary: float  # the LLM sums up

    def seconds(self, steps: Sequence[Step], strategy: str) -> float:
        """Of a caption that came about in these calls; one that came out of a cache takes none."""
        made = [step for step in steps if not step.cached]
        asked = [step for step in made if step.to == "llm"]
        seen = len(made) - len(asked)
        forms = min(seen, 1) if strategy != "dialogue" else 0
        summaries = min(len(asked), 1)
        return (
            forms * self.form
            + (seen - forms) * self.answer
            + (len(asked) - summaries) * self.question
            + summaries * self.summary
        )


# A 7B model on one RTX 5060 Ti: 95 ms for the picture, 180 ms for the prompt, 90 tokens a second, by one
# vendor's figures (gigagpu.com); an LLM of about that speed asks and sums up.
SERVER = Server(form=1.05, answer=0.5, question=0.35, summary=1.2)


@dataclass(frozen=True, slots=True)
class Asked:
    """What a strategy came to on a sample of pictures."""

    pictures: int
    calls: float  # a picture
    seconds: float  # a picture, simulated: SERVER's
    failed: float  # share of the pictures
    same: float  # share of the pictures whose caption is that of "attributes", word for word


@dataclass(frozen=True, slots=True)
class Measured:
    """Milliseconds on this machine, medians over so many queries' pictures, one after the other."""

    pictures: int
    bare: float  # read the picture, encode it without a caption, search
    again: float  # encode it with its caption, search
    palette: float  # have palette look at it


def measured(
    encoder: Encoder, regions: Sequence[Labelled], gallery: int, on_progress: Progress | None = None
) -> Measured:
    """By the encoder that searches would use, an exact search in `gallery` descriptors, and palette.

    The first picture warms up and is not counted; needs two at least.
    """
    rows = np.random.default_rng(0).standard_normal((gallery, encoder.dim)).astype(np.float32)
    palette = Palette()

    spans: dict[str, list[float]] = {"bare": [], "again": [], "palette": []}
    for done, listed in enumerate(regions, start=1):
        moments = [time.perf_counter()]
        region = Region(images.load(listed.source), listed.box)
        np.argsort(-(rows @ encoder.pictures([region])[0]))
        moments.append(time.perf_counter())
        said = palette.captions([region])[0].text
        moments.append(time.perf_counter())
        np.argsort(-(rows @ encoder.pictures([region], [said or "clothes"])[0]))
        moments.append(time.perf_counter())
        for name, seconds in zip(("bare", "palette", "again"), np.diff(moments).tolist(), strict=True):
            spans[name].append(1000 * seconds)
        if on_progress:
            on_progress(done, len(regions))
    return Measured(len(regions) - 1, **{name: float(np.median(each[1:])) for name, each in spans.items()})


def asked(
    source: str, dataset: Dataset, split: str, regions: Sequence[Labelled],
    on_progress: Progress | None = None,
) -> dict[str, Asked]:  # fmt: skip
    """What each strategy asks about some regions of a split, and what that would take: by strategy.

    `source` is a model's, as `material` names it.
    """
    seen = [Region(images.load(region.source), region.box) for region in regions]
    told: dict[str, list[Telling]] = {}
    for number, strategy in enumerate(STRATEGIES):
        told[strategy] = []
        with captioner_of(source, dataset, split, strategy) as captioner:
            assert isinstance(captioner, ModelCaptioner)
            captioner.ready()
            for start in range(0, len(seen), AT_ONCE):
                told[strategy] += captioner.tellings(seen[start : start + AT_ONCE])
                if on_progress:
                    on_progress(number * len(seen) + len(told[strategy]), len(STRATEGIES) * len(seen))
    usual = [telling.caption.text for telling in told["attributes"]]
    return {strategy: _asked(strategy, tellings, usual) for strategy, tellings in told.items()}


def _asked(strategy: str, tellings: Sequence[Telling], usual: Sequence[str]) -> Asked:
    calls = [sum(not step.cached for step in telling.steps) for telling in tellings]
    return Asked(
        len(tellings),
        calls=float(np.mean(calls)),
        seconds=float(np.mean([SERVER.seconds(telling.steps, strategy) for telling in tellings])),
        failed=float(np.mean([telling.caption.error is not None for telling in tellings])),
        same=float(
            np.mean([telling.caption.text == text for telling, text in zip(tellings, usual, strict=True)])
        ),
    )
