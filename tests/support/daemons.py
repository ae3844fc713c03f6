"""Dagster's daemon (`overnight daemon`) as a process, while a test or a benchmark needs it."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

ROOT = Path(__file__).parents[2]
_STOP_S = 60


@contextlib.contextmanager
def daemon(location: str, environment: Mapping[str, str]) -> Iterator[None]:
    """Dagster's daemon at work on a code location; nothing of it is left after the block.

    Args:
        location: the module that declares it.
        environment: its variables, `DAGSTER_HOME` among them.
    """
    process = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-m", "overnight.cli", "daemon", "-m", location],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        yield
    finally:
        process.send_signal(signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_STOP_S)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
