"""What the derivation of a source leaves for the next one, so that it need not compute it again.

Only ever a saving: notes that are missing, damaged or cannot be kept cost time and nothing else.
What they say, and whether it still holds, is the deriving function's business.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from overnight.errors import StoreError

if TYPE_CHECKING:
    from collections.abc import Iterator

    import polars as pl

    from overnight.store import Store

__all__ = ["Landed", "Notes"]

log = logging.getLogger(__name__)

_DIGEST_BYTES = 32


class Notes:
    """Named notes of one derived source, in the store."""

    def __init__(self, store: Store, source: str) -> None:
        """Nothing is read or written yet."""
        self._store = store
        self._prefix = f"derived/{source}"

    def read(self, name: str) -> bytes | None:
        """What was noted last under a name, whole; None if there is nothing to rely on."""
        key = f"{self._prefix}/{name}"
        try:
            data = self._store.get(key)
        except FileNotFoundError:
            return None
        except StoreError as error:
            log.warning("%s: cannot be read, so what it would save is done again: %s", key, error)
            return None
        noted, body = data[:_DIGEST_BYTES], data[_DIGEST_BYTES:]
        if noted != _digest(body):
            log.warning("%s: is damaged, so what it would save is done again", key)
            return None
        return body

    def write(self, name: str, body: bytes) -> None:
        """Put this in the place of what was noted under a name; atomic."""
        key = f"{self._prefix}/{name}"
        try:
            self._store.put(key, _digest(body) + body)
        except StoreError as error:
            log.warning("%s: cannot be kept, so the next run will do it again: %s", key, error)


@dataclass(frozen=True, slots=True)
class Landed(Mapping[str, "pl.LazyFrame"]):
    """The landed rows to derive from: a scan of each source's, by the source's name.

    Attributes:
        frames: the scans.
        notes: what the last derivation of the same source left, and where to leave more.
    """

    frames: Mapping[str, pl.LazyFrame]
    notes: Notes

    def __getitem__(self, source: str) -> pl.LazyFrame:
        """The rows of a source."""
        return self.frames[source]

    def __iter__(self) -> Iterator[str]:
        """The sources' names."""
        return iter(self.frames)

    def __len__(self) -> int:
        """How many sources there are."""
        return len(self.frames)


def _digest(body: bytes) -> bytes:
    return hashlib.blake2b(body, digest_size=_DIGEST_BYTES).digest()
