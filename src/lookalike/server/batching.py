"""One encoder for all requests: what several threads ask for at a time goes through it together."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from lookalike.roles import Encoder
from lookalike.values import Box, Floats, Maps, Picture, Region

MOST = 32  # regions or pictures of a batch


@dataclass(slots=True)
class _Asked:
    """What one thread wants encoded: regions with their captions, or pictures whose maps it wants."""

    regions: Sequence[Region] = ()
    captions: Sequence[str] = ()
    pictures: Sequence[Picture] = ()
    made: Future[Any] = field(default_factory=Future)

    def __len__(self) -> int:
        return len(self.regions) + len(self.pictures)


class Batched:
    """An encoder in front of another: while a batch is encoded, what is asked meanwhile gathers for the next.

    So nobody waits for company, and the busier the service is, the larger the batches. Where a batch fails,
    each of its requests is tried alone, so that one does not take the others with it. `on_batch` is told
    how many regions and pictures went through together, and the seconds that it took.
    """

    def __init__(self, encoder: Encoder, on_batch: Callable[[int, float], None]) -> None:
        self.name, self.dim, self.fingerprint = encoder.name, encoder.dim, encoder.fingerprint
        self._encoder, self._on_batch = encoder, on_batch
        self._asked: queue.Queue[_Asked | None] = queue.Queue()
        self._thread = threading.Thread(target=self._work, name="lookalike-encoder", daemon=True)
        self._thread.start()

    def __getattr__(self, name: str) -> Any:
        """What an encoder has besides, such as `captioned`."""
        return getattr(self._encoder, name)

    def pictures(self, regions: Sequence[Region], captions: Sequence[str] | None = None) -> Floats:
        made: Floats = self._put(_Asked(regions, captions or [""] * len(regions)))
        return made

    def maps(self, pictures: Sequence[Picture]) -> Maps | None:
        made: Maps | None = self._put(_Asked(pictures=pictures))
        return made

    def texts(self, texts: Sequence[str]) -> Floats | None:
        return self._encoder.texts(texts)

    def close(self) -> None:
        """After what was asked is done."""
        self._asked.put(None)
        self._thread.join()

    def _put(self, asked: _Asked) -> Any:
        self._asked.put(asked)
        return asked.made.result()

    def _work(self) -> None:
        going = True
        while going:
            batch = [self._asked.get()]
            while sum(map(len, filter(None, batch))) < MOST:
                try:
                    batch.append(self._asked.get_nowait())
                except queue.Empty:
                    break
            going = None not in batch
            wanted = [asked for asked in batch if asked is not None]
            self._encode([asked for asked in wanted if asked.regions], self._described)
            self._encode([asked for asked in wanted if not asked.regions], self._looked)

    def _encode(self, wanted: list[_Asked], work: Callable[[list[_Asked]], list[Any]]) -> None:
        if not wanted:
            return
        began = time.perf_counter()
        try:
            for asked, made in zip(wanted, work(wanted), strict=True):
                asked.made.set_result(made)
        except Exception as error:
            if len(wanted) == 1:
                wanted[0].made.set_exception(error)
            else:
                for asked in wanted:
                    self._encode([asked], work)
            return
        self._on_batch(sum(map(len, wanted)), time.perf_counter() - began)

    def _described(self, wanted: list[_Asked]) -> list[Floats]:
        regions = [region for asked in wanted for region in asked.regions]
        captions = [caption for asked in wanted for caption in asked.captions]
        rows = self._encoder.pictures(regions, captions if any(captions) else None)
        return np.split(rows, np.cumsum([len(asked) for asked in wanted])[:-1])

    def _looked(self, wanted: list[_Asked]) -> list[Maps | None]:
        maps = self._encoder.maps([picture for asked in wanted for picture in asked.pictures])
        if maps is None:
            return [None] * len(wanted)
        ends = np.cumsum([len(asked) for asked in wanted])
        frames: Sequence[Box] = maps.frames
        return [
            Maps(maps.values[end - len(asked) : end], tuple(frames[end - len(asked) : end]))
            for asked, end in zip(wanted, ends.tolist(), strict=True)
        ]
