"""What checking makes of a model that lies: the whole way, from posted pixels to believed claims."""

from __future__ import annotations

import numpy as np
import pytest

from lookalike import images
from lookalike.captions import Cache, Desk, ModelCaptioner, Pace, Server
from lookalike.datasets import Labelled, open_dataset
from lookalike.datasets.street2shop import make
from lookalike.testing.loopback import Loopback
from lookalike.testing.oracle import Oracle
from lookalike.values import Caption, Region

LIES = (0.0, 0.2, 0.5, 1.0)


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> list[Labelled]:
    folder = tmp_path_factory.mktemp("doubt") / "set"
    make(folder, 12, 43, workers=1)
    found = [each for split in ("train", "validation") for each in open_dataset(folder).read(split)]
    return [each for each in found if isinstance(each, Labelled)][:40]


def captioned(labelled: list[Labelled], lie: float, samples: int) -> list[Caption]:
    regions = [Region(images.load(each.source), each.box) for each in labelled]
    with (
        Loopback(Oracle(labelled, lie=lie)) as server,
        ModelCaptioner(Desk(Server(server.url, "vlm", None), Cache(None), Pace()), samples=samples) as asker,
    ):
        return asker.captions(regions)


def test_the_more_a_model_lies_the_less_is_its_claims_confidence(labelled: list[Labelled]) -> None:
    confidence, let_through = [], []
    for lie in LIES:
        claims = false = believed = 0
        sure = []
        for each, caption in zip(labelled, captioned(labelled, lie, samples=3), strict=True):
            assert caption.error is None
            truth = {name.replace(" ", "_"): value for name, value in each.attributes.items()}
            truth["category"] = each.category
            for claim in caption.claims:
                claims += 1
                sure.append(claim.confidence)
                if truth.get(claim.attribute) != claim.value:
                    false += 1
                    believed += claim.believed
        assert claims > 200
        confidence.append(np.mean(sure))
        let_through.append(believed / max(1, false))
    assert confidence == sorted(confidence, reverse=True)
    assert len(set(confidence)) == len(LIES)
    assert max(let_through) < 0.3  # three samples whose lies are independent; a real model's are not


def test_pixels_doubt_wrong_colours_without_being_asked_twice(labelled: list[Labelled]) -> None:
    """Of the shop's pictures, whose pixels tell most: most wrong colours go, most right ones stay."""
    right, wrong = [], []
    for lie in (0.0, 1.0):
        for each, caption in zip(labelled, captioned(labelled, lie, samples=1), strict=True):
            if each.side != "gallery":
                continue
            for claim in caption.claims:
                if claim.attribute == "colour":
                    (right if claim.value == each.attributes["colour"] else wrong).append(claim.believed)
    assert min(len(right), len(wrong)) >= 10
    assert np.mean(right) > 0.9
    assert np.mean(wrong) < 0.4
