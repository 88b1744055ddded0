"""Encoders from model hubs and from local folders, run by the transformers library.

A folder is laid out as `save_pretrained` writes it: config.json, preprocessor_config.json, model.safetensors
(or its parts and their index), and a tokenizer where there are words. Nothing is downloaded here, no code of
a model's own is run, and no pickle is opened.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Sequence
from dataclasses import astuple, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
from PIL import Image

from lookalike import hubs, weights
from lookalike.errors import MissingExtra, WeightsError
from lookalike.hubs import LAYOUT, read_json
from lookalike.values import Box, Floats, Maps, Picture, Pixels, Region, unit

CHUNK = 16  # regions or texts per forward pass: bounds the memory
ELONGATED = 8  # a longer region loses its ends before its shorter side is scaled up: bounds the memory too


@dataclass(frozen=True, slots=True)
class _Family:
    """What one kind of model is and gives; `dim` and `side` are for what config.json leaves out."""

    model: str  # its class in transformers
    pooling: Literal["attention head", "projection", "first token"]
    padding: Literal["max_length", "longest"] | None  # of texts; None where there is no language
    dim: int
    side: int | None  # pixels of the only input that its positions fit; None where they fit any


_FAMILIES = {  # by config.json's model_type
    "siglip": _Family("SiglipModel", "attention head", "max_length", 768, 224),  # and SigLIP 2 of fixed size
    "clip": _Family("CLIPModel", "projection", "longest", 512, 224),
    "dinov2": _Family("Dinov2Model", "first token", None, 768, None),
    "dinov2_with_registers": _Family("Dinov2WithRegistersModel", "first token", None, 768, None),
    "dinov3_vit": _Family("DINOv3ViTModel", "first token", None, 384, None),
    "vit": _Family("ViTModel", "first token", None, 768, 224),
}
_STEPS = {"do_resize", "do_center_crop", "do_rescale", "do_normalize", "do_convert_rgb"}  # of preprocessing
_VOCABULARIES = ("tokenizer.json", "vocab.json", "spiece.model", "tokenizer.model")
_OWN = "docs/add-an-encoder.md says how to make an encoder of your own"


class HubEncoder:
    """Descriptors from a hub's model: SigLIP, SigLIP 2 and CLIP with words; DINOv2, DINOv3 and ViT without.

    `name_or_folder` is a hub model of `lookalike models list` that was pulled, or a folder. "hub:" with that
    name or the folder's full path is the encoder's name: a catalogue finds it again by that. `device` is
    torch's name of one, None for CUDA where there is some and else the CPU.

    WeightsError where that is no model of these kinds, MissingExtra without the extra `hub`. The first call
    that needs the model loads it, and is where weights that do not fit come out.
    """

    def __init__(self, name_or_folder: str, device: str | None = None) -> None:
        if not all(map(find_spec, ("torch", "transformers", "safetensors"))):
            raise MissingExtra(f"the encoder hub:{name_or_folder}", "hub")
        self.name, self._folder = _located(name_or_folder)
        config = read_json(self._folder / "config.json")
        self._family = _family_of(config, self._folder)
        self._input = _Input.read(self._folder)
        _check_size(config, self._family, self._input, self._folder)
        if self._family.padding:
            _check_tokenizer(self._folder)
        self.dim = _dim(config, self._family)
        self.fingerprint = _fingerprint(self._folder, self._family, self._input)
        self._device = device
        self._turn = threading.Lock()  # one pass at a time: torch spreads each over the cores itself
        self._model: Any = None
        self._tokenizer: Any = None

    def pictures(self, regions: Sequence[Region], captions: Sequence[str] | None = None) -> Floats:
        """(N,) regions -> (N, D), unit rows. Each region's own pixels go through the network."""
        rows = np.empty((len(regions), self.dim), np.float32)
        for start in range(0, len(regions), CHUNK):
            chunk = slice(start, start + CHUNK)
            batch = np.stack([self._input.prepared(region.pixels) for region in regions[chunk]])
            rows[chunk] = unit(self._look(batch)[0])
        return rows

    def texts(self, texts: Sequence[str]) -> Floats | None:
        """(N,) texts -> (N, D), unit rows; None where the model has no language.

        The model reads so many tokens (SigLIP 64, CLIP 77), and what comes after them does not count.
        """
        if self._family.padding is None:
            return None
        rows = np.empty((len(texts), self.dim), np.float32)
        for start in range(0, len(texts), CHUNK):
            chunk = slice(start, start + CHUNK)
            rows[chunk] = unit(self._read(texts[chunk]))
        return rows

    def maps(self, pictures: Sequence[Picture]) -> Maps:
        """(B,) whole pictures, B > 0, stretched to the network's input -> its last patches (B, C, h, w).

        The mean over each picture's own cells is taken off. What all the cells of a network share would
        drown their differences; taking it off tells an object from its background in any picture, needs no
        pictures to be measured on, and does not depend on the others of the batch.
        """
        found = []
        for start in range(0, len(pictures), CHUNK):
            chunk = pictures[start : start + CHUNK]
            batch = np.stack([self._input.prepared(picture.pixels, whole=True) for picture in chunk])
            found.append(self._look(batch)[1])
        values = np.concatenate(found)
        height, width = values.shape[2:]
        values -= values.mean(axis=(2, 3), keepdims=True)
        return Maps(values, (Box(0, 0, width, height),) * len(values))

    def _look(self, batch: Floats) -> tuple[Floats, Floats]:
        """Prepared pixels (B, 3, H, W) -> embeddings (B, D) and the last layer's patches (B, C, h, w)."""
        import torch

        with self._turn, torch.inference_mode():
            model = self._opened()
            tower = getattr(model, "vision_model", model)
            seen = tower(pixel_values=torch.from_numpy(batch).to(model.device))
            tokens = seen.last_hidden_state
            match self._family.pooling:
                case "attention head":
                    pooled = seen.pooler_output
                case "projection":
                    pooled = model.visual_projection(seen.pooler_output)
                case "first token":
                    pooled = tokens[:, 0]
            height, width = (side // tower.config.patch_size for side in batch.shape[2:])
            patches = tokens[:, -height * width :]  # class token and registers come first
            patches = patches.transpose(1, 2).unflatten(2, (height, width))
            return pooled.cpu().numpy(), patches.cpu().numpy()

    def _read(self, texts: Sequence[str]) -> Floats:
        """(B,) texts -> embeddings (B, D)."""
        import torch

        with self._turn, torch.inference_mode():  # a tokenizer keeps state while it works
            model, tokenizer = self._opened(), self._opened_tokenizer()
            siglip = self._family.padding == "max_length"
            tokens = tokenizer(
                [text.lower() for text in texts] if siglip else list(texts),  # as SigLIP's authors do
                padding=self._family.padding,
                padding_side="right",
                truncation=True,
                max_length=model.config.text_config.max_position_embeddings,
                return_tensors="pt",
            ).to(model.device)
            if siglip:  # it was trained to read the padding too, and its answer is at the last place
                pooled = model.text_model(input_ids=tokens["input_ids"]).pooler_output
            else:
                read = model.text_model(tokens["input_ids"], tokens["attention_mask"])
                pooled = model.text_projection(read.pooler_output)
            return np.asarray(pooled.cpu().numpy(), np.float32)

    def _opened(self) -> Any:
        if self._model is None:
            with hubs.loading():
                self._model = _open_model(self._folder, self._family, self._device)
        return self._model

    def _opened_tokenizer(self) -> Any:
        if self._tokenizer is None:
            with hubs.loading():
                self._tokenizer = _open_tokenizer(self._folder)
        return self._tokenizer


@dataclass(frozen=True, slots=True)
class _Input:
    """How pixels become the network's input: what preprocessor_config.json says, done with Pillow."""

    height: int
    width: int
    shorter: int | None  # the shorter side before the middle is cut out; None: all is stretched
    resample: Image.Resampling
    scale: float
    mean: tuple[float, ...]
    deviation: tuple[float, ...]

    @classmethod
    def read(cls, folder: Path) -> Self:
        """WeightsError where the folder does not say it, or asks for what is not done here."""
        settings = _preprocessing(folder)
        asked = {step for step, wanted in settings.items() if step.startswith("do_") and wanted}
        if asked - _STEPS or not settings.get("do_resize", True):
            what = f"asks for {min(asked - _STEPS)}" if asked - _STEPS else "does not resize"
            raise WeightsError(f"{folder}: its preprocessing {what}, which cannot be done here", _OWN)
        try:
            size = _sides(settings["size"])
            cut = settings.get("do_center_crop", "crop_size" in settings)
            made = _sides(settings["crop_size"]) if cut else size
            normal = settings.get("do_normalize", True)
            return cls(
                height=made["height"],
                width=made["width"],
                shorter=size["shortest_edge"] if cut else None,
                resample=Image.Resampling(settings["resample"]),
                scale=settings.get("rescale_factor", 1 / 255) if settings.get("do_rescale", True) else 1,
                mean=tuple(settings["image_mean"]) if normal else (0,),
                deviation=tuple(settings["image_std"]) if normal else (1,),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise WeightsError(f"{folder}: its preprocessing cannot be read: {error!r}", _OWN) from error

    def prepared(self, pixels: Pixels, whole: bool = False) -> Floats:
        """(h, w, 3) -> (3, H, W). `whole` stretches where the model's own way would cut off the ends."""
        image = Image.fromarray(pixels)
        if self.shorter is None or whole:
            image = image.resize((self.width, self.height), self.resample)
        else:
            short = min(image.size)
            image = _middle(image, *(min(side, ELONGATED * short) for side in image.size))
            across, down = (self.shorter * side // short for side in image.size)
            image = _middle(image.resize((across, down), self.resample), self.width, self.height)
        values = np.asarray(image) * self.scale
        return np.asarray(((values - self.mean) / self.deviation).transpose(2, 0, 1), np.float32)


def _sides(size: Any) -> dict[str, int]:
    """Height, width and shortest edge, as far as they are given; one number is each of them."""
    return dict.fromkeys(("height", "width", "shortest_edge"), size) if isinstance(size, int) else size


def _middle(image: Image.Image, width: int, height: int) -> Image.Image:
    """The middle of an image, black where that is larger than the image."""
    left, top = (image.width - width) // 2, (image.height - height) // 2
    return image.crop((left, top, left + width, top + height))


def _located(name_or_folder: str) -> tuple[str, Path]:
    """The encoder's name and its folder."""
    if Path(name_or_folder).is_absolute() and not Path(name_or_folder).is_dir():  # as a catalogue keeps it
        raise WeightsError(
            f"there is no model folder {name_or_folder}", "was it moved? put a link in its place"
        )
    name, folder = hubs.located(name_or_folder, "encoder")
    return f"hub:{name}", folder


def _family_of(config: dict[str, Any], folder: Path) -> _Family:
    if "auto_map" in config:
        raise WeightsError(f"{folder} needs code that comes with it, which is never run", _OWN)
    kind = config.get("model_type")
    if kind not in _FAMILIES:
        raise WeightsError(f"{folder} holds a model of the type {kind!r}, not {', '.join(_FAMILIES)}", _OWN)
    return _FAMILIES[kind]


def _preprocessing(folder: Path) -> dict[str, Any]:
    """The image processor's settings; since its version 5 transformers may keep them among a processor's."""
    if (folder / "processor_config.json").exists():
        nested = read_json(folder / "processor_config.json").get("image_processor")
        if isinstance(nested, dict):
            return nested
    return read_json(folder / "preprocessor_config.json")


def _dim(config: dict[str, Any], family: _Family) -> int:
    if family.pooling == "projection":
        return int(config.get("projection_dim", family.dim))
    return int(config.get("vision_config", config).get("hidden_size", family.dim))


def _check_size(config: dict[str, Any], family: _Family, made: _Input, folder: Path) -> None:
    """A model whose positions were learnt for one size takes no other."""
    side = family.side and config.get("vision_config", config).get("image_size", family.side)
    if side and (made.height, made.width) != (side, side):
        raise WeightsError(
            f"{folder}: its preprocessing makes {made.width} x {made.height} pixels of a picture, "
            f"but its model takes {side} x {side}",
            LAYOUT,
        )


def _check_tokenizer(folder: Path) -> None:
    """Where all of its files are missing, transformers makes up an empty tokenizer."""
    if not any((folder / name).exists() for name in _VOCABULARIES):
        raise WeightsError(
            f"{folder} lacks its tokenizer: there is none of {', '.join(_VOCABULARIES)}", LAYOUT
        )


def _fingerprint(folder: Path, family: _Family, made: _Input) -> str:
    contents = [weights.sha256_of(path) for path in hubs.weight_files(folder)]
    facts = [*contents, family.model, family.pooling, *map(str, astuple(made))]
    return hashlib.sha256("; ".join(facts).encode()).hexdigest()[:16]


def _open_model(folder: Path, family: _Family, device: str | None) -> Any:
    import torch
    import transformers

    kind = getattr(transformers, family.model, None)
    if kind is None:
        raise WeightsError(
            f"{folder}: transformers {transformers.__version__} knows no {family.model}",
            "pip install --upgrade transformers",
        )
    options = {"add_pooling_layer": False} if family.model == "ViTModel" else {}  # often not in the weights
    try:
        model, report = kind.from_pretrained(
            folder,
            local_files_only=True,
            use_safetensors=True,
            trust_remote_code=False,
            dtype=torch.float32,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
            **options,
        )
    except Exception as error:  # what goes wrong in there has no common base
        raise WeightsError(
            f"{folder} cannot be loaded as a {family.model}: {hubs.first_line(error)}", LAYOUT
        ) from error
    if unfit := hubs.unfit(report):
        raise WeightsError(f"{folder}: its weights do not fit a {family.model}: {unfit}", LAYOUT)
    return model.eval().to(device or ("cuda" if torch.cuda.is_available() else "cpu"))


def _open_tokenizer(folder: Path) -> Any:
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # as above
        raise WeightsError(
            f"{folder}: its tokenizer cannot be loaded: {hubs.first_line(error)}",
            "the tokenizer of the first SigLIP needs: pip install sentencepiece protobuf",
        ) from error
