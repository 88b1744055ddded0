import json
import shutil
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lookalike.datasets import Dataset, Labelled, Side, Unlisted, open_dataset
from lookalike.datasets.deepfashion2 import CATEGORIES, deepfashion2, evaluation_json, read_json
from lookalike.errors import BadInput
from lookalike.values import Box

GOLDEN = Path(__file__).parents[1] / "golden" / "deepfashion2"


def item(**changes):
    """An item as the official files have it."""
    return {
        "segmentation": [[10, 20, 110, 20, 110, 220]], "scale": 2, "viewpoint": 3, "zoom_in": 1,
        "landmarks": [20, 30, 2, 0, 0, 0], "style": 1, "bounding_box": [10, 20, 110, 220],
        "category_id": 8, "occlusion": 3, "category_name": "trousers",
    } | changes  # fmt: skip


def annotate(root, number, split="validation", text=None, source="user", pair=7, **items):
    """One annotation file and an empty picture beside it."""
    tree = root / split
    (tree / "annos").mkdir(parents=True, exist_ok=True)
    (tree / "image").mkdir(exist_ok=True)
    record = {"source": source, "pair_id": pair} | (items or {"item1": item()})
    file = tree / "annos" / f"{number:06}.json"
    file.write_text(json.dumps(record) if text is None else text)
    (tree / "image" / f"{number:06}.jpg").touch()
    return file


def only(root, split="validation"):
    (region,) = deepfashion2(root).read(split)
    return region


@pytest.fixture
def golden(tmp_path):
    """The golden annotations with empty pictures."""
    shutil.copytree(GOLDEN / "annos", tmp_path / "validation" / "annos")
    (tmp_path / "validation" / "image").mkdir()
    for file in (GOLDEN / "annos").iterdir():
        (tmp_path / "validation" / "image" / f"{file.stem}.jpg").touch()
    return tmp_path


class TestReading:
    def test_an_item_becomes_a_region(self, tmp_path):
        annotate(tmp_path, 12, source="shop", pair=42, item3=item(style=2))
        assert only(tmp_path) == Labelled(
            id="000012/item3",
            source=str(tmp_path / "validation" / "image" / "000012.jpg"),
            side=Side.GALLERY,
            identity="validation/42/2",
            group="validation/42",
            box=Box(10, 20, 110, 220),
            category="trousers",
            facets={"scale": "modest", "occlusion": "heavy", "zoom": "none", "viewpoint": "side or back"},
        )

    def test_style_0_has_no_identity_but_stays_in_its_group(self, tmp_path):
        annotate(tmp_path, 1, item1=item(style=0))
        region = only(tmp_path)
        assert (region.identity, region.group, region.side) == (None, "validation/7", Side.QUERY)

    def test_items_come_by_number_whatever_the_order_of_keys_and_ids_may_skip(self, tmp_path):
        annotate(tmp_path, 2, item10=item(), item2=item(), item1=item())
        annotate(tmp_path, 1, item4=item())
        ids = [region.id for region in deepfashion2(tmp_path).read("validation")]
        assert ids == ["000001/item4", "000002/item1", "000002/item2", "000002/item10"]

    def test_files_come_by_number(self, tmp_path):
        for number in (1000000, 30, 999999, 4):
            annotate(tmp_path, number)
        ids = [region.id[:-6] for region in deepfashion2(tmp_path).read("validation")]
        assert ids == ["000004", "000030", "999999", "1000000"]

    def test_identities_do_not_mix_splits(self, tmp_path):
        annotate(tmp_path, 1, "train")
        annotate(tmp_path, 1, "validation")
        identities = {only(tmp_path, split).identity for split in ("train", "validation")}
        assert identities == {"train/7/1", "validation/7/1"}

    def test_captions_and_attributes_of_the_generated_set(self, tmp_path):
        captions = {
            "long": "wide grey trousers with a crease",
            "short": "trousers",
            "medium": "grey trousers",
        }
        annotate(tmp_path, 1, item1=item(captions=captions, attributes={"colour": "grey"}))
        region = only(tmp_path)
        assert region.captions == ("trousers", "grey trousers", "wide grey trousers with a crease")
        assert region.attributes == {"colour": "grey"}

    def test_dropped_captions_are_passed_over(self, tmp_path):
        annotate(tmp_path, 1, item1=item(captions={"short": "", "medium": "grey trousers"}))
        assert only(tmp_path).captions == ("grey trousers",)

    def test_every_category(self, tmp_path):
        items = {f"item{n}": item(category_id=n, category_name=CATEGORIES[n - 1]) for n in range(1, 14)}
        annotate(tmp_path, 1, **items)
        assert tuple(region.category for region in deepfashion2(tmp_path).read("validation")) == CATEGORIES

    def test_a_picture_without_items_gives_nothing(self, tmp_path):
        annotate(tmp_path, 1, text='{"source": "user", "pair_id": 1}')
        assert list(deepfashion2(tmp_path).read("validation")) == []

    def test_a_folder_that_is_one_split(self, golden):
        whole = deepfashion2(golden)
        alone = deepfashion2(golden / "validation")
        assert alone.splits == ("validation",)
        assert list(alone.read("validation")) == list(whole.read("validation"))

    def test_the_same_at_every_reading(self, golden):
        data = deepfashion2(golden)
        first = list(data.read("validation"))
        assert first == list(data.read("validation"))
        assert len({region.id for region in first}) == len(first) == 53

    def test_reading_is_lazy(self, tmp_path):
        annotate(tmp_path, 1)
        later = annotate(tmp_path, 2)
        regions = deepfashion2(tmp_path).read("validation")
        assert next(regions).id == "000001/item1"
        later.write_text("{broken")  # read only when its turn comes
        assert isinstance(next(regions), Unlisted)

    def test_real_sets_are_not_called_synthetic(self, golden):
        assert deepfashion2(golden).synthetic == ""

    def test_a_generated_set_says_so(self, golden):
        facts = {
            "generator": "street2shop",
            "version": "2",
            "seed": 5,
            "identities": 300,
            "sha256": "ab12",
            "sides": {"user": 3},
        }
        (golden / "street2shop.json").write_text(json.dumps(facts))
        told = "generated street2shop: version 2, seed 5, identities 300, sha256 ab12"
        assert deepfashion2(golden).synthetic == told
        assert deepfashion2(golden / "validation").synthetic == told

    def test_a_generated_set_that_is_still_being_drawn(self, golden):
        (golden / "street2shop.json.part").write_text("{}")
        assert deepfashion2(golden).synthetic == "generated street2shop, unfinished"

    def test_a_generated_set_whose_record_is_broken_is_still_synthetic(self, golden):
        (golden / "street2shop.json").write_text("[")
        assert deepfashion2(golden).synthetic.startswith("generated street2shop, street2shop.json: not JSON")


