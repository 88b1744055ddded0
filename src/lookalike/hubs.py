"""Models of hubs: their folders as `save_pretrained` writes them, and loading in peace by transformers (5).

What is written here holds for models that describe pictures and for models that talk about them. Nothing is
downloaded, and transformers is imported only where a model is loaded.
"""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lookalike import weights
from lookalike.errors import WeightsError

LAYOUT = "name a folder that `save_pretrained` wrote, of the model and of its processor"

# transformers looks up its classes, its bars and its log for one thread at a time:
_one_by_one = threading.Lock()


def located(name_or_folder: str, role: weights.Role) -> tuple[str, Path]:
    """The name that finds a model again, and its folder: a pulled hub model of this role, or a folder.

    A folder's name is its full path. A known name comes before a folder called so. WeightsError where it is
    neither, or was not pulled.
    """
    known = weights.hub_names(role)
    if name_or_folder in known:
        weights.locate(name_or_folder, weights.default_folder())
        return name_or_folder, weights.default_folder() / name_or_folder
    folder = Path(name_or_folder).expanduser().resolve()
    if not folder.is_dir():
        raise WeightsError(
            f"{name_or_folder!r} is no folder and no hub model among the {role}s known by name",
            f"known: {', '.join(known)}; for another one, download it and name its folder",
        )
    return str(folder), folder


def read_json(path: Path) -> dict[str, Any]:
    """An object in a file of a model's folder; WeightsError where there is none."""
    try:
        read = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise WeightsError(f"{path.parent} holds no model: it lacks {path.name}", LAYOUT) from None
    except (OSError, ValueError) as error:  # ValueError: neither UTF-8 nor JSON
        raise WeightsError(f"{path} cannot be read: {error}", LAYOUT) from error
    if not isinstance(read, dict):
        raise WeightsError(f"{path} cannot be read: it is no JSON object", LAYOUT)
    return read


def weight_files(folder: Path) -> list[Path]:
    """The files that transformers reads, in their order; WeightsError where there is none that is safe."""
    if (folder / "model.safetensors").exists():
        return [folder / "model.safetensors"]
    index = folder / "model.safetensors.index.json"
    if index.exists():
        parts = [folder / name for name in sorted(set(read_json(index).get("weight_map", {}).values()))]
        if missing := [part for part in parts if not part.exists()]:
            raise WeightsError(f"{folder} is not whole: it lacks {missing[0].name}", LAYOUT)
        return parts
    if any(folder.glob("*.bin")) or any(folder.glob("*.pt")) or any(folder.glob("*.pth")):
        raise WeightsError(
            f"{folder} has its weights as a pickle only, and opening one can run anything",
            "get or make a copy in safetensors",
        )
    raise WeightsError(f"{folder} holds no model: it lacks model.safetensors", LAYOUT)


@contextmanager
def loading() -> Iterator[None]:
    """Within, transformers is this thread's alone, and neither logs nor draws bars for it.

    What matters is raised instead. All is as it was afterwards. The first versions 5 have no hook for their
    bars, which show then.
    """
    with _one_by_one:
        from transformers.utils import logging as output

        here = threading.get_ident()

        def from_elsewhere(record: logging.LogRecord) -> bool:
            return record.thread != here

        def bar(make: Any, args: Any, options: dict[str, Any]) -> Any:
            return make(*args, **options | ({"disable": True} if threading.get_ident() == here else {}))

        handlers = list(logging.getLogger("transformers").handlers)
        hook = getattr(output, "set_tqdm_hook", None)
        for handler in handlers:
            handler.addFilter(from_elsewhere)
        before = hook(bar) if hook else None
        try:
            yield
        finally:
            if hook:
                hook(before)
            for handler in handlers:
                handler.removeFilter(from_elsewhere)


def unfit(report: Mapping[str, Any]) -> str:
    """What of a model transformers would make up, by its loading report, in words; "" where it is nothing."""
    found = sorted({*report["missing_keys"], *(key for key, *_ in report["mismatched_keys"])})
    if not found:
        return ""
    return f"{len(found)} parts are missing or of the wrong size, the first {found[0]}"


def first_line(error: Exception) -> str:
    """What an error says, without the advice that transformers adds below; its kind where it says nothing."""
    return str(error).strip().partition("\n")[0] or type(error).__name__
