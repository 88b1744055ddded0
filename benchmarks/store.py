"""What the local store costs, beside faiss's exact fp32 search on the same vectors in the same run.

    python benchmarks/store.py                     100,000 rows of length 352, some minutes
    python benchmarks/store.py --rows 1000000 --json store.json

The vectors are SYNTHETIC: unit vectors in clusters within clusters (kinds, products, pictures), from a seed.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import faiss
import numpy as np

from lookalike.store import LocalStore
from lookalike.values import Floats, Item, Row, unit

BATCH = 1000
PER_PRODUCT = 5  # pictures
PER_KIND = 400  # products


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--dim", type=int, default=352)
    parser.add_argument("--queries", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="write the figures to this file too")
    parser.add_argument("--opened", type=Path, help=argparse.SUPPRESS)  # this script's own second process
    options = parser.parse_args()
    if options.opened:
        print(json.dumps(opened(options.opened)))
        return
    with tempfile.TemporaryDirectory() as folder:
        figures = measured(Path(folder) / "shop", options.rows, options.dim, options.queries, options.seed)
    about = {
        "rows": options.rows, "dim": options.dim, "queries": options.queries, "seed": options.seed,
        "cores": os.cpu_count(), "faiss": faiss.__version__, "vectors": "synthetic, clusters within clusters",
    }  # fmt: skip
    print(", ".join(f"{name} {value}" for name, value in about.items()))
    for name, value in figures.items():
        print(f"{name:<44}{value:>14,.3f}")
    if options.json:
        options.json.write_text(json.dumps(about | figures, indent=1) + "\n")


def measured(folder: Path, rows: int, dim: int, queries: int, seed: int) -> dict[str, float]:
    vectors, asked = clustered(rows, queries, dim, seed)
    figures: dict[str, float] = {}

    seconds = 0.0
    with LocalStore(folder, dim, write=True, graph_from=0) as store:
        for batch in batches(vectors):
            started = time.perf_counter()
            store.add(batch, run=1)
            seconds += time.perf_counter() - started
        figures["ingest, durable batches of 1000: rows/s"] = rows / seconds
        figures["table: bytes per row"] = store.bytes_on_disk() / rows
        figures |= {f"without graph: {name}": value for name, value in in_a_process(folder).items()}
        with store.view() as view:
            truth = view.search(asked, 400, exact=True)[0]
            for top in (10, 400):
                figures[f"exact top-{top}: ms"] = milliseconds(lambda q, top=top: view.search(q, top), asked)
            for percent, where in ((1, "shelf = 7"), (10, "shelf < 10")):
                name = f"exact top-400 of {percent} % (where): ms"
                figures[name] = milliseconds(lambda q, where=where: view.search(q, 400, where), asked)
            keys = truth[0]
            figures["fetch 400 vectors: ms"] = milliseconds(lambda _q: view.vectors(keys), asked)
            figures["fetch 400 rows: ms"] = milliseconds(lambda _q: view.rows(keys), asked)
            figures["words: ms"] = milliseconds(lambda _q: view.words("red shoe", 100), asked)

        flat = faiss.IndexFlatIP(dim)
        flat.add(vectors)
        cores = faiss.omp_get_max_threads()
        faiss.omp_set_num_threads(1)  # all it uses for one query; a second one would only wait for it
        figures["faiss flat fp32 top-400: ms"] = milliseconds(partial(flat.search, k=400), asked)
        faiss.omp_set_num_threads(cores)
        del flat

        started = time.perf_counter()
        store.build_index()
        figures["graph: build s"] = time.perf_counter() - started
        figures["graph: bytes per row"] = store.bytes_on_disk() / rows - figures["table: bytes per row"]
        with store.view() as view:
            for top in (10, 400):
                figures[f"graph top-{top}: ms"] = milliseconds(lambda q, top=top: view.search(q, top), asked)
                found = view.search(asked, top)[0]
                figures[f"graph: recall@{top}"] = recall(found, truth[:, :top])
        figures |= {f"with graph: {name}": value for name, value in in_a_process(folder).items()}
    return figures


def clustered(rows: int, queries: int, dim: int, seed: int) -> tuple[Floats, Floats]:
    """(rows, dim) and (queries, dim), unit: kinds of products, products, and pictures of them."""
    rng = np.random.default_rng(seed)
    products = -(-rows // PER_PRODUCT)
    kinds = rng.standard_normal((-(-products // PER_KIND), dim), np.float32)
    centres = kinds[np.arange(products) // PER_KIND] + 0.8 * rng.standard_normal((products, dim), np.float32)
    gallery = np.empty((rows, dim), np.float32)
    for start in range(0, rows, BATCH):
        of = np.arange(start, min(start + BATCH, rows)) // PER_PRODUCT
        gallery[start : start + BATCH] = unit(
            centres[of] + 0.6 * rng.standard_normal((len(of), dim), np.float32)
        )
    of = rng.integers(0, products, queries)
    return gallery, unit(centres[of] + 0.6 * rng.standard_normal((queries, dim), np.float32))


def batches(vectors: Floats) -> Iterator[list[Row]]:
    colours = ("red", "blue", "green", "black", "white")
    for start in range(0, len(vectors), BATCH):
        rows = []
        for place in range(start, min(start + BATCH, len(vectors))):
            product = place // PER_PRODUCT
            colour = colours[product % 5]
            item = Item(
                f"item-{product}", f"{colour} shoe number {product}",
                {"shelf": product % 100, "price": float(product % 997), "colour": colour},
            )  # fmt: skip
            rows.append(
                Row(item, f"{product}/{place}.jpg", f"{place:064x}", 640, 480, vectors[place], origin="shop")
            )
        yield rows


def milliseconds(search: Callable[[Floats], Any], queries: Floats) -> float:
    """The median over single queries."""
    times = []
    for query in queries:
        started = time.perf_counter()
        search(query[None])
        times.append(time.perf_counter() - started)
    return float(np.median(times)) * 1000


def recall(found: np.ndarray, truth: np.ndarray) -> float:
    return float(
        np.mean([len(np.intersect1d(*pair)) / truth.shape[1] for pair in zip(found, truth, strict=True)])
    )


def in_a_process(folder: Path) -> dict[str, float]:
    command = [sys.executable, __file__, "--opened", str(folder)]
    answer: dict[str, float] = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
    return answer


def opened(folder: Path) -> dict[str, float]:
    """What a fresh process takes to answer its first query, and its memory then; mapped pages are shared."""
    started = time.perf_counter()
    with LocalStore(folder) as store, store.view() as view:
        query = np.zeros((1, store.dim), np.float32)
        query[0, 0] = 1
        view.search(query, 10)
        seconds = time.perf_counter() - started
        status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    own, mapped = (int(status[name].split()[0]) / 1000 for name in ("RssAnon", "RssFile"))
    return {
        "open to first answer: s": seconds,
        "reader's own memory: MB": own,
        "reader's mapped memory: MB": mapped,
    }


if __name__ == "__main__":
    main()
