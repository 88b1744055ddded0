"""Opening checkpoints: the authors' numbers after a load, both key styles, and files that are no good."""

import pickle
import sys
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from x2vlm_golden import drawn, tensors

from lookalike.errors import BadInput, LookalikeError, MissingExtra, WeightsError
from lookalike.learn import losses
from lookalike.learn.models.x2vlm import X2VLM, X2VLMConfig, load_checkpoint

State = dict[str, Tensor]
Saved = Callable[[object], Path]

BOX = [f"bbox_head.{layer}.{leaf}" for layer in (0, 1, 3) for leaf in ("bias", "weight")]


@pytest.fixture
def saved(tmp_path: Path) -> Saved:
    """Writes an object in PyTorch's format."""

    def save(content: object) -> Path:
        torch.save(content, tmp_path / "checkpoint.th")
        return tmp_path / "checkpoint.th"

    return save


@pytest.fixture
def official(tiny: X2VLM) -> State:
    """A pre-training state dict as the authors save it: tied duplicates and buffers included."""
    return {key: tensor.clone() for key, tensor in tiny.state_dict().items()}


def fine_tuned(state: State) -> State:
    return {
        key.replace(".bert.", "."): tensor
        for key, tensor in state.items()
        if not key.startswith(("text_encoder.cls", "bbox_head"))
    }


@pytest.mark.parametrize("resolution", [24, 32, 48])
def test_fine_tuning_load_gives_the_authors_numbers(
    resolution: int, official: State, saved: Saved, inputs: dict[str, Tensor]
) -> None:
    golden = {
        key.removeprefix(f"res{resolution}/"): array
        for key, array in tensors("tiny_finetune_load.npz").items()
        if key.startswith(f"res{resolution}/")
    }
    model, report = load_checkpoint(saved({"model": official, "config": {"image_res": 32}}), resolution)
    assert (report.missing, report.extra) == ((), ())
    tables = [f"vision_encoder.blocks.{block}.attn.relative_position_bias_table" for block in range(3)]
    assert list(report.interpolated) == ([] if resolution == 32 else tables)
    first = model.vision_encoder.blocks[0].attn
    assert torch.equal(first.relative_position_bias_table, golden["relpos_table_block0"])
    assert torch.equal(first.relative_position_index, golden["relpos_index"])

    mask = inputs["text_atts"]
    with torch.inference_mode():
        tokens = model.vision(golden["image"])
        states = model.text(inputs["text_ids"], mask)
        f0 = model.fuse(states, mask, tokens)[:, 0]
        image, text, boxes = model.image_embedding(tokens), model.text_embedding(states), model.boxes(f0)
        l1, giou = losses.box(boxes, inputs["target_bbox"])
        found = {
            "retrieval/vision_embeds": tokens,
            "grounding/vision_embeds": tokens,
            "retrieval/image_feat": image,
            "retrieval/text_feat": text,
            "retrieval/itm_logits": model.match_logits(f0),
            "retrieval/itc_loss": losses.itc(image, text, model.temp),
            "grounding/bbox_pred": boxes,
            "grounding/bbox_l1": l1,
            "grounding/bbox_giou": giou,
        }
    for name, tensor in found.items():
        torch.testing.assert_close(tensor, golden[name], rtol=0, atol=1e-5)
    assert golden.keys() - found.keys() == {"image", "relpos_table_block0", "relpos_index"}


def test_sizes_are_read_off_the_tensors(saved: Saved, official: State) -> None:
    assert load_checkpoint(saved(official))[0].config == X2VLMConfig.tiny()
    other = X2VLMConfig(
        resolution=48, patch=16, vision_width=128, vision_depth=1, vision_heads=2, vision_hidden=96,
        vocabulary=50, positions=12, text_width=192, text_heads=3, text_hidden=80, text_layers=1,
        fusion_layers=2, embedding=24, frames=3,
    )  # fmt: skip
    assert load_checkpoint(saved(X2VLM(other).state_dict()))[0].config == other


def test_both_key_styles_and_both_formats_give_the_same_model(
    official: State, saved: Saved, tmp_path: Path
) -> None:
    whole, _ = load_checkpoint(saved({"model": official, "config": {}}))
    save_file(
        {key: tensor.contiguous() for key, tensor in fine_tuned(official).items()}, tmp_path / "a.safetensors"
    )
    for path in (saved(fine_tuned(official)), tmp_path / "a.safetensors"):
        model, report = load_checkpoint(path)
        assert model.bbox_head is None and model.text_encoder.cls is None
        assert [key for key in report.missing if key.startswith("bbox_head")] == BOX
        assert {key.split(".")[0] for key in report.missing} == {"bbox_head", "text_encoder"}
        for key, tensor in model.state_dict().items():
            assert torch.equal(tensor, whole.state_dict()[key])
        with pytest.raises(WeightsError, match="no bbox_head"):
            model.boxes(torch.zeros(1, 32))
        with pytest.raises(WeightsError, match=r"no text_encoder\.cls"):
            model.masked_words(torch.zeros(1, 2, 32))


