"""What geometric verification costs and tells: RootSIFT and XFeat, affine map and homography.

First for copies seen from another side, at two sizes: 54 photographs, "same" a copy moved by a homography and
slightly blurred, "other" another photograph. Then for street views of the photographs and of drawn garments
against their catalogue pictures, each inside its box: half of the views are mirrored, and both the views and
the drawings are made up. Cells are matches → inliers, and the share of pairs with at least 8 inliers.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from lookalike import images
from lookalike.datasets import Listed, listing
from lookalike.datasets.garments import generated_garments
from lookalike.datasets.photos import product_photos, scenery
from lookalike.datasets.street import street_view
from lookalike.rerank.geometric import Features, inliers, local_features, matches
from lookalike.values import Picture, Pixels, Region
from lookalike.weights import default_folder, pull

KINDS = ("rootsift", "xfeat")
FLOOR = 8


def timed(call: Callable[..., Any], *arguments: Any) -> tuple[Any, float]:
    """What the call gives, and its milliseconds."""
    started = time.perf_counter()
    done = call(*arguments)
    return done, 1000 * (time.perf_counter() - started)


def moved(pixels: Pixels, random: np.random.Generator) -> Pixels:
    """A copy seen from another side: corners moved by up to 12 % of its size, blurred by one pixel."""
    height, width = pixels.shape[:2]
    corners = np.array([[0, 0], [width, 0], [width, height], [0, height]], np.float32)
    target = corners + random.uniform(-0.12, 0.12, (4, 2)).astype(np.float32) * (width, height)
    seen = cv2.warpPerspective(
        pixels, cv2.getPerspectiveTransform(corners, target.astype(np.float32)), (width, height)
    )
    return np.asarray(cv2.GaussianBlur(seen, (0, 0), 1.0))


def compared(name: str, queries: Sequence[Region], gallery: Sequence[Region]) -> None:
    """A row for each kind of features: query i shows what gallery picture i shows."""
    for kind in KINDS:
        local_features(gallery[0], kind)  # opens the network
        asked, costs = zip(*(timed(local_features, region, kind) for region in queries), strict=True)
        kept = [local_features(region, kind) for region in gallery]
        pairs = {
            "same": list(zip(asked, kept, strict=True)),
            "other": [(one, kept[(i + step) % len(kept)]) for i, one in enumerate(asked) for step in (1, 2)],
        }
        row = [name, kind, f"{np.mean([len(f) for f in asked]):.0f}", f"{statistics.median(costs):.1f}"]
        for model in ("affine", "homography"):
            row += told(pairs, model)
        print(f"| {' | '.join(row)} |", flush=True)


def told(pairs: dict[str, list[tuple[Features, Features]]], model: str) -> list[str]:
    """Mean matches and inliers, the share verified, and the median milliseconds of a pair."""
    cells, costs = [], []
    for some in pairs.values():
        counts, spent = zip(*(timed(inliers, *pair, model) for pair in some), strict=True)
        costs += spent
        found = np.mean([len(matches(*pair)[0]) for pair in some])
        verified = np.mean(np.array(counts) >= FLOOR)
        cells.append(f"{found:.0f} → {np.mean(counts):.1f}, {verified:.2f}")
    return [*cells, f"{statistics.median(costs):.2f}"]


def street_pairs(table: Path, scenes: Sequence[Picture]) -> tuple[list[Region], list[Region]]:
    pictures = [images.load(entry.source) for entry in listing(table) if isinstance(entry, Listed)]
    queries = []
    for number, picture in enumerate(pictures):
        view = street_view(picture.pixels, scenes[number % len(scenes)].pixels, 1_200_000 + number)
        queries.append(Region(Picture.of(view.pixels), view.box))
    return queries, list(map(Region, pictures))


def threads(regions: Sequence[Region]) -> None:
    """Whether OpenCV's own threads matter: one caller and two, with OpenCV's default and with one thread."""
    default = cv2.getNumThreads()
    print("\n| OpenCV threads | RootSIFT, regions/s by one caller | by two |\n|---|---|---|")
    for number in (default, 1):
        cv2.setNumThreads(number)
        _, one = timed(list, map(local_features, regions))
        with ThreadPoolExecutor(2) as pool:
            _, two = timed(list, pool.map(local_features, regions))
        print(f"| {number} | {1000 * len(regions) / one:.0f} | {1000 * len(regions) / two:.0f} |", flush=True)
    cv2.setNumThreads(default)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--garments", type=int, default=60, help="drawn garments")
    arguments = parser.parse_args()
    pull("xfeat", default_folder())
    scenes = [images.load(path) for path in scenery(default_folder())]
    photos = product_photos(default_folder())
    sides = ("same", "other", "ms")
    told_columns = [f"{model}: {side}" for model in ("affine", "homography") for side in sides]
    print(f"| pairs | features | points | ms/region | {' | '.join(told_columns)} |")
    print("|---" * (4 + len(told_columns)) + "|")
    random = np.random.default_rng(7)
    for side in (512, 256):
        flat = []
        for entry in listing(photos):
            assert isinstance(entry, Listed)
            pixels = images.load(entry.source).pixels
            top, left = (max(0, size - 512) // 2 for size in pixels.shape[:2])
            crop = pixels[top : top + 512, left : left + 512]
            flat.append(crop[(512 - side) // 2 :, (512 - side) // 2 :][:side, :side])
        copies = [Region(Picture.of(moved(pixels, random))) for pixels in flat]
        whole = [Region(Picture.of(np.ascontiguousarray(pixels))) for pixels in flat]
        compared(f"moved, {side} px", copies, whole)
    compared("photographs, street", *street_pairs(photos, scenes))
    with tempfile.TemporaryDirectory() as folder:
        drawn = generated_garments(Path(folder), arguments.garments, seed=6)
        compared("drawn, street", *street_pairs(drawn, scenes))
    threads(whole)


if __name__ == "__main__":
    main()
