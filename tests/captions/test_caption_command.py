"""`lookalike caption`, and captions in `index` and `search`, as a user types them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lookalike.captions.records import read
from lookalike.testing.loopback import Fault, Loopback, Say, schema_of
from saving import save


def lookalike(*arguments: str | Path, fails: bool = False, **environment: str) -> str:
    command = [sys.executable, "-m", "lookalike", *map(str, arguments)]
    done = subprocess.run(
        command, capture_output=True, text=True, env=os.environ | environment, timeout=120, check=False
    )
    assert (done.returncode != 0) == fails, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout + done.stderr


def answered(body: dict[str, Any]) -> Say:
    """A form filled in: a red skirt, and nothing else to be seen."""
    schema = schema_of(body)
    if schema is None:
        return Say("a red skirt")
    known = {"category": "skirt", "colour": "red"}
    filled: dict[str, Any] = {}
    for name, part in schema["properties"].items():
        choices = part.get("enum", [])
        if name in known:
            filled[name] = known[name]
        elif part.get("type") == "array":
            filled[name] = []
        else:
            filled[name] = "not_visible" if "not_visible" in choices or not choices else choices[0]
    return Say(json.dumps(filled))


@pytest.fixture
def server() -> Iterator[Loopback]:
    with Loopback(answered) as loopback:
        yield loopback


def test_captions_by_a_server_and_what_they_cost(tmp_path: Path, pictures: Path, server: Loopback) -> None:
    out = tmp_path / "captions.jsonl"
    ask = ["--captioner", f"openai:{server.url}", "--vlm", "vlm", "--cache", tmp_path / "cache.sqlite"]
    said = lookalike("caption", pictures, *ask, "--no-check", "--price", "1,2", "--out", out)
    assert "7 captions" in said
    assert "7 calls, 0 answers out of the cache" in said
    assert "cost 0.00" in said
    records = list(read(out))
    assert {record.item for record in records} == {f"item-{number}" for number in range(6)}
    assert {record.caption.text for record in records} == {"red skirt"}
    line = json.loads(out.read_text().splitlines()[0])
    assert line["calls"] == 1
    assert line["tokens_in"] > 0
    assert line["transcript"][0]["status"] == "ok"
    out.unlink()
    asked = server.requests
    document = json.loads(lookalike("caption", pictures, *ask, "--no-check", "--out", out, "--json"))
    assert (document["written"], document["calls"], document["cached"]) == (7, 0, 7)
    assert server.requests <= asked + 5  # the probe of a new process; no picture is sent twice
    document = json.loads(lookalike("caption", pictures, *ask, "--no-check", "--out", out, "--json"))
    assert (document["written"], document["kept"], document["failed"]) == (0, 7, 0)


def test_captions_from_pixels_need_nothing(tmp_path: Path, pictures: Path) -> None:
    said = lookalike("caption", pictures, "--out", tmp_path / "captions.parquet")
    assert "7 captions" in said
    records = list(read(tmp_path / "captions.parquet"))
    assert all(record.caption.attributes["colour"] for record in records)


def test_captions_per_item_with_titles(tmp_path: Path, server: Loopback) -> None:
    save(tmp_path / "a.png", 1)
    save(tmp_path / "b.png", 2)
    table = tmp_path / "table.csv"
    save(tmp_path / "c.png", 3)
    table.write_text("path,item,title\na.png,skirt,Sylvie midi\nc.png,other,\nb.png,skirt,Sylvie midi\n")
    out = tmp_path / "captions.jsonl"
    ask = ["--captioner", f"openai:{server.url}", "--vlm", "vlm", "--cache", tmp_path / "cache.sqlite"]
    lookalike("caption", table, *ask, "--no-check", "--per", "item", "--with-title", "--out", out)
    told = sorted((record.item, record.caption.text) for record in read(out))
    assert told == [("other", "red skirt"), *[("skirt", "Sylvie midi. red skirt")] * 2]


def test_a_killed_run_repeats_no_finished_call(tmp_path: Path) -> None:
    """Killed with SIGKILL several times: the server sees each picture once, and what was in flight again."""
    for number in range(40):
        save(tmp_path / "many" / f"{number}.png", number, size=(48, 64))
    seen: list[str] = []

    def slow(body: dict[str, Any]) -> Say | Fault:
        content = body["messages"][-1]["content"]
        if isinstance(content, list):
            seen.append(json.dumps(content))
            time.sleep(0.05)
        return answered(body)

    at_once = 4
    with Loopback(slow) as loopback:
        command = [
            sys.executable, "-m", "lookalike", "caption", str(tmp_path / "many"), "--captioner",
            f"openai:{loopback.url}", "--vlm", "vlm", "--no-check", "--at-once", str(at_once),
            "--cache", str(tmp_path / "cache.sqlite"), "--out", str(tmp_path / "captions.jsonl"),
        ]  # fmt: skip
        kills = 0
        for until in (8, 16, 24):
            process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            while len(seen) < until and process.poll() is None:
                time.sleep(0.01)
            process.send_signal(signal.SIGKILL)
            kills += process.wait() == -signal.SIGKILL
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0, done.stderr
    assert kills == 3
    assert len(set(seen)) == 40
    assert len(seen) <= 40 + kills * at_once
    records = list(read(tmp_path / "captions.jsonl"))
    assert sorted(record.item for record in records) == sorted(str(number) for number in range(40))


def test_the_index_uses_captions_of_a_file_and_of_a_captioner(tmp_path: Path, pictures: Path) -> None:
    out = tmp_path / "captions.jsonl"
    lookalike("caption", pictures, "--out", out)
    shop = tmp_path / "shop"
    index = ["index", pictures, "--to", shop, "--encoder", "colour-histogram"]
    document = json.loads(lookalike(*index, "--captions", out, "--json"))
    assert (document["captions"], document["uncaptioned"]) == (7, [])
    assert json.loads(lookalike("info", shop, "--json"))["captions"] == 7
    first = next(iter(read(out)))
    colour = first.caption.attributes["colour"][0]
    found = json.loads(
        lookalike("search", "--text", colour, "--where", f"seen_colour = '{colour}'", "--in", shop, "--json")
    )
    assert first.item in {hit["item"] for hit in found["hits"]}
    document = json.loads(lookalike(*index, "--captions", "palette", "--json"))
    assert document["encoded"] == 7  # another captioner: all are captioned anew


def test_a_query_caption_is_refused_where_it_cannot_help(tmp_path: Path, pictures: Path) -> None:
    shop = tmp_path / "shop"
    index = ["index", pictures, "--to", shop, "--encoder", "colour-histogram"]
    said = lookalike(*index, "--regime", "train+gallery", fails=True)
    assert "colour-histogram was not trained with captions" in said
    assert not shop.exists()
    lookalike(*index)
    picture = pictures / "item-1" / "front.png"
    said = lookalike("search", picture, "--in", shop, "--captions", "palette", fails=True)
    assert "colour-histogram was not trained with captions" in said
    said = lookalike("search", picture, "--text", "red", "--in", shop, "--captions", "palette", fails=True)
    assert "goes with one picture" in said
    said = lookalike("search", picture, "--in", shop, "--gate", "margin", fails=True)
    assert "--gate goes with --captions" in said
    said = lookalike("reindex", shop, fails=True)
    assert "nothing to change" in said


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--captioner", "gpt"], "no captioner is called 'gpt'"),
        (["--captioner", "openai:http://127.0.0.1:9/v1"], "add --vlm NAME"),
        (
            ["--captioner", "openai:http://127.0.0.1:9/v1", "--vlm", "v"],
            "no connection to http://127.0.0.1:9/v1",
        ),
        (["--captioner", "openai:http://u:secret@h/v1", "--vlm", "v"], "key"),
        (["--captioner", "transformers:nowhere"], "nowhere"),
        (["--strategy", "guess", "--captioner", "openai:http://127.0.0.1:9/v1", "--vlm", "v"], "guess"),
        (["--vocabulary", "wine"], "wine"),
        (["--per", "shop"], "picture or item"),
        (["--price", "cheap"], "two numbers"),
        (["--split", "train"], "no split train here"),
        (["--key-file", "nowhere.key"], "key file cannot be read"),
        (["--out", "captions.txt"], "name a .jsonl or .parquet file"),
    ],
)
def test_wrong_words_get_two_lines(tmp_path: Path, pictures: Path, options: list[str], said: str) -> None:
    (pictures / "item-0" / "back.png").unlink()
    out = [] if "--out" in options else ["--out", str(tmp_path / "captions.jsonl")]
    printed = lookalike("caption", pictures, *out, *options, "--cache", tmp_path / "c.sqlite", fails=True)
    assert said in printed
    assert len(printed.strip().splitlines()) <= 2
    assert "secret" not in printed
    assert not (tmp_path / "captions.jsonl").exists()


def test_the_key_goes_to_the_server_that_is_named_and_nowhere_else(
    tmp_path: Path, pictures: Path, server: Loopback
) -> None:
    out, cache = tmp_path / "captions.jsonl", tmp_path / "cache.sqlite"
    ask = ["--captioner", f"openai:{server.url}", "--vlm", "vlm", "--cache", cache, "--first", "1"]
    lookalike(
        "caption", pictures, *ask, "--out", out, LOOKALIKE_API_KEY="sk-mine", OPENAI_API_KEY="sk-openai"
    )
    sent = [headers.get("authorization") or headers.get("Authorization") for headers in server.headers]
    assert set(sent) == {"Bearer sk-mine"}
    out.unlink()
    lookalike("caption", pictures, *ask, "--again", "--out", out, OPENAI_API_KEY="sk-openai")
    assert not any("sk-openai" in str(dict(headers)) for headers in server.headers)
    kept = b"".join(path.read_bytes() for path in tmp_path.iterdir() if path.is_file())
    assert b"sk-mine" not in kept


# A background job of a shell starts with Ctrl-C ignored, and so would whatever it starts.
MAIN = """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)
from lookalike.cli import main
main()
"""


def test_a_run_that_is_stopped_ends_at_once_and_keeps_what_it_has(tmp_path: Path) -> None:
    """Ctrl-C while the server thinks: no waiting for it, no traceback, whole lines."""
    for number in range(12):
        save(tmp_path / "many" / f"{number}.png", number, size=(48, 64))
    asked: list[float] = []

    def stuck(body: dict[str, Any]) -> Say | Fault:
        if isinstance(body["messages"][-1]["content"], list):
            asked.append(time.monotonic())
            if len(asked) > 4:
                time.sleep(60)
        return answered(body)

    with Loopback(stuck) as loopback:
        command = [
            sys.executable, "-c", MAIN, "caption", str(tmp_path / "many"), "--captioner",
            f"openai:{loopback.url}", "--vlm", "vlm", "--no-check", "--at-once", "4",
            "--cache", str(tmp_path / "cache.sqlite"), "--out", str(tmp_path / "captions.jsonl"),
        ]  # fmt: skip
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        while len(asked) < 8 and process.poll() is None:
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        try:
            _, said = process.communicate(timeout=30)
        finally:
            process.kill()
    assert process.returncode not in (0, -signal.SIGKILL)
    assert "Traceback" not in said
    assert len(list(read(tmp_path / "captions.jsonl"))) == 4
