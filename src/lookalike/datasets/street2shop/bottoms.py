"""The cut of what hangs from the waist: shorts, trousers, skirts."""

from __future__ import annotations

import numpy as np

from lookalike.datasets.street2shop.figure import (
    ANKLE,
    HIP,
    Limb,
    Points,
    both_halves,
    mirrored,
    spline,
)
from lookalike.datasets.street2shop.tailor import WAIST, Tailor
from lookalike.datasets.street2shop.wardrobe import toned

_LEGS = {"skinny": (0.36, 0.23, 0.16), "straight": (0.41, 0.31, 0.27), "tapered": (0.45, 0.30, 0.18),
         "wide-leg": (0.46, 0.46, 0.46), "flared": (0.38, 0.25, 0.42), "slim": (0.38, 0.33, 0.3),
         "regular": (0.43, 0.41, 0.4), "wide": (0.48, 0.54, 0.56)}  # fmt: skip


class LowerTailor(Tailor):
    """Cuts shorts, trousers and skirts."""

    def cut(self) -> None:
        """All pieces, in the order of drawing."""
        if self.garment.category == "skirt":
            self._skirt()
        else:
            self._legs()
        self._waistband()

    def _skirt(self) -> None:
        top = WAIST
        pleated = self.has("fit", "pleated")
        side = self._side(top, self.hem)
        body = np.concatenate([[(0, top)], side[:-1], self._hem_line(self.hem)])
        self.panel(both_halves(body), round_=0.34, edge=self.deep)
        if pleated:
            count = round(11 + 4 * self.m.curve)
            for number in range(count):
                at = (number + 0.5) / count * 2 - 1
                path = np.array(
                    [(self.width(y) * at, y) for y in np.linspace(top + 0.12, self.hem - 0.02, 4)]
                )
                self.line(path, 0.02, self.deep)
                self.fold(path + np.array((0.06, 0)), 0.07, 34)
        else:
            self._waves(top + 0.15, self.hem)
        if self.has("fit", "tiered"):
            self._tiers(top)
        self._hem_trim(upper=False)
        self.site(
            "length",
            np.concatenate(
                [self._hem_line(self.hem - 0.08)[::6], mirrored(self._hem_line(self.hem - 0.08))[::6]]
            ),
        )
        middle = (top + self.hem) / 2
        self.site(
            "fit", [(self.width(y) * x, y) for y in (middle, self.hem - 0.25) for x in (-0.85, 0, 0.85)]
        )
        if self.has("closure", "buttons"):
            step = 0.45 - 0.1 * self.m.button_number
            self.line([(0.09, top + 0.1), (0.09, self.hem)], 0.016, self.deep)
            for y in np.arange(top + 0.32, self.hem - 0.15, step):
                self._button(0, float(y))
            self.site("closure", [(0, y) for y in np.linspace(top + 0.3, self.hem - 0.3, 4)])
        self._hip_pockets()

    def _legs(self) -> None:
        fit = self.garment.attributes["fit"]
        thigh, knee, ankle = (size * self.full + 0.025 * self.m.width for size in _LEGS[fit])
        if self.garment.category == "shorts":
            knee, ankle = (size * self.full + 0.03 * self.m.hem for size in _LEGS[fit][1:])
        ankle += 0.03 * self.m.hem
        long = self.hem - HIP[1]
        hips = (0.80 + 0.03 * self.m.waist) * self.full
        knee_at = 1.75 if self.garment.category == "trousers" else max(long, 0.8)
        for side in (1, -1):
            limb = self.pose.leg(side)
            ys = np.linspace(0.35, long, 10)
            half = np.interp(ys, [0.35, knee_at, ANKLE - HIP[1]], [thigh, knee, ankle])
            outer = limb.at(np.stack([half, ys], axis=1))
            inner = limb.at(np.stack([-np.minimum(half, 0.36 + 0.2 * half), ys], axis=1))
            rise = 4.36 + 0.06 * self.m.curve
            waist = self.width_at_waist()
            hip = np.array([(waist, WAIST), (waist + (hips - waist) * 0.7, 3.45), (hips, 3.95)]) * (side, 1)
            inner = inner[np.abs(inner[:, 1]) > rise - 0.05] if long > 0.7 else inner[-2:]
            crotch = np.array([(0.0, rise), (0.0, WAIST)])
            outline = np.concatenate([spline(np.concatenate([hip, outer]), 3), inner[::-1], crotch])
            self.panel(outline, round_=0.36, edge=self.deep, limb=limb)
            self._leg_details(limb, side, long, half, ys)
            for _ in range(3):
                y = (1.75 if long > 2 else 0.4) + self.random.uniform(-0.35, 0.4)
                path = limb.at(
                    np.array([(-0.3, y - 0.08), (0.0, y), (0.3, y + self.random.uniform(-0.18, 0.14))])
                )
                self.fold(spline(path), self.random.uniform(0.03, 0.06), self.random.uniform(14, 42))
            for _ in range(3):
                end = (side * self.random.uniform(0.25, 0.6), rise + self.random.uniform(-0.3, 0.35))
                self.fold(
                    spline([(0.03 * side, rise - 0.02), (side * 0.2, (rise + end[1]) / 2 - 0.05), end]),
                    0.045,
                    self.random.uniform(18, 44),
                )
        self.line([(0, WAIST + 0.2), (0.01, 3.7), (0, 4.34)], 0.02, self.deep)
        if self.has("closure", "button and fly"):
            self.line(spline([(0.16, WAIST + 0.2), (0.16, 3.6), (0.01, 3.95)]), 0.016, stitched=True)
        self._hip_pockets()

    def width_at_waist(self) -> float:
        """Half the width of trousers or shorts at their upper end."""
        return (0.66 + 0.03 * self.m.waist) * self.full

    def _leg_details(self, limb: Limb, side: int, long: float, half: Points, ys: Points) -> None:
        end = float(half[-1])
        inner = float(min(end, 0.36 + 0.2 * end))
        if self.has("trim", "rolled hem"):
            deep = 0.22 + 0.06 * self.m.cuff
            cuff = np.array(
                [
                    (end + 0.03, long - deep),
                    (end + 0.03, long + 0.02),
                    (-inner - 0.03, long + 0.02),
                    (-inner - 0.03, long - deep),
                ]
            )
            self.panel(
                limb.at(cuff),
                toned(self.garment.colours[0], 0.86) if self.has("pattern", "plain") else self.cloth,
                0.15,
                self.deep,
                limb=limb,
            )
            self.site("trim", limb.at(np.array([(0.0, long - 0.1)])))
        else:
            self.line(limb.at(np.array([(end, long - 0.1), (-inner, long - 0.1)])), 0.016, stitched=True)
        if self.has("trim", "side stripes"):
            wide = 0.09 + 0.03 * self.m.band
            outer = np.stack([half - 0.01, ys], axis=1)
            strip = np.concatenate([outer, (outer - (wide, 0))[::-1]])
            self.panel(limb.at(strip), self.second, 0, None, limb=limb, within=True)
            self.site("trim", limb.at(outer[2::3] - (wide / 2, 0)))
        elif self.has("trim", "contrast stitching") or self.has("fabric", "denim"):
            self.line(limb.at(np.stack([half - 0.05, ys], axis=1)), 0.014, stitched=True)
            if self.has("trim", "contrast stitching"):
                self.site("trim", limb.at(np.stack([half - 0.05, ys], axis=1)[2::3]))
        if self.has("fit", "straight", "tapered") and self.has("fabric", "linen", "satin", "jersey"):
            path = limb.at(np.stack([np.full(5, 0.04), np.linspace(0.5, long - 0.05, 5)], axis=1))
            self.fold(path, 0.03, 24)
        self.site(
            "length",
            limb.at(np.array([(0.0, long - 0.08), (end * 0.5, long - 0.08), (-inner * 0.5, long - 0.08)])),
        )
        self.site("fit", limb.at(np.array([(0.0, long * 0.5), (0.1, long - 0.15)])))

    def _hip_pockets(self) -> None:
        kind = self.garment.attributes.get("pockets", "")
        waist = self.width(WAIST) if self.garment.category == "skirt" else self.width_at_waist()
        low = WAIST + 0.18
        size = 1 + 0.2 * self.m.pocket_size
        for side in (1, -1) if kind else ():
            match kind:
                case "slanted pockets":
                    slot = spline(
                        [
                            (waist * 0.58, low),
                            (waist * 0.74, low + 0.26 * size),
                            (waist + 0.06, low + 0.46 * size),
                        ]
                    )
                    self.line(slot * (side, 1), 0.024, self.deep)
                    self.line((slot - (0.04, -0.03)) * (side, 1), 0.014, stitched=True)
                    self.site("pockets", slot[3:-3:4] * (side, 1))
                case "patch pockets":
                    self._pocket(0.40 * side, 3.55 + 0.1 * self.m.pocket_place, 0.22 * size, 0.46 * size)
                case "flap pockets":
                    y = (4.85 if self.hem > 5.6 else 3.7) + 0.1 * self.m.pocket_place
                    self._pocket(0.58 * side, y, 0.22 * size, 0.46 * size, flap=True)

    def _waistband(self) -> None:
        deep = 0.17 + 0.05 * self.m.band
        waist = (self.width(WAIST) if self.garment.category == "skirt" else self.width_at_waist()) + 0.01
        top = WAIST - 0.03
        outline = np.concatenate(
            [spline([(-waist, top), (0, top + 0.03), (waist, top)]),
             spline([(waist + 0.02, top + deep), (0, top + deep + 0.03), (-waist - 0.02, top + deep)])]
        )  # fmt: skip
        self.panel(
            outline,
            self.edging
            if self.contrast
            else self.plain
            if self.has("closure", "elastic waistband")
            else self.cloth,
            0.15,
            self.deep,
        )
        self.marks = self.view.pixels(np.array([(-waist, top + 0.03), (0, top + 0.06), (waist, top + 0.03)]))
        match self.garment.attributes.get("closure"):
            case "button and fly" | "buttons":
                self._button(0.0, top + deep / 2 + 0.02)
                for x in (-0.7, -0.35, 0.35, 0.7):
                    loop = [(waist * x, top - 0.01), (waist * x, top + deep + 0.03)]
                    self.line(loop, 0.07, self.deep)
                    self.line(loop, 0.045, toned(self.garment.colours[0], 0.92))
                self.site("closure", [(0.0, top + deep / 2), (0.0, top + deep + 0.25)])
            case "drawstring" | "elastic waistband":
                for x in np.linspace(-waist * 0.92, waist * 0.92, 17):
                    self.line([(x, top + 0.03), (x, top + deep)], 0.016)
                if self.has("closure", "drawstring"):
                    cord = (
                        self.garment.colours[1]
                        if "second colour" in self.garment.attributes
                        else (232, 228, 220)
                    )
                    for side in (1, -1):
                        path = spline([(0.03 * side, top + deep / 2), (0.12 * side, top + deep + 0.2),
                                       (0.07 * side, top + deep + 0.55 + 0.1 * self.m.collar)])  # fmt: skip
                        self.line(path, 0.06, self.deep)
                        self.line(path, 0.04, cord)
                self.site("closure", [(waist * x, top + deep / 2) for x in (-0.5, 0, 0.5)])
