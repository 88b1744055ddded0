"""`lookalike bench`: what a part is worth on a labelled data set, and what it costs."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Iterable, Iterator, Sequence
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
    _prices,
    cache_file,
    captioner_of,
    server_key,
)
from lookalike.cli.measuring import DatasetArgument, SplitOption, made
from lookalike.cli.output import EncoderOption, JsonOption, bars, print_json, say

if TYPE_CHECKING:
    from lookalike.captions import Writing
    from lookalike.evaluation.captioning.accuracy import Measured
    from lookalike.evaluation.intervals import Interval
    from lookalike.roles import Captioner
    from lookalike.settings import Asking

bench = typer.Typer(help="Measure a part on a labelled data set.", no_args_is_help=True)

Prices = tuple[float, float]


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
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FOLDER", help="For figures.json and the captions.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """What captions say, held against what is annotated, and what they cost."""
    from lookalike.captions import Vocabulary
    from lookalike.datasets import open_dataset
    from lookalike.evaluation.captioning import accuracy
    from lookalike.evaluation.harness import usual_split
    from lookalike.settings import Asking, open_encoder

    prices = _prices(price)
    asking = Asking(
        vlm=vlm,
        llm=llm,
        vocabulary=vocabulary,
        check=check,
        width=at_once,
        cache=cache or cache_file(),
        key=server_key(captioner, key_file),
    )
    data = open_dataset(dataset)
    split = split or usual_split(data)
    sample = accuracy.Sample.of(data, split, Vocabulary.open(vocabulary), first, seed)
    checker = None if encoder is None else open_encoder(encoder)
    found: dict[str, Measured] = {}
    with bars() as stage:
        for way in _ways(captioner, asking, strategies or ["attributes"], prompt, samples or [1]):
            name = _label(captioner, way)
            with captioner_of(captioner, way) as writer, _records(out, name, writer) as file:
                found[name] = accuracy.measure(
                    sample, writer, at_once, checker, stage(name), file and file.add
                )
    about = {
        "dataset": {
            "name": data.name, "folder": str(data.folder), "split": split, "synthetic": data.synthetic,
            "regions": len(sample.regions), "pictures": sample.pictures, "left_out": sample.left_out,
            "drawn": None if first is None or seed is None else seed,
        },
        "vocabulary": {"name": sample.vocabulary.name, "version": sample.vocabulary.version},
        "captioner": captioner,
        "models": _models(captioner, asking),
        "encoder": checker and checker.name,
        "checked": check,
        "at_once": at_once,
        "prices": prices,
        "made": made(),
    }  # fmt: skip
    document = about | {"ways": {name: measured.as_json() for name, measured in found.items()}}
    if out is not None:
        (out / "figures.json").write_text(json.dumps(document, indent=2) + "\n")
    if as_json:
        print_json(document)
        return
    _tell(about)
    _print_said(found)
    _print_checks(found)
    _print_cost(found, prices, at_once)
    _print_attributes(found)
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


def _models(captioner: str, asking: Asking) -> dict[str, Any]:
    """What a server's models are called and how each takes a schema, by role; {} without a server."""
    from lookalike.captions import Server

    if not captioner.startswith("openai:"):
        return {}
    server = Server(captioner.removeprefix("openai:"), asking.vlm or "", asking.llm, asking.key)

    async def found() -> dict[str, Any]:
        try:
            await server.ready()
            return {role: dict(server.identity(role)) for role in ("vlm", "llm")}
        finally:
            await server.close()

    return asyncio.run(found())


def _tell(about: dict[str, Any]) -> None:
    """What was captioned, and by whom."""
    data, words = about["dataset"], about["vocabulary"]
    drawn = "" if data["drawn"] is None else f", drawn with seed {data['drawn']}"
    say(
        f"{data['name']} ({data['split']}): {data['regions']:,} regions in {data['pictures']:,} pictures{drawn}"
        f"; vocabulary {words['name']}:{words['version']}"
    )
    if data["left_out"]:
        say(f"left out, for they cannot be used: {data['left_out']:,} regions of the split")
    if data["synthetic"]:
        say(f"synthetic: {data['synthetic']}")
    models = [f"{role} {each['model']} ({each['dialect']})" for role, each in about["models"].items()]
    say(", ".join([f"by {about['captioner']}", *models, f"{about['at_once']} at once"]))
    checks = ["pixels"] if about["checked"] and _asks_models(about["captioner"]) else []
    checks += [f"the encoder {about['encoder']}"] if about["encoder"] else []
    if checks:
        say(f"claims are checked by {' and '.join(checks)}")


