"""MiniLM's states of captions without torch: the frozen text tower of `compact`.

The graph ships, tools/export_minilm.py makes it; its weights are those of `lookalike models pull minilm`,
which are mapped into memory and given to it when it is opened.
"""

from __future__ import annotations

import hashlib
import json
import math
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lookalike import weights
from lookalike.encoders.efficientnet import cores, session_options
from lookalike.errors import WeightsError
from lookalike.values import Floats
from lookalike.words import Words

NAME = "minilm"
GRAPH = Path(__file__).with_name(f"{NAME}.onnx")

LAYERS, WIDTH, INNER = 6, 384, 1536
CHUNK = 32  # texts per forward pass: bounds the memory
LONGEST_HEADER = 1 << 20  # bytes; MiniLM's has 11,408
RECIPE = "cleaned, 40 word pieces at most; the first state is the mean of all"


def _shapes() -> dict[str, tuple[int, ...]]:
    """The weights that the graph takes, by their names in the file."""

    def linear(name: str, entering: int, leaving: int) -> dict[str, tuple[int, ...]]:
        return {f"{name}.weight": (leaving, entering), f"{name}.bias": (leaving,)}

    def norm(name: str) -> dict[str, tuple[int, ...]]:
        return {f"{name}.weight": (WIDTH,), f"{name}.bias": (WIDTH,)}

    shapes: dict[str, tuple[int, ...]] = {
        "embeddings.word_embeddings.weight": (30522, WIDTH),
        "embeddings.position_embeddings.weight": (512, WIDTH),
        "embeddings.token_type_embeddings.weight": (2, WIDTH),
    } | norm("embeddings.LayerNorm")
    for layer in (f"encoder.layer.{place}" for place in range(LAYERS)):
        for part in ("self.query", "self.key", "self.value", "output.dense"):
            shapes |= linear(f"{layer}.attention.{part}", WIDTH, WIDTH)
        shapes |= norm(f"{layer}.attention.output.LayerNorm")
        shapes |= linear(f"{layer}.intermediate.dense", WIDTH, INNER)
        shapes |= linear(f"{layer}.output.dense", INNER, WIDTH)
        shapes |= norm(f"{layer}.output.LayerNorm")
    return shapes


SHAPES = _shapes()


class MiniLM:
    """The states of captions in the last of MiniLM's six layers.

    `folder` is where models are kept, None for the usual one. `threads` is how many cores it may use, None
    for all that the process may. The first call that needs the weights loads them: WeightsError where they
    were not pulled or are damaged. Safe to call from several threads.
    """

    def __init__(self, folder: Path | None = None, threads: int | None = None) -> None:
        self._folder = folder or weights.default_folder()
        self._threads = threads or cores()
        self._opening = threading.Lock()
        self._opened: _Opened | None = None
        given = (weights.record(name).files[0].sha256 for name in (NAME, "bert-uncased"))
        recipe = "; ".join((weights.sha256_of(GRAPH), *given, RECIPE))
        self.fingerprint = hashlib.sha256(recipe.encode()).hexdigest()[:16]

    def states(self, texts: Sequence[str]) -> tuple[Floats, NDArray[np.int64]]:
        """(B,) texts -> states (B, L, 384) and mask (B, L), 1 word, 0 padding; L is that of the longest.

        The first state is the mean of the text's states, as MiniLM is meant to be read; the others are the
        words', in their order, then the end's, then padding that means nothing. "" is a text: L = 2. B = 0
        gives (0, 2, 384).
        """
        opened = self._open()
        ids, mask = opened.words.tokens(texts)
        states = np.empty((*ids.shape, WIDTH), np.float32)
        for start in range(0, len(ids), CHUNK):
            chunk = slice(start, start + CHUNK)
            (states[chunk],) = opened.session.run(["states"], {"ids": ids[chunk], "mask": mask[chunk]})
        counted = mask[..., None].astype(np.float32)
        states[:, 0] = (states * counted).sum(axis=1) / counted.sum(axis=1)
        return states, mask

    def _open(self) -> _Opened:
        with self._opening:
            if self._opened is None:
                self._opened = _Opened(weights.locate(NAME, self._folder)[0], self._threads)
            return self._opened


class _Opened:
    """The words and the network; the weights stay mapped, for onnxruntime may compute from that memory."""

    def __init__(self, file: Path, threads: int) -> None:
        import onnxruntime

        self.words = Words()
        self._weights = _tensors(file, SHAPES)
        options = session_options(threads)
        values = [onnxruntime.OrtValue.ortvalue_from_numpy(each) for each in self._weights.values()]
        options.add_external_initializers(list(self._weights), values)
        try:
            self.session: Any = onnxruntime.InferenceSession(
                GRAPH, options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # onnxruntime's errors have no base of their own
            raise WeightsError(f"{GRAPH.name} cannot be used: {error}", "install lookalike again") from error


def _tensors(file: Path, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Floats]:
    """The tensors of these names from a safetensors file, mapped into memory, read-only.

    WeightsError where the file is no such file, or lacks one of them in this shape as float32. Nothing that
    its header says is believed before it is checked.
    """
    try:
        content = np.memmap(file, np.uint8, "r")
    except (OSError, ValueError) as error:  # ValueError: it is empty
        raise WeightsError(f"{file} cannot be read: {error}") from error
    length = int.from_bytes(content[:8].tobytes(), "little")
    if length > min(len(content) - 8, LONGEST_HEADER):
        raise WeightsError(f"{file.name} is no safetensors file")
    try:
        header = json.loads(content[8 : 8 + length].tobytes())
        if not isinstance(header, dict):
            raise ValueError("its header names no tensors")
    except (ValueError, RecursionError) as error:
        raise WeightsError(f"{file.name} is no safetensors file: {error}") from error
    data = content[8 + length :]
    return {name: _tensor(file, name, header.get(name), data, shape) for name, shape in shapes.items()}


def _tensor(file: Path, name: str, entry: Any, data: NDArray[np.uint8], shape: tuple[int, ...]) -> Floats:
    match entry:
        case {"dtype": "F32", "shape": [*sides], "data_offsets": [int(start), int(end)]} if (
            tuple(sides) == shape and 0 <= start <= end <= len(data) and end - start == 4 * math.prod(shape)
        ):
            return np.require(data[start:end].view("<f4").reshape(shape), np.float32, "A")
    raise WeightsError(
        f"{file.name} has no {name} of shape {shape} in float32", f"lookalike models pull {NAME}"
    )
