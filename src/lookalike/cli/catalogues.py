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
from lookalike.cli.output import EncoderOption, JsonOption, bar, print_json, printable, say
from lookalike.cli.targets import CatalogueArgument, ToOption, opened
from lookalike.errors import BadInput, LookalikeError

if TYPE_CHECKING:  # loaded by the commands that need them: `--help` answers at once
    from lookalike.catalogue import Report


def index(
    sources: Annotated[
        list[Path],
        typer.Argument(metavar="SOURCE...", help="Folders, tables (.csv, .jsonl, .parquet) or pictures."),
    ],
    to: ToOption,
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
    as_json: JsonOption = False,
) -> None:
    """Add pictures to a catalogue. Killed or stopped, run it again: what is stored is not encoded twice."""
    from lookalike.datasets import listing

    for source in sources:
        listing(source)  # a mistyped SOURCE fails here, before an empty catalogue is made
    asking = plain_asking(captions, vlm, llm, strategy, key_file)
    with (
        captioner_of(captions, asking) if captions else nullcontext() as captioner,
        opened(to, create=True, encoder=encoder, regions=regions, regime=regime) as catalogue,
        bar("indexing") as on_progress,
    ):
        report = catalogue.add(sources, prune, on_progress, captioner=captioner)
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


def info(
    place: CatalogueArgument,
    near_duplicates: Annotated[
        bool,
        typer.Option("--near-duplicates", help="List pictures of different items that look almost the same."),
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """What a catalogue holds and which encoder made it."""
    from lookalike import upkeep

    with opened(place) as catalogue:
        facts = upkeep.info(catalogue)
        pairs = list(upkeep.near_duplicates(catalogue)) if near_duplicates else None
    if as_json:
        extra = {} if pairs is None else {"near_duplicates": [_pair_json(pair) for pair in pairs]}
        print_json(facts | extra)
        return
    for name, value in facts.items():
        typer.echo(f"{name:12} {value:,}" if isinstance(value, int) else f"{name:12} {value}")
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
        say(f"  {report.captions:,} regions have a caption")
    for failed in report.uncaptioned:
        say(f"  no caption: {failed.source}: {failed.error}")
    if report.vanished:
        gone = "removed" if report.pruned else "still in the catalogue; --prune removes them"
        say(f"  {len(report.vanished):,} pictures are no longer in the source: {gone}")


def _pair_json(pair: Any) -> dict[str, Any]:
    return {"score": pair.score, "items": list(pair.items), "pictures": list(pair.pictures)}
