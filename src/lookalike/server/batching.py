"""One encoder for all requests: what several threads ask for at a time goes through it together."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from lookalike.describing import encoded
from lookalike.roles import Encoder
from lookalike.trust import UNKNOWN
from lookalike.values import Floats, Maps, Picture, Region

MOST = 8  # regions or pictures of a batch: more gain nothing


@dataclass(slots=True)
class _Asked:
    """A region that is wanted encoded in the light of its caption, or a picture whose map is wanted."""

    what: Any  # a Region or a Picture
    caption: str = ""
    wrong: float = UNKNOWN
    made: Future[Any] = field(default_factory=Future)


class Batched:
    """An encoder before another: while batches are encoded, what is asked meanwhile gathers for the next.

    So nobody waits for company, and the busier the service is, the larger the batches. `at_a_time` batches
    are under way, and share what there is to do: a single one leaves cores idle between its passes. Where a
    batch fails, each of its regions is tried alone, so that one does not take the others with it. `on_batch`
    is told how many regions and pictures went through together, and the seconds that it took. It goes by
    another `name` where one is given: the encoder's own may say where its file lies.
    """

    def __init__(
        self, encoder: Encoder, on_batch: Callable[[int, float], None], at_a_time: int, name: str = ""
    ) -> None:
        self.name, self.dim, self.fingerprint = name or encoder.name, encoder.dim, encoder.fingerprint
        self._encoder, self._on_batch, self._at_a_time = encoder, on_batch, at_a_time
        self._asked: queue.Queue[_Asked] = queue.Queue()
        for _ in range(at_a_time):
            threading.Thread(target=self._work, name="lookalike-encoder", daemon=True).start()

    def __getattr__(self, name: str) -> Any:
        """What an encoder has besides, such as `captioned`."""
        return getattr(self._encoder, name)

    def pictures(
        self,
        regions: Sequence[Region],
        captions: Sequence[str] | None = None,
        wrong: Sequence[float] | None = None,
    ) -> Floats:
        told = captions or [""] * len(regions)
        shares = wrong or [UNKNOWN] * len(regions)
        rows = self._put([_Asked(*each) for each in zip(regions, told, shares, strict=True)])
        return np.stack(rows) if rows else np.empty((0, self.dim), np.float32)

    def maps(self, pictures: Sequence[Picture]) -> Maps | None:
        made = self._put([_Asked(picture) for picture in pictures])
        if None in made:
            return None
        return Maps(np.stack([values for values, _ in made]), tuple(frame for _, frame in made))

    def texts(self, texts: Sequence[str]) -> Floats | None:
        return self._encoder.texts(texts)

    def _put(self, wanted: Sequence[_Asked]) -> list[Any]:
        for asked in wanted:
            self._asked.put(asked)
        return [asked.made.result() for asked in wanted]

    def _work(self) -> None:
        while True:
            wanted = [self._asked.get()]
            for _ in range(min(MOST - 1, self._asked.qsize() // self._at_a_time)):
                with suppress(queue.Empty):
                    wanted.append(self._asked.get_nowait())
            self._encode([asked for asked in wanted if isinstance(asked.what, Region)], self._described)
            self._encode([asked for asked in wanted if isinstance(asked.what, Picture)], self._looked)

    def _encode(self, wanted: list[_Asked], work: Callable[[list[_Asked]], Iterable[Any]]) -> None:
        if not wanted:
            return
        began = time.perf_counter()
        try:
            made = work(wanted)
        except Exception as error:
            if len(wanted) == 1:
                wanted[0].made.set_exception(error)
            else:
                for asked in wanted:
                    self._encode([asked], work)
            return
        for asked, each in zip(wanted, made, strict=True):
            asked.made.set_result(each)
        self._on_batch(len(wanted), time.perf_counter() - began)

    def _described(self, wanted: list[_Asked]) -> Floats:
        regions, captions = [asked.what for asked in wanted], [asked.caption for asked in wanted]
        return encoded(regions, captions, [asked.wrong for asked in wanted], self._encoder)

    def _looked(self, wanted: list[_Asked]) -> Sequence[Any]:
        maps = self._encoder.maps([asked.what for asked in wanted])
        if maps is None:
            return [None] * len(wanted)
        return list(zip(maps.values, maps.frames, strict=True))
