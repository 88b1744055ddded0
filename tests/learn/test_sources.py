"""What a model is shown: cells of a cache, or pictures anew each time."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from garments import cells, garments

from lookalike import images, pooling
from lookalike.datasets import Labelled
from lookalike.errors import BadInput
from lookalike.learn.models.x2vlm import X2VLMConfig
from lookalike.learn.sources import Ids, Pictures
from lookalike.testing import ThumbnailEncoder
from lookalike.values import Region

CONFIG = X2VLMConfig.tiny()


def test_cells_and_their_weights_pool_to_the_frozen_descriptor(tmp_path: Path) -> None:
    source, _ = cells(tmp_path)
    looked = source.look(np.arange(6))
    pooled = torch.einsum("bn,bnd->bd", looked.region, looked.image[:, 1:]).numpy()
    for place in range(6):
        entry = source.regions[place]
        region = Region(images.load(entry.source), entry.box)
        maps = ThumbnailEncoder().maps([replace(region.picture, pixels=region.pixels)])
        inside = pooling.tapered(maps.frames, *maps.values.shape[2:])
        np.testing.assert_allclose(pooled[place], pooling.salient(maps.values, 3, inside)[0], atol=2e-3)


def test_pictures_are_crops_as_encoders_see_them_or_views_by_their_draw(tmp_path: Path) -> None:
    source = Pictures(garments(tmp_path), "training", CONFIG)
    bare = source.look(np.array([0, 5, 7]))
    assert bare.image.shape == (3, 3, 32, 32) and bare.region.shape == (3, 16)
    assert (bare.region == 1).all()
    np.testing.assert_allclose(bare.boxes, [[0.5, 0.5, 1, 1]] * 3, atol=1e-6)
    drawn = [source.look(np.array([0, 5]), np.array(draws)) for draws in ([3, 4], [3, 9])]
    assert torch.equal(drawn[0].image[0], drawn[1].image[0])
    assert not torch.equal(drawn[0].image[1], drawn[1].image[1])


def test_in_whole_pictures_the_box_is_where_the_annotation_says(tmp_path: Path) -> None:
    dataset = garments(tmp_path)
    looked = Pictures(dataset, "training", CONFIG, whole=True).look(np.array([2]))
    entry = [each for each in dataset.read("training") if isinstance(each, Labelled)][2]
    x0, y0, x1, y1 = entry.box.corners
    expected = [(x0 + x1) / 2 / 96, (y0 + y1) / 2 / 128, (x1 - x0) / 96, (y1 - y0) / 128]
    np.testing.assert_allclose(looked.boxes[0], expected, atol=1e-6)
    assert 0 < looked.region.sum() <= 16


def test_regions_without_identity_are_left_out_where_pairs_are_asked_for(tmp_path: Path) -> None:
    made = list(garments(tmp_path).read("training"))
    lone = [replace(made[0], identity=None), *made[1:]]
    dataset = replace(garments(tmp_path), read=lambda split: iter(lone))
    assert len(Pictures(dataset, "training", CONFIG).regions) == 24
    assert len(Pictures(dataset, "training", CONFIG, paired=True).regions) == 23
    empty = replace(dataset, read=lambda split: iter([replace(made[0], identity=None)]))
    with pytest.raises(BadInput, match="no regions"):
        Pictures(empty, "training", CONFIG, paired=True)


def test_ids_are_those_of_the_shipped_words() -> None:
    ids, words = Ids().of(["a red coat", ""])
    assert ids.tolist() == [[101, 1037, 2417, 5435, 102], [101, 102, 0, 0, 0]]
    assert words.tolist() == [[1] * 5, [1, 1, 0, 0, 0]]
