"""Schedules that wait for their data.

A tick starts the newest partition if all that it requires has landed; otherwise it says what it
waits for. The source's sensor starts it when that comes. No day is lost where sensors are
stopped: each tick also starts the days before that nobody has started, and whose data is there.

Ticks follow the clock of a named time zone. On the day that summer time begins, a tick whose hour
does not exist comes at the next one that does; on the day that it ends, an hour that comes twice
has one tick.
"""

from __future__ import annotations

import datetime as dt
import functools
from typing import TYPE_CHECKING, Any

import dagster as dg

from overnight.errors import ConfigError
from overnight.job import WHOLE
from overnight.landing.arrival import SETTLE_S
from overnight.orchestration.pools import NIGHTLY, PRIORITY
from overnight.orchestration.readiness import readiness, request, started

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from overnight.landing import Lookback

CATCH_UP = 7
"""How many of the newest partitions a tick looks at."""


@functools.cache
def job_of(asset: str) -> Any:
    """The job that makes an asset; Dagster wants the same object from all that start it."""
    return dg.define_asset_job(f"{asset}_job", selection=[asset], tags={PRIORITY: NIGHTLY})


def waiting_schedule(
    asset: str,
    inputs: Sequence[Lookback],
    *,
    partitions: dg.TimeWindowPartitionsDefinition | None,
    hour: int,
    timezone: str | None = None,
    last_day: Callable[[str], str] = lambda partition: partition,
    catch_up: int = CATCH_UP,
    again: bool = True,
    settle_s: float = SETTLE_S,
    clock: Callable[[], dt.datetime] = lambda: dt.datetime.now(tz=dt.UTC),
) -> dg.ScheduleDefinition:
    """Start an asset's job each day at an hour, if its data is there.

    Needs the resource `store`.

    Args:
        asset: its name.
        inputs: what it reads, relative to the last day of a partition.
        partitions: its partitions, in a named time zone; None for a whole table.
        hour: of the day.
        timezone: the hour's, for a whole table.
        last_day: of a partition, as an ISO date.
        catch_up: how many of the newest partitions are started if nobody has.
        again: whether the newest partition is run though somebody has made it before; if
            nothing has changed since, that costs a job nothing.
        settle_s: see `Arrival.missing`.
        clock: the time that files are as old at, aware.

    Raises:
        ConfigError: if there is neither partitions nor a time zone.
    """
    zone = timezone if partitions is None else partitions.timezone
    if zone is None:
        raise ConfigError(f"job {asset!r}: a schedule at {hour}:00 needs a timezone")
    what = f"{asset} for what has just ended" if partitions else asset

    @dg.schedule(
        job=job_of(asset),
        name=f"{asset}_schedule",
        cron_schedule=f"0 {hour} * * *",
        execution_timezone=zone,
        description=f"Runs {what} at {hour}:00, if its data has landed.",
        required_resource_keys={"store"},
    )
    def tick(context: dg.ScheduleEvaluationContext) -> list[dg.RunRequest] | dg.SkipReason:
        store = context.resources.store.config.open()
        at = context.scheduled_execution_time
        keys = [WHOLE] if partitions is None else partitions.get_partition_keys(at)[-catch_up:]
        if not keys:
            return dg.SkipReason(f"no partition of {asset} has ended yet")
        made = set() if partitions is None else _made(context.instance, asset)
        requests = []
        said = ""
        for partition in reversed(keys):
            if partition in made and not (again and partition == keys[-1]):
                said = said or f"{partition} has been made"
                continue
            day = WHOLE if partition == WHOLE else last_day(partition)
            ready = readiness(store, context.instance, inputs, day, now=clock(), settle_s=settle_s)
            run = None
            if partition != WHOLE:
                run = started(context.instance, f"{asset}_job", ready.key)
            if ready.waits:
                said = said or f"{partition} waits for {'; '.join(ready.waits)}"
            elif run is not None:
                said = said or f"{partition} was started by run {run.run_id} ({run.status.value})"
            else:
                key = ready.key if partition != WHOLE else f"{WHOLE}:{at:%Y-%m-%d}"
                requests.append(request(asset, partition, key, f"the schedule at {hour}:00"))
        return requests or dg.SkipReason(said)

    return tick


def _made(instance: dg.DagsterInstance, asset: str) -> set[str]:
    return instance.get_materialized_partitions(dg.AssetKey(asset))
