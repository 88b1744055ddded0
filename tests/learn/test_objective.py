"""The losses of a batch, and that two processes together learn what one alone does."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from garments import cells, model

from lookalike.learn.recipes import Recipe
from lookalike.learn.train import Trainer

RECIPE = Recipe(p=2, k=3, epochs=1, lr=5e-3, imagine=0.5, pull=0.5, caption_dropout=0.3, seed=3)

TOGETHER = """
import sys
from pathlib import Path
import torch, torch.distributed as dist
from garments import cells, model
from test_objective import RECIPE, gradients

rank, folder, out = int(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3])
dist.init_process_group("gloo", f"file://{out}/meeting", rank=rank, world_size=2)
found, told = gradients(cells(folder), out / str(rank), RECIPE)
torch.save((found, told), out / f"{rank}.pt")
dist.destroy_process_group()
"""


def gradients(data, out: Path, recipe: Recipe):
    """Of the first step, before clipping; and its losses."""
    torch.set_default_dtype(torch.float64)
    try:
        trainer = Trainer(model(), *data, recipe, out)
    finally:
        torch.set_default_dtype(torch.float32)
    trainer.objective.eval()  # no dropout: it differs between processes
    batch = next(iter(trainer._batches()))
    batch = replace(batch, image=batch.image.double(), region=batch.region.double(), text=batch.text.double())
    losses = trainer._parallel(replace(batch, boxes=batch.boxes.double()))
    torch.stack(list(losses.values())).sum().backward()
    found = {n: p.grad for n, p in trainer.objective.named_parameters() if p.grad is not None}
    return found, {name: float(value.detach()) for name, value in losses.items()}


def test_two_processes_have_the_gradients_of_one(tmp_path: Path) -> None:
    data = cells(tmp_path)
    running = [
        subprocess.Popen(
            [sys.executable, "-c", TOGETHER, str(rank), str(tmp_path), str(tmp_path)],
            cwd=Path(__file__).parent, stderr=subprocess.PIPE, text=True,
        )
        for rank in range(2)
    ]  # fmt: skip
    for process in running:
        _, told = process.communicate(timeout=120)
        assert process.returncode == 0, told
    alone, losses = gradients(data, tmp_path / "alone", replace(RECIPE, p=4))
    for rank in range(2):
        shared, told = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        assert told.keys() == losses.keys() == {"arcface", "contrast", "itc", "imagine", "pull", "box"}
        for name, value in losses.items():
            np.testing.assert_allclose(told[name], value, rtol=1e-9, err_msg=name)
        assert shared.keys() == alone.keys()
        for name, gradient in alone.items():
            np.testing.assert_allclose(shared[name], gradient, atol=1e-10, err_msg=name)


def test_losses_of_weight_0_are_not_computed_and_reach_nothing(tmp_path: Path) -> None:
    data = cells(tmp_path)
    alone = Recipe(p=2, k=3, contrast=0, itc=0, box=0)
    found, losses = gradients(data, tmp_path / "out", alone)
    assert set(losses) == {"arcface"}
    assert {name for name in found if "vlm" not in name} == {"centres", "model.identity.weight"}
    assert not any("bbox_head" in name or "_proj" in name for name in found)
