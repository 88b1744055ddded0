"""A captioner without a model: colours and pattern, measured on a region's own pixels.

It names colours (16 names in CIE Lab), a second colour where one is clear, and the pattern where its kind is
clear, on the pixels that differ from the region's border, and claims nothing else. It cannot see which
object is meant: skin, hair, a bag or another garment inside the box count as the object. It guesses at the
light from what surrounds the object, so in a close-up white under a warm lamp is beige and navy in shadow is
black. It knows no category, cut, material, print or letters, may call a garment of several blocks of colour
plain, and misses patterns finer than about a fiftieth of the region.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from lookalike.captions.cloth import SIDE, Mask, Numbers, cloth_of, lab_of, local_mean, pattern_of
from lookalike.captions.vocabulary import Vocabulary
from lookalike.values import Caption, Pixels, Region

_PROTOTYPES: dict[str, tuple[tuple[float, float, float], ...]] = {  # L, a, b
    "white": ((97, 0, 0), (90, 0, 3), (90, 0, -4)),
    "black": ((4, 0, 0), (14, 0, 0), (20, 0, -2), (18, 2, 3)),
    "grey": ((34, 0, -2), (45, 0, -2), (58, 0, -2), (70, 0, -2), (62, 0, 3), (79, 0, 0)),
    "navy": ((12, 6, -18), (20, 6, -22), (28, 5, -24)),
    "blue": ((32, 60, -95), (36, 10, -42), (45, 1, -40), (55, -5, -38), (38, -2, -28)),
    "light blue": ((80, -7, -16), (72, -7, -20), (86, -5, -10), (64, -8, -24)),
    "red": ((53, 78, 62), (45, 60, 38), (38, 52, 32), (30, 44, 26)),
    "burgundy": ((16, 22, 6), (23, 32, 9), (29, 38, 12)),
    "pink": ((78, 22, 4), (70, 28, 4), (62, 52, 0), (86, 12, 5), (60, 26, 5)),
    "orange": ((62, 38, 52), (54, 40, 46), (72, 28, 60), (48, 36, 40)),
    "yellow": ((80, 3, 60), (90, -6, 75), (70, 6, 56), (90, -5, 40), (62, 6, 50)),
    "green": ((40, -34, 18), (50, -45, 35), (30, -24, 12), (64, -45, 40), (82, -26, 20), (48, -28, 14)),
    "olive": ((46, -5, 24), (38, -4, 21), (54, -6, 30), (30, -3, 15)),
    "beige": ((82, 3, 15), (75, 4, 18), (88, 2, 11), (66, 5, 20)),
    "brown": ((38, 14, 21), (30, 12, 16), (47, 16, 26), (22, 9, 11)),
    "purple": ((38, 26, -32), (46, 34, -42), (28, 26, -28), (58, 24, -28), (76, 14, -18)),
}
COLOURS = tuple(_PROTOTYPES)
_SHADES = frozenset(  # pairs that light, shadow or a camera may turn into each other
    frozenset(pair.split("/"))
    for pair in (
        "white/grey", "white/beige", "white/light blue", "white/pink", "grey/black", "grey/beige",
        "grey/brown", "grey/navy", "grey/blue", "grey/light blue", "grey/green", "grey/olive",
        "grey/purple", "grey/pink",
        "black/navy", "black/brown", "navy/blue", "navy/purple", "blue/light blue", "blue/purple",
        "red/burgundy", "red/pink", "red/orange", "burgundy/brown", "burgundy/purple", "burgundy/pink",
        "pink/beige", "pink/purple", "orange/brown", "orange/yellow", "yellow/olive", "yellow/beige",
        "green/olive", "olive/brown", "beige/brown",
    )
)  # fmt: skip
_SHADE = 0.3  # how far a colour's shade speaks for it

# Which pixels are the object's; lengths are shares of half the region.
_FEW = 12  # colours that a region is boiled down to
_ALIKE = 9.0  # Lab units between colours of one thing
_MIDDLE = 0.56  # spread of the middle
_BORDER = 0.12
_LEAST = 0.08  # share of the middle that an object covers; else the whole region is the object

# The light. Folds and shading make cloth darker than its colour is called, by _FOLDS.
_WHITE = 250.0  # level that the brightest surroundings are raised to,
_DIM = (120.0, 190.0)  # not at all below the first level, wholly above the second,
_GAIN = 1.6  # and never more than so.
_PAINT = (1.3, 1.6)  # one channel over another: to the first a lamp, from the second a painted wall
_FOLDS = 1.12
_LIGHTNESS = np.array((0.6, 1.0, 1.0))  # how L, a and b count in a name: light and shadow move L most

_DOUBT = 0.35  # presence of a colour, over that of the best, where pixels speak neither for nor against it
_TRACE, _SOME = 0.01, 0.08  # shares below which a second colour is missing, and cannot be told
_AGREED = 0.9
_STRIPES = ("horizontal stripes", "vertical stripes")
_REGULAR = (*_STRIPES, "checks", "plaid", "polka dots")
_PATTERNS = (
    "plain", *_REGULAR, "floral", "zigzag", "animal spots", "colour blocks", "camouflage", "diamonds",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Looks:
    """What was measured on a region.

    `colours` are names with their shares of the object's pixels, the largest first, in all 1. `pattern` is
    "plain", "horizontal stripes", "vertical stripes", "checks", "polka dots", "patterned" where there is one
    of another or no clear kind, or "" where pixels do not tell. `pair` are the two colours of a pattern, the
    more frequent one first, where both are clear. `contrast` is how much the object varies about its
    neighbourhood, in Lab units; `aspect` is its width over its height, `filled` its share of the region.
    """

    colours: tuple[tuple[str, float], ...]
    pattern: str
    pair: tuple[str, str] | None
    contrast: float
    aspect: float
    filled: float


def looks(region: Region) -> Looks:
    """Measure a region; any region has looks, one of a single pixel too."""
    picture = _small(region.pixels)
    found = _object(picture)
    inside = _closed(found)
    names = _names(picture, _light(region, picture, found))
    cloth = cloth_of(np.asarray(picture), inside)
    colours = _shares(names[inside])
    pattern = pattern_of(cloth, _beside(colours))
    pair = None
    if pattern not in ("", "plain"):
        # Where two colours meet, pixels have the colours in between.
        sides = [names[inside & (sign * cloth.signal > 0.4 * cloth.contrast)] for sign in (1, -1)]
        colours = _shares(np.concatenate(sides))
        pair = _pair(sides)
    rows, columns = np.flatnonzero(inside.any(axis=1)), np.flatnonzero(inside.any(axis=0))
    return Looks(
        colours=colours,
        pattern=pattern,
        pair=pair,
        contrast=cloth.contrast,
        aspect=float((columns[-1] - columns[0] + 1) / (rows[-1] - rows[0] + 1)),
        filled=float(inside.mean()),
    )


def _shares(names: NDArray[np.uint8]) -> tuple[tuple[str, float], ...]:
    shares = np.bincount(names, minlength=len(COLOURS)) / names.size
    order = np.argsort(-shares, kind="stable")
    return tuple((COLOURS[name], float(shares[name])) for name in order if shares[name] > 0)


def _beside(colours: Sequence[tuple[str, float]]) -> float:
    """The share of the most frequent colour that is no shade of the first."""
    first = colours[0][0]
    return next((share for name, share in colours[1:] if frozenset((first, name)) not in _SHADES), 0.0)


def _pair(sides: Sequence[NDArray[np.uint8]]) -> tuple[str, str] | None:
    """The names of the two sides, where each is that of most of its side and they are no shades."""
    more, less = sorted(sides, key=len, reverse=True)
    if not len(less):
        return None
    (first, much), (second, some) = _shares(more)[0], _shares(less)[0]
    apart = first != second and frozenset((first, second)) not in _SHADES
    return (first, second) if apart and min(much, some) > 0.5 else None


def support(looks: Looks, attribute: str, value: str) -> float | None:
    """How far the pixels speak for a claim: 0 contradicted, 0.5 cannot tell, 1 confirmed.

    None where they say nothing: other attributes, unknown values, a pattern that is not clear, a second
    colour of which there is little. The shades of a colour (navy and black) speak for it a little.
    """
    if attribute == "colour" and value in COLOURS:
        ratio = _presence(looks, value) / max(_presence(looks, colour) for colour in COLOURS)
        return ratio / _DOUBT / 2 if ratio < _DOUBT else (1 + (ratio - _DOUBT) / (1 - _DOUBT)) / 2
    if attribute == "second_colour" and value in COLOURS:
        share = _presence(looks, value)
        return 0.3 if share < _TRACE else None if share < _SOME else min(1.0, 0.5 + share)
    if attribute == "pattern" and looks.pattern:
        return _of_pattern(looks.pattern, value)
    return None


def _presence(looks: Looks, colour: str) -> float:
    """The share of a colour's pixels, those of its shades counted for less."""
    return sum(
        share * (1.0 if name == colour else _SHADE if frozenset((name, colour)) in _SHADES else 0.0)
        for name, share in looks.colours
    )


