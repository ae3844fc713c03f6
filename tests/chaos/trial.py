"""A partition that lands anew, with all that watches it while something is killed."""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING

from tests.chaos.verdict import Verdict, verdict
from tests.chaos.watch import Flushes, Reader

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

    from tests.chaos.lab import Lab, Landed


class Trial:
    """Watches, in `with`, a partition that is published and has landed anew.

    Attributes:
        killed_at: when something was killed, seconds since the epoch.
    """

    def __init__(self, lab: Lab, day: str, before: Landed, landed: Landed) -> None:
        self.lab, self.day = lab, day
        self.killed_at = time.time()
        self._before, self._landed = before, landed
        self._log = lab.tail()
        self._reader = Reader(lab.warehouse.url(hide_password=False), day)
        self._flushes = Flushes(lab.journal, day)
        self._watching = contextlib.ExitStack()

    def __enter__(self) -> Self:
        self._watching.enter_context(self._reader)
        self._watching.enter_context(self._flushes)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._watching.__exit__(kind, error, trace)

    def verdict(self) -> Verdict:
        """What became of its rows; after the watch."""
        found = verdict(
            expected=self._landed.expected,
            dead=self._landed.dead,
            published=self.lab.published(self.day),
            dead_lettered=self.lab.dead_letters(self.day),
            before=self._before.expected,
            seen=self._reader.seen,
            inferred=self._log.inferred(),
            killed_at=self.killed_at,
            interval_s=self._flushes.longest_gap(),
        )
        print(found, f"{self._reader.polls} polls")  # noqa: T201
        return found
