"""Trained models as encoders: what goes in, what comes out, and the exported file without torch."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("onnx")

from PIL import Image  # noqa: E402

import lookalike  # noqa: E402
from adapted_models import CONFIG, compact_model, states, x2vlm_model  # noqa: E402
from lookalike import images, settings  # noqa: E402
from lookalike.datasets import Dataset, Labelled, Side  # noqa: E402
from lookalike.encoders import AdaptedEncoder, EfficientNet, OnnxBranches  # noqa: E402
from lookalike.encoders.adapted import SHARE  # noqa: E402
from lookalike.errors import BadInput, LookalikeError, MissingExtra, WeightsError, WrongEncoder  # noqa: E402
from lookalike.learn.branches import TorchBranches  # noqa: E402
from lookalike.learn.export import export  # noqa: E402
from lookalike.learn.models.adapted import Towers  # noqa: E402
from lookalike.learn.models.x2vlm import Words  # noqa: E402
from lookalike.learn.saved import Saved, save  # noqa: E402
from lookalike.learn.sources import Cells, Pictures  # noqa: E402
from lookalike.learn.tokens import make_tokens  # noqa: E402
from lookalike.settings import Settings, open_encoder  # noqa: E402
from lookalike.testing import drawing  # noqa: E402
from lookalike.trust import Trust  # noqa: E402
from lookalike.values import Box, Floats, Keys, Picture, Region, unit  # noqa: E402
from pulled import needs_minilm  # noqa: E402

CAPTIONS = [
    "a red dress with white dots",
    "",
    "blue",
    "!?",
    "two green shoes, never worn, in their box",
    "hat",
    "",
]
IDENTITY = CONFIG.vision_width


def regions() -> list[Region]:
    """Whole pictures, boxes to a fraction of a pixel, and boxes of no more than a pixel."""
    first, second, third = (Picture.of(drawing(seed, 90 + seed, 120)) for seed in range(3))
    small = Picture(drawing(7, 48, 64), 96, 128, "", "")  # decoded at half of its size
    boxes = [Box(10.3, 5.6, 60.2, 99.9), Box(0, 0, 1, 1), Box(80.5, 100, 90, 120)]
    return [
        Region(first), Region(second, boxes[0]), Region(third, boxes[1]), Region(first, boxes[2]),
        Region(small), Region(small, Box(20.1, 30.7, 95.3, 128)), Region(second, boxes[2]),
    ]  # fmt: skip


class Recorded:
    """Branches that also keep what they were asked."""

    def __init__(self, branches: TorchBranches) -> None:
        self._branches, self.name, self.facts = branches, branches.name, branches.facts
        self.asked: list[tuple[str, dict[str, np.ndarray]]] = []

    def run(self, branch: str, **arrays: Floats | Keys) -> Floats:
        self.asked.append((branch, arrays))
        return self._branches.run(branch, **arrays)

    def given(self, branch: str, name: str) -> np.ndarray:
        return np.concatenate([arrays[name] for asked, arrays in self.asked if asked == branch])


def unguarded(saved: Saved) -> Saved:
    return replace(saved, guard=None, trust=None)


def blank_of(saved: Saved) -> Floats:
    if saved.trunk == "compact":
        return states()
    with torch.inference_mode():
        return saved.model.vlm.text(*Words().tokens([""])).numpy()


def in_torch(saved: Saved) -> Recorded:
    return Recorded(TorchBranches(saved, blank_of(saved), "a model", torch.device("cpu")))


@pytest.fixture(scope="module")
def onnx_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """It believes every caption."""
    saved, out = unguarded(x2vlm_model()), tmp_path_factory.mktemp("exported") / "model.onnx"
    export(saved, blank_of(saved), out)
    return out


@pytest.fixture(scope="module")
def exported(onnx_file: Path) -> AdaptedEncoder:
    return AdaptedEncoder(OnnxBranches(onnx_file))


@pytest.fixture
def labelled(tmp_path: Path) -> Dataset:
    entries = []
    for number, region in enumerate(regions()):
        path = tmp_path / f"{number}.png"
        Image.fromarray(region.picture.pixels).save(path)
        width = region.picture.pixels.shape[1]
        box = None if region.box is None or region.picture.width != width else region.box
        entries.append(Labelled(path.stem, str(path), Side.GALLERY, path.stem, path.stem, box=box))

    def read(split: str) -> Iterator[Labelled]:
        yield from entries

    return Dataset("made", tmp_path, ("all",), read)


def test_an_x2vlm_is_given_what_training_gave_it(labelled: Dataset) -> None:
    saved = x2vlm_model()
    branches = in_torch(saved)
    entries = list(labelled.read("all"))
    seen = Pictures(labelled, "all", saved.model.vlm.config).look(np.arange(len(entries)))
    AdaptedEncoder(branches).pictures([Region(images.load(each.source), each.box) for each in entries])
    np.testing.assert_array_equal(branches.given("tokens", "pixels"), seen.image.numpy())
    np.testing.assert_array_equal(branches.given("image", "region"), seen.region.numpy())


def test_compact_is_given_what_training_gave_it(labelled: Dataset, tmp_path: Path) -> None:
    """But for the half precision that tokens are kept in."""
    saved = compact_model(towers={"efficientnet-lite2": EfficientNet().fingerprint})
    branches = in_torch(saved)
    entries = list(labelled.read("all"))
    cells = Cells(make_tokens(labelled, "all", EfficientNet(threads=1), tmp_path / "tokens", views=1))
    seen = cells.look(np.arange(len(entries)))
    read = [Region(images.load(each.source), each.box) for each in cells.regions]
    rows = AdaptedEncoder(branches, threads=1).pictures(read)
    largest = seen.image.abs().max()
    np.testing.assert_allclose(branches.given("image", "tokens"), seen.image.numpy(), atol=1e-3 * largest)
    np.testing.assert_allclose(branches.given("image", "region"), seen.region.numpy(), atol=1e-3)
    text = torch.from_numpy(states()).expand(len(entries), -1, -1)
    with torch.inference_mode():
        due = saved.model(Towers(seen.image, seen.region, text, torch.ones(len(entries), 2)))
    np.testing.assert_allclose(rows, due.numpy(), atol=2e-3)


def test_descriptors_are_the_models(exported: AdaptedEncoder) -> None:
    """Each region by itself, through the model's own methods, with its caption in both parts."""
    saved = unguarded(x2vlm_model())
    encoder = AdaptedEncoder(in_torch(saved))
    found = regions()
    rows = encoder.pictures(found, CAPTIONS)
    for place, (region, caption) in enumerate(zip(found, CAPTIONS, strict=True)):
        branches = in_torch(saved)
        AdaptedEncoder(branches).pictures([region])
        ids, mask = Words().tokens([caption])
        with torch.inference_mode():
            image = saved.model.vlm.vision(torch.from_numpy(branches.given("tokens", "pixels")))
            weight = torch.from_numpy(branches.given("image", "region"))
            text, seen = saved.model.vlm.text(ids, mask), saved.model.region(image, weight)
            language = saved.model.language_part(seen)
            if caption not in ("", "!?"):
                language = torch.nn.functional.normalize(
                    language + SHARE * saved.model.vlm.text_embedding(text), dim=1
                )
            (due,) = saved.model.joined(saved.model.identity_part(seen, text, mask), language).numpy()
        np.testing.assert_allclose(rows[place], due, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(exported.pictures(found, CAPTIONS), rows, atol=1e-4)
    bare = encoder.pictures(found)
    np.testing.assert_allclose(encoder.pictures(found, [""] * len(found)), bare, atol=1e-6)
    told = [place for place, caption in enumerate(CAPTIONS) if caption not in ("", "!?")]
    assert (np.abs(rows - bare).max(axis=1)[told] > 1e-3).all()
    np.testing.assert_allclose(np.delete(rows, told, axis=0), np.delete(bare, told, axis=0), atol=1e-5)


def test_by_mask_a_picture_goes_through_once(exported: AdaptedEncoder) -> None:
    saved = x2vlm_model()
    branches = in_torch(saved)
    encoder = AdaptedEncoder(branches, by_mask=True)
    picture = Picture.of(drawing(3, 160, 120))
    boxes = [Box(5 * place, 40, 5 * place + 41, 80) for place in range(20)]  # more than fit into one pass
    rows = encoder.pictures([*(Region(picture, box) for box in boxes), regions()[0], Region(picture)])
    assert len(branches.given("tokens", "pixels")) == 2
    grid = CONFIG.grid
    masks = branches.given("image", "region").reshape(-1, grid, grid)
    assert sorted(masks.sum(axis=(1, 2)))[-2:] == [grid**2, grid**2]  # the two whole pictures
    first = np.zeros((grid, grid))
    first[1:3, :2] = 1  # rows 40 to 80 of 120, columns 0 to 41 of 160
    np.testing.assert_array_equal(masks[0], first)
    whole = AdaptedEncoder(in_torch(saved)).pictures([regions()[0], Region(picture)])
    np.testing.assert_allclose(rows[-2:], whole, atol=1e-5)
    assert encoder.fingerprint != AdaptedEncoder(in_torch(saved)).fingerprint


def test_compact_by_mask_sees_the_cells_of_the_box() -> None:
    branches = in_torch(compact_model())
    picture = Picture.of(drawing(3, 180, 90))  # fills rows 2.25 to 6.75 of 9
    AdaptedEncoder(branches, by_mask=True, threads=1).pictures(
        [Region(picture, Box(0, 0, 60, 90)), Region(picture)]
    )
    left, whole = branches.given("image", "region").reshape(2, 9, 9)
    assert len(branches.given("image", "tokens")) == 2
    assert (left[2:7, :3] > 0).all() and max(left[:, 3:].max(), left[:2].max(), left[7:].max()) < 1e-9
    assert (whole[2:7] > 0).all() and whole[:2].max() < 1e-9


def test_texts_meet_the_language_part(exported: AdaptedEncoder) -> None:
    saved = x2vlm_model()
    rows = exported.texts(CAPTIONS)
    assert rows is not None and rows.shape == (len(CAPTIONS), exported.dim)
    assert not rows[:, :IDENTITY].any()
    with torch.inference_mode():
        ids, mask = Words().tokens(CAPTIONS)
        due = saved.model.vlm.text_embedding(saved.model.vlm.text(ids, mask)).numpy()
    np.testing.assert_allclose(rows[:, IDENTITY:], due, atol=1e-4)
    many = [f"{number} buttons" for number in range(70)]
    again = exported.texts(many)
    assert again is not None
    for place in (0, 31, 32, 69):
        np.testing.assert_allclose(again[place], exported.texts([many[place]])[0], atol=1e-5)


def test_agreement_is_the_cosine_and_match_the_log_odds(exported: AdaptedEncoder) -> None:
    saved = x2vlm_model()
    found = regions()
    model, branches = saved.model, in_torch(saved)
    AdaptedEncoder(branches).pictures(found)
    with torch.inference_mode():
        image = model.vlm.vision(torch.from_numpy(branches.given("tokens", "pixels")))
        seen = model.region(image, torch.from_numpy(branches.given("image", "region")))
        ids, mask = Words().tokens(CAPTIONS)
        text = model.vlm.text(ids, mask)
        agreement = model.agreement(seen, text).numpy()
        logits = model.vlm.match_logits(model.fused(seen, text, mask)).numpy()
    np.testing.assert_allclose(exported.agreement(found, CAPTIONS), agreement, atol=1e-4)
    np.testing.assert_allclose(exported.match(found, CAPTIONS), logits[:, 1] - logits[:, 0], atol=2e-4)


def test_what_is_asked_of_one_region_takes_one_pass_of_the_tower() -> None:
    branches = in_torch(x2vlm_model())
    encoder = AdaptedEncoder(branches)
    (region, other) = regions()[:2]
    odds = encoder.match([region] * 20 + [other], [f"{number} buttons" for number in range(20)] + ["red"])
    assert len(branches.given("tokens", "pixels")) == 2
    apart = [encoder.match([region], [f"{number} buttons"])[0] for number in range(20)]
    np.testing.assert_allclose(odds[:20], apart, atol=1e-4)
    np.testing.assert_allclose(odds[20:], encoder.match([other], ["red"]), atol=1e-4)


TRUST = Trust(right=0.1, wrong=-0.1, deviation=0.15)


def test_a_caption_counts_by_the_chance_that_it_is_right() -> None:
    """Between the bare descriptor and the captioned one, each part by itself."""
    saved, found = unguarded(x2vlm_model()), regions()
    trusting, weighing = (AdaptedEncoder(in_torch(replace(saved, trust=each))) for each in (None, TRUST))
    assert weighing.trust == TRUST and weighing.fingerprint != trusting.fingerprint
    told = np.array([any(map(str.isalnum, caption)) for caption in CAPTIONS])
    bare, full = trusting.pictures(found), trusting.pictures(found, CAPTIONS)
    said, agreement = weighing.texts(CAPTIONS), weighing.agreement(found, CAPTIONS)
    assert said is not None
    wrong = [0.3, 0.5, 0.9, 0.5, 0.6, 0.1, 0.5]
    for shares in (wrong, None):
        rows = weighing.pictures(found, CAPTIONS, shares)
        np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-5)
        np.testing.assert_allclose(rows[~told], bare[~told], atol=1e-6)
        chance = TRUST.chance(agreement, np.array(shares or [0.5] * len(found)))[:, None]
        assert ((chance > 0.05) & (chance < 0.95))[told].all()
        identity = unit(chance * full[:, :IDENTITY] + (1 - chance) * bare[:, :IDENTITY])
        language = unit(unit(bare[:, IDENTITY:]) + SHARE * chance * said[:, IDENTITY:])
        np.testing.assert_allclose(unit(rows[:, :IDENTITY])[told], identity[told], atol=1e-5)
        np.testing.assert_allclose(unit(rows[:, IDENTITY:])[told], language[told], atol=1e-5)
    none, all_ = [1.0] * len(found), [0.0] * len(found)
    np.testing.assert_allclose(weighing.pictures(found, CAPTIONS, none), bare, atol=1e-5)
    np.testing.assert_allclose(weighing.pictures(found, CAPTIONS, all_), full, atol=1e-5)


