"""Freshness in Dagster: told by the run that publishes, and by a sensor when time passes."""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING

import dagster as dg
import pytest

from overnight.errors import ConfigError
from overnight.expectations import Expectations
from overnight.orchestration import freshness_sensor, inference_asset
from resources import ClusterResource, StoreResource, WarehouseResource
from tests.support.shop import line, reversing, write_lines

if TYPE_CHECKING:
    from pathlib import Path

    from dagster._core.storage.asset_check_execution_record import AssetCheckExecutionRecord

JOB = reversing(name="timely_lines", expects=Expectations(due=dt.time(0, tzinfo=dt.UTC)))
DAILY = dg.DailyPartitionsDefinition("2026-01-01", timezone="UTC")
CHECK = dg.AssetCheckKey(dg.AssetKey("timely_lines"), "freshness")


def definitions() -> dg.Definitions:
    return dg.Definitions.merge(
        dg.Definitions(
            resources={
                "warehouse": WarehouseResource(),
                "store": StoreResource(),
                "cluster": ClusterResource(),
            },
            sensors=[freshness_sensor([JOB])],
        ),
        inference_asset(JOB, partitions=DAILY, group="tests"),
    )


def day(ago: int) -> str:
    return f"{dt.datetime.now(tz=dt.UTC).date() - dt.timedelta(days=ago)}"


def tick(instance: dg.DagsterInstance, cursor: str | None) -> str | None:
    """What the daemon does with the sensor; returns the next cursor."""
    made = definitions()
    with dg.build_sensor_context(
        instance=instance,
        cursor=cursor,
        repository_def=made.get_repository_def(),
        resources={"warehouse": WarehouseResource(), "store": StoreResource()},
    ) as context:
        told = made.resolve_sensor_def("freshness").evaluate_tick(context)
    for event in told.asset_events:
        instance.report_runless_asset_event(event)
    return told.cursor or cursor


def latest(instance: dg.DagsterInstance) -> AssetCheckExecutionRecord | None:
    return instance.event_log_storage.get_latest_asset_check_execution_by_key([CHECK]).get(CHECK)


@pytest.mark.usefixtures("ray_head")
def test_a_run_and_the_sensor_tell_whether_the_newest_day_is_published(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OVERNIGHT_HOME", str(home))
    job = definitions().resolve_job_def("timely_lines_job")
    with dg.DagsterInstance.ephemeral() as instance:
        cursor = tick(instance, None)
        record = latest(instance)
        assert record is not None
        assert record.evaluation is not None
        assert record.evaluation.passed

        for ago in (3, 1):
            write_lines(home, map(line, range(5)), day=day(ago))
            assert job.execute_in_process(instance=instance, partition_key=day(ago)).success
            record = latest(instance)
            assert record is not None
            assert record.evaluation is not None
            assert record.evaluation.passed is (ago == 1)
            if ago == 1:
                continue
            # What a run has told, the sensor tells as well, once.
            cursor = tick(instance, cursor)
            again = latest(instance)
            assert again is not None
            assert again.evaluation is not None
            assert again.evaluation.severity == dg.AssetCheckSeverity.WARN
            assert not again.evaluation.passed
            assert f"{day(1)}, the newest day that is due" in (again.evaluation.description or "")
            tick(instance, cursor)
            unchanged = latest(instance)
            assert unchanged is not None
            assert unchanged.id == again.id


def test_the_sensor_is_on_from_the_start() -> None:
    sensor = definitions().resolve_sensor_def("freshness")
    assert sensor.default_status == dg.DefaultSensorStatus.RUNNING


def test_a_sensor_that_watches_nothing_is_refused() -> None:
    with pytest.raises(ConfigError, match="none of the jobs has"):
        freshness_sensor([reversing()])
