"""Asking an engine: nothing twice, nothing too fast, and everything written down."""

from __future__ import annotations

import asyncio
import hashlib
import json
import time
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, TypeVar

from lookalike.captions import replies
from lookalike.captions.cache import Cache
from lookalike.captions.chat import Ask, CallFailed, Engine, Reply, Role, Step, Turn
from lookalike.captions.pacing import Late, Pace, Waits
from lookalike.captions.posting import PREPROCESS
from lookalike.captions.replies import Unusable
from lookalike.errors import LookalikeError
from lookalike.values import Picture, Region

Value = TypeVar("Value")

_KEYS = 1  # counts up when a key no longer says all that decides a reply
_REPAIRS = 2
_QUOTED = 2_000  # characters of a bad reply that its writer is shown again
_PICTURE_TOKENS = 800  # about: for the limits, which come before the server's own count
_REFUSED = frozenset({400, 413, 415, 422})  # the server takes calls, and will never take this one


@dataclass(frozen=True, slots=True)
class _Outcome:
    """What came of an ask."""

    reply: Reply | LookalikeError
    waits: Waits = field(default_factory=Waits)
    cached: bool = False  # without a call of its own
    asked: float | None = None  # when a kept reply came, in seconds since 1970


class Desk:
    """Where the talks of a run ask: one engine, the cache of its replies, and the pace at which it is called.

    A reply is kept when it comes, a useless one too: at temperature 0 it would come again. A call that the
    server will never answer is kept as such for `refused_for_s`. `failures_again` asks both anew.

    Equal asks that overlap are one call. No deadline breaks a call off: it ends, within the engine's own time
    limit, and is kept for the next who asks.

    `preprocess` names how the engine shows a region to its model. A desk belongs to one event loop; other
    threads hand their work to that loop. The cache stays open when the desk is closed.
    """

    def __init__(
        self,
        engine: Engine,
        cache: Cache | None,
        pace: Pace,
        preprocess: str = PREPROCESS,
        failures_again: bool = False,
        refused_for_s: float = 3600.0,
    ) -> None:
        self.name, self.elsewhere = engine.name, engine.elsewhere
        self._engine, self._cache, self._pace = engine, cache, pace
        self._preprocess, self._failures_again, self._refused_for_s = (
            preprocess,
            failures_again,
            refused_for_s,
        )
        self._flights: dict[str, asyncio.Task[_Outcome]] = {}
        self._readied = False

    def talk(self, protocol: str, deadline: float | None = None) -> Talk:
        """A talk about one region; `protocol` is strategy and version, `deadline` a `time.monotonic()`."""
        return Talk(self, protocol, deadline)

    async def ready(self, deadline: float | None = None, patient: bool = True) -> None:
        """Let the engine find out what it must know first; the first ask does it too. CallFailed.

        Without patience what fails is not tried again.
        """
        if self._readied:
            return
        if not patient:
            await self._engine.ready()
            self._readied = True
            return
        outcome = await self._landed("", lambda: self._prepared(deadline), deadline)
        if isinstance(outcome.reply, LookalikeError):
            raise outcome.reply
        self._readied = True

    def identity(self, to: Role) -> Mapping[str, str]:
        """What decides the replies of one of the models, once the engine is ready."""
        return self._engine.identity(to)

    async def close(self) -> None:
        """Break off what is under way and close the engine."""
        flights = list(self._flights.values())
        for flight in flights:
            flight.cancel()
        await asyncio.gather(*flights, return_exceptions=True)
        await self._engine.close()

    def key(self, ask: Ask, protocol: str, sums: Mapping[Picture, str]) -> str:
        """The cache's key: all that decides a reply. `sums` are the sha256 of the pictures that are shown."""
        said = {
            "keys": _KEYS,
            "role": ask.to,
            "engine": dict(sorted(self._engine.identity(ask.to).items())),
            "protocol": protocol,
            "turns": [
                [turn.by, turn.text, None if turn.region is None else self._shown(turn.region, sums)]
                for turn in ask.turns
            ],
            "schema": ask.schema,  # its order counts: a model that is held to it replies in it
            "max_tokens": ask.max_tokens,
            "temperature": float(ask.temperature),
            "seed": ask.seed,
            "stop": ask.stop,
            "sample": ask.sample,
        }
        return hashlib.sha256(json.dumps(said, separators=(",", ":")).encode()).hexdigest()

    async def answered(
        self, ask: Ask, key: str, deadline: float | None, usable: Callable[[Reply], bool]
    ) -> _Outcome:
        """The reply to an ask: kept, of an equal call that is under way, or of a call of its own."""
        kept = self._kept(key)
        if kept is not None:
            good = isinstance(kept.reply, Reply) and usable(kept.reply)
            if good or not self._failures_again:
                return kept
        return await self._landed(key, lambda: self._called(ask, key, deadline), deadline)

    async def _landed(
        self, key: str, call: Callable[[], Coroutine[Any, Any, _Outcome]], deadline: float | None
    ) -> _Outcome:
        """What the flight of this key brings, which starts now unless it is under way already.

        Late where the deadline comes first; the flight goes on.
        """
        while True:
            flight = self._flights.get(key)
            joined = flight is not None
            if flight is None:
                flight = self._flights[key] = asyncio.create_task(call())
                flight.add_done_callback(lambda flown: self._over(key, flown))
            await asyncio.wait({flight}, timeout=None if deadline is None else deadline - _now())
            if not flight.done():
                return _Outcome(Late("no reply before the deadline"))
            if flight.cancelled():
                return _Outcome(CallFailed("broken off"))
            outcome = flight.result()
            if not joined:
                return outcome
            late = isinstance(outcome.reply, Late)  # for whoever made the call, and perhaps not for this one
            if not late or (deadline is not None and _now() >= deadline):
                return replace(outcome, waits=Waits(), cached=True)

    def _over(self, key: str, flight: asyncio.Task[_Outcome]) -> None:
        del self._flights[key]
        if not flight.cancelled():
            flight.exception()  # has been seen: asyncio need not complain where nobody waits any more

    async def _prepared(self, deadline: float | None) -> _Outcome:
        async def ready() -> Reply:
            await self._engine.ready()
            return Reply("")

        return _Outcome(*await self._pace.run(ready, deadline=deadline))

    async def _called(self, ask: Ask, key: str, deadline: float | None) -> _Outcome:
        reply, waits = await self._pace.run(lambda: self._engine.complete(ask), _tokens(ask), deadline)
        if self._cache is not None:
            if isinstance(reply, Reply):
                self._cache.put(key, {"reply": asdict(reply), "asked": time.time()})
            elif not reply.again and reply.status in _REFUSED:
                failed = {"message": str(reply), "hint": reply.hint, "status": reply.status}
                self._cache.put(key, {"failed": failed, "asked": time.time()}, self._refused_for_s)
        return _Outcome(reply, waits)

    def _kept(self, key: str) -> _Outcome | None:
        value = None if self._cache is None else self._cache.get(key)
        if value is None:
            return None
        try:
            reply = CallFailed(**value["failed"]) if "failed" in value else Reply(**value["reply"])
            return _Outcome(reply, cached=True, asked=value["asked"])
        except (KeyError, TypeError):  # not what a desk writes
            return None

    def _shown(self, region: Region, sums: Mapping[Picture, str]) -> list[Any]:
        """What tells one region from every other for a model: not where its picture came from."""
        picture = region.picture
        corners = None if region.box is None else [float(corner) for corner in region.box.corners]
        return [sums[picture], picture.width, picture.height, picture.pixels.shape, corners, self._preprocess]


