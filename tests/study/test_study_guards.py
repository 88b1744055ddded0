"""Guards, with a model whose two projections are the identity: what agrees is known beforehand."""

from collections.abc import Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from lookalike.datasets import Labelled, Side
from lookalike.errors import BadInput
from lookalike.learn.models.adapted import Adapted
from lookalike.learn.models.x2vlm import X2VLM, X2VLMConfig
from lookalike.learn.sampling import others
from lookalike.learn.scoring import described
from lookalike.learn.sources import Looked
from lookalike.learn.tokens import SIDES
from lookalike.study.guards import GUARDS, PLACES, Guarding, Tuned, crossing, tuned
from lookalike.study.material import Material
from lookalike.trust import Trust
from lookalike.values import Floats

COLOURS = (
    "red",
    "blue",
    "green",
    "black",
    "white",
    "yellow",
    "pink",
    "purple",
    "orange",
    "brown",
    "grey",
    "navy",
)
WIDTH, EACH = 16, 4  # of all vectors; regions of each identity
CONFIG = replace(
    X2VLMConfig.tiny(), vision_width=WIDTH, vision_heads=1, vision_depth=1, text_width=WIDTH, text_layers=0,
    embedding=WIDTH, heads=("temp", "vision_proj", "text_proj", "bbox_head"),
)  # fmt: skip
TUNED = Tuned(Trust(0.6, 0.1, 0.2), 0.3, 0.8, {"gallery": 0.4, "queries": 0.8})


def meant(text: str) -> Floats:
    """A direction for each colour that a text names, and a shorter one for what all are."""
    found = np.zeros(WIDTH, np.float32)
    words = text.split()
    for place, colour in enumerate(COLOURS):
        found[place] = colour in words
    found[-1] = 0.8 * ("skirt" in words)
    return found


class Meanings:
    def of(self, texts: Sequence[str]) -> tuple[torch.Tensor, torch.Tensor]:
        states = torch.from_numpy(np.array([[meant(text)] * 2 for text in texts]))
        return states + 1e-3, torch.ones(len(texts), 2, dtype=torch.long)


class Skirts:
    """Of each colour's identity some pictures, the first is asked with."""

    def __init__(self, seed: int) -> None:
        self.identities = np.repeat(np.arange(len(COLOURS)), EACH)
        self.sides = np.tile(
            [SIDES.index(Side.QUERY)] + [SIDES.index(Side.GALLERY)] * (EACH - 1), len(COLOURS)
        )
        self.captions = [f"a {COLOURS[identity]} skirt" for identity in self.identities.tolist()]
        self.regions = [
            Labelled(
                str(place),
                f"{place}.png",
                SIDES[side],
                str(identity),
                str(identity),
                captions=(self.captions[place],),
            )
            for place, (identity, side) in enumerate(zip(self.identities, self.sides, strict=True))
        ]
        self.facts: dict[str, object] = {}
        clean = np.array([meant(caption) for caption in self.captions])
        noise = np.random.default_rng(seed).normal(0, 0.15, (len(clean), 4, WIDTH))
        self._tokens = torch.from_numpy((clean[:, None] + noise).astype(np.float32))

    def look(self, regions: Any, draws: Any = None) -> Looked:
        tokens = self._tokens[regions]
        image = torch.cat([torch.zeros_like(tokens[:, :1]), tokens], dim=1)
        return Looked(image, torch.ones(len(regions), 4), torch.full((len(regions), 4), 0.5))


def shifted(source: Skirts, by: int) -> list[str]:
    """Everybody's captions with those of an identity further on."""
    return [f"a {COLOURS[(identity + by) % len(COLOURS)]} skirt" for identity in source.identities.tolist()]


