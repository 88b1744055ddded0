"""Drawn garments: flat pictures of clothes on white, for where no photographs can be had.

They differ in kind, colour, pattern, print, neckline, pocket and buttons, and their table says so. They are
drawings: figures measured on them are figures about drawings.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageChops, ImageDraw, ImageFilter

from lookalike.datasets.photos import write_table

SIDE = 512  # pixels of a picture
_CANVAS = 2 * SIDE  # it is drawn larger, for smooth edges

Colour = tuple[int, int, int]
Points = list[tuple[float, float]]

COLOURS: dict[str, Colour] = {
    "white": (238, 236, 231), "black": (46, 46, 50), "grey": (146, 148, 152), "navy": (42, 54, 96),
    "blue": (62, 112, 178), "light blue": (158, 194, 222), "red": (184, 44, 48), "burgundy": (104, 28, 46),
    "pink": (226, 158, 172), "orange": (222, 122, 54), "yellow": (230, 190, 72), "green": (58, 122, 82),
    "olive": (110, 112, 70), "beige": (212, 192, 162), "brown": (118, 80, 56), "purple": (112, 78, 140),
}  # fmt: skip
PATTERNS = (
    "plain",
    "plain",
    "plain",
    "horizontal stripes",
    "vertical stripes",
    "checks",
    "dots",
    "two colours",
)
PRINTS = ("none", "none", "circle", "star", "heart", "bars", "triangle")
NECKLINES = {"round": 0.165, "V": 0.27, "boat": 0.13}  # how deep the front goes

# Right halves of outlines, from the top to the middle at the bottom. The middle is x = 0 and the picture one
# wide and high; of four numbers the first two are a curve's control point.
Half = tuple[tuple[float, ...], ...]
_TOP: Half = ((0.115, 0.10), (0.235, 0.145), (0.22, 0.24, 0.205, 0.34))
_BODIES: dict[str, Half] = {
    "t-shirt": (*_TOP, (0.205, 0.60, 0.215, 0.86), (0.11, 0.875, 0.0, 0.875)),
    "jumper": (*_TOP, (0.215, 0.60, 0.200, 0.84), (0.11, 0.86, 0.0, 0.86)),
    "jacket": (*_TOP, (0.225, 0.60, 0.225, 0.84), (0.11, 0.855, 0.0, 0.855)),
    "dress": (
        (0.105, 0.06), (0.170, 0.085), (0.130, 0.17, 0.172, 0.24), (0.145, 0.36, 0.135, 0.42),
        (0.22, 0.66, 0.29, 0.93), (0.15, 0.955, 0.0, 0.955),
    ),
    "skirt": ((0.155, 0.16), (0.16, 0.22), (0.22, 0.50, 0.29, 0.84), (0.15, 0.875, 0.0, 0.875)),
    "trousers": (
        (0.150, 0.06), (0.205, 0.20, 0.195, 0.34), (0.185, 0.70, 0.170, 0.955), (0.055, 0.96),
        (0.04, 0.60, 0.0, 0.37),
    ),
    "shorts": (
        (0.160, 0.20), (0.215, 0.34, 0.245, 0.72), (0.045, 0.735), (0.03, 0.60, 0.0, 0.50)
    ),
    "bag": ((0.20, 0.42), (0.24, 0.62, 0.265, 0.83), (0.265, 0.885, 0.22, 0.885), (0.0, 0.885)),
}  # fmt: skip
_SLEEVES: dict[str, Half] = {
    "t-shirt": (
        (0.20, 0.135), (0.25, 0.155), (0.32, 0.24, 0.365, 0.355), (0.26, 0.41), (0.225, 0.33, 0.19, 0.33)
    ),
    "jumper": (
        (0.20, 0.135), (0.25, 0.155), (0.35, 0.40, 0.385, 0.77), (0.305, 0.79), (0.26, 0.52, 0.19, 0.34)
    ),
    "jacket": (
        (0.20, 0.135), (0.25, 0.155), (0.37, 0.40, 0.395, 0.79), (0.300, 0.81), (0.26, 0.52, 0.19, 0.34)
    ),
}  # fmt: skip
KINDS = tuple(_BODIES)
_WITH_NECKLINE = ("t-shirt", "jumper", "dress")
_WITH_PRINT = ("t-shirt", "jumper", "bag")


@dataclass(frozen=True, slots=True)
class Garment:
    """What a drawing shows."""

    kind: str
    colour: str
    second: str  # the pattern's and print's colour
    pattern: str
    print: str
    neckline: str
    pocket: bool
    buttons: bool


def generated_garments(folder: Path, count: int, seed: int) -> Path:
    """The table `products.jsonl` of `count` drawn garments, all different, written to `folder` with it.

    One row a picture: path, item, title, price and what sets it apart. The same arguments give the same
    garments; fewer of them are the first of more.
    """
    folder.mkdir(parents=True, exist_ok=True)
    return write_table(_rows(folder, count, seed), folder / "products.jsonl")


def _rows(folder: Path, count: int, seed: int) -> Iterator[dict[str, Any]]:
    random = np.random.default_rng(seed)
    seen: set[Garment] = set()
    while len(seen) < count:
        garment = _drawn_by_lot(KINDS[len(seen) % len(KINDS)], random)
        if garment in seen:
            continue
        seen.add(garment)
        name = f"{garment.kind}-{len(seen):04}"
        draw_garment(garment, int(random.integers(2**32))).save(folder / f"{name}.jpg", quality=92)
        facts = {
            "path": f"{name}.jpg", "item": name, "title": _title(garment),
            "price": float(random.integers(12, 180)) + 0.9, "category": garment.kind, "color": garment.colour,
            "pattern": garment.pattern, "print": garment.print, "neckline": garment.neckline,
            "pocket": garment.pocket, "buttons": garment.buttons,
        }  # fmt: skip
        yield {name: value for name, value in facts.items() if value != "none"}


def _drawn_by_lot(kind: str, random: np.random.Generator) -> Garment:
    colour, second = map(str, random.choice(list(COLOURS), 2, replace=False))
    pattern = str(random.choice(PATTERNS))
    motif = str(random.choice(PRINTS)) if kind in _WITH_PRINT else "none"
    return Garment(
        kind,
        colour,
        second if (pattern, motif) != ("plain", "none") else "none",
        pattern,
        motif,
        str(random.choice(list(NECKLINES))) if kind in _WITH_NECKLINE else "none",
        bool(random.random() < 0.5),
        bool(random.random() < 0.5),
    )


def _title(garment: Garment) -> str:
    words = {
        "plain": garment.colour,
        "two colours": f"{garment.colour} and {garment.second}",
    }.get(garment.pattern, f"{garment.colour} {garment.kind} with {garment.second} {garment.pattern}")
    title = words if garment.kind in words else f"{words} {garment.kind}"
    extras = [f"{garment.neckline} neck"] if garment.neckline != "none" else []
    extras += [f"{garment.print} print"] if garment.print != "none" else []
    extras += ["buttons"] if garment.buttons else []
    return ", ".join([title[0].upper() + title[1:], *extras])


def draw_garment(garment: Garment, seed: int) -> Image.Image:
    """The drawing, RGB, `SIDE` pixels square; `seed` decides how the cloth falls."""
    cloth = ImageChops.multiply(_cloth(garment), _folds(garment.kind, np.random.default_rng(seed)))
    body = _curve(_BODIES[garment.kind])
    parts = [body + _mirrored(body)[::-1]]
    if garment.kind in _SLEEVES:
        sleeve = _curve(_SLEEVES[garment.kind])
        parts = [sleeve, _mirrored(sleeve), *parts]
    picture = Image.new("RGB", (_CANVAS, _CANVAS), "white")
    needle = _Needle(picture, garment)
    _cast_shadow(picture, parts)
    if garment.kind == "bag":
        needle.line(_arc(0.11, 0.44, -0.30), 0.020, needle.dark)
    for part in parts:
        _lay(picture, cloth, part, needle.dark)
    _DETAILS[garment.kind](needle)
    return picture.resize((SIDE, SIDE), Image.Resampling.LANCZOS)


def _curve(half: Half) -> Points:
    """The points of an outline, its curves in steps."""
    points: Points = [(half[0][0], half[0][1])]
    for step in half[1:]:
        if len(step) == 2:
            points.append((step[0], step[1]))
            continue
        (x0, y0), (cx, cy, x1, y1) = points[-1], step
        for t in np.linspace(0, 1, 17)[1:]:
            x = (1 - t) ** 2 * x0 + 2 * t * (1 - t) * cx + t * t * x1
            y = (1 - t) ** 2 * y0 + 2 * t * (1 - t) * cy + t * t * y1
            points.append((float(x), float(y)))
    return points


def _arc(half_width: float, y: float, depth: float) -> Points:
    """A curve from left to right that hangs down by `depth` in the middle."""
    return _curve(((-half_width, y), (0.0, y + 2 * depth, half_width, y)))


def _mirrored(points: Points) -> Points:
    return [(-x, y) for x, y in points]


def _pixels(points: Points) -> Points:
    return [((0.5 + x) * _CANVAS, y * _CANVAS) for x, y in points]


def _cloth(garment: Garment) -> Image.Image:
    """The fabric before it is cut: colour and pattern over the whole canvas."""
    base, second = COLOURS[garment.colour], COLOURS.get(garment.second, (0, 0, 0))
    cloth = Image.new("RGB", (_CANVAS, _CANVAS), base)
    draw = ImageDraw.Draw(cloth)
    step = _CANVAS // 22
    match garment.pattern:
        case "horizontal stripes":
            for y in range(0, _CANVAS, 2 * step):
                draw.rectangle((0, y, _CANVAS, y + step * 0.8), second)
        case "vertical stripes":
            for x in range(step // 2, _CANVAS, step):
                draw.rectangle((x, 0, x + step * 0.35, _CANVAS), second)
        case "checks":
            rows, columns = Image.new("L", cloth.size), Image.new("L", cloth.size)
            for at in range(0, _CANVAS, 2 * step):
                ImageDraw.Draw(rows).rectangle((0, at, _CANVAS, at + step), 110)
                ImageDraw.Draw(columns).rectangle((at, 0, at + step, _CANVAS), 110)
            cloth.paste(second, mask=ImageChops.add(rows, columns))
        case "dots":
            for row, y in enumerate(range(0, _CANVAS, step)):
                for x in range(row % 2 * step, _CANVAS, 2 * step):
                    draw.circle((x, y), step * 0.26, second)
        case "two colours":
            draw.rectangle((0, _CANVAS // 2, _CANVAS, _CANVAS), second)
    return cloth


def _folds(kind: str, random: np.random.Generator) -> Image.Image:
    """Light on cloth: soft, longer than wide; a skirt has pleats."""
    across = 15 if kind in ("skirt", "dress") else 8
    depth = 60 if kind in ("skirt", "dress") else 42
    soft = 255 - random.uniform(0, depth, (4, across)).astype(np.uint8)
    light = Image.fromarray(soft).resize((_CANVAS, _CANVAS), Image.Resampling.BICUBIC)
    weave = 255 - random.integers(0, 14, (SIDE, SIDE), np.uint8)
    grain = Image.fromarray(weave).resize((_CANVAS, _CANVAS), Image.Resampling.BILINEAR)
    return ImageChops.multiply(light, grain).convert("RGB")


def _shape(points: Points) -> Image.Image:
    mask = Image.new("L", (_CANVAS, _CANVAS))
    ImageDraw.Draw(mask).polygon(_pixels(points), 255)
    return mask


def _cast_shadow(picture: Image.Image, parts: list[Points]) -> None:
    shadow = Image.new("L", picture.size)
    for part in parts:
        shadow = ImageChops.lighter(shadow, _shape([(x + 0.004, y + 0.010) for x, y in part]))
    shadow = shadow.filter(ImageFilter.GaussianBlur(_CANVAS / 60)).point(lambda level: level * 0.28)
    picture.paste((70, 70, 80), mask=shadow)


def _lay(picture: Image.Image, cloth: Image.Image, part: Points, edge: Colour) -> None:
    """Cut a part out of the cloth and lay it down, darker towards its edge as if it curved away."""
    mask = _shape(part)
    inner = mask.filter(ImageFilter.BoxBlur(_CANVAS / 45)).filter(ImageFilter.BoxBlur(_CANVAS / 45))
    round_ = inner.point(lambda level: 150 + level * 105 // 255).convert("RGB")
    picture.paste(ImageChops.multiply(cloth, round_), mask=mask)
    ImageDraw.Draw(picture).line(_pixels([*part, part[0]]), edge, _CANVAS // 300, joint="curve")


class _Needle:
    """Draws details in the garment's own darker and lighter shades; coordinates as in the outlines."""

    def __init__(self, picture: Image.Image, garment: Garment) -> None:
        self.garment = garment
        self.draw = ImageDraw.Draw(picture)
        self.base = COLOURS[garment.colour]
        self.dark = _shaded(self.base, 0.62)
        self.deep = _shaded(self.base, 0.42)

    def fill(self, points: Points, colour: Colour | str) -> None:
        self.draw.polygon(_pixels(points), colour)

    def line(self, points: Points, width: float, colour: Colour) -> None:
        self.draw.line(_pixels(points), colour, max(1, round(width * _CANVAS)), joint="curve")

    def seam(self, points: Points) -> None:
        """A row of stitches."""
        for (x0, y0), (x1, y1) in pairwise(points):
            count = max(1, round(np.hypot(x1 - x0, y1 - y0) / 0.012))
            for at in range(count):
                start, end = at / count, (at + 0.6) / count
                stitch = [(x0 + (x1 - x0) * t, y0 + (y1 - y0) * t) for t in (start, end)]
                self.line(stitch, 0.0025, self.dark)

    def button(self, x: float, y: float, radius: float = 0.011) -> None:
        (place,) = _pixels([(x, y)])
        self.draw.circle(place, radius * _CANVAS, (228, 224, 214), self.deep, _CANVAS // 400)
        self.draw.circle(place, radius * 0.25 * _CANVAS, self.deep)

    def pocket(self, x: float, y: float, width: float, height: float) -> None:
        """A patch pocket, its corners cut; `x`, `y` is the middle of its upper edge."""
        half, bottom = width / 2, y + height
        outline = [
            (x - half, y), (x + half, y), (x + half, bottom - 0.02), (x, bottom), (x - half, bottom - 0.02)
        ]  # fmt: skip
        self.line([*outline, outline[0]], 0.004, self.dark)
        self.seam([(x - half, y + 0.016), (x + half, y + 0.016)])


def _shaded(colour: Colour, share: float) -> Colour:
    red, green, blue = (round(level * share) for level in colour)
    return red, green, blue


def _neckline(needle: _Needle, width: float, y: float) -> None:
    depth = NECKLINES[needle.garment.neckline] - 0.10
    back = _arc(width, y, 0.014)
    front = [(-width, y), (0.0, y + depth), (width, y)]
    if needle.garment.neckline != "V":
        front = _arc(width, y, depth)
    needle.fill([(-width, y - 0.02), *back, (width, y - 0.02)], "white")
    needle.fill(back + front[::-1], needle.deep)
    needle.line(front, 0.016, needle.dark)
    needle.line(front, 0.011, _shaded(needle.base, 0.88))
    needle.line(back, 0.010, needle.dark)


def _motif(needle: _Needle, y: float, size: float) -> None:
    """The print, in the second colour."""
    colour = COLOURS.get(needle.garment.second, (0, 0, 0))
    turns = np.linspace(0, 2 * np.pi, 65)
    match needle.garment.print:
        case "circle":
            needle.fill([(size * np.sin(t), y + size * np.cos(t)) for t in turns], colour)
        case "star":
            reach = [size if corner % 2 == 0 else size * 0.42 for corner in range(10)]
            angles = [corner * np.pi / 5 for corner in range(10)]
            needle.fill(
                [(r * np.sin(a), y - r * np.cos(a)) for r, a in zip(reach, angles, strict=True)], colour
            )
        case "heart":
            needle.fill(
                [
                    (
                        size / 16 * 16 * np.sin(t) ** 3,
                        y - size / 16 * (13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t)),
                    )
                    for t in turns
                ],
                colour,
            )
        case "triangle":
            needle.fill([(0, y - size), (size, y + size * 0.8), (-size, y + size * 0.8)], colour)
        case "bars":
            for row, half in enumerate((1.0, 0.7, 0.9)):
                top = y - size * 0.6 + row * size * 0.45
                needle.fill(
                    [
                        (-size * half, top),
                        (size * half, top),
                        (size * half, top + size * 0.2),
                        (-size * half, top + size * 0.2),
                    ],
                    colour,
                )


