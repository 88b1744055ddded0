"""Jobs on Ray: what a second worker brings, and what is left when workers and machines are killed.

    python benchmarks/cluster.py speed --pictures 1600 --fragment 160
    python benchmarks/cluster.py killed --pictures 480      # as root: two Ray nodes in network namespaces

`speed`: one worker of one thread, then two, on this machine, and the same without Ray; each is timed after
its first fragments. Between two fragments a worker waits for some 0.2 s.

`killed`: two nodes, joined by a pair of virtual interfaces, share a folder. A worker is killed with SIGKILL,
then the second node with all that runs on it.
"""

import argparse
import json
import os
import secrets
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import psutil

from indexing import make_pictures
from lookalike import building
from lookalike.settings import Settings, parts_of_build
from lookalike.store import Build

SPACES = ("lookalike-a", "lookalike-b")
ADDRESSES = ("10.77.0.1", "10.77.0.2")
PORT = 26379
JOB = """
import json, sys, time
import numpy as np
from lookalike import building, jobs
from lookalike.settings import Settings, parts_of_build

on, uri, folder, size, workers = sys.argv[1:]
_, facts = parts_of_build(uri, Settings())
with jobs.connected(on, jobs.Workers(int(workers) or None)) as cluster:
    begun, plan = building.prepare(uri, [folder], facts, int(size))
    at = []
    def on_progress(done, total):
        at.append((done, time.perf_counter()))
        print(done, total, file=sys.stderr, flush=True)
    report = cluster.build(begun, plan, on_progress=on_progress)
done, moments = np.array(at[max(int(workers), 1) :]).T  # after each worker's first fragment
print(json.dumps({"seconds": report.seconds, "listed": report.listed, "encoded": report.encoded,
                  "steady": np.polyfit(moments, done, 1)[0]}))
"""


PLAIN = """
import sys, time
from lookalike import building
from lookalike.settings import Settings, open_encoder, parts_of_build

uri, folder, size, first, step = sys.argv[1:]
parts, facts = parts_of_build(uri, Settings(encoder=open_encoder("efficientnet-lite2", 1)))
begun, plan = building.prepare(uri, [folder], facts, int(size))
numbers = range(int(first), plan.fragments, int(step))
for number in numbers:
    if number == numbers[1]:  # as the others, it is timed after its first fragment
        began, listed = time.perf_counter(), 0
    fragment = building.fragment_rows(plan.entries(number), parts, threads=1)
    begun.write(number, fragment.rows, fragment.about())
    if number != numbers[0]:
        listed += fragment.listed
print(listed / (time.perf_counter() - began))
"""


def speed(folder: Path, place: Path, size: int, repeats: int) -> None:
    """One process and two, without Ray and with it, in turn: without it is what the machine has to give."""

    def plain(uri: str, processes: int) -> float:
        command = [sys.executable, "-c", PLAIN, uri, str(folder), str(size)]
        started = [
            subprocess.Popen([*command, str(first), str(processes)], stdout=subprocess.PIPE)
            for first in range(processes)
        ]
        return sum(float(process.communicate()[0]) for process in started)

    def cluster(uri: str, workers: int) -> float:
        command = [sys.executable, "-c", JOB, "local", uri, str(folder), str(size), str(workers)]
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=True)
        return float(json.loads(done.stdout)["steady"])

    ways = {"without Ray": plain, "on Ray": cluster}
    rates: dict[tuple[str, int], list[float]] = {(way, count): [] for way in ways for count in (1, 2)}
    for repeat in range(repeats):
        for (way, count), found in rates.items():
            found.append(ways[way](str(place / f"build-{repeat}-{way[:2]}-{count}"), count))
    print("| | one, pictures/s | two, pictures/s | two over one, pair by pair (ideal 2) |")
    print("|---|---|---|---|")
    for way in ways:
        one, two = rates[way, 1], rates[way, 2]
        pairs = ", ".join(f"{after / before:.2f}" for before, after in zip(one, two, strict=True))
        print(f"| {way} | {statistics.median(one):.1f} | {statistics.median(two):.1f} | {pairs} |")


