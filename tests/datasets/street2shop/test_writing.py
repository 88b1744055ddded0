"""The tree on disk: its format, that it is the same every time, finished after a kill, and never mixed up."""

import json

import numpy as np
import pytest
from PIL import Image

from lookalike.datasets import Unlisted, open_dataset
from lookalike.datasets.street2shop import VERSION, make
from lookalike.datasets.street2shop.wardrobe import CATEGORIES
from lookalike.errors import BadInput, BadPicture

LANDMARKS = (25, 33, 31, 39, 15, 15, 10, 14, 8, 29, 37, 19, 19)


def annotations(folder, split="*"):
    return {path: json.loads(path.read_bytes()) for path in sorted(folder.glob(f"{split}/annos/*.json"))}


def items(annotation):
    return [value for name, value in annotation.items() if name.startswith("item")]


def bytes_of(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("street2shop")
    return folder, make(folder, 14, seed=3, workers=1)


def test_the_annotations_of_this_version_never_change(tmp_path):
    assert VERSION == "1"
    made = make(tmp_path, 2, seed=7, workers=1)
    assert made.sha256 == "a5e4e60234f61cfe239e53767be6639d8b5ea3d029b568942e0538de5dd1d6d5", (
        "a change of the drawing needs another VERSION"
    )


def test_every_picture_has_an_annotation_in_deepfashion2s_format(made):
    folder, said = made
    read = annotations(folder)
    assert len(read) == said.pictures == len(list(folder.glob("*/image/*.jpg")))
    for path, annotation in read.items():
        with Image.open(path.parents[1] / "image" / f"{path.stem}.jpg") as picture:
            width, height = picture.size
        assert annotation["source"] in ("user", "shop")
        assert annotation["pair_id"] >= 1
        assert items(annotation)
        for item in items(annotation):
            assert item["category_name"] == CATEGORIES[item["category_id"] - 1]
            assert 0 <= item["style"] <= 3
            x0, y0, x1, y1 = item["bounding_box"]
            assert 0 <= x0 < x1 <= width
            assert 0 <= y0 < y1 <= height
            landmarks = np.array(item["landmarks"]).reshape(-1, 3)
            assert len(landmarks) == LANDMARKS[item["category_id"] - 1]
            assert set(landmarks[:, 2]) <= {0, 1, 2}
            assert (landmarks[landmarks[:, 2] == 0] == 0).all()
            assert all(item[name] in (1, 2, 3) for name in ("scale", "occlusion", "zoom_in", "viewpoint"))
            assert item["segmentation"]
            for outline in item["segmentation"]:
                points = np.array(outline).reshape(-1, 2)
                assert (points >= (x0, y0)).all()
                assert (points <= (x1, y1)).all()
            assert all(isinstance(value, str) and value for value in item["attributes"].values())
            assert set(item["captions"]) == {"short", "medium", "long"}
            assert all(item["captions"].values())
            assert "caption_error" not in item


def test_every_identity_has_user_and_shop_pictures_and_one_look(made):
    folder, _ = made
    sides, looks = {}, {}
    for path, annotation in annotations(folder).items():
        for item in items(annotation):
            if item["style"]:
                identity = path.parts[-3], annotation["pair_id"], item["style"]
                sides.setdefault(identity, set()).add(annotation["source"])
                looks.setdefault(identity, set()).add(json.dumps(item["attributes"]))
    assert len(sides) == 14
    assert all(side == {"user", "shop"} for side in sides.values())
    assert all(len(look) == 1 for look in looks.values())
    assert 3 <= sum(identity[0] == "validation" for identity in sides) <= 5


def test_validation_has_the_users_pictures_first_and_pairs_count_from_one(made):
    folder, _ = made
    sources = [annotation["source"] for annotation in annotations(folder, "validation").values()]
    assert sources == sorted(sources, reverse=True)
    for split in ("train", "validation"):
        pairs = {annotation["pair_id"] for annotation in annotations(folder, split).values()}
        assert pairs == set(range(1, len(pairs) + 1))


def test_the_record_says_what_it_was_made_from(made):
    folder, said = made
    record = json.loads((folder / "street2shop.json").read_bytes())
    assert record == {
        "generator": "street2shop", "version": VERSION, "seed": 3, "identities": 14, "caption_errors": 0.0,
        "backgrounds": [], "pictures": said.pictures, "sha256": said.sha256,
    }  # fmt: skip


def test_the_reader_of_deepfashion2_reads_it(made):
    folder, said = made
    dataset = open_dataset(folder)
    assert said.sha256 in dataset.synthetic
    regions = [region for split in ("train", "validation") for region in dataset.read(split)]
    assert not [region for region in regions if isinstance(region, Unlisted)]
    assert len({region.identity for region in regions if region.identity}) == 14


def test_workers_and_interruptions_change_nothing(made, tmp_path):
    folder, said = made
    other = tmp_path / "other"

    class Killed(Exception):
        pass

    def kill(done, total):
        assert total == said.pictures
        if done == 20:
            raise Killed

    with pytest.raises(Killed):
        make(other, 14, seed=3, workers=1, on_progress=kill)
    assert not (other / "street2shop.json").exists()
    torn = other / "train" / "annos" / "000003.json"
    torn.rename(torn.with_name("000003.json.part"))  # killed between picture and annotation
    with pytest.raises(BadInput, match="another seed"):
        make(other, 14, seed=4, workers=1)
    finished = make(other, 14, seed=3, workers=2)
    assert finished.drawn == said.pictures - 19
    assert finished.sha256 == said.sha256
    assert bytes_of(other) == bytes_of(folder)
    assert make(other, 14, seed=3).drawn == 0


def test_caption_errors_come_at_their_rate_and_are_noted(made, tmp_path):
    folder, _ = made
    make(tmp_path, 14, seed=3, caption_errors=0.5, workers=1)
    kinds, all_ = [], 0
    for right, wrong in zip(annotations(folder).values(), annotations(tmp_path).values(), strict=True):
        for truth, item in zip(items(right), items(wrong), strict=True):
            all_ += 1
            error = item.pop("caption_error", None)
            if error:
                kinds.append(error)
                assert item["captions"] != truth["captions"]
                assert (error == "dropped") == (item["captions"] == {"short": "", "medium": "", "long": ""})
                assert (error == "generic") == (item["captions"]["short"] == "a piece of clothing")
                item["captions"] = truth["captions"]
            assert item == truth
    assert set(kinds) == {"dropped", "generic", "wrong"}
    assert 0.35 < len(kinds) / all_ < 0.65


def test_backgrounds_are_named_and_change_no_annotation(tmp_path):
    photograph = tmp_path / "wall.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (300, 400, 3), np.uint8)).save(photograph)
    plain = make(tmp_path / "plain", 1, seed=2, workers=1)
    walled = make(tmp_path / "walled", 1, seed=2, backgrounds=[photograph], workers=1)
    assert plain.sha256 == walled.sha256
    record = json.loads((tmp_path / "walled" / "street2shop.json").read_bytes())
    assert [each["name"] for each in record["backgrounds"]] == ["wall.png"]
    photograph.write_text("no picture")
    with pytest.raises(BadPicture):
        make(tmp_path / "broken", 1, seed=2, backgrounds=[photograph], workers=1)


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ({"identities": 0}, "at least 1"),
        ({"caption_errors": 1.5}, "between 0 and 1"),
        ({"caption_errors": float("nan")}, "between 0 and 1"),
        ({"seed": -1}, "negative"),
        ({"workers": 0}, "at least 1"),
    ],
)
def test_numbers_out_of_range_are_refused(tmp_path, arguments, complaint):
    with pytest.raises(BadInput, match=complaint):
        make(**{"folder": tmp_path / "new", "identities": 2, "seed": 0} | arguments)
    assert not (tmp_path / "new").exists()


def test_a_folder_that_holds_something_else_is_refused_and_left_alone(tmp_path):
    (tmp_path / "letter.txt").write_text("dear")
    with pytest.raises(BadInput, match=r"letter\.txt"):
        make(tmp_path, 2, seed=0)
    assert [path.name for path in tmp_path.iterdir()] == ["letter.txt"]
    (tmp_path / "letter.txt").rename(tmp_path / "train")
    with pytest.raises(BadInput, match="something else"):
        make(tmp_path, 2, seed=0)
    with pytest.raises(BadInput, match="not a folder"):
        make(tmp_path / "train", 2, seed=0)
