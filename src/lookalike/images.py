"""Bytes in, safe upright RGB out.

Files come from strangers: the kind is told by content, limits are checked on the header, before any pixel is
decoded, and whatever goes wrong is a BadPicture of one line that names the source.

Pillow's plugins are called directly, and of a JPEG or PNG they get only the parts that make the pixels; what
else matters (orientation, colour profile) is read here. Four reasons:
- `Image.open` warns about pictures of more than 89 megapixels, and broken EXIF, MPO and APNG headers warn
  too; neither Pillow's limit nor Python's warning filters can be set for one thread alone.
- A phone's MPO is then its first JPEG, an animated PNG its still: nothing seeks in a file that lies.
- Compressed text is never inflated, and a text chunk named "transparency" or "bbox" passes for nothing else.
- A JPEG of many thousand scans, or a header of a million parts, is refused before it costs minutes.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
import struct
import tarfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image, ImageCms, ImageFile, JpegImagePlugin, PngImagePlugin, WebPImagePlugin

from lookalike import objects
from lookalike.errors import BadInput, BadPicture, MissingExtra, NoObject, ObjectError
from lookalike.values import Picture, Pixels


@dataclass(frozen=True, slots=True)
class Limits:
    """What a file may be at most, and its picture at least."""

    bytes: int  # of the file
    pixels: int  # width times height, as the header says
    shortest: int = 32  # pixels on the shorter side
    aspect: float = 20.0  # longer side over shorter side


LOCAL = Limits(bytes=256_000_000, pixels=100_000_000)
UPLOAD = Limits(bytes=25_000_000, pixels=50_000_000)

# An encoder wants some 288 pixels, of a region that may be a quarter of the picture across.
SIDE = 1024

_SCANS = 100  # of a JPEG; progressive ones have about 10, and each is a pass over the whole picture
_PARTS = 50_000  # JPEG segments or PNG chunks; real files have some thousand at most
_PROFILE_BYTES = 8_000_000  # of an inflated colour profile; printing presses have 1 or 2 MB

_HEIC_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")

_UPRIGHT = {  # EXIF orientation -> what to do about it; 1 is upright already
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def load(path: Path | str, limits: Limits = LOCAL, side: int = SIDE) -> Picture:
    """The picture in this file or object, see `read` and `decode`; its `source` is the path as given."""
    return decode(read(path, limits), os.fspath(path), limits, side)


def member(tar: Path | str, name: str, start: int, size: int) -> str:
    """The source of a picture within an uncompressed tar: `size` bytes from `start`, under this name."""
    return f"{os.fspath(tar)}/{name}@{start}+{size}"


def size_of(path: Path | str) -> int | None:
    """The bytes of a picture's file, or of its part of a tar; None where there is no such file."""
    try:
        within = _within_tar(path)
        return within.size if within else Path(path).stat().st_size
    except (OSError, ValueError):
        return None


def read(path: Path | str, limits: Limits = LOCAL) -> bytes:
    """The bytes of a regular file, or of a `member`, within the limits; BadPicture where that fails.

    A text such as "s3://bucket/a.jpg" is read from object storage. ObjectError where that does not answer or
    refuses: it says nothing about the picture.
    """
    with _blaming(path, "cannot be read"):
        if objects.is_uri(path):
            return _read_object(str(path), limits)
        if within := _within_tar(path):
            return _read_member(within, limits)
        status = Path(path).stat()  # before opening: a named pipe would wait for its writer
        if stat.S_ISDIR(status.st_mode):
            raise BadPicture("a folder, not a picture")
        if not stat.S_ISREG(status.st_mode):
            raise BadPicture("not a regular file")
        _check_bytes(status.st_size, limits)
        with open(path, "rb") as file:
            data = file.read(status.st_size + 1)
        if len(data) > status.st_size:
            raise BadPicture("still being written", "try again when it is complete")
        return data


def _read_object(uri: str, limits: Limits) -> bytes:
    try:
        data = objects.read(uri, limits.bytes)
    except NoObject:
        raise BadPicture("nothing there") from None
    except BadInput as error:
        raise BadPicture(str(error), error.hint) from None
    _check_bytes(len(data), limits)
    return data


