"""A code location for repairs: its Dagster definitions, and an engine that can get well."""

from __future__ import annotations

import os
from pathlib import Path

import dagster as dg

from overnight.orchestration import inference_asset, source_asset
from resources import from_env
from tests.support.moody import Moody
from tests.support.shop import lines, reversing

HOME = Path(os.environ["OVERNIGHT_HOME"])
JOB = reversing(
    engine=Moody(window=64, batch=16, log=str(HOME / "inferred"), well=str(HOME / "well")),
    max_dead_letter_share=0.1,
)
JOBS = (JOB,)
DAILY = dg.DailyPartitionsDefinition("2026-11-01", timezone="Europe/Berlin")
defs = dg.Definitions.merge(
    dg.Definitions(
        assets=[source_asset(lines, partitions=DAILY, group="tests")], resources=from_env()
    ),
    inference_asset(JOB, partitions=DAILY, group="tests"),
)
