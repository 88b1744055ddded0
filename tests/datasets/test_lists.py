import json

import pytest

from lookalike.datasets import Labelled, Side, Unlisted, open_dataset
from lookalike.errors import BadInput
from lookalike.values import Box


def files(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def write(path, *lines):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines))


def errors(regions):
    return [region.error for region in regions if isinstance(region, Unlisted)]


def usable(regions):
    return [region for region in regions if isinstance(region, Labelled)]


FRONT, SIDE, OTHER, OLD = (
    "img/WOMEN/Dresses/id_00000001/01_1_front.jpg", "img/WOMEN/Dresses/id_00000001/01_2_side.jpg",
    "img/MEN/Shorts/id_00000002/01_1_front.jpg", "img/MEN/Denim/id_00000003/01_1_front.jpg",
)  # fmt: skip


@pytest.fixture
def in_shop(tmp_path):
    write(
        tmp_path / "Eval" / "list_eval_partition.txt", "4", "image_name item_id evaluation_status",
        f"{FRONT}   id_00000001 query", f"{SIDE} id_00000001 gallery", f"{OTHER} id_00000002 gallery",
        f"{OLD} id_00000003 train",
    )  # fmt: skip
    write(
        tmp_path / "Anno" / "list_bbox_inshop.txt", "4", "image_name clothes_type pose_type x_1 y_1 x_2 y_2",
        f"{FRONT} 3 1 050 49 208 235", f"{SIDE} 3 2 0 4 20 30", f"{OTHER} 2 6 1 2 3 4", f"{OLD} 2 1 1 2 3 4",
    )  # fmt: skip
    files(tmp_path / "Img", FRONT, SIDE, OTHER, OLD)
    return tmp_path


class TestInShop:
    def test_the_test_split(self, in_shop):
        data = open_dataset(in_shop)
        query, same, other = data.read("test")
        assert (data.name, data.splits) == ("in-shop", ("train", "test"))
        assert query == Labelled(
            id=FRONT, source=str(in_shop / "Img" / FRONT), side=Side.QUERY, identity="id_00000001",
            group="id_00000001", box=Box(50, 49, 208, 235), category="Dresses", facets={"pose": "front"},
        )  # fmt: skip
        assert (same.side, same.identity, same.facets) == (Side.GALLERY, "id_00000001", {"pose": "side"})
        assert (other.identity, other.category) == ("id_00000002", "Shorts")

    def test_in_train_each_is_searched_among_the_others(self, in_shop):
        (region,) = open_dataset(in_shop).read("train")
        assert (region.id, region.side) == (OLD, Side.BOTH)

    def test_without_boxes_and_with_everything_in_one_folder(self, in_shop, tmp_path_factory):
        flat = tmp_path_factory.mktemp("flat")
        files(flat, FRONT, SIDE, OTHER)
        (in_shop / "Eval" / "list_eval_partition.txt").rename(flat / "list_eval_partition.txt")
        regions = list(open_dataset(flat).read("test"))
        assert [(region.box, region.facets) for region in regions] == [(None, {})] * 3

    def test_what_is_wrong_is_named_by_line(self, in_shop):
        partition = in_shop / "Eval" / "list_eval_partition.txt"
        boxes = in_shop / "Anno" / "list_bbox_inshop.txt"
        boxes.write_text(
            boxes.read_text().replace("0 4 20 30", "20 4 0 30").replace("6 1 2 3 4", "9 1 2 3 4")
        )
        with partition.open("a") as file:
            file.write(f"\n{FRONT} id_1\n{FRONT} id_9 gallery\nimg/a.jpg id_4 query\nimg/b.jpg id_4 final\n")
        assert [
            error.removeprefix(f"{partition}, ") for error in errors(open_dataset(in_shop).read("test"))
        ] == [
            "line 4: box: [20, 4, 0, 30] is inverted or empty: x0 < x1 and y0 < y1 are needed",
            "line 5: pose_type: 9 is not from 1 to 6",
            "line 8: 2 columns, not 3: image_name, item_id, evaluation_status",
            f"line 9: item_id: id_9, but {FRONT} is of id_00000001 above",
            f"line 10: box: none in {boxes}, or not in whole numbers",
            "line 11: evaluation_status: final, none of train, query, gallery",
        ]

    def test_a_missing_picture(self, in_shop):
        (in_shop / "Img" / SIDE).unlink()
        (error,) = errors(open_dataset(in_shop).read("test"))
        assert "line 4: picture " in error and SIDE in error

    def test_an_unknown_split(self, in_shop):
        with pytest.raises(BadInput, match="no split validation") as error:
            open_dataset(in_shop).read("validation")
        assert error.value.hint == "splits: train, test"


