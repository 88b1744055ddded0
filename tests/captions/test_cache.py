import sqlite3
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from lookalike.captions import cache as cache_module
from lookalike.captions.cache import Cache, CacheError

VALUE = {"text": "navy, “V-neck”\x00 \ud83d", "numbers": [1, 2.5, None], "deep": {"a": True}}


@pytest.fixture(params=["file", "memory"])
def cache(request: pytest.FixtureRequest, tmp_path: Path) -> Cache:
    opened = Cache(tmp_path / "steps.sqlite" if request.param == "file" else None)
    request.addfinalizer(opened.close)
    return opened


def test_what_was_put_is_found_until_it_is_forgotten(cache: Cache) -> None:
    assert cache.get("a") is None
    cache.put("a", VALUE)
    cache.put("b", {})
    assert cache.get("a") == VALUE
    assert cache.get("b") == {}
    assert len(cache) == 2
    cache.put("a", {"text": "newer"})
    assert cache.get("a") == {"text": "newer"}
    cache.forget("a")
    cache.forget("a")
    assert cache.get("a") is None
    assert len(cache) == 1


def test_a_value_with_a_time_to_live_goes(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = 1_000_000.0
    monkeypatch.setattr(cache_module.time, "time", lambda: clock)
    cache.put("brief", VALUE, ttl_s=60)
    cache.put("lasting", VALUE)
    clock += 59
    assert cache.get("brief") == VALUE
    clock += 1
    assert cache.get("brief") is None
    assert cache.get("lasting") == VALUE
    cache.put("brief", {"again": 1})
    clock += 1e9
    assert cache.get("brief") == {"again": 1}


def test_a_file_is_found_again_by_the_next_who_opens_it(tmp_path: Path) -> None:
    path = tmp_path / "made" / "on the way" / "steps.sqlite"
    with Cache(path) as first:
        first.put("a", VALUE)
    with Cache(path) as second, Cache(path) as third:
        assert second.get("a") == third.get("a") == VALUE
        third.put("b", VALUE)
        assert second.get("b") == VALUE


def test_threads_share_a_cache(cache: Cache) -> None:
    def work(worker: int) -> None:
        for number in range(50):
            cache.put(f"{worker}-{number}", {"number": number})
            cache.put("shared", {"worker": worker})
            assert cache.get(f"{worker}-{number}") == {"number": number}

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))
    assert len(cache) == 401


def test_processes_make_and_share_a_file(tmp_path: Path) -> None:
    path = tmp_path / "steps.sqlite"
    work = """
import sys
from pathlib import Path
from lookalike.captions.cache import Cache
sys.stdin.readline()
with Cache(Path(sys.argv[1])) as cache:
    for number in range(100):
        cache.put(f"{sys.argv[2]}-{number}", {"number": number})
"""
    processes = [
        subprocess.Popen([sys.executable, "-c", work, str(path), str(worker)], stdin=subprocess.PIPE)
        for worker in range(4)
    ]
    for process in processes:  # all are waiting: let them go together
        assert process.stdin is not None
        process.stdin.write(b"go\n")
        process.stdin.close()
    assert [process.wait(timeout=60) for process in processes] == [0] * 4
    with Cache(path) as cache:
        assert len(cache) == 400
        assert cache.get("3-99") == {"number": 99}


def test_a_damaged_row_is_as_good_as_none_and_can_be_put_again(tmp_path: Path) -> None:
    path = tmp_path / "steps.sqlite"
    with Cache(path) as cache:
        for key in "abcd":
            cache.put(key, VALUE)
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE steps SET value = substr(value, 1, 5) WHERE key = 'a'")
        connection.execute("UPDATE steps SET value = x'ff00' WHERE key = 'b'")
        connection.execute("UPDATE steps SET value = CAST('{\"text\": \"red\"}' AS BLOB) WHERE key = 'c'")
    connection.close()
    with Cache(path) as cache:
        assert [cache.get(key) for key in "abcd"] == [None, None, None, VALUE]
        cache.put("a", {"text": "again"})
        assert cache.get("a") == {"text": "again"}


def test_a_file_of_something_else_is_refused_and_left_as_it_was(tmp_path: Path) -> None:
    text = tmp_path / "notes.txt"
    text.write_text("no database at all, and longer than a header of SQLite would be: " * 20)
    other = tmp_path / "other.sqlite"
    with sqlite3.connect(other) as connection:
        connection.execute("CREATE TABLE mine (a)")
    connection.close()
    for path in (text, other):
        before = path.read_bytes()
        with pytest.raises(CacheError) as caught:
            Cache(path)
        assert str(path) in str(caught.value)
        assert caught.value.hint == "use another file"
        assert path.read_bytes() == before


def test_another_version_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "steps.sqlite"
    Cache(path).close()
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA user_version = 2")
    connection.close()
    with pytest.raises(CacheError, match="another version"):
        Cache(path)


def test_a_file_damaged_all_over_is_reported_with_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "steps.sqlite"
    with Cache(path) as cache:
        for number in range(500):
            cache.put(str(number), VALUE)
    data = bytearray(path.read_bytes())
    data[4096:] = b"\xff" * (len(data) - 4096)
    path.write_bytes(data)
    with pytest.raises(CacheError, match="damaged") as caught, Cache(path) as cache:
        cache.get("1")
    assert "delete it" in caught.value.hint


def test_a_place_where_no_file_can_be_is_reported(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file" / "steps.sqlite", tmp_path):
        with pytest.raises(CacheError):
            Cache(path)


def test_in_memory_the_oldest_make_room(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(cache_module, "IN_MEMORY", 3)
    with Cache() as bounded, Cache(tmp_path / "steps") as kept:
        for number in range(5):
            for each in (bounded, kept):
                each.put(f"key {number}", {"reply": number})
        assert [bounded.get(f"key {number}") for number in range(5)] == [
            None, None, {"reply": 2}, {"reply": 3}, {"reply": 4}
        ]  # fmt: skip
        assert len(kept) == 5
