"""Captions: the options that say who writes them, and the commands that write and measure them."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import urlsplit

import typer

from lookalike.cli.output import JsonOption, bar, print_json, say
from lookalike.errors import BadInput, LookalikeError

if TYPE_CHECKING:
    from lookalike.captions import Record, Unread, Vocabulary, Writing
    from lookalike.datasets import Listed, Unlisted
    from lookalike.jobs import Form
    from lookalike.roles import Captioner
    from lookalike.settings import Asking

CAPTIONER = "FILE|openai:URL|transformers:MODEL|palette"

VlmOption = Annotated[str | None, typer.Option("--vlm", metavar="NAME", help="The model that sees pictures.")]
LlmOption = Annotated[
    str | None, typer.Option("--llm", metavar="NAME", help="The model that asks in a dialogue; else the VLM.")
]
StrategyOption = Annotated[
    str, typer.Option("--strategy", metavar="attributes|targeted|dialogue", help="How models are asked.")
]
RegimeOption = Annotated[
    str | None,
    typer.Option(
        "--regime",
        metavar="train|train+gallery|train+gallery+query",
        help="Where captions take part in descriptors, with an encoder trained with them.",
    ),
]
PromptOption = Annotated[
    str | None, typer.Option("--prompt", metavar="VERSION", help="Of the strategy's wordings; the newest.")
]
KeyOption = Annotated[
    Path | None,
    typer.Option("--key-file", metavar="FILE", help="The server's key; else the variable LOOKALIKE_API_KEY."),
]
CacheOption = Annotated[
    Path | None,
    typer.Option("--cache", metavar="FILE", help="Every answer is kept here; ~/.cache/lookalike by default."),
]


def caption(
    sources: Annotated[
        list[str],
        typer.Argument(metavar="SOURCE...", help="Folders, tables, pictures; with --split a data set."),
    ],
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="A .jsonl or .parquet file.")],
    captioner: Annotated[
        str, typer.Option("--captioner", metavar="openai:URL|transformers:MODEL|palette", help="Who writes.")
    ] = "palette",
    vlm: VlmOption = None,
    llm: LlmOption = None,
    strategy: StrategyOption = "attributes",
    prompt: PromptOption = None,
    vocabulary: Annotated[
        str, typer.Option("--vocabulary", metavar="fashion|object|FILE.toml", help="What can be said.")
    ] = "fashion",
    samples: Annotated[
        int, typer.Option("--samples", min=1, help="Ask so often; what answers agree in is believed.")
    ] = 1,
    per: Annotated[
        str,
        typer.Option("--per", metavar="picture|item", help="One caption for each, or what views agree in."),
    ] = "picture",
    with_title: Annotated[
        bool, typer.Option("--with-title", help="With --per item: the merchant's title in front.")
    ] = False,
    check: Annotated[
        bool, typer.Option("--check/--no-check", help="Compare claims with the picture's pixels.")
    ] = True,
    encoder: Annotated[
        str | None,
        typer.Option(
            "--encoder", metavar="NAME", help="One that was trained with captions, to doubt claims."
        ),
    ] = None,
    split: Annotated[
        str | None, typer.Option("--split", metavar="NAME", help="SOURCE is a labelled data set: this part.")
    ] = None,
    regions: Annotated[
        str | None, typer.Option("--regions", metavar="NAME", help="Find the object where no box is given.")
    ] = None,
    first: Annotated[int | None, typer.Option("--first", min=1, help="Only so many pictures.")] = None,
    at_once: Annotated[
        int, typer.Option("--at-once", min=1, help="Pictures that are asked about at a time.")
    ] = 8,
    requests_per_second: Annotated[
        float | None, typer.Option("--requests-per-second", help="No more than the server allows.")
    ] = None,
    tokens_per_minute: Annotated[
        float | None, typer.Option("--tokens-per-minute", help="The same for tokens.")
    ] = None,
    price: Annotated[
        str | None, typer.Option("--price", metavar="IN,OUT", help="Per million tokens, to tell the cost.")
    ] = None,
    again: Annotated[
        bool, typer.Option("--again", help="Ask anew where an answer was of no use before.")
    ] = False,
    cache: CacheOption = None,
    key_file: KeyOption = None,
    on: Annotated[
        str | None,
        typer.Option(
            "--on",
            metavar="ray://HOST:PORT|ray:auto|local",
            help="A Ray cluster that runs the model of --vlm itself.",
        ),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option("--workers", min=1, help="With --on: copies of it, a GPU each; as many as have one."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Write captions of pictures. Killed or stopped, run it again: no finished call is repeated."""
    from lookalike.captions import Vocabulary, Writing, records
    from lookalike.datasets import Listed
    from lookalike.settings import DEFAULT_ENCODER, Asking, open_encoder, open_regions

    if per not in ("picture", "item"):
        raise BadInput(f"--per {per}", "picture or item")
    prices = prices_of(price)
    if on is not None:
        from lookalike.jobs import Form

        asked = (strategy, samples, per, captioner) == ("attributes", 1, "picture", "palette")
        if vlm is None or not asked or llm or encoder or regions or key_file:
            raise BadInput(
                "on a cluster one model fills in one form for each region, without a server",
                "give --vlm MODEL, and none of --captioner, --llm, --strategy, --samples, --per, --encoder, "
                "--regions, --key-file",
            )
        form, report = Form.of(vlm, vocabulary, prompt, check), _Report(prices)
        _write_on(on, workers, form, _listed(sources, split, first), out, report)
        _tell(report, out, form.name, as_json)
        return
    asking = Asking(
        vlm=vlm,
        llm=llm,
        strategy=strategy,
        prompt=prompt,
        vocabulary=vocabulary,
        samples=samples,
        check=check,
        width=at_once,
        requests_per_s=requests_per_second,
        tokens_per_min=tokens_per_minute,
        cache=cache or cache_file(),
        again=again,
        key=server_key(captioner, key_file),
    )
    words = Vocabulary.open(vocabulary)
    finder = open_regions(regions, open_encoder(DEFAULT_ENCODER)) if regions else None
    listed, total = _listed(sources, split, first)
    if per == "item":  # whose pictures a table may list anywhere
        listed = sorted(listed, key=lambda entry: entry.item.id if isinstance(entry, Listed) else "")
    report = _Report(prices)
    with (
        captioner_of(captioner, asking) as asker,
        Writing(out, (writer := guarded(asker, encoder, words)).name) as file,
        bar("captioning") as on_progress,
    ):
        report.kept = len(file.done)
        run = records(
            listed,
            writer,
            width=at_once,
            finder=finder,
            done=file.done,
            vocabulary=words if per == "item" else None,
            titles=with_title,
        )
        with closing(run):
            for done, record in enumerate(run, start=report.kept + 1):
                report.note(record, file)
                on_progress(done, total, report.rate())
    _tell(report, out, writer.name, as_json)


