"""Builds on a real Ray cluster of this machine: what is killed, what goes on, what is refused."""

import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

import lookalike
from ending import await_ended
from lookalike import building, images, objects
from lookalike.captions import FileCaptions, Palette, Unread
from lookalike.captions.records import read
from lookalike.datasets import Labelled, Listed, open_dataset
from lookalike.datasets.street2shop import make
from lookalike.jobs import captioning, orders
from lookalike.settings import Settings, parts_of_build
from lookalike.store import Build
from lookalike.values import Counts, Item, Region
from saving import save
from stores_on_loopback import Storage, free_port

JOB = """
import sys
from lookalike import building, jobs
from lookalike.captions import Palette
from lookalike.settings import Asking, Settings, parts_of_build

uri, folder = sys.argv[1:]
_, facts = parts_of_build(uri, Settings(), Palette())
with jobs.connected("ray:auto") as cluster:
    begun, plan = building.prepare(uri, [folder], facts, size=12)
    asked = jobs.Asked("palette", Asking())
    cluster.build(begun, plan, asked, lambda done, total: print(done, total, flush=True))
"""

REFUSALS = """
import shutil, sys
import lookalike
from lookalike import building, jobs
from lookalike.encoders import ColourHistogram
from lookalike.errors import LookalikeError
from lookalike.jobs import orders
from lookalike.settings import Settings, parts_of_build

place, folder, on = sys.argv[1:]
_, facts = parts_of_build(place + "/none", Settings(encoder="colour-histogram"))

def told(name, facts):
    begun, plan = building.prepare(f"{place}/{name}", [folder], facts)
    if name == "unseen":
        shutil.rmtree(folder)
    try:
        cluster.build(begun, plan)
    except LookalikeError as error:
        print(f"{name}: {error} ({error.hint})".replace("\\n", "NEWLINE"), flush=True)

try:
    with jobs.connected(on, jobs.Workers(cpus=64)):
        pass
except LookalikeError as error:
    print(error)
with jobs.connected(on, jobs.Workers(1)) as cluster:
    told("fingerprint", facts | {"fingerprint": "0000"})  # as by other weights of the same name
    ours, orders.version = orders.version, lambda: orders.__version__ + " (sources 0000)"  # another commit
    told("version", facts)
    orders.version = ours
    told("unseen", facts)
"""


CAPTIONS = """
import json, sys
from pathlib import Path
from lookalike import jobs
from lookalike.captions import Record, Unread, Writing
from lookalike.datasets import Listed, open_dataset
from lookalike.testing.oracle import Oracle
from lookalike.values import Caption, Item

regions = list(open_dataset(Path(sys.argv[1])).read("train"))
listed = [*(each.listed() for each in regions), Listed(Item("gone"), "/nowhere.jpg")]

class StandIn:  # of vLLM: it answers by the labels of what it is shown, but for two that fail
    def __init__(self):
        self._oracle = Oracle(regions)
    def __call__(self, row):
        body = json.loads(row.pop("ask"))
        place = [json.loads(row["entry"])[0] == each.source for each in regions[:2]]
        if place[0]:
            return {**row, "reply": "As an AI I see no picture.", "error": ""}
        said = self._oracle(body)
        return {**row, "reply": getattr(said, "text", ""), "error": "out of memory" if place[1] else ""}

def stage(rows):
    import ray.data
    return rows.map(StandIn, compute=ray.data.ActorPoolStrategy(min_size=1))

form, unread, last = jobs.Form.of("stand-in", "fashion", None, check=True), {}, regions[-1]
out = Path(sys.argv[2])
with Writing(out, form.name) as file:  # as a run leaves it that was broken off
    file.add(Record(last.source, last.listed().item.id, "", last.box, Caption("was there", form.name)))
with jobs.connected("ray:auto") as cluster, Writing(out, form.name) as file:
    left = [each for each in listed if (each.source, each.item.id, each.box) not in file.done]
    for made in cluster.captions(left, form, stage):
        if isinstance(made, Unread):
            unread[made.source] = made.error
        else:
            file.add(made)
print(json.dumps([len(left), unread]))
"""


