"""What rows in mid-generation have so far: one file for each writer, always its newest state.

A partial record only ever saves work. It counts for nothing once its row is in the journal, and
a file that is torn, damaged or foreign is skipped: its rows begin again.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import pyarrow as pa

from overnight.crashpoints import reach, register
from overnight.errors import StoreError
from overnight.journal import shard

if TYPE_CHECKING:
    from overnight.store import Store

logger = logging.getLogger(__name__)

register("partial.before_put", "partial.after_put", "partial.before_forget", "partial.after_forget")

_ROOT = "partial"
_COLUMNS = ["input_hash", "progress", "partial"]


def prefix_of(journal: str) -> str:
    """Where the partial records of the journal at some prefix are."""
    return f"{_ROOT}/{journal.removeprefix('journal/')}"


class PartialFile:
    """One writer's partial records; a write replaces those before. One thread."""

    def __init__(self, store: Store, journal: str, *, attempt: int, worker: str) -> None:
        """Nothing is written yet; `journal` is the prefix of the journal that it belongs to."""
        self._store = store
        self._prefix = prefix_of(journal)
        self._key = f"{self._prefix}/{attempt:06d}-{worker}.arrow"

    def write(self, table: pa.Table) -> None:
        """Make the newest state durable.

        Args:
            table: The columns of a record, then `progress` and `partial`.

        Raises:
            StoreError: if the store fails.
        """
        reach("partial.before_put")
        data = shard.encode(self._prefix, [shard.conform(table)])
        self._store.put(self._key, data, create=False)
        reach("partial.after_put")


def read(store: Store, journal: str) -> pa.Table | None:
    """The furthest state of each row that is on record: `input_hash`, `partial`.

    Args:
        store: Where the journal is.
        journal: Its prefix.

    Returns:
        None if there is nothing that can be read: then every row begins anew.
    """
    prefix = prefix_of(journal)
    tables: list[pa.Table] = []
    try:
        for entry in store.list(prefix):
            try:
                tables.append(shard.decode(prefix, store.get(entry.key), _COLUMNS))
            except FileNotFoundError:
                continue
            except (shard.ShardError, KeyError) as error:
                logger.warning("journal: skipping %s: %s", entry.key, error)
    except StoreError as error:
        logger.warning("journal: partial rows cannot be read and begin anew: %s", error)
    if not tables:
        return None
    alike = [table for table in tables if table.schema.equals(tables[-1].schema)]
    furthest = pa.concat_tables(alike).combine_chunks().sort_by([("progress", "descending")])
    numbered = furthest.append_column("_at", pa.array(range(furthest.num_rows)))
    first = numbered.group_by("input_hash").aggregate([("_at", "min")])["_at_min"]
    return furthest.take(first).select(["input_hash", "partial"])


def clear(store: Store, journal: str) -> None:
    """Forget all of a journal's partial records: its partition is published.

    Raises:
        StoreError: if the store fails.
    """
    reach("partial.before_forget")
    store.delete([entry.key for entry in store.list(prefix_of(journal))])
    reach("partial.after_forget")
