"""Contact sheets: what was asked for and what was found, drawn for people; and why one hit was found."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from lookalike.errors import BadInput
from lookalike.values import Floats, Pixels, Region

_FORMATS = {".jpg": "JPEG", ".jpeg": "JPEG", ".png": "PNG"}
_TALLEST = 60_000  # pixels; JPEG ends at 65,535

_PAPER, _CARD, _LINE, _INK, _FAINT = "#ffffff", "#f3f4f6", "#d5d8dd", "#1f2430", "#6b7280"
_RIGHT, _WRONG, _ASKED, _BOX = "#1f9d55", "#d64545", "#2f5fd0", "#ffb020"

_MARGIN, _GAP = 28, 16
_BETWEEN = 36  # pixels from row to row
_QUERY, _THUMB = 232, 168  # pixels of their squares
_ACROSS = 5  # hits on a line
_WORDS = 42  # pixels below a thumbnail
_PANEL = 380  # of an explanation

Colour = str


@dataclass(frozen=True, slots=True, eq=False)
class SheetHit:
    """One result as it is drawn; `region` None where its picture cannot be shown any more."""

    region: Region | None
    item: str
    score: float
    title: str = ""
    right: bool | None = None  # None: not known, no frame


@dataclass(frozen=True, slots=True, eq=False)
class SheetRow:
    """One query with its hits, best first. `query` None for a query in words, which `asked` holds."""

    query: Region | None
    hits: Sequence[SheetHit]
    asked: str = ""
    note: str = ""  # for example that no match is confident


def contact_sheet(rows: Sequence[SheetRow], path: Path) -> None:
    """Draw the rows one below the other, as JPEG or PNG by the path's suffix.

    Boxes are drawn into the pictures, hits that are right or wrong get a green or red frame. BadInput for
    another suffix, more rows than a picture can hold, or a path that cannot be written.
    """
    kind = _FORMATS.get(path.suffix.lower())
    if kind is None:
        raise BadInput(
            f"{path}: a contact sheet cannot be {path.suffix or 'without suffix'}", "use .jpg or .png"
        )
    heights = [_height(row) for row in rows]
    height = 2 * _MARGIN + sum(heights) + _BETWEEN * max(0, len(rows) - 1)
    if height > _TALLEST:
        raise BadInput(f"{len(rows)} rows are too many for one contact sheet", "draw fewer")
    width = 2 * _MARGIN + _QUERY + _GAP + _ACROSS * (_THUMB + _GAP)
    sheet = Image.new("RGB", (width, height), _PAPER)
    top = _MARGIN
    for row, tall in zip(rows, heights, strict=True):
        if top > _MARGIN:
            middle = top - _BETWEEN // 2
            ImageDraw.Draw(sheet).line((_MARGIN, middle, width - _MARGIN, middle), _LINE)
        _draw_row(sheet, row, top)
        top += tall + _BETWEEN
    try:
        sheet.save(path, kind, quality=90)
    except OSError as error:
        raise BadInput(f"{path}: cannot be written: {error.strerror or error}") from error


def _height(row: SheetRow) -> int:
    lines = max(1, -(-len(row.hits) // _ACROSS))
    return max(_QUERY + _WORDS, lines * (_THUMB + _WORDS) + (lines - 1) * _GAP)


def _draw_row(sheet: Image.Image, row: SheetRow, top: int) -> None:
    draw = ImageDraw.Draw(sheet)
    _draw_picture(sheet, row.query, (_MARGIN, top), _QUERY, row.asked)
    _frame(draw, (_MARGIN, top), _QUERY, _ASKED)
    below = top + _QUERY + 6
    if row.query is not None and row.asked:
        draw.text((_MARGIN, below), _fitted(row.asked, 15, _QUERY), _INK, _font(15))
        below += 19
    if row.note:
        draw.text((_MARGIN, below), _fitted(row.note, 13, _QUERY), _WRONG, _font(13))
    left = _MARGIN + _QUERY + 2 * _GAP
    if not row.hits:
        draw.text((left, top + 8), "nothing found", _FAINT, _font(16))
    for place, hit in enumerate(row.hits):
        line, column = divmod(place, _ACROSS)
        corner = (left + column * (_THUMB + _GAP), top + line * (_THUMB + _WORDS + _GAP))
        _draw_hit(sheet, hit, corner, place + 1)


def _draw_hit(sheet: Image.Image, hit: SheetHit, corner: tuple[int, int], rank: int) -> None:
    draw = ImageDraw.Draw(sheet)
    left, top = corner
    _draw_picture(sheet, hit.region, corner, _THUMB, "picture not found")
    if hit.right is not None:
        _frame(draw, corner, _THUMB, _RIGHT if hit.right else _WRONG)
    title = _drawable(hit.title)
    draw.text((left, top + _THUMB + 6), _fitted(f"{rank}  {title or hit.item}", 14, _THUMB), _INK, _font(14))
    score = f"{hit.score:.3f}"
    below = top + _THUMB + 25
    draw.text((left + _THUMB, below), score, _INK, _font(13), anchor="ra")
    if title:
        room = _THUMB - _font(13).getlength(score) - 10
        draw.text((left, below), _fitted(hit.item, 13, room), _FAINT, _font(13))


def _draw_picture(
    sheet: Image.Image, region: Region | None, corner: tuple[int, int], side: int, instead: str
) -> None:
    """The region's whole picture fitted into a square, its box drawn; words where there is no picture."""
    left, top = corner
    draw = ImageDraw.Draw(sheet)
    draw.rectangle((left, top, left + side - 1, top + side - 1), _CARD)
    if region is None:
        _draw_words(draw, instead, (left + side / 2, top + side / 2), side - 24)
        return
    picture = region.picture
    small = _fit(picture.pixels, side)
    x, y = left + (side - small.width) // 2, top + (side - small.height) // 2
    sheet.paste(small, (x, y))
    if region.box is not None:
        box = region.box.scaled(small.width / picture.width, small.height / picture.height)
        x0, y0, x1, y1 = (x + box.x0, y + box.y0, x + box.x1 - 1, y + box.y1 - 1)
        draw.rectangle((x0, y0, max(x0, x1), max(y0, y1)), outline="#000000", width=4)
        draw.rectangle((x0 + 1, y0 + 1, max(x0 + 1, x1 - 1), max(y0 + 1, y1 - 1)), outline=_BOX, width=2)


