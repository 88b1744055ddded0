"""One Milvus server: where it is, calls that end in bounded time, and its failures in plain words."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from lookalike.errors import CatalogueError, MissingExtra, StorageFull
from lookalike.store.address import Address

PAGE = 2000  # rows that are read at a time where a whole collection is
MOST_FOUND = 16_384  # rows that one search of Milvus gives, and one query

_CONNECTING_S = 5.0
_CALL_S = 60.0  # the longest that one call may take
_SETTLING_S = 20.0  # a server that has just started says for a while that it is not ready
_SENT = 500  # rows of one upsert, so that a message stays far below the server's 64 MB
_ASKED = 4096  # keys in one expression
_NOT_READY = re.compile(
    r"not (ready|loaded|fully loaded|serving)|no available|not available|node offline|channel not found"
    r"|shard delegator|service not ready|not healthy|is initializing|state code is|abnormal|unavailable",
    re.IGNORECASE,
)

_NOBODY = re.compile(
    r"StatusCode\.(UNAVAILABLE|DEADLINE|CANCEL)|fail connecting|retry timeout|closed channel", re.I
)


class Server:
    """Calls to a server, safe from several threads. A call fails within a minute, with a CatalogueError.

    Reads take a `moment`: they see at least all that was acknowledged before it.
    """

    def __init__(self, address: Address, token: str | None = None) -> None:
        try:
            import pymilvus
        except ImportError:
            raise MissingExtra("a catalogue in Milvus", "milvus") from None
        # Importing it sets up handlers that print each failure with its traceback; what is raised says it.
        for name in ("pymilvus", "pymilvus.milvus_client"):
            logging.getLogger(name).setLevel(logging.CRITICAL + 1)
        self._address = address
        self._types = pymilvus.DataType
        self._schema = pymilvus.MilvusClient.create_schema
        self._index_params = pymilvus.MilvusClient.prepare_index_params
        self._client: Any = self._called(
            lambda: pymilvus.MilvusClient(
                f"http://{address.place}", token=token or "", db_name=address.database, dedicated=True,
                timeout=_CONNECTING_S,
            ),
            settling_s=0,
        )  # fmt: skip
        # A wrong database is told only now.
        self._called(lambda: self._client.list_collections(timeout=_CONNECTING_S), settling_s=0)

    def close(self) -> None:
        self._client.close()

    def moment(self) -> int:
        """Now, by the server's clock.

        Reading by it costs one wait for the server's time tick (0.2 s as it is delivered), where "Strong"
        would wait at every call. No public method of pymilvus 3 asks for it.
        """
        moment: int = self._call(self._client._get_connection().alloc_timestamp)
        return moment

    def query(
        self, collection: str, where: str, fields: Sequence[str], moment: int, limit: int | None = None
    ) -> list[dict[str, Any]]:
        """Rows by a Milvus expression, at most `MOST_FOUND`; with a limit those with the lowest keys."""
        found: list[dict[str, Any]] = self._call(
            self._client.query, collection, filter=where, output_fields=list(fields),
            limit=limit or MOST_FOUND, **_seen_from(moment),
        )  # fmt: skip
        return [dict(row) for row in found]

    def pages(
        self, collection: str, where: str, fields: Sequence[str], moment: int, size: int = PAGE
    ) -> Iterator[list[dict[str, Any]]]:
        """All rows, by ascending key, so many at a time.

        Not by Milvus' iterator: server 2.3.5 loses rows in it where others were removed.
        """
        last = -1
        while True:
            above = f"key > {last}"
            found = self.query(
                collection, f"({where}) and {above}" if where else above, ["key", *fields], moment, size
            )
            if found:
                found.sort(key=lambda row: row["key"])
                last = found[-1]["key"]
                yield found
            if len(found) < size:
                return

    def by(
        self, collection: str, field: str, values: Sequence[int], fields: Sequence[str], moment: int
    ) -> list[dict[str, Any]]:
        """All rows whose `field` is one of the values."""
        found = []
        for start in range(0, len(values), _ASKED):
            listed = ", ".join(map(str, values[start : start + _ASKED]))
            for page in self.pages(collection, f"{field} in [{listed}]", fields, moment):
                found += page
        return found

    def count(self, collection: str, where: str, moment: int) -> int:
        told = self._call(
            self._client.query, collection, filter=where, output_fields=["count(*)"], **_seen_from(moment)
        )
        return int(told[0]["count(*)"])

    def search(
        self, collection: str, vectors: Any, top: int, where: str, ef: int | None, moment: int
    ) -> list[list[tuple[int, float, int]]]:
        """For each vector the key, score and item of the first `top` rows, best first."""
        found = self._call(
            self._client.search, collection, data=list(vectors), limit=top, filter=where,
            output_fields=["item"], search_params={"params": {"ef": ef} if ef else {}}, **_seen_from(moment),
        )  # fmt: skip
        return [[(hit["id"], hit["distance"], hit["entity"]["item"]) for hit in hits] for hits in found]

    def upsert(self, collection: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Acknowledged by the server when it returns."""
        for start in range(0, len(rows), _SENT):
            self._call(
                self._client.upsert, collection, data=[dict(row) for row in rows[start : start + _SENT]]
            )

    def delete(self, collection: str, keys: Sequence[int] | Sequence[str], field: str = "key") -> None:
        for start in range(0, len(keys), _ASKED):
            listed = ", ".join(map(quoted, keys[start : start + _ASKED]))
            self._call(self._client.delete, collection, filter=f"{field} in [{listed}]")

    def collection_of(self, alias: str) -> str | None:
        """The collection that an alias, or a name, leads to; None where there is none."""
        if not self._call(self._client.has_collection, alias):
            return None
        told: str = self._call(self._client.describe_collection, alias)["collection_name"]
        return told

    def collections(self) -> list[str]:
        told: list[str] = self._call(self._client.list_collections)
        return told

    def create(
        self, collection: str, fields: Mapping[str, tuple[str, Mapping[str, Any]]], index: Mapping[str, Any]
    ) -> None:
        """Make and load a collection. `fields` are types by name, the first one the primary key."""
        schema, params = self._schema(auto_id=False, enable_dynamic_field=False), self._index_params()
        for place, (name, (kind, more)) in enumerate(fields.items()):
            schema.add_field(name, self._types[kind], is_primary=place == 0, **more)
        params.add_index("vector", metric_type="IP", **index)
        self._call(
            self._client.create_collection, collection, schema=schema, index_params=params,
            consistency_level="Strong",
        )  # fmt: skip

    def load(self, collection: str) -> None:
        """Have it in the server's memory; at once where it is."""
        self._call(self._client.load_collection, collection)

    def drop(self, collection: str) -> None:
        self._call(self._client.drop_collection, collection)

    def point(self, alias: str, collection: str) -> None:
        """Make an alias lead to a collection, at once for everybody."""
        if self.collection_of(alias) is None:
            self._call(self._client.create_alias, collection, alias)
        else:
            self._call(self._client.alter_alias, collection, alias)

    def seal(self, collection: str) -> None:
        """Close the segments that still grow, so that the server indexes them."""
        self._call(self._client.flush, collection)

    def indexed(self, collection: str) -> tuple[int, int]:
        """How many rows of the sealed segments are in the index, and how many there are."""
        told = self._call(self._client.describe_index, collection, "vector")
        return int(told["indexed_rows"]), int(told["total_rows"])

    def _call(self, method: Callable[..., Any], *given: Any, **named: Any) -> Any:
        return self._called(lambda: method(*given, timeout=_CALL_S, **named))

    def _called(self, call: Callable[[], Any], settling_s: float = _SETTLING_S) -> Any:
        """What a call gives, tried again for a while where the server says that it is not ready."""
        import grpc
        from pymilvus.exceptions import MilvusException

        started, pause = time.monotonic(), 0.05
        while True:
            try:
                return call()
            except (MilvusException, grpc.RpcError, ConnectionError, OSError) as error:
                lost = _lost(error)
                waited = time.monotonic() - started
                if lost or waited > settling_s or not _NOT_READY.search(str(error)):
                    raise self._in_words(error, lost) from error
            time.sleep(pause)
            pause = min(2 * pause, 1.0)

    def _in_words(self, error: Exception, lost: bool) -> CatalogueError:
        place, said = self._address.place, str(getattr(error, "message", "") or error)
        # pymilvus says of a refusal that it cannot connect, and what was refused in the error before.
        lowered = f"{said} {error.__cause__ or ''}".lower()
        if (
            "unauthenticated" in lowered
            or "auth check failure" in lowered
            or "missing authorization" in lowered
            or "permission" in lowered
        ):
            return CatalogueError(
                f"the Milvus server at {place} refuses the credentials",
                "put user:password, or the API key, into the environment variable MILVUS_TOKEN",
            )
        if "database not found" in lowered:
            return CatalogueError(
                f"the Milvus server at {place} has no database {self._address.database!r}",
                "make it with Milvus' own tools, or leave it out of the address",
            )
        if "quota exceeded" in lowered or "no space left" in lowered:
            return StorageFull(
                f"the Milvus server at {place} takes no more rows: {_line(said)}",
                "make room and run the same command again: what was finished is kept",
            )
        if lost:
            return CatalogueError(
                f"no Milvus server answers at {place}",
                "start it, then run the same command again: what was acknowledged is kept",
            )
        return CatalogueError(
            f"the Milvus server at {place} says: {_line(said)}",
            "what was acknowledged is kept: run the same command again",
        )


def quoted(value: int | str) -> str:
    """A value in an expression. Text is what this project makes itself: letters, digits, plain signs."""
    if isinstance(value, int):
        return str(value)
    if not re.fullmatch(r"[\w .:/%+-]*", value, re.ASCII):
        raise ValueError(f"not a plain name: {value!r}")
    return f'"{value}"'


def _seen_from(moment: int) -> dict[str, Any]:
    return {"consistency_level": "Customized", "guarantee_timestamp": moment}


def _lost(error: Exception) -> bool:
    """Whether nobody answers: told by gRPC's status, or by pymilvus in words."""
    import grpc

    codes = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.CANCELLED)
    code = getattr(error, "code", None)
    if isinstance(error, OSError) or (code() if callable(code) else code) in codes:
        return True
    return bool(_NOBODY.search(str(error)))


def _line(said: str) -> str:
    return " ".join(said.split())[:200]
