"""Several processes as one training, on one machine or on several; torchrun starts them.

Tensors go through collectives. What else the processes have to tell one another goes through the key-value
store where they met: there each shows that it is alive, and says why it fails. So all of them end when one
does, which a process that waits in a collective cannot see by itself.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any, NoReturn

import torch.distributed as dist
from torch.distributed.rendezvous import rendezvous

from lookalike.errors import BadInput, LookalikeError, ProcessLost

BEAT = 2.0  # seconds between two looks at the others
SILENT = 120.0  # seconds without a sign of life after which a process is taken for dead
_POLL = 0.1  # seconds between two looks at a key that is waited for
_STEP = timedelta(minutes=30)  # the longest wait for a process that is alive
_MEETING = timedelta(minutes=5)
_AGAIN = "run the same command again on all machines: it goes on from the last saved step"

Tell = Callable[[LookalikeError], None]


class Processes:
    """The processes of a training as one of them, number `rank` of `world`, sees them."""

    def __init__(self, rank: int = 0, world: int = 1) -> None:
        self.rank, self.world = rank, world

    @property
    def first(self) -> bool:
        """Whether this is the one that writes and tells."""
        return self.rank == 0

    @contextmanager
    def in_turn(self) -> Iterator[None]:
        """One process after the other goes through the block, the first one first; once in a training."""
        yield


@contextmanager
def joined(gpus: bool, tell: Tell) -> Iterator[Processes]:
    """This process within the group that torchrun made; alone where it made none.

    With `gpus` each is to set its own before the first collective; without, tensors are the CPU's. All leave
    the block together. Where one fails in it, all end with exit status 1: the error is told once, and once
    more on each other machine. ProcessLost where the others cannot be met.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) < 2:
        yield Processes()
        return
    together = _Met(gpus, tell)
    try:
        yield together
        together.leave()
    except BaseException as error:
        together.fail(error)
    dist.destroy_process_group()


def spread() -> bool:
    """Whether this is one process of a group."""
    return dist.is_available() and dist.is_initialized()


def agree(facts: Mapping[str, Any]) -> None:
    """BadInput, in all processes, where they do not hold the same facts; it names one that differs."""
    if not spread():
        return
    every: list[dict[str, Any]] = [{}] * dist.get_world_size()
    dist.all_gather_object(every, dict(facts))
    for rank, theirs in enumerate(every):
        for name, ours in every[0].items():
            if (other := theirs.get(name)) != ours:
                raise BadInput(
                    f"the processes differ in {name}: {ours} in process 0, {other} in process {rank}",
                    "all need the same version, options and data, and one folder --out that all of them see",
                )


