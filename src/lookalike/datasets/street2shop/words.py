"""Captions: what can be said of a garment as it is seen in one picture, in three lengths."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from lookalike.datasets.street2shop.wardrobe import Garment, Random

_NOUNS: dict[str, tuple[str, ...]] = {
    "short sleeve top": ("top", "top", "shirt"),
    "long sleeve top": ("top", "top", "shirt"),
    "short sleeve outwear": ("jacket", "light jacket", "overshirt"),
    "long sleeve outwear": ("jacket", "coat", "outer layer"),
    "vest": ("tank top", "sleeveless top", "vest"),
    "sling": ("camisole", "strappy top", "cami top"),
    "shorts": ("shorts",),
    "trousers": ("trousers", "pants"),
    "skirt": ("skirt",),
    "short sleeve dress": ("dress",),
    "long sleeve dress": ("dress",),
    "vest dress": ("sleeveless dress", "dress"),
    "sling dress": ("strappy dress", "slip dress", "dress"),
}

_SEVERAL = ("shorts", "trousers", "pants")  # nouns that are many

# Wordings by attribute and value; what is not listed is said as it is. Those of BEFORE stand before the noun.
BEFORE: dict[str, dict[str, tuple[str, ...]]] = {
    "fit": {
        "slim": ("slim-fitting", "close-fitting"), "regular": (), "loose": ("loose", "roomy", "oversized"),
        "fitted": ("fitted", "body-hugging"), "straight": ("straight-cut",), "A-line": ("A-line",),
        "flared": ("flared",), "tiered": ("tiered",), "pencil": ("pencil-cut", "narrow"),
        "pleated": ("pleated",), "skinny": ("skinny", "tight"), "tapered": ("tapered",),
        "wide-leg": ("wide-leg",), "wide": ("wide", "baggy"),
    },
    "length": {
        "cropped": ("cropped",), "hip-length": ("hip-length",), "long": ("longline",),
        "knee-length": ("knee-length",), "very short": ("very short",), "mid-thigh": ("mid-thigh",),
        "mini": ("mini", "short"), "midi": ("midi", "mid-calf"), "maxi": ("maxi", "floor-length"),
        "ankle-length": ("ankle-length",), "full-length": ("full-length",),
    },
    "pattern": {
        "plain": ("plain", "solid-colour", ""), "horizontal stripes": ("horizontally striped",),
        "vertical stripes": ("vertically striped",), "checks": ("checked", "gingham"),
        "plaid": ("plaid", "tartan"), "polka dots": ("polka-dot", "dotted"),
        "floral": ("floral", "flower-patterned"), "zigzag": ("zigzag-patterned",),
        "animal spots": ("animal-print", "leopard-spotted"), "colour blocks": ("colour-block", "two-tone"),
        "camouflage": ("camouflage",), "diamonds": ("diamond-patterned", "argyle"),
    },
    "fabric": {
        "jersey": ("jersey",), "knit": ("knitted", "ribbed-knit"), "denim": ("denim",),
        "corduroy": ("corduroy",), "linen": ("linen",), "satin": ("satin", "silky"),
    },
}  # fmt: skip
AFTER: dict[str, dict[str, tuple[str, ...]]] = {
    "neckline": {
        "round neck": ("a round neck", "a crew neckline"), "V-neck": ("a V-neck", "a V-shaped neckline"),
        "scoop neck": ("a scoop neck", "a low scooped neckline"),
        "square neck": ("a square neck", "a square-cut neckline"),
        "boat neck": ("a boat neck", "a wide boat neckline"),
        "shirt collar": ("a shirt collar", "a pointed collar"), "polo collar": ("a polo collar",),
        "stand-up collar": ("a stand-up collar", "a high band collar"),
        "roll neck": ("a roll neck", "a turtleneck"), "hood": ("a hood", "a drawstring hood"),
        "lapels": ("lapels", "notched lapels"),
        "straight neckline": ("a straight neckline", "a straight upper edge"),
        "sweetheart neckline": ("a sweetheart neckline", "a heart-shaped neckline"),
    },
    "sleeve": {
        "cap sleeves": ("cap sleeves", "tiny cap sleeves"), "short sleeves": ("short sleeves",),
        "puffed sleeves": ("puffed sleeves", "short puff sleeves"),
        "flared short sleeves": ("flared short sleeves", "fluttering short sleeves"),
        "elbow-length sleeves": ("elbow-length sleeves", "half sleeves"),
        "long sleeves": ("long sleeves", "full-length sleeves"),
        "three-quarter sleeves": ("three-quarter sleeves",),
        "balloon sleeves": ("balloon sleeves", "full gathered sleeves"),
        "bell sleeves": ("bell sleeves", "sleeves that widen like bells"),
    },
    "closure": {
        "buttons": ("buttons down the front", "a row of buttons"), "zip": ("a zip", "a full-length zipper"),
        "open front": ("an open front", "fronts that hang open"),
        "double-breasted buttons": ("two rows of buttons", "a double-breasted front"),
        "buttoned placket": ("a short buttoned placket", "a few buttons at the neck"),
        "button and fly": ("a button and fly", "a buttoned waistband"),
        "drawstring": ("a drawstring waist", "a tied drawstring"),
        "elastic waistband": ("an elastic waistband", "a gathered waistband"),
        "belt": ("a buckled belt", "a belt at the waist"), "tie belt": ("a tie belt", "a sash tied in a bow"),
    },
    "pockets": {
        "chest pocket": ("a chest pocket", "one patch pocket on the chest"),
        "two chest pockets": ("two chest pockets", "a flap pocket on each side of the chest"),
        "patch pockets": ("patch pockets", "sewn-on pockets"), "flap pockets": ("flap pockets",),
        "slanted pockets": ("slanted pockets", "side slit pockets"),
        "kangaroo pocket": ("a kangaroo pocket", "a front pouch pocket"),
    },
    "print": {
        "star": ("a star print", "a star on the front"), "heart": ("a heart print", "a heart on the front"),
        "flower": ("a flower print", "a single blossom on the front"),
        "polygon": ("a geometric print", "an angular print"),
        "sun": ("a sun print", "a sunburst on the front"),
        "blob": ("an abstract print", "a splash-like print"),
        "letters": ("a lettering print", "lettering on the front"),
        "mountain": ("a mountain print", "a mountain scene on the front"),
    },
    "trim": {
        "contrast edges": ("contrasting edges", "edges in another colour"),
        "ruffled hem": ("a ruffled hem", "a frill along the hem"),
        "lace hem": ("a lace hem", "lace along the hem"),
        "side stripes": ("side stripes", "a stripe down each side"),
        "contrast stitching": ("contrast stitching", "visible stitching in another colour"),
        "rolled hem": ("rolled-up hems", "turn-ups"),
    },
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Captions:
    """One garment in one picture, told in three lengths."""

    short: str
    medium: str
    long: str


GENERIC = Captions(
    "a piece of clothing",
    "This is a piece of clothing.",
    "The picture shows a piece of clothing. It is something that a person can wear.",
)
DROPPED = Captions("", "", "")


def captions_of(garment: Garment, visible: Collection[str], random: Random) -> Captions:
    """What the visible attributes of a garment come to in words; nothing else is named."""
    facts = {name: value for name, value in garment.attributes.items() if name in visible}
    before = {name: _said(BEFORE[name], facts[name], random) for name in BEFORE if name in facts}
    after = {name: _said(AFTER[name], facts[name], random) for name in AFTER if name in facts}
    noun = str(random.choice(_NOUNS[garment.category]))
    several = noun in _SEVERAL
    colour, second = facts["colour"], facts.get("second colour", "")
    patterned = facts["pattern"] != "plain"
    colours = f"{colour} and {second}" if second and patterned else colour

    def phrase(names: Collection[str], colours: str) -> str:
        """The noun with its colours and what stands before it."""
        told = {name: before.get(name, "") for name in names}
        words = (told.get("fit"), told.get("length"), colours, told.get("pattern"), told.get("fabric"), noun)
        return " ".join(word for word in words if word)

    order = [str(name) for name in random.permutation(list(after))]
    aside = [str(name) for name in random.permutation(["fit", "length", "fabric"])]
    short = phrase(["pattern"] if patterned else aside[:1], colour)
    if "print" in after and random.random() < 0.3:
        short = f"{colour} {noun} with {after['print']}"

    said = [after[name] for name in order[: int(random.integers(1, 4))]]
    start = _with_article(phrase(["pattern", aside[0]], colours), several)
    medium = _sentence(start, str(random.choice(["with", "featuring"])), said)

    opening = _with_article(phrase(["fit", "length", "pattern"], colour), several)
    start = str(random.choice(["", "", "The picture shows ", "Here we see "]))
    sentences = [_sentence(start + opening, "", [])]
    if second:
        sentences.append(f"{'The pattern is' if patterned else 'Details are'} in {second}.")
    they, verbs = ("They", ["have", "come with"]) if several else ("It", ["has", "comes with"])
    half = len(order) // 2 if len(order) > 3 else len(order)
    for names in filter(None, (order[:half], order[half:])):
        sentences.append(_sentence(they, str(random.choice(verbs)), [after[name] for name in names]))
    cloth = (f"{they} {'are' if several else 'is'} made of", "The cloth looks like")
    sentences.append(f"{random.choice(cloth)} {facts['fabric']}.")
    return Captions(short, medium, " ".join(sentences))


def _said(wordings: Mapping[str, tuple[str, ...]], value: str, random: Random) -> str:
    known = wordings[value]
    return str(random.choice(known)) if known else ""


def _with_article(phrase: str, several: bool) -> str:
    if several:
        return f"a pair of {phrase}"
    return f"{'an' if phrase[0] in 'aeioAEIO' else 'a'} {phrase}"


def _sentence(start: str, verb: str, parts: list[str]) -> str:
    listed = " and ".join([*filter(None, [", ".join(parts[:-1])]), *parts[-1:]])
    words = f"{start} {verb} {listed}" if parts else start
    return f"{words[0].upper()}{words[1:]}."
