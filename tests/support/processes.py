"""Looking at processes that may end while they are looked at."""

from __future__ import annotations

import psutil


def alive(pid: int) -> bool:
    """Whether it runs; a zombie waits for its parent, and does nothing."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def command(process: psutil.Process) -> str:
    """What it was started with, or calls itself; empty once it has ended."""
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""
