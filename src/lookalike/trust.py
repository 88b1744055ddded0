"""How far a caption is to be believed, by how far a model agrees with it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np

from lookalike.values import Floats

UNKNOWN = 0.5  # share of wrong captions of a source that nothing is known of


@dataclass(frozen=True, slots=True)
class Trust:
    """What a model's agreement with captions means, -1 to 1, by captions known to be right and another's.

    Both kinds are taken as normal with one deviation.
    """

    right: float  # mean agreement of right captions
    wrong: float  # and of another identity's
    deviation: float  # of either, around its mean

    @classmethod
    def of(cls, right: Floats, wrong: Floats) -> Self:
        """By agreements of right captions (N,) and of wrong ones (M,), neither empty."""
        deviation = np.sqrt((right.var() + wrong.var()) / 2)
        return cls(float(right.mean()), float(wrong.mean()), float(deviation))

    def share(self, agreements: Floats) -> float:
        """How many captions (N,) seem to be wrong, 0 to 1, by their mean agreement.

        1 where there are none, and where the model cannot tell right from wrong.
        """
        if not len(agreements) or self.right <= self.wrong:
            return 1.0
        found = (self.right - float(agreements.mean())) / (self.right - self.wrong)
        return min(1.0, max(0.0, found))

    def chance(self, agreements: Floats, wrong: Floats | float = UNKNOWN) -> Floats:
        """That each caption is right (N,), 0 to 1, where a share `wrong` of its source is not, (N,) or one.

        0 where all are wrong and where the model cannot tell, 1 where none is.
        """
        shares = np.broadcast_to(np.asarray(wrong, np.float64), agreements.shape)
        if self.right <= self.wrong:
            return np.zeros(agreements.shape, np.float32)
        steep = (self.right - self.wrong) / max(self.deviation, 1e-6) ** 2
        with np.errstate(divide="ignore"):
            prior = np.log(1 - shares) - np.log(shares)
        odds = steep * (agreements - (self.right + self.wrong) / 2) + prior
        # 1 / (1 + exp(-x)), without its overflow
        return np.asarray((1 + np.tanh(odds / 2)) / 2, np.float32)
