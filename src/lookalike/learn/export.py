"""A model as one ONNX file that holds all of its branches, for `encoders.exported`.

onnxruntime executes every node of a graph whatever outputs are asked for, so the branches are those of an
`If` on the input `branch`; their weights lie outside of it, once. The graph is written node by node rather
than traced: so it is small, shares what can be shared, and does not depend on the version of torch. Each
branch is compared with torch before the file takes its place.

    inputs   branch () int64, a place in the metadata's `branches`; and those of `encoders.adapted.Branches`
    output   result (B, T, W); T is 1 but for the branches `tokens` and `words`
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from torch import Tensor, nn

import lookalike
from lookalike import weights
from lookalike.encoders.adapted import Facts
from lookalike.encoders.exported import FORMAT, GRAPH, OnnxBranches, checksum
from lookalike.errors import LookalikeError
from lookalike.learn.branches import TorchBranches, facts_of
from lookalike.learn.models.adapted import Adapted
from lookalike.learn.models.x2vlm import X2VLMConfig
from lookalike.learn.models.x2vlm.text import PADDING_DEPTH, PICTURE_DEPTH, Attention, Layer, Merge
from lookalike.learn.models.x2vlm.vision import Block
from lookalike.learn.saved import Saved
from lookalike.squares import DEVIATION, MEAN
from lookalike.values import Floats, Keys

OPSET, IR_VERSION = 20, 9  # what onnxruntime 1.20 reads
LARGEST = (1 << 31) - (1 << 22)  # bytes: what a protobuf message holds, less what is not weights
TOLERANCE, TOLERANCE_OF_HALVES = 1e-4, 1e-2
_SMALL = 1024  # numbers; smaller weights stay whole where others are halved


@dataclass(frozen=True, slots=True)
class Exported:
    """What was written: its size, and how far each branch is from torch on seeded inputs.

    That is the largest difference, as a share of the branch's largest value where that is above 1.
    """

    bytes: int
    parity: Mapping[str, float]


def export(saved: Saved, blank: Floats, out: Path, half: bool = False) -> Exported:
    """Write a model to `out`, whole or not at all; what was there is replaced.

    `blank` (1, L, Dt) is what the text tower makes of the empty caption. `half` keeps weights in half
    precision, which is widened when they are loaded: the file has half the size and the arithmetic is the
    same. LookalikeError where the file cannot be written, where it would be too large, or where a branch is
    further from torch than 1e-4, or 1e-2 with `half`.
    """
    if not out.parent.is_dir():
        raise LookalikeError(f"{out} cannot be written: there is no folder {out.parent}", "make it first")
    graph, branches = _graph(saved, blank, half)
    content = graph.SerializeToString(deterministic=True)
    metadata = {
        "format": FORMAT,
        "name": out.stem,
        "branches": json.dumps(branches),
        "facts": json.dumps(
            {name: each for name, each in asdict(facts_of(saved)).items() if name != "fingerprint"}
        ),
        "config": json.dumps(asdict(saved.model.vlm.config)),
        "about": json.dumps(dict(saved.about), default=str),
        "weights": "fp16, widened to fp32 when loaded" if half else "fp32",
        "versions": json.dumps({each.__name__: each.__version__ for each in (lookalike, torch, onnx)}),
        **_provenance(saved),
    }
    metadata["sha256"] = checksum(hashlib.sha256(content).hexdigest(), metadata)
    part = out.with_name(f"{out.name}.part")
    try:
        _write(content, metadata, part)
        del graph, content
        cpu = torch.device("cpu")
        parity = _parity(TorchBranches(saved, blank, device=cpu), OnnxBranches(part), saved.model.vlm.config)
        limit = TOLERANCE_OF_HALVES if half else TOLERANCE
        worst = max(parity, key=lambda branch: np.nan_to_num(parity[branch], nan=np.inf))
        if not parity[worst] <= limit:
            raise LookalikeError(
                f"the branch {worst} differs from torch by {parity[worst]:.1e}, more than {limit:g}",
                "nothing was written",
            )
        size = part.stat().st_size
        part.replace(out)
    except OSError as error:
        raise LookalikeError(f"{out} cannot be written: {error.strerror}") from error
    finally:
        part.unlink(missing_ok=True)
    return Exported(size, parity)


def _write(graph: bytes, metadata: Mapping[str, str], path: Path) -> None:
    """An ONNX model, its graph last: joined messages are one message."""
    head = onnx.ModelProto(ir_version=IR_VERSION, producer_name="lookalike")
    head.opset_import.append(onnx.helper.make_opsetid("", OPSET))
    onnx.helper.set_model_props(head, dict(metadata))
    length, key = len(graph), bytearray([GRAPH << 3 | 2])
    while length > 127:
        key.append(length & 127 | 128)
        length >>= 7
    key.append(length)
    with path.open("wb") as file:
        file.write(head.SerializeToString(deterministic=True))
        file.write(key)
        file.write(graph)


def _provenance(saved: Saved) -> dict[str, str]:
    """How pixels and words become inputs, and what the licences are."""
    if saved.trunk == "compact":
        records = [weights.record(name) for name in ("efficientnet-lite2", "minilm")]
        return {
            "preprocessing": "a first token of zeros, then the cells of lookalike's EfficientNet, 288 pixels "
            "a side; each cell's weight: pooling.cell_weights, power 3; states of lookalike's MiniLM. "
            "Neither network is in here",
            "licence": "; ".join(f"{record.name}: {record.licence}" for record in records),
        }
    side = saved.model.vlm.config.resolution
    return {
        "preprocessing": f"RGB stretched to {side} x {side}, bicubic, divided by 255, less {MEAN}, divided "
        f"by {DEVIATION}; each cell's weight: pooling.cell_masks; words: BERT's uncased pieces, 40 at most",
        "licence": "X²-VLM's code: BSD-3-Clause, ByteDance; of the weights its checkpoint's publisher tells",
    }


def _parity(expected: TorchBranches, found: OnnxBranches, config: X2VLMConfig) -> dict[str, float]:
    """How far the branches are apart on three seeded pictures with captions of different lengths."""
    random = np.random.default_rng(0)
    rows, words, lengths = 3, 7, np.array([[7], [5], [2]])
    cells, side = config.grid**2, config.resolution
    arrays: dict[str, Floats | Keys] = {
        "pixels": random.standard_normal((rows, 3, side, side), np.float32),
        "ids": random.integers(config.vocabulary, size=(rows, words)),
        "mask": (np.arange(words) < lengths).astype(np.int64),
        "words": (np.arange(words) < lengths).astype(np.int64),
        "tokens": random.standard_normal((rows, 1 + cells, config.vision_width), np.float32),
        "region": random.random((rows, cells), np.float32) * (random.random((rows, cells)) < 0.5),
        "states": random.standard_normal((rows, words, config.text_width), np.float32),
    }
    apart = {}
    for branch in found.branches:
        given = {name: arrays[name] for name in READS[branch]}
        due, got = expected.run(branch, **given), found.run(branch, **given)
        apart[branch] = float(np.abs(due - got).max() / max(1, np.abs(due).max()))
        if branch in ("tokens", "words"):  # what the others are given
            arrays["tokens" if branch == "tokens" else "states"] = due
    return apart


READS = {
    "tokens": ("pixels",),
    "words": ("ids", "mask"),
    "image": ("tokens", "region"),
    "fused": ("tokens", "region", "states", "words"),
    "text": ("states",),
    "box": ("tokens",),
    "told_box": ("tokens", "states", "words"),
    "match": ("tokens", "region", "states", "words"),
}


def _graph(saved: Saved, blank: Floats, half: bool) -> tuple[onnx.GraphProto, list[str]]:
    """The graph, and its branches in the order of their numbers."""
    config, facts = saved.model.vlm.config, facts_of(saved)
    writer = _Writer(saved.model, facts, half)
    own = facts.trunk == "x2vlm"
    has = {
        "tokens": own, "words": own, "text": facts.texts, "box": facts.boxes, "told_box": facts.boxes,
        "match": facts.matches,
    }  # fmt: skip
    branches = [name for name in READS if has.get(name, True)]
    made = [writer.branch(partial(_branch, writer, name, blank)) for name in branches]
    chosen = writer.choice(made)
    if (size := sum(len(each.raw_data) for each in writer.weights.values())) > LARGEST:
        raise LookalikeError(
            f"the model's weights take {size:,} bytes, and an ONNX file holds {LARGEST:,}",
            "export it in half precision: --half",
        )
    integer, real = onnx.TensorProto.INT64, onnx.TensorProto.FLOAT
    cells, side = config.grid**2, config.resolution
    inputs: dict[str, tuple[int, list[int | str]]] = {
        "pixels": (real, [3, side, side]),
        "ids": (integer, ["L_ids"]),
        "mask": (integer, ["L_mask"]),
        "tokens": (real, [1 + cells, config.vision_width]),
        "region": (real, [cells]),
        "states": (real, ["L_states", config.text_width]),
        "words": (integer, ["L_words"]),
    }
    read = {name for branch in branches for name in READS[branch]}
    told = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        [*writer.widened, *chosen.node],
        "lookalike",
        [
            told("branch", integer, []),
            *(
                told(name, kind, [f"B_{name}", *rest])
                for name, (kind, rest) in inputs.items()
                if name in read
            ),
        ],
        [told("result", real, ["B", "T", "W"])],
        list(writer.weights.values()),
    )
    graph.node[-1].output[0] = "result"
    return graph, branches


def _branch(to: _Writer, name: str, blank: Floats) -> str:
    """One branch's nodes; the name of its result, (B, T, W)."""
    if name == "tokens":
        return _vision(to, "pixels")
    if name == "words":
        return _words(to, "ids", "mask")
    return to.add("Unsqueeze", _rows(to, name, blank), to.ints(1))