def _of_pattern(seen: str, said: str) -> float | None:
    """Support of the pattern that is said by the one that is seen."""
    if said not in _PATTERNS:
        return None
    if said == seen or (seen, said) == ("checks", "plaid"):
        return _AGREED
    if seen == "plain":
        return 0.5 if said == "colour blocks" else 0.15 if said in _REGULAR else 0.35
    if seen == "patterned":
        return 0.3 if said == "plain" else 0.5 if said in _STRIPES else 0.6
    if said == "plain":
        return 0.15
    return 0.1 if said in _STRIPES and seen in _STRIPES else 0.35 if said in _REGULAR else 0.45


class Palette:
    """The Captioner that needs no model."""

    name = "palette/1"

    def captions(self, regions: Sequence[Region]) -> list[Caption]:
        """Caption regions; each gets a colour, and what else is clear."""
        return [self._caption(looks(region)) for region in regions]

    @cached_property
    def _vocabulary(self) -> Vocabulary:
        return Vocabulary.open("fashion")

    def _caption(self, seen: Looks) -> Caption:
        basis = {name: 0.5 + share / 2 for name, share in seen.colours}
        first, second = seen.pair or (seen.colours[0][0], "")
        values = {"colour": [first]}
        if second:
            values["second_colour"] = [second]
        if seen.pattern not in ("", "patterned"):
            values["pattern"] = [seen.pattern]
        claims = tuple(
            replace(claim, support={"pixels": basis.get(claim.value, _AGREED)})
            for claim in self._vocabulary.claims(values)
        )
        # Not the vocabulary's sentence, which calls whatever it is a garment.
        colours = " and ".join(claim.text for claim in claims if claim.attribute != "pattern")
        patterns = [claim.text for claim in claims if claim.attribute == "pattern"]
        return Caption(", ".join([colours, *patterns]), by=self.name, claims=claims)


