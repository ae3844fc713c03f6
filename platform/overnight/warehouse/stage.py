"""Staging: where an attempt's rows wait for their audit, out of every reader's sight.

One table per attempt, unlogged: it costs no write-ahead log, and a crash of Postgres empties
it. That is allowed, because everything in it can be staged again from the journal and the
published table; `publish` notices an emptied one.
"""

from __future__ import annotations

import contextlib
import logging
import re
from typing import TYPE_CHECKING, Any

import polars as pl
import psycopg
import sqlalchemy as sa
from sqlalchemy.schema import DropTable

from overnight import crashpoints
from overnight.errors import WarehouseUnavailableError
from overnight.lineage import tables
from overnight.lineage.lease import lease_key
from overnight.warehouse.copy import copy_in, copy_text
from overnight.warehouse.schema import STAGING
from overnight.warehouse.table import DIALECT, quoted

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from types import TracebackType
    from typing import Self

    from overnight.lineage.record import Attempt
    from overnight.warehouse.connect import Warehouse

__all__ = ["KEEP_ROWCOUNT", "Stage", "StagingLostError"]

_log = logging.getLogger(__name__)

_LONGEST_NAME = 63
# SQLAlchemy drops the count of an insert otherwise.
KEEP_ROWCOUNT = {"preserve_rowcount": True}
_COPYING = "stage.before_copy"
_COPIED = "stage.after_copy"
crashpoints.register(_COPYING, _COPIED)


class StagingLostError(WarehouseUnavailableError):
    """What was staged is gone, as after a crash of Postgres: it has to be staged again."""


class Stage:
    """The staging table of one attempt: made on entering, dropped on leaving.

    Entering it again begins anew with an empty table. Errors of the connection leave open
    whether the last call took effect: stage anew then.
    """

    def __init__(self, warehouse: Warehouse, table: sa.Table, attempt: Attempt) -> None:
        """Touches nothing yet; `table` is the published one."""
        self._warehouse = warehouse
        self.published = table
        self.attempt = attempt
        suffix = f"__{attempt.attempt}"
        self.table = _unkeyed(table, table.name[: _LONGEST_NAME - len(suffix)] + suffix)

    def __enter__(self) -> Self:
        """Makes the table, and removes what dead attempts left.

        Raises:
            WarehouseUnavailableError: if the warehouse does not answer.
        """
        _sweep(self._warehouse)
        create = (
            f"CREATE UNLOGGED TABLE {quoted(self.table)} "
            f"(LIKE {quoted(self.published)} INCLUDING DEFAULTS)"
        )
        with self._warehouse.begin() as connection:
            connection.execute(DropTable(self.table, if_exists=True))
            connection.exec_driver_sql(create)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Drops the table; what cannot be dropped now, a later attempt sweeps away."""
        try:
            with self._warehouse.begin() as connection:
                connection.exec_driver_sql("SET LOCAL lock_timeout = '5s'")
                connection.execute(DropTable(self.table, if_exists=True))
        except WarehouseUnavailableError as failure:
            _log.info("Left %s to a later attempt: %s", self.table.name, failure)

    def copy(self, frame: pl.DataFrame) -> int:
        """Appends rows; returns how many.

        Args:
            frame: the contract's columns and the provenance (`_run_id` to `_line`);
                `partition_key` is this attempt's and may be left out.

        Raises:
            ContractError: if a text holds NUL; names the column and the row, stages nothing.
            WarehouseUnavailableError: if the warehouse breaks off.
        """
        if "partition_key" not in frame.columns:
            frame = frame.with_columns(partition_key=pl.lit(self.attempt.partition_key))
        crashpoints.reach(_COPYING)
        with self._there(), self._warehouse.begin() as connection:
            copied = copy_in(connection, self.table, frame, key=self._key())
        crashpoints.reach(_COPIED)
        return copied

    def reuse(self, hashes: pl.DataFrame) -> int:
        """Takes over the partition's published rows with these input hashes; returns how many.

        A row keeps the run, attempt and machine that inferred it, and gets the place where
        its input stands now. One input may have several rows.

        Args:
            hashes: `input_hash` (Binary, unique), `_input_id`, `_line`.
        """
        if hashes.is_empty():
            return 0
        old = self.published
        wanted = sa.table(
            "reused", sa.column("input_hash"), sa.column("_input_id"), sa.column("_line")
        )
        moved = {name: wanted.c[name] for name in ("_input_id", "_line")}
        names = [column.name for column in old.columns]
        rows = (
            sa.select(*(moved.get(name, old.c[name]) for name in names))
            .join_from(old, wanted, wanted.c["input_hash"] == old.c["_input_hash"])
            .where(old.c.partition_key == self.attempt.partition_key)
        )
        with self._there(), self._warehouse.begin() as connection:
            connection.exec_driver_sql(
                "CREATE TEMPORARY TABLE reused "
                "(input_hash bytea, _input_id bigint, _line bigint) ON COMMIT DROP"
            )
            copy_text(connection, "reused", hashes.select("input_hash", "_input_id", "_line"))
            connection.exec_driver_sql("ANALYZE reused")
            insertion = sa.insert(self.table).from_select(names, rows)
            return connection.execute(insertion, execution_options=KEEP_ROWCOUNT).rowcount

    def check_held(self, rows: int) -> None:
        """Raise StagingLostError unless the stage still holds the rows that were put in."""
        found = self.count()
        if found != rows:
            message = (
                f"{rows} rows were put into {self.table.fullname} and it holds {found}: Postgres "
                "was restarted; stage again"
            )
            raise StagingLostError(message)

    def count(self) -> int:
        """How many rows are staged."""
        return self._number(sa.select(sa.func.count()).select_from(self.table))

    def count_distinct(self, columns: Sequence[str]) -> int:
        """How many different values, or combinations of values, the columns hold."""
        chosen = sa.select(*(self.table.c[name] for name in columns)).distinct().subquery()
        return self._number(sa.select(sa.func.count()).select_from(chosen))

    def count_where(self, condition: Callable[[Any], sa.ColumnElement[bool]]) -> int:
        """How many rows fulfil a condition, given the table's columns."""
        rows = sa.select(sa.func.count()).select_from(self.table)
        return self._number(rows.where(condition(self.table.c)))

    def frame(self, limit: int) -> pl.DataFrame:
        """Some of the staged rows, at most `limit`."""
        with self._there(), self._warehouse.connect() as connection:
            rows = connection.execute(sa.select(self.table).limit(limit)).all()
        return pl.DataFrame(
            [tuple(row) for row in rows],
            schema=self.table.columns.keys(),
            orient="row",
            infer_schema_length=None,
        )

    def _key(self) -> list[str]:
        return [column.name for column in self.published.primary_key.columns]

    def _number(self, query: sa.Select[int]) -> int:
        with self._there(), self._warehouse.connect() as connection:
            # A million keys would spill to disk with what a query gets by default.
            connection.exec_driver_sql("SET LOCAL work_mem = '256MB'")
            return connection.execute(query).scalar_one()

    @contextlib.contextmanager
    def _there(self) -> Iterator[None]:
        """An attempt that was cut off for a while may find its table swept away by a newer one."""
        try:
            yield
        except (sa.exc.ProgrammingError, psycopg.errors.UndefinedTable) as error:
            if not isinstance(getattr(error, "orig", error), psycopg.errors.UndefinedTable):
                raise
            message = (
                f"{self.table.fullname} is gone: a newer attempt took attempt "
                f"{self.attempt.attempt} for dead and removed it"
            )
            raise StagingLostError(message) from error


