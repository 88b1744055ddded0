"""What docs/api.md shows works as shown."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from served import Running, Shop

import lookalike
from lookalike.settings import Settings, open_captioner

PAGE = Path(__file__).parents[2] / "docs" / "api.md"
THERE = "http://127.0.0.1:8080"


def blocks(kind: str) -> list[str]:
    return re.findall(rf"^```{kind}\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def counter(
    drawn_shop: Shop, serve: Callable[..., Running], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Running]:
    """A folder with the files that the page speaks of, beside a service that writes captions."""
    folder = tmp_path_factory.mktemp("counter")
    for name in ("phone.jpg", "front.jpg", "side.jpg"):
        shutil.copy(drawn_shop.query, folder / name)
    (folder / "shop.csv").write_text("path,item,title,price\nphone.jpg,jacket-1,A felt hat,40\n")
    picture = base64.b64encode(drawn_shop.query.read_bytes()).decode()
    line = {"item": "hat-7", "title": "Felt hat", "attributes": {"price": 35.5}, "pictures": [picture]}
    (folder / "items.ndjson").write_text(json.dumps(line) + "\n")
    with lookalike.open(
        folder / "shop", Settings(encoder="compact", regime="train+gallery+query")
    ) as catalogue:
        catalogue.add(folder / "shop.csv", captioner=open_captioner("palette"))
    return folder, serve(folder / "shop", "--captions", "palette")


def test_every_command_gets_its_answer(counter: tuple[Path, Running]) -> None:
    folder, service = counter
    commands = [
        line.strip()
        for block in blocks("sh")
        for line in block.replace("\\\n", " ").splitlines()
        if line.startswith(("curl", "KEY="))
    ]
    asked = [command for command in commands if command.startswith("curl")]
    assert len(asked) >= 15
    key = next(command for command in commands if command.startswith("KEY=")).replace(
        "lk_…", service.keys["write"]
    )
    job, picture = "", hashlib.sha256((folder / "phone.jpg").read_bytes()).hexdigest()
    for command in asked:
        told = command.replace(THERE, service.url).replace("jobs/JOB", f"jobs/{job}")
        told = told.replace("SHA256", picture)
        told = told.replace("curl", "curl -sS --fail-with-body", 1)
        done = subprocess.run(f"{key}; {told}", shell=True, cwd=folder, capture_output=True, text=True)
        assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
        if "items.ndjson" in command:
            job = json.loads(done.stdout)["job"]
    until = time.monotonic() + 60
    while service.client.get(f"/v1/jobs/{job}", headers=service.headers("write")).json()["state"] != "done":
        assert time.monotonic() < until, "the job does not end"
        time.sleep(0.1)


def test_the_python_finds_something(counter: tuple[Path, Running]) -> None:
    folder, service = counter
    code = "\n".join(blocks("python")).replace(THERE, service.url).replace("lk_…", service.keys["write"])
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], cwd=folder, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    item, score, *_ = done.stdout.split()
    assert item in ("jacket-1", "hat-7") and float(score) > 0.9
    assert "\nhits ['" in done.stdout and "\ncaption " in done.stdout
    (region,) = service.client.get("/v1/items/jacket-2").json()["pictures"][0]["regions"]
    assert region["box"] == [20, 10, 200, 220]
