import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

import lookalike
from lookalike import calibration, images, upkeep
from lookalike.catalogue import Catalogue
from lookalike.errors import BadInput, BadPicture, CatalogueError, WrongEncoder
from lookalike.rerank import SuperGlobal
from lookalike.settings import Settings
from lookalike.testing import ThumbnailEncoder
from lookalike.values import Box, Floats, Picture, Query, Region
from saving import save

OpenShop = Callable[..., Catalogue]


class OtherEncoder(ThumbnailEncoder):
    name, fingerprint = "other", "other-1"

    def pictures(self, regions, captions=None):  # type: ignore[no-untyped-def]
        return -super().pictures(regions, captions)


def test_a_picture_finds_its_own_item(pictures: Path, open_shop: OpenShop) -> None:
    shop = open_shop()
    report = shop.add(pictures)
    assert (report.items, report.pictures, report.regions, report.encoded) == (6, 7, 7, 7)
    for item in sorted(pictures.iterdir()):
        for picture in item.iterdir():
            hits = shop.search(picture, top=3)
            assert hits[0].item == item.name
            assert hits[0].picture == str(picture)
            assert hits[0].score == pytest.approx(1, abs=1e-3)
            assert len({hit.item for hit in hits}) == 3
            assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)
            assert set(hits.timings_ms) == {"decode", "region", "encode", "search", "rerank", "total"}


def test_what_is_stored_and_unchanged_is_not_encoded_again(pictures: Path, open_shop: OpenShop) -> None:
    shop = open_shop()
    shop.add(pictures)
    assert shop.add(pictures).encoded == 0
    save(pictures / "item-7" / "new.png", 7)
    report = shop.add(pictures)
    assert (report.encoded, report.items) == (1, 7)


def test_a_changed_file_replaces_the_picture_it_was(pictures: Path, open_shop: OpenShop) -> None:
    shop = open_shop()
    shop.add(pictures)
    save(pictures / "item-3" / "front.png", 33)
    report = shop.add(pictures)
    assert (report.encoded, report.pictures) == (1, 7)
    assert shop.search(pictures / "item-3" / "front.png", top=1)[0].score == pytest.approx(1, abs=1e-3)


def test_vanished_pictures_are_reported_and_pruned_on_request(pictures: Path, open_shop: OpenShop) -> None:
    shop = open_shop()
    shop.add(pictures)
    shutil.rmtree(pictures / "item-5")
    (pictures / "item-0" / "back.png").unlink()
    report = shop.add(pictures)
    assert {item for item, _ in report.vanished} == {"item-0", "item-5"}
    assert (report.pictures, report.pruned) == (7, 0)
    report = shop.add(pictures, prune=True)
    assert (report.items, report.pictures, report.pruned) == (5, 5, 2)


def test_a_picture_that_went_bad_is_skipped_and_kept(pictures: Path, open_shop: OpenShop) -> None:
    shop = open_shop()
    shop.add(pictures)
    (pictures / "item-2" / "front.png").write_bytes(b"not a picture any more")
    report = shop.add(pictures, prune=True)
    assert len(report.skipped) == 1
    assert "item-2" in report.skipped[0].error
    assert (report.items, report.pruned) == (6, 0)


def test_the_same_bytes_under_two_items_are_two_rows_and_one_encoding(
    tmp_path: Path, open_shop: OpenShop
) -> None:
    folder = tmp_path / "twins"
    save(folder / "a" / "picture.png", 1)
    shutil.copytree(folder / "a", folder / "b")
    save(folder / "a" / "again.png", 1)  # a second name for the same content under one item
    shop = open_shop()
    report = shop.add(folder)
    assert (report.items, report.pictures, report.encoded) == (2, 2, 1)
    assert {hit.item for hit in shop.search(folder / "a" / "picture.png")} == {"a", "b"}
    pairs = list(upkeep.near_duplicates(shop))
    assert [pair.items for pair in pairs] == [("a", "b")]


def test_given_boxes_are_indexed_as_given(tmp_path: Path, open_shop: OpenShop) -> None:
    picture = save(tmp_path / "scene.png", 5)
    rows = [
        {"path": str(picture), "item": "left", "box": [0, 0, 48, 128]},
        {"path": str(picture), "item": "right", "box": [48, 0, 96, 128]},
        {"path": str(picture), "item": "outside", "box": [500, 0, 600, 50]},
    ]
    table = tmp_path / "table.jsonl"
    table.write_text("\n".join(map(json.dumps, rows)))
    shop = open_shop()
    report = shop.add(table)
    assert report.items == 2
    assert ["outside the picture" in skipped.error for skipped in report.skipped] == [True]
    for item, box in (("left", Box(0, 0, 48, 128)), ("right", Box(48, 0, 96, 128))):
        hit = shop.search(picture, box=box, top=1)[0]
        assert (hit.item, hit.box) == (item, box)


