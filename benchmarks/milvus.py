"""What a catalogue in a Milvus server costs, beside exact search of the same rows.

    python benchmarks/milvus.py --at milvus://127.0.0.1:19530/bench               100,000 rows of length 512

The catalogue is made, and must not be there before. The vectors are SYNTHETIC, those of benchmarks/store.py.
The token is read from MILVUS_TOKEN.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path

import numpy as np

from lookalike.roles import View
from lookalike.store.milvus import MilvusStore
from lookalike.values import Floats
from store import batches, clustered


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--at", required=True, help="milvus://HOST:PORT/NAME")
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--queries", type=int, default=30)
    options = parser.parse_args()
    load = os.getloadavg()[0]
    print(f"{options.rows} synthetic rows of length {options.dim}, {os.cpu_count()} cores, load {load:.1f}")
    vectors, asked = clustered(options.rows, options.queries, options.dim, 0)
    with tempfile.TemporaryDirectory() as folder:
        open_it = {"cache": Path(folder), "token": os.environ.get("MILVUS_TOKEN")}
        with MilvusStore(options.at, options.dim, write=True, graph_from=options.rows, **open_it) as store:
            started = time.perf_counter()
            for batch in batches(vectors):
                store.add(batch, run=1)
            tell(
                "ingest, acknowledged batches of 1000: rows/s", options.rows / (time.perf_counter() - started)
            )
            with store.view() as view:
                started = time.perf_counter()
                truth = view.search(asked[:1], 400)  # the first reads by the moment of the view
                tell("opening a view and its first search: ms", 1000 * (time.perf_counter() - started))
                truth = np.concatenate([view.search(query[None], 400)[0] for query in asked])
                searched(view, asked, truth, "every row compared")
                started = time.perf_counter()
                view.vectors(truth[0])
                tell("400 descriptors: ms", 1000 * (time.perf_counter() - started))
            started = time.perf_counter()
            store.count()
            tell("filling the mirror: s", time.perf_counter() - started)
            started = time.perf_counter()
            store.build_index()
            tell("making the graph: s", time.perf_counter() - started)
            with store.view() as view:
                searched(view, asked, truth, "graph")
                started = time.perf_counter()
                view.search(asked[:1], 10, exact=True)
                tell("exact beside the graph, one query: ms", 1000 * (time.perf_counter() - started))
                for percent, where in ((1, "shelf = 7"), (50, "shelf < 50")):
                    exact = view.search(asked, 10, where, exact=True)[0]
                    found, ms = timed(view, asked, 10, where)
                    tell(f"graph, filter that {percent} % pass, top-10: ms", ms)
                    tell(f"graph, filter that {percent} % pass, top-10: recall", recall(found, exact))


def searched(view: View, asked: Floats, truth: np.ndarray, name: str) -> None:
    for top in (10, 400):
        found, ms = timed(view, asked, top, None)
        tell(f"{name}, top-{top}: ms", ms)
        tell(f"{name}, top-{top}: recall", recall(found, truth[:, :top]))


def timed(view: View, asked: Floats, top: int, where: str | None) -> tuple[np.ndarray, float]:
    """What one query after the other finds, and the median of their milliseconds."""
    found, seconds = [], []
    for query in asked:
        started = time.perf_counter()
        found.append(view.search(query[None], top, where)[0][0])
        seconds.append(time.perf_counter() - started)
    return np.array(found), 1000 * float(np.median(seconds))


def recall(found: np.ndarray, truth: np.ndarray) -> float:
    return float(
        np.mean([len(np.intersect1d(*pair)) / len(pair[1]) for pair in zip(found, truth, strict=True)])
    )


def tell(name: str, value: float) -> None:
    print(f"{name:<54}{value:>12,.3f}", flush=True)


if __name__ == "__main__":
    main()
