"""Make the graph of MiniLM's six layers: one small ONNX file without weights, which the package ships.

    python tools/export_minilm.py            # writes src/lookalike/encoders/minilm.onnx

The weights stay in the safetensors file of `lookalike models pull minilm`. Each is an external initializer
here, named and shaped as in that file, and is given to onnxruntime when the graph is opened. Linear layers
are Gemm with a transposed second factor, for that is how PyTorch keeps them: nothing is copied.

    input   ids     (B, L) int64, L at most 512
    input   mask    (B, L) int64, 1 word, 0 padding
    output  states  (B, L, 384)

Metadata: name, licence. What it computes is BERT (Devlin et al., NAACL 2019), with hidden words pushed down
by 10,000 before the softmax.
"""

from __future__ import annotations

import argparse
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from lookalike.encoders import minilm

OPSET, IR_VERSION = 17, 8
HEADS = 12
EPSILON = 1e-12  # of the layer norms
HIDDEN_BY = 1e4  # what a hidden word's score is lowered by


class Graph:
    """Collects the nodes and constants of an ONNX graph; methods return the name of the value they make."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []

    def node(self, kind: str, inputs: Sequence[str], output: str, **attributes: Any) -> str:
        self.nodes.append(onnx.helper.make_node(kind, inputs, [output], name=output, **attributes))
        return output

    def constant(self, name: str, value: Any, kind: Any = np.float32) -> str:
        self.constants.append(onnx.numpy_helper.from_array(np.asarray(value, kind), name))
        return name

    def linear(self, x: str, layer: str) -> str:
        return self.node("Gemm", [x, f"{layer}.weight", f"{layer}.bias"], layer, transB=1)

    def norm(self, x: str, layer: str, output: str) -> str:
        names = [x, f"{layer}.weight", f"{layer}.bias"]
        return self.node("LayerNormalization", names, output, axis=-1, epsilon=EPSILON)

    def embeddings(self) -> str:
        """ids (B, L) -> (B·L, D)."""
        length = self.node("Slice", ["shape", self.constant("one", [1], np.int64), "two"], "length")
        zero, first = self.constant("zero", [0], np.int64), self.constant("first", 0, np.int64)
        places = self.node("Slice", ["embeddings.position_embeddings.weight", zero, length], "places")
        kind = self.node("Gather", ["embeddings.token_type_embeddings.weight", first], "kind")
        words = self.node("Gather", ["embeddings.word_embeddings.weight", "ids"], "words")
        x = self.node("Add", [words, kind], "words.kind")
        x = self.node("Add", [x, places], "words.placed")
        x = self.node("Reshape", [x, "flat"], "words.flat")
        return self.norm(x, "embeddings.LayerNorm", "embeddings")

    def layer(self, x: str, name: str) -> str:
        """A post-norm layer, (B·L, D) -> (B·L, D)."""
        mixed = self.attention(x, f"{name}.attention.self")
        x = self.merge(mixed, x, f"{name}.attention.output")
        inner = self.linear(x, f"{name}.intermediate.dense")
        erf = self.node("Erf", [self.node("Div", [inner, "root two"], f"{inner}.scaled")], f"{inner}.erf")
        share = self.node("Mul", [self.node("Add", [erf, "1"], f"{inner}.share"), "half"], f"{inner}.half")
        return self.merge(self.node("Mul", [inner, share], f"{inner}.gelu"), x, f"{name}.output")

    def attention(self, x: str, name: str) -> str:
        def heads(part: str, perm: Sequence[int]) -> str:
            split = self.node("Reshape", [self.linear(x, f"{name}.{part}"), "split"], f"{name}.{part}.split")
            return self.node("Transpose", [split], f"{name}.{part}.heads", perm=perm)

        query, key, value = (
            heads("query", (0, 2, 1, 3)),
            heads("key", (0, 2, 3, 1)),
            heads("value", (0, 2, 1, 3)),
        )
        scores = self.node(
            "Div", [self.node("MatMul", [query, key], f"{name}.dot"), "scale"], f"{name}.scores"
        )
        scores = self.node("Add", [scores, "hiding"], f"{name}.masked")
        shares = self.node("Softmax", [scores], f"{name}.shares", axis=-1)
        mixed = self.node("MatMul", [shares, value], f"{name}.mixed")
        mixed = self.node("Transpose", [mixed], f"{name}.joined", perm=(0, 2, 1, 3))
        return self.node("Reshape", [mixed, "flat"], f"{name}.flat")

    def merge(self, branch: str, x: str, name: str) -> str:
        added = self.node("Add", [self.linear(branch, f"{name}.dense"), x], f"{name}.added")
        return self.norm(added, f"{name}.LayerNorm", name)


def onnx_model() -> onnx.ModelProto:
    graph = Graph()
    width = minilm.WIDTH
    graph.constant("two", [2], np.int64)
    graph.constant("1", 1)
    graph.constant("half", 0.5)
    graph.constant("root two", 2**0.5)
    graph.constant("scale", (width / HEADS) ** 0.5)
    graph.constant("flat", [-1, width], np.int64)
    graph.node("Shape", ["ids"], "shape")
    each = graph.constant("each", [HEADS, width // HEADS], np.int64)
    graph.node("Concat", ["shape", each], "split", axis=0)
    mask = graph.node("Cast", ["mask"], "mask.float", to=onnx.TensorProto.FLOAT)
    hidden = graph.node("Sub", ["1", mask], "hidden")
    hidden = graph.node("Mul", [hidden, graph.constant("depth", -HIDDEN_BY)], "hidden.deep")
    graph.node("Unsqueeze", [hidden, graph.constant("axes", [1, 2], np.int64)], "hiding")
    x = graph.embeddings()
    for place in range(minilm.LAYERS):
        x = graph.layer(x, f"encoder.layer.{place}")
    whole = graph.node("Concat", ["shape", graph.constant("width", [width], np.int64)], "whole", axis=0)
    graph.node("Reshape", [x, whole], "states")
    made = onnx.helper.make_model(
        onnx.helper.make_graph(
            graph.nodes,
            minilm.NAME,
            [
                onnx.helper.make_tensor_value_info(name, onnx.TensorProto.INT64, ["B", "L"])
                for name in ("ids", "mask")
            ],
            [onnx.helper.make_tensor_value_info("states", onnx.TensorProto.FLOAT, ["B", "L", width])],
            graph.constants + [external(name, shape) for name, shape in minilm.SHAPES.items()],
        ),
        opset_imports=[onnx.helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="lookalike",
    )
    onnx.helper.set_model_props(made, {"name": minilm.NAME, "licence": "Apache-2.0"})
    return made


def external(name: str, shape: Sequence[int]) -> onnx.TensorProto:
    """A weight that is given when the graph is opened; no file of this location is ever read."""
    tensor = onnx.TensorProto(name=name, dims=shape, data_type=onnx.TensorProto.FLOAT)
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="given when opened")
    return tensor


def main() -> None:
    parser = argparse.ArgumentParser(description="Write the graph of MiniLM as an ONNX file without weights.")
    parser.add_argument(
        "--out", type=Path, default=minilm.GRAPH, help="default: the file that the package ships"
    )
    options = parser.parse_args()
    data = onnx_model().SerializeToString(deterministic=True)
    options.out.write_bytes(data)
    print(f"{options.out.name}: {len(data):,} bytes, sha256 {hashlib.sha256(data).hexdigest()}")


if __name__ == "__main__":
    main()