def test_tied_duplicates_and_buffers_are_optional(tiny_state: State, saved: Saved, official: State) -> None:
    model, report = load_checkpoint(saved(tiny_state))
    assert report.missing == ()
    for key, tensor in model.state_dict().items():
        assert torch.equal(tensor, official[key])
    table = model.text_encoder.bert.embeddings.word_embeddings.weight
    assert model.text_encoder.cls is not None and model.text_encoder.cls.predictions.decoder.weight is table
    assert not model.training and all(parameter.requires_grad for parameter in model.parameters())
    assert not any(tensor.is_meta for tensor in [*model.parameters(), *model.buffers()])


def test_half_precision_becomes_float32(official: State, saved: Saved) -> None:
    halved = {key: x.half() if x.is_floating_point() else x for key, x in official.items()}
    model, _ = load_checkpoint(saved(halved))
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


def test_another_number_of_frames_is_the_files(tiny_state: State, saved: Saved) -> None:
    state = tiny_state | {"absolute_frame_pos_embed": torch.ones(1, 5, 1, 48)}
    model, _ = load_checkpoint(saved(state))
    assert model.config.frames == 5


def test_unknown_keys_end_a_strict_load_and_are_listed_by_a_lax_one(official: State, saved: Saved) -> None:
    path = saved(official | {"text_encoder.pooler.dense.weight": torch.zeros(2)})
    with pytest.raises(WeightsError, match=r"1 keys .* text_encoder\.bert\.pooler\.dense\.weight") as caught:
        load_checkpoint(path)
    assert "strict=False" in caught.value.hint
    assert load_checkpoint(path, strict=False)[1].extra == ("text_encoder.bert.pooler.dense.weight",)


def test_a_resolution_that_patches_do_not_divide_is_refused(official: State, saved: Saved) -> None:
    for resolution in (30, 0, -8):
        with pytest.raises(BadInput):
            load_checkpoint(saved(official), resolution)


def spoilt(change: Callable[[State], object]) -> Callable[[State], object]:
    """The object to save: what `change` returns, or else the state dict that it changed in place."""

    def spoil(state: State) -> object:
        made = change(state)
        return state if made is None else made

    return spoil


def _set(key: str, tensor: Tensor) -> Callable[[State], object]:
    return spoilt(lambda state: state.update({key: tensor}))


def _drop(key: str) -> Callable[[State], object]:
    return spoilt(lambda state: state.pop(key) is None or None)


TABLE = "vision_encoder.blocks.0.attn.relative_position_bias_table"
WORDS = "text_encoder.bert.embeddings.word_embeddings.weight"
BAD = {
    "half a head": (_drop("itm_head.3.bias"), r"lacks 1 parts, the first itm_head\.3\.bias"),
    "half a tower": (_drop("vision_encoder.blocks.1.norm1.weight"), r"lacks .*blocks\.1\.norm1\.weight"),
    "a layer short": (_drop("text_encoder.bert.encoder.layer.1.output.dense.weight"), r"lacks .*layer\.1"),
    "a fusion short": (
        _drop("text_encoder.bert.encoder.layer.2.crossattention.self.query.weight"),
        r"lacks .*layer\.2\.crossattention",
    ),
    "a gap between layers": (
        spoilt(
            lambda s: {
                k.replace("vision_encoder.blocks.2", "vision_encoder.blocks.999999999"): v
                for k, v in s.items()
            }
        ),
        r"lacks 16 parts, the first vision_encoder\.blocks\.2",
    ),
    "no text tower": (
        spoilt(lambda s: {k: v for k, v in s.items() if not k.startswith("text_encoder.bert")}),
        "lacks text_encoder",
    ),
    "a wrong shape": (_set("vision_proj.bias", torch.zeros(17)), r"vision_proj\.bias has the shape \[17\]"),
    "a wrong rank": (_set(WORDS, torch.zeros(3)), "shape"),
    "no table's size": (_set(TABLE, torch.zeros(51, 4)), "51 rows"),
    "an even table": (_set(TABLE, torch.zeros(39, 4)), "39 rows"),
    "a table without heads": (_set(TABLE, torch.zeros(52, 0)), "shape"),
    "heads that do not fit": (_set(TABLE, torch.zeros(52, 5)), "5 attention heads"),
    "one table of another grid": (
        _set(TABLE.replace("0", "1"), torch.zeros(53, 4)),
        r"blocks\.1.* \[53, 4\] where \[52, 4\]",
    ),
    "NaN": (_set("itm_head.0.bias", torch.full((64,), torch.nan)), r"itm_head\.0\.bias holds NaN"),
    "infinity": (_set("temp", torch.tensor(torch.inf)), "temp holds NaN or infinity"),
    "whole numbers": (_set("vision_proj.bias", torch.zeros(16, dtype=torch.int64)), "int64"),
    "an untied decoder": (
        _set("text_encoder.cls.predictions.decoder.weight", torch.zeros(96, 32)),
        "differs from text_encoder",
    ),
    "a key in both styles": (
        _set("text_encoder.embeddings.word_embeddings.weight", torch.zeros(96, 32)),
        "twice",
    ),
    "Swin": (_set("vision_encoder.layers.0.blocks.0.norm1.weight", torch.zeros(2)), "Swin"),
    "CLIP": (_set("vision_encoder.class_embedding", torch.zeros(2)), "CLIP"),
    "RoBERTa": (_set("text_encoder.roberta.embeddings.LayerNorm.bias", torch.zeros(2)), "RoBERTa"),
    "RoBERTa, fine-tuned": (
        _set("text_encoder.bert.embeddings.token_type_embeddings.weight", torch.zeros(1, 32)),
        "RoBERTa",
    ),
    "CCLM": (_set("cross_encoder.layer.0.output.dense.bias", torch.zeros(2)), "CCLM"),
    "no vision tower": (spoilt(lambda s: {"fc.weight": torch.zeros(2)}), "without a vision tower"),
    "nothing": (spoilt(lambda s: {}), "no state dict"),
    "an empty model": (spoilt(lambda s: {"model": {}, "config": {}}), "no state dict"),
    "a list": (spoilt(lambda s: [1, 2]), "no state dict"),
    "numbers by name": (spoilt(lambda s: {"temp": 0.07}), "no state dict"),
    "a sparse tensor": (_set("temp", torch.zeros(3).to_sparse()), "sparse"),
}