def decode(
    data: bytes, source: str = "", limits: Limits = LOCAL, side: int = SIDE, sha256: str = ""
) -> Picture:
    """The picture in the bytes of a JPEG, PNG, WebP or (with the extra `heic`) HEIC file.

    Pixels are upright, RGB in sRGB, read-only, transparency laid on white; of several frames the first.
    Where the shorter side has twice `side` or more, they come at a whole fraction of their size that leaves
    at least `side`; `width` and `height` stay those of the upright original. `sha256` is computed unless
    the caller has it. Safe to call from several threads; BadPicture is all that is raised.
    """
    with _blaming(source, "cannot be decoded"):
        _check_bytes(len(data), limits)
        file = _opened(data)
        width, height = file.image.size
        _check_size(width, height, limits)
        pixels = _pixels(file, side)
        if file.orientation >= 5:  # a quarter turn
            width, height = height, width
        return Picture(pixels, width, height, source, sha256 or hashlib.sha256(data).hexdigest())


def shown(text: Path | str) -> str:
    """A file name as one printable line: line breaks, control characters and odd bytes are escaped."""
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode() for char in os.fspath(text)
    )


@dataclass(frozen=True, slots=True)
class _Member:
    tar: Path
    name: str
    start: int
    size: int


_MEMBER = re.compile(r"(.+\.tar)/([^/]+)@([0-9]{1,15})\+([0-9]{1,12})", re.DOTALL)


def _within_tar(path: Path | str) -> _Member | None:
    found = _MEMBER.fullmatch(os.fspath(path))
    if not found or not Path(found[1]).is_file():
        return None
    return _Member(Path(found[1]), found[2], int(found[3]), int(found[4]))


def _read_member(within: _Member, limits: Limits) -> bytes:
    """What lies at a place, if the tar itself says there that it is this member: an index may be old."""
    _check_bytes(within.size, limits)
    with within.tar.open("rb") as file:
        file.seek(max(0, within.start - tarfile.BLOCKSIZE))
        header, data = file.read(tarfile.BLOCKSIZE), file.read(within.size)
    try:
        there = tarfile.TarInfo.frombuf(header, "utf-8", "surrogateescape")
    except tarfile.HeaderError:
        there = tarfile.TarInfo()
    if (there.name, there.size, there.isreg()) != (within.name, within.size, True):
        raise BadPicture("the tar holds something else there", "its index.jsonl is old: delete it")
    if len(data) < within.size:
        raise BadPicture("the tar ends within it", "it is cut off: copy it again")
    return data


