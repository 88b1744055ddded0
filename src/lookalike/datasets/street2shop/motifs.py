"""The outlines of prints: what one word names in endless forms."""

from __future__ import annotations

import numpy as np

from lookalike.datasets.street2shop.figure import Points
from lookalike.datasets.street2shop.wardrobe import Random

Shapes = list[
    tuple[Points, int]
]  # an outline within the unit circle, and 0, 1, 2: second, third, first colour

_TURN = np.linspace(0, 2 * np.pi, 72, endpoint=False)
_GLYPHS = ("75557", "26227", "71747", "71717", "55711", "74717", "74757", "71111", "75757", "75717", "25755",
           "65656", "34443", "65556", "74747", "74744", "55755", "72227", "55655", "44447")  # fmt: skip


def motif(name: str, seed: int) -> Shapes:
    """A print's parts, the lowest first. The same name gives many: what differs has no name."""
    random = np.random.default_rng(seed)
    shapes: Shapes = []
    ring = random.random()
    if ring < 0.22:
        shapes += [(_circle(1.0), 0), (_circle(random.uniform(0.82, 0.93)), 2)]
        inner = 0.72
    elif ring < 0.36:
        wide, tall = random.uniform(0.8, 1.0), random.uniform(0.75, 1.0)
        shapes += [(_rectangle(0, 0, wide, tall), 0)]
        inner = 0.66
    else:
        inner = 0.9
    lined = ring >= 0.36 and random.random() < 0.35
    stretch = np.array([random.uniform(0.8, 1.0), random.uniform(0.8, 1.0)]) * inner
    flip = 1 if 0.22 <= ring < 0.36 else 0
    for outline, which in _PARTS[name](random):
        colour = which if not flip else (1, 0, 0)[which]
        shapes.append((outline * stretch - (0, 0.18 if lined else 0), colour))
    if lined:
        for row in range(int(random.integers(1, 3))):
            shapes.append(
                (
                    _rectangle(0, 0.86 + 0.18 * row, random.uniform(0.35, 0.9), 0.05),
                    int(random.integers(0, 2)),
                )
            )
    return shapes


def _circle(radius: float, x: float = 0.0, y: float = 0.0) -> Points:
    return np.stack([x + radius * np.sin(_TURN), y - radius * np.cos(_TURN)], axis=1)


def _rectangle(x: float, y: float, half: float, tall: float) -> Points:
    return np.array([(x - half, y - tall), (x + half, y - tall), (x + half, y + tall), (x - half, y + tall)])


def _radial(reach: Points) -> Points:
    return np.stack([reach * np.sin(_TURN), -reach * np.cos(_TURN)], axis=1)


def _spiked(points: int, inner: float, turn: float = 0.0) -> Points:
    at = np.arange(2 * points) * np.pi / points + turn
    reach = np.where(np.arange(2 * points) % 2 == 0, 1.0, inner)
    return np.stack([reach * np.sin(at), -reach * np.cos(at)], axis=1)


def _star(random: Random) -> Shapes:
    points, inner = int(random.integers(4, 9)), random.uniform(0.3, 0.62)
    shapes: Shapes = [(_spiked(points, inner), 0)]
    if random.random() < 0.5:
        shapes.append((_spiked(points, inner) * random.uniform(0.4, 0.75), 1))
    return shapes


def _heart(random: Random) -> Shapes:
    notch, wide = random.uniform(3.0, 7.0), random.uniform(0.8, 1.05)
    y = 12 * np.cos(_TURN) - notch * np.cos(2 * _TURN) - 2 * np.cos(3 * _TURN) - np.cos(4 * _TURN)
    heart = np.stack([wide * np.sin(_TURN) ** 3, -y / 15], axis=1)
    shapes: Shapes = [(heart, 0)]
    if random.random() < 0.6:
        shapes.append((heart * random.uniform(0.35, 0.75) + np.array((random.uniform(-0.15, 0.15), 0)), 1))
    return shapes


def _flower(random: Random) -> Shapes:
    petals, depth = int(random.integers(4, 10)), random.uniform(0.18, 0.42)
    shapes: Shapes = [(_radial(1 - depth + depth * np.cos(petals * _TURN)), 0)]
    shapes.append((_circle(random.uniform(0.15, 0.38)), 1))
    return shapes


def _polygon(random: Random) -> Shapes:
    corners = int(random.integers(3, 7))
    turn = random.uniform(0, 2 * np.pi / corners)
    shapes: Shapes = []
    for number in range(int(random.integers(1, 4))):
        size = 1 - 0.3 * number
        shapes.append((_spiked(corners, np.cos(np.pi / corners), turn * (1 + number)) * size, number % 2))
    return shapes


def _sun(random: Random) -> Shapes:
    rays, core = int(random.integers(7, 16)), random.uniform(0.35, 0.6)
    shapes: Shapes = [(_spiked(rays, core * 1.05), int(random.integers(0, 2))), (_circle(core), 0)]
    if random.random() < 0.5:
        shapes.append((_circle(core * random.uniform(0.4, 0.8)), 1))
    return shapes


def _blob(random: Random) -> Shapes:
    shapes: Shapes = []
    for number in range(int(random.integers(1, 4))):
        reach = np.full(72, 0.62 - 0.12 * number)
        for wave in range(2, 6):
            reach = reach + random.uniform(0, 0.26 / wave * 1.6) * np.cos(
                wave * _TURN + random.uniform(0, 6.3)
            )
        shapes.append((_radial(reach) + random.uniform(-0.25, 0.25, 2), number % 2))
    return shapes


def _letters(random: Random) -> Shapes:
    count = int(random.integers(2, 6))
    rows = int(random.integers(1, 3)) if count > 2 else 1
    cell = 2 / (count * 4)
    shapes: Shapes = []
    for row in range(rows):
        for number in range(count):
            glyph = _GLYPHS[int(random.integers(len(_GLYPHS)))]
            for line, bits in enumerate(glyph):
                for column in range(3):
                    if int(bits) >> (2 - column) & 1:
                        x = -1 + (number * 4 + column + 1) * cell
                        y = (line - 2.5 + (row - (rows - 1) / 2) * 6.5) * cell
                        shapes.append((_rectangle(x, y, cell * 0.56, cell * 0.56), row % 2))
    return shapes


def _mountain(random: Random) -> Shapes:
    shapes: Shapes = [
        (_circle(random.uniform(0.2, 0.42), random.uniform(-0.4, 0.4), random.uniform(-0.6, -0.3)), 1)
    ]
    for number in range(int(random.integers(1, 4))):
        x, top = random.uniform(-0.45, 0.45), random.uniform(-0.55, 0.05)
        half = random.uniform(0.4, 0.7)
        shapes.append((np.array([(x - half, 0.6), (x, top), (x + half, 0.6)]), 0))
        if number == 0:
            snow = 0.3 * (0.6 - top)
            shapes.append(
                (np.array([(x - half * 0.3, top + snow), (x, top), (x + half * 0.3, top + snow)]), 1)
            )
    return shapes


_PARTS = {
    "star": _star, "heart": _heart, "flower": _flower, "polygon": _polygon, "sun": _sun, "blob": _blob,
    "letters": _letters, "mountain": _mountain,
}  # fmt: skip
