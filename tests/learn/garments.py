"""A small labelled set of drawn pieces, and a model of a few thousand weights that learns on it."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from lookalike.datasets import Dataset, Labelled, Side, Unlisted
from lookalike.learn.models.adapted import Adapted
from lookalike.learn.models.x2vlm import X2VLM, X2VLMConfig
from lookalike.learn.sources import Cells
from lookalike.learn.states import Frozen
from lookalike.learn.tokens import TokenCache, make_tokens
from lookalike.testing import ThumbnailEncoder, drawing
from lookalike.values import Box

CONFIG = replace(
    X2VLMConfig.tiny(),
    resolution=64,
    vision_width=3,
    vision_heads=1,
    vision_depth=1,
    text_layers=0,
    heads=("temp", "vision_proj", "text_proj", "itm_head", "bbox_head"),
)  # the stand-in encoder's map has 8 x 8 cells of 3 channels


def garments(folder: Path, identities: int = 8, captioned: bool = True) -> Dataset:
    """Of each identity a query and two gallery pictures, these with captions; splits training and tuning."""
    labelled: list[Labelled | Unlisted] = []
    for number in range(identities):
        for view in range(3):
            path = folder / f"{number}-{view}.png"
            noisy = drawing(number) + np.random.default_rng(view).normal(0, 25, (128, 96, 3))
            Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(path)
            captions = (f"a {'red' if number % 2 else 'blue'} piece",) if view and captioned else ()
            labelled.append(
                Labelled(
                    path.stem, str(path), Side.GALLERY if view else Side.QUERY, f"one/{number}",
                    f"one/{number}", Box(8, 8, 90, 120), captions=captions,
                )
            )  # fmt: skip

    def read(split: str) -> Iterator[Labelled | Unlisted]:
        yield from labelled

    return Dataset("made", folder, ("training", "tuning"), read)


class Spelled:
    """A stand-in for a text tower: each word a vector of its own, no context."""

    fingerprint = "spelled"

    def states(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        words = [["[cls]", *text.split(), "[sep]"] for text in texts]
        longest = max(map(len, words))
        states = np.zeros((len(texts), longest, CONFIG.text_width), np.float32)
        mask = np.zeros((len(texts), longest), np.int64)
        for row, some in enumerate(words):
            mask[row, : len(some)] = 1
            for place, word in enumerate(some):
                random = np.random.default_rng(sum(map(ord, word)))
                states[row, place] = random.normal(size=CONFIG.text_width)
            states[row, 0] = states[row, : len(some)].mean(axis=0)
        return states, mask


def cells(folder: Path, **options: bool) -> tuple[Cells, Frozen]:
    """Made once in a folder, then read from there."""
    tokens = folder / "tokens"
    if not tokens.exists():
        make_tokens(garments(folder, **options), "training", ThumbnailEncoder(), tokens, views=2)
    source = Cells(TokenCache(tokens))
    said = [text for region in source.regions for text in region.captions]
    return source, Frozen(Spelled(), said, folder / "states")


def model(seed: int = 0) -> Adapted:
    torch.manual_seed(seed)
    vlm = X2VLM(CONFIG)
    vlm.vision_encoder = vlm.text_encoder.bert.embeddings = torch.nn.Identity()
    return Adapted(vlm)
