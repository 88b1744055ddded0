"""Dialogues recorded with a real LLM as the asker, replayed: what is read from replies stays the same."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from lookalike.captions import Desk, Pace, Vocabulary
from lookalike.captions.chat import Ask, Reply, Role
from lookalike.captions.prompts import load
from lookalike.captions.replies import Unusable
from lookalike.captions.strategies import STRATEGIES
from lookalike.testing import drawing
from lookalike.values import Picture, Region

FILE = Path(__file__).parents[1] / "golden" / "captions" / "dialogues-smollm2.jsonl"
DIALOGUES = [json.loads(line) for line in FILE.read_text().splitlines()[1:]]


class Recorded:
    """An engine that says what was said; an ask that was not recorded is an error."""

    name = "recorded"
    elsewhere = True

    def __init__(self, replies: list[Mapping[str, str]]) -> None:
        self._replies = {reply["ask"]: reply for reply in replies}
        self.asked: set[str] = set()

    async def ready(self) -> None: ...

    def identity(self, to: Role) -> Mapping[str, str]:
        return {"model": f"recorded {to}"}

    async def complete(self, ask: Ask) -> Reply:
        told = [ask.to, [[turn.by, turn.text] for turn in ask.turns], ask.sample]
        key = hashlib.sha256(json.dumps(told).encode()).hexdigest()[:16]
        self.asked.add(key)
        reply = self._replies[key]
        return Reply(reply["text"], reply["finish"])  # type: ignore[arg-type]

    async def close(self) -> None: ...


async def replayed(dialogue: dict[str, Any], engine: Recorded) -> dict[str, Any]:
    talk = Desk(engine, None, Pace()).talk("replay")
    words, prompt = Vocabulary.open("fashion"), load("dialogue", dialogue["prompt"])
    end: dict[str, Any]
    try:
        told = await STRATEGIES["dialogue"](talk, Region(Picture.of(drawing(1))), words, prompt)
        end = {"claims": [[claim.attribute, claim.value] for claim in told.claims], "prose": told.prose}
    except Unusable as error:
        end = {"status": error.status}
    return end | {"steps": [[step.to, step.status, step.used] for step in talk.steps]}


@pytest.mark.parametrize("dialogue", DIALOGUES, ids=lambda each: f"{each['prompt']}-{each['region']}")
def test_a_recorded_dialogue_comes_to_the_same(dialogue: dict[str, Any]) -> None:
    engine = Recorded(dialogue["replies"])
    assert asyncio.run(replayed(dialogue, engine)) == dialogue["told"]
    assert engine.asked == {reply["ask"] for reply in dialogue["replies"]}


def test_an_ask_that_was_not_recorded_is_an_error() -> None:
    with pytest.raises(KeyError):
        asyncio.run(replayed(DIALOGUES[0], Recorded(DIALOGUES[0]["replies"][:3])))
