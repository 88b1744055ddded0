"""One structured question: every attribute of the vocabulary in one call."""

from __future__ import annotations

from typing import Any

from lookalike.captions.asking import Talk
from lookalike.captions.chat import Ask, Turn
from lookalike.captions.prompts import Prompt
from lookalike.captions.strategies.told import Told, several
from lookalike.captions.vocabulary import Vocabulary
from lookalike.values import Region


async def attributes(
    talk: Talk, region: Region, vocabulary: Vocabulary, prompt: Prompt, samples: int = 1
) -> Told:
    """The values that the model sees, as claims; it may abstain on each. One call a sample."""

    async def asked(sample: int) -> dict[str, Any]:
        return await everything(talk, region, vocabulary, prompt, sample)

    return Told.of([vocabulary.claims(vocabulary.values(reply)) for reply in await several(asked, samples)])


async def everything(
    talk: Talk, region: Region, vocabulary: Vocabulary, prompt: Prompt, sample: int
) -> dict[str, Any]:
    """The model's reply to the vocabulary's whole schema."""
    reply: dict[str, Any] = await talk.fill(question(region, vocabulary, prompt, sample))
    return reply


def question(region: Region, vocabulary: Vocabulary, prompt: Prompt, sample: int = 0) -> Ask:
    """What asks for the vocabulary's whole schema."""
    told = "\n".join(f"- {named.name}: {named.question}" for named in vocabulary.attributes)
    turn = Turn("user", prompt.says("ask", questions=told), region)
    return _form(prompt, turn, vocabulary.schema(), sample)


async def filled(
    talk: Talk, prompt: Prompt, turn: Turn, schema: dict[str, Any], sample: int
) -> dict[str, Any]:
    """One form filled in by the model that sees; nothing was said before."""
    reply: dict[str, Any] = await talk.fill(_form(prompt, turn, schema, sample))
    return reply


def _form(prompt: Prompt, turn: Turn, schema: dict[str, Any], sample: int) -> Ask:
    return Ask(
        "vlm",
        (Turn("system", prompt.says("system")), turn),
        schema,
        max_tokens=prompt.preset.reply_tokens,
        temperature=prompt.preset.heat(sample),
        seed=sample,
        sample=sample,
    )