class Head:
    """A cluster of one machine with two CPUs, and how to get rid of it."""

    def __init__(self, environment: dict[str, str]) -> None:
        self.folder = tempfile.mkdtemp(prefix="ray-")  # short: sockets have short names
        port, self.client_port = free_port(), free_port()
        self.environment = os.environ | environment | {
            "PYTHONPATH": str(Path(lookalike.__file__).parents[1]),
            "RAY_ADDRESS": f"127.0.0.1:{port}",
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": secrets.token_hex(32),
            "GRPC_ENABLE_FORK_SUPPORT": "0",  # Ray's server for clients forks
        }  # fmt: skip
        command = [
            Path(sys.executable).with_name("ray"), "start", "--head", "--block", "--num-cpus=2",
            "--object-store-memory=100000000", "--node-ip-address=127.0.0.1", f"--port={port}",
            f"--ray-client-server-port={self.client_port}", "--include-dashboard=false",
            "--disable-usage-stats", f"--temp-dir={self.folder}",
        ]  # fmt: skip
        with open(f"{self.folder}/start.log", "w") as log:
            quiet = {"stdout": log, "stderr": log, "env": self.environment}
            self._started = subprocess.Popen(command, **quiet)  # type: ignore[call-overload]
        until(lambda: "runtime started" in Path(self.folder, "start.log").read_text())

    def run(self, code: str, *arguments: object) -> "subprocess.Popen[str]":
        command = [sys.executable, "-c", code, *map(str, arguments)]
        both = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        return subprocess.Popen(command, text=True, env=self.environment, **both)  # type: ignore[call-overload]

    def workers(self) -> list[int]:
        found = []
        for process in psutil.Process(self._started.pid).children(recursive=True):
            with suppress(psutil.NoSuchProcess):
                if "".join(process.cmdline()).startswith("ray::MapWorker"):
                    found.append(process.pid)
        return found

    def stop(self) -> None:
        family = psutil.Process(self._started.pid).children(recursive=True)
        for process in (*family, self._started):
            with suppress(psutil.NoSuchProcess):
                process.kill()
        self._started.wait()
        await_ended(family)
        shutil.rmtree(self.folder, ignore_errors=True)


def until(true: Callable[[], object]) -> None:
    end = time.monotonic() + 120
    while not true():
        assert time.monotonic() < end, "it does not come about"
        time.sleep(0.05)


@pytest.fixture(scope="module")
def head(storage: Storage) -> Iterator[Head]:
    started = Head(storage.environment)
    yield started
    started.stop()


def lookalike_cli(*arguments: object, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "lookalike", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, env=env)


