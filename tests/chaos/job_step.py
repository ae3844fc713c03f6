"""A step process for one of this repository's own jobs.

`python -m tests.chaos.job_step MODULE JOB PARTITION`; the installation is `OVERNIGHT_HOME`.
"""

from __future__ import annotations

import importlib
import sys

from overnight.home import Home
from overnight.run import run_partition
from overnight.warehouse.connect import Warehouse
from tests.support import shop

if __name__ == "__main__":
    module, name, partition = sys.argv[1:]
    home = Home.from_env()
    with Warehouse.open(home=home.path) as warehouse:
        run_partition(
            getattr(importlib.import_module(module), name),
            partition,
            run_id="killed",
            house=shop.house(warehouse, home.path),
        )