class TestConsumerToShop:
    @pytest.fixture
    def folder(self, tmp_path):
        item = "img/DRESSES/Dress/id_00000001"
        write(
            tmp_path / "Eval" / "list_eval_partition.txt", "4",
            "image_pair_name_1 image_pair_name_2 item_id evaluation_status",
            *(f"{item}/comsumer_0{n}.jpg {item}/shop_01.jpg id_00000001 test" for n in (1, 2)),
            *(f"{item}/comsumer_0{n}.jpg {item}/shop_02.jpg id_00000001 test" for n in (1, 2)),
            f"{item}/comsumer_03.jpg {item}/shop_03.jpg id_00000001 val",
        )  # fmt: skip
        names = [f"{item}/{who}_0{n}.jpg" for n in (1, 2, 3) for who in ("comsumer", "shop")]
        write(
            tmp_path / "Anno" / "list_bbox_consumer2shop.txt", "6",
            "image_name clothes_type source_type x_1 y_1 x_2 y_2",
            *(f"{name} 3 1 1 2 3 {9 + n}" for n, name in enumerate(names)),
        )  # fmt: skip
        files(tmp_path, *names)
        return tmp_path

    def test_each_picture_comes_once_though_it_is_in_many_pairs(self, folder):
        data = open_dataset(folder)
        regions = list(data.read("test"))
        assert (data.name, data.splits) == ("consumer-to-shop", ("train", "val", "test"))
        assert [(region.id.rpartition("/")[2], region.side, region.box.y1) for region in regions] == [
            ("comsumer_01.jpg", Side.QUERY, 9),
            ("shop_01.jpg", Side.GALLERY, 10),
            ("comsumer_02.jpg", Side.QUERY, 11),
            ("shop_02.jpg", Side.GALLERY, 12),
        ]
        assert {(region.identity, region.category) for region in regions} == {("id_00000001", "Dress")}

    def test_a_split_without_pairs_is_empty(self, folder):
        assert list(open_dataset(folder).read("train")) == []


def box(left, top, width, height):
    return {"left": left, "top": top, "width": width, "height": height}


class TestStreet2Shop:
    @pytest.fixture
    def folder(self, tmp_path):
        lists = tmp_path / "meta" / "json"
        lists.mkdir(parents=True)
        shop = [{"photo": 10, "product": 1}, {"photo": 11, "product": 1}, {"photo": 12, "product": 2}]
        (lists / "retrieval_bags.json").write_text(json.dumps([*shop, {"photo": 13, "product": 3}]))
        test = [
            {"photo": 500, "product": 1, "bbox": box(5, 6, 10, 20)},
            {"photo": 501, "product": 1, "bbox": box(1, 1, 2, 2)},
            {"photo": 501, "product": 2, "bbox": box(1, 1, 2, 2)},
            {"photo": 501, "product": 3, "bbox": box(4, 4, 2, 2)},
        ]
        (lists / "test_pairs_bags.json").write_text(json.dumps(test))
        (lists / "train_pairs_bags.json").write_text(json.dumps([test[0]]))
        files(
            tmp_path / "images",
            *(f"{photo:09}.jpeg" for photo in (10, 11, 500)),
            "12.png",
            "13.jpg",
            "501.jpg",
        )
        return tmp_path

    def test_queries_are_garments_and_know_the_pictures_of_their_products(self, folder):
        queries = [each for each in open_dataset(folder).read("test") if each.side is Side.QUERY]
        assert [(query.id, query.box, query.identity, query.truth["right"]) for query in queries] == [
            ("bags/street/500", Box(5, 6, 15, 26), "1", ("bags/10", "bags/11")),
            ("bags/street/501/1,1,3,3", Box(1, 1, 3, 3), None, ("bags/10", "bags/11", "bags/12")),
            ("bags/street/501/4,4,6,6", Box(4, 4, 6, 6), "3", ("bags/13",)),
        ]
        assert queries[0].source.endswith("000000500.jpeg")

    def test_the_gallery_of_test_is_all_of_its_category_that_of_train_its_products(self, folder):
        def gallery(split):
            regions = [each for each in open_dataset(folder).read(split) if each.side is Side.GALLERY]
            return [(region.id, region.identity) for region in regions]

        assert gallery("test") == [("bags/10", "1"), ("bags/11", "1"), ("bags/12", "2"), ("bags/13", "3")]
        assert gallery("train") == [("bags/10", "1"), ("bags/11", "1")]

    def test_what_is_wrong_is_named(self, folder):
        pairs = folder / "meta" / "json" / "test_pairs_bags.json"
        wrong = [
            {"photo": "500", "product": 1, "bbox": box(5, 6, 10, 20)},
            {"photo": 500, "product": 1},
            {"photo": 500, "product": 1, "bbox": box(5, 6, 0, 20)},
            {"photo": 77, "product": 1, "bbox": box(5, 6, 10, 20)},
        ]
        pairs.write_text(json.dumps(wrong))
        told = errors(open_dataset(folder).read("test"))
        assert [error.removeprefix(str(pairs)) for error in told] == [
            ', entry 1: photo: "500" is text, not a whole number',
            ", entry 2: bbox: missing, not an object",
            ", entry 3: bbox: [5, 6, 5, 26] is inverted or empty: x0 < x1 and y0 < y1 are needed",
            f", photo 77: picture {folder / 'images' / '77.jpg'}: No such file or directory",
        ]

    def test_pictures_that_were_not_fetched_are_told_and_are_no_answers(self, folder):
        (folder / "images" / "000000011.jpeg").unlink()
        regions = list(open_dataset(folder).read("test"))
        assert [query.truth["right"] for query in usable(regions)[:2]] == [
            ("bags/10",),
            ("bags/10", "bags/12"),
        ]
        (error,) = errors(regions)
        assert "retrieval_bags.json, photo 11: picture " in error

    def test_a_photo_of_two_products_is_told(self, folder):
        retrieval = folder / "meta" / "json" / "retrieval_bags.json"
        retrieval.write_text(json.dumps([{"photo": 10, "product": 1}, {"photo": 10, "product": 2}]))
        (error,) = errors(open_dataset(folder).read("test"))
        assert "entry 2: product: 2, but photo 10 is of 1 above" in error


