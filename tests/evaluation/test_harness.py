"""Evaluation end to end, on a small data set with the stand-in encoder."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from trees import make_tree

from lookalike import images
from lookalike.datasets import Dataset, Labelled, Side, Unlisted
from lookalike.datasets.deepfashion2 import deepfashion2, evaluation_json
from lookalike.errors import BadInput
from lookalike.evaluation.harness import Plan, evaluate
from lookalike.evaluation.metrics import deepfashion2_top_k
from lookalike.evaluation.protocols import PROTOCOLS, definition
from lookalike.evaluation.runs import Run, load_answers, load_places
from lookalike.rerank import SuperGlobal
from lookalike.testing import ThumbnailEncoder
from lookalike.values import Floats, Region


class CountingEncoder(ThumbnailEncoder):
    """The stand-in, which counts what it encodes and stops at a limit as if it were killed."""

    def __init__(self, limit: int | None = None) -> None:
        self.encoded, self.limit = 0, limit

    def pictures(self, regions: Sequence[Region], captions: Sequence[str] | None = None) -> Floats:
        if self.limit is not None and self.encoded + len(regions) > self.limit:
            raise KeyboardInterrupt
        self.encoded += len(regions)
        return super().pictures(regions, captions)


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tree(tmp_path_factory.mktemp("tree"))


@pytest.fixture
def dataset(tree: Path) -> Dataset:
    return deepfashion2(tree)


def plan(**wanted: object) -> Plan:
    return Plan(**({"encoder": ThumbnailEncoder()} | wanted))  # type: ignore[arg-type]


def read(dataset: Dataset, split: str = "validation") -> list[Labelled]:
    return [region for region in dataset.read(split) if isinstance(region, Labelled)]


def described(regions: Sequence[Labelled]) -> Floats:
    return ThumbnailEncoder().pictures([Region(images.load(r.source), r.box) for r in regions])


def naive_ap(right: np.ndarray) -> float:
    hits, total = 0, 0.0
    for place, is_right in enumerate(right, start=1):
        if is_right:
            hits += 1
            total += hits / place
    return total / hits


def test_b1_is_what_a_plain_calculation_gives(dataset: Dataset, tmp_path: Path) -> None:
    run = evaluate(dataset, tmp_path, plan(rerank=["none", "superglobal"]))
    regions = read(dataset)
    queries = [r for r in regions if r.side is Side.QUERY and r.identity]
    gallery = [r for r in regions if r.side is Side.GALLERY]
    asked, searched = described(queries), described(gallery)
    for system in run.systems:
        aps = []
        for query, vector in zip(queries, asked, strict=True):
            scores = searched @ vector
            if system.name == "superglobal":
                order = np.argsort(-scores, kind="stable")
                refined = SuperGlobal().score(vector, searched[order])
                order = order[np.argsort(-refined, kind="stable")]
            else:
                order = np.argsort(-scores, kind="stable")
            aps.append(naive_ap(np.array([gallery[place].identity == query.identity for place in order])))
        figure = system.figures["pair and style"]["mAP"]
        assert figure.value == pytest.approx(np.mean(aps), abs=1e-3)  # descriptors are kept in fp16
        assert figure.low <= figure.value <= figure.high
        assert (figure.n, figure.groups) == (10, 5)
        answered = [a.values["pair and style"]["mAP"] for a in load_answers(tmp_path, system.name)]
        assert np.mean(answered) == pytest.approx(figure.value)
    assert (run.queries, run.gallery, run.unanswerable) == (10, 30, 0)
    assert run.differences[0].than == "superglobal"
    assert Run.load(tmp_path) == run


def test_every_figure_has_a_definition_and_every_protocol_its_words() -> None:
    for name, protocol in PROTOCOLS.items():
        assert protocol.name == name and protocol.about.endswith(".")
        assert all(definition(metric) for metric in protocol.metrics)


def test_b2_leaves_style_0_out_of_the_gallery(dataset: Dataset, tmp_path: Path) -> None:
    run = evaluate(dataset, tmp_path, plan(protocol="b2"))
    assert run.gallery == 20
    unpaired = {region.id for region in read(dataset) if region.identity is None}
    assert not any(item in unpaired for a in load_answers(tmp_path, "none") for item, _, _ in a.top)


def test_b1_in_category_ranks_only_the_category(dataset: Dataset, tmp_path: Path) -> None:
    evaluate(dataset, tmp_path, plan(protocol="b1-category"))
    category = {region.id: region.category for region in read(dataset)}
    for answer in load_answers(tmp_path, "none"):
        assert {category[item] for item, _, _ in answer.top} == {category[answer.query]}


@pytest.mark.parametrize("regions", ["given", "salient", "whole"])
def test_official_is_what_the_published_rule_gives(dataset: Dataset, tmp_path: Path, regions: str) -> None:
    run = evaluate(dataset, tmp_path, plan(protocol="official", regions=regions))
    results = json.loads((tmp_path / "answers-none.json").read_text())
    expected = deepfashion2_top_k(results, *evaluation_json(dataset, "validation"))
    figures = run.systems[0].figures["pair and style, overlapping"]
    assert {k: figures[f"top-{k}"].value for k in expected} == pytest.approx(expected)
    assert figures["top-1"].n == 10


def test_fine_and_coarse_grade_by_attributes(dataset: Dataset, tmp_path: Path) -> None:
    fine = evaluate(dataset, tmp_path / "fine", plan(protocol="fine")).systems[0].figures
    coarse = evaluate(dataset, tmp_path / "coarse", plan(protocol="coarse")).systems[0].figures
    (fine_figures,), (coarse_figures,) = fine.values(), coarse.values()
    assert coarse_figures["R@1"].value >= fine_figures["R@1"].value
    assert 0 < fine_figures["graded nDCG@5"].value <= 1
    assert fine_figures["graded nDCG@5"].value == coarse_figures["graded nDCG@5"].value


def test_words_search_the_gallerys_captions(dataset: Dataset, tmp_path: Path) -> None:
    run = evaluate(dataset, tmp_path, plan(protocol="text"))
    assert run.regions == "none"
    pair = {region.id: region.group for region in read(dataset)}
    for answer in load_answers(tmp_path, "none"):
        assert pair[answer.top[0][0]] == answer.group  # its word is the pair's own
    with pytest.raises(BadInput, match="caption"):
        evaluate(without_captions(dataset), tmp_path, plan(protocol="text"))


def without_captions(dataset: Dataset) -> Dataset:
    def stripped(split: str) -> Iterator[Labelled | Unlisted]:
        for region in dataset.read(split):
            yield replace(region, captions=()) if isinstance(region, Labelled) else region

    return replace(dataset, read=stripped)


def test_composed_queries_ask_for_the_other_style(dataset: Dataset, tmp_path: Path) -> None:
    run = evaluate(dataset, tmp_path, plan(protocol="composed"))
    identity = {region.id: region.identity for region in read(dataset)}
    for answer in load_answers(tmp_path, "none"):
        assert answer.total == 2
        right = identity[answer.right or ""]
        assert right is not None and right != identity[answer.query.partition("#")[0]]
        assert right.rpartition("/")[0] == answer.group
    assert {place.title for place in load_places(tmp_path / "queries.jsonl").values()} == {
        "but blue",
        "but red",
    }
    assert run.queries == 10


def test_a_killed_evaluation_goes_on_from_what_is_stored(dataset: Dataset, tmp_path: Path) -> None:
    killed = CountingEncoder(limit=25)
    with pytest.raises(KeyboardInterrupt):
        evaluate(dataset, tmp_path / "run", plan(encoder=killed))
    assert not (tmp_path / "run" / "run.json").exists()
    again = CountingEncoder()
    run = evaluate(dataset, tmp_path / "run", plan(encoder=again))
    timing = 3 * 16  # the encoder's own speed
    assert again.encoded - timing < 40 + 21  # not all, and a search for each timed query
    third = CountingEncoder()
    repeated = evaluate(dataset, tmp_path / "run", plan(encoder=third))
    assert third.encoded - timing <= 21
    assert repeated.systems[0].figures == run.systems[0].figures


def test_runs_share_descriptors(dataset: Dataset, tmp_path: Path) -> None:
    shared = tmp_path / "descriptors"
    whole = evaluate(dataset, tmp_path / "a", plan(descriptors=shared))
    evaluate(dataset, tmp_path / "b", plan(protocol="b2", descriptors=shared))
    again = evaluate(dataset, tmp_path / "c", plan(descriptors=shared))
    assert again.systems[0].figures == whole.systems[0].figures


def test_what_a_data_set_lost_is_not_ranked_any_more(dataset: Dataset, tmp_path: Path) -> None:
    regions = read(dataset)
    lost = next(region for region in regions if region.side is Side.GALLERY)
    fewer = replace(dataset, read=lambda _split: iter([r for r in regions if r.id != lost.id]))
    asked = plan(rerank=["superglobal"])
    evaluate(dataset, tmp_path / "both", asked)
    again = evaluate(fewer, tmp_path / "both", asked)
    alone = evaluate(fewer, tmp_path / "alone", asked)
    assert again.systems[0].figures == alone.systems[0].figures
    assert again.gallery == 29


def test_equal_scores_stand_in_the_gallerys_order(tmp_path: Path) -> None:
    same = np.full((64, 64, 3), 90, np.uint8)
    same[20:40, 20:40] = 200
    for name in "qabc":
        Image.fromarray(same).save(tmp_path / f"{name}.png")
    regions = [
        Labelled("q", str(tmp_path / "q.png"), Side.QUERY, "x", "x"),
        *(
            Labelled(name, str(tmp_path / f"{name}.png"), Side.GALLERY, "x" if name == "c" else None, name)
            for name in "abc"
        ),
    ]
    run = evaluate(
        Dataset("made", tmp_path, ("all",), lambda _split: iter(regions)), tmp_path / "run", plan()
    )
    assert [item for item, _, _ in next(load_answers(tmp_path / "run", "none")).top] == ["a", "b", "c"]
    assert run.systems[0].figures["same identity"]["mAP"].value == pytest.approx(1 / 3)


def test_a_query_among_the_gallery_is_not_its_own_answer(tmp_path: Path) -> None:
    tree = make_tree(tmp_path / "tree", pairs=2)
    regions = [replace(r, side=Side.BOTH) for r in read(deepfashion2(tree))]
    made = Dataset("made", tmp_path, ("all",), lambda _split: iter(regions))
    evaluate(made, tmp_path / "run", plan())
    for answer in load_answers(tmp_path / "run", "none"):
        assert answer.query not in {item for item, _, _ in answer.top}
        assert answer.total == 2


def test_queries_without_answers_are_counted_and_left_out(dataset: Dataset, tmp_path: Path) -> None:
    regions = [
        replace(r, identity="nobody") if r.side is Side.QUERY and r.group.endswith("/1") else r
        for r in read(dataset)
    ]
    run = evaluate(replace(dataset, read=lambda _split: iter(regions)), tmp_path, plan())
    figure = run.systems[0].figures["pair and style"]["mAP"]
    assert (run.queries, run.unanswerable, figure.n) == (12, 4, 8)
    unanswered = [a for a in load_answers(tmp_path, "none") if a.total == 0]
    assert len(unanswered) == 4
    assert all(a.values["pair and style"]["mAP"] is None and a.rank is None for a in unanswered)


def test_missing_pictures_stop_it_unless_allowed(tmp_path: Path) -> None:
    tree = make_tree(tmp_path / "tree", pairs=3)
    dataset = deepfashion2(tree)
    (tree / "validation" / "image" / "000001.jpg").write_bytes(b"no picture")
    with pytest.raises(BadInput, match=r"000001\.jpg"):
        evaluate(dataset, tmp_path / "run", plan())
    run = evaluate(dataset, tmp_path / "run", plan(allow_missing=True))
    assert run.queries == 5 and len(run.left_out) == 1 and "000001.jpg" in run.left_out[0]


@pytest.mark.parametrize("broken", [np.nan, 2.0])
def test_what_is_no_descriptor_is_refused(dataset: Dataset, tmp_path: Path, broken: float) -> None:
    class Broken(ThumbnailEncoder):
        def pictures(self, regions, captions=None):  # type: ignore[no-untyped-def]
            return super().pictures(regions) * np.float32(broken)

    with pytest.raises(BadInput, match="length 1"):
        evaluate(dataset, tmp_path, plan(encoder=Broken()))


def test_wrong_names_are_told_before_anything_is_done(dataset: Dataset, tmp_path: Path) -> None:
    for wanted, told in (
        ({"protocol": "b1-categry"}, "did you mean b1-category"),
        ({"rerank": ["superglobol"]}, "did you mean superglobal"),
        ({"split": "tests"}, "splits"),
        ({"tune": "tests", "rerank": ["superglobal"]}, "splits"),
    ):
        with pytest.raises(BadInput) as caught:
            evaluate(dataset, tmp_path, plan(**wanted))
        assert told in caught.value.hint
    twice = [*read(dataset), read(dataset)[0]]
    with pytest.raises(BadInput, match="several regions"):
        evaluate(replace(dataset, read=lambda _split: iter(twice)), tmp_path, plan())
    with pytest.raises(BadInput, match="no queries"):
        evaluate(replace(dataset, read=lambda _split: iter([])), tmp_path, plan())


def test_tuning_reports_its_trials_and_both_figures(tmp_path: Path) -> None:
    dataset = deepfashion2(make_tree(tmp_path / "tree", pairs=12))
    run = evaluate(dataset, tmp_path / "run", plan(rerank=["none", "superglobal"], tune="tuning"))
    assert [system.name for system in run.systems] == ["none", "superglobal", "superglobal (tuned)"]
    fitted = run.tuning["superglobal"]
    best = max(trial["mAP"] for trial in fitted["trials"])
    assert {"parameters": fitted["best"], "mAP": best} in fitted["trials"]
    assert run.systems[2].parameters == fitted["best"]
    assert len(run.differences) == 2