@pytest.fixture(scope="module")
def model() -> Adapted:
    torch.manual_seed(0)
    vlm = X2VLM(CONFIG)
    vlm.vision_encoder = vlm.text_encoder.bert.embeddings = torch.nn.Identity()
    with torch.no_grad():
        for projection in (vlm.vision_proj, vlm.text_proj):
            projection.weight.copy_(torch.eye(WIDTH))
            projection.bias.zero_()
    made = Adapted(vlm)
    torch.nn.init.normal_(made.identity.weight[:, WIDTH:].data, std=0.5)
    return made.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def material() -> Material:
    parts: dict[str, Any] = {"training": Skirts(0), "tuning": Skirts(1), "validation": Skirts(2)}
    said = {}
    for part, source in parts.items():
        half = [own if number % 2 else other for number, (own, other) in enumerate(
            zip(source.captions, shifted(source, 5), strict=True))]  # fmt: skip
        of = {
            "annotation": source.captions, "wrong": shifted(source, 3),
            "shuffled": [source.captions[place] for place in others(source.identities).tolist()],
            "half": half, "silent": [""] * len(half),
        }  # fmt: skip
        said |= {(name, part): tuple((text,) if text else () for text in told) for name, told in of.items()}
    return Material(parts, Meanings(), said, "validation", {})


@pytest.fixture(scope="module")
def guarding(model: Adapted, material: Material) -> Guarding:
    bare = described(model, material.queried, material.texts)
    return Guarding(model, material, "validation", bare, threshold=0.3)


def test_captions_pay_until_their_gains_cross_zero() -> None:
    assert crossing((0, 0.5, 1), (0.02, 0.01, -0.01)) == pytest.approx(0.75)
    assert crossing((0, 0.5, 1), (0.02, -0.02, 0.5)) == pytest.approx(0.25)
    assert crossing((0, 0.5, 1), (0.02, 0.01, 0.0)) == 1
    assert crossing((0, 0.5, 1), (-0.01, 0.5, 0.5)) == -1
    assert crossing((0, 0.5, 1), (0.0, -0.1, -0.1)) == 0


def test_what_agreement_means_is_found_on_the_tuning_part(model: Adapted, material: Material) -> None:
    found = tuned(model, material)
    tuning = material.parts["tuning"]
    own, other = (
        np.array([each.text @ each.language for each in _rows(model, material, name)])
        for name in ("annotation", "shuffled")
    )
    assert found.trust.right == pytest.approx(own.mean(), abs=1e-5) and found.trust.right > found.trust.wrong
    assert found.trust.wrong == pytest.approx(other.mean(), abs=1e-5)
    assert (own >= found.threshold - 1e-6).mean() == pytest.approx(0.95, abs=1 / len(tuning.regions))
    assert found.refused == pytest.approx((other < found.threshold).mean()) and found.refused > 0.8
    assert set(found.pays) == set(PLACES) and all(-1 <= share <= 1 for share in found.pays.values())


def _rows(model: Adapted, material: Material, name: str) -> list[SimpleNamespace]:
    said = material.one_each(name, "tuning")
    found = described(model, material.parts["tuning"], material.texts, said)
    return [SimpleNamespace(text=t, language=s) for t, s in zip(found.text, found.language, strict=True)]


def test_without_a_guard_all_is_believed(guarding: Guarding, material: Material) -> None:
    for guard in ("", "weight"):
        assert guarding.believed(guard, "wrong") == material.one_each("wrong", "validation")


def test_wrong_claims_are_left_out_of_a_caption(guarding: Guarding, material: Material) -> None:
    assert guarding.believed("claims", "annotation") == material.one_each("annotation", "validation")
    assert set(guarding.believed("claims", "wrong")) == {"skirt"}


def test_whole_captions_are_believed_one_by_one(guarding: Guarding, material: Material) -> None:
    right = np.array(guarding.believed("caption", "annotation"))
    assert (right == material.one_each("annotation", "validation")).mean() > 0.8
    assert (np.array(guarding.believed("caption", "wrong")) == "").mean() > 0.8
    half, own = np.array(guarding.believed("caption", "half")), np.array(right)
    assert (half[1::2] == own[1::2]).all() and (half[::2] == "").mean() > 0.8


