"""Official X²-VLM checkpoints, opened without running any code of theirs."""

from __future__ import annotations

import math
import pickle
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lookalike.errors import BadInput, MissingExtra, WeightsError
from lookalike.hubs import first_line
from lookalike.learn.models.x2vlm.config import HEADS, X2VLMConfig
from lookalike.learn.models.x2vlm.model import X2VLM
from lookalike.learn.models.x2vlm.vision import relative_index

_TABLE = "attn.relative_position_bias_table"
_COMPUTED = ("attn.relative_position_index", "embeddings.position_ids")
_TIED = {
    "text_encoder.cls.predictions.decoder.weight": "text_encoder.bert.embeddings.word_embeddings.weight",
    "text_encoder.cls.predictions.decoder.bias": "text_encoder.cls.predictions.bias",
}
_WANTED = "name an X²-VLM checkpoint (base or large, of BEiT v2 and BERT) in PyTorch's or safetensors' format"
_AGAIN = "get the file again, and compare its checksum with the publisher's"


@dataclass(frozen=True, slots=True)
class LoadReport:
    """What a checkpoint did not hold, what it held beyond the model, and what was fitted to the resolution.

    Keys are those of the pre-training checkpoints. `missing` are the parts of heads that the file lacks: they
    are None in the model. `extra` is empty unless the load was not strict.
    """

    missing: tuple[str, ...]
    extra: tuple[str, ...]
    interpolated: tuple[str, ...]


def load_checkpoint(
    path: str | Path, resolution: int | None = None, *, strict: bool = True
) -> tuple[X2VLM, LoadReport]:
    """The model in a file, in evaluation mode and float32, and what was remarkable about it.

    The file is safetensors (to be preferred) or PyTorch's format, a bare state dict or {'model': …,
    'config': …}, with keys of the pre-training or of the fine-tuned models; sizes are read off the tensors.
    `resolution` is the side of the pictures to come, the file's own where None: the tables of relative
    positions are fitted to it.

    WeightsError where the file is none of these, is damaged, lacks a part of a tower or a half of a head,
    holds other shapes, NaN or infinity, or, when `strict`, holds a key that the model has not. BadInput for a
    resolution that the patches do not divide.
    """
    path = Path(path)
    state = _in_one_style(_read(path), path)
    _refuse_relatives(state, path)
    config = _sizes(state, path)
    if resolution is not None:
        config = replace(config, resolution=resolution)
    interpolated = _fit_tables(state, config.grid)
    with torch.device("meta"):  # shapes only: the file's tensors take these places
        model = X2VLM(config)
        complete = X2VLM(replace(config, heads=HEADS))
    wanted = model.state_dict()
    computed = {key for key in wanted | state if key.endswith(_COMPUTED)}
    extra = tuple(sorted(state.keys() - wanted.keys() - computed))
    _check(state, {key: tensor for key, tensor in wanted.items() if key not in computed}, path)
    if strict and extra:
        raise WeightsError(
            f"{path} holds {len(extra)} keys that are no part of an X²-VLM, the first {extra[0]}",
            "load_checkpoint(path, strict=False) leaves them out",
        )
    index = relative_index(config.grid)  # one for all layers
    positions = torch.arange(config.positions)[None]
    for key in wanted:
        if key in computed:
            state[key] = index if key.endswith(_COMPUTED[0]) else positions
        elif key in _TIED:
            state[key] = state[_TIED[key]]
        else:
            state[key] = state[key].float()
    model.load_state_dict({key: state[key] for key in wanted}, assign=True)
    model.text_encoder.tie()
    missing = tuple(sorted(complete.state_dict().keys() - wanted.keys() - _TIED.keys()))
    return model.requires_grad_().eval(), LoadReport(missing, extra, interpolated)


def _read(path: Path) -> dict[str, Tensor]:
    """The state dict in a file, on the CPU."""
    try:
        with path.open("rb") as file:
            start = file.read(9)
    except OSError as error:
        raise WeightsError(f"{path} cannot be read: {error.strerror}", _WANTED) from None
    found = _read_safetensors(path) if start[8:] == b"{" else _read_torch(path)
    if isinstance(found, Mapping) and isinstance(found.get("model"), Mapping):
        found = found["model"]
    if not (
        isinstance(found, Mapping)
        and found
        and all(isinstance(key, str) and isinstance(tensor, Tensor) for key, tensor in found.items())
    ):
        raise WeightsError(f"{path} holds no state dict, that is, tensors by name", _WANTED)
    if any(tensor.layout != torch.strided or tensor.is_quantized for tensor in found.values()):
        raise WeightsError(f"{path} holds tensors that are sparse or quantised", _WANTED)
    return dict(found)


