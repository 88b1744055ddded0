"""The default encoder: EfficientNet-Lite2 trained on ImageNet, shipped inside the package.

tools/export_efficientnet.py makes the file and says what it takes and yields; benchmarks/descriptor.py has
the measurements behind the choices below.
"""

from __future__ import annotations

import hashlib
import os
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from lookalike import pooling
from lookalike.errors import WeightsError
from lookalike.values import Box, Floats, Maps, Picture, Pixels, Region, unit
from lookalike.weights import record, sha256_of

NAME = "efficientnet-lite2"
SHIPPED = Path(__file__).with_name(f"{NAME}.onnx")

DIM = 352  # channels of its last block
SIDE = 288  # pixels of the square a picture is fitted into
CELL = 32  # pixels that one cell of the map stands for, each way
POWER = 3  # of pooling.salient
CHUNK = 4  # pictures per forward pass: bounds the memory; more of them fall out of the caches
RECIPE = f"longer side {SIDE} bicubic, centred on its mean colour; last block, tapered, salient {POWER}"


class EfficientNet:
    """Descriptors from the last block of EfficientNet-Lite. It has no language and looks at no caption.

    `weights` None is the shipped file; another one comes from tools/export_efficientnet.py. `threads` is how
    many cores the encoder may use, None for all that the process may. WeightsError where the file is absent,
    damaged or something else.
    """

    def __init__(self, weights: Path | None = None, threads: int | None = None) -> None:
        self._path = weights or SHIPPED
        self._threads = threads or cores()
        self._opening = threading.Lock()
        self._session: Any = None  # opened by the first call that needs it
        self._seen: dict[int, _Seen] = {}  # by the identity of pixels that are still there
        sha256 = sha256_of(self._path)
        if weights is None:
            if sha256 != record(NAME).files[0].sha256:
                raise WeightsError(f"{SHIPPED.name} is damaged", "install lookalike again")
            self.name, self.dim = NAME, DIM
        else:
            self.name, self.dim = _facts(self._opened(), self._path.name)
        self.fingerprint = hashlib.sha256(f"{sha256}; {RECIPE}".encode()).hexdigest()[:16]

    def pictures(self, regions: Sequence[Region], captions: Sequence[str] | None = None) -> Floats:
        """(N,) regions -> (N, D), unit rows. Each region's own pixels go through the network."""
        rows = np.empty((len(regions), self.dim), np.float32)
        for start in range(0, len(regions), CHUNK):
            chunk = slice(start, start + CHUNK)
            maps = self.blocks([region.pixels for region in regions[chunk]])
            inside = pooling.tapered(maps.frames, *maps.values.shape[2:])
            rows[chunk] = unit(pooling.salient(maps.values, POWER, inside))
        return rows

    def texts(self, texts: Sequence[str]) -> None:
        """None: it has no language."""

    def maps(self, pictures: Sequence[Picture]) -> Maps:
        """Whole pictures -> the last block's maps (B, D, 9, 9), linear and signed."""
        pixels = [picture.pixels for picture in pictures]
        maps = self.blocks(pixels)
        for each, seen in zip(pixels, _one_by_one(maps), strict=True):
            held = weakref.ref(each, partial(self._forget, id(each)))
            self._seen[id(each)] = _Seen(held, *seen)
        return maps

    def blocks(self, pictures: Sequence[Pixels]) -> Maps:
        """The last block's maps of pictures (h, w, 3), (B, D, 9, 9).

        A picture whose map is known from `maps` is not looked at again, as long as somebody holds its pixels:
        who finds an object by the map mostly wants the whole picture's descriptor, too.
        """
        known = [self._seen.get(id(pixels)) for pixels in pictures]
        fresh = [pixels for pixels, seen in zip(pictures, known, strict=True) if seen is None]
        if len(fresh) == len(pictures):
            return self.run(pictures)
        looked = _one_by_one(self.run(fresh)) if fresh else iter(())
        rows = [(seen.values, seen.frame) if seen else next(looked) for seen in known]
        return Maps(np.stack([values for values, _ in rows]), tuple(frame for _, frame in rows))

    def _forget(self, identity: int, _pixels: object) -> None:
        self._seen.pop(identity, None)

    def run(self, pictures: Sequence[Pixels], output: str = "block", side: int = SIDE) -> Maps:
        """Pictures (h, w, 3) fitted into squares of `side` pixels -> maps of an output of the network.

        "block" is the last block, linear and signed; "head" what follows it, (B, 1280, H, W), 0 to 6.
        """
        canvas = np.empty((len(pictures), side, side, 3), np.uint8)
        frames = tuple(_draw(pixels, square) for pixels, square in zip(pictures, canvas, strict=True))
        (values,) = self._opened().run([output], {"pixels": canvas})
        return Maps(values, frames)

    def _opened(self) -> Any:
        with self._opening:
            if self._session is None:
                self._session = _open(self._path, self._threads)
            return self._session


@dataclass(frozen=True, slots=True, eq=False)
class _Seen:
    """The map of a whole picture (D, 9, 9), and where it lies in its square."""

    pixels: weakref.ref[Pixels]  # whose end ends this
    values: Floats
    frame: Box


