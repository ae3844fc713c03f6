"""Writing lineage: attempts from their start to their end.

Plain functions over a connection or a warehouse. `start_attempt` takes the partition's
lease, so that two attempts do not work on it at once; the fencing token it hands out is
what protects readers, should a lease be lost on the way.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import JSONB, insert

from overnight.crashpoints import reach, register
from overnight.lineage import tables
from overnight.lineage.lease import PartitionLease
from overnight.redact import redact

if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import Mapping

    from overnight.warehouse.connect import Warehouse

__all__ = [
    "Attempt",
    "Counts",
    "FingerprintRecord",
    "add_decision",
    "failures_of_run",
    "finish_attempt",
    "last_pace",
    "record_counts",
    "run_started",
    "start_attempt",
]

_log = logging.getLogger(__name__)

_LONGEST_ERROR = 20_000
_STARTING, _STARTED = "attempt.before_start", "attempt.after_start"
_FINISHING, _FINISHED = "attempt.before_finish", "attempt.after_finish"
_DECIDING, _DECIDED = "attempt.before_decision", "attempt.after_decision"
register(_STARTING, _STARTED, _FINISHING, _FINISHED, _DECIDING, _DECIDED)


@dataclass(frozen=True, slots=True, kw_only=True)
class FingerprintRecord:
    """What decides results besides the rows; `parameters` are JSON-able."""

    fingerprint: str
    engine: str
    model_uri: str | None = None
    model_digest: str | None = None
    parameters: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """One try at one partition; `attempt` is its number and its fencing token."""

    attempt: int
    run_id: str
    job: str
    table: str
    partition_key: str
    fingerprint: str
    output_version: str
    machine: str
    started_at: dt.datetime
    lease: PartitionLease = field(repr=False, compare=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """What became of the rows; None where the attempt did not get that far."""

    rows_in: int | None = None
    rejected: int | None = None
    reused: int | None = None
    inferred: int | None = None
    dead_lettered: int | None = None

    def columns(self) -> dict[str, int | None]:
        """By their names in the lineage tables."""
        return {
            "rows_in": self.rows_in,
            "rejected": self.rejected,
            "reused": self.reused,
            "inferred": self.inferred,
            "dead_lettered": self.dead_lettered,
        }


def start_attempt(
    warehouse: Warehouse,
    *,
    job: str,
    table: str,
    partition_key: str,
    run_id: str,
    machine: str,
    fingerprint: FingerprintRecord,
    output_version: str,
    prepare_source: str | None = None,
) -> Attempt:
    """Takes the partition's lease and the next fencing token.

    From here on no older attempt can publish this partition. An attempt of it that is
    still noted as running was killed, and is marked as interrupted.

    Raises:
        PartitionBusyError: if another attempt works on it now; names it.
        WarehouseUnavailableError: if the warehouse does not answer.
    """
    lease = PartitionLease.take(warehouse, job=job, partition_key=partition_key)
    try:
        with warehouse.begin() as connection:
            _keep_fingerprint(connection, fingerprint)
            _interrupt_abandoned(connection, job, partition_key)
            insertion = (
                sa.insert(tables.attempts)
                .values(
                    run_id=run_id,
                    job=job,
                    table_name=table,
                    partition_key=partition_key,
                    fingerprint=fingerprint.fingerprint,
                    output_version=output_version,
                    prepare_source=prepare_source,
                    machine=machine,
                )
                .returning(tables.attempts.c.attempt, tables.attempts.c.started_at)
            )
            token, started_at = connection.execute(insertion).one()
            _raise_token(connection, job, partition_key, token)
            reach(_STARTING)
        reach(_STARTED)
    except BaseException:
        lease.release()
        raise
    return Attempt(
        attempt=token,
        run_id=run_id,
        job=job,
        table=table,
        partition_key=partition_key,
        fingerprint=fingerprint.fingerprint,
        output_version=output_version,
        machine=machine,
        started_at=started_at,
        lease=lease,
    )


def finish_attempt(
    warehouse: Warehouse,
    attempt: Attempt,
    *,
    outcome: str,
    error: BaseException | str | None = None,
    counts: Counts | None = None,
) -> None:
    """Notes how the attempt ended and gives its lease back, whether or not noting works.

    A published attempt stays published: its outcome was written with its publication.

    Args:
        warehouse: where it is noted.
        attempt: which one.
        outcome: `failed`, `refused`, `interrupted`, `unchanged` or `published`.
        error: why; secrets are taken out of it.
        counts: what became of the rows, as far as it got.
    """
    values: dict[str, Any] = {
        "outcome": outcome,
        "ended_at": sa.func.now(),
        "error": None if error is None else redact(_told(error))[:_LONGEST_ERROR],
    }
    known = {} if counts is None else counts.columns()
    values.update({name: count for name, count in known.items() if count is not None})
    change = (
        sa.update(tables.attempts)
        .where(tables.attempts.c.attempt == attempt.attempt)
        .where(tables.attempts.c.outcome.in_(("running", "interrupted")))
        .values(values)
    )
    try:
        with warehouse.begin() as connection:
            connection.execute(change)
            reach(_FINISHING)
        reach(_FINISHED)
    finally:
        attempt.lease.release()


def run_started(warehouse: Warehouse, attempt: Attempt) -> dt.datetime:
    """When the first attempt of the attempt's run at its partition began: retries included."""
    c = tables.attempts.c
    first = sa.select(sa.func.min(c.started_at)).where(
        c.run_id == attempt.run_id,
        c.job == attempt.job,
        c.partition_key == attempt.partition_key,
    )
    with warehouse.connect() as connection:
        started: dt.datetime = connection.execute(first).scalar_one()
    return started


