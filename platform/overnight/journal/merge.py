"""Merging one writer's small shards into bigger ones, without a moment when a record is gone.

The merged shard is durable before the small ones are deleted; readers that see both see the
same records twice, and count them once. Merging only saves readers time, so whatever goes
wrong here is logged, and the small shards stay.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from overnight.crashpoints import reach, register
from overnight.errors import StoreError
from overnight.journal import shard

if TYPE_CHECKING:
    from collections.abc import Callable

    from overnight.store import Store

logger = logging.getLogger(__name__)

FAN_IN = 16
# In bytes of Arrow data, which is what a merge, and later each reader of its shard, needs in
# memory; a million records of a kilobyte are 60 shards.
_MERGED_BYTES = 16 << 20
_BIG_ENOUGH = _MERGED_BYTES // FAN_IN
# While somebody waits for a flush, merging is put off, but not for ever.
_OVERDUE = 4 * FAN_IN

register("journal.before_merge_delete", "journal.after_merge_delete")


class Merger:
    """Keeps one writer's shards in levels and merges a level when it is full. One thread."""

    def __init__(self, store: Store, prefix: str, put_new: Callable[[memoryview], str]) -> None:
        """`put_new` writes a shard's bytes durably under a new key and returns the key."""
        self._store = store
        self._prefix = prefix
        self._put_new = put_new
        self._levels: list[list[str]] = []

    def add(self, key: str, size: int, level: int = 0) -> None:
        """Take note of a durable shard; `size` in bytes of Arrow data."""
        if size >= _BIG_ENOUGH:
            return
        while len(self._levels) <= level:
            self._levels.append([])
        self._levels[level].append(key)

    def step(self, *, hurry: bool = False) -> None:
        """Merge one full level, if there is one; in a hurry only if that is overdue."""
        full = _OVERDUE if hurry else FAN_IN
        for level, keys in enumerate(self._levels):
            if len(keys) >= full:
                batch, self._levels[level] = keys[:FAN_IN], keys[FAN_IN:]
                try:
                    self._merge(batch, level)
                except (StoreError, shard.ShardError, FileNotFoundError) as error:
                    logger.warning("journal: %d shards stay unmerged: %s", len(batch), error)
                return

    def _merge(self, keys: list[str], level: int) -> None:
        tables = [shard.decode(self._prefix, self._store.get(key)) for key in keys]
        merged = self._put_new(shard.encode(self._prefix, tables))
        reach("journal.before_merge_delete")
        self._store.delete(keys)
        reach("journal.after_merge_delete")
        self.add(merged, sum(table.nbytes for table in tables), level + 1)
