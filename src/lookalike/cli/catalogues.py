"""Commands on a catalogue: fill it, search it, look after it."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

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
from lookalike.cli.output import EncoderOption, JsonOption, OnProgress, bar, print_json, printable, say
from lookalike.cli.targets import CatalogueArgument, opened, token
from lookalike.errors import BadInput, LookalikeError

if TYPE_CHECKING:  # loaded by the commands that need them: `--help` answers at once
    from lookalike.catalogue import Report
    from lookalike.jobs import Asked, Workers
    from lookalike.roles import Captioner
    from lookalike.settings import Settings


def index(
    sources: Annotated[
        list[str],
        typer.Argument(
            metavar="SOURCE...", help="Folders, tables (.csv, .jsonl, .parquet) or pictures; also s3://…"
        ),
    ],
    to: Annotated[
        str, typer.Option("--to", metavar="CATALOGUE|URI", help="The catalogue or build, made when absent.")
    ],
    encoder: EncoderOption = None,
    regions: Annotated[
        str | None,
        typer.Option("--regions", metavar="NAME", help="How objects are found in pictures without a box."),
    ] = None,
    prune: Annotated[
        bool, typer.Option("--prune", help="Remove pictures that SOURCE no longer lists.")
    ] = False,
    captions: Annotated[
        str | None, typer.Option("--captions", metavar=CAPTIONER, help="Who says what pictures show.")
    ] = None,
    regime: RegimeOption = None,
    vlm: VlmOption = None,
    llm: LlmOption = None,
    strategy: StrategyOption = "attributes",
    key_file: KeyOption = None,
    on: Annotated[
        str | None,
        typer.Option(
            "--on", metavar="ray://HOST:PORT|ray:auto|local", help="A Ray cluster that fills a build."
        ),
    ] = None,
    workers: Annotated[
        int | None, typer.Option("--workers", min=1, help="Of the cluster; as many as have room.")
    ] = None,
    worker_cpus: Annotated[int, typer.Option("--worker-cpus", min=1, help="What each takes.")] = 1,
    worker_gpus: Annotated[
        float, typer.Option("--worker-gpus", min=0, help="What each takes; 0.5: two share one.")
    ] = 0,
    as_json: JsonOption = False,
) -> None:
    """Add pictures to a catalogue. Killed or stopped, run it again: what is stored is not encoded twice."""
    from lookalike import memory
    from lookalike.settings import Settings, for_builds

    if on is not None and not for_builds(to):
        raise BadInput(
            f"{to}: a cluster fills a build", "give --to s3://BUCKET/FOLDER or file:///SHARED/FOLDER"
        )
    if on is not None and key_file is not None:
        raise BadInput("keys are not sent to a cluster", "set LOOKALIKE_API_KEY where its workers run")
    if prune and for_builds(to):
        raise BadInput("a build is of one listing: nothing vanishes", "leave out --prune")
    memory.keep()
    asking = plain_asking(captions, vlm, llm, strategy, key_file)
    settings = Settings(encoder=encoder, regions=regions, regime=regime, token=token())
    with (
        captioner_of(captions, asking, ready=on is None) if captions else nullcontext() as captioner,
        bar("indexing") as on_progress,
    ):
        if on is not None:
            from lookalike.jobs import Asked, Workers

            size = Workers(workers, worker_cpus, worker_gpus)
            asked = Asked(captions, asking) if captions else None
            report = _build_on(on, size, to, sources, settings, captioner, asked, on_progress)
        elif for_builds(to):
            report = _build(to, sources, settings, captioner, on_progress)
        else:
            report = _add(to, sources, settings, captioner, on_progress, prune)
    if as_json:
        print_json(
            {
                "items": report.items,
                "pictures": report.pictures,
                "regions": report.regions,
                "encoded": report.encoded,
                "vanished": [{"item": item, "source": source} for item, source in report.vanished],
                "pruned": report.pruned,
                "skipped": [{"source": skipped.source, "error": skipped.error} for skipped in report.skipped],
                "captions": report.captions,
                "uncaptioned": [{"source": each.source, "error": each.error} for each in report.uncaptioned],
                "seconds": round(report.seconds, 3),
                "doubt": report.doubt,
                "encoder_seconds": round(report.encoder_seconds, 3),
            }
        )
    else:
        _print_report(report, to)
    if report.listed == 0:
        raise LookalikeError(
            "no pictures found", "a folder's pictures end in .jpg, .jpeg, .png, .webp or .heic"
        )
    if report.listed == len(report.skipped):
        raise typer.Exit(1)


def _add(
    to: str,
    sources: list[str],
    settings: Settings,
    captioner: Captioner | None,
    on_progress: OnProgress,
    prune: bool,
) -> Report:
    from lookalike.datasets import listing
    from lookalike.settings import open_catalogue

    for source in sources:
        listing(source)  # a mistyped SOURCE fails here, before an empty catalogue is made
    with open_catalogue(to, settings) as catalogue:
        return catalogue.add(sources, prune, on_progress, captioner=captioner)


def _build(
    to: str, sources: list[str], settings: Settings, captioner: Captioner | None, on_progress: OnProgress
) -> Report:
    from lookalike import building
    from lookalike.settings import parts_of_build

    parts, facts = parts_of_build(to, settings, captioner)
    begun, plan = building.prepare(to, sources, facts)
    return building.build(begun, plan, parts, on_progress)


def _build_on(
    on: str,
    workers: Workers,
    to: str,
    sources: list[str],
    settings: Settings,
    captioner: Captioner | None,
    asked: Asked | None,
    on_progress: OnProgress,
) -> Report:
    from lookalike import building, jobs
    from lookalike.settings import parts_of_build, takes_gpu

    _, facts = parts_of_build(to, settings, captioner)
    if workers.gpus and not takes_gpu(facts["encoder"]) and not _captioned_here(asked):
        raise BadInput(
            f"{facts['encoder']} runs on CPUs alone: a GPU would be kept from others and not used",
            "leave out --worker-gpus; encoders hub:NAME and models of torch use one",
        )
    with jobs.connected(on, workers) as cluster:
        begun, plan = building.prepare(to, sources, facts, jobs.FRAGMENT)
        return cluster.build(begun, plan, asked, on_progress)


def _captioned_here(asked: Asked | None) -> bool:
    """Whether workers run a model of captions themselves."""
    return asked is not None and asked.captioner.startswith("transformers:")


def info(
    place: Annotated[
        str,
        typer.Argument(metavar="CATALOGUE|URI", help="A folder, milvus://HOST:PORT/NAME, or a build."),
    ],
    near_duplicates: Annotated[
        bool,
        typer.Option("--near-duplicates", help="List pictures of different items that look almost the same."),
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """What a catalogue or a build holds and which encoder made it."""
    from lookalike import upkeep
    from lookalike.settings import open_build

    pairs = None
    if not near_duplicates and (build := open_build(place)):
        facts = build.info()
    else:
        with opened(place) as catalogue:
            facts = upkeep.info(catalogue)
            pairs = list(upkeep.near_duplicates(catalogue)) if near_duplicates else None
    if as_json:
        extra = {} if pairs is None else {"near_duplicates": [_pair_json(pair) for pair in pairs]}
        print_json(facts | extra)
        return
    for name, value in facts.items():
        typer.echo(f"{name:12} {value:,}" if type(value) is int else f"{name:12} {value}")
    for pair in pairs or []:
        typer.echo(
            printable(
                f"{pair.score:.3f}  {pair.items[0]}  {pair.items[1]}  {pair.pictures[0]}  {pair.pictures[1]}"
            )
        )


def verify(place: CatalogueArgument, as_json: JsonOption = False) -> None:
    """Check a catalogue: the table, every descriptor, and the index against exact search."""
    from lookalike import upkeep

    with opened(place) as catalogue:
        found = upkeep.verify(catalogue)
    if as_json:
        print_json(
            {
                "sound": found.sound,
                "problems": list(found.problems),
                "queries": found.queries,
                "recall_at_10": found.recall_at_10,
                "recall_at_400": found.recall_at_400,
            }
        )
    else:
        for problem in found.problems:
            typer.echo(problem)
        recalls = f"recall@10 {found.recall_at_10:.3f}, recall@400 {found.recall_at_400:.3f}"
        typer.echo(
            f"{'sound' if found.sound else 'NOT SOUND'}: {recalls} on {found.queries} stored descriptors"
        )
    if not found.sound:
        raise typer.Exit(1)


def export(
    place: CatalogueArgument,
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="A .jsonl, .csv or .parquet file.")],
) -> None:
    """Write a catalogue's items and regions as a table that `index` reads."""
    from lookalike import upkeep

    with opened(place) as catalogue:
        say(f"{upkeep.export(catalogue, out):,} regions written to {out}")


