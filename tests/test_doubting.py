"""What share of a source's captions seems wrong: found out by a catalogue, kept, and told to its encoder."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from lookalike import building, copying, doubting, upkeep
from lookalike.catalogue import Catalogue
from lookalike.refining import Refinement, refined
from lookalike.settings import Settings, parts_of_build
from lookalike.store import Build
from lookalike.testing import ThumbnailEncoder
from lookalike.trust import UNKNOWN, Trust
from lookalike.values import Caption, Floats, Maps, Picture, Region, unit
from saving import save

OpenShop = Callable[..., Catalogue]


class Weighing:
    """A stand-in encoder that weighs captions: those agree that name the folder a picture lies in."""

    name, fingerprint = "weighing", "weighing-1"
    captioned = True
    trust: Trust | None = Trust(right=0.8, wrong=0.2, deviation=0.1)
    dim = ThumbnailEncoder.dim + 2

    def __init__(self) -> None:
        self.told: list[tuple[str, float]] = []

    def pictures(
        self,
        regions: Sequence[Region],
        captions: Sequence[str] | None = None,
        wrong: Sequence[float] | None = None,
    ) -> Floats:
        seen = ThumbnailEncoder().pictures(regions)
        if captions is not None and wrong is not None:
            self.told += zip(captions, wrong, strict=True)
        shares = np.zeros(len(regions)) if captions is None else np.array(wrong)
        beside = np.stack([np.ones(len(regions)), shares], axis=1)
        return unit(np.concatenate([seen, beside], axis=1).astype(np.float32))

    def texts(self, texts: Sequence[str]) -> Floats:
        rows = np.zeros((len(texts), self.dim), np.float32)
        rows[:, -1] = 1
        return rows

    def maps(self, pictures: Sequence[Picture]) -> Maps | None:
        return ThumbnailEncoder().maps(pictures)

    def agreement(self, regions: Sequence[Region], captions: Sequence[str]) -> Floats:
        named = [Path(region.picture.source).parent.name for region in regions]
        return np.array(
            [0.8 if name in text else 0.2 for name, text in zip(named, captions, strict=True)], np.float32
        )


class Says:
    """A captioner that names the folder of a picture, but of the first `lies` folders another one."""

    def __init__(self, lies: int, name: str = "says") -> None:
        self.name, self.lies = name, lies

    def captions(self, regions: Sequence[Region]) -> list[Caption]:
        return [self._caption(Path(region.picture.source).parent.name) for region in regions]

    def _caption(self, item: str) -> Caption:
        number = int(item.removeprefix("item-")) if item.startswith("item-") else 0
        return Caption("a lie" if number < self.lies else f"it is {item}", self.name)


@pytest.fixture
def many(tmp_path: Path) -> Path:
    folder = tmp_path / "many"
    for number in range(20):
        save(folder / f"item-{number:02}" / "front.png", seed=number)
    (folder / "item-00" / "broken.png").write_bytes(b"no picture")
    return folder


def test_a_captioner_is_doubted_as_far_as_its_captions_disagree(many: Path, open_shop: OpenShop) -> None:
    encoder = Weighing()
    shop = open_shop(encoder=encoder, regime="train+gallery+query")
    report = shop.add(many, captioner=Says(lies=5))
    assert report.doubt == pytest.approx(0.25, abs=1e-6) and shop.doubts == {"says": report.doubt}
    assert {wrong for _, wrong in encoder.told} == {report.doubt} and len(encoder.told) == 20
    assert upkeep.info(shop)["doubts"] == shop.doubts

    again = shop.add(many, captioner=Says(lies=20))  # known already: one catalogue weighs a source alike
    assert again.doubt == report.doubt
    other = shop.add(many, captioner=Says(lies=20, name="liar"))
    assert other.doubt == 1 and shop.doubts == {"says": report.doubt, "liar": 1.0}


def test_a_query_s_caption_is_doubted_as_its_captioner_is(many: Path, open_shop: OpenShop) -> None:
    encoder = Weighing()
    shop = open_shop(encoder=encoder, regime="train+gallery+query")
    shop.add(many, captioner=Says(lies=5))
    query = many / "item-09" / "front.png"
    encoder.told.clear()
    shop.search(query, caption=Caption("red", "says"))
    shop.search(query, caption=Caption("red", "somebody else"))
    shop.search(query, caption="red")
    shares = [wrong for _, wrong in encoder.told]
    assert set(shares[: len(shares) // 3]) == {0.25} and set(shares[len(shares) // 3 :]) == {UNKNOWN}
    encoder.told.clear()
    first, told = refined(shop, Says(lies=0), Picture.of(np.zeros((40, 40, 3), np.uint8)))
    assert isinstance(told, Refinement) and told.caption and {wrong for _, wrong in encoder.told} == {0.25}
    assert first


def test_few_captions_tell_nothing_and_other_regimes_ask_nothing(
    many: Path, tmp_path: Path, open_shop: OpenShop
) -> None:
    few = tmp_path / "few"
    for item in sorted(many.iterdir())[: doubting.LEAST - 1]:
        shutil.copytree(item, few / item.name)
    shop = open_shop(encoder=Weighing(), regime="train+gallery")
    assert shop.add(few, captioner=Says(lies=3)).doubt is None and shop.doubts == {}
    assert shop.add(many, captioner=Says(lies=5)).doubt == 0.25  # asked again where it is not known


def test_captions_beside_descriptors_are_not_doubted(many: Path, open_shop: OpenShop) -> None:
    encoder = Weighing()
    shop = open_shop(encoder=encoder, regime="train")
    assert shop.add(many, captioner=Says(lies=5)).doubt is None
    assert shop.doubts == {} and encoder.told == []


def test_reindexing_doubts_each_stored_source(many: Path, open_shop: OpenShop) -> None:
    shop = open_shop(encoder=Weighing(), regime="train")
    shop.add(many, captioner=Says(lies=5))
    encoder = Weighing()
    upkeep.reindex(shop, encoder, "train+gallery")
    assert shop.doubts == {"says": 0.25}
    assert {wrong for _, wrong in encoder.told} == {0.25} and len(encoder.told) == 20
    upkeep.reindex(shop, encoder, "train")
    assert shop.doubts == {}


def test_all_fragments_of_a_build_are_made_with_one_doubt_that_a_copy_keeps(
    many: Path, tmp_path: Path, open_shop: OpenShop
) -> None:
    encoder, uri = Weighing(), str(tmp_path / "build")
    settings = Settings(encoder=encoder, regime="train+gallery")
    parts, facts = parts_of_build(uri, settings, Says(lies=5))
    begun, plan = building.prepare(uri, [many], facts, size=6)
    assert plan.fragments > 2
    told = building.weighing(begun, plan, parts)
    assert told.doubts == {"says": 0.25}
    again = building.weighing(Build.open(uri), plan, replace(parts, captioner=Says(lies=20)))
    assert again.doubts == told.doubts  # it is settled
    encoder.told.clear()
    report = building.build(begun, plan, parts)
    assert report.doubt == 0.25 and {wrong for _, wrong in encoder.told} == {0.25}
    shop = open_shop(encoder=Weighing(), regime="train+gallery")
    with shop.writing() as store:
        assert copying.to_store(Build.open(uri), store).differences == ()
    assert shop.doubts == {"says": 0.25}


def test_an_encoder_that_does_not_weigh_is_told_nothing(many: Path, open_shop: OpenShop) -> None:
    class Believing(Weighing):
        trust = None

        def pictures(self, regions: Sequence[Region], captions: Sequence[str] | None = None) -> Floats:  # type: ignore[override]
            return super().pictures(regions, None)

    shop = open_shop(encoder=Believing(), regime="train+gallery")
    report = shop.add(many, captioner=Says(lies=5))
    assert report.captions == 20 and report.doubt is None
