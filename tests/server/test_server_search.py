"""Searching over HTTP, on a real catalogue, by everything that can be searched with."""

from __future__ import annotations

import base64
import io
import json
import re
import shutil
import signal
import socket
import threading
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from http.client import HTTPResponse
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import urlsplit

import httpx
import numpy as np
import pytest
from PIL import Image
from served import Running, Shop
from stock import awaited

import lookalike
from lookalike.encoders import exported
from lookalike.server.cores import cores
from lookalike.server.limits import Limits
from lookalike.server.problems import Problem
from lookalike.server.service import Line, public_name
from lookalike.testing.loopback import Loopback, Say, schema_of
from lookalike.values import Box


def search(service: Running, picture: Path | None = None, **fields: Any) -> dict[str, Any]:
    files = [("picture", picture.read_bytes())] if picture else None
    told = service.client.post("/v1/search", data=fields, files=files)
    assert told.status_code == 200, told.text
    return told.json()


def asked(service: Running, **question: Any) -> dict[str, Any]:
    told = service.client.post("/v1/search", json=question)
    assert told.status_code == 200, told.text
    return told.json()


def problem(answer: Any, status: int) -> str:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    told = answer.json()
    assert told["status"] == status and told["title"]
    return str(told["detail"])


def items(answer: dict[str, Any]) -> list[str]:
    return [hit["item"] for hit in answer["hits"]]


def test_a_picture_finds_what_the_library_finds(service: Running, drawn_shop: Shop) -> None:
    answer = search(service, drawn_shop.query)
    with lookalike.open(drawn_shop.folder) as catalogue:
        due = catalogue.search(drawn_shop.query)
    assert items(answer) == [hit.item for hit in due]
    assert [hit["score"] for hit in answer["hits"]] == pytest.approx([hit.score for hit in due], abs=1e-5)
    assert answer["query"]["box"] == (None if due.region.box is None else list(due.region.box.corners))
    assert len(answer["regions"]) == len(due.found) >= 2
    assert answer["confident"] == due.confident and answer["version"]
    first = answer["hits"][0]
    assert first["picture"] == f"/v1/pictures/{first['sha256']}" and first["title"] and first["attributes"]
    assert str(drawn_shop.folder.parent) not in json.dumps(answer)


def test_a_box_is_searched_as_given(service: Running, drawn_shop: Shop) -> None:
    answer = search(service, drawn_shop.query, box="10,12,60,64")
    with lookalike.open(drawn_shop.folder) as catalogue:
        due = catalogue.search(drawn_shop.query, Box(10, 12, 60, 64))
    assert items(answer) == [hit.item for hit in due]
    assert answer["query"]["box"] == [10, 12, 60, 64] and len(answer["regions"]) == 1


def test_filters_words_and_pages(service: Running, drawn_shop: Shop) -> None:
    answer = search(service, drawn_shop.query, where="colour = 'red' and price < 40")
    assert answer["hits"]
    assert all(hit["attributes"]["colour"] == "red" for hit in answer["hits"])
    assert all(hit["attributes"]["price"] < 40 for hit in answer["hits"])
    assert {hit["attributes"]["colour"] for hit in asked(service, text="navy", top=3)["hits"]} == {"navy"}
    moved = search(service, drawn_shop.query, text="green", top=50)
    assert items(moved) != items(search(service, drawn_shop.query, top=50))
    pages = [search(service, drawn_shop.query, top=4, offset=offset) for offset in (0, 4, 8)]
    assert [each for page in pages for each in items(page)] == items(
        search(service, drawn_shop.query, top=12)
    )
    assert pages[0]["more"]
    everything = search(service, drawn_shop.query, top=1000)
    assert not everything["more"] and len(items(everything)) == len(set(items(everything)))


