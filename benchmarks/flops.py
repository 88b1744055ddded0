"""What fine-tuning X²-VLM costs, counted: FLOPs, memory and, derived from them, time.

    python benchmarks/flops.py [--identities N] [--held-out N] [--peak TFLOPS] [--fp32 TFLOPS] [--words L]
    python benchmarks/flops.py --reading

Nothing is timed but by --reading: the CPU milliseconds that a training view takes from its file, one thread.

The real classes run on tensors without content, in the training's precision (bf16 autocast), with attention
as the memory-efficient kernel of a GPU; PyTorch's FlopCounterMode counts their matrix products, forward and
backward, a multiply-add as two. The training step is that of the recipe x2vlm: arcface, contrast, itc, box.
The towers' counts are compared with a formula, and the step's with the objective itself on a small model.

Activations are the bytes of all that autograd keeps, shared storage once, without weights; they are counted
for 2 and for 4 pictures and extrapolated in a straight line. What kernels need in passing and what the
allocator holds back is not in it: leave a tenth of the memory free. Times are FLOPs / (GPUs x peak x
utilisation), without the time that reading pictures, exchanging gradients and scoring take.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from unittest import mock

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from PIL import Image
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.flop_counter import FlopCounterMode

from lookalike import images
from lookalike.learn import losses
from lookalike.learn.models.adapted import Adapted, Seen
from lookalike.learn.models.x2vlm import X2VLM, X2VLMConfig, to_pixels
from lookalike.learn.objective import Batch, Objective
from lookalike.learn.recipes import recipe
from lookalike.learn.views import USUAL, view
from lookalike.values import Box

RECIPE = recipe("x2vlm")
# DeepFashion2's released train split: garments (pair, style, category) that both users and shops show, as a
# third party counted them, and all labelled garments. About a tenth of the pairs is the split `tuning`, on
# which an epoch is scored.
IDENTITIES, REGIONS = 18_159 * 9 // 10, 312_186 // 10
SIDES = (224, 384)
UTILISATIONS = (0.3, 0.5)
GPUS = (1, 8)
MODELS = {
    f"{size} {side}": replace(make(side), heads=("vision_proj", "text_proj", "itm_head", "bbox_head"))
    for size, make in (("base", X2VLMConfig.base), ("large", X2VLMConfig.large))
    for side in SIDES
}


@contextmanager
def as_on_a_gpu() -> Iterator[None]:
    """Autocast with what a GPU does otherwise than a CPU: fused attention, layer norms in full precision."""
    plain = F.layer_norm

    def attention(query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor, dropout_p: float) -> Tensor:
        bias = attn_mask.expand(*query.shape[:3], key.shape[2])
        fused = torch.ops.aten._scaled_dot_product_efficient_attention
        return fused(query, key, value, bias, torch.is_grad_enabled(), dropout_p)[0]

    def layer_norm(states: Tensor, *arguments: object) -> Tensor:
        return plain(states.float(), *arguments)

    with (
        mock.patch.object(F, "scaled_dot_product_attention", attention),
        mock.patch.object(F, "layer_norm", layer_norm),
        torch.autocast("cpu", torch.bfloat16),
    ):
        yield


def shapes(config: X2VLMConfig, identities: int) -> Objective:
    """Not on any device yet: `without_content` puts it on one."""
    with torch.device("meta"):
        return Objective(Adapted(X2VLM(config)), identities, RECIPE)


def without_content(made: Objective) -> Objective:
    """On the CPU as FakeTensorMode, within which it is called, has it."""
    made.to_empty(device="cpu")
    made.model.vlm.text_encoder.tie()
    return made.train()


def batch(config: X2VLMConfig, rows: int, words: int) -> Batch:
    """P x K = rows regions that fill their pictures, each with its caption."""
    return Batch(
        image=torch.zeros(rows, 3, config.resolution, config.resolution),
        region=torch.ones(rows, config.grid**2),
        boxes=torch.full((rows, 4), 0.5),
        text=torch.zeros(rows + 1, words, dtype=torch.int64),
        words=torch.ones(rows + 1, words, dtype=torch.int64),
        told=torch.ones(rows, dtype=torch.bool),
        captioned=torch.ones(rows, dtype=torch.bool),
        labels=torch.arange(rows) // RECIPE.k,
    )


def step(objective: Objective, given: Batch) -> Tensor:
    """All that the objective asks of the model and of the centres, as one number to derive.

    The objective itself selects rows by what they hold, which tensors without content cannot answer.
    """
    model, rows = objective.model, len(given.labels)
    image, text = model.vlm.vision(given.image), model.vlm.text(given.text, given.words)
    seen, told, words = model.region(image, given.region), text[:rows], given.words[:rows]
    identity = model.identity_part(seen, told, words)
    margin = losses.Margin(angle=RECIPE.margin, scale=RECIPE.scale)
    asked = [
        losses.arcface_logits(identity, objective.centres, given.labels, margin),
        model.language_part(seen),
        model.vlm.text_embedding(told),
        model.boxes(image, told, words),
    ]
    return torch.stack([each.float().sum() for each in asked]).sum()


def flops(work: Callable[[], object]) -> int:
    with FlopCounterMode(display=False) as counter:
        work()
    return counter.get_total_flops()


def kept(module: torch.nn.Module, work: Callable[[], object]) -> int:
    """Bytes that autograd keeps of `work` for the backward pass, the module's own tensors left out."""
    own = {each.untyped_storage()._cdata for each in (*module.parameters(), *module.buffers())}
    found: dict[int, Tensor] = {}

    def pack(tensor: Tensor) -> Tensor:
        found[tensor.untyped_storage()._cdata] = tensor  # held, so that its address is not used again
        return tensor

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        held = work()
    del held
    return sum(each.untyped_storage().nbytes() for address, each in found.items() if address not in own)


