"""Services that only read: many of them on copies of one build, and from one build to the next."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import httpx
import pytest
from served import Running, Shop

from lookalike.server.access import Keys
from lookalike.store import LocalStore


@pytest.fixture
def unwritable(shop: Shop, tmp_path: Path) -> Iterator[Path]:
    """The catalogue where nothing can be written; for root, who may write everywhere, through a mount."""
    if os.getuid() != 0:
        shop.folder.chmod(0o555)
        yield shop.folder
        shop.folder.chmod(0o755)
        return
    window = tmp_path / "window"
    window.mkdir()
    if subprocess.run(["mount", "--bind", shop.folder, window], capture_output=True).returncode:
        pytest.skip("root needs permission to mount")
    try:
        subprocess.run(["mount", "-o", "remount,ro,bind", window], check=True)
        yield window
    finally:
        subprocess.run(["umount", "--lazy", window], check=True)


def files(folder: Path) -> dict[str, int]:
    return {str(path.relative_to(folder)): path.stat().st_size for path in folder.rglob("*")}


def searched(service: Running, picture: Path, **headers: str) -> dict[str, Any]:
    answer = service.client.post("/v1/search", files={"picture": picture.read_bytes()}, headers=headers)
    assert answer.status_code == 200, answer.text
    return answer.json()  # type: ignore[no-any-return]


def check_writing_is_refused(service: Running, picture: Path) -> None:
    """In plain words and for good, with the best key and without any."""
    data = picture.read_bytes()
    for headers in (service.headers("admin"), {}):
        lines = {**headers, "Content-Type": "application/x-ndjson"}
        for answer in (
            service.client.put("/v1/items/new", files={"picture": data}, headers=headers),
            service.client.delete("/v1/items/new", headers=headers),
            service.client.post("/v1/items", content=b'{"item": "new"}\n', headers=lines),
            service.client.get("/v1/jobs", headers=headers),
            service.client.get(f"/v1/jobs/{'0' * 32}", headers=headers),
        ):
            assert answer.status_code == 403, answer.text
            assert answer.headers["content-type"] == "application/problem+json"
            assert answer.json()["detail"] == "this service only reads its catalogue"


def test_a_folder_that_cannot_be_written_to_is_served(
    shop: Shop, unwritable: Path, serve: Callable[..., Running], tmp_path: Path
) -> None:
    before = files(unwritable)
    service = serve(unwritable, "--private", keys_file=tmp_path / "keys.json")
    hits = searched(service, shop.query, **service.headers("search"))["hits"]
    assert hits[0]["item"] == shop.item
    for _ in range(2):  # a thumbnail that cannot be kept is made each time
        shown = service.client.get(hits[0]["picture"], headers=service.headers("search"))
        assert shown.status_code == 200 and shown.headers["content-type"] == "image/jpeg"
    check_writing_is_refused(service, shop.query)
    assert service.client.get("/readyz").status_code == 200
    assert files(unwritable) == before
    assert '"level": "error"' not in service.log.read_text()


def test_one_that_shall_only_read_does_where_it_could_write(
    shop: Shop, serve: Callable[..., Running], tmp_path: Path
) -> None:
    with LocalStore(shop.folder) as store:
        before = store.count()
    service = serve(shop.folder, "--read-only", keys_file=tmp_path / "keys.json")
    hit = searched(service, shop.query)["hits"][0]
    assert service.client.get(hit["picture"]).status_code == 200
    check_writing_is_refused(service, shop.query)
    assert any((shop.folder / "thumbnails").iterdir())
    assert not (shop.folder / "jobs").exists() and not (shop.folder / "keys.json").exists()
    with LocalStore(shop.folder) as store:
        assert store.count() == before


def test_keys_from_elsewhere_are_the_only_ones(
    shop: Shop, serve: Callable[..., Running], tmp_path: Path
) -> None:
    elsewhere = tmp_path / "keys.json"
    of_the_folder = Keys(shop.folder).new("admin")
    told = lookalike("serve", str(tmp_path / "no-catalogue"), f"--keys-file={elsewhere}", "--new-key=search")
    assert told.returncode == 0, told.stderr
    service = serve(shop.folder, "--private", keys_file=elsewhere)

    def status(key: str) -> int:
        return service.client.get("/v1/items", headers={"Authorization": f"Bearer {key}"}).status_code

    assert status(told.stdout.strip()) == 200
    assert status(of_the_folder) == 401
    later = Keys(shop.folder, elsewhere).new(
        "search"
    )  # as a Secret's change comes: another file in its place
    assert status(later) == 200


def test_a_file_of_keys_that_is_not_there_opens_nothing(shop: Shop, tmp_path: Path) -> None:
    Keys(shop.folder).new("search")
    elsewhere = tmp_path / "keys.json"
    told = lookalike("serve", str(shop.folder), "--host=0.0.0.0", "--port=0", f"--keys-file={elsewhere}")
    assert told.returncode == 1
    assert "there are no keys" in told.stderr and f"--keys-file {elsewhere} --new-key" in told.stderr


def lookalike(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "lookalike", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


@dataclass
class Balancer:
    """A stand-in for what shares searches among replicas: in turn, over a new connection each.

    As Kubernetes with `preStop`, it stops sending to a replica before that one is told to end.
    """

    query: bytes
    replicas: list[Running] = field(default_factory=list)
    _turns: Iterator[int] = field(default_factory=count)
    _busy: dict[str, int] = field(default_factory=dict)
    _changed: threading.Condition = field(default_factory=threading.Condition)

    def search(self) -> dict[str, Any]:
        with self._changed:
            url = self.replicas[next(self._turns) % len(self.replicas)].url
            self._busy[url] = self._busy.get(url, 0) + 1
        try:
            answer = httpx.post(f"{url}/v1/search", files={"picture": self.query}, timeout=30)
        finally:
            with self._changed:
                self._busy[url] -= 1
                self._changed.notify_all()
        answer.raise_for_status()
        return answer.json()  # type: ignore[no-any-return]

    def replace(self, old: Running, new: Running) -> None:
        """Send to `new` what `old` would get; returns when `old` has ended."""
        with self._changed:
            self.replicas.append(new)
            self.replicas.remove(old)
            assert self._changed.wait_for(lambda: not self._busy.get(old.url), timeout=60)
        old.process.send_signal(signal.SIGTERM)
        assert old.process.wait(timeout=60) in (0, -signal.SIGTERM)


def test_replicas_go_from_one_build_to_the_next_without_a_failed_search(
    shop: Shop, serve: Callable[..., Running], tmp_path: Path
) -> None:
    builds = [shop.folder, tmp_path / "next"]
    with LocalStore(shop.folder) as store:
        store.snapshot(builds[1])
    with LocalStore(builds[1], write=True) as store:
        store.remove([shop.item])  # the best answer of the first build is in none of the second
    numbers = count()

    def replica(build: Path) -> Running:
        folder = shutil.copytree(build, tmp_path / f"replica-{next(numbers)}" / "shop")
        return serve(folder, "--read-only", keys_file=folder.parent / "keys.json")

    def told(answer: dict[str, Any]) -> tuple[str, tuple[tuple[str, float], ...]]:
        return answer["version"], tuple((hit["item"], hit["score"]) for hit in answer["hits"])

    old = [replica(builds[0]) for _ in range(2)]
    balancer = Balancer(shop.query.read_bytes(), list(old))
    before = told(balancer.search())
    assert told(balancer.search()) == before, "replicas of one build tell one version"
    ended = threading.Event()

    def client() -> list[tuple[str, tuple[tuple[str, float], ...]]]:
        answers = [told(balancer.search())]
        while not ended.is_set():
            answers.append(told(balancer.search()))
        return answers

    with ThreadPoolExecutor(2) as clients:
        asking = [clients.submit(client) for _ in range(2)]
        try:
            for each in old:
                balancer.replace(each, replica(builds[1]))
        finally:
            ended.set()
        answers = [answer for each in asking for answer in each.result()]
    after = told(balancer.search())
    assert after[0] != before[0] and shop.item not in dict(after[1])
    assert dict(before[1])[shop.item] == max(dict(before[1]).values())
    assert set(answers) <= {before, after}, "an answer is of one build or of the other"
    assert {before, after} <= {*answers, after}
    assert told(balancer.search()) == after
