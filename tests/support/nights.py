"""A code location with two small jobs on one engine, for Dagster's daemon to run for many days."""

from __future__ import annotations

import os
from dataclasses import replace

import dagster as dg

from overnight.orchestration import inference_asset, source_asset
from resources import from_env
from tests.support.shop import Paced, lines, newest_lines, reversing

LOG = "OVERNIGHT_TEST_LOG"
PACE = "OVERNIGHT_TEST_PACE"

_engine = Paced(
    window=64,
    batch=16,
    log=os.environ.get(LOG, os.devnull),
    step_seconds=float(os.environ.get(PACE, "0")),
)
JOBS = (
    reversing(engine=_engine),
    replace(reversing(engine=_engine), name="mirrored_lines"),
    newest_lines(engine=_engine),
)
daily = dg.DailyPartitionsDefinition("2026-06-01", timezone="Europe/Berlin")

defs = dg.Definitions.merge(
    dg.Definitions(
        assets=[source_asset(lines, partitions=daily, group="tests")], resources=from_env()
    ),
    *(
        inference_asset(
            job,
            partitions=daily if job.partitioned else None,
            hour=2 if job.partitioned else None,
            group="tests",
        )
        for job in JOBS
    ),
)