def test_an_item_finds_others_like_it_and_a_vector_what_it_describes(
    service: Running, drawn_shop: Shop
) -> None:
    answer = asked(service, item=drawn_shop.item, top=5)
    assert drawn_shop.item not in items(answer) and len(items(answer)) == 5
    with lookalike.open(drawn_shop.folder) as catalogue:
        row = catalogue.store.rows_of(drawn_shop.item)[0]
    told = asked(service, vector=[float(each) for each in row.vector], top=3)
    assert items(told)[0] == drawn_shop.item and told["hits"][0]["score"] > 0.999
    assert told["query"] == {"size": None, "box": None, "caption": None}
    assert "no such item" in problem(service.client.post("/v1/search", json={"item": "none"}), 404)
    assert "needed" in problem(service.client.post("/v1/search", json={"vector": [1.0, 2.0]}), 422)


def test_hits_by_region(service: Running, drawn_shop: Shop) -> None:
    answer = search(service, drawn_shop.query, regions="each", top=3)
    assert "hits" not in answer and len(answer["groups"]) == len(answer["regions"])
    for region, group in zip(answer["regions"], answer["groups"], strict=True):
        assert group["box"] == region["box"]
        box = ",".join(map(str, group["box"])) if group["box"] else "0,0,100000,100000"
        again = search(service, drawn_shop.query, box=box, top=3)
        assert items(group) == items(again)


def test_several_pictures_are_views_of_one_object(service: Running, drawn_shop: Shop) -> None:
    data = [("picture", drawn_shop.query.read_bytes())] * 2
    told = service.client.post("/v1/search", files=data).json()
    assert items(told)[:3] == items(search(service, drawn_shop.query))[:3]
    each = service.client.post("/v1/search", files=data, data={"regions": "each"})
    assert "one picture" in problem(each, 422)


@pytest.mark.parametrize(
    ("question", "said"),
    [
        ({}, "nothing to search with"),
        ({"txt": "red"}, "txt: Extra inputs are not permitted"),
        ({"item": "a", "vector": [1]}, "more than one thing"),
        ({"text": "red", "top": 0}, "top: "),
        ({"text": "red", "offset": 1_000_000}, "offset: "),
        ({"text": "red", "box": [1, 2, 3]}, "box.3: "),
        ({"text": "red", "where": "price <"}, "filter"),
        ({"text": "red", "where": "prize < 3"}, "prize"),
        ({"url": "http://example.org/a.jpg"}, "fetches no pictures"),
        ({"text": "red", "caption": True}, "a caption goes with one picture"),
        ([], "body: "),
        ("red", "body: "),
    ],
)
def test_what_is_wrong_with_a_question_is_said(service: Running, question: object, said: str) -> None:
    assert said in problem(service.client.post("/v1/search", json=question), 422)


def test_what_the_address_asks_for_is_known_or_refused(service: Running, drawn_shop: Shop) -> None:
    client = service.client
    told = client.post("/v1/search?top=3", json={"text": "red"})
    assert problem(told, 422) == "top: no such parameter" and "body" in told.json()["hint"]
    for place in (
        "catalogue?a=1",
        f"items/{drawn_shop.item}?limit=1",
        "items?limit=1&tops=2",
        "items?after=",
    ):
        status = 200 if place == "items?after=" else 422
        assert client.get(f"/v1/{place}").status_code == status, place
    sha256 = search(service, drawn_shop.query)["hits"][0]["sha256"]
    assert client.get(f"/v1/pictures/{sha256}?width=160").status_code == 200
    assert "limit" in client.get(f"/v1/items?limit=1&{'x' * 500}=2").json()["hint"]
    assert "width" in client.get(f"/v1/pictures/{sha256}?size=160").json()["hint"]
    assert client.get("/?from=elsewhere").status_code == 200


def test_wrong_bodies(service: Running, drawn_shop: Shop) -> None:
    post = service.client.post
    assert "not JSON" in problem(
        post("/v1/search", content=b"{", headers={"content-type": "application/json"}), 400
    )
    assert "another kind" in problem(post("/v1/search", content=b"red"), 415)
    assert "another name" in problem(post("/v1/search", files={"image": b"123"}), 422)
    assert "not a picture" in problem(post("/v1/search", files={"picture": b"123"}), 422)
    told = problem(post("/v1/search", files={"picture": ("secret-name.jpg", b"\xff\xd8\xff123")}), 422)
    assert "secret-name" not in told
    many = [("picture", drawn_shop.query.read_bytes())] * 17
    assert post("/v1/search", files=many).status_code in (400, 422)
    problem(service.client.get("/v1/search"), 405)
    problem(service.client.get("/v1/nothing"), 404)