def _write_on(
    on: str,
    workers: int | None,
    form: Form,
    listed: tuple[Iterable[Listed | Unlisted], int | None],
    out: Path,
    report: _Report,
) -> None:
    """Have a cluster write the records that `out` lacks; `report` notes them."""
    from lookalike import jobs
    from lookalike.captions import Writing, is_done

    entries, total = listed
    with (
        jobs.connected(on, jobs.Workers(workers, gpus=1)) as cluster,
        Writing(out, form.name) as file,
        bar("captioning") as on_progress,
    ):
        report.kept = len(file.done)
        left = (entry for entry in entries if not is_done(entry, file.done))
        engine = jobs.VLLM(form.model, cluster.workers.count or 1)
        for done, record in enumerate(cluster.captions(left, form, engine), start=report.kept + 1):
            report.note(record, file)
            on_progress(done, total, report.rate())


def _tell(report: _Report, out: Path, by: str, as_json: bool) -> None:
    if as_json:
        print_json(report.as_json(out, by))
    else:
        report.print(out)
    if report.written == 0 and report.kept == 0:
        raise LookalikeError("no caption could be written", report.first_problem())


class _Report:
    """What a run has cost and brought."""

    def __init__(self, prices: tuple[float, float] | None) -> None:
        self._prices = prices
        self._started = perf_counter()
        self.kept = self.written = self.calls = self.cached = self.tokens_in = self.tokens_out = 0
        self.claims = self.believed = 0
        self.problems: list[tuple[str, str]] = []
        self.failed = 0

    def note(self, record: Record | Unread, file: Writing) -> None:
        from lookalike.captions import Unread

        if isinstance(record, Unread):
            self._problem(record.source, record.error)
            return
        file.add(record)
        self.calls += record.calls
        self.cached += len(record.transcript) - record.calls
        self.tokens_in, self.tokens_out = (
            self.tokens_in + record.tokens[0],
            self.tokens_out + record.tokens[1],
        )
        if record.caption.error is not None:
            self._problem(record.path, record.caption.error)
            return
        self.written += 1
        self.claims += len(record.caption.claims)
        self.believed += sum(claim.believed for claim in record.caption.claims)

    def rate(self) -> str:
        """For the progress bar."""
        said = f"{self.written / max(self.seconds, 1e-3):.1f}/s, {self.tokens_in + self.tokens_out:,} tokens"
        if self.cost is not None:
            said += f", {self.cost:.2f} spent"
        return said + (f", {self.failed} failed" if self.failed else "")

    @property
    def seconds(self) -> float:
        return perf_counter() - self._started

    @property
    def cost(self) -> float | None:
        if self._prices is None:
            return None
        return (self.tokens_in * self._prices[0] + self.tokens_out * self._prices[1]) / 1e6

    def print(self, out: Path) -> None:
        say(
            f"{out}: {self.written:,} captions in {self.seconds:.1f} s"
            + (f", {self.kept:,} were there before" if self.kept else "")
        )
        if self.calls or self.cached:
            say(
                f"  {self.calls:,} calls, {self.cached:,} answers out of the cache; tokens: "
                f"{self.tokens_in:,} read, {self.tokens_out:,} written"
                + (f"; cost {self.cost:.4f}" if self.cost is not None else "")
            )
        if self.claims:
            say(f"  {self.believed:,} of {self.claims:,} claims believed")
        for source, error in self.problems:
            say(f"  no caption: {source}: {error}")
        if self.failed > len(self.problems):
            say(f"  … and {self.failed - len(self.problems):,} more")

    def as_json(self, out: Path, by: str) -> dict[str, Any]:
        return {
            "out": str(out),
            "by": by,
            "written": self.written,
            "kept": self.kept,
            "failed": self.failed,
            "problems": [{"source": source, "error": error} for source, error in self.problems],
            "calls": self.calls,
            "cached": self.cached,
            "tokens_in": self.tokens_in,
            "tokens_out": self.tokens_out,
            "cost": self.cost,
            "claims": self.claims,
            "believed": self.believed,
            "seconds": round(self.seconds, 3),
        }

    def first_problem(self) -> str:
        return self.problems[0][1] if self.problems else "SOURCE lists no pictures"

    def _problem(self, source: str, error: str) -> None:
        self.failed += 1
        if len(self.problems) < 20:
            self.problems.append((source, error))


