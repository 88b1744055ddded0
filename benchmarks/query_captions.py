"""What captions at the query cost and bring, with a captioner in another process whose delay is made up.

    python benchmarks/query_captions.py [--identities N] [--queries N] [--delay S] [--rate N]

Draws a data set (or takes `--dataset`), builds a catalogue of the regime train+gallery+query by `compact`
(needs `lookalike models pull minilm`) and searches it with the data set's user photos. The captioner is the
oracle of `lookalike.testing`, which knows the labels: what captions bring here says how far right captions
help, nothing about a model. Every delay is simulated, and named so.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lookalike.captions import ModelCaptioner
from lookalike.catalogue import Catalogue
from lookalike.datasets import Dataset, Labelled, Side, open_dataset, street2shop
from lookalike.datasets.photos import write_table
from lookalike.evaluation.captioning.delay import Conditions, Photo, measure
from lookalike.roles import Captioner
from lookalike.settings import Asking, Settings, open_captioner, open_catalogue


@contextmanager
def oracle(dataset: Path, delay_s: float, strategy: str) -> Iterator[ModelCaptioner]:
    """A captioner that asks an oracle in another process, ready; its cache is empty."""
    command = [sys.executable, "-m", "lookalike.testing.oracle", str(dataset), "--delay", str(delay_s)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            url = process.stdout.readline().strip()
            captioner = open_captioner(f"openai:{url}", Asking(vlm="vlm", llm="llm", strategy=strategy))
            assert isinstance(captioner, ModelCaptioner)
            with captioner:
                captioner.ready()
                yield captioner
        finally:
            process.terminate()


def built(folder: Path, dataset: Dataset, captioner: Captioner) -> tuple[Catalogue, list[Photo]]:
    """The shop's pictures of all splits in a catalogue, and the users' photos of what is in it."""
    read = (each for split in dataset.splits for each in dataset.read(split) if isinstance(each, Labelled))
    regions = list({(each.source, each.box): each for each in read}.values())  # splits may overlap
    shop = [each for each in regions if each.side is Side.GALLERY and each.identity]
    rows = (
        {"path": each.source, "item": each.identity, "box": each.box.corners if each.box else None}
        for each in shop
    )
    catalogue = open_catalogue(folder, Settings(encoder="compact", regime="train+gallery+query"))
    catalogue.add(write_table(rows, folder / "shop.jsonl"), captioner=captioner)
    known = {each.identity for each in shop}
    asked = [each for each in regions if each.side is Side.QUERY and each.identity in known]
    return catalogue, [
        Photo(Path(each.source), each.box, frozenset({each.identity})) for each in asked if each.identity
    ]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--dataset", type=Path, help="one that was drawn already")
    parser.add_argument("--identities", type=int, default=200)
    parser.add_argument("--queries", type=int, default=160, help="half of them for the open loop")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--delay", type=float, default=0.5, help="seconds before each reply")
    parser.add_argument("--deadline", type=float, default=3.0, help="seconds")
    parser.add_argument("--rate", type=float, default=2.0, help="queries a second in the open loop")
    parser.add_argument("--workers", type=int, default=8)
    parser.add_argument("--gate", choices=["margin", "disagreement"])
    parser.add_argument("--strategy", default="attributes")
    parser.add_argument("--captions", choices=["oracle", "palette"], default="oracle", help="the gallery's")
    parser.add_argument("--json", type=Path, help="write the figures to this file too")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        drawn = arguments.dataset
        if drawn is None:
            drawn = street2shop.make(folder / "drawn", arguments.identities, seed=7).folder
        dataset = open_dataset(drawn)
        if arguments.captions == "palette":
            catalogue, photos = built(folder / "shop", dataset, open_captioner("palette"))
        else:
            with oracle(drawn, 0.0, "attributes") as captioner:
                catalogue, photos = built(folder / "shop", dataset, captioner)
        conditions = Conditions(
            rounds=arguments.rounds,
            arrival_rate=arguments.rate,
            workers=arguments.workers,
            deadline_s=arguments.deadline,
            gate=arguments.gate,
            simulated=f"oracle, {arguments.delay:g} s",
        )
        step = max(1, len(photos) // arguments.queries)
        with catalogue, oracle(drawn, arguments.delay, arguments.strategy) as captioner:
            delays = measure(catalogue, captioner, photos[::step][: arguments.queries], conditions)
    print(f"{dataset.name}, drawn, all splits; gallery captions: {arguments.captions}.")
    for line in delays.lines():
        print(line)
    if arguments.json:
        arguments.json.write_text(json.dumps(delays.as_json(), indent=1))


if __name__ == "__main__":
    main()
