import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import lookalike
from lookalike.encoders import ColourHistogram, EfficientNet
from lookalike.errors import BadInput
from lookalike.regions import CHUNK, Predicted, Salient, Whole, contrast
from lookalike.settings import Settings
from lookalike.testing import ThumbnailEncoder, drawing
from lookalike.values import Box, Picture


def scene(box: Box, width: int = 640, height: int = 480) -> Picture:
    """A patterned thing at `box` on a plain wall."""
    pixels = np.full((height, width, 3), (176, 168, 160), np.uint8)
    x0, y0, x1, y1 = map(int, box.corners)
    pixels[y0:y1, x0:x1] = drawing(3, x1 - x0, y1 - y0)
    pixels[y0:y1:16, x0:x1] = 20
    return Picture.of(pixels)


@pytest.mark.parametrize("box", [Box(60, 80, 300, 400), Box(350, 40, 600, 260), Box(200, 150, 460, 350)])
def test_a_thing_on_a_wall_is_found(box: Box) -> None:
    tight, loose, whole = Salient(EfficientNet()).regions([scene(box)])[0]
    assert tight.box is not None
    assert loose.box is not None
    assert whole.box is None
    assert loose.box.iou(box) > 0.5
    assert tight.box.area <= loose.box.area
    assert 0 == whole.score <= min(tight.score, loose.score) < 1


def test_every_picture_of_a_batch_gets_its_own_regions() -> None:
    finder = Salient(EfficientNet())
    scenes = [scene(Box(60 + 10 * place, 80, 300, 400)) for place in range(18)]
    together = finder.regions(scenes)
    assert len(together) == 18
    for picture, regions in zip(scenes, together, strict=True):
        assert all(region.picture is picture for region in regions)
        alone = finder.regions([picture])[0]
        assert [region.box for region in alone] == [region.box for region in regions]


def test_a_picture_of_nothing_is_one_region() -> None:
    plain = Picture.of(np.full((200, 300, 3), 128, np.uint8))
    assert Salient(ThumbnailEncoder()).regions([plain])[0][-1].box is None
    assert [len(regions) for regions in Whole().regions([plain, plain])] == [1, 1]


def test_without_feature_maps_the_whole_picture_is_the_region() -> None:
    regions = Salient(ColourHistogram()).regions([scene(Box(60, 80, 300, 400))])
    assert [region.box for region in regions[0]] == [None]


def test_contrast_is_one_less_the_mean_cosine_to_the_border() -> None:
    random = np.random.default_rng(0)
    cells = random.standard_normal((5, 4, 6)).astype(np.float32)
    cells /= np.linalg.norm(cells, axis=0)
    border = [cells[:, y, x] for y in range(4) for x in range(6) if y in (0, 3) or x in (0, 5)]
    expected = [[1 - np.mean([cells[:, y, x] @ b for b in border]) for x in range(6)] for y in range(4)]
    np.testing.assert_allclose(contrast(cells), expected, atol=1e-6)


class Corner:
    """A stand-in for a model that finds boxes: the top left ninth."""

    def __init__(self) -> None:
        self.batches: list[int] = []

    def boxes(self, pictures: Sequence[Picture]) -> list[Box]:
        self.batches.append(len(pictures))
        return [Box(0, 0, picture.width / 3, picture.height / 3) for picture in pictures]


def test_the_predicted_box_comes_first_and_then_the_whole_picture() -> None:
    encoder = Corner()
    pictures = [Picture.of(np.zeros((30, 60 + 3 * place, 3), np.uint8)) for place in range(CHUNK + 2)]
    found = Predicted(encoder).regions(pictures)
    assert encoder.batches == [0, CHUNK, 2]
    for picture, (predicted, whole) in zip(pictures, found, strict=True):
        assert predicted.picture is whole.picture is picture
        assert predicted.box == Box(0, 0, picture.width / 3, 10) and whole.box is None
        assert 0 == whole.score < predicted.score < 1
    assert Predicted(encoder).regions([]) == []


def test_an_encoder_without_boxes_is_refused_before_a_catalogue_is_made(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="colour-histogram predicts no boxes") as refused:
        lookalike.open(tmp_path / "shop", Settings(encoder="colour-histogram", regions="predicted"))
    assert "salient" in refused.value.hint and not (tmp_path / "shop").exists()


def test_a_model_predicts_where_to_look(tmp_path: Path) -> None:
    """With an exported file, on the command line and from Python; one without the loss of boxes refuses."""
    torch = pytest.importorskip("torch")
    pytest.importorskip("onnx")
    from adapted_models import compact_model, states, x2vlm_model
    from lookalike.encoders import AdaptedEncoder, OnnxBranches
    from lookalike.learn.branches import TorchBranches
    from lookalike.learn.export import export
    from lookalike.learn.models.x2vlm import Words
    from saving import save

    saved, file = x2vlm_model(), tmp_path / "model.onnx"
    with torch.inference_mode():
        export(saved, saved.model.vlm.text(*Words().tokens([""])).numpy(), file)
    paths = [tmp_path / "pictures" / f"{number}.png" for number in range(4)]
    for number, path in enumerate(paths):
        save(path, number)

    def command(*arguments: object) -> None:
        told = [sys.executable, "-m", "lookalike", *map(str, arguments)]
        done = subprocess.run(told, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr

    shop = tmp_path / "shop"
    command("index", paths[0].parent, "--to", shop, "--encoder", file, "--regions", "predicted")
    command("search", paths[1], "--in", shop, "--regions", "predicted")
    encoder = AdaptedEncoder(OnnxBranches(file))
    with lookalike.open(shop, Settings(query_regions="predicted")) as catalogue:
        with catalogue.store.view() as view:
            rows = view.rows(view.keys)
        hits = catalogue.search(paths[1])
    assert sorted((row.item.id, row.box is None) for row in rows) == [
        (str(number), whole) for number in range(4) for whole in (False, True)
    ]
    for row in rows:
        if row.box is not None:
            (due,) = encoder.boxes([lookalike.images.load(row.source)])
            np.testing.assert_allclose(row.box.corners, due.corners, atol=0.1)
    assert hits[0].item == "1" and hits[0].score > 0.999

    untaught = replace(compact_model(), about={"recipe": {"itc": 1.0, "itm": 0.0, "box": 0.0}})
    branches = TorchBranches(untaught, states(), "mine", torch.device("cpu"))
    with pytest.raises(BadInput, match="mine was not taught boxes"):
        Predicted(AdaptedEncoder(branches, threads=1))
