"""CLIP-ReID's losses on the frozen trunk (Li, Sun and Li, AAAI 2023, arXiv 2211.13977).

0. Its image-text space, which CLIP brings along there, is fitted by ITC on the captions.
1. Four tokens of each identity are learnt as its text, by supervised contrast with its pictures, while the
   rest is frozen.
2. The image side is learnt: identity loss behind batch normalisation and triplets, both on the pooled vector
   and on its projection, and a cross-entropy between pictures and the texts of all identities.

Searches compare [pooled ; projection]. What differs: the trunk and the captions' states are frozen, so the
image side is `LastStage` and a projection, the text side one transformer layer behind MiniLM; learnt tokens
join the states of the empty text before that layer, as MiniLM itself is not run again, so the prompt has no
words of its own. Embeddings have unit length, with a temperature, where CLIP-ReID's dot products are raw.
Stages have the same optimiser and batches. Of the paper's three triplet losses there are two, as there is
one layer less.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from lookalike.errors import BadInput
from lookalike.learn import losses
from lookalike.learn.batches import Steps
from lookalike.learn.objective import Batch
from lookalike.learn.recipes import Recipe
from lookalike.learn.rivals.fitting import LastStage, descend, fit, pooled
from lookalike.learn.rivals.reid import MARGIN, SMOOTHING, classifier, neck
from lookalike.learn.rivals.trained import AT_ONCE, Made, Network, Trunk
from lookalike.learn.sampling import NO_IDENTITY, PKSampler
from lookalike.learn.sources import Source, Texts
from lookalike.values import Progress

WIDTH, EMBEDDING = 352, 256
TOKENS = 4  # of an identity
PROMPT_EPOCHS = 2  # times those of stage 2, as published
PROMPT_LR = 0.01
TEMPERATURE = 0.07  # compact's
IDENTITY = 1.0  # weight of the identity loss: the paper's for a network without a class token


class ImageSide(Network):
    """Calling it gives what is searched, `parts` what losses read."""

    def __init__(self, trunk: Trunk) -> None:
        super().__init__()
        self.stage = LastStage(trunk.channels, WIDTH)
        self.projection = nn.Linear(WIDTH, EMBEDDING)

    def parts(self, cells: Tensor, region: Tensor) -> tuple[Tensor, Tensor]:
        """The pooled vector (B, W) and its projection (B, E), of any length."""
        seen = pooled(self.stage(cells), region)
        return seen, self.projection(seen)

    def forward(self, cells: Tensor, region: Tensor) -> Tensor:
        return torch.cat(self.parts(cells, region), dim=1)


class TextSide(nn.Module):
    """States of a frozen text tower (B, L, Dt), tokens that were learnt among them -> (B, E), unit rows."""

    def __init__(self, width: int) -> None:
        super().__init__()
        heads = math.gcd(width, 12)
        self.layer = nn.TransformerEncoderLayer(
            width, heads, 4 * width, dropout=0.1, activation="gelu", batch_first=True
        )
        self.projection = nn.Linear(width, EMBEDDING)

    def forward(self, states: Tensor, words: Tensor) -> Tensor:
        read = self.layer(states, src_key_padding_mask=words == 0)
        return F.normalize(self.projection(read[:, 0]), dim=1)


class Prompts(nn.Module):
    """[CLS] X X X X [SEP]: the empty text with an identity's learnt tokens in it."""

    def __init__(self, identities: int, empty: Tensor) -> None:
        """`empty` (L, Dt): the states of the empty text."""
        super().__init__()
        self.tokens = nn.Parameter(torch.randn(identities, TOKENS, empty.shape[1]) * 0.02)
        self._empty = empty

    def forward(self, text: TextSide, identities: Tensor) -> Tensor:
        """Identities (B,) -> their texts (B, E), unit rows."""
        around = self._empty.expand(len(identities), -1, -1)
        states = torch.cat([around[:, :1], self.tokens[identities], around[:, 1:]], dim=1)
        said: Tensor = text(states, torch.ones(states.shape[:2], dtype=torch.int64))
        return said


class Heads(nn.Module):
    """What stage 2 needs for training alone: BNNecks and classifiers of both vectors."""

    def __init__(self, identities: int) -> None:
        super().__init__()
        self.necks = nn.ModuleList(neck(width) for width in (WIDTH, EMBEDDING))
        self.classifiers = nn.ModuleList(classifier(width, identities) for width in (WIDTH, EMBEDDING))

    def forward(self, parts: tuple[Tensor, Tensor], texts: Tensor, labels: Tensor) -> Tensor:
        """L_i2tce + the identity losses + the triplet losses; `texts` (C, E) are those of all identities."""
        seen = F.normalize(parts[1], dim=1)
        total = losses.image_to_text_ce(seen, texts, labels, SMOOTHING, TEMPERATURE)
        for part, norm, classify in zip(parts, self.necks, self.classifiers, strict=True):
            named = losses.identity(classify(norm(part)), labels, SMOOTHING)
            total = total + IDENTITY * named + losses.triplet(part, labels, MARGIN)
        return total