def test_whoever_is_killed_every_fragment_is_made_once(
    tmp_path: Path, head: Head, storage: Storage, bucket: str
) -> None:
    source, uri, plain = f"{bucket}/pictures", f"{bucket}/build", str(tmp_path / "plain")
    for seed in range(107):
        objects.put(f"{source}/{seed:03}.png", save(tmp_path / "x.png", seed))
    objects.put(f"{source}/000-bad.png", b"these are not pixels")
    killed = False
    with head.run(JOB, uri, source) as job:
        assert job.stdout
        for line in job.stdout:
            if not killed:
                os.kill(head.workers()[0], signal.SIGKILL)
                killed = True
            elif int(line.split()[0]) >= 48:
                job.send_signal(signal.SIGKILL)
                break
    assert killed and job.returncode == -signal.SIGKILL
    until(lambda: not head.workers())  # they end with the job
    made = list(objects.listed(f"{uri}/fragments"))
    there, read = len(made), len(storage.reads(f"{uri}/fragments"))
    assert 4 <= there < 9
    on = f"ray://127.0.0.1:{head.client_port}"
    index = ("index", source, "--to", uri, "--captions", "palette", "--on", on, "--json")
    again = lookalike_cli(*index, env=head.environment)
    assert (again.returncode, again.stderr) == (0, "")
    reads = storage.reads(f"{uri}/fragments")[read:]
    assert sorted(reads) == made  # of those that its workers made the job took their word
    report = json.loads(again.stdout)
    made_before = there * 12 - (there > 0)  # the first of them holds the bad one
    assert report["encoded"] == 107 - made_before
    assert report["skipped"][0]["source"] == f"{source}/000-bad.png" and len(report["skipped"]) == 1

    parts, facts = parts_of_build(plain, Settings(), Palette())
    begun, plan = building.prepare(plain, [source], facts, size=12)
    building.build(begun, plan, parts)
    ours, theirs = Build.open(uri), Build.open(plain)
    assert ours.manifest.counts == theirs.manifest.counts == Counts(107, 107, 107, 107)
    for number in range(plan.fragments):
        for one, other in zip(ours.rows(number), theirs.rows(number), strict=True):
            assert (one.item, one.sha256, one.source) == (other.item, other.sha256, other.source)
            assert one.caption == other.caption and np.array_equal(one.vector, other.vector)


def test_captions_by_a_model_on_the_cluster(tmp_path: Path, head: Head) -> None:
    """vLLM itself cannot run here: the stage in its place answers by the labels of a data set."""
    folder, out = tmp_path / "set", tmp_path / "captions.jsonl"
    make(folder, 2, seed=5, workers=1)
    regions = [each for each in open_dataset(folder).read("train") if isinstance(each, Labelled)]
    with head.run(CAPTIONS, folder, out) as job:
        said, complaints = job.communicate(timeout=120)
    assert job.returncode == 0, complaints
    left, unread = json.loads(said)
    assert left == len(regions)  # but for the one that was there, with the one that is nowhere
    assert unread.keys() == {"/nowhere.jpg"} and unread["/nowhere.jpg"]
    made = {(record.path, record.box): record.caption for record in read(out)}
    assert made.keys() == {(each.source, each.box) for each in regions}
    assert len(out.read_text().splitlines()) == len(regions)
    for each in regions:
        caption = made[each.source, each.box]
        if each == regions[-1]:
            assert caption.text == "was there"
        elif each.source == regions[0].source:
            assert (caption.text, "meta" in str(caption.error)) == ("", True)
        elif each.source == regions[1].source:
            assert caption.error == "out of memory"
        else:
            assert caption.error is None and caption.text
            told = {claim.value for claim in caption.claims if claim.attribute == "colour"}
            assert told == {each.attributes["colour"]}
    command = ("caption", folder, "--split", "train", "--out", out, "--on", "ray:auto")
    without_model = lookalike_cli(*command)
    assert (without_model.returncode, "give --vlm MODEL" in without_model.stderr) == (1, True)
    some = regions[2]
    (found,) = FileCaptions(out).captions([Region(images.load(some.source), some.box)])
    assert found.text == made[some.source, some.box].text


def test_what_is_wrong_with_a_machine_is_no_matter_of_a_picture(tmp_path: Path) -> None:
    form = captioning.Form.of("stand-in", "fashion", None, check=True)
    bad, good = tmp_path / "bad.png", save(tmp_path / "good.png", 1)
    bad.write_text("these are not pixels")
    stages = captioning._Asking(form), captioning._Reading(form)
    made: dict[Path, Any] = {}
    for path, stage in ((bad, stages[0]), (good, captioning._Asking(replace(form, version="0.0.1")))):
        row = stage({"entry": captioning.entry(Listed(Item("a"), str(path)))})
        assert json.loads(row["ask"])["messages"]  # it passes the engine all the same
        made[path] = stages[1]({**row, "reply": "-", "error": ""})["made"]
    assert isinstance(made[bad], Unread) and made[bad].source == str(bad)
    assert isinstance(made[good], captioning.Fault)
    assert "the job is of lookalike 0.0.1, its worker of" in made[good].message and made[good].hint


