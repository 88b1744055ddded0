"""What goes wrong in practice: broken files, kills, full disks, two processes at once."""

import json
import os
import random
import resource
import shutil
import signal
import sqlite3
import struct
import subprocess
import sys
import time
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import lookalike
from lookalike import upkeep
from lookalike.errors import CatalogueError, LookalikeError
from lookalike.settings import Settings
from lookalike.testing import ThumbnailEncoder, drawing
from saving import save

INDEXER = """
import sys
import lookalike
from lookalike.settings import Settings
from lookalike.testing import ThumbnailEncoder

with lookalike.open(sys.argv[2], Settings(encoder=ThumbnailEncoder(), query_regions="whole")) as shop:
    shop.add(sys.argv[1], on_progress=lambda done, total: print(done, flush=True))
"""


def lookalike_cli(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "lookalike", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def open_thumbnails(folder: Path) -> lookalike.catalogue.Catalogue:  # type: ignore[name-defined]
    return lookalike.open(folder, Settings(encoder=ThumbnailEncoder(), query_regions="whole"), create=False)


def bomb(width: int, height: int) -> bytes:
    """A valid PNG header for a picture far too large, with hardly any data behind it."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b"\0" * 999))
        + chunk(b"IEND", b"")
    )


def test_a_messy_folder_is_indexed_as_far_as_it_goes(tmp_path: Path) -> None:
    folder = tmp_path / "messy"
    folder.mkdir()
    picture = Image.fromarray(drawing(1, 320, 240))
    good = {
        "plain.jpg",
        'it\'s "quoted".jpg',
        "two\nlines.jpg",
        "cmyk.jpg",
        "sixteen.png",
        "grey.png",
        "moving.webp",
        "phone.jpg",
    }
    for place, name in enumerate(("plain.jpg", 'it\'s "quoted".jpg', "two\nlines.jpg")):
        Image.fromarray(drawing(10 + place, 320, 240)).save(folder / name)
    picture.convert("CMYK").save(folder / "cmyk.jpg")
    Image.fromarray(np.linspace(0, 65535, 320 * 240).reshape(240, 320).astype(np.uint16)).save(
        folder / "sixteen.png"
    )
    picture.convert("L").save(folder / "grey.png")
    frames = [Image.fromarray(drawing(seed, 320, 240)) for seed in (20, 21, 22)]
    frames[0].save(folder / "moving.webp", save_all=True, append_images=frames[1:])
    frames[1].save(folder / "phone.jpg", format="MPO", save_all=True, append_images=frames[2:])
    (folder / "loop").symlink_to(folder)
    shutil.copy(folder / "plain.jpg", os.fsencode(folder) + b"/odd-\xff.jpg")

    picture.save(folder / "cut.jpg")
    (folder / "cut.jpg").write_bytes((folder / "cut.jpg").read_bytes()[:2000])
    (folder / "empty.jpg").touch()
    (folder / "text.jpg").write_text("these are not pixels")
    Image.new("RGB", (1, 1)).save(folder / "dot.png")
    Image.new("RGB", (20_000, 1)).save(folder / "line.png")
    (folder / "bomb.png").write_bytes(bomb(50_000, 50_000))
    os.mkfifo(folder / "pipe.jpg")
    bad = {"cut.jpg", "empty.jpg", "text.jpg", "dot.png", "line.png", "bomb.png", "pipe.jpg"}

    done = lookalike_cli("index", folder, "--to", tmp_path / "shop", "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["items"] == len(good) + 1  # and odd-\xff
    assert report["encoded"] == len(good)  # whose bytes are plain.jpg's
    skipped = {Path(entry["source"]).name: entry["error"] for entry in report["skipped"]}
    assert bad <= set(skipped)
    assert set(skipped) - bad <= {"loop"}
    assert all(error.isprintable() for error in skipped.values())
    shown = lookalike_cli(
        "search", os.fsencode(folder).decode() + "/two\nlines.jpg", "--in", tmp_path / "shop", "-k", 1
    )
    assert shown.returncode == 0, shown.stderr
    assert "two\\nlines" in shown.stdout


def test_a_folder_with_nothing_usable_fails(tmp_path: Path) -> None:
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "text.jpg").write_text("these are not pixels")
    done = lookalike_cli("index", tmp_path / "pictures", "--to", tmp_path / "shop")
    assert done.returncode == 1
    assert "text.jpg" in done.stdout


def test_killed_twenty_times_nothing_is_lost_or_stored_twice(tmp_path: Path) -> None:
    folder, shop = tmp_path / "pictures", tmp_path / "shop"
    for seed in range(320):
        save(folder / f"{seed}.png", seed)
    pause = random.Random(7)
    acknowledged = kills = 0
    while True:
        command = [sys.executable, "-c", INDEXER, folder, shop]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as indexer:
            assert indexer.stdout
            progress = []
            if kills < 20:
                progress.append(indexer.stdout.readline())  # a batch at least, or it would not end
                time.sleep(pause.uniform(0, 0.05))
                indexer.send_signal(signal.SIGKILL)
                kills += 1
            progress += indexer.stdout.readlines()
        killed = indexer.returncode == -signal.SIGKILL
        acknowledged = max([acknowledged, *map(int, filter(str.strip, progress))])
        with open_thumbnails(shop) as catalogue:
            facts = upkeep.info(catalogue)
            assert acknowledged <= facts["pictures"] == facts["items"] == facts["regions"]
            assert catalogue.search(folder / "3.png", top=1)
        if not killed:
            break
    assert indexer.returncode == 0
    assert facts["pictures"] == 320
    with open_thumbnails(shop) as catalogue:
        assert upkeep.verify(catalogue).sound
        assert catalogue.search(folder / "319.png", top=1)[0].item == "319"


def test_searching_while_another_process_indexes(tmp_path: Path) -> None:
    folder, shop = tmp_path / "pictures", tmp_path / "shop"
    for seed in range(300):
        save(folder / f"{seed}.png", seed)
    lookalike.open(shop, Settings(encoder=ThumbnailEncoder())).close()
    indexer = subprocess.Popen([sys.executable, "-c", INDEXER, folder, shop], stdout=subprocess.DEVNULL)
    sizes = []
    with open_thumbnails(shop) as catalogue:
        while indexer.poll() is None:
            hits = catalogue.search(folder / "0.png", top=1000)
            assert len({hit.item for hit in hits}) == len(hits)
            sizes.append(len(hits))
        assert len(catalogue.search(folder / "0.png", top=1000)) == 300
    assert indexer.returncode == 0
    assert sizes == sorted(sizes)


def test_a_second_writer_is_turned_away(tmp_path: Path, pictures: Path) -> None:
    shop = tmp_path / "shop"
    lookalike.open(shop, Settings(encoder=ThumbnailEncoder())).close()
    with open_thumbnails(shop) as first, open_thumbnails(shop) as second, first.open_writer():
        with pytest.raises(CatalogueError) as caught:
            second.add(pictures)
        assert caught.value.hint
    with open_thumbnails(shop) as later:
        assert later.add(pictures).items == 6


def test_a_full_disk_is_one_line_and_the_catalogue_still_opens(tmp_path: Path) -> None:
    folder, shop = tmp_path / "pictures", tmp_path / "shop"
    for seed in range(200):
        save(folder / f"{seed}.png", seed)

    def limit() -> None:  # no file may grow beyond this, as on a disk that is full
        resource.setrlimit(resource.RLIMIT_FSIZE, (600_000, 600_000))

    catch = INDEXER.replace("with lookalike", "try:\n  with lookalike").replace(
        "    shop.add", "      shop.add"
    )
    catch += "except lookalike.LookalikeError as error:\n  sys.exit(f'{type(error).__name__}: {error}')"
    done = subprocess.run(
        [sys.executable, "-c", catch, folder, shop], capture_output=True, text=True, preexec_fn=limit
    )
    assert done.returncode == 1
    assert "StorageFull" in done.stderr
    assert "Traceback" not in done.stderr
    acknowledged = max(map(int, done.stdout.split()), default=0)
    with open_thumbnails(shop) as catalogue:
        assert upkeep.info(catalogue)["pictures"] >= acknowledged > 0
        assert catalogue.add(folder).pictures == 200


def test_damage_is_one_clear_line(tmp_path: Path, pictures: Path) -> None:
    shop = tmp_path / "shop"
    lookalike.open(shop, Settings(encoder=ThumbnailEncoder())).close()
    with open_thumbnails(shop) as catalogue:
        catalogue.add(pictures)

    newer = tmp_path / "newer"
    shutil.copytree(shop, newer)
    with sqlite3.connect(newer / "catalogue.sqlite") as database:
        database.execute("PRAGMA user_version = 999")
    database.close()
    broken = tmp_path / "broken"
    shutil.copytree(shop, broken)
    (broken / "catalogue.sqlite").write_bytes(b"SQLite format 3\0" + random.Random(1).randbytes(4000))
    for folder, words in ((newer, "newer"), (broken, "damaged")):
        with pytest.raises(LookalikeError, match=words) as caught:
            open_thumbnails(folder)
        assert "\n" not in str(caught.value)
        done = lookalike_cli("info", folder)
        assert (done.returncode, done.stdout) == (1, "")
        assert words in done.stderr
        assert "Traceback" not in done.stderr


def test_wrong_flags_and_files_are_told_apart_by_exit_status(tmp_path: Path) -> None:
    assert lookalike_cli("search", "--nonsense").returncode == 2
    missing = lookalike_cli("search", tmp_path / "absent.jpg", "--in", tmp_path)
    assert missing.returncode == 1
    assert missing.stderr.startswith("error: ")
    assert "hint: " in missing.stderr
    assert lookalike_cli("index", tmp_path / "absent", "--to", tmp_path / "shop").returncode == 1
    assert not (tmp_path / "shop").exists()
    (tmp_path / "bare").mkdir()
    nothing = lookalike_cli("index", tmp_path / "bare", "--to", tmp_path / "shop")
    assert (nothing.returncode, "no pictures found" in nothing.stderr) == (1, True)
