"""What is kept of the memory that was given back, counted in fresh pages."""

import subprocess
import sys

import pytest

TOUCHED = """
import resource, sys
from concurrent.futures import ThreadPoolExecutor
from lookalike import memory

if sys.argv[1] == "keep":
    memory.keep()

def take(_):
    held = [b"1" * 12_000_000 for _ in range(4)]

with ThreadPoolExecutor(1) as thread:
    list(thread.map(take, range(5)))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    list(thread.map(take, range(20)))
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def pages(kept: str) -> int:
    done = subprocess.run([sys.executable, "-c", TOUCHED, kept], capture_output=True, text=True, check=True)
    return int(done.stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's")
def test_pictures_that_come_and_go_take_no_fresh_pages() -> None:
    assert pages("keep") < 1000 < pages("give back")
