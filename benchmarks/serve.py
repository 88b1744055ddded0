"""Searches over HTTP against what the cores can decode and encode; overload; ten minutes of memory.

    python benchmarks/serve.py [--seconds 30] [--loads 0.25 0.5 0.8 0.9 1] [--minutes 10] [--crowd 10000]

The limit is measured first, without a server: one process a core, each with one thread, decodes pictures,
finds regions and encodes them, one by one or by eight, whichever is faster. Then `lookalike serve` runs with
a small catalogue, and searches arrive at random moments (Poisson), whether earlier ones are answered or not,
at shares of that limit. Times count from the moment at which a search was due. Client and server share the
cores, so the client's own processor time is taken off the limit. With --crowd so many connections are
opened first that say nothing, half a head, or a body that does not come, until the server closes them.
Pictures are JPEG crops of scikit-image's photographs, 1280 x 960, every one different.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import multiprocessing
import os
import resource
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import numpy as np
import psutil
from PIL import Image
from prometheus_client.parser import text_string_to_metric_families

import lookalike
from lookalike import images
from lookalike.datasets.photos import scenery
from lookalike.encoders import EfficientNet
from lookalike.regions import Salient
from lookalike.weights import default_folder

SIZE = (1280, 960)
QUERIES = 200
STEADY = 0.8  # of the limit, for --minutes
TIMEOUT_S = 30.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--items", type=int, default=1000)
    parser.add_argument("--seconds", type=float, default=30.0, help="of each load, after a fifth of that")
    parser.add_argument("--loads", type=float, nargs="*", default=[0.25, 0.5, 0.8, 0.9, 1.0, 1.5, 3.0])
    parser.add_argument("--minutes", type=int, default=0, help="of watching memory at 0.8 of the limit")
    parser.add_argument("--crowd", type=int, default=0, help="connections that do nothing, once")
    parser.add_argument("--workers", type=int, default=1)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        draw(folder / "gallery", arguments.items)
        with lookalike.open(folder / "shop") as catalogue:
            catalogue.add(folder / "gallery")
        queries = [jpeg(number) for number in range(arguments.items, arguments.items + QUERIES)]
        limit = measure_limit(queries, arguments.seconds)
        with Server(folder / "shop", arguments.workers) as server:
            load(server, queries, 0.5 * limit, 5.0)  # caches, connections and allocators settle
            if arguments.crowd:
                asyncio.run(crowd(server, request(queries[0]), arguments.crowd))
            print(HEAD, flush=True)
            for share in arguments.loads:
                print(load(server, queries, share * limit, arguments.seconds).row(limit), flush=True)
            if arguments.minutes:
                print("\n| minute | answered/s | p50 | p95 | p99 ms | 429 | failed | MB |\n|" + "---|" * 8)
            for minute in range(arguments.minutes):
                told = load(server, queries, STEADY * limit, 60.0, warm=0.0)
                print(
                    f"| {minute + 1} | {told.rate:.2f} | {told.percentiles} | {told.share(429)} "
                    f"| {told.failed} | {told.megabytes:.0f} |",
                    flush=True,
                )


def jpeg(number: int) -> bytes:
    """The same crop for the same number."""
    scenes = _scenes()
    random = np.random.default_rng(number)
    scene = scenes[number % len(scenes)]
    width, height = (int(side * random.uniform(0.3, 0.9)) for side in scene.size)
    left, top = (int(random.integers(0, room + 1)) for room in (scene.width - width, scene.height - height))
    file = io.BytesIO()
    scene.crop((left, top, left + width, top + height)).resize(SIZE).save(file, "jpeg", quality=85)
    return file.getvalue()


@cache
def _scenes() -> list[Image.Image]:
    return [Image.fromarray(images.load(path).pixels) for path in scenery(default_folder())]


def draw(folder: Path, count: int) -> None:
    folder.mkdir()
    for number in range(count):
        (folder / f"{number:06}.jpg").write_bytes(jpeg(number))


def measure_limit(queries: Sequence[bytes], seconds: float) -> float:
    """Searches a second that all cores can decode, find regions in and encode, and nothing else."""
    cores = len(os.sched_getaffinity(0))
    print(f"{cores} cores; {len(queries)} pictures of {SIZE[0]} x {SIZE[1]}\n")
    print(
        "| at a time | decode | regions | encode, ms of a core | cores had | limit of all cores, searches/s |"
    )
    print("|---|---|---|---|---|---|")
    best = 0.0
    with multiprocessing.get_context("spawn").Pool(cores) as pool:
        for together in (1, 8):
            work = [(queries[core::cores], together, seconds) for core in range(cores)]
            done = pool.starmap(work_alone, work, chunksize=1)
            rate = sum(count / wall for count, wall, _ in done)
            spent = np.sum([each for *_, each in done], axis=0) / sum(count for count, *_ in done) * 1000
            had = sum(sum(each) / wall for _, wall, each in done)  # below `cores` others were at work too
            print(f"| {together} | {' | '.join(f'{ms:.1f}' for ms in spent)} | {had:.2f} | {rate:.2f} |")
            best = max(best, rate)
    print()
    return best


def work_alone(queries: Sequence[bytes], together: int, seconds: float) -> tuple[int, float, list[float]]:
    """What one core does: searches, seconds, and the processor's seconds of each stage."""
    encoder = EfficientNet(threads=1)
    finder = Salient(encoder)
    encoder.pictures(finder.regions([images.decode(queries[0])])[0])
    spent, done, started = [0.0, 0.0, 0.0], 0, time.perf_counter()
    while time.perf_counter() - started < seconds:
        taken = [queries[(done + each) % len(queries)] for each in range(together)]
        moments = [time.thread_time()]
        pictures = [images.decode(data) for data in taken]
        moments.append(time.thread_time())
        regions = finder.regions(pictures)
        moments.append(time.thread_time())
        encoder.pictures([region for found in regions for region in found])
        moments.append(time.thread_time())
        spent = [sum(pair) for pair in zip(spent, np.diff(moments), strict=True)]
        done += together
    return done, time.perf_counter() - started, spent


