"""A trained model's branches in torch: what `lookalike.encoders.adapted` makes an encoder of."""

from __future__ import annotations

import hashlib
import re
import threading
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from lookalike.encoders.adapted import Facts
from lookalike.encoders.minilm import MiniLM
from lookalike.learn.models.adapted import Adapted
from lookalike.learn.models.x2vlm import load_checkpoint
from lookalike.learn.saved import Saved, load
from lookalike.learn.sources import Ids
from lookalike.values import Floats, Keys
from lookalike.weights import sha256_of


class TorchBranches:
    """The branches of a model, see `encoders.adapted.Branches`; `device` None is CUDA where there is some.

    `blank` (1, L, Dt) is what the text tower makes of the empty caption; `name` opens the model again. The
    saved model itself is moved to the device.
    """

    def __init__(
        self, saved: Saved, blank: Floats, name: str = "", device: torch.device | None = None
    ) -> None:
        self._device = device or torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self._model = saved.model.to(self._device).eval()
        self._blank = torch.from_numpy(blank).to(self._device)
        self._turn = threading.Lock()  # one pass at a time: torch spreads each over the cores itself
        self.name, self.facts = name, facts_of(saved)

    @torch.inference_mode()
    def run(self, branch: str, **arrays: Floats | Keys) -> Floats:
        with self._turn:
            inputs = {name: torch.from_numpy(np.ascontiguousarray(each)) for name, each in arrays.items()}
            result = self._pass(branch, {name: each.to(self._device) for name, each in inputs.items()})
            return np.asarray(result.float().cpu().numpy())

    def _pass(self, branch: str, given: dict[str, Tensor]) -> Tensor:
        model = self._model
        if branch in ("image", "box"):
            rows = len(given["tokens"])
            given["states"] = self._blank.expand(rows, -1, -1)
            given["words"] = given["states"].new_ones(given["states"].shape[:2], dtype=torch.int64)
        match branch:
            case "tokens":
                return model.vlm.vision(given["pixels"])
            case "words":
                return model.vlm.text(given["ids"], given["mask"])
            case "text":
                return model.text_queries(given["states"])
            case "box" | "told_box":
                return model.boxes(given["tokens"], given["states"], given["words"])
        seen = model.region(given["tokens"], given["region"])
        if branch == "match":
            return model.vlm.match_logits(model.fused(seen, given["states"], given["words"]))
        identity = model.identity_part(seen, given["states"], given["words"])
        return model.joined(identity, model.language_part(seen)) if has_language(model) else identity


def facts_of(saved: Saved) -> Facts:
    """A model that was trained on frozen towers can do what its recipe had losses for."""
    config, recipe = saved.model.vlm.config, saved.about.get("recipe")

    def taught(head: str, loss: str) -> bool:
        if saved.trunk == "compact" and recipe and not recipe[loss]:
            return False
        return head in config.heads

    language = has_language(saved.model)
    return Facts(
        fingerprint=saved.sha256,
        trunk=saved.trunk,
        identity=config.vision_width,
        language=config.embedding if language else 0,
        weight=saved.model.language if language else 0.0,
        resolution=config.resolution,
        grid=config.grid,
        texts=language and taught("text_proj", "itc"),
        boxes=taught("bbox_head", "box"),
        matches=taught("itm_head", "itm"),
        guard=saved.guard,
        trust=saved.trust,
        towers=dict(saved.towers),
    )


def has_language(model: Adapted) -> bool:
    """Whether the language part is in its descriptors: one of no weight, or without a head, is left out."""
    return model.language > 0 and model.vlm.vision_proj is not None


def opened(named: str, device: torch.device | None = None) -> TorchBranches:
    """The branches of what is called so: see `located`."""
    saved, blank, name = located(named)
    return TorchBranches(saved, blank, name, device)


def located(named: str) -> tuple[Saved, Floats, str]:
    """A model, its states of the empty caption (1, L, Dt), and the name that finds it from everywhere.

    A folder that training wrote, or "x2vlm:FILE", an X²-VLM checkpoint of any kind, whose identity part is
    v₀; "x2vlm:FILE@384" fits it to pictures of 384 pixels. WeightsError where there is none.
    """
    if not named.startswith("x2vlm:"):
        folder = Path(named).expanduser().resolve()
        saved = load(folder)
        return saved, _blank(saved), str(folder)
    parsed = re.fullmatch(r"x2vlm:(.*?)(?:@(\d+))?", named, re.DOTALL)
    assert parsed
    path, side = parsed.groups()
    file = Path(path).expanduser().resolve()
    vlm, report = load_checkpoint(file, int(side) if side else None)
    both = vlm.vision_proj is not None and vlm.text_proj is not None
    model = Adapted(vlm, language=1.0 if both else 0.0).requires_grad_(False).eval()
    fingerprint = hashlib.sha256(f"{sha256_of(file)}; {vlm.config.resolution}".encode()).hexdigest()
    about = {"checkpoint": file.name, "lacks": list(report.missing)}
    saved = Saved(model, "x2vlm", about=about, sha256=fingerprint)
    return saved, _blank(saved), f"x2vlm:{file}" + (f"@{side}" if side else "")


@torch.inference_mode()
def _blank(saved: Saved) -> Floats:
    if saved.trunk == "compact":
        return MiniLM().states([""])[0]
    return np.asarray(saved.model.vlm.text(*Ids().of([""])).numpy())
