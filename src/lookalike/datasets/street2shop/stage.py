"""A picture while it grows, layer over layer, and what of each garment is left to be seen."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from lookalike.datasets.street2shop.drawing import Worn
from lookalike.datasets.street2shop.figure import (
    Points,
)
from lookalike.datasets.street2shop.outlines import outlines_of
from lookalike.datasets.street2shop.sewing import Layer
from lookalike.datasets.street2shop.wardrobe import (
    Garment,
)


@dataclass(frozen=True, slots=True, eq=False)
class Seen:
    """A garment in a picture. Pixels count from the upper left corner; boxes are half-open."""

    garment: Garment
    style: int  # 0 takes part in no pair
    box: tuple[int, int, int, int]
    outlines: list[list[int]]  # of what is visible of it: x, y, x, y, …
    marks: list[tuple[int, int, int]]  # neckline or waist, left, middle and right: x, y, and 2 visible, 1 not
    scale: int  # 1 small, 2 modest, 3 large
    occlusion: int  # 1 slight, 2 medium, 3 heavy
    zoom: int  # 1 all of it in the picture, 2 and 3 less
    viewpoint: int  # 1 not worn, 2 frontal, 3 from the side
    visible: frozenset[str]  # attributes


class Stage:
    """The picture while it grows, and which garment each of its pixels belongs to."""

    def __init__(self, background: Image.Image) -> None:
        self.picture = background
        self._labels = Image.new("L", background.size)
        self._worn: list[tuple[Garment, int, Worn, int]] = []  # with style and viewpoint
        self._drawn: list[int] = []  # pixels, hidden ones too

    def put(self, layer: Layer | None, label: int = 0) -> None:
        """Lay a layer over the picture; it belongs to the garment `label`, or hides what is below."""
        if layer is None:
            return
        solid = layer.image.getchannel("A")
        self.picture.paste(layer.image, layer.place, solid)
        self._labels.paste(label, layer.place, solid.point(_SOLID))
        if label:
            self._drawn[label - 1] += sum(solid.histogram()[128:])

    def cast(self, layer: Layer | None, strength: float, offset: tuple[int, int], soft: float) -> None:
        """A shadow of a layer that is to come."""
        if layer is None:
            return
        margin = int(2 * soft) + 12
        left, top = ((place - margin) // 4 * 4 for place in layer.place)
        box = (
            max(0, left), max(0, top), min(self.picture.width, layer.place[0] + layer.image.width + margin),
            min(self.picture.height, layer.place[1] + layer.image.height + margin),
        )  # fmt: skip
        size = box[2] - box[0], box[3] - box[1]
        shade = Image.new("L", (size[0] // 4 + 1, size[1] // 4 + 1))
        place = (layer.place[0] + offset[0] - box[0]) // 4, (layer.place[1] + offset[1] - box[1]) // 4
        shade.paste(layer.image.getchannel("A").reduce(4), place)
        shade = shade.filter(ImageFilter.BoxBlur(soft / 4)).filter(ImageFilter.BoxBlur(soft / 4))
        shade = shade.point([round(level * strength) for level in range(256)])
        self.picture.paste((0, 0, 0), box, shade.resize(size, Image.Resampling.BILINEAR))

    def hang(self, garment: Garment, style: int, worn: Worn, viewpoint: int) -> int:
        """A new garment's label."""
        self._worn.append((garment, style, worn, viewpoint))
        self._drawn.append(0)
        return len(self._worn)

    def seen(self) -> list[Seen]:
        """The garments of which enough is visible, in the order of drawing."""
        labels = np.asarray(self._labels)
        found = []
        for label, (garment, style, worn, viewpoint) in enumerate(self._worn, start=1):
            mine = labels == label
            pixels = int(np.count_nonzero(mine))
            if pixels < 260:
                continue
            rows, columns = np.flatnonzero(mine.any(axis=1)), np.flatnonzero(mine.any(axis=0))
            box = (int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1)
            if min(box[2] - box[0], box[3] - box[1]) < 12:
                continue
            width, height = self._labels.size
            inside = ((worn.outline >= 0) & (worn.outline < (width, height))).all(axis=1).mean()
            hidden = 1 - pixels / max(1, self._drawn[label - 1])
            share = pixels / (width * height)
            marks = [
                (int(np.clip(x, 0, width - 1)), int(np.clip(y, 0, height - 1)), 2 if ok else 1)
                for (x, y), ok in zip(worn.marks, _on(labels, worn.marks, label), strict=True)
            ]
            found.append(
                Seen(
                    garment, style, box, outlines_of(mine), marks,
                    scale=1 if share < 0.05 else 2 if share < 0.2 else 3,
                    occlusion=1 if hidden < 0.12 else 2 if hidden < 0.45 else 3,
                    zoom=1 if inside > 0.99 else 2 if inside > 0.7 else 3,
                    viewpoint=viewpoint, visible=_visible(garment, worn, labels, label),
                )
            )  # fmt: skip
        return found


_SOLID = [255 if level > 127 else 0 for level in range(256)]


def _on(labels: NDArray[np.uint8], points: Points, label: int) -> NDArray[np.bool_]:
    """Which points lie on the garment, or within three pixels of it."""
    height, width = labels.shape
    found = np.zeros(len(points), bool)
    for dx, dy in ((0, 0), (0, 3), (0, -3), (3, 0), (-3, 0)):
        at = np.floor(points + np.array((dx, dy))).astype(int)
        inside = ((at >= 0) & (at < (width, height))).all(axis=1)
        x, y = at.clip(0, (width - 1, height - 1)).T
        found |= inside & (labels[y, x] == label)
    return found


def _visible(garment: Garment, worn: Worn, labels: NDArray[np.uint8], label: int) -> frozenset[str]:
    """The attributes of which at least half is to be seen."""
    shown = {"colour", "pattern", "fabric"}
    for attribute, points in worn.sites.items():
        if _on(labels, points, label).mean() > 0.5:
            shown.add(attribute)
    if not garment.has("pattern", "plain") or shown & {"print", "trim"}:
        shown.add("second colour")
    return frozenset(shown & garment.attributes.keys())
