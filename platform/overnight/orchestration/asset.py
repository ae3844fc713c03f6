"""A job as a Dagster asset: partitions, checks, retries, a schedule."""

# Dagster evaluates the annotations of an asset's function, so they are no strings here.
import contextlib
import datetime as dt
from collections.abc import Iterator, Sequence
from typing import Any

import dagster as dg
from dagster._core.errors import DagsterExecutionInterruptedError

from overnight.audit import Check, check_names, only_warns, too_many_rejects
from overnight.errors import (
    AuditFailedError,
    ConfigError,
    OvernightError,
    PartitionBusyError,
    TooManyRejectsError,
)
from overnight.freshness import FRESHNESS, freshness, freshness_meaning
from overnight.job import WHOLE, InferenceJob
from overnight.lineage.trail import Trail, trail_of
from overnight.orchestration import metadata
from overnight.orchestration.dependencies import job_deps
from overnight.orchestration.live import Observer
from overnight.orchestration.partition import partition_of
from overnight.orchestration.pools import pool_of
from overnight.orchestration.readiness import inputs_of
from overnight.orchestration.schedule import job_of, waiting_schedule
from overnight.orchestration.source import description
from overnight.progress import Reporter, foreground_terminal
from overnight.report import PartitionReport
from overnight.workers.progress import PoolProgress

DAILY_START = "2026-01-01"
RETRIES = 3
RETRY_WAIT_S = 2
# A step that is told to go, or killed, has done nothing wrong; but something that kills every
# process that tries must end some time.
INTERRUPTIONS = 100


def inference_asset(
    job: InferenceJob,
    *,
    partitions: dg.TimeWindowPartitionsDefinition | None = None,
    hour: int | None = None,
    timezone: str | None = None,
    automation_condition: dg.AutomationCondition[Any] | None = None,
    group: str,
    depends_on: Sequence[str | dg.AssetDep] = (),
    owners: Sequence[str] = (),
    pool: str | None = None,
) -> dg.Definitions:
    """The asset of a job's output table, its job and its schedule.

    It depends on the landed sources behind the job's source, with the days that are read of
    each, and on the trained models that its engine uses.

    Args:
        job: what to infer; needs the resources `warehouse`, `store` and `cluster`.
        partitions: one partition a day, in a named time zone; None for a job without any.
        hour: of the day at which the day that has ended (or the whole) is run, if its data has
            landed, see `waiting_schedule`; None for no schedule.
        timezone: the hour's, for a job without partitions.
        automation_condition: when Dagster should run it by itself.
        group: the asset group in the UI.
        depends_on: further assets, such as a model that is not trained here.
        owners: who answers for the table, `team:name` or an e-mail address.
        pool: Dagster's concurrency pool; by default that of the engine and its machines.

    Raises:
        ConfigError: if job and asset do not agree on having partitions.
    """
    if job.partitioned != (partitions is not None):
        raise ConfigError(
            f"job {job.name!r} has partitioned={job.partitioned}, its asset has "
            f"partitions={partitions!r}: give both or neither"
        )

    @dg.asset(
        name=job.name,
        partitions_def=partitions,
        group_name=group,
        description=description(job.output),
        deps=job_deps(job, partitions, depends_on),
        metadata=metadata.of_job(job),
        kinds={"postgres", job.engine.kind.split(".")[0]},
        owners=list(owners),
        code_version=job.code_version,
        check_specs=_check_specs(job),
        automation_condition=automation_condition,
        # No backfill policy: a backfill is a run for each partition. `multi_run(1)` would start
        # them as ranges of one, which have no partition key.
        # Counts killed processes only: errors have a budget of their own, see `_again`.
        retry_policy=dg.RetryPolicy(max_retries=INTERRUPTIONS, delay=RETRY_WAIT_S),
        required_resource_keys={"warehouse", "store", "cluster"},
        pool=pool or pool_of(job),
    )
    def asset(context: dg.AssetExecutionContext) -> Iterator[Any]:
        try:
            report, trail, total_rows, also = _run(job, context)
        except AuditFailedError as error:
            yield from check_results(error.audit.checks)
            raise dg.Failure(
                f"nothing was published for {_partition(context)}: {error}", allow_retries=False
            ) from error
        except TooManyRejectsError as error:
            yield from check_results([too_many_rejects(str(error))])
            raise dg.Failure(str(error), allow_retries=False) from error
        except OvernightError as error:
            if error.retryable:
                raise _again(job, context, error) from error
            raise dg.Failure(str(error), allow_retries=False) from error
        except Exception as error:
            raise _again(job, context, error) from error
        except (KeyboardInterrupt, SystemExit, DagsterExecutionInterruptedError) as error:
            # Told to go (Ray's own handler exits): the journal is in order, and another process
            # goes on from there; unless somebody ended the run.
            if _canceled(context):
                raise
            raise dg.RetryRequested(max_retries=INTERRUPTIONS, seconds_to_wait=0) from error
        yield dg.MaterializeResult(
            metadata=metadata.of_partition(report, total_rows, trail),
            data_version=dg.DataVersion(report.data_version),
            check_results=list(check_results([*report.audit.checks, *also])),
        )

    schedules = [
        waiting_schedule(
            job.name, inputs_of(job.source), partitions=partitions, hour=at, timezone=timezone
        )
        for at in ([] if hour is None else [hour])
    ]
    return dg.Definitions(assets=[asset], jobs=[job_of(job.name)], schedules=schedules)


