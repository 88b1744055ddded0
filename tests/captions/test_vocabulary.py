"""Vocabularies: what a reply may say, how a caption says it, and what prose is heard to say."""

from __future__ import annotations

import random
import re
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lookalike.captions.vocabulary import NOT_APPLICABLE, NOT_VISIBLE, Attribute, Vocabulary
from lookalike.datasets.street2shop import wardrobe
from lookalike.datasets.street2shop.words import AFTER, BEFORE, captions_of
from lookalike.errors import BadInput
from lookalike.values import Claim

FASHION, OBJECT = Vocabulary.open("fashion"), Vocabulary.open("object")
BOTH = pytest.mark.parametrize("vocabulary", [FASHION, OBJECT], ids=["fashion", "object"])
MARKS = (NOT_VISIBLE, NOT_APPLICABLE)

Pairs = set[tuple[str, str]]


def pairs(claims: tuple[Claim, ...]) -> Pairs:
    return {(claim.attribute, claim.value) for claim in claims}


def categories(vocabulary: Vocabulary) -> tuple[str, ...]:
    return vocabulary.attribute("category").values


@st.composite
def told(draw: st.DrawFn, vocabulary: Vocabulary, most: int = 14) -> dict[str, tuple[str, ...]]:
    """What a reply may tell of one thing: a category or none, and values that it can have."""
    category = draw(st.sampled_from(["", *categories(vocabulary)]))
    reply: dict[str, Any] = {"category": category} if category else {}
    others = [each for each in vocabulary.attributes if each.values and each.place != "noun"]
    for attribute in draw(st.lists(st.sampled_from(others), max_size=most, unique_by=lambda each: each.name)):
        possible = [value for value in attribute.values if attribute.suits(category, value)]
        if possible:
            one = st.sampled_from(possible)
            reply[attribute.name] = draw(
                st.lists(one, min_size=1, max_size=3, unique=True) if attribute.several else one
            )
    return vocabulary.values(reply)


def reply_of(attribute: Attribute, extra: tuple[str, ...] = ()) -> st.SearchStrategy[Any]:
    if not attribute.values:
        return st.lists(st.text("abc ", max_size=20), max_size=attribute.most)
    one = st.sampled_from([*attribute.values, *MARKS, *extra])
    return st.lists(one, max_size=attribute.most) if attribute.several else one


# Said and heard


@BOTH
def test_every_value_of_every_category_is_heard_as_it_is_said(vocabulary: Vocabulary) -> None:
    turn = 0
    for category in categories(vocabulary):
        for attribute in vocabulary.attributes:
            for value in attribute.values:
                own = attribute.name == "category"
                if not (value == category if own else attribute.suits(category, value)):
                    continue
                claims = vocabulary.claims({"category": (category,), attribute.name: (value,)})
                turn += 1
                said = vocabulary.rendered(claims, turn % 8)
                assert pairs(vocabulary.heard(said)) == pairs(claims), said


@BOTH
@given(data=st.data())
@settings(max_examples=150, deadline=None)
def test_a_caption_says_its_claims_and_nothing_else(vocabulary: Vocabulary, data: st.DataObject) -> None:
    claims = vocabulary.claims(data.draw(told(vocabulary)))
    template = data.draw(st.integers(0, 11))
    said = vocabulary.rendered(claims, template)
    heard = pairs(vocabulary.heard(said))
    assert len(said.split()) <= 40
    assert said == vocabulary.rendered(claims, template)
    # all of them, or the first in the vocabulary's order where the words would be too many
    assert heard == pairs(claims[: len(heard)])
    assert len(heard) == len(claims) or len(claims) > 6
    assert bool(said) == bool(claims)


