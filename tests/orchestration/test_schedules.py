"""Schedules: which partitions a tick starts, and what it waits for; clocks that change."""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

import dagster as dg
import pytest

from assets.definitions import build_definitions
from assets.sources import TIMEZONE
from overnight.orchestration import inference_asset
from overnight.store import Store, StoreConfig
from resources import StoreResource
from tests.orchestration.landed import Zone, definitions
from tests.support.shop import newest_lines, reversing

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

DAY = "2024-11-24"
AT_TWO = dt.datetime(2024, 11, 25, 1, 0, tzinfo=dt.UTC)


@pytest.fixture
def instance(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.local_temp(str(tmp_path_factory.mktemp("dagster"))) as made:
        yield made


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return StoreConfig(tmp_path.as_uri()).open()


@pytest.fixture
def zone(store: Store, instance: dg.DagsterInstance) -> Zone:
    return Zone(store, instance, now=AT_TWO)


def tick(zone: Zone, at: dt.datetime = AT_TWO, job: str = "reversed_lines") -> Any:
    """One tick, and what the daemon does after it."""
    schedule = zone.definitions.resolve_schedule_def(f"{job}_schedule")
    resources: Any = zone.definitions.resources
    with dg.build_schedule_context(
        instance=zone.instance,
        scheduled_execution_time=at,
        resources={"store": resources["store"]},
        repository_def=zone.repository,
    ) as context:
        result = schedule.evaluate_tick(context)
    for request in result.run_requests:
        zone.instance.create_run_for_job(
            zone.definitions.resolve_job_def(f"{job}_job"), tags=request.tags
        )
    return result


def days_of(result: Any) -> list[str]:
    return [request.partition_key for request in result.run_requests]


def test_a_day_whose_data_has_not_arrived_is_waited_for(zone: Zone) -> None:
    said = tick(zone).skip_message
    assert f"{DAY} waits for lines of {DAY}: nothing has landed in {zone.store.url}" in said
    zone.land(DAY, "a.jsonl")
    said = tick(zone).skip_message
    assert f"{DAY} waits for lines of {DAY}: 1 files are in" in said
    assert "waits for _SUCCESS, or for 300 s without a new file" in said
    zone.land(DAY, "_SUCCESS", content=b"")
    assert days_of(tick(zone)) == [DAY]


def test_what_it_waited_for_is_started_by_the_sensor_and_not_again(zone: Zone) -> None:
    assert not days_of(tick(zone))
    zone.land(DAY, "a.jsonl", "_SUCCESS")
    assert zone.tick().runs == [("reversed_lines_job", DAY)]
    (run,) = zone.instance.get_runs()
    assert tick(zone).skip_message == f"{DAY} was started by run {run.run_id} (NOT_STARTED)"


def test_what_the_schedule_started_is_not_started_by_the_sensor(zone: Zone) -> None:
    zone.land(DAY, "a.jsonl", "_SUCCESS")
    assert days_of(tick(zone)) == [DAY]
    assert not zone.tick().runs
    assert not days_of(tick(zone))


def test_no_day_is_lost_where_the_sensor_is_stopped(zone: Zone) -> None:
    tick(zone)
    zone.land(DAY, "a.jsonl", "_SUCCESS")
    zone.land("2024-11-25", "a.jsonl", "_SUCCESS")
    zone.land("2024-11-20", "a.jsonl", "_SUCCESS")
    zone.instance.report_runless_asset_event(
        dg.AssetMaterialization("reversed_lines", partition="2024-11-20")
    )
    assert days_of(tick(zone, AT_TWO + dt.timedelta(days=1))) == ["2024-11-25", DAY]


def test_before_the_first_day_has_ended_there_is_nothing(zone: Zone) -> None:
    early = dt.datetime(2024, 11, 1, 1, 0, tzinfo=dt.UTC)
    assert tick(zone, early).skip_message == "no partition of reversed_lines has ended yet"


def test_a_whole_table_waits_until_anything_has_landed(
    store: Store, instance: dg.DagsterInstance
) -> None:
    zone = Zone(store, instance, jobs=(newest_lines(),))
    said = tick(zone, job="newest_lines").skip_message
    assert "waits for lines: nothing has landed" in said
    zone.land(DAY, "a.jsonl")
    (request,) = tick(zone, job="newest_lines").run_requests
    assert request.partition_key is None


@pytest.mark.parametrize("name", ["daily_summaries", "fraud_scores", "recommendations"])
@pytest.mark.parametrize("change", [dt.date(2025, 3, 30), dt.date(2025, 10, 26)])
def test_each_day_has_one_tick_and_one_partition_when_the_clocks_change(
    name: str, change: dt.date
) -> None:
    made = build_definitions()
    schedule: Any = made.resolve_schedule_def(f"{name}_schedule")
    partitions = made.resolve_asset_graph().get(dg.AssetKey(name)).partitions_def
    assert isinstance(partitions, dg.TimeWindowPartitionsDefinition)
    daily = dg.DailyPartitionsDefinition("2025-01-01", timezone=partitions.timezone)
    zone = ZoneInfo(TIMEZONE)
    assert schedule.execution_timezone == partitions.timezone == TIMEZONE
    start = dt.datetime.combine(change - dt.timedelta(days=2), dt.time(0), tzinfo=zone)
    end = dt.datetime.combine(change + dt.timedelta(days=3), dt.time(0), tzinfo=zone)
    ticks = []
    for at in _ticks(schedule, start):
        if at >= end:
            break
        ticks.append(at)
    days = [daily.get_partition_keys(at)[-1] for at in ticks]
    wanted = [(change + dt.timedelta(days=n)).isoformat() for n in range(-3, 2)]
    assert days == wanted
    hours = {at.astimezone(zone).hour for at in ticks if at.astimezone(zone).date() != change}
    assert len(hours) == 1


def _ticks(schedule: Any, start: dt.datetime) -> Iterator[dt.datetime]:
    """When Dagster's scheduler would tick."""
    from dagster._utils.schedules import schedule_execution_time_iterator

    return schedule_execution_time_iterator(
        start.timestamp(), schedule.cron_schedule, schedule.execution_timezone
    )


def test_a_schedule_at_an_hour_that_does_not_exist_starts_the_day(
    store: Store, instance: dg.DagsterInstance
) -> None:
    zone = Zone(store, instance)
    daily = dg.DailyPartitionsDefinition("2025-03-01", timezone="Europe/Berlin")
    made = definitions(store, ())
    zone.definitions = dg.Definitions.merge(
        made, inference_asset(reversing(), partitions=daily, hour=2, group="t")
    )
    zone.repository = zone.definitions.get_repository_def()
    zone.land("2025-03-29", "a.jsonl", "_SUCCESS")
    schedule = zone.definitions.resolve_schedule_def("reversed_lines_schedule")
    midnight = dt.datetime(2025, 3, 30, tzinfo=ZoneInfo("Europe/Berlin"))
    at = next(_ticks(schedule, midnight))
    assert at.astimezone(dt.UTC).hour == 1, "3:00 in Berlin"
    assert days_of(tick(zone, at)) == ["2025-03-29"]


def test_a_store_that_cannot_be_opened_is_said_by_the_tick(
    store: Store, instance: dg.DagsterInstance
) -> None:
    zone = Zone(store, instance)
    resources: Any = zone.definitions.resources
    resources["store"] = StoreResource(url="file:///no/such/directory")
    with pytest.raises(dg.DagsterError) as failed:
        tick(zone)
    assert "there is no such directory; create it, or mount" in str(failed.value.__cause__)
