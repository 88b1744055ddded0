"""The client against real servers on loopback: scripted ones, and rude ones that send what none should."""

from __future__ import annotations

import asyncio
import base64
import email.utils
import io
import json
import logging
import socket
import socketserver
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
from PIL import Image

from lookalike.captions.chat import Ask, CallFailed, Reply, Turn
from lookalike.captions.posting import PREPROCESS, picture_bytes
from lookalike.captions.server import Server
from lookalike.errors import BadInput, MissingExtra
from lookalike.testing import drawing
from lookalike.testing.loopback import Fault, Loopback, Say, schema_of, text_of
from lookalike.values import Box, Picture, Region

pytest.importorskip("openai")

KEY = "sk-very-secret"
PROMPT = "What is the garment's colour, in confidence?"
ASK = Ask("vlm", (Turn("system", "You look closely."), Turn("user", PROMPT)))
SCHEMA = {
    "type": "object",
    "properties": {"colour": {"type": "string", "enum": ["navy", "not_visible"]}},
    "required": ["colour"],
    "additionalProperties": False,
}
FORM = Ask("vlm", ASK.turns, schema=SCHEMA)
DIALECTS = {
    "json_schema": "json_schema",
    "structured_outputs": "structured_outputs",
    "json_object": "json_object",
    "none": "prompt",
    "ignores": "prompt",
}


def scripted(*said: Say | Fault) -> Callable[[dict[str, Any]], Say | Fault]:
    """A model that falls for every temptation, and says `said` one after the other, the last again."""
    left = list(said)

    def answer(body: dict[str, Any]) -> Say | Fault:
        if PROMPT not in text_of(body["messages"][-1]):
            return Say('{"colour": "blue"}')
        return left.pop(0) if len(left) > 1 else left[0]

    return answer


def asked(server: Server, *asks: Ask) -> list[Reply]:
    """The replies to asks, one after the other, in an event loop of their own."""

    async def talk() -> list[Reply]:
        try:
            return [await server.complete(ask) for ask in asks]
        finally:
            await server.close()

    return asyncio.run(talk())


def failure(server: Server, ask: Ask = ASK) -> CallFailed:
    with pytest.raises(CallFailed) as caught:
        asked(server, ask)
    return caught.value


@contextmanager
def rude(*responses: bytes) -> Iterator[str]:
    """The URL of a server that sends `responses` whatever is asked, each to one request, the last again."""
    left = list(responses)

    class Conversation(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            while (line := self.rfile.readline()).strip():
                length = 0
                while line.strip():
                    name, _, value = line.partition(b":")
                    length = int(value) if name.lower() == b"content-length" else length
                    line = self.rfile.readline()
                self.rfile.read(length)
                try:
                    self.wfile.write(left.pop(0) if len(left) > 1 else left[0])
                except ConnectionError:
                    return

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Conversation) as listener:
        listener.daemon_threads = True
        threading.Thread(target=listener.serve_forever, args=(0.02,), daemon=True).start()
        yield f"http://127.0.0.1:{listener.server_address[1]}/v1"
        listener.shutdown()


def response(
    body: str | bytes, status: str = "200 OK", *headers: str, kind: str = "application/json"
) -> bytes:
    content = body if isinstance(body, bytes) else body.encode()
    lines = [
        f"HTTP/1.1 {status}",
        f"Content-Type: {kind}",
        f"Content-Length: {len(content)}",
        *headers,
        "",
        "",
    ]
    return "\r\n".join(lines).encode() + content


def completion(**message: Any) -> str:
    return json.dumps({"choices": [{"index": 0, "message": message, "finish_reason": "stop"}]})


def region(width: int = 96, height: int = 128, box: Box | None = None) -> Region:
    return Region(Picture.of(drawing(3, width, height)), box)


# What is asked, and how


