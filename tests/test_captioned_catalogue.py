"""Captions in a catalogue: stored, searched by words and filters, in descriptors where the regime says so."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from lookalike import calibration, images, upkeep
from lookalike.catalogue import Catalogue
from lookalike.errors import BadInput, LookalikeError, WrongEncoder
from lookalike.refining import Refinement, refined
from lookalike.settings import regime_for
from lookalike.testing import ThumbnailEncoder
from lookalike.values import Box, Caption, Claim, Floats, Hits, Maps, Picture, Region, unit
from saving import save

OpenShop = Callable[..., Catalogue]

COLOURS = ("red", "green", "blue", "navy", "black", "white", "grey", "pink")


class Reader:
    """A stand-in encoder that was trained with captions: a thumbnail, and the colours that words name."""

    name, fingerprint = "reader", "reader-1"
    captioned = True
    dim = ThumbnailEncoder.dim + 2 * len(COLOURS)

    def pictures(self, regions: Sequence[Region], captions: Sequence[str] | None = None) -> Floats:
        seen = ThumbnailEncoder().pictures(regions)
        told = self._bags(captions or [""] * len(regions))
        return unit(np.concatenate([seen, 0.1 * self._bags(["grey"] * len(regions)), 0.7 * told], axis=1))

    def texts(self, texts: Sequence[str]) -> Floats:
        bags = self._bags(texts)
        seen = np.zeros((len(texts), ThumbnailEncoder.dim), np.float32)
        return unit(np.concatenate([seen, bags, np.zeros_like(bags)], axis=1))

    def maps(self, pictures: Sequence[Picture]) -> Maps | None:
        return ThumbnailEncoder().maps(pictures)

    @staticmethod
    def _bags(texts: Sequence[str]) -> Floats:
        return np.array([[colour in text.split() for colour in COLOURS] for text in texts], np.float32)


class Other(Reader):
    """The same once more, trained anew."""

    fingerprint = "reader-2"


class Dictated:
    """A captioner that says what it is told to, by the folder that a picture lies in."""

    def __init__(self, words: dict[str, str], name: str = "dictated") -> None:
        self.name, self.words, self.asked = name, words, 0

    def captions(self, regions: Sequence[Region]) -> list[Caption]:
        self.asked += len(regions)
        return [self._caption(Path(region.picture.source).parent.name) for region in regions]

    def _caption(self, item: str) -> Caption:
        if item not in self.words:
            return Caption("", self.name, error="it does not know")
        colour = self.words[item]
        claims = (
            Claim(colour, "colour", colour, {"pixels": 0.8}),
            Claim("a hood", "neckline", "hood", {"pixels": 0.1}, believed=False),
        )
        return Caption(f"a {colour} thing", self.name, claims=claims)


WORDS = {f"item-{number}": colour for number, colour in enumerate(COLOURS[:6])}


def test_captions_can_be_searched_by_words_and_filters(pictures: Path, open_shop: OpenShop) -> None:
    shop = open_shop()
    report = shop.add(pictures, captioner=Dictated(WORDS))
    assert (report.captions, report.uncaptioned) == (7, ())
    (hit,) = shop.search(text="navy")
    assert (hit.item, hit.caption) == ("item-3", "a navy thing")
    assert [hit.item for hit in shop.search(text="thing", where="seen_colour = 'Blue'")] == ["item-2"]
    assert {hit.item for hit in shop.search(text="thing", where="seen_colour in ('red', 'green')")} == {
        "item-0",
        "item-1",
    }
    with pytest.raises(BadInput, match="seen_neckline"):  # nobody believes in the hood
        shop.search(text="thing", where="seen_neckline = 'hood'")
    assert upkeep.info(shop)["captions"] == 7
    (row,) = [row for row in shop.store.scan() if row.item.id == "item-3"]
    assert row.caption is not None
    assert [claim.believed for claim in row.caption.claims] == [True, False]
    assert row.caption.claims[0].support == {"pixels": 0.8}


def test_bare_descriptors_stay_when_captions_come(pictures: Path, open_shop: OpenShop) -> None:
    """In the regimes `image` and `train` only words are added: nothing is encoded, no key changes."""
    shop = open_shop(encoder=Reader())
    assert shop.regime == "train"
    shop.add(pictures)
    with shop.store.view() as view:
        keys, before = view.keys, view.vectors(view.keys)
    captioner = Dictated(WORDS)
    report = shop.add(pictures, captioner=captioner)
    assert (report.captions, captioner.asked) == (7, 7)
    with shop.store.view() as view:
        np.testing.assert_array_equal(view.keys, keys)
        np.testing.assert_array_equal(view.vectors(keys), before)
        meant = Reader().texts([row.caption.text for row in view.rows(keys) if row.caption])
        np.testing.assert_allclose(view.meanings(keys), meant, atol=1e-3)
    shop.add(pictures, captioner=captioner)
    assert captioner.asked == 7  # they have this captioner's captions
    other = Dictated(dict.fromkeys(WORDS, "pink"), name="another")
    shop.add(pictures, captioner=other)
    assert other.asked == 7
    assert {row.caption.text for row in shop.store.scan() if row.caption} == {"a pink thing"}
    assert shop.search(text="thing", where="seen_colour = 'navy'") == []


def test_failures_are_told_keep_the_old_caption_and_are_asked_again(
    pictures: Path, open_shop: OpenShop
) -> None:
    shop = open_shop()
    some = Dictated({"item-0": "red"})
    report = shop.add(pictures, captioner=some)
    assert (report.captions, len(report.uncaptioned)) == (2, 5)
    assert report.uncaptioned[0].error == "it does not know"
    assert report.items == 6
    asked = some.asked
    shop.add(pictures, captioner=some)
    assert some.asked == asked + 5
    report = shop.add(pictures, captioner=Dictated({"item-1": "green"}, name="another"))
    assert {row.caption.text for row in shop.store.scan() if row.caption} == {"a red thing", "a green thing"}


def test_in_the_gallery_regimes_captions_are_in_descriptors(pictures: Path, open_shop: OpenShop) -> None:
    shop = open_shop(encoder=Reader(), regime="train+gallery")
    shop.add(pictures, captioner=Dictated(WORDS))
    rows = list(shop.store.scan())
    told = Reader().pictures(
        [Region(images.load(row.source)) for row in rows], [row.caption.text for row in rows if row.caption]
    )
    np.testing.assert_allclose(np.stack([row.vector for row in rows]), told, atol=1e-3)
    shop.add(pictures, captioner=Dictated(dict.fromkeys(WORDS, "pink"), name="another"))
    again = list(shop.store.scan())
    assert not np.allclose(again[0].vector, rows[0].vector, atol=1e-3)


def test_query_captions_are_refused_with_the_reason(pictures: Path, open_shop: OpenShop) -> None:
    picture = pictures / "item-3" / "front.png"
    shop = open_shop()
    shop.add(pictures)
    with pytest.raises(BadInput, match="thumbnail was not trained with captions"):
        shop.search(picture, caption="navy")


@pytest.mark.parametrize("regime", ["train", "train+gallery"])
def test_a_catalogue_of_another_regime_refuses_query_captions(
    pictures: Path, open_shop: OpenShop, regime: str
) -> None:
    shop = open_shop(encoder=Reader(), regime=regime)
    shop.add(pictures)
    with pytest.raises(BadInput, match=re.escape(f"built for the regime '{regime}'")) as caught:
        shop.search(pictures / "item-3" / "front.png", caption="navy")
    assert "--regime train+gallery+query" in caught.value.hint
    with pytest.raises(BadInput, match="built for the regime"):
        next(refined(shop, Dictated(WORDS), pictures / "item-3" / "front.png"))


def test_regimes_that_cannot_be(pictures: Path, open_shop: OpenShop) -> None:
    with pytest.raises(BadInput, match="thumbnail was not trained with captions"):
        open_shop(regime="train+gallery")
    with pytest.raises(BadInput, match=r"no regime is called 'train\+query'"):
        open_shop(encoder=Reader(), regime="train+query")
    open_shop(encoder=Reader(), regime="train")
    with pytest.raises(BadInput, match="built for the regime 'train'"):
        open_shop(encoder=Reader(), regime="train+gallery")
    assert regime_for(Reader(), None, "train+gallery") == "train+gallery"
    assert regime_for(Reader(), None, "image") == "train"
    assert regime_for(ThumbnailEncoder(), None, "train+gallery") == "image"


def test_reindexing_changes_the_regime(pictures: Path, open_shop: OpenShop) -> None:
    shop = open_shop(encoder=Reader())
    shop.add(pictures, captioner=Dictated(WORDS))
    bare = {row.source: row.vector for row in shop.store.scan()}
    upkeep.reindex(shop, Reader(), "train+gallery+query")
    shop = open_shop(encoder=Reader())
    assert shop.regime == "train+gallery+query"
    for row in shop.store.scan():
        assert row.caption is not None
        told = Reader().pictures([Region(images.load(row.source))], [row.caption.text])[0]
        np.testing.assert_allclose(row.vector, told, atol=1e-3)
        assert not np.allclose(row.vector, bare[row.source], atol=1e-3)
        assert row.meaning is not None
        np.testing.assert_allclose(row.meaning, Reader().texts([row.caption.text])[0], atol=1e-3)


# Two phases


@pytest.fixture
def shop(pictures: Path, open_shop: OpenShop) -> Catalogue:
    """Six items; the query of item-3 looks a little more like another one, its caption says what it is."""
    made = open_shop(encoder=Reader(), regime="train+gallery+query")
    made.add(pictures, captioner=Dictated(WORDS))
    return made


@pytest.fixture
def query(shop: Catalogue, tmp_path: Path) -> Path:
    """A picture that lies between item-2 and item-3, nearer to the first."""
    folder = tmp_path / "item-3"
    folder.mkdir()
    rows = {row.item.id: images.load(row.source).pixels.astype(float) for row in shop.store.scan()}
    from PIL import Image

    mixed = 0.62 * rows["item-2"] + 0.38 * rows["item-3"]
    Image.fromarray(mixed.astype(np.uint8)).save(folder / "query.png")
    return folder / "query.png"


def _phases(*arguments: object, **options: object) -> tuple[Hits, Refinement]:
    hits, refinement = refined(*arguments, **options)  # type: ignore[arg-type]
    assert isinstance(hits, Hits)
    assert isinstance(refinement, Refinement)
    return hits, refinement


def test_first_the_hits_of_the_picture_then_those_with_its_caption(shop: Catalogue, query: Path) -> None:
    hits, refinement = _phases(shop, Dictated(WORDS), query, Box(0, 0, 90, 120))
    assert hits[0].item == "item-2"
    assert [hit.item for hit in hits] == [hit.item for hit in shop.search(query, Box(0, 0, 90, 120))]
    assert (refinement.outcome, refinement.caption and refinement.caption.text) == ("refined", "a navy thing")
    assert refinement.hits is not None
    assert refinement.hits[0].item == "item-3"
    assert 0 < refinement.first_ms < refinement.ms


def test_a_catalogue_that_gets_another_encoder_meanwhile_is_not_compared_with(
    shop: Catalogue, query: Path
) -> None:
    search = refined(shop, Dictated(WORDS), query, Box(0, 0, 90, 120))
    assert isinstance(next(search), Hits)
    upkeep.reindex(shop, Other(), "train+gallery+query")
    with pytest.raises(WrongEncoder):
        next(search)


def test_a_caption_that_changes_nothing_changes_nothing(shop: Catalogue, query: Path) -> None:
    hits, refinement = _phases(shop, Dictated({"item-3": "blue"}), query)
    assert hits[0].item == "item-2"
    assert (refinement.outcome, refinement.hits) == ("unchanged", None)


@pytest.mark.parametrize("error", [LookalikeError("the server is gone"), ValueError("a bug")])
def test_whatever_a_captioner_does_the_first_hits_stand(
    shop: Catalogue, query: Path, error: Exception
) -> None:
    class Broken(Dictated):
        def captions(self, regions: Sequence[Region]) -> list[Caption]:
            raise error

    search = refined(shop, Broken({}), query)
    assert isinstance(next(search), Hits)
    refinement = next(search)
    assert isinstance(refinement, Refinement)
    assert (refinement.outcome, refinement.caption and refinement.caption.error) == ("failed", str(error))
    hits, refinement = _phases(shop, Dictated({}), query)
    assert (refinement.outcome, refinement.hits) == ("failed", None)
    assert len(hits) == 6


def test_a_late_caption_is_not_waited_for(shop: Catalogue, query: Path) -> None:
    go = threading.Event()
    done = threading.Event()

    class Slow(Dictated):
        def captions(self, regions: Sequence[Region]) -> list[Caption]:
            assert go.wait(30)
            done.set()
            return super().captions(regions)

    _, refinement = _phases(shop, Slow(WORDS), query, deadline_s=0.05)
    assert (refinement.outcome, refinement.caption) == ("late", None)
    go.set()
    assert done.wait(30)  # it is finished all the same, for the cache


def test_with_a_box_the_captioner_starts_before_the_picture_is_encoded(
    shop: Catalogue, query: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = threading.Event()

    class Eager(Dictated):
        elsewhere = True

        def captions(self, regions: Sequence[Region]) -> list[Caption]:
            asked.set()
            return super().captions(regions)

    encode = shop.encoder.pictures

    def waiting(regions: Sequence[Region], captions: Sequence[str] | None = None) -> Floats:
        assert asked.wait(30)
        return encode(regions, captions)

    monkeypatch.setattr(shop.encoder, "pictures", waiting)
    _, refinement = _phases(shop, Eager(WORDS), query, Box(0, 0, 90, 120))
    assert refinement.outcome == "refined"


def test_a_captioner_of_this_machine_starts_after_the_first_hits(shop: Catalogue, query: Path) -> None:
    captioner = Dictated(WORDS)
    search = refined(shop, captioner, query, Box(0, 0, 90, 120))
    assert isinstance(next(search), Hits)
    assert captioner.asked == 0
    refinement = next(search)
    assert isinstance(refinement, Refinement)
    assert (refinement.outcome, captioner.asked) == ("refined", 1)


def test_a_picture_of_the_catalogue_needs_no_captioner(shop: Catalogue, pictures: Path) -> None:
    captioner = Dictated(WORDS)
    _, refinement = _phases(shop, captioner, Region(images.load(pictures / "item-3" / "front.png")))
    assert captioner.asked == 0
    assert refinement.caption is not None
    assert refinement.caption.text == "a navy thing"


def test_nothing_believed_is_nothing_said(shop: Catalogue, query: Path) -> None:
    class Doubted(Dictated):
        def captions(self, regions: Sequence[Region]) -> list[Caption]:
            claim = Claim("red", "colour", "red", {"pixels": 0.0}, believed=False)
            return [Caption("", self.name, claims=(claim,)) for _ in regions]

    _, refinement = _phases(shop, Doubted(WORDS), query)
    assert (refinement.outcome, refinement.hits) == ("nothing said", None)


@pytest.mark.parametrize("gate", ["margin", "disagreement"])
def test_a_gate_lets_sure_answers_pass_and_asks_for_the_others(
    shop: Catalogue, query: Path, gate: str
) -> None:
    captioner = Dictated(WORDS)
    _, refinement = _phases(shop, captioner, query, gate=gate)
    assert refinement.outcome == "refined"  # six items are too few to calibrate a gate: nothing is sure
    assert captioner.asked == 1
    with shop.open_writer() as store:
        store.meta[gate] = "-1"
    _, refinement = _phases(shop, captioner, query, gate=gate)
    assert (refinement.outcome, captioner.asked) == ("sure", 1)
    with shop.open_writer() as store:
        store.meta[gate] = "1.1"
    _, refinement = _phases(shop, captioner, query, gate=gate)
    assert (refinement.outcome, captioner.asked) == ("refined", 2)
    with pytest.raises(BadInput, match="no gate is called"):
        next(refined(shop, captioner, query, gate="chance"))


@pytest.mark.parametrize("language", [None, np.ones(Reader.dim, np.float32)])
def test_gates_are_calibrated_where_queries_have_captions(
    tmp_path: Path, open_shop: OpenShop, monkeypatch: pytest.MonkeyPatch, language: Floats | None
) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 1)  # one snapshot after the other
    for number in range(60):
        save(tmp_path / "many" / f"item-{number}" / "front.png", number)
    shop = open_shop(encoder=Reader(), regime="train+gallery+query")
    shop.add(tmp_path / "many", calibrate=False)
    with shop.store.view() as view:
        vectors = iter(view.vectors(np.random.default_rng(0).permutation(view.keys)))

    def look(picture: Picture) -> list[tuple[Region, Floats]]:
        """Sees right through every made-up street: each product finds itself."""
        return [(Region(picture), next(vectors))]

    with shop.open_writer() as store:
        calibration.calibrate(store, look, language)
    assert "confident_from" in shop.store.meta
    if language is None:
        assert not {"margin", "disagreement"} & set(shop.store.meta)
        return
    assert float(shop.store.meta["margin"]) > 0.9
    assert float(shop.store.meta["disagreement"]) == 1.0  # the whole descriptor was called its language part
    upkeep.reindex(shop, Reader(), "train")
    assert not {"margin", "disagreement", "confident_from"} & set(shop.store.meta)


def test_sure_from() -> None:
    values, right = [0.9, 0.8, 0.7, 0.6], [True, True, False, True]
    assert calibration.sure_from(values, right) == 0.8
    assert calibration.sure_from(values, [True] * 4) == 0.6
    assert calibration.sure_from(values, [False, True, True, True]) is None
    assert calibration.sure_from([], []) is None
    assert calibration.sure_from([0.5, 0.5, 0.4], [True, False, True]) is None  # equal values: all or none
    many = calibration.sure_from(np.linspace(1, 0, 100).tolist(), [True] * 50 + [False] * 50)
    assert many == pytest.approx(1 - 51 / 99)  # 50 of 52 are 96 %


def test_hits_come_before_a_captioner_answers(shop: Catalogue, query: Path) -> None:
    class Slow(Dictated):
        def captions(self, regions: Sequence[Region]) -> list[Caption]:
            time.sleep(0.5)
            return super().captions(regions)

    _, refinement = _phases(shop, Slow(WORDS), query, Box(0, 0, 90, 120))
    assert refinement.ms - refinement.first_ms >= 0.5e3 - refinement.first_ms
    assert refinement.outcome == "refined"