def _detail_top(needle: _Needle) -> None:
    long = needle.garment.kind == "jumper"
    for side in (1, -1):
        cuff = (
            [(0.378 * side, 0.735), (0.300 * side, 0.755)]
            if long
            else [(0.355 * side, 0.335), (0.25 * side, 0.39)]
        )
        needle.seam(cuff)
        needle.line([(0.235 * side, 0.145), (0.222 * side, 0.24), (0.206 * side, 0.335)], 0.004, needle.dark)
    needle.seam(_arc(0.20, 0.815 if long else 0.845, 0.007))
    _neckline(needle, 0.115, 0.10)
    _motif(needle, 0.45, 0.09)
    if needle.garment.pocket:
        needle.pocket(0.125, 0.26, 0.075, 0.085)
    if needle.garment.buttons:
        lowest = NECKLINES[needle.garment.neckline]
        needle.line([(0, lowest), (0, lowest + 0.11)], 0.003, needle.dark)
        for row in range(3):
            needle.button(0, lowest + 0.022 + 0.035 * row, 0.008)


def _detail_jacket(needle: _Needle) -> None:
    for side in (1, -1):
        needle.line([(0.235 * side, 0.145), (0.228 * side, 0.24), (0.208 * side, 0.34)], 0.004, needle.dark)
        needle.seam([(0.388 * side, 0.745), (0.296 * side, 0.765)])
        if needle.garment.pocket:
            needle.line([(0.175 * side, 0.58), (0.105 * side, 0.64)], 0.009, needle.dark)
    needle.fill([(-0.115, 0.08), *_arc(0.115, 0.10, 0.012), (0.115, 0.08)], "white")
    needle.fill([*_arc(0.105, 0.10, 0.012), (0, 0.30)], needle.deep)
    for side in (1, -1):
        lapel = [
            (0.118 * side, 0.098),
            (0.150 * side, 0.225),
            (0.115 * side, 0.235),
            (0.005 * side, 0.36),
            (0.0, 0.30),
        ]
        needle.fill(lapel, _shaded(needle.base, 0.86))
        needle.line([*lapel, lapel[0]], 0.004, needle.dark)
    needle.line([(0, 0.34), (0, 0.855)], 0.004, needle.deep)
    if needle.garment.buttons:
        for row in range(4):
            needle.button(-0.025, 0.40 + 0.11 * row)
    else:
        needle.seam([(-0.012, 0.36), (-0.012, 0.85)])
        needle.seam([(0.012, 0.36), (0.012, 0.85)])


