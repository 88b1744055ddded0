"""A server on this machine that speaks the OpenAI chat protocol, with scripted answers and scripted faults.

Real HTTP over a real socket, so that clients are tested with their own network code. Its delays are
simulated: the time it takes says nothing about a model.
"""

from __future__ import annotations

import http.client
import json
import math
import socket
import struct
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal, Self

# How the server wants to be told a schema, and what it does about the other ways:
Dialect = Literal[
    "json_schema",  # response_format of that type; ignores the others (Ollama, llama.cpp)
    "structured_outputs",  # a field of that name (vLLM); 400 to json_schema, ignores json_object's schema
    "json_object",  # response_format of that type with a schema (llama-cpp-python); 500 to json_schema
    "none",  # 400 to all of them
    "ignores",  # accepts all of them and does as it likes
]


@dataclass(frozen=True, slots=True)
class Say:
    """A reply; `finish` in the protocol's words: "stop", "length", "content_filter"."""

    text: str
    finish: str = "stop"


@dataclass(frozen=True, slots=True)
class Fault:
    """What goes wrong instead of a reply.

    "status": an HTTP error with `status` and, where given, a Retry-After header. "malformed": a body that is
    no JSON. "truncated": a reply cut off by its length. "refusal": OpenAI's refusal field and no content.
    "empty": no text. "wrong_schema": JSON that follows no schema. "slow": the first byte comes after
    `seconds`. "drop": the connection is reset, in a stream after the first piece.
    """

    kind: Literal["status", "malformed", "truncated", "refusal", "empty", "wrong_schema", "slow", "drop"]
    status: int = 503
    retry_after: str | int | None = None
    seconds: float = 1.0


Answer = Callable[[dict[str, Any]], Say | Fault]


class Loopback:
    """A context manager that serves `answer` at `url` while it is open.

    `answer` gets a request's body without the schemas that this dialect ignores, and may be called from
    several threads at once. A reply to a schema that the dialect obeys is forced into it, as guided decoding
    does it: kept where it fits, else the schema's plainest value. `requests` counts the calls of chat
    completions, `bodies` and `headers` hold the last of them, as they came. Above `requests_per_s` (a burst
    of one second is let through) the reply is 429 with Retry-After.
    """

    def __init__(
        self,
        answer: Answer,
        dialect: Dialect = "json_schema",
        delay_s: float = 0.0,
        requests_per_s: float | None = None,
        models: tuple[str, ...] = ("vlm", "llm"),
        port: int = 0,
        kept: int = 256,
    ) -> None:
        self.models = models
        self.requests = 0
        self.bodies: deque[dict[str, Any]] = deque(maxlen=kept)
        self.headers: deque[dict[str, str]] = deque(maxlen=kept)
        self._answer, self._dialect, self._delay_s, self._port = answer, dialect, delay_s, port
        self._bucket = None if requests_per_s is None else _Bucket(requests_per_s)
        self._counting = threading.Lock()

    def __enter__(self) -> Self:
        self._server = _Listener(self, self._port)
        # a short poll, so that closing does not wait half a second
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    @property
    def url(self) -> str:
        """What a client is given: "http://127.0.0.1:PORT/v1"."""
        return f"http://127.0.0.1:{self._server.server_address[1]}/v1"

    def serve_forever(self) -> None:
        """Wait, inside the context, until the process is interrupted."""
        self._thread.join()

    def completed(self, body: dict[str, Any], headers: dict[str, str]) -> Say | Fault | _Error:
        """What is said to one call of chat completions, after the delay."""
        with self._counting:
            self.requests += 1
            self.bodies.append(body)
            self.headers.append(headers)
            wait_s = 0.0 if self._bucket is None else self._bucket.taken()
        if wait_s:
            return _Error(429, "rate_limit_exceeded", retry_after=math.ceil(wait_s))
        if body.get("model") not in self.models:
            return _Error(404, "model_not_found")
        heard = _heard(body, self._dialect)
        if isinstance(heard, _Error):
            return heard
        if self._delay_s:
            time.sleep(self._delay_s)
        said = self._answer(heard)
        form = _form(heard)
        if isinstance(said, Say) and form is not None:
            return Say(_forced(said.text, form[1]), said.finish)
        return said


def schema_of(body: Mapping[str, Any]) -> dict[str, Any] | None:
    """The JSON schema that a request asks for: by one of the dialects, or in the words of its last turn."""
    form = _form(body)
    if form is not None:
        return form[1]
    for line in reversed(text_of(body["messages"][-1]).splitlines()):
        if line.startswith("{"):
            try:
                told = json.loads(line)
            except ValueError:
                continue
            if isinstance(told, dict) and "properties" in told:
                return told
    return None


