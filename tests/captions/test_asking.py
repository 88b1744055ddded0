import asyncio
import json
import signal
import sqlite3
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from swift_time import now, swiftly

from lookalike.captions.asking import Desk
from lookalike.captions.cache import Cache
from lookalike.captions.chat import Ask, CallFailed, Reply, Role, Turn
from lookalike.captions.pacing import BudgetSpent, Late, Pace
from lookalike.captions.replies import Unusable
from lookalike.values import Box, Picture, Region

Answer = Callable[[Ask, int], str | Reply | CallFailed]
SCHEMA = {
    "type": "object",
    "properties": {"colour": {"enum": ["navy", "red"]}, "pattern": {"enum": ["plain"]}},
    "required": ["colour"],
    "additionalProperties": False,
}
NAVY = '{"colour": "navy"}'


class Counting:
    """An engine of which is known what it was asked, and how often."""

    name = "counting"
    elsewhere = True

    def __init__(self, answer: Answer = lambda ask, number: NAVY, takes: float = 0.0) -> None:
        self.answer, self.takes = answer, takes
        self.asks: list[Ask] = []
        self.readied = self.closed = 0
        self.who = {"server": "here", "model": "small", "dialect": "json_schema"}

    async def ready(self) -> None:
        self.readied += 1
        await asyncio.sleep(0)

    def identity(self, to: Role) -> Mapping[str, str]:
        assert self.readied
        return self.who

    async def complete(self, ask: Ask) -> Reply:
        number = len(self.asks)
        self.asks.append(ask)
        if self.takes:
            await asyncio.sleep(self.takes)
        answer = self.answer(ask, number)
        if isinstance(answer, CallFailed):
            raise answer
        if isinstance(answer, str):
            return Reply(answer, tokens_in=100, tokens_out=7, first_ms=3.0, total_ms=self.takes * 1e3)
        return answer

    async def close(self) -> None:
        self.closed += 1


def in_turn(*answers: str | Reply | CallFailed) -> Answer:
    return lambda ask, number: answers[number]


def desk(engine: Counting, cache: Cache | None = None, **options: Any) -> Desk:
    return Desk(engine, cache, Pace(), **options)


def plain(text: str = "Which colour?", **options: Any) -> Ask:
    return Ask("llm", (Turn("user", text),), **options)


def filled(text: str = "Fill it in.") -> Ask:
    return plain(text, schema=SCHEMA)


def region(shade: int = 0, box: Box | None = None, **options: Any) -> Region:
    picture = Picture.of(np.full((8, 8, 3), shade, np.uint8))
    return Region(replace(picture, **options), box)


def shown(what: Region) -> Ask:
    return Ask("vlm", (Turn("system", "Be brief."), Turn("user", "What is it?", what)))


# What makes two asks the same

PICTURE = region(7, Box(1, 1, 6, 6), sha256="ab", source="shop/one.jpg")
BASE = Ask("vlm", (Turn("system", "Be brief."), Turn("user", "What is it?", PICTURE)), SCHEMA)


def with_turn(**changes: Any) -> Ask:
    return replace(BASE, turns=(BASE.turns[0], replace(BASE.turns[1], **changes)))


def with_picture(**changes: Any) -> Ask:
    return with_turn(region=replace(PICTURE, picture=replace(PICTURE.picture, **changes)))


OTHERS = {
    "role": replace(BASE, to="llm"),
    "system": replace(BASE, turns=(Turn("system", "Be long."), BASE.turns[1])),
    "no system": replace(BASE, turns=BASE.turns[1:]),
    "text": with_turn(text="What is this?"),
    "by": with_turn(by="assistant"),
    "no region": with_turn(region=None),
    "region elsewhere": replace(
        BASE, turns=(replace(BASE.turns[0], region=PICTURE), replace(BASE.turns[1], region=None))
    ),
    "a turn more": replace(BASE, turns=(*BASE.turns, Turn("assistant", "A shirt."))),
    "schema": replace(BASE, schema={**SCHEMA, "required": []}),
    "order of the schema": replace(
        BASE, schema={**SCHEMA, "properties": dict(reversed(SCHEMA["properties"].items()))}
    ),
    "no schema": replace(BASE, schema=None),
    "max_tokens": replace(BASE, max_tokens=255),
    "temperature": replace(BASE, temperature=0.1),
    "seed": replace(BASE, seed=1),
    "stop": replace(BASE, stop=("\n",)),
    "sample": replace(BASE, sample=1),
    "bytes": with_picture(sha256="ac"),
    "no bytes known": with_picture(sha256=""),
    "width": with_picture(width=16),
    "height": with_picture(height=16),
    "decoded size": with_picture(pixels=np.zeros((8, 9, 3), np.uint8)),
    "box": with_turn(region=replace(PICTURE, box=Box(1, 1, 6, 6.5))),
    "whole picture": with_turn(region=replace(PICTURE, box=None)),
}
SAME = {
    "source": with_picture(source="elsewhere/two.jpg"),
    "score": with_turn(region=replace(PICTURE, score=0.5)),
    "other object": with_picture(pixels=PICTURE.picture.pixels.copy()),
    "temperature as a whole number": replace(BASE, temperature=0),
    "schema of its own": replace(BASE, schema=json.loads(json.dumps(SCHEMA))),
}