def counted(config: X2VLMConfig, identities: int, words: int) -> dict[str, float]:
    """Figures of one model: parameters, FLOPs a picture, bytes a step and a picture."""
    figures: dict[str, float] = {}
    made = {
        "step": shapes(config, identities),
        "step again": shapes(replace(config, recompute=True), identities),
    }
    with FakeTensorMode(allow_non_fake_inputs=True), as_on_a_gpu():
        for name, whole in made.items():
            figures |= cost(name, without_content(whole), words)
        model, vlm = whole.model, whole.model.vlm
        figures["parameters"] = sum(each.numel() for each in whole.parameters())
        given, bare = batch(config, 1, words), batch(config, 1, 2)  # [CLS] [SEP]
        ids, mask = given.text[:1], given.words[:1]
        with torch.no_grad():
            image, text = vlm.vision(given.image), vlm.text(ids, mask)
            figures["vision"] = flops(lambda: vlm.vision(given.image))
            figures["text"] = flops(lambda: vlm.text(ids, mask))
            figures["fusion"] = flops(lambda: vlm.fuse(text, mask, image))
            figures["f0"] = flops(lambda: vlm.fuse(text, mask, image, first_only=True))
            figures["query"] = flops(lambda: described(model, bare))
        block = vlm.vision_encoder.blocks[-1]
        few, more = (
            kept(block, lambda tokens=tokens: block(tokens))
            for tokens in (image.expand(rows, -1, -1).clone().requires_grad_() for rows in (1, 2))
        )
        figures["block, bytes"] = more - few
    for name, expected in by_formula(config, words).items():
        assert figures[name] == expected, (name, figures[name], expected)
    return figures


def cost(name: str, whole: Objective, words: int) -> dict[str, float]:
    """FLOPs and bytes of a training step for each picture, and the bytes that do not grow with these."""
    few, more = (batch(whole.model.vlm.config, rows, words) for rows in (2, 4))
    work = [flops(lambda given=given: step(whole, given).backward()) for given in (few, more)]
    held = [kept(whole, lambda given=given: step(whole, given)) for given in (few, more)]
    return {
        name: (work[1] - work[0]) / 2,
        f"{name}, bytes": (held[1] - held[0]) / 2,
        f"{name}, bytes once": 2 * held[0] - held[1],
    }


def described(model: Adapted, given: Batch) -> Tensor:
    """A bare query's descriptor."""
    text = model.vlm.text(given.text[:1], given.words[:1])
    seen: Seen = model.region(model.vlm.vision(given.image), given.region)
    return model.joined(model.identity_part(seen, text, given.words[:1]), model.language_part(seen))


def by_formula(config: X2VLMConfig, words: int) -> dict[str, int]:
    """The products of the towers and of a whole fusion, for one picture and one caption."""
    patches, width, wide = config.grid**2, config.vision_width, config.text_width
    tokens = patches + 1
    block = 2 * tokens * (4 * width**2 + 2 * width * config.vision_hidden) + 4 * tokens**2 * width
    read = 2 * words * (4 * wide**2 + 2 * wide * config.text_hidden) + 4 * words**2 * wide
    look = 4 * words * wide**2 + 4 * tokens * width * wide + 4 * words * tokens * wide
    return {
        "vision": 2 * patches * 3 * config.patch**2 * width + config.vision_depth * block,
        "text": config.text_layers * read,
        "fusion": config.fusion_layers * (read + look),
    }


def check_step() -> None:
    """`step` against the objective itself, with content, on a small model: forward FLOPs within 1 %."""
    config = X2VLMConfig(resolution=64, vision_depth=2, text_layers=2, fusion_layers=2, vocabulary=100)
    torch.manual_seed(0)
    whole = Objective(Adapted(X2VLM(config)), 100, RECIPE)
    given = batch(config, 8, 32)
    ours, real = flops(lambda: step(whole, given)), flops(lambda: whole(given))
    assert abs(ours / real - 1) < 0.01, (ours, real)


