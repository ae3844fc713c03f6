"""A code location with the one small job, for Dagster itself to run and to retry."""

from __future__ import annotations

import os

import dagster as dg

from overnight.orchestration import inference_asset, source_asset
from resources import from_env
from tests.chaos.step import job_of
from tests.support.shop import lines

LOG = "OVERNIGHT_CHAOS_LOG"

daily = dg.DailyPartitionsDefinition("2026-01-01", timezone="Europe/Berlin")

defs = dg.Definitions.merge(
    dg.Definitions(
        assets=[source_asset(lines, partitions=daily, group="chaos")],
        resources=from_env(),
    ),
    inference_asset(
        job_of(os.environ.get(LOG, os.devnull)), partitions=daily, hour=2, group="chaos"
    ),
)
