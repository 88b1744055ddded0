"""How glibc deals with memory that is given back."""

from __future__ import annotations

import ctypes
import sys

_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8  # malloc.h
_KEPT = 128 << 20
_MAPPED = 32 << 20  # the most that glibc takes


def keep() -> None:
    """Have up to 128 MB of what this process gives back kept for what it asks for next.

    Pictures come and go all the time, and fresh pages for each cost 3 to 4 % of finding and encoding. For
    programs, before they start threads; with another library than glibc nothing changes.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        mallopt(_ARENA_MAX, 1)  # each thread's own would keep as much
        mallopt(_MMAP_THRESHOLD, _MAPPED)
        mallopt(_TRIM_THRESHOLD, _KEPT)
