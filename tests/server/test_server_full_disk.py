"""A full disk under the real service: what was acknowledged stays, and with room again it goes on."""

from __future__ import annotations

import os
import resource
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
from served import Running
from stock import awaited, copied, drawn, put, stocked
from test_server_jobs import KIND, line, send, state

import lookalike
from lookalike import upkeep

DISK = 12_000_000  # bytes


class Disk:
    """A folder that can be filled, as the service sees it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def fill(self, _: Running) -> None:
        """Leave no room at all."""
        with (self.folder / "ballast").open("ab", buffering=0) as file:
            for size in (65536, 4096, 1):
                try:
                    while True:
                        file.write(bytes(size))
                except OSError:
                    continue

    def clear(self, _: Running) -> None:
        (self.folder / "ballast").unlink()


class Limited(Disk):
    """Where no disk can be made: no file may grow, which programs are told otherwise than of a full disk."""

    def fill(self, running: Running) -> None:
        self._allow(running, 1)

    def clear(self, running: Running) -> None:
        self._allow(running, resource.RLIM_INFINITY)

    def _allow(self, running: Running, size: int) -> None:
        resource.prlimit(running.process.pid, resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


@pytest.fixture(scope="module", params=["disk", "limit"])
def disk(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Disk]:
    folder = tmp_path_factory.mktemp("disk")
    if request.param == "limit":
        yield Limited(folder)
        return
    mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK}", "tmpfs", str(folder)]
    if os.getuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("a disk of its own needs the right to mount one")
    yield Disk(folder)
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.fixture(scope="module")
def running(disk: Disk, tmp_path_factory: pytest.TempPathFactory, serve: Callable[..., Running]) -> Running:
    stock = stocked(tmp_path_factory.mktemp("stock"))
    started = serve(copied(stock, disk.folder / "shop"))
    started.client.headers.update(started.headers("write"))
    return started


def full(answer: httpx.Response) -> bool:
    """Whether it says that, and is a problem document without the server's folders."""
    if answer.status_code != 507:
        return False
    told = answer.json()
    assert answer.headers["content-type"] == "application/problem+json"
    assert told["detail"] == "the disk is full" and "/" not in told["detail"]
    return True


def test_a_full_disk_loses_nothing_and_stops_no_search(disk: Disk, running: Running) -> None:
    client = running.client
    put(client, "before", drawn(50), title="Before").raise_for_status()
    job = send(client, b"".join(line(f"early-{n}", drawn(60 + n)) for n in range(3)))
    awaited(lambda: state(client, job)["state"] == "done")

    disk.fill(running)
    acknowledged = {"before": "Before", "early-0": "", "early-2": ""}
    refused = 0
    for number in range(12):  # what SQLite has kept of the disk for its log may take one or the other
        answer = put(client, f"during-{number}", drawn(100 + number), title="During")
        if answer.status_code == 201:
            acknowledged[f"during-{number}"] = "During"
        else:
            assert full(answer), answer.text
            refused += 1
    assert refused > 6
    changed = put(client, "before", title="Changed" * 100)
    assert full(changed) or changed.status_code == 200
    acknowledged["before"] = "Changed" * 100 if changed.status_code == 200 else "Before"
    bulk = client.post("/v1/items", content=line("bulk", drawn(70)) * 200, headers=KIND)
    assert full(bulk), bulk.text
    assert [each for each in client.get("/v1/jobs").json()["jobs"] if each["state"] != "done"] == []
    told = client.post("/v1/search", files={"picture": drawn(50)})
    assert told.status_code == 200 and told.json()["hits"][0]["item"] == "before"
    assert client.get("/readyz").status_code == 200
    place = told.json()["hits"][0]["picture"]
    assert client.get(place, params={"width": 160}).status_code == 200, "a thumbnail need not be kept"

    disk.clear(running)
    put(client, "after", drawn(51), title="After").raise_for_status()
    job = send(client, line("bulk", drawn(70)))
    awaited(lambda: state(client, job)["state"] == "done")
    acknowledged |= {"after": "After", "bulk": ""}
    for id, title in acknowledged.items():
        assert client.get(f"/v1/items/{id}").json()["title"] == title
    with lookalike.open(disk.folder / "shop", create=False) as catalogue:
        assert upkeep.verify(catalogue).sound
        known = {row.item.id for row in catalogue.store.scan()}
        assert all(Path(row.source).is_file() for row in catalogue.store.scan())
    assert set(acknowledged) <= known and not any(part.endswith(".unfinished") for part in _files(disk))


def test_a_job_waits_for_room_and_goes_on(disk: Disk, running: Running) -> None:
    client = running.client
    body = b"".join(line(f"item-{n}", drawn(200 + n), title=f"{n}") for n in range(24))
    job = send(client, body)
    awaited(lambda: int(str(state(client, job)["done"])) > 0)
    disk.fill(running)
    seen = state(client, job)
    put(client, "meanwhile", drawn(52))
    assert client.post("/v1/search", files={"picture": drawn(50)}).status_code == 200
    disk.clear(running)
    awaited(lambda: state(client, job)["state"] == "done")
    told = state(client, job)
    assert told["done"] == 24 >= int(str(seen["done"])) and told["skipped"] == [] and told["error"] is None
    titles = [client.get(f"/v1/items/item-{n}").json()["title"] for n in range(24)]
    assert titles == [f"{n}" for n in range(24)]


def _files(disk: Disk) -> list[str]:
    return [path.name for path in (disk.folder / "shop").rglob("*")]
