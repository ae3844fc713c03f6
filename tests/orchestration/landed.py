"""A landing zone, a sensor on it, and Dagster's part of a tick, for tests of sensors."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import dagster as dg

from overnight.landing import DerivedSource, Lookback, Source
from overnight.orchestration import inference_asset, landing_sensor, source_asset
from resources import ClusterResource, StoreResource, WarehouseResource
from tests.support.shop import Known, Line, lines, newest, newest_lines, reversing

if TYPE_CHECKING:
    from collections.abc import Sequence

    from overnight.job import InferenceJob
    from overnight.store import Store

DAILY = dg.DailyPartitionsDefinition("2024-11-01", timezone="Europe/Berlin")
SETTLE_S = 300.0
START = dt.datetime(2024, 11, 25, 2, 0, tzinfo=dt.UTC)
notes = Source(name="notes", contract=Line, key="line_id")


def both(**changes: Any) -> InferenceJob:
    """A daily job that needs the lines of its day, and the notes; it looks back on some days."""
    source = DerivedSource(
        name="lines_with_notes",
        contract=Known,
        key="line_id",
        inputs=(Lookback(source=lines, first=-3), Lookback(source=notes, first=None)),
        derive=newest,
    )
    return newest_lines(**{"name": "noted_lines", "partitioned": True, "source": source, **changes})


def definitions(store: Store, jobs: Sequence[InferenceJob], **more: Any) -> dg.Definitions:
    return dg.Definitions.merge(
        dg.Definitions(
            assets=[source_asset(source, partitions=DAILY, group="t") for source in (lines, notes)],
            resources={
                "warehouse": WarehouseResource(),
                "store": StoreResource(url=store.url, endpoint_url=store.config.endpoint_url),
                "cluster": ClusterResource(),
            },
            **more,
        ),
        *(
            inference_asset(
                job,
                partitions=DAILY if job.partitioned else None,
                hour=2,
                timezone=None if job.partitioned else "Europe/Berlin",
                group="t",
            )
            for job in jobs
        ),
    )


@dataclass
class Zone:
    """Files that land, and a sensor that is ticked; time passes only when it is told to."""

    store: Store
    instance: dg.DagsterInstance
    jobs: tuple[InferenceJob, ...] = field(default_factory=lambda: (reversing(),))
    source: Source = lines
    now: dt.datetime = START
    cursor: str | None = None
    tick_s: float = 20.0

    def __post_init__(self) -> None:
        self.sensor = landing_sensor(
            self.source,
            self.jobs,
            partitions=DAILY,
            settle_s=SETTLE_S,
            clock=lambda: self.now,
            tick_s=self.tick_s,
        )
        self.definitions = definitions(self.store, self.jobs, sensors=[self.sensor])
        self.repository = self.definitions.get_repository_def()

    def land(self, day: str, *names: str, content: bytes = b"{}\n", source: Source = lines) -> None:
        for name in names:
            self.store.put(f"landing/{source.name}/{day}/{name}", content)

    def wait(self, seconds: float) -> None:
        self.now += dt.timedelta(seconds=seconds)

    def evaluate(self) -> Any:
        """One tick, of which nothing is kept, as if the daemon died after it."""
        resources: Any = self.definitions.resources
        with dg.build_sensor_context(
            instance=self.instance,
            cursor=self.cursor,
            repository_def=self.repository,
            sensor_name=self.sensor.name,
            resources={"store": resources["store"]},
        ) as context:
            return self.sensor.evaluate_tick(context)

    def tick(self) -> Tick:
        """One tick, and what the daemon does after it: events, runs, the cursor."""
        result = self.evaluate()
        for event in result.asset_events:
            self.instance.report_runless_asset_event(event)
        for request in result.run_requests:
            self.instance.create_run_for_job(
                self.definitions.resolve_job_def(request.job_name),
                tags={**request.tags, "dagster/run_key": request.run_key},
            )
        self.cursor = result.cursor
        return Tick(
            [(request.job_name, request.partition_key) for request in result.run_requests],
            result.skip_message or "",
            result,
        )


@dataclass(frozen=True)
class Tick:
    """What a tick asked for: jobs and partitions, or why none."""

    runs: list[tuple[str, str | None]]
    why_not: str
    result: Any
