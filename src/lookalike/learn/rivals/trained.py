"""A trained rival: it describes regions, and is kept in a folder."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from lookalike.errors import WeightsError
from lookalike.learn.sources import Source
from lookalike.values import Floats

FACTS, WEIGHTS = "rival.json", "rival.safetensors"
AT_ONCE = 256


@dataclass(frozen=True, slots=True)
class Trunk:
    """What comes in: maps of `side` x `side` cells with so many channels."""

    channels: int
    side: int

    @classmethod
    def of(cls, source: Source) -> Trunk:
        """That of a source's cells; a network's input is a square, and so are its maps."""
        image = source.look(np.zeros(1, np.int64)).image
        return cls(image.shape[2], math.isqrt(image.shape[1] - 1))


class Network(nn.Module):
    """Describes regions: cells (B, N, C) and how much each counts (B, N) -> rows (B, D) of any length."""

    def forward(self, cells: Tensor, region: Tensor) -> Tensor:
        raise NotImplementedError


@dataclass(frozen=True, slots=True, eq=False)
class Made:
    """What a training ends with: the network, how many steps it took, and with which settings."""

    network: Network
    steps: int
    settings: Mapping[str, Any]


@dataclass(frozen=True, slots=True, eq=False)
class Rival:
    """`settings` are for the record; `steps` of the optimiser were taken, over all stages."""

    name: str
    settings: Mapping[str, Any]
    steps: int
    trunk: Trunk
    network: Network

    @torch.no_grad()
    def describe(self, source: Source) -> Floats:
        """All regions as encoders see them, no captions: (N, D), unit rows."""
        self.network.eval()
        rows = []
        for start in range(0, len(source.regions), AT_ONCE):
            looked = source.look(np.arange(start, min(start + AT_ONCE, len(source.regions))))
            rows.append(F.normalize(self.network(looked.image[:, 1:], looked.region), dim=1))
        return torch.cat(rows).numpy()

    def save(self, folder: Path) -> None:
        """Write it; what was there is replaced."""
        from safetensors.torch import save as packed

        folder.mkdir(parents=True, exist_ok=True)
        state = self.network.state_dict()
        content = packed({name: value.contiguous() for name, value in state.items()})
        facts = {
            "name": self.name, "settings": dict(self.settings), "steps": self.steps,
            "channels": self.trunk.channels, "side": self.trunk.side,
            "sha256": hashlib.sha256(content).hexdigest(),
        }  # fmt: skip
        for name, data in ((WEIGHTS, content), (FACTS, (json.dumps(facts, indent=2) + "\n").encode())):
            part = folder / f"{name}.part"
            part.write_bytes(data)
            part.replace(folder / name)


def load(folder: Path, networks: Mapping[str, Callable[[Trunk], Network]]) -> Rival:
    """The rival in a folder, its network made by name; WeightsError where there is none or it is damaged."""
    from safetensors import SafetensorError
    from safetensors.torch import load as unpacked

    try:
        facts = json.loads((folder / FACTS).read_bytes())
        content = (folder / WEIGHTS).read_bytes()
        if hashlib.sha256(content).hexdigest() != facts["sha256"]:
            raise WeightsError(f"{folder / WEIGHTS} is damaged, its checksum differs", "train it again")
        trunk = Trunk(facts["channels"], facts["side"])
        network = networks[facts["name"]](trunk)
        network.load_state_dict(unpacked(content))
        network.requires_grad_(False).eval()
        return Rival(facts["name"], facts["settings"], facts["steps"], trunk, network)
    except (OSError, KeyError, TypeError, ValueError, RuntimeError, SafetensorError) as error:
        raise WeightsError(f"{folder} holds no rival that can be used: {error}", "train it again") from error
