"""What an operator sees of the service: lines, metrics, readiness. A real server in a process of its own."""

import json
import os
import re
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

import lookalike
from lookalike.catalogue import Catalogue
from lookalike.encoders import ColourHistogram
from lookalike.errors import BadInput
from lookalike.server.watch import Watch, serve_metrics
from lookalike.upkeep import reindex
from lookalike.values import Counts

SECRET = "carrots-and-peas"

SERVER = """
import asyncio, socket, sys
from types import SimpleNamespace
import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import StreamingResponse
from lookalike.server.problems import Problem, handle
from lookalike.server.watch import Watch, Watched, configure_logs, health, serve_metrics

configure_logs(sys.argv[1])
watch = Watch()
app = FastAPI()
handle(app)
app.include_router(health)
catalogue = SimpleNamespace(check_encoder=lambda: None)
app.state.service = SimpleNamespace(decoder=SimpleNamespace(alive=True), catalogue=catalogue)

@app.post("/v1/items/{id}")
async def item(id: str, request: Request):
    request.state.key = "k7"
    return {"id": id, "bytes": len(await request.body())}

@app.get("/refused/{status}")
async def refused(status: int):
    raise Problem(status, "no")

@app.post("/fails")
async def fails(request: Request):
    try:
        {}[(await request.body()).decode()]
    except KeyError as error:
        raise RuntimeError(f"/srv/{request.url.query}") from error

@app.get("/breaks-off")
async def breaks_off():
    async def pieces():
        yield b"half"
        raise OSError("disk")
    return StreamingResponse(pieces())

@app.post("/be/{what}")
async def be(what: str):
    app.state.ready = what == "ready"
    app.state.service.decoder.alive = what != "broken"
    app.state.ready = what != "starting"

@app.get("/asks")
async def asks():
    import httpx
    try:
        await httpx.AsyncClient().get("http://127.0.0.1:9/" + "q" * 20)
    except httpx.ConnectError:
        pass

app.add_middleware(Watched, watch=watch)
listening = socket.create_server(("127.0.0.1", 0))
metrics = serve_metrics(watch, "127.0.0.1", 0)
print(listening.getsockname()[1], metrics.port, flush=True)
uvicorn.Server(uvicorn.Config(app, log_config=None, access_log=False)).run([listening])
metrics.close()
"""


class Running:
    """The server's process, its two ports, and the lines it has logged."""

    def __init__(self, log: Path, level: str = "info") -> None:
        self._log = log
        with log.open("w") as lines:
            self.process = subprocess.Popen(
                [sys.executable, "-W", "error", "-c", SERVER, level],
                stdout=subprocess.PIPE,
                stderr=lines,
                text=True,
                env=os.environ | {"PYTHONUNBUFFERED": "1"},
            )
        assert self.process.stdout is not None
        self.port, self.metrics_port = map(int, self.process.stdout.readline().split())
        self.client = httpx.Client(base_url=f"http://127.0.0.1:{self.port}", timeout=30)
        for _ in range(200):
            try:
                self.client.get("/healthz")
                return
            except httpx.TransportError:
                time.sleep(0.05)
        raise AssertionError(log.read_text())

    @property
    def written(self) -> str:
        return self._log.read_text()

    def line(self, request_id: str, event: str = "request") -> dict[str, object]:
        """The line of a request; it is written after the answer."""
        for _ in range(200):
            told = [json.loads(line) for line in self.written.splitlines()]
            found = [each for each in told if each.get("id") == request_id and each["event"] == event]
            if found:
                assert len(found) == 1
                line: dict[str, object] = found[0]
                return line
            time.sleep(0.05)
        raise AssertionError(self.written)

    def metrics(self) -> dict[str, float]:
        """Each series as it is written, with its value."""
        url = f"http://127.0.0.1:{self.metrics_port}/metrics"
        with urllib.request.urlopen(url, timeout=30) as answer:
            return series(answer.read())


def series(text: bytes) -> dict[str, float]:
    return {
        sample.name
        + "".join(f" {name}={value}" for name, value in sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text.decode())
        for sample in family.samples
    }


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    running = Running(tmp_path_factory.mktemp("watch") / "log")
    yield running
    running.client.close()
    running.process.terminate()
    running.process.communicate(timeout=60)
    assert [json.loads(line)["event"] for line in running.written.splitlines()][-1]  # all of it JSON


