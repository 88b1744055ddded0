"""Models behind a server that speaks the OpenAI chat protocol: vLLM, SGLang, llama.cpp, Ollama, a hosted one.

Servers differ in how they want to be told that a reply must follow a schema, and some accept a way and ignore
it. So each model is tempted once to break a schema, and asked in the first way that holds.
"""

from __future__ import annotations

import asyncio
import json
import math
import re
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field, replace
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlsplit

from lookalike.captions.chat import Ask, CallFailed, Reply, Role, Turn
from lookalike.captions.posting import Dialect, in_words, request
from lookalike.errors import BadInput, MissingExtra

if TYPE_CHECKING:
    from openai import APIError, AsyncOpenAI
    from openai.types.chat import ChatCompletionStreamOptionsParam

_ENFORCED: tuple[Dialect, ...] = ("json_schema", "structured_outputs", "json_object")  # best first
_NOT_SPOKEN = (400, 422, 500, 501)  # what servers reply to a field that they cannot follow
_AGAIN = (408, 409, 429)
_HEADERS = (b"host", b"accept", b"content-type", b"content-length", b"transfer-encoding")
_MOST_BYTES = 8 << 20  # of one response
_FINISH: dict[str, Literal["stop", "length", "filter"]] = {"length": "length", "content_filter": "filter"}

_TEMPTATION = Ask(
    "llm",
    (Turn("user", 'What colour is a clear sky at noon? Answer in JSON, like this: {"colour": "blue"}'),),
    schema={
        "type": "object",
        "properties": {"colour": {"type": "string", "enum": ["umber"]}},
        "required": ["colour"],
        "additionalProperties": False,
    },
    max_tokens=128,
)


