import copy
import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lookalike.errors import BadInput
from lookalike.evaluation.metrics import (
    Ranks,
    average_precision,
    deepfashion2_top_k,
    map_at_r,
    mean_reciprocal_rank,
    ndcg,
    precision_at,
    ranks_of,
    recall_at,
    revisited,
)

GOLDEN = Path(__file__).parents[1] / "golden" / "metrics"


def test_a_worked_example() -> None:
    relevant = np.array([True, False, True, False, False])
    assert average_precision(relevant) == (1 / 1 + 2 / 3) / 2
    assert average_precision(relevant, total=4) == (1 / 1 + 2 / 3) / 4
    assert [recall_at(relevant[1:], k) for k in (1, 2)] == [0.0, 1.0]
    assert [precision_at(relevant, k) for k in (1, 2, 10)] == [1, 1 / 2, 2 / 10]
    assert map_at_r(relevant) == 1 / 2
    assert map_at_r(relevant, total=3) == (1 + 2 / 3) / 3
    assert mean_reciprocal_rank(relevant[1:]) == 1 / 2
    assert ndcg(relevant) == (1 + 1 / math.log2(4)) / (1 + 1 / math.log2(3))


def test_a_query_without_right_answers_has_no_value() -> None:
    nothing = np.zeros(3, bool)
    for value in (
        average_precision(nothing), recall_at(nothing, 1), precision_at(nothing, 1), map_at_r(nothing),
        mean_reciprocal_rank(nothing), ndcg(nothing),
    ):  # fmt: skip
        assert math.isnan(value)
    assert recall_at(nothing, 1, total=2) == precision_at(nothing, 1, total=2) == 0


def test_the_mean_reciprocal_rank_leaves_out_queries_without_right_answers() -> None:
    relevant = np.array([[0, 1, 0], [0, 0, 0], [1, 1, 0]], bool)
    assert mean_reciprocal_rank(relevant) == (1 / 2 + 1) / 2


@given(st.lists(st.booleans(), min_size=1, max_size=60))
def test_average_precision_equals_its_definition(ranking: list[bool]) -> None:
    precisions = [sum(ranking[: i + 1]) / (i + 1) for i, right in enumerate(ranking) if right]
    expected = sum(precisions) / len(precisions) if precisions else math.nan
    np.testing.assert_allclose(average_precision(np.array(ranking)), expected)


# nDCG


def test_graded_gains_by_hand() -> None:
    reached = 3 / math.log2(2) + 0 / math.log2(3) + 2 / math.log2(4)
    assert ndcg([3, 0, 2]) == pytest.approx(reached / (3 + 2 / math.log2(3)))
    assert ndcg([3, 0, 2, 5], k=3, ideal=[5, 3, 2, 1]) == pytest.approx(
        reached / (5 + 3 / math.log2(3) + 2 / math.log2(4))
    )


@given(ranking=st.lists(st.booleans(), max_size=30), missing=st.integers(0, 4), k=st.integers(1, 40))
def test_graded_and_binary_ndcg_are_one(ranking: list[bool], missing: int, k: int) -> None:
    everything = [True] * (sum(ranking) + missing)
    expected = Ranks.of(ranking, len(everything)).ndcg_at(k)
    np.testing.assert_allclose(ndcg(ranking, k, ideal=everything), expected, atol=1e-15)


@pytest.mark.parametrize("gains", [[1, -1], [math.nan, 1], [math.inf, 1]])
def test_gains_that_are_no_gains_are_refused(gains: list[float]) -> None:
    with pytest.raises(BadInput, match="gains"):
        ndcg(gains)
    with pytest.raises(BadInput, match="gains"):
        ndcg([1, 0], ideal=gains)


# Other libraries' definitions


@pytest.fixture(params=["cosine_mixed_sign", "with_lone_query"])
def libraries(request: pytest.FixtureRequest) -> tuple[list[Ranks], dict]:
    """The ranks of a seeded ranking, and what the libraries made of it."""
    arrays = np.load(GOLDEN / "libraries" / f"{request.param}.npz")
    alike = arrays["query_labels"][:, None] == arrays["gallery_labels"]
    ranks = ranks_of(arrays["sim"], [np.flatnonzero(row) for row in alike])
    return ranks, json.loads((GOLDEN / "libraries" / f"{request.param}.json").read_text())


def mean(values: list[float], empty: float | None = None) -> float:
    """With queries without right answers left out, or counted as `empty`."""
    given = np.array(values)
    return float(np.nanmean(given if empty is None else np.nan_to_num(given, nan=empty)))


