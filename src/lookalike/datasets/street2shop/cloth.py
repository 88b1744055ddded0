"""Cloth before it is cut: colour, pattern and texture as a picture."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageChops, ImageDraw, ImageFilter

from lookalike.datasets.street2shop.wardrobe import BOTTOMS, Colour, Garment

PER_HEAD = 80  # pixels
WIDTH, HEIGHT = 6 * PER_HEAD, 8 * PER_HEAD  # x from -3 to 3, y from 0 to 8 heads

_Plane = NDArray[np.float32]


@lru_cache(maxsize=48)
def cloth_of(garment: Garment) -> Image.Image:
    """The garment's cloth, RGB, WIDTH x HEIGHT."""
    base = Image.new("RGB", (WIDTH, HEIGHT), garment.colours[0])
    cover = _pattern(garment)
    if cover is not None:
        base.paste(garment.colours[1], mask=cover)
        if garment.has("pattern", "floral", "camouflage", "plaid"):
            base.paste(_between(garment), mask=ImageChops.offset(cover, PER_HEAD // 3, PER_HEAD // 2 + 7))
    return ImageChops.multiply(base, texture(garment.attributes.get("fabric", "jersey")))


@lru_cache(maxsize=16)
def plain_cloth(colour: Colour, fabric: str) -> Image.Image:
    """Cloth without a pattern, as for collars and ribs of another colour."""
    return ImageChops.multiply(Image.new("RGB", (WIDTH, HEIGHT), colour), texture(fabric))


def _between(garment: Garment) -> Colour:
    """A third colour, for patterns that need one."""
    first, second = garment.colours
    pull = 0.5 + 0.25 * garment.measures.share
    red, green, blue = (round(a * pull + b * (1 - pull)) for a, b in zip(first, second, strict=True))
    if garment.has("pattern", "floral"):
        return (min(255, red + 30), max(0, green - 10), blue)
    return red, green, blue


@lru_cache(maxsize=8)
def texture(fabric: str) -> Image.Image:
    """What the weave does to light, RGB."""
    random = np.random.default_rng(len(fabric) + ord(fabric[0]))
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH].astype(np.float32)
    grain = random.standard_normal((HEIGHT, WIDTH)).astype(np.float32)
    match fabric:
        case "knit":
            rib = (
                np.cos(x * (2 * np.pi / 10)) * 0.5
                + np.cos(y * (2 * np.pi / 7) + np.abs(x % 10 - 5) * 0.8) * 0.35
            )
            light = 228 + 20 * rib + 4 * grain
        case "denim":
            light = 232 + 11 * np.sin((x + y) * (2 * np.pi / 5)) + 9 * grain
            light += 8 * _soft_noise(random, 40)
        case "corduroy":
            light = 226 + 24 * np.cos(x * (2 * np.pi / 9)) + 4 * grain
        case "linen":
            light = (
                238
                + 6 * random.standard_normal((1, WIDTH))
                + 6 * random.standard_normal((HEIGHT, 1))
                + 5 * grain
            )
        case "satin":
            light = 244 + 1.5 * grain
        case _:
            light = 243 + 5 * grain
    plane = Image.fromarray(np.clip(light, 0, 255).astype(np.uint8))
    return Image.merge("RGB", [plane] * 3)


def _soft_noise(random: np.random.Generator, cell: int) -> _Plane:
    small = random.standard_normal((HEIGHT // cell + 2, WIDTH // cell + 2)).astype(np.float32)
    grown = Image.fromarray(small).resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC)
    return np.asarray(grown)


def _pattern(garment: Garment) -> Image.Image | None:
    """Where the second colour is, "L"; None for plain cloth."""
    measures = garment.measures
    period = PER_HEAD * 0.42 * 2 ** (0.85 * measures.period)
    share = 0.42 + 0.22 * measures.share
    random = np.random.default_rng(garment.motif)
    match garment.attributes.get("pattern"):
        case "horizontal stripes":
            return _stripes(period * 0.9, share, random, across=False)
        case "vertical stripes":
            return _stripes(period * 0.7, share * 0.8, random, across=True)
        case "checks":
            columns, rows = (
                _stripes(period, 0.5, None, across=True),
                _stripes(period, 0.5, None, across=False),
            )
            return ImageChops.add(columns.point(_HALF), rows.point(_HALF))
        case "plaid":
            columns = _stripes(period * 2.2, share, random, across=True)
            rows = _stripes(period * 2.2, share, np.random.default_rng(garment.motif), across=False)
            return ImageChops.add(columns.point(_HALF), rows.point(_HALF))
        case "polka dots":
            return _tiled(_dots(period, 0.16 + 0.09 * measures.share))
        case "floral":
            return _tiled(_scattered(random, period, "flower", share))
        case "animal spots":
            return _tiled(_scattered(random, period * 0.7, "spot", share))
        case "colour blocks":
            return _blocks(garment)
        case "camouflage":
            field = _soft_noise(random, round(period * 0.9)) + 0.6 * _soft_noise(random, round(period * 0.4))
            return Image.fromarray(np.where(field > 0.25 - 0.5 * measures.share, 255, 0).astype(np.uint8))
        case "zigzag":
            return _zigzag(period, share, 0.35 + 0.2 * measures.slant)
        case "diamonds":
            return _diamonds(period * 1.2, 1.3 + 0.5 * measures.slant, share)
    return None


_HALF = [level // 2 for level in range(256)]


def _stripes(period: float, share: float, random: np.random.Generator | None, across: bool) -> Image.Image:
    """Bands; with `random` of several widths that come again and again."""
    length = WIDTH if across else HEIGHT
    at = (np.arange(length) + 0.5) / period
    if random is None:
        on = at % 1 < share
    else:
        bands = int(random.integers(1, 4))
        edges = np.sort(random.uniform(0, 1, 2 * bands))
        place = (at / bands) % 1
        on = np.zeros(length, bool)
        for band in range(bands):
            width = (edges[2 * band + 1] - edges[2 * band]) * 0.3 + share / bands * 0.7
            start = (band + 0.3 * edges[2 * band]) / bands
            on |= (place - start) % 1 < width
    line = (on * np.uint8(255)).astype(np.uint8)
    plane = Image.fromarray(line[None] if across else line[:, None])
    return plane.resize((WIDTH, HEIGHT))


def _blocks(garment: Garment) -> Image.Image:
    """The lower part, or a band around the middle."""
    measures = garment.measures
    edge, reach = (4.9, 0.9) if garment.category in BOTTOMS else (2.8, 0.5)
    top = edge + reach * measures.share
    low = top + 0.35 + 0.25 * (1 + measures.period) if garment.motif % 2 else HEIGHT / PER_HEAD
    plane = Image.new("L", (WIDTH, HEIGHT))
    plane.paste(255, (0, round(top * PER_HEAD), WIDTH, round(low * PER_HEAD)))
    return plane


def _tiled(tile: Image.Image) -> Image.Image:
    plane = Image.new("L", (WIDTH, HEIGHT))
    for y in range(0, HEIGHT, tile.height):
        for x in range(0, WIDTH, tile.width):
            plane.paste(tile, (x, y))
    return plane


def _dots(period: float, radius: float) -> Image.Image:
    """Two dots of a lattice."""
    side = round(period) * 4
    tile = Image.new("L", (side, side))
    draw = ImageDraw.Draw(tile)
    for x, y in ((0, 0), (side, 0), (0, side), (side, side), (side / 2, side / 2)):
        draw.circle((x, y), radius * side, 255)
    return tile.reduce(4)


def _scattered(random: np.random.Generator, period: float, what: str, share: float) -> Image.Image:
    """A tile of flowers or spots at places of their own; it joins to itself."""
    side = round(period * 4)
    large = Image.new("L", (2 * side, 2 * side))
    draw = ImageDraw.Draw(large)
    petals = int(random.integers(4, 7))
    for row in range(4):
        for column in range(4):
            x, y = (np.array([column, row]) + 0.5 + random.uniform(-0.28, 0.28, 2)) * (side / 2)
            size = side / 2 * (0.22 + 0.26 * share) * random.uniform(0.75, 1.2)
            turn = random.uniform(0, 2 * np.pi)
            around = np.linspace(0, 2 * np.pi, 36, endpoint=False)
            if what == "flower":
                reach = size * (0.68 + 0.32 * np.cos(petals * around))
            else:
                reach = size * (0.7 + 0.16 * np.cos(2 * around + turn) + 0.12 * np.cos(3 * around))
            outline = np.stack([x + reach * np.cos(around + turn), y + reach * np.sin(around + turn)], axis=1)
            for dx in (-2 * side, 0, 2 * side):
                for dy in (-2 * side, 0, 2 * side):
                    moved = outline + np.array((dx, dy))
                    draw.polygon(list(map(tuple, moved)), 255)
                    hole = 0.26 if what == "flower" else 0.0
                    if hole:
                        centre = moved.mean(axis=0)
                        draw.circle(tuple(centre), size * hole, 0)
    return large.reduce(2).filter(ImageFilter.SMOOTH)


def _zigzag(period: float, share: float, height: float) -> Image.Image:
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH].astype(np.float32)
    wave = np.abs((x / period) % 1 - 0.5) * 2 * height * period
    return Image.fromarray(np.where(((y + wave) / period) % 1 < share, 255, 0).astype(np.uint8))


def _diamonds(period: float, tall: float, share: float) -> Image.Image:
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH].astype(np.float32)
    off = np.abs((x / period) % 1 - 0.5) + np.abs((y / (period * tall)) % 1 - 0.5)
    line = np.abs(((x / period + y / (period * tall)) % 1) - 0.5) < 0.025
    return Image.fromarray(np.where((off < 0.25 + 0.18 * share) ^ line, 255, 0).astype(np.uint8))