def plain_asking(
    captioner: str | None, vlm: str | None, llm: str | None, strategy: str, key_file: Path | None
) -> Asking:
    """How a command that only uses captions has them made."""
    from lookalike.settings import Asking

    key = server_key(captioner or "", key_file)
    return Asking(vlm=vlm, llm=llm, strategy=strategy, cache=cache_file(), key=key)


def cache_file() -> Path:
    from lookalike import weights

    return weights.default_folder() / "captions.sqlite"


def server_key(captioner: str, key_file: Path | None) -> str | None:
    """The key for the server that is named, and for no other: OPENAI_API_KEY goes to OpenAI alone."""
    if key_file is not None:
        try:
            return key_file.read_text().strip()
        except (OSError, UnicodeDecodeError) as error:
            raise BadInput(
                f"the key file cannot be read: {type(error).__name__}", f"look at {key_file}"
            ) from None
    host = urlsplit(captioner.removeprefix("openai:")).hostname
    fallback = os.environ.get("OPENAI_API_KEY") if host == "api.openai.com" else None
    return os.environ.get("LOOKALIKE_API_KEY") or fallback


@contextmanager
def captioner_of(named: str, asking: Asking, ready: bool = True) -> Iterator[Captioner]:
    """A captioner for as long as it is used; whether its models answer is found out before a long run."""
    from lookalike.captions import ModelCaptioner
    from lookalike.settings import open_captioner

    captioner = open_captioner(named, asking)
    if not isinstance(captioner, ModelCaptioner):
        yield captioner
        return
    with captioner:
        if ready:
            captioner.ready()
        yield captioner


def guarded(captioner: Captioner, encoder: str | None, words: Vocabulary) -> Captioner:
    """A captioner that an encoder looks over the shoulder of, if one is named."""
    from lookalike.captions import Guarded
    from lookalike.settings import open_encoder

    if encoder is None:
        return captioner
    judge = open_encoder(encoder)
    if getattr(judge, "guard", None) is None:
        raise BadInput(f"{encoder} cannot tell whether words fit a picture", "take one trained with captions")
    return Guarded(captioner, judge, words)


def _listed(
    sources: list[str], split: str | None, first: int | None
) -> tuple[Iterable[Listed | Unlisted], int | None]:
    """What there is to caption, and how much where that can be told."""
    from itertools import chain, islice

    from lookalike.datasets import count, listing

    if split is not None:
        entries = list(chain.from_iterable(_labelled(Path(source), split) for source in sources))
        entries = entries[:first]
        return entries, len(entries)
    counted = [count(source) for source in sources]
    total = None if None in counted else sum(filter(None, counted))
    listed: Iterator[Listed | Unlisted] = chain.from_iterable([listing(source) for source in sources])
    return (listed, total) if first is None else (islice(listed, first), first)


def _labelled(source: Path, split: str) -> Iterator[Listed | Unlisted]:
    """The regions of a labelled data set."""
    from lookalike.datasets import Unlisted, open_dataset

    for region in open_dataset(source).read(split):
        yield region if isinstance(region, Unlisted) else region.listed()


def prices_of(price: str | None) -> tuple[float, float] | None:
    if price is None:
        return None
    try:
        read, written = map(float, price.split(","))
    except ValueError:
        raise BadInput(
            f"--price {price}", "two numbers per million tokens, as in --price 0.15,0.60"
        ) from None
    return read, written