class TestSplits:
    def test_tuning_is_a_tenth_of_train_cut_by_pair(self, tmp_path):
        for number in range(1, 401):
            annotate(tmp_path, number, "train", pair=number // 2, source="user" if number % 2 else "shop")
        data = deepfashion2(tmp_path)
        assert data.splits == ("train", "training", "tuning")
        train, training, tuning = (list(data.read(split)) for split in data.splits)
        assert sorted(training + tuning, key=lambda region: region.id) == train
        assert {region.group for region in training}.isdisjoint(region.group for region in tuning)
        assert 0.05 < len(tuning) / len(train) < 0.15

    def test_the_cut_is_the_same_everywhere(self, tmp_path):
        for number in range(60):
            annotate(tmp_path, number, "train", pair=number)
        pairs = [int(region.group.split("/")[1]) for region in deepfashion2(tmp_path).read("tuning")]
        assert pairs == [9, 39, 49, 51, 55]

    @pytest.mark.parametrize("split", ["test", "val", ""])
    def test_unknown_splits_are_refused_at_once(self, golden, split):
        (golden / "validation").rename(golden / "train")
        with pytest.raises(BadInput) as error:
            deepfashion2(golden).read(split)
        hint = "use the split validation" if split == "test" else "splits: train, training, tuning"
        assert error.value.hint.startswith(hint)

    def test_the_test_split_has_no_public_annotations(self, tmp_path):
        (tmp_path / "test" / "image").mkdir(parents=True)
        with pytest.raises(BadInput, match="test split are not public") as error:
            open_dataset(tmp_path)
        assert "validation" in error.value.hint


WRONG_ITEMS = [
    ({"style": "1"}, 'style: "1" is text, not a whole number'),
    ({"style": True}, "style: true is true or false, not a whole number"),
    ({"style": 1.5}, "style: 1.5 is a number, not a whole number"),
    ({"style": -1}, "style: -1 is less than 0"),
    ({"style": None}, "style: null is null, not a whole number"),
    ({"category_name": "hat"}, 'category_name: "hat" is text, none of short sleeve top'),
    ({"category_name": 8}, "category_name: 8 is a whole number, not text"),
    ({"category_id": 9}, "category_id: 9, but category_name trousers has 8"),
    ({"scale": 4}, "scale: 4 is more than 3"),
    ({"occlusion": 0}, "occlusion: 0 is less than 1"),
    ({"bounding_box": [110, 20, 10, 220]}, "bounding_box: [110, 20, 10, 220] is inverted"),
    ({"bounding_box": [10, 20, 110, 20]}, "bounding_box: [10, 20, 110, 20] is inverted or empty"),
    ({"bounding_box": [-3, 20, 110, 220]}, "bounding_box: -3 is less than 0"),
    ({"bounding_box": [10, 20, 110]}, "bounding_box: 3 numbers, not four"),
    ({"bounding_box": "10,20,110,220"}, 'bounding_box: "10,20,110,220" is text, not a list'),
    ({"bounding_box": [10, "20", 110, 220]}, 'bounding_box: "20" is text, not a finite number'),
    ({"captions": {"short": 3}}, "captions.short: 3 is a whole number, not text"),
    ({"captions": "grey"}, 'captions: "grey" is text, not an object'),
    ({"captions": {"short": "\ud800"}}, "captions.short: "),
    ({"attributes": {"colour": ["red"]}}, "attributes.colour: ['red'] is a list, not text"),
]


class TestBadInput:
    @pytest.mark.parametrize(("changes", "told"), WRONG_ITEMS)
    def test_a_wrong_item_is_named_and_the_others_stay(self, tmp_path, changes, told):
        file = annotate(tmp_path, 5, item1=item(**changes), item2=item())
        wrong, right = deepfashion2(tmp_path).read("validation")
        assert isinstance(wrong, Unlisted) and wrong.source == str(file)
        assert wrong.error.startswith(f"{file}: item1.{told}")
        assert right.id == "000005/item2"

    @pytest.mark.parametrize(
        "field", ["style", "category_name", "category_id", "scale", "bounding_box", "zoom_in"]
    )
    def test_a_missing_field_of_an_item(self, tmp_path, field):
        incomplete = item()
        del incomplete[field]
        file = annotate(tmp_path, 1, item1=incomplete)
        assert only(tmp_path).error.startswith(f"{file}: item1.{field}: missing")

    @pytest.mark.parametrize("corner", ["NaN", "Infinity", "-Infinity", "1e999", "9" * 400])
    def test_a_box_that_is_not_finite(self, tmp_path, corner):
        record = json.dumps({"source": "user", "pair_id": 1, "item1": item(bounding_box=[1, 2, 3, 77777])})
        annotate(tmp_path, 1, text=record.replace("77777", corner))
        assert "item1.bounding_box: " in only(tmp_path).error
        assert "not a finite number" in only(tmp_path).error

    @pytest.mark.parametrize(
        ("text", "told"),
        [
            ("", "not JSON"),
            ("{", "not JSON"),
            ("[" * 100_000, "not JSON"),
            ("[1]", "the file: [1] is a list, not an object"),
            ('{"source": "user"}', "pair_id: missing"),
            ('{"pair_id": 3}', "source: missing"),
            ('{"pair_id": "3", "source": "user"}', 'pair_id: "3" is text, not a whole number'),
            ('{"pair_id": 3, "source": "street"}', 'source: "street" is text, none of user, shop'),
            ('{"pair_id": 3, "source": "user", "item1": []}', "item1: [] is a list, not an object"),
        ],
    )
    def test_a_wrong_file_is_named(self, tmp_path, text, told):
        file = annotate(tmp_path, 3, text=text)
        wrong = only(tmp_path)
        assert wrong.source == str(file)
        assert wrong.error.startswith(f"{file}: {told}")
        assert "\n" not in wrong.error

    def test_a_missing_picture(self, tmp_path):
        annotate(tmp_path, 3)
        gone = tmp_path / "validation" / "image" / "000003.jpg"
        gone.unlink()
        assert f"picture {gone}: No such file" in only(tmp_path).error

    def test_a_folder_in_the_place_of_a_picture(self, tmp_path):
        annotate(tmp_path, 3)
        gone = tmp_path / "validation" / "image" / "000003.jpg"
        gone.unlink()
        gone.mkdir()
        assert f"picture {gone}: not a regular file" in only(tmp_path).error

    def test_a_file_that_is_not_named_by_a_number(self, tmp_path):
        annotate(tmp_path, 3)
        (tmp_path / "validation" / "annos" / "notes.json").write_text("{}")
        (tmp_path / "validation" / "annos" / ".DS_Store").touch()
        right, wrong = deepfashion2(tmp_path).read("validation")
        assert right.id == "000003/item1"
        assert "notes.json: annotation files are named by numbers" in wrong.error

    @given(
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
            lambda inner: (
                st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
            ),
            max_leaves=8,
        ),
        st.sampled_from([*item(), "captions", "attributes"]),
    )
    def test_no_value_breaks_the_reader(self, tmp_path_factory, value, field):
        root = tmp_path_factory.mktemp("any")
        annotate(root, 1, item1=item(**{field: value}), item2=item())
        first, second = deepfashion2(root).read("validation")
        assert second.id == "000001/item2"
        if isinstance(first, Unlisted):
            assert f"item1.{field}" in first.error and first.error.isprintable()


