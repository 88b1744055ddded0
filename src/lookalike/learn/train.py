"""Train an adapted model.

A step is known by its epoch and number: batch, views, dropped captions and dropout follow from the recipe's
seed and these. So a run that was killed goes on from its last saved step and ends with the same weights.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader

from lookalike.errors import BadInput
from lookalike.learn.batches import Steps
from lookalike.learn.models.adapted import Adapted
from lookalike.learn.objective import Batch, Objective
from lookalike.learn.optimiser import AdamW, groups, linear_schedule
from lookalike.learn.processes import agree, spread
from lookalike.learn.recipes import OF_CAPTIONS, Recipe
from lookalike.learn.sources import Source, Texts
from lookalike.values import Progress

SAVED_EVERY = 300.0  # seconds at most between two savings of the state
_HALVES = {"bf16": torch.bfloat16, "fp16": torch.float16}


class Trainer:
    """An adapted model, its class centres and its optimiser, in training.

    `out` keeps the state; where it holds one of this recipe and these data, training goes on. `score` says
    how good a model is, higher is better: after each epoch the best so far is handed to `keep`. Within a
    process group of `torch.distributed` each process trains on its share of each batch and scores; only the
    first saves and keeps, and all read what it saved. BadInput where the recipe asks for captions and there
    are none, and where the processes have other data or states.
    """

    def __init__(
        self,
        model: Adapted,
        source: Source,
        texts: Texts,
        recipe: Recipe,
        out: Path,
        score: Callable[[Adapted], float] | None = None,
        keep: Callable[[Adapted, Mapping[str, float]], None] | None = None,
        is_new: Callable[[str], bool] = lambda name: True,
        device: torch.device | None = None,
        workers: int = 0,
    ) -> None:
        """`is_new` says of a parameter's name whether no checkpoint held it; `workers` prepare batches."""
        self.recipe, self._out, self._score, self._keep = recipe, out, score, keep
        self._device = device or torch.device("cpu")
        self._world = dist.get_world_size() if spread() else 1
        rank = dist.get_rank() if spread() else 0
        self.first = rank == 0  # of the processes: it alone saves and tells
        self._steps = Steps(source, texts, recipe, rank, self._world)
        if recipe.reads_captions and not any(region.captions for region in source.regions):
            raise BadInput(
                "the recipe learns from captions, and the data set has none",
                "give it some (--captions FILE), or train without: "
                + " ".join(f"--set {name}=0" for name in OF_CAPTIONS),
            )
        torch.manual_seed(recipe.seed)
        model.language = recipe.with_language
        made = Objective(model, self._steps.identities, recipe, self._steps.missing)
        self.objective = made.to(self._device)
        _freeze_unused(model, recipe)
        self._parallel = self._spread()
        self._averaged = None
        if recipe.ema:
            mean = get_ema_multi_avg_fn(recipe.ema)  # type: ignore[no-untyped-call]
            self._averaged = AveragedModel(model, multi_avg_fn=mean)
        trained = [(name, p) for name, p in self.objective.named_parameters() if p.requires_grad]
        decayed = [(name, p) for name, p in trained if name != "centres"]

        def times(name: str) -> float:
            new = not name.startswith("model.") or is_new(name.removeprefix("model."))
            return recipe.new if new else 1.0

        self._optimiser = AdamW(
            [
                *groups(decayed, recipe.weight_decay, times),
                {"params": [self.objective.centres], "times": recipe.new, "decay": 0.0},
            ],
            lr=recipe.lr,
        )
        self._scaler = torch.amp.GradScaler(self._device.type, enabled=recipe.precision == "fp16")
        self._parameters = [parameter for _, parameter in trained]
        self._workers = workers
        self.epoch, self._step = 0, 0
        self.history: list[dict[str, float]] = []
        self._sums: dict[str, float] = {}
        self._key = self._what(source)
        self._resume()
        agree({**source.facts, "epoch": self.epoch, "step": self._step})

    @property
    def model(self) -> Adapted:
        """What was learnt so far: the mean over steps where the recipe asks for it."""
        made = self._averaged.module if self._averaged else self.objective.model
        assert isinstance(made, Adapted)
        return made

    @property
    def steps(self) -> int:
        """Of an epoch."""
        return -(-self._steps.batches // self.recipe.accumulate)

    @property
    def finished(self) -> bool:
        return self.epoch >= self.recipe.epochs or self._stale()

    def run(self, on_progress: Progress | None = None) -> Iterator[Mapping[str, float]]:
        """Train epoch by epoch; each comes as its mean losses, the norms of their gradients, and the score.

        What an earlier run did is not repeated: those epochs are in `history`.
        """
        total, saved = self.recipe.epochs * self.steps, time.monotonic()
        while not self.finished:
            batches = iter(self._batches())
            while self._step < self.steps:
                parts = [next(batches) for _ in range(self._in_step())]
                for name, value in self._learn(parts).items():
                    self._sums[name] = self._sums.get(name, 0.0) + value
                self._step += 1
                if on_progress:
                    on_progress(self.epoch * self.steps + self._step, total)
                if self._step < self.steps and time.monotonic() - saved > SAVED_EVERY:
                    self._save()
                    saved = time.monotonic()
            self._end_epoch()
            saved = time.monotonic()
            yield self.history[-1]

    def _end_epoch(self) -> None:
        # Norms are of the first step alone.
        told = {
            name: value if name.startswith("norm ") else value / self.steps
            for name, value in self._sums.items()
        }
        if self._score:
            with self._cast():
                told["mAP"] = self._score(self.model)
        # Without a score, or one that is no number, the last one is kept.
        best = "mAP" not in told or not any(told["mAP"] <= each["mAP"] for each in self.history)
        if self._keep and self.first and best:
            self._keep(self.model, told | {"epoch": self.epoch + 1})
        self.history.append({"epoch": self.epoch + 1, **told})
        self.epoch, self._step, self._sums = self.epoch + 1, 0, {}
        self._save()

    def _stale(self) -> bool:
        scores = [epoch["mAP"] for epoch in self.history if "mAP" in epoch]
        patience = self.recipe.patience
        return bool(patience and scores and len(scores) - 1 - int(np.argmax(scores)) >= patience)

    def _learn(self, batches: list[Batch]) -> dict[str, float]:
        """One step of the optimiser on the mean of these batches."""
        recipe, number = self.recipe, self.epoch * self.steps + self._step
        _seed(recipe.seed, self.epoch, self._step, dist.get_rank() if spread() else 0)
        self.objective.train()
        self._optimiser.zero_grad(set_to_none=True)
        told: dict[str, float] = {}
        for place, batch in enumerate(batches):
            last = place == len(batches) - 1
            waits = nullcontext() if last or self._parallel is self.objective else self._parallel.no_sync()
            with waits, self._cast():
                weighed: dict[str, Tensor] = self._parallel(batch.to(self._device))
            total = torch.stack(list(weighed.values())).sum()
            if not torch.isfinite(total):
                lost = [name for name, value in weighed.items() if not torch.isfinite(value)]
                raise BadInput(
                    f"{', '.join(lost)} is not a number any more in epoch {self.epoch + 1}, "
                    f"step {self._step + 1}",
                    "lower the learning rate (--set lr=…); what was saved before is kept",
                )
            if self._step == 0 and place == 0:
                told |= self._norms(weighed)
            with waits:
                self._scaler.scale(total / len(batches)).backward()  # type: ignore[no-untyped-call]
            for name, value in {**weighed, "loss": total}.items():
                told[name] = told.get(name, 0.0) + float(value.detach()) / len(batches)
        self._scaler.unscale_(self._optimiser)
        norm = nn.utils.clip_grad_norm_(self._parameters, recipe.clip)
        self._optimiser.set_rate(
            recipe.lr * linear_schedule(number, recipe.epochs * self.steps, recipe.warm_up)
        )
        if not torch.isfinite(norm) and not self._scaler.is_enabled():
            raise BadInput(
                f"the gradient is not a number any more in epoch {self.epoch + 1}, step {self._step + 1}",
                "lower the learning rate (--set lr=…); what was saved before is kept",
            )
        self._scaler.step(self._optimiser)
        self._scaler.update()
        if self._averaged:
            self._averaged.update_parameters(self.objective.model)
        return told

    def _norms(self, weighed: Mapping[str, Tensor]) -> dict[str, float]:
        """How hard each loss pulls at the weights of the model: the norm of its gradient."""
        norms = {}
        for name, value in weighed.items():
            found = torch.autograd.grad(value, self._parameters, retain_graph=True, allow_unused=True)
            lengths = [torch.linalg.vector_norm(each.float()) for each in found if each is not None]
            norms[f"norm {name}"] = float(torch.linalg.vector_norm(torch.stack(lengths))) if lengths else 0.0
        return norms

    def _in_step(self) -> int:
        """How many batches the next step takes: its last one may have fewer."""
        return min(self.recipe.accumulate, self._steps.batches - self._step * self.recipe.accumulate)

    def _batches(self) -> DataLoader[Batch]:
        """The rest of the epoch."""
        rest = range(self._step * self.recipe.accumulate, self._steps.batches)
        order = [(self.epoch, each) for each in rest]
        return DataLoader(
            self._steps, batch_size=None, sampler=order, num_workers=self._workers,
            multiprocessing_context="spawn" if self._workers else None, collate_fn=_as_it_is,  # type: ignore[arg-type]
        )  # fmt: skip

    def _spread(self) -> Any:
        if not spread():
            return self.objective
        places = [self._device.index] if self._device.type == "cuda" else None
        return DistributedDataParallel(self.objective, device_ids=places)

    def _cast(self) -> Any:
        kind = _HALVES.get(self.recipe.precision)
        return torch.autocast(self._device.type, kind) if kind else nullcontext()

    def _save(self) -> None:
        if not self.first:
            return
        self._out.mkdir(parents=True, exist_ok=True)
        state = {
            "key": self._key, "world": self._world,
            "epoch": self.epoch, "step": self._step, "sums": self._sums, "history": self.history,
            "objective": _trained(self.objective),
            "optimiser": self._optimiser.state_dict(), "scaler": self._scaler.state_dict(),
            "averaged": self._averaged and _trained(self._averaged),
        }  # fmt: skip
        part = self._out / "state.pt.part"
        torch.save(state, part)
        part.replace(self._out / "state.pt")

    def _resume(self) -> None:
        file = self._out / "state.pt"
        if not file.exists():
            return
        try:
            state = torch.load(file, map_location=self._device, weights_only=True)
            key = state["key"]
        except Exception as error:  # damage comes out as many kinds of error
            raise BadInput(f"{file} is damaged", "delete it: training then starts anew") from error
        if key != self._key:
            there = state.get("world", self._world)
            if there != self._world:  # its batches are others
                raise BadInput(
                    f"{self._out} holds a training by {there} processes, and {self._world} were started",
                    f"start {there}, or name another folder",
                )
            raise BadInput(
                f"{self._out} holds a training by another recipe or on other data", "name another folder"
            )
        self.objective.load_state_dict(state["objective"], strict=False)
        if self._averaged:
            self._averaged.load_state_dict(state["averaged"], strict=False)
        self._optimiser.load_state_dict(state["optimiser"])
        self._scaler.load_state_dict(state["scaler"])
        self.epoch, self._step = state["epoch"], state["step"]
        self._sums, self.history = state["sums"], state["history"]

    def _what(self, source: Source) -> str:
        """Recipe and data, in a few characters."""
        facts = {"recipe": asdict(self.recipe), "data": source.facts, "world": self._world}
        return hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()


def _freeze_unused(model: Adapted, recipe: Recipe) -> None:
    """What no loss reaches is not trained: it would only be decayed."""
    vlm = model.vlm
    bert, cls = vlm.text_encoder.bert, vlm.text_encoder.cls
    fusion = nn.ModuleList([*bert.encoder["layer"].children()][vlm.config.text_layers :])
    unused: list[nn.Module | None] = [
        None if recipe.imagine else model.imagined,
        None if recipe.box else vlm.bbox_head,
        None if recipe.itm else vlm.itm_head,
        None if recipe.has_identity else model.identity,
        None if recipe.contrast or recipe.itc or recipe.itm else vlm.vision_proj,
        None if recipe.itc or recipe.itm else vlm.text_proj,
        None if recipe.fuses else fusion,
        None if recipe.fuses or recipe.itc else bert,
        None if recipe.mlm or cls is None else cls.predictions.transform,
    ]
    for part in unused:
        if part is not None:
            part.requires_grad_(False)
    # A bias of keys shifts all scores of a query alike: where one query is all that is asked, it drops out.
    last = [p for name, p in vlm.named_parameters() if name.endswith("attention.self.key.bias")][-2:]
    words = None if recipe.mlm or cls is None else cls.predictions.bias
    temp = None if recipe.learn_temperature else vlm.temp
    for extra in (temp, vlm.absolute_frame_pos_embed, words, *last):
        if extra is not None:
            extra.requires_grad_(False)


def _trained(module: nn.Module) -> dict[str, Tensor]:
    """The state without what stays as it was."""
    fixed = {name for name, parameter in module.named_parameters() if not parameter.requires_grad}
    return {name: value for name, value in module.state_dict().items() if name not in fixed}


def _seed(*parts: int) -> None:
    torch.manual_seed(int(np.random.SeedSequence(parts).generate_state(1)[0]))


def _as_it_is(batch: Batch) -> Batch:
    return batch
