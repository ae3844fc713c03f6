"""What the engine hands back and how far it is: journalled, counted, and tickets settled."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import pyarrow as pa

from overnight.engines.base import FAILURE, Resumable
from overnight.workers.progress import Tally

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Future

    from overnight.engines.base import Engine
    from overnight.journal import JournalWriter
    from overnight.workers.drain import Drain
    from overnight.workers.window import Held, Window

log = logging.getLogger(__name__)

_TALLIES_KEPT = 64
# Looking at what rows have generated takes the engine's thread; it may have 1% of its time.
_LOOKS = 100
_SHORTEST_LOOK_S = 0.1


class Records:
    """Between an engine's window and the journals of its splits.

    Args:
        window: the rows.
        resumes: whether rows can go on elsewhere from where they are.
        clock: monotonic seconds.

    Attributes:
        settling: splits whose rows are decided, and not all durable yet.
        tallies: what was finished, by attempt.
        last_kept: when results or states were last journalled, monotonic seconds.
    """

    def __init__(self, window: Window, *, resumes: bool, clock: Callable[[], float]) -> None:
        self._window = window
        self._resumes = resumes
        self._clock = clock
        self._states: pa.Table | None = None
        self._next_look = clock()
        self.last_kept = clock()
        self.settling: list[Held] = []
        self.tallies: dict[int, Tally] = {}

    def resumable(self, engine: Engine) -> Resumable | None:
        """The engine, if its rows can go on elsewhere."""
        return engine if self._resumes and isinstance(engine, Resumable) else None

    def look(self, engine: Engine, drain: Drain | None) -> None:
        """Keep what rows have generated so far, as often as that costs nothing to speak of."""
        began, there = self._clock(), self.resumable(engine)
        if began < self._next_look or there is None:
            return
        self.keep(there.partials(), drain)
        self._next_look = began + max(_LOOKS * (self._clock() - began), _SHORTEST_LOOK_S)

    def keep(self, states: pa.Table, drain: Drain | None, *, for_good: bool = False) -> None:
        """Note how far rows are; `for_good` if they will not be noted again."""
        self._states = states
        self.last_kept = self._clock()
        noted: dict[int, tuple[JournalWriter, list[pa.Table]]] = {}
        for held, records in self._window.partial_records(states):
            mine = noted.setdefault(id(held.writer), (held.writer, []))[1]
            if drain is not None and for_good:
                drain.keep(held.writer, records)
            else:
                mine.append(records)
        for writer, tables in noted.values():
            kept = drain.kept(writer) if drain is not None else []
            writer.note(pa.concat_tables([*kept, *tables]))

    def go_back(self) -> None:
        """Rows go round again from where they were last known to be."""
        if self._states is not None:
            self._window.begun(self._states)

    def journal(self, results: pa.Table) -> None:
        """Append what was decided to the journals."""
        self.last_kept = self._clock()
        for held, mine, records in self._window.finish(results):
            try:
                held.sequence = held.writer.append(records)
            except Exception as error:  # noqa: BLE001 - the ticket carries it
                fail([held, *self._window.drop(_writes_to(held.writer))], error)
                continue
            self.tally(held).count(mine)
            if not held.left:
                self.settling.append(held)

    def tally(self, held: Held) -> Tally:
        """Of the split's attempt."""
        attempt = held.provenance["attempt"]
        if attempt not in self.tallies:
            while len(self.tallies) >= _TALLIES_KEPT:
                self.tallies.pop(next(iter(self.tallies)))
            self.tallies[attempt] = Tally()
        return self.tallies[attempt]

    def settle(self) -> None:
        """Complete the tickets whose rows are durable; with nothing else to do, wait for it."""
        idle = not len(self._window)
        for held in list(self.settling):
            try:
                if idle:
                    held.writer.flush()
                if held.writer.flushed() < held.sequence:
                    continue
                held.ticket.set_result(len(held.done))
            except Exception as error:  # noqa: BLE001 - the ticket carries it
                refuse(held.ticket, error)
            self.settling.remove(held)


def has_finished(results: pa.Table) -> bool:
    """Whether a row was inferred, and did not only fail."""
    return bool(results[FAILURE].null_count)


def fail(helds: list[Held], error: BaseException) -> None:
    """Refuse the tickets of splits."""
    for held in helds:
        refuse(held.ticket, error)


def refuse(ticket: Future[int], error: BaseException) -> None:
    """Let a ticket fail, unless it is done."""
    if not ticket.done():
        ticket.set_exception(error)


def _writes_to(writer: JournalWriter) -> Callable[[Held], bool]:
    return lambda held: held.writer is writer