def test_an_ask_is_posted_as_it_is() -> None:
    ask = Ask("llm", ASK.turns, max_tokens=48, temperature=0.6, seed=5, stop=("\n", "Answer:"), sample=2)
    with Loopback(scripted(Say("navy"))) as loopback:
        server = Server(loopback.url, "vlm", "llm")
        (reply,) = asked(server, ask)
        body = loopback.bodies[-1]
    assert reply.text == "navy" and reply.finish == "stop" and reply.first_ms is None
    assert body == {
        "model": "llm",
        "messages": [
            {"role": "system", "content": "You look closely."},
            {"role": "user", "content": PROMPT},
        ],
        "max_tokens": 48,
        "temperature": 0.6,
        "seed": 7,  # the third sample gets a seed of its own
        "stop": ["\n", "Answer:"],
    }


def test_one_model_plays_both_parts_where_no_other_is_named() -> None:
    with Loopback(scripted(Say("navy"))) as loopback:
        server = Server(loopback.url, "vlm", None)
        asked(server, Ask("llm", ASK.turns))
        assert [body["model"] for body in loopback.bodies] == ["vlm", "vlm"]  # one probe and the ask
    assert server.identity("llm") == server.identity("vlm")


@pytest.mark.parametrize(
    "box", [None, Box(10, 20, 61, 101), Box(95, 0, 96, 1)], ids=["whole", "box", "one pixel"]
)
def test_the_posted_picture_is_the_region(box: Box | None) -> None:
    shown = region(box=box)
    turns = (Turn("user", PROMPT, shown), Turn("assistant", "A dress."), Turn("user", PROMPT))
    with Loopback(scripted(Say("navy"))) as loopback:
        asked(Server(loopback.url, "vlm", "llm"), Ask("vlm", turns))
        messages = loopback.bodies[-1]["messages"]
    picture, text = messages[0]["content"]  # the picture comes first
    assert text == {"type": "text", "text": PROMPT} and messages[1:] == [
        {"role": "assistant", "content": "A dress."},
        {"role": "user", "content": PROMPT},
    ]
    kind, _, data = picture["image_url"]["url"].partition(",")
    assert picture["type"] == "image_url" and kind == "data:image/jpeg;base64"
    seen = Image.open(io.BytesIO(base64.b64decode(data, validate=True)))
    assert seen.format == "JPEG" and not seen.getexif() and seen.mode == "RGB"
    pixels = np.asarray(seen, np.float32)
    assert pixels.shape == shown.pixels.shape
    assert np.abs(pixels - shown.pixels).mean() < 3


def test_large_pictures_are_posted_smaller_and_small_ones_as_they_are() -> None:
    def size(width: int, height: int) -> tuple[int, int]:
        with Image.open(io.BytesIO(picture_bytes(region(width, height)))) as seen:
            return seen.size

    assert PREPROCESS == "jpeg-90-768"
    assert size(3000, 1500) == (768, 384) and size(20, 4000) == (4, 768) and size(30, 20) == (30, 20)
    assert picture_bytes(region(900, 500)) == picture_bytes(region(900, 500))


# Dialects


@pytest.mark.parametrize(("spoken", "dialect"), DIALECTS.items())
def test_the_probe_finds_what_the_server_obeys(spoken: Any, dialect: str) -> None:
    with Loopback(scripted(Say("A navy dress.")), dialect=spoken) as loopback:
        server = Server(loopback.url, "vlm", "llm")
        (reply,) = asked(server, FORM)
        body = loopback.bodies[-1]
    assert server.identity("vlm") == {"server": loopback.url, "model": "vlm", "dialect": dialect}
    assert server.identity("llm") == {"server": loopback.url, "model": "llm", "dialect": dialect}
    assert schema_of(body) == SCHEMA
    in_words = json.dumps(SCHEMA) in text_of(body["messages"][-1])
    assert in_words == (dialect in ("json_object", "prompt"))
    if dialect == "prompt":
        assert reply.text == "A navy dress."  # for the caller to judge
        assert "response_format" not in body and "structured_outputs" not in body
    else:
        assert json.loads(reply.text) == {"colour": "navy"}


