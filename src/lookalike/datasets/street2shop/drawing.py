"""A garment on a figure: its pieces cut and sewn, and where in the picture what of it is to be seen."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lookalike.datasets.street2shop.bottoms import LowerTailor
from lookalike.datasets.street2shop.figure import (
    Points,
    Pose,
    View,
)
from lookalike.datasets.street2shop.sewing import Layer, Panel, sewn
from lookalike.datasets.street2shop.tops import UpperTailor
from lookalike.datasets.street2shop.wardrobe import (
    BOTTOMS,
    Garment,
    Random,
)

_SOFT = {"jersey": 1.0, "knit": 0.8, "denim": 0.75, "corduroy": 0.8, "linen": 1.25, "satin": 1.3}


@dataclass(frozen=True, slots=True, eq=False)
class Worn:
    """A garment as it is drawn. `layers` in the order of drawing; a sleeve in front of the body is apart.

    `sites` says where in the picture each attribute is to be seen; `marks` are neckline (or waist) left,
    middle, right.
    """

    main: Layer | None
    sleeves: dict[int, Layer | None]
    sites: dict[str, Points]
    marks: Points
    outline: Points  # points on its rim, inside the frame or not


def dressed(garment: Garment, pose: Pose, view: View, frame: tuple[int, int], random: Random) -> Worn:
    """The garment on the figure, or laid flat in its form; `random` decides how the cloth falls."""
    cutter = LowerTailor if garment.category in BOTTOMS else UpperTailor
    tailor = cutter(garment, pose, view, random)
    tailor.cut()
    crumple = _SOFT[garment.attributes["fabric"]] * (0.75 if pose.flat else 1.0)

    def made(name: int) -> Layer | None:
        pieces = tailor.pieces[name]
        return (
            sewn(pieces, tailor.folds, frame, view.scale, garment.colours[0], random, crumple)
            if pieces
            else None
        )

    outline = np.concatenate(
        [piece.outline for pieces in tailor.pieces.values() for piece in pieces if isinstance(piece, Panel)]
    )
    return Worn(
        made(0),
        {side: made(side) for side in (-1, 1) if tailor.pieces[side]},
        {name: np.concatenate(points) for name, points in tailor.sites.items()},
        tailor.marks,
        outline,
    )
