"""`lookalike serve` before it serves: keys, and what it refuses."""

from __future__ import annotations

import json
import socket
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

import lookalike
from lookalike.cli import app
from lookalike.errors import BadInput, CatalogueError
from lookalike.server.access import Keys


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    lookalike.open(tmp_path / "shop").close()
    return tmp_path / "shop"


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["serve", *arguments])


def test_a_new_key_is_printed_once_and_kept_as_a_hash(folder: Path) -> None:
    made = run(str(folder), "--new-key", "write")
    assert made.exit_code == 0
    token = made.stdout.strip()
    assert token.startswith("lk_") and Keys(folder).scope_of(token) == (Keys(folder).listed()[0].id, "write")
    assert token not in (folder / "keys.json").read_text()
    assert (folder / "keys.json").stat().st_mode & 0o777 == 0o600
    listed = run(str(folder), "--keys")
    assert "write" in listed.stdout and token not in listed.stdout
    (key,) = json.loads((folder / "keys.json").read_text())["keys"]
    assert run(str(folder), "--remove-key", key["id"]).exit_code == 0
    assert Keys(folder).scope_of(token) is None


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--new-key", "everything"], "no scope is called 'everything'"),
        (["--remove-key", "abc"], "no key has the id 'abc'"),
        (["--host", "0.0.0.0"], "can be reached by others, and there are no keys"),
        (["--private", "--open"], "contradict"),
        (["--proxy", "my-proxy"], "a proxy that is no address"),
        (["--captions", "openai:http://127.0.0.1:9"], "needs the name of a model"),
        (["--captions", "palette"], "was not trained with captions"),
        (["--urls", "--url-host", "https://shop.example"], "is no host's name"),
        (["--url-host", "shop.example"], "none are fetched"),
        (["--rerank", "magic"], "no re-ranker is called 'magic'"),
    ],
)
def test_what_cannot_be_is_refused_at_once(folder: Path, arguments: list[str], said: str) -> None:
    answer = run(str(folder), *arguments)
    assert isinstance(answer.exception, BadInput) and said in str(answer.exception)


def test_there_must_be_a_catalogue(tmp_path: Path) -> None:
    for arguments in ([], ["--new-key", "search"], ["--keys"]):
        answer = run(str(tmp_path / "none"), *arguments)
        assert isinstance(answer.exception, CatalogueError) and "no catalogue" in str(answer.exception)
    assert not (tmp_path / "none").exists()


def test_a_port_that_is_taken_is_named(folder: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        answer = run(str(folder), "--port", port)
    assert isinstance(answer.exception, BadInput) and f"port {port}: Address already in use" in str(
        answer.exception
    )
