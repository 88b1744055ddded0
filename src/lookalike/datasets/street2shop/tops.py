"""The cut of what hangs from the shoulders: tops, jackets, dresses."""

from __future__ import annotations

import numpy as np

from lookalike.datasets.street2shop.figure import (
    Limb,
    Points,
    both_halves,
    mirrored,
    spline,
)
from lookalike.datasets.street2shop.motifs import motif
from lookalike.datasets.street2shop.necks import NeckTailor
from lookalike.datasets.street2shop.tailor import WAIST
from lookalike.datasets.street2shop.wardrobe import (
    DRESSES,
    toned,
)

_SLEEVE_LENGTHS = {
    "cap sleeves": 0.42,
    "short sleeves": 0.80,
    "puffed sleeves": 0.72,
    "flared short sleeves": 0.80,
    "elbow-length sleeves": 1.22,
    "three-quarter sleeves": 1.85,
}


class UpperTailor(NeckTailor):
    """Cuts tops, jackets and dresses."""

    def cut(self) -> None:
        """All pieces, in the order of drawing."""
        sleeved = "sleeve" in self.garment.attributes
        if self.pose.flat:
            self._inside()
        if self.has("neckline", "hood"):
            self._hood()
        for side in (-1, 1):
            if sleeved and not self.pose.in_front(side):
                self._sleeve(side, 0)
        self._torso()
        self._neckline()
        self._front()
        for side in (-1, 1):
            if sleeved and self.pose.in_front(side):
                self._sleeve(side, side)

    def _shoulder(self) -> tuple[Points, float]:
        """The right edge from the shoulder's end to the armpit, and the armpit's height."""
        armpit = 2.12 + 0.5 * self.ease
        half = self.neck[0]
        if "sleeve" in self.garment.attributes:
            out = (0.93 + 0.32 * self.ease + 0.04 * self.m.shoulder) * (1.03 if self.pose.flat else 1.0)
            return spline(
                [(out, 1.27 + (out - 0.3) * 0.48), (out - 0.05, 1.85), (self.width(2.1), armpit)]
            ), armpit
        out = max(half + 0.14 + 0.1 * (1 + self.m.shoulder), 0.60 + 0.16 * self.m.shoulder)
        edge = [(out, 1.27 + (out - 0.3) * 0.43), (out - 0.05, 1.72), (self.width(2.1) - 0.12, armpit - 0.14),
                (self.width(2.1), armpit)]  # fmt: skip
        return spline(edge), armpit

    def _torso(self) -> None:
        side_top = 2.12 + 0.5 * self.ease
        if self._straps():
            self._sling_straps()
            top = self._sling_edge()
        else:
            shoulder, side_top = self._shoulder()
            top = np.concatenate([self._front_edge(), shoulder])
        body = np.concatenate([top, self._side(side_top + 0.02, self.hem)[:-1], self._hem_line(self.hem)])
        outline = both_halves(body)
        if self.has("closure", "open front") and not self._straps():
            self._open_front(body)
        else:
            self.panel(outline, round_=0.34, edge=self.deep)
        self.site("length", self._hem_line(self.hem - 0.05)[::6])
        self.site("length", mirrored(self._hem_line(self.hem - 0.05))[::6])
        self.site("fit", [(self.width(y) * x, y) for y in (2.3, WAIST) for x in (-0.9, 0, 0.9)])
        self._fall(side_top)
        self._hem_trim()
        if self.has("trim", "side stripes"):
            wide = 0.10 + 0.04 * self.m.band
            edge = self._side(side_top + 0.1, self.hem)
            for side in (1, -1):
                inner = edge - (wide, 0)
                self.panel(np.concatenate([edge, inner[::-1]]) * (side, 1), self.second, within=True)
            self.site(
                "trim",
                [(edge[len(edge) // 2, 0] * side - side * 0.05, edge[len(edge) // 2, 1]) for side in (1, -1)],
            )
        if self.garment.category in DRESSES:
            self._dress()

    def _open_front(self, body: Points) -> None:
        """Two fronts that hang apart."""
        gap = 0.20 + 0.10 * (1 + self.m.curve)
        for side in (1, -1):
            keep = body[body[:, 0] > gap * 0.7]
            inner = spline([(gap + 0.06, self.hem + 0.02), (gap, 3.0), (gap * 0.9, 2.2)])
            outline = np.concatenate([keep, inner]) * (side, 1)
            self.panel(outline, round_=0.30, edge=self.deep)
            self.line(inner * (side, 1) + np.array((0.05 * side, 0)), stitched=True)
        self.site("closure", [(gap * side, y) for side in (1, -1) for y in (2.6, 3.2)])

    def _fall(self, armpit: float) -> None:
        """Folds of a body or a dress."""
        random = self.random
        for side in (1, -1):
            for _ in range(2 if self.pose.flat else 4):
                start = np.array([self.width(2.2) * side * 0.97, armpit + random.uniform(-0.05, 0.9)])
                end = start + np.array((-side * random.uniform(0.3, 0.75), random.uniform(0.15, 0.6)))
                middle = (start + end) / 2 + np.array((0, random.uniform(-0.1, 0.12)))
                self.fold(
                    spline(np.array([start, middle, end])), random.uniform(0.03, 0.07), random.uniform(14, 42)
                )
        if self.spread > 0.08 or self.hem > 4.7:
            self._waves(WAIST + 0.15, self.hem)

    def _sleeve(self, side: int, where: int) -> None:
        limb = self.pose.arm(side)
        kind = self.garment.attributes["sleeve"]
        long = _SLEEVE_LENGTHS.get(kind, 2.42) + (0.12 if "cap" not in kind else 0.05) * self.m.sleeve_length
        wide = 0.23 + 0.36 * self.ease + 0.04 * self.m.sleeve_width
        end = {"long sleeves": 0.19 + 0.25 * self.ease, "balloon sleeves": 0.36, "bell sleeves": 0.42,
               "three-quarter sleeves": 0.22 + 0.3 * self.ease, "puffed sleeves": 0.40,
               "flared short sleeves": 0.52}.get(kind, wide * 0.92)  # fmt: skip
        end += 0.03 * self.m.cuff
        along = np.linspace(0, 1, 9)
        half = wide + (end - wide) * along
        if kind == "bell sleeves":
            half = np.interp(along, [0, 0.55, 1], [wide, wide * 0.85, end])
        elif kind in ("balloon sleeves", "puffed sleeves"):
            half = wide + 0.14 * np.sin(along * np.pi * 0.95) + (0.17 * along if "balloon" in kind else 0)
        shoulder, armpit = self._shoulder()
        tops = limb.back(shoulder[:1] * (side, 1))
        start = max(0.18, float(tops[0, 1]) + 0.14)
        ys = start + (long - start) * along
        head = np.interp(ys, [0.0, 0.45], [float(tops[0, 0]), 0.0]).clip(
            -0.1, 0.2
        )  # it leaves the shoulder smoothly
        begun = np.interp(ys, [0.0, 0.5], [0.25 if kind == "puffed sleeves" else 0.0, 1.0])
        outer = limb.at(np.stack([head + (half + 0.02) * begun, ys], axis=1))
        inner = limb.at(np.stack([-half * 0.95, ys], axis=1))
        inside = np.array(
            [(shoulder[0, 0] * 0.7 * side, 1.75), (shoulder[0, 0] * side, shoulder[0, 1] + 0.01)]
        )
        outer = spline(np.concatenate([inside[1:], outer]), 3)
        if where:  # all of it is seen
            under = inner[ys > 0.4][::-1]
        else:  # the torso will cover where it begins
            begin = (
                shoulder[-1, 0] * (1.0 if self.pose.flat else 0.8) * side,
                armpit - (0 if self.pose.flat else 0.1),
            )
            under = np.concatenate([(inner if long < 0.7 else inner[ys > 0.62])[::-1], [begin]])
        outline = np.concatenate([inside[:1], outer, under])
        self.panel(outline, round_=0.42, edge=self.deep, where=where, limb=limb)
        self._cuffs(limb, kind, long, float(half[-1]), where)
        tip = limb.at(
            np.array([(0.0, long - 0.08), (half[-1] * 0.6, long - 0.1), (-half[-1] * 0.6, long - 0.1)])
        )
        self.site("sleeve", tip)
        if long > 1.2:
            for _ in range(4):
                y = 1.35 + self.random.uniform(-0.35, 0.35)
                path = limb.at(
                    np.array([(-0.26, y - 0.1), (0.0, y + 0.05), (0.22, y + self.random.uniform(-0.1, 0.2))])
                )
                self.fold(spline(path), self.random.uniform(0.03, 0.06), self.random.uniform(18, 46))
        for _ in range(2):
            y = self.random.uniform(0.3, max(0.45, long - 0.2))
            path = limb.at(np.array([(0.2, y - 0.2), (0.0, y), (-0.2, y + 0.12)]))
            self.fold(spline(path), 0.05, self.random.uniform(10, 34))

    def _cuffs(self, limb: Limb, kind: str, long: float, half: float, where: int) -> None:
        gathered = kind in ("balloon sleeves", "puffed sleeves")
        deep = 0.13 + 0.05 * self.m.cuff + (0.04 if self.has("fabric", "knit") else 0.0)
        if gathered:
            narrow = 0.19 if "balloon" in kind else 0.26
            cuff = np.array([(narrow + 0.05, long - 0.03), (narrow, long + deep), (-narrow, long + deep),
                             (-narrow - 0.05, long - 0.03)])  # fmt: skip
            self.panel(
                limb.at(cuff), self.edging if self.contrast else self.plain, 0.2, self.deep, where, limb
            )
            for x in np.linspace(-half * 0.8, half * 0.8, 6):
                path = limb.at(np.array([(x, long - 0.35), (x * 0.7, long)]))
                self.fold(path, 0.03, 40)
        elif self.contrast or (self.has("fabric", "knit") and "long" in kind):
            cuff = np.array(
                [
                    (half + 0.04, long - deep),
                    (half + 0.04, long + 0.02),
                    (-half - 0.02, long + 0.02),
                    (-half - 0.02, long - deep),
                ]
            )
            self.panel(limb.at(cuff), self.edging, 0.15, self.deep, where, limb, within=True)
            for x in np.linspace(-half * 0.85, half * 0.85, 7) if not self.contrast else ():
                self.line(limb.at(np.array([(x, long - deep), (x, long)])), 0.014, where=where)
        else:
            self.line(
                limb.at(np.array([(half, long - 0.09), (0.0, long - 0.07), (-half * 0.95, long - 0.09)])),
                0.014,
                stitched=True,
                where=where,
            )
        if self.contrast:
            self.site("trim", limb.at(np.array([(0.0, long - 0.05)])))
        if self.has("trim", "side stripes") and long > 0.5:
            ys = np.linspace(0.15, long - 0.05, 12)
            centre, wide = half * 0.45, 0.05 + 0.02 * self.m.band
            stripe = np.concatenate([np.stack([np.full(12, centre + wide), ys], 1),
                                     np.stack([np.full(12, centre - wide), ys[::-1]], 1)])  # fmt: skip
            self.panel(limb.at(stripe), self.second, 0, None, where, limb, within=True)

    def _front(self) -> None:
        """Closure, pockets, print: what a front carries."""
        if not self._straps():
            shoulder, _ = self._shoulder()
            if "sleeve" in self.garment.attributes:
                for side in (1, -1):
                    self.line(shoulder * (side, 1) - (0.02 * side, 0), 0.016, self.deep)
            elif not self.contrast:
                for side in (1, -1):
                    self.line((shoulder - (0.05, 0)) * (side, 1), 0.012, stitched=True)
            else:
                for side in (1, -1):
                    self.line((shoulder - (0.02, 0)) * (side, 1), 0.09, self.garment.colours[1])
        low = self.neck[2] if not self._straps() else 1.95
        if self.has("neckline", "V-neck") and self._straps():
            low = 2.25
        self._print()
        self._closure(low)
        self._upper_pockets(low)

    def _print(self) -> None:
        if "print" not in self.garment.attributes:
            return
        m = self.m
        size = 0.40 * 2 ** (0.45 * m.print_size)
        centre = np.array(
            [
                0.20 * m.print_across * (0.4 if abs(m.print_across) < 0.4 else 1),
                self.neck[2] + 0.55 + 0.16 * m.print_down,
            ]
        )
        shapes = motif(self.garment.attributes["print"], self.garment.motif)
        turn = 0.16 * m.print_turn
        cos, sin = np.cos(turn), np.sin(turn)
        first, second = self.garment.colours
        third = (230, 226, 216) if sum(second) < 430 else toned(second, 0.55)
        colours = (second, third, first)
        for shape, which in shapes:
            placed = shape @ np.array([[cos, sin], [-sin, cos]]) * size + centre
            self.panel(placed, colours[which], within=True)
        around = np.array([(0, 0), (0.4, 0), (-0.4, 0), (0, 0.4), (0, -0.4)]) * size + centre
        self.site("print", around)

    def _closure(self, low: float) -> None:
        closure = self.garment.attributes.get("closure", "")
        end = self.hem + 0.03
        if self.garment.category in DRESSES and closure == "buttons":
            end = min(end, WAIST + (3.0 if self.m.button_number > 0.2 else 0.0))
        match closure:
            case "buttons" | "zip" | "double-breasted buttons":
                wide = 0.09
                self.line([(wide, low + 0.02), (wide, end - 0.08)], 0.014, stitched=True)
                self.line([(-wide, low + 0.06), (-wide, end - 0.06)], 0.018, self.deep)
                if closure == "zip":
                    self.line([(0, low - 0.05), (0, end - 0.03)], 0.075, (96, 96, 100))
                    self.line([(0, low - 0.05), (0, end - 0.03)], 0.035, (196, 196, 200), stitched=True)
                    pull = low + 0.05 + 0.3 * (1 + self.m.button_number)
                    self.line([(0, pull), (0, pull + 0.14)], 0.06, (222, 222, 224))
                else:
                    rows = [-0.3, 0.3] if closure.startswith("double") else [0.0]
                    step = 0.52 - 0.14 * self.m.button_number
                    ys = np.arange(low + 0.16, end - 0.15, step)
                    for y in ys[:4] if closure.startswith("double") else ys:
                        for x in rows:
                            self._button(x, float(y))
                self.site("closure", [(0.0, y) for y in np.linspace(low + 0.2, min(end, low + 1.6), 4)])
            case "buttoned placket":
                deep = 0.62 + 0.2 * self.m.length
                flap = np.array([(-0.09, low), (0.09, low), (0.09, low + deep), (-0.09, low + deep)])
                self.panel(flap, self.edging if self.contrast else self.cloth, 0, self.deep, within=True)
                for y in np.linspace(low + 0.12, low + deep - 0.1, 2 + round(1 + self.m.button_number)):
                    self._button(0, float(y))
                self.site("closure", [(0.0, low + deep * share) for share in (0.2, 0.6, 0.9)])
            case "belt" | "tie belt":
                self._belt(closure == "tie belt")

    def _belt(self, tied: bool) -> None:
        y, deep = WAIST + 0.02, 0.15 + 0.05 * self.m.band
        wide = self.width(y) + 0.01
        belt = np.array(
            [
                (-wide, y - deep / 2),
                (wide, y - deep / 2),
                (wide + 0.01, y + deep / 2),
                (-wide - 0.01, y + deep / 2),
            ]
        )
        second = (
            self.garment.colours[1]
            if "second colour" in self.garment.attributes
            else toned(self.garment.colours[0], 0.75)
        )
        colour = second if tied else ((92, 62, 44), (48, 44, 44), (160, 110, 70))[self.garment.motif % 3]
        self.panel(belt, colour, 0.12, self.deep)
        if tied:
            x = 0.35 * np.sign(self.m.curve)
            for tip in ((-0.22, 0.75), (0.12, 0.85), (-0.26, 0.10), (0.26, 0.08)):
                end = (x + tip[0], y + tip[1])
                self.line(
                    spline([(x, y), ((x + end[0]) / 2 + 0.04, (y + end[1]) / 2 - 0.05), end]),
                    0.09,
                    self.deep,
                    solid=True,
                )
                self.line(
                    spline([(x, y), ((x + end[0]) / 2 + 0.04, (y + end[1]) / 2 - 0.05), end]), 0.065, colour
                )
        else:
            buckle = np.array(
                [
                    (-0.11, y - deep * 0.65),
                    (0.11, y - deep * 0.65),
                    (0.11, y + deep * 0.65),
                    (-0.11, y + deep * 0.65),
                ]
            )
            self.panel(buckle, (206, 186, 130), edge=(120, 104, 70))
            self.panel(buckle * (0.55, 1), colour)
        self.site("closure", [(wide * x, y) for x in (-0.6, 0, 0.6)])

    def _upper_pockets(self, low: float) -> None:
        kind = self.garment.attributes.get("pockets", "")
        size = 1 + 0.16 * self.m.pocket_size
        chest = max(2.15, low + 0.1) + 0.10 * self.m.pocket_place
        lower = (3.25 if self.hem > 3.5 else 2.45) + 0.12 * self.m.pocket_place
        if self.garment.category in DRESSES:
            lower = 3.75 + 0.12 * self.m.pocket_place
        match kind:
            case "chest pocket":
                self._pocket(0.40, chest, 0.21 * size, 0.42 * size)
            case "two chest pockets":
                for side in (1, -1):
                    self._pocket(0.42 * side, chest, 0.21 * size, 0.42 * size, flap=True)
            case "patch pockets" | "flap pockets":
                for side in (1, -1):
                    self._pocket(0.48 * side, lower, 0.25 * size, 0.46 * size, flap=kind == "flap pockets")
            case "slanted pockets":
                for side in (1, -1):
                    slot = np.array([(0.38 * side, lower), (0.62 * side, lower + 0.42 * size)])
                    self.line(slot, 0.07, self.deep)
                    self.line(slot + np.array((0.03 * side, -0.02)), 0.03)
                    self.site("pockets", slot)
            case "kangaroo pocket":
                y = min(3.15, self.hem - 0.75)
                pocket = np.array(
                    [
                        (-0.32, y),
                        (0.32, y),
                        (0.58, y + 0.34),
                        (0.58, y + 0.6),
                        (-0.58, y + 0.6),
                        (-0.58, y + 0.34),
                    ]
                )
                self.panel(pocket * (size, 1), self.cloth, 0.1, self.deep, within=True)
                self.line(pocket[[1, 2]] * (size, 1) - (0.04, 0), 0.014, stitched=True)
                self.site("pockets", pocket[[0, 1]] + np.array((0, 0.2)))

    def _dress(self) -> None:
        wide = self.width(WAIST)
        fit = self.garment.attributes["fit"]
        if fit in ("A-line", "flared", "tiered", "fitted") and not self.has("closure", "belt", "tie belt"):
            y = WAIST + 0.08 * self.m.waist
            self.line(spline([(-wide, y), (0, y + 0.04), (wide, y)]), 0.022, self.deep)
            for x in np.linspace(-0.85, 0.85, 9) if fit != "fitted" else ():
                self.fold([(wide * x, y), (wide * x * 1.1, y + 0.35)], 0.035, 26)
        if fit == "tiered":
            self._tiers(WAIST)
        self.site("fit", [(self.width(self.hem - 0.3) * x, self.hem - 0.3) for x in (-0.85, 0, 0.85)])
