"""One structured question, then a few about what it left open or in doubt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lookalike.captions.asking import Talk
from lookalike.captions.chat import Ask, Turn
from lookalike.captions.prompts import Prompt
from lookalike.captions.replies import Unusable, fault, trimmed_question
from lookalike.captions.strategies.attributes import everything, filled
from lookalike.captions.strategies.told import Told, several
from lookalike.captions.vocabulary import Vocabulary
from lookalike.values import Region


async def targeted(
    talk: Talk, region: Region, vocabulary: Vocabulary, prompt: Prompt, samples: int = 1
) -> Told:
    """`attributes`, corrected by what was asked again.

    What a question of its own brings takes the first look's place, "not visible" too. Which questions are
    asked is decided once, over all samples; each sample then answers them for itself.
    """

    async def asked(sample: int) -> dict[str, Any]:
        return await everything(talk, region, vocabulary, prompt, sample)

    replies = await several(asked, samples)
    questions = await _questions(talk, vocabulary, prompt, replies)
    sampled = []
    for sample, reply in enumerate(replies):
        again = await _answers(talk, region, vocabulary, prompt, questions, sample)
        sampled.append(vocabulary.claims(vocabulary.values({**reply, **again})))
    return Told.of(sampled)


def in_doubt(
    vocabulary: Vocabulary, replies: Sequence[Mapping[str, Any]], confused: Sequence[str]
) -> list[str]:
    """The attributes that are worth a second look, the likeliest gain first, of the closed ones.

    What the samples disagree on, then what the first one lacks, then what it says of attributes that are
    often `confused`.
    """
    seen = [vocabulary.values(reply) for reply in replies]
    closed = [named.name for named in vocabulary.attributes if named.values]
    disputed = [name for name in closed if len({frozenset(values.get(name, ())) for values in seen}) > 1]
    doubted = [name for name in confused if name in seen[0]]
    return list(dict.fromkeys([*disputed, *vocabulary.lacking(replies[0]), *doubted]))


async def _questions(
    talk: Talk, vocabulary: Vocabulary, prompt: Prompt, replies: Sequence[Mapping[str, Any]]
) -> dict[str, str]:
    """What to ask again, by attribute, in words; at most `follow_ups`."""
    doubtful = in_doubt(vocabulary, replies, prompt.preset.confused)
    own = {name: vocabulary.attribute(name).question for name in doubtful}
    most = prompt.preset.follow_ups
    if prompt.preset.asking == "chosen" and own:
        try:
            return await _chosen(talk, vocabulary, prompt, replies[0], own)
        except Unusable:  # the vocabulary's own questions will do
            pass
    return dict(list(own.items())[:most])


async def _chosen(
    talk: Talk, vocabulary: Vocabulary, prompt: Prompt, reply: Mapping[str, Any], own: Mapping[str, str]
) -> dict[str, str]:
    """The LLM's choice of questions in its words. It is told no free text: that may come from the picture."""
    known = "; ".join(
        f"{name}: {', '.join(values)}"
        for name, values in vocabulary.values(reply).items()
        if vocabulary.attribute(name).values
    )
    text = prompt.says(
        "choose",
        known=known or "-",
        open="\n".join(f"- {name}: {question}" for name, question in own.items()),
        most=str(prompt.preset.follow_ups),
    )
    question = {
        "type": "object",
        "properties": {
            "attribute": {"type": "string", "enum": list(own)},
            "question": {"type": "string", "maxLength": 200},
        },
        "required": ["attribute", "question"],
        "additionalProperties": False,
    }
    schema = {
        "type": "object",
        "properties": {
            "questions": {"type": "array", "items": question, "maxItems": prompt.preset.follow_ups}
        },
        "required": ["questions"],
        "additionalProperties": False,
    }
    turns = (Turn("system", prompt.says("asker")), Turn("user", text))
    chosen = await talk.fill(Ask("llm", turns, schema, max_tokens=prompt.preset.reply_tokens))
    asked = {}
    for choice in chosen["questions"]:
        name, worded = choice["attribute"], trimmed_question(choice["question"])
        asked[name] = own[name] if fault(worded) else worded
    return asked


async def _answers(
    talk: Talk,
    region: Region,
    vocabulary: Vocabulary,
    prompt: Prompt,
    questions: Mapping[str, str],
    sample: int,
) -> dict[str, Any]:
    """The replies to the questions by attribute; without those that cannot be used: the first look stands."""
    names = list(questions)
    calls = [names] if prompt.preset.asking == "together" and names else [[name] for name in names]
    replies: dict[str, Any] = {}
    for call in calls:
        text = prompt.says("follow", questions="\n".join(f"- {name}: {questions[name]}" for name in call))
        try:
            replies |= await filled(talk, prompt, Turn("user", text, region), vocabulary.schema(call), sample)
        except Unusable:
            continue
    return replies
