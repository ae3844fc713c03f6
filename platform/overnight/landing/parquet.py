"""Parquet: typed already, so a file either fits the contract's dtypes or is refused as a whole.

Lossless or range-checked conversions are made (any integer width, float32 for float64, string
dictionaries, timestamps of any unit); a timestamp without a time zone is UTC, digits past
microseconds are cut. A value that does not fit rejects its row.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, BinaryIO

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
_MICROSECONDS = {"s": 1_000_000, "ms": 1_000, "us": 1}


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

    name, dtype = column.name, column.dtype
    if types.is_dictionary(values.type):
        values = values.cast(values.type.value_type)
    if types.is_null(values.type):
        return pl.Series(name, [None] * len(values), dtype=dtype), []
    if isinstance(dtype, pl.Datetime):
        return _instants(values, name, dtype)
    values, problems = _valid_text(values, name)
    found = pl.Series(name, pl.from_arrow(values))
    if isinstance(dtype, pl.Array):
        found, wrong_lengths = _of_length(found, name, dtype)
        problems += wrong_lengths
    typed = found.cast(dtype, strict=False)
    reason = f"must be {describe_range(dtype)}"
    problems += [
        Problem(row, name, shown(found[row]), reason)
        for row in (typed.is_null() & found.is_not_null()).arg_true().to_list()
    ]
    return typed, problems


def _instants(values: pa.Array, name: str, dtype: pl.Datetime) -> tuple[pl.Series, list[Problem]]:
    import pyarrow as pa

    unit: str = values.type.unit
    ticks = pl.Series(name, pl.from_arrow(values.cast(pa.int64())), dtype=pl.Int64)
    if unit == "ns":
        # 64 bits of nanoseconds cannot leave the calendar.
        return (ticks // 1000).cast(dtype), []
    micros = _MICROSECONDS[unit]
    wrong = outside_calendar(ticks, micros)
    problems = [
        Problem(
            row,
            name,
            f"{ticks[row]} {unit} since 1970",
            "in UTC it is outside the years 1 to 9999",
        )
        for row in wrong.arg_true().to_list()
    ]
    return (ticks.set(wrong, None) * micros).cast(dtype), problems


def _of_length(found: pl.Series, name: str, dtype: pl.Array) -> tuple[pl.Series, list[Problem]]:
    lists = found.arr.to_list() if isinstance(found.dtype, pl.Array) else found
    lengths = lists.list.len()
    wrong = (lengths != dtype.size).fill_null(value=False)
    problems = [
        Problem(
            row,
            name,
            shown(lists[row].to_list()),
            f"must have {dtype.size} elements, has {lengths[row]}",
        )
        for row in wrong.arg_true().to_list()
    ]
    kept = pl.select(pl.when(~wrong).then(lists).alias(name)).to_series()
    return kept, problems


def _valid_text(values: pa.Array, name: str) -> tuple[pa.Array, list[Problem]]:
    """Set text that is not UTF-8 to null: Parquet does not check what a writer calls text."""
    import pyarrow as pa

    try:
        values.validate(full=True)
    except pa.ArrowInvalid:
        is_list = hasattr(values.type, "value_type")
        binary = pa.large_list(pa.large_binary()) if is_list else pa.large_binary()
        texts: list[Any] = []
        problems: list[Problem] = []
        for row, value in enumerate(values.cast(binary).to_pylist()):
            try:
                texts.append(_decoded(value))
            except UnicodeDecodeError as error:
                texts.append(None)
                bad = f"byte {error.start + 1} (0x{error.object[error.start]:02x})"
                problems.append(Problem(row, name, shown(value), f"is not UTF-8 at {bad}"))
        kind = pa.large_list(pa.large_string()) if is_list else pa.large_string()
        return pa.array(texts, kind), problems
    return values, []


def _decoded(value: Any) -> Any:
    if isinstance(value, list):
        return [_decoded(element) for element in value]
    return None if value is None else value.decode()
