"""Shop and user pictures: garments laid out or worn, and what is around and in front of them.

A picture comes with what is true of it: for every garment where it is, how much of it is to be seen, and
which of its attributes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from lookalike.datasets.street2shop.drawing import dressed
from lookalike.datasets.street2shop.figure import (
    Pose,
    View,
)
from lookalike.datasets.street2shop.people import Body, bag, hand, head, limbs, phone
from lookalike.datasets.street2shop.places import FRAME, blurred, lit, noisy, studio, surroundings
from lookalike.datasets.street2shop.sewing import Layer, sewn
from lookalike.datasets.street2shop.stage import Seen, Stage
from lookalike.datasets.street2shop.wardrobe import (
    BOTTOMS,
    DRESSES,
    OUTWEAR,
    TOPS,
    Garment,
    Random,
    random_garment,
)


@dataclass(frozen=True, slots=True, eq=False)
class Scene:
    """A picture, RGB, how it is to be compressed, and what it shows."""

    picture: Image.Image
    quality: int  # of the JPEG
    seen: list[Seen]


def shop_picture(wanted: Sequence[tuple[Garment, int]], random: Random) -> Scene:
    """The garments with their styles, the first one surely, as a shop shows them."""
    way = random.random()
    stage = Stage(studio(random))
    if len(wanted) > 1 or way < 0.42:
        _laid_out(stage, wanted, random)
    else:
        _modelled(stage, wanted[0], random, mannequin=way < 0.60)
    picture = lit(stage.picture, random, 0.22)
    return Scene(blurred(picture, random.uniform(0, 0.4)), int(random.integers(84, 95)), stage.seen())


def user_picture(wanted: tuple[Garment, int], random: Random, backgrounds: Sequence[Image.Image]) -> Scene:
    """The garment, with its style, as a customer shows it. Without `backgrounds` they are drawn too."""
    around = np.random.default_rng(int(random.integers(2**62)))  # so annotations depend on no background
    most = 3 if random.random() < 0.4 else 2  # heavily hidden ones are wanted too, but not many
    for attempt in range(4):
        stage = Stage(surroundings(around, backgrounds))
        if random.random() < 0.12:
            _thrown_down(stage, wanted, random)
        else:
            _snapped(stage, wanted, random, calm=attempt > 1)
        seen = stage.seen()
        if any(each.style and each.occlusion <= most and _share(each) > 0.02 for each in seen):
            break
    picture = blurred(lit(stage.picture, random, 1.0), random.uniform(0, 1.8))
    return Scene(noisy(picture, random), int(random.integers(42, 82)), seen)


def flat_picture(garment: Garment, size: tuple[int, int], random: Random) -> Image.Image:
    """The garment laid flat on white, RGB."""
    stage = Stage(Image.new("RGB", size, (255, 255, 255)))
    pose = _flat_pose(random, 0.6)
    centre = size[0] / 2, size[1] / 2
    view = _around(garment, pose, size, centre, random.uniform(0.8, 0.86), random, warp=0.02, tilt=0.03)
    _put_flat(stage, garment, 1, pose, view, random, (3, 6))
    return stage.picture


def _share(seen: Seen) -> float:
    x0, y0, x1, y1 = seen.box
    return (x1 - x0) * (y1 - y0) / (FRAME[0] * FRAME[1])


def _laid_out(stage: Stage, wanted: Sequence[tuple[Garment, int]], random: Random) -> None:
    """Flat, from above; sometimes another garment beside it."""
    shown = list(wanted)
    if len(shown) == 1 and random.random() < 0.16:
        shown.append((random_garment(random), 0))
    cells = len(shown)
    for number, (garment, style) in enumerate(shown):
        pose = _flat_pose(random, 0.85)
        width, height = FRAME[0] / min(cells, 2), FRAME[1] / (1 if cells < 3 else 2)
        centre = (width * (number % 2 + 0.5), height * (number // 2 + 0.5))
        fill = random.uniform(0.72, 0.93) if cells == 1 else random.uniform(0.82, 0.96)
        view = _around(garment, pose, (width, height), centre, fill, random, warp=0.03, tilt=0.05)
        _put_flat(stage, garment, style, pose, view, random, (4, 8))


def _flat_pose(random: Random, most: float) -> Pose:
    arm = random.uniform(0.3, most)
    arms = tuple((arm + random.uniform(-0.06, 0.06), arm + random.uniform(-0.16, 0.1)) for _ in range(2))
    leg = random.uniform(0.02, 0.10)
    return Pose((arms[0], arms[1]), ((leg, leg), (leg, leg)), flat=True)


def _put_flat(
    stage: Stage, garment: Garment, style: int, pose: Pose, view: View, random: Random, fall: tuple[int, int]
) -> None:
    worn = dressed(garment, pose, view, stage.picture.size, random)
    label = stage.hang(garment, style, worn, viewpoint=1)
    stage.cast(worn.main, random.uniform(0.2, 0.42), fall, random.uniform(5, 14))
    stage.put(worn.main, label)


def _modelled(stage: Stage, wanted: tuple[Garment, int], random: Random, mannequin: bool) -> None:
    """Worn by a model or on a mannequin."""
    body = Body.random(random, mannequin)
    arms = tuple(
        (random.uniform(0.04, 0.22), random.uniform(-0.15, 0.15) if mannequin or random.random() < 0.7
         else random.uniform(-1.5, -0.7)) for _ in range(2)
    )  # fmt: skip
    leg = random.uniform(0.0, 0.07)
    pose = Pose((arms[0], arms[1]), ((leg, leg - 0.03), (leg, leg - 0.03)))
    outfit = [wanted] if mannequin else _outfit(wanted, random)
    fill = random.uniform(0.55, 0.9)
    centre = FRAME[0] / 2 + random.uniform(-20, 20), FRAME[1] / 2 + random.uniform(-25, 25)
    view = _around(wanted[0], pose, FRAME, centre, fill, random, warp=0.03, tilt=0.03, turn=0.25)
    _person(stage, outfit, body, pose, view, random)


def _thrown_down(stage: Stage, wanted: tuple[Garment, int], random: Random) -> None:
    """Laid on a bed or a floor, never quite flat."""
    pose = _flat_pose(random, 1.0)
    centre = FRAME[0] * random.uniform(0.42, 0.58), FRAME[1] * random.uniform(0.42, 0.58)
    view = _around(
        wanted[0], pose, FRAME, centre, random.uniform(0.55, 1.0), random, warp=0.10, tilt=0.5
    )  # fmt: skip
    _put_flat(stage, *wanted, pose, view, random, (int(random.integers(-8, 9)), 9))
    if random.random() < 0.3:
        other = random_garment(random)
        side = random.choice([-0.15, 1.15]) * FRAME[0], random.uniform(0.2, 0.8) * FRAME[1]
        view = _around(other, pose, FRAME, side, 0.7, random, warp=0.08, tilt=0.8)
        _put_flat(stage, other, 0, pose, view, random, (3, 8))


def _snapped(stage: Stage, wanted: tuple[Garment, int], random: Random, calm: bool) -> None:
    """Worn, in the street or before a mirror; others may stand by."""
    arms = []
    for _ in range(2):
        if random.random() < (0.25 if calm else 0.45):
            arms.append((random.uniform(0.15, 0.5), random.uniform(-2.0, -0.5)))  # across the body
        else:
            upper = random.uniform(0.05, 0.6)
            arms.append((upper, upper + random.uniform(-0.3, 0.35)))
    legs = [(leg := random.uniform(-0.02, 0.16), leg + random.uniform(-0.14, 0.05)) for _ in range(2)]
    pose = Pose((arms[0], arms[1]), (legs[0], legs[1]))
    centre = FRAME[0] * random.uniform(0.4, 0.6), FRAME[1] * random.uniform(0.38, 0.62)
    if not calm and random.random() < 0.22:  # cut off by the frame
        centre = FRAME[0] * random.uniform(0.15, 0.85), FRAME[1] * random.uniform(0.2, 0.85)
    view = _around(wanted[0], pose, FRAME, centre, random.uniform(0.28, 0.9), random, 0.075, 0.14, turn=0.85)
    if random.random() < 0.10:
        _bystander(stage, view, random, behind=True)
    _person(stage, _outfit(wanted, random), Body.random(random, False), pose, view, random)
    if not calm:
        if random.random() < 0.34:
            carried = bag(FRAME, view, random)
            stage.cast(carried, 0.3, (3, 6), 7)
            stage.put(carried)
        if random.random() < 0.20:
            stage.put(phone(FRAME, view, random))
        if random.random() < 0.18:
            _something_near(stage, random)
        if random.random() < 0.04:
            _bystander(stage, view, random, behind=False)


def _bystander(stage: Stage, view: View, random: Random, behind: bool) -> None:
    far = random.uniform(0.55, 0.8) if behind else random.uniform(1.0, 1.3)
    side = random.choice([-1, 1])
    x = FRAME[0] / 2 + side * FRAME[0] * (random.uniform(0.22, 0.5) if behind else random.uniform(0.5, 0.62))
    scale = view.scale * far
    other = View(scale, (float(x), view.origin[1] + (view.scale - scale) * 2.5), stretch=0.95)
    pose = Pose(((0.15, 0.0), (0.12, 0.2)))
    garment = random_garment(random, (*TOPS, *OUTWEAR, *DRESSES))
    _person(stage, _outfit((garment, 0), random), Body.random(random, False), pose, other, random)


def _around(
    garment: Garment, pose: Pose, room: tuple[float, float], centre: tuple[float, float], fill: float,
    random: Random, warp: float, tilt: float, turn: float = 0.0,
) -> View:  # fmt: skip
    """A view in which the garment fills a share of a room around a centre."""
    top, bottom, half = _extent(garment, pose)
    scale = min(fill * room[1] / (bottom - top), fill * room[0] * 1.12 / (2 * half), 190.0)
    waves = np.column_stack(
        [
            random.uniform(-1.6, 1.6, (4, 2)),
            random.uniform(0, 2 * np.pi, 4),
            random.uniform(-warp, warp, (4, 2)),
        ]
    )
    angle = random.uniform(-tilt, tilt)
    turned = random.uniform(-turn, turn) if random.random() < 0.6 else 0.0
    sway = random.uniform(-0.8, 0.8) * warp if turn else 0.0
    middle = (top + bottom) / 2 * scale
    origin = centre[0] + middle * np.sin(angle), centre[1] - middle * np.cos(angle)
    stretch = random.uniform(0.93, 1.03)
    return View(float(scale), (float(origin[0]), float(origin[1])), angle, turned, sway, waves, stretch)


_ENDS = {"cropped": 3.2, "hip-length": 4.1, "long": 4.8, "very short": 4.9, "mid-thigh": 5.3, "mini": 5.1,
         "knee-length": 6.0, "midi": 6.7, "maxi": 7.5, "ankle-length": 7.3, "full-length": 7.6}  # fmt: skip


def _extent(garment: Garment, pose: Pose) -> tuple[float, float, float]:
    """Upper and lower end and half the width of a garment, in heads."""
    bottom = _ENDS[garment.attributes["length"]]
    if garment.category in BOTTOMS:
        if garment.category == "trousers":
            bottom = max(bottom, 6.7)
        return 2.9, bottom, 1.1 if garment.category != "skirt" else 1.0 + 0.12 * (bottom - 3)
    top = 0.1 if pose.flat and garment.has("neckline", "hood") else 1.05
    half = 1.05 if garment.category not in DRESSES else 0.95 + 0.06 * (bottom - 3)
    half += 0.22 * garment.has("fit", "loose") + 0.08 * (garment.category in OUTWEAR)
    if pose.flat and "sleeve" in garment.attributes:
        reach = 2.4 if "long" in garment.category else 0.9
        half = max(half, 0.9 + reach * np.sin(pose.arms[0][0] + 0.1))
    return top, bottom, half


def _outfit(wanted: tuple[Garment, int], random: Random) -> list[tuple[Garment, int]]:
    """What is worn with it, in the order of putting on."""
    garment = wanted[0]
    over = _open_coat(random) if garment.category not in OUTWEAR and random.random() < 0.10 else None
    outfit = [wanted]
    if garment.category in TOPS:
        bottom = (random_garment(random, BOTTOMS), 0)
        outfit = [bottom, wanted] if random.random() < 0.65 else [wanted, bottom]
    elif garment.category in OUTWEAR:
        outfit = [
            (random_garment(random, ("short sleeve top", "vest", "sling")), 0),
            (random_garment(random, BOTTOMS), 0),
            wanted,
        ]
    elif garment.category in BOTTOMS:
        top = (random_garment(random, TOPS), 0)
        short = top[0].has("length", "cropped") or random.random() < 0.25
        outfit = [wanted, top] if short else [top, wanted]
        over = None
    if over is not None:
        outfit.append((over, 0))
    return outfit


def _open_coat(random: Random) -> Garment:
    while True:
        garment = random_garment(random, OUTWEAR)
        if garment.has("closure", "open front"):
            return garment


def _person(
    stage: Stage, outfit: Sequence[tuple[Garment, int]], body: Body, pose: Pose, view: View, random: Random
) -> None:
    """A body with clothes on: skin, clothes in their order, then what is in front of them."""
    frame = stage.picture.size
    viewpoint = 3 if abs(view.turn) > 0.45 else 2
    behind, front = limbs(body, pose, view)
    base = sewn(behind, [], frame, view.scale, body.skin, random, 0.4)
    stage.cast(base, 0.35, (6, 6), 12)
    stage.put(base)
    over: list[tuple[Layer | None, int, int]] = []
    for garment, style in outfit:
        worn = dressed(garment, pose, view, frame, random)
        label = stage.hang(garment, style, worn, viewpoint)
        stage.put(worn.main, label)
        over += [(layer, label, side) for side, layer in worn.sleeves.items()]
    for side in (-1, 1):
        if front[side]:
            arm = sewn(front[side], [], frame, view.scale, body.skin, random, 0.4)
            stage.cast(arm, 0.3, (2, 5), 6)
            stage.put(arm)
        for layer, label, which in over:
            if which == side:
                stage.cast(layer, 0.25, (2, 5), 6)
                stage.put(layer, label)
        if front[side] and over:  # the hand comes out of the sleeve
            stage.put(sewn(hand(body, pose, view, side), [], frame, view.scale, body.skin, random, 0.3))
    if body.head:
        stage.put(sewn(head(body, view), [], frame, view.scale, body.skin, random, 0.4))


def _something_near(stage: Stage, random: Random) -> None:
    """Leaves, a rail or a shoulder close to the camera, out of focus."""
    width, height = stage.picture.size
    shape = Image.new("L", (width // 2, height // 2))
    draw = ImageDraw.Draw(shape)
    green = random.random() < 0.5
    colour = (62, 88, 52) if green else tuple(map(int, random.integers(40, 170, 3)))
    x, y = random.choice([0.0, 1.0]) * width / 2, random.uniform(0.3, 1.0) * height / 2
    for _ in range(9 if green else 1):
        cx, cy = x + random.uniform(-55, 55), y + random.uniform(-90, 90)
        rx, ry = (random.uniform(8, 30), random.uniform(14, 40)) if green else (60, 110)
        draw.ellipse((cx - rx, cy - ry, cx + rx, cy + ry), fill=255)
    shape = shape.filter(ImageFilter.BoxBlur(3)).resize((width, height), Image.Resampling.BILINEAR)
    image = Image.new("RGB", (width, height), colour)
    image.putalpha(shape)
    stage.put(Layer(image, (0, 0)))