def test_a_source_that_seems_too_wrong_is_not_believed_at_all(guarding: Guarding) -> None:
    pays = {"gallery": 0.4, "queries": 0.8}
    guarding.__dict__["tuned"] = replace(guarding.tuned, pays=pays)
    try:
        assert guarding.share("annotation") < 0.1
        assert guarding.share("half") == pytest.approx(0.5, abs=0.1)
        assert guarding.share("wrong") > 0.9 and guarding.share("silent") == 1
        for place in PLACES:
            assert guarding.believed("source", "annotation", place) == guarding.believed(
                "caption", "annotation"
            )
            assert not any(guarding.believed("source", "wrong", place))
        assert not any(guarding.believed("source", "half", "gallery"))
        assert guarding.believed("source", "half", "queries") == guarding.believed("caption", "half")
    finally:
        del guarding.__dict__["tuned"]


def test_no_guard_reads_a_label_of_the_searched_part(
    model: Adapted, material: Material, guarding: Guarding
) -> None:
    blind = Skirts(2)
    blind.identities = np.zeros_like(blind.identities)
    hidden = replace(material, parts={**material.parts, "validation": blind})
    other = Guarding(model, hidden, "validation", described(model, blind, material.texts), 0.3)
    for guard in GUARDS:
        for place in PLACES:
            assert other.believed(guard, "half", place) == guarding.believed(guard, "half", place)


def test_what_is_not_believed_is_as_without_captions(
    model: Adapted, material: Material, guarding: Guarding
) -> None:
    bare = described(model, material.queried, material.texts)
    found, trust = guarding.looked("caption", "half")
    told, _ = guarding.looked("", "half")
    kept = trust == 1
    assert kept.tolist() == [bool(text) for text in guarding.believed("caption", "half")]
    np.testing.assert_allclose(found.identity[~kept], bare.identity[~kept], atol=1e-6)
    np.testing.assert_allclose(found.identity[kept], told.identity[kept], atol=1e-6)
    assert np.abs(told.identity - bare.identity).max() > 0.01
    silent, none = guarding.looked("source", "silent")
    assert not any(none) and np.array_equal(silent.identity, bare.identity)


def test_a_caption_weighs_as_much_as_it_seems_right(
    model: Adapted, material: Material, guarding: Guarding
) -> None:
    bare = described(model, material.queried, material.texts)
    for name, is_right in (("annotation", True), ("wrong", False)):
        told, _ = guarding.looked("", name)
        found, trust = guarding.looked("weight", name)
        moved = np.linalg.norm(found.identity - bare.identity, axis=1)
        whole = np.linalg.norm(told.identity - bare.identity, axis=1)
        chance = guarding.tuned.trust.chance(guarding.agreements(material.one_each(name, "validation")))
        assert np.array_equal(trust, chance)
        assert (chance.mean() > 0.8) if is_right else (chance.mean() < 0.2)
        assert (moved <= whole + 1e-6).all() and (moved.mean() > whole.mean() / 2) == is_right
        np.testing.assert_allclose(np.linalg.norm(found.identity, axis=1), 1, atol=1e-5)
        assert np.array_equal(found.language, bare.language)


def test_captions_of_a_wrong_source_count_for_next_to_nothing(guarding: Guarding) -> None:
    _, trust = guarding.looked("chance", "wrong")
    assert trust.max() < 0.2


def test_an_unknown_guard_is_named(guarding: Guarding) -> None:
    with pytest.raises(BadInput, match="captoin"):
        guarding.believed("captoin", "wrong")


def test_without_captions_to_learn_from_none_is_believed(model: Adapted, material: Material) -> None:
    silent = Skirts(1)
    silent.regions = [replace(region, captions=()) for region in silent.regions]
    hidden = replace(material, parts={**material.parts, "tuning": silent})
    bare = described(model, material.queried, material.texts)
    guarding = Guarding(model, hidden, "validation", bare)
    assert not any(guarding.believed("caption", "annotation") + guarding.believed("source", "annotation"))
    assert np.allclose(guarding.looked("weight", "annotation")[0].identity, bare.identity, atol=1e-6)
