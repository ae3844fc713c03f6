"""Writing lineage: the rows and files behind a publication, and those it left out.

They write in the transaction that publishes, so what they write is there exactly if the
publication is; the rejects of an attempt that published nothing have one of their own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY, insert

from overnight.errors import ReconciliationError
from overnight.lineage import tables
from overnight.lineage.record import record_counts
from overnight.redact import redact
from overnight.warehouse.copy import copy_in

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    import polars as pl

    from overnight.lineage.record import Attempt, Counts
    from overnight.warehouse.connect import Warehouse

__all__ = [
    "Input",
    "keep_inputs",
    "record_dead_letters",
    "record_failure_rejects",
    "record_inputs",
    "record_rejects",
]


class Input(Protocol):
    """A landing file, as the reader describes it."""

    @property
    def source(self) -> str:
        """The source that it belongs to."""

    @property
    def input_id(self) -> int:
        """What `_input_id` of a published row refers to."""

    @property
    def uri(self) -> str:
        """Where it is."""

    @property
    def version(self) -> str:
        """The store's version of it."""

    @property
    def digest(self) -> str:
        """Digest of its content."""

    @property
    def bytes(self) -> int:
        """Its size."""

    @property
    def rows(self) -> int:
        """Its rows, rejects included."""


def record_rejects(connection: sa.Connection, attempt: Attempt, rejects: pl.DataFrame) -> None:
    """Writes rejects, in the caller's transaction.

    Args:
        connection: in whose transaction.
        attempt: the attempt that read them.
        rejects: columns `source`, `file`, `line`, `key`, `column`, `value`, `reason`.
    """
    import polars as pl

    if rejects.is_empty():
        return
    names = ["source", "file", "line", "key", "column", "value", "reason"]
    frame = rejects.select(names).with_columns(
        # Bad input may hold what a text column cannot.
        pl.col(pl.String).str.replace_all("\0", "\ufffd", literal=True),
        attempt=pl.lit(attempt.attempt),
        job=pl.lit(attempt.job),
        partition_key=pl.lit(attempt.partition_key),
    )
    copy_in(connection, tables.rejects, frame)


def record_dead_letters(
    connection: sa.Connection, attempt: Attempt, dead_letters: pl.DataFrame
) -> None:
    """Writes dead letters, in the caller's transaction.

    Args:
        connection: in whose transaction.
        attempt: the attempt that publishes.
        dead_letters: columns `key`, `input_hash` (Binary), `reason`, `run_id`, `attempt`,
            `machine`, `_input_id`, `_line`; `attempt` is the one that tried.
    """
    import polars as pl

    if dead_letters.is_empty():
        return
    frame = dead_letters.select(
        "key",
        "input_hash",
        "reason",
        "run_id",
        "machine",
        inferred_attempt="attempt",
        input_id="_input_id",
        line="_line",
        attempt=pl.lit(attempt.attempt),
        job=pl.lit(attempt.job),
        partition_key=pl.lit(attempt.partition_key),
    ).with_columns(pl.col(pl.String).str.replace_all("\0", "\ufffd", literal=True))
    copy_in(connection, tables.dead_letters, frame)


def record_inputs(connection: sa.Connection, attempt: Attempt, inputs: Iterable[Input]) -> None:
    """Writes the files a publication was made from, in the caller's transaction."""
    rows = [
        {
            "attempt": attempt.attempt,
            "input_id": file.input_id,
            "source": file.source,
            "uri": redact(file.uri),
            "version": file.version,
            "digest": file.digest,
            "bytes": file.bytes,
            "rows": file.rows,
        }
        for file in inputs
    ]
    if rows:
        connection.execute(sa.insert(tables.inputs), rows)


def keep_inputs(
    connection: sa.Connection, attempt: Attempt, *, before: int, input_ids: Collection[int]
) -> None:
    """Takes over files from an earlier publication, for rows of it that stay published.

    Args:
        connection: in whose transaction.
        attempt: the attempt that publishes.
        before: the attempt of the earlier publication.
        input_ids: of the files; those that `attempt` has recorded itself stay as they are.

    Raises:
        ReconciliationError: if the earlier publication does not know one of them.
    """
    c = tables.inputs.c
    own = sa.literal(attempt.attempt, sa.BigInteger)
    wanted = sa.any_(sa.literal(list(input_ids), ARRAY(sa.BigInteger)))
    rows = sa.select(*(own if column is c.attempt else column for column in c)).where(
        c.attempt == before, c.input_id == wanted
    )
    taken = insert(tables.inputs).from_select(c.keys(), rows).on_conflict_do_nothing()
    connection.execute(taken)
    known = sa.select(c.input_id).where(c.attempt == attempt.attempt, c.input_id == wanted)
    missing = set(input_ids) - set(connection.execute(known).scalars())
    if missing:
        message = (
            f"Published rows of {attempt.job} {attempt.partition_key} stay that came from files "
            f"which lineage.inputs does not know (_input_id {sorted(missing)[:5]}): was it "
            "changed by hand? Nothing was published"
        )
        raise ReconciliationError(message)


def record_failure_rejects(
    warehouse: Warehouse, attempt: Attempt, *, rejects: pl.DataFrame, counts: Counts
) -> None:
    """Keeps the rejects of an attempt that stopped at its reject threshold.

    In a transaction of its own: nothing that is published changes.
    """
    with warehouse.begin() as connection:
        record_rejects(connection, attempt, rejects)
        record_counts(connection, attempt, counts)
