"""Commands on labelled data sets: measure, compare, examine, make."""

from __future__ import annotations

import json
import os
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lookalike import __version__
from lookalike.cli.captioning import (
    CAPTIONER,
    KeyOption,
    LlmOption,
    RegimeOption,
    StrategyOption,
    VlmOption,
    captioner_of,
    plain_asking,
)
from lookalike.cli.output import EncoderOption, JsonOption, bar, bars, print_json, say
from lookalike.errors import BadInput, MissingExtra, WeightsError

if TYPE_CHECKING:
    from lookalike.evaluation.runs import Run

make = typer.Typer(help="Make a data set.", no_args_is_help=True)

DatasetArgument = Annotated[
    Path, typer.Argument(metavar="DATASET", help="A data set's folder, or a table; see docs/evaluation.md.")
]
SplitOption = Annotated[str | None, typer.Option("--split", metavar="NAME", help="Which part of it.")]


def evaluate(
    dataset: DatasetArgument,
    out: Annotated[Path, typer.Option("--out", metavar="RUN", help="The folder of the run.")],
    protocol: Annotated[
        str | None, typer.Option("--protocol", metavar="NAME", help="How it is measured; the usual way.")
    ] = None,
    split: SplitOption = None,
    encoder: EncoderOption = None,
    regions: Annotated[
        str, typer.Option("--regions", metavar="NAME", help="Of the queries: given, whole, or a finder.")
    ] = "given",
    rerank: Annotated[
        list[str] | None, typer.Option("--rerank", metavar="NAME", help="May be given several times.")
    ] = None,
    tune: Annotated[
        str | None, typer.Option("--tune", metavar="SPLIT", help="Fit the re-rankers on this split too.")
    ] = None,
    descriptors: Annotated[
        Path | None,
        typer.Option("--descriptors", metavar="FOLDER", help="Where runs may share what they encode."),
    ] = None,
    regime: RegimeOption = None,
    captions: Annotated[
        str | None,
        typer.Option("--captions", metavar=f"annotation|{CAPTIONER}", help="Whose are in descriptors."),
    ] = None,
    vlm: VlmOption = None,
    llm: LlmOption = None,
    strategy: StrategyOption = "attributes",
    key_file: KeyOption = None,
    allow_missing: Annotated[
        bool, typer.Option("--allow-missing", help="Leave out what cannot be used, and say so.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Measure an encoder and re-rankers on a labelled data set. Killed, run it again: it goes on."""
    from lookalike.datasets import open_dataset
    from lookalike.evaluation.harness import Plan, evaluate
    from lookalike.evaluation.pages import write_report, write_tables

    asking = plain_asking(captions, vlm, llm, strategy, key_file)
    asks = captions is not None and captions != "annotation"
    with captioner_of(captions, asking) if asks and captions else nullcontext() as captioner, bars() as stage:
        plan = Plan(
            protocol=protocol,
            split=split,
            encoder=encoder,
            regions=regions,
            rerank=rerank or ["none"],
            tune=tune,
            descriptors=descriptors,
            regime=regime,
            captioner="annotation" if captions == "annotation" else captioner,
            allow_missing=allow_missing,
        )
        run = evaluate(open_dataset(dataset), out, plan, made(), stage)
    write_tables(run, out)
    try:
        report: Path | None = write_report(run, out)
    except MissingExtra as error:
        report = None
        typer.echo(f"no report.html: {error}; {error.hint}", err=True)
    if as_json:
        print_json(json.loads((out / "run.json").read_text()))
        return
    _print_run(run)
    say(f"{out / 'run.json'}, table.csv, table.tex{', report.html' if report else ''}")


def compare(
    runs: Annotated[list[str], typer.Argument(metavar="RUN[:SYSTEM]...", help="Two runs or more.")],
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FILE", help="A page with the flipped queries.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Whether a run is really better than the first, and the queries that flipped."""
    from lookalike.evaluation.pages import compare, write_comparison

    found = compare([_run_and_system(run) for run in runs])
    if out is not None:
        write_comparison(found, out)
    if as_json:
        print_json(found.as_json())
        return
    for line in found.lines():
        say(line)
    if out is not None:
        say(f"the queries that flipped: {out}")


def doctor(
    subject: Annotated[
        str, typer.Argument(metavar="DATASET|CATALOGUE", help="A labelled data set, or a catalogue.")
    ],
    splits: Annotated[
        list[str] | None,
        typer.Option("--split", metavar="NAME", help="Only these; may be given several times."),
    ] = None,
    encoder: EncoderOption = None,
    descriptors: Annotated[
        Path | None,
        typer.Option(
            "--descriptors", metavar="FOLDER", help="Where to keep what is encoded, to go on later."
        ),
    ] = None,
    sheet: Annotated[
        Path | None, typer.Option("--sheet", metavar="FILE", help="Draw the pairs that were found.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Look for what is wrong in a data set or a catalogue; exit status 1 where something is."""
    from lookalike.datasets import open_dataset
    from lookalike.evaluation import doctor
    from lookalike.settings import open_catalogue, store_exists
    from lookalike.store import is_address

    with bar("examining") as on_progress:
        if store_exists(subject):
            with open_catalogue(subject, create=False) as catalogue:
                folder = None if is_address(subject) else Path(subject)
                found = doctor.examine_catalogue(catalogue, on_progress, folder)
        else:
            dataset = open_dataset(Path(subject))
            found = doctor.examine_dataset(dataset, descriptors, splits, encoder, on_progress)
    if as_json:
        print_json(found.as_json())
    else:
        for line in found.lines():
            say(line)
    if sheet is not None:
        doctor.draw_findings(found, sheet)
        say(f"contact sheet: {sheet}")
    if not found.sound:
        raise typer.Exit(1)


@make.command()
def street2shop(
    out: Annotated[Path, typer.Option("--out", metavar="FOLDER", help="Where the data set is drawn.")],
    identities: Annotated[int, typer.Option("--identities", min=1, help="How many products.")] = 300,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Another seed, another data set.")] = 1,
    caption_errors: Annotated[
        float, typer.Option("--caption-errors", min=0, max=1, help="The share of captions that are wrong.")
    ] = 0.0,
    backgrounds: Annotated[
        str,
        typer.Option("--backgrounds", metavar="photographs|drawn|FOLDER", help="What people stand before."),
    ] = "photographs",
) -> None:
    """Draw a data set in DeepFashion2's own format. Killed, run it again: it goes on."""
    from lookalike.datasets.street2shop import make

    pictures = scenes(backgrounds)
    with bar("drawing") as on_progress:
        made = make(out, identities, seed, pictures, caption_errors, on_progress=on_progress)
    say(
        f"{out}: {made.identities:,} identities, {made.pictures:,} pictures ({made.drawn:,} drawn now), "
        f"annotations' sha256 {made.sha256[:16]}"
    )


@make.command()
def shards(
    dataset: DatasetArgument,
    out: Annotated[Path, typer.Option("--out", metavar="FOLDER", help="Where the tars are written.")],
    samples: Annotated[int, typer.Option("--samples", min=1, help="Pictures in each.")] = 1000,
    as_json: JsonOption = False,
) -> None:
    """Write a labelled data set as tars, for shared storage. Killed, run it again: it goes on."""
    from lookalike.datasets import open_dataset
    from lookalike.datasets.sharding import make_shards

    with bar("writing") as on_progress:
        made = make_shards(open_dataset(dataset), out, samples, on_progress)
    if as_json:
        print_json({"shards": made.shards, "samples": made.samples, "left_out": made.left_out})
        return
    for line in made.left_out:
        say(f"left out: {line}")
    say(f"{out}: {made.samples:,} pictures in {made.shards:,} shards")


def scenes(wanted: str) -> list[Path] | None:
    """Photographs to stand before; None has them drawn."""
    from lookalike import weights
    from lookalike.datasets.photos import scenery

    if wanted == "drawn":
        return None
    if wanted != "photographs":
        found = sorted(
            path for path in Path(wanted).glob("*") if path.suffix.lower() in (".jpg", ".jpeg", ".png")
        )
        if not found:
            raise BadInput(
                f"{wanted}: no .jpg or .png pictures in it", "--backgrounds photographs|drawn|FOLDER"
            )
        return found
    try:
        return scenery(weights.default_folder())
    except WeightsError as error:
        say(f"{error}; backgrounds are drawn")
        return None


def _run_and_system(named: str) -> tuple[Path, str | None]:
    """ "RUN" or "RUN:SYSTEM"; a folder whose own name has a colon is a run."""
    if Path(named).is_dir() or ":" not in named:
        return Path(named), None
    run, _, system = named.rpartition(":")
    return Path(run), system


def made() -> dict[str, Any]:
    """How and where a figure came about."""
    import platform
    import shlex
    import subprocess
    from datetime import UTC, datetime

    package = Path(__file__).parent
    asked = ["git", "-C", str(package), "describe", "--always", "--dirty"]
    try:
        commit = subprocess.run(asked, capture_output=True, text=True, timeout=10).stdout.strip()
    except (OSError, subprocess.TimeoutExpired):
        commit = ""
    return {
        "version": __version__,
        "commit": commit,
        "command": shlex.join(["lookalike", *sys.argv[1:]]),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}",
    }


def _print_run(run: Run) -> None:
    from rich.console import Console
    from rich.table import Table

    data, encoder = run.dataset, run.encoder["name"]
    say(f"{data['name']} ({data['split']}), protocol {run.protocol['name']}, query regions: {run.regions}")
    if data["synthetic"]:
        say(f"synthetic: {data['synthetic']}")
    answerable = run.queries - run.unanswerable
    if run.captions:
        say(f"regime {run.regime}, captions by {run.captions['by']}")
    say(f"{encoder}: {answerable:,} answerable queries of {run.queries:,}, {run.gallery:,} gallery regions")
    several = len(run.systems[0].figures) > 1
    table = Table(box=None, header_style="bold", pad_edge=False)
    for heading in ("re-rank", *(["right"] if several else []), *run.metrics):
        table.add_column(
            heading, justify="left" if heading in ("re-rank", "right") else "right", no_wrap=True
        )
    for system in run.systems:
        for judgement, figures in system.figures.items():
            told = [
                str(figures[m]) if place == 0 else f"{figures[m].value:.3f}"
                for place, m in enumerate(run.metrics)
            ]
            table.add_row(system.name, *([judgement] if several else []), *told)
    console = Console(highlight=False, markup=False)
    console.width = max(console.width, 160)
    console.print(table)
    for each in run.differences:
        say(
            f"{each.than} - {each.of}: {each.metric} {each.value:+.3f} [{each.low:+.3f}, {each.high:+.3f}], "
            f"p = {each.p_holm:.4f} (Holm)"
        )
