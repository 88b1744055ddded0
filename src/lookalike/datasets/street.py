"""Street-like queries made from product photographs.

A snapshot of a product differs from its shop picture in a few known ways: another background, another place
and size, a part missing, another angle, another light, a worse camera, something in front. `street_view`
draws each of these at random, so that one product photograph gives any number of queries of a known product
at a known place. It serves demonstrations, training and tests; it does not replace real street pictures.
"""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageChops, ImageDraw, ImageFilter, ImageOps

from lookalike.errors import BadInput
from lookalike.values import Box, Floats, Pixels

LONG_SIDE = 640  # of the views, which are 4:3 or 3:4 as phones take them
_PRODUCT_SIDE = 480  # the product is hardly ever shown larger than this
_MASK_SIDE = 192  # cutting out is done at this size

_Mask = NDArray[np.bool_]
_Points = NDArray[np.float64]
_Matrix = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class StreetView:
    """A made-up snapshot, (H, W, 3) uint8, the longer side 640; the box holds what is seen of the product."""

    pixels: Pixels
    box: Box


def street_view(pixels: Pixels, background: Pixels, seed: int, strength: float = 1.0) -> StreetView:
    """A snapshot of the product in `pixels` (H, W, 3) in front of `background` (H', W', 3), both uint8.

    A product on a plain backdrop is cut out of it; of any other picture a part is shown, like a print that
    lies about. The same four arguments give the same view, up to rounding in another build of Pillow.
    `strength`, 0 to 1, narrows the ranges towards a clean view; at 1:

    - half of the views flipped, rotation within 15 degrees, corners moved by up to 7 % of width and height;
    - 50-100 % of a print is shown; of a cut-out all, or in two views of five 50-100 %, the rest being outside
      the frame. The box takes 25-60 % of the view, or less where a long product does not fit larger;
    - the background is 40-100 % of what fits, out of focus by up to 4 pixels;
    - one side up to 35 % darker, gain 0.7-1.3, gamma 0.75-1.35, white balance within 12 % in red and blue;
    - blur of up to 1.6 pixels, noise of up to 12 levels, JPEG quality 40-80;
    - in two views of five a strip or a patch of another texture hides up to a quarter of the box.

    BadInput where `strength` is out of range.
    """
    if not 0 <= strength <= 1:
        raise BadInput(f"strength {strength:g}: must be between 0 and 1")
    random = np.random.default_rng(seed)
    product = _shrunk(Image.fromarray(pixels), _PRODUCT_SIDE)
    mask = cut_out(product)
    if mask is None:
        product = _part(product, random, strength)
    else:
        product.putalpha(mask)
    product = ImageOps.expand(product.convert("RGBA"), 1, (0, 0, 0, 0))  # or its edges would be jagged
    outline = _outline(product)
    width, height = np.ptp(outline, axis=0)
    frame = (LONG_SIDE * 3 // 4, LONG_SIDE) if height > width else (LONG_SIDE, LONG_SIDE * 3 // 4)

    overhang = random.uniform(0, 0.5) * strength if mask is not None and random.random() < 0.4 else 0.0
    scene = _scenery(Image.fromarray(background), frame, random, strength)
    layer, place = _laid(product, _placement(outline, frame, overhang, random, strength), outline, frame)
    box = _visible(layer, place)
    scene = _with_shadow(scene, layer, place)
    scene.paste(layer, place, layer)
    if random.random() < 0.4 * strength:
        scene = _occluded(scene, _scenery(Image.fromarray(background), frame, random, strength), box, random)
    return StreetView(_taken(_lit(scene, random, strength), random, strength), box)


def cut_out(product: Image.Image) -> Image.Image | None:
    """An alpha mask ("L", the picture's size) of the object on a plain backdrop; None without a plain one.

    The backdrop is a smooth surface through the picture's rim. What is reached from the rim over pixels that
    lie on that surface, or that differ from it only smoothly and in brightness (soft shadows, fall-off of
    light), is not the object.
    """
    small = _shrunk(product.convert("RGB"), _MASK_SIDE)
    if min(small.size) < 16:  # hardly anything but rim
        return None
    colours = np.ascontiguousarray(np.moveaxis(np.asarray(small, np.float32), 2, 0))
    rim = np.ones(colours.shape[1:], bool)
    rim[4:-4, 4:-4] = False
    backdrop, share = _backdrop(colours, rim)
    if share < 0.8 or np.median(backdrop.max(axis=0)) < 50:  # in the dark nothing has an outline
        return None
    tolerance = 6 + 0.04 * backdrop.max(axis=0)  # differences are smaller in the dark
    plain = np.abs(colours - backdrop).max(axis=0) < tolerance
    shade = (colours + 20) / (backdrop.clip(0, 255) + 20)
    gray = np.ptp(shade, axis=0) < 0.12  # only light is missing: the same share in every channel
    smooth = _steepness(colours) < 1 + 0.07 * backdrop.max(axis=0)
    outside = _reached(plain, rim & plain)
    passable = plain | (smooth & gray)
    inside = ~_reached(passable, rim & passable)
    inside |= _enclosed(inside) & ~outside  # smooth parts of the object itself
    core = np.asarray(Image.fromarray(inside).convert("L").filter(ImageFilter.MinFilter(5))) > 0
    inside = _reached(inside, core)  # without specks, with thin parts that hang on something solid
    if not 0.01 < inside.mean() < 0.85 or inside[rim].mean() > 0.25:
        return None
    alpha = Image.fromarray(inside).convert("L").filter(ImageFilter.GaussianBlur(0.8))
    harder = alpha.point(lambda level: min(255, max(0, 2.5 * level - 360)))  # and a pixel tighter
    return harder.resize(product.size, Image.Resampling.BILINEAR)


def _backdrop(colours: Floats, rim: _Mask) -> tuple[Floats, float]:
    """The surface through the rim's colours, quadratic in x and y, (3, H, W), and the rim's share on it."""
    height, width = rim.shape
    y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    terms = np.stack([np.ones_like(x), x, y, x * x, x * y, y * y]).astype(np.float32)
    basis, seen = terms[:, rim].T, colours[:, rim].T
    surface = np.zeros((6, 3), np.float32)
    surface[0] = np.median(seen, axis=0)
    for tolerance in (60, 30, 16, 16):
        on_surface = np.abs(basis @ surface - seen).max(axis=1) < tolerance
        if on_surface.mean() < 0.5:
            return colours, 0.0
        basis_on = basis[on_surface].astype(np.float64)  # normal equations: small, and no threads are woken
        surface = np.linalg.solve(basis_on.T @ basis_on, basis_on.T @ seen[on_surface]).astype(np.float32)
    share = float((np.abs(basis @ surface - seen).max(axis=1) < 16).mean())
    return np.tensordot(surface.T, terms, 1), share


def _steepness(colours: Floats) -> Floats:
    """How much the colour changes from a pixel's left to its right or from above to below, (H, W)."""
    padded = np.pad(colours, ((0, 0), (1, 1), (1, 1)), mode="edge")
    across = np.abs(padded[:, 1:-1, 2:] - padded[:, 1:-1, :-2])
    down = np.abs(padded[:, 2:, 1:-1] - padded[:, :-2, 1:-1])
    steepness: Floats = np.maximum(across, down).max(axis=0)
    return steepness


def _enclosed(solid: _Mask) -> _Mask:
    """Where something solid lies to the left, to the right, above and below."""
    sides = [np.logical_or.accumulate(solid, axis) for axis in (0, 1)]
    sides += [np.flip(np.logical_or.accumulate(np.flip(solid, axis), axis), axis) for axis in (0, 1)]
    enclosed: _Mask = np.logical_and.reduce(sides)
    return enclosed


def _reached(passable: _Mask, seeds: _Mask) -> _Mask:
    """What can be reached from the seeds in steps along rows and columns over passable pixels."""
    while True:
        grown = _along_rows(passable, seeds)
        grown = _along_rows(passable.T, grown.T).T
        if grown.sum() == seeds.sum():
            return grown
        seeds = grown


def _along_rows(passable: _Mask, seeds: _Mask) -> _Mask:
    """Every run of passable pixels in a row that holds a seed."""
    runs = np.cumsum(np.pad(~passable, ((0, 0), (0, 1)), constant_values=True))  # a wall ends each row
    runs = runs.reshape(len(passable), -1)[:, :-1]
    touched = np.zeros(passable.size + len(passable) + 1, bool)
    touched[runs[seeds]] = True
    return touched[runs] & passable


def _part(product: Image.Image, random: np.random.Generator, strength: float) -> Image.Image:
    """50-100 % of the picture's area, of about its form."""
    share = 1 - random.uniform(0, 0.5) * strength
    width = max(1, round(product.width * np.sqrt(share)))
    height = max(1, round(product.height * np.sqrt(share)))
    left, top = random.integers(product.width - width + 1), random.integers(product.height - height + 1)
    return product.crop((int(left), int(top), int(left) + width, int(top) + height))


def _outline(product: Image.Image) -> _Points:
    """Points (K, 2) of x and y whose hull holds the object: where its rows begin and end."""
    solid = np.asarray(product.getchannel("A")) > 127
    rows = np.flatnonzero(solid.any(axis=1))
    first = solid[rows].argmax(axis=1)
    last = solid.shape[1] - solid[rows, ::-1].argmax(axis=1)
    return np.concatenate([np.stack([x, y], axis=1) for x in (first, last) for y in (rows, rows + 1)]) * 1.0


def _placement(
    outline: _Points, frame: tuple[int, int], overhang: float, random: np.random.Generator, strength: float
) -> _Matrix:
    """The 3 x 3 map from the product's pixels to the frame's; `overhang` of the product lies outside."""
    low, high = outline.min(axis=0), outline.max(axis=0)
    corners = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * (high - low) / 2
    moved = corners + random.uniform(-0.07, 0.07, (4, 2)) * strength * (high - low)
    angle = np.radians(random.uniform(-15, 15) * strength)
    moved = moved @ [[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]]
    if random.random() < 0.5 * strength:
        moved[:, 0] *= -1
    shape = _homography(corners + (low + high) / 2, moved)

    shown = _mapped(shape, outline)
    low, extent = shown.min(axis=0), np.ptp(shown, axis=0)
    room = np.array(frame, np.float64)
    side = random.integers(4)  # left, top, right, bottom
    axis = side % 2
    inside = extent.copy()
    inside[axis] *= 1 - overhang
    share = random.uniform(0.25, 0.6)
    scale = min(np.sqrt(share * room.prod() / inside.prod()), *(0.98 * room / inside))
    place = random.random(2) * (room - extent * scale)
    if overhang:
        place[axis] = -overhang * extent[axis] * scale if side < 2 else room[axis] - inside[axis] * scale
    left, top = place - low * scale
    return np.array([[scale, 0, left], [0, scale, top], [0, 0, 1]]) @ shape


def _homography(source: _Points, target: _Points) -> _Matrix:
    """The projective map that takes four points (4, 2) to four others."""
    rows = []
    for (x, y), (u, v) in zip(source, target, strict=True):
        rows.append([x, y, 1, 0, 0, 0, -u * x, -u * y])
        rows.append([0, 0, 0, x, y, 1, -v * x, -v * y])
    return np.append(np.linalg.solve(np.array(rows), target.ravel()), 1).reshape(3, 3)


def _mapped(matrix: _Matrix, points: _Points) -> _Points:
    x, y, w = matrix @ np.column_stack([points, np.ones(len(points))]).T
    return np.column_stack([x / w, y / w])


def _laid(
    product: Image.Image, placement: _Matrix, outline: _Points, frame: tuple[int, int]
) -> tuple[Image.Image, tuple[int, int]]:
    """The product as it is seen inside the frame, RGBA, and where its left upper corner belongs."""
    shown = _mapped(placement, outline)
    left, top = np.floor(shown.min(axis=0)).clip(0).astype(int)
    right, bottom = np.ceil(shown.max(axis=0)).clip(0, frame).astype(int)
    back = np.linalg.inv(placement) @ [[1, 0, left], [0, 1, top], [0, 0, 1]]
    layer = product.convert(
        "RGBa"
    ).transform(  # not "RGBA": the backdrop would bleed into the edge
        (int(right - left), int(bottom - top)),
        Image.Transform.PERSPECTIVE,
        (back / back[2, 2]).ravel()[:8].tolist(),
        Image.Resampling.BILINEAR,
    )
    return layer.convert("RGBA"), (int(left), int(top))


def _visible(layer: Image.Image, place: tuple[int, int]) -> Box:
    """The box around what is solid in the layer; all of it where only hair-thin parts are left."""
    solid = layer.getchannel("A").point(lambda level: 255 * (level > 127))
    extent = solid.getbbox() or (0, 0, *layer.size)
    left, top = place
    return Box(left + extent[0], top + extent[1], left + extent[2], top + extent[3])


def _shrunk(picture: Image.Image, side: int) -> Image.Image:
    """A copy whose longer side is at most `side`."""
    factor = side / max(picture.size)
    if factor >= 1:
        return picture.copy()
    size = max(1, round(picture.width * factor)), max(1, round(picture.height * factor))
    return picture.resize(size, Image.Resampling.BILINEAR, reducing_gap=1)


def _scenery(
    background: Image.Image, frame: tuple[int, int], random: np.random.Generator, strength: float
) -> Image.Image:
    """A part of the background in the frame's form, out of focus."""
    scale = min(background.width / frame[0], background.height / frame[1]) * random.uniform(0.4, 1)
    width, height = frame[0] * scale, frame[1] * scale
    left, top = random.random(2) * (background.width - width, background.height - height)
    part = (left, top, left + width, top + height)
    half = (frame[0] // 2, frame[1] // 2)
    defocus = random.uniform(0, 4) * strength
    if defocus < 1:
        return background.resize(frame, Image.Resampling.BILINEAR, part, reducing_gap=1)
    blurred = background.resize(half, Image.Resampling.BILINEAR, part, reducing_gap=1)
    return blurred.filter(ImageFilter.BoxBlur(defocus / 2)).resize(frame, Image.Resampling.BILINEAR)


def _with_shadow(scene: Image.Image, layer: Image.Image, place: tuple[int, int]) -> Image.Image:
    """The scene under a soft shadow below and around the object."""
    shade = Image.new("L", (scene.width // 8, scene.height // 8))
    small = layer.getchannel("A").reduce(8)
    shade.paste(small, (place[0] // 8, place[1] // 8 + 2))
    shade = shade.filter(ImageFilter.GaussianBlur(2.5)).point(lambda level: 255 - level * 0.45)
    return ImageChops.multiply(scene, shade.resize(scene.size, Image.Resampling.BILINEAR).convert("RGB"))


def _occluded(scene: Image.Image, texture: Image.Image, box: Box, random: np.random.Generator) -> Image.Image:
    """Something out of focus in front of the object: a strip across it or a patch over its edge."""
    width, height = box.x1 - box.x0, box.y1 - box.y0
    shape = Image.new("L", scene.size)
    draw = ImageDraw.Draw(shape)
    if random.random() < 0.5:
        x, slant = random.uniform(box.x0, box.x1), random.uniform(-0.4, 0.4) * scene.height
        half = random.uniform(0.03, 0.11) * width
        draw.line((x - slant, -99, x + slant, scene.height + 99), 255, round(2 * half))
    else:
        x, y = random.choice([box.x0, box.x1]), random.uniform(box.y0, box.y1)
        across, down = random.uniform(0.12, 0.3) * width, random.uniform(0.12, 0.35) * height
        draw.ellipse((x - across, y - down, x + across, y + down), fill=255)
    shape = shape.filter(ImageFilter.BoxBlur(random.uniform(1, 4)))
    return Image.composite(texture.point(lambda level: level * 0.6), scene, shape)


def _lit(scene: Image.Image, random: np.random.Generator, strength: float) -> Image.Image:
    """Another light: a darker side, gain, gamma, white balance."""
    corners = 1 - random.uniform(0, 0.35, (2, 2)) * strength
    corners = (255 * corners / corners.max()).astype(np.uint8)
    falloff = Image.fromarray(corners).resize(scene.size, Image.Resampling.BILINEAR)
    gain = 1 + random.uniform(-0.3, 0.3) * strength
    gamma = 1 + random.uniform(-0.25, 0.35) * strength
    red, blue = 1 + random.uniform(-0.12, 0.12, 2) * strength
    curve = np.linspace(0, 1, 256) ** gamma * gain * 255
    curves = np.concatenate([curve * red, curve, curve * blue]).clip(0, 255)
    return ImageChops.multiply(scene, falloff.convert("RGB")).point(curves.round().astype(int).tolist())


def _taken(scene: Image.Image, random: np.random.Generator, strength: float) -> Pixels:
    """What a phone makes of it: blur, noise, JPEG."""
    blurred = scene.filter(ImageFilter.BoxBlur(random.uniform(0.2, 1.6) * strength))
    noise = random.standard_normal((scene.height // 2, scene.width // 2), np.float32).clip(-3, 3)
    levels = (128.5 + noise * (random.uniform(1, 12) * strength)).astype(np.uint8)
    larger = (scene.width + 4, scene.height + 4)
    plane = Image.fromarray(levels).resize(
        larger, Image.Resampling.BILINEAR
    )  # in blotches, as phones leave it
    width, height = scene.size
    grain = [plane.crop((at, at, at + width, at + height)) for at in (0, 2, 4)]  # one draw, three channels
    file = io.BytesIO()
    noisy = ImageChops.add(blurred, Image.merge("RGB", grain), offset=-128)
    noisy.save(file, "JPEG", quality=round(95 - random.uniform(15, 55) * strength))
    return np.asarray(Image.open(file).convert("RGB"))