def remove(
    place: CatalogueArgument,
    items: Annotated[list[str], typer.Argument(metavar="ITEM...", help="Ids of items.")],
) -> None:
    """Remove items with all their pictures from a catalogue. The picture files stay."""

    with opened(place) as catalogue:
        say(f"{catalogue.remove(items):,} pictures removed")


def reindex(
    place: CatalogueArgument,
    encoder: EncoderOption = None,
    regime: RegimeOption = None,
    prune: Annotated[
        bool, typer.Option("--prune", help="Remove pictures that cannot be read any more.")
    ] = False,
) -> None:
    """Encode a catalogue anew, with another encoder or in another regime, and switch to it in one step."""
    from lookalike import upkeep
    from lookalike.settings import open_encoder, regime_for

    if encoder is None and regime is None:
        raise BadInput("nothing to change", "give --encoder NAME, or --regime NAME, or both")
    with opened(place) as catalogue, bar("encoding") as on_progress:
        new = open_encoder(encoder) if encoder else catalogue.encoder
        lost = upkeep.reindex(catalogue, new, regime_for(new, regime, catalogue.regime), prune, on_progress)
    with opened(place) as renewed, renewed.open_writer() as store:
        renewed.calibrate(store)
        switched = f"{renewed.encoder.name}, regime {renewed.regime}"
    for skipped in lost:
        say(f"removed {skipped.source}: {skipped.error}")
    say(f"{place} is now searched with {switched}")


