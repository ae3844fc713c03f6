"""How many processor cores this process may really use, which is seldom `os.cpu_count()`."""

from __future__ import annotations

import os
from pathlib import Path

_CGROUP_V2 = Path("/sys/fs/cgroup/cpu.max")
_CGROUP_V1 = (
    Path("/sys/fs/cgroup/cpu/cpu.cfs_quota_us"),
    Path("/sys/fs/cgroup/cpu/cpu.cfs_period_us"),
)


def usable_cores() -> int:
    """Cores by affinity mask and container quota, whichever is less; at least 1."""
    by_mask = len(os.sched_getaffinity(0))
    quota = _quota()
    return max(1, by_mask if quota is None else min(by_mask, int(quota)))


def _quota() -> float | None:
    try:
        if _CGROUP_V2.exists():
            quota, period = _CGROUP_V2.read_text().split()
        else:
            quota, period = (file.read_text().strip() for file in _CGROUP_V1)
        return float(quota) / float(period) if float(quota) > 0 else None
    except (OSError, ValueError):  # no container, or "max": no quota
        return None
