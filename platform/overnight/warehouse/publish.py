"""Publishing: the one transaction that makes a partition visible (promises 2, 3, 7 and 8).

Readers see the partition's old rows until it commits and the new ones from then on; they
wait for nothing. Lineage is written in the same transaction, so there is no row without it.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from overnight import crashpoints
from overnight.errors import (
    ReconciliationError,
    StagingLostError,
    StaleAttemptError,
    WarehouseUnavailableError,
)
from overnight.lineage import tables
from overnight.lineage.contents import (
    keep_inputs,
    record_dead_letters,
    record_inputs,
    record_rejects,
)
from overnight.warehouse.stage import KEEP_ROWCOUNT

if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import Callable, Collection, Mapping, Sequence

    import polars as pl

    from overnight.lineage.contents import Input
    from overnight.lineage.record import Attempt, Counts
    from overnight.warehouse.connect import Warehouse
    from overnight.warehouse.stage import Stage

__all__ = ["Publication", "Published", "publish"]

_log = logging.getLogger(__name__)

_TRIES = 5
_LOCK_TIMEOUT = "30s"
_COMMITTING = "publish.before_commit"
_COMMITTED = "publish.after_commit"
crashpoints.register(_COMMITTING, _COMMITTED)


@dataclass(frozen=True, slots=True, kw_only=True)
class Publication:
    """What is to be published, after its audit passed.

    Attributes:
        stage: where the audited rows are.
        rows: how many rows were staged.
        kept: how many published rows stay, as the audit counted them.
        kept_from: the `_input_id`s of the files that these came from.
        counts: what became of the input rows; all of them known by now.
        published: input rows that become visible; more than one row may come from each.
        inputs: the landing files.
        rejects: see `record_rejects`; may be capped, `counts.rejected` is exact.
        dead_letters: see `record_dead_letters`.
        summary: JSON-able results of the audit.
        ttft: the times to the first token of what was inferred (`report.binned`).
        latency: those to the last token, likewise.
        also: writes that belong to the same transaction, such as the ledger's.
    """

    stage: Stage
    rows: int
    kept: int = 0
    kept_from: Collection[int] = ()
    counts: Counts
    published: int
    inputs: Sequence[Input]
    rejects: pl.DataFrame
    dead_letters: pl.DataFrame
    tokens_in: int | None = None
    tokens_out: int | None = None
    inference_seconds: float | None = None
    data_version: str | None = None
    ttft: Mapping[str, Any] | None = None
    latency: Mapping[str, Any] | None = None
    summary: Mapping[str, Any] = field(default_factory=dict)
    also: Sequence[Callable[[sa.Connection], None]] = ()

    @property
    def attempt(self) -> Attempt:
        """The attempt that publishes."""
        return self.stage.attempt


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """That it was published: `rows` became visible at `published_at`, in place of `replaced`.

    `replaced` is None where a lost connection hid it.
    """

    attempt: int
    rows: int
    replaced: int | None
    published_at: dt.datetime


def publish(warehouse: Warehouse, publication: Publication) -> Published:
    """Makes the staged rows the partition's only ones, exactly once.

    A connection lost while committing leaves open whether it took place. So each try first
    waits for the fence, which an unfinished one holds, and asks whether it was published.

    Raises:
        StaleAttemptError: if a newer attempt exists; names it. Nothing changed.
        StagingLostError: if Postgres lost the staged rows; stage and audit again.
        ReconciliationError: if the stage holds other rows than the audit counted.
        WarehouseUnavailableError: if the warehouse stayed away; whether it published will
            show when it is back.
    """
    for left in reversed(range(_TRIES)):
        try:
            with warehouse.begin() as connection:
                done = _transact(connection, publication)
                crashpoints.reach(_COMMITTING)
        except StagingLostError:
            raise
        except WarehouseUnavailableError as error:
            if not left:
                raise
            _log.warning("Publishing is tried again: %s", error)
            time.sleep(0.1 * 2 ** (_TRIES - left))
        else:
            crashpoints.reach(_COMMITTED)
            return done
    message = "unreachable: the last try returns or raises"
    raise AssertionError(message)


def _transact(connection: sa.Connection, publication: Publication) -> Published:
    attempt = publication.attempt
    connection.exec_driver_sql(f"SET LOCAL lock_timeout = '{_LOCK_TIMEOUT}'")
    fence = _fence(connection, attempt)
    if fence.published_attempt == attempt.attempt:
        return Published(
            attempt=attempt.attempt,
            rows=publication.rows,
            replaced=None,
            published_at=fence.published_at,
        )
    _refuse_stale(connection, attempt, fence.token)
    replaced = _exchange_rows(connection, publication)
    published_at = _record(connection, publication, before=fence.published_attempt)
    for write in publication.also:
        write(connection)
    return Published(
        attempt=attempt.attempt,
        rows=publication.rows,
        replaced=replaced,
        published_at=published_at,
    )


def _fence(connection: sa.Connection, attempt: Attempt) -> sa.Row[Any, Any, Any]:
    c = tables.partitions.c
    query = (
        sa.select(c.token, c.published_attempt, c.published_at)
        .where(c.job == attempt.job, c.partition_key == attempt.partition_key)
        .with_for_update()
    )
    row = connection.execute(query).first()
    if row is None:
        message = (
            f"The warehouse knows no partition {attempt.partition_key} of {attempt.job}: was it "
            f"replaced or restored while attempt {attempt.attempt} ran? Run it again"
        )
        raise StaleAttemptError(message)
    return row


def _refuse_stale(connection: sa.Connection, attempt: Attempt, token: int) -> None:
    if token == attempt.attempt:
        return
    c = tables.attempts.c
    query = sa.select(c.run_id, c.machine, c.started_at).where(c.attempt == token)
    newer = connection.execute(query).first()
    who = (
        f"attempt {token}"
        if newer is None
        else f"attempt {token} (run {newer.run_id} on {newer.machine}, started "
        f"{newer.started_at:%Y-%m-%d %H:%M:%S %Z})"
    )
    message = (
        f"Attempt {attempt.attempt} of {attempt.job} {attempt.partition_key} may not publish: "
        f"{who} is newer. Nothing was changed; what was inferred is in the journal, to be reused"
    )
    raise StaleAttemptError(message)


def _exchange_rows(connection: sa.Connection, publication: Publication) -> int:
    """Puts the staged rows in the place of those that go; returns how many went."""
    stage, table = publication.stage, publication.stage.published
    stage.require_held(connection, publication.rows)
    partition = table.c.partition_key == publication.attempt.partition_key
    removal = sa.delete(table).where(partition)
    if stage.gone is not None:
        removal = removal.where(table.c["_input_hash"].in_(sa.select(stage.gone.c.input_hash)))
    removed = connection.execute(removal).rowcount
    names = [column.name for column in table.columns]
    rows = sa.select(*(stage.table.c[name] for name in names))
    insertion = sa.insert(table).from_select(names, rows)
    inserted = connection.execute(insertion, execution_options=KEEP_ROWCOUNT).rowcount
    where = f"{table.fullname}, partition {publication.attempt.partition_key}"
    if inserted != publication.rows:
        message = (
            f"{publication.rows} rows were audited and {inserted} are staged for {where}: nothing "
            "was published"
        )
        raise ReconciliationError(message)
    if stage.gone is not None:
        seen = connection.execute(
            sa.select(sa.func.count()).select_from(table).where(partition)
        ).scalar_one()
        if seen != publication.kept + inserted:
            message = (
                f"{publication.kept} rows were to stay in {where}, and {seen - inserted} would: "
                "it was changed by others meanwhile; nothing was published, run it again"
            )
            raise ReconciliationError(message)
    return removed


def _record(
    connection: sa.Connection, publication: Publication, *, before: int | None
) -> dt.datetime:
    """Writes the lineage of the publication; returns when it took place.

    `before` is the attempt whose publication it follows.
    """
    attempt = publication.attempt
    counts = publication.counts.columns()
    run = (
        sa.insert(tables.runs)
        .values(
            attempt=attempt.attempt,
            run_id=attempt.run_id,
            job=attempt.job,
            table_name=attempt.table,
            partition_key=attempt.partition_key,
            fingerprint=attempt.fingerprint,
            output_version=attempt.output_version,
            published=publication.published,
            tokens_in=publication.tokens_in,
            tokens_out=publication.tokens_out,
            inference_seconds=publication.inference_seconds,
            data_version=publication.data_version,
            summary=dict(publication.summary),
            ttft=sa.null() if publication.ttft is None else dict(publication.ttft),
            latency=sa.null() if publication.latency is None else dict(publication.latency),
            **counts,
        )
        .returning(tables.runs.c.published_at)
    )
    published_at: dt.datetime = connection.execute(run).scalar_one()
    record_inputs(connection, attempt, publication.inputs)
    if before is not None:
        keep_inputs(connection, attempt, before=before, input_ids=publication.kept_from)
    record_rejects(connection, attempt, publication.rejects)
    record_dead_letters(connection, attempt, publication.dead_letters)
    connection.execute(
        sa.update(tables.attempts)
        .where(tables.attempts.c.attempt == attempt.attempt)
        .values(outcome="published", ended_at=published_at, error=None, **counts)
    )
    fence = tables.partitions
    connection.execute(
        sa.update(fence)
        .where(fence.c.job == attempt.job, fence.c.partition_key == attempt.partition_key)
        .values(published_attempt=attempt.attempt, published_at=published_at)
    )
    return published_at
