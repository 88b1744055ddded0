"""What re-ranking one query costs, by length of the shortlist and of the descriptor. Milliseconds, medians.

    python benchmarks/rerank.py [--superglobal FOLDER] [--rounds N]

FOLDER is a checkout of the authors' repository, github.com/ShihaoShao-GH/SuperGlobal: their two modules then
run beside ours on the same descriptors (needs torch; `.cuda()` is made to do nothing, the rest is as it
stands; the first ranking is made before the clock starts). They take one query or a batch: the faster of the
two counts. OMP_NUM_THREADS=1 (or more) sets the threads of both. "Limit" is M x M x D multiply-adds at the
rate of the machine's matrix product in the same rounds; the likeness of members is symmetric, so half of them
can do. Descriptors are made up: clusters of four in the positive quadrant.
"""

from __future__ import annotations

import argparse
import sys
import time
import warnings
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from statistics import median

import numpy as np
from numpy.typing import NDArray

from lookalike.rerank import DatabaseAugmentation, Diffusion, KReciprocal, QueryExpansion, SuperGlobal
from lookalike.values import Floats, unit

SIZES = [(100, 256), (100, 2048), (400, 256), (400, 2048)]
QUERIES = 4


def descriptors(members: int, dim: int) -> tuple[Floats, Floats]:
    random = np.random.default_rng(0)
    seeds = np.abs(random.standard_normal((members // 4, dim))).repeat(4, axis=0)
    gallery = unit(seeds + 0.5 * np.abs(random.standard_normal(seeds.shape)))
    return unit(seeds[: 4 * QUERIES : 4] + 0.5 * np.abs(random.standard_normal((QUERIES, dim)))), gallery


def milliseconds(runs: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Medians over rounds in which each takes its turn, so that other work on the machine meets all alike."""
    took: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            time.sleep(0.02)  # for threads of the one before that still spin
            run()
            started = time.perf_counter()
            run()
            took[name].append(1000 * (time.perf_counter() - started))
    return {name: median(times) for name, times in took.items()}


def ours(query: Floats, gallery: Floats) -> dict[str, Callable[[], object]]:
    rerankers = [
        SuperGlobal(),
        QueryExpansion(),
        DatabaseAugmentation(),
        DatabaseAugmentation(then=QueryExpansion()),
        KReciprocal(),
        KReciprocal(others=unit(gallery + 0.01)),
        Diffusion(),
    ]
    return {reranker.name: partial(reranker.score, query, gallery) for reranker in rerankers}


Run = Callable[[], NDArray[np.int64]]


def published(folder: Path) -> Callable[[Floats, Floats], Run]:
    """The authors' code: for queries (Q, D), gallery (M, D) a run that gives the members' order, (Q, M)."""
    sys.path.insert(0, str(folder))
    import torch
    from modules.reranking.MDescAug import MDescAug
    from modules.reranking.RerankwMDA import RerankwMDA

    torch.Tensor.cuda = lambda tensor: tensor
    warnings.filterwarnings("ignore", message="To copy construct from a tensor")

    def prepared(queries: Floats, gallery: Floats) -> Run:
        asked, members = torch.from_numpy(queries), torch.from_numpy(gallery)
        refine, expand = MDescAug(M=len(gallery)), RerankwMDA(M=len(gallery))
        ranks = torch.argsort(-members @ asked.T, dim=0)

        @torch.no_grad()
        def run() -> NDArray[np.int64]:
            order: NDArray[np.int64] = expand(ranks, *refine(members, asked, ranks)).numpy().T
            return order

        return run

    return prepared


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--superglobal", type=Path, metavar="FOLDER")
    parser.add_argument("--rounds", type=int, default=15)
    arguments = parser.parse_args()
    prepared = published(arguments.superglobal) if arguments.superglobal else None
    square = np.random.default_rng(1).random((1024, 1024), np.float32)
    other = square.T.copy()

    columns = []
    for members, dim in SIZES:
        queries, gallery = descriptors(members, dim)
        runs = ours(queries[0], gallery)
        if prepared:
            batch = prepared(queries, gallery)
            runs |= {"one": prepared(queries[:1], gallery), "batch": batch}
        took = milliseconds({"product": partial(np.matmul, square, other)} | runs, arguments.rounds)
        rate = 1024**3 / took.pop("product")  # multiply-adds a millisecond
        column = {
            "matrix product, 10^9 multiply-adds a second": f"{rate / 1e6:.0f}",
            "limit": f"{members**2 * dim / rate:.2f}",
        }
        if prepared:
            theirs = min(took.pop("one"), took.pop("batch") / QUERIES)
            scores = [SuperGlobal().score(query, gallery) for query in queries]
            same = np.mean(batch() == np.argsort(-np.stack(scores), axis=1, kind="stable"))
        column |= {name: f"{figure:.2f}" for name, figure in took.items()}
        if prepared:
            column["superglobal, the authors' code"] = f"{theirs:.2f}"
            column["theirs / ours"] = f"{theirs / took['superglobal']:.1f}"
            column["members put in the same place"] = f"{100 * same:.1f} %"
        columns.append(column)
    print(f"| M x D | {' | '.join(f'{members} x {dim}' for members, dim in SIZES)} |")
    print(f"|---|{'---|' * len(SIZES)}")
    for name in columns[0]:
        print(f"| {name} | {' | '.join(column[name] for column in columns)} |")


if __name__ == "__main__":
    main()
