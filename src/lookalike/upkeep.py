"""Looking after a catalogue: facts, checks, near-duplicates, export, another encoder."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from lookalike import doubting, images
from lookalike.calibration import GATES
from lookalike.catalogue import Catalogue
from lookalike.describing import described, meant, weighs
from lookalike.errors import BadInput, BadPicture, CatalogueError, MissingExtra
from lookalike.indexing import BATCH, Skipped, chunks
from lookalike.roles import Encoder
from lookalike.values import TOLD_GALLERY, Caption, Floats, Progress, Region, Row


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
        "doubts": catalogue.doubts,
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

    .jsonl and .csv hold words and boxes, .parquet the descriptors too; what captions claim is in .jsonl and
    .parquet.
    """
    part = path.with_name(path.name + ".part")
    try:
        match path.suffix:
            case ".jsonl":
                written = _write_jsonl(catalogue, part)
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
    return many | record  # what the catalogue itself knows comes before an attribute of the same name


def _write_jsonl(catalogue: Catalogue, path: Path) -> int:
    written = 0
    with path.open("w", encoding="utf-8", errors="surrogateescape") as file:
        for row in catalogue.store.scan():
            record = _record(row)
            if row.caption is not None and row.caption.claims:
                record["claims"] = [claim.as_json() for claim in row.caption.claims]
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
            "claims": text,
            "attributes": text,
            "descriptor": pa.list_(
                pa.float16(), int(catalogue.store.meta["dim"])
            ),  # of a fixed length: no attribute
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
                [_claims(row.caption) for row in rows],
                [json.dumps({k: v for k, v in record.items() if k not in named}) for record in records],
                [row.vector.astype(np.float16) for row in rows],
            ]
            writer.write_table(
                pa.table([pa.array(c, t) for c, t in zip(columns, schema.types, strict=True)], schema)
            )
            written += len(rows)
    return written


def _claims(caption: Caption | None) -> str | None:
    if caption is None or not caption.claims:
        return None
    return json.dumps([claim.as_json() for claim in caption.claims])


def reindex(
    catalogue: Catalogue,
    encoder: Encoder,
    regime: str,
    prune: bool = False,
    on_progress: Progress | None = None,
) -> list[Skipped]:
    """Encode every stored region anew and switch the catalogue to `encoder` and `regime` in one step.

    In the regimes "train+gallery…" the stored captions take part. The old descriptors answer searches until
    the switch. Durable batch by batch: after a kill, call it again. A picture that cannot be read any more
    stops the switch, unless `prune` removes it. `confident` is None until the catalogue, opened with the new
    encoder, is calibrated.
    """
    fused = regime in TOLD_GALLERY
    with catalogue.open_writer() as store, ThreadPoolExecutor(os.cpu_count()) as pool:
        staged = f"{encoder.fingerprint} {regime}"
        if store.meta.get("staged_fingerprint") != staged:
            store.discard_staged()
            store.meta["staged_fingerprint"] = staged
        total = store.count().regions
        done = total - store.count_unstaged()
        lost: dict[int, Skipped] = {}
        after = 0
        doubts: Mapping[str, float] = {}
        if fused and weighs(encoder):
            everywhere = islice(store.scan(), 0, None, max(1, total // doubting.SAMPLE))
            doubts = doubting.of_stored(everywhere, encoder)
        encode = partial(_encode_again, encoder=encoder, doubts=doubts if fused else None)
        while waiting := store.unstaged(BATCH * (os.cpu_count() or 1), after):
            after = waiting[-1][0]
            encoded = pool.map(encode, chunks(waiting, BATCH))
            for again in encoded:
                store.stage(again.keys, again.vectors, again.meanings)
                lost |= again.lost
                done += len(again.keys) + len(again.lost)
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
            {
                "encoder": encoder.name,
                "fingerprint": encoder.fingerprint,
                "dim": str(encoder.dim),
                "regime": regime,
                **doubting.fact(doubts),
            }
        )
        for fact in ("confident_from", "calibrated_at", *GATES):  # the old encoder's
            store.meta.pop(fact, None)
        store.build_index()
    return list(lost.values())


@dataclass(frozen=True, slots=True)
class _Again:
    """Regions encoded anew: keys (M,), descriptors (M, D), their captions' (M, D); what cannot be read."""

    keys: list[int]
    vectors: Floats
    meanings: Floats
    lost: dict[int, Skipped]


def _encode_again(
    stored: Sequence[tuple[int, Row]], encoder: Encoder, doubts: Mapping[str, float] | None
) -> _Again:
    """Captions take part in descriptors where `doubts` of their sources are given."""
    regions: dict[int, Region] = {}
    captions: list[Caption | None] = []
    lost: dict[int, Skipped] = {}
    for key, row in stored:
        try:
            picture = images.load(row.source)
            if picture.sha256 != row.sha256:
                raise BadPicture(
                    f"{row.source}: not the picture that was indexed", "index its folder again first"
                )
            regions[key] = Region(picture, row.box, row.score)
            captions.append(row.caption)
        except (BadPicture, BadInput) as error:
            lost[key] = Skipped(row.source, str(error))
    none = np.zeros(encoder.dim, np.float32)
    vectors = np.zeros((0, encoder.dim), np.float32)
    if regions:
        told = None if doubts is None else captions
        vectors = described(list(regions.values()), told, encoder, doubts or {})
    words = [caption.text if caption else "" for caption in captions]
    meanings = [none if meaning is None else meaning for meaning in meant(words, encoder)]
    return _Again(list(regions), vectors, np.reshape(meanings, (-1, encoder.dim)).astype(np.float32), lost)
