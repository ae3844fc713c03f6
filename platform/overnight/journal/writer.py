"""Appending to a journal: records gather in memory, a background thread makes them durable.

How often decides what a kill -9 costs, and what durability costs while nothing goes wrong. A
flush is therefore as frequent as it can be while taking about 5% of the time: about every
0.1 s on a local disk, every 2 s on an object store. Shards that small would be 300,000 files
after a night, so the writer merges its own, sixteen at a time, into ever larger ones.
"""

from __future__ import annotations

import functools
import logging
import threading
import time
from typing import TYPE_CHECKING, Self, TypeVar

from overnight.crashpoints import reach, register
from overnight.errors import StoreError
from overnight.journal import shard
from overnight.journal.merge import Merger
from overnight.journal.partial import PartialFile

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    import pyarrow as pa

    from overnight.store import Store

logger = logging.getLogger(__name__)

FLUSH_SHARE = 20
"""The interval in flushes' costs: 20 keeps flushing at about 5% of the time."""
SHORTEST_INTERVAL = 0.1
LONGEST_INTERVAL = 10.0
_FLUSH_BYTES = 16 << 20
_MAX_BUFFERED_BYTES = 128 << 20
_RETRY_WAITS = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0)

register("journal.before_put", "journal.after_put")

T = TypeVar("T")


def flush_interval(cost: float) -> float:
    """Seconds to wait after a flush that took `cost` seconds."""
    return min(max(FLUSH_SHARE * cost, SHORTEST_INTERVAL), LONGEST_INTERVAL)


