"""The vision tower of X²-VLM base, and its attention as a fused kernel against the authors' plain form.

    python benchmarks/x2vlm.py [--rounds N] [--batch B] [--device cuda] [--train]

Both towers have the same random weights and take turns. "plain" writes the scores out, (B, heads, T, T), adds
the bias and takes the softmax, as the published code does. Pictures a second are of the median round; memory
is what the process (or the GPU) needed at most beyond what it held before, each form in a process of its own.
--train adds a backward pass and keeps the activations. The last column is the largest difference of tokens.
"""

from __future__ import annotations

import argparse
import multiprocessing
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from statistics import median
from unittest import mock

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from lookalike.learn.models.x2vlm import X2VLMConfig
from lookalike.learn.models.x2vlm.vision import VisionTower

RESOLUTIONS = (224, 384)
FORMS = ("fused", "plain")


def plain_attention(query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor, dropout_p: float) -> Tensor:
    scores = (query * query.shape[-1] ** -0.5) @ key.transpose(-2, -1) + attn_mask
    return F.dropout(scores.softmax(dim=-1), dropout_p) @ value


@contextmanager
def form_of_attention(form: str) -> Iterator[None]:
    swap = mock.patch.object(F, "scaled_dot_product_attention", plain_attention)
    with swap if form == "plain" else nullcontext():
        yield


def tower(resolution: int, device: str) -> VisionTower:
    torch.manual_seed(0)
    model = VisionTower(X2VLMConfig.base(resolution)).to(device).eval()
    with torch.no_grad():
        for block in model.blocks:
            block.attn.relative_position_bias_table.normal_(std=0.5)
    return model


def run(model: VisionTower, pixels: Tensor, train: bool) -> Tensor:
    with torch.enable_grad() if train else torch.inference_mode():
        tokens: Tensor = model(pixels)
        if train:
            tokens.square().mean().backward()
    if pixels.is_cuda:
        torch.cuda.synchronize()
    return tokens.detach()


def seconds(model: VisionTower, pixels: Tensor, rounds: int, train: bool) -> tuple[dict[str, float], float]:
    took: dict[str, list[float]] = {form: [] for form in FORMS}
    tokens: dict[str, Tensor] = {}
    for number in range(rounds + 1):  # the first warms up
        for form in FORMS:
            with form_of_attention(form):
                started = time.perf_counter()
                tokens[form] = run(model, pixels, train)
                if number:
                    took[form].append(time.perf_counter() - started)
    return {form: median(times) for form, times in took.items()}, (
        (tokens["fused"] - tokens["plain"]).abs().max().item()
    )


def needed(resolution: int, batch: int, device: str, train: bool, form: str) -> int:
    """Bytes of memory at most beyond weights and pixels."""
    model, pixels = tower(resolution, device), torch.randn(batch, 3, resolution, resolution, device=device)
    if train:
        for parameter in model.parameters():
            parameter.grad = torch.zeros_like(parameter)
    if device == "cpu":
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew; Linux only
    before = _peak(device)
    with form_of_attention(form):
        run(model, pixels, train)
    return _peak(device) - before


def _peak(device: str) -> int:
    if device == "cpu":
        status = Path("/proc/self/status").read_text()
        return 1024 * int(status.partition("VmHWM:")[2].split()[0])
    return torch.cuda.max_memory_allocated()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--train", action="store_true")
    asked = parser.parse_args()
    print(
        f"batch {asked.batch}, {asked.device}, {torch.get_num_threads()} threads, torch {torch.__version__}"
    )
    print(f"{'pixels':>6} {'form':>6} {'pictures/s':>11} {'memory MB':>10} {'difference':>11}")
    for resolution in RESOLUTIONS:
        model = tower(resolution, asked.device)
        pixels = torch.randn(asked.batch, 3, resolution, resolution, device=asked.device)
        times, difference = seconds(model, pixels, asked.rounds, asked.train)
        del model
        for form in FORMS:
            task = (resolution, asked.batch, asked.device, asked.train, form)
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                memory = pool.apply(needed, task)
            print(
                f"{resolution:>6} {form:>6} {asked.batch / times[form]:>11.2f} {memory / 1e6:>10.0f} "
                f"{difference:>11.1e}"
            )


if __name__ == "__main__":
    main()
