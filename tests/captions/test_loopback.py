"""The fake server: what it says to each dialect, and each of its faults, seen by a plain HTTP client."""

from __future__ import annotations

import http.client
import json
import subprocess
import sys
import threading
from contextlib import closing
from typing import Any
from urllib.parse import urlsplit

import pytest

from lookalike.testing.loopback import Fault, Loopback, Say, schema_of, text_of

pytest.importorskip("jsonschema")

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "colour": {"enum": ["umber", "navy"]},
        "count": {"type": "integer", "minimum": 1},
        "trim": {"type": "array", "items": {"type": "string"}, "minItems": 1},
        "seen": {"type": "boolean"},
        "kind": {"const": "dress"},
        "words": {"type": "string"},
    },
    "required": ["colour", "count", "trim", "seen", "kind", "words"],
    "additionalProperties": False,
}
PLAINEST = {"colour": "umber", "count": 1, "trim": [""], "seen": False, "kind": "dress", "words": ""}
FORMS: dict[str, dict[str, Any]] = {
    "json_schema": {"response_format": {"type": "json_schema", "json_schema": {"schema": SCHEMA}}},
    "structured_outputs": {"structured_outputs": {"json": SCHEMA}},
    "json_object": {"response_format": {"type": "json_object", "schema": SCHEMA}},
}


def connected(loopback: Loopback) -> http.client.HTTPConnection:
    return http.client.HTTPConnection("127.0.0.1", urlsplit(loopback.url).port, timeout=10)


def posted(loopback: Loopback, path: str = "/v1/chat/completions", **fields: Any) -> http.client.HTTPResponse:
    """A response that has been read; its content is `.content`."""
    body = {"model": "vlm", "messages": [{"role": "user", "content": "Which colour?"}], **fields}
    with closing(connected(loopback)) as connection:
        connection.request("POST", path, json.dumps(body))
        response = connection.getresponse()
        response.content = response.read()  # type: ignore[attr-defined]
        return response


def content(response: Any) -> str | None:
    assert response.status == 200
    return json.loads(response.content)["choices"][0]["message"]["content"]


def test_a_reply_is_what_was_said_with_words_counted_as_tokens() -> None:
    with Loopback(lambda body: Say(f"about {text_of(body['messages'][0])}", "length")) as loopback:
        reply = json.loads(posted(loopback).content)
    assert reply["choices"][0]["message"] == {"role": "assistant", "content": "about Which colour?"}
    assert reply["choices"][0]["finish_reason"] == "length"
    assert reply["usage"] == {"prompt_tokens": 2, "completion_tokens": 3, "total_tokens": 5}
    assert loopback.requests == len(loopback.bodies) == len(loopback.headers) == 1
    assert loopback.bodies[0]["messages"][0]["content"] == "Which colour?"


@pytest.mark.parametrize(
    ("dialect", "form", "wanted"),
    [
        ("json_schema", "json_schema", "forced"),
        ("json_schema", "structured_outputs", "free"),
        ("json_schema", "json_object", "free"),
        ("structured_outputs", "json_schema", 400),
        ("structured_outputs", "structured_outputs", "forced"),
        ("structured_outputs", "json_object", "free"),
        ("json_object", "json_schema", 500),
        ("json_object", "structured_outputs", "free"),
        ("json_object", "json_object", "forced"),
        ("none", "json_schema", 400),
        ("none", "structured_outputs", 400),
        ("none", "json_object", 400),
        ("ignores", "json_schema", "free"),
        ("ignores", "structured_outputs", "free"),
        ("ignores", "json_object", "free"),
    ],
)
def test_each_dialect_obeys_its_own_form_only(dialect: Any, form: str, wanted: str | int) -> None:
    heard = []

    def answer(body: dict[str, Any]) -> Say:
        heard.append(schema_of(body))
        return Say("teal, I think")

    with Loopback(answer, dialect=dialect) as loopback:
        response = posted(loopback, **FORMS[form])
    if isinstance(wanted, int):
        assert response.status == wanted and heard == []
    elif wanted == "forced":
        assert json.loads(content(response) or "") == PLAINEST and heard == [SCHEMA]
    else:
        assert content(response) == "teal, I think" and heard == [None]
    assert FORMS[form].items() <= loopback.bodies[0].items()  # as it came


def test_a_reply_that_fits_is_not_changed_by_force() -> None:
    fits = json.dumps({**PLAINEST, "colour": "navy"}, indent=2)
    with Loopback(lambda body: Say(fits)) as loopback:
        assert content(posted(loopback, **FORMS["json_schema"])) == fits


def test_a_schema_is_also_found_in_the_words_of_the_last_turn() -> None:
    told = f'Not this: {{"a": 1}}\nFollow this schema:\n{json.dumps(SCHEMA)}\n{{"no": "schema"}}\n{{broken'
    parts = [{"type": "image_url", "image_url": {"url": "data:,"}}, {"type": "text", "text": told}]
    assert schema_of({"messages": [{"role": "user", "content": told}]}) == SCHEMA
    assert schema_of({"messages": [{"role": "user", "content": parts}]}) == SCHEMA
    assert schema_of({"messages": [{"role": "user", "content": "Which colour?"}]}) is None
    assert text_of({"role": "assistant", "content": None}) == ""


