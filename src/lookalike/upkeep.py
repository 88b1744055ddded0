"""Looking after a catalogue: facts, checks, near-duplicates, export, another encoder."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lookalike import images
from lookalike.catalogue import Catalogue
from lookalike.errors import BadInput, BadPicture, CatalogueError, MissingExtra
from lookalike.indexing import BATCH, Skipped, chunks
from lookalike.roles import Encoder
from lookalike.values import Floats, Progress, Region, Row


def info(catalogue: Catalogue) -> dict[str, Any]:
    """What the catalogue holds and who made it; `bytes` is what it takes on disk."""
    counts, meta = catalogue.store.count(), catalogue.store.meta
    return {
        "items": counts.items,
        "pictures": counts.pictures,
        "regions": counts.regions,
        "captions": counts.captions,
        "encoder": meta["encoder"],
        "fingerprint": meta["fingerprint"],
        "regime": meta["regime"],
        "bytes": catalogue.store.bytes_on_disk(),
    }


@dataclass(frozen=True, slots=True)
class Verification:
    """What `verify` found: no problems and a faithful index make `sound`."""

    problems: tuple[str, ...]
    queries: int  # stored descriptors that were searched for
    recall_at_10: float  # of the index against exact search, 0 to 1; 1 where search is exact anyway
    recall_at_400: float

    @property
    def sound(self) -> bool:
        return not self.problems and min(self.recall_at_10, self.recall_at_400) >= 0.9


def verify(catalogue: Catalogue, queries: int = 200) -> Verification:
    """Check the table, every descriptor, and the index against exact search on some of them."""
    problems = tuple(catalogue.store.check())
    with catalogue.store.view() as view:
        keys = np.random.default_rng(0).permutation(view.keys)[:queries]
        vectors = view.vectors(keys)
        found, exact = (view.search(vectors, 400, None, exact)[0] for exact in (False, True))
    return Verification(problems, len(keys), _recall(found, exact, 10), _recall(found, exact, 400))


def _recall(found: np.ndarray, exact: np.ndarray, k: int) -> float:
    pairs = zip(found[:, :k], exact[:, :k], strict=True)
    shares = [len(np.intersect1d(some, all_)) / len(all_) for some, all_ in pairs if len(all_)]
    return float(np.mean(shares)) if shares else 1.0


@dataclass(frozen=True, slots=True)
class NearDuplicate:
    """Two pictures of different items that look almost the same."""

    score: float
    items: tuple[str, str]
    pictures: tuple[str, str]


def near_duplicates(catalogue: Catalogue, score: float = 0.95) -> Iterator[NearDuplicate]:
    """Pairs of regions under different items whose descriptors reach `score`, each pair once.

    Looks at the ten nearest of every region, so a crowd of equal pictures is reported in part.
    """
    with catalogue.store.view() as view:
        for start in range(0, view.size, 256):
            keys = view.keys[start : start + 256]
            found, scores = view.search(view.vectors(keys), 11)
            owners = view.owners(keys)
            for place, key in enumerate(keys):
                apart = (view.owners(found[place]) != owners[place]) & (found[place] > key)
                for other, reached in zip(found[place][apart], scores[place][apart], strict=True):
                    if reached >= score:
                        a, b = view.rows(np.array([key, other]))
                        yield NearDuplicate(float(reached), (a.item.id, b.item.id), (a.source, b.source))


def export(catalogue: Catalogue, path: Path) -> int:
    """Write one line per region in the form that `add` reads; how many. The suffix is the format.

    .jsonl and .csv hold words and boxes; .parquet holds the descriptors too.
    """
    records = map(_record, catalogue.store.scan())
    part = path.with_name(path.name + ".part")
    try:
        match path.suffix:
            case ".jsonl":
                written = _write_jsonl(records, part)
            case ".csv":
                written = _write_csv(catalogue, part)
            case ".parquet":
                written = _write_parquet(catalogue, part)
            case other:
                raise BadInput(
                    f"cannot export to {other or 'a file without suffix'}", "use .jsonl, .csv or .parquet"
                )
        part.replace(path)
    except OSError as error:
        raise CatalogueError(f"cannot write {path}: {error.strerror}", "choose another place") from None
    finally:
        part.unlink(missing_ok=True)
    return written


def _record(row: Row) -> dict[str, Any]:
    record: dict[str, Any] = {"path": row.source, "item": row.item.id, "title": row.item.title}
    if row.box is not None:
        record["box"] = list(row.box.corners)
    if row.caption is not None:
        record["caption"] = row.caption.text
    many = {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in row.item.attributes.items()
    }
    return record | many


def _write_jsonl(records: Iterable[dict[str, Any]], path: Path) -> int:
    written = 0
    with path.open("w", encoding="utf-8", errors="surrogateescape") as file:
        for record in records:
            file.write(json.dumps(record, ensure_ascii=False) + "\n")
            written += 1
    return written


def _write_csv(catalogue: Catalogue, path: Path) -> int:
    columns: dict[str, None] = {}
    for row in catalogue.store.scan():  # a first pass: later items may have attributes that earlier ones lack
        columns.update(dict.fromkeys(_record(row)))
    written = 0
    with path.open("w", encoding="utf-8", errors="surrogateescape", newline="") as file:
        writer = csv.DictWriter(file, list(columns))
        writer.writeheader()
        for row in catalogue.store.scan():
            record = _record(row)
            if row.box is not None:
                record["box"] = str(row.box)
            writer.writerow(
                {name: "|".join(map(str, v)) if isinstance(v, list) else v for name, v in record.items()}
            )
            written += 1
    return written


def _write_parquet(catalogue: Catalogue, path: Path) -> int:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError:
        raise MissingExtra("writing Parquet", "parquet") from None
    text = pa.string()
    schema = pa.schema(
        {
            "path": text,
            "item": text,
            "title": text,
            "box": pa.list_(pa.float64()),
            "caption": text,
            "attributes": text,
            "descriptor": pa.list_(pa.float16()),
        }
    )
    written = 0
    with pq.ParquetWriter(path, schema) as writer:
        for rows in chunks(catalogue.store.scan(), 1000):
            records = [_record(row) for row in rows]
            named = {"path", "item", "title", "box", "caption"}
            columns = [
                *(
                    [record.get(name) for record in records]
                    for name in ("path", "item", "title", "box", "caption")
                ),
                [json.dumps({k: v for k, v in record.items() if k not in named}) for record in records],
                [row.vector.astype(np.float16) for row in rows],
            ]
            writer.write_table(
                pa.table([pa.array(c, t) for c, t in zip(columns, schema.types, strict=True)], schema)
            )
            written += len(rows)
    return written


def reindex(
    catalogue: Catalogue, encoder: Encoder, prune: bool = False, on_progress: Progress | None = None
) -> list[Skipped]:
    """Encode every stored region anew and switch the catalogue to `encoder` in one step.

    The old descriptors answer searches until the switch. Durable batch by batch: after a kill, call it
    again. A picture that cannot be read any more stops the switch, unless `prune` removes it. `confident` is
    None until the catalogue, opened with the new encoder, is calibrated.
    """
    with catalogue.open_writer() as store, ThreadPoolExecutor(os.cpu_count()) as pool:
        if store.meta.get("staged_fingerprint") != encoder.fingerprint:
            store.discard_staged()
            store.meta["staged_fingerprint"] = encoder.fingerprint
        total = store.count().regions
        done = total - store.count_unstaged()
        lost: dict[int, Skipped] = {}
        after = 0
        while waiting := store.unstaged(BATCH * (os.cpu_count() or 1), after):
            after = waiting[-1][0]
            encoded = pool.map(lambda chunk: _encode_again(chunk, encoder), chunks(waiting, BATCH))
            for keys, vectors, gone in encoded:
                store.stage(keys, vectors)
                lost |= gone
                done += len(keys) + len(gone)
                if on_progress:
                    on_progress(done, total)
        if lost and not prune:
            some = next(iter(lost.values()))
            raise CatalogueError(
                f"{len(lost)} stored pictures cannot be read any more, the first: {some.error}",
                "bring them back, or run again with --prune to remove them from the catalogue",
            )
        store.remove_regions(list(lost))
        store.switch(
            {"encoder": encoder.name, "fingerprint": encoder.fingerprint, "dim": str(encoder.dim)},
        )
        for fact in ("confident_from", "calibrated_at"):  # the old encoder's
            store.meta.pop(fact, None)
        store.build_index()
    return list(lost.values())


def _encode_again(
    stored: Sequence[tuple[int, Row]], encoder: Encoder
) -> tuple[list[int], Floats, dict[int, Skipped]]:
    """Region keys and their new descriptors, and what could not be read by key."""
    regions: dict[int, Region] = {}
    lost: dict[int, Skipped] = {}
    for key, row in stored:
        try:
            picture = images.load(row.source)
            if picture.sha256 != row.sha256:
                raise BadPicture(
                    f"{row.source}: not the picture that was indexed", "index its folder again first"
                )
            regions[key] = Region(picture, row.box, row.score)
        except (BadPicture, BadInput) as error:
            lost[key] = Skipped(row.source, str(error))
    vectors = encoder.pictures(list(regions.values())) if regions else np.zeros((0, encoder.dim), np.float32)
    return list(regions), vectors, lost
