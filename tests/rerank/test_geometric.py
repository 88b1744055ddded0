import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from importlib.util import find_spec
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lookalike import images, weights
from lookalike.errors import BadInput, MissingExtra, WeightsError
from lookalike.rerank.geometric import (
    MOST,
    SIDE,
    Features,
    Geometric,
    Memory,
    inliers,
    local_features,
)
from lookalike.testing import Kept
from lookalike.values import Box, Item, Picture, Query, Region, Row, Shortlist

pytest.importorskip("cv2")
data = pytest.importorskip("skimage.data")

GOLDEN = Path(__file__).parents[1] / "golden" / "xfeat"


def xfeat_is_here() -> bool:
    try:
        return find_spec("torch") is not None and bool(weights.locate("xfeat", weights.default_folder()))
    except WeightsError:
        return False


needs_xfeat = pytest.mark.skipif(not xfeat_is_here(), reason="lookalike models pull xfeat, with torch")
KINDS = ["rootsift", pytest.param("xfeat", marks=needs_xfeat)]


def texture(name: str) -> np.ndarray:
    """A photograph of scikit-image's, (256, 256, 3)."""
    picture = Image.fromarray(getattr(data, name)()).convert("RGB")
    side = min(picture.size)
    return np.asarray(picture.crop((0, 0, side, side)).resize((256, 256)))


def tilted(pixels: np.ndarray, strength: float = 0.08) -> np.ndarray:
    """The same flat thing seen from another side: a homography moves the corners inwards."""
    height, width = pixels.shape[:2]
    inset = strength * width
    corners = [(inset, inset / 2), (width - inset / 2, 0), (width, height - inset), (0, height)]
    rows = []
    for (x, y), (u, v) in zip(corners, [(0, 0), (width, 0), (width, height), (0, height)], strict=True):
        rows += [[x, y, 1, 0, 0, 0, -u * x, -u * y], [0, 0, 0, x, y, 1, -v * x, -v * y]]
    targets = [0, 0, width, 0, width, height, 0, height]
    map_back = np.linalg.solve(np.array(rows), np.array(targets))
    image = Image.fromarray(pixels)
    return np.asarray(
        image.transform(image.size, Image.Transform.PERSPECTIVE, tuple(map_back), Image.Resampling.BILINEAR)
    )


def region(pixels: np.ndarray, box: Box | None = None) -> Region:
    return Region(Picture.of(np.ascontiguousarray(pixels)), box)


def test_a_tilted_copy_has_many_inliers_and_another_picture_few() -> None:
    names = ("astronaut", "coffee", "chelsea", "rocket")
    flat = {name: local_features(region(texture(name))) for name in names}
    copies = {name: local_features(region(tilted(texture(name)))) for name in names}
    for name, other in product(names, names):
        count = inliers(copies[name], flat[other])
        assert count >= 20 if name == other else count < 8, (name, other, count)


@needs_xfeat
def test_xfeat_tells_a_tilted_copy_from_another_picture() -> None:
    copy = local_features(region(tilted(texture("astronaut"))), "xfeat")
    same, other = (local_features(region(texture(name)), "xfeat") for name in ("astronaut", "coffee"))
    assert inliers(copy, same) > 5 * inliers(copy, other) + 20


@needs_xfeat
def test_xfeat_finds_what_the_published_code_finds() -> None:
    from lookalike.rerank.xfeat import XFeat

    golden = np.load(GOLDEN / "astronaut.npz")
    (file,) = weights.locate("xfeat", weights.default_folder())
    points, descriptors = XFeat(file).detect(golden["pixels"], most=60)
    np.testing.assert_allclose(points, golden["points"], atol=1e-4)
    np.testing.assert_allclose(descriptors, golden["descriptors"], atol=1e-4)


def test_a_homography_fits_what_is_strongly_tilted_and_an_affine_map_a_part() -> None:
    flat = local_features(region(texture("astronaut")))
    copy = local_features(region(tilted(texture("astronaut"), strength=0.2)))
    assert inliers(copy, flat, "homography") > 1.3 * inliers(copy, flat, "affine") > 0


