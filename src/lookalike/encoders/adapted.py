"""A trained model, or an X²-VLM as its authors trained it, as an encoder: in torch or out of one ONNX file.

What the network computes comes from `Branches`; here is what happens round it, and that is the same for
both: which pixels go in, how much of them counts for a region, and what comes out.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal, Protocol

import numpy as np

from lookalike import pooling
from lookalike.encoders.efficientnet import EfficientNet
from lookalike.encoders.minilm import MiniLM
from lookalike.errors import BadInput, WeightsError
from lookalike.squares import DEVIATION, MEAN, stretched
from lookalike.trust import UNKNOWN, Trust
from lookalike.values import Box, Floats, Keys, Maps, Picture, Pixels, Region, unit
from lookalike.words import Words

TEXTS = 32  # per forward pass: bounds the memory
SHARE = 0.5  # of a caption's embedding to one of the picture's language part; chosen on products held out


def mixed(language: Floats, said: Floats) -> Floats:
    """Language parts (N, E), unit rows, with `SHARE` of what captions say (N, E) added; unit rows."""
    return unit(language + SHARE * said)


@dataclass(frozen=True, slots=True)
class Facts:
    """What there is to know of a network before it runs.

    `fingerprint` is of its weights and its graph. Descriptors are an identity part of `identity` numbers and
    a language part of `language`, 0 where it has none; its share of the whole grows with `weight`.
    """

    fingerprint: str
    trunk: Literal["compact", "x2vlm"]
    identity: int
    language: int
    weight: float
    resolution: int  # pixels along a side of the square that it sees
    grid: int  # cells along a side of its map
    texts: bool = True  # whether words alone can be searched with
    boxes: bool = True
    matches: bool = True
    guard: float | None = None
    trust: Trust | None = None
    towers: Mapping[str, str] = field(default_factory=dict)  # frozen networks before it: fingerprints by name

    @property
    def dim(self) -> int:
        return self.identity + self.language


class Branches(Protocol):
    """The passes of a network by name, B rows of each input, safe to call from several threads.

    tokens     pixels (B, 3, R, R)                    -> (B, 1 + N, Dv)      trunk x2vlm alone
    words      ids, mask (B, L)                       -> states (B, L, Dt)   trunk x2vlm alone
    image      tokens, region (B, N)                  -> descriptors (B, D)  as if told the empty caption
    fused      tokens, region, states, words (B, L)   -> descriptors (B, D)
    text       states                                 -> (B, D): zeros, then the text's embedding
    box        tokens                                 -> (B, 4): cx, cy, w, h in shares of the square
    told_box   tokens, states, words                  -> (B, 4)
    match      tokens, region, states, words          -> (B, 2): do not belong together, do
    """

    name: str  # what the encoder is found by again
    facts: Facts

    def run(self, branch: str, **arrays: Floats | Keys) -> Floats: ...


class AdaptedEncoder:
    """Descriptors, boxes and matches from a model of `lookalike.learn`.

    Each region's own pixels go through the network; `by_mask` sends each picture through once and takes each
    of its regions from the cells that show it, which costs less and finds less. `compact` reads words with
    MiniLM, which is asked for by the first words. `threads` is for its frozen networks.

    A caption takes part in the identity part through the fusion, and in the language part by its embedding,
    both as far as the model believes it: `trust` is what its agreement with captions means, None where that
    is not known: then all are believed. `guard` is the agreement that a single sentence needs to count as
    right, None where that is not known.

    WeightsError where these are not the ones that the model was trained with.
    """

    def __init__(self, branches: Branches, by_mask: bool = False, threads: int | None = None) -> None:
        self._branches, self._by_mask = branches, by_mask
        facts = branches.facts
        own = facts.trunk == "x2vlm"
        self._towers: _Towers = _Own(branches) if own else _Frozen(facts, threads)
        for name, fingerprint in facts.towers.items():
            if self._towers.fingerprints.get(name) != fingerprint:
                raise WeightsError(
                    f"{branches.name} was trained with another {name} than lookalike has", "train it again"
                )
        self.name, self.dim = branches.name, facts.dim
        self.guard = facts.guard if facts.texts else None
        self.trust = facts.trust if facts.texts else None
        self.captioned = facts.texts
        recipe = [
            facts.fingerprint, f"{facts.weight:g}", *self._towers.fingerprints.values(), self._towers.recipe,
            "by mask" if by_mask else "own pixels", "captions in both parts",
            *([] if self.trust is None else [str(self.trust)]),
        ]  # fmt: skip
        self.fingerprint = hashlib.sha256("; ".join(recipe).encode()).hexdigest()[:16]

    def pictures(
        self,
        regions: Sequence[Region],
        captions: Sequence[str] | None = None,
        wrong: Sequence[float] | None = None,
    ) -> Floats:
        """(N,) regions -> (N, D), unit rows; each in the light of its caption, as far as that is believed.

        `wrong` (N,) is what share of the captions of its source seems not to be; see `trust.Trust`.
        """
        rows = np.empty((len(regions), self.dim), np.float32)
        for places, tokens, region in self._seen(regions):
            said = [_words_of(captions[place]) if captions else "" for place in places]
            told = np.array([bool(text) for text in said])
            bare = ~told if self.trust is None else np.ones_like(told)
            if bare.any():
                rows[places[bare]] = self._branches.run("image", tokens=tokens[bare], region=region[bare])
            if told.any():
                states, words = self._towers.read([text for text in said if text])
                fused = self._branches.run(
                    "fused", tokens=tokens[told], region=region[told], states=states, words=words
                )
                if self._branches.facts.texts:
                    shares = [UNKNOWN if wrong is None else wrong[place] for place in places[told]]
                    meanings = self._branches.run("text", states=states)
                    fused = self._told(rows[places[told]], fused, meanings, np.array(shares, np.float32))
                rows[places[told]] = fused
        return rows

    def texts(self, texts: Sequence[str]) -> Floats | None:
        """(N,) texts -> (N, D): zeros in the identity part; None where the model was not taught words."""
        if not self._branches.facts.texts:
            return None
        rows = np.empty((len(texts), self.dim), np.float32)
        for start in range(0, len(texts), TEXTS):
            states, _ = self._towers.read(texts[start : start + TEXTS])
            rows[start : start + TEXTS] = self._branches.run("text", states=states)
        return rows

    def maps(self, pictures: Sequence[Picture]) -> Maps:
        """(B,) whole pictures, B > 0 -> the maps of the tower that looks at them."""
        return self._towers.maps(pictures)

    def boxes(self, pictures: Sequence[Picture], captions: Sequence[str] | None = None) -> list[Box]:
        """Where the object is in each picture, or what its caption speaks of: at least a pixel each way.

        BadInput for a model that was not taught to find boxes.
        """
        self._ask_for("boxes")
        found: list[Box] = []
        chunk = self._towers.chunk
        for start in range(0, len(pictures), chunk):
            part = pictures[start : start + chunk]
            told = captions and list(captions[start : start + chunk])
            tokens, frames = self._towers.look([picture.pixels for picture in part])
            if told and any(told):
                states, words = self._towers.read(told)
                rows = self._branches.run("told_box", tokens=tokens, states=states, words=words)
            else:
                rows = self._branches.run("box", tokens=tokens)
            found += map(_in_pixels, rows, frames, part)
        return found

    def agreement(self, regions: Sequence[Region], captions: Sequence[str]) -> Floats:
        """How well each caption (N,) fits its region (N,), -1 to 1: what `trust` and `guard` speak of.

        BadInput for a model that was not taught words.
        """
        self._ask_for("texts")
        said = self.texts(captions)
        assert said is not None
        return self._agreement(self.pictures(regions), said)

    def match(self, regions: Sequence[Region], captions: Sequence[str]) -> Floats:
        """Whether each caption (N,) and its region (N,) belong together: log odds (N,), above 0 for yes.

        BadInput for a model that was not taught to tell.
        """
        self._ask_for("matches")
        odds = np.empty(len(regions), np.float32)
        for places, tokens, region in self._seen(regions):
            states, words = self._towers.read([captions[place] for place in places])
            logits = self._branches.run("match", tokens=tokens, region=region, states=states, words=words)
            odds[places] = logits[:, 1] - logits[:, 0]
        return odds

    def _agreement(self, bare: Floats, said: Floats) -> Floats:
        """Of descriptors without a caption (N, D), their language part from the picture alone, and texts."""
        identity = self._branches.facts.identity
        return np.asarray((unit(bare[:, identity:]) * said[:, identity:]).sum(axis=1), np.float32)

    def _told(self, bare: Floats, fused: Floats, said: Floats, wrong: Floats) -> Floats:
        """Descriptors (N, D) between `bare` and `fused` ones, by the chance that captions are right.

        `SHARE` of the captions' embeddings (N, D), times that chance, is added to the language parts. Both
        parts keep their weight in the whole.
        """
        identity = self._branches.facts.identity
        chance = np.ones((len(fused), 1), np.float32)
        own = fused[:, :identity]
        if self.trust is not None:
            chance = self.trust.chance(self._agreement(bare, said), wrong)[:, None]
            weight = np.linalg.norm(own, axis=1, keepdims=True)
            own = weight * unit(chance * own + (1 - chance) * bare[:, :identity])
        language = fused[:, identity:]
        weight = np.linalg.norm(language, axis=1, keepdims=True)
        told = weight * mixed(unit(language), chance * said[:, identity:])
        return np.concatenate([own, told], axis=1)

    def _ask_for(self, what: Literal["texts", "boxes", "matches"]) -> None:
        if not getattr(self._branches.facts, what):
            lacking = {"texts": "words", "boxes": "boxes", "matches": "which caption belongs to a picture"}
            raise BadInput(f"{self.name} was not taught {lacking[what]}", "train a model with that loss")

    def _seen(self, regions: Sequence[Region]) -> Iterator[tuple[Keys, Floats, Floats]]:
        """The regions part by part: their places (P,), tokens (P, 1 + N, Dv) and cells' weights (P, N).

        A region that is given several times, to be asked several things, goes through the tower once.
        """
        together: dict[int, list[int]] = {}  # the regions of one view
        for place, region in enumerate(regions):
            together.setdefault(id(region.picture if self._by_mask else region), []).append(place)
        views, chunk = list(together.values()), self._towers.chunk
        for start in range(0, len(views), chunk):
            part = views[start : start + chunk]
            first = [regions[places[0]] for places in part]
            tokens, frames = self._towers.look(
                [region.picture.pixels if self._by_mask else region.pixels for region in first]
            )
            pairs = np.array([(view, place) for view, places in enumerate(part) for place in places])
            for begin in range(0, len(pairs), chunk):
                view, places = pairs[begin : begin + chunk].T
                shares = [
                    _in_picture(regions[place]) if self._by_mask else _in_own(regions[place])
                    for place in places
                ]
                boxes = np.array(
                    [_placed(*each) for each in zip(shares, frames[view], strict=True)], np.float32
                )
                yield places, tokens[view], self._towers.weights(tokens[view], boxes, frames[view])


class _Towers(Protocol):
    """What is before the branches."""

    chunk: int  # pictures per forward pass: bounds the memory
    recipe: str
    fingerprints: Mapping[str, str]

    def look(self, pictures: Sequence[Pixels]) -> tuple[Floats, Floats]:
        """B pictures -> tokens (B, 1 + N, Dv), and where they lie in the square, (B, 4): cx, cy, w, h."""

    def read(self, texts: Sequence[str]) -> tuple[Floats, Keys]:
        """B texts -> states (B, L, Dt) and mask of words (B, L)."""

    def weights(self, tokens: Floats, boxes: Floats, frames: Floats) -> Floats:
        """How much each cell (B, N) counts for boxes (B, 4) like the frames, in shares of the square."""

    def maps(self, pictures: Sequence[Picture]) -> Maps: ...


class _Frozen:
    """EfficientNet-Lite2 and MiniLM, as `compact` was trained on them."""

    chunk = 4
    recipe = "cells of the last block, tapered and salient; states of MiniLM"

    def __init__(self, facts: Facts, threads: int | None) -> None:
        self._grid = facts.grid
        self._images, self._texts = EfficientNet(threads=threads), MiniLM(threads=threads)
        self.fingerprints: Mapping[str, str] = {
            self._images.name: self._images.fingerprint,
            "minilm": self._texts.fingerprint,
        }

    def look(self, pictures: Sequence[Pixels]) -> tuple[Floats, Floats]:
        maps = self._images.blocks(pictures)
        cells = maps.values.reshape(*maps.values.shape[:2], -1).transpose(0, 2, 1)
        frames = np.array(
            [_centred(frame.scaled(1 / self._grid, 1 / self._grid)) for frame in maps.frames], np.float32
        )
        return np.concatenate([np.zeros_like(cells[:, :1]), cells], axis=1), frames

    def read(self, texts: Sequence[str]) -> tuple[Floats, Keys]:
        return self._texts.states(texts)

    def weights(self, tokens: Floats, boxes: Floats, frames: Floats) -> Floats:
        return pooling.cell_weights(tokens[:, 1:], boxes, frames, self._grid, self._grid)

    def maps(self, pictures: Sequence[Picture]) -> Maps:
        return self._images.maps(pictures)


class _Own:
    """The towers of an X²-VLM itself."""

    chunk = 8

    def __init__(self, branches: Branches) -> None:
        self._branches = branches
        self.fingerprints: Mapping[str, str] = {}
        self._side, self._grid = branches.facts.resolution, branches.facts.grid
        self.recipe = (
            f"stretched to {self._side}, bicubic, less {MEAN} by {DEVIATION}; cells that a box touches"
        )

    def look(self, pictures: Sequence[Pixels]) -> tuple[Floats, Floats]:
        tokens = self._branches.run("tokens", pixels=stretched(pictures, self._side))
        return tokens, np.tile(np.array([0.5, 0.5, 1, 1], np.float32), (len(pictures), 1))

    def read(self, texts: Sequence[str]) -> tuple[Floats, Keys]:
        ids, mask = self._words.tokens(texts)
        return self._branches.run("words", ids=ids, mask=mask), mask

    def weights(self, tokens: Floats, boxes: Floats, frames: Floats) -> Floats:
        return pooling.cell_masks(boxes, self._grid, self._grid).astype(np.float32)

    def maps(self, pictures: Sequence[Picture]) -> Maps:
        """The last layer's patches, less their mean over each picture, which would drown the differences."""
        parts = []
        for start in range(0, len(pictures), self.chunk):
            tokens, _ = self.look([picture.pixels for picture in pictures[start : start + self.chunk]])
            parts.append(tokens[:, 1:] - tokens[:, 1:].mean(axis=1, keepdims=True))
        cells = np.concatenate(parts)
        values = cells.transpose(0, 2, 1).reshape(len(cells), -1, self._grid, self._grid)
        return Maps(values, (Box(0, 0, self._grid, self._grid),) * len(cells))

    @cached_property
    def _words(self) -> Words:
        return Words()


