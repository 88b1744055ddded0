"""What several threads ask of one encoder, together: each gets its own, and nobody another's error."""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from lookalike.encoders import ColourHistogram, EfficientNet
from lookalike.server.batching import MOST, Batched
from lookalike.testing import ThumbnailEncoder, drawing
from lookalike.trust import Trust
from lookalike.values import Box, Floats, Picture, Region

REGIONS = [Region(Picture.of(drawing(number, 90, 70)), Box(5, 5, 60, 60)) for number in range(40)]


class Slow(ThumbnailEncoder):
    """Takes its time, notes its batches, and cannot stand the seventh region or a caption "bad"."""

    captioned = True

    def __init__(self) -> None:
        super().__init__()
        self.batches: list[int] = []

    def pictures(self, regions: Sequence[Region], captions: Sequence[str] | None = None) -> Floats:
        self.batches.append(len(regions))
        time.sleep(0.02)
        if any(region is REGIONS[7] for region in regions):
            raise ValueError("seventh")
        rows = super().pictures(regions, captions)
        return -rows if captions and captions[0] == "negative" else rows


def test_each_gets_its_own_and_batches_grow() -> None:
    encoder, told = Slow(), []
    batched = Batched(encoder, lambda size, seconds: told.append((size, seconds)), 1)
    mine = [each for number, each in enumerate(REGIONS) if number != 7]
    with ThreadPoolExecutor(len(mine)) as pool:
        rows = list(pool.map(lambda region: batched.pictures([region]), mine))
    np.testing.assert_allclose(np.concatenate(rows), ThumbnailEncoder().pictures(mine), atol=1e-6)
    assert 1 < max(encoder.batches) <= MOST and sum(encoder.batches) == len(mine)
    assert sum(size for size, _ in told) == len(mine) and all(seconds > 0 for _, seconds in told)


def test_an_error_is_that_of_its_own_region_alone() -> None:
    batched = Batched(Slow(), lambda *_: None, 1)

    def ask(region: Region) -> Floats | str:
        try:
            return batched.pictures([region])
        except ValueError as error:
            return str(error)

    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(ask, REGIONS[:16]))
    assert [isinstance(answer, str) for answer in answers] == [number == 7 for number in range(16)]


def test_captions_go_with_their_regions_and_what_an_encoder_has_besides_is_there() -> None:
    batched = Batched(Slow(), lambda *_: None, 2)
    plain = batched.pictures(REGIONS[:1])
    np.testing.assert_allclose(batched.pictures(REGIONS[:1], ["negative"]), -plain)
    assert batched.captioned and batched.dim == ThumbnailEncoder().dim and batched.texts(["red"]) is None
    assert batched.pictures([]).shape == (0, batched.dim)


class Weighing(ThumbnailEncoder):
    """Tells of each region how wrong its caption's source is."""

    captioned = True
    trust = Trust(0.5, 0.1, 0.1)

    def pictures(
        self,
        regions: Sequence[Region],
        captions: Sequence[str] | None = None,
        wrong: Sequence[float] | None = None,
    ) -> Floats:
        return np.full((len(regions), 1), -1) if wrong is None else np.array(wrong, np.float32)[:, None]


def test_doubts_go_with_their_captions() -> None:
    batched = Batched(Weighing(), lambda *_: None, 1)
    shares = [number / 40 for number in range(40)]
    rows = batched.pictures(REGIONS, ["red"] * 40, shares)
    np.testing.assert_allclose(rows[:, 0], shares, atol=1e-6)
    assert batched.pictures(REGIONS[:1], ["red"])[0, 0] == 0.5
    assert batched.pictures(REGIONS[:1])[0, 0] == -1


def test_a_lone_search_is_shared_by_all_passes() -> None:
    encoder = Slow()
    Batched(encoder, lambda *_: None, 2).pictures(REGIONS[:6])
    assert len(encoder.batches) >= 2 and sum(encoder.batches) == 6


def test_maps_are_those_of_the_encoder() -> None:
    encoder = EfficientNet(threads=1)
    batched = Batched(encoder, lambda *_: None, 2)
    pictures = [region.picture for region in REGIONS[:3]]
    found, due = batched.maps(pictures), encoder.maps(pictures)
    assert found is not None and found.frames == due.frames
    np.testing.assert_allclose(found.values, due.values, atol=1e-4)
    assert Batched(ColourHistogram(), lambda *_: None, 1).maps(pictures) is None


def test_an_encoder_that_fails_says_so() -> None:
    batched = Batched(Slow(), lambda *_: None, 1)
    with pytest.raises(ValueError, match="seventh"):
        batched.pictures([REGIONS[7]])