def test_weighing_captions_takes_one_pass_of_the_tower_for_each_region() -> None:
    branches = in_torch(replace(x2vlm_model(), trust=TRUST))
    found = regions() * 2
    AdaptedEncoder(branches).pictures([replace(region) for region in found], CAPTIONS * 2)
    assert len(branches.given("tokens", "pixels")) == len(found)


def test_what_agreement_means_is_exported(tmp_path: Path) -> None:
    saved = replace(x2vlm_model(), guard=0.05, trust=TRUST)
    export(saved, blank_of(saved), tmp_path / "model.onnx")
    encoder = AdaptedEncoder(OnnxBranches(tmp_path / "model.onnx"))
    assert (encoder.guard, encoder.trust) == (0.05, TRUST)
    due = AdaptedEncoder(in_torch(saved)).pictures(regions(), CAPTIONS, [0.2] * len(CAPTIONS))
    np.testing.assert_allclose(encoder.pictures(regions(), CAPTIONS, [0.2] * len(CAPTIONS)), due, atol=1e-4)


def test_without_a_language_part_nothing_is_weighed() -> None:
    silent = AdaptedEncoder(in_torch(replace(x2vlm_model(language=0.0), trust=TRUST)))
    trusting = AdaptedEncoder(in_torch(unguarded(x2vlm_model(language=0.0))))
    assert (silent.guard, silent.trust) == (None, None)
    rows = silent.pictures(regions(), CAPTIONS)
    np.testing.assert_array_equal(rows, trusting.pictures(regions(), CAPTIONS))


