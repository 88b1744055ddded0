"""Figures on regions that a model was not trained on, against what they say in words."""

from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from garments import cells, model

from lookalike.datasets import Side
from lookalike.evaluation.metrics import average_precision
from lookalike.learn import scoring
from lookalike.learn.journal import Journal
from lookalike.learn.scoring import (
    average_precisions,
    described,
    mean_average_precision,
    overlaps,
    predicted_boxes,
    queries,
)
from lookalike.learn.session import box_scores
from lookalike.values import unit


def test_overlaps_of_boxes_that_are_alike_apart_and_halved() -> None:
    boxes = np.array([[0.5, 0.5, 0.4, 0.4], [0.2, 0.2, 0.2, 0.2], [0.5, 0.5, 0.4, 0.4]], np.float32)
    others = np.array([[0.5, 0.5, 0.4, 0.4], [0.8, 0.8, 0.2, 0.2], [0.5, 0.4, 0.4, 0.2]], np.float32)
    np.testing.assert_allclose(overlaps(boxes, others), [1, 0, 0.5], atol=1e-6)


def test_average_precisions_are_those_of_each_query_alone(tmp_path: Path) -> None:
    source, _ = cells(tmp_path)
    rows = unit(np.random.default_rng(0).standard_normal((len(source.regions), 5)).astype(np.float32))
    gallery = [place for place, region in enumerate(source.regions) if region.side is Side.GALLERY]
    expected = []
    for place in queries(source):
        order = sorted(gallery, key=lambda other: -float(rows[place] @ rows[other]))
        expected.append(
            average_precision(
                np.array([source.identities[other] == source.identities[place] for other in order])
            )
        )
    np.testing.assert_allclose(average_precisions(rows, source), expected, atol=1e-6)
    assert mean_average_precision(rows, source) == pytest.approx(np.mean(expected), abs=1e-6)


def test_a_region_on_both_sides_is_not_its_own_answer(tmp_path: Path) -> None:
    source, _ = cells(tmp_path)
    source.sides = np.full_like(source.sides, 2)  # both
    rows = unit(np.random.default_rng(1).standard_normal((len(source.regions), 4)).astype(np.float32))
    aps = average_precisions(rows, source)
    assert len(aps) == len(source.regions)
    for place, ap in enumerate(aps):
        order = [other for other in np.argsort(-(rows @ rows[place])) if other != place]
        relevant = np.array([source.identities[other] == source.identities[place] for other in order])
        assert ap == pytest.approx(average_precision(relevant), abs=1e-6)


def test_small_batches_change_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, texts = cells(tmp_path)
    made = model().eval()
    whole, (boxes, _) = described(made, source, texts), predicted_boxes(made, source, texts)
    monkeypatch.setattr(scoring, "AT_ONCE", 5)
    few = described(made, source, texts)
    for name in ("identity", "language", "text", "imagined"):
        np.testing.assert_allclose(getattr(few, name), getattr(whole, name), atol=1e-5)
    np.testing.assert_allclose(predicted_boxes(made, source, texts)[0], boxes, atol=1e-5)


def test_box_scores_are_of_the_boxes_that_are_shown(tmp_path: Path) -> None:
    source, texts = cells(tmp_path)
    told = box_scores(model().eval(), source, texts)
    true = source.look(np.arange(len(source.regions))).boxes.numpy()
    ious = overlaps(predicted_boxes(model().eval(), source, texts)[0], true)
    assert told["n"] == len(source.regions)
    assert told["iou"] == pytest.approx(float(ious.mean()), abs=1e-6)
    assert told["acc@.5"] == float((ious >= 0.5).mean())


def test_a_journal_that_goes_on_is_one_journal(tmp_path: Path) -> None:
    first = {"epoch": 1, "arcface": 2.0, "norm arcface": 1.0, "mAP": 0.5}
    with closing(Journal(tmp_path, [])) as journal:
        journal.add(first)
    events = b"".join(path.read_bytes() for path in (tmp_path / "events").iterdir())
    assert b"loss/arcface" in events and b"gradient_norm/arcface" in events and b"mAP" in events
    with closing(Journal(tmp_path, [first])) as journal:
        journal.add(first | {"epoch": 2})
    lines = (tmp_path / "epochs.jsonl").read_text().splitlines()
    assert [line[:11] for line in lines] == ['{"epoch": 1', '{"epoch": 2']
