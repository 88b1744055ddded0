"""What every garment is cut with: cloth, seams, folds, hems, buttons, pockets."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property

import numpy as np
from PIL import Image

from lookalike.datasets.street2shop.cloth import cloth_of, plain_cloth
from lookalike.datasets.street2shop.figure import (
    Limb,
    Points,
    Pose,
    View,
    mirrored,
    spline,
)
from lookalike.datasets.street2shop.sewing import Fold, Line, Panel
from lookalike.datasets.street2shop.wardrobe import (
    BOTTOMS,
    OUTWEAR,
    Colour,
    Garment,
    Random,
    toned,
)

WAIST = 3.0

_HEMS = {
    "cropped": 2.95,
    "hip-length": 3.85,
    "long": 4.55,
    "very short": 4.72,
    "mid-thigh": 5.15,
    "mini": 4.85,
    "knee-length": 5.72,
    "midi": 6.45,
    "maxi": 7.3,
    "ankle-length": 7.12,
    "full-length": 7.42,
}
_EASE = {
    "slim": 0.03,
    "regular": 0.12,
    "loose": 0.28,
    "fitted": 0.02,
    "straight": 0.10,
    "A-line": 0.06,
    "flared": 0.05,
    "tiered": 0.10,
}
_SPREAD = {
    "fitted": -0.03,
    "pencil": -0.04,
    "straight": 0.03,
    "A-line": 0.17,
    "flared": 0.33,
    "pleated": 0.24,
    "tiered": 0.26,
}


class Tailor:
    """Cuts the pieces. Lengths are heads on the figure; 0, 1 and -1 name the body and the two arms."""

    def __init__(self, garment: Garment, pose: Pose, view: View, random: Random) -> None:
        self.garment, self.pose, self.view, self.random = garment, pose, view, random
        self.has = garment.has
        self.m = garment.measures
        self.cloth = cloth_of(garment)
        first, second = garment.colours
        self.contrast = self.has("trim", "contrast edges")
        dark = sum(first) < 240
        self.seam = toned(first, 1.55) if dark else toned(first, 0.66)
        self.deep = toned(first, 0.55) if not dark else toned(first, 0.62)
        self.thread = second if self.has("trim", "contrast stitching") else self.seam
        self.pieces: dict[int, list[Panel | Line]] = {0: [], 1: [], -1: []}
        self.folds: list[Fold] = []
        self.sites: dict[str, list[Points]] = {}
        self.marks = np.zeros((0, 2))
        self.full = 1.10 if pose.flat else 1.0  # what lies flat is wider than what goes round a body
        self.upper = garment.category not in BOTTOMS
        fit = garment.attributes["fit"]
        self.ease = _EASE.get(fit, 0.08) + 0.07 * self.m.width + (0.08 if garment.category in OUTWEAR else 0)
        self.spread = _SPREAD.get(fit, 0.0) + (0.05 * self.m.hem)
        self.hem = _HEMS[garment.attributes["length"]] + 0.2 * self.m.length
        if garment.category == "trousers" and self.has("length", "cropped"):
            self.hem = 6.5 + 0.2 * self.m.length

    @cached_property
    def plain(self) -> Image.Image:
        return plain_cloth(self.garment.colours[0], self.garment.attributes["fabric"])

    @cached_property
    def second(self) -> Image.Image:
        return plain_cloth(self.garment.colours[1], self.garment.attributes["fabric"])

    @property
    def edging(self) -> Image.Image:
        """For collars, cuffs, bands."""
        return self.second if self.contrast else self.plain

    def panel(
        self, outline: Points, cloth: Image.Image | Colour | None = None, round_: float = 0.0,
        edge: Colour | None = None, where: int = 0, limb: Limb | None = None, within: bool = False,
    ) -> None:  # fmt: skip
        cloth = self.cloth if cloth is None else cloth
        placed = self.view.pixels(outline)
        self.pieces[where].append(Panel(placed, cloth, self._onto(limb), round_, edge, within))

    def _onto(self, limb: Limb | None) -> Callable[[Points], Points]:
        slant = 0.07 * self.m.slant
        cos, sin = np.cos(slant), np.sin(slant)
        turn = np.array([[cos, sin], [-sin, cos]])

        def onto(pixels: Points) -> Points:
            heads = self.view.heads(pixels)
            if limb is not None:
                heads = limb.back(heads)
                heads = heads * (limb.side, 1) + ((0.4 * limb.side, 4.05) if not self.upper else (0, 1.5))
            turned: Points = (heads - (0, 4)) @ turn + np.array((0, 4))
            return turned

        return onto

    def line(
        self, points: Points | list[tuple[float, float]], width: float = 0.018, colour: Colour | None = None,
        stitched: bool = False, where: int = 0, solid: bool = False,
    ) -> None:  # fmt: skip
        placed = self.view.pixels(np.asarray(points, np.float64))
        shade = colour or (self.thread if stitched else self.seam)
        self.pieces[where].append(Line(placed, width * self.view.scale, shade, stitched, solid))

    def fold(self, points: Points | list[tuple[float, float]], width: float, strength: float) -> None:
        """A crease and the light beside it."""
        placed = self.view.pixels(np.asarray(points, np.float64))
        wide = width * self.view.scale
        strength *= 1.5
        self.folds.append(Fold(placed, wide, strength))
        self.folds.append(Fold(placed + np.array((wide * 0.9, wide * 0.35)), wide * 0.8, -0.6 * strength))

    def site(self, attribute: str, points: Points | list[tuple[float, float]]) -> None:
        placed = self.view.pixels(np.asarray(points, np.float64))
        self.sites.setdefault(attribute, []).append(placed)

    def width(self, y: float) -> float:
        """Half the width of the cloth at a height, below the armpit."""
        ease, waist = self.ease, 0.05 * self.m.waist
        ys = [2.1, WAIST, 3.9, 4.2]
        tight = 0.62 if self.garment.attributes["fit"] in ("fitted", "slim", "A-line", "flared") else 0.70
        widths = [0.74 + ease, tight + ease * 0.95 - waist, 0.82 + ease, 0.83 + ease]
        base = float(np.interp(y, ys, widths))
        flare = self.spread * max(0.0, y - WAIST)
        if self.has("length", "cropped") and self.garment.category not in BOTTOMS:
            flare += 0.03
        return (base + flare) * self.full

    def _hem_line(self, y: float) -> Points:
        """From the right end of a hem to its middle, hanging as the cut lets it."""
        wide = self.width(y)
        curve = 0.05 + 0.05 * self.m.curve + 0.10 * max(0.0, self.spread)
        across = np.linspace(1, 0, 25)
        ys = y + curve * (1 - across**2) - 0.08 * max(0.0, self.spread)
        if self.spread > 0.12:  # what is wide falls in waves
            phase = 3 * self.m.curve
            ys = ys + 0.05 * self.spread / 0.3 * np.cos(across * 14 + phase)
        return np.stack([across * wide, ys], axis=1)

    def _side(self, start: float, end: float) -> Points:
        ys = np.linspace(start, end, max(3, round((end - start) * 5)))
        return spline([(self.width(y), float(y)) for y in ys], 3)

    def _waves(self, top: float, bottom: float) -> None:
        """Long folds of a skirt, fanning out."""
        count = round(5 + 22 * max(0.0, self.spread))
        shift = self.random.uniform(-0.5, 0.5)
        for number in range(count):
            at = ((number + 0.5 + shift * 0.6) / count) * 2 - 1
            reach = self.random.uniform(0.0, 0.35)
            path = [
                (self.width(y) * at * 0.97, y) for y in np.linspace(top + reach * (bottom - top), bottom, 5)
            ]
            self.fold(path, self.random.uniform(0.04, 0.09), self.random.uniform(16, 46))

    def _hem_trim(self, upper: bool = True) -> None:
        line = self._hem_line(self.hem - 0.09 - 0.02 * self.m.band)
        full = np.concatenate([line, mirrored(line)[::-1]])
        first = self.garment.colours[0]
        if self.has("trim", "ruffled hem", "lace hem"):
            deep = 0.26 + 0.08 * self.m.band
            across = np.linspace(1, -1, 81)
            wide = self.width(self.hem)
            base = np.interp(np.abs(across), (line[::-1, 0] / line[0, 0]), line[::-1, 1]) + 0.05
            upper_edge = np.stack([across * wide * 0.99, base], axis=1)
            if self.has("trim", "ruffled hem"):
                lower = upper_edge * (1.07, 1) + np.stack(
                    [0 * across, deep + 0.05 * np.cos(across * 46)], axis=1
                )
                self.panel(np.concatenate([upper_edge, lower[::-1]]), edge=self.deep)
                for at in range(2, 79, 5):
                    self.fold([tuple(upper_edge[at]), tuple(lower[at])], 0.035, 38)
                self.line(upper_edge, 0.02)
            else:
                scallops = np.abs(np.sin(across * 20)) * 0.08
                lower = upper_edge + np.stack([0 * across, 0.6 * deep + scallops], axis=1)
                light = toned(first, 0.8) if sum(first) > 560 else toned(first, 1.25)
                self.panel(np.concatenate([upper_edge, lower[::-1]]), light, edge=self.deep)
                for at in range(1, 80, 2):
                    hole = (upper_edge[at] + lower[at]) / 2
                    self.line(
                        [tuple(hole - (0.015, 0)), tuple(hole + np.array((0.015, 0)))], 0.035, self.deep
                    )
                self.line(upper_edge, 0.02)
            self.site("trim", upper_edge[8:-8:10] + np.array((0, 0.08)))
        elif self.contrast:
            self._band(full, 0.13 + 0.04 * self.m.band)
            self.site("trim", full[4::12])
        elif self.has("fabric", "knit") and upper:
            self._ribbed(full, 0.17 + 0.05 * self.m.band)
        else:
            self.line(full, 0.014, stitched=True)

    def _band(self, line: Points, wide: float, where: int = 0) -> None:
        """A strip of the edging cloth along a line, hanging down from it."""
        strip = np.concatenate([line - (0, wide * 0.5), (line + np.array((0, wide * 0.9)))[::-1]])
        self.panel(strip, self.edging, where=where, within=True)
        self.line(line - (0, wide * 0.5), 0.014, self.deep, where=where)

    def _ribbed(self, line: Points, wide: float) -> None:
        self._band(line, wide)
        at = np.concatenate([[0], np.cumsum(np.hypot(*np.diff(line, axis=0).T))])
        for s in np.arange(0.05, at[-1], 0.075):
            x, y = np.interp(s, at, line[:, 0]), np.interp(s, at, line[:, 1])
            self.line([(x, y - wide * 0.45), (x, y + wide * 0.55)], 0.014)

    def _button(self, x: float, y: float) -> None:
        size = 0.05 + 0.018 * self.m.button_size
        pale = self.garment.motif % 3
        colour = ((232, 226, 212), (60, 54, 50), (186, 156, 96))[pale]
        if pale == 1 and sum(self.garment.colours[0]) < 260:
            colour = (198, 190, 180)
        around = np.linspace(0, 2 * np.pi, 14, endpoint=False)
        ring = np.stack([np.cos(around), np.sin(around)], axis=1)
        self.panel(ring * size * 1.2 + np.array((x + 0.008, y + 0.014)), self.deep)
        self.panel(ring * size + np.array((x, y)), colour)
        self.panel(ring * size * 0.28 + np.array((x, y)), toned(colour, 0.55))

    def _pocket(self, x: float, y: float, half: float, tall: float, flap: bool = False) -> None:
        cloth = self.cloth
        pocket = np.array(
            [
                (x - half, y),
                (x + half, y),
                (x + half, y + tall * 0.8),
                (x, y + tall),
                (x - half, y + tall * 0.8),
            ]
        )
        self.panel(pocket + np.array((0.012, 0.02)), self.deep, within=True)
        self.panel(pocket, cloth, 0.08, self.deep, within=True)
        self.line((pocket - (x, y)) * (0.88, 0.93) + np.array((x, y + 0.01)), 0.012, stitched=True)
        if flap:
            top = np.array(
                [
                    (x - half - 0.02, y - 0.03),
                    (x + half + 0.02, y - 0.03),
                    (x + half + 0.02, y + 0.13),
                    (x, y + 0.2),
                    (x - half - 0.02, y + 0.13),
                ]
            )
            self.panel(top, cloth, 0, self.deep, within=True)
            self._button(x, y + 0.12)
        else:
            self.line([(x - half, y + 0.07), (x + half, y + 0.07)], 0.014, stitched=True)
        self.site(
            "pockets",
            [(x, y + tall * 0.5), (x - half * 0.6, y + tall * 0.3), (x + half * 0.6, y + tall * 0.3)],
        )

    def _tiers(self, top: float) -> None:
        count = 2 + round(0.8 * (1 + self.m.curve) / 2)
        for number in range(1, count + 1):
            y = top + (self.hem - top) * number / (count + 1)
            wide = self.width(y)
            seam = spline([(-wide, y), (-wide / 2, y + 0.05), (0, y + 0.06), (wide / 2, y + 0.05), (wide, y)])
            self.line(seam, 0.028, self.deep)
            for x in np.linspace(-0.92, 0.92, 15):
                self.fold([(wide * x, y + 0.05), (wide * x * 1.04, y + 0.32)], 0.03, 34)
