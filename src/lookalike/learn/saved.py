"""A trained model in a folder: `model.json` says what it is, `model.safetensors` holds what was learnt."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from lookalike.errors import BadInput, WeightsError
from lookalike.learn.models.adapted import Adapted
from lookalike.learn.models.compact import compact
from lookalike.learn.models.x2vlm import X2VLM, X2VLMConfig
from lookalike.learn.recipes import Trunk
from lookalike.trust import Trust

FACTS, WEIGHTS = "model.json", "model.safetensors"
_VERSION = 1  # of the two files
# What a model computes itself, or ties to another tensor.
_DERIVED = (".relative_position_index", ".predictions.decoder.weight", ".predictions.decoder.bias")


@dataclass(frozen=True, slots=True, eq=False)
class Saved:
    """A model and what is known of it.

    `towers` names the frozen networks that its pictures and captions come through, with their fingerprints,
    and is empty where it has its own. `about` is for people: recipe, data, scores.
    """

    model: Adapted
    trunk: Trunk
    towers: Mapping[str, str] = field(default_factory=dict)
    guard: float | None = None  # the agreement from which a sentence is believed; None: not calibrated
    trust: Trust | None = None  # what its agreement with whole captions means; None: not calibrated
    about: Mapping[str, Any] = field(default_factory=dict)
    sha256: str = ""  # of the weights' file; "" before it is saved


def save(saved: Saved, folder: Path) -> None:
    """Write a model; what was there is replaced, the weights first."""
    from safetensors.torch import save as packed

    folder.mkdir(parents=True, exist_ok=True)
    state = saved.model.state_dict()
    tensors = {name: state[name].contiguous() for name in state if not name.endswith(_DERIVED)}
    part = folder / f"{WEIGHTS}.part"
    content = packed(tensors)
    part.write_bytes(content)
    facts = {
        "version": _VERSION,
        "trunk": saved.trunk,
        "config": asdict(saved.model.vlm.config),
        "language": saved.model.language,
        "towers": dict(saved.towers),
        "guard": saved.guard,
        "trust": saved.trust and asdict(saved.trust),
        "sha256": hashlib.sha256(content).hexdigest(),
        "about": dict(saved.about),
    }
    told = folder / f"{FACTS}.part"
    told.write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
    part.replace(folder / WEIGHTS)
    told.replace(folder / FACTS)


def load(folder: Path) -> Saved:
    """The model in a folder, in eval mode, on the CPU; WeightsError where there is none or it is damaged."""
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        facts = json.loads((folder / FACTS).read_bytes())
        content = (folder / WEIGHTS).read_bytes()
    except FileNotFoundError as error:
        raise WeightsError(
            f"{folder} holds no trained model: there is no {Path(error.filename).name}",
            "lookalike train writes one",
        ) from None
    except (OSError, ValueError) as error:
        raise WeightsError(f"{folder / FACTS} cannot be read: {error}", "train it again") from error
    try:
        if facts["version"] != _VERSION:
            raise WeightsError(f"{folder} was written by another version of lookalike", "train it again")
        config = X2VLMConfig(**facts["config"] | {"heads": tuple(facts["config"]["heads"])})
        vlm = compact() if facts["trunk"] == "compact" else X2VLM(config)
        model = Adapted(vlm, float(facts["language"]))
        if hashlib.sha256(content).hexdigest() != facts["sha256"]:
            raise WeightsError(f"{folder / WEIGHTS} is damaged, its checksum differs", "train it again")
        lacking, unknown = model.load_state_dict(load(content), strict=False)
        if unknown or not all(name.endswith(_DERIVED) for name in lacking):
            raise WeightsError(f"{folder / WEIGHTS} is not what {FACTS} says", "train it again")
        model.vlm.text_encoder.tie()
        model.requires_grad_(False).eval()
        trust = facts.get("trust")
        return Saved(
            model,
            facts["trunk"],
            facts["towers"],
            facts["guard"],
            trust and Trust(**trust),
            facts["about"],
            facts["sha256"],
        )
    except (KeyError, TypeError, ValueError, RuntimeError, BadInput, SafetensorError) as error:
        raise WeightsError(f"{folder} holds no model that can be used: {error}", "train it again") from error
