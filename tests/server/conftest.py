"""A real catalogue of drawn garments, and the real service on it, for the tests of the server."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
from PIL import Image
from served import Running, Shop

import lookalike
from lookalike.datasets import Labelled, Side
from lookalike.datasets import street2shop as drawn
from lookalike.datasets.opening import open_dataset
from lookalike.server.access import Keys

ITEMS, SEED = 24, 11
COLOURS = ("red", "navy", "green")


@pytest.fixture(scope="session")
def drawn_shop(tmp_path_factory: pytest.TempPathFactory) -> Shop:
    """Filled once; tests that write take a copy of it: `shop`."""
    home = tmp_path_factory.mktemp("drawn")
    drawn.make(home / "set", ITEMS, SEED, workers=1)
    regions = [r for r in open_dataset(home / "set").read("validation") if isinstance(r, Labelled)]
    regions += [r for r in open_dataset(home / "set").read("train") if isinstance(r, Labelled)]
    listed: list[dict[str, object]] = []
    queries: list[tuple[Path, str]] = []
    for number, region in enumerate(regions):
        if region.identity is None or region.box is None:
            continue
        item = region.identity.replace("/", "-")
        cut = Image.open(region.source).crop(tuple(map(round, region.box.corners)))
        if min(cut.size) < 64:
            continue
        path = home / f"{number}.jpg"
        cut.save(path, quality=90)
        if region.side == Side.QUERY:
            queries.append((path, item))
        else:
            colour = COLOURS[len(listed) % len(COLOURS)]
            listed.append(
                {
                    "path": path, "item": item, "title": f"A {colour} {region.category}", "colour": colour,
                    "price": 10 + len(listed),
                }
            )  # fmt: skip
    table = home / "shop.csv"
    with table.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(listed[0]))
        writer.writeheader()
        writer.writerows(listed)
    with lookalike.open(home / "shop") as catalogue:
        catalogue.add(table)
    sold = {str(row["item"]) for row in listed}
    query, item = next(pair for pair in queries if pair[1] in sold)
    return Shop(home / "shop", table, query, item)


@pytest.fixture
def shop(drawn_shop: Shop, tmp_path: Path) -> Shop:
    """A copy to write to."""
    from lookalike.store import LocalStore

    with LocalStore(drawn_shop.folder) as store:
        store.snapshot(tmp_path / "shop")
    return Shop(tmp_path / "shop", drawn_shop.table, drawn_shop.query, drawn_shop.item)


@pytest.fixture(scope="session")
def serve() -> Iterator[Callable[..., Running]]:
    """Starts `lookalike serve FOLDER OPTIONS…` on a free port and waits until it is ready."""
    started: list[Running] = []

    def start(folder: Path, *options: str, keys_file: Path | None = None) -> Running:
        if keys_file is not None:
            options = (*options, "--keys-file", str(keys_file))
        keys = {scope: Keys(folder, keys_file).new(scope) for scope in ("search", "write", "admin")}
        log = folder.parent / f"serve-{len(started)}.log"
        command = [sys.executable, "-m", "lookalike", "serve", str(folder), "--port", "0", *options]
        with log.open("wb") as err:
            process = subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=err, env=os.environ | {"PYTHONUNBUFFERED": "1"}
            )
        assert process.stdout is not None
        url = process.stdout.readline().decode().split()[0].rstrip("/")
        running = Running(url, httpx.Client(base_url=url, timeout=30), keys, process, log)
        started.append(running)
        _await_ready(running)
        return running

    yield start
    for running in started:
        running.client.close()
        running.process.kill()
        running.process.wait()
        if running.process.stdout is not None:
            running.process.stdout.close()


@pytest.fixture(scope="session")
def service(drawn_shop: Shop, serve: Callable[..., Running]) -> Running:
    """One service for all tests that only read."""
    return serve(drawn_shop.folder)


def _await_ready(running: Running, seconds: float = 60) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if running.process.poll() is not None:
            break
        try:
            if running.client.get("/readyz").status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.05)
    pytest.fail(f"the service does not get ready:\n{running.log.read_text()}")