def table(
    figures: dict[str, dict[str, float]], identities: int, held_out: int, peak: float, fp32: float
) -> Iterator[str]:
    rows, pictures = RECIPE.p * RECIPE.k, identities * RECIPE.k

    def line(name: str, of: Callable[[dict[str, float]], float], form: str = ",.1f") -> str:
        return f"| {name} | " + " | ".join(f"{of(each):{form}}" for each in figures.values()) + " |"

    def memory(one: dict[str, float], way: str) -> float:
        passing = one["block, bytes"] if "again" in way else 0
        once = one["step, bytes once"] + 20 * one["parameters"]
        return (once + rows * (one[f"{way}, bytes"] + passing)) / 1e9

    yield f"| | {' | '.join(figures)} |"
    yield "|---" * (len(figures) + 1) + "|"
    yield line("parameters, million", lambda one: one["parameters"] / 1e6)
    for name, key in (
        ("vision tower", "vision"), ("text tower", "text"), ("fusion, all words", "fusion"),
        ("fusion, f₀ alone", "f0"), ("descriptor of a bare query", "query"),
    ):  # fmt: skip
        yield line(f"forward, GFLOP: {name}", lambda one, key=key: one[key] / 1e9)
    yield line("training, GFLOP a picture", lambda one: one["step"] / 1e9)
    yield line("… activations computed again", lambda one: one["step again"] / 1e9)
    yield line("memory, GB: weights", lambda one: 4 * one["parameters"] / 1e9)
    yield line("… gradients", lambda one: 4 * one["parameters"] / 1e9)
    yield line("… Adam's two moments", lambda one: 8 * one["parameters"] / 1e9)
    yield line("… mean of the weights (ema)", lambda one: 4 * one["parameters"] / 1e9)
    yield line("… copies in bf16 and position biases", lambda one: one["step, bytes once"] / 1e9)
    yield line("activations, MB a picture", lambda one: one["step, bytes"] / 1e6, ",.0f")
    yield line("… computed again", lambda one: one["step again, bytes"] / 1e6, ",.0f")
    yield line(f"a batch of {rows}, GB in all", lambda one: memory(one, "step"))
    yield line("… activations computed again", lambda one: memory(one, "step again"))
    for gpus in GPUS:
        for share in UTILISATIONS:
            rate = gpus * peak * share
            yield line(
                f"{RECIPE.epochs} epochs on {gpus} GPU{'s' * (gpus > 1)} at {share:.0%}, minutes",
                lambda one, rate=rate: RECIPE.epochs * pictures * one["step"] / rate / 60,
                ",.1f",
            )
    yield line(
        f"pictures/s for each GPU at {max(UTILISATIONS):.0%}",
        lambda one: peak * max(UTILISATIONS) / one["step"],
        ",.0f",
    )
    yield line(
        f"scoring {held_out:,} regions after each epoch, one GPU in fp32 at {max(UTILISATIONS):.0%}, minutes",
        lambda one: held_out * one["query"] / (fp32 * max(UTILISATIONS)) / 60,
    )


def reading(views: int = 60) -> list[float]:
    """CPU milliseconds for a picture from its JPEG to the model's pixels, for each side."""
    random = np.random.default_rng(0)
    coarse = random.integers(
        0, 256, (80, 60, 3), np.uint8
    )  # enlarged: not harder to decode than a photograph
    took = []
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "picture.jpg"
        Image.fromarray(coarse).resize((600, 800), Image.Resampling.BICUBIC).save(path, quality=85)
        for side in SIDES:
            started = time.process_time()
            for seed in range(views):
                seen = view(images.load(path), [Box(100, 100, 450, 650)], seed, USUAL)
                to_pixels([seen.picture.pixels], side)
            took.append(round((time.process_time() - started) / views * 1e3, 1))
    return took


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--identities", type=int, default=IDENTITIES, help="trained on")
    parser.add_argument("--held-out", type=int, default=REGIONS, help="regions scored after each epoch")
    parser.add_argument("--peak", type=float, default=312, help="TFLOP/s of a GPU; 312: A100, bf16, dense")
    parser.add_argument("--fp32", type=float, default=19.5, help="TFLOP/s of the same in fp32")
    parser.add_argument("--words", type=int, default=30, help="of a caption, beside [CLS] and [SEP]")
    parser.add_argument("--reading", action="store_true")
    asked = parser.parse_args()
    if asked.reading:
        print(f"a picture of 600 x 800 into {SIDES} pixels: {reading()} CPU ms")
        return
    check_step()
    figures = {name: counted(config, asked.identities, asked.words + 2) for name, config in MODELS.items()}
    print(
        f"{asked.identities:,} identities, {RECIPE.k} regions of each an epoch; captions of {asked.words} "
        f"words; {asked.peak:g} TFLOP/s, in fp32 {asked.fp32:g}; torch {torch.__version__}\n"
    )
    for row in table(figures, asked.identities, asked.held_out, asked.peak * 1e12, asked.fp32 * 1e12):
        print(row)


if __name__ == "__main__":
    main()
