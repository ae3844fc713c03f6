"""Forgetting what a journal holds once its rows have been published for long enough."""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING

from overnight.crashpoints import reach, register
from overnight.journal.shard import is_shard_name

if TYPE_CHECKING:
    from collections.abc import Iterable

    from overnight.store import Store

_A_DAY = dt.timedelta(days=1)
register("journal.before_collect", "journal.after_collect")


def collect(
    store: Store,
    *,
    published: Iterable[tuple[str, str, dt.datetime]],
    retention: dt.timedelta,
    now: dt.datetime,
) -> int:
    """Delete the shards that a publication made superfluous, of every fingerprint.

    A shard goes when its partition was published after it was written, and at least
    `retention` ago. Partitions that are not named here are not touched.

    Args:
        store: Where the journals are.
        published: (job, partition, when it was published last; aware) triples.
        retention: How long to keep shards after the publication.
        now: The time, aware.

    Returns:
        How many shards were deleted.

    Raises:
        StoreError: if the store fails; what was deleted stays deleted.
    """
    # A writer that is still at work finishes a file within minutes, not within the retention.
    for root in ("journal", "partial"):
        store.sweep(root, older_than=now - max(retention, _A_DAY))
    expired: dict[str, dict[str, dt.datetime]] = {}
    for job, partition, when in published:
        if when + retention < now:
            expired.setdefault(job, {})[partition] = when
    deleted = 0
    for job, partitions in expired.items():
        doomed = []
        for entry in store.list(f"journal/{job}"):
            partition, name = entry.key.split("/")[-2:]
            published_at = partitions.get(partition)
            if published_at and entry.modified < published_at and is_shard_name(name):
                doomed.append(entry.key)
        # A worker that did not know of the publication may have noted something after it.
        for entry in store.list(f"partial/{job}"):
            published_at = partitions.get(entry.key.split("/")[-2])
            if published_at and entry.modified < published_at + retention:
                doomed.append(entry.key)
        reach("journal.before_collect")
        store.delete(doomed)
        reach("journal.after_collect")
        deleted += len(doomed)
    return deleted
