"""The command that trains a model."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import closing, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lookalike import __version__
from lookalike.cli.measuring import DatasetArgument
from lookalike.cli.output import JsonOption, OnProgress, bars, print_json, say, tell
from lookalike.errors import BadInput, MissingExtra

if TYPE_CHECKING:
    import torch

    from lookalike.captions import FileCaptions
    from lookalike.datasets import Dataset
    from lookalike.learn.recipes import Recipe
    from lookalike.learn.saved import Saved
    from lookalike.learn.session import Data, Stage
    from lookalike.learn.train import Trainer


def train(
    dataset: DatasetArgument,
    out: Annotated[Path, typer.Option("--out", metavar="MODEL", help="The folder of the model.")],
    recipe_name: Annotated[
        str, typer.Option("--recipe", metavar="NAME", help="compact, or x2vlm for a checkpoint.")
    ] = "compact",
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="NAME=VALUE", help="Change the recipe; may be given several times."),
    ] = None,
    checkpoint: Annotated[
        Path | None, typer.Option("--checkpoint", metavar="FILE", help="An official X²-VLM to start from.")
    ] = None,
    resolution: Annotated[
        int | None, typer.Option("--resolution", metavar="PIXELS", help="Another than the checkpoint's.")
    ] = None,
    split: Annotated[
        str | None, typer.Option("--split", metavar="NAME", help="What to train on; training.")
    ] = None,
    held_out: Annotated[
        str | None, typer.Option("--held-out", metavar="NAME", help="Where mAP is watched; tuning.")
    ] = None,
    tokens: Annotated[
        Path | None,
        typer.Option("--tokens", metavar="FOLDER", help="Where trainings may share what the towers see."),
    ] = None,
    captions: Annotated[
        Path | None,
        typer.Option("--captions", metavar="FILE", help="Captions by lookalike caption, for DATASET's own."),
    ] = None,
    views: Annotated[
        int, typer.Option("--views", min=1, help="Views kept of each region, for frozen towers.")
    ] = 4,
    device: Annotated[
        str | None, typer.Option("--device", metavar="NAME", help="cpu, cuda; the fastest there is.")
    ] = None,
    workers: Annotated[
        int, typer.Option("--workers", min=0, help="Processes that read pictures, for trained towers.")
    ] = 0,
    as_json: JsonOption = False,
) -> None:
    """Train a model on a labelled data set. Killed, run it again: it goes on."""
    try:
        import torch
    except ImportError:
        raise MissingExtra("training", "train") from None
    from lookalike.captions import FileCaptions
    from lookalike.datasets import open_dataset
    from lookalike.learn.processes import agree, joined
    from lookalike.learn.recipes import recipe
    from lookalike.learn.session import begin, finish, new_model, parts

    with joined(device != "cpu" and torch.cuda.is_available(), tell) as together:
        place = _place(device)
        wanted = recipe(recipe_name, settings or [])
        said = None if captions is None else FileCaptions(captions)
        given = {"--resolution": resolution, "--views": views, "--captions": said and said.name}
        given |= {f"the recipe's {name}": value for name, value in asdict(wanted).items()}
        agree({"the version of lookalike": __version__, "the version of torch": torch.__version__, **given})
        model, new = new_model(wanted, checkpoint, resolution)
        chosen = parts(open_dataset(dataset), split, held_out)
        quiet = as_json or not together.first
        with bars(together.first) as stage:
            folder = tokens or out / "tokens"
            # What frozen towers see is made by the first process and found on disk by the others.
            with together.in_turn() if wanted.trunk == "compact" else nullcontext():
                data = _data(wanted, model, *chosen, said, folder, views, stage, say=not quiet)
            about = {"lookalike": __version__, "checkpoint": str(checkpoint or "")}
            about |= {"captions": said.name} if said else {}
            trainer = begin(model, new, data, wanted, out, about, place, workers)
            _train(trainer, out, stage, quiet)
        if trainer.first:
            _tell(finish(out, data, place), trainer, out, as_json)


def _train(trainer: Trainer, out: Path, stage: Stage, quiet: bool) -> None:
    """All epochs, each a line; written down in `out` as they come, for people and for TensorBoard."""
    from lookalike.learn.journal import Journal

    if trainer.history and not quiet:
        say(f"going on after epoch {len(trainer.history)}")
    journal = Journal(out, trainer.history) if trainer.first else None
    with closing(journal) if journal else nullcontext():
        for epoch in trainer.run(stage("epochs")):
            if journal:
                journal.add(epoch)
            if not quiet:
                say(_line(epoch))


def _data(
    recipe: Recipe, model: Any, dataset: Dataset, split: str, held_out: str, captions: FileCaptions | None,
    folder: Path, views: int, stage: Stage, say: bool,
) -> Data:  # fmt: skip
    from lookalike.learn.session import cell_data, picture_data

    if recipe.trunk == "x2vlm":
        return picture_data(dataset, split, held_out, model.vlm.config, captions)
    from lookalike.encoders import EfficientNet, MiniLM
    from lookalike.learn.tokens import size_of

    encoder = EfficientNet(threads=1)

    def told(what: str) -> OnProgress:
        report = stage(what)

        def on_progress(done: int, total: int | None, note: str = "") -> None:
            if say and done == 0 and total and what == "training":
                size = size_of(total, views, encoder) / 1e6
                typer.echo(f"{total:,} regions in {views} views take {size:,.0f} MB in {folder}")
            report(done, total)

        return on_progress

    return cell_data(dataset, split, held_out, folder, encoder, MiniLM, views, told, captions)


def _place(device: str | None) -> torch.device:
    """The device of this process: on a machine with several GPUs the one of its number there."""
    import torch

    name = device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        place = torch.device(name, int(os.environ.get("LOCAL_RANK", "0"))) if name == "cuda" else name
        torch.empty(0, device=place)
        if name == "cuda":
            torch.cuda.set_device(place)
    except (RuntimeError, AssertionError) as error:
        raise BadInput(
            f"no device {name!r} here: {str(error).splitlines()[0]}", "cpu is always there"
        ) from None
    return torch.device(place)


def _line(epoch: Mapping[str, float]) -> str:
    """One epoch: score, each loss and the norm of its gradient."""
    parts = [
        f"{name} {epoch[name]:.3f} ({epoch[f'norm {name}']:.2f})" for name in epoch if f"norm {name}" in epoch
    ]
    return f"epoch {epoch['epoch']:3.0f}  mAP {epoch['mAP']:.4f}  {'  '.join(parts)}"


def _tell(saved: Saved, trainer: Trainer, out: Path, as_json: bool) -> None:
    scores, found = saved.about["scores"], saved.about.get("held out", {})
    if as_json:
        print_json({"model": str(out), "epochs": trainer.history, "kept": scores, "held out": found})
        return
    say(f"kept: epoch {scores['epoch']:.0f}, mAP {scores['mAP']:.4f} on held-out identities")
    for kind, boxes in found.get("boxes", {}).items():
        say(f"boxes in whole pictures, {kind}: IoU {boxes['iou']:.3f}, at least .5 in {boxes['acc@.5']:.1%}")
    if imagined := found.get("imagined"):
        say(f"imagined captions: cosine {imagined['cosine']:.3f} to the true ones' embeddings")
    if guard := found.get("guard"):
        say(
            f"guard: from {guard['threshold']:.3f} believes {guard['believed']:.1%} of right sentences "
            f"and refuses {guard['refused']:.1%} of others'"
        )
    say(f"{out}: lookalike eval DATASET --encoder {out} --out RUN, or lookalike models export {out}")
