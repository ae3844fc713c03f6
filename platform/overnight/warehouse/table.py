"""Published tables: created from a declaration, and changed only by adding to them.

A table that people read keeps its rows, its grants and its columns. What a changed contract
cannot do without touching those is refused, with what to do instead.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql
from sqlalchemy.schema import CreateColumn, CreateTable, SetColumnComment, SetTableComment

from overnight.errors import ConfigError, ContractError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy import Connection, Table

__all__ = [
    "DIALECT", "add_key", "ensure_table", "lock_key", "lock_name", "quoted", "system_columns",
]  # fmt: skip

# One dialect, for names and types only: it never connects.
DIALECT: Any = postgresql.dialect()  # type: ignore[no-untyped-call]


@dataclass(frozen=True, slots=True)
class _Column:
    name: str
    kind: str
    required: bool
    comment: str | None


def system_columns() -> tuple[sa.Column[Any], ...]:
    """The provenance that every published row carries after its contract's columns."""
    return (
        sa.Column("partition_key", sa.Text, nullable=False, comment="The date, or all"),
        sa.Column("_run_id", sa.Text, nullable=False, comment="The run that inferred the row"),
        sa.Column(
            "_attempt", sa.BigInteger, nullable=False,
            comment="The attempt that inferred the row: see lineage.attempts",
        ),
        sa.Column("_machine", sa.Text, comment="The machine that inferred the row"),
        sa.Column(
            "_input_hash", postgresql.BYTEA, nullable=False,
            comment="Digest of the input row and its request",
        ),
        sa.Column(
            "_input_id", sa.BigInteger, nullable=False, comment="Its file: see lineage.inputs"
        ),
        sa.Column("_line", sa.BigInteger, comment="Its place in that file, counted from 1"),
        sa.Column(
            "_attempts", sa.Integer,
            comment="On how many engines the row was inferred, one going on where another was cut "
            "off; null if that was not counted yet",
        ),
    )  # fmt: skip


def add_key(table: Table, key: Sequence[str]) -> Table:
    """Declares the primary key: the partition, then what is unique within it."""
    table.append_constraint(sa.PrimaryKeyConstraint("partition_key", *key))
    return table


def lock_key(*parts: str) -> int:
    """The 64-bit number of an advisory lock: a digest of its name's parts."""
    named = "\0".join(parts).encode()
    return int.from_bytes(hashlib.blake2b(named, digest_size=8).digest(), "big", signed=True)


def lock_name(connection: Connection, *parts: str) -> None:
    """Takes an advisory lock until the transaction ends, waiting for it."""
    query = sa.text("SELECT pg_advisory_xact_lock(:key)")
    connection.execute(query, {"key": lock_key(*parts)})


def quoted(table: Table) -> str:
    """The table's name for SQL, with its schema."""
    name: str = DIALECT.identifier_preparer.format_table(table)
    return name


def ensure_table(connection: Connection, table: Table) -> None:
    """Makes the warehouse's table as declared: creates it, or adds what is new.

    New nullable columns, indexes and comments are added, a column that became nullable loses
    its NOT NULL. Rows and grants stay as they are.

    Raises:
        ContractError: if a column was removed, changed its type or is new and required
            while rows exist, or if the key changed; names the column and what to do.
    """
    lock_name(connection, "overnight.table", table.schema or "", table.name)
    _ensure_vectors(connection, table)
    there = _columns(connection, table)
    if not there:
        connection.execute(CreateTable(table))
        for index in table.indexes:
            index.create(connection)
        _comment(connection, table, {})
        return
    _refuse_changes(connection, table, there)
    name = quoted(table)
    for column in table.columns:
        before = there.get(column.name)
        if before is None:
            definition = CreateColumn(column).compile(dialect=DIALECT)
            connection.exec_driver_sql(f"ALTER TABLE {name} ADD COLUMN {definition}")
        elif column.nullable and before.required:
            quoted_column = DIALECT.identifier_preparer.format_column(column)
            connection.exec_driver_sql(
                f"ALTER TABLE {name} ALTER COLUMN {quoted_column} DROP NOT NULL"
            )
    for index in table.indexes:
        index.create(connection, checkfirst=True)
    _comment(connection, table, there)


