"""A step process as the orchestrator starts it: one try at one partition, then it ends.

`python -m tests.chaos.step DAY --run-id R --log FILE`; the installation is `OVERNIGHT_HOME`.
"""

from __future__ import annotations

import argparse
import datetime as dt
import logging
import sys
import time
import traceback
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from overnight import run
from overnight.errors import OvernightError, PartitionBusyError, StaleAttemptError
from overnight.home import Home
from overnight.warehouse.connect import Warehouse
from tests.chaos import passages
from tests.chaos.engine import Traced
from tests.support import shop

if TYPE_CHECKING:
    from collections.abc import Sequence

    from overnight.job import InferenceJob

BATCH = 4
STEP_SECONDS = 0.025
PUBLISHED, FAILED, STALE, BUSY, RETRY = 0, 1, 3, 4, 75


def job_of(
    log: Path | str,
    step_seconds: float = STEP_SECONDS,
    publish: str = "replace",
    *,
    letterbox: str = "",
    computed: bool = False,
) -> InferenceJob:
    """160 rows a second, in splits of 50; `computed` has SQL find the length."""
    engine = Traced(
        window=16, batch=BATCH, step_seconds=step_seconds, log=str(log), letterbox=letterbox
    )
    return shop.reversing(
        engine=engine, publish=publish, over_partition={"length": length} if computed else {}
    )


def length(row: Any) -> Any:
    """What the engine says as well."""
    return sa.func.char_length(row.reversed)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("day")
    parser.add_argument("--run-id", required=True)
    parser.add_argument("--log", required=True)
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--step-seconds", type=float, default=STEP_SECONDS)
    parser.add_argument("--publish", default="replace")
    parser.add_argument("--computed", action="store_true")
    parser.add_argument("--letterbox", default="")
    parser.add_argument("--retention-days", type=int, default=7)
    parser.add_argument("--gate-at", choices=("audit", "publish"), help="what to wait before")
    parser.add_argument("--gate", type=Path, help="the file to wait for")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s: %(message)s")
    passages.from_environment()
    if options.gate_at is not None:
        _gate(options.gate_at, options.gate)
    home = Home.from_env()
    try:
        with Warehouse.open(home=home.path) as warehouse:
            report = run.run_partition(
                job_of(
                    options.log,
                    options.step_seconds,
                    options.publish,
                    letterbox=options.letterbox,
                    computed=options.computed,
                ),
                options.day,
                run_id=options.run_id,
                house=_house(warehouse, home, options),
            )
    except OvernightError as error:
        traceback.print_exc()
        return _status(error)
    except Exception:  # noqa: BLE001 - the orchestrator tries again whatever it was
        traceback.print_exc()
        return RETRY
    print(f"published {report.published}, inferred {report.inferred}, reused {report.reused}")  # noqa: T201
    return PUBLISHED


def _house(warehouse: Warehouse, home: Home, options: argparse.Namespace) -> run.House:
    house = shop.house(warehouse, home.path)
    return replace(
        house,
        cluster=replace(house.cluster, workers=options.workers),
        journal_retention=dt.timedelta(days=options.retention_days),
    )


def _status(error: OvernightError) -> int:
    if isinstance(error, StaleAttemptError):
        return STALE
    if isinstance(error, PartitionBusyError):
        return BUSY
    return RETRY if error.retryable else FAILED


def _gate(what: str, gate: Path) -> None:
    """Have this process wait before a step of `run_partition` until a file is there."""
    function = getattr(run, what)

    def gated(*arguments: Any) -> Any:
        reached(gate).touch()
        while not gate.exists():
            time.sleep(0.01)
        return function(*arguments)

    setattr(run, what, gated)


def reached(gate: Path) -> Path:
    """The file that says that a process waits at the gate."""
    return gate.with_suffix(".reached")


if __name__ == "__main__":
    sys.exit(main())
