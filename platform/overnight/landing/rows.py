"""From the bytes of one file to rows that keep the contract, and rejects that say why not."""

from __future__ import annotations

import gzip
import logging
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO, cast

import polars as pl

from overnight.contract import check_rows
from overnight.errors import SourceError
from overnight.landing.batch import FileReading, TypedBatch
from overnight.landing.delimited import read_csv
from overnight.landing.jsonl import read_jsonl
from overnight.landing.parquet import read_parquet
from overnight.landing.zone import SUFFIXES, suffix_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from overnight.contract import Contract

log = logging.getLogger(__name__)

REJECT_SCHEMA = pl.Schema(
    {
        "file": pl.String,
        "line": pl.Int64,
        "key": pl.String,
        "column": pl.String,
        "value": pl.String,
        "reason": pl.String,
    }
)
LINE = "_line"
_MAX_KEY = 200


@dataclass(frozen=True, slots=True)
class CheckedRows:
    """Rows of one file: `frame` has the contract's columns and `_line`; `rejects` see Batch."""

    frame: pl.DataFrame
    rejects: pl.DataFrame


def checked_rows(
    stream: BinaryIO, *, uri: str, contract: type[Contract], key: str, batch_rows: int
) -> Iterator[CheckedRows]:
    """Read a whole file and check each of its rows.

    Args:
        stream: the file's bytes, at their start; it can seek.
        uri: the file's name, whose suffix gives its format, for messages and rejects.
        contract: what a row must be.
        key: the key column, to name rejected rows by.
        batch_rows: the most rows in a batch.

    Raises:
        SourceError: if the file as a whole cannot be read.
    """
    if not stream.read(1):
        message = (
            f"{uri}: is empty (0 bytes); a file without rows has a header or at least one line"
        )
        raise SourceError(message)
    stream.seek(0)
    reading = FileReading(uri, contract, batch_rows)
    for batch in _typed_batches(stream, reading):
        yield _checked(batch, reading, key)
    if reading.extra:
        log.info(
            "%s: ignored columns that %s does not have: %s",
            uri,
            contract.__name__,
            ", ".join(reading.extra),
        )


def _typed_batches(stream: BinaryIO, reading: FileReading) -> Iterator[TypedBatch]:
    suffix = suffix_of(reading.uri)
    if suffix == ".parquet":
        return read_parquet(stream, reading)
    if suffix == ".jsonl":
        return read_jsonl(stream, reading)
    if suffix == ".csv":
        return read_csv(stream, reading)
    if suffix == ".jsonl.gz":
        return _read_gzipped(stream, reading)
    message = f"{reading.uri}: cannot be read; its name must end in one of {', '.join(SUFFIXES)}"
    raise SourceError(message)


def _read_gzipped(stream: BinaryIO, reading: FileReading) -> Iterator[TypedBatch]:
    last = 0
    try:
        with gzip.GzipFile(fileobj=stream) as unzipped:
            for batch in read_jsonl(cast("BinaryIO", unzipped), reading):
                last = max([last, *batch.lines[-1:], *(one.line for one in batch.broken[-1:])])
                yield batch
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        message = (
            f"{reading.uri}: is not an intact gzip file somewhere after line {last}: {error}; "
            "was it cut off? land it again"
        )
        raise SourceError(message) from None


def _checked(batch: TypedBatch, reading: FileReading, key: str) -> CheckedRows:
    """Keep the rows that have no problem and break no rule; one reject for each other row."""
    frame = batch.frame.with_columns(pl.Series(LINE, batch.lines, dtype=pl.Int64))
    position = {column.name: index for index, column in enumerate(reading.columns)}
    unreadable = pl.DataFrame(
        {
            "row": [problem.row for problem in batch.problems],
            "column": [problem.column for problem in batch.problems],
            "value": [problem.value for problem in batch.problems],
            "reason": [problem.reason for problem in batch.problems],
        },
        schema={"row": pl.Int64, "column": pl.String, "value": pl.String, "reason": pl.String},
    )
    frame = frame.with_row_index("_row")
    readable = frame.filter(~pl.col("_row").is_in(unreadable["row"].implode()))
    ok, violations = check_rows(reading.contract, readable)
    if ok.all() and not batch.problems and not batch.broken:
        return CheckedRows(frame.drop("_row"), REJECT_SCHEMA.to_frame())
    broken_rules = violations.with_columns(
        readable["_row"].cast(pl.Int64).gather(violations["row"]).alias("row")
    )
    problems = (
        pl.concat([unreadable, broken_rules])
        .with_columns(
            pl.col("column").replace_strict(position, default=len(position)).alias("_position")
        )
        .sort("row", "_position", maintain_order=True)
    )
    rejects = pl.concat([_rejects(problems, frame, reading, key), _unreadable(batch, reading)])
    return CheckedRows(readable.filter(ok).drop("_row"), rejects.sort("line"))


def _rejects(
    problems: pl.DataFrame, frame: pl.DataFrame, reading: FileReading, key: str
) -> pl.DataFrame:
    """Make one line for each row: its first problem, and how many columns have one."""
    # A reject is itself stored in PostgreSQL, so even a key that breaks the contract must fit.
    shown_key = (
        pl.col(key)
        .cast(pl.String)
        .str.replace_all("\0", "\\0", literal=True)
        .str.slice(0, _MAX_KEY)
    )
    rows = frame.select(pl.col("_row").cast(pl.Int64).alias("row"), LINE, shown_key.alias("key"))
    wrong = pl.col("column").n_unique()
    first = problems.group_by("row", maintain_order=True).agg(
        pl.col("column").first().alias("first_column"),
        pl.col("value").first(),
        pl.when(wrong > 1)
        .then(pl.format("{} (one of {} wrong columns)", pl.col("reason").first(), wrong))
        .otherwise(pl.col("reason").first())
        .alias("reason"),
    )
    return first.join(rows, on="row", how="left", maintain_order="left").select(
        pl.lit(reading.uri).alias("file"),
        pl.col(LINE).alias("line"),
        "key",
        pl.col("first_column").alias("column"),
        "value",
        "reason",
    )


def _unreadable(batch: TypedBatch, reading: FileReading) -> pl.DataFrame:
    return pl.DataFrame(
        {
            "file": [reading.uri] * len(batch.broken),
            "line": [one.line for one in batch.broken],
            "key": [None] * len(batch.broken),
            "column": [None] * len(batch.broken),
            "value": [one.value for one in batch.broken],
            "reason": [one.reason for one in batch.broken],
        },
        schema=REJECT_SCHEMA,
    )
