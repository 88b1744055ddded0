"""Where batches come from: cells of a frozen network kept on disk, or pictures read as they are asked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn

from lookalike import images
from lookalike.datasets import Dataset, Labelled, Unlisted
from lookalike.errors import BadInput
from lookalike.learn.models.x2vlm import X2VLMConfig, to_pixels
from lookalike.learn.sampling import NO_IDENTITY
from lookalike.learn.tokens import SIDES, TokenCache
from lookalike.learn.views import USUAL, Augmentation, View, plain, view
from lookalike.pooling import cell_masks, cell_weights
from lookalike.values import Box, Floats, Keys, Progress, Region
from lookalike.words import Words


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
        image = torch.from_numpy(np.asarray(seen.tokens, np.float32))
        region = cell_weights(seen.tokens, seen.boxes, seen.frames, *cache.facts.shape[1:])
        return Looked(
            torch.cat([image.new_zeros(len(image), 1, image.shape[2]), image], dim=1),
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
            "resolution": config.resolution,
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


class Frozen:
    """The states of a frozen text tower, made once for each caption."""

    def __init__(self, tower: TextTower, texts: Sequence[str], on_progress: Progress | None = None) -> None:
        every = sorted({"", *texts}, key=len)  # alike in length: little padding
        self._row = {text: row for row, text in enumerate(every)}
        self._states: list[Tensor] = []
        for start in range(0, len(every), 64):
            if on_progress:
                on_progress(start, len(every))
            states, words = tower.states(every[start : start + 64])
            self._states += [
                torch.from_numpy(row[: int(mask.sum())].astype(np.float16))
                for row, mask in zip(states, words, strict=True)
            ]

    def of(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        rows = [self._states[self._row[text]] for text in texts]
        lengths = torch.tensor([len(row) for row in rows])
        states = nn.utils.rnn.pad_sequence(rows, batch_first=True).float()
        return states, (torch.arange(states.shape[1]) < lengths[:, None]).long()


class TextTower(Protocol):
    def states(self, texts: Sequence[str]) -> tuple[Floats, Keys]:
        """(B,) texts -> states (B, L, Dt) and mask (B, L); "" is a text."""


class Ids:
    """Captions as word ids, for a text tower that is trained."""

    def __init__(self, words: Words | None = None) -> None:
        self._words = words or Words()

    def of(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        ids, mask = self._words.tokens(texts)
        return torch.from_numpy(ids), torch.from_numpy(mask)


def _in_shares(seen: View) -> tuple[float, float, float, float]:
    """The first box as cx, cy, w, h in shares of the view, which a network stretches to its square."""
    box = seen.boxes[0]
    if box is None:
        return np.nan, np.nan, np.nan, np.nan
    x0, y0, x1, y1 = box.scaled(1 / seen.picture.width, 1 / seen.picture.height).corners
    return (x0 + x1) / 2, (y0 + y1) / 2, x1 - x0, y1 - y0
