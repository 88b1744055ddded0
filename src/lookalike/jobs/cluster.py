"""A Ray cluster for as long as a job takes: this machine, the cluster it belongs to, or one elsewhere."""

from __future__ import annotations

import logging
import os
import re
import socket
import sys
import threading
import time
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, replace
from typing import Any, cast
from urllib.parse import urlsplit

from lookalike import building
from lookalike.captions import Record, Unread
from lookalike.catalogue import Report
from lookalike.datasets import Listed, Unlisted
from lookalike.errors import BadInput, LookalikeError, MissingExtra
from lookalike.jobs.captioning import Fault, Form, Leader, Stage, entry
from lookalike.jobs.conducting import Conductor
from lookalike.jobs.orders import Asked, Workers, order
from lookalike.store import Build, Plan
from lookalike.values import Progress

LOCAL = "local"
JOINED = "ray:auto"
STORE = 200_000_000  # bytes of a local cluster's object store: only numbers go through it
ANSWERS_WITHIN = 5  # seconds, of an address
_HEAD = {"node:__internal_head__": 0.001}  # what only the cluster's first machine has
_USAGE = "RAY_USAGE_STATS_ENABLED"  # Ray has no option for it
_AGAIN = "run it again: what was made is kept"


@dataclass(frozen=True, slots=True)
class Cluster:
    """A cluster that is connected, and workers that have room on it."""

    workers: Workers

    def build(
        self, begun: Build, plan: Plan, captions: Asked | None = None, on_progress: Progress | None = None
    ) -> Report:
        """Make the fragments that are missing, each once, and finish the build; see `building.build`.

        A worker that is lost has its fragment made again. LookalikeError where one cannot be made for a
        reason of its own; those that are made stay.
        """
        started = time.perf_counter()
        encoded, encoder_seconds = 0, 0.0
        missing = begun.missing()
        done = plan.listed - sum(map(plan.length, missing))
        if missing:
            told = order(begun, self.workers, captions)
            for outcome in _led(Conductor, missing, told, self.workers):
                if outcome["error"]:
                    raise LookalikeError(outcome["error"], outcome["hint"] or _AGAIN)
                encoded += outcome["encoded"]
                encoder_seconds += outcome["encoder_seconds"]
                if outcome["told"]:
                    begun.learn(outcome["fragment"], outcome["told"])
                done += plan.length(outcome["fragment"])
                if on_progress:
                    on_progress(done, plan.listed)
        return building.report(begun, plan, encoded, time.perf_counter() - started, encoder_seconds)

    def captions(
        self, listed: Iterable[Listed | Unlisted], form: Form, engine: Stage
    ) -> Iterator[Record | Unread]:
        """A record for each region that is listed, in the order in which they are finished.

        LookalikeError where a machine cannot do it, and at the end where some were lost with a process.
        """
        entries = []
        for each in listed:
            if isinstance(each, Unlisted):
                yield Unread(each.source, each.error)
            else:
                entries.append(entry(each))
        lost = len(entries)
        for made in _led(Leader, entries, form, engine) if entries else ():
            if isinstance(made, Fault):
                raise LookalikeError(made.message, made.hint or _AGAIN)
            lost -= 1
            yield made
        if lost:
            raise LookalikeError(
                f"{lost} of {len(entries)} regions were lost on the cluster", f"Ray's logs tell why; {_AGAIN}"
            )


@contextmanager
def connected(on: str, workers: Workers | None = None) -> Iterator[Cluster]:
    """The cluster at an address: "ray://HOST:PORT", "ray:auto" from one of its machines, or "local".

    "local" starts one on this machine, and ends it. BadInput where the address is none or no machine has room
    for a worker; LookalikeError where nothing answers.
    """
    workers = workers or Workers()
    if on not in (LOCAL, JOINED) and not on.startswith("ray://"):
        raise BadInput(f"{on}: no address of a cluster", f"ray://HOST:PORT, {JOINED} or {LOCAL}")
    try:
        import ray
    except ImportError:
        raise MissingExtra("a job on a cluster", "ray") from None
    _check_answers(on)
    with _quiet():
        _connect(ray, on)
        try:
            machines = [node["Resources"] for node in ray.nodes() if node["Alive"]]
            yield Cluster(_fitted(workers, machines))
        finally:
            ray.shutdown()