def _ensure_vectors(connection: Connection, table: Table) -> None:
    kinds = [str(column.type.compile(dialect=DIALECT)) for column in table.columns]
    if not any(kind.startswith(("vector(", "halfvec(")) for kind in kinds):
        return
    known = sa.text("SELECT FROM pg_extension WHERE extname = 'vector'")
    if connection.execute(known).first() is not None:
        return
    try:
        with connection.begin_nested():
            connection.exec_driver_sql("CREATE EXTENSION vector")
    except sa.exc.DBAPIError as error:
        message = (
            f"{table.schema}.{table.name} needs pgvector, which this warehouse does not have "
            f"({error.orig}): have an administrator run CREATE EXTENSION vector"
        )
        raise ConfigError(message) from error


def _refuse_changes(connection: Connection, table: Table, there: dict[str, _Column]) -> None:
    name = f"{table.schema}.{table.name}"
    remedy = (
        "publish the new contract under another table name, or have an administrator migrate "
        f"{name} first"
    )
    declared = _declared_kinds(connection, table)
    for column in there.values():
        if column.name not in declared:
            message = (
                f"Column {column.name!r} ({column.kind}) of {name} is no longer in the contract, "
                f"and removing it would break its readers: keep it (or make it nullable), {remedy}"
            )
            raise ContractError(message)
        if declared[column.name] != column.kind:
            message = (
                f"Column {column.name!r} of {name} would change from {column.kind} to "
                f"{declared[column.name]}: give the new values a new column, {remedy}"
            )
            raise ContractError(message)
    keys = [column.name for column in table.primary_key.columns]
    if (before := _key(connection, table)) != keys:
        message = f"The key of {name} would change from {before} to {keys}: {remedy}"
        raise ContractError(message)
    for new in table.columns:
        if new.name not in there and not new.nullable and _has_rows(connection, table):
            message = (
                f"Column {new.name!r} is new in {name} and required, but the rows that are "
                f"published have no value for it: declare it nullable, or {remedy}"
            )
            raise ContractError(message)


def _columns(connection: Connection, table: Table) -> dict[str, _Column]:
    query = sa.text(
        """
        SELECT attname, format_type(atttypid, atttypmod), attnotnull,
               col_description(attrelid, attnum)
        FROM pg_attribute
        WHERE attrelid = to_regclass(:name) AND attnum > 0 AND NOT attisdropped
        ORDER BY attnum
        """
    )
    rows = connection.execute(query, {"name": quoted(table)})
    return {row[0]: _Column(*row) for row in rows}


def _declared_kinds(connection: Connection, table: Table) -> dict[str, str]:
    """The declared types as Postgres itself names them, so that aliases compare equal."""
    nulls = [sa.cast(sa.null(), column.type) for column in table.columns]
    described: Any = connection.execute(sa.select(*nulls).limit(0)).cursor
    result = described.pgresult
    named = sa.select(
        *(
            sa.func.format_type(sa.literal(result.ftype(i)), sa.literal(result.fmod(i)))
            for i in range(len(nulls))
        )
    )
    return dict(zip(table.columns.keys(), connection.execute(named).one(), strict=True))


def _key(connection: Connection, table: Table) -> list[str]:
    query = sa.text(
        """
        SELECT a.attname FROM pg_index i
        CROSS JOIN LATERAL unnest(i.indkey) WITH ORDINALITY AS k(attnum, place)
        JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.attnum
        WHERE i.indrelid = to_regclass(:name) AND i.indisprimary ORDER BY k.place
        """
    )
    return list(connection.execute(query, {"name": quoted(table)}).scalars())


def _has_rows(connection: Connection, table: Table) -> bool:
    query = f"SELECT EXISTS (SELECT FROM {quoted(table)})"  # noqa: S608 - a quoted identifier
    return bool(connection.exec_driver_sql(query).scalar_one())


def _comment(connection: Connection, table: Table, there: dict[str, _Column]) -> None:
    """Sets what differs only: setting a comment takes a lock."""
    query = sa.text("SELECT obj_description(to_regclass(:name), 'pg_class')")
    if connection.execute(query, {"name": quoted(table)}).scalar() != table.comment:
        connection.execute(SetTableComment(table))
    for column in table.columns:
        before = there.get(column.name)
        if column.comment != (None if before is None else before.comment):
            connection.execute(SetColumnComment(column))
