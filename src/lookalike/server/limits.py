"""What a stranger may ask of the service, in one place."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Self

from lookalike import images


@dataclass(frozen=True, slots=True)
class Limits:
    """Counted on real bytes, never on what a header promises."""

    body_bytes: int = 25_000_000  # of a request that searches, or brings one item
    bulk_bytes: int = 500_000_000  # of a bulk request; it goes to disk as it arrives
    pixels: int = 50_000_000  # of a picture, as its header says
    pictures: int = 16  # of one request
    decode_s: float = 5.0  # of a picture, then its worker process is ended
    decode_bytes: int = 1_500_000_000  # of memory that such a process may take
    held_bytes: int = 1_000_000_000  # of all bodies but bulk ones, from their first byte to the answer
    body_s: float = 30.0  # for a whole body to arrive
    idle_s: float = 10.0  # between two pieces of it
    head_s: float = 10.0  # from the connection, or the last answer on it, to a request
    connections: int = 10_000  # of a process; fewer where it may not have so many files
    text: int = 1_000  # characters of words, of a filter, of an id
    top: int = 1_000  # hits of one page
    deepest: int = 10_000  # hits that can be paged through
    vectors: int = 64  # inputs of one request for embeddings
    searching: int = 4  # requests that are worked on at a time, on one core or two; see `on`
    waiting: int = 32  # requests that wait for their turn; the next is told to come back
    writing: int = 32  # requests that bring an item, or wait for the one that does; so of the next
    thumbnails: int = 256  # that are made, or wait for that; so of the next
    captions: int = 32  # of queries that are written at a time; who would be next gets none

    @property
    def pictured(self) -> images.Limits:
        return images.Limits(self.body_bytes, self.pixels)

    def on(self, cores: int) -> Self:
        """The same for a process with so many cores: beyond two, each has two requests more at work."""
        share = max(2, cores)
        return replace(self, searching=self.searching * share // 2, waiting=self.waiting * share // 2)
