"""Training on cached tokens, with the stand-in encoder and a model of a few thousand weights."""

import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from garments import cells, model

from lookalike.errors import BadInput
from lookalike.learn.recipes import Recipe, recipe
from lookalike.learn.scoring import described, mean_average_precision
from lookalike.learn.sources import Cells
from lookalike.learn.states import Frozen
from lookalike.learn.train import Trainer

RECIPE = Recipe(p=4, k=3, epochs=3, lr=5e-3, itm=0.5, imagine=0.5, pull=0.5, seed=3)
Data = tuple[Cells, Frozen]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Data:
    return cells(tmp_path_factory.mktemp("garments"))


def train(data: Data, out: Path, recipe: Recipe = RECIPE, stop: int | None = None) -> Trainer:
    trainer = Trainer(model(), *data, recipe, out)
    for done, _ in enumerate(trainer.run(), start=1):
        if done == stop:
            break
    return trainer


def same(one: Trainer, other: Trainer) -> None:
    assert one.epoch == other.epoch and one.history == other.history
    for ours, theirs in (
        (one.objective.state_dict(), other.objective.state_dict()),
        (one.model.state_dict(), other.model.state_dict()),
    ):
        for name, value in ours.items():
            assert torch.equal(value, theirs[name]), name


def test_every_loss_falls_and_the_descriptor_stays_a_descriptor(data: Data, tmp_path: Path) -> None:
    trainer = train(data, tmp_path, replace(RECIPE, epochs=30))
    first, last = trainer.history[0], trainer.history[-1]
    for name in ("arcface", "contrast", "itc", "itm", "imagine", "box", "loss"):
        assert last[name] < first[name], name
    found = described(trainer.model, *data)
    rows = found.descriptors(1.0)
    for part in (found.identity, found.language, found.text, found.imagined, rows):
        np.testing.assert_allclose(np.linalg.norm(part, axis=1), 1, atol=1e-5)
    assert 0.5 < mean_average_precision(rows, data[0]) <= 1


def test_norms_are_those_of_each_loss_alone(data: Data, tmp_path: Path) -> None:
    (epoch,) = Trainer(model(), *data, replace(RECIPE, epochs=1), tmp_path / "all").run()
    alone = replace(RECIPE, epochs=1, arcface=0, contrast=0, itc=0, itm=0, imagine=0, pull=0)
    (box,) = Trainer(model(), *data, alone, tmp_path / "box").run()
    assert {name for name in epoch if name.startswith("norm ")} == {
        f"norm {name}" for name in ("arcface", "contrast", "itc", "itm", "imagine", "pull", "box")
    }
    assert box["norm box"] > 0 and "arcface" not in box and "norm arcface" not in box


@pytest.mark.parametrize("more", [{}, {"ema": 0.9, "accumulate": 2, "precision": "bf16"}])
def test_a_stopped_training_ends_with_the_same_weights(data: Data, tmp_path: Path, more: dict) -> None:
    asked = replace(RECIPE, **more)
    whole = train(data, tmp_path / "whole", asked)
    train(data, tmp_path / "stopped", asked, stop=1)
    same(whole, train(data, tmp_path / "stopped", asked))


KILLED = """
import sys
from pathlib import Path
import lookalike.learn.train as training
from garments import cells, model
from test_train import RECIPE

training.SAVED_EVERY = 0.0  # so that it is killed within an epoch
folder, out, steps = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])

def kill(done, total):
    if done == steps:
        import os, signal
        os.kill(os.getpid(), signal.SIGKILL)

list(training.Trainer(model(), *cells(folder), RECIPE, out).run(kill))
"""


@pytest.mark.parametrize("steps", [1, 4])
def test_a_killed_training_ends_with_the_same_weights(tmp_path: Path, steps: int) -> None:
    data = cells(tmp_path)
    command = [sys.executable, "-c", KILLED, str(tmp_path), str(tmp_path / "killed"), str(steps)]
    done = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    same(train(data, tmp_path / "whole"), train(data, tmp_path / "killed"))


def test_another_recipe_in_the_same_folder_is_refused(data: Data, tmp_path: Path) -> None:
    train(data, tmp_path, stop=1)
    with pytest.raises(BadInput, match="another recipe"):
        train(data, tmp_path, replace(RECIPE, margin=0.2))


def test_a_damaged_state_is_told(data: Data, tmp_path: Path) -> None:
    train(data, tmp_path, stop=1)
    (tmp_path / "state.pt").write_bytes(b"nonsense")
    with pytest.raises(BadInput, match="damaged"):
        train(data, tmp_path)


def test_the_best_epoch_is_kept_and_it_stops_when_nothing_gets_better(data: Data, tmp_path: Path) -> None:
    scores, kept = iter([0.1, 0.5, 0.3, 0.5, 0.2, 0.9]), []
    trainer = Trainer(
        model(), *data, replace(RECIPE, epochs=6, patience=3), tmp_path, lambda _: next(scores),
        lambda _, told: kept.append(told["epoch"]),
    )  # fmt: skip
    assert [epoch["mAP"] for epoch in trainer.run()] == [0.1, 0.5, 0.3, 0.5, 0.2]
    assert kept == [1, 2] and trainer.finished


def test_the_mean_over_steps_is_what_is_scored(data: Data, tmp_path: Path) -> None:
    trainer = train(data, tmp_path, replace(RECIPE, ema=0.5))
    averaged, last = trainer.model.identity.weight, trainer.objective.model.identity.weight
    assert not torch.equal(averaged, last)
    assert torch.allclose(averaged, last, atol=0.1)


def test_captions_are_asked_for_where_a_loss_reads_them(tmp_path: Path) -> None:
    data = cells(tmp_path, captioned=False)
    with pytest.raises(BadInput, match="has none"):
        Trainer(model(), *data, RECIPE, tmp_path / "out")
    silent = replace(RECIPE, itc=0, itm=0, imagine=0, pull=0)
    assert train(data, tmp_path / "out", silent).finished


def test_shuffled_captions_come_from_other_identities(data: Data, tmp_path: Path) -> None:
    trainer = Trainer(model(), *data, replace(RECIPE, shuffled=True), tmp_path)
    own, whose = data[0].identities, trainer._steps._whose
    assert (own != own[whose]).all()


def test_a_learning_rate_that_breaks_it_is_told(data: Data, tmp_path: Path) -> None:
    made = model()
    with torch.no_grad():
        made.identity.weight.fill_(torch.nan)
    with pytest.raises(BadInput, match="arcface, contrast, pull is not a number"):
        list(Trainer(made, *data, RECIPE, tmp_path).run())


def test_recipes_are_read_from_words() -> None:
    made = recipe("compact", ["lr=2e-4", "epochs=3", "shuffled=true", "precision=bf16"])
    assert (made.lr, made.epochs, made.shuffled, made.precision) == (2e-4, 3, True, "bf16")
    for bad, told in (
        ("lr", "name=value"), ("lr=fast", "not a number"), ("epochs=1.5", "not an int"),
        ("eprochs=3", "epochs"), ("shuffled=yes", "true or false"), ("lr=0", "above 0"),
        ("box=-1", "negative"), ("precision=fp8", "fp16"), ("ema=1", "share"),
    ):  # fmt: skip
        with pytest.raises(BadInput) as error:
            recipe("compact", [bad])
        assert told in f"{error.value} {error.value.hint}", bad
    with pytest.raises(BadInput, match="no loss"):
        Recipe(arcface=0, contrast=0, itc=0, box=0)
    with pytest.raises(BadInput) as error:
        recipe("compakt")
    assert "compact" in str(error.value.hint)
