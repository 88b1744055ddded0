"""How fast the default encoder's network runs, here and in other runtimes, and what each costs in quality.

    python benchmarks/encoder.py TEST [--rounds N]

TEST is a folder of product photographs. Speed is of the network alone at 288 px, for one caller with one
picture or eight and for two callers with eight each: pictures per second and processor time per picture,
medians over rounds in which every runtime takes its turn, so that a busy machine slows all alike. Quality is
the mean cosine of a street query's descriptor to the fp32 file's, and the change of mAP with given boxes.
int8 is calibrated on the photographs that scikit-image and scikit-learn bundle. Needs the extra `export`;
without openvino its rows are left out.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray

from descriptor import BACKGROUNDS, Maps, Objects, Recipe, bundled, objects, read, salient
from lookalike.encoders import EfficientNet
from lookalike.encoders.efficientnet import SHIPPED, SIDE
from lookalike.values import Floats, Pixels, Region, unit

Forward = Callable[[Pixels], NDArray[np.float32]]  # squares (B, 288, 288, 3) -> block maps (B, 352, 9, 9)
CORES = 2
FULL = "onnxruntime, fp32 file"


def onnx_forward(file: Path, threads: int = CORES, spinning: bool = False) -> Forward:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.intra_op.allow_spinning", str(int(spinning)))
    session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    return lambda squares: session.run(["block"], {"pixels": squares})[0]


def eight_bits(full: Path, file: Path) -> None:
    """Static quantisation, per channel, calibrated on DEV's photographs and quarters of them."""
    from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static

    class Photographs(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            draw = Recipe({}).draw
            quarters = (quarter for name in BACKGROUNDS for quarter in parts(bundled(name)))
            self.squares = iter([draw(pixels)[0][None] for pixels in quarters])

        def get_next(self) -> dict[str, Pixels] | None:
            square = next(self.squares, None)
            return None if square is None else {"pixels": square}

    quantize_static(
        full, file, Photographs(), per_channel=True, activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8, extra_options={"ActivationSymmetric": False}, nodes_to_exclude=["float"],
    )  # fmt: skip


def parts(pixels: Pixels) -> Iterator[Pixels]:
    height, width = pixels.shape[0] // 2, pixels.shape[1] // 2
    yield pixels
    for top in (0, height):
        for left in (0, width):
            yield pixels[top : top + height, left : left + width]


def openvino_forward(file: Path) -> Forward:
    import openvino

    core = openvino.Core()
    compiled = core.compile_model(core.read_model(file), "CPU", {"INFERENCE_NUM_THREADS": CORES})

    def forward(squares: Pixels) -> NDArray[np.float32]:
        request = compiled.create_infer_request()  # one for each call: callers may come together
        return np.array(request.infer({"pixels": squares})["block"])

    return forward


def torch_forward(model: Any) -> Forward:
    import torch

    torch.set_num_threads(CORES)

    def forward(squares: Pixels) -> NDArray[np.float32]:
        with torch.inference_mode():
            block: NDArray[np.float32] = model(torch.from_numpy(squares))[0].numpy()
            return block

    return forward


def runtimes(folder: Path) -> Iterator[tuple[str, Forward]]:
    """The shipped file as the encoder runs it comes first, the fp32 file last."""
    sys.path.insert(0, str(Path(__file__).parents[1] / "tools"))
    from export_efficientnet import VARIANTS, load, metadata, onnx_model

    full, int8 = folder / "full.onnx", folder / "int8.onnx"
    model = load(VARIANTS["lite2"])
    onnx.save(onnx_model(model, metadata("lite2", VARIANTS["lite2"]), half=False), full)
    eight_bits(full, int8)
    yield "onnxruntime, shipped fp16 file", onnx_forward(SHIPPED)
    yield "the same, waiting threads spin", onnx_forward(SHIPPED, spinning=True)
    yield "the same, one thread a call", onnx_forward(SHIPPED, threads=1)
    yield "onnxruntime, static int8", onnx_forward(int8)
    try:
        yield "openvino, shipped fp16 file", openvino_forward(SHIPPED)
        yield "openvino, static int8", openvino_forward(int8)
    except ImportError:
        print("openvino is not installed: left out", file=sys.stderr)
    yield "torch, eager, fp32", torch_forward(model)
    yield FULL, onnx_forward(full)


def speed(forward: Forward, squares: Pixels, callers: int) -> tuple[float, float]:
    """Pictures per second of `callers` at once, and processor milliseconds per picture."""
    calls = max(1, 8 // len(squares))
    pictures = callers * calls * len(squares)
    with ThreadPoolExecutor(callers) as pool:
        start, busy = time.perf_counter(), time.process_time()
        list(pool.map(lambda _: [forward(squares) for _ in range(calls)], range(callers)))
        return pictures / (time.perf_counter() - start), 1000 * (time.process_time() - busy) / pictures


def descriptors(forward: Forward, regions: list[Region]) -> Floats:
    rows = []
    for start in range(0, len(regions), 8):
        drawn = [Recipe({}).draw(region.pixels) for region in regions[start : start + 8]]
        maps = forward(np.stack([square for square, _ in drawn]))
        rows.append(unit(salient(3)(Maps(maps, maps, [frame for _, frame in drawn]))))
    return np.concatenate(rows)


def mean_precision(forward: Forward, test: Objects) -> tuple[Floats, float]:
    """The queries' descriptors and the mAP; one right answer each."""
    queries = descriptors(forward, test.boxed)
    scores = queries @ descriptors(forward, test.gallery).T
    right = scores[np.arange(len(scores)), test.sought]
    return queries, float((1 / (scores >= right[:, None]).sum(1)).mean())


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("test", type=Path)
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()

    test = objects("TEST", (("", read(path)) for path in sorted(options.test.glob("*.jpg"))), 2)
    squares = np.stack([Recipe({}).draw(region.pixels)[0] for region in test.whole[:8]])
    loads: dict[str, tuple[Pixels, int]] = {
        "B1": (squares[:1], 1), "B8": (squares, 1), "2 callers, B8": (squares, 2)
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        forwards = dict(runtimes(Path(folder)))
        quality = {name: mean_precision(forward, test) for name, forward in forwards.items()}
        measured: dict[tuple[str, str], list[tuple[float, float]]] = {
            (name, load): [] for name in forwards for load in loads
        }
        for _ in range(options.rounds):
            for (name, load), speeds in measured.items():
                speeds.append(speed(forwards[name], *loads[load]))

    exact, best = quality[FULL]
    first = next(iter(forwards))
    heads = [*loads, *(f"CPU ms, {load}" for load in loads), "cosine to fp32", "mAP"]
    print(f"{options.rounds} rounds, {CORES} threads, {SIDE} px; pictures/s (times the first row)\n")
    print("| | " + " | ".join(heads) + " |\n|" + "---|" * (len(heads) + 1))
    for name, (queries, precision) in quality.items():
        cells = []
        for load in loads:
            rate, base = (median(rate for rate, _ in measured[each, load]) for each in (name, first))
            cells.append(f"{rate:.1f} ({rate / base:.2f})")
        cells += [f"{median(busy for _, busy in measured[name, load]):.1f}" for load in loads]
        cells.append(f"{(queries * exact).sum(1).mean():.5f}")
        cells.append(f"{precision:.4f} ({precision - best:+.4f})")
        print("| " + " | ".join([name, *cells]) + " |")
    everything(test.whole)


def everything(regions: list[Region]) -> None:
    """Drawing, network and pooling together, from decoded pixels."""
    encoder = EfficientNet()
    batch = [Region(region.picture) for region in regions[:8]]
    rates = []
    for size in (1, 8):
        times = []
        for _ in range(9):
            start = time.perf_counter()
            encoder.pictures(batch[:size])
            times.append(time.perf_counter() - start)
        rates.append(f"{size / median(times):.1f}")
    shape = f"{batch[0].picture.width} x {batch[0].picture.height}"
    print(f"\nEfficientNet.pictures, {shape} pixels: {rates[0]} a second one by one, {rates[1]} by eight")


if __name__ == "__main__":
    main()