@contextmanager
def _blaming(source: Path | str, what: str) -> Iterator[None]:
    """Turns whatever is raised inside into a BadPicture that names the source."""
    name = shown(source) or "picture"
    try:
        yield
    except BadPicture as error:
        raise BadPicture(f"{name}: {error}", error.hint) from error.__cause__
    except (ObjectError, MissingExtra):
        raise
    except Exception as error:  # on broken files Pillow and its codecs raise nearly anything
        reason = (
            (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__
        )
        raise BadPicture(f"{name}: {what}: {shown(reason)[:200]}") from error


def _check_bytes(size: int, limits: Limits) -> None:
    if size == 0:
        raise BadPicture("an empty file")
    if size > limits.bytes:
        raise BadPicture(f"{size / 1e6:.1f} MB, more than the {limits.bytes / 1e6:g} MB allowed")


def _check_size(width: int, height: int, limits: Limits) -> None:
    shorter, longer = sorted((width, height))
    if width * height > limits.pixels:
        raise BadPicture(
            f"{width} x {height} pixels, more than the {limits.pixels / 1e6:g} megapixels allowed",
            "save it smaller",
        )
    if shorter < limits.shortest:
        raise BadPicture(f"{width} x {height} pixels: the shorter side needs at least {limits.shortest}")
    if longer > limits.aspect * shorter:
        raise BadPicture(
            f"{width} x {height} pixels: the longer side is over {limits.aspect:g} times the shorter"
        )


@dataclass(frozen=True, slots=True)
class _File:
    """A file whose header is read and whose pixels are not."""

    image: ImageFile.ImageFile
    profile: bytes | None  # ICC
    orientation: int  # EXIF, 1 to 8


def _opened(data: bytes) -> _File:
    openers = {"jpg": _open_jpeg, "png": _open_png, "webp": _open_webp, "heic": _open_heic}
    return openers[kind_of(data)](data)


def kind_of(data: bytes) -> str:
    """ "jpg", "png", "webp" or "heic", by content; BadPicture for anything else."""
    if data.startswith(b"\xff\xd8\xff"):
        return "jpg"
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return "png"
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return "webp"
    if data[4:8] == b"ftyp" and data[8:12] in _HEIC_BRANDS:
        return "heic"
    raise BadPicture("not a picture", "JPEG, PNG, WebP and HEIC are read, whatever the file's name")


_JPEG_MARKER = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")  # those are stuffing, filling and restart marks
# Frames, tables and scans; of the applications' own JFIF (0xE0) and Adobe's, which says how CMYK is meant.
_JPEG_KEPT = frozenset({*range(0xC0, 0xD0), *range(0xDA, 0xE0), 0xE0, 0xEE} - {0xC8})


def _open_jpeg(data: bytes) -> _File:
    """The first picture of a JPEG or MPO, without its metadata."""
    view, kept = memoryview(data), [memoryview(data)[:2]]
    exif, profile = b"", dict[bytes, bytes]()
    at, parts, scans = 2, 0, 0
    while found := _JPEG_MARKER.search(data, at):
        start, code = found.start(), found[0][1]
        kept.append(view[at:start])  # the pixels of the scan before it, if any
        if code == 0xD9:  # the end; a phone's second picture, video or depth map may follow
            kept.append(view[start : start + 2])
            break
        parts, scans = parts + 1, scans + (code == 0xDA)
        if parts > _PARTS or scans > _SCANS:
            raise BadPicture("a JPEG file of far too many parts")
        if code in (0x01, 0xD8):  # the two that stand alone, here out of place
            at = start + 2
            continue
        at = start + 2 + int.from_bytes(view[start + 2 : start + 4])
        body = data[start + 4 : at]
        if at < start + 4:
            raise BadPicture("a damaged JPEG file")
        if code in _JPEG_KEPT:
            kept.append(view[start:at])
        elif code == 0xE1 and body.startswith(b"Exif\0\0"):
            exif = exif or body
        elif code == 0xE2 and body.startswith(b"ICC_PROFILE\0"):
            profile[body[12:13]] = body[14:]  # numbered pieces, of 64 KB at most
    else:
        kept.append(view[at:])  # cut off: the decoder says so
    image = JpegImagePlugin.JpegImageFile(BytesIO(b"".join(kept)))
    return _File(image, b"".join(profile[number] for number in sorted(profile)), _orientation(exif))


def _open_png(data: bytes) -> _File:
    """A PNG without its metadata; of an animated one the still that others show."""
    view, kept = memoryview(data), [memoryview(data)[:8]]
    exif, profile = b"", None
    at, parts, pixels = 8, 0, False
    while at + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, at)
        body = slice(at + 8, at + 8 + length)
        parts, pixels = parts + 1, pixels or kind == b"IDAT"
        if parts > _PARTS:
            raise BadPicture("a PNG file of far too many parts")
        if kind in (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND"):
            kept.append(view[at : body.stop + 4])
        elif kind == b"eXIf":
            exif = data[body]
        elif kind == b"iCCP" and profile is None:
            profile = _inflated_profile(data[body])
        at = body.stop + 4
    if not pixels:
        raise BadPicture("a PNG file cut off before its pixels")
    image = PngImagePlugin.PngImageFile(BytesIO(b"".join(kept)))
    # A transparent colour comes as it is in the file, the pixels stretched or cut to 8 bits.
    colour, depth = image.info.get("transparency"), data[24]
    if image.mode == "RGB" and colour and depth == 16:
        image.info["transparency"] = tuple(value >> 8 for value in colour)
    elif image.mode == "L" and colour and depth < 8:
        image.info["transparency"] = colour * 255 // (2**depth - 1)
    return _File(image, profile, _orientation(exif))


def _inflated_profile(chunk: bytes) -> bytes:
    """The profile in a PNG's iCCP chunk (name, zero byte, method, zlib stream); b"" where it is broken."""
    stream = zlib.decompressobj()
    try:
        profile = stream.decompress(chunk[chunk.index(b"\0") + 2 :], _PROFILE_BYTES)
    except (ValueError, zlib.error):
        return b""
    if stream.unconsumed_tail:
        raise BadPicture("its colour profile is a decompression bomb")
    return profile


def _open_webp(data: bytes) -> _File:
    image = WebPImagePlugin.WebPImageFile(BytesIO(data))  # sets the canvas up, decodes nothing yet
    return _File(image, image.info.get("icc_profile"), _orientation(image.info.get("exif", b"")))


def _open_heic(data: bytes) -> _File:
    try:
        from pillow_heif import HeifImageFile
    except ImportError as error:
        raise BadPicture(
            "a HEIC picture, read with the extra lookalike[heic]", "pip install 'lookalike[heic]'"
        ) from error
    image = HeifImageFile(BytesIO(data))
    return _File(image, image.info.get("icc_profile"), orientation=1)  # libheif turns it


def _orientation(exif: bytes) -> int:
    """What EXIF says about the way up, 1 to 8; 1 where it says nothing or nonsense."""
    tiff = exif.removeprefix(b"Exif\0\0")
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(tiff[:4])
    if order is None:
        return 1
    try:
        (directory,) = struct.unpack_from(f"{order}I", tiff, 4)
        (entries,) = struct.unpack_from(f"{order}H", tiff, directory)
        for start in range(directory + 2, directory + 2 + 12 * entries, 12):
            tag, kind = struct.unpack_from(f"{order}HH", tiff, start)
            if tag == 0x0112:
                (value,) = struct.unpack_from(order + ("I" if kind == 4 else "H"), tiff, start + 8)
                return value if 1 <= value <= 8 else 1
    except struct.error:  # it ends too early
        pass
    return 1


def _pixels(file: _File, side: int) -> Pixels:
    """Decoded, reduced, in sRGB, on white and upright: (H, W, 3)."""
    if isinstance(file.image, JpegImagePlugin.JpegImageFile):
        file.image.draft(None, (side, side))  # 1/2, 1/4 or 1/8, as long as both sides keep `side`
    file.image.load()
    image = _plain(file.image)
    if (factor := min(image.size) // side) > 1:
        image = image.reduce(factor)
    if image.mode in ("LA", "RGBA"):
        colours = Image.new("RGB", image.size, "white")
        colours.paste(_srgb(image.convert(image.mode[:-1]), file.profile), mask=image.getchannel("A"))
    else:
        colours = _srgb(image, file.profile)
    if file.orientation in _UPRIGHT:
        colours = colours.transpose(_UPRIGHT[file.orientation])
    return np.asarray(colours)


def _plain(image: Image.Image) -> Image.Image:
    """The image as L, LA, RGB, RGBA or CMYK: no palette, single bits, 16-bit grey or transparent colour."""
    if image.mode.startswith("I"):  # 16-bit grey, which `convert` would clip, not scale
        values = np.asarray(image)
        grey = Image.fromarray((values >> 8).astype(np.uint8))
        if "transparency" in image.info:
            opaque = values != image.info["transparency"]
            grey.putalpha(Image.fromarray(opaque.astype(np.uint8) * np.uint8(255)))
        return grey
    if image.mode in ("L", "RGB", "CMYK") and not image.has_transparency_data:
        return image
    mode = "L" if image.mode in ("1", "L", "LA") else "RGB"
    return image.convert(mode + "A" * image.has_transparency_data)


def _srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    """An L, RGB or CMYK image as RGB in sRGB; a profile that is broken or of another kind is ignored."""
    try:
        if profile:
            own = ImageCms.ImageCmsProfile(BytesIO(profile))
            fits = {"GRAY": "L", "RGB ": "RGB", "CMYK": "CMYK"}.get(own.profile.xcolor_space) == image.mode
            if fits and "sRGB" not in (own.profile.profile_description or ""):
                srgb = ImageCms.createProfile("sRGB")
                return ImageCms.buildTransform(own, srgb, image.mode, "RGB").apply(image)
    except (ImageCms.PyCMSError, OSError, ValueError):
        pass
    return image if image.mode == "RGB" else image.convert("RGB")
