"""What is said between a captioner and the models that it asks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from lookalike.errors import LookalikeError
from lookalike.values import Region

Role = Literal["vlm", "llm"]  # sees pictures; reads and writes text alone


@dataclass(frozen=True, slots=True)
class Turn:
    """One message. A user's turn may show a region, which comes before its text."""

    by: Literal["system", "user", "assistant"]
    text: str
    region: Region | None = None


@dataclass(frozen=True, slots=True)
class Ask:
    """One call to one of the two models.

    `schema` is the JSON schema that the reply is asked to follow; whether it does is for the caller to check.
    `sample` tells repeated asks apart that want an answer of their own each.
    """

    to: Role
    turns: tuple[Turn, ...]
    schema: Mapping[str, Any] | None = None
    max_tokens: int = 256
    temperature: float = 0.0
    seed: int = 0
    stop: tuple[str, ...] = ()
    sample: int = 0


@dataclass(frozen=True, slots=True)
class Reply:
    """What came back. Tokens are as the server counts them, 0 where it does not."""

    text: str
    finish: Literal["stop", "length", "filter"] = "stop"
    tokens_in: int = 0
    tokens_out: int = 0
    first_ms: float | None = None  # until the first token, where the reply was streamed
    total_ms: float = 0.0


class CallFailed(LookalikeError):
    """A call that brought no reply. `again` where it may help to repeat it, at the earliest in `after_s`."""

    def __init__(
        self, message: str, hint: str = "", again: bool = False, after_s: float | None = None, status: int = 0
    ) -> None:
        super().__init__(message, hint)
        self.again, self.after_s, self.status = again, after_s, status


class Engine(Protocol):
    """Where the two models run. Calls may overlap."""

    name: str  # "openai:http://localhost:11434/v1"; no key, no password
    elsewhere: bool  # whether models run in another process, and this one only waits

    async def ready(self) -> None:
        """Find out what has to be known before the first call; CallFailed where the engine cannot be used."""

    def identity(self, to: Role) -> Mapping[str, str]:
        """All that decides a reply beside the ask: server, model, revision, dialect. For the cache's key."""

    async def complete(self, ask: Ask) -> Reply:
        """CallFailed where no reply comes, within the engine's own time limit for a call."""

    async def close(self) -> None: ...


Status = Literal["ok", "unsure", "not_visible", "refused", "empty", "meta", "truncated", "invalid", "failed"]


@dataclass(frozen=True, slots=True)
class Step:
    """One call of a record's transcript: what was said, what became of it, and what it cost."""

    to: Role
    question: str  # the text of the ask's last turn
    raw: str  # the reply as it came
    used: str  # what was taken of it
    status: Status
    tokens_in: int = 0
    tokens_out: int = 0
    queue_ms: float = 0.0  # before it went out: limits and other calls
    first_ms: float | None = None
    total_ms: float = 0.0  # of the call that brought the reply
    retry_ms: float = 0.0  # lost to failed tries and to waiting for the next
    retries: int = 0
    cached: bool = False
    extra: Mapping[str, Any] = field(default_factory=dict)
