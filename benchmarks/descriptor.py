"""What each choice in the default descriptor brings, on street-like queries of known objects.

    python benchmarks/descriptor.py TEST [--cutouts FOLDER] [--lite0 FILE]

TEST is a folder of product photographs: its pictures are the gallery, with street views of each as queries,
alone and among the crops of DEV. DEV, where the choices were made, is crops of the photographs that
scikit-image and scikit-learn bundle and, where given, CUTOUTS: a folder tree of objects with transparency,
PNG (Debian's tuxpaint-stamps-default has one), drawings left out by their folders' names. Nothing is fitted
to any picture. Every row changes one thing of the first. R@1 / mAP, for queries with the object's box given
and for whole queries. Needs scikit-image and scikit-learn. Backgrounds of queries come from DEV's pictures.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from PIL import Image

from lookalike import pooling
from lookalike.datasets.street import street_view
from lookalike.encoders import ColourHistogram, EfficientNet
from lookalike.encoders.efficientnet import CELL, SHIPPED, SIDE
from lookalike.values import Box, Floats, Picture, Pixels, Region, unit

SHIPPED_ROW = "shipped: EfficientNet()"
DRAWN = re.compile("cartoon|symbols|space|seasonal|town|military|people|fantasy")
CROPPED = {  # side of the square crops in pixels
    "astronaut.png": 128, "chelsea.png": 150, "coffee.png": 133, "rocket.jpg": 142,
    "motorcycle_left.png": 148, "china.jpg": 128, "flower.jpg": 160, "camera.png": 128,
    "hubble_deep_field.jpg": 125, "ihc.png": 128, "retina.jpg": 176, "coins.png": 76, "moon.png": 128,
    "page.png": 96, "text.png": 112, "color.png": 180, "brick.png": 256, "grass.png": 256, "gravel.png": 256,
}  # fmt: skip
BACKGROUNDS = (
    "astronaut.png", "chelsea.png", "coffee.png", "rocket.jpg", "motorcycle_left.png", "china.jpg",
    "flower.jpg", "camera.png", "brick.png", "grass.png", "gravel.png",
)  # fmt: skip


@dataclass(frozen=True)
class Objects:
    """A gallery and the street views that look for its members."""

    name: str
    gallery: list[Region]
    sought: list[int]
    boxed: list[Region]
    whole: list[Region]


def bundled(name: str) -> Pixels:
    """A photograph that comes with scikit-image or scikit-learn, which are not imported."""
    packages = {"skimage": "data", "sklearn": "datasets/images"}
    for package, folder in packages.items():
        spec = find_spec(package)
        if spec is None or spec.origin is None:
            raise SystemExit("needs the packages scikit-image and scikit-learn")
        path = Path(spec.origin).parent / folder / name
        if path.exists():
            return read(path)
    raise SystemExit(f"{name} is in neither scikit-image nor scikit-learn")


def read(path: Path) -> Pixels:
    image = Image.open(path)
    image.draft("RGB", (800, 800))
    return np.asarray(image.convert("RGB"))


def crops() -> Iterator[tuple[str, Pixels]]:
    """Squares side by side, those with something to see, with the name of their picture."""
    for name, side in CROPPED.items():
        pixels = bundled(name)
        for top in range(0, pixels.shape[0] - side + 1, side):
            for left in range(0, pixels.shape[1] - side + 1, side):
                crop = pixels[top : top + side, left : left + side]
                if crop.std((0, 1)).mean() > 18:
                    yield name, crop


def cutouts(folder: Path) -> Iterator[tuple[str, Pixels]]:
    """Objects on white with an eighth of their size round them."""
    for path in sorted(folder.rglob("*.png")):
        image = Image.open(path)
        if DRAWN.search(str(path.relative_to(folder))) or image.mode != "RGBA":
            continue
        image.thumbnail((900, 900))
        extent = image.getchannel("A").point(lambda level: 255 * (level > 127)).getbbox()
        if extent is None or min(extent[2] - extent[0], extent[3] - extent[1]) < 72:
            continue
        object_ = image.crop(extent)
        margin = max(object_.size) // 8
        page = Image.new("RGB", (object_.width + 2 * margin, object_.height + 2 * margin), "white")
        page.paste(object_, (margin, margin), object_.getchannel("A"))
        yield "", np.asarray(page)


def objects(name: str, members: Iterator[tuple[str, Pixels]], views: int) -> Objects:
    """`views` street views of each member, in front of any background but its own picture."""
    made = Objects(name, [], [], [], [])
    backgrounds = {each: bundled(each) for each in BACKGROUNDS}
    for place, (source, pixels) in enumerate(members):
        made.gallery.append(Region(Picture.of(pixels)))
        others = [background for each, background in backgrounds.items() if each != source]
        for view in range(views):
            seed = 1000 * place + view
            shot = street_view(pixels, others[np.random.default_rng(seed).integers(len(others))], seed)
            made.sought.append(place)
            made.whole.append(Region(Picture.of(shot.pixels)))
            made.boxed.append(Region(made.whole[-1].picture, shot.box))
    return made


@dataclass(frozen=True)
class Maps:
    """Both maps of a few pictures and where the pictures lie in them, in cells."""

    block: Floats  # (B, 352, H, W)
    head: Floats  # (B, 1280, H, W)
    frames: list[Box]

    def inside(self, taper: bool = True) -> Floats:
        shares = pooling.tapered if taper else pooling.coverage
        return shares(self.frames, *self.block.shape[2:])


Pool = Callable[[Maps], Any]


def salient(power: float) -> Pool:
    return lambda maps: pooling.salient(maps.block, power, maps.inside())


def two_sided(maps: Maps) -> Any:
    """GeM of the positive part minus GeM of the negative part."""
    shares = maps.inside(taper=False)
    return pooling.gem(maps.block, 3, shares=shares) - pooling.gem(-maps.block, 3, shares=shares)


def superglobal(maps: Maps) -> Any:
    """Regional GeM and GeM+; their ReLUP needs another network."""
    return pooling.gem(pooling.regional_gem(maps.head), 4.6, shares=maps.inside(taper=False))


@dataclass(frozen=True)
class Recipe:
    """Ways to pool the maps of pictures drawn in one way; the defaults are the shipped descriptor's."""

    pools: dict[str, Pool]
    side: int = SIDE
    fill: str = "mean"  # what lies round the picture: mean, grey; stretch leaves nothing
    one_pass: bool = False  # pool inside the box on the whole picture's map
    mirrored: bool = False  # add the descriptor of the mirrored picture

    def __call__(self, regions: Sequence[Region]) -> dict[str, Floats]:
        chunks = [self.chunk(regions[start : start + 16]) for start in range(0, len(regions), 16)]
        return {name: np.concatenate([chunk[name] for chunk in chunks]) for name in self.pools}

    def chunk(self, regions: Sequence[Region]) -> dict[str, Floats]:
        drawn = [self.draw(each.picture.pixels if self.one_pass else each.pixels) for each in regions]
        squares, frames = np.stack([square for square, _ in drawn]), [frame for _, frame in drawn]
        if self.one_pass:
            frames = [within(frame, region) for frame, region in zip(frames, regions, strict=True)]
        rows = self.descriptors(squares, frames)
        if self.mirrored:  # pictures lie in the middle, so their frames stay
            others = self.descriptors(squares[:, :, ::-1], frames)
            rows = {name: unit(rows[name] + others[name]) for name in rows}
        return rows

    def descriptors(self, squares: Pixels, frames: list[Box]) -> dict[str, Floats]:
        block, head = network().run(["block", "head"], {"pixels": squares})
        return {name: unit(pool(Maps(block, head, frames))) for name, pool in self.pools.items()}

    def draw(self, pixels: Pixels) -> tuple[Pixels, Box]:
        height, width = pixels.shape[:2]
        scale = self.side / max(height, width)
        across, down = max(1, round(width * scale)), max(1, round(height * scale))
        if self.fill == "stretch":
            across = down = self.side
        small = np.asarray(
            Image.fromarray(pixels).resize((across, down), Image.Resampling.BICUBIC, reducing_gap=3)
        )
        left, top = (self.side - across) // 2, (self.side - down) // 2
        square = np.empty((self.side, self.side, 3), np.uint8)
        square[:] = 127 if self.fill == "grey" else small.mean((0, 1))
        square[top : top + down, left : left + across] = small
        return square, Box(left / CELL, top / CELL, (left + across) / CELL, (top + down) / CELL)


