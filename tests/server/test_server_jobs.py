"""Many items in one request: jobs of the real service, killed and started again."""

import base64
import io
import json
import os
import random
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from PIL import Image
from stock import awaited, copied, drawn, on_disk, put, stocked

import lookalike
from lookalike import upkeep
from lookalike.store import LocalStore

KIND = {"Content-Type": "application/x-ndjson"}
PLACE = "48 deg 51 min, number 12, third floor"


@pytest.fixture(scope="module")
def stock(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Stays as it is."""
    return stocked(tmp_path_factory.mktemp("stock"))


@pytest.fixture(scope="module")
def left_behind(stock: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """What killed processes may leave in a catalogue's folder."""
    folder = copied(stock, tmp_path_factory.mktemp("jobs") / "shop")
    left = [
        folder / "jobs" / f"{'1' * 32}.ndjson",  # without a record
        folder / "jobs" / f"{'2' * 32}.part",
        folder / "thumbnails" / f"{'0' * 64}-160.abc.part",
        folder / "thumbnails" / f"{'0' * 64}-160.jpg",
        folder / "pictures" / f"{'0' * 64}.png",
    ]
    for path in left:
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"x")
        os.utime(path, (time.time() - 7200,) * 2)
    return left


@pytest.fixture(scope="module")
def folder(left_behind: list[Path]) -> Path:
    return left_behind[0].parent.parent


@pytest.fixture(scope="module")
def service(folder: Path, serve) -> Iterator[httpx.Client]:
    """A client that may write."""
    running = serve(folder)
    running.client.headers.update(running.headers("write"))
    yield running.client


def line(item: object, *pictures: bytes, **more: object) -> bytes:
    told = {"item": item, "pictures": [base64.b64encode(each).decode() for each in pictures], **more}
    return json.dumps(told).encode() + b"\n"


def send(client: httpx.Client, body: bytes, **headers: str) -> dict[str, object]:
    answer = client.post("/v1/items", content=body, headers=KIND | headers)
    assert answer.status_code == 202, answer.text
    job = dict(answer.json())
    assert answer.headers["location"] == f"/v1/jobs/{job['job']}"
    return job


def state(client: httpx.Client, job: dict[str, object]) -> dict[str, object]:
    answer = client.get(f"/v1/jobs/{job['job']}")
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def ended(client: httpx.Client, job: dict[str, object]) -> dict[str, object]:
    awaited(lambda: state(client, job)["finished"] is not None)
    return state(client, job)


def files_of_jobs(folder: Path, suffix: str) -> list[Path]:
    return list((folder / "jobs").glob(f"*{suffix}"))


def test_what_killed_processes_left_behind_goes(service: httpx.Client, left_behind: list[Path]) -> None:
    awaited(lambda: not any(path.exists() for path in left_behind))


def test_a_job_puts_every_item_that_can_be_and_says_what_cannot(service: httpx.Client, folder: Path) -> None:
    body = b"".join(
        [
            line("a/1", drawn(1), drawn(2), title="First", attributes={"price": 5, "sizes": [1, 2]}),
            b"\n",
            line("two", drawn(3), boxes=[[0, 0, 48, 128]]),
            line("bad", b"not a picture"),
            b"{nonsense\n",
            line("new without a picture", title="x"),
            line("item-1", title="Only words"),
            line("unknown field", drawn(4), titel="x"),
            line("bad\nid", drawn(4)),
            json.dumps({"item": "not base64", "pictures": ["%%%%"]}).encode() + b"\n",
            line("many", *[drawn(4)] * 17),
            line("outside", drawn(4), boxes=[[500, 0, 600, 9]]),
            b'{"item": "' + b"x" * 40_000_000 + b'"}\n',
            line("a/1", drawn(5), title="First, again"),
            line(7, drawn(4)),
            line("last", drawn(6))[:-1],  # without a line break
        ]
    )
    job = send(service, body)
    assert (job["state"], job["done"], job["total"], job["finished"]) == ("waiting", 0, 16, None)
    done = ended(service, job)
    assert (done["state"], done["done"], done["error"], done["more_skipped"]) == ("done", 16, None, 0)
    said = {each["line"]: each["error"] for each in done["skipped"]}  # type: ignore[attr-defined]
    assert list(said) == [4, 5, 6, 8, 9, 10, 11, 12, 13, 15]
    for number, part in {
        4: "picture 1", 5: "JSON", 6: "needs a picture", 8: "titel", 9: "control characters",
        10: "base64", 11: "17 pictures", 12: "outside the picture", 13: "longer than", 15: "item",
    }.items():  # fmt: skip
        assert part in said[number], said[number]
    assert not any(str(folder) in each or "\n" in each for each in said.values())

    first = service.get("/v1/items/a%2F1").json()
    assert (first["title"], first["attributes"], len(first["pictures"])) == ("First, again", {}, 1)
    assert service.get("/v1/items/two").json()["pictures"][0]["regions"][0]["box"] == [0, 0, 48, 128]
    assert service.get("/v1/items/item-1").json()["title"] == "Only words"
    assert service.get("/v1/items/last").status_code == 200
    for id in ("bad", "outside", "many", "new%20without%20a%20picture"):
        assert service.get(f"/v1/items/{id}").status_code == 404
    hits = service.post("/v1/search", files={"picture": drawn(6)}).json()["hits"]
    assert hits[0]["item"] == "last"

    with LocalStore(folder) as store:
        assert not [name for name in store.meta if name.startswith("job")]
        kept = {Path(row.source).name for row in store.scan() if row.origin == "api"}
    assert on_disk(folder) == kept
    assert files_of_jobs(folder, ".ndjson") == files_of_jobs(folder, ".part") == []


