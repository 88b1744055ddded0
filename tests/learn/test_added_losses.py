"""Losses and means that are off unless a recipe asks for them."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from garments import CONFIG, cells, model
from test_objective import gradients

from adapted_models import CONFIG as WITH_TOWERS
from lookalike.errors import BadInput, WeightsError
from lookalike.learn import losses
from lookalike.learn.masking import Masker
from lookalike.learn.models.adapted import Adapted
from lookalike.learn.models.x2vlm import X2VLM
from lookalike.learn.objective import Batch, Blanks, Objective
from lookalike.learn.recipes import Recipe, recipe
from lookalike.learn.scoring import described
from lookalike.learn.sources import Cells, Ids
from lookalike.learn.states import Frozen
from lookalike.learn.train import Trainer

USUAL = Recipe(p=4, k=3, epochs=2, lr=5e-3, seed=3)
OFF = {"arcface": 0, "contrast": 0, "itc": 0, "box": 0}
Data = tuple[Cells, Frozen]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Data:
    return cells(tmp_path_factory.mktemp("garments"))


def trained(data: Data, out: Path, asked: Recipe, stop: int | None = None) -> Trainer:
    trainer = Trainer(model(), *data, asked, out)
    for done, _ in enumerate(trainer.run(), start=1):
        if done == stop:
            break
    return trainer


def test_what_was_learnt_before_there_were_more_is_learnt_still(data: Data, tmp_path: Path) -> None:
    """The losses of the first step, noted down before there were others."""
    _, told = gradients(data, tmp_path, replace(USUAL, itm=0.5, imagine=0.5))
    due = {
        "arcface": 36.336061, "contrast": 6.582468, "itc": 2.033589, "imagine": 0.549566, "itm": 0.385080,
        "box": 1.925500,
    }  # fmt: skip
    assert told.keys() == due.keys()
    for name, value in due.items():
        np.testing.assert_allclose(told[name], value, rtol=1e-4, err_msg=name)


def test_triplets_and_classes_shape_the_identity_part(data: Data, tmp_path: Path) -> None:
    asked = replace(USUAL, **OFF | {"triplet": 0.5, "identity": 2.0})
    found, told = gradients(data, tmp_path / "both", asked)
    assert told.keys() == {"triplet", "identity"}
    assert {name for name in found if "vlm" not in name} == {"centres", "model.identity.weight"}
    found, told = gradients(data, tmp_path / "alone", replace(asked, identity=0))
    assert {name for name in found if "vlm" not in name} == {"model.identity.weight"}
    trainer = Trainer(model(), *data, asked, tmp_path / "by hand")
    trainer.objective.eval()
    batch = next(iter(trainer._batches()))
    made, given = trainer.objective.model, torch.where(batch.told, torch.arange(12), 12)
    with torch.no_grad():
        seen = made.region(batch.image, batch.region)
        part = made.identity_part(seen, batch.text[given], batch.words[given])
        told = trainer.objective(batch)
        logits = 30 * part @ trainer.objective.centres.T
    smoothed = 0.9 * logits.gather(1, batch.labels[:, None])[:, 0] + 0.1 * logits.mean(dim=1)
    torch.testing.assert_close(told["identity"], 2 * (logits.logsumexp(dim=1) - smoothed).mean())
    torch.testing.assert_close(told["triplet"], 0.5 * losses.triplet(part, batch.labels))


def test_without_the_fusion_no_caption_moves_the_identity_part(data: Data, tmp_path: Path) -> None:
    trainer = trained(data, tmp_path, replace(USUAL, fusion=False))
    weight = trainer.model.identity.weight
    assert (weight[:, CONFIG.vision_width :] == 0).all()
    assert not torch.equal(weight[:, : CONFIG.vision_width], torch.eye(CONFIG.vision_width))
    bare = described(trainer.model, *data).identity
    told = described(trainer.model, *data, ["a red piece"] * len(data[0].regions)).identity
    np.testing.assert_array_equal(bare, told)
    found, _ = gradients(data, tmp_path / "alone", replace(USUAL, fusion=False, box=0))
    assert not any("text_encoder" in name for name in found)


def test_a_learnt_temperature_moves_and_stays_within_bounds(data: Data, tmp_path: Path) -> None:
    still = trained(data, tmp_path / "still", USUAL)
    assert still.model.vlm.temp.item() == pytest.approx(0.07)
    learnt = trained(data, tmp_path / "learnt", replace(USUAL, learn_temperature=True))
    assert learnt.model.vlm.temp.item() != pytest.approx(0.07)
    for far, bound in ((-1.0, 0.001), (9.0, 0.5)):
        with torch.no_grad():
            learnt.model.vlm.temp.fill_(far)
        learnt.objective(next(iter(Trainer(model(), *data, USUAL, tmp_path / "batch")._batches())))
        assert learnt.model.vlm.temp.item() == pytest.approx(bound)


def test_the_fusion_is_given_wrong_captions_and_the_contrast_is_not(data: Data, tmp_path: Path) -> None:
    asked = replace(USUAL, wrong=0.5, caption_dropout=0.0)
    swapped, again, usual = (
        list(Trainer(model(), *data, each, tmp_path / str(number))._batches())
        for number, each in enumerate((asked, asked, replace(asked, wrong=0)))
    )
    moved = rows = 0
    for one, other, plain in zip(swapped, again, usual, strict=True):
        assert torch.equal(one.given, other.given) and plain.given is None
        assert torch.equal(one.text, plain.text) and torch.equal(one.told, plain.told)
        elsewhere = (one.given != torch.arange(len(one.given))) & one.told
        assert (one.labels[one.given] != one.labels)[elsewhere].all()
        assert one.captioned[one.given][elsewhere].all()
        said = one.text[one.given[elsewhere]]
        assert (said != one.text[:-1][elsewhere]).flatten(1).any(dim=1).all()
        moved, rows = moved + int(elsewhere.sum()), rows + int(one.told.sum())
    assert 0.2 < moved / rows < 0.8
    trainer = Trainer(model(), *data, asked, tmp_path / "losses")
    trainer.objective.eval()
    with torch.no_grad():
        told = trainer.objective(swapped[0]), trainer.objective(usual[0])
    assert told[0]["itc"] == told[1]["itc"]
    assert told[0]["box"] != told[1]["box"]


def test_captions_that_agree_less_count_less(data: Data, tmp_path: Path) -> None:
    found, told = gradients(data, tmp_path / "weighed", replace(USUAL, **OFF | {"itc": 1.0, "weigh": 2.0}))
    plain, plainly = gradients(data, tmp_path / "plain", replace(USUAL, **OFF | {"itc": 1.0}))
    assert found.keys() == plain.keys() and told["itc"] < plainly["itc"]


def test_missing_words_are_learnt_from_what_is_left_and_the_picture(data: Data, tmp_path: Path) -> None:
    asked = replace(USUAL, **OFF | {"mlm": 1.0}, epochs=30)
    trainer = trained(data, tmp_path / "out", asked)
    assert trainer.history[-1]["mlm"] < 0.7 * trainer.history[0]["mlm"]
    moved = dict(Trainer(model(), *data, asked, tmp_path / "first").objective.named_parameters())
    found = {n: p for n, p in trainer.objective.named_parameters() if not torch.equal(p, moved[n])}
    assert any("crossattention" in name for name in found)
    assert "missing.weight" in found and "centres" not in found and "model.identity.weight" not in found


def with_ids(rows: int = 8) -> tuple[Adapted, Batch]:
    """A small X²-VLM with towers of its own, and a batch for it."""
    torch.manual_seed(0)
    side, grid = WITH_TOWERS.resolution, WITH_TOWERS.grid
    captions = [f"a {'red' if row % 2 else 'blue'} tracksuit with {row} zips" for row in range(rows)]
    text, words = Ids().of([*captions, ""])
    ids, places, missing = Masker().draw(text[:-1].numpy(), words[:-1].numpy(), np.arange(rows))
    blanks = Blanks(*map(torch.from_numpy, (ids, words[:-1].numpy(), missing, places)))
    everyone = torch.ones(rows, dtype=torch.bool)
    batch = Batch(
        torch.randn(rows, 3, side, side), torch.ones(rows, grid**2), torch.full((rows, 4), 0.5), text,
        words, everyone, everyone, torch.arange(rows) // 2, blanks=blanks,
    )  # fmt: skip
    return Adapted(X2VLM(WITH_TOWERS)), batch


def test_the_authors_own_loss_can_be_asked_for() -> None:
    made, batch = with_ids()
    asked = recipe(
        "x2vlm",
        ["arcface=0", "contrast=0", "itm=1", "mlm=1", "learn_temperature=true", "caption_dropout=0"],
    )
    objective = Objective(made, 4, asked).train()
    optimiser = torch.optim.Adam([p for p in objective.parameters() if p.requires_grad], lr=1e-3)
    history = []
    for _ in range(12):
        optimiser.zero_grad()
        told = objective(batch)
        torch.stack(list(told.values())).sum().backward()
        optimiser.step()
        history.append({name: float(value.detach()) for name, value in told.items()})
    assert history[0].keys() == {"itc", "itm", "mlm", "box"}
    assert history[-1]["mlm"] < history[0]["mlm"] - 0.5
    vlm = made.vlm
    assert vlm.temp.grad is not None and vlm.text_encoder.cls.predictions.transform["dense"].weight.grad.any()
    assert any(p.grad is not None and p.grad.any() for p in vlm.vision_encoder.parameters())


def test_what_a_checkpoint_lacks_is_told_at_once() -> None:
    bare = Adapted(X2VLM(replace(WITH_TOWERS, heads=("vision_proj", "text_proj", "itm_head", "bbox_head"))))
    for settings, lacking in ((["mlm=1"], "text_encoder.cls"), (["learn_temperature=true"], "temp")):
        with pytest.raises(WeightsError, match=lacking):
            Objective(bare, 4, recipe("x2vlm", settings))


def test_all_of_it_goes_on_where_it_was_stopped(data: Data, tmp_path: Path) -> None:
    asked = replace(
        USUAL, triplet=1.0, identity=1.0, mlm=1.0, itm=1.0, learn_temperature=True, wrong=0.3, weigh=0.5
    )
    whole = trained(data, tmp_path / "whole", asked)
    trained(data, tmp_path / "stopped", asked, stop=1)
    parts = trained(data, tmp_path / "stopped", asked)
    assert whole.history == parts.history
    theirs = parts.objective.state_dict()
    for name, value in whole.objective.state_dict().items():
        assert torch.equal(value, theirs[name]), name


def test_what_no_checkpoint_held_learns_faster(data: Data, tmp_path: Path) -> None:
    new = {"vlm.bbox_head.0.weight", "identity.weight"}
    trainer = Trainer(model(), *data, replace(USUAL, new=10.0, mlm=1.0), tmp_path, is_new=new.__contains__)
    names = {id(p): name for name, p in trainer.objective.named_parameters()}
    faster = {
        names[id(p)] for g in trainer._optimiser.param_groups if g["times"] == 10.0 for p in g["params"]
    }
    due = {f"model.{name}" for name in new} | {"centres", "missing.weight", "missing.bias"}
    assert faster == due


def test_recipes_that_cannot_be_are_told() -> None:
    with pytest.raises(BadInput, match="fusion is false"):
        Recipe(pull=1.0, fusion=False)
    for bad in ("wrong=1.1", "weigh=-1", "mlm=-1", "triplet=-1"):
        with pytest.raises(BadInput, match=bad.partition("=")[0]):
            recipe("compact", [bad])