@pytest.mark.parametrize("bad", BAD)
def test_what_is_wrong_with_a_checkpoint_is_said(bad: str, official: State, saved: Saved) -> None:
    spoil, message = BAD[bad]
    with pytest.raises(WeightsError, match=message) as caught:
        load_checkpoint(saved(spoil(official)))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("length", [0, 1, 8, 9, 1000, 300_000])
@pytest.mark.parametrize("form", ["torch", "safetensors"])
def test_truncated_files(form: str, length: int, official: State, saved: Saved, tmp_path: Path) -> None:
    path = saved(official)
    if form == "safetensors":
        path = tmp_path / "model.safetensors"
        save_file({key: tensor.clone() for key, tensor in official.items()}, path)
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(WeightsError, match=r"damaged|no checkpoint"):
        load_checkpoint(path)


@pytest.mark.parametrize("content", [b"hello, this is no checkpoint at all\n", b"\x89PNG\r\n\x1a\n" * 40])
def test_files_of_another_kind(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(WeightsError, match="no checkpoint"):
        load_checkpoint(tmp_path / "file")


def test_paths_without_a_file(tmp_path: Path) -> None:
    for path in (tmp_path / "absent.th", tmp_path):
        with pytest.raises(WeightsError, match="cannot be read"):
            load_checkpoint(path)


@pytest.mark.parametrize("missing", ["safetensors", "scipy.interpolate"])
def test_an_extra_that_is_not_installed_is_named(
    missing: str, official: State, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_file({key: tensor.clone() for key, tensor in official.items()}, tmp_path / "a.safetensors")
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(MissingExtra) as caught:
        load_checkpoint(tmp_path / "a.safetensors", 48)
    assert caught.value.hint == "pip install 'lookalike[train]'"


def test_the_older_form_of_pytorchs_files(official: State, tmp_path: Path) -> None:
    torch.save({"model": official}, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    model, _ = load_checkpoint(tmp_path / "old.pth")
    assert torch.equal(model.vision_encoder.cls_token, official["vision_encoder.cls_token"])


def test_a_script_is_not_loaded(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scripts are deprecated
        torch.jit.save(torch.jit.script(nn.Linear(2, 2)), tmp_path / "script.pt")
    with pytest.raises(WeightsError, match="no checkpoint"):
        load_checkpoint(tmp_path / "script.pt")


class Bomb:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.mark,)


@pytest.mark.parametrize("form", ["torch", "pickle"])
def test_no_code_in_a_file_is_run(form: str, official: State, saved: Saved, tmp_path: Path) -> None:
    content = {"model": official, "config": Bomb(tmp_path / "ran")}
    if form == "torch":
        path = saved(content)
    else:
        path = tmp_path / "model.pkl"
        path.write_bytes(pickle.dumps({"config": Bomb(tmp_path / "ran")}))
    with pytest.raises(LookalikeError):
        load_checkpoint(path)
    assert not (tmp_path / "ran").exists()


def test_a_checkpoint_of_bases_widths_is_fitted_and_runs(tmp_path: Path) -> None:
    """Two layers of each kind: as large as a test can afford."""
    config = replace(X2VLMConfig.base(), vision_depth=2, text_layers=2, fusion_layers=2, vocabulary=1000)
    with torch.device("meta"):
        state = drawn(X2VLM(config).state_dict(), "base")
    save_file(state, tmp_path / "base.safetensors")
    model, report = load_checkpoint(tmp_path / "base.safetensors", 384)
    assert model.config == replace(config, resolution=384)
    assert len(report.interpolated) == 2
    with torch.inference_mode():
        tokens = model.vision(torch.zeros(1, 3, 384, 384))
        ids = torch.tensor([[101, 102]])
        fused = model.fuse(model.text(ids, torch.ones_like(ids)), torch.ones_like(ids), tokens)
    assert tokens.shape == (1, 577, 768) and fused.isfinite().all()
