"""Where batches come from: cells of a frozen network kept on disk, or pictures read as they are asked for.

Captions are laid over either: cells are the same whatever is said of them, so trainings with other captions
share them.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from hashlib import sha256
from operator import attrgetter
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from lookalike import images
from lookalike.captions import FileCaptions
from lookalike.datasets import Dataset, Labelled, Unlisted, origin_of
from lookalike.errors import BadInput
from lookalike.learn.models.x2vlm import X2VLMConfig, to_pixels
from lookalike.learn.sampling import NO_IDENTITY
from lookalike.learn.tokens import SIDES, TokenCache
from lookalike.learn.views import USUAL, Augmentation, View, plain, view
from lookalike.pooling import cell_masks, cell_weights
from lookalike.values import Box, Caption, Keys, Region
from lookalike.words import Words

Said = tuple[tuple[str, ...], ...]  # the captions of N regions, shortest first


@dataclass(frozen=True, slots=True, eq=False)
class Looked:
    """B regions as a model takes them.

    `image` is what `vlm.vision` takes; `region` (B, N) how much each of its N tokens counts for the region;
    `boxes` (B, 4) where the true box lies, as cx, cy, w, h in shares of the network's square, NaN where the
    view does not show it.
    """

    image: Tensor
    region: Tensor
    boxes: Tensor


class Source(Protocol):
    """N labelled regions; `identities` and `sides` (N,) as in TokenCache."""

    @property
    def regions(self) -> Sequence[Labelled]: ...
    @property
    def identities(self) -> Keys: ...
    @property
    def sides(self) -> Keys: ...
    @property
    def facts(self) -> Mapping[str, object]:
        """All that tells it from other data."""

    def look(self, regions: Keys, draws: Keys | None = None) -> Looked:
        """Regions (B,), each in the view that its draw (B,) says, any number; None: as encoders see them."""


class Texts(Protocol):
    def of(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """(B,) texts, which may be "" -> ids (B, L) int64 or states (B, L, Dt), and their mask (B, L)."""


class Cells:
    """The cells of a cache, weighted as the frozen descriptor weighs them."""

    def __init__(self, cache: TokenCache) -> None:
        self._cache = cache
        self.regions, self.identities, self.sides = cache.regions, cache.identities, cache.sides
        self.facts = asdict(cache.facts)

    def look(self, regions: Keys, draws: Keys | None = None) -> Looked:
        cache = self._cache
        views = np.zeros_like(regions) if draws is None else draws % cache.facts.views
        seen = cache.read(regions, views)
        batch, cells, width = seen.tokens.shape
        image = torch.zeros(batch, 1 + cells, width)
        image[:, 1:] = torch.from_numpy(seen.tokens)
        region = cell_weights(image[:, 1:].numpy(), seen.boxes, seen.frames, *cache.facts.shape[1:])
        return Looked(
            image,
            torch.from_numpy(region),
            torch.from_numpy(np.array(seen.boxes)),
        )


class Pictures:
    """Pictures of a data set's split, seen anew each time: for towers that are trained."""

    def __init__(
        self,
        dataset: Dataset,
        split: str,
        config: X2VLMConfig,
        paired: bool = False,
        whole: bool = False,
        augmentation: Augmentation = USUAL,
    ) -> None:
        """`paired` leaves out regions without an identity; with `whole` undrawn views are whole pictures.

        BadInput where no region remains.
        """
        read = [entry for entry in dataset.read(split) if not isinstance(entry, Unlisted)]
        self.regions = tuple(entry for entry in read if entry.identity is not None or not paired)
        if not self.regions:
            raise BadInput(f"{dataset.name}: no regions in its split {split}", "look with lookalike doctor")
        names = sorted({entry.identity for entry in self.regions if entry.identity is not None})
        numbers = {name: number for number, name in enumerate(names)}
        self.identities = np.array(
            [NO_IDENTITY if entry.identity is None else numbers[entry.identity] for entry in self.regions]
        )
        self.sides = np.array([SIDES.index(entry.side) for entry in self.regions])
        self._config, self._augmentation, self._whole = config, augmentation, whole
        self.facts = {
            "dataset": dataset.name, "synthetic": dataset.synthetic, "split": split,
            "regions": len(self.regions), "augmentation": asdict(augmentation),
            "resolution": config.resolution, "labels": _digest(self.regions, dataset.folder),
        }  # fmt: skip

    def look(self, regions: Keys, draws: Keys | None = None) -> Looked:
        seeds = [None] * len(regions) if draws is None else draws.tolist()
        with ThreadPoolExecutor() as pool:
            views = list(pool.map(self._view, regions.tolist(), seeds))
        boxes = np.array([_in_shares(each) for each in views], np.float32)
        masks = cell_masks(boxes, self._config.grid, self._config.grid)
        masks[np.isnan(boxes).any(axis=1)] = True
        return Looked(
            to_pixels([each.picture.pixels for each in views], self._config.resolution),
            torch.from_numpy(masks.astype(np.float32)),
            torch.from_numpy(boxes),
        )

    def _view(self, place: int, seed: int | None) -> View:
        entry = self.regions[place]
        picture = images.load(entry.source)
        box = entry.box or Box(0, 0, picture.width, picture.height)
        if seed is None:
            return plain(Region(picture, None if self._whole else entry.box), [box])
        return view(picture, [box], seed, self._augmentation)


