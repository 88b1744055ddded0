"""Bodies, and what they carry."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lookalike.datasets.street2shop.figure import (
    ANKLE,
    SHOULDER,
    UPPER_ARM,
    Points,
    Pose,
    View,
    both_halves,
    spline,
)
from lookalike.datasets.street2shop.sewing import Layer, Line, Panel, sewn
from lookalike.datasets.street2shop.wardrobe import (
    Colour,
    Random,
    toned,
)

_SKINS: tuple[Colour, ...] = (
    (246, 214, 190),
    (232, 190, 160),
    (208, 158, 124),
    (164, 112, 82),
    (112, 74, 54),
    (84, 56, 44),
)


_HAIR: tuple[Colour, ...] = (
    (38, 30, 28),
    (74, 50, 36),
    (120, 82, 52),
    (186, 148, 96),
    (142, 62, 40),
    (110, 108, 108),
)


_PLASTER: tuple[Colour, ...] = ((226, 222, 214), (206, 196, 184), (236, 236, 236), (120, 120, 122))


@dataclass(frozen=True, slots=True)
class Body:
    """Who wears it."""

    skin: Colour
    hair: Colour
    hair_length: float  # heads below the chin; negative: short
    head: bool

    @classmethod
    def random(cls, random: Random, mannequin: bool) -> Body:
        if mannequin:
            return cls(_PLASTER[int(random.integers(len(_PLASTER)))], (0, 0, 0), -1, head=False)
        length = random.choice([-1.0, -0.4, random.uniform(0.2, 1.5)])
        return cls(
            _SKINS[int(random.integers(len(_SKINS)))],
            _HAIR[int(random.integers(len(_HAIR)))],
            float(length),
            head=True,
        )


def limbs(body: Body, pose: Pose, view: View) -> tuple[list[Panel | Line], dict[int, list[Panel | Line]]]:
    """The body but its head; arms that are in front of it are apart."""
    skin, edge = body.skin, toned(body.skin, 0.72)
    pieces: list[Panel | Line] = []
    front: dict[int, list[Panel | Line]] = {-1: [], 1: []}

    def add(outline: Points, to: list[Panel | Line], colour: Colour = skin) -> None:
        to.append(Panel(view.pixels(outline), colour, None, 0.38, edge))

    if body.hair_length > 0:
        long = 1.15 + body.hair_length
        back = spline([(0, 0.0), (0.42, 0.25), (0.52, 0.8), (0.56, long * 0.8), (0.45, long), (0, long)])
        pieces.append(Panel(view.pixels(both_halves(back)), toned(body.hair, 0.8), None, 0.3, None))
    for side in (-1, 1):
        leg = pose.leg(side)
        ys = np.array([-0.2, 0.3, 1.0, 1.6, 1.9, 2.4, 3.0, 3.4])
        half = np.array([0.42, 0.40, 0.31, 0.23, 0.22, 0.24, 0.16, 0.13])
        outer, inner = np.stack([half, ys], 1), np.stack([-half * 0.95, ys], 1)
        add(leg.at(np.concatenate([spline(outer, 3), spline(inner[::-1], 3)])), pieces)
        shoe = np.array(
            [
                (-0.14, ANKLE - 4.1),
                (0.14, ANKLE - 4.1),
                (0.24, ANKLE - 3.82),
                (0.14, ANKLE - 3.7),
                (-0.16, ANKLE - 3.7),
            ]
        )
        add(leg.at(spline(shoe, 3)), pieces, (56, 52, 54) if body.head else skin)
    torso = spline(
        [
            (0.17, 0.9),
            (0.19, 1.22),
            (0.58, 1.43),
            (0.78, 1.62),
            (0.70, 2.1),
            (0.60, 2.6),
            (0.58, 3.0),
            (0.78, 3.7),
            (0.82, 4.1),
            (0.4, 4.4),
            (0, 4.35),
        ]
    )
    add(both_halves(torso), pieces)
    for side in (-1, 1):
        arm = pose.arm(side)
        ys = np.array([-0.05, -0.01, 0.2, 0.8, 1.3, 1.6, 2.0, 2.45])
        half = np.array([0.01, 0.08, 0.155, 0.165, 0.145, 0.15, 0.13, 0.10])
        for start, where in ((0, pieces), (3, front[side])) if pose.in_front(side) else ((0, pieces),):
            rim = np.stack([half, ys], 1)[start:]
            add(arm.at(np.concatenate([spline(rim, 3), spline((rim * (-1, 1))[::-1], 3)])), where)
            where += hand(body, pose, view, side)
    return pieces, front


def hand(body: Body, pose: Pose, view: View, side: int) -> list[Panel | Line]:
    """The hand at the end of an arm."""
    arm = pose.arm(side)
    palm = spline(
        [(0.09, 2.38), (0.16, 2.6), (0.13, 2.85), (0.03, 3.0), (-0.08, 2.88), (-0.15, 2.68), (-0.09, 2.38)], 4
    )
    return [Panel(view.pixels(arm.at(palm)), body.skin, None, 0.3, toned(body.skin, 0.72))]


def head(body: Body, view: View) -> list[Panel | Line]:
    """A face without features, and hair; long hair falls over the shoulders."""
    pieces: list[Panel | Line] = []

    def add(right: Points, colour: Colour, round_: float = 0.35) -> None:
        pieces.append(Panel(view.pixels(both_halves(right)), colour, None, round_, toned(colour, 0.75)))

    add(spline([(0, 0.06), (0.30, 0.16), (0.37, 0.5), (0.30, 0.85), (0.12, 1.04), (0, 1.06)]), body.skin)
    cap = spline([(0, -0.04), (0.34, 0.08), (0.43, 0.45), (0.38, 0.62), (0.33, 0.42), (0.2, 0.27), (0, 0.24)])
    add(cap, body.hair, 0.2)
    if body.hair_length > 0:
        long = 1.0 + body.hair_length
        for side in (-1, 1):
            lock = spline(
                [
                    (0.30, 0.3),
                    (0.46, 0.5),
                    (0.52, 1.1),
                    (0.50, long),
                    (0.38, long + 0.1),
                    (0.30, long * 0.85),
                    (0.31, 0.8),
                    (0.30, 0.3),
                ]
            )
            placed = view.pixels(lock * (side, 1))
            pieces.append(Panel(placed, body.hair, None, 0.25, toned(body.hair, 0.75)))
    for y, half in ((0.52, 0.055), (0.52, -0.055)):
        x = np.sign(half) * 0.15
        eye = np.array([(x - 0.045, y), (x + 0.045, y)])
        pieces.append(Line(view.pixels(eye), 0.03 * view.scale, toned(body.skin, 0.5)))
    mouth = spline([(-0.08, 0.82), (0, 0.84), (0.08, 0.82)])
    pieces.append(Line(view.pixels(mouth), 0.03 * view.scale, toned(body.skin, 0.62)))
    return pieces


def bag(frame: tuple[int, int], view: View, random: Random) -> Layer | None:
    """On a strap across the chest, or at the side."""
    side = int(random.choice([-1, 1]))
    colour = _HAIR[int(random.integers(len(_HAIR)))] if random.random() < 0.6 else (160, 50, 48)
    x, y = side * random.uniform(0.55, 0.95), random.uniform(3.2, 3.9)
    start = (-side * 0.45, 1.36) if random.random() < 0.6 else (side * 0.7, 1.5)
    half, tall = random.uniform(0.3, 0.5), random.uniform(0.3, 0.5)
    bag = spline(
        [
            (x - half, y),
            (x + half, y),
            (x + half * 1.08, y + tall),
            (x + half * 0.9, y + 1.7 * tall),
            (x - half * 0.9, y + 1.7 * tall),
            (x - half * 1.08, y + tall),
            (x - half, y),
        ],
        4,
    )
    flap = np.array(
        [(x - half, y), (x + half, y), (x + half * 0.9, y + tall * 0.8), (x - half * 0.9, y + tall * 0.8)]
    )
    dark = toned(colour, 0.6)
    strap = view.pixels(spline([start, ((start[0] + x) / 2 - 0.05 * side, (start[1] + y) / 2), (x, y)]))
    pieces: list[Panel | Line] = [
        Line(strap, 0.10 * view.scale, dark, solid=True),
        Line(strap, 0.075 * view.scale, colour, solid=True),
        Panel(view.pixels(bag), colour, None, 0.3, dark),
        Panel(view.pixels(flap), toned(colour, 0.9), None, 0.1, dark),
    ]
    return sewn(pieces, [], frame, view.scale, colour, random, 0.6)


def phone(frame: tuple[int, int], view: View, random: Random) -> Layer | None:
    """Held before the chest or the face, as at a mirror."""
    side = int(random.choice([-1, 1]))
    x, y = side * random.uniform(0.0, 0.5), random.uniform(0.5, 1.9)
    skin = _SKINS[int(random.integers(len(_SKINS)))]
    elbow = (side * 1.15, 2.85)
    arm = spline([(side * 0.95, SHOULDER[1] + UPPER_ARM), elbow, (x + side * 0.2, y + 0.35)])
    phone = np.array([(x - 0.17, y - 0.32), (x + 0.17, y - 0.32), (x + 0.17, y + 0.32), (x - 0.17, y + 0.32)])
    around = np.linspace(0, 2 * np.pi, 16)
    fist = np.stack([np.cos(around) * 0.2, np.sin(around) * 0.18], axis=1) + np.array(
        (x + side * 0.14, y + 0.26)
    )
    lens = np.stack([np.cos(around), np.sin(around)], axis=1) * 0.05 + np.array((x - 0.07, y - 0.2))
    pieces: list[Panel | Line] = [
        Line(view.pixels(arm), 0.27 * view.scale, skin, solid=True),
        Panel(view.pixels(phone), (38, 38, 42), None, 0.1, (20, 20, 22)),
        Panel(view.pixels(lens), (110, 114, 124)),
        Panel(view.pixels(fist), skin, None, 0.3, toned(skin, 0.72)),
    ]
    return sewn(pieces, [], frame, view.scale, skin, random, 0.5)
