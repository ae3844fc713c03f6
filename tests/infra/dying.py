"""A code location for Dagster: a run that gets stuck the first time, so that it can be killed."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import dagster as dg

PIDS = "OVERNIGHT_TEST_PIDS"


@dg.op
def leave_a_pid() -> None:
    pids = Path(os.environ[PIDS])
    first = not pids.exists()
    with pids.open("a") as file:
        file.write(f"{os.getpid()}\n")
    if first:
        threading.Event().wait()


@dg.job(executor_def=dg.in_process_executor)
def stuck_once() -> None:
    leave_a_pid()


defs = dg.Definitions(jobs=[stuck_once])
