"""Hub encoders against the library they run on: tiny models of every family, saved and loaded for real."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

import lookalike
from lookalike.encoders import HubEncoder, hub
from lookalike.errors import BadInput, LookalikeError, MissingExtra, WeightsError
from lookalike.ranking import MEANING_WEIGHT
from lookalike.roles import Encoder
from lookalike.settings import Settings, open_encoder
from lookalike.testing import drawing
from lookalike.values import Box, Floats, Picture, Region, unit

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

SIDE, PATCH, WIDTH = 32, 8, 32  # a grid of 4 x 4 patches
PLACES = 12  # tokens that a text model reads
WORDS = ("<pad>", "</s>", "<s>", "<unk>", "red", "green", "blue", "shirt", "shoe", "with", "stripes")
TOWER = {"hidden_size": WIDTH, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
SIGHT = TOWER | {"image_size": SIDE, "patch_size": PATCH}
READING = TOWER | {
    "vocab_size": len(WORDS),
    "max_position_embeddings": PLACES,
    "pad_token_id": 0,
    "eos_token_id": 1,
    "bos_token_id": 2,
}
TOWERS = {"vision_config": SIGHT, "text_config": READING}
REGISTERS = {"num_register_tokens": 3}

STRETCHED = {
    "do_resize": True,
    "size": {"height": SIDE, "width": SIDE},
    "resample": 3,
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "do_normalize": True,
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.5, 0.5, 0.5],
}
BILINEAR = STRETCHED | {"resample": 2}
MIDDLE = STRETCHED | {
    "size": {"shortest_edge": 37},
    "do_center_crop": True,
    "crop_size": {"height": SIDE, "width": SIDE},
    "image_mean": [0.48, 0.45, 0.4],
    "image_std": [0.27, 0.26, 0.28],
}

FAMILIES: dict[str, tuple[str, dict[str, Any], dict[str, Any], str]] = {
    "siglip": ("Siglip", TOWERS, STRETCHED, "SiglipImageProcessor"),
    "clip": ("CLIP", TOWERS | {"projection_dim": 24}, MIDDLE, "CLIPImageProcessor"),
    "dinov2": ("Dinov2", SIGHT | {"image_size": 40}, MIDDLE, "BitImageProcessor"),
    "registers": ("Dinov2WithRegisters", SIGHT | REGISTERS, MIDDLE, "BitImageProcessor"),
    "dinov3": ("DINOv3ViT", SIGHT | REGISTERS, BILINEAR, "ViTImageProcessor"),  # its own needs torchvision
    "vit": ("ViT", SIGHT, BILINEAR, "ViTImageProcessor"),
}
WITH_WORDS = ("siglip", "clip")
AS_FILE = "model.safetensors"

Make = Callable[..., Path]


@pytest.fixture(scope="module")
def make(tmp_path_factory: pytest.TempPathFactory) -> Make:
    """Saves a model of a family, with weights that its seed says."""

    def make_it(family: str, seed: int = 0, **preprocessing: Any) -> Path:
        kind, settings, usual, _ = FAMILIES[family]
        if not hasattr(transformers, f"{kind}Model"):
            pytest.skip(f"transformers {transformers.__version__} has no {kind}")
        config = getattr(transformers, f"{kind}Config")(**settings)
        with torch.random.fork_rng(), torch.no_grad():
            torch.manual_seed(seed)
            model = getattr(transformers, f"{kind}Model")(config)
            for parameter in model.parameters():
                if parameter.ndim > 1:  # loud enough to tell pictures apart
                    parameter.normal_(0, parameter[0].numel() ** -0.5)
        folder = tmp_path_factory.mktemp(family)
        model.save_pretrained(folder)
        (folder / "preprocessor_config.json").write_text(json.dumps(usual | preprocessing))
        if family in WITH_WORDS:
            save_tokenizer(folder, starts=family == "clip")
        return folder

    return make_it


def save_tokenizer(folder: Path, starts: bool) -> None:
    """Of whole words, case kept; every text ends with </s>."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    numbers = {word: number for number, word in enumerate(WORDS)}
    tokenizer = Tokenizer(models.WordLevel(numbers, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>" if starts else "$A </s>", special_tokens=[("<s>", 2), ("</s>", 1)]
    )
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", pad_token="<pad>", eos_token="</s>", bos_token="<s>"
    ).save_pretrained(folder)