def test_what_does_not_fit_is_told_before_anything_is_written(
    tmp_path: Path, head: Head, pictures: Path
) -> None:
    place = f"file://{tmp_path}/builds"
    with head.run(REFUSALS, place, pictures, f"ray://127.0.0.1:{head.client_port}") as job:
        said, complaints = job.communicate(timeout=120)
    large, fingerprint, version, unseen = said.splitlines()
    assert (job.returncode, complaints) == (0, "")
    assert "a worker of 64 CPUs" in large and "the most that one has are 2" in large
    assert "begun by colour-histogram (0000), not by colour-histogram (" in fingerprint
    number = lookalike.__version__
    assert f"lookalike {number} (sources 0000), its worker of {number} (sources " in version
    assert "of the same commit" in version
    assert f"workers do not see {pictures}" in unseen and "shared folder" in unseen
    for name in ("fingerprint", "version", "unseen"):
        assert Build.open(f"{place}/{name}").missing() == [0]


def test_two_commits_of_one_version_differ(tmp_path: Path) -> None:
    digests = []
    for name, text in (("one", "x = 1"), ("two", "x = 2"), ("three", "x = 1")):
        (tmp_path / name / "deep").mkdir(parents=True)
        (tmp_path / name / "deep" / "module.py").write_text(text)
        (tmp_path / name / "weights.onnx").write_text(name)  # has a fingerprint of its own
        digests.append(orders._sources(tmp_path / name))
    assert digests[0] == digests[2] != digests[1]


@pytest.mark.parametrize("on", ["ray://127.0.0.1:1", "ray://", "ray:auto", "somewhere", "ray://h:x"])
def test_a_wrong_address_is_one_line(tmp_path: Path, pictures: Path, on: str) -> None:
    index = ("index", pictures, "--to", f"file://{tmp_path}/build", "--on", on)
    nowhere = os.environ | {"RAY_ADDRESS": "127.0.0.1:1"}
    done = lookalike_cli(*index, env=nowhere)
    assert done.returncode == 1
    assert done.stderr.startswith("error: ") and "hint: " in done.stderr and done.stderr.count("\n") == 2
    assert not Build.exists(f"{tmp_path}/build")


def test_a_catalogue_is_no_place_for_a_cluster_keys_do_not_travel_and_gpus_are_not_wasted(
    tmp_path: Path, pictures: Path
) -> None:
    catalogue = lookalike_cli("index", pictures, "--to", tmp_path / "shop", "--on", "local")
    assert (catalogue.returncode, "a cluster fills a build" in catalogue.stderr) == (1, True)
    key = ("--key-file", tmp_path / "key")
    keyed = lookalike_cli("index", pictures, "--to", f"file://{tmp_path}/build", "--on", "local", *key)
    assert (keyed.returncode, "keys are not sent" in keyed.stderr) == (1, True)
    gpus = ("--on", "local", "--encoder", "colour-histogram", "--worker-gpus", "1")
    unused = lookalike_cli("index", pictures, "--to", f"file://{tmp_path}/build", *gpus)
    assert (unused.returncode, "runs on CPUs alone" in unused.stderr) == (1, True)


def test_without_the_extra(tmp_path: Path, pictures: Path) -> None:
    code = "import sys; sys.modules['ray'] = None; from lookalike.cli import main; main()"
    index = ["index", str(pictures), "--to", f"file://{tmp_path}/build", "--on", "local"]
    done = subprocess.run([sys.executable, "-c", code, *index], capture_output=True, text=True)
    assert done.returncode == 1
    assert "lookalike[ray]" in done.stderr and "Traceback" not in done.stderr
