"""Builds from sources: resumed, made by several, stopped by what stops storage."""

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from lookalike import building, objects
from lookalike.catalogue import Report
from lookalike.errors import CatalogueError
from lookalike.settings import Settings, parts_of_build
from lookalike.store import Build
from lookalike.testing import ThumbnailEncoder
from lookalike.values import Counts
from saving import save
from stores_on_loopback import Storage, refusing

BUILDER = """
import sys
from lookalike import building
from lookalike.errors import LookalikeError
from lookalike.settings import Settings, parts_of_build
from lookalike.testing import ThumbnailEncoder

try:
    parts, facts = parts_of_build(sys.argv[2], Settings(encoder=ThumbnailEncoder()))
    begun, plan = building.prepare(sys.argv[2], [sys.argv[1]], facts, size=20)
    print("prepared", flush=True)
    report = building.build(begun, plan, parts, lambda done, total: print(done, total, flush=True))
except LookalikeError as error:
    sys.exit(f"{type(error).__name__}: {error}")
"""


def lookalike_cli(
    *arguments: object, environment: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "lookalike", *map(str, arguments)]
    told = os.environ | (environment or {})
    return subprocess.run(command, capture_output=True, text=True, timeout=120, env=told)


def many(folder: Path, count: int) -> Path:
    for seed in range(count):
        save(folder / f"{seed:03}.png", seed)
    (folder / "000-bad.png").write_text("these are not pixels")
    return folder


def built(uri: str, folder: Path, size: int = 20) -> Report:
    parts, facts = parts_of_build(uri, Settings(encoder=ThumbnailEncoder()))
    begun, plan = building.prepare(uri, [folder], facts, size)
    return building.build(begun, plan, parts)


def test_killed_again_and_again_it_comes_to_its_end(tmp_path: Path, bucket: str) -> None:
    folder, uri = many(tmp_path / "pictures", 99), f"{bucket}/build"
    kills = 0
    while True:
        command = [sys.executable, "-c", BUILDER, folder, uri]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as builder:
            assert builder.stdout
            for line in builder.stdout:
                done = line.split()[0]
                late = done == "prepared" if kills == 0 else done.isdigit() and int(done) >= 21 * kills
                if kills < 4 and late:
                    builder.send_signal(signal.SIGKILL)
                    kills += 1
                    break
        if builder.returncode == 0:
            break
        assert builder.returncode == -signal.SIGKILL
    assert kills == 4
    build = Build.open(uri)
    assert build.manifest.counts == Counts(items=99, pictures=99, regions=99, captions=0)
    report = built(uri, folder)
    assert (report.listed, report.encoded, report.items) == (100, 0, 99)
    (skipped,) = report.skipped  # told by whoever made that fragment
    assert skipped.source == str(folder / "000-bad.png")


def test_a_plan_stands_although_the_folder_changes(tmp_path: Path) -> None:
    folder, uri = many(tmp_path / "pictures", 30), str(tmp_path / "build")
    parts, facts = parts_of_build(uri, Settings(encoder=ThumbnailEncoder()))
    begun, plan = building.prepare(uri, [folder], facts, size=10)
    fragment = building.fragment_rows(plan.entries(0), parts)
    assert begun.write(0, fragment.rows, fragment.about())
    save(folder / "new.png", 77)
    (folder / "029.png").unlink()
    report = built(uri, folder)
    assert (report.listed, report.items, report.encoded) == (31, 29, 20)
    assert [Path(skipped.source).name for skipped in report.skipped] == ["000-bad.png", "029.png"]


def test_two_at_once_make_one_build(tmp_path: Path, bucket: str) -> None:
    folder, uri = many(tmp_path / "pictures", 60), f"{bucket}/build"
    command = [sys.executable, "-c", BUILDER, folder, uri]
    both = [subprocess.Popen(command, stdout=subprocess.DEVNULL) for _ in range(2)]
    assert [builder.wait() for builder in both] == [0, 0]
    build = Build.open(uri)
    assert build.finished
    assert build.manifest.counts == Counts(60, 60, 60, 0)
    items = [row.item.id for number in range(build.manifest.fragments) for row in build.rows(number)]
    assert sorted(items) == sorted(set(items))


def test_other_options_are_refused_before_anything_is_listed(tmp_path: Path, pictures: Path) -> None:
    uri = str(tmp_path / "build")
    built(uri, pictures)
    shutil.rmtree(pictures)
    _, facts = parts_of_build(uri, Settings(encoder=ThumbnailEncoder()))
    for change in ({"fingerprint": "other"}, {"regime": "train"}, {"captioner": "palette"}):
        with pytest.raises(CatalogueError, match="was begun") as caught:
            building.prepare(uri, [pictures], facts | change)
        assert caught.value.hint
    with pytest.raises(CatalogueError, match="other sources"):
        building.prepare(uri, [tmp_path], facts)