@pytest.fixture(scope="module", params=FAMILIES)
def family(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def folder(family: str, make: Make) -> Path:
    return make(family)


@pytest.fixture(scope="module")
def encoder(folder: Path) -> Encoder:
    return HubEncoder(str(folder))


@pytest.fixture(scope="module")
def model(family: str, folder: Path) -> Any:
    return getattr(transformers, f"{FAMILIES[family][0]}Model").from_pretrained(folder).eval()


def pictures(count: int = 5) -> list[Picture]:
    """Of all shapes: wide, tall, smaller and larger than the network's input."""
    sizes = [(96, 128), (131, 47), (20, 90), (32, 32), (300, 201)]
    return [Picture.of(drawing(seed, *sizes[seed % len(sizes)])) for seed in range(count)]


def library_processor(family: str, folder: Path) -> Any:
    """The library's own preprocessing with Pillow; since its version 5 that has a name of its own."""
    name = FAMILIES[family][3]
    return getattr(transformers, f"{name}Pil", None) or getattr(transformers, name)


def library_inputs(family: str, folder: Path, shown: list[Picture]) -> Any:
    processor = library_processor(family, folder).from_pretrained(folder)
    images = [Image.fromarray(picture.pixels) for picture in shown]
    return processor(images=images, return_tensors="pt")["pixel_values"]


def pooled(output: Any) -> Any:
    """Features came as a tensor, and since version 5 come within an output."""
    return getattr(output, "pooler_output", output)


def test_pixels_are_prepared_as_the_library_does(family: str, folder: Path, encoder: HubEncoder) -> None:
    ours = np.stack([encoder._input.prepared(picture.pixels) for picture in pictures()])
    np.testing.assert_allclose(ours, library_inputs(family, folder, pictures()).numpy(), atol=1e-5)


@pytest.mark.parametrize("changes", [{"size": 37, "crop_size": SIDE}, {"size": {"shortest_edge": 20}}])
def test_older_and_smaller_sizes_are_understood(make: Make, changes: dict[str, Any]) -> None:
    """One number is the shorter side; a picture that is smaller than its middle part gets a black border."""
    folder = make("clip", **changes)
    ours = np.stack([HubEncoder(str(folder))._input.prepared(picture.pixels) for picture in pictures()])
    np.testing.assert_allclose(ours, library_inputs("clip", folder, pictures()).numpy(), atol=1e-5)


def test_descriptors_are_the_models_own(family: str, folder: Path, encoder: Encoder, model: Any) -> None:
    shown = pictures()
    with torch.inference_mode():
        inputs = library_inputs(family, folder, shown)
        if family in WITH_WORDS:
            expected = pooled(model.get_image_features(pixel_values=inputs))
        else:
            expected = model(pixel_values=inputs).last_hidden_state[:, 0]
    rows = encoder.pictures([Region(picture) for picture in shown])
    assert rows.dtype == np.float32
    assert rows.shape == (len(shown), encoder.dim)
    np.testing.assert_allclose(rows, unit(expected.numpy()), atol=1e-5)
    assert (rows @ rows.T - np.eye(len(rows))).max() < 0.999  # pictures differ: the test can fail


def test_descriptors_do_not_depend_on_the_company_they_come_in(encoder: Encoder) -> None:
    regions = [Region(picture) for picture in pictures(hub.CHUNK + 2)]
    together = encoder.pictures(regions)
    alone = np.concatenate([encoder.pictures([region]) for region in regions])
    np.testing.assert_allclose(together, alone, atol=1e-5)


def test_a_region_is_its_own_pixels(encoder: Encoder) -> None:
    whole = pictures()[4]
    cut = Picture.of(whole.pixels[40:180, 30:150])
    a, b = encoder.pictures([Region(whole, Box(30, 40, 150, 180)), Region(cut)])
    np.testing.assert_allclose(a, b, atol=1e-5)


def test_maps_are_the_last_patches_less_their_mean(family: str, encoder: HubEncoder, model: Any) -> None:
    """Against loops. They show whole pictures, stretched, also where the descriptor sees the middle."""
    shown = pictures(hub.CHUNK + 1)
    maps = encoder.maps(shown)
    assert maps.values.shape == (len(shown), WIDTH, 4, 4)
    assert {frame.corners for frame in maps.frames} == {(0, 0, 4, 4)}
    for place in (0, 1, hub.CHUNK):
        small = Image.fromarray(shown[place].pixels).resize((SIDE, SIDE), FAMILIES[family][2]["resample"])
        mean, deviation = (np.array(FAMILIES[family][2][key]) for key in ("image_mean", "image_std"))
        pixels = ((np.asarray(small) / 255 - mean) / deviation).transpose(2, 0, 1).astype(np.float32)
        with torch.inference_mode():
            tower = getattr(model, "vision_model", model)
            tokens = tower(pixel_values=torch.from_numpy(pixels)[None]).last_hidden_state[0].numpy()
        before = {"siglip": 0, "registers": 4, "dinov3": 4}.get(family, 1)
        assert len(tokens) == before + 16
        centre = sum(tokens[before:]) / 16
        for row in range(4):
            for column in range(4):
                expected = tokens[before + 4 * row + column] - centre
                np.testing.assert_allclose(maps.values[place, :, row, column], expected, atol=1e-4)


def test_pictures_alone_or_with_words(family: str, encoder: Encoder) -> None:
    rows = encoder.texts(["red shirt"])
    assert (rows is None) == (family not in WITH_WORDS)
    assert encoder.pictures([]).shape == (0, encoder.dim)
    region = Region(pictures()[0])
    np.testing.assert_array_equal(encoder.pictures([region], ["red shirt"]), encoder.pictures([region]))


# --- words


@pytest.fixture(scope="module", params=WITH_WORDS)
def reader(request: pytest.FixtureRequest, make: Make) -> tuple[str, Encoder, Any]:
    """Family, encoder and the library's model."""
    folder = make(request.param)
    kind = getattr(transformers, f"{FAMILIES[request.param][0]}Model")
    return request.param, HubEncoder(str(folder)), kind.from_pretrained(folder).eval()


TEXTS = ["red shirt", "blue", "", "green shoe with red stripes", "unheard words"] * 4


def rows_of(encoder: Encoder, texts: list[str]) -> Floats:
    rows = encoder.texts(texts)
    assert rows is not None
    return rows


def tokens_by_hand(family: str, text: str) -> list[int]:
    """CLIP's stand between <s> and </s>; SigLIP's end with </s> and padding, which it sees."""
    numbers = [WORDS.index(word) if word in WORDS else 3 for word in text.split()] + [1]
    return [2, *numbers] if family == "clip" else numbers + [0] * (PLACES - len(numbers))


def text_features(family: str, model: Any, text: str) -> NDArray[np.float32]:
    with torch.inference_mode():
        tokens = torch.tensor([tokens_by_hand(family, text)])
        return np.asarray(pooled(model.get_text_features(input_ids=tokens))[0], np.float32)


def test_texts_have_the_models_own_descriptors(reader: tuple[str, Encoder, Any]) -> None:
    """Many at once, short beside long: padding and company change nothing."""
    family, encoder, model = reader
    rows = rows_of(encoder, TEXTS)
    assert rows.shape == (len(TEXTS), encoder.dim)
    expected = unit([text_features(family, model, text) for text in TEXTS])
    np.testing.assert_allclose(rows, expected, atol=1e-5)
    np.testing.assert_allclose(rows_of(encoder, ["blue"])[0], rows[1], atol=1e-5)
    assert (rows[:4] @ rows[:4].T - np.eye(4)).max() < 0.999
    assert rows_of(encoder, []).shape == (0, encoder.dim)


def test_pictures_and_words_share_a_space(reader: tuple[str, Encoder, Any]) -> None:
    """Scores are the library's logits, but for its scale and bias."""
    family, encoder, model = reader
    shown = pictures(2)
    scores = encoder.pictures([Region(p) for p in shown]) @ rows_of(encoder, TEXTS[:3]).T
    with torch.inference_mode():
        seen = torch.from_numpy(np.stack([encoder._input.prepared(p.pixels) for p in shown]))
        for place, text in enumerate(TEXTS[:3]):
            tokens = torch.tensor([tokens_by_hand(family, text)])
            logits = model(input_ids=tokens, pixel_values=seen).logits_per_image[:, 0]
            bias = model.logit_bias if family == "siglip" else 0
            np.testing.assert_allclose(scores[:, place], (logits - bias) / model.logit_scale.exp(), atol=1e-5)


def test_a_long_text_is_read_as_far_as_the_model_does(reader: tuple[str, Encoder, Any]) -> None:
    _, encoder, _ = reader
    long, longer = "red " * PLACES, "red " * PLACES + "blue " * 50
    np.testing.assert_allclose(rows_of(encoder, [long]), rows_of(encoder, [longer]), atol=1e-5)


def test_siglip_reads_in_lower_case(make: Make) -> None:
    """The tokenizer here keeps case, and capitals are unknown to it."""
    upper, lower = rows_of(HubEncoder(str(make("siglip"))), ["Red SHIRT", "red shirt"])
    np.testing.assert_allclose(upper, lower, atol=1e-5)


# --- loading


def test_nothing_is_loaded_before_the_first_picture_and_nothing_is_printed_then(make: Make) -> None:
    """With weights to spare, which transformers would report, and bars that it would draw; in threads."""
    from safetensors.torch import load_file, save_file

    folder = make("dinov2")
    spare = load_file(folder / AS_FILE) | {"classifier.weight": torch.zeros(3, 3)}
    save_file(spare, folder / AS_FILE, metadata={"format": "pt"})
    code = f"""
import sys
from concurrent.futures import ThreadPoolExecutor
from lookalike.encoders import HubEncoder
encoders = [HubEncoder({str(folder)!r}) for _ in range(3)]
assert (encoders[0].dim, len(encoders[0].fingerprint)) == (32, 16)
assert not {{"torch", "transformers"}} & set(sys.modules)
from lookalike.testing import drawing
from lookalike.values import Picture, Region
regions = [Region(Picture.of(drawing(1)))]
with ThreadPoolExecutor(3) as pool:
    rows = list(pool.map(lambda encoder: encoder.pictures(regions), encoders))
assert (rows[0] == rows[1]).all() and (rows[0] == rows[2]).all()
from transformers.utils import logging
assert not any(handler.filters for handler in logging.get_logger("transformers").handlers)
logging.tqdm([1], desc="a bar of someone else's").close()
"""
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(("HF_", "TRANSF"))
    }
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    printed = [line for line in re.split(r"[\r\n]+", done.stderr) if line]
    assert printed
    assert all("a bar of someone else's" in line for line in printed)


