"""What an asset is made from, as Dagster sees it: landed sources with the days that are read."""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING, Any

import dagster as dg

from overnight.landing import DerivedSource, Lookback
from overnight.registry import RegistryRef

if TYPE_CHECKING:
    from collections.abc import Iterable

    from overnight.job import InferenceJob
    from overnight.landing import Source

_WEEK = 7


def job_deps(
    job: InferenceJob,
    partitions: dg.PartitionsDefinition[str] | None,
    further: Iterable[str | dg.AssetDep],
) -> list[dg.AssetDep]:
    """All that a job's table is made from, each asset once; `further` ones as they are given."""
    given = [dep if isinstance(dep, dg.AssetDep) else dg.AssetDep(dep) for dep in further]
    found = [*source_deps(job.source, partitions), *model_deps(job.engine), *given]
    return list({dep.asset_key: dep for dep in found}.values())


def source_deps(
    source: Source | DerivedSource, partitions: dg.PartitionsDefinition[str] | None
) -> list[dg.AssetDep]:
    """The landed sources behind a source, each with the partitions of it that are read."""
    if isinstance(source, DerivedSource):
        return lookback_deps(source.inputs, partitions)
    return lookback_deps([Lookback(source=source)], partitions)


def lookback_deps(
    lookbacks: Iterable[Lookback], partitions: dg.PartitionsDefinition[str] | None
) -> list[dg.AssetDep]:
    """Dependencies on daily sources, for an asset with these partitions."""
    return [
        dg.AssetDep(look.source.name, partition_mapping=mapping_of(look, partitions))
        for look in lookbacks
    ]


def mapping_of(
    lookback: Lookback, partitions: dg.PartitionsDefinition[str] | None
) -> dg.PartitionMapping:
    """Which days of a source a partition is made from.

    A week reads back from its last day; its mapping covers whole weeks.
    """
    if lookback.first is None or partitions is None:
        return dg.AllPartitionMapping()
    start, end = lookback.first, lookback.last
    if isinstance(partitions, dg.WeeklyPartitionsDefinition):
        # Offsets are counted in partitions of the downstream asset, whose own week has 7 days.
        start = min(0, math.floor((start + _WEEK - 1) / _WEEK))
        end = math.ceil(end / _WEEK)
    return dg.TimeWindowPartitionMapping(
        start_offset=start, end_offset=end, allow_nonexistent_upstream_partitions=True
    )


def model_deps(engine: Any) -> list[dg.AssetDep]:
    """The trained models that an engine uses: whichever version of each is in service."""
    if not dataclasses.is_dataclass(engine):
        return []
    values = [getattr(engine, entry.name) for entry in dataclasses.fields(engine)]
    return [
        dg.AssetDep(value.name, partition_mapping=dg.LastPartitionMapping())
        for value in values
        if isinstance(value, RegistryRef)
    ]
