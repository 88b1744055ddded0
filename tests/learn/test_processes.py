"""Trainings by two processes that torchrun starts as if on two machines: one agent for each."""

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from garments import cells, model
from trained_together import RECIPE

from lookalike.errors import BadInput
from lookalike.learn.train import Trainer

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("garments")
    cells(folder)
    return folder


TORCHRUN = ["-m", "torch.distributed.run", "--nnodes=2", "--nproc-per-node=1", "--master-addr=127.0.0.1"]


def started(data: Path, out: Path, happens: str, torchrun: bool = False) -> list[subprocess.Popen[str]]:
    """One process for each of two machines: torchrun's agents, or what they would start."""
    out.mkdir(exist_ok=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    agents = []
    for machine in map(str, range(2)):
        agent = [*TORCHRUN, "--master-port", port, "--node-rank", machine] if torchrun else []
        names = {"RANK": machine, "WORLD_SIZE": "2", "LOCAL_RANK": "0", "GROUP_RANK": machine}
        names |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        agents.append(
            subprocess.Popen(
                [sys.executable, *agent, "trained_together.py", str(data), str(out), happens],
                cwd=HERE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                env=os.environ | ({} if torchrun else names),
            )
        )  # fmt: skip
    return agents


def ended(agents: list[subprocess.Popen[str]]) -> tuple[list[int], list[list[str]]]:
    """Exit status on each machine, and what was told there."""
    told = [agent.communicate(timeout=120)[1].splitlines() for agent in agents]
    return [agent.returncode for agent in agents], told


@pytest.fixture(scope="module")
def whole(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A training by torchrun that nothing happened to."""
    out = tmp_path_factory.mktemp("whole")
    statuses, told = ended(started(data, out, "nothing", torchrun=True))
    assert statuses == [0, 0], told
    return out


def test_the_others_end_when_one_is_killed_and_both_go_on(data: Path, whole: Path, tmp_path: Path) -> None:
    statuses, (first, second) = ended(started(data, tmp_path, "killed"))
    assert statuses == [1, -signal.SIGKILL] and not second
    assert len(first) == 2 and "process 0 has lost another" in first[0] and "goes on" in first[1]
    assert not (tmp_path / "weights.pt").exists()
    assert ended(started(data, tmp_path, "nothing")) == ([0, 0], [[], []])
    one, other = (torch.load(out / "weights.pt", weights_only=True) for out in (whole, tmp_path))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_another_number_of_processes_does_not_go_on(data: Path, whole: Path) -> None:
    with pytest.raises(BadInput, match="by 2 processes, and 1 were started"):
        Trainer(model(), *cells(data), RECIPE, whole)


@pytest.mark.parametrize("happens", ["failed", "differ"])
def test_one_error_is_told_on_each_machine(data: Path, tmp_path: Path, happens: str) -> None:
    statuses, told = ended(started(data, tmp_path, happens))
    assert statuses == [1, 1]
    expected = "the third step" if happens == "failed" else "differ in fact: 0 in process 0, 1 in process 1"
    for lines in told:
        assert len(lines) == 2 and lines[0].endswith(expected), told
    assert sum("has failed, said" in lines[0] for lines in told) == 1


def test_a_process_without_a_sign_of_life_ends_the_others(data: Path, tmp_path: Path) -> None:
    first, second = started(data, tmp_path, "stopped")
    try:
        (status,), (told,) = ended([first])
        assert status == 1 and "process 1 shows no sign of life" in told[0]
    finally:
        second.kill()
        second.communicate()