def heat_overlay(pixels: Pixels, heat: Floats) -> Pixels:
    """The picture (H, W, 3), paled, with heat (h, w) from 0 to 1 laid over it in colour -> (H, W, 3).

    Where heat is 0 the pale picture shows, where it is 1 a strong red; values outside are cut off.
    """
    height, width = pixels.shape[:2]
    levels = Image.fromarray((heat.clip(0, 1) * 255).round().astype(np.uint8))
    levels = levels.resize((width, height), Image.Resampling.BICUBIC)
    gray = Image.fromarray(pixels).convert("L").point(lambda level: 40 + level * 0.72).convert("RGB")
    colours = Image.merge("RGB", [levels.point(curve) for curve in _HEAT])
    return np.asarray(Image.composite(colours, gray, levels.point(lambda level: level * 0.72)))


def _ramp(*levels: int) -> list[int]:
    """256 values along a line through evenly spaced levels."""
    places = np.linspace(0, 1, len(levels))
    return [round(float(level)) for level in np.interp(np.linspace(0, 1, 256), places, levels)]


_HEAT = (_ramp(70, 60, 250, 245, 200), _ramp(80, 170, 205, 110, 20), _ramp(200, 190, 70, 40, 30))


def explain_sheet(
    query: Region, query_heat: Floats, hit: Region, hit_heat: Floats, lines: Sequence[str]
) -> Pixels:
    """Why a hit was found: both regions as they are and under their heat, with lines of words -> (H, W, 3).

    A heat (h, w), 0 to 1, covers its region (the box, or the whole picture without one) and says how well
    each part of it is matched by the other region.
    """
    width = 2 * _MARGIN + 2 * _PANEL + _GAP
    height = 2 * _MARGIN + 26 + 2 * _PANEL + _GAP + 34 + 24 * len(lines)
    sheet = Image.new("RGB", (width, height), _PAPER)
    draw = ImageDraw.Draw(sheet)
    for column, (name, region, heat) in enumerate((("query", query, query_heat), ("hit", hit, hit_heat))):
        left, top = _MARGIN + column * (_PANEL + _GAP), _MARGIN + 26
        draw.text((left, _MARGIN), name, _FAINT, _font(16))
        for pixels in (region.pixels, heat_overlay(region.pixels, heat)):
            draw.rectangle((left, top, left + _PANEL - 1, top + _PANEL - 1), _CARD)
            small = _fit(pixels, _PANEL)
            sheet.paste(small, (left + (_PANEL - small.width) // 2, top + (_PANEL - small.height) // 2))
            top += _PANEL + _GAP
    top = height - _MARGIN - 24 * len(lines) - 24
    _draw_scale(sheet, (_MARGIN, top))
    for line in lines:
        top += 24
        draw.text((_MARGIN, top + 6), _fitted(line, 15, width - 2 * _MARGIN), _INK, _font(15))
    return np.asarray(sheet)


def _draw_scale(sheet: Image.Image, corner: tuple[int, int]) -> None:
    """A bar of heat from nothing in common to the best match."""
    left, top = corner
    draw = ImageDraw.Draw(sheet)
    before, after = "unlike", "alike"
    draw.text((left, top), before, _FAINT, _font(13))
    left += round(_font(13).getlength(before)) + 8
    bar = np.broadcast_to(np.linspace(0, 1, 160, dtype=np.float32), (12, 160))
    sheet.paste(Image.fromarray(heat_overlay(np.full((12, 160, 3), 255, np.uint8), bar)), (left, top + 3))
    draw.text((left + 168, top), after, _FAINT, _font(13))


def _fit(pixels: Pixels, side: int) -> Image.Image:
    """As large as fits into the square, aspect kept, at least one pixel."""
    height, width = pixels.shape[:2]
    scale = side / max(height, width)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    return Image.fromarray(pixels).resize(size, Image.Resampling.LANCZOS, reducing_gap=3)


def _frame(draw: ImageDraw.ImageDraw, corner: tuple[int, int], side: int, colour: Colour) -> None:
    left, top = corner
    draw.rectangle((left - 3, top - 3, left + side + 2, top + side + 2), outline=colour, width=3)


def _draw_words(draw: ImageDraw.ImageDraw, text: str, middle: tuple[float, float], room: float) -> None:
    """Words in the middle of a place, broken into at most six lines."""
    font, lines = _font(15), [""]
    for word in _drawable(text).split():
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and font.getlength(longer) > room:
            lines.append(word)
        else:
            lines[-1] = longer
    shown = [_fitted(line, 15, room) for line in lines[:6]]
    for place, line in enumerate(shown):
        y = middle[1] + (place - (len(shown) - 1) / 2) * 20
        draw.text((middle[0], y), line, _FAINT, font, anchor="mm")


def _fitted(text: str, size: int, room: float) -> str:
    """One line no wider than `room`, cut with an ellipsis."""
    font, text = _font(size), _drawable(text)
    if font.getlength(text) <= room:
        return text
    low, high = 0, len(text)
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (
            (middle, high) if font.getlength(text[:middle].rstrip() + "…") <= room else (low, middle - 1)
        )
    return text[:low].rstrip() + "…"


_SPELT = str.maketrans(
    {"ß": "ss", "æ": "ae", "Æ": "AE", "ø": "o", "Ø": "O", "ł": "l", "Ł": "L", "đ": "d", "ı": "i"}
    | {"–": "-", "—": "-", "‘": "'", "’": "'", "×": "x", "€": "EUR "}
)


def _drawable(text: str) -> str:
    """The text in letters the built-in font has: accents dropped, a run of others as one "?".

    "" where hardly a letter is left.
    """
    text = unicodedata.normalize("NFKD", text.translate(_SPELT))
    text = "".join(char for char in " ".join(text.split()) if not unicodedata.combining(char))
    shown = "".join(char if _has_glyph(char) else "\x00" for char in text)
    if 2 * shown.count("\x00") > len(shown):
        return ""
    return re.sub("\x00+", "?", shown)


@cache
def _has_glyph(char: str) -> bool:
    font = _font(16)
    return char == " " or bytes(font.getmask(char)) != bytes(font.getmask("\uffff"))


@cache
def _font(size: int) -> ImageFont.FreeTypeFont:
    font = ImageFont.load_default(size)
    assert isinstance(font, ImageFont.FreeTypeFont), "Pillow's wheels have FreeType"
    return font
