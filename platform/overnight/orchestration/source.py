"""What a job depends on, as observable assets: a landed source and a model.

Observing one records its data version, so that Dagster shows which outputs were made from
something that has changed since.
"""

# Dagster evaluates the annotations of what it calls, so they are no strings here.
from collections.abc import Sequence
from typing import Any

import dagster as dg

from overnight.contract import Contract, columns
from overnight.landing import Source, landed_partitions, landing_version
from overnight.model import ModelRef


def source_asset(
    source: Source,
    *,
    partitions: dg.PartitionsDefinition[str],
    group: str,
) -> dg.SourceAsset:
    """A source in the landing zone; its data version is that of the files of each partition.

    The resource `store` is asked when it is observed.
    """

    def observe(store: dg.ResourceParam[Any]) -> dg.DataVersionsByPartition:
        zone = store.config.open()
        known = set(partitions.get_partition_keys())
        landed = [partition for partition in landed_partitions(zone, source) if partition in known]
        return dg.DataVersionsByPartition(
            {partition: landing_version(zone, source, partition) for partition in landed}
        )

    asset = dg.observable_source_asset(
        name=source.name,
        partitions_def=partitions,
        group_name=group,
        description=description(source.contract),
        tags=_kinds("file"),
        metadata={"dagster/column_schema": column_schema(source.contract), "key": source.key},
    )(observe)
    assert isinstance(asset, dg.SourceAsset)
    return asset


def model_asset(name: str, model: ModelRef, *, group: str, description: str) -> dg.SourceAsset:
    """A model; its data version is the digest of its files."""

    def observe() -> dg.ObserveResult:
        resolved = model.resolve()
        return dg.ObserveResult(
            data_version=dg.DataVersion(resolved.digest),
            metadata={"uri": resolved.uri, "digest": resolved.digest},
        )

    asset = dg.observable_source_asset(
        name=name,
        group_name=group,
        description=description,
        tags=_kinds("model"),
        metadata={"uri": model.uri},
    )(observe)
    assert isinstance(asset, dg.SourceAsset)
    return asset


def _kinds(*kinds: str) -> dict[str, str]:
    # As tags: observable sources take no `kinds` of their own.
    return {f"dagster/kind/{kind}": "" for kind in kinds}


def description(contract: type[Contract]) -> str:
    """What a contract says of its table."""
    return (contract.__doc__ or "").strip()


def column_schema(contract: type[Contract], key: Sequence[str] = ()) -> dg.TableSchema:
    """A contract's columns, as Dagster shows them."""
    return dg.TableSchema(
        columns=[
            dg.TableColumn(
                name=column.name,
                type=column.sql,
                description=column.description,
                constraints=dg.TableColumnConstraints(
                    nullable=column.nullable, unique=key == (column.name,)
                ),
            )
            for column in columns(contract)
        ]
    )