def _words_of(caption: str) -> str:
    """A caption, "" for one without a word in it."""
    return caption if any(map(str.isalnum, caption)) else ""


def _in_picture(region: Region) -> Box:
    """A region in shares of its picture."""
    if region.box is None:
        return Box(0, 0, 1, 1)
    return region.box.scaled(1 / region.picture.width, 1 / region.picture.height)


def _in_own(region: Region) -> Box:
    """A region in shares of its own pixels, which are whole ones and so reach a little beyond it."""
    height, width = region.picture.pixels.shape[:2]
    box = _in_picture(region).scaled(width, height)
    left, top = min(math.floor(box.x0), width - 1), min(math.floor(box.y0), height - 1)
    high, wide = region.pixels.shape[:2]
    moved = Box(box.x0 - left, box.y0 - top, box.x1 - left, box.y1 - top)
    return moved.clipped(wide, high).scaled(1 / wide, 1 / high)


def _placed(box: Box, frame: Floats) -> tuple[float, float, float, float]:
    """A box in shares of a picture -> in shares of the square where the picture lies in `frame`, centred."""
    cx, cy, w, h = frame.tolist()
    across, down, wide, high = _centred(box)
    return cx + (across - 0.5) * w, cy + (down - 0.5) * h, wide * w, high * h


def _centred(box: Box) -> tuple[float, float, float, float]:
    return (box.x0 + box.x1) / 2, (box.y0 + box.y1) / 2, box.x1 - box.x0, box.y1 - box.y0


def _in_pixels(row: Floats, frame: Floats, picture: Picture) -> Box:
    """A predicted box (4,), cx, cy, w, h in shares of the square -> inside the picture, a pixel at least."""
    size = np.array([picture.width, picture.height], np.float64)
    middle = ((row[:2] - frame[:2]) / frame[2:] + 0.5) * size
    half = row[2:] / frame[2:] * size / 2
    low = np.clip(middle - half, 0, size - 1)
    high = np.clip(middle + half, low + 1, size)
    return Box(*low.tolist(), *high.tolist())