def test_the_same_job_again_changes_nothing(service: httpx.Client) -> None:
    body = b"".join(line(f"again-{n}", drawn(10 + n), title=f"Item {n}") for n in range(5))
    ended(service, send(service, body))
    before = service.get("/v1/catalogue").json()["version"]
    assert ended(service, send(service, body))["skipped"] == []
    assert service.get("/v1/catalogue").json()["version"] == before


def test_one_idempotency_key_makes_one_job(service: httpx.Client, folder: Path) -> None:
    from lookalike.server.access import Keys

    body = line("once", drawn(20), title="Once")
    first = send(service, body, **{"Idempotency-Key": "delivery 17"})
    large = line("twice", drawn(21), title="x" * 2_000_000)  # is not read, let alone believed
    again = send(service, large, **{"Idempotency-Key": "delivery 17"})
    assert again["job"] == first["job"]
    ended(service, first)
    assert send(service, large, **{"Idempotency-Key": "delivery 17"})["state"] == "done"
    assert service.get("/v1/items/twice").status_code == 404
    assert send(service, body, **{"Idempotency-Key": "delivery 18"})["job"] != first["job"]
    other = {"Authorization": f"Bearer {Keys(folder).new('write')}", "Idempotency-Key": "delivery 17"}
    assert send(service, body, **other)["job"] != first["job"]
    for wrong in ("", "x" * 201):
        answer = service.post("/v1/items", content=body, headers=KIND | {"Idempotency-Key": wrong})
        assert answer.status_code == 422


def test_what_is_no_job_is_refused_and_leaves_nothing(service: httpx.Client, folder: Path) -> None:
    body = line("refused", drawn(22))
    for status, headers, content in [
        (415, {"Content-Type": "text/plain"}, body),
        (415, {"Content-Type": "application/json"}, body),
        (415, KIND | {"Content-Encoding": "gzip"}, body),
        (422, KIND, b""),
        (401, KIND | {"Authorization": ""}, body),
    ]:
        answer = service.post("/v1/items", content=content, headers=headers)
        assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json")
    for id in ("0" * 32, "..", "x", "%2e%2e%2fkeys"):
        url = httpx.URL(str(service.base_url), raw_path=f"/v1/jobs/{id}".encode())
        assert service.get(url).status_code == 404
    # one that is broken off
    address = (str(service.base_url.host), int(service.base_url.port or 0))
    key = service.headers["Authorization"]
    with socket.create_connection(address) as connection:
        connection.sendall(
            f"POST /v1/items HTTP/1.1\r\nHost: {address[0]}\r\nAuthorization: {key}\r\n"
            "Content-Type: application/x-ndjson\r\nContent-Length: 5000000\r\n\r\n".encode()
            + body * 100
        )
        awaited(lambda: len(files_of_jobs(folder, ".part")) == 1)
        (part,) = files_of_jobs(folder, ".part")
        assert part.stat().st_mode & 0o077 == 0  # pictures as they were taken are for nobody else
    awaited(lambda: files_of_jobs(folder, ".part") == [])
    assert service.get("/v1/items/refused").status_code == 404


