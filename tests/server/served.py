"""What tests of the server are given: a filled catalogue, and a service in a process of its own."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path

import httpx


@dataclass(frozen=True)
class Shop:
    """A catalogue folder, the table that it was filled from, and a query with the item that is right."""

    folder: Path
    table: Path
    query: Path
    item: str


@dataclass(frozen=True)
class Running:
    """A service in a process of its own, with a client for it and keys of all scopes."""

    url: str
    client: httpx.Client
    keys: dict[str, str]
    process: subprocess.Popen[bytes]
    log: Path

    def headers(self, scope: str) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.keys[scope]}"}
