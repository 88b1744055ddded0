"""How fast an engine is asked, and what happens when a call fails."""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from lookalike.captions.chat import CallFailed
from lookalike.errors import BadInput, LookalikeError, MissingExtra

if TYPE_CHECKING:
    from tenacity import RetryCallState

Value = TypeVar("Value")

_PATIENCE_S = 120.0  # the longest pause that a server may ask for and get
_LONGEST_S = 60.0  # the longest pause of our own before a try
_LATENESS_S = 0.05  # of an event loop under load: so much of it is made up for, and that is the burst
_WINDOW = 100  # calls that the error budget looks back on


class Late(CallFailed):
    """The deadline came before the reply."""


class BudgetSpent(LookalikeError):
    """Too many of the last calls failed: going on would cost and bring nothing."""


@dataclass(frozen=True, slots=True)
class Waits:
    """Where the time of a call went beside the try that brought the reply, in milliseconds."""

    queue_ms: float = 0.0  # before the first try
    retry_ms: float = 0.0  # from the first try to the last one; all of it where every try failed
    retries: int = 0


class Pace:
    """Calls go through it: `concurrency` at once, `requests_per_s`, and `tokens_per_min` by estimate.

    In no second do more calls go out than `requests_per_s` and, above it, one and what 50 ms bring: 22 where
    it is 20. In no minute more tokens than `tokens_per_min` and a tenth of it, and what the first ask takes.

    A failed call that may help to be repeated is tried up to `attempts` times, after a random part of 1, 2, 4
    … seconds ("full jitter"). Where the server names a pause (Retry-After), nobody calls before it is over;
    where that is longer than two minutes, calls fail at once until then. After `breaker` failures in a row
    (a 429 is none) calls fail without being made for `pause_s`; then a single one finds out whether the
    server is back. A call that has the time tries again after the pause.

    Where more than the share `budget` of the last 100 calls failed for good, `run` raises BudgetSpent and the
    count begins anew.

    All within one event loop, whose clock is that of the deadlines: `time.monotonic()`.
    """

    def __init__(
        self,
        concurrency: int = 8,
        requests_per_s: float | None = None,
        tokens_per_min: float | None = None,
        attempts: int = 6,
        budget: float = 0.2,
        breaker: int = 5,
        pause_s: float = 10.0,
    ) -> None:
        if min(concurrency, attempts, breaker) < 1 or pause_s < 0 or not 0 < budget <= 1:
            raise BadInput(
                f"pace of {concurrency} calls, {attempts} attempts, budget {budget:g}, breaker {breaker}",
                "at least one each, and a budget above 0 and at most 1",
            )
        if any(rate is not None and rate <= 0 for rate in (requests_per_s, tokens_per_min)):
            raise BadInput("a rate of nothing lets no call through", "leave the limit out for none")
        try:
            from aiolimiter import AsyncLimiter
        except ImportError:
            raise MissingExtra("asking models", "captions") from None
        self._attempts, self._budget = attempts, budget
        self._breaker, self._pause_s = breaker, pause_s
        self._slots = asyncio.Semaphore(concurrency)
        self._gate = asyncio.Lock()  # first come, first served: the limiters prefer small amounts
        self._probe = asyncio.Lock()
        self._requests = self._tokens = None
        if requests_per_s is not None:
            burst = 1 + requests_per_s * _LATENESS_S
            self._requests = AsyncLimiter(burst, burst / requests_per_s)
        if tokens_per_min is not None:
            self._tokens = AsyncLimiter(tokens_per_min / 10, 6)
        self._in_row = 0  # failures that speak of a server that is down
        self._failure: CallFailed | None = None  # the last of them
        self._closes = 0.0  # when the breaker lets a call through again
        self._resumes = 0.0  # when the pause that the server asked for is over
        self._last: deque[bool] = deque(maxlen=_WINDOW)  # which calls failed

    async def run(
        self, call: Callable[[], Awaitable[Value]], tokens: int = 0, deadline: float | None = None
    ) -> tuple[Value | CallFailed, Waits]:
        """What the call brought, or how it failed for good; and what was waited for it.

        No try begins after the deadline (Late); one that is under way by then is left to end.
        """
        try:
            from tenacity import AsyncRetrying, retry_if_exception
        except ImportError:
            raise MissingExtra("asking models", "captions") from None
        clock = asyncio.get_running_loop().time
        began = clock()
        tries: list[float] = []  # when each began
        hurried = False  # no time for another try

        def enough(state: RetryCallState) -> bool:
            nonlocal hurried
            hurried = deadline is not None and clock() + state.upcoming_sleep >= deadline
            return hurried or state.attempt_number >= self._attempts

        outcome: Value | CallFailed
        try:
            outcome = await AsyncRetrying(
                sleep=asyncio.sleep,
                retry=retry_if_exception(_worth_repeating),
                wait=_pause,
                stop=enough,
                reraise=True,
            )(self._tried, call, tokens, deadline, tries)
        except CallFailed as error:
            outcome = Late(f"no reply before the deadline: {error}", error.hint) if hurried else error
        ended = clock()
        failed = isinstance(outcome, CallFailed)
        first, last = (tries[0], tries[-1]) if tries else (ended, ended)
        waits = Waits(
            (first - began) * 1e3, ((ended if failed else last) - first) * 1e3, max(0, len(tries) - 1)
        )
        if tries or not isinstance(outcome, Late):
            self._reckon(outcome if isinstance(outcome, CallFailed) else None)
        return outcome, waits

    async def _tried(
        self, call: Callable[[], Awaitable[Value]], tokens: int, deadline: float | None, tries: list[float]
    ) -> Value:
        clock = asyncio.get_running_loop().time
        async with AsyncExitStack() as held:
            try:
                async with asyncio.timeout_at(deadline):
                    await held.enter_async_context(self._slots)
                    await held.enter_async_context(self._unbroken())
                    await self._turn(tokens)
            except TimeoutError:
                raise Late("no reply before the deadline") from None
            if deadline is not None and clock() >= deadline:
                raise Late("no reply before the deadline")
            tries.append(clock())
            try:
                value = await call()
            except CallFailed as error:
                self._note(error, clock())
                raise
            self._in_row = 0
            return value

    @asynccontextmanager
    async def _unbroken(self) -> AsyncIterator[None]:
        """The breaker: CallFailed while it is open; then one call at a time, until one succeeds."""
        if self._in_row >= self._breaker:
            async with self._probe:
                rest = self._closes - asyncio.get_running_loop().time()
                if self._in_row >= self._breaker:
                    if rest > 0:
                        raise CallFailed(
                            f"not asked: the last {self._in_row} calls failed, with: {self._failure}",
                            self._failure.hint if self._failure else "",
                            again=True,
                            after_s=rest,
                        )
                    yield
                    return
        yield

    async def _turn(self, tokens: int) -> None:
        """Wait until the limits and the server's own pause allow a call."""
        clock = asyncio.get_running_loop().time
        async with self._gate:
            if self._requests is not None:
                await self._requests.acquire()
            left = float(tokens)
            while self._tokens is not None and left > 0:  # an ask may be larger than the bucket
                part = min(left, self._tokens.max_rate)
                await self._tokens.acquire(part)
                left -= part
            while (rest := self._resumes - clock()) > 0:
                if rest > _PATIENCE_S:
                    raise CallFailed(f"not asked: the server wants no calls for {rest:.0f} s", after_s=rest)
                await asyncio.sleep(rest)

    def _note(self, error: CallFailed, now: float) -> None:
        if error.after_s is not None:
            self._resumes = max(self._resumes, now + error.after_s)
        down = error.again and error.status != 429  # otherwise it answers
        self._in_row, self._failure = (self._in_row + 1, error) if down else (0, None)
        if self._in_row >= self._breaker:
            self._closes = now + self._pause_s

    def _reckon(self, error: CallFailed | None) -> None:
        self._last.append(error is not None)
        failed, seen = sum(self._last), len(self._last)
        if error is not None and failed > self._budget * _WINDOW:
            self._last.clear()
            raise BudgetSpent(
                f"{failed} of the last {seen} calls failed; this one: {error}",
                error.hint or "see to the server and run again: calls that were answered are not repeated",
            ) from error


def _worth_repeating(error: BaseException) -> bool:
    return isinstance(error, CallFailed) and error.again and (error.after_s or 0) <= _PATIENCE_S


def _pause(state: RetryCallState) -> float:
    error = state.outcome.exception() if state.outcome else None
    if isinstance(error, CallFailed) and error.after_s is not None:
        return error.after_s
    return random.uniform(0, min(_LONGEST_S, 2.0 ** (state.attempt_number - 1)))