def calls_of(first: Ask, second: Ask, protocols: Sequence[str] = ("attributes/3", "attributes/3")) -> int:
    """What two asks cost, one after the other."""
    engine = Counting()

    async def both() -> None:
        asking = desk(engine, Cache())
        for ask, protocol in zip((first, second), protocols, strict=True):
            await asking.talk(protocol).say(ask)

    asyncio.run(both())
    return len(engine.asks)


@pytest.mark.parametrize("name", OTHERS)
def test_whatever_decides_a_reply_is_in_the_key(name: str) -> None:
    assert calls_of(BASE, OTHERS[name]) == 2


@pytest.mark.parametrize("name", SAME)
def test_nothing_else_is_in_the_key(name: str) -> None:
    assert calls_of(BASE, SAME[name]) == 1


def test_the_protocol_is_in_the_key() -> None:
    assert calls_of(BASE, BASE, ("attributes/3", "attributes/2")) == 2
    assert calls_of(BASE, BASE) == 1


def test_pictures_whose_bytes_are_unknown_are_told_apart_by_their_pixels() -> None:
    assert calls_of(shown(region(1)), shown(region(2))) == 2
    assert calls_of(shown(region(1)), shown(region(1))) == 1
    wide = Region(Picture.of(np.zeros((4, 16, 3), np.uint8)))
    high = Region(Picture.of(np.zeros((16, 4, 3), np.uint8)))
    assert calls_of(shown(wide), shown(high)) == 2


@pytest.mark.parametrize("field", ["server", "model", "dialect", "preprocess", "revision"])
def test_who_is_asked_is_in_the_key(field: str) -> None:
    cache, engine, other = Cache(), Counting(), Counting()
    options = {"preprocess": "png"} if field == "preprocess" else {}
    if field != "preprocess":
        other.who = {**other.who, field: "another"}

    async def both() -> None:
        await desk(engine, cache).talk("a/1").say(shown(PICTURE))
        await desk(other, cache, **options).talk("a/1").say(shown(PICTURE))

    asyncio.run(both())
    assert len(engine.asks) == len(other.asks) == 1


# Nothing twice


def test_equal_asks_that_overlap_are_one_call() -> None:
    engine = Counting(takes=1.0)

    async def ten() -> list[Any]:
        talks = [desk_.talk("a/1") for _ in range(10)]
        assert await asyncio.gather(*(talk.fill(filled()) for talk in talks)) == [{"colour": "navy"}] * 10
        return [step for talk in talks for step in talk.steps]

    desk_ = desk(engine)
    steps = swiftly(ten())
    assert len(engine.asks) == engine.readied == 1
    assert [step.cached for step in steps].count(False) == 1
    assert sum(step.tokens_in for step in steps) == 100
    assert sum(step.tokens_out for step in steps) == 7
    shared = next(step for step in steps if step.cached)
    assert shared.queue_ms == pytest.approx(1000, abs=1)
    assert shared.extra["tokens_out"] == 7


def test_threads_that_hand_their_asks_to_one_loop_share_calls() -> None:
    release = threading.Event()

    class Held(Counting):
        async def complete(self, ask: Ask) -> Reply:
            reply = await super().complete(ask)
            await asyncio.to_thread(release.wait)
            return reply

    async def until_all_wait() -> None:
        while not engine.asks:
            await asyncio.sleep(0)
        for _ in range(10):
            await asyncio.sleep(0)

    engine, loop = Held(), asyncio.new_event_loop()
    runner = threading.Thread(target=loop.run_forever)
    runner.start()
    asking = desk(engine)
    try:
        with ThreadPoolExecutor(4) as threads:
            handed = list(
                threads.map(
                    lambda _: asyncio.run_coroutine_threadsafe(asking.talk("a/1").fill(filled()), loop),
                    range(20),
                )
            )
        asyncio.run_coroutine_threadsafe(until_all_wait(), loop).result(30)
        release.set()
        assert [future.result(30) for future in handed] == [{"colour": "navy"}] * 20
    finally:
        loop.call_soon_threadsafe(loop.stop)
        runner.join()
        loop.run_until_complete(loop.shutdown_default_executor())
        loop.close()
    assert len(engine.asks) == 1