def test_why_an_item_was_found(service: Running, drawn_shop: Shop) -> None:
    hit = search(service, drawn_shop.query)["hits"][0]
    told = service.client.post(
        "/v1/explain",
        data={"item": hit["item"], "sha256": hit["sha256"]},
        files={"picture": drawn_shop.query.read_bytes()},
    ).json()
    for side in ("query", "hit"):
        patches = np.array(told[side]["patches"])
        assert patches.ndim == 2 and patches.size > 4 and 0 <= patches.min() <= patches.max() <= 1
    wrong = {"item": hit["item"], "sha256": "0" * 64}
    answer = service.client.post("/v1/explain", data=wrong, files={"picture": drawn_shop.query.read_bytes()})
    assert "no such picture" in problem(answer, 404)


def test_embeddings_are_the_encoders(service: Running, drawn_shop: Shop) -> None:
    picture = base64.b64encode(drawn_shop.query.read_bytes()).decode()
    told = service.client.post(
        "/v1/embeddings", json={"input": [{"image": picture}, {"image": picture}]}
    ).json()
    rows = np.array([each["embedding"] for each in told["data"]])
    assert [each["index"] for each in told["data"]] == [0, 1]
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-4)
    np.testing.assert_allclose(rows[0], rows[1], atol=1e-5)
    answer = service.client.post("/v1/embeddings", json={"input": "red dress"})
    assert "has no language" in problem(answer, 422)
    problem(service.client.post("/v1/embeddings", json={"input": [{"image": "???"}]}), 422)
    problem(service.client.post("/v1/embeddings", json={"input": []}), 422)


def test_what_there_is_to_search_in(service: Running, drawn_shop: Shop) -> None:
    told = service.client.get("/v1/catalogue").json()
    with lookalike.open(drawn_shop.folder) as catalogue:
        counts = catalogue.store.count()
    assert (told["items"], told["regions"]) == (counts.items, counts.regions)
    assert told["filters"]["colour"]["kind"] == "text" and told["filters"]["price"]["kind"] == "number"
    assert set(told["filters"]["colour"]["values"]) == {"red", "navy", "green"}
    assert told["language"] is False and told["captions_at_query"] is False


def test_a_new_item_is_found_without_a_restart(
    shop: Shop, serve: Callable[..., Running], tmp_path: Path
) -> None:
    service = serve(shop.folder)
    before = search(service, shop.query)
    (tmp_path / "more" / "found-again").mkdir(parents=True)
    (tmp_path / "more" / "found-again" / "a.jpg").write_bytes(shop.query.read_bytes())
    with lookalike.open(shop.folder) as catalogue:
        catalogue.add(tmp_path / "more")
    after = search(service, shop.query)
    assert after["version"] != before["version"]
    assert items(after)[0] == "found-again" and after["hits"][0]["score"] > 0.99


# With captions


@dataclass(frozen=True)
class Told(Running):
    """One that writes captions, with the port of its metrics."""

    metrics: int

    def counted(self, metric: str) -> float:
        """All series together whose name and labels begin so."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.metrics}/metrics", timeout=30) as answer:
            text = answer.read().decode()
        return sum(
            float(value) for value in re.findall(rf"^{re.escape(metric)}\S* (\S+)$", text, re.MULTILINE)
        )


may_reply = threading.Event()
may_reply.set()


def read(body: dict[str, Any]) -> Say:
    """What a model replies that sees a skirt in every picture, when it may."""
    may_reply.wait(60)
    schema = schema_of(body)
    assert schema is not None
    said: dict[str, Any] = {"category": "skirt", "colour": "red"}
    for name, part in schema["properties"].items():
        said.setdefault(name, [] if part.get("type") == "array" else "not_visible")
    return Say(json.dumps({name: said[name] for name in schema["properties"]}))


@pytest.fixture(scope="module")
def model() -> Iterator[Loopback]:
    with Loopback(read) as served:
        yield served


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file as `lookalike models export` writes them, in a folder that is nobody's business."""
    folder = tmp_path_factory.mktemp("made by me")
    return Path(shutil.copy(exported.SHIPPED, folder / "fashion.onnx"))


