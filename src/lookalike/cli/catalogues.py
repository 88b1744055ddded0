"""Commands on a catalogue: fill it, search it, look after it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from lookalike.cli.captioning import (
    CAPTIONER,
    KeyOption,
    LlmOption,
    StrategyOption,
    VlmOption,
    captioner_of,
    plain_asking,
)
from lookalike.cli.output import EncoderOption, JsonOption, bar, print_json, printable, say
from lookalike.errors import BadInput, LookalikeError

if TYPE_CHECKING:  # loaded by the commands that need them: `--help` answers at once
    from lookalike.catalogue import Report
    from lookalike.refining import Refinement
    from lookalike.values import Hit, Hits

CatalogueArgument = Annotated[Path, typer.Argument(metavar="CATALOGUE", help="The catalogue's folder.")]
RegimeOption = Annotated[
    str | None,
    typer.Option(
        "--regime",
        metavar="train|train+gallery|train+gallery+query",
        help="Where captions take part in descriptors, with an encoder trained with them.",
    ),
]
InOption = Annotated[Path, typer.Option("--in", metavar="CATALOGUE", help="The catalogue to search.")]


def index(
    sources: Annotated[
        list[Path],
        typer.Argument(metavar="SOURCE...", help="Folders, tables (.csv, .jsonl, .parquet) or pictures."),
    ],
    to: Annotated[Path, typer.Option("--to", metavar="CATALOGUE", help="The catalogue, made when absent.")],
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
    from lookalike.settings import Settings, open_catalogue

    for source in sources:
        listing(source)  # a mistyped SOURCE fails here, before an empty catalogue is made
    asking = plain_asking(captions, vlm, llm, strategy, key_file)
    with (
        captioner_of(captions, asking) if captions else nullcontext() as captioner,
        open_catalogue(to, Settings(encoder=encoder, regions=regions, regime=regime)) as catalogue,
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


def search(
    catalogue_folder: InOption,
    pictures: Annotated[
        list[Path] | None, typer.Argument(metavar="[PICTURE...]", help="Views of one object.")
    ] = None,
    text: Annotated[str | None, typer.Option("--text", help="Words: alone, or with a picture.")] = None,
    box: Annotated[
        str | None, typer.Option("--box", metavar="X0,Y0,X1,Y1", help="Where the object is, in pixels.")
    ] = None,
    where: Annotated[
        str | None, typer.Option("--where", help="A filter: \"price < 50 and color = 'red'\".")
    ] = None,
    top: Annotated[int, typer.Option("--top", "-k", min=1, help="How many items.")] = 10,
    rerank: Annotated[
        str | None, typer.Option("--rerank", metavar="NAME|none", help="How hits are re-ranked.")
    ] = None,
    regions: Annotated[
        str | None, typer.Option("--regions", metavar="NAME", help="How the object is found without --box.")
    ] = None,
    captions: Annotated[
        str | None,
        typer.Option("--captions", metavar=CAPTIONER, help="Refine hits by a caption of the picture."),
    ] = None,
    deadline: Annotated[float, typer.Option("--deadline", min=0, help="Wait so many seconds for it.")] = 10.0,
    gate: Annotated[
        str | None,
        typer.Option("--gate", metavar="margin|disagreement", help="Have captions of doubtful queries only."),
    ] = None,
    vlm: VlmOption = None,
    llm: LlmOption = None,
    strategy: StrategyOption = "attributes",
    key_file: KeyOption = None,
    explain: Annotated[
        bool, typer.Option("--explain", help="Show why the first hit is first; writes explain.jpg.")
    ] = False,
    sheet: Annotated[
        Path | None, typer.Option("--sheet", metavar="FILE", help="Draw a contact sheet.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Find the items of a catalogue that a picture, or words, or both, ask for."""
    from lookalike.refining import refined
    from lookalike.settings import Settings, open_catalogue
    from lookalike.values import Box

    settings = Settings(query_regions=regions, rerank=rerank)
    with open_catalogue(catalogue_folder, settings, create=False) as catalogue:
        asked = [str(picture) for picture in pictures or []]
        place = Box.parse(box) if box else None
        refinement = None
        if captions is None:
            hits = catalogue.search(asked or None, place, text, where, top)
            if not as_json:
                _print_hits(hits)
        else:
            if len(asked) != 1 or text:
                raise BadInput("--captions goes with one picture", "leave out --text and further pictures")
            asking = plain_asking(captions, vlm, llm, strategy, key_file)
            asking = replace(asking, attempts=2)  # somebody waits
            with captioner_of(captions, asking, ready=False) as captioner:
                search = refined(catalogue, captioner, asked[0], place, where, top, deadline, gate)
                hits, refinement = _two_phases(search, quiet=as_json)
        if as_json:
            print_json(_hits_json(hits, asked, refinement))
        if sheet is not None:
            from lookalike.explain import draw_answers

            draw_answers([(hits, None)], sheet)
            say(f"contact sheet: {sheet}")
        if explain and hits and hits.region is not None:
            from lookalike.explain import draw_explanation

            path = (sheet or Path("explain.jpg")).with_name("explain.jpg")
            draw_explanation(catalogue.encoder, hits, path)
            say(f"why the first hit is first: {path}")


