"""How the models are spoken to: each strategy's texts and parameters, in numbered files under `wordings/`.

A version that has been published is never edited: what it says is part of what a caption was made of.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from string import Template
from typing import Any, Literal

from lookalike.errors import unknown_name

_WORDINGS = Path(__file__).with_name("wordings")


@dataclass(frozen=True, slots=True)
class Preset:
    """A version's parameters. What a strategy has no use for keeps its default."""

    temperature: float = 0.0  # of the first sample
    sampled: float = 0.7  # temperature of the others
    reply_tokens: int = 400  # for a reply with every attribute
    question_tokens: int = 48
    answer_tokens: int = 200
    summary_tokens: int = 120
    rounds: int = 10  # questions of a dialogue, the fixed first one too
    context: int = 10  # earlier questions that the answerer is shown with their answers
    published: bool = False  # the dialogue as its paper has it: nothing is checked, nothing ends it early
    follow_ups: int = 3  # targeted questions at most
    asking: Literal["each", "chosen", "together"] = "each"  # calls: one a question, as the LLM chooses, one
    confused: tuple[str, ...] = ()  # attributes that models often get wrong

    def heat(self, sample: int) -> float:
        """The temperature at which a sample is asked for."""
        return self.temperature if sample == 0 else self.sampled


@dataclass(frozen=True, slots=True)
class Prompt:
    """One version of a strategy's texts, and the parameters it goes with."""

    strategy: str
    version: str
    texts: Mapping[str, Template]
    preset: Preset

    def says(self, name: str, **values: str) -> str:
        """The text of that name with `values` in the places of its $names; a `$` in a value stays a `$`."""
        return self.texts[name].substitute(values)


def load(strategy: str, version: str | None = None) -> Prompt:
    """A strategy's prompt; None is the last numbered version. BadInput names what there is."""
    known = versions(strategy)
    version = known[-1] if version is None else version
    if version not in known:
        raise unknown_name(f"prompt for {strategy}", version, known)
    with open(_WORDINGS / f"{strategy}-{version}.toml", "rb") as file:
        told: dict[str, Any] = tomllib.load(file)
    preset = told.get("preset", {})
    if "confused" in preset:
        preset["confused"] = tuple(preset["confused"])
    texts = {name: Template(_unwrapped(text)) for name, text in told["texts"].items()}
    return Prompt(strategy, version, texts, Preset(**preset))


def versions(strategy: str) -> list[str]:
    """A strategy's prompts, the numbered ones last and in their order; BadInput for an unknown strategy."""
    found: dict[str, list[str]] = {}
    for file in _WORDINGS.glob("*.toml"):
        name, version = file.stem.split("-")
        found.setdefault(name, []).append(version)
    if strategy not in found:
        raise unknown_name("strategy", strategy, sorted(found))
    return sorted(found[strategy], key=lambda name: (name.isdigit(), name.zfill(4)))


def _unwrapped(text: str) -> str:
    """A text as it is sent: lines of the file are wrapped, an empty line begins a new one."""
    return "\n".join(" ".join(lines.split()) for lines in text.strip().split("\n\n"))
