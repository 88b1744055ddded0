"""A dialogue: a language model that sees nothing asks, a model that sees answers, the first one sums up.

ChatCaptioner (Zhu et al., arXiv 2303.06594) with chat models in both places. The "paper" prompt follows its
protocol; the numbered ones let the answerer abstain, and stop when nothing new is said.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from lookalike.captions.asking import Talk
from lookalike.captions.chat import Ask, Role, Status, Turn
from lookalike.captions.prompts import Prompt
from lookalike.captions.replies import Unusable, fault, trimmed_answer, trimmed_question
from lookalike.captions.strategies.told import Told, several
from lookalike.captions.vocabulary import Vocabulary
from lookalike.values import Claim, Region
from lookalike.words import sentences

ANSWER = {
    "type": "object",
    "properties": {
        "answer": {"type": "string", "maxLength": 600},
        "status": {"type": "string", "enum": ["ok", "unsure", "not_visible"]},
    },
    "required": ["answer", "status"],
    "additionalProperties": False,
}
_QUIET = 2  # rounds without news that end a dialogue
_SMALL = """
a about also an and any are as at be been being but by can cannot clearly could do does for from has have how
i image in is it its know looks no not of on or photo picture seems shown shows so some sure that the their
there these they this those to very visible was what where which with would yes you
"""
_PLAIN = frozenset(_SMALL.split())  # words that are no news


@dataclass(frozen=True, slots=True)
class Round:
    """A question and what became of it; `status` is "ok" where `answer` says something about the picture."""

    question: str
    answer: str
    status: Status = "ok"
    claims: tuple[Claim, ...] = ()  # what the answer names of the vocabulary


async def dialogue(
    talk: Talk, region: Region, vocabulary: Vocabulary, prompt: Prompt, samples: int = 1
) -> Told:
    """What the closing summary says, cut into claims; `prose` is the first sample's summary.

    A sample is a whole dialogue.
    """
    hold = _as_published if prompt.preset.published else _while_there_is_news

    async def held(sample: int) -> tuple[tuple[Claim, ...], str]:
        return await hold(_Speakers(talk, region, vocabulary, prompt, sample))

    told = await several(held, samples)
    return Told.of([claims for claims, _ in told], prose=told[0][1])


async def _as_published(speakers: _Speakers) -> tuple[tuple[Claim, ...], str]:
    """All rounds, whatever is said; a question or summary that was cut short counts as it is.

    What differs from the paper, for chat models: the turn's instruction stands in the user's turn and no
    system turn comes last; the picture is in the first user turn and earlier answers are turns; and a reply
    that says nothing ("your message is empty") ends the caption, where the paper went on with it.
    """
    rounds: list[Round] = []
    question = speakers.prompt.says("first")
    while True:
        answer = await speakers.as_it_comes(speakers.to_answerer(rounds, question), trimmed_answer)
        rounds.append(Round(question, answer))
        if len(rounds) == speakers.prompt.preset.rounds:
            break
        question = await speakers.as_it_comes(speakers.to_asker(rounds), trimmed_question)
    summary = await speakers.as_it_comes(speakers.to_summariser(rounds), str.strip)
    return speakers.vocabulary.heard(summary), summary


async def _while_there_is_news(speakers: _Speakers) -> tuple[tuple[Claim, ...], str]:
    """Rounds until the asker repeats itself, or two in a row bring no news. An unsure answer is none."""
    rounds: list[Round] = []
    question: str | None = speakers.prompt.says("first")
    quiet = 0
    while question is not None:
        latest = await speakers.answered(rounds, question)
        quiet = 0 if _is_news(latest, rounds) else quiet + 1
        rounds.append(latest)
        if quiet == _QUIET or len(rounds) == speakers.prompt.preset.rounds:
            break
        question = await speakers.new_question(rounds)
    if not (known := [each for each in rounds if each.status == "ok"]):
        raise Unusable(rounds[0].status, "no question about the picture was answered")
    return await speakers.summed_up(known)


@dataclass(frozen=True)
class _Speakers:
    """The two models of one dialogue, and how each is spoken to."""

    talk: Talk
    region: Region
    vocabulary: Vocabulary
    prompt: Prompt
    sample: int

    def to_answerer(self, rounds: Sequence[Round], question: str) -> Ask:
        """The picture, the last few rounds as turns, and the question."""
        turns = [Turn("system", self.prompt.says("answerer"))]
        for earlier in rounds[-self.prompt.preset.context :]:
            turns += [Turn("user", earlier.question), Turn("assistant", self._as_answered(earlier))]
        turns.append(Turn("user", question))
        turns[1] = replace(turns[1], region=self.region)
        schema = None if self.prompt.preset.published else ANSWER
        return self._ask("vlm", turns, self.prompt.preset.answer_tokens, schema)

    def to_asker(self, rounds: Sequence[Round], refused: str = "") -> Ask:
        """All rounds as turns, then what to do next; `refused` is a question that it must not ask again."""
        turns = self._rounds(rounds, self.prompt.says("next", open=self._open(rounds)))
        if refused:
            turns += [Turn("assistant", f"Question: {refused}"), Turn("user", self.prompt.says("again"))]
        stop = () if self.prompt.preset.published else ("\n", "Answer:")
        return self._ask("llm", turns, self.prompt.preset.question_tokens, stop=stop)

    def to_summariser(self, rounds: Sequence[Round]) -> Ask:
        return self._ask(
            "llm", self._rounds(rounds, self.prompt.says("sum")), self.prompt.preset.summary_tokens
        )

    async def as_it_comes(self, ask: Ask, trim: Callable[[str], str]) -> str:
        """A reply in plain text, cut short or not."""
        try:
            return await self.talk.say(ask, trim)
        except Unusable as error:
            if error.status != "truncated":
                raise
            return trim(self.talk.steps[-1].raw)

    async def answered(self, rounds: Sequence[Round], question: str) -> Round:
        """A round. A reply that cannot be used is no answer, and the dialogue goes on without it."""
        try:
            reply = await self.talk.fill(self.to_answerer(rounds, question))
        except Unusable as error:
            return Round(question, "", error.status)
        answer = trimmed_answer(reply["answer"])
        status: Status = reply["status"] if reply["status"] != "ok" else fault(answer) or "ok"
        return Round(question, answer, status, self.vocabulary.heard(answer) if status == "ok" else ())

    async def new_question(self, rounds: Sequence[Round]) -> str | None:
        """The next question; None where the asker, told so once, still has nothing new to ask."""
        asked = {_gist(each.question) for each in rounds}
        refused = ""
        for _ in range(2):
            try:
                question = await self.talk.say(self.to_asker(rounds, refused), trimmed_question)
            except Unusable:
                question = ""
            if question and _gist(question) not in asked:
                return question
            refused = question or rounds[-1].question
        return None

    async def summed_up(self, known: Sequence[Round]) -> tuple[tuple[Claim, ...], str]:
        """Claims and prose of a summary of the given answers, without what none of them said.

        Where there is no summary to be had, or one that was cut short, the claims are the answers' own.
        """
        told = self.vocabulary.heard(" ".join(_ended(each.answer) for each in known))
        named = self._named([*told, *(claim for each in known for claim in each.claims)])

        def holds(claim: Claim) -> bool:
            return self._named([claim]) <= named

        try:
            summary = await self.talk.say(self.to_summariser(known))
        except Unusable:
            return told, ""
        claims = tuple(filter(holds, self.vocabulary.heard(summary)))
        prose = [part for part in sentences(summary) if all(map(holds, self.vocabulary.heard(part)))]
        return (claims if self._named(claims) else told), " ".join(prose)

    def _named(self, claims: Iterable[Claim]) -> frozenset[tuple[str, str]]:
        """The values that claims name; a second colour is a colour."""
        return frozenset(
            (self.vocabulary.attribute(claim.attribute).second_of or claim.attribute, claim.value)
            for claim in claims
            if claim.attribute
        )

    def _rounds(self, rounds: Sequence[Round], last: str) -> list[Turn]:
        """A dialogue as its asker sees it. It opens with a user's turn: many chat templates insist on one."""
        turns = [Turn("system", self.prompt.says("asker")), Turn("user", self.prompt.says("opening"))]
        for place, each in enumerate(rounds, start=1):
            answer = f"Answer: {each.answer if each.status == 'ok' else self.prompt.says('unsure')}"
            turns.append(Turn("assistant", f"Question: {each.question}"))
            turns.append(Turn("user", answer if place < len(rounds) else f"{answer}\n{last}"))
        return turns

    def _as_answered(self, earlier: Round) -> str:
        if self.prompt.preset.published:
            return earlier.answer
        known = earlier.status == "ok"
        answer = earlier.answer if known else self.prompt.says("unsure")
        return json.dumps({"answer": answer, "status": "ok" if known else "unsure"}, ensure_ascii=False)

    def _open(self, rounds: Sequence[Round]) -> str:
        """The attributes that no answer has spoken of, in plain words."""
        known: dict[str, list[str]] = {}
        for name, value in sorted(_values(rounds)):
            known.setdefault(name, []).append(value)
        lacking = ", ".join(name.replace("_", " ") for name in self.vocabulary.lacking(known))
        return lacking or self.prompt.says("rest")

    def _ask(
        self,
        to: Role,
        turns: Sequence[Turn],
        max_tokens: int,
        schema: dict[str, object] | None = None,
        stop: tuple[str, ...] = (),
    ) -> Ask:
        greedy = self.prompt.preset.published and to == "vlm"  # as BLIP-2 was; only the paper's asker is not
        heat = 0.0 if greedy else self.prompt.preset.heat(self.sample)
        return Ask(to, tuple(turns), schema, max_tokens, heat, self.sample, stop, self.sample)


def _is_news(latest: Round, before: Sequence[Round]) -> bool:
    """Whether an answer names a value that none named before, or has a word that was not said yet."""
    if latest.status != "ok":
        return False
    if not _values([latest]) <= _values(before):
        return True
    said = [each.question for each in [*before, latest]] + [
        each.answer for each in before if each.status == "ok"
    ]
    return not _content(latest.answer) <= _content(" ".join(said))


def _values(rounds: Sequence[Round]) -> set[tuple[str, str]]:
    """What the answers name: attribute and value."""
    claims = (claim for each in rounds for claim in each.claims)
    return {(claim.attribute, claim.value) for claim in claims if claim.attribute}


def _gist(question: str) -> frozenset[str]:
    """What makes two questions the same: their words, in whatever order, without the small ones."""
    return _content(question) or frozenset(question.lower().split())


def _content(text: str) -> frozenset[str]:
    return frozenset(re.findall(r"\w+", text.lower())) - _PLAIN


def _ended(sentence: str) -> str:
    return sentence if sentence.endswith((".", "!", "?")) else f"{sentence}."