def test_jobs_are_listed_page_by_page(service: httpx.Client) -> None:
    jobs = [send(service, line(f"listed-{n}", drawn(23))) for n in range(5)]
    sent = [job["job"] for job in jobs]
    listed: list[str] = []
    page = {"next": ""}
    while page["next"] is not None:
        page = service.get("/v1/jobs", params={"after": page["next"], "limit": 2}).json()
        listed += [job["job"] for job in page["jobs"]]  # type: ignore[index]
    assert listed[:5] == sent[::-1]
    assert len(listed) == len(set(listed))
    for wrong in ("limit=0", "limit=1001", "after=x", "state=done"):
        assert service.get(f"/v1/jobs?{wrong}").status_code == 422
    assert [ended(service, job)["state"] for job in jobs] == ["done"] * 5


def test_a_job_waits_for_another_writer_and_says_so(service: httpx.Client, folder: Path) -> None:
    with LocalStore(folder, write=True):
        job = send(service, line("patient", drawn(24)))
        awaited(lambda: state(service, job)["error"] is not None)
        told = state(service, job)
        assert told["error"] == "another process is writing to the catalogue"
        assert (told["state"], told["finished"]) == ("waiting", None)
    assert (ended(service, job)["state"], ended(service, job)["error"]) == ("done", None)


def test_nothing_is_left_of_where_pictures_were_taken(service: httpx.Client, folder: Path) -> None:
    exif = Image.Exif()
    exif.get_ifd(0x8825).update({1: "N", 29: PLACE})
    taken = io.BytesIO()
    with Image.open(io.BytesIO(drawn(25))) as picture:
        picture.save(taken, "JPEG", exif=exif)
    assert PLACE.encode() in taken.getvalue()
    ended(service, send(service, line("taken", taken.getvalue())))
    hidden = [PLACE.encode(), base64.b64encode(taken.getvalue())[200:240]]
    for path in folder.rglob("*"):
        assert not path.is_file() or not any(each in path.read_bytes() for each in hidden), path


def test_a_job_goes_on_after_every_kill_and_never_over_what_came_later(
    stock: Path, tmp_path: Path, serve
) -> None:
    folder, chance, items = copied(stock, tmp_path / "shop"), random.Random(1), 120
    body = b"".join(line(f"bulk-{n:03}", drawn(100 + n), title=f"Item {n}") for n in range(items))
    running = serve(folder)
    running.client.headers.update(running.headers("write"))
    job = send(running.client, body, **{"Idempotency-Key": "all of them"})
    mine: set[str] = set()
    reached = 0
    for end in (signal.SIGKILL, signal.SIGTERM, signal.SIGKILL):
        awaited(lambda now=reached, at=running: state(at.client, job)["done"] > now)  # type: ignore[misc]
        reached = int(str(state(running.client, job)["done"]))
        for number in (0, reached - 1):  # items that the job has put: they are somebody else's now
            answer = put(running.client, f"bulk-{number:03}", title="Mine")
            assert answer.status_code == 200, answer.text
            mine.add(f"bulk-{number:03}")
        time.sleep(chance.uniform(0, 0.5))
        running.process.send_signal(end)
        running.process.wait(timeout=60)
        running = serve(folder)
        running.client.headers.update(running.headers("write"))
    done = ended(running.client, job)
    assert (done["state"], done["done"], done["skipped"]) == ("done", items, [])
    assert files_of_jobs(folder, ".ndjson") == []
    with lookalike.open(folder, create=False) as catalogue:
        assert upkeep.verify(catalogue).sound
        for n in range(items):
            (row,) = catalogue.store.rows_of(f"bulk-{n:03}")
            assert row.item.title == ("Mine" if row.item.id in mine else f"Item {n}")
            assert Path(row.source).exists()
    assert len(on_disk(folder)) == items


def test_of_several_processes_one_works_on_jobs_and_all_take_them(stock: Path, tmp_path: Path, serve) -> None:
    folder = copied(stock, tmp_path / "shop")
    pair = [serve(folder) for _ in range(2)]
    for running in pair:
        running.client.headers.update(running.headers("write"))
    jobs = [send(pair[n % 2].client, line(f"of-{n}", drawn(30 + n))) for n in range(6)]
    puts = [put(pair[n % 2].client, f"put-{n}", drawn(40 + n)) for n in range(6)]  # beside the job
    assert [answer.status_code for answer in puts] == [201] * 6
    for n, job in enumerate(jobs):
        assert ended(pair[(n + 1) % 2].client, job)["state"] == "done"  # the other one knows, too
    pair[0].process.kill()  # whether or not that was the one
    pair[0].process.wait()
    assert ended(pair[1].client, send(pair[1].client, line("orphan", drawn(50))))["state"] == "done"
    listed = pair[1].client.get("/v1/items?limit=1000").json()["items"]
    assert {f"of-{n}" for n in range(6)} | {f"put-{n}" for n in range(6)} <= {e["item"] for e in listed}