def test_boxes_lie_in_the_pictures(exported: AdaptedEncoder) -> None:
    saved = x2vlm_model()
    encoder = AdaptedEncoder(in_torch(saved))
    seen = [region.picture for region in regions()]
    for captions in (None, CAPTIONS):
        for box, again, picture in zip(
            encoder.boxes(seen, captions), exported.boxes(seen, captions), seen, strict=True
        ):
            assert np.allclose(box.corners, again.corners, atol=0.05)
            assert (
                0 <= box.x0 <= box.x1 - 1 <= picture.width - 1
                and 0 <= box.y0 <= box.y1 - 1 <= picture.height - 1
            )
    bare, told = encoder.boxes(seen[:1]), encoder.boxes(seen[:1], CAPTIONS[:1])
    assert bare != told
    branches = in_torch(saved)
    AdaptedEncoder(branches).boxes(seen[:1])
    cx, cy, w, h = branches.run("box", tokens=branches.given("box", "tokens"))[0] * [90, 120, 90, 120]
    due = Box(cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2).clipped(90, 120)
    assert np.allclose(bare[0].corners, due.corners, atol=1e-3)


def test_boxes_of_compact_are_in_the_picture_not_in_the_square() -> None:
    """In a picture that fills half of the square: cell shares become pixels by where it lies."""
    saved = compact_model()
    branches = in_torch(saved)
    picture = Picture(drawing(3, 180, 90), 360, 180, "", "")
    (box,) = AdaptedEncoder(branches, threads=1).boxes([picture])
    cx, cy, w, h = branches.run("box", tokens=branches.given("box", "tokens"))[0].tolist()
    due = np.array([(cx - w / 2) * 360, (cy - h / 2) * 360 - 90, (cx + w / 2) * 360, (cy + h / 2) * 360 - 90])
    assert np.allclose(box.corners, due.clip(0, [360, 180, 360, 180]), atol=0.01)


