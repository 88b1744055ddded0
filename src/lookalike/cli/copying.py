"""The command that moves a catalogue: between folders, builds and stores."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from lookalike.cli.output import JsonOption, bars, print_json, say
from lookalike.cli.targets import opened, token
from lookalike.errors import BadInput, LookalikeError

if TYPE_CHECKING:  # loaded by the command: `--help` answers at once
    from lookalike.copying import Copied
    from lookalike.roles import Store
    from lookalike.store import Build


def copy(
    source: Annotated[
        str, typer.Argument(metavar="FROM", help="A catalogue, or a finished build (folder or URI).")
    ],
    target: Annotated[
        str,
        typer.Argument(metavar="TO", help="A catalogue, made when absent; or a URI, where a build is made."),
    ],
    as_json: JsonOption = False,
) -> None:
    """Copy a catalogue or a build, and check that the copy answers the same. Killed, run it again."""
    from lookalike.settings import for_builds

    if for_builds(target):
        copied, calibrated = _to_build(source, target), None
    else:
        copied, calibrated = _to_catalogue(source, target)
    if as_json:
        print_json(
            {
                **asdict(copied.counts),
                "compared": copied.queries,
                "differences": list(copied.differences),
                "calibrated": calibrated is None,
            }
        )
    else:
        counts = copied.counts
        say(
            f"{target}: {counts.items:,} items, {counts.pictures:,} pictures, {counts.regions:,} regions, "
            f"{counts.captions:,} captions copied"
        )
        if not copied.differences:
            say(f"  the counts are equal, and so are the answers to {copied.queries} stored descriptors")
        if calibrated is not None:
            say(f"  {calibrated}")
    if copied.differences:
        raise LookalikeError(
            f"{target} is no copy: {'; '.join(copied.differences)}",
            "copy to a new place, or look for what it held before",
        )


def _to_build(source: str, target: str) -> Copied:
    from lookalike import copying
    from lookalike.settings import open_build, open_store

    if open_build(source) is not None:
        raise BadInput(f"{source} is a build already", "its files can be copied as they are")
    with open_store(source, token=token()) as store, bars() as stage:
        return copying.to_build(store, target, stage("copying"))


def _to_catalogue(source: str, target: str) -> tuple[Copied, str | None]:
    """-> what was copied, and why the copy is not calibrated, if so."""
    from contextlib import ExitStack

    from lookalike import copying
    from lookalike.settings import make_store, open_build, open_store, store_exists

    with ExitStack() as stack:
        given: Store | Build
        if (build := open_build(source)) is not None:
            build.check_finished()
            given = build
        else:
            given = open_store(source, token=token())
            stack.callback(given.close)
        if not store_exists(target, token()):
            make_store(target, copying.facts_of(given), build.epoch if build else None, token())
        with open_store(target, write=True, token=token()) as store, bars() as stage:
            copied = copying.to_store(given, store, stage("copying"))
            known = "calibrated_at" in store.meta
    return copied, None if known or copied.differences else _calibrate(target)


def _calibrate(target: str) -> str | None:
    """Set from where on an answer is trusted, as after indexing; -> why not, where that cannot be."""
    from lookalike import copying

    try:
        with opened(target) as catalogue, catalogue.open_writer() as store:
            if not copying.pictures_readable(store):
                return "not calibrated: its pictures cannot be read from here"
            catalogue.calibrate(store)
    except LookalikeError as error:
        return f"not calibrated: {error}"
    return None