def test_every_named_definition_is_reproduced(libraries: tuple[list[Ranks], dict]) -> None:
    ranks, told = libraries
    ours = {
        "map": mean([r.average_precision() for r in ranks], empty=0),
        "map_skip_empty": mean([r.average_precision() for r in ranks]),
        "map@r": mean([r.map_at_r() for r in ranks], empty=0),
        "map@r_skip_empty": mean([r.map_at_r() for r in ranks]),
        "trapezoid_map_revisitop_skip_empty": mean([r.trapezoid_ap() for r in ranks]),
    }
    for k in (1, 5, 10):
        hits = [Ranks(r.cut(k).found, len(r.cut(k).found)) for r in ranks]
        ours |= {
            f"ap@{k}_over_R": mean([r.cut(k).average_precision() for r in ranks], empty=0),
            f"ap@{k}_over_min(R,k)": mean([r.average_precision(k) for r in ranks], empty=0),
            f"ap@{k}_over_hits": mean([r.average_precision() for r in hits], empty=0),
            f"hit@{k}": mean([r.hit_at(k) for r in ranks], empty=0),
            f"recall@{k}_fraction": mean([r.share_at(k) for r in ranks], empty=0),
        }
    assert ours == pytest.approx(told["definitions"], abs=1e-12)


def test_the_libraries_own_figures_are_reproduced(libraries: tuple[list[Ranks], dict]) -> None:
    ranks, told = libraries
    metric_learning = told["pml_k=None"]  # leaves lone queries out
    assert metric_learning["mean_average_precision"] == pytest.approx(
        mean([r.average_precision() for r in ranks]), abs=1e-6
    )
    assert metric_learning["mean_average_precision_at_r"] == pytest.approx(
        mean([r.map_at_r() for r in ranks]), abs=1e-6
    )
    assert metric_learning["r_precision"] == pytest.approx(mean([r.r_precision() for r in ranks]), abs=1e-6)
    assert metric_learning["mean_reciprocal_rank"] == pytest.approx(
        mean([r.reciprocal_rank() for r in ranks]), abs=1e-6
    )
    torch = told["torchmetrics_plus1"]  # scores made positive
    look_bench = told["look_bench_percent_rounded2"]  # a lone query counts 0
    for k in (1, 5, 10):
        assert torch[f"precision@{k}_skip"] == pytest.approx(
            mean([r.precision_at(k) for r in ranks]), abs=1e-6
        )
        assert torch[f"ndcg@{k}_skip"] == pytest.approx(mean([r.ndcg_at(k) for r in ranks]), abs=1e-6)
        assert torch[f"mrr@{k}_skip"] == pytest.approx(
            mean([r.cut(k).reciprocal_rank() for r in ranks]), abs=1e-6
        )
        assert look_bench[f"ndcg@{k}"] == pytest.approx(
            100 * mean([r.ndcg_at(k) for r in ranks], empty=0), abs=0.006
        )
        assert look_bench[f"map@{k}"] == pytest.approx(
            100 * mean([r.average_precision(k) for r in ranks], empty=0), abs=0.006
        )


# Revisited Oxford and Paris


@pytest.mark.parametrize("name", ["basic", "empty_queries"])
def test_revisited_equals_the_published_code(name: str) -> None:
    arrays = np.load(GOLDEN / "revisitop" / f"{name}.npz")
    truth = json.loads((GOLDEN / "revisitop" / f"{name}.json").read_text())["gnd"]
    measured = revisited(arrays["ranks"], truth)
    assert list(measured) == ["E", "M", "H"]
    for protocol, figures in measured.items():
        np.testing.assert_allclose(figures["aps"], arrays[f"aps_{protocol}"], atol=1e-12)
        means = [figures["mAP"], figures["mP@1"], figures["mP@5"], figures["mP@10"]]
        expected = [arrays[f"map_{protocol}"], *arrays[f"mpk_{protocol}"]]
        np.testing.assert_allclose(means, expected, atol=1e-12)


@pytest.mark.parametrize("name", ["basic", "empty_queries"])
def test_plain_average_precision_after_the_junk_is_taken_out(name: str) -> None:
    arrays = np.load(GOLDEN / "revisitop" / f"{name}.npz")
    truth = json.loads((GOLDEN / "revisitop" / f"{name}.json").read_text())["gnd"]
    plain = [
        Ranks.of(np.isin(column, lists["hard"]))
        .without(np.flatnonzero(np.isin(column, lists["junk"] + lists["easy"])))
        .average_precision()
        for column, lists in zip(arrays["ranks"].T, truth, strict=True)
    ]
    np.testing.assert_allclose(plain, arrays["aps_noninterp_H"], atol=1e-12)