@pytest.fixture(scope="module")
def neighbour() -> Iterator[socket.socket]:
    """Listens on this machine, where strangers have no business."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.setblocking(False)
        yield listening


@pytest.fixture(scope="module")
def told_shop(
    drawn_shop: Shop,
    serve: Callable[..., Running],
    tmp_path_factory: Any,
    model: Loopback,
    encoder: Path,
    neighbour: socket.socket,
) -> Told:
    """A catalogue with palette's captions in its descriptors, whose queries get a model's."""
    from lookalike.settings import Settings, open_captioner

    folder = tmp_path_factory.mktemp("told") / "shop"
    settings = Settings(encoder=str(encoder), regime="train+gallery+query")
    with lookalike.open(folder, settings) as catalogue:
        catalogue.add(drawn_shop.table, captioner=open_captioner("palette"))
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    inside = neighbour.getsockname()[1]
    hosts = (f"127.0.0.1:{inside}", f"localhost:{inside}", "169.254.169.254", "nowhere.invalid")
    running = serve(
        folder, "--captions", f"openai:{model.url}", "--vlm", "vlm", "--metrics-port", str(port), "--urls",
        *(part for host in hosts for part in ("--url-host", host)),
    )  # fmt: skip
    return Told(**vars(running), metrics=port)


def test_hits_come_first_and_refined_ones_after_the_caption(told_shop: Running, drawn_shop: Shop) -> None:
    assert told_shop.client.get("/v1/catalogue").json()["captions_at_query"]
    with told_shop.client.stream(
        "POST",
        "/v1/search",
        data={"caption": "true"},
        files={"picture": drawn_shop.query.read_bytes()},
        headers={"Accept": "text/event-stream"},
    ) as stream:
        assert stream.headers["content-type"].startswith("text/event-stream")
        lines = [line for line in stream.iter_lines() if line]
    events = [
        (name.removeprefix("event: "), json.loads(data.removeprefix("data: ")))
        for name, data in zip(lines[::2], lines[1::2], strict=True)
    ]
    names = [name for name, _ in events]
    told = dict(events)
    assert names[:2] == ["hits", "caption"] and names[-1] == "done"
    assert told["caption"]["by"].startswith("openai:vlm attributes/") and told["caption"]["text"]
    assert any(claim["believed"] for claim in told["caption"]["claims"])
    assert (told["caption"]["outcome"] == "refined") == ("refined" in told)
    plain = search(told_shop, drawn_shop.query, caption="true")
    assert plain["query"]["caption"] == (
        told["refined"]["query"]["caption"] if "refined" in told else plain["query"]["caption"]
    )
    assert items(plain) == items(told.get("refined", told["hits"]))


def test_words_have_meaning_where_the_encoder_has_language(told_shop: Running) -> None:
    told = told_shop.client.post("/v1/embeddings", json={"input": ["a red skirt", "a navy shirt"]}).json()
    rows = np.array([each["embedding"] for each in told["data"]])
    assert rows.shape[0] == 2 and rows[0] @ rows[1] < 0.999
    assert asked(told_shop, text="a red garment", top=3)["hits"]


def test_no_answer_says_where_encoder_and_captioner_are(
    told_shop: Running, drawn_shop: Shop, model: Loopback, encoder: Path
) -> None:
    client, picture = told_shop.client, drawn_shop.query.read_bytes()
    hit = search(told_shop, drawn_shop.query)["hits"][0]
    answers = [
        client.get("/v1/catalogue"),
        client.get(f"/v1/items/{hit['item']}"),
        client.post("/v1/embeddings", json={"input": "red"}),
        client.post("/v1/embeddings", json={"input": "red", "model": "another"}),
        client.post("/v1/embeddings", json={"input": "red", "model": "fashion.onnx"}),
        client.post("/v1/search", files={"picture": picture}, data={"caption": "true"}),
        client.post(
            "/v1/search",
            files={"picture": picture},
            data={"caption": "true"},
            headers={"Accept": "text/event-stream"},
        ),
        client.post(
            "/v1/explain", files={"picture": picture}, data={"item": hit["item"], "sha256": hit["sha256"]}
        ),
    ]
    assert answers[0].json()["encoder"] == answers[2].json()["model"] == "fashion.onnx"
    assert [answer.status_code for answer in answers] == [200, 200, 200, 422, 200, 200, 200, 200]
    assert "event: caption" in answers[6].text
    for answer in answers:
        for secret in (str(encoder.parent), encoder.parent.name, model.url, model.url.split("/")[2]):
            assert secret not in answer.text, answer.request.url


def test_a_public_name_has_no_address_and_no_folder() -> None:
    for name, told in (
        ("compact", "compact"),
        ("hub:google/siglip2", "hub:google/siglip2"),
        ("hub:/srv/my models/siglip", "hub:siglip"),
        ("x2vlm:/srv/models/x2vlm.th@384", "x2vlm:x2vlm.th@384"),
        ("openai:http://10.0.0.7/v1 a/b+/srv/c d/e attributes/3", "openai:a/b+e attributes/3"),
        ("transformers:llava /srv/my models/llava dialogue/2", "transformers:llava llava dialogue/2"),
    ):
        assert public_name(name) == told


def test_nothing_inside_is_fetched_though_its_name_is_allowed(
    told_shop: Told, neighbour: socket.socket
) -> None:
    port = neighbour.getsockname()[1]
    for host in (f"127.0.0.1:{port}", f"localhost:{port}", "169.254.169.254", "nowhere.invalid"):
        answer = told_shop.client.post("/v1/search", json={"url": f"http://{host}/a.jpg"})
        assert problem(answer, 422) == "the URL's host has no public address"
    for host in ("shop.example", "10.0.0.7", f"[::1]:{port}"):
        answer = told_shop.client.post("/v1/search", json={"url": f"http://{host}/a.jpg"})
        assert "are not fetched from this" in problem(answer, 422)
    with pytest.raises(BlockingIOError):  # nobody has come
        neighbour.accept()


# When there is much to do


def begun(service: Running, accept: str = "*/*", **asked: Any) -> socket.socket:
    """A search that has been sent, whose answer nobody has read yet."""
    headers = {"Accept": accept, "Connection": "close"}
    request = httpx.Request("POST", f"{service.url}/v1/search", headers=headers, **asked)
    head = "".join(f"{name}: {value}\r\n" for name, value in request.headers.items())
    place = urlsplit(service.url)
    made = socket.create_connection((place.hostname, place.port), timeout=60)
    made.sendall(f"POST /v1/search HTTP/1.1\r\n{head}\r\n".encode() + request.read())
    return made


def answer_on(connection: socket.socket) -> tuple[int, Mapping[str, str], str]:
    with connection, HTTPResponse(connection) as answer:
        answer.begin()
        return answer.status, answer.headers, answer.read().decode()


@pytest.fixture(scope="module")
def large() -> bytes:
    """A picture that takes a while to decode."""
    file = io.BytesIO()
    Image.new("CMYK", (6000, 3000)).save(file, "JPEG", progressive=True)
    return file.getvalue()


def test_a_full_line_turns_away_and_who_leaves_it_costs_nothing(told_shop: Told, large: bytes) -> None:
    limits, counted = Limits().on(cores()), told_shop.counted
    left = 'lookalike_request_seconds_count{method="POST",route="/v1/search",status="499"'
    encoded, refused, lost = (
        counted(name)
        for name in ("lookalike_encoder_batch_sum", 'lookalike_refused_requests_total{why="queue"', left)
    )
    at_work = [begun(told_shop, files=[("picture", large)] * 3) for _ in range(limits.searching)]
    awaited(lambda: counted("lookalike_waiting_requests") == limits.searching)
    in_line = [begun(told_shop, json={"text": "red"}) for _ in range(limits.waiting)]
    awaited(lambda: counted("lookalike_waiting_requests") == limits.searching + limits.waiting)
    for status, headers, _ in (answer_on(begun(told_shop, json={"text": "red"})) for _ in range(5)):
        assert (status, headers["Retry-After"]) == (429, "1")
    assert counted('lookalike_refused_requests_total{why="queue"') == refused + 5
    for connection in in_line[8:]:
        connection.close()
    awaited(lambda: counted(left) == lost + limits.waiting - 8)
    assert counted("lookalike_waiting_requests") == limits.searching + 8  # before anybody's turn is over
    for connection in at_work:
        connection.close()
    assert [status for status, *_ in map(answer_on, in_line[:8])] == [200] * 8
    awaited(lambda: counted(left) == lost + limits.waiting - 8 + limits.searching)
    assert counted("lookalike_encoder_batch_sum") == encoded  # of nobody's pictures
    assert told_shop.client.post("/v1/search", json={"text": "red"}).status_code == 200


def captioned(service: Running, picture: Path, box: str) -> BinaryIO:
    """The events of a search with a caption."""
    fields = {"caption": "true", "box": box}
    with begun(service, "text/event-stream", data=fields, files={"picture": picture.read_bytes()}) as stream:
        return stream.makefile("rb")


def await_hits(events: BinaryIO) -> None:
    while not events.readline().startswith(b"event: hits"):
        pass


def test_where_too_many_captions_are_written_nobody_is_asked_for_another(
    told_shop: Told, drawn_shop: Shop, model: Loopback
) -> None:
    may_reply.clear()
    first = [captioned(told_shop, drawn_shop.query, "6,6,70,70") for _ in range(Limits().captions)]
    for events in first:
        await_hits(events)
    before = model.requests

    def told(box: str) -> bytes:
        with captioned(told_shop, drawn_shop.query, box) as events:
            return events.read()

    late = told("8,8,70,70")
    assert b'"outcome": "late"' in late and b"event: done" in late
    assert model.requests == before
    may_reply.set()
    for events in first:
        events.close()
    awaited(lambda: b'"outcome": "late"' not in told("6,6,70,70"))


def test_what_is_under_way_is_answered_when_the_service_is_stopped(
    told_shop: Told, drawn_shop: Shop, large: bytes
) -> None:
    """The last one that asks this service."""
    went_well = 'lookalike_request_seconds_count{method="POST",route="/v1/search",status="200"'
    answered = told_shop.counted(went_well)
    may_reply.clear()
    events = captioned(told_shop, drawn_shop.query, "5,5,70,70")
    await_hits(events)
    boxed = {"box": "0,0,90,90"}
    searches = [begun(told_shop, data=boxed, files={"picture": large}) for _ in range(4)]
    names = ("lookalike_waiting_requests", went_well)
    awaited(lambda: sum(map(told_shop.counted, names)) >= answered + 4)
    told_shop.process.send_signal(signal.SIGTERM)
    for status, _, told in map(answer_on, searches):
        assert status == 200 and json.loads(told)["hits"]
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{told_shop.url}/healthz")
    may_reply.set()
    with events:
        rest = events.read().decode()
    assert "event: caption" in rest and "event: done" in rest and '"text": null' not in rest
    assert told_shop.process.wait(60) == 0


def test_a_line_has_so_many_places_and_gives_them_out_again() -> None:
    refused: list[str] = []
    line = Line(2, lambda: refused.append("one"))
    with line.place():
        with line.place(), pytest.raises(Problem, match="too many") as caught, line.place():
            pass
        assert (caught.value.status, caught.value.headers["Retry-After"]) == (429, "1")
        assert (refused, line.length) == (["one"], 1)
        line.check()
    assert line.length == 0
