"""Which partitions of its sources an asset is made from, and which models."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import dagster as dg
import pytest

from overnight.engines.trivial import TrivialReverse
from overnight.errors import ConfigError
from overnight.landing import DerivedSource, Lookback
from overnight.orchestration import inference_asset, source_asset
from overnight.orchestration.dependencies import mapping_of
from overnight.registry import RegistryRef
from resources import ClusterResource, StoreResource, WarehouseResource
from tests.support.shop import Known, lines, newest, newest_lines, reversing

if TYPE_CHECKING:
    from collections.abc import Sequence

DAILY = dg.DailyPartitionsDefinition("2024-11-01", "2024-12-20", timezone="Europe/Berlin")
WEEKLY = dg.WeeklyPartitionsDefinition("2024-11-03", "2024-12-22", timezone="Europe/Berlin")
NOW = dt.datetime(2025, 1, 20, tzinfo=dt.UTC)


def upstream(partition: str | None, downstream: Any, **look: Any) -> tuple[str, str, int]:
    """The first, the last and the number of the days that a partition is made from."""
    mapping = mapping_of(Lookback(source=lines, **look), downstream)
    subset = None
    if partition is not None:
        subset = downstream.subset_with_partition_keys([partition])
    mapped = mapping.get_upstream_mapped_partitions_result_for_partitions(
        subset, downstream, DAILY, current_time=NOW
    )
    keys = sorted(mapped.partitions_subset.get_partition_keys())
    return keys[0], keys[-1], len(keys)


@pytest.mark.parametrize(
    ("look", "days"),
    [
        ({}, ("2024-11-20", "2024-11-20", 1)),
        ({"first": -7}, ("2024-11-13", "2024-11-20", 8)),
        ({"first": -7, "last": -2}, ("2024-11-13", "2024-11-18", 6)),
        ({"first": -37}, ("2024-11-01", "2024-11-20", 20)),
    ],
)
def test_a_day_is_made_from_the_days_it_looks_back_to(
    look: dict[str, Any], days: tuple[str, str, int]
) -> None:
    assert upstream("2024-11-20", DAILY, **look) == days


@pytest.mark.parametrize(
    ("look", "days"),
    [
        ({}, ("2024-12-01", "2024-12-07", 7)),
        ({"first": -6}, ("2024-12-01", "2024-12-07", 7)),
        ({"first": -7}, ("2024-11-24", "2024-12-07", 14)),
        ({"first": -13}, ("2024-11-24", "2024-12-07", 14)),
        ({"first": -14}, ("2024-11-17", "2024-12-07", 21)),
        ({"first": -14, "last": -7}, ("2024-11-17", "2024-11-30", 14)),
    ],
)
def test_a_week_is_made_from_whole_weeks_that_cover_what_it_looks_back_to(
    look: dict[str, Any], days: tuple[str, str, int]
) -> None:
    assert upstream("2024-12-01", WEEKLY, **look) == days


def test_what_reads_everything_is_made_from_all_days() -> None:
    assert upstream("2024-11-20", DAILY, first=None)[2] == 49
    assert isinstance(mapping_of(Lookback(source=lines, first=None), None), dg.AllPartitionMapping)


@dataclass(frozen=True, slots=True, kw_only=True)
class Modelled(TrivialReverse):
    model: RegistryRef


def definitions(*parts: dg.Definitions, assets: Sequence[Any] = ()) -> dg.Definitions:
    resources = {
        "warehouse": WarehouseResource(),
        "store": StoreResource(),
        "cluster": ClusterResource(),
    }
    sources = [source_asset(lines, partitions=DAILY, group="tests")]
    return dg.Definitions.merge(
        dg.Definitions(assets=[*sources, *assets], resources=resources), *parts
    )


def test_an_asset_depends_on_landed_sources_and_on_the_models_of_its_engine() -> None:
    source = DerivedSource(
        name="known_lines",
        contract=Known,
        key="line_id",
        inputs=(Lookback(source=lines, first=-2),),
        derive=newest,
    )
    job = newest_lines(
        partitioned=True, source=source, engine=Modelled(model=RegistryRef("lines_model"))
    )

    @dg.asset(partitions_def=WEEKLY)
    def lines_model() -> None:
        """Trained somewhere."""

    made = definitions(
        inference_asset(job, partitions=DAILY, hour=3, group="tests"), assets=[lines_model]
    )
    dg.Definitions.validate_loadable(made)
    (asset,) = [a for a in made.assets or () if getattr(a, "key", None) == dg.AssetKey(job.name)]
    assert isinstance(asset, dg.AssetsDefinition)
    deps = {
        dep.asset_key.to_user_string(): dep.partition_mapping
        for dep in asset.specs_by_key[asset.key].deps
    }
    assert deps["lines"] == dg.TimeWindowPartitionMapping(
        start_offset=-2, end_offset=0, allow_nonexistent_upstream_partitions=True
    )
    assert deps["lines_model"] == dg.LastPartitionMapping()
    lineage = asset.specs_by_key[asset.key].metadata["dagster/column_lineage"].deps_by_column
    assert {dep.asset_key for found in lineage.values() for dep in found} == {dg.AssetKey("lines")}
    assert [dep.column_name for dep in lineage["line_id"]] == ["line_id"]
    assert {dep.column_name for dep in lineage["versions"]} == {"line_id", "text", "weight"}


@pytest.mark.parametrize(("job", "partitions"), [(newest_lines(), DAILY), (reversing(), None)])
def test_job_and_asset_must_agree_on_partitions(job: Any, partitions: Any) -> None:
    with pytest.raises(ConfigError, match="give both or neither"):
        inference_asset(job, partitions=partitions, group="tests")


def test_a_whole_table_has_a_condition_or_a_schedule_of_its_own() -> None:
    condition = dg.AutomationCondition.eager()
    made = definitions(
        inference_asset(
            newest_lines(),
            hour=4,
            timezone="Europe/Berlin",
            automation_condition=condition,
            group="tests",
        )
    )
    dg.Definitions.validate_loadable(made)
    schedule: Any = made.resolve_schedule_def("newest_lines_schedule")
    assert (schedule.cron_schedule, schedule.execution_timezone) == ("0 4 * * *", "Europe/Berlin")
    graph = made.resolve_asset_graph()
    assert graph.get(dg.AssetKey("newest_lines")).automation_condition == condition
    with pytest.raises(ConfigError, match="a schedule at 4:00 needs a timezone"):
        inference_asset(newest_lines(), hour=4, group="tests")
