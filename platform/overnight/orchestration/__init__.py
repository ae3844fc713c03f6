"""Jobs as Dagster sees them: assets, checks, schedules. Of the library, only this imports Dagster."""

from __future__ import annotations

from overnight.orchestration.asset import DAILY_START, inference_asset
from overnight.orchestration.source import model_asset, source_asset

__all__ = ["DAILY_START", "inference_asset", "model_asset", "source_asset"]