def test_threads_share_an_encoder(make: Make) -> None:
    """The first calls race for loading the model, pictures and words beside each other."""
    folder = make("clip")
    fresh, other = HubEncoder(str(folder)), HubEncoder(str(folder))
    shown = pictures(12)
    with ThreadPoolExecutor(6) as pool:
        seen = [pool.submit(fresh.pictures, [Region(picture)]) for picture in shown]
        read = [pool.submit(rows_of, fresh, [text]) for text in TEXTS]
    alone = other.pictures([Region(picture) for picture in shown])
    np.testing.assert_allclose(np.concatenate([each.result() for each in seen]), alone, atol=1e-5)
    np.testing.assert_allclose(
        np.concatenate([each.result() for each in read]), rows_of(other, TEXTS), atol=1e-5
    )


def test_torch_is_left_as_it_was(make: Make) -> None:
    def state() -> tuple[Any, ...]:
        return (
            torch.get_default_dtype(),
            torch.is_grad_enabled(),
            torch.get_num_threads(),
            torch.backends.cuda.matmul.allow_tf32,
            torch.are_deterministic_algorithms_enabled(),
        )

    folder = make("dinov2")
    before = state()
    HubEncoder(str(folder)).pictures([Region(pictures()[0])])
    assert state() == before


def test_half_precision_weights_are_computed_with_in_full(make: Make) -> None:
    from safetensors.torch import load_file, save_file

    folder, rounded = make("dinov2"), make("dinov2")
    weights = load_file(folder / AS_FILE)
    save_file({name: t.half() for name, t in weights.items()}, folder / AS_FILE, metadata={"format": "pt"})
    save_file(
        {name: t.half().float() for name, t in weights.items()}, rounded / AS_FILE, metadata={"format": "pt"}
    )
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"dtype": "float16", "torch_dtype": "float16"}))
    regions = [Region(picture) for picture in pictures()]
    halves, wholes = (HubEncoder(str(each)).pictures(regions) for each in (folder, rounded))
    np.testing.assert_allclose(halves, wholes, atol=1e-6)