def _rows(to: _Writer, name: str, blank: Floats) -> str:
    """A branch of one row for each region or text, (B, W)."""
    model = to.model
    if name == "text":
        embedding = to.unit(to.linear(to.first("states"), _there(model.vlm.text_proj)))
        return to.add("Pad", embedding, to.ints(0, to.facts.identity, 0, 0))
    states, words = "states", "words"
    if name in ("image", "box"):
        rows = to.rows("tokens")
        states = to.add(
            "Expand", to.array("blank", blank), to.add("Concat", rows, to.ints(*blank.shape[1:]), axis=0)
        )
        words = to.add("Expand", to.ints(1), to.add("Concat", rows, to.ints(blank.shape[1]), axis=0))
    patches = to.slice("tokens", 1, 1 << 31, axis=1)
    if name in ("box", "told_box"):
        mean = to.add("ReduceMean", patches, to.ints(1))
        whole = to.add("Concat", mean, patches, axis=1)
        return to.add("Sigmoid", _deep(to, _fused(to, states, words, whole, None), model.vlm.bbox_head))
    total = to.add("Max", to.add("ReduceSum", "region", to.ints(1)), to.number(1e-6))
    share = to.add("Unsqueeze", to.add("Div", "region", total), to.ints(1))
    v0 = to.add("MatMul", share, patches)
    inside = to.add("Greater", to.add("Pad", "region", to.ints(0, 1, 0, 0), to.number(1)), to.number(0))
    fused = _fused(to, states, words, to.add("Concat", v0, patches, axis=1), inside)
    if name == "match":
        return _deep(to, fused, model.vlm.itm_head)
    v0 = to.first(v0)
    identity = to.unit(to.linear(to.add("Concat", v0, fused, axis=1), model.identity))
    if not to.facts.language:
        return identity
    language = to.unit(to.linear(v0, _there(model.vlm.vision_proj)))
    weighed = to.add("Mul", language, to.number(model.language))
    return to.unit(to.add("Concat", identity, weighed, axis=1))


