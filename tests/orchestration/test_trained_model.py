"""A trained model as Dagster runs it, and a table as a whole that uses what has landed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import dagster as dg
import pytest

from overnight.landing import mark_complete
from overnight.orchestration import inference_asset, source_asset, trained_model_asset
from overnight.registry import Registry
from resources import ClusterResource, StoreResource, WarehouseResource
from tests.support.shop import line, lines, newest_lines, write_lines
from tests.test_training import NAME, lengths

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

DAILY = dg.DailyPartitionsDefinition("2024-11-01", "2024-12-20", timezone="Europe/Berlin")
WEEKLY = dg.WeeklyPartitionsDefinition("2024-11-03", "2024-12-22", timezone="Europe/Berlin")
WEEK, LAST_DAY = "2024-11-17", "2024-11-23"


@pytest.fixture
def installation(home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("OVERNIGHT_HOME", str(home))
    return home


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as made:
        yield made


@pytest.fixture
def lasting(tmp_path: Path) -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.local_temp(str(tmp_path)) as made:
        yield made


def definitions() -> dg.Definitions:
    return dg.Definitions.merge(
        dg.Definitions(
            assets=[source_asset(lines, partitions=DAILY, group="tests")],
            resources={
                "warehouse": WarehouseResource(),
                "store": StoreResource(),
                "cluster": ClusterResource(),
            },
        ),
        trained_model_asset(
            lengths, partitions=WEEKLY, hour=5, group="tests", description="How long lines are."
        ),
        inference_asset(
            newest_lines(), automation_condition=dg.AutomationCondition.eager(), group="tests"
        ),
    )


def train(instance: dg.DagsterInstance, partition: str = WEEK) -> dg.ExecuteInProcessResult:
    job = definitions().resolve_job_def(f"{NAME}_job")
    return job.execute_in_process(instance=instance, partition_key=partition, raise_on_error=False)


def land(home: Path, *lengths: int) -> None:
    write_lines(home, [line(n, "x" * length) for n, length in enumerate(lengths)], LAST_DAY)


def registry(home: Path) -> Registry:
    return Registry(StoreResource().config, home / "scratch" / "models")


def test_a_week_is_trained_with_what_had_landed_by_its_last_day(
    installation: Path, instance: dg.DagsterInstance
) -> None:
    land(installation, 10, 12)
    result = train(instance)
    assert result.success
    (event,) = result.asset_materializations_for_node(NAME)
    shown = {name: value.value for name, value in event.metadata.items()}
    version = registry(installation).in_service(NAME)
    assert version is not None
    assert (shown["version"], shown["closeness"]) == (version.version, -2.0)
    assert shown["trained_on"] == f"{LAST_DAY} to {LAST_DAY}"
    assert shown["card"]["features"] == ["text"]
    assert (event.tags or {})["dagster/data_version"] == version.digest
    (check,) = result.get_asset_check_evaluations()
    assert (check.check_name, check.passed, check.blocking) == ("not_worse", True, True)


def test_a_worse_model_is_red_and_the_one_in_service_stays(
    installation: Path, instance: dg.DagsterInstance
) -> None:
    land(installation, 10, 10)
    assert train(instance).success
    before = registry(installation).in_service(NAME)
    land(installation, 15, 10)
    result = train(instance)
    assert not result.success
    (check,) = result.get_asset_check_evaluations()
    assert not check.passed
    assert "closeness -5.0000 on held-out data" in (check.description or "")
    assert not result.asset_materializations_for_node(NAME)
    assert not any(event.is_step_up_for_retry for event in result.all_events)
    assert registry(installation).in_service(NAME) == before


def test_a_day_that_has_not_landed_is_an_error_that_is_not_retried(
    installation: Path, instance: dg.DagsterInstance
) -> None:
    result = train(instance)
    (failure,) = [e for e in result.all_events if e.is_step_failure]
    assert f"'lines' has not landed for {LAST_DAY}" in str(failure.step_failure_data.error)
    assert not any(event.is_step_up_for_retry for event in result.all_events)


def test_the_schedule_trains_the_week_that_has_ended_once_its_last_day_has_landed(
    installation: Path, lasting: dg.DagsterInstance
) -> None:
    import datetime as dt

    instance = lasting
    made = definitions()
    schedule = made.resolve_schedule_def(f"{NAME}_schedule")

    def tick() -> Any:
        with dg.build_schedule_context(
            instance=instance,
            scheduled_execution_time=dt.datetime(2024, 11, 24, 4, 0, tzinfo=dt.UTC),
            resources={"store": StoreResource()},
            repository_def=made.get_repository_def(),
        ) as context:
            return schedule.evaluate_tick(context)

    assert f"{WEEK} waits for lines of {LAST_DAY}: nothing has landed" in tick().skip_message
    land(installation, 10, 12)
    mark_complete(StoreResource().config.open(), lines, LAST_DAY)
    (request,) = tick().run_requests
    assert request.partition_key == WEEK
    assert train(instance).success
    assert tick().skip_message == f"{WEEK} has been made"


@pytest.mark.usefixtures("ray_head")
def test_a_whole_table_is_materialized_without_a_partition(
    installation: Path, instance: dg.DagsterInstance
) -> None:
    write_lines(installation, [line(n) for n in range(5)], LAST_DAY)
    job = definitions().resolve_job_def("newest_lines_job")
    result = job.execute_in_process(instance=instance)
    (event,) = result.asset_materializations_for_node("newest_lines")
    shown: dict[str, Any] = {name: value.value for name, value in event.metadata.items()}
    assert (shown["rows_in"], shown["dagster/partition_row_count"]) == (5, 5)
    assert event.partition is None
    write_lines(installation, [line(n) for n in range(7)], LAST_DAY)
    again = job.execute_in_process(instance=instance)
    (event,) = again.asset_materializations_for_node("newest_lines")
    shown = {name: value.value for name, value in event.metadata.items()}
    assert (shown["inferred"], shown["dagster/row_count"]) == (2, 7)
