"""Landed rows of several sources and days, on local disk, to be scanned as often as needed.

Memory is bounded by one batch of rows; what is computed from the scans is the caller's.
"""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING

import polars as pl
import pyarrow as pa

from overnight.contract import polars_schema
from overnight.errors import NotLandedError
from overnight.landing.derived import DAY, WHOLE
from overnight.landing.reader import INPUT_ID, Reader
from overnight.landing.rows import LINE
from overnight.landing.zone import landed_partitions

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from overnight.landing.derived import Lookback
    from overnight.landing.reader import InputFile
    from overnight.landing.zone import Source
    from overnight.store import Store


class LandedRows:
    """What some lookbacks read: `read` it once, then scan `frames`.

    Args:
        store: where the landing zone is.
        lookbacks: which sources, and which of their days.
        partition: a day, or `WHOLE`.
        folder: an empty local directory for the rows.
        batch_rows: the most rows to hold in memory at once.
    """

    def __init__(
        self,
        store: Store,
        lookbacks: Sequence[Lookback],
        partition: str,
        folder: Path,
        *,
        batch_rows: int = 16_384,
    ) -> None:
        self.inputs: list[InputFile] = []
        self._store = store
        self._lookbacks = lookbacks
        self._partition = partition
        self._folder = folder
        self._batch_rows = batch_rows

    @property
    def frames(self) -> dict[str, pl.LazyFrame]:
        """A scan of each source's rows, by the source's name; see `DerivedSource.derive`."""
        return {look.source.name: pl.scan_ipc(self._file(look.source)) for look in self._lookbacks}

    def read(self) -> Iterator[pl.DataFrame]:
        """Read all files; `inputs` and `frames` are complete after.

        Yields:
            The rejects that belong to this partition, columns as in `Batch.rejects`: those of
            its own day, and all of them where there are no daily partitions. Others were counted
            when their day was worked through.

        Raises:
            NotLandedError: if a day that is required has not landed.
            SourceError: if a file cannot be read as a whole.
            SourceChangedError: if a file was replaced, removed or added meanwhile.
        """
        self.inputs = []
        for lookback in self._lookbacks:
            yield from self._read(lookback)

    def _read(self, lookback: Lookback) -> Iterator[pl.DataFrame]:
        empty = _schema(lookback.source).to_frame().to_arrow()
        options = pa.ipc.IpcWriteOptions(compression="lz4")
        path = str(self._file(lookback.source))
        with pa.ipc.new_file(path, empty.schema, options=options) as spool:
            spool.write_table(empty)
            for day in self._days(lookback):
                counts = self._partition in (WHOLE, day)
                for frame, rejects in self._read_day(lookback, day):
                    spool.write_table(frame.to_arrow())
                    if counts and rejects.height:
                        yield rejects

    def _read_day(
        self, lookback: Lookback, day: str
    ) -> Iterator[tuple[pl.DataFrame, pl.DataFrame]]:
        reader = Reader(
            self._store,
            lookback.source,
            day,
            batch_rows=self._batch_rows,
            scratch=self._folder,
        )
        landed_on = pl.lit(dt.date.fromisoformat(day)).alias(DAY)
        try:
            for batch in reader.batches():
                yield batch.frame.with_columns(landed_on), batch.rejects
        except NotLandedError:
            if lookback.required and day == self._partition:
                raise
        self.inputs += reader.inputs

    def _days(self, lookback: Lookback) -> Sequence[str]:
        if (days := lookback.days(self._partition)) is not None:
            return days
        last = lookback.last_day(self._partition)
        landed = landed_partitions(self._store, lookback.source)
        days = [day for day in landed if last is None or day <= last]
        if self._partition == WHOLE:
            if lookback.required and not days:
                name = lookback.source.name
                raise NotLandedError(
                    f"source {name!r} has not landed at all: no file in "
                    f"{self._store.url}/landing/{name}/; land files there first"
                )
        elif lookback.last == 0 and self._partition not in days:
            # Reading it is what fails, if it is required, and says where it was looked for.
            days.append(self._partition)
        return days

    def _file(self, source: Source) -> Path:
        return self._folder / f"{source.name}.arrow"


def _schema(source: Source) -> pl.Schema:
    place = {INPUT_ID: pl.Int64(), LINE: pl.Int64(), DAY: pl.Date()}
    return pl.Schema({**polars_schema(source.contract), **place})
