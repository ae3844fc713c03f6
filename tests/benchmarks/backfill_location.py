"""The code location of the backfill that is measured: the summaries with the case's model."""

from __future__ import annotations

import json
import os

import dagster as dg

from assets.sources import TIMEZONE, articles
from overnight.orchestration import inference_asset, source_asset
from resources import from_env
from tests.benchmarks.bench_backfill import CASE
from tests.benchmarks.bench_partition import job
from tests.benchmarks.harness import Case

JOBS = (job(Case(**json.loads(os.environ[CASE]))),)
daily = dg.DailyPartitionsDefinition("2026-01-01", timezone=TIMEZONE)
defs = dg.Definitions.merge(
    dg.Definitions(
        assets=[source_asset(articles, partitions=daily, group="bench")], resources=from_env()
    ),
    inference_asset(JOBS[0], partitions=daily, group="bench"),
)
