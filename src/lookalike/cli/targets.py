"""Catalogues as commands are given them: a folder, or an address such as milvus://HOST:19530/shop."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lookalike.errors import BadInput

if TYPE_CHECKING:  # loaded by the commands that need them: `--help` answers at once
    from lookalike.catalogue import Catalogue

# Text, for a path would make one slash of two.
CatalogueArgument = Annotated[
    str, typer.Argument(metavar="CATALOGUE", help="A folder, or milvus://HOST:PORT/NAME.")
]
ToOption = Annotated[str, typer.Option("--to", metavar="CATALOGUE", help="The catalogue, made when absent.")]
InOption = Annotated[str, typer.Option("--in", metavar="CATALOGUE", help="The catalogue to search.")]


def opened(target: str, create: bool = False, **parts: Any) -> Catalogue:
    """A catalogue with these parts of `Settings`; a Milvus server is shown what MILVUS_TOKEN says."""
    from lookalike.settings import Settings, open_catalogue

    return open_catalogue(target, Settings(token=os.environ.get("MILVUS_TOKEN"), **parts), create)


def folder_of(target: str, command: str) -> Path:
    """The folder of a catalogue for a command that keeps files beside it; BadInput for an address."""
    from lookalike.store.address import is_address

    if is_address(target):
        raise BadInput(
            f"{command} keeps files beside the catalogue and needs one in a folder, not {target}",
            "search it with lookalike search, or from Python",
        )
    return Path(target)
