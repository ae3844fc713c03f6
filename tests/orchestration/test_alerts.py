"""The sensor that tells of failed runs and late tables, on a real instance."""

from __future__ import annotations

import datetime as dt
from dataclasses import replace
from typing import TYPE_CHECKING

import dagster as dg
import pytest

from overnight.alerts import SECRET, URL
from overnight.expectations import Expectations
from overnight.orchestration import alert_sensor, inference_asset, source_asset
from overnight.run import run_partition
from resources import StoreResource, WarehouseResource, from_env
from tests.support import shop
from tests.support.receiver import KEY, receiving
from tests.support.shop import line, lines, reversing, write_lines
from tests.warehouse.helpers import open_home

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

from overnight.warehouse.connect import Warehouse

DAYS = dg.DailyPartitionsDefinition("2026-06-01", timezone="UTC")
DAY = "2026-07-01"


@pytest.fixture
def installation(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    with open_home() as home:
        monkeypatch.setenv("OVERNIGHT_HOME", str(home))
        for variable in (URL, SECRET):
            monkeypatch.delenv(variable, raising=False)
        yield home


def tick(
    sensor: dg.SensorDefinition, instance: dg.DagsterInstance, cursor: str | None
) -> dg.SensorExecutionData:
    context = dg.build_sensor_context(
        instance=instance,
        cursor=cursor,
        resources={"warehouse": WarehouseResource(), "store": StoreResource()},
    )
    return sensor.evaluate_tick(context)


def test_a_run_that_failed_for_good_is_told_once_with_its_reason(
    installation: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = reversing()
    sensor = alert_sensor([job])
    definitions = dg.Definitions.merge(
        dg.Definitions(
            assets=[source_asset(lines, partitions=DAYS, group="tests")], resources=from_env()
        ),
        inference_asset(job, partitions=DAYS, group="tests"),
    )
    write_lines(installation, ["{broken"] * 5, day=DAY)
    with dg.DagsterInstance.ephemeral() as instance, receiving() as receiver:
        assert "is not set" in str(tick(sensor, instance, None).skip_message)
        monkeypatch.setenv(URL, receiver.url)
        monkeypatch.setenv(SECRET, KEY)
        first = tick(sensor, instance, None)
        result = definitions.resolve_job_def("reversed_lines_job").execute_in_process(
            instance=instance, partition_key=DAY, raise_on_error=False
        )
        assert not result.success
        receiver.answers = [500, 500, 500]
        second = tick(sensor, instance, first.cursor)
        assert "0 alerts sent, 1 wait" in str(second.skip_message)
        third = tick(sensor, instance, second.cursor)
        assert "1 alerts sent, 0 wait" in str(third.skip_message)
        assert "0 alerts sent" in str(tick(sensor, instance, third.cursor).skip_message)
    (told,) = receiver.alerts
    assert (told["id"], told["kind"]) == (f"run:{result.run_id}", "run_failed")
    assert (told["job"], told["partition"]) == ("reversed_lines", DAY)
    assert "5 of 5 source rows rejected" in told["text"]
    assert f"`overnight why reversed_lines {DAY}`" in told["text"]
    assert receiver.unsigned == 0


@pytest.mark.usefixtures("ray_head")
def test_a_table_that_is_late_is_told_once_for_each_day(
    installation: Path, ray_head: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OVERNIGHT_RAY_ADDRESS", ray_head)
    job = replace(reversing(), expects=Expectations(due=dt.time(0, 0, tzinfo=dt.UTC)))
    sensor = alert_sensor([job])
    write_lines(installation, [line(1)], day=DAY)
    with Warehouse.open(home=installation) as warehouse:
        run_partition(job, DAY, run_id="r", house=shop.house(warehouse, installation))
    with dg.DagsterInstance.ephemeral() as instance, receiving() as receiver:
        monkeypatch.setenv(URL, receiver.url)
        monkeypatch.setenv(SECRET, KEY)
        cursor = tick(sensor, instance, None).cursor
        tick(sensor, instance, cursor)
    (told,) = receiver.alerts
    assert told["kind"] == "late"
    assert told["text"].startswith("reversed_lines is late: ")
    assert f"the newest day that readers see is {DAY}" in told["text"]
    assert f"`overnight why reversed_lines {told['partition']}`" in told["text"]
