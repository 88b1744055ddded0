import hashlib
import io
import os
import random
import struct
import sys
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from lookalike.errors import BadPicture
from lookalike.images import LOCAL, UPLOAD, Limits, decode, load, read, shown


def scene(width, height):
    """A smooth picture without any symmetry: (height, width, 3)."""
    x, y = np.meshgrid(np.linspace(0, 1, width), np.linspace(0, 1, height))
    channels = [30 + 200 * x, 20 + 180 * y**2, 128 + 100 * np.sin(5 * x + 3 * y * y)]
    return np.stack(channels, axis=2).astype(np.uint8)


def saved(pixels, kind, **options):
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def flat(mode, colour, size=(40, 36)):
    return Image.new(mode, size, colour)


def colour_of(data):
    """The one colour of a picture that has only one."""
    pixels = decode(data).pixels.reshape(-1, 3).astype(int)
    assert np.ptp(pixels, axis=0).max() <= 2
    return pixels[0]


def chunk(kind, body):
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(width, height, depth, colour, rows, *before_pixels):
    """A PNG by hand: `rows` are the raw bytes of each row, without their filter byte."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    pixels = chunk(b"IDAT", zlib.compress(b"".join(b"\0" + row for row in rows)))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(before_pixels) + pixels + chunk(b"IEND", b"")


def with_chunks(data, *chunks):
    """A PNG with more chunks behind its header."""
    return data[:33] + b"".join(chunks) + data[33:]


def with_segment(data, code, body):
    """A JPEG with one more segment at its beginning."""
    return data[:2] + bytes([0xFF, code]) + struct.pack(">H", len(body) + 2) + body + data[2:]


def exif(orientation, order="<", kind=3):
    value = struct.pack(
        order + ("I" if kind == 4 else "HH"), *([orientation] if kind == 4 else [orientation, 0])
    )
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "I", 8)
    other = struct.pack(order + "HHII", 0x010F, 2, 4, 0)
    entry = struct.pack(order + "HHI", 0x0112, kind, 1) + value
    return b"Exif\0\0" + head + struct.pack(order + "H", 2) + other + entry + bytes(4)


def turned(upright, orientation):
    """What a camera stores: EXIF names the visual sides on which its row 0 and column 0 lie."""
    across = upright.transpose(1, 0, 2)
    return {
        1: upright, 2: upright[:, ::-1], 3: upright[::-1, ::-1], 4: upright[::-1],
        5: across, 6: across[::-1], 7: across[::-1, ::-1], 8: across[:, ::-1],
    }[orientation].copy()  # fmt: skip


def fixed(*values):
    return struct.pack(f">{len(values)}i", *(round(value * 65536) for value in values))


def icc(space, tags, pcs=b"XYZ ", role=b"mntr"):
    """A version 2 ICC profile: header, tag table, tags."""
    table, body = struct.pack(">I", len(tags)), b""
    start = 128 + 4 + 12 * len(tags)
    for name, tag in tags.items():
        table += name + struct.pack(">II", start + len(body), len(tag))
        body += tag + bytes(-len(tag) % 4)
    size = 128 + len(table) + len(body)
    head = struct.pack(">I4sI4s4s4s", size, b"none", 0x02100000, role, space, pcs)
    date = struct.pack(">6H", 2026, 1, 1, 0, 0, 0)
    return (head + date + b"acsp" + bytes(28) + fixed(0.9642, 1, 0.8249)).ljust(128, b"\0") + table + body


def xyz(*values):
    return b"XYZ \0\0\0\0" + fixed(*values)


def gamma(value):
    return b"curv\0\0\0\0" + struct.pack(">IH", 1, round(value * 256))


# Columns are the primaries, adapted to D50.
DISPLAY_P3 = np.array([[0.51512, 0.29198, 0.1571], [0.2412, 0.69225, 0.06657], [-0.00105, 0.04189, 0.78407]])
SRGB = np.array([[0.43607, 0.38515, 0.14307], [0.22249, 0.71687, 0.06061], [0.01392, 0.09708, 0.7141]])

P3_PROFILE = icc(
    b"RGB ",
    {b"wtpt": xyz(0.9642, 1, 0.8249)}
    | {name: xyz(*column) for name, column in zip([b"rXYZ", b"gXYZ", b"bXYZ"], DISPLAY_P3.T, strict=True)}
    | {name: gamma(2.2) for name in [b"rTRC", b"gTRC", b"bTRC"]},
)
LINEAR_GREY_PROFILE = icc(b"GRAY", {b"wtpt": xyz(0.9642, 1, 0.8249), b"kTRC": gamma(1.0)})


def cyan_is_grey_profile():
    """A printer whose cyan ink is a neutral grey of L* = 50 and whose other inks but black leave no trace."""
    corners = b""
    for corner in range(16):
        cyan, black = corner & 8, corner & 1
        corners += bytes([0 if black else 128 if cyan else 255, 128, 128])
    straight = bytes(range(256))
    lut = b"mft1\0\0\0\0" + bytes([4, 3, 2, 0]) + fixed(1, 0, 0, 0, 1, 0, 0, 0, 1)
    tags = {b"wtpt": xyz(0.9642, 1, 0.8249), b"A2B0": lut + straight * 4 + corners + straight * 3}
    return icc(b"CMYK", tags, pcs=b"Lab ", role=b"prtr")


def encoded(linear):
    """Linear light 0..1 -> sRGB 0..255."""
    linear = np.clip(linear, 0, 1)
    return 255 * np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)


class TestKinds:
    @pytest.mark.parametrize("kind", ["PNG", "WEBP", "JPEG"])
    def test_pixels_size_source_and_sha256(self, tmp_path, kind):
        pixels = scene(64, 48)
        path = tmp_path / "shoe.dat"  # the name says nothing
        path.write_bytes(
            saved(
                pixels, kind, **({"lossless": True} if kind == "WEBP" else {"quality": 95, "subsampling": 0})
            )
        )
        picture = load(path)
        assert (picture.width, picture.height) == (64, 48)
        assert np.abs(picture.pixels.astype(int) - pixels).max() <= (6 if kind == "JPEG" else 0)
        assert picture.source == str(path)
        assert picture.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()

    def test_the_name_does_not_matter(self, tmp_path):
        path = tmp_path / "really-a-png.jpg"
        path.write_bytes(saved(scene(64, 48), "PNG"))
        assert np.array_equal(load(path).pixels, scene(64, 48))

    def test_a_known_sha256_is_taken_over(self):
        assert decode(saved(scene(64, 48), "PNG"), sha256="abc").sha256 == "abc"

    @pytest.mark.parametrize("kind", ["GIF", "TIFF", "BMP", "PPM", "ICO", "TGA", "PDF"])
    def test_other_kinds_are_refused(self, kind):
        with pytest.raises(BadPicture, match="not a picture") as caught:
            decode(saved(scene(64, 48), kind))
        assert "JPEG, PNG, WebP" in caught.value.hint

    def test_pixels_cannot_be_written(self):
        with pytest.raises(ValueError, match="read-only"):
            decode(saved(scene(64, 48), "PNG")).pixels[0, 0] = 0


class TestFrames:
    def test_mpo_is_its_first_picture(self):
        first, second = scene(64, 48), 255 - scene(64, 48)
        data = saved(first, "MPO", save_all=True, append_images=[Image.fromarray(second)])
        with Image.open(io.BytesIO(data)) as image:
            assert (image.format, image.n_frames) == ("MPO", 2)
        assert np.array_equal(decode(data).pixels, decode(saved(first, "JPEG")).pixels)

    def test_the_second_picture_of_an_mpo_is_never_looked_at(self):
        data = saved(scene(64, 48), "MPO", save_all=True, append_images=[flat("RGB", "red", (64, 48))])
        frame = data.rindex(b"\xff\xc0")
        evil = data[: frame + 5] + struct.pack(">HH", 65000, 65000) + data[frame + 9 :]
        assert np.array_equal(decode(evil).pixels, decode(data).pixels)

    def test_a_broken_index_of_an_mpo_does_no_harm(self):
        data = saved(scene(64, 48), "JPEG")
        broken = with_segment(data, 0xE2, b"MPF\0II*\0\xff\xff\xff\xff")
        assert np.array_equal(decode(broken).pixels, decode(data).pixels)

    def test_what_follows_a_jpeg_does_no_harm(self):
        data = saved(scene(64, 48), "JPEG")
        assert np.array_equal(decode(data + b"\xff\xda\0\2" * 500 + b"a video").pixels, decode(data).pixels)

    def test_animated_webp(self):
        first, second = Image.fromarray(scene(64, 48)), flat("RGB", "red", (64, 48))
        data = saved(first, "WEBP", save_all=True, append_images=[second], duration=100, lossless=True)
        assert np.array_equal(decode(data).pixels, scene(64, 48))

    @pytest.mark.parametrize("hidden_still", [False, True])
    def test_animated_png(self, hidden_still):
        first, second = Image.fromarray(scene(64, 48)), flat("RGB", "red", (64, 48))
        data = saved(first, "PNG", save_all=True, append_images=[second], default_image=hidden_still)
        assert b"acTL" in data
        assert np.array_equal(decode(data).pixels, scene(64, 48))


class TestOrientation:
    @pytest.mark.parametrize("orientation", range(1, 9))
    @pytest.mark.parametrize("kind", ["PNG", "WEBP"])
    def test_every_way_up(self, orientation, kind):
        upright = scene(64, 48)
        data = saved(turned(upright, orientation), kind, exif=exif(orientation), lossless=True)
        picture = decode(data)
        assert (picture.width, picture.height) == (64, 48)
        assert np.array_equal(picture.pixels, upright)

    @pytest.mark.parametrize("side", [1024, 100], ids=["whole", "reduced"])
    @pytest.mark.parametrize("orientation", range(1, 9))
    def test_jpeg_reduced_or_not(self, orientation, side):
        upright = scene(640, 420)
        data = saved(turned(upright, orientation), "JPEG", quality=95, exif=exif(orientation))
        picture = decode(data, side=side)
        assert (picture.width, picture.height) == (640, 420)
        assert picture.pixels.shape == ((420, 640, 3) if side == 1024 else (105, 160, 3))
        step = 640 // picture.pixels.shape[1]
        expected = upright.reshape(420 // step, step, 640 // step, step, 3).mean(axis=(1, 3))
        assert np.abs(picture.pixels - expected).max() < 8

    @pytest.mark.parametrize("order", ["<", ">"])
    @pytest.mark.parametrize("kind", [3, 4], ids=["short", "long"])
    def test_both_byte_orders_and_widths(self, order, kind):
        data = saved(turned(scene(64, 48), 6), "PNG", exif=exif(6, order, kind))
        assert np.array_equal(decode(data).pixels, scene(64, 48))

    @pytest.mark.parametrize(
        "nonsense",
        [
            exif(0),
            exif(9),
            exif(6)[:-8],
            b"Exif\0\0",
            b"Exif\0\0II*\0\xff\xff\xff\xff",
            b"Exif\0\0II*\0\x08\0\0\0\xff\xff" + b"\xff" * 40,
            b"Exif\0\0XX" + exif(6)[8:],
        ],
    )
    def test_nonsense_is_upright(self, nonsense):
        whole = saved(scene(64, 48), "JPEG")
        assert np.array_equal(decode(with_segment(whole, 0xE1, nonsense)).pixels, decode(whole).pixels)


class TestTransparency:
    def test_rgba_on_white(self):
        pixels = np.dstack([scene(64, 48), np.tile(np.linspace(0, 255, 64).astype(np.uint8), (48, 1))])
        share = pixels[:, :, 3:] / 255
        expected = pixels[:, :, :3] * share + 255 * (1 - share)
        for data in [saved(pixels, "PNG"), saved(pixels, "WEBP", lossless=True, exact=True)]:
            assert np.abs(decode(data).pixels - expected).max() <= 1

    def test_grey_with_alpha(self):
        assert colour_of(saved(flat("LA", (100, 51)), "PNG")) == pytest.approx([224, 224, 224], abs=1)

    def test_palette_with_one_transparent_entry(self):
        image = flat("P", 0)
        image.putpalette([255, 0, 0, 0, 0, 255])
        image.paste(1, (20, 0, 40, 36))
        pixels = decode(saved(image, "PNG", transparency=0)).pixels
        assert pixels[0, 0].tolist() == [255, 255, 255]
        assert pixels[0, 30].tolist() == [0, 0, 255]

    def test_palette_with_an_alpha_for_each_entry(self):
        image = flat("P", 1)
        image.putpalette([255, 0, 0, 0, 0, 0])
        assert colour_of(saved(image, "PNG", transparency=bytes([255, 51]))).tolist() == [204, 204, 204]

    @pytest.mark.parametrize(
        ("depth", "colour", "clear", "solid", "seen"),
        [
            (1, 0, b"\0\1", b"\0\0", 0),
            (2, 0, b"\0\2", b"\0\1", 85),
            (4, 0, b"\0\x0e", b"\0\3", 51),
            (8, 0, b"\0\xc8", b"\0\x64", 100),
            (16, 0, b"\x80\x01", b"\x80\x02", 128),
            (8, 2, b"\0\1\0\2\0\3", b"\0\7\0\7\0\7", 7),
            (16, 2, b"\x81\1\x82\2\x83\3", b"\x40\0\x40\0\x40\0", 64),
        ],
    )
    def test_one_transparent_colour(self, depth, colour, clear, solid, seen):
        def row(key):
            values = struct.unpack(f">{len(key) // 2}H", key)
            bits = "".join(f"{value:0{depth}b}" for value in values) * 40
            return int(bits, 2).to_bytes(len(bits) // 8)

        rows = [row(clear)] * 20 + [row(solid)] * 20
        pixels = decode(png(40, 40, depth, colour, rows, chunk(b"tRNS", clear))).pixels
        assert (pixels[:20] == 255).all()
        assert (pixels[20:] == seen).all()


class TestColour:
    def test_sixteen_bits_are_scaled(self):
        grey = np.linspace(0, 65535, 64 * 48).reshape(48, 64).astype(">u2")
        pixels = decode(png(64, 48, 16, 0, [row.tobytes() for row in grey])).pixels
        assert np.abs(pixels - (grey / 257)[:, :, None]).max() <= 1
        colour = (scene(64, 48).astype(">u2") * 257).astype(">u2")
        data = png(64, 48, 16, 2, [row.tobytes() for row in colour])
        assert np.array_equal(decode(data).pixels, scene(64, 48))

    def test_one_bit_grey_and_palette(self):
        assert colour_of(saved(flat("1", 1), "PNG")).tolist() == [255, 255, 255]
        assert colour_of(saved(flat("L", 77), "JPEG")).tolist() == [77, 77, 77]
        few = Image.fromarray(scene(64, 48)).quantize(200)
        assert np.array_equal(decode(saved(few, "PNG")).pixels, np.asarray(few.convert("RGB")))

    def test_cmyk_as_adobe_writes_it_inverted(self):
        data = saved(flat("CMYK", (255, 0, 0, 0)), "JPEG", quality=100)
        assert b"Adobe" in data
        assert colour_of(data) == pytest.approx([0, 255, 255], abs=2)

    def test_cmyk_through_its_profile(self):
        profile = cyan_is_grey_profile()
        paper = saved(flat("CMYK", (0, 0, 0, 0)), "JPEG", quality=100, icc_profile=profile)
        cyan = saved(flat("CMYK", (255, 0, 0, 0)), "JPEG", quality=100, icc_profile=profile)
        assert colour_of(paper) == pytest.approx([255, 255, 255], abs=1)
        lightness = 100 * 128 / 255
        expected = encoded(((lightness + 16) / 116) ** 3)
        assert colour_of(cyan) == pytest.approx([expected] * 3, abs=2)

    @pytest.mark.parametrize(
        "colour", [(200, 60, 40), (40, 160, 60), (90, 90, 90), (255, 255, 255), (255, 0, 0)]
    )
    @pytest.mark.parametrize("kind", ["PNG", "WEBP", "JPEG"])
    def test_display_p3(self, colour, kind):
        options = {"lossless": True} if kind == "WEBP" else {"quality": 100, "subsampling": 0}
        data = saved(flat("RGB", colour), kind, icc_profile=P3_PROFILE, **options)
        linear = np.linalg.inv(SRGB) @ DISPLAY_P3 @ (np.array(colour) / 255) ** 2.2
        assert colour_of(data) == pytest.approx(encoded(linear), abs=3)

    def test_transparency_is_laid_on_white_after_the_profile(self):
        data = saved(flat("RGBA", (200, 60, 40, 128)), "PNG", icc_profile=P3_PROFILE)
        solid = colour_of(saved(flat("RGB", (200, 60, 40)), "PNG", icc_profile=P3_PROFILE))
        assert colour_of(data) == pytest.approx(solid * 128 / 255 + 127, abs=1)

    def test_palette_and_profile(self):
        image = flat("P", 0)
        image.putpalette([200, 60, 40])
        solid = colour_of(saved(flat("RGB", (200, 60, 40)), "PNG", icc_profile=P3_PROFILE))
        assert np.array_equal(colour_of(saved(image, "PNG", icc_profile=P3_PROFILE)), solid)

    @pytest.mark.parametrize("mode", ["L", "LA"])
    def test_grey_through_its_profile(self, mode):
        image = flat("L", 64).convert(mode)
        data = saved(image, "PNG", icc_profile=LINEAR_GREY_PROFILE)
        assert colour_of(data) == pytest.approx([encoded(64 / 255)] * 3, abs=2)

    def test_a_large_profile_comes_in_pieces(self):
        padded = P3_PROFILE + bytes(150_000)
        padded = struct.pack(">I", len(padded)) + padded[4:]
        image = flat("RGB", (200, 60, 40))
        data = saved(image, "JPEG", quality=100, icc_profile=padded)
        assert data.count(b"ICC_PROFILE\0") == 3
        whole = colour_of(saved(image, "JPEG", quality=100, icc_profile=P3_PROFILE))
        assert np.array_equal(colour_of(data), whole)

    @pytest.mark.parametrize("kind", ["PNG", "WEBP", "JPEG"])
    @pytest.mark.parametrize(
        "profile",
        [
            b"no profile at all",
            P3_PROFILE[:200],
            P3_PROFILE[:128] + b"\xff" * 300,
            LINEAR_GREY_PROFILE,
            cyan_is_grey_profile(),
        ],
        ids=["text", "cut", "scrambled", "grey", "cmyk"],
    )
    def test_a_broken_or_foreign_profile_is_ignored(self, kind, profile):
        plain = saved(scene(64, 48), kind)
        assert np.array_equal(
            decode(saved(scene(64, 48), kind, icc_profile=profile)).pixels, decode(plain).pixels
        )

    def test_a_broken_stream_of_a_png_profile_is_ignored(self):
        plain = saved(scene(64, 48), "PNG")
        for body in [b"", b"name", b"name\0\0nonsense", b"name\0\0" + zlib.compress(P3_PROFILE)[:40]]:
            assert np.array_equal(decode(with_chunks(plain, chunk(b"iCCP", body))).pixels, scene(64, 48))


class TestReduction:
    @pytest.mark.parametrize("kind", ["PNG", "WEBP"])
    def test_blocks_are_averaged(self, kind):
        pixels = scene(640, 420)
        picture = decode(saved(pixels, kind, lossless=True), side=100)
        assert (picture.width, picture.height) == (640, 420)
        expected = pixels.reshape(105, 4, 160, 4, 3).mean(axis=(1, 3))
        assert np.abs(picture.pixels - expected).max() <= 1

    @pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "I;16", "CMYK"])
    def test_every_mode(self, mode):
        wide = scene(640, 420)[:, :, 0].astype(np.uint16) * 257
        image = Image.fromarray(wide if mode == "I;16" else scene(640, 420))
        image = image if mode == "I;16" else image.convert(mode)
        data = saved(image, "JPEG" if mode == "CMYK" else "PNG")
        whole, reduced = decode(data).pixels, decode(data, side=100).pixels
        assert (whole.shape, reduced.shape) == ((420, 640, 3), (105, 160, 3))
        blocks = whole.reshape(105, 4, 160, 4, 3).mean(axis=(1, 3))
        assert np.abs(blocks - reduced).max() <= (8 if mode == "CMYK" else 1)

    @pytest.mark.parametrize("kind", ["JPEG", "PNG"])
    @given(width=st.integers(32, 400), height=st.integers(32, 400), side=st.integers(8, 500))
    @settings(max_examples=60, deadline=None)
    def test_at_least_the_side_and_less_than_twice(self, kind, width, height, side):
        picture = decode(saved(flat("RGB", "white", (width, height)), kind), side=side)
        shorter = min(picture.pixels.shape[:2])
        assert min(side, width, height) <= shorter <= 2 * side
        assert (picture.width, picture.height) == (width, height)

    def test_a_transparent_colour_does_not_bleed(self):
        pixels = np.zeros((420, 640, 4), np.uint8)
        pixels[:, ::2] = (200, 100, 50, 255)  # every second column is clear, and black below
        picture = decode(saved(pixels, "PNG"), side=100)
        assert np.abs(picture.pixels - [227.5, 177.5, 152.5]).max() <= 2


def bomb(kind):
    """A small file that says it is 16,384 pixels wide and high, or more."""
    if kind == "PNG":
        return png(50_000, 50_000, 8, 2, [bytes(1000)])
    if kind == "JPEG":
        data = saved(scene(64, 48), "JPEG")
        frame = data.index(b"\xff\xc0")
        return data[: frame + 5] + struct.pack(">HH", 65000, 65000) + data[frame + 9 :]
    data = saved(scene(64, 48), "WEBP", icc_profile=P3_PROFILE)
    assert data[12:16] == b"VP8X"
    return data[:24] + b"\xff\x3f\0" * 2 + data[30:]


class TestLimits:
    @pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
    def test_a_decompression_bomb_ends_at_its_header(self, kind):
        with pytest.raises(BadPicture):
            decode(bomb(kind))

    def test_the_message_says_how_large(self):
        with pytest.raises(
            BadPicture, match=r"^big\.png: 50000 x 50000 pixels, more than the 100 megapixels"
        ):
            decode(bomb("PNG"), "big.png")

    def test_uploads_and_local_files(self):
        data = png(10_000, 9_500, 1, 0, [bytes(1250)] * 9_500)
        picture = decode(data, limits=LOCAL)  # Pillow warns from 89 megapixels on
        assert (picture.width, picture.height) == (10_000, 9_500)
        assert picture.pixels.shape == (1056, 1112, 3)
        with pytest.raises(BadPicture, match="50 megapixels"):
            decode(data, limits=UPLOAD)

    @pytest.mark.parametrize("size", [(1, 1), (20_000, 1), (31, 400), (32, 641), (641, 32)])
    def test_too_small_or_too_long(self, size):
        with pytest.raises(BadPicture, match=f"{size[0]} x {size[1]} pixels"):
            decode(saved(flat("L", 0, size), "PNG"))

    @pytest.mark.parametrize("size", [(32, 32), (32, 640), (640, 32)])
    def test_just_right(self, size):
        assert decode(saved(flat("L", 0, size), "PNG")).pixels.shape == (size[1], size[0], 3)

    def test_a_file_that_is_too_large(self, tmp_path):
        path = tmp_path / "large.jpg"
        path.touch()
        os.truncate(path, 26_000_000)
        with pytest.raises(BadPicture, match=r"large.jpg: 26.0 MB, more than the 25 MB allowed"):
            read(path, UPLOAD)
        with pytest.raises(BadPicture, match="more than"):
            decode(bytes(1001), limits=Limits(bytes=1000, pixels=1000))

    def test_compressed_text_is_never_inflated(self):
        data = saved(scene(64, 48), "PNG")
        stream = zlib.compress(bytes(70_000_000))
        chunks = [chunk(b"zTXt", b"Comment\0\0" + stream), chunk(b"iTXt", b"Comment\0\1\0\0\0" + stream)]
        assert np.array_equal(decode(with_chunks(data, *chunks)).pixels, scene(64, 48))

    def test_a_profile_that_inflates_without_end(self):
        data = saved(scene(64, 48), "PNG")
        with pytest.raises(BadPicture, match="decompression bomb"):
            decode(with_chunks(data, chunk(b"iCCP", b"name\0\0" + zlib.compress(bytes(20_000_000)))))

    @pytest.mark.parametrize(
        "name", [b"transparency", b"icc_profile", b"exif", b"interlace", b"bbox", b"dpi"]
    )
    def test_text_passes_for_nothing_else(self, name):
        data = saved(scene(64, 48), "PNG")
        assert np.array_equal(
            decode(with_chunks(data, chunk(b"tEXt", name + b"\0text"))).pixels, scene(64, 48)
        )

    def test_a_jpeg_of_endless_scans(self):
        data = saved(scene(64, 48), "JPEG", progressive=True)
        last = data[data.rindex(b"\xff\xda") : -2]
        assert decode(data[:-2] + last * 20 + data[-2:]).width == 64
        with pytest.raises(BadPicture, match="far too many parts"):
            decode(data[:-2] + last * 200 + data[-2:])

    def test_a_header_of_endless_parts(self):
        data = saved(scene(64, 48), "JPEG")
        for filler in [b"\xff\xfe\0\2", b"\xff\x01"]:
            with pytest.raises(BadPicture, match="far too many parts"):
                decode(data[:2] + filler * 60_000 + data[2:])
        with pytest.raises(BadPicture, match="far too many parts"):
            decode(with_chunks(saved(scene(64, 48), "PNG"), chunk(b"teXt", b"") * 60_000))


class TestBrokenFiles:
    @pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
    @pytest.mark.parametrize("share", [0.02, 0.3, 0.6, 0.9])
    def test_cut_off(self, kind, share):
        data = saved(scene(200, 150), kind, quality=95)
        with pytest.raises(BadPicture, match=r"^shoe\.x: "):
            decode(data[: int(len(data) * share)], "shoe.x")

    def test_bytes_between_the_parts_of_a_jpeg(self):
        data = saved(scene(64, 48), "JPEG")
        tables = data.index(b"\xff\xdb")
        padded = data[:tables] + b"\0\x11\xff\xff\xff" + data[tables:]
        assert np.array_equal(decode(padded).pixels, decode(data).pixels)

    @pytest.mark.parametrize("data", [b"", b"\xff", b"\xff\xd8\xff", b"<html>no picture</html>", bytes(500)])
    def test_no_picture_at_all(self, tmp_path, data):
        path = tmp_path / "text.jpg"
        path.write_bytes(data)
        with pytest.raises(BadPicture, match=r"text\.jpg: ") as caught:
            load(path)
        assert "\n" not in str(caught.value)

    def test_a_jpeg_segment_of_impossible_length(self):
        data = saved(scene(64, 48), "JPEG")
        with pytest.raises(BadPicture, match="damaged"):
            decode(data[:2] + b"\xff\xe1\0\1" + data[2:])

    @settings(max_examples=100, deadline=None)
    @given(
        st.sampled_from([b"", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"RIFF\xff\0\0\0WEBPVP8X"]),
        st.binary(max_size=400),
    )
    def test_random_bytes(self, magic, rest):
        with pytest.raises(BadPicture):
            decode(magic + rest)

    def test_damaged_files_give_a_picture_or_one_error_and_no_warning(self):
        chance = random.Random(7)
        files = samples()
        outcomes = {"picture": 0, "error": 0}
        for turn in range(200):
            data = damaged(files[turn % len(files)], chance)
            with warnings.catch_warnings(record=True) as warned:
                warnings.simplefilter("always")
                try:
                    assert decode(data, "x").pixels.dtype == np.uint8
                    outcomes["picture"] += 1
                except BadPicture as error:
                    assert str(error).startswith("x: ") and "\n" not in str(error)
                    outcomes["error"] += 1
            assert not warned
        assert min(outcomes.values()) > 10


def samples():
    """Small files of every kind, with all the metadata there is."""
    pixels = scene(80, 60)
    other = Image.fromarray(255 - pixels)
    clear = np.dstack([pixels, pixels[:, :, 0]])
    everything = {"exif": exif(6), "icc_profile": P3_PROFILE}
    return [
        saved(pixels, "JPEG", **everything),
        saved(pixels, "JPEG", progressive=True, **everything),
        saved(pixels, "MPO", save_all=True, append_images=[other], **everything),
        saved(Image.fromarray(pixels).convert("CMYK"), "JPEG", icc_profile=cyan_is_grey_profile()),
        saved(clear, "PNG", **everything),
        saved(pixels, "PNG", save_all=True, append_images=[other], **everything),
        saved(Image.fromarray(pixels).quantize(64), "PNG", transparency=3, **everything),
        saved(Image.fromarray(pixels[:, :, 0].astype(np.uint16) * 257), "PNG"),
        saved(pixels, "WEBP", **everything),
        saved(clear, "WEBP", lossless=True, save_all=True, append_images=[other], **everything),
    ]


def damaged(data, chance):
    """The file with bytes changed, cut out or doubled; half of the PNGs get right checksums again."""
    data = bytearray(data)
    for _ in range(chance.choice([1, 1, 2, 5, 20])):
        at, length = chance.randrange(len(data)), chance.choice([1, 1, 1, 2, 4, 50])
        action = chance.randrange(5)
        if action < 2:
            data[at : at + length] = chance.randbytes(length)
        elif action == 2:
            data[at : at + length] = chance.choice([b"\0", b"\xff"]) * length
        elif action == 3:
            data[at:at] = data[at : at + length]
        else:
            del data[at : at + length]
    if data.startswith(b"\x89PNG") and chance.random() < 0.5:
        at = 8
        while at + 12 <= len(data):
            end = at + 8 + int.from_bytes(data[at : at + 4])
            data[end : end + 4] = zlib.crc32(data[at + 4 : end]).to_bytes(4)
            at = end + 4
    return bytes(data)


class TestReading:
    def test_bytes(self, tmp_path):
        path = tmp_path / "a"
        path.write_bytes(b"abc")
        assert read(path) == read(str(path)) == b"abc"

    def test_a_folder(self, tmp_path):
        with pytest.raises(BadPicture, match="a folder"):
            read(tmp_path)

    def test_a_missing_file(self, tmp_path):
        with pytest.raises(BadPicture, match=r"gone\.jpg: cannot be read: No such file"):
            read(tmp_path / "gone.jpg")

    @pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="named pipes are a POSIX thing")
    def test_a_named_pipe_is_not_waited_for(self, tmp_path):
        os.mkfifo(tmp_path / "pipe.jpg")
        with pytest.raises(BadPicture, match="not a regular file"):
            read(tmp_path / "pipe.jpg")

    @pytest.mark.skipif(not Path("/dev/zero").exists(), reason="device files are a POSIX thing")
    def test_a_device(self):
        with pytest.raises(BadPicture, match="not a regular file"):
            read("/dev/zero")

    @pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read everything")
    def test_an_unreadable_file(self, tmp_path):
        path = tmp_path / "secret.jpg"
        path.write_bytes(b"abc")
        path.chmod(0)
        with pytest.raises(BadPicture, match="Permission denied"):
            read(path)

    def test_a_link_in_a_circle(self, tmp_path):
        (tmp_path / "loop.jpg").symlink_to(tmp_path / "loop.jpg")
        with pytest.raises(BadPicture, match=r"loop\.jpg: cannot be read"):
            read(tmp_path / "loop.jpg")

    def test_a_zero_byte_in_the_name(self):
        with pytest.raises(BadPicture, match=r"a\\x00b: cannot be read"):
            read("a\0b")

    def test_odd_names_stay_on_one_line(self, tmp_path):
        name = str(tmp_path / "two\nlines \udcff 'quoted' ünï \x1b[31m.jpg")
        with pytest.raises(BadPicture) as caught:
            read(name)
        assert str(caught.value).isprintable()
        assert r"two\nlines \udcff 'quoted' ünï \x1b[31m.jpg: " in str(caught.value)
        str(caught.value).encode()

    @given(st.text())
    def test_shown_is_printable_and_leaves_printable_names_alone(self, text):
        assert shown(text).isprintable()
        assert (shown(text) == text) == text.isprintable()

    def test_a_name_that_is_not_utf8(self, tmp_path):
        path = os.fsencode(tmp_path) + b"/sh\xf6e.png"
        with open(path, "wb") as file:
            file.write(saved(scene(64, 48), "PNG"))
        picture = load(Path(os.fsdecode(path)))
        assert os.fsencode(picture.source) == path


class TestHeic:
    def test_without_the_extra_it_is_named(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "pillow_heif", None)
        for brand in [b"heic", b"heix", b"mif1"]:
            with pytest.raises(BadPicture, match=r"lookalike\[heic\]") as caught:
                decode(b"\0\0\0\x18ftyp" + brand + bytes(100), "IMG_1.HEIC")
            assert caught.value.hint == "pip install 'lookalike[heic]'"

    def test_a_photo(self):
        heif = pytest.importorskip("pillow_heif")
        pixels = scene(640, 420)
        file = io.BytesIO()
        heif.from_pillow(Image.fromarray(pixels)).save(file, quality=-1, chroma=444)
        data = file.getvalue()
        picture = decode(data, side=100)
        assert (picture.width, picture.height) == (640, 420)
        assert np.abs(picture.pixels - pixels.reshape(105, 4, 160, 4, 3).mean(axis=(1, 3))).max() < 5
        for broken in [data[:200], data[: len(data) // 2], data[:40] + bytes(len(data))]:
            with pytest.raises(BadPicture, match=r"^x\.heic: "):
                decode(broken, "x.heic")

    @pytest.mark.parametrize("orientation", [3, 6, 8])
    def test_a_turned_photo(self, orientation):
        heif = pytest.importorskip("pillow_heif")
        file = io.BytesIO()
        image = Image.fromarray(turned(scene(640, 420), orientation))
        heif.from_pillow(image).save(file, quality=95, exif=exif(orientation))
        picture = decode(file.getvalue())
        assert (picture.width, picture.height) == (640, 420)
        assert np.abs(picture.pixels.astype(int) - scene(640, 420)).max() < 20


def test_threads_decode_side_by_side():
    files = samples() * 8
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(decode, files))
    for data, picture in zip(files, together, strict=True):
        assert np.array_equal(decode(data).pixels, picture.pixels)
