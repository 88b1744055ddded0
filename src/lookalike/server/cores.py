"""How many cores this process may use: in a container fewer than the machine has."""

from __future__ import annotations

import math
import os
from pathlib import Path


def cores(quota: Path = Path("/sys/fs/cgroup/cpu.max")) -> int:
    """Those that the process may run on, or its control group's share of them, rounded up; at least one.

    `quota` holds "MICROSECONDS PERIOD", or "max PERIOD" where there is no limit. That of version 1 of control
    groups is not looked at.
    """
    there = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        allowed, period = map(int, quota.read_text().split())
    except (OSError, ValueError):  # not there, or "max"
        return there
    return max(1, min(there, math.ceil(allowed / period)))
