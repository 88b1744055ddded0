"""What several commands share: options, progress bars, and how things are printed."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Annotated, Any, Protocol

import typer

from lookalike.errors import LookalikeError


class OnProgress(Protocol):
    def __call__(self, done: int, total: int | None, note: str = "") -> None:
        """So much is done, of so much where that is known; the note stands beside the bar."""


EncoderOption = Annotated[
    str | None,
    typer.Option(
        "--encoder", metavar="NAME", help="By name (`models list`), FILE.onnx, or a model's folder."
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]


@contextmanager
def bars(shown: bool = True) -> Iterator[Callable[[str], OnProgress]]:
    """A progress bar for each stage on a terminal's standard error; silent elsewhere, or not `shown`."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(
        *columns, console=console, transient=True, disable=not (shown and console.is_terminal)
    ) as bar:

        def stage(what: str) -> OnProgress:
            task = bar.add_task(what, total=None)

            def on_progress(done: int, total: int | None, note: str = "") -> None:
                told = f"{what} ({note})" if note else what
                bar.update(task, completed=done, total=total, description=told)

            return on_progress

        yield stage


@contextmanager
def bar(what: str) -> Iterator[OnProgress]:
    with bars() as stage:
        yield stage(what)


def say(line: str) -> None:
    typer.echo(printable(line))


def printable(text: str) -> str:
    """One line that any terminal takes: odd bytes and line breaks of file names escaped."""
    return text.encode("utf-8", "backslashreplace").decode().replace("\r", "\\r").replace("\n", "\\n")


def tell(error: LookalikeError) -> None:
    """An error of ours as its two lines."""
    typer.echo(f"error: {printable(str(error))}", err=True)
    if error.hint:
        typer.echo(f"hint: {printable(error.hint)}", err=True)


def print_json(document: dict[str, Any]) -> None:
    typer.echo(json.dumps(document, indent=2))
