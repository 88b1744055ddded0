"""`lookalike bench`: what a part is worth on a labelled data set, and what it costs."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lookalike.cli.captioning import (
    CAPTIONER,
    CacheOption,
    KeyOption,
    LlmOption,
    VlmOption,
    cache_file,
    captioner_of,
    prices_of,
    server_key,
)
from lookalike.cli.measuring import DatasetArgument, SplitOption, made
from lookalike.cli.output import EncoderOption, JsonOption, bars, print_json, say
from lookalike.cli.targets import opened

if TYPE_CHECKING:
    from lookalike.captions import Writing
    from lookalike.evaluation.captioning.accuracy import Measured, Sample
    from lookalike.evaluation.captioning.accuracy_report import Table
    from lookalike.evaluation.captioning.delay import Conditions, Delays
    from lookalike.roles import Captioner
    from lookalike.settings import Asking
    from lookalike.values import Progress

bench = typer.Typer(help="Measure a part on a labelled data set.", no_args_is_help=True)


@bench.callback()
def _bench() -> None: ...


@bench.command()
def captions(
    dataset: DatasetArgument,
    captioner: Annotated[str, typer.Option("--captioner", metavar=CAPTIONER, help="Who writes.")] = "palette",
    vlm: VlmOption = None,
    llm: LlmOption = None,
    strategies: Annotated[
        list[str] | None,
        typer.Option(
            "--strategy",
            metavar="attributes|targeted|dialogue",
            help="How models are asked; may be given several times.",
        ),
    ] = None,
    prompt: Annotated[
        str | None,
        typer.Option("--prompt", metavar="all|VERSION", help="Of the strategies' wordings; the newest."),
    ] = None,
    samples: Annotated[
        list[int] | None,
        typer.Option("--samples", min=1, help="How often each is asked; may be given several times."),
    ] = None,
    vocabulary: Annotated[
        str, typer.Option("--vocabulary", metavar="fashion|object|FILE.toml", help="What can be said.")
    ] = "fashion",
    check: Annotated[
        bool, typer.Option("--check/--no-check", help="Compare claims with the pictures' pixels.")
    ] = True,
    split: SplitOption = None,
    first: Annotated[int | None, typer.Option("--first", min=1, help="Only so many regions.")] = None,
    seed: Annotated[
        int | None, typer.Option("--seed", min=0, help="With --first: drawn from all, not the first.")
    ] = None,
    encoder: EncoderOption = None,
    price: Annotated[
        str | None, typer.Option("--price", metavar="IN,OUT", help="Per million tokens, to tell the cost.")
    ] = None,
    at_once: Annotated[
        int, typer.Option("--at-once", min=1, help="Regions that are asked about at a time.")
    ] = 8,
    cache: CacheOption = None,
    key_file: KeyOption = None,
    catalogue: Annotated[
        str | None,
        typer.Option(
            "--in", metavar="CATALOGUE", help="Search it with user photos too, to time captions there."
        ),
    ] = None,
    arrival_rate: Annotated[
        float | None,
        typer.Option("--arrival-rate", help="With --in: queries a second, of half of the photos."),
    ] = None,
    simulated: Annotated[
        str, typer.Option("--simulated", metavar="TEXT", help="With --in: by what delays are made up.")
    ] = "",
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FOLDER", help="For figures.json and the captions.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """What captions say, held against what is annotated, and what they cost."""
    from lookalike.captions import ModelCaptioner, Vocabulary
    from lookalike.datasets import open_dataset
    from lookalike.evaluation.captioning import accuracy
    from lookalike.evaluation.captioning.accuracy_report import tables
    from lookalike.evaluation.captioning.delay import Conditions
    from lookalike.evaluation.harness import usual_split
    from lookalike.settings import Asking, open_encoder

    prices = prices_of(price)
    asking = Asking(
        vlm=vlm,
        llm=llm,
        vocabulary=vocabulary,
        check=check,
        width=at_once,
        stream=True,  # tells when the first token comes
        cache=cache or cache_file(),
        key=server_key(captioner, key_file),
    )
    data = open_dataset(dataset)
    split = split or usual_split(data)
    sample = accuracy.Sample.of(data, split, Vocabulary.open(vocabulary), first, seed)
    checker = None if encoder is None else open_encoder(encoder)
    found: dict[str, Measured] = {}
    ways = list(_ways(captioner, asking, strategies or ["attributes"], prompt, samples or [1]))
    delays: Delays | None = None
    models: dict[str, dict[str, str]] = {}
    with bars() as stage:
        if catalogue is not None:
            how = Conditions(arrival_rate=arrival_rate, simulated=simulated)
            with captioner_of(captioner, replace(ways[0], cache=None)) as writer:
                delays = _delays(catalogue, writer, sample, how, stage("searching"))
        for way in ways:
            name = _label(captioner, way)
            with captioner_of(captioner, way) as writer, _records(out, name, writer) as file:
                models = writer.models() if isinstance(writer, ModelCaptioner) else {}
                found[name] = accuracy.measure(
                    sample, writer, at_once, checker, stage(name), file.add if file else None
                )
    about = {
        "dataset": {
            "name": data.name, "folder": str(data.folder), "split": split, "synthetic": data.synthetic,
            "regions": len(sample.regions), "pictures": sample.pictures, "left_out": sample.left_out,
            "drawn": None if first is None or seed is None else seed,
        },
        "vocabulary": {"name": sample.vocabulary.name, "version": sample.vocabulary.version},
        "captioner": captioner,
        "models": models,
        "encoder": checker and checker.name,
        "checked": check,
        "at_once": at_once,
        "prices": prices,
        "made": made(),
    }  # fmt: skip
    document = about | {"ways": {name: measured.as_json() for name, measured in found.items()}}
    document["delays"] = delays and delays.as_json()
    if out is not None:
        (out / "figures.json").write_text(json.dumps(document, indent=2) + "\n")
    if as_json:
        print_json(document)
        return
    _tell(about)
    for table in tables(found, at_once, prices):
        _print(table)
    for line in delays.lines() if delays else ():
        say(line)
    if out is not None:
        say(f"{out / 'figures.json'}, and the captions beside it")


def _ways(
    captioner: str, asking: Asking, strategies: Sequence[str], prompt: str | None, samples: Sequence[int]
) -> Iterator[Asking]:
    """Every way of asking that is wanted; one for a captioner that asks nobody."""
    from lookalike.captions.prompts import load, versions

    if not _asks_models(captioner):
        yield asking
        return
    for strategy in strategies:
        for version in versions(strategy) if prompt == "all" else [load(strategy, prompt).version]:
            for count in samples:
                yield replace(asking, strategy=strategy, prompt=version, samples=count)


def _label(captioner: str, way: Asking) -> str:
    if not _asks_models(captioner):
        return captioner
    return f"{way.strategy}/{way.prompt}" + (f" ×{way.samples}" if way.samples > 1 else "")


def _asks_models(captioner: str) -> bool:
    return captioner.startswith(("openai:", "transformers:"))


def _delays(
    place: str, captioner: Captioner, sample: Sample, how: Conditions, on_progress: Progress
) -> Delays:
    """The sample's user photos searched in a catalogue, without and with new captions."""
    from lookalike.datasets import Side
    from lookalike.evaluation.captioning.delay import Photo, measure

    with opened(place) as catalogue:
        known = {row.item.id for row in catalogue.store.scan()}
        photos = [
            Photo(Path(each.source), each.box, frozenset({each.identity}) if each.identity in known else None)
            for each in sample.regions
            if each.side is not Side.GALLERY
        ]
        return measure(catalogue, captioner, photos, how, on_progress)


