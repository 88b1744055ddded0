"""Geometric verification: what shows the same object lays many of its details out in the same way.

Two regions' local features are matched, and the matches that agree on one affine map or homography are
counted: the inliers. Cloth bends and most of it is plain, so expect this to help with prints, logos and rigid
things, and little else.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeVar, get_args

import numpy as np
from numpy.typing import NDArray

from lookalike import images, weights
from lookalike.errors import BadInput, BadPicture, MissingExtra
from lookalike.values import Box, Floats, Keys, Pixels, Query, Region, Row, Shortlist

if TYPE_CHECKING:
    from lookalike.rerank.xfeat import XFeat  # loads torch

Kind = Literal["rootsift", "xfeat"]
Rule = Literal["tie-breaker", "delg", "added"]
Model = Literal["affine", "homography"]
Counts = NDArray[np.int64]

SIDE = 512  # pixels of a region's longer side, at most
MOST = 1000  # features of a region
FEWEST = 4  # matches: with fewer nothing is fitted
TOLERANCE = 3.0  # pixels from where the map takes a feature to where its match is
TRIALS = 2000
CONFIDENCE = 0.999

# How alike two descriptors must be, as a cosine, beyond being each other's nearest. XFeat's is its authors'.
# RootSIFT's is measured on street views, against 0.8, 0.85, none and ratio tests of 0.8 to 0.95: it tells
# true pairs of drawn garments from wrong ones best, and hardly a wrong pair, drawn or photographed, has 8
# inliers.
_ALIKE: Mapping[Kind, float] = {"rootsift": 0.9, "xfeat": 0.82}

_Kept = TypeVar("_Kept")
_ENTRY = 500  # bytes that a remembered thing costs beside its arrays


@dataclass(frozen=True, slots=True, eq=False)
class Features:
    """Local features of a region: points (K, 2) as x, y in pixels, descriptors (K, D) of unit length.

    Descriptors are half-precision, for memory's sake. Two matched ones have a cosine above `alike`.
    """

    points: Floats
    descriptors: NDArray[np.float16]
    alike: float

    def __len__(self) -> int:
        return len(self.points)

    @property
    def nbytes(self) -> int:
        return self.points.nbytes + self.descriptors.nbytes


def local_features(region: Region, kind: Kind = "rootsift") -> Features:
    """The local features inside a region's box, at most `MOST`, with the region at most `SIDE` long.

    A plain or tiny region has none. MissingExtra without the packages, WeightsError where XFeat's weights
    were not pulled.
    """
    pixels = _shrunk(region.pixels)
    if kind == "rootsift":
        points, descriptors = _root_sift(pixels)
    else:
        points, descriptors = _xfeat().detect(pixels, MOST)
    return Features(points, descriptors.astype(np.float16), _ALIKE[kind])


def inliers(query: Features, candidate: Features, model: Model = "affine") -> int:
    """How many matches agree on one map from the query's region to the candidate's, 0 to `MOST`.

    Matches are each other's nearest. MAGSAC finds the map; the same features always give the same count. 0
    where there are fewer than `FEWEST` matches or no map is found.

    A homography fits a flat print seen from anywhere, and has more inliers there. The affine map, a plane
    seen from afar, has fewer degrees to go wrong in: true pairs stand out as clearly or more, and XFeat's
    wrong pairs reach a floor half as often.
    """
    cv2 = _opencv()
    places, theirs = matches(query, candidate)
    if len(places) < FEWEST:
        return 0
    source, target = query.points[places], candidate.points[theirs]
    # OpenCV's USAC estimators start a random generator of their own at each call: nothing global is used.
    if model == "homography":
        _, fits = cv2.findHomography(source, target, cv2.USAC_MAGSAC, TOLERANCE, None, TRIALS, CONFIDENCE)
    else:
        _, fits = cv2.estimateAffine2D(source, target, None, cv2.USAC_MAGSAC, TOLERANCE, TRIALS, CONFIDENCE)
    return 0 if fits is None else int(np.count_nonzero(fits))


def matches(query: Features, candidate: Features) -> tuple[Keys, Keys]:
    """Which features of the two are each other's nearest and alike enough: places in each, (K,) and (K,)."""
    if len(query) == 0 or len(candidate) == 0:
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    alike = query.descriptors.astype(np.float32) @ candidate.descriptors.astype(np.float32).T
    nearest = alike.argmax(axis=1)
    places = np.arange(len(query))
    mutual = alike.argmax(axis=0)[nearest] == places
    found = np.flatnonzero(mutual & (alike[places, nearest] > query.alike))
    return found, nearest[found]