def text_of(message: Mapping[str, Any]) -> str:
    """The words of one message, without its pictures."""
    content = message.get("content") or ""
    if isinstance(content, str):
        return content
    return "\n".join(part["text"] for part in content if part["type"] == "text")


@dataclass(frozen=True, slots=True)
class _Error:
    """An HTTP error as OpenAI-compatible servers word it."""

    status: int
    code: str
    retry_after: str | int | None = None


def _form(body: Mapping[str, Any]) -> tuple[str, dict[str, Any]] | None:
    """In which dialect a body asks for which schema."""
    if "structured_outputs" in body:
        return "structured_outputs", body["structured_outputs"]["json"]
    wanted = body.get("response_format", {})
    if wanted.get("type") == "json_schema":
        return "json_schema", wanted["json_schema"]["schema"]
    if wanted.get("type") == "json_object" and "schema" in wanted:
        return "json_object", wanted["schema"]
    return None


def _heard(body: dict[str, Any], dialect: Dialect) -> dict[str, Any] | _Error:
    """What a server of this dialect takes of a body, or what it says against it."""
    form = _form(body)
    if form is None or form[0] == dialect:
        return body
    if dialect == "none":
        return _Error(400, "invalid_request_error")
    if form[0] == "json_schema" and dialect == "structured_outputs":
        return _Error(400, "invalid_request_error")
    if form[0] == "json_schema" and dialect == "json_object":
        return _Error(500, "internal_server_error")
    return {key: body[key] for key in body if key not in ("response_format", "structured_outputs")}


def _forced(text: str, schema: dict[str, Any]) -> str:
    from jsonschema import Draft202012Validator

    try:
        fits = Draft202012Validator(schema).is_valid(json.loads(text))
    except ValueError:
        fits = False
    return text if fits else json.dumps(_plainest(schema))


def _plainest(schema: Mapping[str, Any]) -> Any:
    """A value that a plain schema allows: its first enum, its required properties, else nothing much."""
    if "enum" in schema:
        return schema["enum"][0]
    if "const" in schema:
        return schema["const"]
    match schema.get("type"):
        case "object":
            return {name: _plainest(schema["properties"][name]) for name in schema.get("required", ())}
        case "array":
            return [_plainest(schema["items"]) for _ in range(schema.get("minItems", 0))]
        case "integer" | "number":
            return schema.get("minimum", 0)
        case "boolean":
            return False
    return "x" * schema.get("minLength", 0)


class _Bucket:
    """At most `rate` a second, and a burst of one second's worth. Not for several threads at once."""

    def __init__(self, rate: float) -> None:
        self._rate, self._room = rate, max(rate, 1.0)
        self._left, self._at = self._room, time.monotonic()

    def taken(self) -> float:
        """0.0 where there was one left to take, else the seconds until there will be."""
        now = time.monotonic()
        self._left = min(self._room, self._left + (now - self._at) * self._rate)
        self._at = now
        if self._left < 1:
            return (1 - self._left) / self._rate
        self._left -= 1
        return 0.0


class _Listener(ThreadingHTTPServer):
    request_queue_size = 256  # the default of 5 resets connections when many clients come at once
    daemon_threads = True

    def __init__(self, loopback: Loopback, port: int) -> None:
        self.loopback = loopback
        self._open: set[socket.socket] = set()
        super().__init__(("127.0.0.1", port), _Conversation)

    def process_request(self, request: Any, client_address: Any) -> None:
        self._open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self._open.discard(request)
        super().shutdown_request(request)

    def server_close(self) -> None:
        super().server_close()
        for connection in list(self._open):  # clients that keep their connection would hold its thread
            try:
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:
                continue  # gone already

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away while it was answered is no news; anything else is."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)