def train(source: Source, texts: Texts, recipe: Recipe, on_progress: Progress | None = None) -> Made:
    """BadInput where no region has a caption."""
    if not any(region.captions for region in source.regions):
        raise BadInput(
            "CLIP-ReID's image-text space is learnt from captions, and the data set has none",
            "give it captions, or train another rival",
        )
    steps = Steps(source, texts, recipe, 0, 1)
    empty = texts.of([""])[0][0]
    image, text = ImageSide(Trunk.of(source)), TextSide(empty.shape[1])
    prompts, heads = Prompts(steps.identities, empty), Heads(steps.identities)
    everyone = torch.arange(steps.identities)
    total = (2 + PROMPT_EPOCHS) * recipe.epochs * steps.batches

    def told(before: int) -> Progress | None:
        return on_progress and (lambda done, _: on_progress(before + done, total))

    first = fit_space(image, text, steps, recipe, told(0))
    text.requires_grad_(False)
    second = fit_prompts(prompts, text, embedded(image, source), source, recipe, told(first))
    text.eval()
    with torch.no_grad():
        spoken = prompts(text, everyone)

    def loss(batch: Batch) -> Tensor:
        made: Tensor = heads(_seen(image, batch), spoken, batch.labels)
        return made

    third = fit(nn.ModuleList([image, heads]), loss, steps, recipe, told(first + second))
    settings = {
        "tokens": TOKENS, "steps of the space": first, "steps of the prompts": second,
        "steps of the pictures": third, "rate of the prompts": PROMPT_LR, "temperature": TEMPERATURE,
        "identity": IDENTITY, "smoothing": SMOOTHING, "margin": MARGIN, "width": WIDTH,
        "embedding": EMBEDDING,
    }  # fmt: skip
    return Made(image, first + second + third, settings)


def fit_space(
    image: ImageSide,
    text: TextSide,
    steps: Steps,
    recipe: Recipe,
    on_progress: Progress | None = None,
) -> int:
    """Stage 0: pictures and captions of an identity are brought together; the steps it took."""

    def loss(batch: Batch) -> Tensor:
        told = batch.captioned
        seen = F.normalize(_seen(image, batch)[1], dim=1)[told]
        if not told.any():
            return seen.sum()
        said = text(batch.text[:-1][told], batch.words[:-1][told])
        return losses.itc(seen, said, TEMPERATURE, batch.labels[told])

    return fit(nn.ModuleList([image, text]), loss, steps, recipe, on_progress)


def fit_prompts(
    prompts: Prompts,
    text: TextSide,
    seen: Tensor,
    source: Source,
    recipe: Recipe,
    on_progress: Progress | None = None,
) -> int:
    """Stage 1: the text of each identity is brought to the embeddings (N, E) of its pictures; its steps."""
    text.eval()
    known = source.identities != NO_IDENTITY
    numbers = np.full(len(known), NO_IDENTITY, np.int64)
    numbers[known] = np.unique(source.identities[known], return_inverse=True)[1]
    sampler = PKSampler(numbers, source.sides, recipe.p, recipe.k, recipe.seed)

    def loss(epoch: int, step: int) -> Tensor:
        places = sampler.batch(epoch, step)
        labels = torch.from_numpy(numbers[places])
        drawn, which = torch.unique(labels, return_inverse=True)
        said, pictures = prompts(text, drawn)[which], seen[places]
        to_text = losses.supcon(pictures, labels, said, labels, TEMPERATURE)
        return to_text + losses.supcon(said, labels, pictures, labels, TEMPERATURE)

    longer = replace(recipe, epochs=PROMPT_EPOCHS * recipe.epochs, lr=PROMPT_LR)
    return descend(prompts, loss, sampler.steps, longer, on_progress)


@torch.no_grad()
def embedded(image: ImageSide, source: Source) -> Tensor:
    """All regions as encoders see them (N, E), unit rows: without augmentation, as published."""
    image.eval()
    rows = []
    for start in range(0, len(source.regions), AT_ONCE):
        looked = source.look(np.arange(start, min(start + AT_ONCE, len(source.regions))))
        rows.append(F.normalize(image.parts(looked.image[:, 1:], looked.region)[1], dim=1))
    return torch.cat(rows)


def _seen(image: ImageSide, batch: Batch) -> tuple[Tensor, Tensor]:
    return image.parts(batch.image[:, 1:], batch.region)
