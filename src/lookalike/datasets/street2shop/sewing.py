"""Pieces of cloth, thread and buttons -> a picture with soft edges, light and folds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from PIL import Image, ImageChops, ImageDraw, ImageFilter

from lookalike.datasets.street2shop.cloth import PER_HEAD
from lookalike.datasets.street2shop.figure import Points
from lookalike.datasets.street2shop.wardrobe import Colour, Random

_FINE = 2  # drawn pixels a picture's pixel, each way: for smooth edges
_COARSE = 4  # fine pixels a pixel of light, each way
_LEVELS = np.arange(256)


@dataclass(frozen=True, slots=True, eq=False)
class Panel:
    """A piece of cloth. `cloth` is a colour, or a picture that `onto` maps the panel's pixels into."""

    outline: Points
    cloth: Image.Image | Colour
    onto: Callable[[Points], Points] | None = None  # picture -> heads on the cloth
    round: float = 0.0  # how much darker it is towards its edges
    edge: Colour | None = None  # a seam around it
    within: bool = False  # seen only on what is there already


@dataclass(frozen=True, slots=True, eq=False)
class Line:
    """A seam, a crease or a strap."""

    points: Points
    width: float
    colour: Colour
    stitched: bool = False
    solid: bool = False  # cloth of its own, as a strap is; other lines are seen only on cloth


@dataclass(frozen=True, slots=True, eq=False)
class Fold:
    """Where cloth bends away from the light (strength > 0) or towards it."""

    points: Points
    width: float
    strength: float  # levels of 255


@dataclass(frozen=True, slots=True, eq=False)
class Layer:
    """A picture with transparency, RGBA, and where its upper left corner lies."""

    image: Image.Image
    place: tuple[int, int]


def sewn(
    pieces: Sequence[Panel | Line], folds: Sequence[Fold], frame: tuple[int, int], scale: float,
    ground: Colour, random: Random, crumple: float = 1.0,
) -> Layer | None:  # fmt: skip
    """What of the pieces lies inside the frame, drawn one over the other; None where nothing does.

    `scale` is pixels a head, `ground` the colour that soft edges fade to.
    """
    outlines = np.concatenate(
        [piece.outline if isinstance(piece, Panel) else piece.points for piece in pieces]
    )
    left, top = (np.floor(outlines.min(axis=0)) - 3).clip(0, frame).astype(int)
    right, bottom = (np.ceil(outlines.max(axis=0)) + 3).clip(0, frame).astype(int)
    if right - left < 4 or bottom - top < 4:
        return None
    table = _Table((int(right - left), int(bottom - top)), np.array([left, top]), scale, ground)
    for piece in pieces:
        if isinstance(piece, Panel):
            table.lay(piece)
        else:
            table.stitch(piece)
    table.light(folds, random, crumple)
    return Layer(table.finished(), (int(left), int(top)))


