"""Necklines, collars, hoods and straps."""

from __future__ import annotations

import numpy as np

from lookalike.datasets.street2shop.figure import (
    Points,
    both_halves,
    mirrored,
    spline,
)
from lookalike.datasets.street2shop.tailor import Tailor
from lookalike.datasets.street2shop.wardrobe import toned

_NECK_TOP = 1.27  # y where a neckline meets the shoulder, 0.3 from the middle
_NECK_WIDTHS = {
    "scoop neck": 0.46,
    "square neck": 0.44,
    "boat neck": 0.60,
    "V-neck": 0.34,
    "shirt collar": 0.33,
    "polo collar": 0.33,
    "stand-up collar": 0.32,
    "roll neck": 0.30,
    "hood": 0.38,
    "lapels": 0.36,
}
_NECK_DEPTHS = {
    "scoop neck": 0.62,
    "square neck": 0.52,
    "boat neck": 0.12,
    "V-neck": 0.78,
    "shirt collar": 0.24,
    "polo collar": 0.24,
    "stand-up collar": 0.14,
    "roll neck": 0.10,
    "hood": 0.32,
    "lapels": 1.05,
}


class NeckTailor(Tailor):
    """Cuts what is around a neck."""

    @property
    def neck(self) -> tuple[float, float, float]:
        """Half its width, where it meets the shoulder, and how far down the front goes."""
        neckline = self.garment.attributes["neckline"]
        half = _NECK_WIDTHS.get(neckline, 0.37) + 0.05 * self.m.neck_width
        depth = _NECK_DEPTHS.get(neckline, 0.30) * (1 + 0.28 * self.m.neck_depth)
        top = _NECK_TOP + (half - 0.3) * 0.46
        return half, top, 1.25 + depth + (0.10 if self.has("neckline", "round neck") else 0.0)

    def _straps(self) -> bool:
        return self.garment.category in ("sling", "sling dress")

    def _front_edge(self) -> Points:
        """The front neckline from the middle to the right shoulder."""
        half, top, low = self.neck
        match self.garment.attributes["neckline"]:
            case "V-neck" | "lapels":
                return spline([(0, low), (half * 0.5, (top + low) / 2 + 0.04), (half, top)])
            case "square neck":
                return np.array([(0, low), (half * 0.92, low), (half, top)])
            case "boat neck":
                return spline([(0, low + 0.05), (half * 0.6, low), (half, top)])
        return spline(
            [
                (0, low),
                (half * 0.55, low - 0.10 * (low - top)),
                (half * 0.93, (top + low) / 2 - 0.04),
                (half, top),
            ]
        )

    def _sling_edge(self) -> Points:
        """The upper edge of a camisole from the middle to under the arm."""
        half, at = 0.42 + 0.06 * self.m.neck_width, 1.82 + 0.06 * self.m.neck_depth
        low = at + {"V-neck": 0.34, "sweetheart neckline": 0.14}.get(
            self.garment.attributes["neckline"], 0.04
        )
        armpit = (self.width(2.1), 2.12 + 0.5 * self.ease)
        if self.has("neckline", "sweetheart neckline"):
            return np.concatenate(
                [
                    spline(
                        [
                            (0, low + 0.05),
                            (0.12, low - 0.09),
                            (half * 0.75, at - 0.07),
                            (half + 0.06, at + 0.02),
                        ]
                    ),
                    spline([(half + 0.06, at + 0.02), (half + 0.2, at + 0.2), armpit]),
                ]
            )
        return np.concatenate(
            [spline([(0, low), (half * 0.5, (low + at) / 2 - 0.01), (half, at)]),
             spline([(half, at), (half + 0.17, at + 0.17), armpit])]
        )  # fmt: skip

    def _sling_edge_line(self) -> Points:
        """The edge at the front, from left to right."""
        right = self._sling_edge()
        cut = right[right[:, 1] < 2.3]
        return np.concatenate([mirrored(cut)[::-1], cut])

    def _sling_straps(self) -> None:
        half, at = 0.42 + 0.06 * self.m.neck_width, 1.82 + 0.06 * self.m.neck_depth
        thick = 0.035 + 0.03 * (1 + self.m.shoulder)
        for side in (1, -1):
            strap = spline([(half * side, at + 0.05), (0.43 * side, 1.55), (0.38 * side, 1.24)])
            cloth = self.garment.colours[1] if self.contrast else self.garment.colours[0]
            self.line(strap, thick + 0.02, self.deep, solid=True)
            self.line(strap, thick, toned(cloth, 0.9), solid=True)

    def _inside(self) -> None:
        """The back's inner side, seen through the neck of what lies flat, with its label."""
        if self._straps():
            return
        half, top, low = self.neck
        back = spline(
            [(-half, top), (-half * 0.5, top + 0.05), (0, top + 0.07), (half * 0.5, top + 0.05), (half, top)]
        )
        down = [(half * 0.98, low + 0.25), (-half * 0.98, low + 0.25)]
        if self.has("closure", "open front"):
            down = [(0.5, self.hem - 0.1), (-0.5, self.hem - 0.1)]
        self.panel(np.concatenate([back, down]), toned(self.garment.colours[0], 0.62), edge=self.deep)
        self.line(back + np.array((0, 0.05)), 0.03, toned(self.garment.colours[0], 0.5))
        label = np.array([(-0.09, top + 0.1), (0.09, top + 0.1), (0.09, top + 0.17), (-0.09, top + 0.17)])
        self.panel(label, (225, 222, 214))

    def _neckline(self) -> None:
        if self._straps():
            edge = self._sling_edge_line()
            self.line(edge, 0.05, self.garment.colours[1] if self.contrast else self.deep)
            self.site("neckline", edge[::3])
            self.marks = self.view.pixels(edge[[-1, len(edge) // 2, 0]])
            return
        half, top, low = self.neck
        right = self._front_edge()
        front = np.concatenate([mirrored(right)[::-1], right])
        self.site("neckline", front[:: max(1, len(front) // 6)] + np.array((0, 0.05)))
        self.marks = self.view.pixels(np.array([(-half, top), (0, low), (half, top)]))
        match self.garment.attributes["neckline"]:
            case "shirt collar" | "polo collar":
                self._collar(0.30 + 0.07 * self.m.collar)
            case "stand-up collar":
                self._stand(0.22 + 0.06 * self.m.collar)
            case "roll neck":
                self._stand(0.40 + 0.08 * self.m.collar)
            case "lapels":
                self._lapels()
            case "hood":
                self._band_along(front, 0.16)
                for side in (1, -1):
                    self.line(
                        [(0.13 * side, low + 0.06), (0.15 * side, low + 0.75 + 0.2 * self.m.collar)],
                        0.045,
                        toned(self.garment.colours[1], 0.95),
                    )
            case _:
                self._band_along(front, 0.10 + 0.04 * self.m.band)
        if self.contrast and not self.has("neckline", "lapels"):
            self.site("trim", front[:: max(1, len(front) // 5)])

    def _band_along(self, front: Points, wide: float) -> None:
        """A rib or binding along the neck's edge."""
        colour = self.garment.colours[1] if self.contrast else self.garment.colours[0]
        self.line(front, wide + 0.03, self.deep)
        self.line(front, wide, toned(colour, 0.92))
        if self.has("fabric", "knit", "jersey") and not self.contrast:
            self.line(front, 0.016, toned(colour, 0.78))

    def _collar(self, long: float) -> None:
        half, top, low = self.neck
        rise = 0.16
        if self.pose.flat:
            back = spline([(-half, top - rise), (0, top - rise - 0.05), (half, top - rise)])
            self.panel(
                np.concatenate([back, [(half, top + 0.08), (-half, top + 0.08)]]), self.edging, edge=self.deep
            )
            self.line([(-half * 0.9, top + 0.05), (half * 0.9, top + 0.05)], 0.03, self.deep)
        spread = 0.12 + 0.1 * self.m.neck_width
        for side in (1, -1):
            wing = np.array(
                [
                    (half * 0.92, top - rise),
                    (half + 0.10, top + 0.05),
                    (half * 0.75 + spread, low + long * 0.62),
                    (0.10 + spread * 0.5, low + long),
                    (0.0, low),
                    (half * 0.55, top + 0.10),
                ]
            )
            cloth = self.edging if self.contrast or self.has("neckline", "polo collar") else self.cloth
            self.panel(wing * (side, 1), cloth, edge=self.deep)
            self.line(wing[2:5] * (side, 1) * (0.96, 1) - (0, 0.04), 0.012, stitched=True)
        self.site("neckline", [(side * (half * 0.6), low + 0.05) for side in (1, -1)])

    def _stand(self, rise: float) -> None:
        half, top, low = self.neck
        wide = half + 0.03
        upper = spline([(-wide + 0.05, top - rise), (0, top - rise + 0.10), (wide - 0.05, top - rise)])
        lower = spline([(wide + 0.03, top + 0.05), (0, low + 0.07), (-wide - 0.03, top + 0.05)])
        if self.pose.flat:
            back = spline([(-wide + 0.05, top - rise), (0, top - rise - 0.05), (wide - 0.05, top - rise)])
            self.panel(
                np.concatenate([back, upper[::-1]]), toned(self.garment.colours[0], 0.6), edge=self.deep
            )
        self.panel(np.concatenate([upper, lower]), self.edging, 0.25, edge=self.deep)
        if self.has("neckline", "roll neck"):
            self.line(upper + np.array((0, rise * 0.55)), 0.03, self.deep)
        for x in np.linspace(-wide * 0.85, wide * 0.85, 11) if self.has("fabric", "knit", "jersey") else ():
            self.line([(x, top - rise + 0.1), (x, low - 0.02)], 0.012)
        self.site("neckline", [(-wide * 0.6, top), (0, low - 0.05), (wide * 0.6, top)])

    def _lapels(self) -> None:
        half, top, low = self.neck
        wide = 0.34 + 0.10 * self.m.collar
        notch = top + (low - top) * (0.36 + 0.08 * self.m.neck_width)
        for side in (1, -1):
            lapel = np.array(
                [(half * 0.9, top - 0.12), (half + 0.16, top + 0.06), (half * 0.8 + 0.14, notch),
                 (half * 0.7 + 0.02, notch + 0.03), (half * 0.7 + wide * 0.6, notch + 0.10),
                 (0.0, low + 0.05), (half * 0.48, (top + low) / 2)]
            )  # fmt: skip
            cloth = self.edging if self.contrast else self.cloth
            self.panel(lapel * (side, 1), cloth, 0.1, edge=self.deep)
        if self.contrast:
            self.site("trim", [(half * side * 0.9, notch + 0.1) for side in (1, -1)])
        self.site("neckline", [(half * side * 0.8, notch + 0.05) for side in (1, -1)])

    def _hood(self) -> None:
        half, top, _ = self.neck
        size = 0.12 * self.m.collar
        if self.pose.flat:
            hood = spline(
                [(half + 0.12, top + 0.08), (half + 0.25, 0.7), (0.45, 0.05 - size), (0, -0.08 - size)]
            )
            self.panel(both_halves(hood[::-1]), self.cloth, 0.3, edge=self.deep)
            inner = spline([(half - 0.02, top), (half + 0.02, 0.75), (0.28, 0.28), (0, 0.2)])
            self.panel(both_halves(inner[::-1]), toned(self.garment.colours[0], 0.55), 0.15, edge=self.deep)
        else:
            hood = spline(
                [(half + 0.34, top + 0.22), (half + 0.34, 1.05), (half + 0.05, 0.92 - size), (0, 0.98 - size)]
            )
            self.panel(both_halves(hood[::-1]), self.cloth, 0.35, edge=self.deep)
