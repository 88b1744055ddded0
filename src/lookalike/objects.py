"""Whole objects at a URI: read, listed and written, on object storage or on disk.

`s3://bucket/key`, `gs://bucket/key`, `az://container/key`, `file:///folder/name`, or a plain path. Keys are
taken as they are written, nothing in them is decoded; only in `file:` URIs is %20 a blank. Everything goes
through obstore (extra `objects`), which reads credentials, region and endpoint from the environment as its
documentation says (AWS_ACCESS_KEY_ID, AWS_ENDPOINT_URL, GOOGLE_APPLICATION_CREDENTIALS, AZURE_STORAGE_…).

What goes wrong is an ObjectError of one line, NoObject where nothing is there, StorageFull where a disk is
full. A request is tried again by the library alone, four times in all and for some ten seconds.
"""

from __future__ import annotations

import os
import posixpath
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from functools import lru_cache
from io import RawIOBase
from pathlib import Path
from typing import Any, BinaryIO, TypeGuard, cast
from urllib.parse import unquote, urlsplit

from lookalike.errors import BadInput, MissingExtra, NoObject, ObjectError, StorageFull

SCHEMES = ("s3", "gs", "az", "file")
_LOOPBACK = ("localhost", "127.0.0.1", "::1")
_LISTED = 1000  # keys of one answer


@dataclass(frozen=True, slots=True)
class _Place:
    root: str  # "s3://bucket"; "file:///" for the whole disk
    key: str

    @property
    def local(self) -> bool:
        return self.root == "file:///"


def is_uri(text: object) -> TypeGuard[str]:
    """Whether this is written as a URI, and no path."""
    return isinstance(text, str) and re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", text) is not None


def normal(uri: str) -> str:
    """The same place however it is written: no slash at the end, `file:` URIs as plain paths.

    BadInput for a scheme that is not known, a URI without a bucket, or with a part that is empty or "..".
    """
    place = _place(uri)
    return f"/{place.key}" if place.local else posixpath.join(place.root, place.key).rstrip("/")


def join(uri: str, *names: str) -> str:
    """The place called so below another one."""
    return posixpath.join(uri, *names)


def read(uri: str, limit: int | None = None) -> bytes:
    """The whole object; BadInput where it has more than `limit` bytes, before they are read."""
    place = _place(uri)
    with _explained(uri):
        import obstore

        found = obstore.get(_store(place.root), place.key)
        size = found.meta["size"]
        if limit is not None and size > limit:
            raise BadInput(f"{size / 1e6:.1f} MB, more than the {limit / 1e6:g} MB allowed")
        return bytes(found.bytes())


@contextmanager
def opened(uri: str) -> Iterator[BinaryIO]:
    """The object as a file to seek in: of a large one only the parts that are asked for are read."""
    place = _place(uri)
    with _explained(uri):
        import obstore

        if place.local:
            with Path(f"/{place.key}").open("rb") as file:
                yield file
        else:
            store = _store(place.root)
            yield cast("BinaryIO", _Ranges(store, place.key, obstore.head(store, place.key)["size"]))


def exists(uri: str) -> bool:
    place = _place(uri)
    if place.local:
        return Path(f"/{place.key}").is_file()
    try:
        with _explained(uri):
            import obstore

            obstore.head(_store(place.root), place.key)
    except NoObject:
        return False
    return True


def put(uri: str, data: bytes | Path) -> None:
    """Write an object, or a local file's content, in the place of what was there; whole when it returns."""
    _put(uri, data, "overwrite")


def put_if_absent(uri: str, data: bytes | Path) -> bool:
    """Write a new object, or the content of a local file; False where there is one, which stays.

    Of several that do so at once one alone is told True.
    """
    return _put(uri, data, "create")


def check_writable(uri: str) -> None:
    """ObjectError or StorageFull where nothing can be put below a URI: now, before there is work to lose."""
    tried = join(uri, "writable")
    put_if_absent(tried, b"")  # as what follows is put: storage that knows no conditions is found out, too
    place = _place(tried)
    with suppress(ObjectError), _explained(tried):  # who may write and not delete leaves it there, empty
        import obstore

        obstore.delete(_store(place.root), place.key)


def listed(uri: str) -> Iterator[str]:
    """Every object below a URI, by its own URI, in the order of their keys.

    Object storage tells them in this order, thousands at a time; those of a disk are sorted in memory.
    """
    place = _place(uri)
    with _explained(uri):
        import obstore

        found = obstore.list(_store(place.root), place.key or None, chunk_size=_LISTED)
        keys = (entry["path"] for entries in found for entry in entries)
        for key in sorted(keys) if place.local else keys:
            yield _uri(place, key)


def children(uri: str) -> tuple[list[str], list[str]]:
    """The objects right below a URI, and the folders, both by their URIs and sorted."""
    place = _place(uri)
    with _explained(uri):
        import obstore

        found = obstore.list_with_delimiter(_store(place.root), place.key or None)
        files = sorted(entry["path"] for entry in found["objects"])
        folders = sorted(found["common_prefixes"])
    return [_uri(place, key) for key in files], [_uri(place, key) for key in folders]


class _Ranges(RawIOBase):
    """An object as a file: each read is a request for its part."""

    def __init__(self, store: Any, key: str, size: int) -> None:
        self._store, self._key, self._size = store, key, size
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._size}[whence]
        self._at = max(0, start + offset)
        return self._at

    def readinto(self, buffer: Any) -> int:
        import obstore

        wanted = min(len(buffer), self._size - self._at)
        if wanted <= 0:
            return 0
        buffer[:wanted] = obstore.get_range(self._store, self._key, start=self._at, length=wanted).to_bytes()
        self._at += wanted
        return wanted


