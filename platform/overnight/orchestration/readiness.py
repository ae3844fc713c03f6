"""Whether a partition of an asset can start, and whether it has already, for sensor and schedule.

A run that landed data started carries the tag `overnight/files`: the partition and a digest of
the files that landed for it. Whoever is about to start one looks for it first, so a sensor and a
schedule that see the same files start one run between them.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

import dagster as dg

from overnight.job import WHOLE
from overnight.landing import DerivedSource, Lookback, landed_partitions
from overnight.landing.arrival import arrival

if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import Mapping, Sequence

    from overnight.landing import Source
    from overnight.landing.arrival import Arrival
    from overnight.store import Store

FILES_TAG = "overnight/files"
WHY_TAG = "overnight/why"
COMPLETE = "complete"


@dataclass(frozen=True, slots=True)
class Readiness:
    """Attributes: the files' `key`, and what is still waited for, in words."""

    key: str
    waits: tuple[str, ...]


def inputs_of(source: Source | DerivedSource) -> tuple[Lookback, ...]:
    """What a job's source reads of each landed source."""
    return source.inputs if isinstance(source, DerivedSource) else (Lookback(source=source),)


def readiness(
    store: Store,
    instance: dg.DagsterInstance,
    inputs: Sequence[Lookback],
    partition: str,
    *,
    now: dt.datetime,
    settle_s: float,
    settled: Mapping[str, Arrival] | None = None,
) -> Readiness:
    """Look at the newest day that a partition reads of each source.

    Only a source that is required, and read up to the partition's own day, is waited for.

    Args:
        store: where the landing zone is.
        instance: where sensors tell what is complete.
        inputs: what is read, relative to the partition.
        partition: an ISO date; `WHOLE` needs that anything has landed, and has no key.
        now: the time, aware.
        settle_s: see `Arrival.missing`.
        settled: what is known to be complete, by source.

    Raises:
        StoreError: if the zone cannot be listed.
    """
    waits: list[str] = []
    digest = hashlib.sha256()
    for look in inputs:
        source = look.source
        day = look.last_day(partition)
        if day is None:
            if look.required and not landed_partitions(store, source):
                waits.append(f"{source.name}: nothing has landed in {store.url}/landing/")
            continue
        known = (settled or {}).get(source.name)
        if known is not None and known.partition == day:
            found, missing = known, None
        else:
            found = arrival(store, source, day)
            missing = found.missing(now, settle_s)
            if missing and found.landed and told_complete(instance, source, found):
                missing = None
        if missing and look.required and look.last == 0:
            waits.append(f"{source.name} of {day}: {missing}")
        if found.landed:
            digest.update(f"{source.name} {found.version}\n".encode())
    return Readiness(f"{partition}:{digest.hexdigest()[:16]}", tuple(waits))


def told_complete(instance: dg.DagsterInstance, source: Source, found: Arrival) -> bool:
    """Whether a sensor has seen these very files settle, by its own clock."""
    records = instance.fetch_observations(
        dg.AssetRecordsFilter(
            asset_key=dg.AssetKey(source.name), asset_partitions=[found.partition]
        ),
        limit=1,
    ).records
    observation = records[0].asset_observation if records else None
    return (
        observation is not None
        and COMPLETE in observation.metadata
        and observation.data_version == found.version
    )


def complete_observation(source: Source, found: Arrival) -> dg.AssetObservation:
    """Tell Dagster the data version of a partition that has settled."""
    return dg.AssetObservation(
        dg.AssetKey(source.name),
        partition=found.partition,
        metadata={
            COMPLETE: True,
            "files": len(found.files),
            "bytes": sum(entry.size for entry in found.files),
            "where": found.where,
        },
        tags={"dagster/data_version": found.version},
    )


def started(instance: dg.DagsterInstance, job_name: str, key: str) -> dg.DagsterRun | None:
    """The run that was started for these files, if any, whatever became of it."""
    runs = instance.get_runs(dg.RunsFilter(job_name=job_name, tags={FILES_TAG: key}), limit=1)
    return runs[0] if runs else None


def request(asset: str, partition: str, key: str, why: str) -> dg.RunRequest:
    """The run of an asset's job, once for each set of files."""
    return dg.RunRequest(
        run_key=f"{asset}:{key}",
        job_name=f"{asset}_job",
        partition_key=None if partition == WHOLE else partition,
        tags={FILES_TAG: key, WHY_TAG: why},
    )