class TestOnlineProducts:
    @pytest.fixture
    def folder(self, tmp_path):
        for split, start in (("train", 1), ("test", 9)):
            write(
                tmp_path / f"Ebay_{split}.txt", "image_id class_id super_class_id path",
                *(f"{start + n} {start + n // 2} 1 bicycle_final/{start + n}_0.JPG" for n in range(4)),
            )  # fmt: skip
            files(tmp_path, *(f"bicycle_final/{start + n}_0.JPG" for n in range(4)))
        return tmp_path

    def test_each_is_searched_among_the_others(self, folder):
        regions = list(open_dataset(folder).read("test"))
        assert [(each.id, each.identity) for each in regions] == [
            ("9", "9"),
            ("10", "9"),
            ("11", "10"),
            ("12", "10"),
        ]
        assert {(each.side, each.category, each.box) for each in regions} == {(Side.BOTH, "bicycle", None)}

    def test_what_is_wrong_is_named_by_line(self, folder):
        with (folder / "Ebay_test.txt").open("a") as file:
            file.write("13 11 1\n14 12 1 bicycle_final/gone.JPG\n")
        short, gone = errors(open_dataset(folder).read("test"))
        assert "Ebay_test.txt, line 6: 3 columns, not 4" in short
        assert "Ebay_test.txt, line 7: picture " in gone

    def test_a_missing_list(self, folder):
        (folder / "Ebay_test.txt").unlink()
        with pytest.raises(BadInput, match=r"Ebay_test.txt: cannot be read"):
            list(open_dataset(folder).read("test"))


class TestLandmarks:
    @pytest.fixture
    def folder(self, tmp_path):
        write(
            tmp_path / "retrieval_solution_v2.1.csv", "id,images,Usage",
            "abcq,aaa1 bbb2,Public", "defq,bbb2,Private", "ghiq,None,Ignored",
        )  # fmt: skip
        files(
            tmp_path, "test/a/b/c/abcq.jpg", "test/defq.jpg", "index/a/a/a/aaa1.jpg", "index/b/b/b/bbb2.jpg"
        )
        return tmp_path

    def test_public_and_private_queries_share_the_gallery(self, folder):
        data = open_dataset(folder)
        assert (data.name, data.splits) == ("gldv2", ("public", "private"))
        query, *gallery = data.read("public")
        assert (query.id, query.side, query.truth) == ("abcq", Side.QUERY, {"right": ("aaa1", "bbb2")})
        assert [(each.id, each.side) for each in gallery] == [("aaa1", Side.GALLERY), ("bbb2", Side.GALLERY)]
        assert [each.id for each in data.read("private")] == ["defq", "aaa1", "bbb2"]

    def test_a_query_with_very_many_answers(self, folder):
        answers = [f"{number:016x}" for number in range(20_000)]
        write(folder / "retrieval_solution_v2.1.csv", "id,images,Usage", f"abcq,{' '.join(answers)},Public")
        query, *_ = open_dataset(folder).read("public")
        assert query.truth["right"] == tuple(answers)

    def test_what_is_wrong_is_named_by_row(self, folder):
        with (folder / "retrieval_solution_v2.1.csv").open("a") as file:
            file.write("goneq,aaa1,Public\nabcq,aaa1,Secret\nabcq\n")
        told = errors(open_dataset(folder).read("public"))
        places = [error.partition("v2.1.csv, ")[2] for error in told]
        assert places[0].startswith("row 5: picture ")
        assert places[1] == 'row 6: Usage: "Secret" is text, none of Public, Private, Ignored'
        assert places[2].startswith("row 7: images: ")
