"""Sensors that start work when data lands, one for each landed source.

Which partitions run when files of a day have landed, late ones included: of each job that reads
the source, the one whose newest day of that source it is (the same day, unless the job reads up
to some days before). Later partitions that look back on that day are not run again, for what they
said was said with what was known; Dagster shows them as made from something that has changed.

A partition that is older than the sensor remembers, or that landed more than a week before the
sensor's first tick, is started by hand.
"""

from __future__ import annotations

import datetime as dt
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import dagster as dg

from overnight.errors import ConfigError
from overnight.landing import WHOLE, sources_of
from overnight.landing.arrival import SETTLE_S
from overnight.landing.watch import DONE, FOUND, TOLD, Cursor, Watch
from overnight.orchestration.readiness import (
    complete_observation,
    inputs_of,
    readiness,
    request,
    started,
)
from overnight.orchestration.schedule import job_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from overnight.job import InferenceJob
    from overnight.landing import Lookback, Source
    from overnight.landing.arrival import Arrival
    from overnight.landing.watch import Look
    from overnight.store import Store

INTERVAL_S = 30
TICK_S = 20.0
"""Seconds that a tick may take; Dagster gives up on one after 60."""
RUNS_A_TICK = 100
_SHOWN = 3


def now_utc() -> dt.datetime:
    """The time."""
    return dt.datetime.now(tz=dt.UTC)


def landing_sensors(
    jobs: Sequence[InferenceJob],
    *,
    partitions: dg.TimeWindowPartitionsDefinition,
    also: Sequence[Source] = (),
    settle_s: float = SETTLE_S,
    default_status: dg.DefaultSensorStatus = dg.DefaultSensorStatus.STOPPED,
) -> list[dg.SensorDefinition]:
    """A `landing_sensor` for each landed source behind some jobs.

    Args:
        jobs: what to start; not those that Dagster's declarative automation starts.
        partitions: those of the daily jobs.
        also: further sources whose data versions are told to Dagster.
        settle_s: see `landing_sensor`.
        default_status: likewise.
    """
    sources = {**sources_of(jobs), **{source.name: source for source in also}}
    return [
        landing_sensor(
            source,
            jobs,
            partitions=partitions,
            settle_s=settle_s,
            default_status=default_status,
        )
        for source in sources.values()
    ]


def landing_sensor(
    source: Source,
    jobs: Sequence[InferenceJob],
    *,
    partitions: dg.TimeWindowPartitionsDefinition,
    settle_s: float = SETTLE_S,
    interval_s: int = INTERVAL_S,
    default_status: dg.DefaultSensorStatus = dg.DefaultSensorStatus.STOPPED,
    clock: Callable[[], dt.datetime] = now_utc,
    tick_s: float = TICK_S,
) -> dg.SensorDefinition:
    """Watch `<store>/landing/<source>/`, and start what reads a partition that is complete.

    A partition is complete when it has a `_SUCCESS` that is no older than its files, or when its
    files have stayed the same for `settle_s`. It also needs all other sources that the job
    requires for it; the sensor of the last one to come starts the run. Its data version is told
    to Dagster, once for each set of files.

    Needs the resource `store`.

    Args:
        source: what to watch.
        jobs: those that may be started; of them, the ones that read this source are.
        partitions: those of the daily jobs.
        settle_s: seconds.
        interval_s: seconds between ticks.
        default_status: whether it runs as soon as the code location is loaded.
        clock: the time, aware.
        tick_s: seconds after which a tick leaves the rest to the next one.

    Raises:
        ConfigError: if a number cannot be used.
    """
    watch = Watch(source=source, settle_s=settle_s)
    starter = Starter(jobs=tuple(jobs), partitions=partitions, settle_s=settle_s)
    readers = starter.readers(source)

    @dg.sensor(
        name=f"{source.name}_landing",
        description=f"Starts {', '.join(job.name for job, _ in readers) or 'no job itself'} when "
        f"files of {source.name} have landed.",
        **_target(readers),
        minimum_interval_seconds=interval_s,
        default_status=default_status,
        required_resource_keys={"store"},
        metadata={"settle_s": settle_s},
    )
    def landed(context: dg.SensorEvaluationContext) -> dg.SensorResult:
        store = context.resources.store.config.open()
        cursor = Cursor.read(context.cursor)
        until = time.monotonic() + tick_s
        look = watch.look(store, cursor, now=clock(), in_time=lambda: time.monotonic() < until)
        tick = Tick(store=store, instance=context.instance, now=clock())
        starter.start(tick, source, look, cursor)
        return tick.result(cursor.text(), unchanged(store, source, look))

    return landed


def _target(readers: Sequence[tuple[InferenceJob, Lookback]]) -> dict[str, Any]:
    """What Dagster lets a sensor start."""
    if not readers:
        return {}
    return {"jobs": [job_of(job.name) for job, _ in readers]}


