"""Commands on model weights."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import typer

from lookalike.cli.output import JsonOption, bar, print_json, say
from lookalike.errors import BadInput, LookalikeError, MissingExtra

models = typer.Typer(help="Model weights: list, pull, info, export.", no_args_is_help=True)

ModelsFolder = Annotated[
    Path | None, typer.Option("--folder", metavar="FOLDER", help="Where models are kept; ~/.cache/lookalike.")
]


@models.command("list")
def models_list(folder: ModelsFolder = None, as_json: JsonOption = False) -> None:
    """All models known by name, and which are on this machine."""
    from lookalike import weights

    facts = [_model_facts(record, folder) for record in weights.records()]
    if as_json:
        print_json({"models": facts})
        return
    for fact in facts:
        here = "here" if fact["here"] else "-"
        typer.echo(f"{fact['name']:20} {here:5} {fact['role']:15} {fact['about']}")


@models.command("pull")
def models_pull(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A name from `models list`.")],
    folder: ModelsFolder = None,
) -> None:
    """Fetch a model, check its checksums, and keep it. Stopped, run it again."""
    from lookalike import weights

    with bar(f"pulling {name}") as on_progress:
        files = weights.pull(name, folder or weights.default_folder(), on_progress)
    for file in files:
        say(str(file))


@models.command("info")
def models_info(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A name from `models list`.")],
    folder: ModelsFolder = None,
    as_json: JsonOption = False,
) -> None:
    """A model's files, checksums, preprocessing and licence."""
    from lookalike import weights

    facts = _model_facts(weights.record(name), folder)
    if as_json:
        print_json(facts)
        return
    for key, value in facts.items():
        if key == "files":
            for file in value:
                typer.echo(f"{'file':14} {file['name']}  {file['bytes']:,} bytes  sha256 {file['sha256']}")
        else:
            typer.echo(f"{key:14} {value}")


@models.command("export")
def models_export(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="A trained model's folder, or x2vlm:FILE, a checkpoint.")
    ],
    out: Annotated[Path, typer.Option("--out", metavar="FILE.onnx", help="The file to write.")],
    half: Annotated[
        bool, typer.Option("--half", help="Keep weights in half precision: half the size, nearly the same.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Write a model as one ONNX file for `--encoder FILE.onnx`, which needs no torch."""
    if out.suffix != ".onnx":
        raise BadInput(f"{out} does not end in .onnx", "by that an encoder is known to be an exported one")
    if not all(map(find_spec, ("torch", "safetensors", "onnx"))):
        raise MissingExtra("exporting a model", "export")
    from lookalike.learn.branches import located
    from lookalike.learn.export import export

    saved, blank, name = located(model)
    made = export(saved, blank, out, half)
    if as_json:
        print_json({"model": name, "file": str(out), "bytes": made.bytes, "parity": dict(made.parity)})
        return
    say(f"{out}: {made.bytes:,} bytes; how far each branch is from torch:")
    for branch, apart in made.parity.items():
        typer.echo(f"{branch:10} {apart:.1e}")


def _model_facts(record: Any, folder: Path | None) -> dict[str, Any]:
    from lookalike import weights

    try:
        here = bool(weights.locate(record.name, folder or weights.default_folder()))
    except LookalikeError:
        here = False
    return {
        "name": record.name,
        "role": record.role,
        "about": record.about,
        "licence": record.licence,
        "here": here,
        "verified": record.verified,
        "dim": record.dim,
        "preprocessing": dict(record.preprocessing) if record.preprocessing else None,
        "source": str(record.source),
        "files": [{"name": f.name, "bytes": f.size, "sha256": f.sha256} for f in record.files],
    }