def _detail_dress(needle: _Needle) -> None:
    _neckline(needle, 0.105, 0.06)
    needle.line(_arc(0.136, 0.42, 0.006), 0.005, needle.dark)
    needle.seam(_arc(0.283, 0.915, 0.013))
    if needle.garment.buttons:
        lowest = NECKLINES[needle.garment.neckline] - 0.04
        needle.line([(0, lowest), (0, 0.42)], 0.003, needle.dark)
        for y in np.arange(lowest + 0.03, 0.41, 0.05):
            needle.button(0, float(y), 0.008)
    if needle.garment.pocket:
        for side in (1, -1):
            needle.line([(0.16 * side, 0.50), (0.12 * side, 0.58)], 0.006, needle.dark)


def _detail_skirt(needle: _Needle) -> None:
    needle.line(_arc(0.158, 0.205, 0.006), 0.004, needle.dark)
    needle.seam(_arc(0.285, 0.825, 0.016))
    for x in (-0.09, -0.03, 0.03, 0.09):
        needle.line([(x, 0.215), (x * 1.5, 0.52), (x * 1.9, 0.85)], 0.0025, needle.dark)
    if needle.garment.buttons:
        for row in range(5):
            needle.button(0, 0.25 + 0.12 * row)
    if needle.garment.pocket:
        for side in (1, -1):
            needle.pocket(0.125 * side, 0.36, 0.085, 0.10)


