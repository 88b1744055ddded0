"""What a garment is, and how the wardrobe of a data set is drawn by lot.

A garment has attributes, which words can name, and measures, which they cannot: how deep a neckline is, how
wide a stripe, what the outline of a print looks like. Garments of one pair share cut and measures and differ
in their looks. Two pairs of five are twins: they share every attribute and differ in measures only, so that
no description tells them apart.
"""

from __future__ import annotations

import colorsys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace

import numpy as np

Colour = tuple[int, int, int]
Random = np.random.Generator

CATEGORIES = (  # in DeepFashion2's order: the first is category 1
    "short sleeve top", "long sleeve top", "short sleeve outwear", "long sleeve outwear", "vest", "sling",
    "shorts", "trousers", "skirt", "short sleeve dress", "long sleeve dress", "vest dress", "sling dress",
)  # fmt: skip
TOPS = ("short sleeve top", "long sleeve top", "vest", "sling")
OUTWEAR = ("short sleeve outwear", "long sleeve outwear")
BOTTOMS = ("shorts", "trousers", "skirt")
DRESSES = ("short sleeve dress", "long sleeve dress", "vest dress", "sling dress")

COLOURS: dict[str, Colour] = {
    "white": (240, 238, 233), "black": (44, 44, 48), "grey": (148, 150, 154), "navy": (42, 52, 92),
    "blue": (60, 110, 176), "light blue": (160, 195, 222), "red": (184, 44, 48), "burgundy": (106, 30, 48),
    "pink": (226, 160, 174), "orange": (222, 122, 54), "yellow": (231, 192, 78), "green": (58, 122, 82),
    "olive": (112, 114, 72), "beige": (214, 195, 166), "brown": (120, 82, 58), "purple": (112, 80, 142),
}  # fmt: skip
_LIGHT = ("white", "light blue", "pink", "yellow", "beige")
_CLOSE = {  # colours that a pattern would hardly show on each other
    frozenset(pair)
    for pair in (
        ("navy", "black"),
        ("white", "beige"),
        ("burgundy", "brown"),
        ("burgundy", "red"),
        ("olive", "green"),
        ("grey", "light blue"),
        ("navy", "purple"),
        ("olive", "brown"),
        ("black", "burgundy"),
        ("black", "brown"),
        ("navy", "blue"),
        ("grey", "olive"),
        ("pink", "beige"),
        ("navy", "burgundy"),
    )
}

PATTERNS = (
    "plain", "horizontal stripes", "vertical stripes", "checks", "plaid", "polka dots", "floral", "zigzag",
    "animal spots", "colour blocks", "camouflage", "diamonds",
)  # fmt: skip
_PATTERN_ODDS = (0.42, 0.10, 0.07, 0.06, 0.06, 0.06, 0.07, 0.03, 0.03, 0.05, 0.02, 0.03)
PRINTS = ("star", "heart", "flower", "polygon", "sun", "blob", "letters", "mountain")

_NECKS = ("round neck", "V-neck", "scoop neck", "square neck", "boat neck")
_NECKLINES: dict[str, tuple[str, ...]] = {
    "short sleeve top": (*_NECKS, "round neck", "shirt collar", "polo collar", "stand-up collar"),
    "long sleeve top": (*_NECKS, "round neck", "shirt collar", "stand-up collar", "roll neck", "hood"),
    "short sleeve outwear": ("lapels", "shirt collar", "round neck", "V-neck"),
    "long sleeve outwear": ("lapels", "shirt collar", "round neck", "V-neck", "hood", "stand-up collar"),
    "vest": (*_NECKS, "stand-up collar"),
    "sling": ("straight neckline", "sweetheart neckline", "V-neck"),
    "short sleeve dress": (*_NECKS, "shirt collar", "stand-up collar"),
    "long sleeve dress": (*_NECKS, "shirt collar", "stand-up collar", "roll neck"),
    "vest dress": _NECKS,
    "sling dress": ("straight neckline", "sweetheart neckline", "V-neck"),
}
_SHORT = ("short sleeves", "short sleeves", "cap sleeves", "elbow-length sleeves", "puffed sleeves",
          "flared short sleeves")  # fmt: skip