def failures_of_run(warehouse: Warehouse, *, run_id: str, job: str, partition_key: str) -> int:
    """How many attempts of a run at a partition failed; those that were interrupted did not."""
    c = tables.attempts.c
    count = sa.select(sa.func.count()).where(
        c.run_id == run_id,
        c.job == job,
        c.partition_key == partition_key,
        c.outcome == "failed",
    )
    with warehouse.connect() as connection:
        failures: int = connection.execute(count).scalar_one()
    return failures


def last_pace(warehouse: Warehouse, job: str) -> float | None:
    """Rows that a job's last publication inferred in a second; None if there is none."""
    c = tables.runs.c
    last = (
        sa.select(c.inferred, c.inference_seconds)
        .where(c.job == job, c.inferred > 0, c.inference_seconds > 0)
        .order_by(c.attempt.desc())
        .limit(1)
    )
    with warehouse.connect() as connection:
        found = connection.execute(last).first()
    return None if found is None else found.inferred / found.inference_seconds


def add_decision(warehouse: Warehouse, attempt: Attempt, decision: Mapping[str, Any]) -> None:
    """Appends to the attempt's decisions: what was decided on the way, and why (JSON-able)."""
    added = sa.cast(sa.bindparam("added", [dict(decision)], type_=JSONB), JSONB)
    change = (
        sa.update(tables.attempts)
        .where(tables.attempts.c.attempt == attempt.attempt)
        .values(decisions=tables.attempts.c.decisions.op("||")(added))
    )
    with warehouse.begin() as connection:
        connection.execute(change)
        reach(_DECIDING)
    reach(_DECIDED)


def record_counts(connection: sa.Connection, attempt: Attempt, counts: Counts) -> None:
    """Notes what became of an attempt's rows, in the caller's transaction."""
    known = {name: count for name, count in counts.columns().items() if count is not None}
    if known:
        connection.execute(
            sa.update(tables.attempts)
            .where(tables.attempts.c.attempt == attempt.attempt)
            .values(known)
        )


def _keep_fingerprint(connection: sa.Connection, record: FingerprintRecord) -> None:
    connection.execute(
        insert(tables.fingerprints)
        .values(
            fingerprint=record.fingerprint,
            engine=record.engine,
            model_uri=None if record.model_uri is None else redact(record.model_uri),
            model_digest=record.model_digest,
            parameters=dict(record.parameters),
        )
        .on_conflict_do_nothing()
    )


def _interrupt_abandoned(connection: sa.Connection, job: str, partition_key: str) -> None:
    """Under the lease nobody else is at work, so a running attempt has been killed."""
    attempts = tables.attempts
    abandoned = (
        sa.update(attempts)
        .where(attempts.c.job == job, attempts.c.partition_key == partition_key)
        .where(attempts.c.outcome == "running")
        .values(outcome="interrupted", ended_at=sa.func.now())
        .returning(attempts.c.attempt)
    )
    for (token,) in connection.execute(abandoned):
        _log.info("Attempt %d of %s %s ended without a word", token, job, partition_key)


def _raise_token(connection: sa.Connection, job: str, partition_key: str, token: int) -> None:
    fence = insert(tables.partitions).values(job=job, partition_key=partition_key, token=token)
    connection.execute(
        fence.on_conflict_do_update(
            index_elements=["job", "partition_key"],
            set_={"token": sa.func.greatest(tables.partitions.c.token, fence.excluded.token)},
        )
    )


def _told(error: BaseException | str) -> str:
    return error if isinstance(error, str) else f"{type(error).__name__}: {error}"
