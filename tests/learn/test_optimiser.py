"""AdamW, its groups and its schedule against what the authors' code does."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from lookalike.learn.models.x2vlm import X2VLM, X2VLMConfig
from lookalike.learn.optimiser import AdamW, groups, linear_schedule

FACTS = json.loads((Path(__file__).parents[1] / "golden" / "x2vlm" / "facts.json").read_text())


def test_the_trajectory_of_a_decayed_parameter() -> None:
    facts = FACTS["adamw_trajectory"]
    parameter = torch.nn.Parameter(torch.tensor(facts["p0"]))
    optimiser = AdamW([{"params": [parameter], "times": 1.0, "decay": facts["weight_decay"]}], facts["lr"])
    for gradient, after in zip(facts["grads"], facts["p_after_each_step"], strict=True):
        parameter.grad = torch.tensor(gradient)
        optimiser.step()
        np.testing.assert_allclose(parameter.detach(), after, atol=1e-6)


def test_which_parameters_are_decayed() -> None:
    model = X2VLM(X2VLMConfig.tiny())
    decayed, plain = (group["params"] for group in FACTS["optimizer"]["retrieval_model_all_loaded"][:2])
    named = {name.replace("bert.", ""): parameter for name, parameter in model.named_parameters()}
    wanted = {name: named[name] for name in [*decayed, *plain]}
    one, other = sorted(groups(wanted.items(), 0.01), key=lambda group: -group["decay"])
    assert [id(p) for p in one["params"]] == [id(wanted[n]) for n in wanted if n in set(decayed)]
    assert [id(p) for p in other["params"]] == [id(wanted[n]) for n in wanted if n in set(plain)]
    assert (one["decay"], other["decay"]) == (0.01, 0.0)


def test_new_heads_learn_faster_and_frozen_weights_not_at_all() -> None:
    model = X2VLM(X2VLMConfig.tiny())
    model.vision_encoder.requires_grad_(False)
    made = groups(model.named_parameters(), 0.01, lambda name: 2.0 if name.startswith("bbox_head") else 1.0)
    assert {(group["times"], group["decay"]) for group in made} == {
        (times, decay) for times in (1.0, 2.0) for decay in (0.0, 0.01)
    }
    held = {id(parameter) for group in made for parameter in group["params"]}
    assert held == {id(p) for p in model.parameters() if p.requires_grad}
    optimiser = AdamW(made, 0.1)
    optimiser.set_rate(0.5)
    assert {(group["times"], group["lr"]) for group in optimiser.param_groups} == {(1.0, 0.5), (2.0, 1.0)}


@pytest.mark.parametrize(
    "facts", [each for each in FACTS["linear_schedule"] if each["args"]["min_rate"] == 0]
)
def test_the_schedule(facts: dict) -> None:
    steps = facts["args"]["epochs"] * facts["args"]["step_per_epoch"]
    ours = [linear_schedule(step, steps, facts["args"]["num_warmup_steps"]) for step in range(steps)]
    np.testing.assert_allclose(ours, facts["multiplier_per_step"][:steps], atol=1e-9)