class _Met(Processes):
    """Processes that have met, and a thread that watches the others."""

    def __init__(self, gpus: bool, tell: Tell) -> None:
        self._tell = tell
        try:
            # Two connections: one that waits for an answer lets no other thread through.
            self._store, rank, world = next(rendezvous("env://", timeout=_MEETING))
            self._watched, _, _ = next(rendezvous("env://", timeout=_MEETING))
            super().__init__(rank, world)
            backend = "nccl" if gpus else "gloo"
            dist.init_process_group(backend, store=self._store, rank=rank, world_size=world, timeout=_STEP)
        except (RuntimeError, ValueError) as error:
            where = ":".join(os.environ.get(name, "?") for name in ("MASTER_ADDR", "MASTER_PORT"))
            raise ProcessLost(
                f"the processes did not meet at {where}: {_line(error)}",
                "start torchrun on every machine, with the same --rdzv-endpoint, which all of them reach",
            ) from error
        self._ending, self._left = threading.Lock(), threading.Event()
        self._watching = threading.Thread(target=self._watch, name="watch", daemon=True)
        self._watching.start()

    @contextmanager
    def in_turn(self) -> Iterator[None]:
        if not self.first:
            self._await(f"turn/{self.rank - 1}")
        yield
        self._store.set(f"turn/{self.rank}", "over")

    def leave(self) -> None:
        """Wait until the first process is ready; it goes last, for the store may be its own."""
        if self.first:
            self._store.set("finished", "yes")
            for rank in range(1, self.world):
                self._await(f"left/{rank}")
        else:
            self._await("finished")
        self._watch_no_more()
        self._store.set(f"left/{self.rank}", "yes")

    def fail(self, error: BaseException) -> NoReturn:
        """End this process for an error of its own, or for that of another which it comes from."""
        if not self._ending.acquire(blocking=False):
            threading.Event().wait()  # the watching thread ends the process
        lost = _is_lost_connection(error)
        if lost:
            self._heard(5 * BEAT)  # who is the cause of it says so before it closes its connections
        if not self._is_cause():
            self._end_for(self._heard(5 * BEAT))
        else:
            if lost:
                error = ProcessLost(f"process {self.rank} has lost another: {_line(error)}", _AGAIN)
            if isinstance(error, LookalikeError):
                self._tell(error)
            else:  # a fault of the program
                traceback.print_exception(error)
            self._report(self.rank, error)
        if self.first:
            time.sleep(2 * BEAT)  # the store may be its own, and the others read there why they end
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(1)  # Python's own end may abort while collectives wait for processes that are gone

    def _watch_no_more(self) -> None:
        self._left.set()
        self._watching.join()  # Python does not end well while a thread waits for the store

    def _watch(self) -> None:
        """Until all leave: show that this process is alive; end it when another has failed or is silent.

        The first process watches all others, and they watch it.
        """
        others = range(1, self.world) if self.first else range(1)
        heard = {rank: (b"", time.monotonic()) for rank in others}
        beats = 0
        while not self._left.wait(BEAT):
            try:
                self._watched.set(f"alive/{self.rank}", str(beats := beats + 1))
                failed = self._watched.check(["failed"])
                silent = next((rank for rank in others if self._is_silent(rank, heard)), None)
            except RuntimeError as error:
                if not self._left.is_set() and self._ending.acquire(blocking=False):
                    self._tell_here(ProcessLost(f"the first machine is gone: {_line(error)}", _AGAIN))
                    os._exit(1)
                return
            if (failed or silent is not None) and self._ending.acquire(blocking=False):
                if failed:
                    self._end_for(self._heard(0))
                elif self._is_cause():
                    lost = ProcessLost(f"process {silent} shows no sign of life any more", _AGAIN)
                    self._tell(lost)
                    self._report(int(silent or 0), lost)
                os._exit(1)

    def _is_silent(self, rank: int, heard: dict[int, tuple[bytes, float]]) -> bool:
        beat = self._watched.get(f"alive/{rank}") if self._watched.check([f"alive/{rank}"]) else b""
        if beat != heard[rank][0]:
            heard[rank] = beat, time.monotonic()
        return time.monotonic() - heard[rank][1] > SILENT and not self._watched.check([f"left/{rank}"])

    def _is_cause(self) -> bool:
        """Whether nobody has failed before; where the store is gone nobody can say so."""
        try:
            return int(self._watched.add("failures", 1)) == 1
        except RuntimeError:
            return True

    def _report(self, rank: int, error: BaseException) -> None:
        """After it was told: whoever reads this ends, and torchrun then ends its neighbours."""
        told = {"rank": rank, "host": socket.gethostname(), "machine": _machine(), "error": _line(error)}
        told["hint"] = getattr(error, "hint", "")
        with suppress(RuntimeError):
            self._watched.set("failed", json.dumps(told))

    def _heard(self, seconds: float) -> dict[str, Any] | None:
        """What another process says of its failure; None where it says nothing for so long."""
        until = time.monotonic() + seconds
        try:
            while not self._watched.check(["failed"]):
                if time.monotonic() > until:
                    return None
                time.sleep(_POLL)
            told: dict[str, Any] = json.loads(self._watched.get("failed"))
            return told
        except RuntimeError:
            return None

    def _end_for(self, told: dict[str, Any] | None) -> None:
        """On a machine where nobody has told it yet, tell why another process has failed."""
        if told and told["machine"] != _machine():
            error = f"process {told['rank']} has failed, said {told['host']}: {told['error']}"
            self._tell_here(ProcessLost(error, told["hint"]))

    def _tell_here(self, error: ProcessLost) -> None:
        """Once for each machine."""
        if os.environ.get("LOCAL_RANK", "0") == "0":
            self._tell(error)

    def _await(self, key: str) -> None:
        while not self._store.check([key]):
            time.sleep(_POLL)


def _machine() -> str:
    return os.environ.get("GROUP_RANK", "0")


def _is_lost_connection(error: BaseException) -> bool:
    """Whether a collective failed: gloo raises no error of its own kind."""
    return isinstance(error, dist.DistError) or (isinstance(error, RuntimeError) and "gloo" in str(error))


def _line(error: BaseException) -> str:
    return next(iter(str(error).splitlines()), "") or type(error).__name__
