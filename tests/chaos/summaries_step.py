"""A step process that summarizes a day: `python -m tests.chaos.summaries_step DAY PACE_FILE`."""

from __future__ import annotations

import logging
import sys

from overnight.home import Home
from overnight.run import run_partition
from overnight.warehouse.connect import Warehouse
from tests.support import shop
from tests.support.summaries import Paced, summarizing


def main(day: str, pace: str) -> None:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s: %(message)s")
    home = Home.from_env().path
    with Warehouse.open(home=home) as warehouse:
        run_partition(
            summarizing(Paced, at_once=16, split_rows=16, pace=pace),
            day,
            run_id="night",
            house=shop.house(warehouse, home),
            report=lambda progress: print(progress, flush=True),  # noqa: T201
        )


if __name__ == "__main__":
    main(*sys.argv[1:])