def _check_specs(job: InferenceJob) -> list[dg.AssetCheckSpec]:
    checks = check_names(job)
    warnings = {*only_warns(job), FRESHNESS}
    if job.expects.due is not None:
        checks[FRESHNESS] = freshness_meaning(job)
    return [
        dg.AssetCheckSpec(name, asset=job.name, description=meaning, blocking=name not in warnings)
        for name, meaning in checks.items()
    ]


def _partition(context: dg.AssetExecutionContext) -> str:
    return partition_of(context.op_execution_context) or WHOLE


def _canceled(context: dg.AssetExecutionContext) -> bool:
    run = context.instance.get_run_by_id(context.run.run_id)
    return run is not None and run.status is dg.DagsterRunStatus.CANCELING


def _run(
    job: InferenceJob, context: dg.AssetExecutionContext
) -> tuple[PartitionReport, Trail, int, list[Check]]:
    # Only here: the database driver is half a second of what loading the definitions takes.
    from overnight.lineage.lease import await_lease
    from overnight.run import House, run_partition

    resources = context.resources
    partition = _partition(context)
    reporter = Reporter(context.log.info, foreground_terminal())
    observer = Observer(
        context.log_event,
        asset=job.name,
        partition=partition_of(context.op_execution_context),
    )

    def tell(progress: PoolProgress) -> None:
        reporter(progress)
        observer(progress)

    with resources.warehouse.open() as warehouse:
        house = House(
            warehouse=warehouse,
            store=resources.store.config,
            cluster=resources.cluster.config,
            scratch=resources.store.scratch,
        )
        with observer:
            while True:
                try:
                    report = run_partition(
                        job, partition, run_id=context.run.run_id, house=house, report=tell
                    )
                    break
                except PartitionBusyError as error:
                    # What has landed since the other began is for this run to see.
                    context.log.warning("%s; this run waits", error)
                    await_lease(warehouse, job=job.name, partition_key=partition)
        trail = trail_of(warehouse, job=job.name, partition_key=partition, attempt=report.attempt)
        also = []
        if job.expects.due is not None:
            now = dt.datetime.now(tz=dt.UTC)
            also.append(freshness(warehouse, house.store.open(), job, now))
        return report, trail, warehouse.rows_in("published", job.name), also


def _again(
    job: InferenceJob, context: dg.AssetExecutionContext, error: Exception
) -> dg.RetryRequested | dg.Failure:
    """What to raise after an error: another try, later each time, or the end of the budget.

    Only errors count; how often the run's machines or processes were taken away does not.
    """
    from overnight.lineage.record import failures_of_run

    failures = context.retry_number + 1
    with contextlib.suppress(OvernightError), context.resources.warehouse.open() as warehouse:
        failures = failures_of_run(
            warehouse, run_id=context.run.run_id, job=job.name, partition_key=_partition(context)
        )
    if failures > RETRIES:
        return dg.Failure(f"{error} (tried {failures} times)", allow_retries=False)
    wait = RETRY_WAIT_S * 2 ** max(0, failures - 1)
    context.log.warning("%s: trying again in %d s (%d of %d)", error, wait, failures, RETRIES)
    return dg.RetryRequested(max_retries=INTERRUPTIONS, seconds_to_wait=wait)


def check_results(checks: Sequence[Check]) -> Iterator[dg.AssetCheckResult]:
    """Outcomes of checks, as Dagster shows them."""
    for check in checks:
        yield dg.AssetCheckResult(
            check_name=check.name,
            passed=check.passed,
            severity=dg.AssetCheckSeverity.ERROR if check.blocking else dg.AssetCheckSeverity.WARN,
            description=check.message,
            metadata=dict(check.figures),
        )
