"""Indexing: wall time against the work it consists of, and peak memory against the catalogue's size.

The limit is (CPU seconds of decoding + CPU seconds of encoding) / cores, each measured on one thread in the
same run. Pictures are JPEG crops of scikit-image's photographs, every one different.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

import lookalike
from lookalike import images
from lookalike.datasets.photos import scenery
from lookalike.encoders import EfficientNet
from lookalike.values import Region
from lookalike.weights import default_folder

SAMPLE = 192  # pictures that the limit is measured on


def make_pictures(folder: Path, count: int) -> None:
    scenes = [Image.fromarray(images.load(path).pixels) for path in scenery(default_folder())]
    random = np.random.default_rng(0)
    folder.mkdir()
    for number in range(count):
        scene = scenes[number % len(scenes)]
        width, height = (np.array(scene.size) * random.uniform(0.3, 0.9)).astype(int)
        left, top = (
            int(random.integers(0, limit + 1)) for limit in (scene.width - width, scene.height - height)
        )
        crop = scene.crop((left, top, left + width, top + height)).resize((800, 600))
        crop.save(folder / f"{number:06}.jpg", quality=85)


def limit_per_picture(folder: Path) -> tuple[float, float]:
    """CPU seconds of decoding and of encoding one picture, on one thread."""
    paths = sorted(folder.iterdir())[:SAMPLE]
    encoder = EfficientNet(threads=1)
    encoder.pictures([Region(images.load(paths[0]))])
    decoding = encoding = 0.0
    for start in range(0, len(paths), 16):
        began = time.process_time()
        regions = [Region(images.load(path)) for path in paths[start : start + 16]]
        decoded = time.process_time()
        encoder.pictures(regions)
        decoding, encoding = decoding + decoded - began, encoding + time.process_time() - decoded
    return decoding / len(paths), encoding / len(paths)


def index_once(folder: Path, shop: Path) -> None:
    """In a process of its own, so that its peak memory is its own."""
    with lookalike.open(shop) as catalogue:
        report = catalogue.add(folder)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({"seconds": report.seconds, "pictures": report.pictures, "peak_bytes": peak}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pictures", type=int, nargs="+", default=[1000])
    parser.add_argument("--once", type=Path, nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.once:
        index_once(*arguments.once)
        return
    cores = os.cpu_count() or 1
    print("| pictures | decode ms | encode ms | limit s | wall s | wall / limit | pictures/s | peak MB |")
    print("|---|---|---|---|---|---|---|---|")
    for count in arguments.pictures:
        with tempfile.TemporaryDirectory() as place:
            folder = Path(place) / "pictures"
            make_pictures(folder, count)
            decode, encode = limit_per_picture(folder)
            command = [sys.executable, __file__, "--once", str(folder), str(Path(place) / "shop")]
            done = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
        limit, wall, peak = count * (decode + encode) / cores, done["seconds"], done["peak_bytes"] / 1e6
        work = f"| {count:,} | {decode * 1000:.1f} | {encode * 1000:.1f} | {limit:.1f} "
        print(work + f"| {wall:.1f} | {wall / limit:.2f} | {count / wall:.0f} | {peak:.0f} |", flush=True)


if __name__ == "__main__":
    main()