def test_a_schema_told_in_words_goes_to_the_last_user_turn_and_keeps_its_picture() -> None:
    turns = (Turn("user", "First.", region()), Turn("assistant", "Yes?"), Turn("user", PROMPT, region(8, 8)))
    with Loopback(scripted(Say("navy")), dialect="none") as loopback:
        asked(Server(loopback.url, "vlm", None), Ask("vlm", turns, schema=SCHEMA))
        first, _, last = loopback.bodies[-1]["messages"]
    assert text_of(first) == "First." and text_of(last).startswith(PROMPT)
    assert [part["type"] for part in last["content"]] == ["image_url", "text"]


def test_each_model_is_probed_once_even_by_calls_that_overlap() -> None:
    async def talk(server: Server) -> None:
        await asyncio.gather(*(server.complete(ASK) for _ in range(5)), server.ready())
        await server.ready()
        await server.close()

    with Loopback(scripted(Say("navy"))) as loopback:
        server = Server(loopback.url, "vlm", "llm")
        asyncio.run(talk(server))
        assert loopback.requests == 2 + 5
        asked(server, ASK)  # in another loop
        assert loopback.requests == 2 + 6


def test_a_single_500_does_not_decide_the_dialect() -> None:
    faults = iter([Fault("status", 500)])
    with Loopback(lambda body: next(faults, Say('{"colour": "blue"}'))) as loopback:
        server = Server(loopback.url, "vlm", None)
        asked(server, FORM)
    assert server.identity("vlm")["dialect"] == "json_schema"


@pytest.mark.parametrize(("status", "again"), [(503, True), (429, True), (401, False)])
def test_a_probe_that_fails_is_no_finding(status: int, again: bool) -> None:
    faults = iter([Fault("status", status)])
    with Loopback(lambda body: next(faults, Say('{"colour": "blue"}'))) as loopback:
        server = Server(loopback.url, "vlm", None)
        failed = failure(server, FORM)
        assert (failed.status, failed.again) == (status, again)
        asked(server, FORM)
    assert server.identity("vlm")["dialect"] == "json_schema"


def test_a_model_that_answers_nothing_cannot_be_asked() -> None:
    with Loopback(lambda body: Fault("status", 400)) as loopback:
        assert failure(Server(loopback.url, "vlm", None)).status == 400


# Replies


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("said", "text", "finish"),
    [
        (Say("A navy dress."), "A navy dress.", "stop"),
        (Say("A navy dr", "length"), "A navy dr", "length"),
        (Say("A na", "content_filter"), "A na", "filter"),
        (Say("navy", "eos_token"), "navy", "stop"),
        (Fault("truncated"), '{"category": "dr', "length"),
        (Fault("refusal"), "I'm sorry, but I can't help with that.", "filter"),
        (Fault("empty"), "", "stop"),
        (Fault("wrong_schema"), '{"unexpected": true}', "stop"),
        (Fault("slow", seconds=0.05), "late", "stop"),
    ],
)
def test_replies_whole_and_streamed(said: Say | Fault, text: str, finish: str, stream: bool) -> None:
    with Loopback(scripted(said)) as loopback:
        (reply,) = asked(Server(loopback.url, "vlm", "llm", stream=stream), ASK)
    assert (reply.text, reply.finish) == (text, finish)
    assert (reply.tokens_in, reply.tokens_out) == (3 + len(PROMPT.split()), len(text.split()))
    if stream and text:
        assert reply.first_ms is not None and 0 < reply.first_ms <= reply.total_ms
    else:
        assert reply.first_ms is None and reply.total_ms > 0


def test_content_may_be_null_and_usage_missing() -> None:
    with rude(response(completion(content=None))) as url:
        (reply,) = asked(Server(url, "vlm", None), ASK)
    assert (reply.text, reply.finish, reply.tokens_in, reply.tokens_out) == ("", "stop", 0, 0)


def test_calls_that_overlap_get_their_own_replies() -> None:
    async def talk(server: Server) -> list[Reply]:
        asks = [Ask("vlm", (Turn("user", f"{PROMPT} {number}"),)) for number in range(40)]
        replies = await asyncio.gather(*map(server.complete, asks))
        await server.close()
        return replies

    with Loopback(lambda body: Say(text_of(body["messages"][-1]))) as loopback:
        replies = asyncio.run(talk(Server(loopback.url, "vlm", None)))
    assert [reply.text for reply in replies] == [f"{PROMPT} {number}" for number in range(40)]