_LONG = ("long sleeves", "long sleeves", "three-quarter sleeves", "balloon sleeves", "bell sleeves")
_SLEEVES: dict[str, tuple[str, ...]] = {
    "short sleeve top": _SHORT,
    "long sleeve top": _LONG,
    "short sleeve outwear": ("short sleeves", "elbow-length sleeves"),
    "long sleeve outwear": ("long sleeves", "long sleeves", "three-quarter sleeves"),
    "short sleeve dress": _SHORT,
    "long sleeve dress": _LONG,
}
_HEMS = ("mini", "knee-length", "midi", "maxi")
_LENGTHS: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(TOPS, ("cropped", "hip-length", "hip-length", "long")),
    "short sleeve outwear": ("cropped", "hip-length", "long"),
    "long sleeve outwear": ("cropped", "hip-length", "hip-length", "long", "knee-length"),
    "shorts": ("very short", "mid-thigh", "knee-length"),
    "trousers": ("cropped", "ankle-length", "full-length"),
    "skirt": _HEMS,
    **dict.fromkeys(DRESSES, _HEMS),
}
_FITS: dict[str, tuple[str, ...]] = {
    **dict.fromkeys((*TOPS, *OUTWEAR), ("slim", "regular", "loose")),
    "shorts": ("slim", "regular", "wide"),
    "trousers": ("skinny", "straight", "tapered", "wide-leg", "flared"),
    "skirt": ("pencil", "A-line", "flared", "pleated", "tiered"),
    **dict.fromkeys(DRESSES, ("fitted", "straight", "A-line", "flared", "tiered")),
}
_POCKETS: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(TOPS[:2], ("", "", "", "chest pocket", "two chest pockets")),
    **dict.fromkeys(OUTWEAR, ("", "patch pockets", "flap pockets", "slanted pockets", "two chest pockets")),
    "vest": ("", "", "", "chest pocket"),
    **dict.fromkeys(("shorts", "trousers"), ("", "slanted pockets", "slanted pockets", "patch pockets",
                                             "flap pockets")),
    "skirt": ("", "", "slanted pockets", "patch pockets"),
    **dict.fromkeys(DRESSES[:3], ("", "", "", "patch pockets", "chest pocket")),
}  # fmt: skip
_CLOSURES: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("short sleeve top", "long sleeve top"), ("", "", "", "buttoned placket")),
    **dict.fromkeys(OUTWEAR, ("buttons", "buttons", "zip", "open front", "double-breasted buttons")),
    "vest": ("", "", "", "buttons"),
    "sling": ("", "", "", "buttons"),
    **dict.fromkeys(("shorts", "trousers"), ("button and fly", "button and fly", "drawstring",
                                             "elastic waistband")),
    "skirt": ("", "buttons", "drawstring", "elastic waistband"),
    **dict.fromkeys(DRESSES, ("", "", "belt", "buttons", "tie belt")),
}  # fmt: skip
_TRIMS: dict[str, tuple[str, ...]] = {
    **dict.fromkeys((*TOPS, "short sleeve dress", "long sleeve dress"),
                    ("", "", "", "", "contrast edges", "ruffled hem", "lace hem", "side stripes")),
    **dict.fromkeys(OUTWEAR, ("", "", "", "contrast edges", "contrast stitching")),
    **dict.fromkeys(("shorts", "trousers"), ("", "", "", "side stripes", "contrast stitching", "rolled hem")),
    **dict.fromkeys(("skirt", "vest dress", "sling dress"), ("", "", "", "ruffled hem", "lace hem",
                                                             "contrast edges")),
}  # fmt: skip
_TWO_COLOURED = ("contrast edges", "side stripes", "contrast stitching")  # trims


@dataclass(frozen=True, slots=True)
class Measures:
    """What words do not tell, each from -1 to 1: where it lies within what its attribute allows."""

    length: float
    width: float
    waist: float
    hem: float  # how wide it is there
    curve: float  # how the hem falls
    shoulder: float
    neck_width: float
    neck_depth: float
    collar: float
    sleeve_length: float
    sleeve_width: float
    cuff: float
    pocket_size: float
    pocket_place: float
    button_size: float
    button_number: float
    band: float  # of waists, edges and trims
    period: float  # of the pattern
    share: float  # of the second colour in it
    slant: float
    print_size: float
    print_across: float
    print_down: float
    print_turn: float


@dataclass(frozen=True, slots=True)
class Garment:
    """One garment: what is true of it in words, and all that a drawing needs beside."""

    category: str
    attributes: Mapping[str, str] = field(hash=False)  # colour, neckline, …; what it lacks is absent
    measures: Measures
    colours: tuple[Colour, Colour]
    motif: int  # decides the outlines of its print and the places of a pattern's parts

    def has(self, attribute: str, *values: str) -> bool:
        """Whether an attribute has one of these values."""
        return self.attributes.get(attribute) in values

    @property
    def category_id(self) -> int:
        """DeepFashion2's number, 1 to 13."""
        return CATEGORIES.index(self.category) + 1


def toned(colour: Colour, share: float) -> Colour:
    """A colour made darker, or lighter where `share` is above 1."""
    red, green, blue = (min(255, round(level * share)) for level in colour)
    return red, green, blue


def random_garment(random: Random, categories: Sequence[str] = CATEGORIES) -> Garment:
    """A garment that belongs to no pair."""
    category = str(random.choice(categories))
    cut = _cut(category, random)
    return _sewn(category, cut | _looks(category, cut, random, {}), random)


