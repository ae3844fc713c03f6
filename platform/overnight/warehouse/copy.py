"""Rows in and out of Postgres in bulk: polars frames through COPY, a whole column at a time.

In: Postgres' binary format where a table's types are known and all have one here, else CSV.
Out: CSV. Its strings are always quoted and nulls never, which is how CSV tells an empty string
from a null.
"""

from __future__ import annotations

import itertools
from io import BytesIO
from typing import TYPE_CHECKING, Any

import polars as pl
import psycopg
from psycopg.copy import QueuedLibpqWriter

from overnight.errors import ContractError
from overnight.warehouse.copy_binary import HEADER, TRAILER, BinaryRows
from overnight.warehouse.table import DIALECT, quoted

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    import sqlalchemy as sa

__all__ = ["copy_in", "copy_out"]

# So few that Postgres reads some while the next are written down.
_ROWS_AT_ONCE = 4096
_BYTES_AT_ONCE = 16 << 20
_TIMESTAMP = "%Y-%m-%dT%H:%M:%S%.6f"


def copy_in(
    connection: sa.Connection, table: sa.Table, frame: pl.DataFrame, *, key: Sequence[str] = ()
) -> int:
    """Appends the frame's rows to the table, by column name; returns how many.

    Args:
        connection: in whose transaction.
        table: where to.
        frame: the rows; a column that it lacks gets its default.
        key: the columns that name a row in an error.

    Raises:
        ContractError: if a text holds NUL, which Postgres cannot store; names the column
            and the row's key. The transaction can only be rolled back then.
    """
    if frame.is_empty():
        return 0
    try:
        return _copy_binary(connection, table, frame)
    except psycopg.errors.CharacterNotInRepertoire:
        # Postgres looks at every byte in any case; what it does not say is which row it was.
        _refuse_nul(frame, key=key)
        raise


def _copy_binary(connection: sa.Connection, table: sa.Table, frame: pl.DataFrame) -> int:
    binary = BinaryRows.of(frame.schema, table.columns)
    if binary is None:
        return copy_text(connection, quoted(table), frame, kinds=table.columns)
    names = ", ".join(DIALECT.identifier_preparer.quote(name) for name in binary.names)
    statement = f"COPY {quoted(table)} ({names}) FROM STDIN (FORMAT binary)"
    rows = map(binary.rows, _slices(frame))
    return _send(connection, statement, itertools.chain([HEADER], rows, [TRAILER]))


def copy_text(
    connection: sa.Connection,
    target: str,
    frame: pl.DataFrame,
    *,
    kinds: Mapping[str, sa.Column[Any]] | sa.ColumnCollection[str, sa.Column[Any]] | None = None,
) -> int:
    """`copy_in` for a table known by its quoted name; `kinds` tells arrays from vectors."""
    names = ", ".join(DIALECT.identifier_preparer.quote(name) for name in frame.columns)
    statement = f"COPY {target} ({names}) FROM STDIN (FORMAT csv)"
    texts = [_as_text(name, kind, kinds).alias(name) for name, kind in frame.schema.items()]
    csv = (
        part.select(texts)
        .write_csv(include_header=False, quote_style="non_numeric", null_value="")
        .encode()
        for part in _slices(frame)
    )
    return _send(connection, statement, csv)


def copy_out(
    connection: sa.Connection,
    query: str,
    values: Sequence[Any],
    schema: Mapping[str, pl.DataType | type[pl.DataType]],
) -> pl.DataFrame:
    """Reads a query's whole result, about as compact in memory as its text.

    Args:
        connection: in whose transaction it is read.
        query: with `%s` for each of `values`.
        values: the parameters.
        schema: names and types of the result; Binary columns must come as hex.
    """
    text = BytesIO()
    statement = f"COPY ({query}) TO STDOUT (FORMAT csv)"
    with _cursor(connection) as cursor, cursor.copy(statement, values) as copy:
        for block in copy:
            text.write(block)
    if not text.tell():
        return pl.DataFrame(schema=schema)
    binary = [name for name, kind in schema.items() if kind == pl.Binary]
    text.seek(0)
    frame = pl.read_csv(
        text,
        has_header=False,
        schema={name: pl.String if name in binary else kind for name, kind in schema.items()},
    )
    return frame.with_columns(pl.col(binary).str.decode("hex"))