def test_two_event_loops_one_after_the_other() -> None:
    with Loopback(scripted(Say("first"), Say("second"))) as loopback:
        server = Server(loopback.url, "vlm", "llm")
        assert [asked(server, ASK)[0].text for _ in range(2)] == ["first", "second"]


def test_two_event_loops_at_once() -> None:
    with Loopback(lambda body: Say(text_of(body["messages"][-1]))) as loopback:
        server = Server(loopback.url, "vlm", None)
        heard: dict[int, str] = {}

        def talk(number: int) -> None:
            heard[number] = asked(server, Ask("vlm", (Turn("user", f"{PROMPT} {number}"),)))[0].text

        threads = [threading.Thread(target=talk, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert heard == {number: f"{PROMPT} {number}" for number in range(4)}


def test_a_cancelled_call_leaves_the_server_usable() -> None:
    async def talk(server: Server) -> str:
        await server.ready()
        slow = asyncio.create_task(server.complete(ASK))
        while loopback.requests < 2:  # the probe, and the call
            await asyncio.sleep(0.01)
        slow.cancel()
        with pytest.raises(asyncio.CancelledError):
            await slow
        reply = await server.complete(ASK)
        await server.close()
        return reply.text

    with Loopback(scripted(Fault("slow", seconds=0.3), Say("navy"))) as loopback:
        assert asyncio.run(talk(Server(loopback.url, "vlm", None))) == "navy"


# Failures


@pytest.mark.parametrize("status", [408, 409, 429, 500, 502, 503, 504, 529])
def test_statuses_worth_another_try(status: int) -> None:
    with Loopback(scripted(Fault("status", status))) as loopback:
        failed = failure(Server(loopback.url, "vlm", None))
        assert loopback.requests == 2  # the probe, and the call: retries are the caller's
    assert failed.again and failed.status == status and failed.after_s is None


@pytest.mark.parametrize("status", [400, 401, 403, 404, 405, 413, 422])
def test_statuses_not_worth_another_try(status: int) -> None:
    with Loopback(scripted(Fault("status", status, retry_after=3))) as loopback:
        failed = failure(Server(loopback.url, "vlm", None))
        assert not failed.again and failed.status == status and failed.hint
        assert loopback.requests == 2  # the probe, and the call


@pytest.mark.parametrize(
    ("header", "after_s"),
    [
        ("7", 7.0),
        ("0.25", 0.25),
        (" 3 ", 3.0),
        ("-4", 0.0),
        ("soon", None),
        ("inf", None),
        ("", None),
        ("nan", None),
    ],
)
@pytest.mark.parametrize("status", [429, 503])
def test_when_to_come_again(status: int, header: str, after_s: float | None) -> None:
    with Loopback(scripted(Fault("status", status, retry_after=header))) as loopback:
        assert failure(Server(loopback.url, "vlm", None)).after_s == after_s


@pytest.mark.parametrize(("ahead", "least", "most"), [(600, 500, 601), (-600, 0, 0)])
def test_when_to_come_again_by_date(ahead: int, least: float, most: float) -> None:
    date = email.utils.formatdate(time.time() + ahead, usegmt=True)
    with Loopback(scripted(Fault("status", 429, retry_after=date))) as loopback:
        after_s = failure(Server(loopback.url, "vlm", None)).after_s
    assert after_s is not None and least <= after_s <= most


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (Fault("drop"), "broke off"),
        (Fault("malformed"), "no JSON"),
        (Fault("slow", seconds=1.5), "no reply within 0.3 s"),
    ],
)
def test_accidents_are_worth_another_try(fault: Fault, words: str, stream: bool) -> None:
    with Loopback(scripted(fault)) as loopback:
        failed = failure(Server(loopback.url, "vlm", None, timeout_s=0.3, stream=stream))
    assert failed.again and failed.status == 0 and words in str(failed) and loopback.url in str(failed)