def _check_answers(on: str) -> None:
    """LookalikeError, soon, where nothing answers: Ray itself would try for minutes."""
    told = (os.environ.get("RAY_ADDRESS", "") if on == JOINED else on).removeprefix("ray://")
    try:
        host, port = urlsplit(f"//{told}").hostname, urlsplit(f"//{told}").port
    except ValueError:
        host = port = None
    if on.startswith("ray://") and not (host and port):
        raise BadInput(
            f"{on}: no address of a cluster", "write it as ray://HOST:PORT, mostly with port 10001"
        )
    if host and port:
        try:
            socket.create_connection((host, port), ANSWERS_WITHIN).close()
        except OSError as error:
            raise LookalikeError(
                f"{on}: nothing answers at {host}:{port} ({error.strerror or error})",
                "check the address, and that the cluster runs",
            ) from None


def _connect(ray: Any, on: str) -> None:
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.CRITICAL}
    if on == LOCAL:
        options |= {
            "num_cpus": os.cpu_count(), "object_store_memory": STORE, "include_dashboard": False
        }  # fmt: skip
    try:
        ray.init("auto" if on == JOINED else on, **options)
    except Exception as error:  # whatever its layers raise
        line = next((line for line in reversed(str(error).split("\n")) if line.strip()), type(error).__name__)
        raise LookalikeError(
            f"{on}: cannot connect: {line.strip()[:300]}",
            "check the address, that Python and Ray are the same there, and RAY_AUTH_MODE and RAY_AUTH_TOKEN",
        ) from None


def _fitted(workers: Workers, machines: list[Any]) -> Workers:
    """With `count`; more than have room now may be asked for, on a cluster that grows."""
    room = workers.room(machines)
    if room == 0:
        most = [max((machine.get(kind, 0) for machine in machines), default=0) for kind in ("CPU", "GPU")]
        raise BadInput(
            f"no machine has room for a worker of {workers.cpus} CPUs and {workers.gpus:g} GPUs: "
            f"the most that one has are {most[0]:g} and {most[1]:g}",
            "ask for less with --worker-cpus and --worker-gpus",
        )
    return replace(workers, count=workers.count or room)


def _led(leader: type, *told: Any) -> Iterator[Any]:
    """What a leader's `next` gives, on the cluster's head, until it gives None."""
    import ray

    led = ray.remote(leader).options(num_cpus=0, resources=_HEAD, max_restarts=0)
    try:
        actor = led.remote(*told)
        while (made := ray.get(actor.next.remote())) is not None:
            yield made
    except (ray.exceptions.RayError, ConnectionError) as error:
        raise _explained(error) from None


def _explained(error: Exception) -> LookalikeError:
    said = str(error)
    if lacking := re.search(r"No module named '([\w.]+)'", said):
        return LookalikeError(
            f"a machine of the cluster has no {lacking[1]}",
            "install lookalike with the extras ray and objects on all of them, in the same version; "
            "for a model of captions also captions and ray[llm]",
        )
    if re.search(r"ActorDied|ActorUnavailable|WorkerCrashed|NodeDied|died unexpectedly|OutOfMemory", said):
        return LookalikeError(
            "the cluster's head was lost, or what leads the job there", f"Ray's logs tell; {_AGAIN}"
        )
    line = next((line for line in reversed(said.split("\n")) if line.strip()), type(error).__name__)
    return LookalikeError(f"the job ended: {line.strip()[:300]}", _AGAIN)


@contextmanager
def _quiet() -> Iterator[None]:
    """Ray without reports of usage, log lines and warnings on the terminal."""
    told = os.environ.get(_USAGE)
    os.environ[_USAGE] = "0"
    try:
        with warnings.catch_warnings(), redirect_stdout(cast("Any", _WithoutRay(sys.stdout))):
            warnings.simplefilter("ignore")
            yield
    finally:
        del os.environ[_USAGE]
        if told is not None:
            os.environ[_USAGE] = told


class _WithoutRay:
    """Standard output without what a thread of Ray prints there of every worker that was lost."""

    def __init__(self, out: Any) -> None:
        self._out = out

    def __getattr__(self, name: str) -> Any:
        return getattr(self._out, name)

    def write(self, text: str) -> int:
        if threading.current_thread().name == "ray_listen_error_messages":
            return len(text)
        return int(self._out.write(text))
