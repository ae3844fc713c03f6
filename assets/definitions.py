"""The code location: every job, its schedule, its sensors and its resources. Assembly only."""

from __future__ import annotations

from typing import TYPE_CHECKING

import dagster as dg

from assets.documents import embedding_model
from assets.embeddings import document_embeddings
from assets.fraud import fraud_scores
from assets.fraud_model import fraud_model
from assets.fraud_reviews import reviews
from assets.recommendations import recommendations
from assets.recommender_model import recommender_model
from assets.sources import (
    TIMEZONE,
    articles,
    documents,
    fraud_labels,
    interactions,
    terminals,
    transactions,
)
from assets.summaries import daily_summaries, summary_model
from overnight.orchestration import (
    DAILY_START,
    alert_sensor,
    freshness_sensor,
    inference_asset,
    landing_sensors,
    model_asset,
    source_asset,
    trained_model_asset,
)
from resources import from_env

if TYPE_CHECKING:
    from collections.abc import Mapping

OWNERS = ("team:magazine",)
FRAUD_OWNERS = ("team:payments",)
SHOP_OWNERS = ("team:shop",)

JOBS = (daily_summaries, fraud_scores, recommendations, document_embeddings)

# Whatever is unchanged costs nothing. As it comes, `eager` would wait until something has landed
# on every single day; a day on which nothing changes is none to wait for.
WHEN_ANYTHING_CHANGES = (
    dg.AutomationCondition.eager().without(~dg.AutomationCondition.any_deps_missing())
    & dg.AutomationCondition.all_deps_blocking_checks_passed()
)


def build_definitions(*, resource_overrides: Mapping[str, object] | None = None) -> dg.Definitions:
    """Everything Dagster needs to know, as a fresh object."""
    daily = dg.DailyPartitionsDefinition(start_date=DAILY_START, timezone=TIMEZONE)
    weekly = dg.WeeklyPartitionsDefinition(start_date=DAILY_START, timezone=TIMEZONE, day_offset=1)
    return dg.Definitions.merge(
        dg.Definitions(
            assets=[
                source_asset(articles, partitions=daily, group="magazine"),
                source_asset(documents, partitions=daily, group="search"),
                source_asset(interactions, partitions=daily, group="shop"),
                model_asset(
                    "embedding_model",
                    embedding_model,
                    group="search",
                    description="The model that embeds documents (`EMBEDDING_MODEL`).",
                ),
                model_asset(
                    "summary_model",
                    summary_model,
                    group="magazine",
                    description="The model that writes the summaries (`SUMMARY_MODEL`).",
                ),
                *(
                    source_asset(source, partitions=daily, group="payments")
                    for source in (transactions, fraud_labels, terminals)
                ),
            ],
            asset_checks=reviews,
            sensors=[
                freshness_sensor(JOBS),
                alert_sensor(JOBS),
                # The embeddings are refreshed by their condition, once the sensor of `documents`
                # has told that there is something new.
                *landing_sensors(
                    [job for job in JOBS if job is not document_embeddings],
                    partitions=daily,
                    also=[documents],
                    default_status=dg.DefaultSensorStatus.RUNNING,
                ),
                dg.AutomationConditionSensorDefinition(
                    "automation",
                    target=dg.AssetSelection.assets(document_embeddings.name),
                    default_status=dg.DefaultSensorStatus.RUNNING,
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
        inference_asset(
            document_embeddings,
            hour=4,
            timezone=TIMEZONE,
            automation_condition=WHEN_ANYTHING_CHANGES,
            group="search",
            depends_on=["embedding_model"],
            owners=OWNERS,
        ),
        trained_model_asset(
            fraud_model,
            partitions=weekly,
            hour=1,
            group="payments",
            description="Tells fraudulent card payments from honest ones; trained each Monday.",
            owners=FRAUD_OWNERS,
        ),
        inference_asset(
            fraud_scores, partitions=daily, hour=3, group="payments", owners=FRAUD_OWNERS
        ),
        trained_model_asset(
            recommender_model,
            partitions=weekly,
            hour=2,
            group="shop",
            description="Knows which items suit whom; trained each Monday.",
            owners=SHOP_OWNERS,
        ),
        inference_asset(
            recommendations, partitions=daily, hour=5, group="shop", owners=SHOP_OWNERS
        ),
    )


defs = build_definitions()