def _read_safetensors(path: Path) -> Any:
    try:
        from safetensors import SafetensorError
        from safetensors.torch import load_file
    except ImportError:
        raise MissingExtra(f"opening {path}", "train") from None
    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError, KeyError) as error:
        raise WeightsError(f"{path} is damaged: {first_line(error)}", _AGAIN) from error


def _read_torch(path: Path) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise WeightsError(
            f"{path} is no checkpoint, or holds more than tensors, and opening that could run anything",
            "get or make a copy in safetensors",
        ) from error
    except Exception as error:  # damage comes out as many kinds of error
        raise WeightsError(f"{path} is damaged or no checkpoint: {first_line(error)}", _AGAIN) from error


def _in_one_style(state: dict[str, Tensor], path: Path) -> dict[str, Tensor]:
    """Keys as pre-training names them; fine-tuned models leave `bert.` out."""
    styled: dict[str, Tensor] = {}
    for key, tensor in state.items():
        head, _, rest = key.partition("text_encoder.")
        if not head and rest.partition(".")[0] in ("embeddings", "encoder", "pooler"):
            key = f"text_encoder.bert.{rest}"
        if key in styled:
            raise WeightsError(f"{path} holds {key} twice, under both of its names", _AGAIN)
        styled[key] = tensor
    return styled


def _refuse_relatives(state: Mapping[str, Tensor], path: Path) -> None:
    """WeightsError, by name, for the authors' other models and for what only looks like one."""
    seen = [key.removeprefix("vision_encoder.") for key in state if key.startswith("vision_encoder.")]
    other = None
    if any(key.startswith(("cross_encoder.", "mlm_head.")) for key in state):
        other = "the multilingual model with a cross encoder of its own (CCLM)"
    elif any(key.startswith("text_encoder.roberta.") for key in state):
        other = "X²-VLM with RoBERTa"
    elif any(key.startswith("layers.") for key in seen):
        other = "X²-VLM with a Swin vision tower"
    elif any(key.startswith(("class_embedding", "embeddings.", "encoder.", "vision_model.")) for key in seen):
        other = "X²-VLM with a CLIP vision tower"
    elif any(key in ("pos_embed", "rel_pos_bias.relative_position_bias_table") for key in seen):
        other = "a BEiT with positions of its own kind"
    elif not seen:
        other = "something without a vision tower"
    if other:
        raise WeightsError(f"{path} holds {other}, which is not known here", _WANTED)


def _sizes(state: Mapping[str, Tensor], path: Path) -> X2VLMConfig:
    """The config that the tensors' shapes tell."""

    def shape(key: str, dims: int) -> tuple[int, ...]:
        if key not in state:
            raise WeightsError(f"{path} is no whole X²-VLM: it lacks {key}", _WANTED)
        found = tuple(state[key].shape)
        if len(found) != dims or 0 in found:
            raise WeightsError(f"{path}: {key} has the shape {list(found)}, which cannot be", _AGAIN)
        return found

    def layers(prefix: str) -> int:
        """How many numbered layers it has anything of."""
        inside = (key.removeprefix(prefix) for key in state if key.startswith(prefix))
        return len({number for number in (key.partition(".")[0] for key in inside) if number.isdecimal()})

    table = f"vision_encoder.blocks.0.{_TABLE}"
    rows, vision_heads = shape(table, 2)
    side = math.isqrt(max(rows - 3, 0))
    if side * side != rows - 3 or side % 2 == 0:
        raise WeightsError(f"{path}: {table} has {rows} rows, which is no square of positions and 3", _AGAIN)
    vision_width, _, patch, _ = shape("vision_encoder.patch_embed.proj.weight", 4)
    bert = "text_encoder.bert"
    vocabulary, text_width = shape(f"{bert}.embeddings.word_embeddings.weight", 2)
    if shape(f"{bert}.embeddings.token_type_embeddings.weight", 2)[0] == 1:
        raise WeightsError(f"{path} holds X²-VLM with RoBERTa, which is not known here", _WANTED)
    layered = layers(f"{bert}.encoder.layer.")
    looking = [f"{bert}.encoder.layer.{place}.crossattention." for place in range(layered)]
    fusing = [any(key.startswith(prefix) for key in state) for prefix in looking]
    text_layers = fusing.index(True) if True in fusing else layered
    projection = next((key for key in ("vision_proj.weight", "text_proj.weight") if key in state), None)
    embedding = shape(projection, 2)[0] if projection else X2VLMConfig.base().embedding
    frames = shape("absolute_frame_pos_embed", 4)[1] if "absolute_frame_pos_embed" in state else 0
    usual = vision_width == 64 * vision_heads  # 64 wide each, but for tiny models
    try:
        return X2VLMConfig(
            resolution=(side + 1) // 2 * patch,
            patch=patch,
            vision_width=vision_width,
            vision_depth=layers("vision_encoder.blocks."),
            vision_heads=vision_heads,
            vision_hidden=shape("vision_encoder.blocks.0.mlp.fc1.weight", 2)[0],
            vocabulary=vocabulary,
            positions=shape(f"{bert}.embeddings.position_embeddings.weight", 2)[0],
            text_width=text_width,
            text_heads=text_width // 64 if usual else vision_heads,
            text_hidden=shape(f"{bert}.encoder.layer.0.intermediate.dense.weight", 2)[0],
            text_layers=text_layers,
            fusion_layers=layered - text_layers,
            embedding=embedding,
            frames=frames,
            heads=tuple(
                head for head in HEADS if any(key == head or key.startswith(f"{head}.") for key in state)
            ),
        )
    except BadInput as error:
        raise WeightsError(f"{path} is no whole X²-VLM: {error}", _WANTED) from error


