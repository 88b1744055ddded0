import asyncio
import io
import os
import random
import resource
import signal
import struct
import subprocess
import sys
import time
import zipfile
import zlib
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import psutil
import pytest
from PIL import Image

from ending import running
from lookalike import images
from lookalike.errors import BadPicture, LookalikeError
from lookalike.server.decoding import _HEAD, Decoder
from lookalike.server.limits import Limits
from lookalike.testing import drawing
from lookalike.values import Picture

LIMITS = replace(Limits(), decode_s=60.0)  # on a busy machine all takes longer
ENOUGH_S = 30.0


def saved(image: Image.Image, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def picture(seed: int = 0, kind: str = "PNG", **options: object) -> bytes:
    return saved(Image.fromarray(drawing(seed, 96, 128)), kind, **options)


@cache
def slow() -> bytes:
    """Within the limits, and seconds of work: 49 megapixels in four inks, in ten passes."""
    return saved(Image.new("CMYK", (31_000, 1_580)), "JPEG", progressive=True)


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png_of(width: int, height: int, *chunks: bytes) -> bytes:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(chunks) + chunk(b"IEND", b"")


def deflated(size: int) -> bytes:
    """Zeros, compressed a thousandfold."""
    packer = zlib.compressobj(9)
    return b"".join(packer.compress(bytes(1_000_000)) for _ in range(size // 1_000_000)) + packer.flush()


def workers(parent: int | None = None) -> list[int]:
    """The decoding processes of this one, or of another, that still run."""
    found = []
    for child in psutil.Process(parent).children():
        with suppress(psutil.NoSuchProcess):  # ZombieProcess is one, too
            if "lookalike.server.decoding" in child.cmdline():
                found.append(child.pid)
    return found


def seconds_of(pid: int) -> float:
    """Processor time that it took."""
    times = psutil.Process(pid).cpu_times()
    return times.user + times.system


async def until_busy(pid: int) -> None:
    start = seconds_of(pid)
    while seconds_of(pid) < start + 0.1:
        await asyncio.sleep(0.01)


@asynccontextmanager
async def decoder(limits: Limits = LIMITS, processes: int = 1) -> AsyncIterator[Decoder]:
    made = Decoder(limits, processes)
    try:
        await made.start()
        yield made
    finally:
        await made.close()
        assert workers() == []


def run(test: Coroutine[object, object, None]) -> None:
    asyncio.run(asyncio.wait_for(test, 120))


def same(one: Picture, other: Picture) -> bool:
    return bool(
        np.array_equal(one.pixels, other.pixels)
        and (one.width, one.height, one.sha256) == (other.width, other.height, other.sha256)
    )


def exif_with_gps(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    exif[0x010F] = "SECRET CAMERA"
    exif.get_ifd(0x8825)[2] = (52.0, 31.0, 12.0)
    return exif


def test_pictures_come_as_the_library_decodes_them() -> None:
    files = {
        "png": picture(1),
        "jpeg": picture(2, "JPEG"),
        "webp": picture(3, "WEBP"),
        "turned": picture(4, "JPEG", exif=exif_with_gps(6)),
        "large": saved(Image.fromarray(drawing(5, 300, 400)).resize((4_400, 3_300)), "JPEG"),
        "see-through": saved(Image.new("RGBA", (50, 40), (255, 0, 0, 99)), "PNG"),
        "grey": saved(Image.new("L", (50, 40), 99), "PNG"),
    }

    async def test() -> None:
        async with decoder() as made:
            for name, data in files.items():
                got = await made.decode(data)
                assert same(got, images.decode(data)), name
                assert got.source == ""
                assert not got.pixels.flags.writeable
            assert len(workers()) == 1

    run(test())


def test_heic_pictures_come_too() -> None:
    heif = pytest.importorskip("pillow_heif")
    file = io.BytesIO()
    heif.from_pillow(Image.fromarray(drawing(1, 96, 128))).save(file)

    async def test() -> None:
        async with decoder() as made:
            assert same(await made.decode(file.getvalue()), images.decode(file.getvalue()))

    run(test())


def test_nothing_of_a_files_metadata_is_left() -> None:
    tagged, plain = picture(1, "JPEG", exif=exif_with_gps(1)), picture(1, "JPEG")
    assert b"SECRET CAMERA" in tagged

    async def test() -> None:
        async with decoder() as made:
            got, wanted = await made.decode(tagged), await made.decode(plain)
            assert np.array_equal(got.pixels, wanted.pixels)
            assert b"SECRET CAMERA" not in got.pixels.tobytes()

    run(test())


def test_bombs_are_refused_and_cost_no_worker() -> None:
    small = picture(1)
    bombs = {
        "a header of 40 gigapixels": png_of(200_000, 200_000, chunk(b"IDAT", zlib.compress(b""))),
        "51 megapixels of nothing": png_of(8_000, 6_400, chunk(b"IDAT", deflated(200_000_000))),
        "more rows than the header says": png_of(64, 64, chunk(b"IDAT", deflated(500_000_000))),
        "a profile": small[:33] + chunk(b"iCCP", b"x\0\0" + deflated(500_000_000)) + small[33:],
        "a text": small[:33] + chunk(b"zTXt", b"Comment\0\0" + deflated(500_000_000)) + small[33:],
        "a million chunks": small[:33] + chunk(b"tEXt", b"a\0b") * 1_000_000 + small[33:],
        "a thousand passes": picture(1, "JPEG", progressive=True)[:-2] + b"\xff\xda\x00\x08" * 1_000,
        "a long strip": saved(Image.new("L", (40_000, 32)), "PNG"),
        "more bytes than allowed": small + bytes(LIMITS.body_bytes),
    }
    harmless = ("more rows than the header says", "a text")  # they are not looked at

    async def test() -> None:
        async with decoder() as made:
            before = workers()
            for name, data in bombs.items():
                if name in harmless:
                    await made.decode(data)
                else:
                    with pytest.raises(BadPicture):
                        await made.decode(data)
            assert same(await made.decode(small), images.decode(small))
            assert workers() == before

    run(test())


def test_other_kinds_of_files_are_refused() -> None:
    image = Image.fromarray(drawing(1, 96, 128))
    others = {kind: saved(image, kind) for kind in ("GIF", "TIFF", "BMP", "ICO", "PPM", "EPS", "PDF", "TGA")}
    others |= {
        "SVG": b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg"><script>1</script></svg>',
        "HTML": b"<html><script>alert(1)</script></html>",
        "PostScript": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 99 99\n(/etc/passwd) (r) file\n",
        "GIF with a JPEG behind": saved(image, "GIF") + picture(1, "JPEG"),
        "nothing": b"",
        "zeros": bytes(1_000),
        "a video": b"\0\0\0\x18ftypmp42" + bytes(100),
        "a WAV": b"RIFF\x24\0\0\0WAVEfmt " + bytes(100),
    }

    async def test() -> None:
        async with decoder() as made:
            before = workers()
            for name, data in others.items():
                with pytest.raises(BadPicture, match=r"not a picture|an empty file") as raised:
                    await made.decode(data)
                assert "\n" not in str(raised.value), name
            assert workers() == before

    run(test())


def test_of_a_file_that_is_two_things_only_the_picture_is_seen() -> None:
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("evil.txt", "evil" * 100)
    tails = {
        "ZIP": archive.getvalue(),
        "HTML": b"<html><script>alert(1)</script></html>",
        "script": b"<?php system('id'); ?>",
        "PNG": picture(9),
    }

    async def test() -> None:
        async with decoder() as made:
            for name, tail in tails.items():
                for kind in ("PNG", "JPEG"):
                    plain = picture(1, kind)
                    got = await made.decode(plain + tail)
                    assert np.array_equal(got.pixels, images.decode(plain).pixels), (name, kind)
            commented = picture(1, "JPEG", comment=tails["HTML"])
            assert tails["HTML"] in commented
            assert tails["HTML"] not in (await made.decode(commented)).pixels.tobytes()

    run(test())


def test_files_cut_off_or_damaged_are_refused_or_read_as_the_library_would() -> None:
    draw = random.Random(8)
    broken: list[bytes] = []
    for kind in ("PNG", "JPEG", "WEBP"):
        data = picture(1, kind)
        broken += [data[: draw.randrange(len(data))] for _ in range(15)]
        for _ in range(25):
            damaged = bytearray(data)
            for _ in range(draw.randrange(1, 10)):
                damaged[draw.randrange(len(damaged))] = draw.randrange(256)
            broken.append(bytes(damaged))

    def plainly(data: bytes) -> Picture | str:
        try:
            return images.decode(data, limits=LIMITS.pictured)
        except BadPicture as error:
            return str(error)

    async def test() -> None:
        refused = 0
        async with decoder() as made:
            before = workers()
            for data in broken:
                wanted = plainly(data)
                if isinstance(wanted, Picture):
                    assert same(await made.decode(data), wanted)
                else:
                    refused += 1
                    with pytest.raises(BadPicture) as raised:
                        await made.decode(data)
                    assert str(raised.value) == wanted
            assert workers() == before
        assert refused > 30

    run(test())


def test_a_picture_that_takes_too_long_ends_its_worker_and_not_the_next_pictures() -> None:
    async def test() -> None:
        async with decoder(replace(LIMITS, decode_s=0.4)) as made:
            before = workers()
            with pytest.raises(BadPicture, match="took too long") as raised:
                await made.decode(slow())
            assert raised.value.hint
            for _ in range(20):  # any may be late on a busy machine
                try:
                    assert same(await made.decode(picture(2)), images.decode(picture(2)))
                    break
                except BadPicture:
                    continue
            else:
                raise AssertionError("no picture is decoded any more")
            assert len(workers()) == 1
            assert workers() != before

    run(test())


def test_a_picture_that_needs_too_much_memory_ends_its_worker_and_not_the_next_pictures() -> None:
    hungry = saved(Image.new("RGBA", (31_000, 1_580), (255, 0, 0, 100)), "PNG")

    async def test() -> None:
        async with decoder(replace(LIMITS, decode_bytes=400_000_000)) as made:
            before = workers()
            with pytest.raises(BadPicture, match="needs too much memory"):
                await made.decode(hungry)
            assert same(await made.decode(picture(2)), images.decode(picture(2)))
            assert workers() != before
        async with decoder() as made:  # by the limits that hold otherwise it is a fair picture
            assert (await made.decode(hungry)).width == 31_000

    run(test())


def test_a_worker_that_was_killed_while_idle_is_replaced_unnoticed() -> None:
    async def test() -> None:
        async with decoder() as made:
            for seed in range(3):
                [pid] = workers()
                os.kill(pid, signal.SIGKILL)
                while running(pid):
                    await asyncio.sleep(0.01)
                assert same(await made.decode(picture(seed)), images.decode(picture(seed)))
                assert made.alive

    run(test())


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSEGV])
def test_a_worker_that_ends_in_the_middle_is_a_bad_picture_and_replaced(how: signal.Signals) -> None:
    async def test() -> None:
        async with decoder() as made:
            [pid] = workers()
            asked = asyncio.create_task(made.decode(slow()))
            await until_busy(pid)
            os.kill(pid, how)
            with pytest.raises(BadPicture, match="the decoder ended"):
                await asked
            replaced = asyncio.create_task(made.decode(picture(2)))
            while not replaced.done():
                assert made.alive  # nobody makes the service look down by sending bad pictures
                await asyncio.sleep(0.01)
            assert same(await replaced, images.decode(picture(2)))
            assert workers() != [pid]

    run(test())


def test_a_worker_that_used_up_its_processor_time_took_too_long() -> None:
    async def test() -> None:
        async with decoder() as made:
            [pid] = workers()
            asked = asyncio.create_task(made.decode(slow()))
            await until_busy(pid)
            soft, hard = resource.prlimit(pid, resource.RLIMIT_CPU)
            assert 0 < soft <= LIMITS.decode_s + 5
            resource.prlimit(pid, resource.RLIMIT_CPU, (1, hard))
            with pytest.raises(BadPicture, match="took too long"):
                await asked
            assert same(await made.decode(picture(2)), images.decode(picture(2)))

    run(test())


def test_a_cancelled_picture_is_never_anybody_elses_answer() -> None:
    async def test() -> None:
        async with decoder() as made:
            for seed in range(3):
                [pid] = workers()
                asked = asyncio.create_task(made.decode(slow()))
                waiting = asyncio.create_task(made.decode(slow()))
                await until_busy(pid)
                waiting.cancel()
                asked.cancel()
                await asyncio.wait([asked, waiting])
                assert asked.cancelled()
                assert waiting.cancelled()
                assert same(await made.decode(picture(seed)), images.decode(picture(seed)))
            for delay in range(10):  # at whatever moment
                asked = asyncio.create_task(made.decode(picture(7)))
                await asyncio.sleep(delay / 1_000)
                asked.cancel()
                assert same(await made.decode(picture(delay)), images.decode(picture(delay)))

    run(test())


def test_as_many_at_a_time_as_there_are_workers() -> None:
    files = [picture(seed) for seed in range(40)]

    async def test() -> None:
        async with decoder(processes=2) as made:
            before = sorted(workers())
            assert len(before) == 2
            got = await asyncio.gather(*map(made.decode, files))
            assert all(same(one, images.decode(data)) for one, data in zip(got, files, strict=True))
            assert sorted(workers()) == before

    run(test())


def test_workers_start_when_needed_where_nobody_started_them() -> None:
    async def test() -> None:
        made = Decoder(LIMITS, 3)
        assert (workers(), made.alive) == ([], False)
        await made.decode(picture(1))
        await made.decode(picture(2))
        assert (len(workers()), made.alive) == (1, True)
        await made.close()

    run(test())


def test_closing_waits_for_pictures_at_hand_and_lets_no_other_in() -> None:
    async def test() -> None:
        async with decoder() as made:
            [pid] = workers()
            asked = asyncio.create_task(made.decode(slow()))
            await until_busy(pid)
            late = asyncio.create_task(made.decode(picture(1)))
            await asyncio.sleep(0)
            await made.close()
            assert (await asked).width == 31_000
            for refused in (late, made.decode(picture(1))):
                with pytest.raises(LookalikeError, match="closed"):
                    await refused
            assert not made.alive
            assert workers() == []

    run(test())


def test_a_worker_knows_and_can_do_next_to_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")

    async def test() -> None:
        with open(__file__, "rb"):  # what the service has open
            async with decoder():
                [pid] = workers()
                assert b"sk-secret" not in Path(f"/proc/{pid}/environ").read_bytes()
                assert sorted(each.name for each in Path(f"/proc/{pid}/fd").iterdir()) == ["0", "1", "2"]
                limits = {
                    resource.RLIMIT_AS: LIMITS.decode_bytes,
                    resource.RLIMIT_NOFILE: 3,
                    resource.RLIMIT_FSIZE: 0,
                    resource.RLIMIT_CORE: 0,
                }
                for what, most in limits.items():
                    assert resource.prlimit(pid, what) == (most, most)
                maps = Path(f"/proc/{pid}/maps").read_text()
                assert "_imaging" in maps
                for heavy in ("onnxruntime", "faiss", "torch", "sqlite", "pydantic"):
                    assert heavy not in maps

    run(test())


ORPHANS = """
import asyncio, sys
from lookalike.server.decoding import Decoder
from lookalike.server.limits import Limits

async def main():
    made = Decoder(Limits(decode_s=20.0), 2)
    await made.start()
    if sys.argv[1:]:
        asked = asyncio.create_task(made.decode(open(sys.argv[1], "rb").read()))
        await asyncio.sleep(0)
    print("ready", flush=True)
    await asyncio.sleep(600)

asyncio.run(main())
"""


@pytest.mark.parametrize("busy", [False, True])
def test_workers_end_with_their_parent_however_it_ends(tmp_path: Path, busy: bool) -> None:
    (tmp_path / "slow.jpg").write_bytes(slow())
    named = [str(tmp_path / "slow.jpg")] if busy else []
    with subprocess.Popen([sys.executable, "-c", ORPHANS, *named], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == b"ready\n"
        children = workers(parent.pid)
        assert len(children) == 2
        start = [seconds_of(child) for child in children]
        while busy and all(
            seconds_of(child) < began + 0.1 for child, began in zip(children, start, strict=True)
        ):
            time.sleep(0.01)
        parent.kill()
    deadline = time.monotonic() + ENOUGH_S
    while any(map(running, children)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(map(running, children))


def head(outcome: int, width: int = 0, height: int = 0, columns: int = 0, rows: int = 0) -> bytes:
    return _HEAD.pack(outcome, width, height, columns, rows, bytes(32))


@pytest.mark.parametrize(
    "answer",
    [
        head(1, 100, 100, 200, 100),  # more pixels than the original has
        head(1, 100, 100, 100, 0),
        head(1, 60_000, 60_000, 1, 1),  # a larger original than allowed
        head(2, 4_000_000_000) + b"x" * 1_000,  # an endless message
        head(99),
        head(1, 100, 100, 100, 100) + b"too few",
        b"",
    ],
)
def test_a_worker_that_was_taken_over_is_not_believed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: bytes
) -> None:
    hostile = tmp_path / "python"
    hostile.write_text(
        f"#!{sys.executable}\nimport os\nos.write(0, {head(0)!r})\nos.read(0, 8)\nos.write(0, {answer!r})\n"
    )
    hostile.chmod(0o700)

    async def test() -> None:
        honest = sys.executable
        monkeypatch.setattr(sys, "executable", str(hostile))
        async with decoder() as made:
            with pytest.raises(BadPicture, match="the decoder ended"):
                await made.decode(picture(1))
            monkeypatch.setattr(sys, "executable", honest)
            assert same(await made.decode(picture(1)), images.decode(picture(1)))

    run(test())


def test_what_a_worker_says_stays_one_printable_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said = b"bad\x1b[31m\r news\nhint\nmore"
    hostile = tmp_path / "python"
    told = head(2, len(said)) + said
    hostile.write_text(
        f"#!{sys.executable}\nimport os\nos.write(0, {head(0)!r})\nos.read(0, 8)\nos.write(0, {told!r})\n"
    )
    hostile.chmod(0o700)

    async def test() -> None:
        monkeypatch.setattr(sys, "executable", str(hostile))
        async with decoder() as made:
            with pytest.raises(BadPicture) as raised:
                await made.decode(picture(1))
            assert str(raised.value).isprintable()
            assert raised.value.hint.isprintable()

    run(test())


@pytest.mark.parametrize("program", ["/bin/false", "/nowhere/python"])
def test_a_decoder_that_does_not_start_says_so(monkeypatch: pytest.MonkeyPatch, program: str) -> None:
    monkeypatch.setattr(sys, "executable", program)

    async def test() -> None:
        made = Decoder(LIMITS, 2)
        for attempt in (made.start(), made.decode(picture(1))):
            with pytest.raises(LookalikeError, match="does not start"):
                await attempt
        assert not made.alive
        await made.close()

    run(test())
