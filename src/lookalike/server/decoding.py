"""Strangers' pictures are decoded in processes of their own, which have little and can do little.

A hostile file gets hold of a program through its decoder. This one runs where there is no catalogue, no
secret in the environment, no file or socket that could be opened, and a limit to memory and time; what comes
back is a head of fixed size and plain pixels, and both are checked.
"""

from __future__ import annotations

import asyncio
import json
import math
import os
import resource
import signal
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict
from io import BytesIO
from typing import TypeVar

import numpy as np
from PIL import Image, ImageCms

from lookalike import images
from lookalike.errors import BadPicture, LookalikeError
from lookalike.server.limits import Limits
from lookalike.values import Picture

_T = TypeVar("_T")
_SIZE = struct.Struct("!Q")  # before a file: its bytes
_HEAD = struct.Struct("!BIIII32s")  # outcome, size of the original, size of the pixels, SHA-256
_READY, _DECODED, _REFUSED, _TOO_LARGE = range(4)
_SAID = 2_000  # bytes of an error and its hint
_START_S = 60.0  # until a worker is ready; it takes half a second on an idle machine
_ENVIRONMENT = ("PATH", "HOME", "LANG", "LD_LIBRARY_PATH", "PYTHONPATH", "PYTHONHOME", "PYTHONUSERBASE")
_SPARING = {  # of memory: a thread has its own
    "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "1",
    # What a usual picture takes is kept for the next one: fresh pages cost more than decoding it does.
    "MALLOC_MMAP_THRESHOLD_": str(16 << 20), "MALLOC_TRIM_THRESHOLD_": str(32 << 20),
}  # fmt: skip


class Decoder:
    """Decodes up to `processes` pictures at a time, each in a worker process that serves many.

    Workers end with this process, however it ends: at once, or after the picture at hand. All within one
    event loop.
    """

    def __init__(self, limits: Limits, processes: int) -> None:
        self._limits, self._processes = limits, processes
        self._turns = asyncio.Semaphore(processes)
        # One for each worker: pixels in the event loop would wake it for every piece of them.
        self._threads = ThreadPoolExecutor(processes, "decoding")
        self._idle: list[_Worker] = []
        self._closed = False
        self.alive = False  # whether the last worker that was to start did

    async def start(self) -> None:
        """Have all workers ready, which `decode` otherwise starts as it needs them; errors as there."""

        async def one_more() -> None:
            self._idle.append(await self._started())

        outcomes = await asyncio.gather(*(one_more() for _ in range(self._processes)), return_exceptions=True)
        for outcome in outcomes:
            if outcome is not None:
                raise outcome

    async def decode(self, data: bytes) -> Picture:
        """The picture in these bytes, see `images.decode`; its `source` is "".

        BadPicture where there is none, or where it takes more time or memory to decode than the limits
        allow; this costs a worker, which is replaced. LookalikeError where no worker starts.
        """
        async with self._turns:
            worker = await self._taken()
            sound = False
            try:
                async with asyncio.timeout(self._limits.decode_s):
                    answer = await self._in_thread(worker.ask, data, self._limits)
                sound = True
            except TimeoutError:
                raise _too_long() from None
            except MemoryError:
                raise BadPicture("picture: needs too much memory to decode", "save it smaller") from None
            except OSError:  # its end of the line is closed
                if await asyncio.shield(worker.end()) == -signal.SIGXCPU:
                    raise _too_long() from None
                raise BadPicture("picture: cannot be decoded: the decoder ended") from None
            finally:
                if sound:
                    self._idle.append(worker)
                else:  # or it would answer the next question with the last one's picture
                    worker.end()
        if isinstance(answer, BadPicture):
            raise answer
        return answer

    async def close(self) -> None:
        """End the workers, when the pictures at hand are done."""
        self._closed, self.alive = True, False
        for _ in range(self._processes):
            await self._turns.acquire()
        await asyncio.gather(*(worker.end() for worker in self._idle))
        self._idle.clear()
        for _ in range(self._processes):
            self._turns.release()
        self._threads.shutdown(wait=False)

    async def _in_thread(self, call: Callable[..., _T], *arguments: object) -> _T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, call, *arguments)

    async def _taken(self) -> _Worker:
        if self._closed:
            raise LookalikeError("the decoder is closed")
        while self._idle:
            worker = self._idle.pop()
            if worker.running:
                return worker
            worker.end()
        return await self._started()

    async def _started(self) -> _Worker:
        try:
            worker = _Worker(self._limits)
            try:
                async with asyncio.timeout(_START_S):
                    await self._in_thread(worker.ready)
            except BaseException:
                worker.end()
                raise
        except OSError as error:
            self.alive = False
            raise LookalikeError("a process for decoding pictures does not start") from error
        self.alive = True
        return worker


def _too_long() -> BadPicture:
    return BadPicture("picture: took too long to decode", "save it smaller, or as a plain JPEG")