@pytest.mark.parametrize("model", ["affine", "homography"])
def test_matches_that_agree_are_counted_and_the_others_not(model: str) -> None:
    random = np.random.default_rng(4)
    descriptors = np.eye(90, dtype=np.float16)  # each is like its own match and like nothing else
    points = random.uniform(0, 500, (90, 2)).astype(np.float32)
    moved = points @ np.array([[0.8, 0.3], [-0.3, 0.8]], np.float32) + 40
    moved[60:] = random.uniform(0, 500, (30, 2))
    query, candidate = Features(points, descriptors, 0.5), Features(moved, descriptors, 0.5)
    shuffled = random.permutation(90)
    for mixed in (candidate, Features(moved[shuffled], descriptors[shuffled], 0.5)):
        assert 60 <= inliers(query, mixed, model) <= 62

    few = Features(points[:3], descriptors[:3], 0.5)
    assert inliers(few, candidate, model) == inliers(query, few, model) == 0


def test_a_match_is_mutual_and_alike_enough() -> None:
    points = np.random.default_rng(0).uniform(0, 500, (20, 2)).astype(np.float32)
    towards = np.eye(21, dtype=np.float32)
    alike = 0.95 * towards[:20] + np.sqrt(1 - 0.95**2) * towards[20]  # cosine 0.95 with towards
    own = Features(points, towards[:20].astype(np.float16), 0.9)
    theirs = Features(points, alike.astype(np.float16), 0.9)
    assert inliers(own, theirs) == 20
    assert inliers(replace(own, alike=0.96), theirs) == 0
    same = Features(points, np.tile(theirs.descriptors[:1], (20, 1)), 0.5)  # one place's match at most
    assert inliers(own, same) == 0


def test_what_matches_outside_the_boxes_does_not_count() -> None:
    background, left, right = (texture(name) for name in ("astronaut", "coffee", "chelsea"))
    one, two = np.hstack([background, left]), np.hstack([background, right])
    box = Box(256, 0, 512, 256)
    whole = inliers(local_features(region(one)), local_features(region(two)))
    inside = inliers(local_features(region(one, box)), local_features(region(two, box)))
    assert whole > 100
    assert inside < 8


@pytest.mark.parametrize("kind", KINDS)
def test_plain_tiny_and_large_regions(kind: str) -> None:
    plain = local_features(region(np.full((200, 100, 3), 130, np.uint8)), kind)
    dot = local_features(region(np.zeros((1, 1, 3), np.uint8)), kind)
    large = local_features(region(np.tile(texture("gravel"), (3, 5, 1))), kind)
    assert len(plain) == len(dot) == 0
    assert 500 < len(large) <= MOST
    assert large.points.max() > SIDE * 0.8
    assert np.all((large.points >= -1) & (large.points <= (SIDE, SIDE * 3 / 5)))
    np.testing.assert_allclose(np.linalg.norm(large.descriptors.astype(float), axis=1), 1, atol=2e-3)
    assert inliers(plain, large) == inliers(large, plain) == inliers(dot, dot) == 0


SCORES = np.array([0.9, 0.8, 0.7, 0.6, 0.5], np.float32)
COUNTS = np.array([5, 0, 20, 9])  # the fifth is not compared


@pytest.mark.parametrize(
    ("options", "order"),
    [
        ({"rule": "tie-breaker", "floor": 8}, [2, 3, 0, 1, 4]),
        ({"rule": "tie-breaker", "floor": 30}, [0, 1, 2, 3, 4]),
        ({"rule": "tie-breaker", "floor": 0}, [2, 3, 0, 1, 4]),
        ({"rule": "tie-breaker", "floor": 10}, [2, 0, 1, 3, 4]),
        ({"rule": "delg", "floor": 10}, [2, 3, 0, 1, 4]),
        ({"rule": "added", "weight": 0.25, "enough": 10, "floor": 8}, [2, 0, 3, 1, 4]),
        ({"rule": "added", "weight": 0.25, "enough": 10, "floor": 0}, [0, 2, 3, 1, 4]),
        ({"rule": "added", "weight": 0.0}, [0, 1, 2, 3, 4]),
    ],
    ids=str,
)
def test_each_rule_orders_as_it_says(options: dict[str, object], order: list[int]) -> None:
    scores = Geometric(**options).score(SCORES, COUNTS)  # type: ignore[arg-type]
    assert np.argsort(-scores, kind="stable").tolist() == order


def test_added_adds_at_most_its_weight() -> None:
    rule = Geometric(rule="added", weight=0.2, enough=10, floor=8)
    np.testing.assert_allclose(rule.score(SCORES, COUNTS), [0.9, 0.8, 0.9, 0.78, 0.5], atol=1e-6)


