"""The file `catalogue.sqlite`: who may open it, its schema, its transactions, its failures in plain words."""

from __future__ import annotations

import errno
import os
import re
import sqlite3
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from secrets import randbits

from lookalike.errors import CatalogueBusy, CatalogueError, StorageFull, WrongEncoder
from lookalike.store import schema

FILE = "catalogue.sqlite"
_APPLICATION = 0x4C4F4F4B  # "LOOK": tells a catalogue from any other SQLite file
_NETWORK = {
    "nfs", "nfs4", "cifs", "smb3", "smbfs", "ncpfs", "9p", "afs", "ceph", "lustre", "davfs",
    "fuse.sshfs", "fuse.ceph", "fuse.glusterfs", "fuse.s3fs", "fuse.rclone", "fuse.davfs2",
}  # fmt: skip


class Connection(sqlite3.Connection):
    """It knows the catalogue's folder: sources of pictures there are kept by their way from it."""

    folder: str  # its full path, with a separator at the end


class Database:
    """One writing connection at most, and a pool of reading ones; safe to share between threads.

    Opening for writing takes the folder's writer lock and, given a `dim`, creates what is absent with `meta`.
    """

    def __init__(
        self, folder: Path, dim: int | None = None, write: bool = False, meta: Mapping[str, str] | None = None
    ) -> None:
        self.folder = folder.absolute()
        self.path = self.folder / FILE
        self._idle: list[Connection] = []
        self._all: list[Connection] = []
        self._pool = threading.Lock()  # of the two lists
        self._frozen: tuple[int, ...] | None = None  # the file's look, where it is read as unchanging
        self._writing = threading.RLock()
        self._writer: Connection | None = None
        self._release: Callable[[], None] = _nothing
        self._closed = False
        try:
            with explained(self.folder):
                if write:
                    self._lock(create=dim is not None)
                    if not self.path.exists() and dim is not None:
                        self._create({"dim": str(dim), "run": "0", "epoch": fresh_epoch(), **(meta or {})})
                    self._writer = self._open("rw")
                self._check(dim)
        except BaseException:
            self.close()
            raise

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """A connection that sees one moment, that of its first statement, whatever is written meanwhile."""
        with explained(self.folder):
            connection, home = self._borrow()
            try:
                connection.execute("BEGIN")
                yield connection
            finally:
                if not self._closed:
                    connection.rollback()
                    home.append(connection)

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """A transaction: on disk when the block ends, undone when it raises."""
        with self._writing, explained(self.folder):
            if self._closed:
                raise ValueError("the catalogue is closed")
            if self._writer is None:
                raise CatalogueError(f"{self.folder} was opened for reading only")
            self._writer.execute("BEGIN IMMEDIATE")
            try:
                yield self._writer
                self._writer.execute("COMMIT")
            except BaseException:
                with suppress(sqlite3.Error):
                    self._writer.rollback()
                raise

    def close(self) -> None:
        """Close every connection and let go of the writer lock. Closing twice is allowed."""
        with self._pool:
            self._closed = True
            for connection in self._all:
                connection.close()
            self._all.clear()
            self._idle.clear()
        if self._writer is not None:
            # An empty log lets the folder be read where nothing can be written. Readers are not waited for.
            with suppress(sqlite3.Error):
                self._writer.execute("PRAGMA busy_timeout = 0")
                self._writer.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            self._writer.close()
            self._writer = None
        self._release()

    def _lock(self, create: bool) -> None:
        """Become the only writer of the folder, which `create` makes where it is absent."""
        from filelock import FileLock, Timeout

        if not create and not self.path.exists():
            raise self._absent()
        kind = network_file_system(self.folder)
        if kind:
            raise CatalogueError(
                f"{self.folder} lies on a network file system ({kind}), where SQLite's locks are not safe",
                "write the catalogue to a local disk and copy it when it is finished",
            )
        lock = FileLock(self.folder / ".writer.lock")
        with room_for(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            try:
                lock.acquire(timeout=0)
            except Timeout:
                raise CatalogueBusy(
                    f"{self.folder} is being written by another process", "try again when it has finished"
                ) from None
        self._release = lock.release

    def _create(self, meta: Mapping[str, str]) -> None:
        """Make the file under another name first: it is complete from the moment it is there."""
        with replacing(self.path) as unfinished, closing(_file(unfinished)) as connection:
            connection.execute("PRAGMA page_size = 8192")
            connection.execute(f"PRAGMA application_id = {_APPLICATION}")
            connection.execute("BEGIN")
            schema.migrate(connection, 0)
            connection.executemany("INSERT INTO meta VALUES (?, ?)", meta.items())
            connection.execute("COMMIT")
            connection.execute("PRAGMA journal_mode = WAL")

    def _check(self, dim: int | None) -> None:
        """Refuse what is not a catalogue of this version and length, or bring an older one up to date."""
        if not self.path.exists():
            raise self._absent()
        connection, home = self._borrow()
        home.append(connection)
        version = _version(connection, self.folder)
        if version > len(schema.MIGRATIONS):
            raise CatalogueError(
                f"{self.folder} was written by a newer lookalike", "pip install --upgrade lookalike"
            )
        if version < len(schema.MIGRATIONS):
            if self._writer is None:
                raise CatalogueError(
                    f"{self.folder} was written by an older lookalike",
                    f"bring it up to date: lookalike index SOURCE --to {self.folder}",
                )
            with self.write() as writer:
                schema.migrate(writer, version)
        (stored,) = connection.execute("SELECT value FROM meta WHERE key = 'dim'").fetchone()
        if dim is not None and str(dim) != stored:
            raise WrongEncoder(
                f"{self.folder} holds descriptors of length {stored}, not {dim}",
                "use the encoder it was built with, or change it: lookalike reindex --encoder NAME",
            )

    def _absent(self) -> CatalogueError:
        return CatalogueError(
            f"there is no catalogue in {self.folder}", f"make one: lookalike index SOURCE --to {self.folder}"
        )

    def _borrow(self) -> tuple[Connection, list[Connection]]:
        """A reading connection and the list to put it back into."""
        with self._pool:
            if self._closed:
                raise ValueError("the catalogue is closed")
            if self._frozen is not None and self._frozen != self._look():
                self._frozen = None  # somebody writes after all: read along with the usual locks
                self._idle = []
            if not self._idle:
                self._idle.append(self._open_for_reading())
                self._all.append(self._idle[-1])
            return self._idle.pop(), self._idle

    def _open_for_reading(self) -> Connection:
        if self._frozen is None:
            try:
                return self._open("ro")
            except sqlite3.OperationalError as error:
                # SQLite wants its lock file beside the catalogue. Where it cannot make one, and no unfinished
                # log lies there, nobody writes: the file can be read as one that does not change.
                code = error.sqlite_errorcode & 0xFF
                if code not in (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY) or self._log_size():
                    raise
            self._frozen = self._look()
        return self._open("ro&immutable=1")

    def _open(self, mode: str) -> Connection:
        connection = sqlite3.connect(
            f"{self.path.as_uri()}?mode={mode}",
            uri=True,
            isolation_level=None,
            check_same_thread=False,
            timeout=30,
            factory=Connection,
        )
        connection.folder = f"{self.folder}{os.sep}"
        try:
            for pragma in (
                "synchronous = FULL", "foreign_keys = ON", "secure_delete = OFF",
                "cache_size = -16000", "journal_size_limit = 67108864",
            ):  # fmt: skip
                connection.execute(f"PRAGMA {pragma}")
            # Filters on titles use it.
            connection.create_function("casefold", 1, str.casefold, deterministic=True)
            # So far nothing needed the file: find out now whether it can be read.
            connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()
        except BaseException:
            connection.close()
            raise
        return connection

    def _look(self) -> tuple[int, ...]:
        stat = self.path.stat()
        return stat.st_ino, stat.st_size, stat.st_mtime_ns, self._log_size()

    def _log_size(self) -> int:
        log = self.path.with_name(f"{FILE}-wal")
        return log.stat().st_size if log.exists() else 0


# A write refused for lack of room is not always reported as SQLITE_FULL: quotas and size limits are not.
_NO_ROOM = {sqlite3.SQLITE_IOERR_WRITE, sqlite3.SQLITE_IOERR_SHMSIZE, sqlite3.SQLITE_IOERR_TRUNCATE}


@contextmanager
def explained(folder: Path) -> Iterator[None]:
    """SQLite works in `folder`: say in plain words what it complains about."""
    try:
        yield
    except sqlite3.DatabaseError as error:
        in_words = _in_words(folder, error)
        if in_words is None:
            raise
        raise in_words from error


def _in_words(folder: Path, error: sqlite3.DatabaseError) -> CatalogueError | None:
    code = getattr(error, "sqlite_errorcode", 0)
    if code in _NO_ROOM or code & 0xFF == sqlite3.SQLITE_FULL:
        return _full(folder)
    match code & 0xFF:
        case sqlite3.SQLITE_CORRUPT | sqlite3.SQLITE_NOTADB:
            return _damaged(folder)
        case sqlite3.SQLITE_BUSY | sqlite3.SQLITE_LOCKED:
            return CatalogueBusy(f"{folder} is in use by another process", "try again when it has finished")
        case sqlite3.SQLITE_READONLY | sqlite3.SQLITE_PERM | sqlite3.SQLITE_AUTH:
            return CatalogueError(f"cannot write to {folder}", "check the permissions of the folder")
        case sqlite3.SQLITE_CANTOPEN:
            return CatalogueError(
                f"the catalogue in {folder} cannot be opened",
                "check the permissions; where nothing can be written, copy the folder to where it can",
            )
        case sqlite3.SQLITE_IOERR:
            return CatalogueError(f"the catalogue in {folder} cannot be read: {error}", "check the disk")
    return None


def _full(folder: Path) -> StorageFull:
    return StorageFull(
        f"cannot write to {folder}: the disk is full, or a quota or file size limit is reached",
        "make room and run the same command again: what was finished is kept",
    )


def _damaged(folder: Path) -> CatalogueError:
    return CatalogueError(
        f"{folder / FILE} is damaged or not a catalogue", "restore a snapshot, or index the sources again"
    )


def fresh_epoch() -> str:
    """Drawn, not counted: two catalogues, or a catalogue and its restored snapshot, never share one."""
    return str(randbits(62))


def copy_database(source: sqlite3.Connection, path: Path) -> None:
    """Write a complete copy, with an epoch of its own, to `path`."""
    with explained(path.parent), replacing(path) as unfinished, closing(_file(unfinished)) as copy:
        source.backup(copy)
        copy.execute("PRAGMA journal_mode = DELETE")
        copy.execute("UPDATE meta SET value = ? WHERE key = 'epoch'", (fresh_epoch(),))
        copy.execute("PRAGMA journal_mode = WAL")


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A name to write a file under, which becomes `path` when all is on disk, and goes when that fails."""
    unfinished = path.with_name(f"{path.name}.unfinished")
    with room_for(path.parent):
        unfinished.unlink(missing_ok=True)
        try:
            yield unfinished
            with open(unfinished, "rb+") as file:
                os.fsync(file.fileno())
        except BaseException:
            unfinished.unlink(missing_ok=True)
            raise
        unfinished.replace(path)
        if os.name == "posix":  # elsewhere a folder cannot be synced
            folder = os.open(path.parent, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)


@contextmanager
def room_for(folder: Path) -> Iterator[None]:
    """Files are made in `folder`: say in plain words where they cannot be."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise _full(folder) from error
        raise CatalogueError(f"cannot write to {folder}: {error.strerror or error}") from error


def network_file_system(folder: Path, mounts: Path = Path("/proc/mounts")) -> str | None:
    """The kind of network file system that `folder` lies on; None for a local one, or where none can tell."""
    try:
        lines = mounts.read_text(errors="surrogateescape").splitlines()
    except OSError:
        return None
    kinds = {}
    for line in lines:
        _device, place, kind, *_ = line.split(" ")
        place = re.sub(r"\\([0-7]{3})", lambda code: chr(int(code[1], 8)), place)
        kinds[Path(place)] = kind  # a later mount hides an earlier one
    folder = folder.resolve()
    for parent in (folder, *folder.parents):
        if parent in kinds:
            return kinds[parent] if kinds[parent] in _NETWORK else None
    return None


def _file(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(path, isolation_level=None)


def _version(connection: sqlite3.Connection, folder: Path) -> int:
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if application != _APPLICATION or version == 0:
        raise _damaged(folder)
    return int(version)


def _nothing() -> None:
    """What there is to release before the lock is taken."""
