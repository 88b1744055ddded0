"""Items put, got, removed and listed, at the real service on a real catalogue."""

import io
import itertools
import json
import random
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import quote

import httpx
import pytest
from PIL import Image
from stock import awaited, copied, drawn, on_disk, put, stocked

import lookalike
from lookalike import images, upkeep
from lookalike.settings import open_encoder
from lookalike.store import LocalStore
from lookalike.testing import drawing
from lookalike.values import Region
from saving import save

PLACE = "48 deg 51 min, number 12, third floor"  # what nobody shall learn from a picture


@pytest.fixture(scope="module")
def stock(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Stays as it is."""
    return stocked(tmp_path_factory.mktemp("stock"))


@pytest.fixture(scope="module")
def folder(stock: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return copied(stock, tmp_path_factory.mktemp("items") / "shop")


@pytest.fixture(scope="module")
def service(folder: Path, serve) -> Iterator[httpx.Client]:
    """A client that may write."""
    running = serve(folder)
    running.client.headers.update(running.headers("write"))
    yield running.client


def found(client: httpx.Client, picture: bytes) -> list[dict[str, object]]:
    answer = client.post("/v1/search", files={"picture": picture}, data={"top": "3"})
    assert answer.status_code == 200, answer.text
    return list(answer.json()["hits"])


def version(client: httpx.Client) -> str:
    return str(client.get("/v1/catalogue").json()["version"])


def test_an_item_that_was_put_is_found_at_once(service: httpx.Client, folder: Path) -> None:
    attributes = {"price": 49.5, "sizes": [36, 37], "lined": True, "sole": "Rubber"}
    front = drawn(1)
    answer = put(service, "boot", front, drawn(2, "JPEG"), title="Winter boot", attributes=attributes)
    assert answer.status_code == 201
    assert answer.headers["location"] == "/v1/items/boot"
    told = answer.json()
    assert (told["item"], told["title"], told["attributes"]) == ("boot", "Winter boot", attributes)
    assert [(each["width"], each["height"]) for each in told["pictures"]] == [(96, 128)] * 2
    assert service.get("/v1/items/boot").json() == told

    hit = found(service, front)[0]
    assert (hit["item"], hit["title"]) == ("boot", "Winter boot")
    assert hit["score"] == pytest.approx(1, abs=1e-3)  # a PNG is kept as it is
    assert hit["picture"] in [each["picture"] for each in told["pictures"]]
    kept = {Path(name).stem for name in on_disk(folder)}
    assert {each["sha256"] for each in told["pictures"]} <= kept
    with lookalike.open(folder, create=False) as shop:
        assert shop.search(front, top=1)[0].item == "boot"  # for others too


def test_the_same_again_changes_nothing(service: httpx.Client, folder: Path) -> None:
    first = put(service, "same", drawn(3), drawn(3), title="Same")  # twice the same picture is one
    before = version(service), on_disk(folder)
    again = put(service, "same", drawn(3), title="Same")
    assert (again.status_code, again.json()) == (200, first.json())
    assert len(first.json()["pictures"]) == 1
    assert (version(service), on_disk(folder)) == before


def test_replacing_an_item_leaves_nothing_of_what_it_was(service: httpx.Client, folder: Path) -> None:
    (old,) = put(service, "coat", drawn(4), title="Old coat", attributes={"price": 1}).json()["pictures"]
    assert service.get(old["picture"]).status_code == 200
    assert any(name.startswith(old["sha256"]) for name in on_disk(folder, "thumbnails"))
    answer = put(service, "coat", drawn(5), title="New coat")
    assert answer.status_code == 200
    told = service.get("/v1/items/coat").json()
    assert (told["title"], told["attributes"], len(told["pictures"])) == ("New coat", {}, 1)
    assert service.get(old["picture"]).status_code == 404
    left = on_disk(folder) | on_disk(folder, "thumbnails")
    assert not any(name.startswith(old["sha256"]) for name in left)
    assert all(hit["item"] != "coat" or hit["score"] < 0.999 for hit in found(service, drawn(4)))


def test_without_pictures_only_words_change(service: httpx.Client) -> None:
    pictures = put(service, "hat", drawn(6), title="A hat", attributes={"price": 5}).json()["pictures"]
    for described in ({"title": "The hat", "attributes": {"price": 6, "felt": True}}, {}):
        assert put(service, "hat", **described).status_code == 200
        told = service.get("/v1/items/hat").json()
        assert told["title"] == described.get("title", "")
        assert told["attributes"] == described.get("attributes", {})
        assert told["pictures"] == pictures


def test_a_folders_item_can_be_replaced_and_removed(service: httpx.Client, folder: Path) -> None:
    first, second = (each["item"] for each in service.get("/v1/items?limit=2").json()["items"])
    before = service.get(f"/v1/items/{first}").json()
    assert put(service, first, drawn(7), title="Mine").status_code == 200
    after = service.get(f"/v1/items/{first}").json()
    assert after["title"] == "Mine"
    assert not {each["sha256"] for each in after["pictures"]} & {e["sha256"] for e in before["pictures"]}
    assert service.delete(f"/v1/items/{second}").status_code == 204
    assert service.get(f"/v1/items/{second}").status_code == 404


def test_nothing_is_left_of_where_and_how_a_picture_was_taken(service: httpx.Client, folder: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # lies on its side
    exif[0x010E] = PLACE  # description
    exif.get_ifd(0x8825).update({1: "N", 2: (48.0, 51.0, 12.0), 29: PLACE})  # GPS
    exif.get_ifd(0x8769)[0x9286] = PLACE.encode()  # comment
    taken = Image.fromarray(drawing(8, 200, 100))
    jpeg, png = io.BytesIO(), io.BytesIO()
    taken.save(jpeg, "JPEG", exif=exif, comment=PLACE.encode(), xmp=f"<x>{PLACE}</x>".encode())
    taken.save(png, "PNG", exif=exif)
    assert all(PLACE.encode() in file.getvalue() for file in (jpeg, png))
    told = put(service, "taken", jpeg.getvalue(), png.getvalue(), title="Taken").json()
    assert [(each["width"], each["height"]) for each in told["pictures"]] == [(100, 200)] * 2  # upright

    for each in told["pictures"]:
        thumbnail = service.get(each["picture"])
        assert Image.open(io.BytesIO(thumbnail.content)).size == (100, 200)
        (path,) = (folder / "pictures").glob(f"{each['sha256']}.*")
        with Image.open(path) as kept:
            assert (kept.size, dict(kept.getexif())) == ((100, 200), {})
            assert not set(kept.info) & {"exif", "xmp", "comment", "icc_profile"}
    for path in folder.rglob("*"):
        assert not path.is_file() or PLACE.encode() not in path.read_bytes(), path


def test_a_box_is_where_it_was_in_what_is_kept(service: httpx.Client) -> None:
    whole, large = drawn(9), drawn(10, "JPEG", (4200, 2100))  # kept at half its size
    boxes = [[0, 0, 48, 128], [2100, 0, 4200, 2100]]
    told = put(service, "boxed", whole, large, boxes=boxes).json()["pictures"]
    assert [each["regions"][0]["box"] for each in told] == [[0, 0, 48, 128], [1050, 0, 2100, 1050]]
    assert (told[1]["width"], told[1]["height"]) == (2100, 1050)
    left = put(service, "boxed", whole, whole, boxes=[boxes[0], None]).json()["pictures"]
    assert [region["box"] for region in left[0]["regions"]] == [[0, 0, 48, 128], None]  # of one picture
    assert len(left) == 1


@pytest.mark.parametrize(
    "id",
    [
        "plain", "a b", "grün/靴", "../../../../tmp/escaped", "a/../b", "..", "/etc/passwd", "%2e%2e",
        "x?y#z", "'; DROP TABLE items; --", "a\\b", "*", "CON", "\u202eabc", "n" * 200, "C:\\x", "a/",
    ],
)  # fmt: skip
def test_any_text_is_an_id_and_none_a_path(service: httpx.Client, folder: Path, id: str) -> None:
    # a client tidies paths up; this one sends what it is told
    path = f"/v1/items/{quote(id, safe='').replace('.', '%2E')}".encode()
    url = httpx.URL(str(service.base_url), raw_path=path)
    around = sorted(folder.parent.rglob("*"))
    answer = service.put(url, files={"picture": drawn(11)}, data={"item": json.dumps({"title": id})})
    assert (answer.status_code, answer.json()["item"]) == (201, id)
    names = {path.name for path in set(folder.parent.rglob("*")) - set(around)}
    assert all(len(name) == 68 for name in names if not name.startswith("catalogue.sqlite"))
    got = service.get(url)
    assert got.json()["title"] == id
    place = httpx.URL(str(service.base_url), raw_path=answer.headers["location"].encode())
    assert id == ".." or service.get(place).json() == got.json()
    ids = [each["item"] for each in service.get("/v1/items?limit=1000").json()["items"]]
    assert id in ids
    assert service.delete(url).status_code == 204
    assert service.get(url).status_code == 404


@pytest.mark.parametrize("raw", ["", "n" * 201, "a%00b", "line%0Abreak", "%1B%5B2J", "%FF", "%ED%A0%80"])
def test_what_cannot_be_an_id_is_refused(service: httpx.Client, raw: str) -> None:
    url = httpx.URL(str(service.base_url), raw_path=f"/v1/items/{raw}".encode())
    answer = service.put(url, files={"picture": drawn(12)})
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.status_code == 422 or raw == "line%0Abreak"  # no route leads there
    assert service.get(url).status_code == 404


@pytest.mark.parametrize(
    ("described", "pictures", "said"),
    [
        ('{"title": "x"}', 0, "needs a picture"),
        ('{"titel": "x"}', 1, "titel"),
        ("[]", 1, "item"),
        ("{", 1, "JSON"),
        ('{"title": "\\ud800"}', 1, "JSON"),
        ('{"title": "\\u0000"}', 1, "title"),
        ('{"title": 5}', 1, "title"),
        (json.dumps({"title": "x" * 1001}), 1, "title"),
        ('{"attributes": {"a": NaN}}', 1, "attributes"),
        ('{"attributes": {"a": 1e999}}', 1, "attributes"),
        ('{"attributes": {"a": 9223372036854775808}}', 1, "attributes"),
        ('{"attributes": {"a": null}}', 1, "attributes"),
        ('{"attributes": {"a": {"b": 1}}}', 1, "attributes"),
        ('{"attributes": {"a": []}}', 1, "attributes"),
        ('{"attributes": {"": 1}}', 1, "attributes"),
        (json.dumps({"attributes": dict.fromkeys(map(str, range(201)), 1)}), 1, "attributes"),
        ('{"boxes": [[0, 0, 9, 9]]}', 2, "1 boxes for 2 pictures"),
        ('{"boxes": [[0, 0, 9]]}', 1, "boxes"),
        ('{"boxes": [[9, 9, 0, 0]]}', 1, "picture 1: box"),
        ('{"boxes": [[500, 0, 600, 50]]}', 1, "outside the picture"),
        ('{"boxes": [[0, 0, 1e999, 50]]}', 1, "boxes"),
    ],
)
def test_a_description_that_is_wrong_changes_nothing(
    service: httpx.Client, folder: Path, described: str, pictures: int, said: str
) -> None:
    before = version(service), on_disk(folder)
    files = [("picture", drawn(20 + place)) for place in range(pictures)]
    fields = [("item", (None, described, "application/json"))]
    answer = service.put("/v1/items/wrong", files=[*fields, *files])  # type: ignore[arg-type]
    assert (answer.status_code, answer.headers["content-type"]) == (422, "application/problem+json")
    assert said in answer.json()["detail"]
    assert str(folder) not in answer.text
    assert service.get("/v1/items/wrong").status_code == 404
    assert (version(service), on_disk(folder)) == before


def test_a_request_that_is_wrong_changes_nothing(service: httpx.Client, folder: Path) -> None:
    put(service, "kept", drawn(30), title="Kept")
    before = version(service), on_disk(folder), service.get("/v1/items/kept").json()
    one = drawn(31)
    asked: list[tuple[int, dict[str, object]]] = [
        (415, {"json": {"title": "x"}}),
        (415, {"content": one}),
        (422, {"files": {"image": one}}),
        (422, {"files": {"picture": one}, "data": {"title": "x"}}),
        (422, {"files": [("picture", one), ("picture", b"not a picture")]}),
        (422, {"files": {"picture": one[: len(one) // 2]}}),
        (422, {"files": [("picture", one)] * 17}),
        (400, {"files": [("picture", one)] * 18}),
        (400, {"content": b"--x\r\nrubbish", "headers": {"content-type": "multipart/form-data"}}),
    ]
    for status, request in asked:
        answer = service.put("/v1/items/kept", **request)  # type: ignore[arg-type]
        assert answer.status_code == status, (request, answer.text)
        assert answer.headers["content-type"] == "application/problem+json"
    after = version(service), on_disk(folder), service.get("/v1/items/kept").json()
    assert after == before


def test_writing_needs_a_key_that_allows_it(service: httpx.Client, folder: Path) -> None:
    from lookalike.server.access import Keys

    searching = {"Authorization": f"Bearer {Keys(folder).new('search')}"}
    with httpx.Client(base_url=service.base_url) as stranger:
        for headers, status in (({}, 401), (searching, 403), ({"Authorization": "Bearer lk_x"}, 401)):
            asked = [
                stranger.put("/v1/items/a", files={"picture": drawn(1)}, headers=headers),
                stranger.delete("/v1/items/boot", headers=headers),
                stranger.post("/v1/items", content=b"{}", headers=headers),
                stranger.get("/v1/jobs", headers=headers),
            ]
            assert [answer.status_code for answer in asked] == [status] * 4


def test_pages_lead_through_all_items_and_never_cut_a_wish(service: httpx.Client, folder: Path) -> None:
    with LocalStore(folder) as store:
        everything = store.items_after("", 10_000)
    listed: list[tuple[str, str]] = []
    page = {"next": ""}
    while page["next"] is not None:
        page = service.get("/v1/items", params={"after": page["next"], "limit": 7}).json()
        assert len(page["items"]) <= 7
        listed += [(each["item"], each["title"]) for each in page["items"]]  # type: ignore[index]
    assert listed == everything
    assert service.get("/v1/items", params={"limit": len(everything)}).json()["next"] is None
    for wrong in ("limit=0", "limit=1001", "limit=x", "offset=3"):
        assert service.get(f"/v1/items?{wrong}").status_code == 422, wrong


def test_removing_an_item_removes_its_pictures_unless_another_has_them(
    service: httpx.Client, folder: Path
) -> None:
    shared, own = drawn(40), drawn(41)
    for id, pictures in (("one", [shared, own]), ("other", [shared])):
        put(service, id, *pictures)
    names = {each["sha256"]: each["picture"] for each in service.get("/v1/items/one").json()["pictures"]}
    (kept,) = (each["sha256"] for each in service.get("/v1/items/other").json()["pictures"])
    assert service.delete("/v1/items/one").status_code == 204
    assert service.delete("/v1/items/one").status_code == 404
    for sha256, picture in names.items():
        assert (f"{sha256}.png" in on_disk(folder)) == (sha256 == kept)
        assert service.get(picture).status_code == (200 if sha256 == kept else 404)
    assert found(service, shared)[0]["item"] == "other"


def test_what_another_process_changes_shows_without_a_restart(
    service: httpx.Client, folder: Path, tmp_path: Path
) -> None:
    save(tmp_path / "elsewhere" / "cap" / "front.png", 50)
    with lookalike.open(folder) as shop:
        shop.add(tmp_path / "elsewhere")
    assert service.get("/v1/items/cap").status_code == 200
    assert found(service, drawn(50))[0]["item"] == "cap"
    with lookalike.open(folder) as shop:
        shop.remove(["cap"])
    assert service.get("/v1/items/cap").status_code == 404


def test_while_another_process_writes_a_request_is_told_to_come_back(
    service: httpx.Client, folder: Path
) -> None:
    put(service, "free", drawn(60), title="Before")
    with LocalStore(folder, write=True), ThreadPoolExecutor(3) as pool:
        asked = [
            pool.submit(put, service, "free", title="Refused"),
            pool.submit(put, service, "free", drawn(61), title="Refused"),
            pool.submit(service.delete, "/v1/items/free"),
        ]
        assert found(service, drawn(60))[0]["item"] == "free"  # searching goes on
        for answer in (each.result() for each in asked):
            assert answer.status_code == 503
            assert int(answer.headers["retry-after"]) > 0
            assert str(folder) not in answer.text
    assert service.get("/v1/items/free").json()["title"] == "Before"
    assert put(service, "free", title="After").status_code == 200


def test_an_item_is_never_kept_by_another_encoder_than_the_catalogues(
    stock: Path, tmp_path: Path, serve
) -> None:
    folder = copied(stock, tmp_path / "shop")
    first, other = map(open_encoder, ("efficientnet-lite2-mean", "efficientnet-lite2-gem"))
    assert first.dim == other.dim
    with lookalike.open(folder) as shop:
        upkeep.reindex(shop, first, shop.regime)
    running = serve(folder)
    running.client.headers.update(running.headers("write"))
    put(running.client, "before", drawn(65)).raise_for_status()
    with lookalike.open(folder) as shop:
        upkeep.reindex(shop, other, shop.regime)
    answer = put(running.client, "after", drawn(66))
    assert answer.status_code in (201, 503), answer.text  # with the new encoder, or not at all
    with lookalike.open(folder, create=False) as shop:
        for row in shop.store.scan():
            (vector,) = other.pictures([Region(images.load(row.source))])
            assert vector @ row.vector == pytest.approx(1, abs=1e-2)


def test_filters_follow_attributes_that_change_alone(service: httpx.Client) -> None:
    put(service, "lamp", drawn(80), attributes={"shade": "linen"}).raise_for_status()
    before = service.get("/v1/catalogue").json()
    assert before["filters"]["shade"]["values"] == ["linen"]
    assert service.get("/v1/catalogue").json() == before
    put(service, "lamp", attributes={"shade": "paper"}).raise_for_status()
    after = service.get("/v1/catalogue").json()
    assert after["filters"]["shade"]["values"] == ["paper"]
    assert after["version"] != before["version"]
    assert service.delete("/v1/items/lamp").status_code == 204
    assert "shade" not in service.get("/v1/catalogue").json()["filters"]


def test_nobody_sees_an_item_half_replaced(service: httpx.Client) -> None:
    states = [("Day", drawn(70), drawn(71)), ("Night", drawn(72))]
    expected = set()
    for title, *pictures in states:
        told = put(service, "turning", *pictures, title=title, attributes={"when": title}).json()
        expected.add(json.dumps(told, sort_keys=True))
    stop = threading.Event()

    def turn() -> None:
        for title, *pictures in itertools.cycle(states):
            if stop.is_set():
                return
            put(service, "turning", *pictures, title=title, attributes={"when": title}).raise_for_status()

    with ThreadPoolExecutor(1) as pool:
        turning = pool.submit(turn)
        seen = {json.dumps(service.get("/v1/items/turning").json(), sort_keys=True) for _ in range(60)}
        hits = [found(service, drawn(70))[0] for _ in range(10)]
        stop.set()
        turning.result()
    assert seen == expected
    assert {hit["title"] for hit in hits if hit["item"] == "turning"} <= {"Day", "Night"}
    assert all(hit["attributes"] == {"when": hit["title"]} for hit in hits if hit["item"] == "turning")


def test_what_a_kill_left_half_written_goes_at_the_next_start(stock: Path, tmp_path: Path, serve) -> None:
    folder = copied(stock, tmp_path / "shop")
    (folder / "pictures").mkdir()
    for left in ("a" * 64 + ".png.unfinished", "b" * 64 + ".jpg.unfinished"):
        (folder / "pictures" / left).write_bytes(b"half")
    serve(folder)
    awaited(lambda: not on_disk(folder))


def test_nothing_acknowledged_is_lost_when_the_service_is_killed_under_load(
    stock: Path, tmp_path: Path, serve
) -> None:
    """kill -9 while several clients write: after a restart each item is as it was acknowledged, or newer."""
    folder, chance = copied(stock, tmp_path / "shop"), random.Random(0)
    acknowledged: dict[str, int] = {}  # the round of each item; 0: removed
    asked: dict[str, int] = {}
    done: list[str] = []
    rounds = itertools.count(1)

    def write(client: httpx.Client, mine: list[str], until: threading.Event) -> None:
        dice = random.Random(mine[0])
        while not until.is_set():
            id = dice.choice(mine)
            number = 0 if dice.random() < 0.2 and acknowledged.get(id) else next(rounds)
            asked[id] = number
            try:
                if number:
                    pictures = [drawn(number % 50), drawn(50 + number % 50, "JPEG")][: 1 + number % 2]
                    answer = put(client, id, *pictures, title=f"round {number}")
                else:
                    answer = client.delete(f"/v1/items/{id}")
            except httpx.TransportError:
                return
            if answer.status_code in (429, 503):  # on a busy machine it takes too long: nothing is promised
                continue
            assert answer.status_code in (200, 201, 204), answer.text
            acknowledged[id] = number
            done.append(id)

    for _ in range(3):
        running = serve(folder)
        with ThreadPoolExecutor(4) as pool:
            until = threading.Event()
            told = {"base_url": running.url, "headers": running.headers("write"), "timeout": 30}
            clients = [httpx.Client(**told) for _ in range(4)]
            writers = [
                pool.submit(write, client, [f"writer-{number}-{k}" for k in range(6)], until)
                for number, client in enumerate(clients)
            ]
            time.sleep(chance.uniform(1, 2.5))
            running.process.kill()
            running.process.wait()
            until.set()
            for writer in writers:
                writer.result()
        with lookalike.open(folder, create=False) as catalogue:
            assert upkeep.verify(catalogue).sound
            for id, number in acknowledged.items():
                rows = catalogue.store.rows_of(id)
                now = int(rows[0].item.title.removeprefix("round ")) if rows else 0
                assert now in (number, asked[id]), id
                acknowledged[id] = now
                assert len({row.sha256 for row in rows}) == (1 + now % 2 if now else 0)
                assert all(Path(row.source).exists() for row in rows)

    running = serve(folder)  # and what kills left behind goes
    running.client.headers.update(running.headers("search"))
    with LocalStore(folder) as store:
        kept = {Path(row.source).name for row in store.scan() if row.origin == "api"}
    awaited(lambda: on_disk(folder) == kept)
