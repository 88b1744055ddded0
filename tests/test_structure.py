"""The shape of the house: what loads, what it costs to ask for help."""

import json
import subprocess
import sys

HEAVY = (
    "torch", "onnxruntime", "faiss", "PIL", "transformers", "lark", "rich.console", "matplotlib", "jinja2",
    "cv2", "tokenizers",
)  # fmt: skip


def loaded_by(statement: str) -> set[str]:
    code = f"{statement}; import sys, json; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(json.loads(done.stdout))


def test_the_package_and_its_command_line_load_nothing_heavy() -> None:
    assert loaded_by("import lookalike").isdisjoint((*HEAVY, "numpy"))
    assert loaded_by("import lookalike.cli").isdisjoint((*HEAVY, "numpy"))


def test_every_command_has_help() -> None:
    from typer.main import get_command

    from lookalike.cli import app

    command = get_command(app)
    assert command.help
    for name, sub in command.commands.items():  # type: ignore[attr-defined]
        assert sub.help, name
        for parameter in sub.params:
            assert getattr(parameter, "help", "documented"), f"{name} {parameter.name}"