def test_a_place_that_cannot_be_written_is_told_before_anything_is_listed(
    tmp_path: Path, bucket: str
) -> None:
    table = tmp_path / "list.csv"
    table.write_text("no column that it needs\n")  # listing it is an error of its own

    def told(target: str, environment: Mapping[str, str] | None = None) -> str:
        index = ("index", table, "--to", target, "--encoder", "colour-histogram")
        done = lookalike_cli(*index, environment=environment)
        assert (done.returncode, "Traceback" in done.stderr) == (1, False)
        return done.stderr

    assert "there is no such bucket" in told(f"{bucket}-none/build")
    with refusing() as wrong:
        assert "access is refused" in told("s3://bucket/build", wrong)
    with refusing(reading=False) as reading_only:
        assert "access is refused" in told("s3://bucket/build", reading_only)
    assert "list.csv" in told(f"{bucket}/build")
    assert list(objects.listed(bucket)) == []


def test_storage_that_goes_away_in_the_middle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The run ends in one line; what came before is kept on the disk, and the run goes on when it is back."""
    folder = many(tmp_path / "pictures", 60)
    server = Storage()
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    bucket = server.bucket()
    for path in sorted(folder.iterdir()):
        objects.put(f"{bucket}/{path.name}", path)
    table, uri = tmp_path / "list.csv", str(tmp_path / "build")
    table.write_text("path\n" + "\n".join(f"{bucket}/{path.name}" for path in sorted(folder.iterdir())))
    command = [sys.executable, "-c", BUILDER, table, uri]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as builder:
        assert builder.stdout and builder.stderr
        for line in builder.stdout:
            if line.split()[0].isdigit():  # a batch of the first fragment is encoded
                server.stop()
                break
        builder.stdout.read()
        said = builder.stderr.read()
    assert builder.returncode == 1
    assert said.startswith("ObjectError: ") and "no connection" in said and said.count("\n") == 1
    assert len(Build.open(uri).missing()) >= 1  # no fragment of pictures that only could not be reached


def test_a_full_disk_is_one_line_and_the_run_goes_on(tmp_path: Path) -> None:
    folder, uri = many(tmp_path / "pictures", 60), str(tmp_path / "build")

    def limit() -> None:  # no file may grow beyond this, as on a disk that is full
        resource.setrlimit(resource.RLIMIT_FSIZE, (8_000, 8_000))

    command = [sys.executable, "-c", BUILDER, folder, uri]
    done = subprocess.run(command, capture_output=True, text=True, preexec_fn=limit)
    assert done.returncode == 1
    assert "StorageFull" in done.stderr and "the disk is full" in done.stderr
    assert "Traceback" not in done.stderr
    assert built(uri, folder).items == 60


def test_the_command_line(tmp_path: Path, pictures: Path, bucket: str) -> None:
    (pictures / "item-1" / "bad.png").write_text("these are not pixels")
    uri = f"{bucket}/shop"
    index = ("index", pictures, "--to", uri, "--encoder", "colour-histogram")
    done = lookalike_cli(*index, "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert (report["items"], report["pictures"], report["regions"], report["encoded"]) == (6, 7, 7, 7)
    assert [Path(each["source"]).name for each in report["skipped"]] == ["bad.png"]
    again = json.loads(lookalike_cli(*index, "--json").stdout)
    assert (again["encoded"], again["items"], again["skipped"]) == (0, 6, report["skipped"])
    local = json.loads(
        lookalike_cli("index", pictures, "--to", tmp_path / "local", *index[4:], "--json").stdout
    )
    assert report.keys() == local.keys()
    facts = json.loads(lookalike_cli("info", uri, "--json").stdout)
    plain = json.loads(lookalike_cli("info", tmp_path / "local", "--json").stdout)
    assert facts.pop("bytes") > 0 and plain.pop("bytes") > 0
    assert facts == plain | {"finished": True, "fragments": 1}
    for arguments in (("search", "--text", "x", "--in", uri), ("serve", uri)):
        refused = lookalike_cli(*arguments)
        assert refused.returncode == 1
        assert f"lookalike copy {uri} FOLDER" in refused.stderr
    assert lookalike_cli(*index, "--prune").returncode == 1
    other = lookalike_cli("index", pictures, "--to", uri, "--encoder", "efficientnet-lite2")
    assert (other.returncode, "was begun by colour-histogram" in other.stderr) == (1, True)
