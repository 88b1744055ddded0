"""What holds of the model whatever its weights."""

import json
import warnings
from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from x2vlm_golden import GOLDEN

from lookalike.errors import BadInput
from lookalike.learn.models.x2vlm import X2VLM, X2VLMConfig, region_mask

TINY = X2VLMConfig.tiny()


def made(config: X2VLMConfig = TINY, seed: int = 0) -> X2VLM:
    """A model in evaluation mode whose every parameter matters."""
    torch.manual_seed(seed)
    model = X2VLM(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model.eval()


def captions(length: int, batch: int = 3, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(1, TINY.vocabulary, (batch, length), generator=generator)
    return ids, torch.ones_like(ids)


def answers(model: X2VLM, pixels: Tensor, ids: Tensor, mask: Tensor) -> dict[str, Tensor]:
    """All that the model says of each row."""
    tokens, states = model.vision(pixels), model.text(ids, mask)
    f0 = model.fuse(states, mask, tokens)[:, 0]
    return {
        "image": model.image_embedding(tokens),
        "text": model.text_embedding(states),
        "match": model.match_logits(f0),
        "boxes": model.boxes(f0),
        "words": model.masked_words(f0),
    }


def assert_alike(found: dict[str, Tensor], due: dict[str, Tensor], tolerance: float = 2e-5) -> None:
    for name, tensor in due.items():
        torch.testing.assert_close(found[name].to(tensor.dtype), tensor, rtol=0, atol=tolerance)


@settings(deadline=None, max_examples=8)
@given(length=st.integers(1, 12), padding=st.integers(1, 20), filler=st.integers(0, 95))
def test_padding_a_caption_changes_nothing(length: int, padding: int, filler: int) -> None:
    model, pixels = made(), torch.randn(3, 3, 32, 32)
    ids, mask = captions(length)
    padded = torch.cat([ids, torch.full((3, padding), filler)], dim=1)
    padded_mask = torch.cat([mask, torch.zeros(3, padding, dtype=mask.dtype)], dim=1)
    with torch.inference_mode():
        assert_alike(answers(model, pixels, padded, padded_mask), answers(model, pixels, ids, mask))


@settings(deadline=None, max_examples=8)
@given(order=st.permutations(range(4)), others=st.integers(0, 3))
def test_a_row_does_not_depend_on_its_batch(order: list[int], others: int) -> None:
    model, pixels = made(), torch.randn(4, 3, 32, 32)
    ids, mask = captions(6, batch=4)
    mask[1, 4:] = 0
    chosen = order[: others + 1]
    with torch.inference_mode():
        whole = answers(model, pixels, ids, mask)
        found = answers(model, pixels[chosen], ids[chosen], mask[chosen])
    assert_alike(found, {name: tensor[chosen] for name, tensor in whole.items()})


@pytest.mark.parametrize("resolution", [8, 16, 40, 56])
def test_any_grid_gives_its_own_number_of_tokens(resolution: int) -> None:
    model = made(X2VLMConfig.tiny(resolution))
    with torch.inference_mode():
        tokens = model.vision(torch.randn(2, 3, resolution, resolution))
    assert tokens.shape == (2, 1 + (resolution // 8) ** 2, 48)
    torch.testing.assert_close(tokens[:, 0], tokens[:, 1:].mean(dim=1))


def test_attention_is_the_formula(inputs: dict[str, Tensor], tiny: X2VLM) -> None:
    """One layer's self-attention against the sum written out, for one head and one query at a time."""
    attention, grid = tiny.vision_encoder.blocks[1].attn, 4
    tokens = torch.randn(1, 17, 48)
    shift = torch.cat([attention.q_bias, torch.zeros(48), attention.v_bias])
    queries, keys, values = (tokens[0] @ attention.qkv.weight.t() + shift).split(48, dim=1)
    table, mixed = attention.relative_position_bias_table, torch.empty(17, 48)
    for head in range(4):
        part = slice(12 * head, 12 * head + 12)
        for q in range(17):
            scores = []
            for k in range(17):
                if q and k:
                    down, across = (q - 1) // grid - (k - 1) // grid, (q - 1) % grid - (k - 1) % grid
                    row = (down + grid - 1) * (2 * grid - 1) + across + grid - 1
                else:
                    row = 51 if q == k else 49 if q == 0 else 50
                scores.append(queries[q, part] @ keys[k, part] / 12**0.5 + table[row, head])
            mixed[q, part] = torch.stack(scores).softmax(0) @ values[:, part]
    due = mixed @ attention.proj.weight.t() + attention.proj.bias
    torch.testing.assert_close(attention(tokens)[0], due, rtol=0, atol=1e-5)


def test_a_video_is_the_mean_of_frames_that_know_their_place(inputs: dict[str, Tensor]) -> None:
    model, frames = made(replace(TINY, frames=3)), inputs["frames"]
    with torch.inference_mode():
        for count in (1, 2, 3):
            each = [
                model.vision(frames[:, place]) + model.absolute_frame_pos_embed[0, place]
                for place in range(count)
            ]
            torch.testing.assert_close(model.video(frames[:, :count]), torch.stack(each).mean(dim=0))
        with pytest.raises(BadInput, match="4 frames"):
            model.video(torch.cat([frames, frames[:, :1]], dim=1))
        unplaced = made(TINY)
        assert unplaced.video(torch.cat([frames, frames], dim=1)).shape == (2, 17, 48)


def test_a_region_of_all_patches_is_the_picture(inputs: dict[str, Tensor]) -> None:
    model = made()
    with torch.inference_mode():
        tokens = model.vision(inputs["image"])
        index = torch.tensor([2, 0, 2])
        whole = model.region_tokens(tokens, index, torch.ones(3, 17))
    torch.testing.assert_close(whole, tokens[index])
    nothing = model.region_tokens(tokens, index, torch.zeros(3, 17, dtype=torch.int64))
    assert (nothing[:, 0] == 0).all() and torch.equal(nothing[:, 1:], tokens[index, 1:])


def test_fusion_with_a_mask_sees_only_the_unhidden_tokens(inputs: dict[str, Tensor]) -> None:
    model = made()
    ids, mask = captions(5)
    seen = torch.tensor([0, 3, 4, 9])
    hidden = torch.zeros(3, 17, dtype=torch.int64)
    hidden[:, seen] = 1
    with torch.inference_mode():
        tokens, states = model.vision(inputs["image"][:3]), model.text(ids, mask)
        torch.testing.assert_close(
            model.fuse(states, mask, tokens, hidden), model.fuse(states, mask, tokens[:, seen])
        )


def golden_region_masks() -> list[dict[str, Any]]:
    return json.loads((GOLDEN / "facts.json").read_text(encoding="utf-8"))["region_patch_mask"]


@pytest.mark.parametrize("case", golden_region_masks(), ids=lambda case: str(case["box_xywh"]))
def test_region_masks_are_the_authors(case: dict[str, Any]) -> None:
    x, y, w, h = case["box_xywh"]
    grid = case["image_res"] // case["patch"]
    mask = region_mask(torch.tensor([[x, y, x + w, y + h]], dtype=torch.float64), grid, case["patch"])
    assert mask.shape == (1, case["length"]) and mask.dtype == torch.int64
    assert mask[0].nonzero()[:, 0].tolist() == case["ones"]


def test_region_masks_of_many_boxes_are_those_of_each() -> None:
    boxes = torch.tensor([[0, 0, 32, 32], [9, 1, 10, 31], [-5, -5, 3, 3], [30, 30, 90, 90.0]])
    masks = region_mask(boxes, 4, 8)
    assert torch.equal(masks, torch.cat([region_mask(box[None], 4, 8) for box in boxes]))
    assert masks.sum(dim=1).tolist() == [17, 5, 2, 2]
    assert region_mask(torch.empty(0, 4), 4, 8).shape == (0, 17)


def test_an_empty_batch_gives_empty_answers() -> None:
    ids, mask = captions(5)
    with torch.inference_mode():
        found = answers(made(), torch.empty(0, 3, 32, 32), ids[:0], mask[:0])
    assert {name: tuple(tensor.shape) for name, tensor in found.items()} == {
        "image": (0, 16), "text": (0, 16), "match": (0, 2), "boxes": (0, 4), "words": (0, 96),
    }  # fmt: skip


def test_inputs_that_do_not_fit_are_refused() -> None:
    model = made()
    for shape in ((1, 3, 40, 40), (1, 1, 32, 32), (3, 32, 32)):
        with pytest.raises(BadInput, match="pixels of the shape"):
            model.vision(torch.zeros(shape))
    ids, mask = captions(41)
    with pytest.raises(BadInput, match="41 tokens"):
        model.text(ids, mask)


@pytest.mark.parametrize(
    "wrong",
    [
        {"resolution": 30},
        {"resolution": 0},
        {"vision_heads": 5},
        {"text_heads": 0},
        {"text_layers": -1},
        {"fusion_layers": -1},
        {"heads": ("box",)},
        {"dropout": 1.0},
        {"drop_path": -0.1},
    ],
    ids=str,
)
def test_sizes_that_do_not_fit_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(BadInput):
        replace(TINY, **wrong)


def step(model: X2VLM) -> dict[str, Tensor]:
    """The gradients of one step in which all parts take part."""
    pixels = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(5))
    ids, mask = captions(6)
    model.zero_grad()
    sum(answer.float().square().sum() for answer in answers(model, pixels, ids, mask).values()).backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def test_recomputing_activations_gives_the_same_gradients() -> None:
    """In training mode too: the same units are dropped in both passes."""
    for training in (False, True):
        found = []
        for recompute in (False, True):
            model = made(replace(TINY, recompute=recompute)).train(training)
            torch.manual_seed(3)
            found.append(step(model))
        assert found[0].keys() == found[1].keys() >= {name for name, _ in model.named_parameters()} - {"temp"}
        for name, gradient in found[0].items():
            torch.testing.assert_close(found[1][name], gradient, rtol=0, atol=1e-6)


def test_dropout_and_drop_path_act_in_training_only() -> None:
    pixels, (ids, mask) = torch.randn(64, 3, 32, 32), captions(4, batch=64)
    quiet = made(replace(TINY, dropout=0.0, drop_path=0.0)).train()
    assert_alike(answers(quiet, pixels, ids, mask), answers(quiet.eval(), pixels, ids, mask))
    for option, name in (("dropout", "text"), ("drop_path", "image")):
        model = made(replace(TINY, **({"dropout": 0.0, "drop_path": 0.0} | {option: 0.5})))
        still = answers(model, pixels, ids, mask)
        moved = answers(model.train(), pixels, ids, mask)
        assert not torch.allclose(still[name], moved[name], atol=1e-3)


def test_a_dropped_branch_leaves_the_row_as_it_was() -> None:
    block = made(replace(TINY, drop_path=0.9)).vision_encoder.blocks[-1].train()
    tokens = torch.randn(200, 17, 48)
    with torch.no_grad():
        kept = (block(tokens) != tokens).flatten(1).any(dim=1)
    assert 0.05 < kept.float().mean() < 0.4  # 1 - 0.9² = 0.19


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("way", ["autocast", "cast"])
def test_half_precision_stays_near(dtype: torch.dtype, way: str, inputs: dict[str, Tensor]) -> None:
    model, (ids, mask) = made(), captions(6, batch=4)
    mask[0, 2:] = 0
    pixels = inputs["image"]
    with torch.inference_mode():
        due = answers(model, pixels, ids, mask)
        if way == "autocast":
            with torch.autocast("cpu", dtype):
                found = answers(model, pixels, ids, mask)
        else:
            found = answers(model.to(dtype), pixels.to(dtype), ids, mask)
    for name in ("image", "text"):
        assert found[name].dtype == torch.float32
        assert ((found[name] * due[name]).sum(dim=1) > 0.999).all()
    torch.testing.assert_close(found["boxes"].float(), due["boxes"], rtol=0, atol=0.05)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_masks_that_hide_all_give_no_nan(dtype: torch.dtype, inputs: dict[str, Tensor]) -> None:
    model, (ids, mask) = made().to(dtype), captions(5, batch=4)
    nothing = torch.zeros(4, 17, dtype=torch.int64)
    with torch.inference_mode():
        tokens, states = model.vision(inputs["image"].to(dtype)), model.text(ids, torch.zeros_like(mask))
        assert model.fuse(states, torch.zeros_like(mask), tokens, nothing).isfinite().all()


@pytest.mark.parametrize("part", ["vision", "text and fusion"])
def test_torch_compile_captures_the_towers_in_one_graph(part: str, inputs: dict[str, Tensor]) -> None:
    model, (ids, mask) = made(), captions(6, batch=4)

    def fused(tokens: Tensor) -> Tensor:
        return model.fuse(model.text(ids, mask), mask, tokens)

    run: Callable[[Tensor], Tensor]
    run, given_ = (model.vision, inputs["image"]) if part == "vision" else (fused, torch.randn(4, 17, 48))
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the compiler's own deprecations
        compiled = torch.compile(run, backend="aot_eager", fullgraph=True)
        torch.testing.assert_close(compiled(given_), run(given_), rtol=0, atol=1e-5)


def test_new_models_start_as_beit_and_bert_do() -> None:
    torch.manual_seed(0)
    model = X2VLM(replace(TINY, vision_depth=8, frames=2))
    blocks = model.vision_encoder.blocks
    assert abs(blocks[0].attn.qkv.weight.std() - 0.02) < 0.002
    spreads = [block.mlp["fc2"].weight.std() for block in blocks]
    for (depth, spread), (_, next_spread) in pairwise(enumerate(spreads, start=1)):
        assert abs(spread * (2 * depth) ** 0.5 - 0.02) < 0.002 and next_spread < spread * 1.05
    for block in blocks:
        assert (block.gamma_1 == 0.1).all() and (block.attn.relative_position_bias_table == 0).all()
    layer = model.text_encoder.bert.encoder["layer"][3]
    assert abs(layer.crossattention.self["key"].weight.std() - 0.02) < 0.002
    assert (
        (layer.output.dense.bias == 0).all()
        and model.temp is not None
        and model.temp.item() == pytest.approx(0.07)
    )


@pytest.mark.parametrize("moved", [lambda model: model.double(), deepcopy], ids=["converted", "copied"])
def test_reading_and_predicting_words_stay_one_table(moved: Callable[[X2VLM], X2VLM]) -> None:
    model = moved(made())
    table = model.text_encoder.bert.embeddings.word_embeddings.weight
    f0 = torch.ones(1, 32, dtype=table.dtype)
    with torch.no_grad():
        before = model.masked_words(f0)
        table[7] += 1
        after = model.masked_words(f0)
    assert (before != after).nonzero()[:, 1].tolist() == [7]
