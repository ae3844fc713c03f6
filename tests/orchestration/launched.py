"""Runs for the launcher to launch: one that tells what it was born with, and one that waits."""

from __future__ import annotations

import json
import os
import sys
import threading
from pathlib import Path

import dagster as dg

TOLD = "OVERNIGHT_TEST_TOLD"
STARTED = dict.fromkeys(sys.modules)


def _tell() -> None:
    told = {"pid": os.getpid(), "parent": os.getppid(), "imported": [*STARTED]}
    unfinished = Path(os.environ[TOLD] + ".new")
    unfinished.write_text(json.dumps(told))
    unfinished.rename(os.environ[TOLD])


@dg.op
def tell() -> None:
    _tell()


@dg.op
def tell_and_wait() -> None:
    _tell()
    threading.Event().wait()


@dg.job(executor_def=dg.in_process_executor)
def telling() -> None:
    tell()


@dg.job(executor_def=dg.in_process_executor)
def waiting() -> None:
    tell_and_wait()