@pytest.mark.parametrize(
    ("template", "said"),
    [
        (0, "navy and white horizontally striped long-sleeve top with a V-neck and a zip"),
        (1, "A navy horizontally striped long-sleeve shirt with white details, a V-shaped neckline"
            " and a full-length zipper."),
        (2, "This long-sleeve top is navy and white and horizontally striped and has a V-neck and a zip."),
        (3, "long-sleeve shirt, navy and white, horizontally striped, with a V-shaped neckline"
            " and a full-length zipper"),
    ],
)  # fmt: skip
def test_forms(template: int, said: str) -> None:
    values = {
        "category": ["long sleeve top"], "colour": ["navy"], "second_colour": ["white"],
        "pattern": ["horizontal stripes"], "neckline": ["V-neck"], "closure": ["zip"],
    }  # fmt: skip
    assert FASHION.rendered(FASHION.claims(values), template) == said


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"category": ["trousers"]}, ["trousers", "A pair of pants.", "These are a pair of trousers."]),
        ({"category": ["hat"]}, ["hat", "A hat.", "This is a hat."]),
        ({"colour": ["olive"]}, ["olive garment", "An olive garment.", "This garment is olive."]),
        ({"second_colour": ["red"]}, ["garment with red details"]),
        ({"distinguishing": ["frayed cuffs", "a patch at the elbow"]},
         ["garment with frayed cuffs and a patch at the elbow"]),
        ({}, [""]),
    ],
)  # fmt: skip
def test_forms_of_little(values: dict[str, list[str]], said: list[str]) -> None:
    claims = FASHION.claims(values)
    assert [FASHION.rendered(claims, template) for template in range(len(said))] == said


def test_only_what_has_an_attribute_of_the_vocabulary_is_said() -> None:
    claims = (Claim("Someone smiles."), Claim("Acme", "title", "Acme"), *FASHION.claims({"colour": ["red"]}))
    assert FASHION.rendered(claims) == "red garment"
    assert FASHION.rendered(claims[:2]) == ""


def test_claims_carry_a_wording() -> None:
    values = {"pattern": ["polka dots"], "colour": ["navy"], "neckline": ["V-neck"]}
    assert FASHION.claims(values) == (
        Claim("navy", "colour", "navy"),
        Claim("polka-dot", "pattern", "polka dots"),
        Claim("a V-neck", "neckline", "V-neck"),
    )


# Prose

PROSE: list[tuple[str, Pairs]] = [
    ("The jacket is navy blue with white horizontal stripes and a hood; there are no visible buttons.",
     {("colour", "navy"), ("second_colour", "white"), ("pattern", "horizontal stripes"),
      ("neckline", "hood")}),
    ("A woman in a bright red, short-sleeved dress with a V-neckline. It has a floral print in white.",
     {("category", "short sleeve dress"), ("colour", "red"), ("neckline", "V-neck"),
      ("pattern", "floral"), ("second_colour", "white")}),
    ("A light-blue denim jacket with long sleeves, a pointed collar, two chest pockets and a row of buttons.",
     {("category", "long sleeve outwear"), ("colour", "light blue"), ("fabric", "denim"),
      ("sleeve", "long sleeves"), ("neckline", "shirt collar"), ("pockets", "two chest pockets"),
      ("closure", "buttons")}),
    ("A pair of black jeans, which are skinny. The closure is not visible.",
     {("category", "trousers"), ("colour", "black"), ("fabric", "denim"), ("fit", "skinny")}),
    ("The pattern is in white on a navy background.", {("second_colour", "white"), ("colour", "navy")}),
    ("White polka dots cover the navy dress.",
     {("second_colour", "white"), ("pattern", "polka dots"), ("colour", "navy")}),
    ("It is striped in blue and white.", {("colour", "blue"), ("second_colour", "white")}),
    ("Details are in red.", {("second_colour", "red")}),
    ("She wears a white animal-print jersey skirt.",
     {("category", "skirt"), ("colour", "white"), ("pattern", "animal spots"), ("fabric", "jersey")}),
    ("Blue, white and red.", {("colour", "blue"), ("second_colour", "white")}),  # a third has no place
    ("It has neither pockets nor buttons.", set()),
    ("No buttons, zips or chest pockets can be seen, but there is a hood.", {("neckline", "hood")}),
    ("Without a belt and with a zip.", {("closure", "zip")}),
    ("The zip and the hood aren't visible. Buttons are hidden by a scarf.", set()),
    ("It has a hood and the zip isn't visible.", {("neckline", "hood")}),
    ("It might have a zip; perhaps a chest pocket. I am not sure whether it has a hood.", set()),
    ("The skirt is not floral but plain.", {("category", "skirt"), ("pattern", "plain")}),
    ("A shirt with no visible pattern.", {("pattern", "plain")}),
    ("It is not only red but also white.", {("colour", "red"), ("second_colour", "white")}),
    ("- Colour: GRAY\n- Neckline: crew-neck\n- T-shirts",
     {("colour", "grey"), ("neckline", "round neck"), ("category", "short sleeve top")}),
    ("A dress.", set()),  # of what kind is not said
    ("A dress with three-quarter sleeves.",
     {("category", "long sleeve dress"), ("sleeve", "three-quarter sleeves")}),
    ("A top with a short zip.", {("closure", "zip")}),  # "short" is a length of skirts and dresses
    ("A short pink skirt.", {("category", "skirt"), ("length", "mini"), ("colour", "pink")}),
    ("Black shorts beside a white hat.",
     {("category", "shorts"), ("colour", "black"), ("second_colour", "white")}),
    ("", set()),
]  # fmt: skip