@contextmanager
def _records(out: Path | None, name: str, captioner: Captioner) -> Iterator[Writing | None]:
    """Where the captions of one way go; those of an earlier run are replaced."""
    from lookalike.captions import Writing

    if out is None:
        yield None
        return
    plain = "".join(letter if letter.isascii() and letter.isalnum() else "-" for letter in name)
    path = out / f"captions-{plain.strip('-')}.jsonl"
    path.unlink(missing_ok=True)
    with Writing(path, captioner.name) as file:
        yield file


def _tell(about: dict[str, Any]) -> None:
    """What was captioned, and by whom."""
    data, words = about["dataset"], about["vocabulary"]
    drawn = "" if data["drawn"] is None else f", drawn with seed {data['drawn']}"
    say(
        f"{data['name']} ({data['split']}): {data['regions']:,} regions in {data['pictures']:,} pictures"
        f"{drawn}; vocabulary {words['name']}:{words['version']}"
    )
    if data["left_out"]:
        say(f"left out, for they cannot be used: {data['left_out']:,} regions of the split")
    if data["synthetic"]:
        say(f"synthetic: {data['synthetic']}")
    models = [
        f"{role} {each['model']} ({each.get('dialect', 'in process')})"
        for role, each in about["models"].items()
    ]
    say(", ".join([f"by {about['captioner']}", *models, f"{about['at_once']} at once"]))
    checks = ["pixels"] if about["checked"] and _asks_models(about["captioner"]) else []
    checks += [f"the encoder {about['encoder']}"] if about["encoder"] else []
    if checks:
        say(f"claims are checked by {' and '.join(checks)}")


def _print(found: Table) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, header_style="bold", pad_edge=False)
    for place, heading in enumerate(found.headings):
        table.add_column(heading, justify="right" if place else "left", no_wrap=True)
    for row in found.rows:
        table.add_row(*row)
    console = Console(highlight=False, markup=False)
    console.width = max(console.width, 24 * len(found.headings))
    say("")
    console.print(table)
    for line in found.below:
        say(line)
