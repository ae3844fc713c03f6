"""Reading a journal: what is done, and the records of what is wanted.

Whatever is not a whole shard of this journal is skipped with a warning: a resume never fails
on the traces of the crash it recovers from. Memory is bounded by a few shards, plus a few
dozen bytes per hash.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np
import polars as pl
import pyarrow as pa

from overnight.journal import partial, shard
from overnight.journal.again import void
from overnight.journal.writer import JournalWriter

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from overnight.store import Entry, Store

logger = logging.getLogger(__name__)

_READ_AHEAD = 4
_BATCH_ROWS = 65_536
_BATCH_BYTES = 32 << 20
_LISTINGS = 10


class Journal:
    """The records of one (job, fingerprint, partition). Thread-safe."""

    def __init__(
        self,
        store: Store,
        job: str,
        fingerprint: str,
        partition: str,
        *,
        again: pl.DataFrame | None = None,
    ) -> None:
        """Nothing is read or created yet.

        Args:
            store: where it is.
            job: whose.
            fingerprint: of what was inferred with.
            partition: of the job.
            again: rows that somebody wants inferred again: `input_hash`, and `until`, the last
                attempt whose record of it counts for nothing.
        """
        self._store = store
        self._again = None if again is None or again.is_empty() else again
        self.prefix = shard.prefix_of(job, fingerprint, partition)

    def writer(
        self,
        *,
        attempt: int,
        worker: str,
        on_flushed: Callable[[int], None] | None = None,
        interval: float | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> JournalWriter:
        """A writer that appends to this journal in a background thread.

        Args:
            attempt: The attempt that the records belong to.
            worker: Who writes; `A-Z a-z 0-9 _ . -`. Two writers may share a name.
            on_flushed: Called in the background thread with the number of rows that are
                durable so far.
            interval: Seconds between flushes; by default what a flush costs decides.
            clock: Monotonic seconds.

        Raises:
            ValueError: if the worker's name cannot be part of a file name.
        """
        return JournalWriter(
            self._store,
            self.prefix,
            attempt=attempt,
            worker=worker,
            on_flushed=on_flushed,
            interval=interval,
            clock=clock,
        )

    def tables(self, columns: list[str] | None = None) -> Iterator[pa.Table]:
        """The records, shard by shard in the order of their names; a record may come twice.

        Shards that a writer adds or merges meanwhile are read as well, at the end.

        Args:
            columns: Only these; all by default.

        Raises:
            StoreError: if the store cannot be read.
        """
        seen: set[str] = set()
        for _ in range(_LISTINGS):
            fresh = [e for e in self._store.list(self.prefix) if e.key not in seen]
            if not fresh:
                return
            seen.update(entry.key for entry in fresh)
            if self._again is None:
                yield from self._read(fresh, columns)
            else:
                needed = None if columns is None else [*columns, "attempt"]
                yield from (_counting(table, self._again) for table in self._read(fresh, needed))

    def done(self) -> pl.DataFrame:
        """What needs no inference: `input_hash` (Binary, unique), `failed` (Boolean).

        `failed` is true where there are only dead letters for the hash.
        """
        hashes = [np.empty(0, dtype="S16")]
        failures = [np.empty(0, dtype=bool)]
        for table in self.tables(["input_hash", "failure"]):
            hashes.append(_fixed(table.column("input_hash").combine_chunks()))
            failures.append(table.column("failure").is_valid().to_numpy())
        # Sorted arrays of 17 bytes a record; a frame of as many takes ten times the memory.
        unique, numbers = np.unique(np.concatenate(hashes), return_inverse=True)
        failed = np.ones(len(unique), dtype=bool)
        failed[numbers[~np.concatenate(failures)]] = False
        buffers = [None, pa.py_buffer(unique)]
        array = pa.Array.from_buffers(pa.binary(16), len(unique), buffers)
        return pl.DataFrame({"input_hash": pl.Series(array, dtype=pl.Binary), "failed": failed})

    def partials(self) -> pa.Table | None:
        """How far rows in mid-generation were: `input_hash` (unique), `partial`; None of none.

        Rows that are done may still be among them.
        """
        return partial.read(self._store, self.prefix)

    def forget_partials(self) -> None:
        """Delete what `partials` reads: the partition is published.

        Raises:
            StoreError: if the store fails.
        """
        partial.clear(self._store, self.prefix)

    def records(self, wanted: pl.DataFrame) -> Iterator[pl.DataFrame]:
        """The records of the wanted hashes, each at most once; finished beats dead letter.

        Args:
            wanted: `input_hash` (Binary, unique) and any other columns, which are added to
                the records; where both have a column of a name, the wanted one's is taken.

        Yields:
            The wanted columns, then the record's other columns; in no particular order.

        Raises:
            ValueError: if a hash is wanted twice.
        """
        if wanted["input_hash"].n_unique() != wanted.height:
            message = "each input_hash may be wanted only once"
            raise ValueError(message)
        index = wanted.select("input_hash").with_row_index("_wanted")
        taken = np.zeros(wanted.height, dtype=bool)
        failed = np.zeros(wanted.height, dtype=bool)
        for frame in _batched(self.tables()):
            hits = _first_hits(frame, index, taken)
            if hits["failure"].null_count() < hits.height:
                bad = hits["failure"].is_not_null()
                failed[hits["_wanted"].filter(bad).to_numpy()] = True
                hits = hits.filter(~bad)
            taken[hits["_wanted"].to_numpy()] = True
            yield from _joined(hits, wanted)
        if (failed & ~taken).any():
            # Dead letters are few; reading twice is what keeps the memory bounded if not.
            for frame in _batched(self.tables()):
                hits = _first_hits(frame, index, taken)
                taken[hits["_wanted"].to_numpy()] = True
                yield from _joined(hits, wanted)

    def _read(self, entries: list[Entry], columns: list[str] | None) -> Iterator[pa.Table]:
        """Decode shards in order, reading a few ahead: an object store answers slowly."""
        if len(entries) == 1:
            table = self._load(entries[0].key, columns)
            if table is not None:
                yield table
            return
        waiting = deque(entries)
        with ThreadPoolExecutor(_READ_AHEAD, thread_name_prefix="journal-read") as pool:
            ahead = deque(
                pool.submit(self._load, waiting.popleft().key, columns)
                for _ in range(min(_READ_AHEAD, len(waiting)))
            )
            while ahead:
                table = ahead.popleft().result()
                if waiting:
                    ahead.append(pool.submit(self._load, waiting.popleft().key, columns))
                if table is not None:
                    yield table

    def _load(self, key: str, columns: list[str] | None) -> pa.Table | None:
        if not shard.is_shard_name(key.rsplit("/", 1)[-1]) or "/" in key[len(self.prefix) + 1 :]:
            logger.warning("journal: skipping %s: it is not named like a shard", key)
            return None
        try:
            return shard.decode(self.prefix, self._store.get(key), columns)
        except FileNotFoundError:
            # Merged by its writer since the listing; the next listing has the merged one.
            return None
        except shard.ShardError as error:
            logger.warning("journal: skipping %s: %s", key, error)
            return None


def _batched(tables: Iterable[pa.Table]) -> Iterator[pl.DataFrame]:
    """Shards of one schema put together until a join with a million hashes is worth it."""
    batch: list[pa.Table] = []
    rows = size = 0
    for table in tables:
        if batch and not table.schema.equals(batch[0].schema):
            yield _frame(batch)
            batch, rows, size = [], 0, 0
        batch.append(table)
        rows += table.num_rows
        size += table.nbytes
        if rows >= _BATCH_ROWS or size >= _BATCH_BYTES:
            yield _frame(batch)
            batch, rows, size = [], 0, 0
    if batch:
        yield _frame(batch)


def _counting(table: pa.Table, again: pl.DataFrame) -> pa.Table:
    """A shard's records less those that count for nothing."""
    known = pl.DataFrame(table.select(["input_hash", "attempt"]))
    return table.filter(pa.array((~void(known, again)).to_numpy()))


