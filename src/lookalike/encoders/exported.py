"""A model's branches out of the one ONNX file that `lookalike models export` writes, without torch.

The file is an ONNX model like any other. Its metadata can be read, and its content checked, without loading
it: that is what `Contents` does, and what opening a catalogue costs.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Self

import numpy as np

from lookalike.encoders.adapted import AdaptedEncoder, Facts
from lookalike.encoders.efficientnet import cores, session_options
from lookalike.errors import BadInput, WeightsError
from lookalike.trust import Trust
from lookalike.values import Floats, Keys

SHIPPED = Path(__file__).with_name("compact.onnx")
FORMAT = "lookalike adapted 1"
GRAPH, METADATA = 7, 14  # the numbers of these fields in ONNX's ModelProto
_AGAIN = "write it again: lookalike models export MODEL --out FILE.onnx"
_TYPES = {"tensor(float)": np.float32, "tensor(int64)": np.int64}


class OnnxBranches:
    """The branches in a file, run by onnxruntime on `threads` cores, None for all that the process may use.

    WeightsError where the file is absent, damaged or something else. The first pass loads the network.
    """

    def __init__(self, path: Path, threads: int | None = None, name: str = "") -> None:
        """`name` is what the file is found by again, its path where that is empty."""
        self._path = path.expanduser().resolve()
        self._threads = threads or cores()
        contents = Contents.read(self._path)
        self.name = name or str(self._path)
        self.facts = _facts(contents, self._path)
        self.branches: tuple[str, ...] = tuple(json.loads(contents.metadata["branches"]))
        self._opening = threading.Lock()
        self._opened: Any = None

    def run(self, branch: str, **arrays: Floats | Keys) -> Floats:
        """BadInput for a branch that the file lacks; see `Branches`."""
        if branch not in self.branches:
            raise BadInput(
                f"{self._path.name} has no branch {branch!r}", f"it has {', '.join(self.branches)}"
            )
        session = self._session()
        # Every input has to be given, also those that the branch does not read: these come empty.
        given: dict[str, Any] = {
            each.name: np.empty(
                [side if isinstance(side, int) else 0 for side in each.shape], _TYPES[each.type]
            )
            for each in session.get_inputs()
        }
        given |= arrays | {"branch": np.array(self.branches.index(branch))}
        (result,) = session.run(["result"], given)
        return np.asarray(result if branch in ("tokens", "words") else result[:, 0])

    def _session(self) -> Any:
        with self._opening:
            if self._opened is None:
                self._opened = _open(self._path, self._threads)
            return self._opened


def compact(threads: int | None = None) -> AdaptedEncoder:
    """The small trained model that ships inside the package; docs/model.md says on what it was trained."""
    return AdaptedEncoder(OnnxBranches(SHIPPED, threads, name="compact"), threads=threads)


@dataclass(frozen=True, slots=True)
class Contents:
    """The metadata of an ONNX file, and the sha256 of its graph with all weights."""

    metadata: Mapping[str, str]
    graph: str

    @classmethod
    def read(cls, path: Path) -> Self:
        """WeightsError where the file cannot be read or ends too early, or is no ONNX file."""
        metadata: dict[str, str] = {}
        graph = ""
        try:
            with path.open("rb") as file:
                size = path.stat().st_size
                for field, length in _fields(file, size):
                    if field == GRAPH:
                        graph = _sha256(file, length)
                    elif field == METADATA:
                        end = file.tell() + length
                        pair = [file.read(inner).decode() for _, inner in _fields(file, end)]
                        metadata[pair[0]] = pair[1]
                    else:
                        file.seek(length, 1)
        except OSError as error:
            raise WeightsError(
                f"{path} cannot be read: {error.strerror}", "was it moved? put a link in its place"
            ) from None
        except (ValueError, IndexError):
            raise WeightsError(f"{path} is damaged, or no ONNX file", _AGAIN) from None
        return cls(metadata, graph)


def _fields(file: BinaryIO, end: int) -> Iterator[tuple[int, int]]:
    """The numbers and lengths of a protobuf message's fields up to `end`; the caller reads each one's bytes.

    Numbers, which have no length, are passed over. ValueError where it is no such message.
    """
    while file.tell() < end:
        key = _varint(file)
        if key & 7 == 0:
            _varint(file)
        elif key & 7 == 2:
            length = _varint(file)
            if length > end - file.tell():
                raise ValueError("it ends too early")
            yield key >> 3, length
        else:
            raise ValueError("a kind of field that ONNX does not use")


def _varint(file: BinaryIO) -> int:
    value = 0
    for shift in range(0, 70, 7):
        byte = file.read(1)
        if not byte:
            raise ValueError("it ends too early")
        value |= (byte[0] & 127) << shift
        if byte[0] < 128:
            return value
    raise ValueError("a number without end")


def _sha256(file: BinaryIO, length: int) -> str:
    digest = hashlib.sha256()
    while length:
        part = file.read(min(length, 1 << 20))
        if not part:
            raise ValueError("it ends too early")
        digest.update(part)
        length -= len(part)
    return digest.hexdigest()


def checksum(graph: str, metadata: Mapping[str, str]) -> str:
    """Of all that decides what a file computes: its graph, by its sha256, its facts and its branches."""
    return hashlib.sha256("; ".join((graph, metadata["facts"], metadata["branches"])).encode()).hexdigest()


def _facts(contents: Contents, path: Path) -> Facts:
    found = contents.metadata
    if not found.get("format", "").startswith(FORMAT.rpartition(" ")[0]):
        raise WeightsError(f"{path} is another model than lookalike exports", _AGAIN)
    if found["format"] != FORMAT:
        raise WeightsError(f"{path} was written by another version of lookalike", _AGAIN)
    try:
        if found["sha256"] != checksum(contents.graph, found):
            raise WeightsError(f"{path} is damaged, its checksum differs", _AGAIN)
        facts = json.loads(found["facts"])
        trust = facts.pop("trust", None)
        return Facts(**facts, trust=trust and Trust(**trust), fingerprint=found["sha256"])
    except (KeyError, TypeError, ValueError) as error:
        raise WeightsError(f"{path} is damaged: {error}", _AGAIN) from error


def _open(path: Path, threads: int) -> Any:
    import onnxruntime

    try:
        return onnxruntime.InferenceSession(
            path, session_options(threads), providers=["CPUExecutionProvider"]
        )
    except Exception as error:  # onnxruntime's errors have no base of their own
        raise WeightsError(f"{path} cannot be used: {error}", _AGAIN) from error