class Variant:
    """The same regions with other captions, or with fewer identities or pictures of each: a `Source`.

    Identities are taken in an order by chance that is the same everywhere, so that fewer are part of more.
    A region that is left out is one of no identity. BadInput where there are fewer identities.
    """

    def __init__(
        self, source: Source, said: Said | None, identities: int | None = None, pictures: int | None = None
    ) -> None:
        self._source = source
        told = [region.captions for region in source.regions] if said is None else said
        self.regions: Sequence[Labelled] = tuple(
            replace(region, captions=captions) for region, captions in zip(source.regions, told, strict=True)
        )
        self.sides = source.sides
        self.identities = _thinned(source, identities, pictures)
        digest = sha256(repr((told, self.identities.tolist())).encode()).hexdigest()
        self.facts = {**source.facts, "variant": digest}

    def look(self, regions: Keys, draws: Keys | None = None) -> Looked:
        return self._source.look(regions, draws)


class Ids:
    """Captions as word ids, for a text tower that is trained."""

    def __init__(self, words: Words | None = None) -> None:
        self._words = words or Words()

    def of(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        ids, mask = self._words.tokens(texts)
        return torch.from_numpy(ids), torch.from_numpy(mask)


def said_by(
    captions: FileCaptions,
    regions: Sequence[Labelled],
    text: Callable[[Caption], str] = attrgetter("text"),
) -> Said:
    """What a file says of regions (N,): one caption each, none where it says nothing."""
    found = (captions.of(origin_of(region.source), region.box) for region in regions)
    said = ("" if each is None else text(each) for each in found)
    return tuple((each,) if each else () for each in said)


def _digest(regions: Sequence[Labelled], folder: Path) -> str:
    """What is true of the regions, in a few characters; where the data set lies does not count."""
    digest = sha256()
    for r in regions:
        place = os.path.relpath(r.source, folder)
        digest.update(repr((place, r.id, r.side, r.identity, r.box and r.box.corners, r.captions)).encode())
    return digest.hexdigest()


def _in_shares(seen: View) -> tuple[float, float, float, float]:
    """The first box as cx, cy, w, h in shares of the view, which a network stretches to its square."""
    box = seen.boxes[0]
    if box is None:
        return np.nan, np.nan, np.nan, np.nan
    x0, y0, x1, y1 = box.scaled(1 / seen.picture.width, 1 / seen.picture.height).corners
    return (x0 + x1) / 2, (y0 + y1) / 2, x1 - x0, y1 - y0


def _thinned(source: Source, identities: int | None, pictures: int | None) -> Keys:
    """The identities of regions (N,), NO_IDENTITY for those that are left out."""
    kept = np.array(source.identities)
    members: dict[str, list[int]] = {}
    for place, region in enumerate(source.regions):
        if kept[place] != NO_IDENTITY and region.identity is not None:
            members.setdefault(region.identity, []).append(place)
    by_chance = sorted(members, key=lambda name: sha256(name.encode()).digest())
    if identities is not None and identities > len(by_chance):
        raise BadInput(f"{identities:,} identities are asked for, and {len(by_chance):,} are there")
    for name in by_chance[identities:] if identities is not None else ():
        kept[members[name]] = NO_IDENTITY
    for places in members.values() if pictures is not None else ():
        kept[_by_side(source, places)[pictures:]] = NO_IDENTITY
    return kept


def _by_side(source: Source, places: Sequence[int]) -> list[int]:
    """An identity's regions by chance, its sides in turn."""
    by_chance = sorted(places, key=lambda place: sha256(source.regions[place].id.encode()).digest())
    turns: dict[int, int] = {}
    ranked = []
    for place in by_chance:
        side = int(source.sides[place])
        turns[side] = turns.get(side, -1) + 1
        ranked.append((turns[side], side, place))
    return [place for _, _, place in sorted(ranked)]