def _put(uri: str, data: bytes | Path, mode: Any) -> bool:
    place = _place(uri)
    with _explained(uri):
        import obstore
        from obstore.exceptions import AlreadyExistsError

        try:  # in one request: only that can be made conditional
            obstore.put(_store(place.root), place.key, data, mode=mode, use_multipart=False)
        except AlreadyExistsError:
            return False
        if place.local:
            _sync(Path(f"/{place.key}"))
    return True


def _sync(path: Path) -> None:
    """Have a file and its name on disk."""
    for each in (path, path.parent):
        handle = os.open(each, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _uri(place: _Place, key: str) -> str:
    return f"/{key}" if place.local else f"{place.root}/{key}"


def _place(uri: str) -> _Place:
    if not is_uri(uri):
        return _Place("file:///", os.path.normpath(Path(uri).absolute()).lstrip("/"))
    scheme, _, rest = uri.partition("://")
    scheme = scheme.lower()
    if scheme not in SCHEMES:
        raise BadInput(
            f"{uri}: {scheme}:// is not known here",
            f"known: {', '.join(f'{name}://' for name in SCHEMES)}, or a folder's path",
        )
    if scheme == "file":
        parts = urlsplit(uri)
        if parts.netloc not in ("", "localhost") or not parts.path.startswith("/"):
            raise BadInput(f"{uri}: not a file of this machine", "write it as file:///folder/name")
        return _Place("file:///", os.path.normpath(unquote(parts.path)).lstrip("/"))
    bucket, _, key = rest.partition("/")
    key = key.strip("/")
    if not bucket or any(part in ("", ".", "..") for part in key.split("/") if key):
        raise BadInput(f"{uri}: needs a bucket, and no empty part", f"write it as {scheme}://bucket/folder")
    return _Place(f"{scheme}://{bucket}", key)


@lru_cache(maxsize=64)
def _store(root: str) -> Any:
    """The library's own store, with its connections; made once for a bucket."""
    try:
        from obstore.store import from_url
    except ImportError:
        raise MissingExtra(f"reading and writing {root}", "objects") from None
    if root == "file:///":
        return from_url(root)
    client: dict[str, Any] = {"connect_timeout": "3s", "read_timeout": "10s", "timeout": "15m"}
    if _plain_http(os.environ):
        client["allow_http"] = True
    return from_url(
        root,
        client_options=cast("Any", client),
        retry_config={
            "max_retries": 3,
            "retry_timeout": timedelta(seconds=8),
            "backoff": {
                "init_backoff": timedelta(milliseconds=100),
                "max_backoff": timedelta(seconds=2),
                "base": 2,
            },
        },
    )


def _plain_http(told: Mapping[str, str]) -> bool:
    """Whether requests may go unencrypted: to this machine, or where the library's own variable allows it."""
    if told.get("AWS_ALLOW_HTTP", "").lower() in ("true", "1"):
        return True
    endpoint = urlsplit(told.get("AWS_ENDPOINT_URL_S3") or told.get("AWS_ENDPOINT_URL") or "")
    return endpoint.scheme == "http" and endpoint.hostname in _LOOPBACK


_REASONS = (  # what the library's message holds -> what to say, and what to do about it
    (
        r"NoSuchBucket|ContainerNotFound|bucket does not exist",
        "there is no such bucket",
        "check its name, and AWS_ENDPOINT_URL",
    ),
    (
        r"40[13] (Forbidden|Unauthorized)|InvalidAccessKeyId|SignatureDoesNotMatch|ExpiredToken"
        r"|MissingAccount|Account must be|169\.254\.169\.254|credential",
        "access is refused: credentials are wrong, missing, or not enough for it",
        "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (or those of GOOGLE_ or AZURE_STORAGE_)",
    ),
    (
        r"URL scheme is not allowed|BadScheme",
        "plain HTTP to another machine is not allowed",
        "use https, or set AWS_ALLOW_HTTP=true",
    ),
    (
        r"error sending request|[Tt]imed? ?out|connection|dns",
        "no connection to the storage",
        "check the network and AWS_ENDPOINT_URL, and run it again: what was written is kept",
    ),
    (r"os error 13\b|Permission denied", "not allowed here", "check who may read and write it"),
    (r"empty path segment|Could not parse path", "a key with an empty part cannot be read", "rename it"),
)
_FULL = re.compile(r"os error (27|28|122)\b")  # too large for the limit, no space left, quota


@contextmanager
def _explained(uri: str) -> Iterator[None]:
    """Turns what the library raises into one line that names the URI."""
    try:
        from obstore.exceptions import BaseError
    except ImportError:
        raise MissingExtra(f"reading and writing {uri}", "objects") from None
    try:
        yield
    except (BaseError, OSError, ValueError) as error:
        raise _told(uri, error) from None


def _told(uri: str, error: Exception) -> ObjectError | StorageFull:
    said = str(error)
    if _FULL.search(said) or getattr(error, "errno", None) in (27, 28, 122):
        return StorageFull(
            f"{uri}: the disk is full", "free some space and run it again: what was written is kept"
        )
    gone = isinstance(error, FileNotFoundError)
    for pattern, reason, hint in _REASONS[:1] if gone else _REASONS:
        if re.search(pattern, said):
            return ObjectError(f"{uri}: {reason}", hint)
    if gone or isinstance(error, NotADirectoryError | IsADirectoryError):
        return NoObject(f"{uri}: nothing there")
    line = said.split("\n", 1)[0][:200]
    return ObjectError(f"{uri}: {line or type(error).__name__}")