def _vision(to: _Writer, pixels: str) -> str:
    tower = to.model.vlm.vision_encoder
    projection = tower.patch_embed["proj"]
    assert isinstance(projection, nn.Conv2d)
    patches = to.add(
        "Conv", pixels, to.weight(projection, "weight"), to.weight(projection, "bias"),
        kernel_shape=list(projection.kernel_size), strides=list(projection.stride),
    )  # fmt: skip
    tokens = to.add("Transpose", to.add("Reshape", patches, to.ints(0, 0, -1)), perm=[0, 2, 1])
    shape = to.add("Concat", to.rows(pixels), to.ints(1, projection.out_channels), axis=0)
    tokens = to.add("Concat", to.add("Expand", to.weight(tower, "cls_token"), shape), tokens, axis=1)
    for block in tower.blocks:
        assert isinstance(block, Block)
        tokens = _block(to, tokens, block)
    patches = to.norm(to.slice(tokens, 1, 1 << 31, axis=1), tower.fc_norm)
    return to.add("Concat", to.add("ReduceMean", patches, to.ints(1)), patches, axis=1)


def _block(to: _Writer, tokens: str, block: Block) -> str:
    attention = block.attn
    shift = torch.cat([attention.q_bias, torch.zeros_like(attention.q_bias), attention.v_bias])
    projected = to.add(
        "MatMul", to.norm(tokens, block.norm1), to.weight(attention.qkv, "weight", turned=True)
    )
    projected = to.add("Add", projected, to.array(f"{to.name(attention)}.shift", shift.numpy(force=True)))
    query, key, value = to.split(projected, 3)
    index = to.array("relative_position_index", attention.relative_position_index.numpy(force=True))
    bias = to.add("Gather", to.weight(attention, "relative_position_bias_table"), index, axis=0)
    bias = to.add("Transpose", bias, perm=[2, 0, 1])
    heads, width = attention.heads, attention.proj.in_features // attention.heads
    mixed = to.linear(to.attend(query, key, value, heads, width, bias), attention.proj)
    tokens = to.add("Add", tokens, to.add("Mul", mixed, to.weight(block, "gamma_1")))
    hidden = to.add("Gelu", to.linear(to.norm(tokens, block.norm2), block.mlp["fc1"]))
    return to.add(
        "Add", tokens, to.add("Mul", to.linear(hidden, block.mlp["fc2"]), to.weight(block, "gamma_2"))
    )