@pytest.mark.parametrize(("text", "heard"), PROSE, ids=[text[:40] for text, _ in PROSE])
def test_prose(text: str, heard: Pairs) -> None:
    claims = FASHION.heard(text)
    assert pairs(claims) == heard
    assert len(claims) == len(heard)


def test_a_claim_has_its_clause() -> None:
    text = "The jacket is navy and white, with a hood and a “button and fly”; someone smiles. A bird sings."
    assert [(claim.text, claim.value) for claim in FASHION.heard(text)] == [
        ("The jacket is navy and white", "navy"),
        ("The jacket is navy and white", "white"),
        ("a hood", "hood"),
        ("a “button and fly", "button and fly"),
        ("someone smiles.", ""),
        ("A bird sings.", ""),
    ]


@given(st.text(max_size=200))
@settings(deadline=None)
def test_any_text_can_be_heard(text: str) -> None:
    for claim in FASHION.heard(text):
        assert claim.text.strip()
        assert not claim.attribute or claim.value in FASHION.attribute(claim.attribute).values


@given(
    st.permutations(["red", "a hood", "long sleeves", "a zip", "satin"]), st.sampled_from(["no ", "without "])
)
def test_a_denial_takes_away_what_it_denies(parts: list[str], no: str) -> None:
    text = "It has " + ", ".join([no + parts[0], *parts[1:]]) + "."
    whole = FASHION.heard("It has " + ", ".join(parts) + ".")
    assert pairs(FASHION.heard(text)) == pairs(whole) - pairs(FASHION.heard(parts[0]))


def test_the_true_captions_of_drawn_garments_are_heard() -> None:
    """Nothing wrong, and everything that a caption's wordings say but some categories."""
    lot, kinds, named = np.random.default_rng(7), 0, 0
    for _ in range(300):
        garment = wardrobe.random_garment(lot)
        said = captions_of(garment, garment.attributes, lot)
        truth = {(name.replace(" ", "_"), value) for name, value in garment.attributes.items()}
        for caption in (said.short, said.medium, said.long):
            heard = pairs(FASHION.heard(caption))
            assert heard <= truth | {("category", garment.category)}, caption
            assert ("colour", garment.attributes["colour"]) in heard
            for name, value in truth - heard:
                wordings = {**BEFORE, **AFTER}.get(name, {}).get(value, ())
                assert not any(word and re.search(rf"\b{word}\b", caption, re.I) for word in wordings), (
                    caption
                )
            kinds += ("category", garment.category) in heard
            named += 1
    assert kinds > 0.75 * named


# Replies


def test_fashion_knows_what_the_drawn_wardrobe_knows() -> None:
    lot = np.random.default_rng(3)
    assert set(wardrobe.CATEGORIES) <= set(categories(FASHION))
    assert set(wardrobe.COLOURS) == set(FASHION.attribute("colour").values)
    assert set(wardrobe.PATTERNS) == set(FASHION.attribute("pattern").values)
    for _ in range(500):
        garment = wardrobe.random_garment(lot)
        truth = {name.replace(" ", "_"): value for name, value in garment.attributes.items()}
        reply = {"category": garment.category, **truth}
        # the rule table takes nothing true away
        assert FASHION.values(reply) == {
            each.name: (reply[each.name],) for each in FASHION.attributes if each.name in reply
        }