def test_a_kept_reply_costs_nothing_and_tells_what_it_cost() -> None:
    engine, cache = Counting(takes=2.0), Cache()

    async def twice() -> Any:
        first, second = desk(engine, cache).talk("a/1"), desk(engine, cache).talk("a/1")
        assert await first.fill(filled()) == await second.fill(filled())
        return first.steps + second.steps

    before = time.time()
    paid, kept = swiftly(twice())
    assert len(engine.asks) == 1
    assert (paid.cached, paid.tokens_in, paid.tokens_out, paid.first_ms) == (False, 100, 7, 3.0)
    assert paid.extra == {}
    assert (kept.cached, kept.tokens_in, kept.tokens_out, kept.first_ms) == (True, 0, 0, None)
    assert (kept.raw, kept.used, kept.status) == (paid.raw, paid.used, "ok")
    assert kept.queue_ms + kept.retry_ms + kept.total_ms < 1
    assert kept.extra["tokens_in"] == 100
    assert kept.extra["tokens_out"] == 7
    assert kept.extra["total_ms"] == 2000
    assert before <= kept.extra["asked"] <= time.time()


def test_useless_replies_are_kept_too_and_asked_anew_on_request() -> None:
    useless = Reply("As an AI I cannot see the image.")
    cache, engine = Cache(), Counting(lambda ask, number: "no JSON" if ask.schema else useless)

    async def ask(engine: Counting, **options: Any) -> list[str]:
        talk = desk(engine, cache, **options).talk("a/1")
        with pytest.raises(Unusable):
            await talk.say(plain())
        with pytest.raises(Unusable):
            await talk.fill(filled())
        return [step.status for step in talk.steps]

    first = asyncio.run(ask(engine))
    assert first == ["meta", "invalid", "invalid", "invalid"]
    assert len(engine.asks) == 4
    assert asyncio.run(ask(engine)) == first
    assert len(engine.asks) == 4

    better = Counting(lambda ask, number: NAVY)

    async def again() -> None:
        talk = desk(better, cache, failures_again=True).talk("a/1")
        assert await talk.fill(filled()) == {"colour": "navy"}
        assert await talk.say(plain()) == NAVY
        assert await desk(engine, cache, failures_again=True).talk("a/1").say(plain()) == NAVY

    asyncio.run(again())
    assert len(better.asks) == 2
    assert len(engine.asks) == 4


def test_what_the_server_will_never_answer_is_not_asked_again_for_a_while() -> None:
    cache, engine = (
        Cache(),
        Counting(lambda ask, number: CallFailed("too many pixels", "shrink it", status=413)),
    )

    async def ask(**options: Any) -> None:
        talk = desk(engine, cache, **options).talk("a/1")
        with pytest.raises(CallFailed, match="too many pixels") as caught:
            await talk.say(plain())
        assert (caught.value.hint, caught.value.status, caught.value.again) == ("shrink it", 413, False)
        [step] = talk.steps
        assert (step.status, step.extra["error"]) == ("failed", "too many pixels")

    asyncio.run(ask())
    asyncio.run(ask())
    assert len(engine.asks) == 1
    asyncio.run(ask(failures_again=True, refused_for_s=0.0))
    assert len(engine.asks) == 2
    asyncio.run(ask())
    assert len(engine.asks) == 3


@pytest.mark.parametrize(
    ("status", "again"), [(503, True), (429, True), (401, False), (404, False), (0, False)]
)
def test_failures_that_somebody_can_mend_are_not_kept(status: int, again: bool) -> None:
    cache, error = Cache(), CallFailed("not now", again=again, status=status)
    engine = Counting(lambda ask, number: error)

    async def ask() -> str:
        return await Desk(engine, cache, Pace(attempts=1)).talk("a/1").say(plain())

    with pytest.raises(CallFailed, match="not now"):
        swiftly(ask())
    engine.answer = lambda ask, number: "navy"
    assert swiftly(ask()) == "navy"
    assert len(cache) == 1


