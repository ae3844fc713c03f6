"""How many processor cores this process may really use, which is seldom `os.cpu_count()`."""

from __future__ import annotations

import os
from pathlib import Path

_SHARED_BY = "OVERNIGHT_CORES_SHARED_BY"
_CGROUP_V2 = Path("/sys/fs/cgroup/cpu.max")
_CGROUP_V1 = (
    Path("/sys/fs/cgroup/cpu/cpu.cfs_quota_us"),
    Path("/sys/fs/cgroup/cpu/cpu.cfs_period_us"),
)


def share_cores(engines: int) -> None:
    """Have this process and those that it starts use their part of the cores: so many share them.

    Args:
        engines: on this machine, this process's own among them.
    """
    os.environ[_SHARED_BY] = str(engines)


def usable_cores() -> int:
    """Cores by affinity mask and container quota, whichever is less; at least 1.

    Where several engines share a machine (`share_cores`), their part of these.
    """
    by_mask = len(os.sched_getaffinity(0))
    quota = _quota()
    cores = by_mask if quota is None else min(by_mask, int(quota))
    return max(1, cores // int(os.environ.get(_SHARED_BY, "1")))


def _quota() -> float | None:
    try:
        if _CGROUP_V2.exists():
            quota, period = _CGROUP_V2.read_text().split()
        else:
            quota, period = (file.read_text().strip() for file in _CGROUP_V1)
        return float(quota) / float(period) if float(quota) > 0 else None
    except (OSError, ValueError):  # no container, or "max": no quota
        return None
