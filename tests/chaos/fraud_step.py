"""A step process that scores one day: `python -m tests.chaos.fraud_step DAY`."""

from __future__ import annotations

import dataclasses
import sys
import traceback
from typing import Any

from assets.fraud import fraud_scores
from overnight.engines.sizes import BatchSizes
from overnight.home import Home
from overnight.run import run_partition
from overnight.warehouse.connect import Warehouse
from tests.chaos.step import PUBLISHED, RETRY
from tests.support.shop import house


def main() -> int:
    # Small batches and splits: more places for a kill to fall between.
    engine: Any = fraud_scores.engine
    sizes = BatchSizes(batch_rows=4, window_rows=8)
    job = dataclasses.replace(
        fraud_scores, engine=dataclasses.replace(engine, sizes=sizes), split_rows=25
    )
    home = Home.from_env().path
    try:
        with Warehouse.open(home=home) as warehouse:
            report = run_partition(job, sys.argv[1], run_id="chaos", house=house(warehouse, home))
    except Exception:  # noqa: BLE001 - the orchestrator tries again whatever it was
        traceback.print_exc()
        return RETRY
    print(f"inferred {report.inferred}, reused {report.reused}")  # noqa: T201
    return PUBLISHED


if __name__ == "__main__":
    sys.exit(main())