@pytest.mark.parametrize(
    "row",
    ['{"reply": {"tex": "navy"}, "asked": 1}', '{"asked": 1}', '{"reply": {"text": "navy"}}', "[]"],
)
def test_a_row_that_says_nothing_is_redone(row: str, tmp_path: Path) -> None:
    path, engine = tmp_path / "steps.sqlite", Counting()

    async def ask() -> None:
        with Cache(path) as cache:
            assert await desk(engine, cache).talk("a/1").fill(filled()) == {"colour": "navy"}

    asyncio.run(ask())
    with sqlite3.connect(path) as connection:
        connection.create_function("crc", 1, zlib.crc32)
        value = row.encode()
        connection.execute("UPDATE steps SET value = ?, checksum = crc(?)", (value, value))
    connection.close()
    asyncio.run(ask())
    asyncio.run(ask())
    assert len(engine.asks) == 2


RUN = """
import asyncio, os, sys
from pathlib import Path
from lookalike.captions.asking import Desk
from lookalike.captions.cache import Cache
from lookalike.captions.chat import Ask, Reply, Turn
from lookalike.captions.pacing import Pace

calls, cache, items, rounds, width = open(sys.argv[1], "ab", buffering=0), *sys.argv[2:]

class Written:
    name = "written"
    elsewhere = True
    async def ready(self): pass
    def identity(self, to): return {"model": "small"}
    async def complete(self, ask):
        os.write(calls.fileno(), (ask.turns[-1].text + "\\n").encode())
        await asyncio.sleep(0.02)
        return Reply("about " + ask.turns[-1].text)
    async def close(self): pass

async def dialogue(desk, item):
    talk, turns = desk.talk("dialogue/1"), ()
    for number in range(int(rounds)):
        turns = (*turns, Turn("user", f"item {item} question {number}"))
        turns = (*turns, Turn("assistant", await talk.say(Ask("llm", turns))))

async def main():
    desk = Desk(Written(), Cache(Path(cache)), Pace(concurrency=int(width)))
    await asyncio.gather(*(dialogue(desk, item) for item in range(int(items))))

asyncio.run(main())
print("finished")
"""


def test_a_run_that_is_killed_again_and_again_repeats_no_finished_call(tmp_path: Path) -> None:
    calls, cache = tmp_path / "calls", tmp_path / "steps.sqlite"
    calls.touch()
    items, rounds, width, kills = 60, 6, 8, 3
    command = [sys.executable, "-c", RUN, str(calls), str(cache), *map(str, (items, rounds, width))]
    interrupted = seen = 0
    for _ in range(kills):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        while process.poll() is None and calls.read_bytes().count(b"\n") < seen + 40:
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        interrupted += process.wait() == -signal.SIGKILL
        seen = calls.read_bytes().count(b"\n")
    assert interrupted
    assert subprocess.run(command, capture_output=True, timeout=60, check=True).stdout == b"finished\n"
    made = calls.read_bytes().splitlines()
    assert len(set(made)) == items * rounds
    assert len(made) <= items * rounds + kills * width
    subprocess.run(command, timeout=60, check=True, capture_output=True)
    assert calls.read_bytes().splitlines() == made


# Deadlines


def test_past_the_deadline_a_talk_ends_and_its_call_is_kept_for_the_next() -> None:
    engine, cache = Counting(takes=10.0), Cache()

    async def talks() -> None:
        asking = desk(engine, cache)
        hurried, began = asking.talk("a/1", now() + 2), now()
        with pytest.raises(Late) as caught:
            await hurried.fill(filled())
        assert not caught.value.again
        assert now() - began == pytest.approx(2, abs=0.01)
        [step] = hurried.steps
        assert step.status == "failed"
        assert step.queue_ms + step.retry_ms + step.total_ms == pytest.approx(2000, abs=1)
        await asyncio.sleep(9)
        patient = asking.talk("a/1", now() + 1)
        assert await patient.fill(filled()) == {"colour": "navy"}
        assert patient.steps[0].cached

    swiftly(talks())
    assert len(engine.asks) == 1


def test_a_kept_reply_comes_even_past_the_deadline() -> None:
    engine, cache = Counting(), Cache()

    async def talks() -> None:
        asking = desk(engine, cache)
        await asking.talk("a/1").fill(filled())
        assert await asking.talk("a/1", now() - 1).fill(filled()) == {"colour": "navy"}
        with pytest.raises(Late):
            await asking.talk("a/1", now() - 1).fill(filled("Something else."))

    swiftly(talks())
    assert len(engine.asks) == 1


