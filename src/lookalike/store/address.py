"""Addresses of catalogues that are not folders, read before anything heavy is loaded."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Self

from lookalike.errors import BadInput

SCHEME = "milvus://"

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]*")


@dataclass(frozen=True, slots=True)
class Address:
    """`milvus://HOST:PORT/NAME`, or `milvus://HOST:PORT/DATABASE/NAME`, of a catalogue."""

    host: str
    port: int
    database: str
    name: str

    @classmethod
    def parse(cls, text: str) -> Self:
        match = re.fullmatch(
            r"milvus://([^/:@?#]+|\[[^/\]]+\])(?::(\d{1,5}))?/(?:([^/?#]+)/)?([^/?#]+)", text
        )
        if match is None:
            raise BadInput(
                f"{text!r} is no address of a catalogue in Milvus",
                "write milvus://HOST:19530/NAME or milvus://HOST:19530/DATABASE/NAME, without credentials",
            )
        host, port, database, name = match.groups()
        if not _NAME.fullmatch(name) or "__" in name or len(name) > 200:
            raise BadInput(
                f"a catalogue in Milvus cannot be called {name!r}",
                "use letters, digits and single underscores, and begin with a letter",
            )
        return cls(host, int(port or 19530), database or "default", name)

    @property
    def place(self) -> str:
        return f"{self.host}:{self.port}"

    def __str__(self) -> str:
        database = "" if self.database == "default" else f"{self.database}/"
        return f"{SCHEME}{self.place}/{database}{self.name}"


def is_address(target: object) -> bool:
    return isinstance(target, str) and target.startswith(SCHEME)
