import os
from pathlib import Path

import pytest

from lookalike.server.cores import cores
from lookalike.server.limits import Limits

THERE = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


@pytest.mark.parametrize(
    ("told", "most"),
    [
        ("100000 100000", 1),
        ("20000 100000", 1),
        ("150000 100000", 2),
        ("6400000 100000", 64),
        ("max 100000", 999),
    ],
)
def test_a_containers_quota_counts_where_it_is_less_than_what_there_is(
    tmp_path: Path, told: str, most: int
) -> None:
    quota = tmp_path / "cpu.max"
    quota.write_text(f"{told}\n")
    assert cores(quota) == min(THERE, most)


def test_without_a_quota_it_is_what_there_is(tmp_path: Path) -> None:
    assert cores(tmp_path / "none") == THERE


def test_more_cores_have_more_requests_at_work_and_in_line() -> None:
    shares = [(limits.searching, limits.waiting) for limits in map(Limits().on, (1, 2, 3, 16))]
    assert shares == [(4, 32), (4, 32), (6, 48), (32, 256)]
    assert Limits().on(16).body_bytes == Limits().body_bytes
