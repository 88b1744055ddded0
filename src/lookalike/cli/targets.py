"""Catalogues as commands are given them: a folder, or an address such as milvus://HOST:19530/shop."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:  # loaded by the commands that need them: `--help` answers at once
    from lookalike.catalogue import Catalogue

# Text, for a path would make one slash of two.
CatalogueArgument = Annotated[
    str, typer.Argument(metavar="CATALOGUE", help="A folder, or milvus://HOST:PORT/NAME.")
]
InOption = Annotated[str, typer.Option("--in", metavar="CATALOGUE", help="The catalogue to search.")]


def token() -> str | None:
    """What a Milvus server is shown: the library itself reads no environment."""
    return os.environ.get("MILVUS_TOKEN")


def opened(target: str, create: bool = False, **parts: Any) -> Catalogue:
    """A catalogue with these parts of `Settings`."""
    from lookalike.settings import Settings, open_catalogue

    return open_catalogue(target, Settings(token=token(), **parts), create)
