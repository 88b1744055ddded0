"""The command that searches: hits as a table or JSON, and what a caption of the query makes of them."""

from __future__ import annotations

import sys
from collections.abc import Iterator
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
from lookalike.cli.output import JsonOption, print_json, printable, say
from lookalike.cli.targets import InOption, opened
from lookalike.errors import BadInput

if TYPE_CHECKING:  # loaded by the command: `--help` answers at once
    from lookalike.refining import Refinement
    from lookalike.values import Hit, Hits


def search(
    searched: InOption,
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
    from lookalike.values import Box

    with opened(searched, query_regions=regions, rerank=rerank) as catalogue:
        asked = [str(picture) for picture in pictures or []]
        place = Box.parse(box) if box else None
        refinement = None
        if captions is None:
            if gate is not None:
                raise BadInput("--gate goes with --captions", "say who writes them: --captions palette")
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


def _hits_json(hits: Hits, pictures: list[str], refinement: Refinement | None) -> dict[str, Any]:
    from lookalike.values import corners_of

    caption = refinement.caption if refinement else None
    document: dict[str, Any] = {
        "query": {
            "picture": pictures[0] if pictures else None,
            "box": corners_of(hits.region.box if hits.region else None),
            "caption": caption.text if caption else None,
        },
        "hits": [hit.as_json() for hit in hits],
        "confident": hits.confident,
        "timings_ms": dict(hits.timings_ms),
    }
    if refinement is not None:
        document["refinement"] = refinement.as_json() | {"error": caption.error if caption else None}
    return document
