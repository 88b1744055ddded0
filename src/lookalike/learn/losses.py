"""The losses of X²-VLM, ArcFace and its kin, and those of CLIP-ReID: pure functions on tensors.

B rows of a batch, D their length, C classes. Each loss is a scalar in full precision: what comes in half
precision, or within autocast, is computed in float32.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from typing import Concatenate, ParamSpec, TypeVar

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from lookalike.errors import BadInput

_P = ParamSpec("_P")
_R = TypeVar("_R")


def _in_full(loss: Callable[Concatenate[Tensor, _P], _R]) -> Callable[Concatenate[Tensor, _P], _R]:
    """Autocast is off within, and tensors in half precision come in as float32."""

    def full(value: object) -> object:
        halved = isinstance(value, Tensor) and value.is_floating_point() and value.dtype.itemsize < 4
        return value.float() if isinstance(value, Tensor) and halved else value

    @wraps(loss)
    def in_full(first: Tensor, /, *args: _P.args, **options: _P.kwargs) -> _R:
        with torch.autocast(first.device.type, enabled=False):
            rest = [full(value) for value in args]
            named = {name: full(value) for name, value in options.items()}
            return loss(full(first), *rest, **named)  # type: ignore[arg-type]

    return in_full


# X²-VLM (Zeng et al., arXiv 2211.12402)


@_in_full
def itc(
    image: Tensor,
    text: Tensor,
    temp: Tensor | float,
    identities: Tensor | None = None,
    trust: Tensor | None = None,
) -> Tensor:
    """Image-text contrast of embeddings (B, D), unit length, over `temp`, both directions averaged.

    Row b belongs to row b; with `identities` (B,) to all of the same identity, in equal shares. `trust` (B,),
    not negative, says how much each text counts where it is what a picture should pick, and where it picks.
    """
    logits = image @ text.t() / temp
    if identities is None:
        alike = torch.eye(len(logits), dtype=logits.dtype, device=logits.device)
    else:
        alike = (identities[:, None] == identities[None, :]).to(logits.dtype)
    share = alike / alike.sum(dim=1, keepdim=True)
    of_images, of_texts = (F.log_softmax(scores, dim=1) * share for scores in (logits, logits.t()))
    if trust is None:
        directions = (-each.sum(dim=1).mean() for each in (of_images, of_texts))
    else:
        directions = (-(each @ trust).sum() / trust.sum() for each in (of_images, of_texts.t()))
    return sum(directions, logits.new_zeros(())) / 2


@torch.no_grad()
@_in_full
def agreement(image: Tensor, text: Tensor, temp: Tensor | float) -> Tensor:
    """How much more than usual each text agrees with its picture, (B,), 0 to 1, without gradient.

    The logistic function of how far the cosine of a pair, embeddings (B, D), lies above the batch's mean, in
    units of `temp`: at the mean one half. B = 0 gives (0,).
    """
    cosines = (image * text).sum(dim=1)
    return torch.sigmoid((cosines - cosines.mean()) / temp)


@torch.no_grad()
@_in_full
def hard_negative_weights(
    image: Tensor, text: Tensor, temp: Tensor | float, identities: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """How likely each row is drawn as a wrong partner: of each image among texts, of each text among images.

    Embeddings (B, D), unit length -> two (B, B), not normalised, 0 where the rows belong together. Without
    gradient.
    """
    logits = image @ text.t() / temp
    if identities is None:
        alike = torch.eye(len(logits), dtype=torch.bool, device=logits.device)
    else:
        alike = identities[:, None] == identities[None, :]
    of_images, of_texts = (
        (F.softmax(scores, dim=1) + 1e-5).masked_fill(alike, 0) for scores in (logits, logits.t())
    )
    return of_images, of_texts


def hard_negatives(weights: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """One draw for each row of weights (B, B) -> (B,) rows; BadInput where a row has none to draw."""
    if not weights.any(dim=1).all():
        raise BadInput(
            "a batch whose rows are all of one identity has no wrong pairs to learn from",
            "draw batches of two identities or more",
        )
    return torch.multinomial(weights, 1, generator=generator)[:, 0]


@_in_full
def itm(matched: Tensor, unmatched: Tensor) -> Tensor:
    """Image-text matching: cross-entropy over logits (B, 2) of right pairs and (K, 2) of wrong ones."""
    truth = torch.cat([
        torch.ones(len(matched), dtype=torch.int64, device=matched.device),
        torch.zeros(len(unmatched), dtype=torch.int64, device=matched.device),
    ])  # fmt: skip
    return F.cross_entropy(torch.cat([matched, unmatched]), truth)


@_in_full
def mlm(scores: Tensor, words: Tensor) -> Tensor:
    """Cross-entropy of scores (..., V) against word ids (...); -100 is left out. 0 where all are left out."""
    total = F.cross_entropy(scores.flatten(0, -2), words.flatten(), ignore_index=-100, reduction="sum")
    return total / (words != -100).sum().clamp(min=1)


@_in_full
def box(predicted: Tensor, target: Tensor, is_image: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """L1 and GIoU losses of boxes (B, 4) as centre x, centre y, width, height; each a mean over boxes.

    L1 sums over the four numbers. Rows where `is_image` (B,) is 1 have no box and do not count; without any
    box both are 0. If any row of the batch, counted or not, is inverted (a width or height below 0), GIoU is
    0 for all of it, as the authors have it.
    """
    counted = torch.ones_like(predicted[:, 0]) if is_image is None else 1 - is_image.to(predicted.dtype)
    boxes = counted.sum().clamp(min=1)
    l1 = ((predicted - target).abs().sum(dim=1) * counted).sum() / boxes
    ours, true = _corners(predicted), _corners(target)
    inverted = (ours[:, 2:] < ours[:, :2]).any() | (true[:, 2:] < true[:, :2]).any()
    unit = torch.tensor([0.0, 0.0, 1.0, 1.0], dtype=ours.dtype, device=ours.device)
    ours, true = torch.where(inverted, unit, ours), torch.where(inverted, unit, true)  # no NaN behind the 0
    giou = ((1 - _giou(ours, true)) * counted).sum() / boxes
    return l1, giou * ~inverted


def _corners(boxes: Tensor) -> Tensor:
    """Centre and size -> x0, y0, x1, y1."""
    centre, size = boxes[:, :2], boxes[:, 2:]
    return torch.cat([centre - size / 2, centre + size / 2], dim=1)


def _giou(a: Tensor, b: Tensor) -> Tensor:
    """Generalised intersection over union of corners (B, 4) -> (B,), -1 to 1 (Rezatofighi et al., 2019)."""
    tiny = torch.finfo(a.dtype).tiny  # two boxes without area have no union
    shared = (torch.minimum(a[:, 2:], b[:, 2:]) - torch.maximum(a[:, :2], b[:, :2])).clamp(min=0).prod(dim=1)
    hull = (torch.maximum(a[:, 2:], b[:, 2:]) - torch.minimum(a[:, :2], b[:, :2])).clamp(min=0).prod(dim=1)
    union = (a[:, 2:] - a[:, :2]).prod(dim=1) + (b[:, 2:] - b[:, :2]).prod(dim=1) - shared
    return shared / union.clamp(min=tiny) - (hull - union) / hull.clamp(min=tiny)


# ArcFace (Deng et al., arXiv 1801.07698) and its kin


@dataclass(frozen=True, slots=True)
class Margin:
    """s · (cos(θ + angle) - cosine): ArcFace with an angle, CosFace with a cosine.

    `angle` in radians, below π / 2, may be (C,), one for each class: see `adaptive_angles`. `scale` is s.
    """

    angle: float | Tensor = 0.3
    cosine: float = 0.0
    scale: float = 30.0


@_in_full
def arcface(features: Tensor, centres: Tensor, labels: Tensor, margin: Margin) -> Tensor:
    """Cross-entropy of `arcface_logits`."""
    return F.cross_entropy(arcface_logits(features, centres, labels, margin), labels)


@_in_full
def arcface_logits(features: Tensor, centres: Tensor, labels: Tensor, margin: Margin) -> Tensor:
    """Features (B, D), centres (C, D) or with K sub-centres each (C, K, D), labels (B,) -> logits (B, C).

    Any length of rows: they are scaled to 1. The nearest sub-centre counts (Deng et al., ECCV 2020). Where
    the margin would turn an angle beyond π, cos θ - angle · sin(angle) takes its place. A feature within
    about a thousandth of its centre counts as lying on it: the slope of the angle has no bound there.
    """
    cosines = cosines_to(features, centres)
    angle = margin.angle
    if isinstance(angle, Tensor):
        angle = angle.to(cosines.dtype)[labels]
    else:
        angle = cosines.new_full(labels.shape, angle)
    cosine = cosines.gather(1, labels[:, None])[:, 0]
    squared = 1 - cosine * cosine
    apart = squared > 1e-6
    sine = torch.where(apart, torch.where(apart, squared, 1).sqrt(), 0)
    turned = cosine * angle.cos() - sine * angle.sin()
    turned = torch.where(cosine > -angle.cos(), turned, cosine - angle * angle.sin())
    margined = torch.where(angle > 0, turned, cosine) - margin.cosine
    return cosines.scatter(1, labels[:, None], margined[:, None]) * margin.scale


@_in_full
def cosines_to(features: Tensor, centres: Tensor) -> Tensor:
    """Features (B, D), centres (C, D) or (C, K, D) -> cosines (B, C), without margin: what accuracy reads."""
    cosines = F.normalize(features, dim=-1) @ F.normalize(centres, dim=-1).flatten(0, -2).t()
    if centres.ndim == 3:
        cosines = cosines.view(len(features), *centres.shape[:2]).amax(dim=2)
    return cosines


def adaptive_angles(counts: Tensor, low: float = 0.05, high: float = 0.5) -> Tensor:
    """Pictures of each class (C,) -> angles (C,): `high` for the rarest, `low` for the commonest.

    As count^(-1/4) lies between these (Ha et al., arXiv 2010.05350). All as common: `low`.
    """
    rarity = counts.float().pow(-0.25)
    spread = rarity.max() - rarity.min()
    return low + (high - low) * (rarity - rarity.min()) / spread.clamp(min=torch.finfo(rarity.dtype).tiny)


def sampled_centres(
    labels: Tensor, classes: int, count: int, generator: torch.Generator | None = None
) -> tuple[Tensor, Tensor]:
    """The batch's classes and others by chance, `count` in all, (S,) ascending, and the labels there (B,).

    `arcface(features, centres[chosen], labels_there, margin)` then costs S centres instead of C (partial FC,
    An et al., arXiv 2203.15565). S is more than `count` where the batch alone has more classes. An adaptive
    angle is chosen likewise.
    """
    present = torch.unique(labels)
    keys = torch.rand(classes, generator=generator).to(labels.device)
    keys[present] = 2.0
    chosen = keys.topk(min(max(count, len(present)), classes)).indices.sort().values
    return chosen, torch.searchsorted(chosen, labels)


# CLIP-ReID (Li et al., arXiv 2211.13977)


@_in_full
def supcon(
    features: Tensor,
    labels: Tensor,
    others: Tensor | None = None,
    other_labels: Tensor | None = None,
    temperature: float = 1.0,
) -> Tensor:
    """Supervised contrast: each row (B, D) picks those of its label among `others` (M, D), by dot products.

    Without `others` among the batch, itself left out. The mean over a row's positives, then over the rows
    that have one; 0 where none has.
    """
    if others is None or other_labels is None:
        others, other_labels = features, labels
        itself = torch.eye(len(features), dtype=torch.bool, device=features.device)
    else:
        itself = torch.zeros(len(features), len(others), dtype=torch.bool, device=features.device)
    scores = (features @ others.t() / temperature).masked_fill(itself, torch.finfo(features.dtype).min)
    alike = (labels[:, None] == other_labels[None, :]) & ~itself
    positives = alike.sum(dim=1)
    rows = (F.log_softmax(scores, dim=1) * alike).sum(dim=1) / positives.clamp(min=1)
    return -rows.sum() / (positives > 0).sum().clamp(min=1)


@_in_full
def triplet(features: Tensor, labels: Tensor, margin: float | None = 0.3) -> Tensor:
    """Batch-hard triplets of features (B, D) by Euclidean distance (Hermans et al., arXiv 1703.07737).

    `margin` None is the soft one, log(1 + exp(positive - negative)). Rows without a negative do not count;
    0 where no row has one.
    """
    positive, negative = hardest(features, labels)
    counted = negative.isfinite()
    gap = torch.where(counted, positive - torch.where(counted, negative, 0), 0)
    rows = F.softplus(gap) if margin is None else F.relu(gap + margin)
    return (rows * counted).sum() / counted.sum().clamp(min=1)


@_in_full
def hardest(features: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """The distance of each row's farthest positive (itself where alone) and nearest negative, both (B,).

    The negative is infinity where all rows are of one label.
    """
    lengths = features.square().sum(dim=1)
    squared = lengths[:, None] + lengths[None, :] - 2 * features @ features.t()
    distances = squared.clamp(min=1e-12).sqrt()
    alike = labels[:, None] == labels[None, :]
    positive = distances.masked_fill(~alike, 0).amax(dim=1)
    return positive, distances.masked_fill(alike, torch.inf).amin(dim=1)


@_in_full
def linear_logits(features: Tensor, weights: Tensor, scale: float) -> Tensor:
    """A linear classifier of features (B, D), unit rows, by weights (C, D) of any length: (B, C).

    Rows of length 1 need the scale of cosines, or no class ever becomes likely.
    """
    return features @ weights.t() * scale


@_in_full
def identity(logits: Tensor, labels: Tensor, smoothing: float = 0.1) -> Tensor:
    """Cross-entropy of logits (B, C); `smoothing` of the target is shared by all classes."""
    return F.cross_entropy(logits, labels, label_smoothing=smoothing)


@_in_full
def image_to_text_ce(
    features: Tensor, class_texts: Tensor, labels: Tensor, smoothing: float = 0.1, temperature: float = 1.0
) -> Tensor:
    """Cross-entropy of features (B, D) against one text of each class (C, D), by dot products.

    Rows of unit length need a temperature well below 1; CLIP-ReID's are raw.
    """
    return F.cross_entropy(features @ class_texts.t() / temperature, labels, label_smoothing=smoothing)
