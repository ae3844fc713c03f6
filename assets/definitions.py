"""The code location: every job, its schedule and its resources. Assembly only."""

from __future__ import annotations

from typing import TYPE_CHECKING

import dagster as dg

from assets.sources import articles
from assets.summaries import daily_summaries, summary_model
from overnight.orchestration import DAILY_START, inference_asset, model_asset, source_asset
from resources import from_env

if TYPE_CHECKING:
    from collections.abc import Mapping

TIMEZONE = "Europe/Berlin"
OWNERS = ("team:magazine",)


def build_definitions(*, resource_overrides: Mapping[str, object] | None = None) -> dg.Definitions:
    """Everything Dagster needs to know, as a fresh object."""
    daily = dg.DailyPartitionsDefinition(start_date=DAILY_START, timezone=TIMEZONE)
    return dg.Definitions.merge(
        dg.Definitions(
            assets=[
                source_asset(articles, partitions=daily, group="magazine"),
                model_asset(
                    "summary_model",
                    summary_model,
                    group="magazine",
                    description="The model that writes the summaries (`SUMMARY_MODEL`).",
                ),
            ],
            resources={**from_env(), **(resource_overrides or {})},
        ),
        inference_asset(
            daily_summaries,
            partitions=daily,
            hour=2,
            group="magazine",
            depends_on=["summary_model"],
            owners=OWNERS,
        ),
    )


JOBS = (daily_summaries,)

defs = build_definitions()
