"""A sensor that tells a webhook of runs that failed for good and of tables that are late.

It asks Dagster and the warehouse rather than being told, so that a tick that fails, or a daemon
that was down, misses nothing: what it has noticed is in the outbox before its cursor moves on.
"""

from __future__ import annotations

import datetime as dt
import time
from typing import TYPE_CHECKING

import dagster as dg
from dagster._core.storage.tags import PARTITION_NAME_TAG, WILL_RETRY_TAG

from overnight.alerts import URL, Alert, Webhook, deliver, put
from overnight.freshness import freshness
from overnight.job import WHOLE
from overnight.orchestration.runs import reason

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from overnight.job import InferenceJob
    from overnight.store import Store
    from overnight.warehouse.connect import Warehouse

EVERY_S = 30
TICK_S = 40.0
"""Seconds after which a tick leaves the rest to the next one; Dagster gives up on one after 60."""
# Runs are looked up by when they changed; clocks of several machines differ, and ids tell twins.
_OVERLAP = dt.timedelta(minutes=1)
_RUNS_A_TICK = 200


def alert_sensor(
    jobs: Sequence[InferenceJob], *, name: str = "alerts", every_s: int = EVERY_S
) -> dg.SensorDefinition:
    """Tell the webhook of `OVERNIGHT_WEBHOOK_URL` what a person should know.

    That is each run that failed and will not be tried again, and each table that is not
    published by the time its job's `expects.due` says. The sensor is on from the start; without
    a URL its ticks are skipped. It needs the resources `warehouse` and `store`.

    Args:
        jobs: the jobs whose lateness is told.
        name: the sensor's.
        every_s: seconds between ticks, at least.
    """

    @dg.sensor(
        name=name,
        minimum_interval_seconds=every_s,
        default_status=dg.DefaultSensorStatus.RUNNING,
        required_resource_keys={"warehouse", "store"},
        description=f"Tells the webhook of {URL} of failed runs and late tables.",
    )
    def tick(context: dg.SensorEvaluationContext) -> dg.SensorResult | dg.SkipReason:
        until = time.monotonic() + TICK_S
        webhook = Webhook.from_env()
        if webhook is None:
            return dg.SkipReason(f"{URL} is not set: nobody is told")
        now = dt.datetime.now(tz=dt.UTC)
        since = dt.datetime.fromisoformat(context.cursor) if context.cursor else now
        with context.resources.warehouse.open() as warehouse:
            failed, seen = failed_runs(context.instance, since)
            store = context.resources.store.config.open()
            put(warehouse, [*failed, *late(warehouse, store, jobs, now)])
            done = deliver(warehouse, webhook, in_time=lambda: time.monotonic() < until)
        said = f"{done.sent} alerts sent, {done.waiting} wait"
        if done.error is not None:
            said += f": {done.error}; tried again at the next tick"
            context.log.warning(said)
        return dg.SensorResult(skip_reason=said, cursor=seen.isoformat())

    return tick


def failed_runs(
    instance: dg.DagsterInstance, since: dt.datetime
) -> tuple[list[Alert], dt.datetime]:
    """Runs that have failed for good since a time, and up to when that is known."""
    records = instance.get_run_records(
        dg.RunsFilter(statuses=[dg.DagsterRunStatus.FAILURE], updated_after=since - _OVERLAP),
        limit=_RUNS_A_TICK,
        order_by="update_timestamp",
        ascending=True,
    )
    alerts = [
        _failed(instance, record.dagster_run, record.update_timestamp)
        for record in records
        if record.dagster_run.tags.get(WILL_RETRY_TAG) != "true"
    ]
    newest = max((_aware(record.update_timestamp) for record in records), default=since)
    return alerts, max(newest, since)


def late(
    warehouse: Warehouse, store: Store, jobs: Sequence[InferenceJob], now: dt.datetime
) -> Iterator[Alert]:
    """Tables that are not published though they are due; once for each time that they are due."""
    for job in jobs:
        if job.expects.due is None:
            continue
        check = freshness(warehouse, store, job, now)
        if check.passed:
            continue
        partition = str(check.figures.get("expected", WHOLE))
        yield Alert(
            id=f"late:{job.name}:{check.figures['due_by']}",
            kind="late",
            at=now.isoformat(timespec="seconds"),
            job=job.name,
            partition=partition,
            text=f"{job.name} is late: {check.message}\n"
            f"`overnight why {job.name} {partition}` shows more.",
        )


def _failed(instance: dg.DagsterInstance, run: dg.DagsterRun, at: dt.datetime) -> Alert:
    partition = run.tags.get(PARTITION_NAME_TAG, "")
    assets = sorted(key.to_user_string() for key in run.asset_selection or ())
    job = ", ".join(assets) or run.job_name.removesuffix("_job")
    of = f" {partition}" if partition else ""
    return Alert(
        id=f"run:{run.run_id}",
        kind="run_failed",
        at=_aware(at).isoformat(timespec="seconds"),
        job=job,
        partition=partition,
        text=f"{job}{of} failed: {reason(instance, run.run_id)}\n"
        f"`overnight why {job} {partition or WHOLE}` shows more; the run is {run.run_id}.",
    )


def _aware(at: dt.datetime) -> dt.datetime:
    """Dagster's timestamps are UTC, with or without saying so."""
    return at if at.tzinfo is not None else at.replace(tzinfo=dt.UTC)
