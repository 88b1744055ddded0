"""Who may do what, and how often: bearer keys with scopes, and rates by key or by address."""

from __future__ import annotations

import hashlib
import hmac
import json
import math
import os
import secrets
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from fastapi import Depends, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from pydantic import BaseModel

from lookalike.errors import BadInput, CatalogueError
from lookalike.server.problems import Problem
from lookalike.server.rates import Rate
from lookalike.store import replacing

Scope = Literal["search", "write", "admin"]
SCOPES: Sequence[Scope] = get_args(Scope)  # each may do what those before it may

_ASK = {"WWW-Authenticate": "Bearer"}


@dataclass(frozen=True, slots=True)
class Key:
    """What is kept of a key. `id` is the beginning of the hash: its holder can be named, not the key."""

    id: str
    scope: Scope
    sha256: str
    created: str  # ISO 8601, UTC

    def __post_init__(self) -> None:
        if self.scope not in SCOPES or len(bytes.fromhex(self.sha256)) != 32:
            raise ValueError("not a key")


class Keys:
    """The keys of a catalogue, in `file`, or in its folder as `keys.json`: hashes, never the keys themselves.

    A key is 32 random bytes, so its plain SHA-256 tells nothing. Changes that another process makes to the
    file are seen at the next question.
    """

    def __init__(self, folder: Path, file: Path | None = None) -> None:
        self._path = file or folder / "keys.json"
        self._seen: tuple[int, int, int] | None = None  # the file's state when it was read
        self._keys: tuple[Key, ...] = ()

    def new(self, scope: Scope) -> str:
        """Make a key; this is the only time that it is told."""
        if scope not in SCOPES:
            raise BadInput(f"no scope is called {scope!r}", f"known: {', '.join(SCOPES)}")
        token = f"lk_{secrets.token_urlsafe(32)}"
        digest = _digest(token)
        made = Key(digest[:12], scope, digest, datetime.now(UTC).isoformat(timespec="seconds"))
        self._change(lambda keys: (*keys, made))
        return token

    def remove(self, id: str) -> None:
        """Refuse this key from now on. BadInput where no key has the id."""

        def without(keys: Sequence[Key]) -> Sequence[Key]:
            kept = [key for key in keys if key.id != id]
            if len(kept) == len(keys):
                raise BadInput(f"no key has the id {id!r}", f"known: {', '.join(key.id for key in keys)}")
            return kept

        self._change(without)

    def listed(self) -> Sequence[Key]:
        """All keys, oldest first. CatalogueError where the file cannot be understood."""
        try:
            status = self._path.stat()
            state = (status.st_ino, status.st_mtime_ns, status.st_size)
            if state != self._seen:
                told = json.loads(self._path.read_bytes())
                self._keys = tuple(Key(**each) for each in told["keys"])
                self._seen = state
        except FileNotFoundError:
            self._seen, self._keys = None, ()
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise CatalogueError("the keys cannot be read", f"see to {self._path.name}") from error
        return self._keys

    def scope_of(self, token: str) -> tuple[str, Scope] | None:
        """The id and the scope of a key; None where there is no such key.

        Takes as long for a wrong key as for a right one: hashes are compared, every one, each to its end.
        """
        digest = _digest(token)
        found: Key | None = None
        for key in self.listed():
            if hmac.compare_digest(key.sha256, digest):
                found = key
        return (found.id, found.scope) if found else None

    def _change(self, changed: Callable[[Sequence[Key]], Iterable[Key]]) -> None:
        from filelock import FileLock

        with FileLock(self._path.with_name(".keys.lock")), replacing(self._path) as unfinished:
            told = json.dumps({"keys": [asdict(key) for key in changed(self.listed())]}, indent=1)
            made = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with open(made, "w", encoding="utf-8") as file:
                file.write(told)


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