class Server:
    """An engine (`chat.Engine`) that asks `vlm` and `llm` at `url`, as in "http://localhost:11434/v1".

    Without `llm` the vlm reads and writes text too. Nothing is sent but to `url`: no redirect is followed and
    no proxy used. With `stream` a reply also tells when its first token came. One server may be used from
    several event loops; each needs its own `close`.
    """

    elsewhere = True

    def __init__(
        self,
        url: str,
        vlm: str,
        llm: str | None,
        key: str | None = None,
        timeout_s: float = 120.0,
        stream: bool = False,
    ) -> None:
        self._url = _checked_url(url)
        self._key = _checked_key(key)
        self.name = f"openai:{self._url}"
        self._models: dict[Role, str] = {"vlm": vlm, "llm": vlm if llm is None else llm}
        self._timeout_s, self._stream = timeout_s, stream
        self._dialects: dict[str, Dialect] = {}  # by model
        # a client belongs to the loop that opened its connections
        self._sessions: dict[asyncio.AbstractEventLoop, _Session] = {}

    async def ready(self) -> None:
        """Find each model's dialect, once; CallFailed where a model cannot be asked."""
        async with self._session().probing:
            for model in self._models.values():
                if model not in self._dialects:
                    self._dialects[model] = await self._dialect(model)

    def identity(self, to: Role) -> Mapping[str, str]:
        """Server, model and dialect; the dialect is known once the engine is ready."""
        model = self._models[to]
        return {"server": self._url, "model": model, "dialect": self._dialects[model]}

    async def complete(self, ask: Ask) -> Reply:
        await self.ready()
        model = self._models[ask.to]
        dialect = self._dialects[model]
        if ask.schema is not None and dialect in ("json_object", "prompt"):
            ask = in_words(ask)
        return await self._reply(ask, model, dialect)

    async def close(self) -> None:
        session = self._sessions.pop(asyncio.get_running_loop(), None)
        if session is not None:
            await session.client.close()

    def _session(self) -> _Session:
        loop = asyncio.get_running_loop()
        if loop not in self._sessions:
            for gone in [known for known in self._sessions if known.is_closed()]:
                self._sessions.pop(gone, None)
            self._sessions[loop] = _Session(_client(self._url, self._key, self._timeout_s))
        return self._sessions[loop]

    async def _dialect(self, model: str) -> Dialect:
        for dialect in _ENFORCED:
            if await self._obeys(model, dialect):
                return dialect
        await self._reply(replace(_TEMPTATION, schema=None), model, "prompt")  # is there a model at all?
        return "prompt"

    async def _obeys(self, model: str, dialect: Dialect) -> bool:
        for _ in range(2):  # a 500 may be an accident; twice, it is the server's answer to this dialect
            try:
                reply = await self._reply(_TEMPTATION, model, dialect)
            except CallFailed as failed:
                if failed.status not in _NOT_SPOKEN:
                    raise
                if failed.status == 500:
                    continue
                return False
            return _obeyed(reply.text)
        return False

    async def _reply(self, ask: Ask, model: str, dialect: Dialect) -> Reply:
        from openai import APIError

        client = self._session().client
        arrival = _Arrival()
        # encoding a picture takes milliseconds, which other calls need not wait for
        fields = await asyncio.to_thread(request, ask, model, dialect)
        try:
            async with asyncio.timeout(self._timeout_s):
                if self._stream:
                    await _streamed(client, fields, arrival)
                else:
                    arrival.take(await client.chat.completions.create(**fields), streamed=False)
            return arrival.reply()
        except TimeoutError:
            raise self._too_late() from None
        except _Malformed as why:
            raise CallFailed(f"{self._url} sent a reply that cannot be read: {why}", again=True) from None
        except _TooMuch:
            raise CallFailed(
                f"{self._url} sent more than {_MOST_BYTES >> 20} MB in one reply",
                "is this the address of an OpenAI-compatible server? It usually ends in /v1",
            ) from None
        except (ValueError, RecursionError):  # from parsing JSON
            raise CallFailed(f"{self._url} sent a reply that is no JSON", again=True) from None
        except APIError as error:
            raise await self._failed(error, model) from None

    async def _failed(self, error: APIError, model: str) -> CallFailed:
        """The error in our own words: what the server says about it may repeat the prompt or the key."""
        from openai import (
            APIConnectionError,
            APIResponseValidationError,
            APIStatusError,
            APITimeoutError,
        )

        if isinstance(error, APITimeoutError):
            return self._too_late()
        if isinstance(error, APIConnectionError):
            return self._unreachable(error)
        if isinstance(error, APIResponseValidationError):
            return CallFailed(f"{self._url} sent a reply that cannot be read", again=True)
        if not isinstance(error, APIStatusError):  # reported within a stream
            return CallFailed(f"{self._url} failed in the middle of a reply{self._code(error)}", again=True)
        status = error.status_code
        message = f"{self._url} answered HTTP {status}{self._code(error)}"
        if status in (401, 403):
            wrong = "the key is wrong or may not use this model" if self._key else "the server wants a key"
            return CallFailed(message, f"{wrong}: set LOOKALIKE_API_KEY", status=status)
        if status == 404:
            return CallFailed(f"{message} for the model {model!r}", await self._served(), status=status)
        if 300 <= status < 400:
            return CallFailed(message, "the server is elsewhere: name its final address", status=status)
        if status in _AGAIN or status >= 500:
            after_s = _seconds(error.response.headers.get("retry-after"))
            return CallFailed(message, again=True, after_s=after_s, status=status)
        hint = f"does {model!r} take pictures, and so many tokens? The server's log says more"
        return CallFailed(message, hint, status=status)

    def _code(self, error: APIError) -> str:
        """What the server calls the error, in brackets; "" where that may be a sentence or a secret."""
        for code in (error.code, error.type):
            if isinstance(code, str) and re.fullmatch("[a-z_]{3,40}", code) and code != self._key:
                return f" ({code})"
        return ""

    def _too_late(self) -> CallFailed:
        return CallFailed(f"{self._url} gave no reply within {self._timeout_s:g} s", again=True)

    def _unreachable(self, error: APIError) -> CallFailed:
        from httpx2 import ConnectError

        if isinstance(error.__cause__, ConnectError):
            return CallFailed(
                f"no connection to {self._url}", f"is the server running at {self._url}?", again=True
            )
        return CallFailed(f"the connection to {self._url} broke off", again=True)

    async def _served(self) -> str:
        """What to do about a model that is not there: the names of those that are."""
        try:
            async with asyncio.timeout(10):
                listed = await self._session().client.models.list()
            names = [str(model.id)[:80] for model in listed.data if str(model.id).isprintable()]
        except Exception:  # whatever it is: the hint is a courtesy, and the failure proper is reported
            names = []
        if not names:
            return "is the address right? It usually ends in /v1"
        return f"served there: {', '.join(names[:10])}{', …' if len(names) > 10 else ''}"


@dataclass(frozen=True, slots=True)
class _Session:
    """What belongs to one event loop."""

    client: AsyncOpenAI
    probing: asyncio.Lock = field(default_factory=asyncio.Lock)


class _Malformed(Exception):
    """A reply that is no chat completion."""


class _TooMuch(Exception):
    """A response that would fill our memory."""


def _checked_url(url: str) -> str:
    """Without a slash at its end; BadInput, which doesn't repeat it, where it may hold a secret."""
    try:
        parts = urlsplit(url)
        sound = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        raise BadInput("a server's address cannot be read", "write it as http://localhost:11434/v1") from None
    if "@" in url or parts.query or parts.fragment:
        raise BadInput(
            "a server's address holds no user, password or query", "set LOOKALIKE_API_KEY to the server's key"
        )
    if not sound:
        raise BadInput(f"{url!r} is no server's address", "write it as http://localhost:11434/v1")
    return url.rstrip("/")


def _checked_key(key: str | None) -> str | None:
    """Without the white space around it, as files have it; None for an empty one."""
    key = (key or "").strip()
    if not all("!" <= sign <= "~" for sign in key):
        raise BadInput(
            "the key holds a sign that no key has", "look for blanks or quotes in LOOKALIKE_API_KEY"
        )
    return key or None


