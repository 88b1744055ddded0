"""What a query costs after the encoder: search, re-ranking, grouping, hits. Milliseconds by gallery size.

Descriptors are real ones of `--real` augmented crops, repeated with noise up to the gallery's size (each
copy turned by some 20 degrees); queries are further noisy copies. The encoder is left out.
"""

import argparse
import tempfile
import time
from pathlib import Path
from statistics import median

import numpy as np

from lookalike import images
from lookalike.catalogue import Catalogue
from lookalike.datasets.photos import scenery
from lookalike.encoders import EfficientNet
from lookalike.rerank import SuperGlobal
from lookalike.store import LocalStore
from lookalike.values import Box, Floats, Item, Picture, Region, Row, unit
from lookalike.weights import default_folder

TURN = 0.36  # noise of this length turns a unit vector by about 20 degrees


class Recalled:
    """An encoder that answers with descriptors made before."""

    name, fingerprint = "recalled", "recalled"

    def __init__(self, vectors: Floats) -> None:
        self.dim = vectors.shape[1]
        self.vectors = vectors

    def pictures(self, regions: list[Region], captions: object = None) -> Floats:
        return self.vectors[: len(regions)]

    def texts(self, texts: object) -> None: ...

    def maps(self, pictures: object) -> None: ...


class Thirds:
    """Three candidate regions a picture, as many as the salient finder gives."""

    name = "thirds"

    def regions(self, pictures: list[Picture]) -> list[list[Region]]:
        return [[Region(picture, Box(0, 0, 50 + 10 * n, 50)) for n in range(3)] for picture in pictures]


def real_descriptors(count: int) -> Floats:
    scenes = [images.load(path) for path in scenery(default_folder())]
    random = np.random.default_rng(0)
    regions = []
    for number in range(count):
        scene = scenes[number % len(scenes)]
        size = random.uniform(0.15, 0.7, 2) * (scene.width, scene.height)
        corner = random.uniform(0, 1, 2) * ((scene.width, scene.height) - size)
        regions.append(Region(scene, Box(*map(float, (*corner, *(corner + size))))))
    return EfficientNet().pictures(regions)


def noisy(vectors: Floats, random: np.random.Generator) -> Floats:
    noise = unit(random.standard_normal(vectors.shape, np.float32))
    return unit(vectors + TURN * noise)


def filled(folder: Path, real: Floats, count: int) -> None:
    random = np.random.default_rng(1)
    with LocalStore(folder, dim=real.shape[1], write=True) as store:
        store.meta.update(encoder="recalled", fingerprint="recalled", regions="whole", regime="image")
        for start in range(0, count, 5000):
            some = noisy(real[np.arange(start, min(start + 5000, count)) % len(real)], random)
            rows = [
                Row(Item(f"item-{start + n}"), f"{start + n}.jpg", f"{start + n:064x}", 100, 100, vector)
                for n, vector in enumerate(some)
            ]
            store.add(rows, run=1)
        started = time.perf_counter()
        if store.build_index():
            print(f"<!-- index of {count:,} built in {time.perf_counter() - started:.0f} s -->")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=[10_000, 100_000])
    parser.add_argument("--real", type=int, default=3000)
    parser.add_argument("--queries", type=int, default=100)
    arguments = parser.parse_args()
    real = real_descriptors(arguments.real)
    random = np.random.default_rng(2)
    queries = noisy(real[random.integers(0, len(real), arguments.queries)], random)
    blank = Picture.of(np.zeros((100, 100, 3), np.uint8))
    print(
        f"real descriptors: {len(real):,}, {real.shape[1]} numbers each; medians of {len(queries)} queries\n"
    )
    print("| gallery | regions | re-rank | search ms | re-rank ms | all after the encoder, ms | recall@400 |")
    print("|---|---|---|---|---|---|---|")
    for count in arguments.sizes:
        with tempfile.TemporaryDirectory() as folder:
            filled(Path(folder), real, count)
            with LocalStore(Path(folder)) as store, store.view() as view:
                found, exact = (view.search(queries, 400, None, e)[0] for e in (False, True))
            recall = np.mean([len(np.intersect1d(a, b)) / len(b) for a, b in zip(found, exact, strict=True)])
            for regions, box in (("given", Box(0, 0, 50, 50)), ("three", None)):
                for rerank in (None, SuperGlobal()):
                    encoder = Recalled(queries)
                    store = LocalStore(Path(folder))
                    with Catalogue(store, lambda: None, encoder, Thirds(), Thirds(), rerank) as catalogue:
                        timings = []
                        for turn in range(-3, len(queries)):
                            encoder.vectors = np.roll(queries, -turn, axis=0)
                            timings.append(catalogue.search(blank, box).timings_ms)
                    took = [t["total"] - t["decode"] - t["region"] - t["encode"] for t in timings[3:]]
                    stages = [median(t[stage] for t in timings[3:]) for stage in ("search", "rerank")]
                    name = rerank.name if rerank else "none"
                    print(
                        f"| {count:,} | {regions} | {name} | {stages[0]:.1f} | {stages[1]:.1f} "
                        f"| {median(took):.1f} | {recall:.3f} |",
                        flush=True,
                    )


if __name__ == "__main__":
    main()