def _words(to: _Writer, ids: str, mask: str) -> str:
    bert = to.model.vlm.text_encoder.bert
    embeddings = bert.embeddings
    table = to.weight(embeddings.word_embeddings, "weight")
    kind = to.slice(to.weight(embeddings.token_type_embeddings, "weight"), 0, 1, axis=0)
    length = to.add("Shape", ids, start=1, end=2)
    places = to.weight(embeddings.position_embeddings, "weight")
    places = to.add("Slice", places, to.ints(0), length, to.ints(0))
    states = to.add("Add", to.add("Add", to.add("Gather", table, ids, axis=0), kind), places)
    states = to.norm(states, embeddings.LayerNorm)
    hidden = to.hiding(mask, PADDING_DEPTH)
    for layer in _layers(to)[: bert.config.text_layers]:
        states = _layer(to, states, hidden, layer, None, None)
    return states


def _fused(to: _Writer, states: str, words: str, tokens: str, inside: str | None) -> str:
    """f₀ (B, Dt)."""
    hidden = to.hiding(words, PADDING_DEPTH)
    outside = to.hiding(inside, PICTURE_DEPTH) if inside else None
    layers = _layers(to)[to.model.vlm.config.text_layers :]
    for place, layer in enumerate(layers):
        states = _layer(to, states, hidden, layer, tokens, outside, first_only=place == len(layers) - 1)
    return to.first(states)


