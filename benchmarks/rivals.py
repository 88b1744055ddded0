"""The comparison table: encoders that need no training, each with every re-ranker.

    python benchmarks/rivals.py DATASET --out FOLDER [--tune tuning] [--rerank NAME ...]

DATASET is DeepFashion2, real or generated (`lookalike make street2shop`). Hub encoders are measured where
they were pulled (`lookalike models pull siglip2`). Run again, it goes on: descriptors stay in FOLDER. Every
row's run, with report and failures, is FOLDER/ENCODER.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

from lookalike import weights
from lookalike.cli.measuring import made
from lookalike.datasets import open_dataset
from lookalike.errors import LookalikeError
from lookalike.evaluation.harness import Plan, evaluate
from lookalike.evaluation.pages.report import write_report, write_tables
from lookalike.evaluation.runs import Run
from lookalike.settings import ENCODERS

RERANK = (
    "none", "query-expansion", "dba", "k-reciprocal", "k-reciprocal-transductive", "diffusion", "superglobal",
    "geometric", "superglobal+geometric",
)  # fmt: skip
COLUMNS = ("mAP@20", "R@1", "R@5", "R@10", "R@20")


def encoders() -> Iterator[str]:
    yield from ENCODERS
    for name in weights.hub_names("encoder"):
        try:
            weights.locate(name, weights.default_folder())
        except LookalikeError:
            continue
        yield f"hub:{name}"


def rows(run: Run, official: Run) -> Iterator[str]:
    top = official.systems[0].figures["pair and style, overlapping"]
    for place, system in enumerate(run.systems):
        figures = next(iter(system.figures.values()))
        first = figures["mAP"]
        cells = [
            run.encoder["name"],
            system.name,
            f"{first.value:.3f} [{first.low:.3f}, {first.high:.3f}]",
            *(f"{figures[name].value:.3f}" for name in COLUMNS),
            f"{top['top-1'].value:.3f} / {top['top-20'].value:.3f}" if place == 0 else "",
            f"{run.encode_ms:.1f} + {system.latency_ms['search'] + system.latency_ms['rerank']:.1f}",
            f"{run.bytes_per_region:,}",
        ]
        yield "| " + " | ".join(cells) + " |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--tune", metavar="SPLIT")
    parser.add_argument("--encoder", action="append", help="only these")
    parser.add_argument("--rerank", action="append", help="only these")
    options = parser.parse_args()
    dataset = open_dataset(options.dataset)
    print(f"{dataset.name}; synthetic: {dataset.synthetic or 'no'}\n")
    heads = ("encoder", "re-rank", "mAP", *COLUMNS, "official top-1 / 20", "ms", "bytes a region")
    print("| " + " | ".join(heads) + " |\n|" + "---|" * len(heads), flush=True)
    for name in options.encoder or encoders():
        folder = options.out / name.replace(":", "-")
        plan = Plan(
            protocol="b1",
            encoder=name,
            rerank=options.rerank or RERANK,
            tune=options.tune,
            descriptors=options.out / "descriptors",
        )
        run = evaluate(dataset, folder, plan, made())
        write_tables(run, folder)
        write_report(run, folder)
        found = Plan("official", encoder=name, regions="salient", descriptors=options.out / "descriptors")
        for line in rows(run, evaluate(dataset, folder / "official", found, made())):
            print(line, flush=True)


if __name__ == "__main__":
    main()