def info(
    catalogue_folder: CatalogueArgument,
    near_duplicates: Annotated[
        bool,
        typer.Option("--near-duplicates", help="List pictures of different items that look almost the same."),
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """What a catalogue holds and which encoder made it."""
    from lookalike import upkeep
    from lookalike.settings import open_catalogue

    with open_catalogue(catalogue_folder, create=False) as catalogue:
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


def verify(catalogue_folder: CatalogueArgument, as_json: JsonOption = False) -> None:
    """Check a catalogue: the table, every descriptor, and the index against exact search."""
    from lookalike import upkeep
    from lookalike.settings import open_catalogue

    with open_catalogue(catalogue_folder, create=False) as catalogue:
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
    catalogue_folder: CatalogueArgument,
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="A .jsonl, .csv or .parquet file.")],
) -> None:
    """Write a catalogue's items and regions as a table that `index` reads."""
    from lookalike import upkeep
    from lookalike.settings import open_catalogue

    with open_catalogue(catalogue_folder, create=False) as catalogue:
        say(f"{upkeep.export(catalogue, out):,} regions written to {out}")


def remove(
    catalogue_folder: CatalogueArgument,
    items: Annotated[list[str], typer.Argument(metavar="ITEM...", help="Ids of items.")],
) -> None:
    """Remove items with all their pictures from a catalogue. The picture files stay."""
    from lookalike.settings import open_catalogue

    with open_catalogue(catalogue_folder, create=False) as catalogue:
        say(f"{catalogue.remove(items):,} pictures removed")


def reindex(
    catalogue_folder: CatalogueArgument,
    encoder: EncoderOption = None,
    regime: RegimeOption = None,
    prune: Annotated[
        bool, typer.Option("--prune", help="Remove pictures that cannot be read any more.")
    ] = False,
) -> None:
    """Encode a catalogue anew, with another encoder or in another regime, and switch to it in one step."""
    from lookalike import upkeep
    from lookalike.settings import open_catalogue, open_encoder, regime_for

    if encoder is None and regime is None:
        raise BadInput("nothing to change", "give --encoder NAME, or --regime NAME, or both")
    with open_catalogue(catalogue_folder, create=False) as catalogue, bar("encoding") as on_progress:
        new = open_encoder(encoder) if encoder else catalogue.encoder
        lost = upkeep.reindex(catalogue, new, regime_for(new, regime, catalogue.regime), prune, on_progress)
    with open_catalogue(catalogue_folder, create=False) as renewed, renewed.open_writer() as store:
        renewed.calibrate(store)
        switched = f"{renewed.encoder.name}, regime {renewed.regime}"
    for skipped in lost:
        say(f"removed {skipped.source}: {skipped.error}")
    say(f"{catalogue_folder} is now searched with {switched}")


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


def _print_report(report: Report, to: Path) -> None:
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


def _print_hits(hits: Hits) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, header_style="bold", pad_edge=False)
    for heading, justify in (
        ("", "right"),
        ("score", "right"),
        ("item", "left"),
        ("title", "left"),
        ("picture", "left"),
    ):
        table.add_column(heading, justify=justify, overflow="fold")  # type: ignore[arg-type]
    for rank, hit in enumerate(hits, 1):
        table.add_row(
            str(rank), f"{hit.score:.3f}", *(printable(text) for text in (hit.item, hit.title, _where(hit)))
        )
    console = Console(highlight=False, markup=False)
    if not console.is_terminal:
        console.width = 1000  # a pipe has no edge to fold at
    console.print(table) if hits else typer.echo("nothing found")
    if hits.confident is False:
        typer.echo("no confident match: the first hit does not stand out from the rest")


def _where(hit: Hit) -> str:
    return hit.picture if hit.box is None else f"{hit.picture} [{hit.box}]"


def _two_phases(search: Iterator[Hits | Refinement], quiet: bool) -> tuple[Hits, Refinement]:
    """Print the first hits as soon as they are there, then what a caption makes of them."""
    first = cast("Hits", next(search))
    if not quiet:
        _print_hits(first)
        sys.stdout.flush()
    refinement = cast("Refinement", next(search))
    if not quiet:
        _print_caption(refinement)
        if refinement.hits is not None:
            _print_hits(refinement.hits)
    return refinement.hits or first, refinement


def _print_caption(refinement: Refinement) -> None:
    caption = refinement.caption
    if caption is not None and caption.text:
        typer.echo()
        say(f"caption after {refinement.ms / 1000:.2f} s: {caption.text}  ({caption.by})")
    for claim in caption.claims if caption else ():
        if not claim.believed:
            against = ", ".join(f"{check} {value:.2f}" for check, value in claim.support.items())
            say(f"  not believed: {claim.text} ({against})")
    say(
        {
            "refined": "with it:",
            "unchanged": "it changes nothing",
            "sure": "no caption was asked for: the first hit stands out",
            "late": "no caption in time: the hits above stand",
            "failed": f"no caption: {caption.error if caption else ''}",
            "nothing said": "nothing of the caption is believed: the hits above stand",
        }[refinement.outcome]
    )


def _hits_json(hits: Hits, pictures: list[str], refinement: Refinement | None) -> dict[str, Any]:
    box = hits.region.box if hits.region else None
    caption = refinement.caption if refinement else None
    document: dict[str, Any] = {
        "query": {
            "picture": pictures[0] if pictures else None,
            "box": None if box is None else list(box.corners),
            "caption": caption.text if caption else None,
        },
        "hits": [hit.as_json() for hit in hits],
        "confident": hits.confident,
        "timings_ms": dict(hits.timings_ms),
    }
    if refinement is not None:
        from lookalike.captions.records import claims_json

        document["refinement"] = {
            "outcome": refinement.outcome,
            "by": caption.by if caption else None,
            "error": caption.error if caption else None,
            "claims": claims_json(caption.claims) if caption else [],
            "first_ms": round(refinement.first_ms, 3),
            "ms": round(refinement.ms, 3),
        }
    return document


def _pair_json(pair: Any) -> dict[str, Any]:
    return {"score": pair.score, "items": list(pair.items), "pictures": list(pair.pictures)}
