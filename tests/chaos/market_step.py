"""A step process on a spot market: `python -m tests.chaos.market_step DAY [OPTIONS]`."""

from __future__ import annotations

import argparse
import logging
import os
import sys
import traceback
from dataclasses import replace
from typing import TYPE_CHECKING

from overnight.errors import DeadlineMissedError, InterruptedRunError
from overnight.home import Home
from overnight.run import run_partition
from overnight.spot.policy import SpotPolicy
from overnight.warehouse.connect import Warehouse
from tests.chaos import passages
from tests.chaos.engine import TracedTypist
from tests.support import shop

if TYPE_CHECKING:
    from collections.abc import Sequence

PUBLISHED, FAILED, INTERRUPTED, MISSED = 0, 1, 3, 4


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("day")
    parser.add_argument("--counter", required=True)
    parser.add_argument("--log", default=os.devnull)
    parser.add_argument("--step-s", type=float, default=0.01)
    parser.add_argument("--max-runtime-min", type=float)
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--pricing", default="spot")
    parser.add_argument("--once", action="store_true", help="retry_on_interrupt=False")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s: %(message)s")
    passages.from_environment()
    job = shop.reversing(
        engine=TracedTypist(
            window=8, step_s=options.step_s, counter=options.counter, log=options.log
        ),
        split_rows=10,
        spot=SpotPolicy(
            pricing=options.pricing,
            max_runtime_min=options.max_runtime_min,
            retry_on_interrupt=not options.once,
        ),
    )
    home = Home.from_env()
    try:
        with Warehouse.open(home=home.path) as warehouse:
            house = shop.house(warehouse, home.path)
            cluster = replace(
                house.cluster, idle_timeout_s=5.0, changeover_s=10.0, workers=options.workers
            )
            report = run_partition(
                job,
                options.day,
                run_id="market",
                house=replace(house, cluster=cluster),
                report=lambda progress: print(progress, flush=True),  # noqa: T201
            )
    except DeadlineMissedError:
        traceback.print_exc()
        return MISSED
    except InterruptedRunError:
        traceback.print_exc()
        return INTERRUPTED
    except Exception:  # noqa: BLE001 - it is the exit status that counts
        traceback.print_exc()
        return FAILED
    print(f"published {report.published}, inferred {report.inferred}, reused {report.reused}")  # noqa: T201
    return PUBLISHED


if __name__ == "__main__":
    sys.exit(main())
