"""`lookalike caption` against a server that allows so many pictures a second, killed three times on the way.

    python benchmarks/captioning.py [--pictures 10000] [--limit 20] [--ceiling 1500]

The server is a stand-in on loopback, in a process of its own: it fills in forms without looking. What is
measured is the client: how near it comes to the limit, its memory, and what three kills with SIGKILL cost in
calls. Its ceiling without a limit is that of two processes sharing the cores. Pictures are small drawings.
"""

from __future__ import annotations

import argparse
import json
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import psutil
from PIL import Image

AT_ONCE = 16
KILLS = 3

SERVER = """
import json, sys
from lookalike.testing.loopback import Loopback, Say, schema_of
seen, calls = set(), 0
def answer(body):
    global calls
    content = body["messages"][-1]["content"]
    if isinstance(content, list):
        seen.add(hash(json.dumps(content)))
        calls += 1
    form = {}
    for name, part in schema_of(body)["properties"].items():
        choices = part.get("enum", [])
        known = {"category": "skirt", "colour": "red"}.get(name)
        form[name] = known or ([] if part.get("type") == "array" else choices[-1] if choices else "")
    return Say(json.dumps(form))
limit = float(sys.argv[1]) or None
with Loopback(answer, requests_per_s=limit, kept=1) as server:
    print(server.url, flush=True)
    for line in sys.stdin:
        print(calls, len(seen), server.requests, flush=True)
"""


class Server:
    """The stand-in in its process: its URL, and what it has seen."""

    def __init__(self, limit: float) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", SERVER, str(limit)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        self.url = self.process.stdout.readline().strip()

    def seen(self) -> tuple[int, int, int]:
        """Answered calls about pictures, distinct ones, and all requests, refused ones and probes too."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        calls, distinct, requests = map(int, self.process.stdout.readline().split())
        return calls, distinct, requests

    def close(self) -> None:
        self.process.kill()
        self.process.wait()


class Memory:
    """Resident megabytes of a process while it runs."""

    def __init__(self, pid: int) -> None:
        self.samples: list[float] = []
        self._pid = pid
        threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self) -> None:
        while True:
            try:
                self.samples.append(psutil.Process(self._pid).memory_info().rss / 2**20)
            except psutil.NoSuchProcess:
                return
            time.sleep(0.5)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--pictures", type=int, default=10_000)
    parser.add_argument("--limit", type=float, default=20.0)
    parser.add_argument("--ceiling", type=int, default=1_500)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        draw(place / "pictures", max(arguments.pictures, arguments.ceiling))
        limited(place, arguments.pictures, arguments.limit)
        ceiling(place, arguments.ceiling)


def draw(folder: Path, count: int) -> None:
    """Small pictures, all different."""
    folder.mkdir()
    noise = np.random.default_rng(0)
    for number in range(count):
        blocks = noise.integers(0, 256, (6, 4, 3), dtype=np.uint8)
        picture = Image.fromarray(blocks).resize((192, 288), Image.Resampling.BICUBIC)
        picture.save(folder / f"{number:06}.jpg", quality=85)


def command(place: Path, server: Server, count: int, limit: float | None) -> list[str]:
    return [
        sys.executable, "-m", "lookalike", "caption", str(place / "pictures"), "--captioner",
        f"openai:{server.url}", "--vlm", "vlm", "--at-once", str(AT_ONCE), "--first", str(count),
        *(["--requests-per-second", str(limit)] if limit else []),
        "--cache", str(place / f"cache-{limit}.sqlite"), "--out", str(place / f"captions-{limit}.jsonl"),
        "--json",
    ]  # fmt: skip


def limited(place: Path, count: int, limit: float) -> None:
    server = Server(limit)
    ask = command(place, server, count, limit)
    random.seed(0)
    stretches: list[tuple[int, float]] = []  # pictures and seconds, from the first answer of a run on
    memories: list[float] = []
    before = 0
    for kill in range(KILLS + 1):
        until = count if kill == KILLS else count * (kill + 1) // (KILLS + 1) + random.randint(-9, 9)
        process = subprocess.Popen(ask, stdout=subprocess.PIPE, text=True)
        memory = Memory(process.pid)
        started, first = 0.0, before
        while process.poll() is None:
            calls, distinct, _ = server.seen()
            if calls > before and not started:
                started, first = time.perf_counter(), calls
            if distinct >= until and kill < KILLS:
                process.send_signal(signal.SIGKILL)
                process.wait()
                break
            time.sleep(0.05)
        calls, distinct, requests = server.seen()
        stretches.append((calls - first, time.perf_counter() - started))
        memories += [memory.samples[len(memory.samples) // 4], memory.samples[-2]]
        before = calls
    assert process.stdout is not None
    report = json.loads(process.stdout.read())
    server.close()
    done = len((place / f"captions-{limit}.jsonl").read_text().splitlines())
    rate = sum(pictures for pictures, _ in stretches) / sum(seconds for _, seconds in stretches)
    print(f"{count:,} pictures, server limited to {limit:g}/s, {AT_ONCE} calls at once, {KILLS} kills")
    print(f"  reached {rate:.2f} pictures/s: {rate / limit:.1%} of the limit")
    print(f"  records written: {done:,}; failed in the last run: {report['failed']}")
    print(f"  calls answered: {calls:,} for {distinct:,} distinct steps: {calls - distinct} repeated")
    print(f"    (allowed: {KILLS} kills x {AT_ONCE} calls in flight)")
    print(f"  refused with 429, and probes: {requests - calls}")
    pairs = zip(memories[::2], memories[1::2], strict=True)
    told = ", ".join(f"{early:.0f} -> {late:.0f}" for early, late in pairs)
    print(f"  memory of each run, MB after a quarter of its time -> at its end: {told}")


def ceiling(place: Path, count: int) -> None:
    server = Server(0)
    started = time.perf_counter()
    done = subprocess.run(command(place, server, count, None), capture_output=True, text=True, check=True)
    seconds = time.perf_counter() - started
    report = json.loads(done.stdout)
    server.close()
    print(f"{count:,} pictures, no limit: {report['written'] / report['seconds']:.0f} pictures/s", end=" ")
    print(f"({seconds:.1f} s with the start of the program)")


if __name__ == "__main__":
    main()
