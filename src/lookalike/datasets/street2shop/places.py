"""What is behind a garment, and what a camera makes of it all."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageChops, ImageDraw, ImageFilter

from lookalike.datasets.street2shop.wardrobe import (
    Colour,
    Random,
    toned,
)

FRAME = (456, 608)  # pixels across and down


def studio(random: Random) -> Image.Image:
    """Paper: white, or a pale colour that darkens to its edges."""
    if random.random() < 0.5:
        return Image.new("RGB", FRAME, (255, 255, 255))
    tint = random.uniform(222, 248) + random.uniform(-9, 7, 3)
    falloff = np.clip(1 - random.uniform(0, 0.10, (3, 3)), 0, 1)
    small = (tint * falloff[..., None]).clip(0, 255).astype(np.uint8)
    return Image.fromarray(small).resize(FRAME, Image.Resampling.BICUBIC)


def surroundings(random: Random, backgrounds: Sequence[Image.Image]) -> Image.Image:
    """A part of a photograph, or a drawn room or street; a little out of focus."""
    if backgrounds and random.random() < 0.75:
        photograph = backgrounds[int(random.integers(len(backgrounds)))]
        scale = min(photograph.width / FRAME[0], photograph.height / FRAME[1]) * random.uniform(0.5, 1)
        width, height = FRAME[0] * scale, FRAME[1] * scale
        left, top = random.random(2) * (photograph.width - width, photograph.height - height)
        half = FRAME[0] // 2, FRAME[1] // 2
        scene = photograph.resize(
            half, Image.Resampling.BILINEAR, (left, top, left + width, top + height), 1.5
        )
    else:
        scene = _street(random) if random.random() < 0.5 else _room(random)
    scene = scene.filter(ImageFilter.BoxBlur(random.uniform(0, 2.2)))
    return scene.resize(FRAME, Image.Resampling.BILINEAR)


def _tone(random: Random, low: float, high: float, colourful: float) -> Colour:
    level = random.uniform(low, high)
    red, green, blue = (
        int(np.clip(level + shift, 0, 255)) for shift in random.uniform(-colourful, colourful, 3)
    )
    return red, green, blue


def _room(random: Random) -> Image.Image:
    width, height = FRAME[0] // 2, FRAME[1] // 2
    scene = Image.new("RGB", (width, height), _tone(random, 150, 235, 22))
    draw = ImageDraw.Draw(scene)
    floor = int(height * random.uniform(0.66, 0.88))
    planks = _tone(random, 90, 190, 20)
    draw.rectangle((0, floor, width, height), planks)
    for y in range(floor, height, int(random.integers(9, 18))):
        draw.line((0, y, width, y), toned(planks, 0.86), 1)
    draw.rectangle((0, floor - 4, width, floor), (236, 234, 230))
    for _ in range(int(random.integers(1, 4))):
        x, half = random.uniform(0, width), random.uniform(18, 60)
        top, low = (
            random.uniform(-0.1, 0.45) * height,
            random.choice([floor, random.uniform(0.5, 0.7) * height]),
        )
        colour = _tone(random, 60, 220, 40)
        draw.rectangle((x - half, top, x + half, low), colour, toned(colour, 0.6), 2)
        if random.random() < 0.5:
            draw.rectangle(
                (x - half * 0.8, top + 8, x + half * 0.8, max(top + 9, low - 8)), _tone(random, 120, 240, 15)
            )
        else:
            for y in np.linspace(top, low, 5)[1:-1]:
                draw.line((x - half, y, x + half, y), toned(colour, 0.6), 2)
    return scene


def _street(random: Random) -> Image.Image:
    width, height = FRAME[0] // 2, FRAME[1] // 2
    scene = Image.new("RGB", (width, height), _tone(random, 190, 240, 20))
    draw = ImageDraw.Draw(scene)
    ground = int(height * random.uniform(0.62, 0.85))
    x = -20.0
    while x < width:
        house = random.uniform(40, 130)
        top = random.uniform(-0.2, 0.4) * height
        colour = _tone(random, 80, 215, 32)
        draw.rectangle((x, top, x + house, ground), colour)
        pane = _tone(random, 50, 150, 18)
        for wx in np.arange(x + 8, x + house - 12, 20):
            for wy in np.arange(top + 10, ground - 20, 30):
                draw.rectangle((wx, wy, wx + 11, wy + 17), pane, toned(colour, 0.7))
        x += house
    draw.rectangle((0, ground, width, height), _tone(random, 90, 180, 10))
    for _ in range(int(random.integers(0, 5))):
        cx, cy, reach = random.uniform(0, width), ground - random.uniform(0, 50), random.uniform(15, 45)
        draw.circle((cx, cy), reach, (int(random.integers(60, 100)), int(random.integers(95, 140)), 66))
    return scene


def lit(picture: Image.Image, random: Random, strength: float) -> Image.Image:
    """Light that falls off, gain, gamma, white balance."""
    corners = 1 - random.uniform(0, 0.38, (2, 2)) * strength
    falloff = Image.fromarray((255 - 255 * corners / corners.max()).astype(np.uint8))
    shaded = picture.copy()
    shaded.paste((0, 0, 0), (0, 0), falloff.resize(picture.size, Image.Resampling.BILINEAR))
    gain = 1.04 + random.uniform(-0.24, 0.25) * strength
    gamma = 1 + random.uniform(-0.32, 0.22) * strength
    warmth, tint = random.uniform(-0.18, 0.18) * strength, random.uniform(-0.06, 0.06) * strength
    curve = np.linspace(0, 1, 256) ** gamma * gain * 255
    curves = np.concatenate([curve * (1 + warmth), curve * (1 + tint), curve * (1 - warmth)]).clip(0, 255)
    return shaded.point(curves.round().astype(int).tolist())


def blurred(picture: Image.Image, radius: float) -> Image.Image:
    """Out of focus, or a little shaken."""
    return picture.filter(ImageFilter.BoxBlur(radius)) if radius > 0.15 else picture


def noisy(picture: Image.Image, random: Random) -> Image.Image:
    """Grain as phones leave it: in blotches, another one in each channel."""
    width, height = picture.size
    noise = random.standard_normal((height // 2, width // 2), np.float32).clip(-3, 3)
    levels = (128.5 + noise * random.uniform(1, 10)).astype(np.uint8)
    plane = Image.fromarray(levels).resize((width + 4, height + 4), Image.Resampling.BILINEAR)
    grain = [plane.crop((at, at, at + width, at + height)) for at in (0, 2, 4)]
    return ImageChops.add(picture, Image.merge("RGB", grain), offset=-128)
