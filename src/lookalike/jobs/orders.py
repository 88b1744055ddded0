"""What is sent to workers, and what they send back."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import TypedDict

import lookalike
from lookalike import __version__
from lookalike.errors import BadInput
from lookalike.settings import Asking
from lookalike.store import Build

FRAGMENT = 500  # entries: what is lost with a worker, and what a small listing is shared by


@dataclass(frozen=True, slots=True)
class Workers:
    """How many, and what each takes of its machine; `count` None is as many as have room."""

    count: int | None = None
    cpus: int = 1  # threads that decode and encode
    gpus: float = 0  # 0.5: two share one

    def __post_init__(self) -> None:
        if self.cpus < 1 or self.gpus < 0 or (self.count is not None and self.count < 1):
            raise BadInput(
                "a job needs a worker, and a worker a CPU", "give 1 or more of each, or leave it out"
            )
        if self.gpus > 1 and self.gpus % 1:
            raise BadInput(f"{self.gpus:g} GPUs for a worker", "several GPUs are given whole")

    def room(self, machines: list[Mapping[str, float]]) -> int:
        """How many have room on machines with these resources."""
        return sum(
            min(
                int(machine.get("CPU", 0) // self.cpus),
                int(machine.get("GPU", 0) / self.gpus) if self.gpus else 1 << 30,
            )
            for machine in machines
        )


@dataclass(frozen=True, slots=True)
class Asked:
    """A captioner that each worker opens for itself: its name, and how it asks.

    Neither key nor cache is sent. What Ray is given may stand in its logs and tables: a worker reads the
    variable LOOKALIKE_API_KEY of its own environment. Answers are kept on the machine that asked.
    """

    captioner: str
    asking: Asking

    def __post_init__(self) -> None:
        object.__setattr__(self, "asking", replace(self.asking, key=None, cache=None))


class Order(TypedDict):
    """What a worker is told. The version is looked at before anything else: all else may differ with it."""

    version: str  # see `version`
    uri: str
    facts: dict[str, str]  # of the build: the encoder, and whatever else its rows depend on
    plan: str  # its digest
    threads: int
    captions: Asked | None


class Outcome(TypedDict):
    """What became of a fragment: it is written, or `error` and `hint` say why not."""

    fragment: int
    encoded: int  # pictures; 0 where another worker was first
    encoder_seconds: float
    told: str  # what the build wants to know of it, see `Build.told`; "" where another worker was first
    error: str
    hint: str


def version() -> str:
    """Which lookalike this is: two commits of one number differ by their sources, "0.1.0 (sources 1f0c…)"."""
    return f"{__version__} (sources {_sources(Path(lookalike.__file__).parent)})"


def check_version(told: str) -> None:
    """BadInput unless this is the lookalike that a job is of."""
    if told != version():
        raise BadInput(
            f"the job is of lookalike {told}, its worker of {version()}",
            "install the same version, of the same commit, on all machines of the cluster",
        )


@cache
def _sources(folder: Path) -> str:
    """A digest of all code and wordings of a package."""
    digest = hashlib.sha256()
    for path in sorted(each for each in folder.rglob("*") if each.suffix in (".py", ".toml")):
        digest.update(f"{path.relative_to(folder).as_posix()}\0".encode())
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()[:12]


def order(build: Build, workers: Workers, captions: Asked | None) -> Order:
    return {
        "version": version(),
        "uri": build.uri,
        "facts": dict(build.manifest.facts),
        "plan": build.manifest.plan,
        "threads": workers.cpus,
        "captions": captions,
    }