@pytest.mark.parametrize(
    "body",
    [
        "null", "[]", '"text"', "{}", '{"choices": null}', '{"choices": []}', '{"choices": [null]}',
        '{"choices": [{"message": null}]}', '{"choices": 7}', completion(content=["no", "text"]),
        completion(content=7), "[" * 100_000,
        '{"choices": [{"message": {"content": "navy"}}], "usage": {"prompt_tokens": "many"}}',
    ],
)  # fmt: skip
def test_bodies_that_are_no_completion(body: str) -> None:
    with rude(response(body)) as url:
        failed = failure(Server(url, "vlm", None))
    assert failed.again and failed.status == 0


def test_a_page_is_no_reply() -> None:
    with rude(response("<html>hello</html>", kind="text/html")) as url:
        assert failure(Server(url, "vlm", None)).again


@pytest.mark.parametrize(
    "events",
    [
        'data: {"choices": [{"index": 0, "delta": {"content": "na"}}]}\n\n',  # and no reason to finish
        'data: {"error": {"message": "out of memory", "type": "server_error"}}\n\n',
        'data: {"choices": 7}\n\n',
        "data: 7\n\n",
        "",
    ],
)
def test_streams_that_are_no_reply(events: str) -> None:
    with rude(response(events, kind="text/event-stream")) as url:
        failed = failure(Server(url, "vlm", None, stream=True))
    assert failed.again and "out of memory" not in str(failed)


@pytest.mark.parametrize("stream", [False, True])
def test_an_endless_reply_does_not_fill_the_memory(stream: bool) -> None:
    kind = "text/event-stream" if stream else "application/json"
    with rude(response(b" " * (9 << 20), kind=kind)) as url:
        failed = failure(Server(url, "vlm", None, stream=stream))
    assert not failed.again and "more than 8 MB" in str(failed)


def test_a_packed_reply_is_not_unpacked() -> None:
    with rude(response(b"\x1f\x8b", "200 OK", "Content-Encoding: gzip")) as url:
        assert "compressed" in str(failure(Server(url, "vlm", None)))


def test_a_redirect_is_not_followed() -> None:
    with Loopback(scripted(Say("navy"))) as other:
        elsewhere = response("{}", "307 Temporary Redirect", f"Location: {other.url}/chat/completions")
        with rude(elsewhere) as url:
            failed = failure(Server(url, "vlm", None, key=KEY))
        assert other.requests == 0
    assert (failed.status, failed.again) == (307, False) and "elsewhere" in failed.hint


def test_nobody_listens() -> None:
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port = unused.getsockname()[1]
    failed = failure(Server(f"http://127.0.0.1:{port}/v1", "vlm", None))
    assert failed.again and failed.hint == f"is the server running at http://127.0.0.1:{port}/v1?"


def test_a_model_that_is_not_served_is_answered_with_those_that_are() -> None:
    with Loopback(scripted(Say("navy")), models=("llava:7b", "llama3")) as loopback:
        failed = failure(Server(loopback.url, "lava", None))
    assert not failed.again and "'lava'" in str(failed) and failed.hint == "served there: llava:7b, llama3"
    with rude(response("{}", "404 Not Found")) as url:
        assert "/v1" in failure(Server(url, "vlm", None)).hint


# Secrets


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    "status", ["200 OK", "400 Bad Request", "401 Unauthorized", "404 Not Found", "500 Oops"]
)
def test_neither_key_nor_prompt_is_told(status: str, stream: bool, caplog: pytest.LogCaptureFixture) -> None:
    told = f"Bearer {KEY}: {PROMPT}"
    body = json.dumps({"error": {"message": told, "code": told, "type": told}, "choices": told, "data": told})
    kind = "text/event-stream" if stream and status == "200 OK" else "application/json"
    with (
        caplog.at_level(logging.DEBUG),
        rude(response(f"data: {body}\n\n" if stream else body, status, kind=kind)) as url,
    ):
        server = Server(url, "vlm", None, key=KEY, stream=stream)
        failed = failure(server)
    shown = "".join(traceback.format_exception(failed)) + failed.hint + repr(failed) + caplog.text
    shown += repr(server) + server.name
    assert KEY not in shown and PROMPT not in shown


