"""Drawn pictures, a small catalogue of them, and requests that change it."""

import io
import json
import time
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote

import httpx
from PIL import Image

import lookalike
from lookalike.store import LocalStore
from lookalike.testing import drawing
from saving import save


def stocked(home: Path) -> Path:
    """A catalogue by the shipped encoder: six items; item-0 has two pictures."""
    for number in range(6):
        save(home / "pictures" / f"item-{number}" / "front.png", 1000 + number)
    save(home / "pictures" / "item-0" / "back.png", 1100)
    with lookalike.open(home / "shop") as catalogue:
        catalogue.add(home / "pictures")
    return home / "shop"


def copied(folder: Path, to: Path) -> Path:
    """The same catalogue once more, to write to; its pictures lie where they lay."""
    with LocalStore(folder) as store:
        store.snapshot(to)
    return to


def drawn(seed: int, kind: str = "PNG", size: tuple[int, int] = (96, 128)) -> bytes:
    """The file of a picture; another seed is another one."""
    file = io.BytesIO()
    Image.fromarray(drawing(seed, *size)).save(file, kind)
    return file.getvalue()


def put(client: httpx.Client, id: str, *pictures: bytes, **described: object) -> httpx.Response:
    files = [("picture", (f"{place}.jpg", data)) for place, data in enumerate(pictures)]
    fields = [("item", (None, json.dumps(described)))]
    return client.put(f"/v1/items/{quote(id, safe='')}", files=[*fields, *files])  # type: ignore[arg-type]


def on_disk(folder: Path, kind: str = "pictures") -> set[str]:
    """The names of what the service keeps."""
    return {path.name for path in (folder / kind).iterdir()} if (folder / kind).exists() else set()


def awaited(ask: Callable[[], bool], seconds: float = 60) -> None:
    """Until it is so."""
    until = time.monotonic() + seconds
    while not ask():
        assert time.monotonic() < until, "it takes too long"
        time.sleep(0.05)