def test_maps_are_centred_and_have_the_pictures_geometry(exported: AdaptedEncoder) -> None:
    pictures = [region.picture for region in regions()] * 2
    maps = exported.maps(pictures)
    assert maps.values.shape == (14, IDENTITY, CONFIG.grid, CONFIG.grid)
    np.testing.assert_allclose(maps.values.mean(axis=(2, 3)), 0, atol=1e-5)
    assert maps.frames[0] == Box(0, 0, CONFIG.grid, CONFIG.grid)
    single = exported.maps(pictures[9:10])
    np.testing.assert_allclose(single.values[0], maps.values[9], atol=1e-5)


def test_nothing_gives_nothing(exported: AdaptedEncoder) -> None:
    assert exported.pictures([]).shape == (0, exported.dim)
    texts = exported.texts([])
    assert texts is not None and texts.shape == (0, exported.dim)
    assert exported.boxes([]) == [] and exported.match([], []).shape == exported.agreement([], []).shape == (
        0,
    )


def test_company_and_threads_change_nothing(onnx_file: Path) -> None:
    encoder = AdaptedEncoder(OnnxBranches(onnx_file, threads=1))
    many, told = regions() * 3, CAPTIONS * 3
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: encoder.pictures(many, told), range(4)))
    alone = np.concatenate(
        [encoder.pictures([region], [text]) for region, text in zip(many, told, strict=True)]
    )
    for rows in found:
        np.testing.assert_allclose(rows, alone, atol=1e-5)


