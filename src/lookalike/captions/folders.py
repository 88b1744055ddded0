"""Folders of models as `save_pretrained` writes them: what is known before anything is loaded."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lookalike import hubs, weights
from lookalike.errors import BadInput
from lookalike.hubs import read_json

PROCESSORS = {  # of the models that see, by config.json's model_type
    "llava": "LlavaProcessor",
    "llava_next": "LlavaNextProcessor",
    "llava_onevision": "LlavaOnevisionProcessor",
    "qwen2_vl": "Qwen2VLProcessor",
    "qwen2_5_vl": "Qwen2_5_VLProcessor",
    "qwen3_vl": "Qwen3VLProcessor",
    "qwen3_5": "Qwen3VLProcessor",
    "idefics3": "Idefics3Processor",
    "smolvlm": "Idefics3Processor",  # its own writes the same of a picture, but wants packages for video
    "blip-2": "Blip2Processor",
}
_ELSEWHERE = "serve it with an OpenAI-compatible server, and name that"


@dataclass(frozen=True, slots=True)
class ModelFolder:
    """A model that can be talked to."""

    path: Path
    kind: str  # config.json's model_type
    template: str  # of its chats; "" for BLIP-2, which has none
    digest: str  # of all that it consists of

    @classmethod
    def found(cls, name_or_folder: str) -> ModelFolder:
        """A hub model that was pulled, by its name with or without "hub:", or a folder.

        WeightsError where that holds no model that is safe to open, BadInput where the model is of another
        kind or has no chat template.
        """
        _, folder = hubs.located(name_or_folder.removeprefix("hub:"), "captioner")
        config = read_json(folder / "config.json")
        kind = str(config.get("model_type"))
        writes = any(str(name).endswith("ForCausalLM") for name in config.get("architectures") or ())
        if "auto_map" in config:
            raise BadInput(f"{folder} needs code that comes with it, which is never run", _ELSEWHERE)
        if kind not in PROCESSORS and not writes:
            raise BadInput(
                f"{folder} holds a model of the type {kind!r}, not one that writes or one of "
                f"{', '.join(PROCESSORS)}",
                _ELSEWHERE,
            )
        template = "" if kind == "blip-2" else _template(folder)
        if kind != "blip-2" and not template:
            raise BadInput(
                f"{folder} has no chat template, so how to talk to it is unknown",
                "take the model's instruction-tuned version, or add its chat_template.jinja",
            )
        return cls(folder, kind, template, _digest(folder, hubs.weight_files(folder)))

    @property
    def sees(self) -> bool:
        return self.kind in PROCESSORS


def _template(folder: Path) -> str:
    """The chat template, of the processor before the tokenizer's; "" where there is none."""
    if (folder / "chat_template.jinja").exists():
        return (folder / "chat_template.jinja").read_text(encoding="utf-8")
    for name in ("chat_template.json", "processor_config.json", "tokenizer_config.json"):
        if (folder / name).exists() and (kept := read_json(folder / name).get("chat_template")):
            if isinstance(kept, list):  # several, by name
                kept = next((each["template"] for each in kept if each.get("name") == "default"), "")
            return str(kept)
    return ""


def _digest(folder: Path, parts: Sequence[Path]) -> str:
    """Tells two models apart without reading all their gigabytes.

    sha256[:16] of the settings, vocabulary and template, whole, and of each file of weights its size and 64
    blocks of 4 KiB, spread evenly from its beginning (which lists the tensors) to its end.
    """
    digest = hashlib.sha256()
    small = {path for ending in ("json", "jinja", "txt", "model") for path in folder.glob(f"*.{ending}")}
    for path in sorted(small):
        digest.update(f"{path.name} {weights.sha256_of(path)};".encode())
    for part in parts:
        size = part.stat().st_size
        digest.update(f"{part.name} {size};".encode())
        with part.open("rb") as opened:
            for block in range(64):
                opened.seek(block * max(size - 4096, 0) // 63)
                digest.update(opened.read(4096))
    return digest.hexdigest()[:16]
