"""What a worker does: it opens its parts once, then makes one fragment after the other."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lookalike import building, objects, settings, weights
from lookalike.datasets import Listed
from lookalike.errors import BadInput, CatalogueError, LookalikeError
from lookalike.jobs.orders import Asked, Order, Outcome, check_version
from lookalike.roles import Captioner
from lookalike.store import Build, Plan, Planned

KEY = "LOOKALIKE_API_KEY"


class Worker:
    """An actor of the pipeline: from the number of a fragment to its outcome.

    It raises nothing. What goes wrong is told in the outcome, and the job ends with it: only a worker that is
    lost has its fragment made again, by another.
    """

    def __init__(self, order: Order) -> None:
        self._wrong: LookalikeError | None = None
        try:
            self._open(order)
        except Exception as error:
            self._wrong = located(error)

    def __call__(self, row: Mapping[str, Any]) -> Outcome:
        fragment = int(row["fragment"])
        if self._wrong is not None:
            return _outcome(fragment, error=self._wrong)
        try:
            return self._make(fragment)
        except Exception as error:
            return _outcome(fragment, error=located(error))

    def _open(self, order: Order) -> None:
        check_version(order["version"])
        try:
            self._build = Build.open(order["uri"])
        except CatalogueError as error:
            raise CatalogueError(str(error), "a build lies where all machines of the cluster write") from None
        facts, threads = order["facts"], order["threads"]
        encoder = settings.open_encoder(facts["encoder"], threads)
        captioner = _captioner(order["captions"])
        parts, ours = settings.parts_of_build(order["uri"], settings.Settings(encoder=encoder), captioner)
        self._build.check(ours, order["plan"])
        self._plan, self._threads = Plan.open(order["uri"]), threads
        self._parts = building.weighing(self._build, self._plan, parts)

    def _make(self, fragment: int) -> Outcome:
        planned = self._plan.entries(fragment)
        _check_seen(planned)
        made = building.fragment_rows(planned, self._parts, threads=self._threads)
        if not self._build.write(fragment, made.rows, made.about()):
            return _outcome(fragment, encoder_seconds=made.encoder_seconds)
        return _outcome(fragment, made.encoded, made.encoder_seconds, self._build.told(fragment))


def _captioner(asked: Asked | None) -> Captioner | None:
    if asked is None:
        return None
    from dataclasses import replace

    kept = weights.default_folder() / "captions.sqlite"
    return settings.open_captioner(
        asked.captioner, replace(asked.asking, key=os.environ.get(KEY), cache=kept)
    )


def _check_seen(planned: Sequence[Planned]) -> None:
    """BadInput where all of a fragment's files are missing here: then it is the machine that lacks them."""
    files = [
        each for each in planned if isinstance(each.entry, Listed) and not objects.is_uri(each.entry.source)
    ]
    if files and not any(Path(each.entry.source).exists() for each in files):
        raise BadInput(
            f"workers do not see {files[0].origin}: none of {len(files)} pictures is there",
            "put them where every machine reads them under the same name: s3://…, or a shared folder",
        )


def located(error: Exception) -> LookalikeError:
    """An error in one line that names the machine; what nobody foresaw goes to the worker's log as it is."""
    where = f"on {socket.gethostname()}"
    if isinstance(error, LookalikeError):
        return LookalikeError(f"{where}: {error}", error.hint)
    logging.getLogger(__name__).error("a worker failed", exc_info=error)
    line = str(error).strip().split("\n", 1)[0]
    return LookalikeError(
        f"{where}: {type(error).__name__}: {line}", "the rest stands in the logs of Ray on that machine"
    )


def _outcome(
    fragment: int,
    encoded: int = 0,
    encoder_seconds: float = 0.0,
    told: str = "",
    error: LookalikeError | None = None,
) -> Outcome:
    return {
        "fragment": fragment,
        "encoded": encoded,
        "encoder_seconds": encoder_seconds,
        "told": told,
        "error": _as_text(str(error)) if error else "",
        "hint": _as_text(error.hint) if error else "",
    }


def _as_text(said: str) -> str:
    """Names of files may hold bytes that no column of text takes."""
    return said.encode("utf-8", "backslashreplace").decode()