def _print_said(found: dict[str, Measured]) -> None:
    headings = (
        "captions",
        "failed",
        "claims",
        "believed",
        "coverage",
        "accuracy",
        "of believed: coverage",
        "accuracy",
    )
    rows = []
    for name, each in found.items():
        kinds = ", ".join(f"{status} {count}" for status, count in sorted(each.failed.items()))
        failed = f"{sum(each.failed.values()):,}" + (f" ({kinds})" if kinds else "")
        said = (
            each.said.coverage,
            each.said.accuracy,
            each.said.believed_coverage,
            each.said.believed_accuracy,
        )
        rows.append(
            (
                name,
                f"{each.captions:,}",
                failed,
                _number(each.claims),
                _number(each.believed),
                *map(_interval, said),
            )
        )
    _print("asked by", headings, rows)
    for name, each in found.items():
        if each.faults:
            kinds = ", ".join(f"{status} {count:,}" for status, count in sorted(each.faults.items()))
            say(f"{name}: replies of no use: {kinds}")


def _print_checks(found: dict[str, Measured]) -> None:
    headings = ("check", "has a say in", "false let through", "true held back", "confidence: true", "false")
    rows = []
    for name, each in found.items():
        for check in each.checks:
            sure = (each.true_confidence, each.false_confidence) if check.name == "all" else ()
            rows.append(
                (
                    name,
                    check.name,
                    f"{check.asked:,}",
                    _interval(check.false_passed),
                    _interval(check.true_stopped),
                    *([_number(value, 3) for value in sure] or ("", "")),
                )
            )
    _print("checking", headings, rows)


def _print_cost(found: dict[str, Measured], prices: Prices | None, at_once: int) -> None:
    headings = [
        "calls",
        "tokens read",
        "written",
        "p50 s",
        "p95 s",
        "made now",
        "per 1,000: calls",
        "tokens",
        "s",
    ]
    rows = []
    for name, each in found.items():
        cost, tokens = each.cost, each.cost.tokens_in + each.cost.tokens_out
        row = [name, _number(cost.calls), _number(cost.tokens_in), _number(cost.tokens_out)]
        row += [
            _number(cost.p50_s, 3),
            _number(cost.p95_s, 3),
            f"{cost.made:,}",
            _number(1000 * cost.calls, 0),
        ]
        row += [_number(1000 * tokens, 0), _number(1000 * cost.all_s / each.captions, 1)]
        if prices is not None:
            spent = (cost.tokens_in * prices[0] + cost.tokens_out * prices[1]) / 1e3
            row.append(_number(spent, 3))
        rows.append(row)
    _print("cost of a caption", [*headings, *([] if prices is None else ["money"])], rows)
    say(
        f"Seconds with {at_once} at once, only where nothing came out of the cache; calls and tokens as if "
        "nothing had."
    )


def _print_attributes(found: dict[str, Measured]) -> None:
    """Coverage, accuracy and the accuracy of what is believed, by attribute."""
    names = next(iter(found.values())).by_attribute
    rows = []
    for attribute in names:
        told = [each.by_attribute[attribute] for each in found.values()]
        cells = [(said.coverage, said.accuracy, said.believed_accuracy) for said in told]
        annotated = f"{told[0].coverage.n:,}"
        rows.append(
            (attribute, annotated, *(" ".join(_number(each.mean) for each in cell) for cell in cells))
        )
    _print("coverage, accuracy, of believed", ["annotated", *found], rows)


def _print(title: str, headings: Iterable[str], rows: Iterable[Sequence[str]]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, header_style="bold", pad_edge=False)
    for place, heading in enumerate((title, *headings)):
        table.add_column(heading, justify="right" if place else "left", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    console = Console(highlight=False, markup=False)
    console.width = max(console.width, 240)
    say("")
    console.print(table)


def _interval(found: Interval) -> str:
    if math.isnan(found.mean):
        return "–"
    return f"{found.mean:.3f} [{found.low:.3f}, {found.high:.3f}]"


def _number(value: float, digits: int = 2) -> str:
    return "–" if math.isnan(value) else f"{value:,.{digits}f}"
