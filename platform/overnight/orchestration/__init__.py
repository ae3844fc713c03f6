"""Jobs as Dagster sees them: assets, checks, schedules, sensors.

Of the library, only this package imports Dagster.
"""

from __future__ import annotations

import warnings

import dagster as dg

# Observable sources and backfill policies are beta in the Dagster that the lock file pins;
# saying so at each start would bury what matters.
warnings.filterwarnings("ignore", category=dg.BetaWarning)

from overnight.orchestration.alerts import alert_sensor  # noqa: E402 - after the filter
from overnight.orchestration.asset import DAILY_START, inference_asset  # noqa: E402 - after the filter
from overnight.orchestration.freshness import freshness_sensor  # noqa: E402 - after the filter
from overnight.orchestration.sensor import landing_sensor, landing_sensors  # noqa: E402 - after the filter
from overnight.orchestration.source import model_asset, source_asset  # noqa: E402 - after the filter
from overnight.orchestration.sqs_sensor import sqs_landing_sensor  # noqa: E402 - after the filter
from overnight.orchestration.trained_model import trained_model_asset  # noqa: E402 - after the filter

__all__ = [
    "DAILY_START",
    "alert_sensor",
    "freshness_sensor",
    "inference_asset",
    "landing_sensor",
    "landing_sensors",
    "model_asset",
    "source_asset",
    "sqs_landing_sensor",
    "trained_model_asset",
]
