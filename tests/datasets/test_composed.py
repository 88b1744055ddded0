import json

import pytest

from lookalike.datasets import Labelled, Side, Unlisted, open_dataset
from lookalike.errors import BadInput


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def files(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def by_side(regions):
    regions = list(regions)
    assert all(isinstance(region, Labelled) for region in regions), regions
    sides = [[each for each in regions if each.side is side] for side in (Side.QUERY, Side.GALLERY)]
    ids = {region.id for region in sides[1]}
    for query in sides[0]:
        assert all(id in ids for answers in query.truth.values() for id in answers)
        assert query.id not in ids
    return sides


class TestFashionIQ:
    @pytest.fixture
    def folder(self, tmp_path):
        for category in ("dress", "shirt", "toptee"):
            entry = {"target": "B2", "candidate": "B1", "captions": ["is darker.", " has no sleeves"]}
            write(tmp_path / "captions" / f"cap.{category}.val.json", [entry])
            write(
                tmp_path / "captions" / f"cap.{category}.test.json",
                [{"candidate": "B1", "captions": ["a", "b"]}],
            )
            write(tmp_path / "image_splits" / f"split.{category}.val.json", ["B1", "B2", "B3"])
        files(tmp_path / "images", "B1.png", "B2.jpg", "B3.png")
        return tmp_path

    def test_each_category_has_its_queries_and_gallery(self, folder):
        data = open_dataset(folder)
        assert (data.name, data.splits) == ("fashion-iq", ("val",))
        queries, gallery = by_side(data.read("val"))
        assert [(each.id, each.category) for each in queries] == [
            ("dress/query/1", "dress"), ("shirt/query/1", "shirt"), ("toptee/query/1", "toptee"),
        ]  # fmt: skip
        assert queries[0].words == "is darker and has no sleeves"
        assert queries[0].truth == {"target": ("dress/B2",)}
        assert queries[0].source == str(folder / "images" / "B1.png")
        assert [each.id for each in gallery][:4] == ["dress/B1", "dress/B2", "dress/B3", "shirt/B1"]
        assert gallery[1].source == str(folder / "images" / "B2.jpg")

    def test_the_test_split_is_not_public(self, folder):
        with pytest.raises(BadInput, match="targets of its test split are not public"):
            open_dataset(folder).read("test")

    def test_what_is_wrong_is_named(self, folder):
        path = folder / "captions" / "cap.dress.val.json"
        write(
            path,
            [
                {"target": 5, "candidate": "B1", "captions": ["a", "b"]},
                {"target": "B1", "captions": ["a", "b"]},
                {"target": "B1", "candidate": "B2", "captions": "a"},
                {"target": "B1", "candidate": "B9", "captions": ["a", "b"]},
                "B1",
                {"target": "B9", "candidate": "B2", "captions": ["a", "b"]},
            ],
        )
        write(folder / "image_splits" / "split.dress.val.json", ["B1", None])
        told = [each.error for each in open_dataset(folder).read("val") if isinstance(each, Unlisted)]
        assert [error.removeprefix(f"{path}, ") for error in told[:6]] == [
            "entry 1: target: 5 is a whole number, not text",
            "entry 2: candidate: missing, not text",
            'entry 3: captions: "a" is text, not a list',
            f"entry 4: picture {folder / 'images' / 'B9.png'}: No such file or directory",
            'entry 5: the entry: "B1" is text, not an object',
            f"entry 6: picture {folder / 'images' / 'B9.png'}: No such file or directory",
        ]
        assert "split.dress.val.json, entry 2: name: null is null, not text" in told[6]

    def test_a_missing_category(self, folder):
        (folder / "captions" / "cap.shirt.val.json").unlink()
        with pytest.raises(BadInput, match=r"cap.shirt.val.json: cannot be read"):
            list(open_dataset(folder).read("val"))


class TestCIRR:
    @pytest.fixture(params=["img_raw", "."])
    def folder(self, tmp_path, request):
        names = [f"dev-{n}-0-img{n % 2}" for n in range(7)]
        entry = {
            "pairid": 12063, "reference": names[0], "target_hard": names[3], "target_soft": {names[3]: 1.0},
            "caption": "remove all but one dog", "img_set": {"id": 5, "members": names[:6], "target_rank": 3},
        }  # fmt: skip
        write(tmp_path / "captions" / "cap.rc2.val.json", [entry])
        write(tmp_path / "image_splits" / "split.rc2.val.json", {name: f"./dev/{name}.png" for name in names})
        files(tmp_path / request.param / "dev", *(f"{name}.png" for name in names))
        return tmp_path

    def test_queries_know_their_reference_and_the_members_of_their_set(self, folder):
        data = open_dataset(folder)
        assert (data.name, data.splits) == ("cirr", ("val",))
        (query,), gallery = by_side(data.read("val"))
        assert (query.id, query.group, query.words) == ("query/12063", "val/5", "remove all but one dog")
        assert query.truth["target"] == ("dev-3-0-img1",)
        assert query.truth["reference"] == ("dev-0-0-img0",)
        assert len(query.truth["members"]) == 6 and len(gallery) == 7

    @pytest.mark.parametrize(
        ("change", "told"),
        [
            ({"pairid": "1"}, 'pairid: "1" is text, not a whole number'),
            ({"target_hard": None}, "target_hard: null is null, not text"),
            ({"img_set": {"id": 5}}, "members: missing, not a list"),
            ({"reference": "dev-99"}, "dev-99: missing, not text"),
            ({"caption": "  "}, "caption: empty"),
        ],
    )
    def test_what_is_wrong_is_named(self, folder, change, told):
        path = folder / "captions" / "cap.rc2.val.json"
        write(path, [json.loads(path.read_text())[0] | change])
        (error,) = [each.error for each in open_dataset(folder).read("val") if isinstance(each, Unlisted)]
        assert error == f"{path}, entry 1: {told}"

    def test_the_test_split_is_not_public(self, folder):
        with pytest.raises(BadInput, match="not public"):
            open_dataset(folder).read("test1")


class TestCIRCO:
    @pytest.fixture
    def folder(self, tmp_path):
        entry = {
            "reference_img_id": 85932, "target_img_id": 12, "shared_concept": "a dog", "id": 0,
            "relative_caption": "shows two of them", "gt_img_ids": [12, 500],
        }  # fmt: skip
        write(tmp_path / "annotations" / "val.json", [entry])
        images = [{"id": n, "file_name": f"{n:012}.jpg", "width": 5} for n in (12, 500, 85932)]
        unlabeled = tmp_path / "COCO2017_unlabeled"
        write(unlabeled / "annotations" / "image_info_unlabeled2017.json", {"info": {}, "images": images})
        files(unlabeled / "unlabeled2017", *(image["file_name"] for image in images))
        return tmp_path

    def test_queries_have_several_right_answers(self, folder):
        data = open_dataset(folder)
        assert (data.name, data.splits) == ("circo", ("val",))
        (query,), gallery = by_side(data.read("val"))
        assert (query.id, query.words) == ("query/0", "shows two of them")
        assert query.truth == {"target": ("12", "500")}
        assert query.source.endswith("000000085932.jpg")
        assert [each.id for each in gallery] == ["12", "500", "85932"]

    def test_what_is_wrong_is_named(self, folder):
        (folder / "COCO2017_unlabeled" / "unlabeled2017" / "000000000500.jpg").unlink()
        path = folder / "annotations" / "val.json"
        write(path, [json.loads(path.read_text())[0] | {"gt_img_ids": [12, "500"]}])
        told = [each.error for each in open_dataset(folder).read("val") if isinstance(each, Unlisted)]
        assert told[0] == f'{path}, entry 1: gt_img_ids: "500" is text, not a whole number'
        assert "image_info_unlabeled2017.json, images, entry 2: picture " in told[1]

    def test_no_list_of_pictures(self, folder):
        write(folder / "COCO2017_unlabeled" / "annotations" / "image_info_unlabeled2017.json", {"images": 3})
        with pytest.raises(
            BadInput, match=r"image_info_unlabeled2017.json: images: 3 is a whole number, not a list"
        ):
            list(open_dataset(folder).read("val"))
