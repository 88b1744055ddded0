"""The authors' own outputs, in float32 and float64, gradients included."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn
from x2vlm_golden import GOLDEN, tensors

from lookalike.learn import losses
from lookalike.learn.models.x2vlm import X2VLM, X2VLMConfig
from lookalike.learn.models.x2vlm.checkpoint import fitted_table

TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-10}
UNITS = {
    torch.float32: 5e-7,
    torch.float64: 0.0,
}  # the gradient of temp is 40: 1e-5 is 2.6 of its last places


class Golden:
    """The golden model and inputs in one precision; `check` compares, and remembers what was compared."""

    def __init__(self, model: X2VLM, inputs: dict[str, Tensor], dtype: torch.dtype) -> None:
        self.model = model.to(dtype)
        self.inputs = {k: v.to(dtype) if v.dtype == torch.float32 else v for k, v in inputs.items()}
        self.outputs = tensors(f"tiny_outputs_fp{torch.finfo(dtype).bits}.npz")
        self.tolerance, self.units = TOLERANCE[dtype], UNITS[dtype]
        self.checked: set[str] = set()

    def check(self, **found: Tensor) -> None:
        for name, tensor in found.items():
            torch.testing.assert_close(
                tensor.detach(),
                self.outputs[name],
                rtol=self.units if name.endswith("/temp") else 0,
                atol=self.tolerance,
                check_dtype=False,  # the authors have one 0 in float32
                msg=lambda m, n=name: f"{n}: {m}",
            )
            self.checked.add(name)

    def __getitem__(self, name: str) -> Tensor:
        return self.inputs[name]

    def read(self, ids: str, mask: str) -> Tensor:
        return self.model.text(self[ids], self[mask])


@pytest.fixture(params=[torch.float32, torch.float64], ids=["fp32", "fp64"])
def golden(request: pytest.FixtureRequest, tiny: X2VLM, inputs: dict[str, Tensor]) -> Golden:
    return Golden(tiny, inputs, request.param)


def test_every_golden_output(golden: Golden, monkeypatch: pytest.MonkeyPatch) -> None:
    layers(golden, monkeypatch)
    embeddings_and_contrast(golden)
    fusion_and_heads(golden)
    region_batch(golden)
    whole = {name for name in golden.outputs if not name.startswith("grad_")}
    assert whole - golden.checked == {"image_atts_full"}  # ones, of the authors' own making


def layers(golden: Golden, monkeypatch: pytest.MonkeyPatch) -> None:
    model = golden.model
    with probabilities(monkeypatch) as seen, inputs_of(model.vision_encoder.blocks) as hidden:
        tokens = model.vision(golden["image"])
    golden.check(**{f"vision_attn_{i}": each for i, each in enumerate(seen)})
    golden.check(**{f"vision_hidden_{i}": each for i, each in enumerate(hidden)})
    golden.check(vision_hidden_3=tokens, vision_embeds=tokens)
    with (
        probabilities(monkeypatch) as seen,
        inputs_of(model.text_encoder.bert.encoder["layer"][:2]) as hidden,
    ):
        states = golden.read("text_ids", "text_atts")
    golden.check(**{f"text_attn_{i}": each for i, each in enumerate(seen)})
    golden.check(**{f"text_hidden_{i}": each for i, each in enumerate(hidden)})
    golden.check(text_hidden_2=states, text_embeds=states)


def embeddings_and_contrast(golden: Golden) -> None:
    model = golden.model
    states = golden.read("text_ids", "text_atts")
    image = model.image_embedding(model.vision(golden["image"]))
    text = model.text_embedding(states)
    identities = golden["itc_idx"]
    i2t, t2i = losses.hard_negative_weights(image, text, model.temp)
    i2t_idx, t2i_idx = losses.hard_negative_weights(image, text, model.temp, identities)
    itc = losses.itc(image, text, model.temp)
    golden.check(
        image_feat=image,
        text_feat=text,
        itc_logits_i2t=image @ text.t() / model.temp,
        itc_loss=itc,
        itc_loss_idx=losses.itc(image, text, model.temp, identities),
        hardneg_weights_i2t=i2t,
        hardneg_weights_t2i=t2i,
        hardneg_weights_i2t_idx=i2t_idx,
        hardneg_weights_t2i_idx=t2i_idx,
    )
    gradients(golden, itc, "grad_itc/")


def fusion_and_heads(golden: Golden) -> None:
    model, mask = golden.model, golden["text_atts"]
    tokens, states = model.vision(golden["image"]), golden.read("text_ids", "text_atts")
    fused = model.fuse(states, mask, tokens)
    golden.check(
        text_embeds_all_layers_no_image=model.fuse(states, mask, None),
        cross_embeds=fused,
        cross_embeds_from_ids=fused,
        cross_embeds_masked_image=model.fuse(states, mask, tokens, golden["cross_image_atts"]),
    )
    images, texts = golden["itm_neg_image_idx"], golden["itm_neg_text_idx"]
    matched = model.match_logits(fused[:, 0])
    wrong_image = model.match_logits(model.fuse(states, mask, tokens[images])[:, 0])
    wrong_text = model.match_logits(model.fuse(states[texts], mask[texts], tokens)[:, 0])
    unmatched = torch.cat([wrong_image, wrong_text])
    golden.check(
        itm_logits_pos=matched,
        itm_logits_all_fixed_negatives=torch.cat([matched, unmatched]),
        itm_loss_fixed_negatives=losses.itm(matched, unmatched),
    )
    masked = model.fuse(golden.read("text_ids_masked", "text_atts"), mask, tokens)
    scores = model.masked_words(masked, golden["masked_pos"])
    golden.check(mlm_logits=scores, mlm_loss=losses.mlm(scores, golden["masked_ids"]))
    torch.testing.assert_close(model.masked_words(masked)[0, golden["masked_pos"][0]], scores[0])
    predicted, target = model.boxes(fused[:, 0]), golden["target_bbox"]
    l1, giou = losses.box(predicted, target)
    golden.check(bbox_pred=predicted, bbox_l1=l1, bbox_giou=giou)
    l1, giou = losses.box(predicted, target, torch.tensor([1, 0, 0, 1]))
    golden.check(bbox_l1_is_image_1001=l1, bbox_giou_is_image_1001=giou)
    target = target.clone()
    target[1, 2] = -0.1
    l1, giou = losses.box(predicted, target)
    golden.check(bbox_l1_degenerate=l1, bbox_giou_degenerate=giou)


def region_batch(golden: Golden) -> None:
    model, mask, index = golden.model, golden["region_text_atts"], golden["region_idx_to_group_img"]
    pictures = model.vision(golden["region_image"])
    seen, whole = golden["region_image_atts"], model.region_tokens(pictures, index)
    tokens = model.region_tokens(pictures, index, seen)
    golden.check(region_embeds=tokens, region_embeds_fullatts=whole, region_embeds_no_atts=whole)
    states = golden.read("region_text_ids", "region_text_atts")
    image, text = model.image_embedding(tokens), model.text_embedding(states)
    fused = model.fuse(states, mask, tokens, seen)
    golden.check(region_image_feat=image, region_text_feat=text, region_cross_embeds=fused)
    images, texts = torch.arange(6).roll(-1), torch.arange(6).roll(1)
    wrong = [
        model.fuse(states, mask, tokens[images], seen[images]),
        model.fuse(states[texts], mask[texts], tokens, seen),
    ]
    matching = losses.itm(
        model.match_logits(fused[:, 0]), torch.cat([model.match_logits(each[:, 0]) for each in wrong])
    )
    masked = model.fuse(golden.read("region_text_ids_masked", "region_text_atts"), mask, tokens, seen)
    words = losses.mlm(model.masked_words(masked, golden["region_masked_pos"]), golden["region_masked_ids"])
    predicted = model.boxes(model.fuse(states, mask, whole)[:, 0])
    l1, giou = losses.box(predicted, golden["region_target_bbox"], golden["region_is_image"])
    contrast = losses.itc(image, text, model.temp)
    golden.check(
        region_loss_itc=contrast,
        region_loss_itm=matching,
        region_loss_mlm=words,
        region_bbox_pred=predicted,
        region_loss_bbox=l1,
        region_loss_giou=giou,
    )
    gradients(golden, contrast + matching + words + l1 + giou, "grad_region_total/")


def gradients(golden: Golden, loss: Tensor, prefix: str) -> None:
    """Compare with every gradient of the file; all parameters are there when the whole loss is."""
    golden.model.zero_grad()
    loss.backward(retain_graph=True)
    due = {name.removeprefix(prefix) for name in golden.outputs if name.startswith(prefix)}
    parameters = dict(golden.model.named_parameters())
    golden.check(**{prefix + name: parameters[name].grad for name in due})
    if prefix == "grad_region_total/":
        assert due == parameters.keys()


@contextmanager
def probabilities(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Tensor]]:
    """Within, the attention that each call of the fused kernel computes, from what is handed to it."""
    seen: list[Tensor] = []
    kernel = F.scaled_dot_product_attention

    def watched(query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor, dropout_p: float) -> Tensor:
        scores = query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5 + attn_mask
        seen.append(scores.softmax(dim=-1))
        return kernel(query, key, value, attn_mask=attn_mask, dropout_p=dropout_p)

    with monkeypatch.context() as patch:
        patch.setattr(F, "scaled_dot_product_attention", watched)
        yield seen


@contextmanager
def inputs_of(layers: Iterable[nn.Module]) -> Iterator[list[Tensor]]:
    """Within, the first input of each layer that is run."""
    seen: list[Tensor] = []
    hooks = [
        layer.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].detach())) for layer in layers
    ]
    yield seen
    for hook in hooks:
        hook.remove()


@pytest.mark.parametrize("grid", [7, 14, 16, 18, 20, 24, 28, 48])
def test_tables_are_fitted_exactly_as_the_authors_do(grid: int) -> None:
    with np.load(GOLDEN / "relpos_interp.npz") as tables:
        found = fitted_table(tables["src_14x14"], grid)
        np.testing.assert_array_equal(found, tables[f"dst_{grid}x{grid}"])


HEADS_OF = {
    "pretrain_224": X2VLMConfig().heads,
    "retrieval_384": ("temp", "vision_proj", "text_proj", "itm_head"),
    "grounding_384": ("bbox_head",),
}


@pytest.mark.parametrize("kind", HEADS_OF)
@pytest.mark.parametrize("size", ["base", "large"])
def test_keys_shapes_and_kinds_are_the_authors(size: str, kind: str) -> None:
    resolution = int(kind.partition("_")[2])
    sized = X2VLMConfig.base(resolution) if size == "base" else X2VLMConfig.large(resolution)
    with torch.device("meta"):
        model = X2VLM(replace(sized, heads=HEADS_OF[kind]))
    parameters = dict(model.named_parameters(remove_duplicate=False))
    found = {
        (key, str(list(like.shape)), str(like.dtype), "param" if key in parameters else "buffer")
        for key, like in model.state_dict().items()
    }
    if kind != "pretrain_224":  # the fine-tuned models leave `bert.` out
        found = {(key.replace(".bert.", "."), *rest) for key, *rest in found}
    lines = (GOLDEN / f"keys_{size}_{kind}.txt").read_text().splitlines()
    due = {(key, shape, f"torch.{dtype}", sort) for key, shape, dtype, sort in (x.split("\t") for x in lines)}
    assert found == due


def test_the_video_model_has_one_key_more() -> None:
    with torch.device("meta"):
        plain = X2VLM(X2VLMConfig.base()).state_dict()
        video = X2VLM(replace(X2VLMConfig.base(), frames=3)).state_dict()
    assert video.keys() - plain.keys() == {"absolute_frame_pos_embed"}
    assert video["absolute_frame_pos_embed"].shape == (1, 3, 1, 768)


def test_parameters_are_as_many_as_the_authors_count() -> None:
    with torch.device("meta"):
        base, large = X2VLM(X2VLMConfig.base()), X2VLM(X2VLMConfig.large())
    assert sum(parameter.numel() for parameter in base.parameters()) == 254_758_401
    assert sum(parameter.numel() for parameter in large.parameters()) == 592_949_057