def unchanged(store: Store, source: Source, look: Look) -> str:
    """Why there is nothing to do, for a tick that found nothing."""
    where = f"{store.url}/landing/{source.name}/"
    if not look.partitions:
        return f"nothing has landed for {source.name} yet: there is no folder in {where}"
    return f"nothing new in {where} ({look.partitions} partitions)"


@dataclass(slots=True, kw_only=True)
class Tick:
    """What one tick does, for one source or several."""

    store: Store
    instance: dg.DagsterInstance
    now: dt.datetime
    requests: dict[str, dg.RunRequest] = field(default_factory=dict)
    told: list[dg.AssetObservation] = field(default_factory=list)
    waits: list[str] = field(default_factory=list)

    def result(self, cursor: str, nothing: str) -> dg.SensorResult:
        """What Dagster is handed; `nothing` says why there is nothing."""
        if self.requests:
            return dg.SensorResult(
                run_requests=list(self.requests.values()), asset_events=self.told, cursor=cursor
            )
        more = len(self.waits) - _SHOWN
        shown = "; ".join(self.waits[:_SHOWN]) + (f"; and {more} more" if more > 0 else "")
        return dg.SensorResult(
            skip_reason=f"waits: {shown}" if self.waits else nothing,
            asset_events=self.told,
            cursor=cursor,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Starter:
    """Decides what to start when a source's partitions have settled."""

    jobs: tuple[InferenceJob, ...]
    partitions: dg.TimeWindowPartitionsDefinition
    settle_s: float

    def readers(self, source: Source) -> list[tuple[InferenceJob, Lookback]]:
        """The jobs that read a source, and which days of it."""
        return [
            (job, look)
            for job in self.jobs
            for look in inputs_of(job.source)
            if look.source.name == source.name
        ]

    def start(self, tick: Tick, source: Source, look: Look, cursor: Cursor) -> None:
        """Ask for the runs that a look calls for, and note in the cursor what is done."""
        tick.waits += [f"{source.name} of {day}: {why}" for day, why in look.unsettled.items()]
        if not look.in_time:
            tick.waits.append(f"{source.name}: more partitions are looked at in the next tick")
        for found in look.ready:
            known = cursor.days[found.partition]
            fresh = known.state != FOUND
            if known.state != TOLD:
                tick.told.append(complete_observation(source, found))
            todo = [
                self._start(tick, job, lookback, source, found, fresh=fresh)
                for job, lookback in self.readers(source)
            ]
            known.state = DONE if all(todo) else TOLD

    def _start(
        self,
        tick: Tick,
        job: InferenceJob,
        lookback: Lookback,
        source: Source,
        found: Arrival,
        *,
        fresh: bool,
    ) -> bool:
        """Whether nothing is left to do for one job."""
        partition = WHOLE
        if job.partitioned:
            day = dt.date.fromisoformat(found.partition) - dt.timedelta(days=lookback.last)
            partition = day.isoformat()
            if (ends := self._until(partition, tick.now)) is not None:
                if ends:
                    tick.waits.append(f"{job.name} of {partition}: the day ends at {ends}")
                return not ends
        if not fresh and _materialized(tick.instance, job, partition):
            return True
        ready = readiness(
            tick.store,
            tick.instance,
            inputs_of(job.source),
            partition,
            now=tick.now,
            settle_s=self.settle_s,
            settled={source.name: found},
        )
        # A whole table has no files of its own day: those that have just landed stand for them.
        key = ready.key if job.partitioned else f"{source.name} {found.partition}:{found.digest}"
        if ready.waits:
            tick.waits += [f"{job.name} of {partition} waits for {wait}" for wait in ready.waits]
            return False
        run_key = f"{job.name}:{key}"
        if run_key in tick.requests or started(tick.instance, f"{job.name}_job", key):
            return True
        if len(tick.requests) >= RUNS_A_TICK:
            tick.waits.append(f"{job.name} of {partition} is started in the next tick")
            return False
        why = f"{len(found.files)} files of {source.name} have landed for {found.partition}"
        tick.requests[run_key] = request(job.name, partition, key, why)
        return True

    def _until(self, partition: str, now: dt.datetime) -> str | None:
        """None if the partition exists; when it does, or nothing if it is before the first."""
        if partition < self.partitions.start.date().isoformat():
            return ""
        try:
            window = self.partitions.time_window_for_partition_key(partition)
        except Exception as error:  # Dagster's own, of several kinds
            raise ConfigError(f"partition {partition!r} is none of {self.partitions}") from error
        return window.end.isoformat(" ", "minutes") if window.end > now else None


def _materialized(instance: dg.DagsterInstance, job: InferenceJob, partition: str) -> bool:
    """Whether somebody has made it before the sensor looked for the first time."""
    key = dg.AssetKey(job.name)
    if not job.partitioned:
        return instance.get_latest_materialization_event(key) is not None
    return partition in instance.get_materialized_partitions(key)