class Memory:
    """What took long to work out, up to so many bytes; what was not asked for longest goes first.

    Safe for threads; two that ask for the same at once may both work it out.
    """

    def __init__(self, limit: int = 256_000_000) -> None:
        self._limit = limit
        self._bytes = 0
        self._kept: OrderedDict[Hashable, Any] = OrderedDict()
        self._lock = threading.Lock()

    def recall(self, key: Hashable, make: Callable[[], _Kept]) -> _Kept:
        """What is remembered by this key, or else what `make` gives, which is then remembered."""
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                known: _Kept = self._kept[key]
                return known
        made = make()
        with self._lock:
            if key not in self._kept:
                self._kept[key] = made
                self._bytes += _size(made)
            while self._bytes > self._limit:
                _, oldest = self._kept.popitem(last=False)
                self._bytes -= _size(oldest)
        return made


def _size(kept: object) -> int:
    return _ENTRY + (kept.nbytes if isinstance(kept, Features) else 0)


@dataclass(frozen=True, slots=True)
class Geometric:
    """Move up the members whose region shows the query's details in the query's layout.

    The first `verify` members are compared, each inside its box; a picture that is gone, broken or changed
    since it was indexed has no inliers. A query of words alone leaves the shortlist as it is. Rules:

    - "tie-breaker": members with at least `floor` inliers come first, the more the earlier; the others
      follow in their old order.
    - "added": `weight` times inliers over `enough`, at most `weight`, is added to the score; fewer inliers
      than `floor` count as none.
    - "delg": sorted by inliers, then by score, as published (Cao et al., ECCV 2020): no floor, and what is
      not compared stands among what has no inliers. Only the rule is theirs: DELG matches learnt local
      features of regions up to 1024 pixels, any nearest neighbour within a distance of 1, and fits an affine
      map within 20 pixels by plain RANSAC.

    With RootSIFT hardly a wrong pair reaches 8 inliers. XFeat verifies more true pairs, of drawn garments
    three times as many, and more wrong ones: a floor of 12 to 16 suits it.

    Copies made by `dataclasses.replace` share their `memory` of features and counts, so trying another rule
    costs next to nothing. MissingExtra without the extra `geometric`, or for "xfeat" the extra `hub`.
    """

    GRID: ClassVar[Mapping[str, tuple[str | float, ...]]] = {  # with floor 0 the tie-breaker is DELG's rule
        "rule": ("tie-breaker", "added"),
        "floor": (0, 8, 16),
        "weight": (0.1, 0.3),
    }

    features: Kind = "rootsift"
    rule: Rule = "tie-breaker"
    verify: int = 100
    floor: int = 8
    weight: float = 0.3
    enough: int = 30
    model: Model = "affine"
    memory: Memory = field(default_factory=Memory, repr=False, compare=False)

    def __post_init__(self) -> None:
        for option, known in (("features", Kind), ("rule", Rule), ("model", Model)):
            if getattr(self, option) not in get_args(known):
                raise BadInput(
                    f"geometric verification has no {option} {getattr(self, option)!r}",
                    f"known: {', '.join(get_args(known))}",
                )
        if self.verify < 1 or self.floor < 0 or self.enough < 1:
            raise BadInput("geometric verification needs verify >= 1, floor >= 0 and enough >= 1")
        if find_spec("cv2") is None:
            raise MissingExtra("geometric verification", "geometric")
        if self.features == "xfeat":
            if find_spec("torch") is None:
                raise MissingExtra("geometric verification with XFeat", "hub")
            weights.locate("xfeat", weights.default_folder())

    @property
    def name(self) -> str:
        return "geometric"

    def rerank(self, query: Query, shortlist: Shortlist) -> Shortlist:
        if not query.regions:
            return shortlist
        return shortlist.rescored(self.score(shortlist.scores, self.verified(query.regions[0], shortlist)))

    def verified(self, region: Region, shortlist: Shortlist) -> Counts:
        """The inliers between the query's region and the first V = min(M, `verify`) members', (V,)."""
        own = self._features(region)
        rows = shortlist.rows(self.verify)
        return np.array([self._count(region, own, row) for row in rows], np.int64)

    def score(self, scores: Floats, counts: Counts) -> Floats:
        """Score again: scores (M,) and the first V members' inliers (V,), V <= M -> (M,), higher is closer.

        Members that no inliers move keep their score. M = 0 gives (0,).
        """
        agreed = np.zeros(len(scores))
        agreed[: len(counts)] = np.where(counts >= (0 if self.rule == "delg" else self.floor), counts, 0)
        if self.rule == "added":
            return np.asarray(scores + self.weight * np.minimum(1, agreed / self.enough))
        step = 1 + np.ptp(scores) if len(scores) else 1  # so that no score makes up for an inlier
        return np.asarray(scores + step * agreed)

    def _count(self, region: Region, own: Features, row: Row) -> int:
        def work_out() -> int:
            return inliers(own, self._stored_features(row), self.model)

        asked = region.picture.sha256
        pair = (self.features, self.model, asked, _corners(region.box), row.sha256, _corners(row.box))
        try:
            return self.memory.recall(pair, work_out) if asked else work_out()
        except (BadPicture, BadInput):
            return 0

    def _features(self, region: Region) -> Features:
        def work_out() -> Features:
            return local_features(region, self.features)

        sha256 = region.picture.sha256  # "" of pixels that came without a file
        key = (self.features, sha256, _corners(region.box))
        return self.memory.recall(key, work_out) if sha256 else work_out()

    def _stored_features(self, row: Row) -> Features:
        """BadPicture or BadInput where the row's region cannot be had any more."""

        def work_out() -> Features:
            picture = images.load(row.source)
            if picture.sha256 != row.sha256:
                raise BadPicture(f"{images.shown(row.source)}: has changed since it was indexed")
            return local_features(Region(picture, row.box), self.features)

        return self.memory.recall((self.features, row.sha256, _corners(row.box)), work_out)


