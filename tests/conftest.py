import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # tensors of tests are small: threads only wait for each other

import hypothesis
import pytest

import lookalike
from lookalike.catalogue import Catalogue
from lookalike.cli import main
from lookalike.settings import Settings
from lookalike.testing import ThumbnailEncoder
from saving import save
from stores_on_loopback import Storage

# The same examples in every run: what passes here passes there. `--hypothesis-profile default` draws others.
hypothesis.settings.register_profile("repeatable", derandomize=True)
hypothesis.settings.load_profile("repeatable")

LONG = (
    "test_docs.py",
    "test_milvus.py",
    "test_ray.py",
    "test_session.py",
    "test_demo.py",
    "test_server_page.py",
    "test_caption_command.py",
    "test_study_running.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files first, so that no process is left with one of them at the end."""
    items.sort(key=lambda item: item.path.name not in LONG)


@pytest.fixture
def refused(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., list[str]]:
    """Runs a command that must fail, and gives its lines of errors; within this process, which is quicker."""

    def run(*arguments: object) -> list[str]:
        monkeypatch.setattr(sys, "argv", ["lookalike", *map(str, arguments)])
        with pytest.raises(SystemExit) as left:
            main()
        assert left.value.code == 1
        return capsys.readouterr().err.strip().splitlines()

    return run


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """A folder of six items; item-0 has two pictures."""
    folder = tmp_path / "pictures"
    for number in range(6):
        save(folder / f"item-{number}" / "front.png", number)
    save(folder / "item-0" / "back.png", 100)
    return folder


@pytest.fixture
def open_shop(tmp_path: Path) -> Iterator[Callable[..., Catalogue]]:
    """Opens the catalogue `shop` with the stand-in encoder; closes it after the test."""
    opened: list[Catalogue] = []

    def open_it(**settings: object) -> Catalogue:
        chosen = {"encoder": ThumbnailEncoder(), "query_regions": "whole"} | settings
        opened.append(lookalike.open(tmp_path / "shop", Settings(**chosen)))
        return opened[-1]

    yield open_it
    for catalogue in opened:
        catalogue.close()


@pytest.fixture(scope="session")
def storage() -> Iterator[Storage]:
    """A stand-in for S3."""
    server = Storage()
    yield server
    server.stop()


@pytest.fixture
def bucket(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> str:
    """The URI of an empty bucket; the environment leads to it."""
    for name, value in storage.environment.items():
        monkeypatch.setenv(name, value)
    return storage.bucket()