class TestOfficialFiles:
    @pytest.mark.parametrize("side", [0, 1])
    def test_the_golden_ground_truth_follows_from_the_annotations(self, golden, side):
        made = evaluation_json(deepfashion2(golden), "validation")[side]
        assert made == read_json(GOLDEN / ("query_gt.json", "gallery_gt.json")[side])

    def test_what_is_written_can_be_read_back(self, golden, tmp_path):
        for name, entries in zip(
            ("q", "g"), evaluation_json(deepfashion2(golden), "validation"), strict=True
        ):
            path = tmp_path / f"{name}.json"
            path.write_text(json.dumps(entries))
            assert read_json(path) == entries

    def test_no_ground_truth_from_a_split_with_gaps(self, golden):
        (golden / "validation" / "image" / "000004.jpg").unlink()
        with pytest.raises(BadInput, match="000004"):
            evaluation_json(deepfashion2(golden), "validation")

    def test_golden_results(self):
        results = read_json(GOLDEN / "results.json")
        assert len(results) > 17
        assert all(len(entry["gallery_image_id"]) == 20 for entry in results)

    def test_an_empty_list(self, tmp_path):
        (tmp_path / "results.json").write_text("[]")
        assert read_json(tmp_path / "results.json") == []

    @pytest.mark.parametrize(
        ("name", "changes", "told"),
        [
            ("query_gt", {"query_image_id": "1"}, 'query_image_id: "1" is text, not a whole number'),
            ("query_gt", {"cls": 14}, "cls: 14 is more than 13"),
            ("query_gt", {"bbox": [5, 5, 1, 1]}, "bbox: [5, 5, 1, 1] is inverted"),
            ("gallery_gt", {"style": None}, "style: null is null, not a whole number"),
            ("gallery_gt", {"bbox": None}, "bbox: null is null, not a list"),
            ("results", {"query_score": "high"}, 'query_score: "high" is text, not a finite number'),
            ("results", {"gallery_image_id": [1]}, "gallery_bbox: 20 boxes for 1 gallery_image_id"),
            ("results", {"gallery_image_id": 1}, "gallery_image_id: 1 is a whole number, not a list"),
        ],
    )
    def test_a_wrong_entry_is_named(self, tmp_path, name, changes, told):
        entries = json.loads((GOLDEN / f"{name}.json").read_text())
        entries[2] |= changes
        path = tmp_path / f"{name}.json"
        path.write_text(json.dumps(entries))
        with pytest.raises(BadInput) as error:
            read_json(path)
        assert str(error.value).startswith(f"{path}, entry 3: {told}")

    @pytest.mark.parametrize(("text", "told"), [("{}", "the file: {} is an object"), ("", "not JSON")])
    def test_a_wrong_file_is_named(self, tmp_path, text, told):
        (tmp_path / "gt.json").write_text(text)
        with pytest.raises(BadInput, match=f"gt.json: {told}"):
            read_json(tmp_path / "gt.json")

    def test_no_such_file(self, tmp_path):
        with pytest.raises(BadInput, match="cannot be read"):
            read_json(tmp_path / "gt.json")


def test_it_is_opened_by_what_lies_in_the_folder(golden):
    data = open_dataset(golden)
    assert isinstance(data, Dataset)
    assert (data.name, data.splits) == ("deepfashion2", ("validation",))