def _small(pixels: Pixels) -> Image.Image:
    height, width = pixels.shape[:2]
    image = Image.fromarray(pixels)
    scale = SIDE / max(height, width)
    if scale >= 1:
        return image
    return image.resize((max(1, round(width * scale)), max(1, round(height * scale))), Image.Resampling.BOX)


def _object(image: Image.Image) -> Mask:
    """Where colours are that the middle has rather than the border, (h, w); all where the two look alike."""
    pixels = np.asarray(image)
    few = Image.fromarray(pixels[::2, ::2]).quantize(_FEW, Image.Quantize.MEDIANCUT)
    colour = np.asarray(image.quantize(palette=few, dither=Image.Dither.NONE))
    lab = lab_of(np.array(few.getpalette(), np.uint8).reshape(-1, 3))
    y, x = (np.abs((np.arange(size) + 0.5) / size * 2 - 1) for size in colour.shape)
    middle = np.exp(-(y[:, None] ** 2 + x**2) / (2 * _MIDDLE**2))
    # A garment touches its box in the middle of the sides: the corners tell more of the backdrop.
    border = (np.maximum(y[:, None], x) > 1 - _BORDER) * (np.minimum(y[:, None], x) ** 2 + 0.05)
    alike = np.exp(-((lab[:, None] - lab) ** 2).sum(axis=-1) / (2 * _ALIKE**2))
    inner, outer = (
        alike @ (np.bincount(colour.ravel(), weight.ravel(), len(lab)) / max(weight.sum(), 1e-9))
        for weight in (middle, border)
    )
    share = (inner / (inner + outer + 1e-9))[colour]
    found = local_mean(share, np.ones_like(share), max(1, round(0.02 * max(share.shape)))) > 0.5
    if (found * middle).sum() < _LEAST * middle.sum():
        return np.ones_like(found)
    return np.asarray(found)