def test_streams_in_events_and_counts_when_asked() -> None:
    with Loopback(lambda body: Say("a navy dress")) as loopback:
        streams = [
            posted(loopback, stream=True, stream_options={"include_usage": counted}).content.decode()
            for counted in (True, False)
        ]
    for stream, counted in zip(streams, (True, False), strict=True):
        *events, done = [line.removeprefix("data: ") for line in stream.split("\n\n") if line]
        read = [json.loads(event) for event in events]
        choices = [event["choices"][0] for event in read if event["choices"]]
        assert done == "[DONE]"
        assert "".join(choice["delta"].get("content", "") for choice in choices) == "a navy dress"
        assert [choice["finish_reason"] for choice in choices] == [None, None, None, "stop"]
        assert [event["usage"]["total_tokens"] for event in read if "usage" in event] == [5] * counted


@pytest.mark.parametrize(
    ("kind", "message", "finish"),
    [
        ("truncated", {"content": '{"category": "dr'}, "length"),
        ("refusal", {"content": None, "refusal": "I'm sorry, but I can't help with that."}, "stop"),
        ("empty", {"content": ""}, "stop"),
        ("wrong_schema", {"content": '{"unexpected": true}'}, "stop"),
        ("slow", {"content": "late"}, "stop"),
    ],
)
def test_faults_of_a_reply(kind: Any, message: dict[str, str | None], finish: str) -> None:
    with Loopback(lambda body: Fault(kind, seconds=0.01)) as loopback:
        choice = json.loads(posted(loopback, **FORMS["json_schema"]).content)["choices"][0]
    assert choice["message"] == {"role": "assistant", **message} and choice["finish_reason"] == finish


def test_faults_of_http() -> None:
    faults = iter([Fault("status", 429, retry_after=7), Fault("status", 503), Fault("malformed")])
    with Loopback(lambda body: next(faults)) as loopback:
        limited, down, malformed = (posted(loopback) for _ in range(3))
    assert (limited.status, limited.getheader("Retry-After")) == (429, "7")
    assert (down.status, down.getheader("Retry-After")) == (503, None)
    assert malformed.status == 200
    with pytest.raises(ValueError, match="Unterminated"):
        json.loads(malformed.content)


@pytest.mark.parametrize("stream", [False, True])
def test_a_drop_is_a_reset(stream: bool) -> None:
    with Loopback(lambda body: Fault("drop")) as loopback, pytest.raises(ConnectionError):
        posted(loopback, stream=stream)


def test_above_its_limit_it_says_when_to_come_again() -> None:
    with Loopback(lambda body: Say("navy"), requests_per_s=2) as loopback:
        responses = [posted(loopback) for _ in range(3)]
    assert [response.status for response in responses] == [200, 200, 429]
    assert responses[2].getheader("Retry-After") == "1"
    assert loopback.requests == 3


def test_what_is_not_there_and_what_cannot_be_read() -> None:
    with Loopback(lambda body: Say("navy"), models=("llava", "llama3")) as loopback:
        with closing(connected(loopback)) as connection:
            connection.request("GET", "/v1/models")
            listed = json.loads(connection.getresponse().read())
            connection.request("GET", "/v1/model")  # over the same connection
            missing = connection.getresponse()
            missing.read()
            connection.request("POST", "/v1/chat/completions", "{")
            broken = connection.getresponse()
        unknown = posted(loopback, model="gpt")
        elsewhere = posted(loopback, path="/v1/completions")
    assert [model["id"] for model in listed["data"]] == ["llava", "llama3"]
    assert (missing.status, broken.status, unknown.status, elsewhere.status) == (404, 400, 404, 404)


def test_many_clients_at_once_lose_nothing() -> None:
    with Loopback(lambda body: Say(text_of(body["messages"][0]))) as loopback:
        together, heard = threading.Barrier(100), []

        def client(number: int) -> None:
            together.wait()
            for _ in range(3):
                message = {"role": "user", "content": str(number)}
                heard.append((str(number), content(posted(loopback, messages=[message]))))

        threads = [threading.Thread(target=client, args=(number,)) for number in range(100)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(heard) == loopback.requests == 300 and all(sent == got for sent, got in heard)


def test_closing_ends_connections_that_clients_keep() -> None:
    with Loopback(lambda body: Say("navy")) as loopback:
        kept = connected(loopback)
        kept.request("GET", "/v1/models")
        kept.getresponse().read()
        fresh = connected(loopback)
    with closing(kept), pytest.raises((ConnectionError, http.client.BadStatusLine)):
        kept.request("GET", "/v1/models")
        kept.getresponse()
    with closing(fresh), pytest.raises(ConnectionRefusedError):
        fresh.connect()


def test_serves_from_a_process_of_its_own() -> None:
    script = (
        "from lookalike.testing.loopback import Loopback, Say\n"
        "with Loopback(lambda body: Say('navy')) as loopback:\n"
        "    print(loopback.url, flush=True)\n"
        "    loopback.serve_forever()\n"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            port = urlsplit(process.stdout.readline()).port
            with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=10)) as connection:
                connection.request("GET", "/v1/models")
                assert connection.getresponse().status == 200
        finally:
            process.terminate()
