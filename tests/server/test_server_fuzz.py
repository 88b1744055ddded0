"""The service against what its own description allows, and against what nothing allows."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from jsonschema import Draft202012Validator
from served import Running, Shop

from lookalike.store import LocalStore

BODIES = 1_000
TYPES = (
    "application/json", "multipart/form-data", "multipart/form-data; boundary=x", "application/x-ndjson",
    "text/plain", "", "multipart/form-data; boundary=\xff", "application/json; charset=utf-16",
)  # fmt: skip


@schemathesis.serializer("application/x-ndjson")
def lines(_: object, value: object) -> bytes:
    return json.dumps(value, default=str).encode()


@pytest.fixture(scope="module")
def service(
    drawn_shop: Shop, serve: Callable[..., Running], tmp_path_factory: pytest.TempPathFactory
) -> Running:
    """On a copy to write to."""
    folder = tmp_path_factory.mktemp("fuzz") / "shop"
    with LocalStore(drawn_shop.folder) as store:
        store.snapshot(folder)
    return serve(folder)


def examples(document: dict[str, Any]) -> Iterator[tuple[str, str, str, Any]]:
    """Method, path, kind of body and body of each operation that takes one; what puts an item comes first."""
    for path, operations in sorted(document["paths"].items(), key=lambda pair: "put" not in pair[1]):
        for method, operation in operations.items():
            for kind, told in operation.get("requestBody", {}).get("content", {}).items():
                yield method, path, kind, told["example"]


def test_every_example_of_the_description_is_answered_as_described(
    service: Running, drawn_shop: Shop
) -> None:
    client, admin = service.client, service.headers("admin")
    document = client.get("/openapi.json").json()
    sent, sha256 = [], ""

    def check(path: str, method: str, answer: httpx.Response) -> None:
        assert answer.status_code in (200, 201, 202), (path, answer.text)
        described = document["paths"][path][method]["responses"][str(answer.status_code)]
        schema = described["content"]["application/json"]["schema"]
        Draft202012Validator({**schema, "components": document["components"]}).validate(answer.json())

    for method, path, kind, example in examples(document):
        place = path.format(id="jacket-1")
        if kind == "multipart/form-data":
            known = {"sha256": sha256} if "sha256" in example else {}
            fields = {
                name: json.dumps(value) if isinstance(value, dict) else value
                for name, value in (example | known).items()
            }
            files = {"picture": drawn_shop.query.read_bytes()}
            answer = client.request(method, place, data=fields, files=files, headers=admin)
        else:
            content = json.dumps(example).encode()
            answer = client.request(method, place, content=content, headers={**admin, "Content-Type": kind})
        check(path, method, answer)
        if method == "put":
            sha256 = answer.json()["pictures"][0]["sha256"]
        sent.append((method, path, kind))
    assert len(sent) == len(set(sent)) == 6
    for path in ("/v1/items/{id}", "/v1/items", "/v1/catalogue", "/v1/jobs"):
        check(path, "get", client.get(path.format(id="jacket-1"), headers=admin))
    each = client.post(
        "/v1/search", files={"picture": drawn_shop.query.read_bytes()}, data={"regions": "each"}
    )
    check("/v1/search", "post", each)


def test_nothing_that_the_description_allows_is_a_server_error(service: Running) -> None:
    schema = schemathesis.openapi.from_url(f"{service.url}/openapi.json")
    operations = [each.ok() for each in schema.get_all_operations()]
    assert len(operations) >= 12
    for operation in operations:

        @given(case=operation.as_strategy())
        @settings(
            max_examples=12, deadline=None, database=None, phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )  # fmt: skip
        def holds(case: schemathesis.Case) -> None:
            answer = case.call(headers=service.headers("admin"))
            assert answer.status_code < 500, answer.text
            if answer.status_code >= 400:
                assert answer.headers["content-type"] == ["application/problem+json"]

        holds()


def test_a_thousand_malformed_bodies_get_no_server_error(service: Running, drawn_shop: Shop) -> None:
    by_chance = random.Random(5)
    right = drawn_shop.query.read_bytes()
    form = (
        b'--x\r\nContent-Disposition: form-data; name="picture"; filename="a"\r\n\r\n'
        + right
        + b"\r\n--x--\r\n"
    )
    seeds = [right, form, b'{"text": "red", "top": 3}', b'{"item": "a", "pictures": []}\n', b"\x00" * 64]
    places = ["/v1/search", "/v1/explain", "/v1/embeddings", "/v1/items"]
    seen: dict[int, int] = {}
    for _ in range(BODIES):
        body = bytearray(by_chance.choice(seeds))
        for _ in range(by_chance.randrange(1, 9)):
            at = by_chance.randrange(len(body))
            body[at : at + by_chance.randrange(4)] = by_chance.randbytes(by_chance.randrange(4))
            body = body or bytearray(b"{")
        if by_chance.random() < 0.3:
            del body[by_chance.randrange(len(body)) :]
        headers = {"content-type": by_chance.choice(TYPES).encode("latin-1"), **service.headers("write")}
        answer = service.client.post(by_chance.choice(places), content=bytes(body), headers=headers)
        seen[answer.status_code] = seen.get(answer.status_code, 0) + 1
        if answer.status_code >= 400:
            assert answer.headers["content-type"] == "application/problem+json"
    assert not any(status >= 500 for status in seen), seen
    assert sum(seen.values()) == BODIES and seen[400] + seen[422] > 300
    assert service.client.get("/readyz").status_code == 200