def _closed(found: Mask) -> Mask:
    """The object without the holes that the backdrop's colours cut into a pattern, and without its rim."""
    radius = max(1, round(0.035 * max(found.shape)))
    everywhere = np.ones(found.shape)
    grown = local_mean(found, everywhere, radius) > 0.4
    shrunk = local_mean(grown, everywhere, max(1, radius // 2)) > 0.8
    return np.asarray(shrunk if shrunk.any() else np.ones_like(found))


def _light(region: Region, image: Image.Image, found: Mask) -> Numbers:
    """What to multiply R, G and B by so that the brightest of the surroundings is nearly white.

    1 where nothing bright surrounds the object: what fills its picture says nothing about the light.
    """
    pixels = region.picture.pixels
    step = max(1, max(pixels.shape) // 64)
    scene = pixels[::step, ::step]
    around = np.ones(scene.shape[:2], bool)
    if region.box is None:
        around[:] = False
    else:
        box = region.box.scaled(scene.shape[1] / region.picture.width, scene.shape[0] / region.picture.height)
        around[int(box.y0) : int(np.ceil(box.y1)), int(box.x0) : int(np.ceil(box.x1))] = False
    samples = np.concatenate([scene[around], np.asarray(image)[~found]])
    if len(samples) < 50:
        return np.ones(3)
    bright = np.maximum(np.percentile(samples, 95, axis=0), 1)
    most = bright.max()
    cast = most / bright
    trust = np.clip((most - _DIM[0]) / (_DIM[1] - _DIM[0]), 0, 1)
    trust *= np.clip((_PAINT[1] - cast.max()) / (_PAINT[1] - _PAINT[0]), 0, 1)
    return np.asarray((np.clip(_WHITE / most, 0.95, _GAIN) * cast) ** trust)


def _names(image: Image.Image, light: Numbers) -> NDArray[np.uint8]:
    """The name of each pixel's colour, as its place in COLOURS, (h, w)."""
    levels = np.clip(np.arange(256)[:, None] * (light * _FOLDS), 0, 255).astype(np.intp) >> 3
    red, green, blue = (levels[np.asarray(image)[..., channel], channel] for channel in range(3))
    return np.asarray(_naming()[red << 10 | green << 5 | blue])


@lru_cache(maxsize=1)
def _naming() -> NDArray[np.uint8]:
    """The nearest name of each colour of 5 bits a channel, (32768,)."""
    levels = (np.arange(32) * 8 + 4).astype(np.uint8)
    lab = lab_of(np.stack(np.meshgrid(levels, levels, levels, indexing="ij"), axis=-1).reshape(-1, 3))
    away = [
        (((lab[:, None] - np.array(prototypes)) * _LIGHTNESS) ** 2).sum(axis=-1).min(axis=1)
        for prototypes in _PROTOTYPES.values()
    ]
    return np.asarray(np.argmin(away, axis=0), np.uint8)
