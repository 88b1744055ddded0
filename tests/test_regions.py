import numpy as np
import pytest

from lookalike.encoders import ColourHistogram, EfficientNet
from lookalike.regions import Salient, Whole, contrast
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