def demo(
    to: Annotated[Path, typer.Option("--out", metavar="FOLDER", help="Where the demo is built.")] = Path(
        "demo"
    ),
    encoder: EncoderOption = None,
) -> None:
    """Build a catalogue from real product photographs, search it with street-like pictures, and measure."""
    from lookalike.demo import run_demo
    from lookalike.settings import DEFAULT_ENCODER

    with bar("demo") as on_progress:
        run_demo(to, say, on_progress, encoder=encoder or DEFAULT_ENCODER)


def _print_report(report: Report, to: str) -> None:
    rate = f", {report.encoded / report.seconds:.0f} pictures/s" if report.encoded else ""
    say(
        f"{to}: {report.items:,} items, {report.pictures:,} pictures, {report.regions:,} regions "
        f"({report.encoded:,} pictures encoded in {report.seconds:.1f} s{rate})"
    )
    for skipped in report.skipped:
        say(f"  skipped: {skipped.error}")
    if report.captions:
        seeming = "" if report.doubt is None else f"; {report.doubt:.0%} of them seem to be wrong"
        say(f"  {report.captions:,} regions have a caption{seeming}")
    for failed in report.uncaptioned:
        say(f"  no caption: {failed.source}: {failed.error}")
    if report.vanished:
        gone = "removed" if report.pruned else "still in the catalogue; --prune removes them"
        say(f"  {len(report.vanished):,} pictures are no longer in the source: {gone}")


def _pair_json(pair: Any) -> dict[str, Any]:
    return {"score": pair.score, "items": list(pair.items), "pictures": list(pair.pictures)}
