"""Rows to store, drawn from seeds."""

from typing import Any

import numpy as np

from lookalike.values import Floats, Item, Row, unit

DIM = 16


def vectors(count: int, seed: int = 0, clusters: int = 0, dim: int = DIM) -> Floats:
    """(count, dim) unit rows that fp16 holds exactly as fp32; in clusters where asked."""
    rng = np.random.default_rng(seed)
    drawn = rng.standard_normal((count, dim), np.float32)
    if clusters:
        drawn = (
            0.5 * drawn + rng.standard_normal((clusters, dim), np.float32)[rng.integers(0, clusters, count)]
        )
    return unit(drawn).astype(np.float16).astype(np.float32)


def row(item: str | Item, source: str = "a.jpg", content: str = "", seed: int = 0, **more: Any) -> Row:
    """A region of `item` in the picture `source`; its bytes are the same where `content`, or source, is."""
    return Row(
        item=Item(item) if isinstance(item, str) else item,
        source=source,
        sha256=more.pop("sha256", f"sha of {content or source}"),
        width=640,
        height=480,
        vector=more.pop("vector", vectors(1, seed)[0]),
        origin=more.pop("origin", "shop"),
        **more,
    )


def many(count: int, first: int = 0, clusters: int = 0, seed: int = 0) -> list[Row]:
    """`count` items of one picture each, numbered from `first`."""
    drawn = vectors(count, seed + first, clusters)
    numbers = range(first, first + count)
    return [row(f"item-{n}", f"{n}.jpg", vector=vector) for n, vector in zip(numbers, drawn, strict=True)]
