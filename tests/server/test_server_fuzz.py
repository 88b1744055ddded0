"""The service against what its own description allows, and against what nothing allows."""

from __future__ import annotations

import json
import random
from collections.abc import Callable

import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from served import Running, Shop

BODIES = 1_000
TYPES = (
    "application/json", "multipart/form-data", "multipart/form-data; boundary=x", "application/x-ndjson",
    "text/plain", "", "multipart/form-data; boundary=\xff", "application/json; charset=utf-16",
)  # fmt: skip


@schemathesis.serializer("application/x-ndjson")
def lines(_: object, value: object) -> bytes:
    return json.dumps(value, default=str).encode()


def test_nothing_that_the_description_allows_is_a_server_error(
    shop: Shop, serve: Callable[..., Running]
) -> None:
    service = serve(shop.folder)
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


def test_a_thousand_malformed_bodies_get_no_server_error(shop: Shop, serve: Callable[..., Running]) -> None:
    service, by_chance = serve(shop.folder), random.Random(5)
    right = shop.query.read_bytes()
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
