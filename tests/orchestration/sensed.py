"""A code location whose sensor is on, for the real daemon."""

from __future__ import annotations

import dagster as dg

from overnight.orchestration import inference_asset, landing_sensor, source_asset
from resources import from_env
from tests.support.shop import lines, reversing

job = reversing()
daily = dg.DailyPartitionsDefinition("2024-11-01", timezone="Europe/Berlin")

defs = dg.Definitions.merge(
    dg.Definitions(
        assets=[source_asset(lines, partitions=daily, group="t")],
        sensors=[
            landing_sensor(
                lines,
                [job],
                partitions=daily,
                interval_s=1,
                default_status=dg.DefaultSensorStatus.RUNNING,
            )
        ],
        resources=from_env(),
    ),
    inference_asset(job, partitions=daily, hour=2, group="t"),
)