def test_a_new_price_does_not_encode_again(tmp_path: Path, open_shop: OpenShop) -> None:
    picture = save(tmp_path / "shirt.png", 5)
    table = tmp_path / "table.jsonl"
    shop = open_shop()
    for price, encoded in ((10, 1), (12, 0)):
        table.write_text(json.dumps({"path": "shirt.png", "item": "shirt", "price": price}))
        assert shop.add(table).encoded == encoded
        assert shop.search(picture)[0].attributes["price"] == price


@pytest.fixture
def clothes(tmp_path: Path, open_shop: OpenShop) -> Catalogue:
    table = tmp_path / "clothes.jsonl"
    rows = [("red jacket", 80.0), ("blue jacket", 40.0), ("red skirt", 30.0), ("green hat", 10.0)]
    with table.open("w") as file:
        for seed, (title, price) in enumerate(rows):
            save(tmp_path / f"{seed}.png", seed)
            file.write(
                json.dumps({"path": f"{seed}.png", "item": str(seed), "title": title, "price": price}) + "\n"
            )
    shop = open_shop()
    shop.add(table)
    return shop


def test_words_find_items_by_title(clothes: Catalogue) -> None:
    hits = clothes.search(text="red jacket")
    assert hits[0].title == "red jacket"
    assert {hit.title for hit in hits} == {"red jacket", "blue jacket", "red skirt"}
    assert hits.region is None
    assert clothes.search(text="submarine") == []


def test_words_reorder_what_a_picture_finds(clothes: Catalogue, tmp_path: Path) -> None:
    without = [hit.item for hit in clothes.search(tmp_path / "3.png")]
    hits = clothes.search(tmp_path / "3.png", text="skirt")
    assert sorted(hit.item for hit in hits) == sorted(without)
    scores = {hit.item: hit.score for hit in clothes.search(tmp_path / "3.png")}
    raised = {hit.item: hit.score - scores[hit.item] for hit in hits}
    assert raised == pytest.approx({"0": 0, "1": 0, "2": 0.2, "3": 0}, abs=1e-5)


def test_filters_hold_for_pictures_and_words(clothes: Catalogue, tmp_path: Path) -> None:
    assert {hit.item for hit in clothes.search(tmp_path / "0.png", where="price < 50")} == {"1", "2", "3"}
    assert [hit.item for hit in clothes.search(text="jacket", where="price < 50")] == ["1"]
    assert clothes.search(tmp_path / "0.png", where="price > 1000") == []


def test_several_views_of_one_object_are_one_query(pictures: Path, open_shop: OpenShop) -> None:
    shop = open_shop()
    shop.add(pictures)
    both = [pictures / "item-0" / "front.png", pictures / "item-0" / "back.png"]
    assert shop.search(both, top=1)[0].item == "item-0"
    with pytest.raises(BadInput, match="one picture"):
        shop.search(both, box=Box(0, 0, 9, 9))


def test_the_region_that_stands_out_is_searched(tmp_path: Path, open_shop: OpenShop) -> None:
    class Halves:
        name = "halves"

        def regions(self, pictures: list[Picture]) -> list[list[Region]]:
            return [[Region(p, Box(0, 0, 96, 128)), Region(p, Box(96, 0, 192, 128))] for p in pictures]

    for seed in range(60):
        save(tmp_path / "shop-pictures" / f"{seed}.png", seed)
    from lookalike.testing import drawing

    scene = Picture.of(np.concatenate([np.full((128, 96, 3), 130, np.uint8), drawing(17)], axis=1))
    shop = open_shop(query_regions=Halves())
    shop.add(tmp_path / "shop-pictures")
    hits = shop.search(scene, top=1)
    assert hits[0].item == "17"
    assert hits.region is not None
    assert hits.region.box == Box(96, 0, 192, 128)


def test_confidence_tells_known_from_unknown_objects(tmp_path: Path, open_shop: OpenShop) -> None:
    for seed in range(120):
        save(tmp_path / "known" / f"{seed}.png", seed)
    shop = open_shop()
    shop.add(tmp_path / "known")
    assert all(shop.search(tmp_path / "known" / f"{seed}.png").confident for seed in range(20))
    unknown = [shop.search(save(tmp_path / "unknown" / f"{s}.png", s)).confident for s in range(1000, 1040)]
    assert sum(map(bool, unknown)) <= 8  # 5 % are meant to pass
    assert shop.search(tmp_path / "known" / "1.png", where="title = 'x'").confident is None