def _corners(box: Box | None) -> tuple[float, ...]:
    return () if box is None else box.corners


def _shrunk(pixels: Pixels) -> Pixels:
    """RGB (h, w, 3) with its longer side at most `SIDE`, by area."""
    height, width = pixels.shape[:2]
    scale = SIDE / max(height, width)
    if scale >= 1:
        return pixels
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    cv2 = _opencv()
    return np.asarray(cv2.resize(pixels, size, interpolation=cv2.INTER_AREA), np.uint8)


def _root_sift(pixels: Pixels) -> tuple[Floats, Floats]:
    """SIFT with the Hellinger kernel (Arandjelovic and Zisserman, CVPR 2012): points and unit descriptors."""
    cv2 = _opencv()
    grey = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)
    found, histograms = cv2.SIFT_create(MOST).detectAndCompute(grey, None)
    if not found:
        return np.zeros((0, 2), np.float32), np.zeros((0, 128), np.float32)
    points = np.array([point.pt for point in found[:MOST]], np.float32)  # ties may make it more
    histograms = histograms[:MOST]
    return points, np.sqrt(histograms / histograms.sum(axis=1, keepdims=True).clip(min=1))


def _opencv() -> Any:
    try:
        import cv2
    except ImportError as error:
        raise MissingExtra("geometric verification", "geometric") from error
    return cv2


@cache
def _xfeat() -> XFeat:
    try:
        from lookalike.rerank import xfeat
    except ImportError as error:
        raise MissingExtra("geometric verification with XFeat", "hub") from error
    (file,) = weights.locate("xfeat", weights.default_folder())
    return xfeat.XFeat(file)