@pytest.mark.parametrize("rule", ["tie-breaker", "delg"])
def test_inliers_outweigh_scores_and_equal_inliers_leave_them_the_word(rule: str) -> None:
    random = np.random.default_rng(8)
    scores = np.sort(random.uniform(-40, 40, 60).astype(np.float32))[::-1]
    counts = random.integers(0, 12, 50)
    lifted = np.zeros(60, int)
    lifted[:50] = np.where((counts >= 8) | (rule == "delg"), counts, 0)
    wanted = sorted(range(60), key=lambda place: (-lifted[place], place))
    found = Geometric(rule=rule).score(scores, counts)  # type: ignore[arg-type]
    assert np.argsort(-found, kind="stable").tolist() == wanted


def test_the_published_rule_is_the_tie_breaker_without_a_floor() -> None:
    published, own = Geometric(rule="delg"), Geometric(rule="tie-breaker", floor=0)
    assert published.score(SCORES, COUNTS).tolist() == own.score(SCORES, COUNTS).tolist()
    assert published.score(SCORES[:0], COUNTS[:0]).shape == (0,)


def row(path: Path, box: Box | None = None) -> Row:
    picture = images.load(path)
    vector = np.zeros(4, np.float32)
    return Row(Item(path.stem), str(path), picture.sha256, picture.width, picture.height, vector, box)


def shortlist_of(rows: Sequence[Row], scores: Sequence[float] | None = None) -> Shortlist:
    scores = scores or np.linspace(0.9, 0.5, len(rows)).tolist()
    vectors = np.zeros((len(rows), 4), np.float32)
    return Shortlist(np.arange(len(rows)), np.array(scores, np.float32), Kept(vectors, rows))


@pytest.fixture
def gallery(tmp_path: Path) -> list[Path]:
    """Four pictures; the last shows what `query` shows."""
    paths = []
    for name in ("coffee", "chelsea", "rocket", "astronaut"):
        paths.append(tmp_path / f"{name}.png")
        Image.fromarray(texture(name)).save(paths[-1])
    return paths


@pytest.fixture
def query(tmp_path: Path) -> Query:
    path = tmp_path / "query.png"
    Image.fromarray(tilted(texture("astronaut"))).save(path)
    return Query(np.zeros(4, np.float32), (Region(images.load(path)),))


@pytest.mark.parametrize("features", KINDS)
@pytest.mark.parametrize("rule", ["tie-breaker", "delg", "added"])
def test_the_same_object_goes_up(gallery: list[Path], query: Query, features: str, rule: str) -> None:
    geometric = Geometric(features=features, rule=rule, weight=0.5)  # type: ignore[arg-type]
    ranked = geometric.rerank(query, shortlist_of([row(path) for path in gallery]))
    assert ranked.keys[0] == 3
    assert sorted(ranked.keys) == [0, 1, 2, 3]
    assert np.all(np.diff(ranked.scores) <= 0)


def test_only_the_first_are_compared(gallery: list[Path], query: Query) -> None:
    shortlist = shortlist_of([row(path) for path in gallery])
    geometric = Geometric(verify=3)
    assert len(geometric.verified(query.regions[0], shortlist)) == 3
    assert geometric.rerank(query, shortlist).keys.tolist() == [0, 1, 2, 3]
    assert geometric.rerank(query, shortlist_of([])).keys.tolist() == []


def test_a_row_s_box_confines_what_is_compared(tmp_path: Path, query: Query) -> None:
    path = tmp_path / "both.png"
    Image.fromarray(np.hstack([texture("astronaut"), texture("coffee")])).save(path)
    rows = [row(path, Box(0, 0, 256, 256)), row(path, Box(256, 0, 512, 256)), row(path)]
    left, right, whole = Geometric().verified(query.regions[0], shortlist_of(rows))
    assert left >= 20
    assert whole >= 20
    assert right < 8


def test_the_order_follows_the_members_wherever_they_stand(gallery: list[Path], query: Query) -> None:
    rows, scores = [row(path) for path in gallery], [0.9, 0.8, 0.7, 0.6]
    geometric = Geometric()
    ranked = geometric.rerank(query, shortlist_of(rows, scores))
    for order in ([3, 2, 1, 0], [1, 3, 0, 2]):
        shuffled = shortlist_of([rows[place] for place in order], [scores[place] for place in order])
        again = geometric.rerank(query, shuffled)
        assert [order[key] for key in again.keys] == ranked.keys.tolist()
        assert again.scores.tolist() == ranked.scores.tolist()


