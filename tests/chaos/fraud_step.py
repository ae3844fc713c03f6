"""A step process that scores one day: `python -m tests.chaos.fraud_step DAY`."""

from __future__ import annotations

import sys
import traceback

from overnight.home import Home
from overnight.run import run_partition
from overnight.warehouse.connect import Warehouse
from tests.chaos.fraud_job import JOB
from tests.chaos.step import PUBLISHED, RETRY
from tests.support.shop import house


def main() -> int:
    home = Home.from_env().path
    try:
        with Warehouse.open(home=home) as warehouse:
            report = run_partition(JOB, sys.argv[1], run_id="chaos", house=house(warehouse, home))
    except Exception:  # noqa: BLE001 - the orchestrator tries again whatever it was
        traceback.print_exc()
        return RETRY
    print(f"inferred {report.inferred}, reused {report.reused}")  # noqa: T201
    return PUBLISHED


if __name__ == "__main__":
    sys.exit(main())
