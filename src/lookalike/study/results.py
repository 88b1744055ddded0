"""What a study leaves behind: a file for each run, and all of them read again.

DIR/runs/ARM-SEED/PART.json     what one training came to on a part of the data
DIR/PART.json                   which queries these are, and what of them must stay together
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from lookalike.errors import BadInput
from lookalike.values import Floats


@dataclass(frozen=True, slots=True, eq=False)
class Measure:
    """Q queries, each with its plain AP, 0 to 1, and the rank from 1 of its first right answer; nan: none."""

    ap: Floats
    first: Floats

    def hits_at(self, k: int) -> Floats:
        """1 where a right answer is among the first k, 0 where not, nan where there is none: (Q,)."""
        return np.where(np.isnan(self.first), np.nan, self.first <= k)


@dataclass(frozen=True, slots=True, eq=False)
class Result:
    """One run: an arm trained with one seed. `measures` are by view."""

    arm: str
    seed: int
    steps: int
    seconds: float  # a processor's, of training
    recipe: Mapping[str, Any]
    about: Mapping[str, Any]
    measures: Mapping[str, Measure]
    facts: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def read(cls, file: Path) -> Self | None:
        """What is in a file; None where there is none, BadInput where it is damaged."""
        try:
            told = json.loads(file.read_bytes())
            measures = {
                view: Measure(*(np.array(each[name], np.float32) for name in ("ap", "first")))
                for view, each in told.pop("measures").items()
            }
            return cls(**told, measures=measures)
        except FileNotFoundError:
            return None
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            raise BadInput(f"{file} is damaged: {error}", "delete it: that part is measured again") from error

    def write(self, file: Path) -> None:
        told = {
            "arm": self.arm, "seed": self.seed, "steps": self.steps, "seconds": round(self.seconds, 2),
            "recipe": dict(self.recipe), "about": dict(self.about), "facts": dict(self.facts),
            "measures": {
                view: {"ap": _numbers(each.ap, 6), "first": _numbers(each.first, 0)}
                for view, each in self.measures.items()
            },
        }  # fmt: skip
        part = file.with_name(f"{file.name}.part")
        part.write_text(json.dumps(told), encoding="utf-8")
        part.replace(file)


@dataclass(frozen=True, slots=True, eq=False)
class Results:
    """All runs of a study on one part of the data: Q queries in `groups` (Q,), what must stay together."""

    groups: NDArray[Any]
    about: Mapping[str, Any]
    runs: Sequence[Result] = ()

    def of(self, arm: str) -> list[Result]:
        """By seed; none where the arm was not run."""
        return sorted((run for run in self.runs if run.arm == arm), key=lambda run: run.seed)

    def chosen(self, candidates: Mapping[str, Sequence[str]]) -> Self:
        """With more arms, by their names: for each seed the candidate that is best on the tuning part.

        A seed counts with which all candidates of a name were run.
        """
        more: list[Result] = []
        for name, arms in candidates.items():
            runs = [{run.seed: run for run in self.of(arm)} for arm in arms]
            for seed in sorted(set.intersection(*(set(each) for each in runs))):
                best = max((each[seed] for each in runs), key=lambda run: run.facts["tuning mAP"])
                more.append(replace(best, arm=name))
        return replace(self, runs=[*self.runs, *more])


def _numbers(values: Floats, digits: int) -> list[float | int | None]:
    return [
        None if np.isnan(each) else round(each, digits) if digits else round(each) for each in values.tolist()
    ]
