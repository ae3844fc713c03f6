"""Staging: where an attempt's rows wait for their audit, out of every reader's sight.

One table per attempt, unlogged: it costs no write-ahead log, and a crash of Postgres empties
it. That is allowed, because everything in it can be staged again from the journal and the
published table; `publish` notices an emptied one.

A stage may also leave published rows in their place (`keep`); it then holds new rows only. What
readers would see of the partition is its `preview`.
"""

from __future__ import annotations

import contextlib
import logging
from typing import TYPE_CHECKING, Any

import psycopg
import sqlalchemy as sa
from sqlalchemy.schema import DropTable

from overnight import crashpoints
from overnight.errors import ConfigError, StagingLostError, WarehouseUnavailableError
from overnight.warehouse.copy import copy_in, copy_text
from overnight.warehouse.preview import Preview
from overnight.warehouse.schema import STAGING
from overnight.warehouse.sweep import sweep
from overnight.warehouse.table import DIALECT, quoted

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from types import TracebackType
    from typing import Self

    import polars as pl

    from overnight.lineage.record import Attempt
    from overnight.warehouse.connect import Warehouse

__all__ = ["KEEP_ROWCOUNT", "Stage"]

_log = logging.getLogger(__name__)

_LONGEST_NAME = 63
# SQLAlchemy drops the count of an insert otherwise.
KEEP_ROWCOUNT = {"preserve_rowcount": True}
_COPYING = "stage.before_copy"
_COPIED = "stage.after_copy"
_COMPUTING = "compute.before_commit"
_COMPUTED = "compute.after_commit"
_KEEPING = "merge.before_keep"
_KEPT = "merge.after_keep"
crashpoints.register(_COPYING, _COPIED, _COMPUTING, _COMPUTED, _KEEPING, _KEPT)