class Node:
    """A Ray node in a network namespace of its own; the first one is the head."""

    def __init__(self, number: int, place: Path, environment: dict[str, str]) -> None:
        self._folder = tempfile.mkdtemp(prefix="ray-")  # short: sockets have short names
        head = ["--head", f"--port={PORT}", "--include-dashboard=false", f"--temp-dir={self._folder}"]
        command = [
            "ip", "netns", "exec", SPACES[number], str(Path(sys.executable).with_name("ray")), "start",
            "--block", "--num-cpus=1", "--object-store-memory=100000000", "--disable-usage-stats",
            f"--node-ip-address={ADDRESSES[number]}",
            *(head if number == 0 else [f"--address={ADDRESSES[0]}:{PORT}"]),
        ]  # fmt: skip
        log = place / f"node-{number}.log"
        with log.open("w") as out:
            self._process = subprocess.Popen(command, stdout=out, stderr=out, env=environment)
        until(lambda: "runtime started" in log.read_text())

    def workers(self) -> list[int]:
        found = []
        for process in self._family():
            with suppress(psutil.NoSuchProcess):
                if "".join(process.cmdline()).startswith("ray::MapWorker"):
                    found.append(process.pid)
        return found

    def kill(self) -> int:
        """All at once, with SIGKILL; -> how many processes there were."""
        family = [*self._family(), self._process]
        for process in family:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        self._process.wait()
        shutil.rmtree(self._folder, ignore_errors=True)
        return len(family)

    def _family(self) -> list[psutil.Process]:
        """What came of the process; nothing where it has ended."""
        with suppress(psutil.NoSuchProcess):
            return psutil.Process(self._process.pid).children(recursive=True)
        return []


def killed(folder: Path, place: Path, size: int) -> None:
    """A job over two nodes that loses a worker, then a node; what it made, against a local build."""
    environment = os.environ | {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    with namespaces():
        nodes = [Node(number, place, environment) for number in (0, 1)]
        try:
            _killed(folder, place, size, nodes, environment | {"RAY_ADDRESS": f"{ADDRESSES[0]}:{PORT}"})
        finally:
            for node in nodes:
                node.kill()


def _killed(folder: Path, place: Path, size: int, nodes: list[Node], environment: dict[str, str]) -> None:
    uri, plain = str(place / "build"), str(place / "plain")
    command = [sys.executable, "-c", JOB, "ray:auto", uri, folder, str(size), "0"]
    inside = ["ip", "netns", "exec", SPACES[0], *map(str, command)]
    started, losses = time.perf_counter(), 0

    def say(what: str) -> None:
        print(f"{time.perf_counter() - started:6.1f} s  {what}", flush=True)

    both = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(inside, text=True, env=environment, **both) as job:  # type: ignore[call-overload]
        for line in job.stderr:
            if not line.split()[0].isdigit():
                print(line, end="")
                continue
            done, total = map(int, line.split())
            say(f"{done} of {total} pictures; workers on the two nodes: {[len(n.workers()) for n in nodes]}")
            if losses == 0 and done >= total // 5 and nodes[0].workers():
                os.kill(nodes[0].workers()[0], signal.SIGKILL)
                losses = 1
                say("killed the worker of the first node")
            elif losses == 1 and done >= total // 2 and nodes[1].workers():
                count = nodes[1].kill()
                losses = 2
                say(f"killed the second node, {count} processes")
        told = json.loads(job.stdout.read())
    say(f"the job ended with {job.returncode}: {told['listed']} listed")

    parts, facts = parts_of_build(plain, Settings())
    begun, plan = building.prepare(plain, [str(folder)], facts, size)
    building.build(begun, plan, parts)
    ours, theirs = Build.open(uri), Build.open(plain)
    rows = [row for number in range(plan.fragments) for row in ours.rows(number)]
    same = [row for number in range(plan.fragments) for row in theirs.rows(number)]
    print(f"losses: {losses} of 2; fragments: {ours.manifest.fragments}, missing {ours.missing()}")
    print(f"rows: {len(rows)}, of {len({row.source for row in rows})} sources; local build: {len(same)}")
    equal = [
        one.sha256 == two.sha256 and np.array_equal(one.vector, two.vector)
        for one, two in zip(rows, same, strict=True)
    ]
    print(f"equal to the local build, descriptors bit for bit: {sum(equal)} of {len(equal)}")


@contextmanager
def namespaces() -> Iterator[None]:
    """Two network namespaces, joined by a cable."""
    steps = [f"netns add {space}" for space in SPACES]
    steps.append(f"link add cable netns {SPACES[0]} type veth peer name cable netns {SPACES[1]}")
    for space, address in zip(SPACES, ADDRESSES, strict=True):
        steps.append(f"-n {space} address add {address}/24 dev cable")
        steps += [f"-n {space} link set {device} up" for device in ("lo", "cable")]
    try:
        for step in steps:
            subprocess.run(["ip", *step.split()], check=True)
        yield
    finally:
        for space in SPACES:
            subprocess.run(["ip", "netns", "delete", space], check=False)


def until(true: Callable[[], object]) -> None:
    end = time.monotonic() + 120
    while not true():
        if time.monotonic() > end:
            raise SystemExit("a node does not start")
        time.sleep(0.1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("what", choices=["speed", "killed"])
    parser.add_argument("--pictures", type=int, default=600)
    parser.add_argument("--fragment", type=int, default=25)
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    os.environ["PYTHONPATH"] = str(Path(building.__file__).parents[1])
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "pictures"
        make_pictures(folder, arguments.pictures)
        if arguments.what == "speed":
            speed(folder, Path(place), arguments.fragment, arguments.repeats)
        else:
            killed(folder, Path(place), arguments.fragment)


if __name__ == "__main__":
    main()
