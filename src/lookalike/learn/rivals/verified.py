"""Geometric verification of DELG's short lists by its local features: the paper's second step."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812

from lookalike.errors import BadInput
from lookalike.evaluation.metrics import ranks_of
from lookalike.learn.rivals.delg import Delg
from lookalike.learn.rivals.trained import AT_ONCE, Rival
from lookalike.learn.scoring import posed
from lookalike.learn.sources import Source
from lookalike.rerank.geometric import TOLERANCE, Features, inliers
from lookalike.values import Floats

# On held-out identities, one seed, 48 gave a mAP of .560 behind verification, all 81 cells .552.
MOST = 48  # local features of a region, those of most attention first
ALIKE = 0.5  # as a cosine: DELG's distance of 1
CELL = TOLERANCE * 16 / 20  # of a cell's side, so that the tolerance is DELG's 20 pixels, of cells of 16
FLOOR = 8  # inliers from which a pair counts as verified


@dataclass(frozen=True, slots=True, eq=False)
class Verified:
    """Q queries as `learn.scoring.queries` has them, their short lists ordered anew by inliers.

    `ap` (Q,) is plain average precision, `first` (Q,) the rank from 1 of the first right answer; both NaN
    without an answer. `right` and `wrong` are the shares of true pairs, and of wrong ones in the short lists,
    that have at least `FLOOR` inliers: where the first is small, verification cannot help.
    """

    ap: Floats
    first: Floats
    right: float
    wrong: float


def local_features(rival: Rival, source: Source, most: int = MOST) -> list[Features]:
    """The local features of all regions, at most so many each: of cells in the region, by attention."""
    network = rival.network
    if not isinstance(network, Delg):
        raise BadInput(f"{rival.name} has no local features", "delg has")
    found = []
    rows, columns = np.divmod(np.arange(rival.trunk.side**2), rival.trunk.side)
    places = (np.stack([columns, rows], axis=1) * CELL).astype(np.float32)
    for start in range(0, len(source.regions), AT_ONCE):
        looked = source.look(np.arange(start, min(start + AT_ONCE, len(source.regions))))
        with torch.no_grad():
            short, _, attention = network.local(looked.image[:, 1:])
        order = attention.masked_fill(looked.region <= 0, -1).argsort(dim=1, descending=True, stable=True)
        counts = (looked.region > 0).sum(dim=1).clamp(max=most).tolist()
        for descriptors, best, count in zip(F.normalize(short, dim=2), order, counts, strict=True):
            kept = best[:count].numpy()
            found.append(Features(places[kept], descriptors.numpy()[kept].astype(np.float16), ALIKE))
    return found


def verified(rival: Rival, source: Source, first: int = 100) -> Verified:
    """Search by global descriptors, then sort the `first` of each list by inliers, then by score.

    That is DELG's rule: there is no fewest number of inliers, and what has none stands where it stood, but
    behind all that have some. Matches are each other's nearest and an affine map is fitted by MAGSAC, see
    `lookalike.rerank.geometric`, where DELG takes any nearest neighbour and plain RANSAC. Protocol b1, as
    `learn.scoring.average_precisions` has it.
    """
    descriptors, features = rival.describe(source), local_features(rival, source)
    task = posed(source, descriptors, descriptors)
    gallery, scores = task.gallery, task.scores
    of_right: list[int] = []
    of_wrong: list[int] = []
    for place, row, right in zip(task.queries.tolist(), scores, task.right, strict=True):
        short = np.argsort(-row, kind="stable")[:first]
        counted = {
            other: inliers(features[place], features[gallery[other]])
            for other in np.union1d(short, right).tolist()
            if gallery[other] != place
        }
        of_right += [counted[other] for other in right.tolist()]
        of_wrong += [counted[other] for other in short.tolist() if other in counted and other not in right]
        for other in short.tolist():
            row[other] += 3.0 * (1 + counted.get(other, 0))  # scores differ by 2 at most
    ranks = ranks_of(scores, task.right)
    return Verified(
        np.array([each.average_precision() for each in ranks], np.float32),
        np.array([each.found[0] + 1 if each.total else np.nan for each in ranks], np.float32),
        *(
            float(np.mean([count >= FLOOR for count in some])) if some else 0.0
            for some in (of_right, of_wrong)
        ),
    )
