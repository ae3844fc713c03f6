"""Workers that are lost: whether they are, of what, and what becomes of what they held."""

from __future__ import annotations

import datetime as dt
import logging
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from overnight.errors import InterruptedRunError, WorkersLostError
from overnight.workers.machines import MARKET_LABEL, ZONE_LABEL, is_gone, taken_away
from overnight.workers.member import Missing
from overnight.workers.meter import KINDS

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from overnight.workers.actor import Assignment
    from overnight.workers.backlog import Backlog
    from overnight.workers.crew import Crew
    from overnight.workers.member import Member
    from overnight.workers.piece import Piece

log = logging.getLogger(__name__)

FAILED_STARTS_IN_A_ROW = 5
LOST_S = 0.1  # of work that a worker without notice had not flushed: see the journal's interval
LOOK_S = 0.1  # between two looks for a worker that does not answer
SURE_S = 2.0  # by which a worker may be late in giving up a lease that was not renewed


class Losses:
    """Deals with the losses of one attempt.

    Args:
        crew: the workers.
        backlog: where what they held goes back to.
        assignment: what they were hired for.
        lease_timeout_s: after which a worker that nobody asks anything gives up its lease.
        retry_on_interrupt: whether to go on when a machine is taken away.
        note: puts on record what happened to machines.
        clock: monotonic seconds.

    Attributes:
        lost: workers lost so far.
        failed_starts: in a row, of workers that died before they were ready.
    """

    def __init__(
        self,
        crew: Crew,
        backlog: Backlog,
        assignment: Assignment,
        *,
        lease_timeout_s: float,
        retry_on_interrupt: bool,
        note: Callable[[Mapping[str, Any]], None],
        clock: Callable[[], float],
    ) -> None:
        self._crew = crew
        self._backlog = backlog
        self._assignment = assignment
        self._lease_timeout_s = lease_timeout_s
        self._retry_on_interrupt = retry_on_interrupt
        self._note = note
        self._clock = clock
        self.lost = 0
        self.failed_starts = 0

    def miss(self, member: Member, error: Exception) -> None:
        """A worker does not answer: another one is hired while it is found out whether it lives."""
        now = self._clock()
        if member.missing is None:
            log.warning("%s does not answer: %s", member.name, str(error).partition("\n")[0])
            member.missing = Missing(since=now, look_at=now)
            member.placing = member.leasing = member.watching = member.asking = None
            self._crew.hire_missing()
        else:
            member.missing.asked, member.missing.look_at = None, now + LOOK_S

    def look_for_missing(self) -> None:
        """What missing workers hold is only handed on when they cannot work on it any more.

        They are dead, or have given their lease back, or have lost it for want of renewal.
        """
        for member in [m for m in self._crew.members if m.missing is not None]:
            missing, now = member.missing, self._clock()
            if missing is None or now < missing.look_at:
                continue
            missing.look_at = now + LOOK_S
            if member.node is not None and is_gone(member.node):
                self._lose(member, with_machine=True)
            elif now > missing.since + self._lease_timeout_s + SURE_S:
                self._lose(member, with_machine=True, what="is out of reach")
            elif missing.asked is None:
                missing.asked = member.handle.release.remote(self._assignment.attempt)

    def find(self, member: Member) -> None:
        """A missing worker answers: it has dropped what it held, and takes part again."""
        log.warning("%s answers again", member.name)
        pieces = list(member.pieces.values())
        member.missing, member.pieces, member.finishing = None, {}, set()
        if member.going:
            self._crew.forget(member)
        else:
            member.info = None
            member.leasing = member.handle.lease.remote(self._assignment)
            if member.node is None:
                member.placing = member.handle.placed.remote()
        self._backlog.requeue(pieces)
        self._crew.hire_missing()

    def died(self, member: Member, error: BaseException) -> None:
        """A worker is dead: of itself, or with its machine."""
        self._lose(member, with_machine=taken_away(member.node, error))

    def interrupted_by(self, member: Member, what: str) -> None:
        """Put on record that a machine is taken away.

        Raises:
            InterruptedRunError: if the job does not go on then.
        """
        if member.node is None:
            log.warning("%s %s before it had begun", member.name, what)
            return
        self._crew.interrupted += 1
        member.interrupted = True
        log.warning("%s %s", member.name, what)
        self._note(
            {
                "decision": "interruption",
                "at": dt.datetime.now(tz=dt.UTC).isoformat(timespec="seconds"),
                "machine": member.info.machine if member.info else None,
                "market": member.labels.get(MARKET_LABEL),
                "zone": member.labels.get(ZONE_LABEL),
                "reason": f"{member.name} {what}",
                "rows_left": self._backlog.left(self._crew.members),
            }
        )
        if not self._retry_on_interrupt:
            raise InterruptedRunError(
                f"{member.name} {what}, and the job has retry_on_interrupt=False; what was "
                "inferred is kept: run the partition again to go on from there"
            )

    def _lose(
        self, member: Member, *, with_machine: bool, what: str = "is lost with its machine"
    ) -> None:
        """A worker is gone: what it had not journalled goes to the front of the queue."""
        self.lost += 1
        self._crew.forget(member)
        self._book_lost(member)
        pieces = list(member.pieces.values())
        if member.going or with_machine:
            self._backlog.requeue(pieces)
            if not member.going:
                self.interrupted_by(member, what)
                self._crew.count_replacement(member)
        else:
            self._suspect(member, pieces)
        self._crew.hire_missing()

    def _book_lost(self, member: Member) -> None:
        """It worked until now, as far as anybody knows; what it had not flushed is lost."""
        if member.progress is None or member.answered is None:
            return
        until = self._clock() if member.missing is None else member.missing.since
        since = max(0.0, until - member.answered)
        lost = min(since, LOST_S)
        seconds = dict.fromkeys(KINDS, 0.0) | member.progress.seconds
        seconds["useful"] += since - lost
        seconds["recomputed"] += lost
        member.progress = replace(member.progress, seconds=seconds)

    def _suspect(self, member: Member, pieces: list[Piece]) -> None:
        """A worker died on a machine that lives: perhaps of one of its rows."""
        self.failed_starts += member.info is None
        rows = self._backlog.retry(pieces)
        log.warning(
            "%s is lost; %d rows that it had not journalled are handed out again", member.name, rows
        )
        if self.failed_starts >= FAILED_STARTS_IN_A_ROW:
            raise WorkersLostError(
                f"{self.failed_starts} workers in a row died while they started: see the "
                "workers' own logs in Ray's session directory"
            )
