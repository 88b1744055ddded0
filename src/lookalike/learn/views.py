"""Views of a labelled picture for training: cropped, flipped, lit and taken at random, the boxes moved along.

The crop is round one wanted box. Most views keep a margin round it; some are any rectangle that contains it,
the region crop of X-VLM (Zeng et al., ICML 2022), so that the box has to be found; some cut into it, as a
badly placed box does. Shop and user pictures are treated alike: a head trained with shop pictures left as
they are found less.
"""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageFilter

from lookalike.errors import BadInput
from lookalike.values import Box, Floats, Picture, Pixels, Region

_GREY = np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R BT.601
_BETWEEN_0_AND_1 = (
    "margin", "loose", "tight", "cut", "visible", "aspect", "coarse", "flip", "brightness", "contrast",
    "saturation", "white", "blurred", "noisy", "compressed", "erased", "patch",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Augmentation:
    """How far views may differ from the picture. Shares of views and of lengths are 0 to 1; 0 is never.

    BadInput for a value out of its range.
    """

    margin: float = 0.25  # left round the box on each side, up to this share of its width or height
    loose: float = 0.25  # the share of views that are any rectangle containing the box
    tight: float = 0.1  # … that cut into the box
    cut: float = 0.1  # … by up to this share of its width or height on each side
    visible: float = 0.5  # boxes of which less than this share is left are dropped
    side: int = 320  # pixels of the longer side at most; nothing is enlarged
    coarse: float = 0.5  # the longer side may be smaller by up to this share
    aspect: float = 0.1  # width over height may change by up to this share
    flip: float = 0.5  # the share of views that are mirrored
    brightness: float = 0.3  # gains up to so far from 1
    contrast: float = 0.3
    saturation: float = 0.3
    white: float = 0.08  # gain in red and in blue, of its own each
    blurred: float = 0.3  # the share of views out of focus
    blur: float = 1.5  # pixels, the standard deviation at most
    noisy: float = 0.3
    noise: float = 10.0  # levels, the standard deviation at most
    compressed: float = 0.3
    quality: int = 40  # of the JPEG at least; 95 at most
    erased: float = 0.25  # the share of views with a grey patch
    patch: float = 0.2  # of the wanted box's area at most

    def __post_init__(self) -> None:
        for name in _BETWEEN_0_AND_1:
            if not 0 <= getattr(self, name) <= 1:
                raise BadInput(f"augmentation: {name} {getattr(self, name):g} is not between 0 and 1")
        if self.loose + self.tight > 1:
            raise BadInput(f"augmentation: loose {self.loose:g} and tight {self.tight:g} are more than all")
        if self.cut > 0.25 or self.coarse > 0.9:
            raise BadInput("augmentation: cut is at most 0.25 and coarse 0.9, or hardly anything is left")
        if self.side < 32 or self.blur < 0 or self.noise < 0 or not 1 <= self.quality <= 95:
            raise BadInput(
                "augmentation: needs side of at least 32, blur and noise that are not negative, quality 1-95"
            )


USUAL = Augmentation()


@dataclass(frozen=True, slots=True, eq=False)
class View:
    """A picture made from a part of another; its boxes are in its own pixels.

    `boxes` keeps the order of the boxes that were asked for; None stands for what the view does not show.
    """

    picture: Picture
    boxes: tuple[Box | None, ...]


def view(picture: Picture, boxes: Sequence[Box], seed: int, augmentation: Augmentation) -> View:
    """A view round the first box, which is always in it; the others come along as far as they are seen.

    Boxes are in pixels of the upright picture, as everywhere, and come back clipped to the view. The same
    four arguments give the same view, up to rounding in another build of Pillow; where it looks is drawn
    apart from how it is lit, so that changing one leaves the other. BadInput without a box, or where the
    first one lies outside the picture.
    """
    if not boxes:
        raise BadInput("a view needs the box that it is round")
    where, how = (np.random.default_rng([seed, part]) for part in (0, 1))
    wanted = boxes[0].clipped(picture.width, picture.height)
    frame = _frame(wanted, picture, where, augmentation)
    aspect = math.exp(where.uniform(-1, 1) * math.log1p(augmentation.aspect) / 2)
    longest = augmentation.side * (1 - where.uniform(0, augmentation.coarse))
    cut = _cut(Region(picture, frame), [_within(wanted, frame), *boxes[1:]], augmentation.visible)
    shaped = _resized(cut, aspect, longest)
    if where.random() < augmentation.flip:
        shaped = _mirrored(shaped)
    taken = Picture.of(_taken(shaped, how, augmentation), picture.source)
    # Clipped once more: scaling and mirroring round, by some 1e-14 of a pixel beyond the edge.
    return View(taken, tuple(box and box.clipped(taken.width, taken.height) for box in shaped.boxes))


def plain(region: Region, boxes: Sequence[Box], visible: float = 0.5) -> View:
    """The region's own pixels, as encoders see them, and where the boxes lie in them; see `view`."""
    return _cut(region, boxes, visible)


def _frame(box: Box, picture: Picture, random: np.random.Generator, how: Augmentation) -> Box:
    """The rectangle to look at, inside the picture."""
    kind = random.random()
    shares = random.random(4)
    width, height = box.x1 - box.x0, box.y1 - box.y0
    if kind < how.loose:
        room = np.array([box.x0, box.y0, picture.width - box.x1, picture.height - box.y1])
    elif kind < how.loose + how.tight:
        room = np.array([width, height, width, height]) * -how.cut
    else:
        room = np.array([width, height, width, height]) * how.margin
    left, up, right, down = (room * shares).tolist()
    return Box(box.x0 - left, box.y0 - up, box.x1 + right, box.y1 + down).clipped(
        picture.width, picture.height
    )


def _within(box: Box, frame: Box) -> Box:
    return Box(max(box.x0, frame.x0), max(box.y0, frame.y0), min(box.x1, frame.x1), min(box.y1, frame.y1))


def _cut(region: Region, boxes: Sequence[Box], visible: float) -> View:
    pixels = region.pixels
    height, width = region.picture.pixels.shape[:2]
    across, down = width / region.picture.width, height / region.picture.height
    # A region's pixels are a view into its picture's, to whole pixels: this is where they begin.
    corner = region.box.scaled(across, down) if region.box else Box(0, 0, width, height)
    left, top = min(math.floor(corner.x0), width - 1), min(math.floor(corner.y0), height - 1)
    moved = []
    for box in boxes:
        x0, y0, x1, y1 = box.scaled(across, down).corners
        moved.append(_seen(Box(x0 - left, y0 - top, x1 - left, y1 - top), pixels, visible))
    return View(Picture.of(pixels, region.picture.source), tuple(moved))


def _seen(box: Box, pixels: Pixels, visible: float) -> Box | None:
    height, width = pixels.shape[:2]
    if box.x0 >= width or box.y0 >= height or box.x1 <= 0 or box.y1 <= 0:
        return None
    inside = box.clipped(width, height)
    return inside if inside.area >= visible * box.area else None


def _resized(view: View, aspect: float, longest: float) -> View:
    """Stretched, its longer side at most so many pixels, never more of them than before."""
    height, width = view.picture.pixels.shape[:2]
    across, down = width * aspect, height / aspect
    scale = min(longest / max(across, down), 1 / max(aspect, 1 / aspect))
    size = max(1, round(across * scale)), max(1, round(down * scale))
    image = Image.fromarray(view.picture.pixels).resize(size, Image.Resampling.BICUBIC, reducing_gap=3)
    x, y = size[0] / width, size[1] / height
    boxes = tuple(box and box.scaled(x, y) for box in view.boxes)
    return View(Picture.of(np.asarray(image), view.picture.source), boxes)


def _mirrored(view: View) -> View:
    width = view.picture.width
    boxes = tuple(box and Box(width - box.x1, box.y0, width - box.x0, box.y1) for box in view.boxes)
    return View(Picture.of(view.picture.pixels[:, ::-1], view.picture.source), boxes)


def _taken(view: View, random: np.random.Generator, how: Augmentation) -> Pixels:
    """In another light, partly hidden, by another camera."""
    bright, contrast, saturation, red, blue = random.uniform(-1, 1, 5).tolist()
    chances = random.random(4) < (how.erased, how.blurred, how.noisy, how.compressed)
    erased, blurred, noisy, compressed = chances.tolist()  # all is drawn at once: no step shifts another
    patch, blur, noise, coarseness = random.random(4).tolist()
    colours = _lit(
        view.picture.pixels,
        1 + how.brightness * bright,
        1 + how.contrast * contrast,
        1 + how.saturation * saturation,
        np.array([1 + how.white * red, 1, 1 + how.white * blue], np.float32),
    )
    if erased and view.boxes[0]:
        _erase(colours, how.patch * patch * view.boxes[0].area, random)
    if blurred:
        image = Image.fromarray(colours).filter(ImageFilter.GaussianBlur(how.blur * blur))
        colours = np.asarray(image)
    if noisy:
        grain = random.standard_normal(colours.shape, np.float32) * (how.noise * noise)
        colours = (colours + (grain + 0.5)).clip(0, 255).astype(np.uint8)
    if compressed:
        colours = _compressed(colours, round(95 - (95 - how.quality) * coarseness))
    return colours


def _lit(pixels: Pixels, bright: float, contrast: float, saturation: float, white: Floats) -> Pixels:
    """Gains of brightness, of contrast about the middle grey, of what differs from grey, of each channel."""
    saturated = saturation * np.eye(3, dtype=np.float32) + (1 - saturation) * _GREY[:, None]
    gains = white * bright
    colours = (pixels.reshape(-1, 3).astype(np.float32) - 127.5) @ (saturated * contrast * gains)
    return (colours + (127.5 * gains + 0.5)).clip(0, 255).astype(np.uint8).reshape(pixels.shape)


def _erase(pixels: Pixels, area: float, random: np.random.Generator) -> None:
    """A rectangle of so many pixels in one grey, in place: random erasing (Zhong et al., AAAI 2020)."""
    height, width = pixels.shape[:2]
    form = math.exp(random.uniform(-1, 1) * math.log(3))  # up to three times as wide as high, or as high
    across = min(width, round(math.sqrt(area * form)))
    down = min(height, round(math.sqrt(area / form)))
    left, top = random.integers(width - across + 1), random.integers(height - down + 1)
    pixels[top : top + down, left : left + across] = random.integers(256)


def _compressed(pixels: Pixels, quality: int) -> Pixels:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=quality)
    return np.asarray(Image.open(file).convert("RGB"))