def _client(url: str, key: str | None, timeout_s: float) -> AsyncOpenAI:
    """The SDK's client, kept from what it does by itself: retries, redirects, proxies, headers of its own."""
    try:
        import httpx2
        from openai import AsyncOpenAI
    except ImportError:
        raise MissingExtra("asking a server", "captions") from None

    class Bounded(httpx2.AsyncByteStream):
        def __init__(self, stream: httpx2.AsyncByteStream) -> None:
            self._stream = stream

        async def __aiter__(self) -> AsyncIterator[bytes]:
            taken = 0
            async for part in self._stream:
                taken += len(part)
                if taken > _MOST_BYTES:
                    raise _TooMuch
                yield part

        async def aclose(self) -> None:
            await self._stream.aclose()

    async def plain(request: httpx2.Request) -> None:
        # the SDK adds what it finds in OPENAI_… variables: not meant for this server, least of all a key
        kept = [(name, value) for name, value in request.headers.raw if name.lower() in _HEADERS]
        ours = [(b"accept-encoding", b"identity"), (b"user-agent", b"lookalike")]
        request.headers = httpx2.Headers([*kept, *ours])
        if key is not None:
            request.headers["authorization"] = f"Bearer {key}"

    async def bounded(response: httpx2.Response) -> None:
        if response.headers.get("content-encoding", "identity") != "identity":
            raise _Malformed("it is compressed, which was not asked for")
        assert isinstance(response.stream, httpx2.AsyncByteStream)
        response.stream = Bounded(response.stream)

    http = httpx2.AsyncClient(
        timeout=timeout_s,
        # as many as the caller opens; idle ones go before uvicorn closes them, after 5 s
        limits=httpx2.Limits(keepalive_expiry=3.0),
        follow_redirects=False,
        trust_env=False,
        event_hooks={"request": [plain], "response": [bounded]},
    )
    # a key of any kind, lest it look for one in the environment; `plain` sends the real one
    return AsyncOpenAI(base_url=url, api_key="unused", max_retries=0, http_client=http)


async def _streamed(client: AsyncOpenAI, fields: dict[str, Any], arrival: _Arrival) -> None:
    counted: ChatCompletionStreamOptionsParam = {"include_usage": True}
    async with await client.chat.completions.create(**fields, stream=True, stream_options=counted) as events:
        async for event in events:
            arrival.take(event, streamed=True)
    if arrival.finish is None:
        raise _Malformed("it ends in the middle")


@dataclass(slots=True)
class _Arrival:
    """What has come of a reply so far."""

    started: float = field(default_factory=time.monotonic)
    first_ms: float | None = None
    texts: list[str] = field(default_factory=list)
    refusals: list[str] = field(default_factory=list)
    finish: str | None = None
    tokens_in: int = 0
    tokens_out: int = 0

    def take(self, event: Any, streamed: bool) -> None:
        """A whole reply or one event of a stream; _Malformed where it is neither."""
        try:  # the SDK does not check what it reads
            if event.usage is not None:
                self.tokens_in = int(event.usage.prompt_tokens or 0)
                self.tokens_out = int(event.usage.completion_tokens or 0)
            choices = event.choices[:1] if streamed else [event.choices[0]]  # a stream's last event has none
            for choice in choices:
                said = choice.delta if streamed else choice.message
                self.finish = choice.finish_reason or self.finish
                self.texts.append(said.content or "")
                self.refusals.append(said.refusal or "")
        except (AttributeError, IndexError, TypeError, ValueError):
            raise _Malformed("it is no chat completion") from None
        if streamed and self.first_ms is None and any(self.texts + self.refusals):
            self.first_ms = self._ms()

    def reply(self) -> Reply:
        """A refusal counts as filtered, its words as the reply's."""
        try:
            text, refusal = "".join(self.texts), "".join(self.refusals)
        except TypeError:
            raise _Malformed("its content is no text") from None
        finish = "filter" if refusal else _FINISH.get(str(self.finish), "stop")
        return Reply(text or refusal, finish, self.tokens_in, self.tokens_out, self.first_ms, self._ms())

    def _ms(self) -> float:
        return 1e3 * (time.monotonic() - self.started)


def _obeyed(text: str) -> bool:
    try:
        return bool(json.loads(text) == {"colour": "umber"})
    except ValueError:
        return False


def _seconds(retry_after: str | None) -> float | None:
    """A Retry-After header, seconds or a date, as seconds from now; None where it says nothing of use."""
    if retry_after is None:
        return None
    try:
        seconds = float(retry_after)
    except ValueError:
        try:
            seconds = parsedate_to_datetime(retry_after).timestamp() - time.time()
        except (ValueError, OverflowError):
            return None
    return max(0.0, seconds) if math.isfinite(seconds) else None