def test_a_small_catalogue_does_not_claim_to_know(pictures: Path, open_shop: OpenShop) -> None:
    shop = open_shop()
    shop.add(pictures)
    assert shop.search(pictures / "item-1" / "front.png").confident is None


def test_rank_is_the_path_of_search(tmp_path: Path, open_shop: OpenShop) -> None:
    for seed in range(500):
        save(tmp_path / "many" / f"{seed % 250}" / f"{seed}.png", seed)
    plain, refined = open_shop(), open_shop(rerank=SuperGlobal(neighbours=3))
    plain.add(tmp_path / "many")
    queries = [tmp_path / "many" / f"{seed}" / f"{seed}.png" for seed in (3, 70, 200)]
    vectors = plain.encoder.pictures([Region(images.load(path)) for path in queries])
    for shop in (plain, refined):
        blocks = list(shop.rank(vectors, group=True))
        keys, scores = (np.concatenate(part) for part in zip(*blocks, strict=True))
        assert keys.shape == scores.shape == (3, 250)
        assert (np.diff(scores, axis=1) <= 0).all()
        few = np.concatenate([some for some, _ in shop.rank(vectors, top=30, group=True)])
        np.testing.assert_array_equal(few, keys[:, :30])
        regions = np.concatenate([keys for keys, _ in shop.rank(vectors)])
        assert all(len(set(row)) == 500 for row in regions.tolist())
        for path, ranked, reached in zip(queries, keys, scores, strict=True):
            hits = shop.search(path, top=30)
            with shop.store.view() as view:
                firsts = [view.regions_of(key[None])[0] for key in ranked[:30]]
                assert [row.item.id for row in view.rows(np.array(firsts))] == [hit.item for hit in hits]
            np.testing.assert_allclose(reached[:30], [hit.score for hit in hits], rtol=1e-5)


def test_rank_answers_words_and_filters_as_search_does(tmp_path: Path, open_shop: OpenShop) -> None:
    table = tmp_path / "table.csv"
    lines = ["path,item,title,price"]
    for seed in range(12):
        save(tmp_path / f"{seed}.png", seed)
        lines.append(f"{seed}.png,{seed},{'red hat' if seed % 3 == 0 else 'blue coat'},{seed}")
    table.write_text("\n".join(lines))
    shop = open_shop()
    shop.add(table)
    path = tmp_path / "5.png"
    vector = shop.encoder.pictures([Region(images.load(path))])[0]
    nothing = np.zeros(0, np.float32)
    asked = [Query(vector, text="red"), Query(nothing, text="hat"), Query(vector)]
    searched = [{"picture": path, "text": "red"}, {"text": "hat"}, {"picture": path}]
    ((keys, scores),) = shop.rank(iter(asked), where="price < 10")
    for ranked, reached, query in zip(keys, scores, searched, strict=True):
        hits = shop.search(**query, where="price < 10", top=12)
        with shop.store.view() as view:
            found = view.rows(ranked[ranked >= 0])
        assert [row.item.id for row in found] == [hit.item for hit in hits]
        np.testing.assert_allclose(reached[ranked >= 0], [hit.score for hit in hits], rtol=1e-5)
    assert (keys[1] >= 0).sum() == 4


def test_another_encoder_is_refused_with_a_hint(pictures: Path, open_shop: OpenShop) -> None:
    open_shop().add(pictures)
    with pytest.raises(WrongEncoder) as caught:
        open_shop(encoder=OtherEncoder())
    assert "reindex" in caught.value.hint
    with pytest.raises(BadInput, match="salient"):
        open_shop(regions="salient")


def test_reindexing_switches_the_encoder(pictures: Path, open_shop: OpenShop) -> None:
    shop = open_shop()
    shop.add(pictures)
    with shop.open_writer() as store:
        store.meta["confident_from"] = "0.5"
    assert upkeep.reindex(shop, OtherEncoder(), "image") == []
    for search in (
        lambda: shop.search(pictures / "item-4" / "front.png"),
        lambda: next(shop.rank(np.zeros((1, shop.encoder.dim), np.float32))),
    ):
        with pytest.raises(WrongEncoder):  # opened before, it does not compare with what it did not make
            search()
    again = open_shop(encoder=OtherEncoder())
    assert again.search(pictures / "item-4" / "front.png", top=1)[0].score == pytest.approx(1, abs=1e-3)
    assert upkeep.info(again)["encoder"] == "other"
    assert "confident_from" not in again.store.meta  # it was the old encoder's
    assert upkeep.verify(again).sound