def _slices(frame: pl.DataFrame) -> Iterator[pl.DataFrame]:
    """Pieces of a frame that are worth a message and fit into memory beside it.

    The first is smaller: Postgres, which takes longer to read than we to write, begins sooner.
    """
    row_bytes = max(1, int(frame.estimated_size()) // max(1, frame.height))
    rows = min(_ROWS_AT_ONCE, max(1, _BYTES_AT_ONCE // row_bytes))
    first = -(-rows // 4)
    yield frame[:first]
    yield from frame[first:].iter_slices(rows)


def _refuse_nul(frame: pl.DataFrame, *, key: Sequence[str]) -> None:
    """Raises `ContractError` for the first text that holds NUL, also inside lists."""
    for name, kind in frame.schema.items():
        if kind == pl.String:
            bad = frame[name].str.contains("\0", literal=True)
        elif isinstance(kind, pl.List) and kind.inner == pl.String:
            bad = frame[name].list.eval(pl.element().str.contains("\0", literal=True)).list.any()
        else:
            continue
        if bad.any():
            row = frame.row(int(bad.arg_true()[0]), named=True)
            where = {part: row[part] for part in key if part in row}
            message = (
                f"Column {name!r} holds a NUL character in row {where}, which Postgres cannot "
                "store: remove it in parse, or let the contract refuse it"
            )
            raise ContractError(message)


def _send(connection: sa.Connection, statement: str, pieces: Iterable[bytes | memoryview]) -> int:
    """COPY pieces, each sent by a thread while the next is made; how many rows they are."""
    with _cursor(connection) as cursor:
        with cursor.copy(statement, writer=QueuedLibpqWriter(cursor)) as copy:
            for piece in pieces:
                copy.write(piece)
        copied: int = cursor.rowcount
    return copied


def _cursor(connection: sa.Connection) -> Any:
    raw: Any = connection.connection.driver_connection
    return raw.cursor()


def _as_text(
    name: str,
    kind: pl.DataType,
    kinds: Mapping[str, sa.Column[Any]] | sa.ColumnCollection[str, sa.Column[Any]] | None,
) -> pl.Expr:
    column = pl.col(name)
    if kind == pl.Binary:
        return pl.lit("\\x") + column.bin.encode("hex")
    if isinstance(kind, pl.Datetime):
        zone = "" if kind.time_zone is None else "%:z"
        return column.dt.strftime(_TIMESTAMP + zone)
    if isinstance(kind, pl.Duration):
        return pl.format("{} microseconds", column.dt.total_microseconds())
    if isinstance(kind, (pl.List, pl.Array)):
        declared = None if kinds is None or name not in kinds else kinds[name].type
        is_array = declared is None or declared.__visit_name__ == "ARRAY"
        return _list_as_text(column, kind, "{}" if is_array else "[]")
    if isinstance(kind, (pl.Categorical, pl.Enum)):
        return column.cast(pl.String)
    return column


def _list_as_text(column: pl.Expr, kind: pl.List | pl.Array, brackets: str) -> pl.Expr:
    values = column.arr.to_list() if isinstance(kind, pl.Array) else column
    element = pl.element()
    if kind.inner == pl.String:
        escaped = element.str.replace_all("\\", "\\\\", literal=True)
        quoted_text = pl.lit('"') + escaped.str.replace_all('"', '\\"', literal=True) + pl.lit('"')
        text = quoted_text
    else:
        text = element.cast(pl.String)
    joined = values.list.eval(text.fill_null("NULL")).list.join(",")
    return pl.lit(brackets[0]) + joined + pl.lit(brackets[1])
