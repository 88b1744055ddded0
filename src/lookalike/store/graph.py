"""The file of a search graph: `index/regions.hnsw`, derived from the table and thrown away without loss.

Layout: faiss's own bytes (graph and fp16 rows), region keys, item keys, a footer that says what it is of.
It is mapped, not read: processes that search the same catalogue share its pages.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from lookalike.store.database import replacing
from lookalike.store.vectors import BLOCK, Gallery, Graph, load_faiss
from lookalike.values import Keys

_MAGIC = b"LOOKHNSW"
_FOOTER = struct.Struct("<QQQQQI8s")
_LINKS = 32  # HNSW's M: links per row, twice as many on the lowest level
_CARE = 120  # HNSW's efConstruction
_ADDED = 8192  # rows between two reports of progress
_HASHED = 1 << 24  # bytes written and checked at a time


@dataclass(frozen=True, slots=True)
class _Footer:
    """What a graph was built from."""

    epoch: int
    dim: int
    size: int
    last: int  # the highest region key that existed
    removals: int  # the number of the last removal that it takes into account
    checksum: int  # of all bytes before the footer

    @classmethod
    def of(cls, content: NDArray[np.uint8]) -> Self | None:
        """The footer of a whole file; None where the file is damaged or something else."""
        if len(content) < _FOOTER.size:
            return None
        *fields, magic = _FOOTER.unpack(content[-_FOOTER.size :].tobytes())
        footer = cls(*fields)
        whole = magic == _MAGIC and footer.checksum == _checksum(content[: -_FOOTER.size])
        return footer if whole else None

    def packed(self) -> bytes:
        return _FOOTER.pack(*astuple(self), _MAGIC)


def stamp(path: Path) -> tuple[int, ...] | None:
    """Changes when the file does; None where there is none."""
    try:
        stat = path.stat()
    except OSError:
        return None
    return stat.st_ino, stat.st_size, stat.st_mtime_ns


def load(path: Path, epoch: str, dim: int, newest: int) -> Gallery | None:
    """The gallery a graph was built from, rows still in the file; None for a missing, damaged or foreign one.

    `newest` is the highest region key the table ever gave out.
    """
    try:
        content = np.memmap(path, np.uint8, mode="r")
    except (OSError, ValueError):  # ValueError: an empty file
        return None
    footer = _Footer.of(content)
    if footer is None or (footer.epoch, footer.dim) != (int(epoch), dim) or footer.last > newest:
        return None
    faiss = load_faiss()
    end = len(content) - _FOOTER.size
    owners = _column(content, end - 8 * footer.size, footer.size)
    keys = _column(content, end - 16 * footer.size, footer.size)
    try:
        index = faiss.read_index(faiss.ZeroCopyIOReader(faiss.swig_ptr(content), len(content)))
    except RuntimeError:  # written by a faiss with another format
        return None
    index.referenced_objects = [content]
    rows = _rows(content, index, dim)
    return Gallery(
        keys=keys, owners=owners, alive=np.ones(footer.size, bool), dim=dim, epoch=epoch, last=footer.last,
        blocks=tuple(rows[start : start + BLOCK] for start in range(0, len(rows), BLOCK)),
        removals=footer.removals, graph=Graph(index, footer.size),
    )  # fmt: skip


def build(gallery: Gallery, path: Path, on_progress: Callable[[int, int], None] | None = None) -> None:
    """Write the graph of a gallery's living rows to `path`, where it is whole or not at all."""
    faiss = load_faiss()
    index = faiss.IndexHNSWSQ(gallery.dim, faiss.ScalarQuantizer.QT_fp16, _LINKS, faiss.METRIC_INNER_PRODUCT)
    index.hnsw.efConstruction = _CARE
    keys, owners = [], []
    for some_keys, some_owners, rows in gallery.living(_ADDED):
        index.add(rows.astype(np.float32))
        keys.append(some_keys)
        owners.append(some_owners)
        if on_progress is not None:
            on_progress(index.ntotal, len(gallery))

    with replacing(path) as unfinished, open(unfinished, "wb") as file:
        checksum = 0

        def write(part: bytes) -> None:
            nonlocal checksum
            checksum = zlib.crc32(part, checksum)
            file.write(part)

        faiss.write_index(index, faiss.PyCallbackIOWriter(write, _HASHED))
        write(np.concatenate(keys).astype("<i8").tobytes())
        write(np.concatenate(owners).astype("<i8").tobytes())
        footer = _Footer(
            int(gallery.epoch), gallery.dim, index.ntotal, gallery.last, gallery.removals, checksum
        )
        file.write(footer.packed())


def _checksum(content: NDArray[np.uint8]) -> int:
    checksum = 0
    for start in range(0, len(content), _HASHED):
        checksum = zlib.crc32(content[start : start + _HASHED].data, checksum)
    return checksum


def _column(content: NDArray[np.uint8], start: int, size: int) -> Keys:
    """A copy, because the map's bytes need not be aligned."""
    return np.frombuffer(content[start : start + 8 * size].tobytes(), "<i8").astype(np.int64)


def _rows(content: NDArray[np.uint8], index: Any, dim: int) -> NDArray[np.float16]:
    """The descriptors (N, D) inside the mapped file."""
    faiss = load_faiss()
    codes = faiss.downcast_index(index.storage).codes
    start = faiss.rev_swig_ptr(codes.data(), codes.size()).ctypes.data - content.ctypes.data
    return content[start : start + codes.size()].view(np.float16).reshape(-1, dim)