def test_what_does_not_apply_is_dropped_whatever_a_reply_says() -> None:
    reply = {
        "category": "trousers", "sleeve": "long sleeves", "neckline": "hood", "colour": "red",
        "second_colour": "red", "fit": NOT_VISIBLE, "pockets": NOT_APPLICABLE,
        "distinguishing": ["a rip", "a rip", "x " * 9, NOT_VISIBLE],
    }  # fmt: skip
    assert FASHION.values(reply) == {
        "category": ("trousers",), "colour": ("red",), "distinguishing": ("a rip",)
    }  # fmt: skip
    assert FASHION.abstained(reply) == {
        "sleeve": NOT_APPLICABLE, "neckline": NOT_APPLICABLE, "fit": NOT_VISIBLE, "pockets": NOT_APPLICABLE
    }  # fmt: skip
    assert FASHION.lacking(reply) == [
        "fit", "length", "second_colour", "pattern", "fabric", "closure", "print", "trim"
    ]  # fmt: skip
    unknown = {**reply, "category": NOT_VISIBLE}
    assert {"sleeve", "neckline"} <= set(FASHION.values(unknown))


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_the_rule_table_decides_for_every_reply(data: st.DataObject) -> None:
    reply = {each.name: data.draw(reply_of(each)) for each in FASHION.attributes}
    values, abstained = FASHION.values(reply), FASHION.abstained(reply)
    category = values.get("category", ("",))[0]
    assert not set(values) & set(abstained)
    for name in values:
        assert FASHION.attribute(name).suits(category)
    for attribute in FASHION.attributes:
        assert attribute.suits(category) or abstained[attribute.name] == NOT_APPLICABLE
    assert not set(FASHION.lacking(reply)) & set(values)


def test_free_text_is_one_line_that_prints() -> None:
    reply = {"distinguishing": ["a\x1b[31m red\nbow", "  "]}
    assert FASHION.values(reply) == {"distinguishing": ("a[31m red bow",)}


@BOTH
@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_the_schema_accepts_what_can_be_told_and_no_more(vocabulary: Vocabulary, data: st.DataObject) -> None:
    names = data.draw(st.lists(st.sampled_from([each.name for each in vocabulary.attributes]), unique=True))
    schema = vocabulary.schema(names)
    jsonschema.Draft202012Validator.check_schema(schema)
    validator = jsonschema.Draft202012Validator(schema)
    asked = [vocabulary.attribute(name) for name in names]
    reply = {each.name: data.draw(reply_of(each, ("mauve-ish",))) for each in asked}
    foreign = any("mauve-ish" in value for value in reply.values())
    assert validator.is_valid(reply) != foreign
    assert not validator.is_valid({**reply, "price": "free"})
    if names:
        assert not validator.is_valid({name: reply[name] for name in names[1:]})
    if not foreign:  # what was understood of a reply can be replied again, and means the same
        seen = vocabulary.values(reply)
        again = {each.name: _as_reply(each, seen.get(each.name, ())) for each in asked}
        assert validator.is_valid(again)
        assert vocabulary.values(again) == seen


def _as_reply(attribute: Attribute, values: tuple[str, ...]) -> Any:
    return list(values) if attribute.several else values[0] if values else NOT_VISIBLE


def test_free_text_comes_last_and_is_bounded() -> None:
    schema = FASHION.schema()
    assert list(schema["properties"])[-1] == "distinguishing"
    assert schema["required"] == list(schema["properties"])
    assert not jsonschema.Draft202012Validator(schema["properties"]["distinguishing"]).is_valid(["a" * 100])
    assert list(FASHION.schema(["distinguishing", "print", "colour"])["properties"]) == [
        "colour", "print", "distinguishing"
    ]  # fmt: skip
    with pytest.raises(BadInput, match="attribute"):
        FASHION.schema(["color"])


# A user's own file

OWN = """
[kind]
question = "What is it?"
place = "noun"
[kind.say]
kettle = []
teapot = ["teapot", "pot for tea"]
[groups]
hot = ["kettle"]
[colour]
question = "Which colour?"
place = "before"
[colour.say]
red = []
blue = []
[colour.hear]
blue = ["azure"]
[plug]
question = "Which plug?"
applies = ["hot"]
[plug.say]
round = ["a round plug"]
"""