def pair_of(seed: int, split: str, pair: int) -> tuple[Garment, ...]:
    """The garments of a pair, by style: 1 to 3 that share cut and measures and differ in their looks.

    Pairs count from 0 within a split. Of every five the first two are twins.
    """
    leader = pair - 1 if pair % 5 == 1 else pair
    place = 0 if split == "train" else 1
    words = np.random.default_rng([seed, place, leader, 1])
    hands = np.random.default_rng([seed, place, pair, 2])
    category = str(words.choice(CATEGORIES))
    cut = _cut(category, words)
    count = int(words.choice([1, 2, 3], p=[0.45, 0.35, 0.2]))
    measured = _sewn(category, cut, hands)
    looks: list[dict[str, str]] = []
    while len(looks) < count:
        look = _looks(category, cut, words, looks[0] if looks else {})
        if look not in looks:
            looks.append(look)
    return tuple(
        replace(
            measured,
            attributes=cut | look,
            colours=_mixed(look, hands),
            motif=measured.motif
            if look.get("print") == looks[0].get("print")
            else int(hands.integers(2**31)),
        )
        for look in looks
    )


def _sewn(category: str, attributes: dict[str, str], random: Random) -> Garment:
    measures = Measures(*map(float, random.uniform(-1, 1, len(fields(Measures)))))
    return Garment(category, attributes, measures, _mixed(attributes, random), int(random.integers(2**31)))


def _mixed(attributes: Mapping[str, str], random: Random) -> tuple[Colour, Colour]:
    """Its two colours, each a shade of what it is called."""
    first = _shade(COLOURS[attributes.get("colour", "white")], random)
    return first, _shade(COLOURS[attributes.get("second colour", "white")], random)


def _shade(colour: Colour, random: Random) -> Colour:
    hue, saturation, value = colorsys.rgb_to_hsv(*(level / 255 for level in colour))
    hue += random.uniform(-0.012, 0.012)
    saturation *= 1 + random.uniform(-0.10, 0.10)
    value *= 1 + random.uniform(-0.07, 0.05)
    red, green, blue = colorsys.hsv_to_rgb(hue % 1, min(1, saturation), min(1, value))
    return round(red * 255), round(green * 255), round(blue * 255)


def _cut(category: str, random: Random) -> dict[str, str]:
    """What all styles of a pair have in common."""

    def one(table: Mapping[str, Sequence[str]]) -> str:
        return str(random.choice(table[category])) if category in table else ""

    neckline, closure, trim = one(_NECKLINES), one(_CLOSURES), one(_TRIMS)
    pockets = one(_POCKETS)
    if neckline in ("shirt collar", "polo collar"):
        if category not in OUTWEAR:
            closure = "buttons" if neckline == "shirt collar" else "buttoned placket"
    elif neckline == "lapels" and closure == "zip":
        closure = "buttons"
    elif neckline == "hood" and category not in OUTWEAR:
        closure, pockets = str(random.choice(["", "zip"])), "kangaroo pocket"
    elif neckline in ("roll neck", "boat neck", "square neck") and closure == "buttoned placket":
        closure = ""
    if closure == "open front" and pockets == "two chest pockets":
        pockets = ""
    cut = {
        "neckline": neckline,
        "sleeve": one(_SLEEVES),
        "length": one(_LENGTHS),
        "fit": one(_FITS),
        "pockets": pockets,
        "closure": closure,
        "trim": trim,
        "fabric": _fabric(category, random),
    }
    return {name: value for name, value in cut.items() if value}


def _fabric(category: str, random: Random) -> str:
    odds = {"jersey": 5.0, "knit": 1.5, "denim": 0.6, "corduroy": 0.4, "linen": 1.2, "satin": 0.6}
    if category in ("shorts", "trousers", "skirt"):
        odds |= {"jersey": 2.5, "denim": 3.0, "corduroy": 1.0, "knit": 0.4}
    if category in ("long sleeve top", "long sleeve outwear"):
        odds |= {"knit": 4.0}
    weights = np.array(list(odds.values()))
    return str(random.choice(list(odds), p=weights / weights.sum()))


def _looks(category: str, cut: Mapping[str, str], random: Random, first: Mapping[str, str]) -> dict[str, str]:
    """What styles of a pair differ in; beside a first style mostly the same pattern in other colours."""
    colours = list(COLOURS)
    colour, second = map(str, random.choice(colours, 2, replace=False))
    while frozenset((colour, second)) in _CLOSE or (colour in _LIGHT and second in _LIGHT):
        second = str(random.choice([other for other in colours if other != colour]))
    pattern = str(random.choice(PATTERNS, p=_PATTERN_ODDS))
    printable = category in (*TOPS[:3], "short sleeve dress", "vest dress", "long sleeve dress")
    motif = str(random.choice(PRINTS)) if printable and pattern == "plain" and random.random() < 0.6 else ""
    if first and random.random() < 0.7:
        pattern, motif = first["pattern"], first.get("print", "")
    if pattern == "plain" and not motif and cut.get("trim") not in _TWO_COLOURED:
        second = ""
    look = {"colour": colour, "second colour": second, "pattern": pattern, "print": motif}
    return {name: value for name, value in look.items() if value}