def test_pictures_that_cannot_be_had_count_nothing(gallery: list[Path], query: Query) -> None:
    rows = [row(path) for path in gallery]
    gone, broken, changed, _ = gallery
    gone.unlink()
    broken.write_bytes(b"no picture")
    Image.fromarray(texture("astronaut")).save(changed, compress_level=1)
    outside = replace(rows[3], box=Box(5000, 0, 6000, 9))
    shortlist = shortlist_of([*rows, outside])
    counts = Geometric().verified(query.regions[0], shortlist)
    assert counts[[0, 1, 2, 4]].tolist() == [0, 0, 0, 0]
    assert counts[3] >= 20
    assert Geometric().rerank(query, shortlist).keys.tolist() == [3, 0, 1, 2, 4]


def test_words_alone_leave_the_order(gallery: list[Path]) -> None:
    shortlist = shortlist_of([row(path) for path in gallery])
    assert Geometric().rerank(Query(np.zeros(4, np.float32), text="red"), shortlist) is shortlist


def test_counts_do_not_depend_on_the_time_or_on_opencv_s_generator(gallery: list[Path], query: Query) -> None:
    import cv2

    rows = [row(path) for path in gallery]
    model = "homography"
    first = Geometric(model=model).verified(query.regions[0], shortlist_of(rows)).tolist()
    for seed in (1, 99):
        cv2.setRNGSeed(seed)
        assert Geometric(model=model).verified(query.regions[0], shortlist_of(rows)).tolist() == first
    threads = cv2.getNumThreads()
    with ThreadPoolExecutor(4) as pool:
        shared = Geometric(model=model, memory=Memory(400_000))
        runs = [pool.submit(shared.verified, query.regions[0], shortlist_of(rows)) for _ in range(12)]
        assert all(run.result().tolist() == first for run in runs)
    assert cv2.getNumThreads() == threads


def test_what_is_remembered_needs_no_file_and_forgets_at_its_limit(gallery: list[Path], query: Query) -> None:
    shortlist = shortlist_of([row(path) for path in gallery])
    asked = query.regions[0]
    wide, narrow = Geometric(), Geometric(memory=Memory(0))
    counts = wide.verified(asked, shortlist).tolist()
    assert narrow.verified(asked, shortlist).tolist() == counts
    for path in gallery:
        path.unlink()
    assert wide.verified(asked, shortlist).tolist() == counts
    assert replace(wide, rule="delg").verified(asked, shortlist).tolist() == counts
    assert narrow.verified(asked, shortlist).tolist() == [0, 0, 0, 0]


def test_memory_keeps_what_was_used_last() -> None:
    features = Features(np.zeros((100, 2), np.float32), np.zeros((100, 64), np.float16), 0.9)
    memory = Memory(3 * (features.nbytes + 1000))
    made: list[str] = []

    def ask(key: str) -> None:
        def make() -> Features:
            made.append(key)
            return features

        assert memory.recall(key, make) is features

    for key in "abcabcad":  # d puts b out, which was asked for longest ago
        ask(key)
    assert made == list("abcd")
    ask("a")
    ask("c")
    ask("b")
    assert made == list("abcdb")


def test_the_grid_is_small_and_sound() -> None:
    tried = [
        Geometric(**dict(zip(Geometric.GRID, values, strict=True)))  # type: ignore[arg-type]
        for values in product(*Geometric.GRID.values())
    ]
    assert 0 < len(set(tried)) == len(tried) <= 12


@pytest.mark.parametrize(
    "options",
    [{"rule": "best"}, {"features": "orb"}, {"model": "warp"}, {"verify": 0}, {"floor": -1}, {"enough": 0}],
    ids=str,
)
def test_wrong_options_are_named(options: dict[str, object]) -> None:
    with pytest.raises(BadInput, match="geometric verification"):
        Geometric(**options)  # type: ignore[arg-type]


def test_a_missing_package_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(MissingExtra) as raised:
        Geometric(features="xfeat")
    assert "lookalike[hub]" in raised.value.hint
    monkeypatch.setitem(sys.modules, "cv2", None)
    for call in (Geometric, lambda: local_features(region(texture("coffee")))):
        with pytest.raises(MissingExtra) as raised:
            call()
        assert "lookalike[geometric]" in raised.value.hint