@cache
def network() -> Any:
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # be kind to the neighbours
    return onnxruntime.InferenceSession(SHIPPED, options)


def within(frame: Box, region: Region) -> Box:
    """The region's box in the cells of its whole picture's map."""
    if region.box is None:
        return frame
    scale = (frame.x1 - frame.x0) / region.picture.width
    x0, y0, x1, y1 = region.box.scaled(scale, scale).corners
    return Box(frame.x0 + x0, frame.y0 + y0, frame.x0 + x1, frame.y0 + y1)


def describers(lite0: Path | None) -> Iterator[Callable[[Sequence[Region]], dict[str, Floats]]]:
    """Each gives named descriptors of the same regions."""
    yield Recipe(
        {
            SHIPPED_ROW: salient(3),
            "power 0, a tapered mean": salient(0),
            "power 1": salient(1),
            "power 2": salient(2),
            "power 5": salient(5),
            "no taper": lambda m: pooling.salient(m.block, 3, m.inside(taper=False)),
            "no taper; mean": lambda m: pooling.mean(m.block, m.inside(taper=False)),
            "no taper; GeM 3": lambda m: pooling.gem(m.block, 3, shares=m.inside(taper=False)),
            "no taper; two-sided GeM 3": two_sided,
            "head, 1280 numbers": lambda m: pooling.salient(m.head, 3, m.inside()),
            "head; no taper; mean": lambda m: pooling.mean(m.head, m.inside(taper=False)),
            "head; no taper; SuperGlobal's pooling": superglobal,
        }
    )
    every_cell = {"grey padding, pooled too": lambda maps: pooling.salient(maps.block, 3)}
    yield Recipe({"grey padding": salient(3)} | every_cell, fill="grey")
    yield Recipe({"stretched to the square": salient(3)}, fill="stretch")
    for side in (224, 320):
        yield Recipe({f"{side} px": salient(3)}, side=side)
    yield Recipe({"mirrored too, two passes": salient(3)}, mirrored=True)
    yield Recipe({"boxes on the whole picture's map": salient(3)}, one_pass=True)
    if lite0:
        small = EfficientNet(lite0)
        yield lambda regions: {"EfficientNet-Lite0, 320 numbers": small.pictures(regions)}
    baseline = ColourHistogram()
    yield lambda regions: {"colour histogram, 192 numbers": baseline.pictures(regions)}