def test_a_request_is_one_line_that_tells_nothing_of_what_was_asked(server: Running) -> None:
    answer = server.client.post(
        f"/v1/items/{SECRET}?where={SECRET}",
        content=SECRET.encode() * 100,
        headers={"Authorization": f"Bearer {SECRET}", "User-Agent": SECRET, "X-Forwarded-For": "203.0.113.9"},
    )
    assert answer.status_code == 200
    line = server.line(answer.headers["x-request-id"])
    assert list(line)[:4] == ["time", "level", "event", "id"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d+Z", str(line.pop("time")))
    assert float(str(line.pop("ms"))) > 0
    assert line == {
        "level": "info",
        "event": "request",
        "id": answer.headers["x-request-id"],
        "method": "POST",
        "route": "/v1/items/{id}",
        "status": 200,
        "bytes_in": 100 * len(SECRET),
        "who": "k7",
    }
    assert SECRET not in server.written
    assert "203.0.113.9" not in server.written and "127.0.0.1" not in server.written.replace("Uvicorn", "")


@pytest.mark.parametrize("given", ["abcd-1234", "A" * 64])
def test_a_clients_id_is_kept(server: Running, given: str) -> None:
    answer = server.client.get("/healthz", headers={"X-Request-ID": given})
    assert answer.headers.get_list("x-request-id") == [given]


@pytest.mark.parametrize("given", ["short", "A" * 65, 'x" , "y":1', "söndag-12", "12345678\t9"])
def test_another_id_is_replaced(server: Running, given: str) -> None:
    answer = server.client.get("/healthz", headers=[(b"X-Request-ID", given.encode())])
    assert re.fullmatch("[0-9a-f]{16}", answer.headers["x-request-id"])


def test_requests_are_counted_by_route_and_status(server: Running) -> None:
    before = server.metrics()
    for number in range(3):
        server.client.post(f"/v1/items/{number}")
    for status in (401, 403, 413, 408, 404):
        server.client.get(f"/refused/{status}")
    server.line(server.client.get("/refused/429").headers["x-request-id"])
    after = server.metrics()

    def more(name: str) -> float:
        return after[name] - before.get(name, 0)

    assert more("lookalike_request_seconds_count method=POST route=/v1/items/{id} status=200") == 3
    assert more("lookalike_request_seconds_count method=GET route=/refused/{status} status=404") == 1
    assert more("lookalike_refused_requests_total why=auth") == 2
    assert more("lookalike_refused_requests_total why=body") == 2
    assert after["process_resident_memory_bytes"] > 0


def test_what_strangers_type_makes_no_series(server: Running) -> None:
    server.line(server.client.get("/none-0").headers["x-request-id"])
    server.client.request("BREW-0", "/none")
    before = set(server.metrics())
    for number in range(1, 40):
        server.client.get(f"/{SECRET}/{number}")
        answer = server.client.request(f"BREW-{number}", "/none")
    assert server.line(answer.headers["x-request-id"])["method"] == "-"
    assert set(server.metrics()) == before


def test_metrics_are_on_their_own_port_only(server: Running) -> None:
    assert server.client.get("/metrics").status_code == 404


def test_the_unforeseen_is_a_500_that_the_log_knows(server: Running) -> None:
    answer = server.client.post(f"/fails?{SECRET}", content=SECRET)
    assert answer.status_code == 500
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["status"] == 500
    request_id = answer.headers["x-request-id"]
    line = server.line(request_id, "unforeseen")
    assert line["level"] == "error"
    outer, inner = line["errors"]  # type: ignore[misc]
    assert (outer["type"], inner["type"]) == ("RuntimeError", "KeyError")
    assert re.fullmatch(r"__main__:\d+ fails", outer["at"][-1])
    assert "message" not in outer and SECRET not in server.written
    assert server.line(request_id)["status"] == 500


def test_an_answer_that_breaks_off_is_logged_and_ends(server: Running) -> None:
    request_id = "breaks-off-1"
    with pytest.raises(httpx.RemoteProtocolError):
        server.client.get("/breaks-off", headers={"X-Request-ID": request_id})
    assert server.line(request_id, "unforeseen")["errors"][0]["type"] == "OSError"  # type: ignore[index]
    assert server.line(request_id)["status"] == 200


def test_a_client_that_leaves_is_no_error(server: Running) -> None:
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as raw:
        raw.sendall(
            b"POST /v1/items/1 HTTP/1.1\r\nHost: a\r\nX-Request-ID: leaves-early\r\n"
            b"Content-Length: 1000\r\n\r\nhalf"
        )
    line = server.line("leaves-early")
    assert (line["status"], line["level"], line["bytes_in"]) == (499, "info", 4)
    assert not any('"unforeseen"' in each and "leaves-early" in each for each in server.written.splitlines())


def test_ready_means_ready(server: Running) -> None:
    def ready() -> int:
        answer = server.client.get("/readyz")
        assert answer.status_code == 200 or answer.json()["detail"].startswith("not ready")
        assert server.client.get("/healthz").json() == {"status": "alive"}
        return answer.status_code

    server.client.post("/be/starting")
    assert ready() == 503
    server.client.post("/be/ready")
    assert ready() == 200
    server.client.post("/be/broken")
    assert ready() == 503


def test_a_catalogue_that_got_another_encoder_is_not_ready(shop: Any, serve: Callable[..., Any]) -> None:
    running = serve(shop.folder)
    with lookalike.open(shop.folder) as catalogue:
        reindex(catalogue, ColourHistogram(), "image")
    answer = running.client.get("/readyz")
    assert answer.status_code == 503
    assert "encoded anew" in answer.json()["detail"]
    assert running.client.get("/healthz").status_code == 200


def test_the_whole_service_tells_no_secrets(drawn_shop: Any, serve: Callable[..., Any]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    running = serve(drawn_shop.folder, "--metrics-port", str(port))
    key, client = running.headers("search"), running.client
    with drawn_shop.query.open("rb") as picture:
        files = {"picture": (f"{SECRET}.jpg", picture)}
        answer = client.post("/v1/search", headers=key, files=files, data={"where": f"title != '{SECRET}'"})
    assert answer.status_code == 200
    shown = client.get(answer.json()["hits"][0]["picture"], headers=key)
    assert shown.status_code == 200
    client.post("/v1/search", headers=key, files={"picture": (f"{SECRET}.jpg", SECRET.encode())})
    client.post("/v1/search", headers=key, json={"text": SECRET})
    client.post("/v1/search", headers=key, json={SECRET: SECRET})
    client.post(f"/v1/search?{SECRET}", headers=key, content=SECRET)
    client.get(f"/v1/items/{SECRET}", headers=key)
    client.get("/v1/items", headers=key, params={"after": SECRET})
    client.put(f"/v1/items/{SECRET}", headers=key, content=SECRET)
    last = client.get("/v1/catalogue", headers={"Authorization": f"Bearer lk_{SECRET}"})
    assert last.status_code == 401
    for _ in range(200):
        if last.headers["x-request-id"] in running.log.read_text():
            break
        time.sleep(0.05)
    written = running.log.read_text()
    for secret in (SECRET, *running.keys.values(), str(drawn_shop.folder), drawn_shop.query.name):
        assert secret not in written
    assert {json.loads(line).get("route", "") for line in written.splitlines()} >= {
        "/v1/search",
        "/v1/pictures/{sha256}",
        "/v1/items",
        "/v1/catalogue",
    }
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=30) as metrics:
        text = metrics.read()
    assert SECRET.encode() not in text and str(drawn_shop.folder).encode() not in text
    told = series(text)
    assert told["lookalike_request_seconds_count method=POST route=/v1/search status=200"] >= 1
    assert told["lookalike_stage_seconds_count stage=encode"] >= 1
    assert told["lookalike_encoder_batch_count"] >= 1
    assert told["lookalike_encoder_busy_seconds_total"] > 0
    assert told["lookalike_refused_requests_total why=auth"] >= 1
    assert told["lookalike_catalogue_entries kind=items"] > 0


def test_other_packages_lines_are_json_and_tell_no_addresses(server: Running) -> None:
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as raw:
        raw.sendall(b"carrots and peas\r\n\r\n")
        raw.recv(1000)
    server.line(server.client.get("/asks").headers["x-request-id"])
    told = [json.loads(line)["event"] for line in server.written.splitlines()]
    assert "Invalid HTTP request received." in told
    assert "carrots and peas" not in server.written and "qqq" not in server.written


def test_debug_tells_what_errors_say_and_health_checks(tmp_path: Path) -> None:
    running = Running(tmp_path / "log", "debug")
    failed = running.client.post(f"/fails?{SECRET}", content="peas").headers["x-request-id"]
    assert running.line(failed, "unforeseen")["errors"][0]["message"] == f"/srv/{SECRET}"  # type: ignore[index]
    asked = running.client.get("/healthz").headers["x-request-id"]
    assert running.line(asked)["level"] == "debug"
    running.client.close()
    running.process.terminate()
    running.process.communicate(timeout=60)


def test_why_a_service_does_not_start_is_told() -> None:
    code = (
        "import uvicorn; from fastapi import FastAPI; from lookalike.server.watch import configure_logs\n"
        "async def life(app):\n    raise OSError('no room')\n    yield\n"
        "from contextlib import asynccontextmanager as made\n"
        "configure_logs('info'); uvicorn.run(FastAPI(lifespan=made(life)), log_config=None, port=0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode != 0
    assert "OSError: no room" in [json.loads(line)["event"] for line in done.stderr.splitlines()]


def test_the_library_adds_no_handlers_and_prints_nothing() -> None:
    code = (
        "import logging; from lookalike.server.watch import log; log.info('quiet', a=1);"
        "assert not logging.root.handlers and not logging.getLogger('lookalike.server').handlers"
    )
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_what_a_watch_is_told_it_tells() -> None:
    watch, other = Watch(), Watch()
    watch.stage("encode", 0.3)
    watch.stage("encode", 0.004)
    watch.count_waiting(lambda: 7)
    watch.refused("queue")
    watch.batch(3, 0.25)
    watch.batch(1, 0.5)
    watch.caption("refined")
    told = series(watch.text())
    assert told["lookalike_stage_seconds_count stage=encode"] == 2
    assert told["lookalike_stage_seconds_bucket le=0.005 stage=encode"] == 1
    assert told["lookalike_waiting_requests"] == 7
    assert told["lookalike_refused_requests_total why=queue"] == 1
    assert told["lookalike_encoder_batch_sum"] == 4
    assert told["lookalike_encoder_busy_seconds_total"] == 0.75
    assert told["lookalike_captions_total outcome=refined"] == 1
    assert series(other.text())["lookalike_waiting_requests"] == 0  # each has its own


def test_the_catalogue_is_told_as_it_is_when_metrics_are_read(
    open_shop: Callable[..., Catalogue], pictures: Path
) -> None:
    shop = open_shop()
    watch = Watch()

    def now() -> tuple[Counts, str]:
        with shop.store.view() as view:
            return shop.store.count(), view.version

    watch.follow(now)
    shop.add(pictures)
    told = series(watch.text())
    assert told["lookalike_catalogue_readable"] == 1
    assert told["lookalike_catalogue_entries kind=items"] == 6
    assert told["lookalike_catalogue_entries kind=pictures"] == 7
    again = series(watch.text())
    assert [name for name in told if "catalogue" in name and told[name] != again[name]] == []
    shop.remove(["item-0"])
    later = series(watch.text())
    assert later["lookalike_catalogue_entries kind=items"] == 5
    (version,), (newer,) = ([name for name in each if "version_info" in name] for each in (told, later))
    assert version != newer
    assert (
        later["lookalike_catalogue_changed_timestamp_seconds"]
        > told["lookalike_catalogue_changed_timestamp_seconds"]
    )


def test_a_catalogue_that_cannot_be_read_is_told() -> None:
    def fails() -> tuple[Counts, str]:
        raise sqlite3.OperationalError("disk I/O error")

    watch = Watch()
    watch.follow(fails)
    told = series(watch.text())
    assert told["lookalike_catalogue_readable"] == 0
    assert "lookalike_waiting_requests" in told


def test_a_port_that_is_taken_is_one_clear_line() -> None:
    first = serve_metrics(Watch(), "127.0.0.1", 0)
    with pytest.raises(BadInput, match="metrics cannot be served") as caught:
        serve_metrics(Watch(), "127.0.0.1", first.port)
    assert "--metrics-port" in caught.value.hint
    first.close()
    serve_metrics(Watch(), "127.0.0.1", first.port).close()


def test_each_worker_has_a_metrics_port() -> None:
    first = serve_metrics(Watch(), "127.0.0.1", 0)
    second = serve_metrics(Watch(), "127.0.0.1", first.port, workers=20)
    assert first.port < second.port < first.port + 20
    first.close()
    second.close()
