"""How a catalogue grows on one machine, and where it has to become several.

    python benchmarks/scale.py growth --out growth.json             10,000 to 1,000,000 rows in real stores
    python benchmarks/scale.py compressed --out compressed.json     10,000,000 rows as product-quantised codes
    python benchmarks/scale.py draw docs/scale/{growth,compressed}.json --out docs/images/scale.svg

`growth` is `benchmarks/store.py` at several sizes. `compressed` is faiss alone: what a catalogue of that size
would take if its search held codes of a quarter of a byte a number in memory, and looked at whole
descriptors on disk for the best of them. The vectors are SYNTHETIC: unit vectors in clusters within
clusters, from a seed, which makes finding the right clusters easy.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import faiss
import numpy as np

from lookalike.values import Floats, unit
from store import PER_KIND, PER_PRODUCT, measured, milliseconds, recall

SIZES = (10_000, 30_000, 100_000, 300_000, 1_000_000)
DIM = 352
BLOCK = 100_000  # rows that are drawn together
QUERIES = 100
TOP = 400
CANDIDATES = 2_000  # codes whose descriptors are looked at


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    for name, rows in (("growth", max(SIZES)), ("compressed", 10_000_000)):
        command = commands.add_parser(name)
        command.add_argument("--rows", type=int, default=rows)
        command.add_argument("--out", type=Path, required=True)
    draw = commands.add_parser("draw")
    draw.add_argument("files", type=Path, nargs=2)
    draw.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    if options.command == "draw":
        drawn(*(json.loads(file.read_text()) for file in options.files), options.out)
        return
    about = {"dim": DIM, "cores": os.cpu_count(), "faiss": faiss.__version__, "vectors": "synthetic"}
    found = growth(options.rows) if options.command == "growth" else compressed(options.rows)
    options.out.write_text(json.dumps({"about": about, "figures": found}, indent=1) + "\n")


def growth(most: int) -> list[dict[str, float]]:
    """The figures of `benchmarks/store.py` at each size up to `most`, as they come."""
    found = []
    for rows in (size for size in SIZES if size <= most):
        with tempfile.TemporaryDirectory() as folder:
            figures = {"rows": rows} | measured(Path(folder) / "shop", rows, DIM, QUERIES, seed=0)
        found.append(figures)
        told = {
            "exact ms": figures["exact top-400: ms"],
            "graph ms": figures["graph top-400: ms"],
            "recall@10": figures["graph: recall@10"],
            "recall@400": figures["graph: recall@400"],
            "built in s": figures["graph: build s"],
        }
        print(f"{rows:>10,} rows: {_told(told)}", flush=True)
    return found


def compressed(rows: int) -> dict[str, Any]:
    """Codes in memory, descriptors in a file: built, searched, compared with exact search."""
    lists = 2 ** round(math.log2(math.sqrt(rows) * 1.3))
    figures: dict[str, Any] = {"rows": rows, "lists": lists, "codes": f"PQ{DIM // 4}"}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "descriptors"
        started = time.perf_counter()
        stored = np.memmap(file, np.float16, "w+", shape=(rows, DIM))
        for start in range(0, rows, BLOCK):
            stored[start : start + BLOCK] = block(start // BLOCK)[: rows - start]
        stored.flush()
        print(f"{rows:,} descriptors drawn in {time.perf_counter() - started:.0f} s", flush=True)

        asked = queries(rows)
        truth = exact(stored, asked)
        index = faiss.index_factory(DIM, f"IVF{lists}_HNSW32,PQ{DIM // 4}", faiss.METRIC_INNER_PRODUCT)
        index.cp.niter = 8
        started = time.perf_counter()
        some = np.sort(np.random.default_rng(0).choice(rows, min(rows, 40 * lists), replace=False))
        index.train(stored[some].astype(np.float32))
        figures["train s"] = time.perf_counter() - started
        started = time.perf_counter()
        for start in range(0, rows, BLOCK):
            index.add(stored[start : start + BLOCK].astype(np.float32))
        figures["add s"] = time.perf_counter() - started
        figures["bytes a row in memory"] = (index.sa_code_size() * rows + 8 * rows) / rows
        print(f"trained in {figures['train s']:.0f} s, added in {figures['add s']:.0f} s", flush=True)

        figures["probes"] = {}
        faiss.omp_set_num_threads(1)
        for probes in (16, 32, 64, 128):
            index.nprobe = probes
            plain = index.search(asked, TOP)[1]
            better = np.concatenate([rescored(index, stored, query) for query in asked[:, None]])
            figures["probes"][probes] = told = {
                "codes alone: ms": milliseconds(lambda q: index.search(q, TOP), asked),
                "codes alone: recall@10": recall(plain[:, :10], truth[:, :10]),
                "codes alone: recall@400": recall(plain, truth),
                "with descriptors: ms": milliseconds(lambda q: rescored(index, stored, q), asked),
                "with descriptors: recall@10": recall(better[:, :10], truth[:, :10]),
                "with descriptors: recall@400": recall(better, truth),
            }
            print(f"{probes} lists looked at: {_told(told)}", flush=True)
    return figures


def block(number: int) -> Floats:
    """(BLOCK, DIM), unit: kinds of products, products, and pictures of them."""
    rng, centres = _centres(number)
    of = np.arange(BLOCK) // PER_PRODUCT
    return unit(centres[of] + 0.6 * rng.standard_normal((BLOCK, DIM), np.float32))


def queries(rows: int) -> Floats:
    """(QUERIES, DIM): other pictures of stored products."""
    rng = np.random.default_rng(1)
    found = []
    for number in rng.integers(0, max(1, rows // BLOCK), QUERIES // 10):
        _, centres = _centres(int(number))
        some = centres[rng.integers(0, len(centres), 10)]
        found.append(some + 0.6 * rng.standard_normal(some.shape, np.float32))
    return unit(np.concatenate(found))


def _centres(number: int) -> tuple[np.random.Generator, Floats]:
    rng = np.random.default_rng([0, number])
    products = BLOCK // PER_PRODUCT
    kinds = rng.standard_normal((products // PER_KIND, DIM), np.float32)
    return rng, kinds[np.arange(products) // PER_KIND] + 0.8 * rng.standard_normal(
        (products, DIM), np.float32
    )


def exact(stored: np.ndarray, asked: Floats) -> np.ndarray:
    """The best `TOP` of all rows for each query, (Q, TOP)."""
    best = np.empty((len(asked), 0), np.float32)
    keys = np.empty((len(asked), 0), np.int64)
    for start in range(0, len(stored), BLOCK):
        scores = asked @ stored[start : start + BLOCK].astype(np.float32).T
        places = np.tile(np.arange(start, start + scores.shape[1]), (len(asked), 1))
        best, keys = (np.concatenate(pair, axis=1) for pair in ((best, scores), (keys, places)))
        order = np.argsort(-best, axis=1)[:, :TOP]
        best, keys = (np.take_along_axis(each, order, axis=1) for each in (best, keys))
    return keys


def rescored(index: Any, stored: np.ndarray, query: Floats) -> np.ndarray:
    """The best `TOP` of the first `CANDIDATES` codes by their descriptors, (1, TOP)."""
    found = index.search(query, CANDIDATES)[1][0]
    found = np.sort(found[found >= 0])
    scores = stored[found].astype(np.float32) @ query[0]
    return found[np.argsort(-scores)[:TOP]][None]


def _told(figures: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:.3f}" for name, value in figures.items())


def drawn(grown: dict[str, Any], packed: dict[str, Any], out: Path) -> None:
    """Time of a search, recall, time to build and bytes by the number of rows, with what they follow."""
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "lookalike"
    import matplotlib.pyplot as plt

    rows = np.array([figures["rows"] for figures in grown["figures"]], float)
    many = np.logspace(4, 9, 60)
    told = packed["figures"]
    figure, ((time_of, recall_of), (build_of, bytes_of)) = plt.subplots(2, 2, figsize=(10, 8))
    for name, label in (("exact top-400: ms", "exact"), ("graph top-400: ms", "graph (HNSW)")):
        values = np.array([figures[name] for figures in grown["figures"]])
        line = time_of.plot(rows, values, "o", label=label)[0]
        basis = np.log(rows) if "graph" in name else rows
        slope, start = np.polyfit(basis, values, 1, w=1 / values)
        model = slope * (np.log(many) if "graph" in name else many) + start
        time_of.plot(many, np.maximum(model, values.min() / 2), "--", color=line.get_color(), lw=1)
    best = told["probes"]["64"]
    time_of.plot([told["rows"]], [best["with descriptors: ms"]], "s", label="codes + descriptors")
    for name, mark in (("recall@10", "o-"), ("recall@400", "v-")):
        found = [figures[f"graph: {name}"] for figures in grown["figures"]]
        line = recall_of.plot(rows, found, mark, label=f"graph (HNSW), {name}")[0]
        kept = best[f"with descriptors: {name}"]
        label = f"codes + descriptors, {name}"
        recall_of.plot([told["rows"]], [kept], "s", fillstyle="none", color=line.get_color(), label=label)
    built = np.array([figures["graph: build s"] for figures in grown["figures"]])
    line = build_of.plot(rows, built, "o", label="graph (HNSW)")[0]
    scale = np.exp(np.mean(np.log(built / (rows * np.log(rows)))))
    build_of.plot(many, scale * many * np.log(many), "--", color=line.get_color(), lw=1)
    build_of.plot([told["rows"]], [told["train s"] + told["add s"]], "s", label="codes")
    for name, label in (
        ("table: bytes per row", "table"),
        ("graph: bytes per row", "graph with descriptors"),
    ):
        values = np.array([figures[name] * figures["rows"] for figures in grown["figures"]])
        line = bytes_of.plot(rows, values / 1e9, "o", label=label)[0]
        bytes_of.plot(many, many * values[-1] / rows[-1] / 1e9, "--", color=line.get_color(), lw=1)
    codes = told["bytes a row in memory"] * told["rows"] / 1e9
    bytes_of.plot([told["rows"]], [codes], "s", label="codes, in memory")
    modelled = "rows (dashed: what they follow)"
    for axes, title, upwards, across in (
        (time_of, "the best 400 of one query, ms", "log", modelled),
        (build_of, "to build, s, two cores", "log", modelled),
        (bytes_of, "GB", "log", modelled),
        (recall_of, "recall of exact search", "linear", "rows"),  # it falls: how far is not known
    ):
        axes.set(title=title, xscale="log", yscale=upwards, xlabel=across)
        axes.legend(frameon=False, fontsize=8)
        axes.grid(alpha=0.3)
    recall_of.set_ylim(0.9, 1.005)
    figure.tight_layout()
    figure.savefig(out, metadata={"Date": None})


if __name__ == "__main__":
    main()
