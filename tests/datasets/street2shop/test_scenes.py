"""Pictures and what is said to be true of them."""

import numpy as np
import pytest
from PIL import Image, ImageDraw

from lookalike.datasets.street2shop.outlines import outlines_of
from lookalike.datasets.street2shop.places import FRAME
from lookalike.datasets.street2shop.scenes import shop_picture, user_picture
from lookalike.datasets.street2shop.wardrobe import CATEGORIES, random_garment
from lookalike.datasets.street2shop.words import AFTER, BEFORE, captions_of


@pytest.fixture(scope="module")
def scenes():
    made = []
    for number, category in enumerate(CATEGORIES):
        garment = random_garment(np.random.default_rng([number, 0]), [category])
        for view in range(2):
            made.append(user_picture((garment, 2), np.random.default_rng([number, 1, view]), ()))
            made.append(shop_picture([(garment, 2)], np.random.default_rng([number, 2, view])))
    return made


def test_every_garment_is_where_its_box_and_outline_say(scenes):
    for scene in scenes:
        assert scene.picture.size == FRAME
        for seen in scene.seen:
            x0, y0, x1, y1 = seen.box
            assert 0 <= x0 < x1 <= FRAME[0]
            assert 0 <= y0 < y1 <= FRAME[1]
            for outline in seen.outlines:
                points = np.array(outline).reshape(-1, 2)
                assert len(points) >= 3
                assert (points >= (x0, y0)).all()
                assert (points <= (x1, y1)).all()
            for x, y, sight in seen.marks:
                assert 0 <= x < FRAME[0]
                assert 0 <= y < FRAME[1]
                assert sight in (1, 2)
            assert seen.visible <= seen.garment.attributes.keys()


def test_the_wanted_garment_is_always_to_be_seen_once(scenes):
    for scene in scenes:
        assert sum(seen.style == 2 for seen in scene.seen) == 1


def test_other_garments_are_beside_it_in_user_pictures(scenes):
    users, shops = scenes[::2], scenes[1::2]
    assert sum(len(scene.seen) for scene in users) > 1.3 * len(users)
    assert sum(len(scene.seen) for scene in shops) > len(shops)


def test_backgrounds_change_the_picture_and_nothing_else():
    garment = random_garment(np.random.default_rng(1), ["trousers"])
    photograph = Image.fromarray(np.random.default_rng(0).integers(0, 255, (700, 900, 3), np.uint8))
    differing = 0
    for number in range(4):
        drawn, photographed = (
            user_picture((garment, 1), np.random.default_rng(number), backgrounds)
            for backgrounds in ((), (photograph,))
        )
        assert [(s.box, s.outlines, s.visible) for s in drawn.seen] == [
            (s.box, s.outlines, s.visible) for s in photographed.seen
        ]
        differing += drawn.picture != photographed.picture
    assert differing


def rasterised(outlines, shape):
    canvas = Image.new("1", (shape[1], shape[0]))
    for outline in outlines:
        ImageDraw.Draw(canvas).polygon(outline, 1)
    return np.asarray(canvas)


def test_outlines_follow_the_mask():
    y, x = np.mgrid[0:120, 0:90]
    mask = ((x - 30) ** 2 + (y - 40) ** 2 < 24**2) | ((np.abs(x - 70) < 12) & (np.abs(y - 90) < 20))
    outlines = outlines_of(mask)
    assert len(outlines) == 2
    drawn = rasterised(outlines, mask.shape)
    assert (drawn & mask).sum() / (drawn | mask).sum() > 0.9


def test_outlines_of_little_are_its_box_and_of_nothing_none():
    mask = np.zeros((20, 20), bool)
    assert outlines_of(mask) == []
    mask[5:7, 3:6] = True
    assert outlines_of(mask) == [[3, 5, 6, 5, 6, 7, 3, 7]]


def test_captions_name_only_what_is_visible():
    random = np.random.default_rng(4)
    told = 0
    for _ in range(300):
        garment = random_garment(random)
        always = {"colour", "pattern", "fabric"}
        hidden = {name for name in garment.attributes if name not in always and random.random() < 0.5}
        captions = captions_of(garment, garment.attributes.keys() - hidden, random)
        text = f" {captions.short}. {captions.medium} {captions.long}".lower()
        assert not any(character.isdigit() for character in text)
        for name, wordings in AFTER.items():
            for value, said in wordings.items():
                named = any(words.lower() in text for words in said)
                true = garment.has(name, value) and name not in hidden
                overlapping = any(  # "a zip" says nothing of "a zipped …"
                    words.lower() in true_words.lower()
                    for words in said
                    for other, visible in AFTER.items()
                    if other in garment.attributes and other not in hidden
                    for true_words in visible[garment.attributes[other]]
                )
                assert true or not named or overlapping, (name, value, text)
                told += named
        for name in hidden & {"fit", "length"}:
            for words in BEFORE[name][garment.attributes[name]]:
                others = " ".join(garment.attributes[n] for n in garment.attributes.keys() - hidden)
                assert f" {words.lower()} " not in text or words.lower() in f"{others} short", (words, text)
        assert 0 < len(captions.short) < len(captions.medium) < len(captions.long)
    assert told > 300


def test_captions_vary_in_wording():
    garment = random_garment(np.random.default_rng(0), ["long sleeve dress"])
    captions = [captions_of(garment, garment.attributes, np.random.default_rng(seed)) for seed in range(20)]
    assert len({each.long for each in captions}) > 10
