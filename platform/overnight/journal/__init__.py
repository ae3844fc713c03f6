"""The durable, row-granular record of what has been inferred (promises 4 and 5).

A journal belongs to (job, fingerprint, partition) and lives in the store under
`journal/<job>/<fingerprint>/<partition>/` as shards: immutable files that are written
atomically, carry their own checksum, and are named by who wrote them and by their content.
To resume is to list the shards, read the keys, and subtract.

`shard` is the file format, `writer` appends, `reader` reads, `gc` forgets.
"""

from __future__ import annotations

from overnight.journal.again import void
from overnight.journal.gc import collect
from overnight.journal.reader import Journal
from overnight.journal.writer import JournalWriter

__all__ = ["Journal", "JournalWriter", "collect", "void"]