class Stage:
    """The staging table of one attempt: made on entering, dropped on leaving.

    Entering it again begins anew with an empty table. Errors of the connection leave open
    whether the last call took effect: stage anew then.
    """

    def __init__(
        self,
        warehouse: Warehouse,
        table: sa.Table,
        attempt: Attempt,
        *,
        computed: Sequence[str] = (),
    ) -> None:
        """Touches nothing yet.

        Args:
            warehouse: where it is made.
            table: the published table.
            attempt: whose rows are staged.
            computed: columns that staged rows lack until `compute` fills them.
        """
        self._warehouse = warehouse
        self.published = table
        self.attempt = attempt
        self._computed = computed
        self._usual: dict[str, str | int] = {
            "partition_key": attempt.partition_key,
            "_run_id": attempt.run_id,
            "_attempt": attempt.attempt,
            "_machine": attempt.machine,
            "_attempts": 1,
        }
        self.table = _unkeyed(table, self._name(""))
        self.gone: sa.Table | None = None
        self.gone_hashes = 0

    def __enter__(self) -> Self:
        """Makes the table, and removes what dead attempts left.

        Raises:
            WarehouseUnavailableError: if the warehouse does not answer.
        """
        sweep(self._warehouse)
        create = (
            f"CREATE UNLOGGED TABLE {quoted(self.table)} "
            f"(LIKE {quoted(self.published)} INCLUDING DEFAULTS)"
        )
        with self._warehouse.begin() as connection:
            connection.execute(DropTable(self.table, if_exists=True))
            connection.exec_driver_sql(create)
            connection.exec_driver_sql(f"ALTER TABLE {quoted(self.table)} {self._changes()}")
        self.gone, self.gone_hashes = None, 0
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
                for table in (self.table, self.gone):
                    if table is not None:
                        connection.execute(DropTable(table, if_exists=True))
        except WarehouseUnavailableError as failure:
            _log.info("Left %s to a later attempt: %s", self.table.name, failure)

    def copy(self, frame: pl.DataFrame) -> int:
        """Appends rows; returns how many.

        Args:
            frame: the contract's columns and the provenance (`_run_id` to `_attempts`);
                `partition_key` is this attempt's and may be left out.

        Raises:
            ContractError: if a text holds NUL; names the column and the row, stages nothing.
            WarehouseUnavailableError: if the warehouse breaks off.
        """
        usual = [name for name, value in self._usual.items() if name in frame.columns
                 and frame[name].eq_missing(value).all()]  # fmt: skip
        frame = frame.drop(usual)
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

    def compute(self, columns: Mapping[str, Callable[[Any], sa.ColumnElement[Any]]]) -> None:
        """Fills columns from all staged rows together.

        Args:
            columns: by name, an SQL expression given the table's columns.

        Raises:
            ConfigError: if Postgres cannot compute one; says what it said.
        """
        table = self.table
        fresh = sa.Table(
            self._name("_new"),
            sa.MetaData(),
            *(sa.Column(column.name, column.type) for column in table.columns),
            schema=STAGING,
        )
        values = [
            columns[column.name](table.c) if column.name in columns else column
            for column in table.columns
        ]
        rows = sa.insert(fresh).from_select(table.columns.keys(), sa.select(*values))
        crashpoints.reach(_COMPUTING)
        try:
            # Written anew: an UPDATE of every row would leave the table twice as large.
            with self._there(), self._warehouse.begin() as connection:
                connection.exec_driver_sql(
                    f"CREATE UNLOGGED TABLE {quoted(fresh)} (LIKE {quoted(table)})"
                )
                connection.execute(rows)
                connection.execute(DropTable(table))
                name = DIALECT.identifier_preparer.quote(table.name)
                connection.exec_driver_sql(f"ALTER TABLE {quoted(fresh)} RENAME TO {name}")
        except (sa.exc.DataError, sa.exc.ProgrammingError) as error:
            message = (
                f"{self.published.fullname}: {sorted(columns)} cannot be computed over the "
                f"partition: {error.orig}"
            )
            raise ConfigError(message) from error
        crashpoints.reach(_COMPUTED)

    def keep(self, gone: pl.DataFrame) -> None:
        """Leaves the partition's published rows where they are, but for some.

        Rows that stay are not touched: what is staged takes the place of those that go.

        Args:
            gone: `input_hash` (Binary, unique) of the rows that go.
        """
        table = sa.Table(
            self._name("_gone"),
            sa.MetaData(),
            sa.Column("input_hash", sa.LargeBinary, nullable=False),
            schema=STAGING,
        )
        name = quoted(table)
        crashpoints.reach(_KEEPING)
        with self._there(), self._warehouse.begin() as connection:
            connection.execute(DropTable(table, if_exists=True))
            connection.exec_driver_sql(f"CREATE UNLOGGED TABLE {name} (input_hash bytea NOT NULL)")
            copy_text(connection, name, gone.select("input_hash"))
            connection.exec_driver_sql(f"ANALYZE {name}")
        crashpoints.reach(_KEPT)
        self.gone, self.gone_hashes = table, gone.height

    @property
    def preview(self) -> Preview:
        """What readers would see of the partition: what is staged, and what stays."""
        if self.gone is None:
            return Preview(self._warehouse, self.table, self._there)
        old = self.published
        goes = sa.exists().where(self.gone.c.input_hash == old.c["_input_hash"])
        stays = sa.select(old).where(
            old.c.partition_key == self.attempt.partition_key, sa.not_(goes)
        )
        rows = sa.union_all(sa.select(self.table), stays).subquery("preview")
        return Preview(self._warehouse, rows, self._there)

    def check_held(self, rows: int) -> None:
        """Raise StagingLostError if the stage holds less than was put in."""
        with self._there(), self._warehouse.connect() as connection:
            self.require_held(connection, rows)

    def require_held(self, connection: sa.Connection, rows: int) -> None:
        """`check_held` in the caller's transaction."""
        for table, expected in ((self.table, rows), (self.gone, self.gone_hashes)):
            if table is None:
                continue
            known = sa.select(sa.func.to_regclass(quoted(table)).is_not(None))
            count = sa.select(sa.func.count()).select_from(table)
            found = 0
            if there := connection.execute(known).scalar_one():
                found = connection.execute(count).scalar_one()
            if not there or found < expected:
                message = (
                    f"{table.fullname} held {expected} rows and now holds "
                    f"{found if there else 'none'}: Postgres was restarted; stage again"
                )
                raise StagingLostError(message)

    def _changes(self) -> str:
        """How the table differs from the published one.

        What most rows have in common need not be sent with each of them.
        """
        named = DIALECT.identifier_preparer.quote
        defaults = [
            f"ALTER COLUMN {named(name)} SET DEFAULT {_literal(value)}"
            for name, value in self._usual.items()
        ]
        nullable = [f"ALTER COLUMN {named(name)} DROP NOT NULL" for name in self._computed]
        return ", ".join(defaults + nullable)

    def _name(self, kind: str) -> str:
        suffix = f"{kind}__{self.attempt.attempt}"
        return self.published.name[: _LONGEST_NAME - len(suffix)] + suffix

    def _key(self) -> list[str]:
        return [column.name for column in self.published.primary_key.columns]

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


def _literal(value: str | int) -> str:
    return str(sa.literal(value).compile(dialect=DIALECT, compile_kwargs={"literal_binds": True}))


def _unkeyed(table: sa.Table, name: str) -> sa.Table:
    """The same columns without keys: rows are checked by the audit, not while they arrive."""
    columns = (sa.Column(c.name, c.type, nullable=c.nullable) for c in table.columns)
    return sa.Table(name, sa.MetaData(), *columns, schema=STAGING)
