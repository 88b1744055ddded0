"""All runs of a study, side by side in processes; what is finished is never done again."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import threading
from collections.abc import Generator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

from lookalike.captions import FileCaptions
from lookalike.errors import LookalikeError
from lookalike.evaluation.runs import write_whole
from lookalike.learn.scoring import queries
from lookalike.study.arms import Arm, run
from lookalike.study.material import Material, opened
from lookalike.study.results import Result, Results
from lookalike.values import Progress


@dataclass(frozen=True, slots=True)
class Place:
    """Where the material of a study lies; see `material.prepare`."""

    folder: Path
    parts: Sequence[str]
    sources: Mapping[str, Sequence[str]]  # by part
    given: FileCaptions | None = None

    def opened(self) -> Material:
        return opened(self.parts, self.sources, self.folder, self.given)


def conduct(
    arms: Sequence[Arm], place: Place, jobs: int, about: Mapping[str, Any], on_progress: Progress
) -> Results:
    """Run every arm with its seeds, `jobs` at a time: first all arms with one seed, then with the next.

    Where one fails, or this process ends in any way, the others end at once; run again, they go on.
    """
    material = place.opened()
    wanted = [
        (arm, seed) for seed in range(max(arm.seeds for arm in arms)) for arm in arms if seed < arm.seeds
    ]
    runs: list[Result] = []
    with closing(_results(wanted, place, material, jobs, about)) as results:
        for result in results:
            runs.append(result)
            on_progress(len(runs), len(wanted))
    regions = [material.queried.regions[region] for region in queries(material.queried)]
    groups = [region.group for region in regions]
    told = {"queries": [region.id for region in regions], "groups": groups}
    write_whole(place.folder / f"{material.measured}.json", json.dumps(told) + "\n")
    return Results(np.array(groups), about, runs)


def _results(
    wanted: Sequence[tuple[Arm, int]], place: Place, material: Material, jobs: int, about: Mapping[str, Any]
) -> Generator[Result, None, None]:
    if jobs == 1:
        for arm, seed in wanted:
            yield _run(arm, seed, place, about, material)
        return
    spawn = multiprocessing.get_context("spawn")  # torch's threads do not survive a fork
    theirs, ours = spawn.Pipe(duplex=False)
    with ProcessPoolExecutor(min(jobs, len(wanted)), spawn, _begin, (place, theirs)) as pool:
        runs = [pool.submit(_run, arm, seed, place, about) for arm, seed in wanted]
        try:
            for finished in as_completed(runs):
                yield finished.result()
        except BrokenProcessPool:
            raise LookalikeError(
                "the process of a training has ended, perhaps for want of memory",
                "run it again: it goes on; --jobs 1 takes the least memory",
            ) from None
        finally:
            ours.close()  # ends the processes, whatever they are at
            pool.shutdown(wait=False, cancel_futures=True)


_shared: list[Material] = []  # of a process that trains


def _begin(place: Place, starter: Connection) -> None:
    import torch

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # it goes to the whole group; who started this one decides
    threading.Thread(target=_end_with, args=(starter,), daemon=True).start()
    torch.set_num_threads(1)  # the processes share the cores
    _shared[:] = [place.opened()]


def _end_with(starter: Connection) -> None:
    """This process ends at once when the other end of the pipe is closed, or who holds it has ended."""
    with suppress(EOFError, OSError):
        starter.recv()
    os._exit(1)


def _run(
    arm: Arm, seed: int, place: Place, about: Mapping[str, Any], material: Material | None = None
) -> Result:
    name = f"{arm.name}-{seed}"
    try:
        return run(arm, seed, material or _shared[0], place.folder / "runs" / name, about)
    except LookalikeError as error:
        raise LookalikeError(f"{name}: {error}", error.hint) from error