class _Table:
    """Where pieces are laid. Colours are in fine pixels; light is soft, so it is kept in coarse ones."""

    def __init__(self, size: tuple[int, int], corner: Any, scale: float, ground: Colour) -> None:
        self._size = size[0] * _FINE, size[1] * _FINE
        self._corner = corner
        self._scale = scale
        self._colour = Image.new("RGB", self._size, ground)
        self._alpha = Image.new("L", self._size)
        self._shade = Image.new("L", (-(-self._size[0] // _COARSE), -(-self._size[1] // _COARSE)))

    def _fine(self, points: Points) -> Points:
        fine: Points = (points - self._corner) * _FINE
        return fine

    def lay(self, panel: Panel) -> None:
        """Put a panel over what is there."""
        points = self._fine(panel.outline)
        low = np.floor(points.min(axis=0)).clip(0, None).astype(int)
        high = np.ceil(points.max(axis=0) + 1).clip(0, self._size).astype(int)
        if (high <= low).any():
            return
        box = (*low.tolist(), *high.tolist())
        if panel.within or isinstance(panel.cloth, Image.Image):
            mask = Image.new("L", tuple((high - low).tolist()))
            ImageDraw.Draw(mask).polygon((points - low).ravel().tolist(), 255)
            if panel.within:
                mask = ImageChops.multiply(mask, self._alpha.crop(box))
            cloth = panel.cloth if isinstance(panel.cloth, tuple) else self._cut(panel, box)
            self._colour.paste(cloth, box, mask)
        else:
            ImageDraw.Draw(self._colour).polygon(points.ravel().tolist(), panel.cloth)
        if not panel.within:
            ImageDraw.Draw(self._alpha).polygon(points.ravel().tolist(), 255)
        if panel.round:
            self._round(points / _COARSE, panel.round)
        if panel.edge is not None:
            closed = np.concatenate([points, points[:1]]).ravel().tolist()
            width = max(1, round(0.015 * self._scale * _FINE))
            ImageDraw.Draw(self._colour).line(closed, panel.edge, width, joint="curve" if width > 9 else None)

    def _round(self, points: Points, strength: float) -> None:
        """Darker towards the edges, as what curves away is."""
        margin = 10
        low = np.floor(points.min(axis=0)).clip(-margin, None).astype(int)
        high = np.ceil(points.max(axis=0) + 1).clip(0, np.array(self._shade.size) + margin).astype(int)
        width, height = (high - low + 2 * margin).tolist()
        mask = Image.new("L", (width, height))
        ImageDraw.Draw(mask).polygon((points - low + margin).ravel().tolist(), 255)
        reach = self._scale * _FINE / _COARSE
        inner = mask.filter(ImageFilter.BoxBlur(min(margin, 0.13 * reach)))
        shade = ((255 - 255 * (_LEVELS - 110).clip(0) / 145) * strength).round().astype(int).tolist()
        self._shade.paste(inner.point(shade), tuple((low - margin).tolist()), mask)

    def _cut(self, panel: Panel, box: tuple[int, int, int, int]) -> Image.Image:
        """The cloth as it lies on the panel: its pixels carried over in a grid of small quadrangles."""
        assert isinstance(panel.cloth, Image.Image)
        assert panel.onto is not None
        x0, y0, x1, y1 = box
        columns = np.linspace(0, x1 - x0, max(2, (x1 - x0) // 88 + 1)).round().astype(int)
        rows = np.linspace(0, y1 - y0, max(2, (y1 - y0) // 88 + 1)).round().astype(int)
        grid = np.stack(np.meshgrid(columns, rows), axis=2).reshape(-1, 2)
        heads = panel.onto((grid + np.array((x0, y0))) / _FINE + self._corner)
        most = panel.cloth.width - 1, panel.cloth.height - 1
        source = ((heads + np.array((3, 0))) * PER_HEAD).clip(0, most).reshape(len(rows), len(columns), 2)
        corners = np.concatenate([source[:-1, :-1], source[1:, :-1], source[1:, 1:], source[:-1, 1:]], axis=2)
        quads = [
            ((before, upper, after, lower), tuple(corners[j, i].tolist()))
            for j, (upper, lower) in enumerate(pairwise(rows.tolist()))
            for i, (before, after) in enumerate(pairwise(columns.tolist()))
        ]
        size = x1 - x0, y1 - y0
        return panel.cloth.transform(size, Image.Transform.MESH, quads, Image.Resampling.NEAREST)

    def stitch(self, line: Line) -> None:
        """Draw a line, or a row of stitches along it."""
        points = self._fine(line.points)
        width = max(1, round(line.width * _FINE))
        draw = ImageDraw.Draw(self._colour)
        if not line.stitched:
            path = points.ravel().tolist()
            draw.line(path, line.colour, width, joint="curve" if width > 9 else None)
            if line.solid:
                ImageDraw.Draw(self._alpha).line(path, 255, width, joint="curve" if width > 9 else None)
            return
        steps = np.hypot(*np.diff(points, axis=0).T)
        at = np.concatenate([[0], np.cumsum(steps)])
        stitch = 0.075 * self._scale * _FINE
        starts = np.arange(0, at[-1], stitch)
        ends = np.minimum(starts + 0.6 * stitch, at[-1])
        tips = [np.interp(places, at, points[:, axis]) for places in (starts, ends) for axis in (0, 1)]
        for dash in np.stack(tips, axis=1).tolist():
            draw.line(dash, line.colour, width)

    def light(self, folds: Sequence[Fold], random: Random, crumple: float) -> None:
        """Soft light and shade over everything: where cloth bulges, and folds."""
        width, height = self._shade.size
        coarse = _FINE / _COARSE  # coarse pixels a pixel
        cells = [
            max(3, round(side / coarse / self._scale * rate)) for side, rate in ((height, 1.6), (width, 3.0))
        ]
        noise = 224 + crumple * random.uniform(-32, 30, cells)
        soft = Image.fromarray(noise.clip(120, 255).astype(np.uint8))
        soft = soft.resize((width, height), Image.Resampling.BICUBIC)
        bent = Image.new("L", (width, height), 128)
        draw = ImageDraw.Draw(bent)
        for fold in folds:
            path = ((fold.points - self._corner) * coarse).ravel().tolist()
            draw.line(path, int(128 - fold.strength), max(1, round(fold.width * coarse)))
        bent = bent.filter(ImageFilter.GaussianBlur(max(0.6, 0.03 * self._scale * coarse)))
        light = ImageChops.add(soft, bent, offset=-128)
        self._shade = ImageChops.screen(self._shade, ImageChops.invert(light))

    def finished(self) -> Image.Image:
        """What lies on the table, lit, in the picture's pixels, RGBA."""
        picture = self._colour.reduce(_FINE)
        grown = self._shade.size[0] * _COARSE // _FINE, self._shade.size[1] * _COARSE // _FINE
        shade = self._shade.resize(grown, Image.Resampling.BILINEAR).crop((0, 0, *picture.size))
        picture.paste((0, 0, 0), (0, 0), shade)
        picture.putalpha(self._alpha.reduce(_FINE))
        return picture