class Talk:
    """What is asked about one region, one after the other or side by side; `steps` tells how each ask went.

    A step whose reply was kept, or came by an equal call that was under way, is `cached`: its tokens are 0,
    for it cost none, and its `extra` has what the call cost when it was made. queue_ms, retry_ms and total_ms
    of a step are together the time that it took; of a cached one total_ms is the looking up.
    """

    def __init__(self, desk: Desk, protocol: str, deadline: float | None = None) -> None:
        self.steps: list[Step] = []
        self._desk, self._protocol, self._deadline = desk, protocol, deadline
        self._sums: dict[Picture, str] = {}

    async def say(self, ask: Ask, trim: Callable[[str], str] = str.strip) -> str:
        """The text of a reply, trimmed. Unusable where it is no use, CallFailed where none came."""

        def read(reply: Reply) -> tuple[str, str]:
            text = trim(reply.text)
            wrong = replies.fault(text, reply.finish)
            if wrong is not None:
                raise Unusable(wrong, f"{text[:80]!r}")
            return text, text

        return await self._step(ask, read)

    async def fill(self, ask: Ask) -> Any:
        """The JSON of a reply, which follows the ask's schema.

        Whoever replies otherwise is told what is wrong and asked again, at most twice; then Unusable, as at
        once for a refusal. CallFailed where no reply came.
        """
        schema = ask.schema
        if schema is None:
            raise ValueError("nothing can be filled in without a schema")
        raw = ""

        def read(reply: Reply) -> tuple[str, Any]:
            nonlocal raw
            raw = reply.text
            try:
                value = replies.parsed(raw, schema)
            except Unusable as error:
                raise Unusable(replies.fault(raw, reply.finish) or error.status, error.why) from None
            return json.dumps(value, ensure_ascii=False), value

        for left in reversed(range(_REPAIRS + 1)):
            try:
                return await self._step(ask, read)
            except Unusable as error:
                if not left or error.status in ("refused", "meta"):
                    raise
                ask = replace(ask, turns=(*ask.turns, *_correction(raw, error.why)))
        raise AssertionError("the last round returns or raises")

    async def _step(self, ask: Ask, read: Callable[[Reply], tuple[str, Value]]) -> Value:
        """Ask, read the reply and write down what came of it, whatever it is."""
        began = _now()
        before = 0.0  # milliseconds until it could be asked at all
        try:
            await self._desk.ready(self._deadline)
            key = self._desk.key(ask, self._protocol, self._summed(ask))
            before = (_now() - began) * 1e3
            outcome = await self._desk.answered(ask, key, self._deadline, lambda reply: _reads(read, reply))
        except LookalikeError as error:
            outcome = _Outcome(error)
        reply, waits = outcome.reply, outcome.waits
        took = (_now() - began) * 1e3
        queued = before + waits.queue_ms
        step = Step(
            to=ask.to,
            question=ask.turns[-1].text,
            raw="",
            used="",
            status="failed",
            queue_ms=queued,
            retry_ms=took - queued,
            retries=waits.retries,
            cached=outcome.cached,
        )
        if isinstance(reply, LookalikeError):
            self.steps.append(replace(step, extra={"error": str(reply)}))
            raise reply
        step = replace(step, raw=reply.text, retry_ms=waits.retry_ms, total_ms=took - queued - waits.retry_ms)
        if outcome.cached:
            cost = {
                name: getattr(reply, name) for name in ("tokens_in", "tokens_out", "first_ms", "total_ms")
            }
            if outcome.asked is None:  # all the time went into waiting for another's call
                step = replace(step, queue_ms=took, total_ms=0.0, extra=cost)
            else:
                step = replace(step, extra={**cost, "asked": outcome.asked})
        else:
            step = replace(
                step, tokens_in=reply.tokens_in, tokens_out=reply.tokens_out, first_ms=reply.first_ms
            )
        try:
            used, value = read(reply)
        except Unusable as error:
            self.steps.append(replace(step, status=error.status, extra={**step.extra, "why": error.why}))
            raise
        self.steps.append(replace(step, used=used, status="ok"))
        return value

    def _summed(self, ask: Ask) -> Mapping[Picture, str]:
        for turn in ask.turns:
            if turn.region is not None and turn.region.picture not in self._sums:
                picture = turn.region.picture
                self._sums[picture] = picture.sha256 or hashlib.sha256(picture.pixels.tobytes()).hexdigest()
        return self._sums


def _now() -> float:
    return asyncio.get_running_loop().time()  # time.monotonic()


def _reads(read: Callable[[Reply], object], reply: Reply) -> bool:
    try:
        read(reply)
    except Unusable:
        return False
    return True


def _correction(raw: str, why: str) -> tuple[Turn, Turn]:
    """What follows a reply that cannot be used. An empty one is shown as an object that says nothing."""
    said = raw[:_QUOTED].strip() or "{}"
    again = (
        f"That cannot be used: {why}. Reply again, with one JSON object that follows the schema and no more."
    )
    return Turn("assistant", said), Turn("user", again)


def _tokens(ask: Ask) -> int:
    """About how many an ask may take, its reply included."""
    text = sum(len(turn.text) for turn in ask.turns)
    shown = sum(turn.region is not None for turn in ask.turns)
    return text // 4 + _PICTURE_TOKENS * shown + ask.max_tokens