def test_what_a_model_was_not_taught_is_refused() -> None:
    about = {"recipe": {"itc": 0.0, "itm": 0.0, "box": 0.0}}
    encoder = AdaptedEncoder(in_torch(compact_model(about=about)), threads=1)
    assert encoder.texts(["red"]) is None
    for ask in (
        lambda: encoder.boxes([regions()[0].picture]),
        lambda: encoder.match(regions()[:1], ["red"]),
        lambda: encoder.agreement(regions()[:1], ["red"]),
    ):
        with pytest.raises(BadInput, match="was not taught"):
            ask()


def test_without_a_language_part_descriptors_are_the_identity_part() -> None:
    encoder = AdaptedEncoder(in_torch(x2vlm_model(language=0.0)))
    assert encoder.dim == IDENTITY and encoder.texts(["red"]) is None
    rows = encoder.pictures(regions())
    full = AdaptedEncoder(in_torch(x2vlm_model())).pictures(regions())[:, :IDENTITY]
    np.testing.assert_allclose(rows, full / np.linalg.norm(full, axis=1, keepdims=True), atol=1e-5)


def test_other_frozen_towers_than_it_was_trained_on() -> None:
    saved = compact_model(towers={"efficientnet-lite2": "another"})
    with pytest.raises(WeightsError, match="trained with another efficientnet-lite2"):
        AdaptedEncoder(in_torch(saved))


@needs_minilm
def test_compact_with_words(tmp_path: Path) -> None:
    from lookalike.encoders import MiniLM

    saved, blank = unguarded(compact_model()), MiniLM().states([""])[0]
    export(saved, blank, tmp_path / "compact.onnx")
    expected = AdaptedEncoder(TorchBranches(saved, blank, device=torch.device("cpu")))
    found = open_encoder(str(tmp_path / "compact.onnx"))
    seen = regions()
    np.testing.assert_allclose(found.pictures(seen, CAPTIONS), expected.pictures(seen, CAPTIONS), atol=1e-4)
    np.testing.assert_allclose(found.texts(CAPTIONS), expected.texts(CAPTIONS), atol=1e-4)
    bare, punctuation = found.pictures(seen[:1]), found.pictures(seen[:1], ["!?"])
    np.testing.assert_allclose(bare, punctuation, atol=1e-4)  # the empty caption in the file is MiniLM's


