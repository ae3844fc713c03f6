"""Reading a partition once and deciding for each row: rejected, reused, or to be inferred."""

from __future__ import annotations

import contextlib
import functools
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import polars as pl
import pyarrow as pa

from overnight.crashpoints import reach, register
from overnight.errors import ConfigError, OvernightError
from overnight.plan.duplicates import duplicate_keys
from overnight.plan.hashing import encoded_sizes, input_hashes
from overnight.plan.prepare import requests_of
from overnight.plan.rejects import MaxRejects, RejectTally
from overnight.plan.reuse import Reuse
from overnight.plan.splits import CUT_BY, STATE, Plan, cut, split_file

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from overnight.landing import Batch, InputFile

register("plan.before_spool", "plan.after_spool")

_PREFIX_CHARACTERS = 256
_RESERVED = ("row", "key", "input_hash", "request", "failure", "run_id", "attempt", "machine")
_INDEX_SCHEMA: dict[str, pl.DataType | type[pl.DataType]] = {
    "_read": pl.Int64,
    "input_hash": pl.Binary,
    "key": pl.String,
    "_input_id": pl.Int64,
    "_line": pl.Int64,
    "state": STATE,
    "_split": pl.Int64,
    "_size": pl.Int64,
    "_prefix": pl.UInt64,
}


class Reads(Protocol):
    """What is planned: `overnight.landing.reader_of` makes one."""

    @property
    def inputs(self) -> Sequence[InputFile]:
        """The files read; complete when `batches` is exhausted."""

    def batches(self) -> Iterator[Batch]:
        """The partition's rows and rejects."""


def build_plan(
    reader: Reads,
    *,
    key: str,
    prepare: Callable[[pl.DataFrame], Any],
    carry: Sequence[str],
    done: pl.DataFrame,
    published: pl.DataFrame,
    scratch: Path,
    split_rows: int,
    max_rejects: MaxRejects,
    on_work: Callable[[], None] = lambda: None,
) -> Plan:
    """Plan a partition in one pass over its rows.

    Args:
        reader: The partition.
        key: The source's key column.
        prepare: Makes the requests of some source rows: a Series, one for each row.
        carry: Source columns that go with a row to the worker and into the journal; a key that
            is text goes as `key` alone.
        done: `input_hash` of what the journal holds (`Journal.done`).
        published: `input_hash` of what the published table holds; wins over `done`.
        scratch: A local directory for the requests that wait.
        split_rows: The most rows in a split.
        max_rejects: How many rejects end the run.
        on_work: Called once it is known that there are rows to infer, and not too many rejects;
            what is left to do then is to put them in order.

    Raises:
        TooManyRejectsError: if more rows are rejected than may be.
        ConfigError: if `prepare` fails or does not return one request per row, or if a
            carried column has a name that is taken.
    """
    taken = sorted(set(carry) & set(_RESERVED))
    if taken:
        message = f"source columns named {taken} cannot be carried: rename them in the contract"
        raise ConfigError(message)
    scratch.mkdir(parents=True, exist_ok=True)
    files = Path(tempfile.mkdtemp(prefix="plan-", dir=scratch))
    try:
        planner = _Planner(
            key=key,
            prepare=prepare,
            carry=carry,
            reuse=Reuse(published=published, done=done),
            files=files,
            split_rows=split_rows,
            on_work=on_work,
        )
        tally = RejectTally(max_rejects)
        batches = reader.batches()
        name_of = functools.partial(_name_of, reader, batches)
        for batch in batches:
            tally.add(batch.rejects)
            planner.add(batch, name_of)
        return planner.finish(tally, list(reader.inputs))
    except BaseException:
        shutil.rmtree(files, ignore_errors=True)
        raise