def test_weights_in_parts_are_the_same_model(make: Make) -> None:
    whole, parts = make("dinov2"), make("dinov2")
    (parts / AS_FILE).unlink()
    transformers.Dinov2Model.from_pretrained(whole).save_pretrained(parts, max_shard_size="20KB")
    assert len(list(parts.glob("*.safetensors"))) > 1
    regions = [Region(picture) for picture in pictures()]
    a, b = (HubEncoder(str(folder)).pictures(regions) for folder in (whole, parts))
    np.testing.assert_allclose(a, b, atol=1e-6)


def test_a_part_that_is_missing_is_named_at_once(make: Make) -> None:
    folder = make("dinov2")
    model = transformers.Dinov2Model.from_pretrained(folder)
    (folder / AS_FILE).unlink()
    model.save_pretrained(folder, max_shard_size="20KB")
    sorted(folder.glob("*.safetensors"))[1].unlink()
    with pytest.raises(WeightsError, match="is not whole: it lacks model-00002-of-") as raised:
        HubEncoder(str(folder))
    assert_one_line(raised.value)


def test_preprocessing_may_lie_among_a_processors_settings(make: Make) -> None:
    """As transformers 5 saves it."""
    plain, nested = make("siglip"), make("siglip")
    settings = json.loads((nested / "preprocessor_config.json").read_text())
    (nested / "preprocessor_config.json").unlink()
    (nested / "processor_config.json").write_text(json.dumps({"image_processor": settings}))
    assert HubEncoder(str(nested)).fingerprint == HubEncoder(str(plain)).fingerprint


