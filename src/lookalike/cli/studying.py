"""The command that conducts a study."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from lookalike.cli.measuring import made, scenes
from lookalike.cli.output import JsonOption, bars, print_json, say
from lookalike.errors import MissingExtra


def study(
    name: Annotated[
        str, typer.Argument(metavar="captions|losses|noise|delay|rerank|rivals", help="Which one.")
    ],
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Studies may share a folder.")],
    quick: Annotated[bool, typer.Option("--quick", help="A small set, few steps: does it run?")] = False,
    seeds: Annotated[
        int | None, typer.Option("--seeds", min=1, help="Trainings of each arm; 3 to 5.")
    ] = None,
    jobs: Annotated[
        int | None, typer.Option("--jobs", min=1, help="Trainings at a time; as many as there are cores.")
    ] = None,
    identities: Annotated[
        int | None, typer.Option("--identities", min=2, help="To draw, or of DATASET to train on.")
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option("--data", metavar="DATASET", help="Labelled, instead of a drawn one."),
    ] = None,
    captions: Annotated[
        Path | None, typer.Option("--captions", metavar="FILE", help="Captions of it, by lookalike caption.")
    ] = None,
    final: Annotated[
        bool, typer.Option("--final", help="Measure on the drawn products that are kept for the end.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Conduct one of the project's experiments and write its report. Killed, run it again: it goes on."""
    try:
        import torch  # noqa: F401
    except ImportError:
        raise MissingExtra("a study", "train") from None
    from lookalike.study import Plan
    from lookalike.study import study as conducted

    backgrounds = None if data else scenes("photographs")
    plan = Plan(quick, seeds, jobs or os.cpu_count() or 1, identities, data, final, captions, backgrounds)
    with bars() as stage:
        report = conducted(name, out, plan, made(), stage)
    if as_json:
        print_json(report)
        return
    folder = out / (f"{name}-final" if final else name)
    typer.echo((folder / "report.md").read_text(encoding="utf-8"))
    say(f"{folder}/report.md, report.json")