class _Planner:
    """Collects the index of the rows, and puts aside what must be inferred."""

    def __init__(
        self,
        *,
        key: str,
        prepare: Callable[[pl.DataFrame], Any],
        carry: Sequence[str],
        reuse: Reuse,
        files: Path,
        split_rows: int,
        on_work: Callable[[], None],
    ) -> None:
        self._on_work = on_work
        self._key = key
        self._prepare = prepare
        self._carry = list(carry)
        self._reuse = reuse
        self._files = files
        self._spool = _Spool(files, split_rows)
        self._index = [pl.DataFrame(schema=_INDEX_SCHEMA)]
        self._read = 0
        self._request_type: pl.DataType | None = None

    def add(self, batch: Batch, name_of: Callable[[int], str]) -> None:
        if batch.frame.is_empty():
            return
        source = batch.frame.drop("_input_id", "_line")
        request = requests_of(self._prepare, source, batch.frame, self._key, name_of)
        self._check_type(request)
        index = batch.frame.select(
            pl.int_range(self._read, self._read + pl.len(), dtype=pl.Int64).alias("_read"),
            input_hashes(source, request, key=self._key),
            pl.col(self._key).cast(pl.String).alias("key"),
            "_input_id",
            "_line",
        )
        index = index.with_columns(self._reuse.states(index["input_hash"]))
        waits = index["state"] == "infer"
        # A key that is text goes along as `key`.
        own = [self._key] if source.schema[self._key] == pl.String else []
        carried = source.select(pl.col(self._carry).exclude(own)).with_columns(_plain_text())
        rows = index.select("_read", "key", "input_hash").with_columns(request).hstack(carried)
        self._spool.add(rows.filter(waits))
        # How many rows to infer came before: that tells the split.
        before = self._spool.rows - int(waits.sum())
        nth = waits.cast(pl.Int64).cum_sum() - 1 + before
        self._index.append(
            index.with_columns(
                (nth // self._spool.split_rows).alias("_split"),
                encoded_sizes(request).alias("_size"),
                _prefixes(request, index["_read"]).alias("_prefix"),
            )
        )
        self._read += index.height

    def finish(self, tally: RejectTally, inputs: list[InputFile]) -> Plan:
        self._spool.close()
        index = pl.concat(self._index)
        self._index.clear()
        rows_in = index.height + tally.rows
        duplicates = duplicate_keys(index, inputs, self._key)
        tally.add(duplicates.drop("_read"))
        rejects = tally.finish(rows_in)
        accepted = index
        if duplicates.height:  # seldom, and the join copies everything
            accepted = index.join(duplicates, on="_read", how="anti", maintain_order="left")
        del index
        accepted = accepted.with_columns(pl.int_range(pl.len(), dtype=pl.Int64).alias("row"))
        waits = accepted["state"] == "infer"
        if waits.any():
            self._on_work()
        order, splits, offsets = cut(accepted.select(*CUT_BY).filter(waits))
        return Plan(
            rows_in=rows_in,
            rejected=tally.rows,
            rejects=rejects,
            inputs=inputs,
            wanted=accepted.select("input_hash", "key", "_input_id", "_line", "state"),
            splits=splits,
            _order=order,
            _offsets=offsets,
            _files=self._files,
        )

    def _check_type(self, request: pl.Series) -> None:
        if self._request_type is None:
            self._request_type = request.dtype
        elif request.dtype != self._request_type:
            message = (
                f"prepare returned {self._request_type} for some rows and {request.dtype} for"
                " others; give the Series it returns a dtype"
            )
            raise ConfigError(message)


class _Spool:
    """Writes rows to one local file for each split, in the order in which they come."""

    def __init__(self, folder: Path, split_rows: int) -> None:
        self.rows = 0
        self.split_rows = split_rows
        self._folder = folder
        self._buffer: list[pl.DataFrame] = []
        self._buffered = 0
        self._next = 0

    def add(self, rows: pl.DataFrame) -> None:
        self.rows += rows.height
        self._buffered += rows.height
        self._buffer.append(rows)
        while self._buffered >= self.split_rows:
            whole = pl.concat(self._buffer)
            self._write(whole[: self.split_rows])
            self._buffer = [whole[self.split_rows :]]
            self._buffered -= self.split_rows

    def close(self) -> None:
        if self._buffered:
            self._write(pl.concat(self._buffer))
        self._buffer = []

    def _write(self, rows: pl.DataFrame) -> None:
        table = rows.to_arrow()
        for name, kind in (("key", pa.string()), ("input_hash", pa.binary(16))):
            column = table.column(name).cast(kind)
            table = table.set_column(table.schema.get_field_index(name), name, column)
        options = pa.ipc.IpcWriteOptions(compression="lz4")
        path = split_file(self._folder, self._next)
        reach("plan.before_spool")
        with pa.ipc.new_file(str(path), table.schema, options=options) as writer:
            writer.write_table(table)
        reach("plan.after_spool")
        self._next += 1


def _name_of(reader: Reads, batches: Iterator[Batch], input_id: int) -> str:
    """A file's name for an error: it is known once the file has been read to its end."""
    known: set[int] = set()
    with contextlib.suppress(OvernightError):
        while input_id not in known and next(batches, None) is not None:
            known = {file.input_id for file in reader.inputs}
    names = {file.input_id: file.uri for file in reader.inputs}
    return names.get(input_id, f"input {input_id}")


def _prefixes(request: pl.Series, read: pl.Series) -> pl.Series:
    """Equal numbers for requests that begin alike; only text has beginnings to share."""
    if request.dtype == pl.String:
        return request.str.head(_PREFIX_CHARACTERS).hash()
    return read.cast(pl.UInt64)


def _plain_text() -> pl.Expr:
    """Dictionary-encoded text as text: a journal's shards must not depend on dictionaries."""
    return pl.selectors.by_dtype(pl.Categorical, pl.Enum).cast(pl.String)
