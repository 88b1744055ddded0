"""A training that torchrun starts, in which something happens to the second process; see test_processes."""

import os
import signal
import sys
from pathlib import Path

import torch
from garments import cells, model

import lookalike.learn.train as training
from lookalike.cli.output import tell
from lookalike.errors import BadInput
from lookalike.learn import processes
from lookalike.learn.recipes import Recipe

RECIPE = Recipe(p=2, k=3, epochs=2, lr=5e-3, seed=3)  # 8 identities: two steps an epoch


def main(folder: Path, out: Path, happens: str) -> None:
    training.SAVED_EVERY = 0.0  # after each step
    processes.BEAT, processes.SILENT = 0.1, 2.0

    def third_step(done: int, total: int | None) -> None:
        if done != 3 or os.environ["RANK"] != "1":
            return
        if happens == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        if happens == "stopped":
            os.kill(os.getpid(), signal.SIGSTOP)
        if happens == "failed":
            raise BadInput("the third step", "mind it")

    with processes.joined(False, tell) as together:
        processes.agree({"fact": together.rank if happens == "differ" else 0})
        trainer = training.Trainer(model(), *cells(folder), RECIPE, out)
        list(trainer.run(third_step))
        if together.first:
            torch.save(trainer.objective.state_dict(), out / "weights.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3])
