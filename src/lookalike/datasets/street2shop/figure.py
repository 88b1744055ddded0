"""A body in a pose, and how it is seen.

Lengths are in heads: the crown is at y = 0, the shoulders at 1.5, the waist at 3, the soles at 7.6; x = 0 is
the middle, and the figure's left hand is on the right. Flat garments are laid out on the same figure.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache

import numpy as np
from numpy.typing import NDArray

Points = NDArray[np.float64]  # (K, 2) of x and y

SHOULDER = (0.80, 1.56)  # the joint
UPPER_ARM, FOREARM = 1.35, 1.15
HIP = (0.40, 4.05)
THIGH, SHIN = 1.75, 1.70
ANKLE = HIP[1] + THIGH + SHIN


class Limb:
    """An arm or a leg: a line that bends once, smoothly.

    `at` maps (along, across) to the figure and `back` the other way. Across is positive on the outer side,
    away from the figure's middle.
    """

    def __init__(
        self, start: tuple[float, float], angles: tuple[float, float], length: float, side: int
    ) -> None:
        """`angles` of the two halves from straight down, outwards positive; `length` of the first half."""
        self.side = side
        steps = np.linspace(-0.6, 4.4, 51)
        bent = np.clip((steps - length + 0.45) / 0.9, 0, 1)
        turn = angles[0] + (angles[1] - angles[0]) * bent * bent * (3 - 2 * bent)
        self._steps = steps
        ahead = np.stack([np.sin(turn) * side, np.cos(turn)], axis=1)
        line = np.cumsum(ahead, axis=0) * (steps[1] - steps[0])
        origin = np.array([np.interp(0, steps, line[:, 0]), np.interp(0, steps, line[:, 1])])
        self._line = line - origin + np.array(start)
        self._normal = np.stack([ahead[:, 1] * side, -ahead[:, 0] * side], axis=1)

    def at(self, points: Points) -> Points:
        """(K, 2) of (across, along) -> (K, 2) on the figure."""
        across, along = points[:, 0], points[:, 1]
        out = np.empty_like(points)
        for axis in (0, 1):
            out[:, axis] = np.interp(along, self._steps, self._line[:, axis])
            out[:, axis] += across * np.interp(along, self._steps, self._normal[:, axis])
        return out

    def back(self, points: Points) -> Points:
        """(K, 2) on the figure -> (K, 2) of (across, along)."""
        away = points[:, None, :] - self._line[None]
        nearest = (away**2).sum(axis=2).argmin(axis=1)
        rows = np.arange(len(points))
        normal = self._normal[nearest]
        off = away[rows, nearest]
        ahead = np.stack([-normal[:, 1] * self.side, normal[:, 0] * self.side], axis=1)
        across = (off * normal).sum(axis=1)
        return np.stack([across, self._steps[nearest] + (off * ahead).sum(axis=1)], axis=1)


@dataclass(frozen=True, slots=True)
class Pose:
    """Angles in radians from straight down, outwards positive: (upper, lower) of left and right."""

    arms: tuple[tuple[float, float], tuple[float, float]] = ((0.10, 0.06), (0.10, 0.06))
    legs: tuple[tuple[float, float], tuple[float, float]] = ((0.03, 0.0), (0.03, 0.0))
    flat: bool = False  # laid out, nobody inside

    def arm(self, side: int) -> Limb:
        """The arm on the right (1) or left (-1) of the picture."""
        return Limb((SHOULDER[0] * side, SHOULDER[1]), self.arms[side > 0], UPPER_ARM, side)

    def leg(self, side: int) -> Limb:
        return Limb((HIP[0] * side, HIP[1]), self.legs[side > 0], THIGH, side)

    def in_front(self, side: int) -> bool:
        """Whether the forearm lies across the body."""
        return self.arms[side > 0][1] < -0.35


@dataclass(frozen=True, slots=True)
class View:
    """How the figure is seen: heads -> pixels. Smooth bends come first, then turn, scale and place."""

    scale: float  # pixels a head
    origin: tuple[float, float]  # where x = 0, y = 0 lies
    angle: float = 0.0
    turn: float = 0.0  # to the side, radians
    sway: float = 0.0
    waves: Points = field(default_factory=lambda: np.zeros((0, 5)))  # (W, 5): wave vector, phase, push x, y
    stretch: float = 1.0  # across

    def pixels(self, points: Points) -> Points:
        """(K, 2) on the figure -> (K, 2) in the picture."""
        moved = points + self._push(points)
        moved = moved * (self.scale * self.stretch, self.scale)
        cos, sin = np.cos(self.angle), np.sin(self.angle)
        placed: Points = moved @ np.array([[cos, sin], [-sin, cos]]) + self.origin
        return placed

    def heads(self, points: Points) -> Points:
        """The way back."""
        cos, sin = np.cos(self.angle), np.sin(self.angle)
        moved = (points - self.origin) @ np.array([[cos, -sin], [sin, cos]])
        moved = moved / (self.scale * self.stretch, self.scale)
        guess: Points = moved - self._push(moved)
        for _ in range(2):
            guess = moved - self._push(guess)
        return guess

    def _push(self, points: Points) -> Points:
        push = np.sin(points @ self.waves[:, :2].T + self.waves[:, 2]) @ self.waves[:, 3:]
        push[:, 0] += self.sway * np.sin((points[:, 1] - 1.3) * 0.8)
        if self.turn:
            x = points[:, 0]
            bulge = np.clip(1 - (x / 0.95) ** 2, 0, None)
            push[:, 0] += (np.cos(self.turn) - 1) * x + np.sin(self.turn) * 0.45 * bulge
        return push


def spline(points: list[tuple[float, float]] | Points, steps: int = 8) -> Points:
    """A smooth line through the points (Catmull-Rom), its ends included."""
    knots = np.asarray(points, np.float64)
    padded = np.concatenate([2 * knots[:1] - knots[1:2], knots, 2 * knots[-1:] - knots[-2:-1]])
    blend = _catmull_rom(steps)
    curve = sum(blend[:, i, None] * padded[i : len(knots) - 1 + i, None] for i in range(4))
    return np.concatenate([np.reshape(curve, (-1, 2)), knots[-1:]])


@cache
def _catmull_rom(steps: int) -> Points:
    """How much of four neighbouring points there is at each step between the middle two, (steps, 4)."""
    t = np.linspace(0, 1, steps, endpoint=False)
    squared, cubed = t * t, t * t * t
    weights = (
        2 * squared - t - cubed,
        2 - 5 * squared + 3 * cubed,
        t + 4 * squared - 3 * cubed,
        cubed - squared,
    )
    return 0.5 * np.stack(weights, axis=1)


def mirrored(points: Points) -> Points:
    """The same on the other side of the middle."""
    return points * (-1, 1)


def both_halves(right: Points) -> Points:
    """A closed outline from its right half, which runs from the upper middle to the lower."""
    return np.concatenate([right, mirrored(right)[::-1]])