def _layers(to: _Writer) -> list[Layer]:
    found = to.model.vlm.text_encoder.bert.encoder["layer"].children()
    return [layer for layer in found if isinstance(layer, Layer)]


def _layer(
    to: _Writer, states: str, hidden: str, layer: Layer, tokens: str | None, outside: str | None,
    first_only: bool = False,
) -> str:  # fmt: skip
    asking = to.slice(states, 0, 1, axis=1) if first_only else states
    states = _attention(to, asking, states, hidden, layer.attention)
    if layer.crossattention is not None and tokens is not None:
        states = _attention(to, states, tokens, outside, layer.crossattention)
    inner = to.add("Gelu", to.linear(states, layer.intermediate["dense"]))
    return _merged(to, inner, states, layer.output)


def _attention(to: _Writer, states: str, seen: str, hidden: str | None, attention: Attention) -> str:
    query = to.linear(states, attention.self["query"])
    key, value = (to.linear(seen, attention.self[name]) for name in ("key", "value"))
    heads, width = attention.heads, attention.output.dense.in_features // attention.heads
    return _merged(to, to.attend(query, key, value, heads, width, hidden), states, attention.output)


def _merged(to: _Writer, branch: str, states: str, merge: Merge) -> str:
    return to.norm(to.add("Add", to.linear(branch, merge.dense), states), merge.LayerNorm)


def _deep(to: _Writer, rows: str, head: nn.Module | None) -> str:
    entering, norm, _, leaving = _there(head).children()
    return to.linear(to.add("Gelu", to.norm(to.linear(rows, entering), norm)), leaving)


def _there(head: nn.Module | None) -> nn.Module:
    assert head is not None  # or the branch is left out
    return head