def _one_by_one(maps: Maps) -> Iterator[tuple[Floats, Box]]:
    return zip(maps.values, maps.frames, strict=True)


@dataclass(frozen=True, slots=True)
class _Pooling:
    """From the head's maps (B, 1280, H, W), non-negative, and each cell's share to vectors (B, 1280)."""

    name: str
    pool: Callable[[Floats, Floats], Floats]
    scales: tuple[float, ...] = (1.0,)  # of the picture; several are joined by SuperGlobal's scale GeM


class PooledHead:
    """Rivals of the default: the head of the same network (1280 channels) with published poolings.

    "mean" is the network's own last step. "gem" is GeM with p = 3, as in DELG. "superglobal" is regional GeM,
    GeM+ and scale GeM over three sizes (Shao et al., ICCV 2023); its ReLUP and its trained whitening would
    need another network.
    """

    dim = 1280

    def __init__(self, pooling: str) -> None:
        self._pooling = _POOLINGS[pooling]
        self._network = EfficientNet()
        self.name = f"{NAME}-{pooling}"
        recipe = f"{self._network.fingerprint}; head, {pooling}"
        self.fingerprint = hashlib.sha256(recipe.encode()).hexdigest()[:16]

    def pictures(self, regions: Sequence[Region], captions: Sequence[str] | None = None) -> Floats:
        rows = np.empty((len(regions), self.dim), np.float32)
        for start in range(0, len(regions), CHUNK):
            pixels = [region.pixels for region in regions[start : start + CHUNK]]
            scales = []
            for scale in self._pooling.scales:
                maps = self._network.run(pixels, "head", round(scale * SIDE / CELL) * CELL)
                inside = pooling.coverage(maps.frames, *maps.values.shape[2:])
                scales.append(self._pooling.pool(maps.values, inside))
            joined = scales[0] if len(scales) == 1 else pooling.scale_gem(np.stack(scales))
            rows[start : start + CHUNK] = unit(joined)
        return rows

    def texts(self, texts: Sequence[str]) -> None:
        """None: it has no language."""

    def maps(self, pictures: Sequence[Picture]) -> Maps:
        """Whole pictures -> the last block's maps, as the default encoder gives them."""
        return self._network.maps(pictures)


def mean_pooled() -> PooledHead:
    return PooledHead("mean")


def gem_pooled() -> PooledHead:
    return PooledHead("gem")


def superglobal_pooled() -> PooledHead:
    return PooledHead("superglobal")


_POOLINGS = {
    made.name: made
    for made in (
        _Pooling("mean", lambda maps, inside: np.asarray(pooling.mean(maps, inside))),
        _Pooling("gem", lambda maps, inside: np.asarray(pooling.gem(maps, 3, shares=inside))),
        _Pooling(
            "superglobal",
            lambda maps, inside: np.asarray(pooling.gem(pooling.regional_gem(maps), 4.6, shares=inside)),
            scales=(2**-0.5, 1.0, 2**0.5),
        ),
    )
}


def _draw(pixels: Pixels, square: Pixels) -> Box:
    """Fit a picture into the middle of a square, in place, aspect kept; where it lies, in cells.

    Its own mean colour fills the rest: grey or mirrored borders look like edges to the network.
    """
    height, width = pixels.shape[:2]
    side = len(square)
    scale = side / max(height, width)
    across, down = max(1, round(width * scale)), max(1, round(height * scale))
    left, top = (side - across) // 2, (side - down) // 2
    image = Image.fromarray(pixels).resize((across, down), Image.Resampling.BICUBIC, reducing_gap=3)
    colour = np.asarray(image).mean(0).mean(0)  # one axis at a time: ten times faster than both
    page = Image.new("RGB", (side, side), tuple(map(int, colour)))
    page.paste(image, (left, top))
    square[:] = np.asarray(page)
    return Box(left / CELL, top / CELL, (left + across) / CELL, (top + down) / CELL)


def session_options(threads: int) -> Any:
    """How every network runs here: on so many cores, which wait for work without burning them.

    Newer builds of onnxruntime send events to their makers unless they are forbidden to, as here.
    """
    import onnxruntime

    onnxruntime.disable_telemetry_events()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return options


def _open(path: Path, threads: int) -> Any:
    import onnxruntime

    try:
        return onnxruntime.InferenceSession(
            path, session_options(threads), providers=["CPUExecutionProvider"]
        )
    except Exception as error:  # onnxruntime's errors have no base of their own
        raise WeightsError(f"{path.name} is not an ONNX file that can be used: {error}") from error


def _facts(session: Any, file: str) -> tuple[str, int]:
    """Name and descriptor length, as the export wrote them."""
    name = session.get_modelmeta().custom_metadata_map.get("name")
    channels = {output.name: output.shape[1] for output in session.get_outputs()}.get("block")
    if name is None or channels is None:
        raise WeightsError(f"{file} is another model", "tools/export_efficientnet.py writes the right kind")
    return name, channels


def cores() -> int:
    """What this process may use: fewer than the machine has, in a container."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
