"""The command line: parse, open, call, print."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from lookalike import __version__
from lookalike.cli import captioning, catalogues, copying, measuring, searching, serving, studying, training
from lookalike.cli.bench import bench
from lookalike.cli.measuring import make
from lookalike.cli.models import models
from lookalike.cli.output import tell
from lookalike.errors import LookalikeError

app = typer.Typer(
    help="Find the same product in a catalogue from a photo.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for command in (
    catalogues.index,
    searching.search,
    serving.serve,
    catalogues.info,
    catalogues.verify,
    catalogues.export,
    catalogues.remove,
    catalogues.reindex,
    copying.copy,
    catalogues.demo,
    captioning.caption,
    measuring.compare,
    measuring.doctor,
    training.train,
    studying.study,
):
    app.command()(command)
app.command("eval")(measuring.evaluate)
app.add_typer(models, name="models")
app.add_typer(make, name="make")
app.add_typer(bench, name="bench")


def main() -> None:
    """Run the command line; an error of ours is two lines and exit status 1, never a traceback."""
    try:
        app()
    except LookalikeError as error:
        tell(error)
        sys.exit(1)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"lookalike {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None: ...