def figures(queries: Floats, gallery: Floats, sought: Sequence[int]) -> str:
    """R@1 / mAP; one right answer each, so mAP is the mean of 1 / rank. Ties count against."""
    scores = queries @ gallery.T
    right = scores[np.arange(len(scores)), list(sought)]
    ranks = (scores >= right[:, None]).sum(1)
    return f"{(ranks == 1).mean():.3f} / {(1 / ranks).mean():.3f}"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("test", type=Path)
    parser.add_argument("--cutouts", type=Path)
    parser.add_argument("--lite0", type=Path, help="made by tools/export_efficientnet.py --variant lite0")
    options = parser.parse_args()

    photographs = (("", read(path)) for path in sorted(options.test.glob("*.jpg")))
    test, dev = objects("TEST", photographs, 4), [objects("DEV crops", crops(), 1)]
    if options.cutouts:
        dev.insert(0, objects("DEV cut-outs", cutouts(options.cutouts), 1))
    for each in (*dev, test):
        print(f"{each.name}: {len(each.gallery)} objects, {len(each.sought)} queries")
    print(f"DEV is searched in one gallery; TEST+ is TEST among DEV's {len(dev[-1].gallery)} crops\n")
    names = [each.name for each in dev] + ["TEST", "TEST+"]
    columns = [f"{name}, {kind}" for kind in ("box", "whole") for name in names]
    print("| " + " | ".join(["", *columns]) + " |\n|" + "---|" * (len(columns) + 1))
    for describe in describers(options.lite0):
        galleries, own = [describe(each.gallery) for each in dev], describe(test.gallery)
        if SHIPPED_ROW in own:
            np.testing.assert_allclose(
                EfficientNet().pictures(test.gallery[:8]), own[SHIPPED_ROW][:8], atol=1e-4
            )
        queries = {
            (each.name, kind): describe(getattr(each, kind))
            for each in (*dev, test)
            for kind in ("boxed", "whole")
        }
        for row in own:
            joined = np.concatenate([gallery[row] for gallery in galleries])
            cells = []
            for kind in ("boxed", "whole"):
                start = 0
                for each, gallery in zip(dev, galleries, strict=True):
                    cells.append(
                        figures(queries[each.name, kind][row], joined, [start + i for i in each.sought])
                    )
                    start += len(gallery[row])
                asked = queries["TEST", kind][row]
                cells.append(figures(asked, own[row], test.sought))
                cells.append(figures(asked, np.concatenate([own[row], galleries[-1][row]]), test.sought))
            print("| " + " | ".join([row, *cells]) + " |", flush=True)


if __name__ == "__main__":
    main()
