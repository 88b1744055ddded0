"""A catalogue's store in one folder: SQLite holds the truth, faiss searches a copy of its descriptors."""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Callable, ItemsView, Iterable, Iterator, Mapping, MutableMapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Self

import numpy as np

from lookalike.errors import CatalogueError
from lookalike.store import filters, graph, staging, table, words, writing
from lookalike.store.database import FILE, Connection, Database, copy_database, room_for
from lookalike.store.vectors import Gallery, load_faiss
from lookalike.values import Counts, Facet, Floats, Item, Keys, Row

_GRAPH_FROM = 80_000  # regions; below, exact search for three regions of a query costs some 10 ms at most
_DEAD = 0.25  # this part of the rows in memory may be removed ones before all are loaded anew


class LocalView:
    """A `LocalStore` at one moment, for one thread, until its `with` block ends."""

    def __init__(self, connection: Connection, gallery: Gallery, threads: Executor) -> None:
        self._connection = connection
        self._gallery = gallery
        self._threads = threads
        self.size = len(gallery)
        self.keys = gallery.living_keys
        words = table.rewordings(connection)
        self.version = f"{gallery.epoch}.{gallery.last}.{gallery.removals}.{words}"

    @property
    def fingerprint(self) -> str:
        return table.fact(self._connection, "fingerprint")

    def search(
        self, vectors: Floats, top: int, where: str | None = None, exact: bool = False
    ) -> tuple[Keys, Floats]:
        items = None if where is None else self._items(where)
        return self._gallery.search(vectors, top, items, exact, self._threads)

    def vectors(self, keys: Keys) -> Floats:
        return self._gallery.vectors(keys)

    def meanings(self, keys: Keys) -> Floats:
        return table.meanings(self._connection, keys, self._gallery.dim)

    def owners(self, keys: Keys) -> Keys:
        return self._gallery.owners_of(keys)

    def regions_of(self, items: Keys) -> Keys:
        return self._gallery.regions_of(items)

    def rows(self, keys: Keys) -> list[Row]:
        return table.rows(self._connection, np.asarray(keys, np.int64).tolist())

    def words(self, text: str, top: int, where: str | None = None) -> tuple[Keys, Floats]:
        condition = filters.EVERYTHING if where is None else filters.matching(self._connection, where)
        return words.search(self._connection, text, top, condition)

    def facets(self, most: int) -> dict[str, Facet]:
        return table.facets(self._connection, most)

    def _items(self, where: str) -> Keys:
        condition = filters.matching(self._connection, where)
        found = self._connection.execute(f"SELECT key FROM items WHERE {condition.sql}", condition.parameters)
        return np.array(found.fetchall(), np.int64).reshape(-1)