class _Writer:
    """Collects nodes and weights; methods return the name of the value that they make."""

    def __init__(self, model: Adapted, facts: Facts, half: bool) -> None:
        self.model, self.facts, self._half = model, facts, half
        self.weights: dict[str, onnx.TensorProto] = {}
        self.widened: list[onnx.NodeProto] = []  # halves to whole numbers
        self._nodes: list[onnx.NodeProto] = []  # of the branch that is written
        self._names: dict[nn.Module, str] = {module: name for name, module in model.named_modules()}
        self._values = 0

    def branch(self, make: Callable[[], str]) -> onnx.GraphProto:
        self._nodes = []
        result = onnx.helper.make_tensor_value_info(make(), onnx.TensorProto.FLOAT, [None] * 3)
        return onnx.helper.make_graph(self._nodes, result.name, [], [result])

    def choice(self, branches: Sequence[onnx.GraphProto], first: int = 0) -> onnx.GraphProto:
        """The branch whose number, counted from `first`, is the input `branch`; the last for any other."""
        chosen, *others = branches
        if not others:
            return chosen
        rest = self.choice(others, first + 1)
        return self.branch(
            lambda: self.add(
                "If", self.add("Equal", "branch", self.array(f"branch_{first}", np.array(first))),
                then_branch=chosen, else_branch=rest,
            )
        )  # fmt: skip

    def add(self, kind: str, *inputs: str, **attributes: Any) -> str:
        return self._made(kind, inputs, 1, attributes)[0]

    def split(self, joined: str, parts: int) -> list[str]:
        return self._made("Split", (joined,), parts, {"axis": -1, "num_outputs": parts})

    def _made(
        self, kind: str, inputs: Sequence[str], outputs: int, attributes: Mapping[str, Any]
    ) -> list[str]:
        names = [f"value_{self._values + place}" for place in range(outputs)]
        self._values += outputs
        self._nodes.append(onnx.helper.make_node(kind, inputs, names, **attributes))
        return names

    def name(self, module: nn.Module) -> str:
        return self._names[module]

    def weight(self, module: nn.Module, name: str, turned: bool = False) -> str:
        """A parameter; `turned` its transpose."""
        value: Tensor = getattr(module, name)
        array = (value.t() if turned else value).contiguous().numpy(force=True)
        return self.array(f"{self.name(module)}.{name}{'_turned' if turned else ''}", array)

    def array(self, name: str, value: Any) -> str:
        """What does not change, kept once under its name."""
        if name in self.weights or f"{name}_half" in self.weights:
            return name
        if self._half and value.dtype == np.float32 and value.size >= _SMALL:
            small = f"{name}_half"
            self.weights[small] = onnx.numpy_helper.from_array(value.astype(np.float16), small)
            self.widened.append(onnx.helper.make_node("Cast", [small], [name], to=onnx.TensorProto.FLOAT))
        else:
            self.weights[name] = onnx.numpy_helper.from_array(value, name)
        return name

    def ints(self, *values: int) -> str:
        return self.array("_".join(map(str, ("ints", *values))), np.array(values, np.int64))

    def number(self, value: float) -> str:
        return self.array(f"number_{value:.9g}", np.array(value, np.float32))

    def rows(self, x: str) -> str:
        """B of an (B, …), (1,)."""
        return self.add("Shape", x, start=0, end=1)

    def slice(self, x: str, start: int, end: int, axis: int) -> str:
        return self.add("Slice", x, self.ints(start), self.ints(end), self.ints(axis))

    def first(self, x: str) -> str:
        """(B, L, D) -> (B, D)."""
        return self.add("Squeeze", self.slice(x, 0, 1, axis=1), self.ints(1))

    def unit(self, x: str) -> str:
        """Rows (B, D) to length 1."""
        return self.add("Div", x, self.add("Max", self.add("ReduceL2", x, self.ints(1)), self.number(1e-12)))

    def linear(self, x: str, module: nn.Module) -> str:
        product = self.add("MatMul", x, self.weight(module, "weight", turned=True))
        return product if module.bias is None else self.add("Add", product, self.weight(module, "bias"))

    def norm(self, x: str, module: nn.Module) -> str:
        assert isinstance(module, nn.LayerNorm)
        scale, shift = self.weight(module, "weight"), self.weight(module, "bias")
        return self.add("LayerNormalization", x, scale, shift, axis=-1, epsilon=module.eps)

    def hiding(self, mask: str, depth: float) -> str:
        """Mask (B, K) -> what is added to the scores, (B, 1, 1, K): 0 where it is true, else -depth."""
        seen = self.add("Cast", mask, to=onnx.TensorProto.FLOAT)
        hidden = self.add("Mul", self.add("Sub", self.number(1), seen), self.number(-depth))
        return self.add("Unsqueeze", hidden, self.ints(1, 2))

    def attend(self, query: str, key: str, value: str, heads: int, width: int, bias: str | None) -> str:
        """(B, Q, D), (B, K, D), (B, K, D) -> (B, Q, D), D = heads * width; `bias` fits (B, heads, Q, K)."""
        query, key, value = (
            self.add("Transpose", self.add("Reshape", each, self.ints(0, 0, heads, width)), perm=perm)
            for each, perm in ((query, [0, 2, 1, 3]), (key, [0, 2, 3, 1]), (value, [0, 2, 1, 3]))
        )
        scores = self.add("MatMul", self.add("Mul", query, self.number(width**-0.5)), key)
        if bias:
            scores = self.add("Add", scores, bias)
        mixed = self.add("MatMul", self.add("Softmax", scores, axis=-1), value)
        return self.add(
            "Reshape", self.add("Transpose", mixed, perm=[0, 2, 1, 3]), self.ints(0, 0, heads * width)
        )
