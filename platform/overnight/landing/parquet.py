"""Parquet: typed already, so a file either fits the contract's dtypes or is refused as a whole.

Lossless or range-checked conversions are made (any integer width, float32 for float64, string
dictionaries, timestamps of any unit); a timestamp without a time zone is UTC, digits past
microseconds are cut. A value that does not fit rejects its row.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, BinaryIO

import polars as pl

from overnight.contract import shown
from overnight.errors import SourceError
from overnight.landing.batch import FileReading, TypedBatch
from overnight.landing.values import Problem, describe_range, outside_calendar

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pyarrow as pa
    import pyarrow.parquet as pq

    from overnight.contract import ColumnDecl

_BUFFER_BYTES = 1 << 20


def read_parquet(stream: BinaryIO, reading: FileReading) -> Iterator[TypedBatch]:
    """Read a Parquet file (from a stream that can seek) in batches; `lines` are row numbers.

    Raises:
        SourceError: if the file is not intact, or lacks a column, or has it in another type.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    row = 0
    try:
        file = pq.ParquetFile(stream, pre_buffer=False, buffer_size=_BUFFER_BYTES)
        _check_schema(file.schema_arrow, reading)
        names = [column.name for column in reading.columns]
        for batch in file.iter_batches(reading.batch_rows, columns=names):
            yield _typed(batch, row, reading)
            row += batch.num_rows
        _require_all_rows(file, row, reading)
    except (pa.ArrowException, OSError, EOFError) as error:
        after = f" after row {row}" if row else ""
        message = (
            f"{reading.uri}: is not an intact Parquet file{after}: {str(error).splitlines()[0]}; "
            "was it cut off? land it again"
        )
        raise SourceError(message) from None


def _require_all_rows(file: pq.ParquetFile, rows: int, reading: FileReading) -> None:
    if rows != file.metadata.num_rows:
        message = (
            f"{reading.uri}: promises {file.metadata.num_rows} rows, has {rows}; land it again"
        )
        raise SourceError(message)


def _check_schema(schema: pa.Schema, reading: FileReading) -> None:
    for column in reading.columns:
        found = schema.get_all_field_indices(column.name)
        if len(found) != 1:
            problem = "is missing" if not found else "occurs more than once"
            message = (
                f"{reading.uri}: column {column.name!r} {problem}; the file has "
                f"{shown(schema.names)}"
            )
            raise SourceError(message)
        kind = schema.field(found[0]).type
        if not _fits(kind, column.dtype):
            message = (
                f"{reading.uri}: column {column.name!r} is {kind} in the file, "
                f"the contract {reading.contract.__name__} says {column.dtype}"
            )
            raise SourceError(message)
    names = {column.name for column in reading.columns}
    reading.note_extra(name for name in schema.names if name not in names)


def _fits(kind: pa.DataType, dtype: pl.DataType) -> bool:
    from pyarrow import types

    if types.is_dictionary(kind):
        kind = kind.value_type
    if types.is_null(kind):
        return True
    if isinstance(dtype, pl.List | pl.Array):
        inner = dtype.inner if isinstance(dtype.inner, pl.DataType) else dtype.inner()
        lists = (types.is_list, types.is_large_list, types.is_fixed_size_list)
        return any(is_one(kind) for is_one in lists) and _fits(kind.value_type, inner)
    if dtype.is_numeric():
        return bool(types.is_integer(kind) or (dtype.is_float() and types.is_floating(kind)))
    accepted = {
        pl.Boolean: (types.is_boolean,),
        pl.Date: (types.is_date,),
        pl.Datetime: (types.is_timestamp,),
        pl.String: (types.is_string, types.is_large_string, types.is_string_view),
    }
    return any(is_one(kind) for is_one in accepted[dtype.base_type()])


def _typed(batch: pa.RecordBatch, row: int, reading: FileReading) -> TypedBatch:
    series: list[pl.Series] = []
    problems: list[Problem] = []
    for column in reading.columns:
        one, wrong = _column(batch.column(column.name), column)
        series.append(one)
        problems += wrong
    lines = range(row + 1, row + batch.num_rows + 1)
    return TypedBatch(lines, pl.DataFrame(series), problems, ())


def _column(values: pa.Array, column: ColumnDecl) -> tuple[pl.Series, list[Problem]]:
    from pyarrow import types

    if types.is_dictionary(values.type):
        values = values.cast(values.type.value_type)
    problems: list[Problem] = []
    if column.dtype == pl.String:
        values, problems = _valid_text(values, column.name)
    if isinstance(column.dtype, pl.Datetime):
        values = _microseconds(values)
    found = pl.Series(column.name, pl.from_arrow(values))
    if isinstance(column.dtype, pl.Array) and found.dtype != pl.Null:
        found, problems = _of_length(found, column.name, column.dtype)
    if isinstance(column.dtype, pl.Datetime):
        wrong = outside_calendar(found)
        reason = "in UTC it is outside the years 1 to 9999"
        typed = found.set(wrong, None)
    else:
        typed = found.cast(column.dtype, strict=False)
        wrong = typed.is_null() & found.is_not_null()
        reason = f"must be {describe_range(column.dtype)}"
    for index in wrong.arg_true().to_list():
        value = str(values[index]) if isinstance(column.dtype, pl.Datetime) else found[index]
        problems.append(Problem(index, column.name, shown(value), reason))
    return typed, problems


def _microseconds(values: pa.Array) -> pa.Array:
    import pyarrow as pa
    import pyarrow.compute as pc

    options = pc.CastOptions(pa.timestamp("us", tz="UTC"), allow_time_truncate=True)
    return pc.cast(values, options=options)


def _of_length(found: pl.Series, name: str, dtype: pl.Array) -> tuple[pl.Series, list[Problem]]:
    lists = found.arr.to_list() if isinstance(found.dtype, pl.Array) else found
    lengths = lists.list.len()
    wrong = (lengths != dtype.size).fill_null(value=False)
    problems = [
        Problem(
            index,
            name,
            shown(lists[index].to_list()),
            f"must have {dtype.size} elements, has {lengths[index]}",
        )
        for index in wrong.arg_true().to_list()
    ]
    kept = pl.select(pl.when(~wrong).then(lists).alias(name)).to_series()
    return kept, problems


def _valid_text(values: pa.Array, name: str) -> tuple[pa.Array, list[Problem]]:
    """Set text that is not UTF-8 to null: Parquet does not check what a writer calls text."""
    import pyarrow as pa

    try:
        values.validate(full=True)
    except pa.ArrowInvalid:
        texts: list[str | None] = []
        problems: list[Problem] = []
        for index, value in enumerate(values.cast(pa.large_binary()).to_pylist()):
            try:
                texts.append(None if value is None else value.decode())
            except UnicodeDecodeError as error:
                texts.append(None)
                reason = f"is not UTF-8 at byte {error.start + 1} (0x{value[error.start]:02x})"
                problems.append(Problem(index, name, shown(value), reason))
        return pa.array(texts, pa.large_string()), problems
    return values, []