def test_who_shares_a_call_is_not_bound_by_the_other_ones_deadline() -> None:
    engine = Counting(in_turn(CallFailed("busy", again=True, status=503, after_s=30), NAVY))

    async def talks() -> list[Any]:
        asking = desk(engine)
        return await asyncio.gather(
            asking.talk("a/1", now() + 5).fill(filled()),
            asking.talk("a/1").fill(filled()),
            asking.talk("a/1", now() + 6).fill(filled()),
            return_exceptions=True,
        )

    hurried, patient, other = swiftly(talks())
    assert isinstance(hurried, Late)
    assert patient == {"colour": "navy"}
    assert isinstance(other, Late)
    assert len(engine.asks) == 2


def test_a_talk_that_is_cancelled_leaves_the_call_to_others() -> None:
    engine = Counting(takes=5.0)

    async def talks() -> Any:
        asking = desk(engine)
        first = asyncio.create_task(asking.talk("a/1").fill(filled()))
        await asyncio.sleep(1)
        second = asyncio.create_task(asking.talk("a/1").fill(filled()))
        await asyncio.sleep(1)
        first.cancel()
        return await second

    assert swiftly(talks()) == {"colour": "navy"}
    assert len(engine.asks) == 1


def test_closing_breaks_off_what_is_under_way() -> None:
    engine = Counting(takes=1e6)

    async def talks() -> Any:
        asking = desk(engine)
        talk = asyncio.create_task(asking.talk("a/1").fill(filled()))
        await asyncio.sleep(1)
        await asking.close()
        with pytest.raises(CallFailed, match="broken off"):
            await talk
        return asyncio.all_tasks() - {asyncio.current_task()}

    assert swiftly(talks()) == set()
    assert engine.closed == 1


# What is said


def test_text_is_trimmed_and_written_down_as_it_came() -> None:
    engine = Counting(in_turn("  Question: Which colour?\n"))

    async def ask() -> Any:
        talk = desk(engine).talk("a/1")
        said = await talk.say(plain("Ask the next question."), lambda raw: raw.split("Question:")[-1].strip())
        return said, talk.steps

    said, [step] = asyncio.run(ask())
    assert said == step.used == "Which colour?"
    assert step.raw == "  Question: Which colour?\n"
    assert (step.to, step.question, step.status) == ("llm", "Ask the next question.", "ok")


@pytest.mark.parametrize(
    ("reply", "status"),
    [
        (Reply(""), "empty"),
        (Reply(" \n"), "empty"),
        (Reply("I cannot help with that."), "refused"),
        (Reply("a dress", finish="filter"), "refused"),
        (Reply("Please provide an image."), "meta"),
        (Reply("It has a collar and", finish="length"), "truncated"),
        (Reply("a " + "red and blue striped " * 20), "invalid"),
    ],
)
def test_text_of_no_use_is_an_error_that_says_which(reply: Reply, status: str) -> None:
    async def ask() -> Any:
        talk = desk(Counting(in_turn(reply))).talk("a/1")
        with pytest.raises(Unusable) as caught:
            await talk.say(plain())
        return caught.value, talk.steps

    error, [step] = asyncio.run(ask())
    assert error.status == step.status == status
    assert (step.raw, step.used, step.extra["why"]) == (reply.text, "", error.why)


def test_a_reply_against_the_schema_is_answered_with_what_is_wrong() -> None:
    engine = Counting(in_turn('{"colour": "mauve"}', "", '```json\n{"colour": "red"}\n```'))

    async def ask() -> Any:
        talk = desk(engine).talk("a/1")
        return await talk.fill(filled("Which colour?")), talk.steps

    value, steps = asyncio.run(ask())
    assert value == {"colour": "red"}
    assert [step.status for step in steps] == ["invalid", "empty", "ok"]
    assert json.loads(steps[-1].used) == value
    second, third = engine.asks[1:]
    assert [turn.by for turn in third.turns] == ["user", "assistant", "user", "assistant", "user"]
    assert third.turns[:3] == second.turns
    assert second.turns[1].text == '{"colour": "mauve"}'
    assert "mauve" in second.turns[2].text
    assert all(turn.text.strip() for turn in third.turns)  # templates of servers refuse an empty turn
    assert {ask.schema is SCHEMA for ask in engine.asks} == {True}