class Access:
    """Decides about requests: who asks, whether they may, and whether it is too often.

    Writing needs a key, always; searching needs one where `searching_needs_key`. `per_minute` holds for each
    key, and for each address that comes without one or with a wrong one, over all processes that count in the
    same file; None sets no limit. `proxies` are
    addresses or networks ("10.0.0.0/8") of those in front of the service: what they say in X-Forwarded-For is
    believed, from the right up to the first address that is none of them.
    """

    def __init__(
        self,
        keys: Keys,
        searching_needs_key: bool,
        per_minute: int | None,
        proxies: Sequence[str] = (),
        clock: Callable[[], float] = time.monotonic,
        counted_in: Path | None = None,
    ) -> None:
        self._keys, self._searching_needs_key = keys, searching_needs_key
        self._rate = None if per_minute is None else Rate(per_minute, clock, counted_in)
        try:
            self._proxies = [ip_network(each, strict=False) for each in proxies]
        except ValueError as error:
            raise BadInput(f"a proxy that is no address: {error}", "write 10.0.0.7 or 10.0.0.0/8") from None

    async def check(self, request: Request, scope: Scope) -> str:
        """Who asks: the id of a key, or an address ("-" where there is none).

        Problem 401 without a known key where one is needed or given, 403 where its scope does not suffice,
        429 with Retry-After where it is too often.
        """
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        given = token.strip() if scheme.lower() == "bearer" else ""
        known = self._keys.scope_of(given) if given else None
        if known is None:
            address = self._address(request)
            self._count(f"address {_household(address)}")
            if given:
                raise Problem(401, "the key is not known", headers=_ASK)
            if scope != "search" or self._searching_needs_key:
                raise Problem(401, "this needs a key", "send Authorization: Bearer lk_…", _ASK)
            return str(address or "-")
        who, allowed = known
        request.state.key = who  # for the log
        self._count(f"key {who}")
        if SCOPES.index(allowed) < SCOPES.index(scope):
            raise Problem(403, f"the key is for {allowed}, this needs one for {scope}")
        return who

    def _count(self, name: str) -> None:
        wait = 0.0 if self._rate is None else self._rate.wait(name)
        if wait > 0:
            told = {"Retry-After": str(math.ceil(wait))}
            raise Problem(429, "too many requests within a minute", "wait and try again", told)

    def _address(self, request: Request) -> IPv4Address | IPv6Address | None:
        """The client's, as far as those can be believed who tell of it."""
        address = _parsed(request.client.host) if request.client else None
        told = ",".join(request.headers.getlist("x-forwarded-for")).split(",")
        while told and address is not None and any(address in network for network in self._proxies):
            before = _parsed(told.pop())
            if before is None:  # nothing was told, or nonsense
                break
            address = before
        return address


def _parsed(text: str) -> IPv4Address | IPv6Address | None:
    """An address as proxies write it, with or without brackets and a port; IPv4 within IPv6 as IPv4."""
    text = text.strip().strip('"')
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        address = ip_address(text)
    except ValueError:
        return None
    return (address.ipv4_mapped if isinstance(address, IPv6Address) else None) or address


def _household(address: IPv4Address | IPv6Address | None) -> str:
    """Whom an address counts for; of IPv6 its network, as a household has 2^64 addresses."""
    if isinstance(address, IPv6Address):
        return str(ip_network((int(address) >> 64 << 64, 64)))
    return str(address)


_BEARER = HTTPBearer(auto_error=False, description="A key of the service: `lookalike serve --new-key SCOPE`.")


def needs(scope: Scope) -> Any:
    """For `Depends`: that the request may do what `scope` covers, see `Access.check`, and asks what is known.

    Where the service only reads, whatever goes beyond searching is 403, whoever asks. A parameter in the
    address that the endpoint does not take is 422, as a field that is not known is.
    """

    async def checked(
        request: Request, _: Annotated[HTTPAuthorizationCredentials | None, Depends(_BEARER)]
    ) -> str:
        service = request.app.state.service
        if service.read_only and scope != "search":
            raise Problem(403, "this service only reads its catalogue", "write where the catalogue is made")
        try:
            who: str = await service.access.check(request, scope)
        except Problem as problem:
            if problem.status == 429:
                service.watch.refused("rate")
            raise
        _check_address(request)
        return who

    return checked


def _check_address(request: Request) -> None:
    taken: set[str] = set()
    for field in request.scope["route"].dependant.query_params:
        kind = field.field_info.annotation
        model = isinstance(kind, type) and issubclass(kind, BaseModel)  # of which each field is a parameter
        taken |= set(kind.model_fields) if model else {field.alias}
    if unknown := [name for name in request.query_params if name not in taken]:
        hint = f"in the address this takes {', '.join(sorted(taken)) or 'none'}; fields belong into the body"
        raise Problem(422, f"{unknown[0][:80]}: no such parameter", hint)
