"""Freshness as a check that Dagster shows: evaluated by a sensor, without a run.

Dagster's own freshness policies go by the clock, so that an old day that is filled in makes a
table fresh; `overnight.freshness` knows which day is due.
"""

# Dagster evaluates the annotations of a sensor's function, so they are no strings here.
import datetime as dt
import json
from collections.abc import Sequence

import dagster as dg

from overnight.checks import Check
from overnight.errors import ConfigError
from overnight.freshness import freshness
from overnight.job import InferenceJob

EVERY_S = 120


def freshness_sensor(
    jobs: Sequence[InferenceJob], *, name: str = "freshness", every_s: int = EVERY_S
) -> dg.SensorDefinition:
    """Look at each table whose job says by when it is due, and tell when its state changes.

    The sensor is on from the start. It needs the resources `warehouse` and `store`; a warehouse
    that does not answer fails the tick, and the next one looks again.

    Args:
        jobs: the jobs; those without `expects.due` are left out.
        name: the sensor's.
        every_s: seconds between two looks, at least.

    Raises:
        ConfigError: if none of them is ever due.
    """
    watched = [job for job in jobs if job.expects.due is not None]
    if not watched:
        raise ConfigError(f"sensor {name!r}: none of the jobs has `Expectations(due=…)`")

    @dg.sensor(
        name=name,
        minimum_interval_seconds=every_s,
        default_status=dg.DefaultSensorStatus.RUNNING,
        required_resource_keys={"warehouse", "store"},
        description="Whether the newest day of each table is published by the time it is due.",
    )
    def sensor(context: dg.SensorEvaluationContext) -> dg.SensorResult | dg.SkipReason:
        known: dict[str, list[object]] = json.loads(context.cursor) if context.cursor else {}
        store = context.resources.store.config.open()
        now = dt.datetime.now(tz=dt.UTC)
        changed: list[dg.AssetCheckEvaluation] = []
        with context.resources.warehouse.open() as warehouse:
            for job in watched:
                check = freshness(warehouse, store, job, now)
                state = [check.passed, check.message]
                if known.get(job.name) != state:
                    known[job.name] = state
                    changed.append(evaluation(job, check))
        if not changed:
            return dg.SkipReason("nothing has changed since the last look")
        return dg.SensorResult(asset_events=changed, cursor=json.dumps(known))

    return sensor


def evaluation(job: InferenceJob, check: Check) -> dg.AssetCheckEvaluation:
    """A check's outcome without a run."""
    return dg.AssetCheckEvaluation(
        asset_key=dg.AssetKey(job.name),
        check_name=check.name,
        passed=check.passed,
        severity=dg.AssetCheckSeverity.ERROR if check.blocking else dg.AssetCheckSeverity.WARN,
        description=check.message,
        metadata=dict(check.figures),
        blocking=False,
    )