def test_reindexing_does_not_drop_what_it_cannot_read(pictures: Path, open_shop: OpenShop) -> None:
    shop = open_shop()
    shop.add(pictures)
    shutil.rmtree(pictures / "item-1")
    save(pictures / "item-2" / "front.png", 22)
    with pytest.raises(CatalogueError, match="2 stored pictures"):
        upkeep.reindex(shop, OtherEncoder(), "image")
    assert len(open_shop().search(pictures / "item-0" / "front.png")) == 6
    lost = upkeep.reindex(shop, OtherEncoder(), "image", prune=True)
    assert len(lost) == 2
    assert upkeep.info(open_shop(encoder=OtherEncoder()))["items"] == 4


def test_removing_items(pictures: Path, open_shop: OpenShop) -> None:
    shop = open_shop()
    shop.add(pictures)
    assert shop.remove(["item-0"]) == 2
    assert "item-0" not in {hit.item for hit in shop.search(pictures / "item-0" / "front.png")}
    with pytest.raises(BadInput, match="nobody"):
        shop.remove(["item-1", "nobody"])
    assert upkeep.info(shop)["items"] == 5


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".parquet"])
def test_an_export_reads_back(clothes: Catalogue, tmp_path: Path, suffix: str) -> None:
    out = tmp_path / f"out{suffix}"
    assert upkeep.export(clothes, out) == 4
    if suffix == ".parquet":
        return
    with lookalike.open(
        tmp_path / "copy", Settings(encoder=ThumbnailEncoder(), query_regions="whole")
    ) as copy:
        copy.add(out)
        expected = [(hit.item, hit.title, dict(hit.attributes)) for hit in clothes.search(tmp_path / "2.png")]
        found = [(hit.item, hit.title, dict(hit.attributes)) for hit in copy.search(tmp_path / "2.png")]
    assert found == expected


def test_wrong_questions_are_one_clear_line(clothes: Catalogue, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="nothing to search with"):
        clothes.search()
    with pytest.raises(BadInput, match="nothing to search with"):
        clothes.search([])
    with pytest.raises(BadInput, match="top"):
        clothes.search(text="hat", top=0)
    with pytest.raises(BadPicture, match="absent"):
        clothes.search(tmp_path / "absent.jpg")
    with pytest.raises(BadInput, match="outside"):
        clothes.search(tmp_path / "0.png", box=Box(900, 900, 950, 950))
    with pytest.raises(BadInput, match="superglobl"):
        lookalike.open(tmp_path / "shop", Settings(encoder=ThumbnailEncoder(), rerank="superglobl"))
    with pytest.raises(CatalogueError, match="no catalogue"):
        lookalike.open(tmp_path / "typo", create=False)
    assert not (tmp_path / "typo").exists()


def test_a_gallery_too_small_for_a_threshold_is_not_searched_for_one(
    pictures: Path, open_shop: Callable[..., Catalogue]
) -> None:
    catalogue = open_shop()
    catalogue.add(pictures, calibrate=False)

    def look(_: Picture) -> list[tuple[Region, Floats]]:
        raise AssertionError("six items stand out from nothing")

    facts = calibration.measured(catalogue.store, look, None)
    assert facts["confident_from"] is None and facts["calibrated_at"] == "7"


def test_among_one_item_the_closest_region_counts(
    tmp_path: Path, open_shop: Callable[..., Catalogue]
) -> None:
    """No item stands out from itself: the region that is most like it was meant."""
    save(tmp_path / "one" / "item" / "a.png", 7)
    catalogue = open_shop(query_regions=Corners())
    catalogue.add(tmp_path / "one")
    hits = catalogue.search(tmp_path / "one" / "item" / "a.png")
    assert hits.region is not None and hits.region.box is None and hits[0].score > 0.999
    assert [region.box for region in hits.found][-1] is None and len(hits.found) == 3


class Corners:
    """Finds two corners and the whole."""

    name = "corners"

    def regions(self, pictures: Sequence[Picture]) -> list[list[Region]]:
        boxes = Box(0, 0, 20, 20), Box(60, 90, 96, 128), None
        return [[Region(picture, box) for box in boxes] for picture in pictures]
