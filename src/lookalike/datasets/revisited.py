"""Revisited Oxford and Paris (Radenović et al., CVPR 2018): FOLDER/jpg and gnd_{roxford5k,rparis6k}.pkl.

The ground truth comes as a pickle, and a pickle can run any program when it is read. This one is read by an
unpickler that knows plain Python values and how numpy puts arrays and scalars together, and nothing else.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from lookalike.datasets.fields import ABSENT, corners, mapping, picture, sequence, texts
from lookalike.datasets.labelled import Dataset, Labelled, Side
from lookalike.datasets.listed import Unlisted
from lookalike.errors import BadInput
from lookalike.images import shown

_LARGEST = 100_000_000  # bytes of a ground truth; the real ones have less than one million
_TRUTHS = ("easy", "hard", "junk")


def revisited(folder: Path) -> Dataset:
    """The data set in this folder, of one split `test`; BadInput where there is no ground truth.

    First the queries, cropped to their `bbx`, then the gallery; ids are the names of the pictures. A query's
    truth are the "easy", "hard" and "junk" pictures of the gallery.
    """
    path = ground_truth(folder)
    if path is None:
        raise BadInput(f"{shown(folder)}: no gnd_roxford5k.pkl or gnd_rparis6k.pkl")
    return Dataset(path.stem.removeprefix("gnd_"), folder, ("test",), partial(_read, folder / "jpg", path))


def ground_truth(folder: Path) -> Path | None:
    """The pickle that makes a folder one of these data sets."""
    names = ("gnd_roxford5k.pkl", "gnd_rparis6k.pkl")
    return next((folder / name for name in names if (folder / name).is_file()), None)


def _read(jpg: Path, path: Path, split: str) -> Iterator[Labelled | Unlisted]:
    if split != "test":
        raise BadInput(f"no split {shown(split)} here", "splits: test")
    try:
        truth = mapping(_unpickled(path), "the file")
        lists = {field: _flat(truth.get(field, ABSENT)) for field in ("imlist", "qimlist", "gnd")}
        gallery, queries = texts(lists, "imlist"), texts(lists, "qimlist")
        answers = sequence(lists["gnd"], "gnd")
        if len(answers) != len(queries):
            raise BadInput(f"gnd: {len(answers)} entries for {len(queries)} qimlist")
        if len({*gallery, *queries}) != len(gallery) + len(queries):
            raise BadInput("imlist, qimlist: a picture stands there twice")
    except BadInput as error:
        raise BadInput(f"{shown(path)}: {error}", error.hint) from error
    return _regions(jpg, path, gallery, dict(zip(queries, answers, strict=True)))


def _regions(
    jpg: Path, path: Path, gallery: tuple[str, ...], queries: Mapping[str, Any]
) -> Iterator[Labelled | Unlisted]:
    region: Labelled | Unlisted
    for name, answers in queries.items():
        try:
            record = mapping(answers, "gnd")
            region = Labelled(
                id=name,
                source=picture(jpg / f"{name}.jpg"),
                side=Side.QUERY,
                identity=None,
                group=name,
                box=corners(_flat(record.get("bbx", ABSENT)), "bbx"),
                truth={kind: _names(_flat(record.get(kind, ABSENT)), kind, gallery) for kind in _TRUTHS},
            )
        except BadInput as error:
            region = Unlisted(str(path), f"{shown(path)}, query {shown(name)}: {error}")
        yield region
    for name in gallery:
        try:
            source = picture(jpg / f"{name}.jpg")
            region = Labelled(id=name, source=source, side=Side.GALLERY, identity=None, group=name)
        except BadInput as error:
            region = Unlisted(str(path), f"{shown(path)}, {shown(name)}: {error}")
        yield region


def _names(places: Any, field: str, gallery: tuple[str, ...]) -> tuple[str, ...]:
    """The names of the gallery pictures at these places, which count from 0."""
    for place in sequence(places, field):
        if type(place) is not int or not 0 <= place < len(gallery):
            raise BadInput(f"{field}: {place!r} is no place in imlist, which has {len(gallery)}")
    return tuple(gallery[place] for place in places)


def _unpickled(path: Path) -> Any:
    """What the pickle holds."""
    try:
        if path.stat().st_size > _LARGEST:
            raise BadInput(f"more than {_LARGEST / 1e6:g} MB, which no ground truth has")
        with open(path, "rb") as file:
            return _Unpickler(file, encoding="latin1").load()
    except BadInput:
        raise
    except OSError as error:
        raise BadInput(f"cannot be read: {error.strerror}") from error
    except Exception as error:  # on a broken pickle the unpickler and numpy raise nearly anything
        raise BadInput(f"not a pickle of a ground truth: {shown(str(error))[:200]}") from error


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        """What a pickle may call: made anew each time, so that it cannot change anything either."""
        making = _allowed().get((module.replace("numpy._core.", "numpy.core."), name))
        if making is None:
            raise BadInput(
                f"the pickle wants to use {shown(module)}.{shown(name)}, which no ground truth needs",
                "do not open this file with anything else; take it from the authors' page",
            )
        return making


def _allowed() -> dict[tuple[str, str], Callable[..., Any]]:
    import numpy as np
    from numpy._core import multiarray

    return {
        ("numpy", "ndarray"): np.ndarray,
        ("numpy", "dtype"): np.dtype,
        ("numpy.core.multiarray", "_reconstruct"): multiarray._reconstruct,
        ("numpy.core.multiarray", "scalar"): multiarray.scalar,
        ("numpy.core.numeric", "_frombuffer"): lambda data, kind, shape, order: np.frombuffer(
            data, kind
        ).reshape(shape, order=order),
        # how protocols 0 to 2 write bytes:
        ("_codecs", "encode"): lambda text, _: text.encode("latin1"),
        ("__builtin__", "bytes"): lambda: b"",
    }


def _flat(value: Any) -> Any:
    """An array, or a list of numpy's scalars, as a list of Python's own; anything else as it is."""
    import numpy as np

    if isinstance(value, np.ndarray) and value.nbytes <= _LARGEST:
        return value.tolist()
    if isinstance(value, list | tuple):
        return [each.item() if isinstance(each, np.generic) else each for each in value]
    return value