class _Conversation(BaseHTTPRequestHandler):
    """One connection. Each response is one write: head and body apart would wait for a delayed ACK, 40 ms."""

    server: _Listener
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, *_: object) -> None:
        pass  # the base class writes every request to stderr

    def do_GET(self) -> None:
        if self.path != "/v1/models":
            return self._error(_Error(404, "not_found"))
        models = [{"id": name, "object": "model"} for name in self.server.loopback.models]
        return self._json({"object": "list", "data": models})

    def do_POST(self) -> None:
        content = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.path != "/v1/chat/completions":
            return self._error(_Error(404, "not_found"))
        try:
            body = json.loads(content)
        except ValueError:
            return self._error(_Error(400, "invalid_request_error"))
        said = self.server.loopback.completed(body, dict(self.headers.items()))
        if isinstance(said, _Error):
            return self._error(said)
        if isinstance(said, Fault) and said.kind == "status":
            return self._error(_Error(said.status, "scripted_fault", said.retry_after))
        return self._streamed(said, body) if body.get("stream") else self._replied(said, body)

    def _replied(self, said: Say | Fault, body: Mapping[str, Any]) -> None:
        if isinstance(said, Fault) and said.kind == "drop":
            return self._reset()
        if isinstance(said, Fault) and said.kind == "malformed":
            return self._send(200, '{"id": "chatcmpl-1", "choices": [{"mess')
        message, finish = self._message(said)
        return self._json({
            "id": "chatcmpl-1", "object": "chat.completion", "created": 0, "model": body["model"],
            "choices": [{"index": 0, "message": {"role": "assistant", **message}, "finish_reason": finish}],
            "usage": _usage(body, message),
        })  # fmt: skip

    def _streamed(self, said: Say | Fault, body: Mapping[str, Any]) -> None:
        """Two writes: the first piece of the text, then the rest."""
        fault = said.kind if isinstance(said, Fault) else None
        message, finish = self._message(said)
        pieces = list(_pieces(message, finish, body))
        self.wfile.write(
            b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
            + _chunk("".join(pieces[:2]))
        )
        if fault == "drop":
            return self._reset()
        rest = 'data: {"choices": [{"del\n\n' if fault == "malformed" else "".join(pieces[2:])
        self.wfile.write(_chunk(rest + "data: [DONE]\n\n") + b"0\r\n\r\n")
        return None

    def _message(self, said: Say | Fault) -> tuple[dict[str, str | None], str]:
        """The content or refusal, and the reason to finish."""
        if isinstance(said, Say):
            return {"content": said.text}, said.finish
        match said.kind:
            case "truncated":
                return {"content": '{"category": "dr'}, "length"
            case "refusal":
                return {"content": None, "refusal": "I'm sorry, but I can't help with that."}, "stop"
            case "wrong_schema":
                return {"content": '{"unexpected": true}'}, "stop"
            case "slow":
                time.sleep(said.seconds)
                return {"content": "late"}, "stop"
        return {"content": ""}, "stop"

    def _error(self, error: _Error) -> None:
        extra = "" if error.retry_after is None else f"Retry-After: {error.retry_after}\r\n"
        told = {"message": "scripted", "type": error.code, "code": error.code}
        self._send(error.status, json.dumps({"error": told}), extra)

    def _json(self, value: Mapping[str, Any]) -> None:
        self._send(200, json.dumps(value))

    def _send(self, status: int, text: str, extra: str = "") -> None:
        content = text.encode()
        head = (
            f"HTTP/1.1 {status} {http.client.responses.get(status, '')}\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(content)}\r\n{extra}\r\n"
        )
        self.wfile.write(head.encode() + content)

    def _reset(self) -> None:
        """Close at once and rudely: the client sees a reset, not an end."""
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True
        self.connection.close()


def _usage(body: Mapping[str, Any], message: Mapping[str, str | None]) -> dict[str, int]:
    """Words stand for tokens; pictures count for none."""
    asked = sum(len(text_of(turn).split()) for turn in body["messages"])
    said = len((message["content"] or message.get("refusal") or "").split())
    return {"prompt_tokens": asked, "completion_tokens": said, "total_tokens": asked + said}


def _pieces(message: Mapping[str, str | None], finish: str, body: Mapping[str, Any]) -> Iterator[str]:
    """The events of a stream: who speaks, the text in two parts, why it ended, and the usage if asked for."""

    def event(choices: list[dict[str, Any]], **more: Any) -> str:
        shared = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 0, "model": body["model"]}
        return f"data: {json.dumps({**shared, 'choices': choices, **more})}\n\n"

    def choice(delta: dict[str, str], reason: str | None = None) -> list[dict[str, Any]]:
        return [{"index": 0, "delta": delta, "finish_reason": reason}]

    yield event(choice({"role": "assistant"}))
    for key, text in message.items():
        if text:
            half = (len(text) + 1) // 2
            yield event(choice({key: text[:half]}))
            yield event(choice({key: text[half:]}))
    yield event(choice({}, finish))
    if (body.get("stream_options") or {}).get("include_usage"):
        yield event([], usage=_usage(body, message))


def _chunk(text: str) -> bytes:
    content = text.encode()
    return f"{len(content):x}\r\n".encode() + content + b"\r\n"
