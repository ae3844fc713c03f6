"""What goes wrong with fraud scores: a worse model, a transaction that cannot be scored."""

from __future__ import annotations

import dataclasses
import datetime as dt
import io
from typing import TYPE_CHECKING

import dagster as dg
import polars as pl
import pytest
import sqlalchemy as sa

from assets.demo.cards import transactions as simulated
from assets.fraud import fraud_scores, model_input
from assets.fraud_features import FEATURES
from assets.fraud_model import NEEDED_DAYS, fraud_model
from assets.sources import TIMEZONE, fraud_labels, terminals, transactions
from overnight.orchestration import source_asset, trained_model_asset
from overnight.run import run_partition
from overnight.warehouse.connect import Warehouse
from resources import StoreResource
from tests.support.payments import DAYS_TO_TRAIN, TOWN, land_days
from tests.support.shop import house as house_in
from tests.warehouse.helpers import open_home

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from overnight.job import InferenceJob
    from overnight.report import PartitionReport
    from overnight.run import House

pytestmark = pytest.mark.usefixtures("ray_head")

DAILY = dg.DailyPartitionsDefinition("2024-07-01", end_date="2024-12-01", timezone=TIMEZONE)
WEEKLY = dg.WeeklyPartitionsDefinition(
    "2024-11-04", end_date="2024-12-02", timezone=TIMEZONE, day_offset=1
)
WEEK, NEXT_WEEK = "2024-11-11", "2024-11-18"
LAST = dt.date(2024, 11, 24)
"""The last day of the second week."""


@pytest.fixture(scope="module")
def home() -> Iterator[Path]:
    """An installation in which payments have landed, and a model of the first week is at work."""
    with open_home() as made, pytest.MonkeyPatch.context() as patch:
        patch.setenv("OVERNIGHT_HOME", str(made))
        (made / "store").mkdir(exist_ok=True)
        land_days(StoreResource().config.open(), DAYS_TO_TRAIN + 7, last=LAST)
        assert train(WEEK).success
        yield made


@pytest.fixture
def house(home: Path) -> Iterator[House]:
    with Warehouse.open(home=home) as warehouse:
        yield house_in(warehouse, home)


def train(week: str) -> dg.ExecuteInProcessResult:
    """Materialize the asset of the fraud model."""
    sources = [
        source_asset(source, partitions=DAILY, group="payments")
        for source in (transactions, fraud_labels, terminals)
    ]
    definitions = dg.Definitions.merge(
        dg.Definitions(assets=sources, resources={"store": StoreResource()}),
        trained_model_asset(fraud_model, partitions=WEEKLY, group="payments", description="Fraud."),
    )
    job = definitions.resolve_job_def("fraud_model_job")
    return job.execute_in_process(partition_key=week, raise_on_error=False)


def score(house: House, job: InferenceJob = fraud_scores) -> PartitionReport:
    return run_partition(job, LAST.isoformat(), run_id="test", house=house)


def published(house: House) -> pl.DataFrame:
    query = "SELECT transaction_id, day_rank, model_version FROM published.fraud_scores"
    with house.warehouse.connect() as connection:
        rows = [tuple(row) for row in connection.exec_driver_sql(query)]
    return pl.DataFrame(rows, ["transaction_id", "day_rank", "model_version"], orient="row")


def report_lies(house: House) -> None:
    """Have the next model learn from a week whose honest small payments are said to be fraud."""
    first = LAST - dt.timedelta(days=NEEDED_DAYS - 1)
    days = [first + dt.timedelta(days=ahead) for ahead in range(7)]
    reported = first + dt.timedelta(days=13)
    # Cards that were reported take no part in the test: there must be others.
    slandered = pl.col("customer_id").str.tail(1).is_in(["1", "5", "7"])
    lies = pl.concat(
        simulated(TOWN, [day], timezone=TIMEZONE).select(
            "transaction_id",
            transaction_date=pl.lit(day),
            fraud=slandered & (pl.col("amount") < 50),
            reported_at=pl.lit(dt.datetime.combine(reported, dt.time(12), dt.UTC)),
        )
        for day in days
    )
    file = io.BytesIO()
    lies.write_parquet(file)
    house.store.open().put(f"landing/fraud_labels/{reported}/lies.parquet", file.getvalue())


def test_a_worse_model_does_not_replace_the_one_in_service(house: House) -> None:
    before = house.registry.in_service("fraud_model")
    assert before is not None
    report_lies(house)
    result = train(NEXT_WEEK)
    assert not result.success
    assert not result.asset_materializations_for_node("fraud_model")
    (check,) = result.get_asset_check_evaluations()
    assert (check.check_name, check.passed, check.blocking) == ("not_worse", False, True)
    figures = {name: value.value for name, value in check.metadata.items()}
    assert figures["in_service"] == before.version != figures["version"]
    assert figures["average_precision"] < figures["average_precision_in_service"] - 0.05
    assert "it does not go into service" in (check.description or "")
    assert house.registry.in_service("fraud_model") == before
    report = score(house)
    rows = published(house)
    assert rows.height == report.published > 0
    assert rows["model_version"].unique().to_list() == [before.version]


def without_two_features(transactions: pl.DataFrame) -> pl.Series:
    """A mistake: of cards that paid most, the last two features are lost."""
    largest = pl.col("amount") == pl.col("amount").max()
    features = pl.col("features")
    cut = pl.when(largest).then(features.list.head(len(FEATURES) - 2)).otherwise(features)
    return transactions.select(request=cut)["request"]


def test_a_transaction_that_cannot_be_scored_is_a_dead_letter_until_it_can(house: House) -> None:
    job = dataclasses.replace(fraud_scores, prepare=without_two_features, version="dead")
    known = simulated(TOWN, [LAST], timezone=TIMEZONE)
    dead = known.filter(pl.col("amount") == pl.col("amount").max())["transaction_id"].to_list()
    assert len(dead) == 1
    report = score(house, job)
    assert (report.rows_in, report.rejected, report.dead_lettered) == (known.height, 0, 1)
    assert report.published == report.inferred - 1 == known.height - 1
    rows = published(house)
    assert sorted(rows["transaction_id"]) == sorted({*known["transaction_id"]} - {*dead})
    assert sorted(rows["day_rank"]) == list(range(1, known.height))
    query = sa.text(
        "SELECT d.key, d.reason, i.uri FROM lineage.current_dead_letters d "
        "JOIN lineage.inputs i USING (attempt, input_id) "
        "WHERE d.job = 'fraud_scores' AND d.partition_key = :day"
    )
    with house.warehouse.connect() as connection:
        told = connection.execute(query, {"day": LAST.isoformat()}).all()
    assert [(row.key, row.reason) for row in told] == [
        (dead[0], f"wrong_features: {len(FEATURES) - 2} numbers, the model takes {len(FEATURES)}")
    ]
    assert f"/transactions/{LAST}/" in told[0].uri

    corrected = score(house, dataclasses.replace(job, prepare=model_input))
    assert (corrected.inferred, corrected.dead_lettered) == (1, 0)
    assert sorted(published(house)["transaction_id"]) == sorted(known["transaction_id"])
    with house.warehouse.connect() as connection:
        assert not connection.execute(query, {"day": LAST.isoformat()}).all()
