"""What all runs of a study share: a labelled data set, what the frozen towers see of it, captions of it.

It lies in a folder and is made once; a killed run goes on:

    data/                          the drawn data set, where none is given
    tokens/                        cells of the pictures, states of the captions (see `learn.tokens`)
    sources/SOURCE.PART.jsonl      what a captioner said, as `lookalike caption` writes it

A **caption source** says whose captions are meant: "annotation" (the data set's own, true), "shuffled" (the
annotation's, of another identity), "palette", "oracle-R" (a stand-in for a model that has read the labels and
lies about a share R of them, asked over HTTP by the real captioner). "SOURCE unchecked" has the claims
too that checking did not believe. Where a file of captions is given, it takes the annotation's place
everywhere.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from lookalike.captions import FileCaptions, Unread, Vocabulary, Writing, records
from lookalike.datasets import Dataset, Labelled
from lookalike.encoders import EfficientNet, MiniLM
from lookalike.errors import BadInput
from lookalike.learn.sampling import others
from lookalike.learn.session import Stage
from lookalike.learn.sources import Cells, Said, Source, Texts, Variant, said_by
from lookalike.learn.states import Frozen
from lookalike.learn.tokens import TokenCache, make_tokens
from lookalike.roles import Captioner
from lookalike.settings import Asking, open_captioner
from lookalike.values import Caption, Progress
from lookalike.words import sentences

MEASURED = ("validation", "final")  # parts that a study may measure on, one at a time
VIEWS = 4  # of each region, for training
_PALETTE, _ORACLE, _UNCHECKED = "palette", "oracle-", " unchecked"
WIDTH = 8  # pictures that a captioner is asked about at a time


@dataclass(frozen=True, slots=True, eq=False)
class Material:
    """The parts of a data set in cells, the states of all captions, and what the sources said.

    `parts` are "training", "tuning" and the one that is measured on; `said` is by source and part.
    """

    parts: Mapping[str, Source]
    texts: Texts
    said: Mapping[tuple[str, str], Said]
    measured: str  # the name of the part that is measured on
    towers: Mapping[str, str]  # the frozen networks: fingerprints by name
    given: str = ""  # the name of the file of captions in the annotation's place, which tells its content

    @property
    def training(self) -> Source:
        return self.parts["training"]

    @property
    def queried(self) -> Source:
        return self.parts[self.measured]

    def one_each(self, source: str, part: str) -> list[str]:
        """One caption for each region of a part, the middle one in length; "" where the source has none."""
        return [told[len(told) // 2] if told else "" for told in self.said[source, part]]


def prepare(
    splits: Mapping[str, tuple[Dataset, str]], sources: Mapping[str, Sequence[str]], folder: Path,
    stage: Stage, given: FileCaptions | None = None,
) -> None:  # fmt: skip
    """Make what is missing in `folder`: tokens of the splits, by part, and captions of the sources, by part.

    `given` takes the annotation's place.
    """
    for part, (dataset, split) in splits.items():
        views = VIEWS if part == "training" else 1
        make_tokens(
            dataset, split, EfficientNet(threads=1), folder / "tokens" / part, views,
            paired=part == "training", on_progress=stage(f"looking at {part}"),
        )  # fmt: skip
        for source in sources.get(part, ()):
            if (kind := source.removesuffix(_UNCHECKED)).startswith((_PALETTE, _ORACLE)):
                _caption(dataset, split, kind, _file(folder, kind, part), stage(f"{kind} on {part}"))
    cells = _cells(list(splits), folder, given)
    said = _said(cells, sources, folder)
    _texts(cells, said, folder, stage("reading captions"))


def opened(
    parts: Sequence[str],
    sources: Mapping[str, Sequence[str]],
    folder: Path,
    given: FileCaptions | None = None,
) -> Material:
    """What `prepare` has made; of the parts the one besides training and tuning is measured on."""
    cells = _cells(parts, folder, given)
    said = _said(cells, sources, folder)
    measured = [part for part in parts if part not in ("training", "tuning")]
    towers = {str(cells["training"].facts["encoder"]): str(cells["training"].facts["fingerprint"])}
    texts = _texts(cells, said, folder)
    return Material(cells, texts, said, measured[0], towers, given.name if given else "")


def to_be_had(source: str, captioned: bool, drawn: bool) -> bool:
    """Whether a source has captions of data that have an annotation, or a file in its place, or are drawn."""
    if source.startswith(_ORACLE):
        return drawn
    return captioned or source.startswith(_PALETTE)


def _cells(parts: Sequence[str], folder: Path, given: FileCaptions | None) -> dict[str, Source]:
    cells = {part: Cells(TokenCache(folder / "tokens" / part)) for part in parts}
    if given is None:
        return {**cells}
    return {part: Variant(each, said_by(given, each.regions)) for part, each in cells.items()}


def _texts(
    cells: Mapping[str, Source], said: Mapping[tuple[str, str], Said], folder: Path,
    on_progress: Progress | None = None,
) -> Frozen:  # fmt: skip
    texts = [text for told in said.values() for captions in told for text in captions]
    tuning = [text for region in cells["tuning"].regions for text in region.captions]
    parts = [sentence for text in tuning for sentence in sentences(text)]  # that the guard is made from
    return Frozen(MiniLM(), [*texts, *tuning, *parts], folder / "tokens" / "captions", on_progress)


def _said(
    cells: Mapping[str, Source], sources: Mapping[str, Sequence[str]], folder: Path
) -> dict[tuple[str, str], Said]:
    return {
        (source, part): _of_source(source, part, cells[part], folder)
        for part, wanted in sources.items()
        for source in wanted
    }


def _of_source(source: str, part: str, cells: Source, folder: Path) -> Said:
    own = tuple(region.captions for region in cells.regions)
    if source == "annotation":
        return own
    if source == "shuffled":
        return tuple(own[place] for place in others(cells.identities).tolist())
    kind = source.removesuffix(_UNCHECKED)
    vocabulary = Vocabulary.open("fashion")

    def text(caption: Caption) -> str:
        return vocabulary.rendered(caption.claims) if source != kind else caption.text

    return said_by(FileCaptions(_file(folder, kind, part)), cells.regions, text)


def _file(folder: Path, source: str, part: str) -> Path:
    return folder / "sources" / f"{source}.{part}.jsonl"


def _caption(dataset: Dataset, split: str, source: str, file: Path, on_progress: Progress) -> None:
    """What a captioner says of a split's regions, in a file; what is there is not asked again."""
    whole = file.with_suffix(".whole")  # says that nothing is missing
    if whole.exists():
        return
    listed = [region.listed() for region in dataset.read(split) if isinstance(region, Labelled)]
    with captioner_of(source, dataset, split) as captioner, Writing(file, source) as writing:
        for done, record in enumerate(
            records(listed, captioner, WIDTH, done=writing.done), start=len(writing.done)
        ):
            if not isinstance(record, Unread):
                caption = replace(record.caption, by=source)  # a server's address changes
                writing.add(replace(record, caption=caption, transcript=()))
            on_progress(done, len(listed))
    whole.touch()


@contextmanager
def captioner_of(
    source: str, dataset: Dataset, split: str, strategy: str = "attributes"
) -> Iterator[Captioner]:
    """The captioner of a source while it is needed; `strategy` is how a model is asked."""
    if source == _PALETTE:
        yield open_captioner(source)
        return
    command = [
        sys.executable, "-m", "lookalike.testing.oracle", str(dataset.folder),
        "--split", split, "--lie", source.removeprefix(_ORACLE),
        "--while-stdin",  # it ends with this process, however that ends
    ]  # fmt: skip
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            if not (url := server.stdout.readline().strip()):
                raise BadInput(f"{source}: the stand-in for a model does not start")
            llm = "llm" if strategy == "dialogue" else None
            asking = Asking(vlm="vlm", llm=llm, strategy=strategy, width=WIDTH)
            captioner = open_captioner(f"openai:{url}", asking)
            with closing(captioner):  # type: ignore[type-var]
                yield captioner
        finally:
            server.terminate()