def test_after_two_corrections_it_is_given_up() -> None:
    engine = Counting(lambda ask, number: f"no {number}" * 5000)

    async def ask() -> Any:
        talk = desk(engine).talk("a/1")
        with pytest.raises(Unusable) as caught:
            await talk.fill(filled())
        return caught.value.status, talk.steps

    status, steps = asyncio.run(ask())
    assert status == "invalid"
    assert len(engine.asks) == len(steps) == 3
    assert sum(len(turn.text) for turn in engine.asks[-1].turns) < 6000


@pytest.mark.parametrize("text", ["I cannot help with that.", "I cannot see the image."])
def test_a_refusal_is_not_argued_with(text: str) -> None:
    engine = Counting(lambda ask, number: text)

    async def ask() -> None:
        await desk(engine).talk("a/1").fill(filled())

    with pytest.raises(Unusable):
        asyncio.run(ask())
    assert len(engine.asks) == 1


def test_filling_in_without_a_schema_is_our_own_mistake() -> None:
    with pytest.raises(ValueError, match="schema"):
        asyncio.run(desk(Counting()).talk("a/1").fill(plain()))


# Accounts


def test_the_spans_of_a_talk_are_together_its_time() -> None:
    busy = CallFailed("busy", again=True, status=503)
    slowly = CallFailed("slowly", again=True, status=429, after_s=7)
    engine = Counting(in_turn(busy, "one", slowly, busy, "two", "not JSON", NAVY), takes=1.5)
    cache = Cache()

    async def talk_of_four() -> Any:
        pace = Pace(requests_per_s=0.4)
        talk, began = Desk(engine, cache, pace).talk("dialogue/1"), now()
        await talk.say(plain("1"))
        await talk.say(plain("2"))
        await talk.say(plain("1"))
        await talk.fill(filled())
        return talk.steps, now() - began

    steps, took = swiftly(talk_of_four())
    assert [step.retries for step in steps] == [1, 2, 0, 0, 0]
    assert [step.cached for step in steps] == [False, False, True, False, False]
    assert [round(step.total_ms) for step in steps] == [1500, 1500, 0, 1500, 1500]
    assert steps[1].retry_ms > 7000
    spans = sum(step.queue_ms + step.retry_ms + step.total_ms for step in steps)
    assert spans == pytest.approx(took * 1e3, abs=1)


def test_calls_that_failed_for_good_are_in_the_transcript_with_what_they_took() -> None:
    engine = Counting(lambda ask, number: CallFailed("busy", again=True, status=503), takes=1.0)

    async def ask() -> Any:
        talk, began = Desk(engine, None, Pace(attempts=3)).talk("a/1"), now()
        with pytest.raises(CallFailed, match="busy"):
            await talk.say(plain())
        return talk.steps, now() - began

    [step], took = swiftly(ask())
    assert (step.status, step.retries, step.total_ms, step.raw) == ("failed", 2, 0.0, "")
    assert step.queue_ms + step.retry_ms == pytest.approx(took * 1e3, abs=1)


def test_the_end_of_the_budget_is_no_mere_failed_call() -> None:
    engine = Counting(lambda ask, number: CallFailed("no such model", status=404))

    async def asks() -> None:
        asking = Desk(engine, None, Pace(budget=0.05))
        for number in range(100):
            talk = asking.talk("a/1")
            try:
                await talk.say(plain(str(number)))
            except CallFailed:
                continue
            finally:
                assert talk.steps[0].status == "failed"

    with pytest.raises(BudgetSpent):
        asyncio.run(asks())
    assert len(engine.asks) == 6


# Readiness


def test_an_engine_that_cannot_be_used_fails_the_ask_and_is_tried_again_later() -> None:
    class Starting(Counting):
        async def ready(self) -> None:
            await super().ready()
            if self.readied == 1:
                raise CallFailed("connection refused", "start the server")

    engine = Starting()

    async def asks() -> None:
        asking = desk(engine)
        talks = [asking.talk("a/1") for _ in range(3)]
        outcomes = await asyncio.gather(*(talk.say(plain()) for talk in talks), return_exceptions=True)
        assert [str(outcome) for outcome in outcomes] == ["connection refused"] * 3
        assert [talk.steps[0].status for talk in talks] == ["failed"] * 3
        assert engine.readied == 1
        assert await asking.talk("a/1").say(plain()) == NAVY
        await asking.ready()

    asyncio.run(asks())
    assert engine.readied == 2
    assert len(engine.asks) == 1
