"""The time that is left on a machine that will be taken away, and what is kept of its rows."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pyarrow as pa

    from overnight.journal import JournalWriter

# The last rows must be taken out, written to a store that may be slow, and handed back.
_MARGIN_SHARE = 0.1
_LEAST_MARGIN_S = 1.0
_MOST_MARGIN_S = 10.0


class Drain:
    """One drain of one worker.

    Args:
        until: when the machine goes, monotonic seconds.
        now: likewise.
    """

    def __init__(self, until: float, now: float) -> None:
        self.began = now
        self._writers: dict[int, JournalWriter] = {}
        self._kept: dict[int, list[pa.Table]] = {}
        self._set(until, now)

    def _set(self, until: float, now: float) -> None:
        margin = min(max(_MARGIN_SHARE * (until - now), _LEAST_MARGIN_S), _MOST_MARGIN_S)
        self._until, self._cut = until, until - margin

    def bring_forward(self, until: float, now: float) -> None:
        """The machine goes earlier than was said."""
        if until < self._until:
            self._set(until, now)

    def left(self, now: float) -> float:
        """Seconds in which rows can still be finished."""
        return self._cut - now

    def spare(self, now: float) -> float:
        """Seconds until the machine goes."""
        return self._until - now

    @property
    def writers(self) -> list[JournalWriter]:
        """Those with rows that the drain is about."""
        return list(self._writers.values())

    def concerns(self, writer: JournalWriter) -> None:
        """A writer has such rows."""
        self._writers[id(writer)] = writer

    def keep(self, writer: JournalWriter, records: pa.Table) -> None:
        """Partial records that stay on record, whatever is noted later."""
        self._kept.setdefault(id(writer), []).append(records)

    def kept(self, writer: JournalWriter) -> list[pa.Table]:
        """Those of a writer."""
        return self._kept.get(id(writer), [])