def own(folder: Path, text: str) -> Vocabulary:
    path = folder / "kettles.toml"
    path.write_text(text, encoding="utf-8")
    return Vocabulary.open(path)


def test_ones_own_vocabulary(tmp_path: Path) -> None:
    kettles = own(tmp_path, OWN)
    assert kettles.name == "kettles"
    assert kettles.values({"kind": "teapot", "colour": "red", "plug": "round"}) == {
        "kind": ("teapot",), "colour": ("red",)
    }  # fmt: skip
    claims = kettles.heard("An azure kettle with round plugs and a lid.")
    assert pairs(claims) == {("colour", "blue"), ("kind", "kettle"), ("plug", "round")}
    assert kettles.rendered(claims) == "blue kettle with a round plug"
    assert own(tmp_path, OWN + "\n").version != kettles.version
    assert own(tmp_path, OWN).version == kettles.version


@pytest.mark.parametrize(
    ("old", "new", "entry", "hint"),
    [
        ('question = "Which colour?"', "", "colour: has no question", "question ="),
        ("[colour.say]", "[colour.says]", "colour: no key is called 'says'", "did you mean say?"),
        ("red = []", 'red = "red"', "colour.say.red: not a list of words", '["navy"'),
        ("red = []", "red = [1]", "colour.say.red: not a list of words", '["navy"'),
        ("red = []", 'red = ["blue"]', "colour.say.red: 'blue' would be heard as", "own"),
        ("red = []", "not_visible = []", "colour.say.not_visible: cannot be the name", "else"),
        ('blue = ["azure"]', 'bleu = ["azure"]', "colour.hear: no value is called 'bleu'", "mean blue?"),
        ('applies = ["hot"]', 'applies = ["kettel"]', "plug.applies: no category or group", "kettle"),
        ('applies = ["hot"]', 'place = "after"', "plug.place: no place is called 'after'", "before"),
        ('applies = ["hot"]', 'place = "noun"', 'plug: place is "noun"', "only one"),
        ('applies = ["hot"]', "most = 0", "plug.most: not a number", "most = 1"),
        ('applies = ["hot"]', "most = true", "plug.most: not a number", "most = 1"),
        ('applies = ["hot"]', 'second_of = "color"', "plug.second_of: no attribute before it", "colour"),
        ('applies = ["hot"]', 'second_of = "colour"', "plug.beside: not a list of single words", "details"),
        ("[plug]", "[Plug]", "Plug: no name for an attribute", "lower-case"),
        ('kettle = []\nteapot = ["teapot", "pot for tea"]', "", "kind: is the noun and has no", "kind.say"),
        ('hot = ["kettle"]', 'hot = ["oven"]', "groups.hot: no category or group is called 'oven'", "kettle"),
        ("[kind]", "name = 3\n[kind]", "name: not a word", "name ="),
        ("[kind]", "kind", "not a TOML file", "toml.io"),
    ],
)  # fmt: skip
def test_a_fault_in_a_file_is_named(tmp_path: Path, old: str, new: str, entry: str, hint: str) -> None:
    assert old in OWN
    with pytest.raises(BadInput) as caught:
        own(tmp_path, OWN.replace(old, new, 1))
    assert "kettles.toml" in str(caught.value)
    assert entry in str(caught.value)
    assert hint in caught.value.hint
    assert "\n" not in str(caught.value)


def test_a_file_without_attributes_and_no_file(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="has no attribute"):
        own(tmp_path, 'name = "empty"')
    with pytest.raises(BadInput, match="cannot be read"):
        Vocabulary.open(tmp_path / "absent.toml")
    with pytest.raises(BadInput) as caught:
        Vocabulary.open("fashon")
    assert "fashion" in caught.value.hint
    (tmp_path / "kettles.toml").write_bytes(b"\xff")
    with pytest.raises(BadInput, match="not a TOML file"):
        Vocabulary.open(tmp_path / "kettles.toml")


@BOTH
def test_order_of_claims_makes_no_difference(vocabulary: Vocabulary) -> None:
    lot = random.Random(5)
    claims = list(vocabulary.claims({each.name: each.values[:1] for each in vocabulary.attributes}))
    said = vocabulary.rendered(claims)
    lot.shuffle(claims)
    assert vocabulary.rendered(claims) == said