def _frame(tables: list[pa.Table]) -> pl.DataFrame:
    return pl.DataFrame(pa.concat_tables(tables))


def _fixed(array: pa.FixedSizeBinaryArray) -> np.ndarray:
    """Hashes as 16 bytes each: numpy ignores zero bytes at the end, alike in all of them."""
    values = np.frombuffer(array.buffers()[1] or b"", dtype="S16")
    # A copy, so that the shard's memory can go.
    return values[array.offset : array.offset + len(array)].copy()


def _first_hits(frame: pl.DataFrame, index: pl.DataFrame, taken: np.ndarray) -> pl.DataFrame:
    """One record per wanted hash that is not taken yet: the first finished, else the first."""
    if frame["input_hash"].equals(index["input_hash"]):  # a single split's, in its order
        hits = frame.hstack(index.select("_wanted"))
    else:
        hits = frame.join(index, on="input_hash", how="inner", maintain_order="left")
    if taken.any():
        hits = hits.filter(~pl.Series(taken[hits["_wanted"].to_numpy()]))
    if hits.height and np.bincount(hits["_wanted"].to_numpy()).max() > 1:
        finished_first = hits.sort(pl.col("failure").is_not_null(), maintain_order=True)
        hits = finished_first.unique("_wanted", keep="first", maintain_order=True)
    return hits


def _joined(hits: pl.DataFrame, wanted: pl.DataFrame) -> Iterator[pl.DataFrame]:
    if hits.height:
        rows = wanted[hits["_wanted"]]
        record = hits.drop("_wanted", *(set(hits.columns) & set(wanted.columns)))
        yield rows.hstack(record)