class Server:
    """`lookalike serve` with all its processes."""

    def __init__(self, catalogue: Path, workers: int) -> None:
        self.port, self._metrics = free_port(), free_port()
        command = ["serve", str(catalogue), "--port", str(self.port), "--metrics-port", str(self._metrics)]
        self._log = (catalogue.parent / "log").open("w+")
        self.process = subprocess.Popen(
            [sys.executable, "-m", "lookalike", *command, "--workers", str(workers)],
            stdout=self._log,
            stderr=self._log,
        )
        for _ in range(600):
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{self.port}/readyz", timeout=5).close()
                return
            except OSError:
                if self.process.poll() is not None:
                    break
                time.sleep(0.1)
        self._log.seek(0)
        raise SystemExit(f"the service does not start:\n{self._log.read()}")

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        self.process.wait()
        self._log.close()

    def seconds(self) -> float:
        """Processor time of the server's processes so far."""
        spent = 0.0
        for each in family(self.process.pid):
            with suppress(psutil.NoSuchProcess):
                times = each.cpu_times()
                spent += times.user + times.system
        return spent

    def megabytes(self) -> float:
        """Memory of the server's processes; what they share counts once."""
        total = 0
        for each in family(self.process.pid):
            with suppress(psutil.NoSuchProcess):
                total += each.memory_full_info().pss
        return total / 2**20

    def encoder(self) -> np.ndarray:
        """So far: seconds in which the encoder worked, batches, regions in them."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self._metrics}/metrics", timeout=30) as answer:
            families = text_string_to_metric_families(answer.read().decode())
            told = {sample.name: sample.value for family in families for sample in family.samples}
        names = ("encoder_busy_seconds_total", "encoder_batch_count", "encoder_batch_sum")
        return np.array([told[f"lookalike_{name}"] for name in names])


SAID = (
    b"",
    b"GET /v1/catalogue HTTP/1.1\r\nHost: lo",
    b"POST /v1/search HTTP/1.1\r\nHost: localhost\r\nContent-Type: multipart/form-data; boundary=part\r\n"
    b'Content-Length: 20000000\r\n\r\n--part\r\nContent-Disposition: form-data; name="picture"; '
    b'filename="q.jpg"\r\n\r\n' + bytes(8000),
)


async def crowd(server: Server, message: bytes, count: int) -> None:
    """Open connections that are silent, have half a head, or a body that stops; search meanwhile."""
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))
    print(f"\n| {count} connections | s | three searches | s | MB | s of a core so far |\n|" + "---|" * 6)

    async def row(name: str, started: float) -> None:
        took, began, client = time.perf_counter() - started, time.perf_counter(), Client(server.port)
        answers = [await client.ask(message) for _ in range(3)]
        client.close()
        searched = time.perf_counter() - began
        print(
            f"| {name} | {took:.1f} | {answers} | {searched:.1f} | {server.megabytes():.0f} "
            f"| {server.seconds():.1f} |",
            flush=True,
        )

    await row("none", time.perf_counter())
    started, opened = time.perf_counter(), []
    for number in range(count):
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(SAID[number % len(SAID)])
        opened.append((reader, writer))
    await row("open", started)
    started = time.perf_counter()
    await asyncio.gather(*(reader.read() for reader, _ in opened), return_exceptions=True)
    await row("closed by the server", started)
    for _, writer in opened:
        writer.close()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port: int = listening.getsockname()[1]
        return port


def family(pid: int) -> list[psutil.Process]:
    """A process and all that came of it."""
    first = psutil.Process(pid)
    return [first, *first.children(recursive=True)]


HEAD = (
    "| load | asked/s | answered/s | of the limit left | p50 | p95 | p99 ms | under way | 429 | failed "
    "| client's cores | server's cores | encoder busy | regions a batch | MB |\n|" + "---|" * 15
)


@dataclass
class Told:
    """What one load brought, between its warming up and its end."""

    seconds: float
    asked: int = 0
    outcomes: Counter[int] = field(default_factory=Counter)  # by status, 0 where no answer came
    times: list[float] = field(default_factory=list)  # of answers with hits
    client_s: float = 0.0
    server_s: float = 0.0
    encoder: np.ndarray = field(default_factory=lambda: np.zeros(3))
    megabytes: float = 0.0

    @property
    def rate(self) -> float:
        return self.outcomes[200] / self.seconds

    @property
    def failed(self) -> int:
        return sum(count for status, count in self.outcomes.items() if status not in (200, 429))

    @property
    def percentiles(self) -> str:
        told = np.percentile(self.times, [50, 95, 99]) if self.times else [float("nan")] * 3
        return " | ".join(f"{1000 * each:.0f}" for each in told)

    def share(self, status: int) -> str:
        return f"{self.outcomes[status] / max(1, self.outcomes.total()):.1%}"

    def row(self, limit: float) -> str:
        cores = len(os.sched_getaffinity(0))
        left = limit * (1 - self.client_s / self.seconds / cores)
        busy, batches, regions = self.encoder
        return (
            f"| {self.asked / self.seconds / limit:.2f} | {self.asked / self.seconds:.2f} | {self.rate:.2f} "
            f"| {self.rate / left:.1%} | {self.percentiles} | {self.rate * np.mean(self.times or [0]):.1f} "
            f"| {self.share(429)} | {self.failed} | {self.client_s / self.seconds:.2f} "
            f"| {self.server_s / self.seconds:.2f} | {busy / self.seconds:.0%} "
            f"| {regions / max(batches, 1):.1f} | {self.megabytes:.0f} |"
        )


def load(server: Server, queries: Sequence[bytes], rate: float, seconds: float, warm: float = 0.2) -> Told:
    """Searches at `rate` a second for `seconds`, after `warm` of that time which does not count."""
    return asyncio.run(_load(server, [request(data) for data in queries], rate, seconds, warm * seconds))


async def _load(server: Server, requests: Sequence[bytes], rate: float, seconds: float, warm: float) -> Told:
    told, client = Told(seconds), Client(server.port)
    moments = np.cumsum(np.random.default_rng(0).exponential(1 / rate, int(2 * rate * (seconds + warm)) + 50))
    start = time.perf_counter()

    async def ask(number: int, due: float) -> None:
        status = await client.ask(requests[number % len(requests)])
        now = time.perf_counter()
        if warm <= now - start <= warm + seconds:
            told.outcomes[status] += 1
            if status == 200:
                told.times.append(now - due)

    async def arrive() -> None:
        asking = set()
        for number, moment in enumerate(moments[moments < warm + seconds].tolist()):
            await asyncio.sleep(start + moment - time.perf_counter())
            told.asked += moment >= warm
            asking.add(asyncio.create_task(ask(number, start + moment)))
        await asyncio.gather(*asking)

    arriving = asyncio.create_task(arrive())
    await asyncio.sleep(warm)
    before = _spent(server)
    await asyncio.sleep(start + warm + seconds - time.perf_counter())
    after = _spent(server)
    told.client_s, told.server_s, *_ = after[:2] - before[:2]
    told.encoder, told.megabytes = after[2:] - before[2:], server.megabytes()
    await arriving
    client.close()
    return told


def _spent(server: Server) -> np.ndarray:
    return np.array([time.process_time(), server.seconds(), *server.encoder()])


def request(data: bytes) -> bytes:
    """A search with a picture, as it goes over the wire."""
    body = (
        b'--part\r\nContent-Disposition: form-data; name="picture"; filename="q.jpg"\r\n'
        b"Content-Type: image/jpeg\r\n\r\n" + data + b"\r\n--part--\r\n"
    )
    head = (
        "POST /v1/search HTTP/1.1\r\nHost: localhost\r\n"
        f"Content-Type: multipart/form-data; boundary=part\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


class Client:
    """Little more than sockets, since it takes its time from the server."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

    async def ask(self, message: bytes) -> int:
        """The answer's status; 0 where none came in time."""
        pair = None
        try:
            async with asyncio.timeout(TIMEOUT_S):
                reader, writer = pair = await self._connected()
                writer.write(message)
                head = await reader.readuntil(b"\r\n\r\n")
                told = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:-2])
                await reader.readexactly(int(told[b"content-length"]))
        except (TimeoutError, OSError, asyncio.IncompleteReadError):
            if pair:
                pair[1].close()
            return 0
        if told.get(b"connection") == b"close":
            writer.close()
        else:
            self._idle.append(pair)
        return int(head.split(b" ", 2)[1])

    async def _connected(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        while self._idle:
            reader, writer = self._idle.pop()
            if not reader.at_eof():  # else the server has closed it meanwhile
                return reader, writer
            writer.close()
        return await asyncio.open_connection("127.0.0.1", self._port)

    def close(self) -> None:
        for _, writer in self._idle:
            writer.close()


if __name__ == "__main__":
    main()
