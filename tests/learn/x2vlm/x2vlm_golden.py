"""The golden data of X²-VLM, and the recipe of its made-up weights."""

import hashlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

GOLDEN = Path(__file__).parents[2] / "golden/x2vlm"


def tensors(file: str) -> dict[str, Tensor]:
    with np.load(GOLDEN / file) as arrays:
        return {key: torch.from_numpy(array) for key, array in arrays.items()}


def drawn(shapes: Mapping[str, Tensor], tag: str) -> dict[str, Tensor]:
    """A state dict of made-up weights, each drawn from its own name: the golden README's recipe."""
    state = {}
    for key, like in shapes.items():
        if key.endswith(
            ("relative_position_index", "position_ids", "predictions.decoder.weight", "decoder.bias")
        ):
            continue
        seed = int.from_bytes(hashlib.sha256(f"{tag}:{key}".encode()).digest()[:8], "little")
        z = np.random.Generator(np.random.PCG64(seed)).standard_normal(tuple(like.shape))
        leaf = key.rpartition(".")[2]
        if key == "temp":
            z = np.full((), 0.07)
        elif leaf in ("gamma_1", "gamma_2"):
            z = 0.4 + 0.1 * z
        elif leaf == "relative_position_bias_table":
            z = 0.5 * z
        elif leaf in ("cls_token", "absolute_frame_pos_embed"):
            z = 0.3 * z
        elif "embeddings." in key and z.ndim == 2:
            z = 0.5 * z
        elif z.ndim == 1:
            z = 1 + 0.1 * z if leaf == "weight" else 0.1 * z
        else:
            z = z / np.sqrt(np.prod(z.shape[1:]))
        state[key] = torch.from_numpy(np.asarray(z, np.float32))
    return state
