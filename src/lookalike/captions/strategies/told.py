"""What a strategy brings home."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, Self, TypeVar

from lookalike.captions.asking import Talk
from lookalike.captions.prompts import Prompt
from lookalike.captions.replies import Unusable
from lookalike.captions.vocabulary import Vocabulary
from lookalike.values import Claim, Region

Answer = TypeVar("Answer")


@dataclass(frozen=True, slots=True)
class Told:
    """What was found out about a region, nothing of it checked yet."""

    claims: tuple[Claim, ...]  # of the first sample
    prose: str = ""  # the models' own text, for people; "" where there is none
    sampled: tuple[tuple[Claim, ...], ...] = ()  # the claims of every sample, the first one's too

    @classmethod
    def of(cls, sampled: Sequence[tuple[Claim, ...]], prose: str = "") -> Self:
        """Unusable("not_visible") where no sample says anything of an attribute: that is no caption."""
        if not any(claim.attribute for claims in sampled for claim in claims):
            raise Unusable("not_visible", "nothing was seen that the vocabulary knows")
        return cls(sampled[0], prose, tuple(sampled))


class Strategy(Protocol):
    async def __call__(
        self, talk: Talk, region: Region, vocabulary: Vocabulary, prompt: Prompt, samples: int = 1
    ) -> Told:
        """Ask about one region, `samples` times; Unusable or CallFailed where no caption can be had."""


async def several(ask: Callable[[int], Awaitable[Answer]], samples: int) -> list[Answer]:
    """What `ask` brings for sample 0, 1, …; the unusable ones are left out, Unusable where all are."""
    answers: list[Answer] = []
    wrong: Unusable | None = None
    for sample in range(samples):
        try:
            answers.append(await ask(sample))
        except Unusable as error:
            wrong = wrong or error
    if wrong is not None and not answers:
        raise wrong
    return answers
