"""Captions and pictures on their way into the towers."""

import numpy as np
import torch
from PIL import Image

from lookalike import words
from lookalike.learn.models.x2vlm import Words, to_pixels
from lookalike.testing import drawing


def test_words_are_the_torch_free_ones_in_tensors() -> None:
    captions = ["Red dresses, with zebras!", "", "CAFÉ [SEP]", "word " * 60]
    for found, due in zip(Words().tokens(captions), words.Words().tokens(captions), strict=True):
        assert found.dtype == torch.int64 and found.tolist() == due.tolist()
    assert Words(length=5).tokens(captions)[0].shape == (4, 5)
    assert Words().tokens([])[1].shape == (0, 2)


def test_pictures_are_stretched_and_normalised() -> None:
    pictures = [drawing(1), drawing(2)[:40, :90]]
    pixels = to_pixels(pictures, 48)
    assert pixels.shape == (2, 3, 48, 48) and pixels.dtype == torch.float32
    for picture, found in zip(pictures, pixels, strict=True):
        square = np.asarray(Image.fromarray(picture).resize((48, 48), Image.Resampling.BICUBIC), np.float64)
        mean, deviation = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
        due = ((square / 255 - mean) / deviation).transpose(2, 0, 1)
        np.testing.assert_allclose(found.numpy(), due, atol=1e-6)
    assert to_pixels([], 48).shape == (0, 3, 48, 48)