def test_revisited_counts_right_answers_that_a_short_ranking_lacks() -> None:
    figures = revisited(np.array([[4], [0]]), [{"easy": [0, 1], "hard": [7], "junk": [4]}])
    assert figures["E"]["mAP"] == (1 + 1) / (2 * 2)
    assert figures["H"]["mAP"] == 0
    assert figures["H"]["mP@5"] == 0
    assert math.isnan(revisited(np.array([[0]]), [{"easy": [], "hard": [], "junk": []}])["M"]["mAP"])


@pytest.mark.parametrize(
    ("column", "truth", "message"),
    [
        ([0, 1], {"easy": [0], "hard": []}, r"ground_truth\[0\]: the field junk is missing"),
        ([0, 1], {"easy": 0, "hard": [], "junk": []}, r"ground_truth\[0\].easy: 0 is not a list"),
        ([0, 1], {"easy": ["0"], "hard": [], "junk": []}, r"ground_truth\[0\].easy: '0' is not a whole"),
        ([0, 1], {"easy": [0], "hard": [0], "junk": []}, r"ground_truth\[0\]: .* twice"),
        ([0, 0], {"easy": [0], "hard": [], "junk": []}, r"ground_truth\[0\]: .* twice"),
        ([0, 1], [], r"ground_truth\[0\]: \[\] is not an object"),
    ],
)
def test_revisited_names_what_is_wrong(column: list[int], truth: object, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        revisited(np.array(column)[:, None], [truth])


def test_revisited_wants_one_column_a_query() -> None:
    with pytest.raises(BadInput, match="one column a query"):
        revisited(np.zeros((1, 5), int), [{"easy": [0], "hard": [], "junk": []}])


# DeepFashion2's own measure


def deepfashion2(name: str) -> tuple[dict[str, list], dict]:
    folder = GOLDEN / "deepfashion2" / name
    lists = {
        kind: json.loads((folder / f"{kind}.json").read_text())
        for kind in ("results", "query_gt", "gallery_gt")
    }
    return lists, json.loads((folder / "expected.json").read_text())


@pytest.mark.parametrize("name", ["small", "edge_class_and_score", "edge_iou_half", "edge_zero_iou"])
def test_top_k_equals_the_published_code(name: str) -> None:
    lists, expected = deepfashion2(name)
    assert deepfashion2_top_k(**lists) == {k: expected[f"top-{k}"] for k in (1, 5, 10, 15, 20)}


def test_images_without_results_count_as_failures() -> None:
    lists, expected = deepfashion2("edge_iou_half")
    lists["results"] = [entry for entry in lists["results"] if entry["query_image_id"] == 1]
    lists["query_gt"].append(lists["query_gt"][0] | {"query_image_id": 3})
    assert deepfashion2_top_k(**lists)[20] == expected["correct_20"] / (expected["query_num"] + 1)


def test_what_stands_below_the_twentieth_place_changes_nothing() -> None:
    lists, expected = deepfashion2("edge_iou_half")
    for entry in lists["results"]:
        entry["gallery_image_id"] = entry["gallery_image_id"] + [7, 8] * 10
        entry["gallery_bbox"] = entry["gallery_bbox"] + [[0, 0, 100, 100]] * 20
    assert deepfashion2_top_k(**lists)[20] == expected["top-20"]


def test_without_queries_there_is_no_top_k() -> None:
    assert all(math.isnan(value) for value in deepfashion2_top_k([], [], []).values())


@given(seed=st.integers(0, 2**32 - 1))
def test_top_k_equals_a_literal_reading_of_the_protocol(seed: int) -> None:
    lists = drawn(np.random.default_rng(seed))
    assert deepfashion2_top_k(**lists) == pytest.approx(literal_top_k(**lists), nan_ok=True)


def drawn(random: np.random.Generator) -> dict[str, list]:
    """A few images, garments and detections with coarse boxes, so that overlaps and ties are frequent."""

    def number(most: int) -> int:
        return int(random.integers(0, most))

    def box() -> list[int]:
        x, y = number(4), number(4)
        return [x, y, x + 1 + number(3), y + 1 + number(3)]

    def garment(side: str) -> dict:
        return {
            f"{side}_image_id": number(4),
            "style": number(3),
            "pair_id": number(2),
            "cls": number(2),
            "bbox": box(),
        }

    def detection() -> dict:
        length = number(7)
        return {
            "query_image_id": number(5),
            "query_bbox": box(),
            "query_cls": number(2),
            "query_score": number(3) / 2,
            "gallery_image_id": [number(4) for _ in range(length)],
            "gallery_bbox": [box() for _ in range(length)],
        }

    return {
        "results": [detection() for _ in range(number(12))],
        "query_gt": [garment("query") for _ in range(number(8))],
        "gallery_gt": [garment("gallery") for _ in range(number(10))],
    }


def overlap(a: list[int], b: list[int]) -> float:
    """IoU of coarse boxes by counting unit squares."""
    first, second = ({(x, y) for x in range(c[0], c[2]) for y in range(c[1], c[3])} for c in (a, b))
    return len(first & second) / len(first | second)


def literal_top_k(results: list[dict], query_gt: list[dict], gallery_gt: list[dict]) -> dict[int, float]:
    queries, right = 0, dict.fromkeys((1, 5, 10, 15, 20), 0)
    for image in {entry["query_image_id"] for entry in query_gt}:
        garments = [entry for entry in query_gt if entry["query_image_id"] == image]
        detections = [entry for entry in results if entry["query_image_id"] == image]
        given = [int(np.argmax([overlap(d["query_bbox"], g["bbox"]) for g in garments])) for d in detections]
        for place, garment in enumerate(garments):
            if garment["style"] == 0:
                continue
            queries += 1
            own = [
                d for d, to in zip(detections, given, strict=True)
                if to == place and d["query_cls"] == garment["cls"]
            ]  # fmt: skip
            if not own:
                continue
            best = own[int(np.argmax([d["query_score"] for d in own]))]
            for rank, (shop, box) in enumerate(
                zip(best["gallery_image_id"], best["gallery_bbox"], strict=True)
            ):
                if any(
                    g["gallery_image_id"] == shop and g["pair_id"] == garment["pair_id"]
                    and g["style"] == garment["style"] and overlap(box, g["bbox"]) >= 0.5
                    for g in gallery_gt
                ):  # fmt: skip
                    right = {k: count + (rank < k) for k, count in right.items()}
                    break
    return {k: count / queries if queries else math.nan for k, count in right.items()}


@pytest.mark.parametrize(
    ("source", "change", "message"),
    [
        ("results", {"query_cls": None}, r"results\[0\].query_cls: None is not a whole number"),
        ("results", {"query_score": math.nan}, r"results\[0\].query_score: nan is not a finite number"),
        ("results", {"query_score": "0.5"}, r"results\[0\].query_score: '0.5' is not a finite number"),
        ("results", {"query_image_id": 1.5}, r"results\[0\].query_image_id: 1.5 is not a whole number"),
        ("results", {"query_bbox": [0, 0, 5]}, r"results\[0\].query_bbox: .* is not a box of four numbers"),
        ("results", {"query_bbox": [5, 0, 0, 5]}, r"results\[0\].query_bbox: box 5,0,0,5: needs x0 < x1"),
        ("results", {"gallery_image_id": 7}, r"results\[0\].gallery_image_id: 7 is not a list"),
        (
            "results",
            {"gallery_image_id": [7]},
            r"results\[0\]: 1 in gallery_image_id, but 20 in gallery_bbox",
        ),
        ("query_gt", {"style": True}, r"query_gt\[0\].style: True is not a whole number"),
        ("gallery_gt", {"bbox": "0,0,1,1"}, r"gallery_gt\[0\].bbox: '0,0,1,1' is not a list"),
    ],
)
def test_top_k_names_the_entry_and_field_of_a_wrong_value(source: str, change: dict, message: str) -> None:
    lists, _ = deepfashion2("edge_iou_half")
    lists[source][0] |= change
    with pytest.raises(BadInput, match=message):
        deepfashion2_top_k(**lists)


@pytest.mark.parametrize("source", ["results", "query_gt", "gallery_gt"])
def test_top_k_names_the_entry_and_field_that_is_missing(source: str) -> None:
    lists, _ = deepfashion2("edge_iou_half")
    for field in {name for name in lists[source][0] if (source, name) != ("gallery_gt", "cls")}:
        broken = copy.deepcopy(lists)
        del broken[source][-1][field]
        place = len(broken[source]) - 1
        with pytest.raises(BadInput, match=rf"{source}\[{place}\]: the field {field} is missing"):
            deepfashion2_top_k(**broken)