def _detail_legs(needle: _Needle) -> None:
    waist = 0.06 if needle.garment.kind == "trousers" else 0.20
    crotch = 0.37 if needle.garment.kind == "trousers" else 0.50
    needle.line(_arc(0.155, waist + 0.035, 0.003), 0.004, needle.dark)
    needle.line([(0, waist), (0, crotch)], 0.004, needle.dark)
    needle.seam(_curve(((0.035, waist + 0.04), (0.035, waist + 0.15, 0.0, waist + 0.19))))
    for side in (1, -1):
        hip: Half = ((0.105 * side, waist + 0.038), (0.115 * side, waist + 0.09, 0.185 * side, waist + 0.105))
        needle.line(_curve(hip), 0.004, needle.dark)
        if needle.garment.kind == "trousers":
            needle.seam([(0.062 * side, 0.935), (0.168 * side, 0.932)])
            needle.line([(0.105 * side, 0.22), (0.115 * side, 0.93)], 0.002, needle.dark)
        else:
            needle.seam([(0.055 * side, 0.705), (0.238 * side, 0.692)])
        if needle.garment.pocket:
            needle.pocket(
                0.13 * side, waist + 0.38 - (0.1 if needle.garment.kind == "shorts" else 0), 0.085, 0.10
            )
        if needle.garment.buttons:
            needle.button(0.07 * side, waist + 0.017, 0.007)
    needle.button(0, waist + 0.017, 0.009)


def _detail_bag(needle: _Needle) -> None:
    needle.line(_arc(0.11, 0.46, -0.28), 0.020, needle.deep)
    needle.line(_arc(0.11, 0.46, -0.28), 0.013, _shaded(needle.base, 0.85))
    needle.seam([(-0.198, 0.445), (0.198, 0.445)])
    if needle.garment.buttons:
        flap = [(-0.205, 0.42), *_arc(0.21, 0.55, 0.05), (0.205, 0.42)]
        needle.fill(flap, _shaded(needle.base, 0.9))
        needle.line(flap, 0.004, needle.dark)
        needle.button(0, 0.575, 0.016)
    _motif(needle, 0.72, 0.07)
    if needle.garment.pocket:
        needle.pocket(0, 0.62, 0.30, 0.20)


_DETAILS = {
    "t-shirt": _detail_top,
    "jumper": _detail_top,
    "jacket": _detail_jacket,
    "dress": _detail_dress,
    "skirt": _detail_skirt,
    "trousers": _detail_legs,
    "shorts": _detail_legs,
    "bag": _detail_bag,
}
