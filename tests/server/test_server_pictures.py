"""Thumbnails of a catalogue's pictures, from the real service."""

import hashlib
import io
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image
from stock import copied, drawn, on_disk, put, stocked

import lookalike
from lookalike import upkeep
from lookalike.settings import Settings
from lookalike.store import LocalStore
from lookalike.testing import ThumbnailEncoder, drawing
from lookalike.values import Item, Row

PLACE = "48 deg 51 min, number 12, third floor"


@pytest.fixture(scope="module")
def stock(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Stays as it is."""
    return stocked(tmp_path_factory.mktemp("stock"))


@pytest.fixture(scope="module")
def folder(stock: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = copied(stock, tmp_path_factory.mktemp("thumbnails") / "shop")
    exif = Image.Exif()
    exif[0x0112] = 6  # lies on its side
    exif.get_ifd(0x8825).update({1: "N", 29: PLACE})
    taken = folder.parent / "more" / "large" / "taken.jpg"
    taken.parent.mkdir(parents=True)
    Image.fromarray(drawing(1, 3000, 2000)).save(taken, exif=exif, comment=PLACE.encode())
    (folder.parent / "more" / "gone").mkdir()
    (folder.parent / "more" / "other").mkdir()
    (folder.parent / "more" / "gone" / "a.png").write_bytes(drawn(2))
    (folder.parent / "more" / "other" / "a.png").write_bytes(drawn(3))
    with lookalike.open(folder) as catalogue:
        catalogue.add(folder.parent / "more")
    return folder


@pytest.fixture(scope="module")
def service(folder: Path, serve) -> Iterator[httpx.Client]:
    """A client without a key."""
    yield serve(folder).client


def place(client: httpx.Client, item: str) -> str:
    return str(client.get(f"/v1/items/{item}").json()["pictures"][0]["picture"])


def opened(answer: httpx.Response) -> Image.Image:
    assert (answer.status_code, answer.headers["content-type"]) == (200, "image/jpeg"), answer.text
    return Image.open(io.BytesIO(answer.content), formats=["JPEG"])


@pytest.mark.parametrize(("width", "size"), [(160, (160, 240)), (320, (320, 480)), (1280, (1280, 1920))])
def test_a_thumbnail_is_upright_and_says_nothing_but_what_it_shows(
    service: httpx.Client, width: int, size: tuple[int, int]
) -> None:
    answer = service.get(place(service, "large"), params={"width": width})
    thumbnail = opened(answer)
    assert thumbnail.size in (size, (min(width, 1000), min(2 * width, 1500)))
    assert not set(thumbnail.info) & {"exif", "xmp", "comment", "icc_profile"}
    assert PLACE.encode() not in answer.content
    upright = np.rot90(drawing(1, 3000, 2000), -1)
    whole = Image.fromarray(upright).resize(thumbnail.size, Image.Resampling.BOX)
    assert np.abs(np.asarray(thumbnail, np.int16) - np.asarray(whole, np.int16)).mean() < 6


def test_a_small_picture_is_not_enlarged(service: httpx.Client) -> None:
    assert opened(service.get(place(service, "item-1"), params={"width": 1280})).size == (96, 128)
    assert opened(service.get(place(service, "item-1"))).size == (96, 128)


def test_a_browser_may_keep_it_for_ever_and_a_proxy_only_what_needs_no_key(
    service: httpx.Client, folder: Path
) -> None:
    from lookalike.server.access import Keys

    url = place(service, "item-2")
    answer = service.get(url, params={"width": 160})
    assert answer.headers["cache-control"] == "public, max-age=31536000, immutable"
    again = service.get(url, params={"width": 160}, headers={"If-None-Match": answer.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    assert again.headers["etag"] == answer.headers["etag"]
    other = service.get(url, params={"width": 320}, headers={"If-None-Match": answer.headers["etag"]})
    assert other.status_code == 200
    key = {"Authorization": f"Bearer {Keys(folder).new('search')}"}
    assert service.get(url, headers=key).headers["cache-control"] == "private, max-age=31536000, immutable"


def test_each_is_made_once_however_many_ask(service: httpx.Client, folder: Path) -> None:
    url = place(service, "item-3")
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: service.get(url, params={"width": 160}), range(16)))
    assert len({answer.content for answer in answers}) == 1
    (path,) = (folder / "thumbnails").glob(f"{url.rpartition('/')[2]}-*")
    made = path.stat()
    assert service.get(url, params={"width": 160}).content == path.read_bytes()
    assert (path.stat().st_ino, path.stat().st_mtime_ns) == (made.st_ino, made.st_mtime_ns)
    assert not [name for name in on_disk(folder, "thumbnails") if not name.endswith(".jpg")]
    path.unlink()  # they may be deleted
    assert service.get(url, params={"width": 160}).content == answers[0].content


def test_only_the_catalogues_pictures_are_shown(service: httpx.Client, folder: Path) -> None:
    sha256 = place(service, "item-4").rpartition("/")[2]
    shutil.copy(folder / "catalogue.sqlite", folder / "thumbnails" / f"{'0' * 64}-160.jpg")
    for name in ("0" * 64, sha256[:-1], sha256.upper(), f"{sha256}-160", "..", "%2e%2e%2fcatalogue.sqlite",
                 "..%2f..%2f..%2f..%2fetc%2fpasswd", "%00", "%ff", "*"):  # fmt: skip
        answer = service.get(httpx.URL(str(service.base_url), raw_path=f"/v1/pictures/{name}".encode()))
        assert answer.status_code == 404, name
        assert answer.headers["content-type"] == "application/problem+json"
    for width in ("0", "161", "1e3", "-160", "99999", "x"):
        assert service.get(f"/v1/pictures/{sha256}", params={"width": width}).status_code == 422


def test_a_picture_whose_file_has_gone_or_changed_is_gone(service: httpx.Client, folder: Path) -> None:
    more = folder.parent / "more"
    gone, other = place(service, "gone"), place(service, "other")
    (more / "gone" / "a.png").unlink()
    (more / "other" / "a.png").write_bytes(drawn(4))
    for url in (gone, other):
        answer = service.get(url)
        assert (answer.status_code, answer.headers["content-type"]) == (410, "application/problem+json")
        assert "cache-control" not in answer.headers or "immutable" not in answer.headers["cache-control"]
        assert str(more) not in answer.text


def test_a_picture_that_no_stranger_could_send_has_no_thumbnail(service: httpx.Client, folder: Path) -> None:
    """Pictures of one's own disk may be larger than uploads; here they go through what decodes those."""
    large = folder.parent / "large.png"
    Image.new("L", (9000, 9000)).save(large)
    with LocalStore(folder, write=True) as store:
        (row, *_) = store.scan()
        sha256 = hashlib.sha256(large.read_bytes()).hexdigest()
        store.add([Row(Item("vast"), str(large), sha256, 9000, 9000, row.vector)], store.start_run())
    assert service.get(f"/v1/pictures/{sha256}").status_code == 410


def test_a_service_that_can_keep_none_makes_them_each_time(stock: Path, tmp_path: Path, serve) -> None:
    folder = copied(stock, tmp_path / "shop")
    (folder / "thumbnails").write_bytes(b"")  # no folder can be made
    client = serve(folder).client
    first, again = (client.get(place(client, "item-0"), params={"width": 160}) for _ in range(2))
    assert opened(first).size == (96, 128)
    assert again.content == first.content


def test_pictures_that_came_over_http_move_with_the_catalogue(stock: Path, tmp_path: Path, serve) -> None:
    folder = copied(stock, tmp_path / "shop")
    running = serve(folder)
    running.client.headers.update(running.headers("write"))
    put(running.client, "boot", drawn(1)).raise_for_status()
    url = place(running.client, "boot")
    running.process.terminate()
    running.process.wait(timeout=60)
    assert "shutdown complete" in running.log.read_text()
    moved = folder.rename(tmp_path / "moved")
    client = serve(moved).client
    assert opened(client.get(url)).size == (96, 128)
    hit = client.get("/v1/items/boot").json()
    told = client.post(
        "/v1/explain",
        data={"item": "boot", "sha256": hit["pictures"][0]["sha256"]},
        files={"picture": drawn(1)},
    )
    assert told.status_code == 200, told.text
    encoder = ThumbnailEncoder()
    with lookalike.open(moved, create=False) as catalogue:
        (row,) = catalogue.store.rows_of("boot")
        assert Path(row.source).parent == moved / "pictures" and Path(row.source).is_file()
        assert upkeep.reindex(catalogue, encoder, catalogue.regime) == []
        upkeep.export(catalogue, tmp_path / "items.jsonl")
    with lookalike.open(moved, Settings(encoder=encoder), create=False) as catalogue:
        assert catalogue.search(Path(row.source), top=1)[0].item == "boot"
    assert row.source in (tmp_path / "items.jsonl").read_text()


def test_searching_that_needs_a_key_shows_no_pictures_without(stock: Path, tmp_path: Path, serve) -> None:
    running = serve(copied(stock, tmp_path / "shop"), "--private")
    key = running.headers("search")
    url = running.client.get("/v1/items/item-0", headers=key).json()["pictures"][0]["picture"]
    assert running.client.get(url).status_code == 401
    opened(running.client.get(url, headers=key))
    assert running.client.get(url).status_code == 401  # now that it is made
