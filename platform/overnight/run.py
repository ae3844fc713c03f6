"""The way of one partition through the house: read, plan, infer, audit, publish.

`run_partition` is that way; each step lives in the module of its name. Nothing here knows
Dagster, and nothing is visible to readers before the last step's transaction commits.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import logging
import socket
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import polars as pl

from overnight import ledger
from overnight.audit import audit
from overnight.errors import (
    AuditFailedError,
    OvernightError,
    PartitionBusyError,
    StaleAttemptError,
    TooManyRejectsError,
)
from overnight.history import History
from overnight.job import digest
from overnight.journal import collect
from overnight.landing import reader_of
from overnight.lineage import contents, record
from overnight.lineage.live import Teller
from overnight.monitoring.traces import traced
from overnight.plan import build_plan
from overnight.publication import (
    Earlier,
    publication,
    published_table,
    record_failed_audit,
    stage_of,
)
from overnight.registry import Registry
from overnight.report import PartitionReport, Timings, measured
from overnight.results import fill_stage, sample
from overnight.scratch import scratch_folder
from overnight.spot.deadline import market_policy
from overnight.spot.market import Market
from overnight.warehouse.publications import publications
from overnight.warehouse.publish import publish
from overnight.warehouse.table import ensure_table
from overnight.warehouse.vectors import ensure_index
from overnight.workers.actor import Assignment
from overnight.workers.buying import Buyer
from overnight.workers.pool import Pool

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from overnight.job import Fingerprint, InferenceJob
    from overnight.journal import Journal
    from overnight.lineage.record import Attempt
    from overnight.plan import Plan
    from overnight.store import StoreConfig
    from overnight.warehouse.connect import Warehouse
    from overnight.workers.cluster import ClusterConfig
    from overnight.workers.progress import PoolProgress

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class House:
    """What a run needs around it.

    Attributes:
        warehouse: where results are published.
        store: the landing zone and the journal.
        cluster: where workers run.
        scratch: a local directory for what can be made again: a run's own files, and the
            models that it fetched.
        journal_retention: how long journals are kept after their partition was published.
    """

    warehouse: Warehouse
    store: StoreConfig
    cluster: ClusterConfig
    scratch: Path
    journal_retention: dt.timedelta = dt.timedelta(days=7)

    @property
    def registry(self) -> Registry:
        """The trained models in the store."""
        return Registry(self.store, self.scratch / "models")


def run_partition(
    job: InferenceJob,
    partition: str,
    *,
    run_id: str,
    house: House,
    report: Callable[[PoolProgress], None] = lambda _: None,
    clock: Callable[[], float] = time.monotonic,
) -> PartitionReport:
    """Work one partition through, from landing files to published rows.

    Calling it again after any failure goes on where it was; calling it again after success
    infers only what has changed.

    Args:
        job: what to infer.
        partition: an ISO date; `overnight.job.WHOLE` of a job without daily partitions.
        run_id: names this run in lineage.
        house: where to read, infer and publish.
        report: called every few seconds while rows are inferred.
        clock: monotonic seconds.

    Raises:
        OvernightError: one of the family, by cause; nothing that was published has changed.
    """
    job.check_partition(partition)
    job = job.pinned(house.registry)
    fingerprint = job.fingerprint()
    prices = Market.from_env()
    with (
        traced(job=job.name, partition=partition, run_id=run_id) as trace,
        _attempt(job, partition, run_id, fingerprint, house) as attempt,
        scratch_folder(house.scratch, str(attempt.attempt)) as scratch,
    ):
        timings = Timings(clock, trace)
        trace.tell(attempt=attempt.attempt)
        earlier = Earlier.read(house.warehouse, job, partition, fingerprint)
        assignment = _assignment(attempt, house, earlier)
        journal = assignment.journal
        with contextlib.ExitStack() as ending:
            pool = ending.enter_context(_pool(job, fingerprint, house, attempt, report))
            with timings("plan"), _keeping_rejects(house, attempt):
                plan = _plan(
                    job, partition, journal, earlier, house.store, scratch,
                    on_work=lambda: pool.prepare(assignment),
                )  # fmt: skip
            ending.enter_context(plan)
            with timings("infer"), _counting(house, attempt, pool, prices) as cost:
                pool.infer(plan, assignment)
            with stage_of(house.warehouse, job, attempt) as stage:
                with timings("stage"):
                    filled = fill_stage(job, plan, journal, stage, attempt.attempt, earlier)
                with timings("audit"):
                    history = History.read(house.warehouse, job, partition)
                    audited = audit(
                        job, partition, plan, filled, stage.preview, history, earlier.dropped
                    )
                if not audited.passed:
                    # A crash of Postgres empties the stage: that is no fault of the rows.
                    stage.check_held(filled.staged)
                    record_failed_audit(house.warehouse, attempt, plan, filled, audited)
                    raise AuditFailedError(audited)
                inference = measured(plan, filled, pool.samples, timings.seconds["infer"])
                rows = sample(job, stage.preview)
                with timings("publish"):
                    final = publication(plan, filled, audited, inference, stage, fingerprint, cost)
                    publish(house.warehouse, final)
                    trace.tell(rows_in=plan.rows_in, inferred=filled.inferred, rows=audited.rows)
                    for index in job.indexes:
                        ensure_index(house.warehouse, stage.published, index)
    _forget(journal, job, house)
    return PartitionReport(
        job=job,
        partition=partition,
        attempt=attempt.attempt,
        fingerprint=fingerprint,
        rows_in=plan.rows_in,
        rejected=plan.rejected,
        published=audited.published,
        dead_lettered=filled.dead.height,
        inferred=filled.inferred,
        reused=filled.reused,
        staged=filled.staged,
        rows=audited.rows,
        data_version=str(final.data_version),
        audit=audited,
        inference=inference,
        cost=cost,
        seconds=timings.seconds,
        sample=rows,
    )


@contextlib.contextmanager
def _attempt(
    job: InferenceJob, partition: str, run_id: str, fingerprint: Fingerprint, house: House
) -> Iterator[Attempt]:
    """One try at the partition: it holds the lease, and how it ended is on record."""
    with house.warehouse.begin() as connection:
        ensure_table(connection, published_table(job))
    attempt = record.start_attempt(
        house.warehouse,
        job=job.name,
        table=f"published.{job.name}",
        partition_key=partition,
        run_id=run_id,
        machine=socket.gethostname(),
        fingerprint=record.FingerprintRecord(
            fingerprint=fingerprint.id,
            engine=fingerprint.engine,
            model_uri=getattr(getattr(job.engine, "model", None), "uri", None),
            model_digest=fingerprint.identity.get("model"),
            parameters=fingerprint.identity,
        ),
        output_version=fingerprint.output_version,
        prepare_source=fingerprint.prepare_source,
    )
    try:
        yield attempt
    except BaseException as error:
        with contextlib.suppress(OvernightError):
            record.finish_attempt(house.warehouse, attempt, outcome=_outcome(error), error=error)
        raise
    record.finish_attempt(house.warehouse, attempt, outcome="published")


@contextlib.contextmanager
def _counting(
    house: House, attempt: Attempt, pool: Pool, prices: Market
) -> Iterator[list[ledger.Entry]]:
    """What inferring costs: for the publication, or on record at once if it comes to nothing."""
    cost: list[ledger.Entry] = []
    try:
        yield cost
    except BaseException:
        with contextlib.suppress(OvernightError):
            entries = ledger.entries(attempt, pool.spent(), prices, dt.datetime.now(tz=dt.UTC))
            with house.warehouse.begin() as connection:
                ledger.record_ledger(connection, attempt, entries)
        raise
    cost += ledger.entries(attempt, pool.spent(), prices, dt.datetime.now(tz=dt.UTC))


def _outcome(error: BaseException) -> str:
    if isinstance(error, StaleAttemptError | PartitionBusyError):
        return "refused"
    return "failed" if isinstance(error, Exception) else "interrupted"


@contextlib.contextmanager
def _keeping_rejects(house: House, attempt: Attempt) -> Iterator[None]:
    """Rejects are on record even when there are too many of them to go on."""
    try:
        yield
    except TooManyRejectsError as error:
        rejects = error.rejects if error.rejects is not None else pl.DataFrame()
        contents.record_failure_rejects(
            house.warehouse,
            attempt,
            rejects=rejects,
            counts=record.Counts(rejected=rejects.height),
        )
        raise


def _plan(
    job: InferenceJob,
    partition: str,
    journal: Journal,
    earlier: Earlier,
    store: StoreConfig,
    scratch: Path,
    *,
    on_work: Callable[[], None],
) -> Plan:
    plan = build_plan(
        reader_of(store.open(), job.source, partition, scratch=scratch),
        key=job.source.key,
        prepare=job.prepare,
        carry=job.carried,
        done=journal.done(),
        published=earlier.hashes,
        scratch=scratch,
        split_rows=job.split_rows,
        max_rejects=job.max_rejects,
        on_work=on_work,
    )
    to_infer = sum(split.rows for split in plan.splits)
    log.info(
        "%s %s: %d rows in, %d rejected, %d known already, %d to infer in %d splits",
        job.name, partition, plan.rows_in, plan.rejected,
        plan.wanted.height - to_infer, to_infer, len(plan.splits),
    )  # fmt: skip
    return plan


def _pool(
    job: InferenceJob,
    fingerprint: Fingerprint,
    house: House,
    attempt: Attempt,
    report: Callable[[PoolProgress], None],
) -> Pool:
    # Jobs that declare the same engine with the same model share its warm workers; but workers
    # tell attempts by their numbers, which are those of one warehouse.
    decides = [dict(fingerprint.identity), repr(job.engine), house.warehouse.url()]
    name = f"{job.engine.kind}-{digest(decides)}"
    started = record.run_started(house.warehouse, attempt)
    ends_at = job.spot.ends_at(started)
    time_left = None
    if ends_at is not None:
        time_left = (ends_at - dt.datetime.now(tz=dt.UTC)).total_seconds()

    teller = Teller(house.warehouse, attempt)

    def tell(progress: PoolProgress) -> None:
        teller(progress)
        report(progress)

    def note(decision: Mapping[str, Any]) -> None:
        try:
            record.add_decision(house.warehouse, attempt, decision)
        except OvernightError as error:
            log.warning("not on record: %s: %s", decision.get("reason"), error)

    return Pool(
        house.cluster,
        job.engine,
        name=name,
        retry_on_interrupt=job.spot.retry_on_interrupt,
        ends_in_s=time_left,
        buyer=Buyer(
            market_policy(job.spot, started=started, changeover_s=house.cluster.changeover_s),
            instance_types=job.spot.instance_types,
            ends_in_s=time_left,
            pace=record.last_pace(house.warehouse, job.name),
            patience_s=house.cluster.changeover_s,
            note=note,
        ),
        note=note,
        report=tell,
    )


def _assignment(attempt: Attempt, house: House, earlier: Earlier) -> Assignment:
    return Assignment(
        job=attempt.job,
        partition=attempt.partition_key,
        attempt=attempt.attempt,
        run_id=attempt.run_id,
        fingerprint=attempt.fingerprint,
        store=house.store,
        again=earlier.again,
    )


def _forget(journal: Journal, job: InferenceJob, house: House) -> None:
    """Forget what this publication, and those long ago, made superfluous; not to is no failure."""
    try:
        journal.forget_partials()
        collect(
            house.store.open(),
            published=publications(house.warehouse, job.name),
            retention=house.journal_retention,
            now=dt.datetime.now(tz=dt.UTC),
        )
    except OvernightError as error:
        log.warning("old journals of %s were not collected: %s", job.name, error)