def without_torch(folder: Path, *command: str) -> subprocess.CompletedProcess[str]:
    """The command line where torch cannot be imported."""
    stub = folder / "stub"
    stub.mkdir(exist_ok=True)
    (stub / "torch.py").write_text("raise ImportError('there is no torch here')")
    return subprocess.run(
        [sys.executable, "-m", "lookalike", *command],
        capture_output=True, text=True, cwd=folder, env={**os.environ, "PYTHONPATH": str(stub)},
    )  # fmt: skip


def test_a_catalogue_without_torch(onnx_file: Path, pictures: Path, tmp_path: Path) -> None:
    relative = os.path.relpath(onnx_file, tmp_path)
    done = without_torch(tmp_path, "index", str(pictures), "--to", "shop", "--encoder", relative, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["pictures"] == 7
    query = ["search", str(pictures / "item-3" / "front.png"), "--in", "shop", "--json"]
    done = without_torch(tmp_path, *query)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["hits"][0]["item"] == "item-3"
    done = without_torch(tmp_path, "search", "--text", "a red dress", "--in", "shop", "--json")
    assert done.returncode == 0, done.stderr
    hits = json.loads(done.stdout)["hits"]

    encoder = AdaptedEncoder(in_torch(x2vlm_model()))
    (text,) = encoder.texts(["a red dress"])
    files = sorted(pictures.rglob("*.png"))
    scores = encoder.pictures([Region(images.load(str(file))) for file in files]) @ text
    best: dict[str, float] = {}
    for file, score in zip(files, scores.tolist(), strict=True):
        best[file.parent.name] = max(score, best.get(file.parent.name, -1))
    assert [hit["item"] for hit in hits] == sorted(best, key=lambda item: -best[item])
    assert [hit["score"] for hit in hits] == pytest.approx(sorted(best.values(), reverse=True), abs=2e-3)


def test_a_changed_file_is_another_encoder(onnx_file: Path, pictures: Path, tmp_path: Path) -> None:
    out = tmp_path / "model.onnx"
    out.write_bytes(onnx_file.read_bytes())
    with lookalike.open(tmp_path / "shop", Settings(encoder=str(out))) as catalogue:
        catalogue.add(pictures)
        assert catalogue.encoder.name == str(out)
    other = x2vlm_model(seed=1)
    export(other, blank_of(other), out)
    with pytest.raises(WrongEncoder, match="the catalogue was built by"):
        lookalike.open(tmp_path / "shop")
    out.unlink()
    with pytest.raises(WeightsError, match="cannot be read: No such file"):
        lookalike.open(tmp_path / "shop")


def test_folders_and_checkpoints_are_opened_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved = unguarded(x2vlm_model(language=1.0))
    save(saved, tmp_path / "trained")
    torch.save({"model": saved.model.vlm.state_dict()}, tmp_path / "official@2.th")
    monkeypatch.chdir(tmp_path)
    trained, official = open_encoder("trained"), open_encoder("x2vlm:official@2.th")
    larger = open_encoder("x2vlm:official@2.th@40")
    assert trained.name == str(tmp_path / "trained")
    assert official.name == f"x2vlm:{tmp_path / 'official@2.th'}" and larger.name == f"{official.name}@40"
    for encoder in (trained, official, larger):
        assert open_encoder(encoder.name).fingerprint == encoder.fingerprint
    assert len({trained.fingerprint, official.fingerprint, larger.fingerprint}) == 3
    due = AdaptedEncoder(in_torch(saved)).pictures(regions(), CAPTIONS)
    np.testing.assert_allclose(trained.pictures(regions(), CAPTIONS), due, atol=1e-5)
    branches = in_torch(saved)
    AdaptedEncoder(branches).pictures(regions())
    share, tokens = branches.given("image", "region"), branches.given("image", "tokens")
    v0 = np.einsum("bn,bnd->bd", share, tokens[:, 1:])
    rows = official.pictures(regions(), CAPTIONS)[:, :IDENTITY]
    np.testing.assert_allclose(rows * 2**0.5, v0 / np.linalg.norm(v0, axis=1, keepdims=True), atol=1e-5)
    assert np.abs(larger.pictures(regions()) - official.pictures(regions())).max() > 1e-3


def test_a_folder_without_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "model.json").write_text("{}")
    monkeypatch.setattr(settings, "find_spec", lambda name: None)
    for named in (str(tmp_path), "x2vlm:official.th"):
        with pytest.raises(MissingExtra) as caught:
            open_encoder(named)
        assert caught.value.hint == "pip install 'lookalike[train]'"


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("absent.onnx", "cannot be read"),
        ("empty.onnx", "another model"),
        ("text.onnx", "damaged, or no ONNX file"),
        ("short.onnx", "damaged, or no ONNX file"),
        ("changed.onnx", "its checksum differs"),
        ("facts.onnx", "its checksum differs"),
        ("other.onnx", "another model"),
        ("older.onnx", "another version"),
        ("x2vlm:absent.th", "cannot be read"),
        ("x2vlm:", "cannot be read"),
        ("/absent/model", "there is no model in /absent/model"),
    ],
)
def test_files_that_are_none(
    name: str, what: str, onnx_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = onnx_file.read_bytes()
    changed = bytearray(whole)
    changed[-1000] ^= 1
    other = EfficientNet(threads=1)._path.read_bytes()
    contents = {
        "empty": b"", "text": b"a text that is no model\n" * 9, "short": whole[:-9],
        "changed": bytes(changed), "facts": whole.replace(b'"identity"', b'"identitz"'), "other": other,
        "older": whole.replace(b"lookalike adapted 1", b"lookalike adapted 0"),
    }  # fmt: skip
    for stem, content in contents.items():
        (tmp_path / f"{stem}.onnx").write_bytes(content)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(WeightsError, match=what) as caught:
        open_encoder(name)
    assert "\n" not in str(caught.value) and caught.value.hint


def test_on_the_command_line_they_are_two_lines(onnx_file: Path, pictures: Path, tmp_path: Path) -> None:
    (tmp_path / "short.onnx").write_bytes(onnx_file.read_bytes()[:-9])
    done = without_torch(tmp_path, "index", str(pictures), "--to", "shop", "--encoder", "short.onnx")
    assert done.returncode == 1 and not (tmp_path / "shop").exists()
    first, second = done.stderr.splitlines()
    assert first.startswith("error: ") and second.startswith("hint: ")


def test_cut_anywhere_it_is_refused(onnx_file: Path, tmp_path: Path) -> None:
    whole = onnx_file.read_bytes()
    out = tmp_path / "model.onnx"
    for end in np.random.default_rng(0).integers(0, len(whole), 40).tolist() + list(range(0, 3000, 97)):
        out.write_bytes(whole[:end])
        with pytest.raises(LookalikeError):
            OnnxBranches(out)


@needs_minilm
def test_the_shipped_model_reads_what_it_sees() -> None:
    encoder = open_encoder("compact")
    assert encoder.name == "compact" and encoder.dim == 608
    colours = {"red": (200, 30, 40), "blue": (40, 60, 200), "green": (40, 160, 60), "white": (240, 240, 240)}
    seen = []
    for colour in colours.values():
        page = np.full((240, 200, 3), 128, np.uint8)
        page[60:200, 50:150] = colour  # a body
        page[60:110, 20:180] = colour  # and sleeves
        seen.append(Region(Picture.of(page)))
    rows = encoder.pictures(seen)
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-5)
    asked = encoder.texts([f"{name} shirt" for name in colours])
    scores = asked @ rows.T
    assert (scores.argmax(axis=1) == np.arange(4)).sum() >= 3
    for box in encoder.boxes([region.picture for region in seen]):
        assert box.iou(Box(20, 60, 180, 200)) > 0.3


def test_a_shipped_encoder_comes_before_a_folder_of_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "compact").mkdir()
    (tmp_path / "compact" / "model.json").write_text("{}")
    monkeypatch.chdir(tmp_path)
    assert open_encoder("compact").name == "compact"
