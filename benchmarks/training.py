"""What each part of the loss brings: `compact` trained on one data set, several seeds, bare queries.

    lookalike make street2shop --out DATASET --identities 1450 --seed 3
    python benchmarks/training.py DATASET --out FOLDER [--seeds 3] [--set NAME=VALUE ...]

Trains on the split `training`, measures on `validation`, whose identities training never saw, by protocol b1
with given boxes and no captions. A number is the mean over seeds of the mean over queries; intervals are of
a bootstrap over pairs, p-values of a test that exchanges systems in whole pairs, adjusted by Holm's method.
Captions reach a model in training only. Run again, it goes on; two processes may share the work by --seed.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lookalike.datasets import open_dataset
from lookalike.encoders import EfficientNet, MiniLM
from lookalike.evaluation.intervals import holm, mean_interval, paired
from lookalike.learn.models.adapted import Adapted
from lookalike.learn.models.compact import compact
from lookalike.learn.recipes import Recipe, recipe
from lookalike.learn.scoring import average_precisions, described, queries
from lookalike.learn.session import Data, begin, cell_data, new_model
from lookalike.learn.sources import Cells
from lookalike.learn.tokens import make_tokens
from lookalike.values import Progress

PARTS = {
    "ArcFace": {},
    "+ contrast (no captions)": {"contrast": 1.0},
    "+ box": {"box": 1.0},
    "+ ITC": {"itc": 1.0},
    "+ contrast + box (no captions)": {"contrast": 1.0, "box": 1.0},
    "+ contrast + ITC": {"contrast": 1.0, "itc": 1.0},
    "all": {"contrast": 1.0, "box": 1.0, "itc": 1.0},
    "all, captions shuffled": {"contrast": 1.0, "box": 1.0, "itc": 1.0, "shuffled": True},
}
RIVAL = "+ contrast + box (no captions)"  # what captions have to beat


def recipes(settings: list[str]) -> dict[str, Recipe]:
    """Where no captions are learnt from, none are fused either: `caption_dropout` is then 1."""
    usual = recipe("compact", settings)
    bare = replace(usual, contrast=0.0, box=0.0, itc=0.0)
    return {
        name: replace(bare, **parts, caption_dropout=usual.caption_dropout if "itc" in parts else 1.0)
        for name, parts in PARTS.items()
    }


def measured(model: Adapted, data: Data, validation: Cells) -> dict[str, Any]:
    found = described(model, validation, data.texts)
    return {
        "ap": average_precisions(found.descriptors(model.language), validation).tolist(),
        "identity": float(np.nanmean(average_precisions(found.identity, validation))),
        "language": float(np.nanmean(average_precisions(found.language, validation))),
    }


def silent(what: str) -> Progress:
    return lambda done, total: None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--seed", type=int, help="train this one only, and print nothing")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", dest="settings")
    options = parser.parse_args()
    dataset, encoder = open_dataset(options.dataset), EfficientNet(threads=1)
    tokens = options.out / "tokens"
    data = cell_data(dataset, "training", "tuning", tokens, encoder, MiniLM, 4, silent)
    validation = Cells(make_tokens(dataset, "validation", encoder, tokens / "validation", views=1))
    groups = np.array([validation.regions[place].group for place in queries(validation)])
    results: dict[str, list[dict[str, Any]]] = {
        "frozen": [measured(Adapted(compact(), language=0.0), data, validation)]
    }
    for seed in [options.seed] if options.seed is not None else range(options.seeds):
        for name, asked in recipes(options.settings).items():
            asked = replace(asked, seed=seed)
            folder = options.out / f"{name} {seed}".replace(" ", "-").replace(",", "")
            file = folder / "result.json"
            if not file.exists():
                start = time.perf_counter()
                model, new = new_model(asked, None, None)
                trainer = begin(model, new, data, asked, folder, {"benchmark": "training"})
                for _ in trainer.run():
                    pass
                seconds = time.perf_counter() - start
                result = measured(trainer.model, data, validation)
                result |= {"seconds": seconds, "recipe": asdict(asked), "history": trainer.history}
                file.write_text(json.dumps(result))
            results.setdefault(name, []).append(json.loads(file.read_text()))
    if options.seed is None:
        print(table(results, groups, dataset.synthetic, data))


def table(results: dict[str, list[dict[str, Any]]], groups: Any, synthetic: str, data: Data) -> str:
    aps = {name: np.mean([run["ap"] for run in runs], axis=0) for name, runs in results.items()}
    differences = {
        name: paired(aps[RIVAL], ap, groups) for name, ap in aps.items() if name not in (RIVAL, "frozen")
    }
    adjusted = dict(zip(differences, holm([each.p for each in differences.values()]), strict=True))
    lines = [
        f"Training: {len(data.training.regions):,} regions of "
        f"{len(np.unique(data.training.identities)):,} identities; {len(groups):,} queries of others; "
        f"data: {synthetic or 'real'}; torch {torch.__version__}",
        "",
        "| training | mAP | each seed | identity | language | against the best without captions | s |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, runs in results.items():
        whole = mean_interval(aps[name], groups)
        cells = [name, f"{whole.mean:.3f} [{whole.low:.3f}, {whole.high:.3f}]"]
        cells += [" ".join(f"{np.nanmean(run['ap']):.3f}" for run in runs)]
        cells += [f"{np.mean([run[part] for run in runs]):.3f}" for part in ("identity", "language")]
        if found := differences.get(name):
            told = f"{100 * found.mean:+.1f} [{100 * found.low:.1f}, {100 * found.high:.1f}]"
            cells.append(f"{told}, p {adjusted[name]:.3f}")
        else:
            cells.append("")
        cells.append(f"{np.mean([run['seconds'] for run in runs]):.0f}" if "seconds" in runs[0] else "")
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