class _Worker:
    """This process's end of the line to one worker. Its methods block until the worker answers, or is ended
    from another thread; OSError from them: the other end is gone.
    """

    def __init__(self, limits: Limits) -> None:
        self._line, others = socket.socketpair()
        self._talking = threading.Lock()
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", __name__, json.dumps(asdict(limits))],
                stdin=others.fileno(),
                stdout=subprocess.DEVNULL,
                env={name: os.environ[name] for name in _ENVIRONMENT if name in os.environ} | _SPARING,
                process_group=0,  # Ctrl-C is for the service, which ends its workers when it is done
            )
        except BaseException:
            self._line.close()
            raise
        finally:
            others.close()
        self._ended: asyncio.Future[int] | None = None

    @property
    def running(self) -> bool:
        return self._process.poll() is None

    def ready(self) -> None:
        with self._talking:
            self._fill(memoryview(bytearray(_HEAD.size)))

    def ask(self, data: bytes, limits: Limits) -> Picture | BadPicture:
        """What the worker makes of a file. MemoryError: more than it may take, and it has ended."""
        with self._talking:
            self._line.sendall(_SIZE.pack(len(data)))
            self._line.sendall(data)
            return self._answer(limits)

    def _answer(self, limits: Limits) -> Picture | BadPicture:
        head = bytearray(_HEAD.size)
        self._fill(memoryview(head))
        outcome, width, height, columns, rows, sha256 = _HEAD.unpack(head)
        if outcome == _TOO_LARGE:
            raise MemoryError
        if outcome == _REFUSED and width <= _SAID:
            said = bytearray(width)
            self._fill(memoryview(said))
            message, _, hint = said.decode(errors="replace").partition("\n")
            return BadPicture(images.shown(message), images.shown(hint))
        fits = 0 < columns <= width and 0 < rows <= height and width * height <= limits.pixels
        if outcome != _DECODED or not fits:
            raise ConnectionAbortedError("a worker that answers nonsense")
        pixels = np.empty((rows, columns, 3), np.uint8)
        self._fill(pixels.data.cast("B"))
        pixels.flags.writeable = False
        return Picture(pixels, width, height, "", sha256.hex())

    def _fill(self, place: memoryview) -> None:
        while place:
            received = self._line.recv_into(place, flags=socket.MSG_WAITALL)
            if received == 0:
                raise ConnectionResetError("a worker that has ended")
            place = place[received:]

    def end(self) -> asyncio.Future[int]:
        """Kill it, if it has not ended; its exit code comes when it has. Nobody needs to wait for that."""
        if self._ended is None:
            self._process.kill()
            self._ended = asyncio.get_running_loop().run_in_executor(None, self._gone)
        return self._ended

    def _gone(self) -> int:
        code = self._process.wait()
        with self._talking:  # who talks to it hears that it is gone
            self._line.close()
        return code


def work(limits: Limits) -> None:
    """What a worker does: a file in, its pixels out, until nobody is at the other end of the line."""
    line = socket.socket(fileno=0)
    _rehearse()
    _confine(limits)
    line.sendall(_HEAD.pack(_READY, 0, 0, 0, 0, b""))
    with line.makefile("rb") as asked:
        while size := asked.read(_SIZE.size):
            try:
                _allow_seconds(limits.decode_s)
                _answer(line, asked.read(*_SIZE.unpack(size)), limits)
            except MemoryError:
                line.sendall(_HEAD.pack(_TOO_LARGE, 0, 0, 0, 0, b""))
                return


def _answer(line: socket.socket, data: bytes, limits: Limits) -> None:
    try:
        picture = images.decode(data, limits=limits.pictured)
    except BadPicture as error:
        if isinstance(error.__cause__, MemoryError):
            raise error.__cause__ from None
        said = f"{error}\n{error.hint}".encode()[:_SAID]
        line.sendall(_HEAD.pack(_REFUSED, len(said), 0, 0, 0, b"") + said)
        return
    rows, columns, _ = picture.pixels.shape
    sha256 = bytes.fromhex(picture.sha256)
    line.sendall(_HEAD.pack(_DECODED, picture.width, picture.height, columns, rows, sha256))
    line.sendall(np.ascontiguousarray(picture.pixels).data.cast("B"))


def _rehearse() -> None:
    """Decode a picture of each kind, so that nothing is left to be loaded when no file can be opened."""
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    for kind in ("JPEG", "PNG", "WEBP"):
        file = BytesIO()
        Image.new("RGB", (32, 32)).save(file, kind, icc_profile=profile)
        images.decode(file.getvalue())
    with suppress(BadPicture):
        images.decode(b"\0\0\0\x18ftypheic")
    images.shown("\n")


def _confine(limits: Limits) -> None:
    """From here on: no more memory, no file or socket opened, none written, nothing left behind, no word."""
    os.dup2(1, 2)  # where this comes to nothing
    for what, most in (
        (resource.RLIMIT_AS, limits.decode_bytes),
        (resource.RLIMIT_NOFILE, 3),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_CORE, 0),
    ):
        resource.setrlimit(what, (most, most))


def _allow_seconds(seconds: float) -> None:
    """So much more of a processor's time, in case that nobody is there any more to look at the clock."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    most = math.ceil(usage.ru_utime + usage.ru_stime + seconds) + 1
    resource.setrlimit(resource.RLIMIT_CPU, (most, resource.RLIM_INFINITY))


if __name__ == "__main__":
    work(Limits(**json.loads(sys.argv[1])))
