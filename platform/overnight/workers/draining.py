"""The end of a worker whose machine goes: finish what fits, keep the rest, hand it back."""

from __future__ import annotations

import logging
import threading
from concurrent.futures import Future
from typing import TYPE_CHECKING

from overnight.crashpoints import reach, register
from overnight.errors import DrainingError, EngineDied
from overnight.workers.drain import Drain
from overnight.workers.records import refuse

if TYPE_CHECKING:
    from collections.abc import Callable

    import pyarrow as pa

    from overnight.engines.base import Engine
    from overnight.journal import JournalWriter
    from overnight.workers.keeper import Keeper
    from overnight.workers.records import Records
    from overnight.workers.window import Window

log = logging.getLogger(__name__)

_TAKING, _TAKEN = "drain.before_take_out", "drain.after_take_out"
_FLUSHING, _FLUSHED = "drain.before_flush", "drain.after_flush"
_REFUSING, _REFUSED = "drain.before_refuse", "drain.after_refuse"
_ENDING, _ENDED = "drain.before_end", "drain.after_end"
register(_TAKING, _TAKEN, _FLUSHING, _FLUSHED, _REFUSING, _REFUSED, _ENDING, _ENDED)


class Draining:
    """Drains a worker's engine, once.

    Args:
        window: the rows.
        keeper: of the engine.
        records: of what it finishes.
        journal: what becomes of results.
        clock: monotonic seconds.

    Attributes:
        drain: the time that is left; None: the machine stays.
        ended: whether all that is kept is durable.
    """

    def __init__(
        self,
        window: Window,
        keeper: Keeper,
        records: Records,
        *,
        journal: Callable[[pa.Table], None],
        clock: Callable[[], float],
    ) -> None:
        self._window = window
        self._keeper = keeper
        self._records = records
        self._journal = journal
        self._clock = clock
        self.drain: Drain | None = None
        self.ended = threading.Event()

    def begin(self, until: float) -> None:
        """The machine goes at `until`, monotonic seconds; a second call may bring that forward."""
        now = self._clock()
        if self.drain is not None:
            self.drain.bring_forward(until, now)
            return
        self.drain = drain = Drain(until, now)
        for held in (*self._window.held, *self._records.settling):
            drain.concerns(held.writer)
        log.warning(
            "this machine goes in %.1f s: %d rows in flight, %d waiting",
            until - now, self._keeper.in_flight, self._window.waiting,
        )  # fmt: skip
        finishing: set[int] = set()
        if self._keeper.engine is not None:
            try:
                finishing = self._take_out_late(self._keeper.engine, drain)
            except EngineDied as error:
                self._keeper.bury(error)
        self._hand_back(drain, finishing)

    def go_on(self) -> None:
        """Take out what is left when time is up; once nothing is, the engine is not needed."""
        drain, engine = self.drain, self._keeper.engine
        if drain is None or self.ended.is_set():
            return
        if engine is not None and len(self._window) and drain.left(self._clock()) <= 0:
            try:
                self._take_out_all(engine, drain)
            except EngineDied as error:
                self._keeper.bury(error)
            self._hand_back(drain, set())
        elif not len(self._window) or engine is None:
            self._hand_back(drain, set())

    def _take_out_late(self, engine: Engine, drain: Drain) -> set[int]:
        """Keep and forget the rows that would not be finished in time; those that stay."""
        asked = set(self._window.undecided())
        there = self._records.resumable(engine)
        if there is None:
            return asked
        left = drain.left(self._clock())
        late = [row for row, seconds in there.time_left().items() if seconds > left]
        reach(_TAKING)
        self._records.keep(there.suspend(late), drain, for_good=True)
        reach(_TAKEN)
        return asked & set(there.time_left())

    def _take_out_all(self, engine: Engine, drain: Drain) -> None:
        there = self._records.resumable(engine)
        if there is not None:
            reach(_TAKING)
            self._records.keep(there.suspend(self._window.undecided()), drain, for_good=True)
            # Some may have been finished all the same.
            self._journal(engine.step())
            reach(_TAKEN)

    def _hand_back(self, drain: Drain, finishing: set[int]) -> None:
        handed = []
        for held, hashes in self._window.hand_back(finishing):
            handed.append((held.ticket, hashes))
            # Whoever is told now waits for the end of the drain, not for this ticket.
            held.ticket = Future()
        for writer in drain.writers:
            reach(_FLUSHING)
            _flush(writer)
            reach(_FLUSHED)
        for ticket, hashes in handed:
            reach(_REFUSING)
            refuse(ticket, DrainingError("this machine will be taken away", tuple(hashes)))
            reach(_REFUSED)
        self._records.settle()
        if not len(self._window):
            self._end(drain)

    def _end(self, drain: Drain) -> None:
        reach(_ENDING)
        now = self._clock()
        log.warning(
            "drained in %.1f s, %.1f s before the machine goes", now - drain.began, drain.spare(now)
        )
        # Nothing can be lost any more; the engine takes its time to end, or ends with its machine.
        self.ended.set()
        self._keeper.close()
        reach(_ENDED)


def _flush(writer: JournalWriter) -> None:
    try:
        writer.flush()
    except Exception as error:  # noqa: BLE001 - what is not kept is inferred again
        log.warning("what was finished last is not kept: %s", error)