def _check(state: Mapping[str, Tensor], wanted: Mapping[str, Tensor], path: Path) -> None:
    """WeightsError unless all that is wanted is there, in shape, finite, and the tied are alike."""
    lacking = sorted(wanted.keys() - state.keys() - _TIED.keys())
    if lacking:
        raise WeightsError(
            f"{path} is no whole X²-VLM: it lacks {len(lacking)} parts, the first {lacking[0]}", _WANTED
        )
    for key, tensor in wanted.items():
        if key not in state:
            continue
        found = state[key]
        if found.shape != tensor.shape:
            raise WeightsError(
                f"{path}: {key} has the shape {list(found.shape)} where {list(tensor.shape)} is due", _AGAIN
            )
        if not found.is_floating_point():
            raise WeightsError(f"{path}: {key} holds {found.dtype}, not weights", _AGAIN)
        if key in _TIED:
            if not torch.equal(found, state[_TIED[key]]):
                raise WeightsError(f"{path}: {key} differs from {_TIED[key]}, with which it is one", _AGAIN)
        elif not found.isfinite().all():
            raise WeightsError(f"{path}: {key} holds NaN or infinity", "the training that wrote it failed")


def _fit_tables(state: dict[str, Tensor], grid: int) -> tuple[str, ...]:
    """Put tables of relative positions into `grid`; the keys of those that were changed."""
    rows = (2 * grid - 1) ** 2 + 3
    changed = []
    for key, table in state.items():
        square = (
            key.endswith(_TABLE)
            and table.ndim == 2
            and math.isqrt(max(len(table) - 3, 0)) ** 2 == len(table) - 3
        )
        if square and len(table) != rows and len(table) > 3:
            state[key] = torch.from_numpy(fitted_table(table.float().numpy(), grid))
            changed.append(key)
    return tuple(changed)


def fitted_table(table: NDArray[np.float32], grid: int) -> NDArray[np.float32]:
    """A table of relative positions (rows, heads), as a grid of `grid` patches a side needs it.

    BEiT's way: the old offsets are laid out at growing distances, so that near offsets keep their meaning,
    and a bicubic spline through them is read at the new ones; beyond the outermost the edge counts on. The
    last three rows, of the class token, are kept.
    """
    try:
        from scipy.interpolate import RectBivariateSpline
    except ImportError:
        raise MissingExtra("another resolution than the checkpoint's", "train") from None
    old, new = math.isqrt(len(table) - 3), 2 * grid - 1
    if old == new:
        return table
    if old < 5:  # a bicubic spline needs four points a side
        raise BadInput("positions of a checkpoint with fewer than 3 x 3 patches do not fit another grid")
    ratio = _ratio(old // 2, new // 2)
    steps = np.cumsum([ratio**step for step in range(old // 2)])
    source = np.concatenate([-steps[::-1], [0], steps])
    target = np.arange(-(new // 2), new // 2 + 1)
    heads = [
        RectBivariateSpline(source, source, head.reshape(old, old), kx=3, ky=3, s=0)(target, target).ravel()
        for head in table[:-3].T
    ]
    return np.concatenate([np.stack(heads, axis=1).astype(np.float32), table[-3:]])


def _ratio(old: int, new: int) -> float:
    """By which the distance of `old` offsets must grow from one to the next to reach `new`; 1.01 to 1.5."""
    left, right = 1.01, 1.5
    ratio = right
    while right - left > 1e-6:
        ratio = (left + right) / 2
        if (1 - ratio**old) / (1 - ratio) > new:
            right = ratio
        else:
            left = ratio
    return ratio
