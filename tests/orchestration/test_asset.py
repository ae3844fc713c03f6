"""A job as Dagster runs it: materializations, checks, failures, data versions."""

from __future__ import annotations

import contextlib
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import dagster as dg
import pytest

from overnight.lineage.lease import PartitionLease
from overnight.orchestration import inference_asset, source_asset
from overnight.warehouse.connect import Warehouse
from resources import ClusterResource, StoreResource, WarehouseResource
from tests.support.shop import DAY, line, lines, reversing, write_lines
from tests.support.waiting import until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.usefixtures("ray_head")
DAILY = dg.DailyPartitionsDefinition("2026-11-01", timezone="Europe/Berlin")


@pytest.fixture
def installation(home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("OVERNIGHT_HOME", str(home))
    return home


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as made:
        yield made


def definitions(cluster: ClusterResource | None = None, **changes: Any) -> dg.Definitions:
    return dg.Definitions.merge(
        dg.Definitions(
            assets=[source_asset(lines, partitions=DAILY, group="tests")],
            resources={
                "warehouse": WarehouseResource(),
                "store": StoreResource(),
                "cluster": cluster or ClusterResource(),
            },
        ),
        inference_asset(
            reversing(**changes),
            partitions=DAILY,
            hour=2,
            group="tests",
        ),
    )


def materialize(instance: dg.DagsterInstance, **changes: Any) -> dg.ExecuteInProcessResult:
    job = definitions(**changes).resolve_job_def("reversed_lines_job")
    return job.execute_in_process(instance=instance, partition_key=DAY, raise_on_error=False)


def test_a_materialization_tells_what_happened(
    installation: Path, instance: dg.DagsterInstance
) -> None:
    write_lines(installation, [*map(line, range(60)), line(99, "!fail told so")])
    result = materialize(instance)
    assert result.success
    (event,) = result.asset_materializations_for_node("reversed_lines")
    shown = {name: value.value for name, value in event.metadata.items()}
    assert shown["dagster/partition_row_count"] == 60
    assert shown["dagster/row_count"] == 60
    assert shown["dagster/table_name"] == "published.reversed_lines"
    assert (shown["rows_in"], shown["published"], shown["dead_lettered"]) == (61, 60, 1)
    assert shown["throughput"].startswith("![throughput](data:image/png;base64,")
    assert "| line_id | weight | reversed | length |" in shown["sample"]
    schema = {column.name: column for column in shown["dagster/column_schema"].columns}
    assert schema["line_id"].description == "Names the line."
    assert schema["line_id"].constraints.unique
    assert schema["weight"].constraints.nullable
    lineage = shown["dagster/column_lineage"].deps_by_column
    assert [dep.column_name for dep in lineage["weight"]] == ["weight"]
    assert (shown["attempts"], shown["failures"], shown["interruptions"]) == (1, 0, 0)
    assert f"`overnight dead-letters reversed_lines --partition {DAY}`" in shown["dead_letters"]
    assert "rejects" not in shown


def test_a_run_of_a_backfill_names_its_day_as_a_range_of_one(
    installation: Path, instance: dg.DagsterInstance
) -> None:
    write_lines(installation, [*map(line, range(10))])
    job = definitions().resolve_job_def("reversed_lines_job")
    ends = ("dagster/asset_partition_range_start", "dagster/asset_partition_range_end")
    result = job.execute_in_process(instance=instance, tags=dict.fromkeys(ends, DAY))
    (event,) = result.asset_materializations_for_node("reversed_lines")
    assert event.partition == DAY
    assert event.metadata["published"].value == 10


def test_a_run_for_several_days_is_refused(
    installation: Path, instance: dg.DagsterInstance
) -> None:
    job = definitions().resolve_job_def("reversed_lines_job")
    tags = {
        "dagster/asset_partition_range_start": "2026-11-20",
        "dagster/asset_partition_range_end": "2026-11-21",
    }
    with pytest.raises(dg.Failure, match=r"2026-11-20 to 2026-11-21.*one partition"):
        job.execute_in_process(instance=instance, tags=tags)


def test_a_materialization_leads_to_its_rejects(
    installation: Path, instance: dg.DagsterInstance
) -> None:
    write_lines(installation, [*map(line, range(60)), "{broken"])
    result = materialize(instance)
    (event,) = result.asset_materializations_for_node("reversed_lines")
    shown = event.metadata["rejects"].value
    assert f"`overnight rejects lines --partition {DAY}`" in shown
    assert f"* 1 in `file://{installation}/store/landing/lines/{DAY}/lines.jsonl`" in shown


def test_every_check_is_reported_and_blocks(
    installation: Path, instance: dg.DagsterInstance
) -> None:
    write_lines(installation, map(line, range(20)))
    result = materialize(instance)
    checks = {check.check_name: check.passed for check in result.get_asset_check_evaluations()}
    assert checks == {
        "reconciliation": True,
        "contract": True,
        "dead_letter_share": True,
        "reject_share": True,
        "row_count": True,
        "long_share": True,
    }
    specs = definitions().resolve_asset_graph().asset_check_keys
    assert {key.name for key in specs} == set(checks)


def test_a_failed_check_is_red_and_nothing_is_materialized(
    installation: Path, instance: dg.DagsterInstance
) -> None:
    write_lines(installation, [line(n, "why?") for n in range(20)])
    result = materialize(instance)
    assert not result.success
    failed = {c.check_name: c for c in result.get_asset_check_evaluations() if not c.passed}
    assert set(failed) == {"dead_letter_share"}
    assert "20 of 20 rows (100.00%" in (failed["dead_letter_share"].description or "")
    assert not result.asset_materializations_for_node("reversed_lines")


def test_bad_input_is_an_error_that_is_not_retried(
    installation: Path, instance: dg.DagsterInstance
) -> None:
    write_lines(installation, ["{broken"] * 5)
    result = materialize(instance)
    (failure,) = [e for e in result.all_events if e.is_step_failure]
    assert not any(event.is_step_up_for_retry for event in result.all_events)
    assert "5 of 5 source rows rejected" in str(failure.step_failure_data.error)


def test_a_landing_file_that_changed_changes_the_data_version(
    installation: Path, instance: dg.DagsterInstance
) -> None:
    versions = []
    for text in ("one", "one", "two"):
        write_lines(installation, [line(1, text)])
        result = materialize(instance)
        (event,) = result.asset_materializations_for_node("reversed_lines")
        versions.append((event.tags or {})["dagster/data_version"])
    assert versions[0] == versions[1] != versions[2]


def test_a_run_waits_for_the_one_that_is_at_work_and_sees_what_landed_meanwhile(
    installation: Path,
) -> None:
    write_lines(installation, [*map(line, range(10))])
    with (
        dg.instance_for_test() as instance,
        Warehouse.open(home=installation) as warehouse,
        ThreadPoolExecutor() as beside,
        contextlib.ExitStack() as at_work,
    ):
        lease = PartitionLease.take(warehouse, job="reversed_lines", partition_key=DAY)
        at_work.callback(lease.release)
        started = beside.submit(materialize, instance)

        def waits() -> bool:
            assert not started.done(), started.result()
            ids = [run.run_id for run in instance.get_runs()]
            said = [entry.user_message for one in ids for entry in instance.all_logs(one)]
            return any("this run waits" in message for message in said)

        until(waits)
        write_lines(installation, [*map(line, range(20))])
        at_work.close()
        result = started.result()
    assert result.success
    (event,) = result.asset_materializations_for_node("reversed_lines")
    assert event.metadata["published"].value == 20


def test_a_partition_that_is_right_already_asks_for_no_engine(
    installation: Path, instance: dg.DagsterInstance
) -> None:
    write_lines(installation, map(line, range(20)))
    assert materialize(instance).success
    # Nobody answers there: whoever asks for Ray fails.
    without = definitions(cluster=ClusterResource(address="127.0.0.1:9"))
    job = without.resolve_job_def("reversed_lines_job")
    again = job.execute_in_process(instance=instance, partition_key=DAY, raise_on_error=False)
    assert again.success
    (event,) = again.asset_materializations_for_node("reversed_lines")
    assert event.metadata["published"].value == 20


def test_observing_a_source_gives_a_version_to_each_landed_partition(
    installation: Path, instance: dg.DagsterInstance
) -> None:
    write_lines(installation, [line(1)])
    everything = dg.AssetSelection.all(include_sources=True)
    observing = dg.Definitions(
        assets=[source_asset(lines, partitions=DAILY, group="tests")],
        jobs=[dg.define_asset_job("observe_lines", selection=everything)],
        resources={"store": StoreResource()},
    )
    job = observing.resolve_job_def("observe_lines")
    result = job.execute_in_process(instance=instance)
    (observation,) = result.asset_observations_for_node("lines")
    assert observation.partition == DAY
    assert observation.tags["dagster/data_version"]
