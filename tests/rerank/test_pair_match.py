"""Re-ranking by the matching head, with a small model that was trained to tell pairs from others."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import lookalike  # noqa: E402
from adapted_models import compact_model, states, x2vlm_model  # noqa: E402
from lookalike import images  # noqa: E402
from lookalike.encoders import AdaptedEncoder, ColourHistogram  # noqa: E402
from lookalike.errors import BadInput  # noqa: E402
from lookalike.learn.branches import TorchBranches  # noqa: E402
from lookalike.learn.export import export  # noqa: E402
from lookalike.learn.models.x2vlm import Words  # noqa: E402
from lookalike.learn.saved import Saved  # noqa: E402
from lookalike.rerank import Chain, PairMatch, SuperGlobal  # noqa: E402
from lookalike.rerank.pair_match import comparable  # noqa: E402
from lookalike.settings import Settings  # noqa: E402
from lookalike.testing import Kept  # noqa: E402
from lookalike.values import Box, Caption, Floats, Item, Query, Region, Row, Shortlist, unit  # noqa: E402
from saving import save  # noqa: E402

NAMES = ["a red dress", "blue shoes", "one green hat", "grey socks, worn", "a long yellow scarf", "gloves"]


def blank_of(saved: Saved) -> Floats:
    with torch.inference_mode():
        return np.asarray(saved.model.vlm.text(*Words().tokens([""])).numpy())


@pytest.fixture(scope="module")
def gallery(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("gallery")
    for number in range(len(NAMES)):
        save(folder / f"item-{number}" / "front.png", number)
    return sorted(folder.rglob("*.png"))


@pytest.fixture(scope="module")
def trained(gallery: list[Path]) -> Saved:
    """A model whose head was trained until it tells which name belongs to which picture."""
    saved = x2vlm_model()
    kept: list[torch.Tensor] = []
    head = saved.model.vlm.itm_head
    hook = head.register_forward_pre_hook(lambda _, given: kept.append(given[0].detach().clone()))
    encoder = encoder_of(saved)
    pairs = list(itertools.product(range(len(NAMES)), repeat=2))
    encoder.match([region(gallery[seen]) for seen, _ in pairs], [NAMES[said] for _, said in pairs])
    hook.remove()
    told, right = torch.cat(kept), torch.tensor([int(seen == said) for seen, said in pairs])
    with torch.random.fork_rng():
        torch.manual_seed(0)
        head.requires_grad_(True)
        optimiser = torch.optim.Adam(head.parameters(), 1e-2)
        for _ in range(400):
            loss = torch.nn.functional.cross_entropy(head(told), right)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    assert loss.item() < 0.05
    head.requires_grad_(False)
    return saved


def encoder_of(saved: Saved) -> AdaptedEncoder:
    return AdaptedEncoder(TorchBranches(saved, blank_of(saved), "a model", torch.device("cpu")))


@pytest.fixture(scope="module")
def encoder(trained: Saved) -> AdaptedEncoder:
    return encoder_of(trained)


def region(path: Path, box: Box | None = None) -> Region:
    return Region(images.load(path), box)


def row(path: Path, caption: str | None = None, box: Box | None = None) -> Row:
    picture = images.load(path)
    said = None if caption is None else Caption(caption, "a person")
    vector = np.zeros(4, np.float32)
    return Row(
        Item(path.parent.name), str(path), picture.sha256, picture.width, picture.height, vector, box,
        caption=said,
    )  # fmt: skip


def shortlist_of(rows: Sequence[Row]) -> Shortlist:
    scores = np.linspace(0.9, 0.5, len(rows)).astype(np.float32)
    return Shortlist(np.arange(len(rows)), scores, Kept(np.zeros((len(rows), 4), np.float32), rows))


def words(text: str) -> Query:
    return Query(np.zeros(4, np.float32), text=text)


def shown(path: Path, text: str | None = None) -> Query:
    return Query(np.zeros(4, np.float32), (region(path),), text)


def test_words_bring_the_picture_that_they_belong_to_to_the_front(
    gallery: list[Path], encoder: AdaptedEncoder
) -> None:
    shortlist = shortlist_of([row(path) for path in gallery])
    for number, name in enumerate(NAMES):
        ranked = PairMatch(encoder, weight=1).rerank(words(name), shortlist)
        assert ranked.keys[0] == number
        due = encoder.match([region(path) for path in gallery], [name] * len(gallery))
        assert ranked.keys.tolist() == np.argsort(-due).tolist()
        assert ranked.scores.tolist() == shortlist.scores.tolist()


def test_a_picture_is_compared_with_captions_and_who_has_none_keeps_its_place(
    gallery: list[Path], encoder: AdaptedEncoder
) -> None:
    told = [row(path, name) for path, name in zip(gallery, NAMES, strict=True)]
    for number, path in enumerate(gallery):
        assert PairMatch(encoder, weight=1).rerank(shown(path), shortlist_of(told)).keys[0] == number
    failed = replace(told[2], caption=Caption("", "a model", error="no answer"))
    some = [row(gallery[0]), told[1], failed, told[3], told[4], row(gallery[5])]
    odds = PairMatch(encoder).odds(shown(gallery[4]), some)
    assert np.isnan(odds).tolist() == [True, False, True, False, False, True]
    ranked = PairMatch(encoder, weight=1).rerank(shown(gallery[4]), shortlist_of(some))
    assert ranked.keys[[0, 2, 5]].tolist() == [0, 2, 5]
    assert ranked.keys[1] == 4 and sorted(ranked.keys) == list(range(6))


def test_without_captions_a_picture_leaves_the_order(gallery: list[Path], encoder: AdaptedEncoder) -> None:
    shortlist = shortlist_of([row(path) for path in gallery])
    ranked = PairMatch(encoder, weight=1).rerank(shown(gallery[3]), shortlist)
    assert ranked.keys.tolist() == shortlist.keys.tolist()
    assert ranked.scores.tolist() == shortlist.scores.tolist()


def test_only_the_first_are_asked_about(gallery: list[Path], encoder: AdaptedEncoder) -> None:
    shortlist = shortlist_of([row(path) for path in gallery])
    assert PairMatch(encoder, first=0).rerank(words(NAMES[5]), shortlist) is shortlist
    for first in range(1, 6):
        ranked = PairMatch(encoder, first=first, weight=1).rerank(words(NAMES[4]), shortlist)
        assert ranked.keys[first:].tolist() == list(range(first, 6))
        assert sorted(ranked.keys[:first]) == list(range(first))
        assert (ranked.keys[0] == 4) == (first >= 5)
    many = PairMatch(encoder, first=1000, weight=1).rerank(words(NAMES[5]), shortlist)
    assert many.keys[0] == 5
    empty = shortlist_of([])
    assert PairMatch(encoder, weight=1).rerank(words("red"), empty) is empty


def test_words_beside_a_picture_are_asked_of_all_and_captions_where_all_have_one(
    gallery: list[Path], encoder: AdaptedEncoder
) -> None:
    composed = shown(gallery[0], NAMES[4])
    pictures = [region(path) for path in gallery]
    by_words = encoder.match(pictures, [NAMES[4]] * 6)
    by_captions = encoder.match([pictures[0]] * 6, NAMES)
    captioned = [row(path, name) for path, name in zip(gallery, NAMES, strict=True)]
    pair_match = PairMatch(encoder, weight=1)
    np.testing.assert_allclose(pair_match.odds(composed, captioned), (by_words + by_captions) / 2, atol=1e-4)
    some = [*captioned[:5], row(gallery[5])]
    np.testing.assert_allclose(pair_match.odds(composed, some), by_words, atol=1e-4)
    assert pair_match.rerank(composed, shortlist_of(some)).keys[0] == 4


def test_a_row_s_box_confines_what_is_seen(gallery: list[Path], encoder: AdaptedEncoder) -> None:
    box = Box(10, 20, 60, 90)
    odds = PairMatch(encoder).odds(words("red"), [row(gallery[0]), row(gallery[0], box=box)])
    due = encoder.match([region(gallery[0]), region(gallery[0], box)], ["red", "red"])
    np.testing.assert_allclose(odds, due, atol=1e-4)
    assert abs(odds[0] - odds[1]) > 1e-3


def test_pictures_that_cannot_be_had_keep_their_place(
    gallery: list[Path], encoder: AdaptedEncoder, tmp_path: Path
) -> None:
    paths = [tmp_path / f"{name}.png" for name in ("gone", "broken", "changed")]
    for number, path in enumerate(paths):
        save(path, number)
    rows = [row(path) for path in paths] + [row(path) for path in gallery]
    rows[4] = replace(rows[4], box=Box(5000, 0, 6000, 9))
    paths[0].unlink()
    paths[1].write_bytes(b"no picture")
    save(paths[2], 77)
    ranked = PairMatch(encoder, weight=1).rerank(words(NAMES[5]), shortlist_of(rows))
    assert ranked.keys[[0, 1, 2, 4]].tolist() == [0, 1, 2, 4]
    assert ranked.keys[3] == 8
    gone = shortlist_of(rows[:3])
    assert PairMatch(encoder, weight=1).rerank(words("red"), gone).keys.tolist() == [0, 1, 2]


def test_the_weight_leads_from_the_first_order_to_that_of_the_head(encoder: AdaptedEncoder) -> None:
    scores = np.array([0.9, 0.8, 0.7, 0.65, 0.2], np.float32)
    odds = np.array([-3, np.nan, 1, 2], np.float32)
    places = {weight: PairMatch(encoder, weight=weight).order(scores, odds) for weight in (0, 0.55, 1)}
    assert places[0].tolist() == [0, 1, 2, 3, 4]
    assert places[1].tolist() == [3, 1, 2, 0, 4]
    three = np.array([0.9, 0.7, 0.65])
    mixed = sum(
        share * (each - each.mean()) / each.std()
        for share, each in ((0.45, three), (0.55, np.array([-3.0, 1, 2])))
    )
    assert [[0, 2, 3][place] for place in np.argsort(-mixed)] == places[0.55][[0, 2, 3]].tolist()
    same = np.full(3, 0.5, np.float32)
    for weight in (0.0, 0.5, 1.0):
        pair_match = PairMatch(encoder, weight=weight)
        assert pair_match.order(same, same).tolist() == [0, 1, 2]
        assert pair_match.order(scores, odds * 7 - 100).tolist() == pair_match.order(scores, odds).tolist()
        assert pair_match.order(scores, np.full(4, np.nan, np.float32)).tolist() == [0, 1, 2, 3, 4]


def test_everybody_is_compared_on_the_same_questions() -> None:
    nan = np.nan
    for answers, due in (
        ([[1, 3], [2, 8]], [2, 5]),
        ([[1, 3], [2, nan]], [1, 2]),
        ([[1, 3], [nan, 8], [nan, 2]], [3, 8, 2]),
        ([[1, nan], [nan, 8]], [1, nan]),
        ([[1, 3], [nan, nan]], [2, nan]),
        ([[nan, nan]], [nan]),
    ):
        np.testing.assert_array_equal(comparable(np.array(answers, np.float32)), np.float32(due))


def test_copies_remember_answers_and_pixels_without_a_file_are_not_taken_for_others(
    gallery: list[Path], encoder: AdaptedEncoder, tmp_path: Path
) -> None:
    path = tmp_path / "item" / "front.png"
    save(path, 3)
    pair_match, rows = PairMatch(encoder), [row(path), row(gallery[0])]
    odds = pair_match.odds(words("red"), rows)
    path.unlink()
    np.testing.assert_array_equal(replace(pair_match, weight=0.5).odds(words("red"), rows), odds)
    assert np.isnan(pair_match.odds(words("blue"), rows)).tolist() == [True, False]
    captioned = [row(gallery[0], "red")]
    one, other = (
        Query(np.zeros(4, np.float32), (Region(lookalike.values.Picture.of(images.load(path).pixels)),))
        for path in gallery[:2]
    )
    assert pair_match.odds(one, captioned) != pair_match.odds(other, captioned)


def test_the_grid_is_small_and_sound(encoder: AdaptedEncoder) -> None:
    (weights,) = PairMatch.GRID.values()
    assert PairMatch(encoder).weight in weights and len(weights) == len(set(weights)) <= 12
    assert all(replace(PairMatch(encoder), weight=weight).weight == weight for weight in weights)


def test_wrong_options_and_encoders_without_the_head_are_named(encoder: AdaptedEncoder) -> None:
    for options in ({"first": -1}, {"weight": -0.1}, {"weight": 1.5}, {"weight": float("nan")}):
        with pytest.raises(BadInput, match="pair-match with first"):
            PairMatch(encoder, **options)
    with pytest.raises(BadInput, match="colour-histogram cannot tell") as refused:
        PairMatch(ColourHistogram())  # type: ignore[arg-type]
    assert "itm" in refused.value.hint
    untaught = replace(compact_model(), about={"recipe": {"itc": 1.0, "itm": 0.0, "box": 1.0}})
    branches = TorchBranches(untaught, states(), "mine", torch.device("cpu"))
    with pytest.raises(BadInput, match="mine was not taught which caption"):
        PairMatch(AdaptedEncoder(branches, threads=1))


def test_after_another_re_ranker(gallery: list[Path], encoder: AdaptedEncoder) -> None:
    vectors = unit(np.random.default_rng(0).standard_normal((6, 8)))
    order = np.argsort(-(vectors @ vectors[1]))
    rows = [row(path) for path in gallery]
    shortlist = Shortlist(order, (vectors @ vectors[1])[order], Kept(vectors, rows))
    query = Query(vectors[1], text=NAMES[2])
    first = SuperGlobal(2, 0.3).rerank(query, shortlist)
    both = Chain((SuperGlobal(2, 0.3), PairMatch(encoder))).rerank(query, shortlist)
    assert both.keys[0] == 2 and sorted(both.keys) == list(range(6))
    assert both.scores.tolist() == first.scores.tolist()
    np.testing.assert_array_equal(both.vectors, vectors[both.keys])


@pytest.fixture(scope="module")
def onnx_file(trained: Saved, tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("onnx")
    file = tmp_path_factory.mktemp("exported") / "model.onnx"
    export(trained, blank_of(trained), file)
    return file


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "lookalike", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def test_in_a_search_by_words(onnx_file: Path, gallery: list[Path], tmp_path: Path) -> None:
    shop = tmp_path / "shop"
    with lookalike.open(shop, Settings(encoder=str(onnx_file))) as catalogue:
        catalogue.add(gallery[0].parents[1])
        plain = [catalogue.search(text=name)[0].item for name in NAMES]
    with lookalike.open(shop, Settings(rerank="superglobal+pair-match")) as catalogue:
        found = [catalogue.search(text=name)[0].item for name in NAMES]
    right = [f"item-{number}" for number in range(6)]
    assert sum(map(str.__eq__, found, right)) > sum(map(str.__eq__, plain, right))
    done = run("search", "--text", NAMES[3], "--in", shop, "--rerank", "pair-match", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["hits"][0]["item"] == "item-3"


def test_in_an_evaluation_by_words(onnx_file: Path, gallery: list[Path], tmp_path: Path) -> None:
    table = tmp_path / "pictures.jsonl"
    rows = []
    for number, path in enumerate(gallery):
        common = {"path": str(path), "identity": f"{number}", "caption": NAMES[number]}
        rows += [common | {"side": side, "split": "test"} for side in ("query", "gallery")]
    table.write_text("".join(json.dumps(each) + "\n" for each in rows))
    done = run(
        "eval", table, "--encoder", onnx_file, "--protocol", "text", "--rerank", "none",
        "--rerank", "pair-match", "--rerank", "superglobal+pair-match", "--tune", "test",
        "--out", tmp_path / "run", "--json",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    (metric,) = {next(iter(s["figures"]["same identity"])) for s in told["systems"]}
    figures = {s["name"]: s["figures"]["same identity"][metric]["value"] for s in told["systems"]}
    assert figures["pair-match"] > figures["none"] < figures["superglobal+pair-match"]
    assert figures["pair-match (tuned)"] == 1
    assert len(told["tuning"]["pair-match"]["trials"]) == 4


def test_without_the_head_the_command_line_says_so(gallery: list[Path], tmp_path: Path) -> None:
    shop = tmp_path / "shop"
    with lookalike.open(shop, Settings(encoder="colour-histogram")) as catalogue:
        catalogue.add(gallery[0].parents[1])
    done = run("search", gallery[0], "--in", shop, "--rerank", "pair-match")
    assert done.returncode == 1
    first, second = done.stderr.splitlines()
    assert "cannot tell which words belong to a picture" in first and "itm" in second