def _unkeyed(table: sa.Table, name: str) -> sa.Table:
    """The same columns without keys: rows are checked by the audit, not while they arrive."""
    columns = (sa.Column(c.name, c.type, nullable=c.nullable) for c in table.columns)
    return sa.Table(name, sa.MetaData(), *columns, schema=STAGING)


def _sweep(warehouse: Warehouse) -> None:
    """Drops the staging tables of attempts that are over.

    An attempt that is noted as running and has lost its lease may still be at work, so its
    table is left alone for a day, or until the partition's next attempt marks it.
    """
    with warehouse.connect() as connection:
        query = sa.text("SELECT tablename FROM pg_tables WHERE schemaname = :schema")
        found = {
            int(match[1]): name
            for name in connection.execute(query, {"schema": STAGING}).scalars()
            if (match := re.search(r"__(\d+)$", name))
        }
        over = _over(connection, list(found))
    for attempt in over:
        name = DIALECT.identifier_preparer.quote(found[attempt])
        try:
            with warehouse.begin() as connection:
                connection.exec_driver_sql("SET LOCAL lock_timeout = '1s'")
                connection.exec_driver_sql(f"DROP TABLE IF EXISTS {STAGING}.{name}")
        except WarehouseUnavailableError as error:
            _log.info("Left %s for later: %s", name, error)


def _over(connection: sa.Connection, candidates: list[int]) -> list[int]:
    if not candidates:
        return []
    c = tables.attempts.c
    old = c.started_at < sa.func.now() - sa.text("interval '1 day'")
    query = sa.select(c.attempt, c.job, c.partition_key, c.outcome, old.label("old")).where(
        c.attempt.in_(candidates)
    )
    held = sa.text(
        "SELECT (classid::bigint << 32) | objid::bigint FROM pg_locks "
        "WHERE locktype = 'advisory' AND objsubid = 1 AND granted AND database = "
        "(SELECT oid FROM pg_database WHERE datname = current_database())"
    )
    leases = set(connection.execute(held).scalars())
    return [
        row.attempt
        for row in connection.execute(query)
        if row.outcome != "running"
        or (row.old and lease_key(row.job, row.partition_key) not in leases)
    ]