def test_an_endless_strip_is_not_blown_up(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its shorter side of 1 pixel grows to 37; its 20,000 others with it would be 82 megabytes."""
    sizes = []
    resize = Image.Image.resize

    def watched(image: Image.Image, size: tuple[int, int], *rest: Any) -> Image.Image:
        sizes.append(size)
        return resize(image, size, *rest)

    monkeypatch.setattr(Image.Image, "resize", watched)
    encoder = HubEncoder(str(make("clip")))
    strip = Picture.of(np.random.default_rng(0).integers(0, 256, (20_000, 1, 3), np.uint8))
    middle = Picture.of(strip.pixels[9_990:10_010])
    a, b = encoder.pictures([Region(strip), Region(middle)])
    np.testing.assert_allclose(a, b, atol=1e-5)
    assert max(max(size) for size in sizes) <= 37 * hub.ELONGATED


def test_the_fingerprint_follows_weights_and_preprocessing(make: Make) -> None:
    def fingerprint(seed: int = 0, **preprocessing: Any) -> str:
        return HubEncoder(str(make("vit", seed, **preprocessing))).fingerprint

    assert fingerprint() == fingerprint()
    others = {fingerprint(1), fingerprint(resample=3), fingerprint(image_mean=[0.4] * 3)}
    assert len(others | {fingerprint()}) == 4


# --- names and errors


def test_a_folder_is_called_by_its_full_path(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make("vit")
    monkeypatch.chdir(folder.parent)
    encoder = open_encoder(f"hub:./{folder.name}")
    assert encoder.name == f"hub:{folder.resolve()}"
    monkeypatch.chdir("/")
    assert open_encoder(encoder.name).fingerprint == encoder.fingerprint
    moved = folder.rename(folder.with_name("moved"))
    with pytest.raises(WeightsError, match="no model folder") as raised:
        open_encoder(encoder.name)
    assert "put a link in its place" in raised.value.hint
    folder.symlink_to(moved)
    assert open_encoder(encoder.name).fingerprint == encoder.fingerprint


def test_a_pulled_model_is_called_by_its_name(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(WeightsError, match="not on this machine") as raised:
        open_encoder("hub:dinov2")
    assert raised.value.hint == "lookalike models pull dinov2"
    (tmp_path / ".cache" / "lookalike").mkdir(parents=True)
    make("dinov2").rename(tmp_path / ".cache" / "lookalike" / "dinov2")
    assert open_encoder("hub:dinov2").name == "hub:dinov2"


def test_names_that_are_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(WeightsError, match="no folder and no hub model") as raised:
        open_encoder("hub:google/siglip2-base-patch16-224")
    assert "siglip2" in raised.value.hint
    with pytest.raises(BadInput, match="no encoder is called") as meant:
        open_encoder("siglip2")
    assert "did you mean hub:siglip2?" in meant.value.hint


def test_a_captioner_is_no_encoder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(WeightsError, match=r"'llava' is no folder .* among the encoders") as raised:
        open_encoder("hub:llava")
    assert raised.value.hint.startswith("known: siglip2, dinov2, clip;")
    with pytest.raises(BadInput, match="no encoder is called") as meant:
        open_encoder("llava")
    assert "hub:llava" not in meant.value.hint


def test_without_the_extra(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make("vit")
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(MissingExtra) as raised:
        HubEncoder(str(folder))
    assert raised.value.hint == "pip install 'lookalike[hub]'"


def edited(file: str, **changes: Any) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        settings = json.loads((folder / file).read_text()) | changes
        kept = {key: value for key, value in settings.items() if value is not ...}
        (folder / file).write_text(json.dumps(kept))

    return edit


def without(*files: str) -> Callable[[Path], None]:
    return lambda folder: [(folder / file).unlink() for file in files] and None


def pickled(folder: Path) -> None:
    (folder / AS_FILE).rename(folder / "pytorch_model.bin")


def garbled(file: str) -> Callable[[Path], None]:
    return lambda folder: (folder / file).write_bytes(b"\xff\xfe{") and None


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (without("config.json"), "holds no model: it lacks config.json"),
        (without("preprocessor_config.json"), "lacks preprocessor_config.json"),
        (without(AS_FILE), "lacks model.safetensors"),
        (pickled, "pickle only"),
        (garbled("config.json"), "config.json cannot be read"),
        (edited("config.json", model_type="convnext"), "type 'convnext'"),
        (edited("config.json", model_type=...), "type None"),
        (without("tokenizer.json"), "lacks its tokenizer"),
        (edited("config.json", auto_map={"AutoModel": "code.Model"}), "code that comes with it"),
        (edited("preprocessor_config.json", size={"height": 48, "width": 48}), "makes 48 x 48 pixels"),
        (edited("preprocessor_config.json", size={"longest_edge": 48}), "preprocessing cannot be read"),
        (edited("preprocessor_config.json", image_mean=...), "KeyError\\('image_mean'\\)"),
        (edited("preprocessor_config.json", resample=17), "preprocessing cannot be read"),
        (edited("preprocessor_config.json", do_pad=True), "asks for do_pad"),
        (edited("preprocessor_config.json", do_resize=False), "does not resize"),
    ],
)  # fmt: skip
def test_folders_that_are_refused_at_once(make: Make, harm: Callable[[Path], None], message: str) -> None:
    folder = make("siglip")
    harm(folder)
    with pytest.raises(WeightsError, match=message) as raised:
        HubEncoder(str(folder))
    assert_one_line(raised.value)


def truncated(folder: Path) -> None:
    (folder / AS_FILE).write_bytes((folder / AS_FILE).read_bytes()[:-100])


def renamed(folder: Path) -> None:
    """As another library would name the same weights: transformers would make up what it misses."""
    from safetensors.torch import load_file, save_file

    names = {name: name.replace("vision_model", "visual") for name in load_file(folder / AS_FILE)}
    weights = load_file(folder / AS_FILE)
    save_file({names[name]: t for name, t in weights.items()}, folder / AS_FILE, metadata={"format": "pt"})


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (truncated, "cannot be loaded as a SiglipModel"),
        (garbled(AS_FILE), "cannot be loaded as a SiglipModel"),
        (renamed, "not fit a SiglipModel: [0-9]+ parts .* the first vision_model"),
        (
            edited("config.json", vision_config=SIGHT | {"intermediate_size": 40}),
            "fit .* the first vision_model",
        ),
    ],
)
def test_weights_that_do_not_fit_come_out_with_the_first_picture(
    make: Make, harm: Callable[[Path], None], message: str
) -> None:
    folder = make("siglip")
    harm(folder)
    encoder = HubEncoder(str(folder))
    with pytest.raises(WeightsError, match=message) as raised:
        encoder.pictures([Region(pictures()[0])])
    assert_one_line(raised.value)


def test_a_tokenizer_that_is_broken_comes_out_with_the_first_words(make: Make) -> None:
    folder = make("clip")
    garbled("tokenizer.json")(folder)
    encoder = HubEncoder(str(folder))
    assert encoder.pictures([Region(pictures()[0])]).shape == (1, 24)
    with pytest.raises(WeightsError, match="its tokenizer cannot be loaded") as raised:
        encoder.texts(["red"])
    assert_one_line(raised.value)


def assert_one_line(error: LookalikeError) -> None:
    assert "\n" not in str(error) + error.hint
    assert error.hint


# --- in a catalogue


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    import socket

    def refuse(*_: object) -> None:
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    yield


@pytest.mark.usefixtures("no_network")
@pytest.mark.parametrize("family", WITH_WORDS)
def test_a_catalogue_is_searched_by_picture_words_and_both(
    make: Make, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, family: str
) -> None:
    folder = make(family)
    monkeypatch.chdir(folder.parent)
    with lookalike.open(tmp_path / "shop", Settings(encoder=f"hub:./{folder.name}")) as catalogue:
        report = catalogue.add(pictures)
        assert (report.pictures, report.skipped) == (7, ())

    monkeypatch.chdir("/")
    with lookalike.open(tmp_path / "shop", Settings(query_regions="whole")) as catalogue:  # knows its encoder
        encoder = catalogue.encoder
        assert encoder.name == f"hub:{folder.resolve()}"
        files = sorted(pictures.rglob("*.png"))
        stored = encoder.pictures([Region(lookalike.images.load(file)) for file in files])

        def expected(query: Floats) -> list[tuple[str, float]]:
            best: dict[str, float] = {}
            for file, score in zip(files, stored @ query, strict=True):
                best[file.parent.name] = max(best.get(file.parent.name, -1), float(score))
            return sorted(best.items(), key=lambda pair: -pair[1])

        (seen,) = encoder.pictures([Region(lookalike.images.load(files[3]))])
        (meant,) = rows_of(encoder, ["green shoe"])
        for asked, query in [
            ({"picture": files[3]}, seen),
            ({"text": "green shoe"}, meant),
            ({"picture": files[3], "text": "green shoe"}, unit(seen + MEANING_WEIGHT * meant)),
        ]:
            hits = catalogue.search(**asked)
            assert [hit.item for hit in hits] == [item for item, _ in expected(query)]
            np.testing.assert_allclose(
                [hit.score for hit in hits], [score for _, score in expected(query)], atol=2e-3
            )  # stored as halves
        assert catalogue.search(files[3])[0].item == files[3].parent.name

    with lookalike.open(tmp_path / "shop") as catalogue:  # with the finder that looks at the encoder's maps
        assert len(catalogue.search(files[3])) == 6


# --- the page on encoders


def test_the_page_on_encoders_runs(
    make: Make, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All its Python, in order, in a folder that has what it says."""
    page = Path(__file__).parents[2] / "docs" / "add-an-encoder.md"
    monkeypatch.chdir(tmp_path)
    make("siglip").rename(tmp_path / "my-siglip")
    export(tmp_path / "my-model.onnx")
    known: dict[str, Any] = {"__name__": "page"}
    blocks = re.findall(r"^```python\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE)
    assert len(blocks) >= 3
    for block in blocks:
        exec(compile(block, str(page), "exec"), known)


def export(path: Path) -> None:
    """An ONNX file as the page wants it: pixels (B, 3, 64, 64) -> vectors (B, 3), their means."""
    from onnx import TensorProto, helper, save

    pixels = helper.make_tensor_value_info("pixels", TensorProto.FLOAT, ["B", 3, 64, 64])
    vectors = helper.make_tensor_value_info("vectors", TensorProto.FLOAT, ["B", 3])
    mean = helper.make_node("ReduceMean", ["pixels"], ["vectors"], axes=[2, 3], keepdims=0)
    graph = helper.make_graph([mean], "means", [pixels], [vectors])
    save(helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 17)]), path)
