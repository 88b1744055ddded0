"""From scores to mean average precision: beside torchmetrics, and streamed over 40,000 x 40,000.

    python benchmarks/metrics.py [--rounds N]

Descriptors are random unit vectors, D = 128, from a seed; right answers are drawn at random. The first table
is one mAP from the same arrays, scores and right answers (Q, N): medians over rounds in which both take their
turn, some minutes. The second makes the scores in blocks and throws them away, beside the matrix product
alone, which nothing exact can beat. Needs torchmetrics (`pip install torchmetrics`), as no other part of the
project does.
"""

from __future__ import annotations

import argparse
import resource
import time
from collections.abc import Callable
from statistics import median

import numpy as np
from numpy.typing import NDArray

from lookalike.evaluation.metrics import Ranks, ranks_of
from lookalike.values import Floats, unit

DIM = 128
BLOCK = 1024  # queries at a time


def descriptors(count: int, seed: int) -> Floats:
    return unit(np.random.default_rng(seed).standard_normal((count, DIM), np.float32))


def right_answers(queries: int, gallery: int, each: int) -> NDArray[np.int64]:
    """(queries, each) gallery indices, different ones in a row."""
    random = np.random.default_rng(2)
    return np.array([random.choice(gallery, each, replace=False) for _ in range(queries)])


def mean_ap(ranks: list[Ranks]) -> float:
    return float(np.mean([of.average_precision() for of in ranks]))


def streamed(queries: int, gallery: int, each: int) -> str:
    """Product and metric block by block; the peak is the whole process's, so this runs first."""
    asked, kept, right = (
        descriptors(queries, 0),
        descriptors(gallery, 1),
        right_answers(queries, gallery, each),
    )
    asked[:BLOCK] @ kept.T  # the first product starts the threads
    ranks: list[Ranks] = []
    multiplying = 0.0
    started = time.perf_counter()
    for start in range(0, queries, BLOCK):
        before = time.perf_counter()
        scores = asked[start : start + BLOCK] @ kept.T
        multiplying += time.perf_counter() - before
        ranks += ranks_of(scores, list(right[start : start + BLOCK]))
    value = mean_ap(ranks)
    took = time.perf_counter() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return (
        f"| {queries:,} x {gallery:,} | {each} | {value:.6f} | {multiplying:.1f} | {took:.1f} "
        f"| {took / multiplying:.2f} | {peak:.2f} |"
    )


def beside_torchmetrics(queries: int, gallery: int, each: int, rounds: int) -> str:
    import torch
    from torchmetrics.retrieval import RetrievalMAP

    # Shifted, because torchmetrics takes a right answer with a score of 0 or less for a wrong one.
    scores = descriptors(queries, 0) @ descriptors(gallery, 1).T + 1
    relevant = np.zeros((queries, gallery), bool)
    np.put_along_axis(relevant, right_answers(queries, gallery, each), True, axis=1)
    flat = torch.from_numpy(scores).flatten(), torch.from_numpy(relevant).flatten()
    query = torch.arange(queries).repeat_interleave(gallery)

    def ours() -> float:
        return mean_ap(ranks_of(scores, [np.flatnonzero(row) for row in relevant]))

    def theirs() -> float:
        metric = RetrievalMAP()
        metric.update(*flat, indexes=query)
        return float(metric.compute())

    took: dict[Callable[[], float], list[float]] = {ours: [], theirs: []}
    values = {}
    for _ in range(rounds):
        for way, times in took.items():
            started = time.perf_counter()
            values[way] = way()
            times.append(time.perf_counter() - started)
    if abs(values[ours] - values[theirs]) > 1e-5:
        raise SystemExit(f"the two differ: {values[ours]} and {values[theirs]}")
    fast, slow = (median(times) for times in took.values())
    return (
        f"| {queries:,} x {gallery:,} | {each:,} | {values[ours]:.6f} | {fast:.2f} | {slow:.2f} "
        f"| {slow / fast:.1f} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3)
    rounds = parser.parse_args().rounds
    large = streamed(40_000, 40_000, each=3)
    print("| queries x gallery | right answers each | mAP | ours s | torchmetrics s | torchmetrics / ours |")
    print("|---|---|---|---|---|---|")
    for each in (3, 1000):
        print(beside_torchmetrics(4000, 10_000, each, rounds), flush=True)
    print(
        "\n| queries x gallery | right answers each | mAP | product s | wall s | wall / product | peak GiB |"
    )
    print("|---|---|---|---|---|---|---|")
    print(large)


if __name__ == "__main__":
    main()