def test_a_key_that_looks_like_an_error_code_is_not_told() -> None:
    body = json.dumps({"error": {"message": "no", "code": "open_sesame", "type": "wrong_key"}})
    with rude(response(body, "401 Unauthorized")) as url:
        failed = failure(Server(url, "vlm", None, key="open_sesame"))
    assert "open_sesame" not in str(failed) and "wrong_key" in str(failed)
    assert failed.hint.endswith("set LOOKALIKE_API_KEY")


def test_the_key_goes_to_the_server_and_nothing_else_from_the_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("OPENAI_API_KEY", "OPENAI_ORG_ID", "OPENAI_PROJECT_ID", "OPENAI_ADMIN_KEY"):
        monkeypatch.setenv(name, "from-elsewhere")
    monkeypatch.setenv("OPENAI_CUSTOM_HEADERS", "X-Secret: from-elsewhere\nAuthorization: from-elsewhere")
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:9/v1")
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    with Loopback(scripted(Say("navy"))) as loopback:
        asked(Server(loopback.url, "vlm", None, key=f"{KEY}\n"), ASK)  # as read from a file
        with_key = {name.lower(): value for name, value in loopback.headers[-1].items()}
        asked(Server(loopback.url, "vlm", None), ASK)
        without = {name.lower(): value for name, value in loopback.headers[-1].items()}
    assert with_key["authorization"] == f"Bearer {KEY}" and "authorization" not in without
    assert "from-elsewhere" not in " ".join([*with_key.values(), *without.values()])


@pytest.mark.parametrize(
    "url",
    [
        "http://user:hunter2@localhost/v1", "user:hunter2@localhost:8000/v1", "http://localhost/v1?key=hunter2",
        "http://localhost/v1#hunter2", "http://hunter2@[::1/v1",
    ],
)  # fmt: skip
def test_an_address_with_a_secret_is_refused_without_telling_it(url: str) -> None:
    with pytest.raises(BadInput) as caught:
        Server(url, "vlm", None)
    assert "hunter2" not in str(caught.value) + caught.value.hint and caught.value.hint


@pytest.mark.parametrize(
    "url", ["localhost:11434/v1", "ftp://localhost/v1", "http:///v1", "http://localhost:x/v1", ""]
)
def test_what_is_no_address(url: str) -> None:
    with pytest.raises(BadInput) as caught:
        Server(url, "vlm", None)
    assert "http://localhost:11434/v1" in caught.value.hint


@pytest.mark.parametrize("key", ["se cret", "se\ncret", "sécret"])
def test_what_is_no_key(key: str) -> None:
    with pytest.raises(BadInput) as caught:
        Server("http://localhost/v1", "vlm", None, key=key)
    assert key not in str(caught.value) + caught.value.hint


# Identity and imports


def test_identity_changes_with_address_model_and_dialect() -> None:
    def identity(loopback: Loopback, vlm: str) -> dict[str, str]:
        server = Server(f"{loopback.url}/", vlm, None)
        asked(server, ASK)
        return dict(server.identity("vlm"))

    with (
        Loopback(scripted(Say("navy")), models=("a", "b")) as one,
        Loopback(scripted(Say("navy")), models=("a",), dialect="none") as two,
    ):
        first, again, other_model, other_server = (
            identity(one, "a"), identity(one, "a"), identity(one, "b"), identity(two, "a"),
        )  # fmt: skip
    assert first == again == {"server": one.url, "model": "a", "dialect": "json_schema"}
    assert other_model == {**first, "model": "b"}
    assert other_server == {"server": two.url, "model": "a", "dialect": "prompt"}


def test_the_sdk_is_loaded_when_it_is_used_and_named_where_it_is_missing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    script = (
        "import sys, lookalike.captions.server; sys.exit('openai' in sys.modules or 'httpx2' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0
    monkeypatch.setitem(sys.modules, "openai", None)
    with pytest.raises(MissingExtra) as caught:
        asked(Server("http://localhost/v1", "vlm", None), ASK)
    assert "lookalike[captions]" in caught.value.hint
