"""An event loop whose time passes as fast as it is waited for: an hour of pauses in a few milliseconds."""

import asyncio
import random
import selectors
from collections.abc import Coroutine
from typing import Any, TypeVar

Value = TypeVar("Value")

_TICK = 1e-6  # seconds that a turn of the loop takes


class _Skipping(selectors.SelectSelector):
    """Where the loop would wait the clock is put forward, up to `late` seconds further than was wished."""

    def __init__(self, late: float) -> None:
        super().__init__()
        self.now = 1000.0
        self._late, self._draw = late, random.Random(0)

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        self.now += _TICK
        if timeout:
            self.now += timeout + self._draw.uniform(0, self._late)
        return super().select(timeout and 0)


def swiftly(work: Coroutine[Any, Any, Value], late: float = 0.0) -> Value:
    selector = _Skipping(late)
    loop = asyncio.SelectorEventLoop(selector)
    loop.time = lambda: selector.now  # type: ignore[method-assign]
    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        return runner.run(work)


def now() -> float:
    return asyncio.get_running_loop().time()