class LocalStore:
    """Rows in a folder of the local disk: one process writes, any number read, each from several threads.

    Opening for reading needs no permission to write. Opening with `write` takes the folder's writer lock
    (CatalogueBusy where it is taken) and, given the descriptors' length `dim`, creates what is absent, with
    the facts `meta`. From `graph_from` regions on `build_index` makes a graph for approximate search.

    Sources of pictures within the folder move with it.
    """

    def __init__(
        self,
        folder: Path,
        dim: int | None = None,
        write: bool = False,
        meta: Mapping[str, str] | None = None,
        graph_from: int = _GRAPH_FROM,
    ) -> None:
        self._database = Database(folder, dim, write, meta)
        self._graph_from = graph_from
        self._graph_file = self._database.folder / "index" / "regions.hnsw"
        self._threads = ThreadPoolExecutor(os.cpu_count(), "lookalike-search", initializer=_one_core)
        self._loading = threading.Lock()
        self._gallery: Gallery | None = None
        self._seen: tuple[object, ...] = ()  # the moment and the graph's file that it was made from
        self.meta: MutableMapping[str, str] = _Meta(self._database)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of files and locks; views that are still open end in an error. Closing twice is allowed."""
        self._threads.shutdown()
        self._database.close()
        self._gallery = None

    @staticmethod
    def exists(folder: Path) -> bool:
        """Whether there is a catalogue to open, be it damaged."""
        return (folder / FILE).exists()

    @property
    def dim(self) -> int:
        """The length of the descriptors."""
        return int(self.meta["dim"])

    def bytes_on_disk(self) -> int:
        """What the table and everything derived from it take."""
        total = 0
        for path in self._database.folder.rglob("*"):
            with suppress(FileNotFoundError):  # SQLite's log comes and goes
                total += path.stat().st_size if path.is_file() else 0
        return total

    def check(self) -> Iterator[str]:
        """Every fault in the table, in words; nothing where it is sound."""
        with self._database.read() as connection:
            yield from table.check(connection)

    @contextmanager
    def view(self) -> Iterator[LocalView]:
        with ExitStack() as stack:
            with self._loading:  # so that moments and galleries follow one another in the same order
                connection = stack.enter_context(self._database.read())
                gallery = self._load(connection)
            yield LocalView(connection, gallery, self._threads)

    def count(self) -> Counts:
        with self._database.read() as connection:
            return table.count(connection)

    def find(self, sha256s: Sequence[str]) -> list[Row]:
        with self._database.read() as connection:
            return table.find(connection, sha256s)

    def rows_of(self, item: str) -> list[Row]:
        with self._database.read() as connection:
            return table.rows_of(connection, item)

    def items_after(self, after: str, limit: int) -> list[tuple[str, str]]:
        with self._database.read() as connection:
            return table.items_after(connection, after, limit)

    def scan(self) -> Iterator[Row]:
        """All rows of one moment in the order of their keys, read as they are asked for."""
        with self._database.read() as connection:
            yield from table.scan(connection)

    def snapshot(self, folder: Path) -> None:
        """Write a catalogue of this moment to `folder`, which holds none yet."""
        if self.exists(folder):
            raise CatalogueError(f"{folder} already holds a catalogue", "name a new folder")
        with room_for(folder):
            folder.mkdir(parents=True, exist_ok=True)
        with self._database.read() as connection:
            copy_database(connection, folder / FILE)

    def start_run(self) -> int:
        """A number for a pass over sources, higher than all before; `add` and `mark` note it on pictures."""
        with self._database.write() as connection:
            return writing.start_run(connection)

    def add(self, rows: Sequence[Row], run: int) -> None:
        """Upsert by picture (item id, sha256), all or nothing, on disk at return.

        The rows of a picture are all its regions. One that is stored the same (boxes, scores, descriptors
        in fp16) keeps its region keys, also under other captions. A source of an item holds one content: an
        older one goes. An item with only an id leaves the stored title and attributes alone. Failed and empty
        captions are not kept, nor what they mean.
        """
        with self._database.write() as connection:
            writing.add(connection, rows, run)

    def replace(
        self, items: Sequence[Item], rows: Sequence[Row], facts: Mapping[str, str] | None = None
    ) -> None:
        """Make items what they are told to be: readers see each as it was, or as it is to be.

        Titles and attributes are these, empty ones too. An item that has rows has exactly their pictures;
        one without keeps its own, and is BadInput where it has none. All or nothing and on disk at return,
        with the `facts` for `meta`.
        """
        with self._database.write() as connection:
            writing.replace(connection, items, rows, facts or {})

    def mark(self, origin: str, sources: Iterable[str], run: int) -> None:
        """Note that listed sources still exist, although they could not be read in this run."""
        with self._database.write() as connection:
            writing.mark(connection, origin, sources, run)

    def vanished(self, origin: str, run: int) -> Iterator[tuple[str, str]]:
        """Item id and source of the pictures of `origin` that were not seen in `run`."""
        with self._database.read() as connection:
            yield from table.vanished(connection, origin, run)

    def prune(self, origin: str, run: int) -> int:
        """Remove what `vanished` tells; -> how many pictures. An item goes with its last picture."""
        with self._database.write() as connection:
            return writing.prune(connection, origin, run)

    def remove(self, items: Sequence[str]) -> int:
        """Remove items by id; -> how many pictures. An unknown id is BadInput, and nothing is removed."""
        with self._database.write() as connection:
            return writing.remove(connection, items)

    def remove_regions(self, keys: Iterable[int]) -> None:
        """Remove regions, then pictures and items that have none left. Unknown keys are passed over."""
        with self._database.write() as connection:
            writing.remove_regions(connection, keys)

    def unstaged(self, limit: int, after: int = 0) -> list[tuple[int, Row]]:
        """The first `limit` regions above key `after` that have no staged descriptor, with their keys."""
        with self._database.read() as connection:
            return staging.unstaged(connection, limit, after)

    def count_unstaged(self) -> int:
        with self._database.read() as connection:
            return staging.count_unstaged(connection)

    def stage(self, keys: Sequence[int] | Keys, vectors: Floats, meanings: Floats | None = None) -> None:
        """Keep descriptors (M, D) for region keys (M,) until `switch`; on disk at return.

        `meanings` (M, D) are those of their captions, with rows of zeros where there is none.
        """
        with self._database.write() as connection:
            staging.stage(connection, keys, vectors, meanings)

    def switch(self, meta: Mapping[str, str]) -> None:
        """Replace all descriptors by the staged ones and set `meta`, at once; readers follow at their next.

        A caption whose own descriptor was not staged loses the one it had. CatalogueError where a region has
        no staged descriptor.
        """
        with self._database.write() as connection:
            staging.switch(connection, meta)

    def discard_staged(self) -> None:
        with self._database.write() as connection:
            staging.discard(connection)

    def build_index(self, on_progress: Callable[[int, int], None] | None = None) -> bool:
        """Make the graph for approximate search where it pays and is missing or out of date; whether it did.

        Locks nobody out. Does nothing while another process does the same.
        """
        from filelock import FileLock, Timeout

        with self._loading, self._database.read() as connection:
            gallery = self._load(connection)
        if len(gallery) < max(1, self._graph_from) or not gallery.stale:
            return False
        lock = FileLock(self._graph_file.with_suffix(".lock"))
        with room_for(self._graph_file.parent):
            self._graph_file.parent.mkdir(exist_ok=True)
            try:
                lock.acquire(timeout=0)
            except Timeout:
                return False
        try:
            graph.build(gallery, self._graph_file, on_progress)
        finally:
            lock.release()
        return True

    def _load(self, connection: sqlite3.Connection) -> Gallery:
        """The gallery of this moment, made from the last one where that is possible."""
        epoch = table.fact(connection, "epoch")
        newest, removals = table.newest(connection)
        made_from = (epoch, graph.stamp(self._graph_file))
        seen = (made_from, newest, removals)
        if self._gallery is not None and self._seen == seen:
            return self._gallery
        dim = int(table.fact(connection, "dim"))
        gallery = self._gallery
        if gallery is None or self._seen[0] != made_from:
            gallery = graph.load(self._graph_file, epoch, dim, newest)
        if gallery is not None:
            gallery = _grown(gallery, connection, removals)
        if gallery is None or len(gallery) < (1 - _DEAD) * len(gallery.keys):
            gallery = _grown(Gallery.empty(dim, epoch, removals), connection, removals)
        self._gallery, self._seen = gallery, seen
        return gallery


def _grown(gallery: Gallery, connection: sqlite3.Connection, removals: int) -> Gallery:
    """With what was added and removed since."""
    keys, owners = table.owners_after(connection, gallery.last)
    vectors = table.vectors_after(connection, gallery.last, gallery.dim)
    return gallery.grown(keys, owners, vectors, table.removed_after(connection, gallery.removals), removals)


class _Meta(MutableMapping[str, str]):
    """Small facts, kept in the table; setting one is on disk at return."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def __getitem__(self, key: str) -> str:
        return self._all()[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._all())

    def __len__(self) -> int:
        return len(self._all())

    def items(self) -> ItemsView[str, str]:
        """All of one moment; `dict` of the mapping itself would ask for one after the other."""
        return self._all().items()

    def __setitem__(self, key: str, value: str) -> None:
        with self._database.write() as connection:
            connection.execute("REPLACE INTO meta VALUES (?, ?)", (key, value))

    def __delitem__(self, key: str) -> None:
        with self._database.write() as connection:
            if connection.execute("DELETE FROM meta WHERE key = ?", (key,)).rowcount == 0:
                raise KeyError(key)

    def _all(self) -> dict[str, str]:
        with self._database.read() as connection:
            return dict(connection.execute("SELECT key, value FROM meta").fetchall())


def _one_core() -> None:
    """In a thread that searches one part of a gallery, faiss shall not start threads of its own."""
    load_faiss().omp_set_num_threads(1)  # holds for the calling thread alone
