"""Whether processes have ended."""

import time
from collections.abc import Iterable

import psutil


def running(pid: int) -> bool:
    """False for what only waits to be buried, too: not everywhere does somebody bury orphans."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def await_ended(processes: Iterable[psutil.Process], seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while any(running(process.pid) for process in processes):
        assert time.monotonic() < end, "they do not end"
        time.sleep(0.02)