class JournalWriter:
    """Appends records to one journal. Thread-safe; use it as a context manager or `close` it.

    A record is durable once `flush` returned or `flushed` counts it. When the store still
    fails after the bounded retries, the writer is broken: every later `append`, `flush` and
    `close` raises that StoreError.
    """

    def __init__(
        self,
        store: Store,
        prefix: str,
        *,
        attempt: int,
        worker: str,
        on_flushed: Callable[[int], None] | None = None,
        interval: float | None = None,
        clock: Callable[[], float] = time.monotonic,
        retry_waits: tuple[float, ...] = _RETRY_WAITS,
    ) -> None:
        """See `Journal.writer`; `retry_waits` are the seconds between tries of a failed write."""
        shard.check_worker(worker)
        self._store = store
        self._prefix = prefix
        self._attempt = attempt
        self._worker = worker
        self._on_flushed = on_flushed
        self._fixed_interval = interval
        self._clock = clock
        self._retry_waits = retry_waits
        # Guarded by the condition:
        self._changed = threading.Condition()
        self._buffer: list[pa.Table] = []
        self._buffered_bytes = 0
        self._schema: pa.Schema | None = None
        self._appended = 0
        self._flushed = 0
        self._wanted = 0
        self._partial: pa.Table | None = None
        self._noted = 0
        self._kept = 0
        self._wanted_kept = 0
        self._closing = False
        self._error: Exception | None = None
        # The background thread's own:
        self._cost = 0.0
        self._next_flush = clock()
        self._sequence = 0
        self._merger = Merger(store, prefix, self._put_new)
        self._partials = PartialFile(store, prefix, attempt=attempt, worker=worker)
        self._thread = threading.Thread(target=self._run, name=f"journal-{worker}", daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        """The writer itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close; what was appended is kept even if the block failed."""
        self.close()

    def append(self, table: pa.Table) -> int:
        """Take records in; they become durable within an interval.

        Costs microseconds, unless so much waits for a store that does not keep up that the
        memory must be bounded: then it waits.

        Args:
            table: The columns of `RECORD_SCHEMA` (any castable types), then the payload; the
                same schema every time.

        Returns:
            How many rows have been appended so far: durable once `flushed` reaches it.

        Raises:
            StoreError: if the store failed for good.
            ValueError: if the table is not one of records, or its schema has changed.
            RuntimeError: if the writer is closed.
        """
        table = shard.conform(table)
        with self._changed:
            self._check_schema(table.schema)
            while self._buffered_bytes > _MAX_BUFFERED_BYTES and not self._broken():
                self._changed.wait()
            self._raise_if_broken()
            if self._closing:
                message = "this journal writer is closed"
                raise RuntimeError(message)
            if table.num_rows:
                self._buffer.append(table)
                self._buffered_bytes += table.nbytes
                self._appended += table.num_rows
                if len(self._buffer) == 1 or self._buffered_bytes > _FLUSH_BYTES:
                    self._changed.notify_all()
            return self._appended

    def note(self, table: pa.Table) -> None:
        """Take in how far rows in mid-generation are: durable with the next flush.

        Replaces what this writer has noted before. A store that refuses it only costs that
        these rows may have to begin anew.

        Args:
            table: The columns of `RECORD_SCHEMA`, `progress` (how far, int64) and `partial`.
        """
        with self._changed:
            if self._closing:
                return
            self._partial = table
            self._noted += 1
            self._changed.notify_all()

    def flush(self) -> None:
        """Wait until everything appended and noted so far is durable.

        Raises:
            StoreError: if the store failed for good.
        """
        with self._changed:
            target, noted = self._appended, self._noted
            self._wanted = max(self._wanted, target)
            self._wanted_kept = max(self._wanted_kept, noted)
            self._changed.notify_all()
            while (self._flushed < target or self._kept < noted) and not self._broken():
                self._changed.wait()
            self._raise_if_broken()

    def flushed(self) -> int:
        """How many rows are durable: the first so many that were appended."""
        with self._changed:
            return self._flushed

    def close(self) -> None:
        """Flush and stop; safe to call twice.

        Raises:
            StoreError: if the store failed for good.
        """
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._thread.join()
        self._raise_if_broken()

    def _check_schema(self, schema: pa.Schema) -> None:
        if self._schema is None:
            self._schema = schema
        elif not schema.equals(self._schema):
            message = f"journal records changed their columns: {schema} after {self._schema}"
            raise ValueError(message)

    def _broken(self) -> bool:
        return self._error is not None

    def _raise_if_broken(self) -> None:
        if isinstance(self._error, StoreError):
            raise StoreError(str(self._error)) from self._error
        if self._error is not None:
            message = f"the journal's background thread failed: {self._error!r}"
            raise StoreError(message) from self._error

    # The background thread from here on.

    def _run(self) -> None:
        try:
            while (tables := self._next_tables()) is not None:
                started = self._clock()
                if tables:
                    # How often finished rows are flushed is for their own cost to decide.
                    self._write(tables)
                    self._pace(started)
                    self._acknowledge(sum(table.num_rows for table in tables))
                    self._keep_partial()
                else:
                    self._keep_partial()
                    self._pace(started)
                self._merger.step(hurry=self._someone_waits())
        except Exception as error:  # noqa: BLE001 - it is raised again in the caller's thread
            with self._changed:
                self._error = error
                self._changed.notify_all()

    def _next_tables(self) -> list[pa.Table] | None:
        """Wait for work; what to write now, or None when closed and done."""
        with self._changed:
            while not self._due():
                if self._closing and not self._buffer:
                    return None
                pending = self._buffer or self._partial is not None
                self._changed.wait(self._next_flush - self._clock() if pending else None)
            return self._take()

    def _take(self) -> list[pa.Table]:
        """The oldest tables, as many as make a shard that readers can hold in memory."""
        size = count = 0
        for table in self._buffer:
            size += table.nbytes
            if count and size > _FLUSH_BYTES:
                break
            count += 1
        tables, self._buffer = self._buffer[:count], self._buffer[count:]
        return tables

    def _someone_waits(self) -> bool:
        with self._changed:
            return self._closing or self._wanted > self._flushed

    def _due(self) -> bool:
        if not self._buffer and self._partial is None:
            return False
        return (
            self._closing
            or self._wanted > self._flushed
            or self._wanted_kept > self._kept
            or self._buffered_bytes > _FLUSH_BYTES
            or self._clock() >= self._next_flush
        )

    def _write(self, tables: list[pa.Table]) -> None:
        key = self._put_new(shard.encode(self._prefix, tables))
        self._merger.add(key, sum(table.nbytes for table in tables))

    def _keep_partial(self) -> None:
        with self._changed:
            table, self._partial = self._partial, None
            noted = self._noted
        if table is None:
            return
        try:
            self._partials.write(table)
        except StoreError as error:
            logger.warning("journal: rows in mid-generation are not kept: %s", error)
        with self._changed:
            self._kept = noted
            self._changed.notify_all()

    def _put_new(self, data: memoryview) -> str:
        """Write a shard under a name that nobody else has; returns its key."""
        while True:
            self._sequence += 1
            name = shard.shard_name(self._attempt, self._worker, self._sequence, data)
            key = f"{self._prefix}/{name}"
            reach("journal.before_put")
            if self._retried(functools.partial(self._put_once, key, data)):
                reach("journal.after_put")
                return key

    def _put_once(self, key: str, data: memoryview) -> bool:
        try:
            self._store.put(key, data, create=True)
        except FileExistsError:
            # Ours, if an earlier try's answer was lost; otherwise a namesake's: take the next.
            return self._store.get(key) == data
        return True

    def _retried(self, call: Callable[[], T]) -> T:
        for wait in self._retry_waits:
            try:
                return call()
            except StoreError as error:
                if not error.retryable:
                    raise
                logger.warning("journal: %s; trying again in %g s", error, wait)
                time.sleep(wait)
        return call()

    def _pace(self, started: float) -> None:
        ended = self._clock()
        cost = ended - started
        # Half the old, half the new: one slow write does not slow the next ten minutes down.
        self._cost = cost if self._cost == 0 else (self._cost + cost) / 2
        interval = self._fixed_interval
        self._next_flush = ended + (flush_interval(self._cost) if interval is None else interval)

    def _acknowledge(self, rows: int) -> None:
        with self._changed:
            self._flushed += rows
            flushed = self._flushed
            self._buffered_bytes = sum(table.nbytes for table in self._buffer)
            self._changed.notify_all()
        if self._on_flushed is not None:
            self._on_flushed(flushed)
