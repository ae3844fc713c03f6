"""Which of these rows kills the engine? The search only; running groups is the loop's work."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(slots=True)
class _Group:
    rows: list[int]
    sibling: _Group | None = None
    guilty: bool = False


class Bisection:
    """Group testing by halving, breadth first.

    Call `next`, run that group alone, then say `passed` or `died`. With one killer among n
    rows at most ceil(log2 n) groups die; k killers cost at most k times as many. A group's
    other half comes before its own halves, so that with one killer no two groups in a row
    die: an engine that dies again and again is soon told from a row that kills it.

    An engine may also have been killed from outside. So the first two halves both run whole; only
    once a group has died is it concluded from one half that lives that the other one kills.
    """

    def __init__(self, suspects: Sequence[int]) -> None:
        """Suspects in the order in which they were admitted, at least one."""
        self._queue: deque[_Group] = deque()
        self._running: _Group | None = None
        self._killed = False
        if len(suspects) == 1:
            self._queue.append(_Group(list(suspects)))
        else:
            self._split(list(suspects))

    @property
    def running(self) -> list[int]:
        """The group that is to run alone now; empty when none is."""
        return self._running.rows if self._running else []

    def next(self) -> list[int] | None:
        """The next group to run alone, or None when every suspect is decided."""
        while self._queue:
            group = self._queue.popleft()
            if group.guilty and len(group.rows) > 1:
                # The whole died and the other half lives: running this half would only kill.
                self._split(group.rows)
                continue
            self._running = group
            return group.rows
        return None

    def passed(self) -> None:
        """Every row of the running group was handed back."""
        group, self._running = self._running, None
        if self._killed and group is not None and group.sibling is not None:
            group.sibling.guilty = True

    def died(self) -> int | None:
        """The engine died on the running group; the killer, if that group is a single row."""
        group, self._running = self._running, None
        if group is None:
            return None
        self._killed = True
        if len(group.rows) == 1:
            return group.rows[0]
        self._split(group.rows)
        return None

    def _split(self, rows: list[int]) -> None:
        middle = len(rows) // 2
        first, second = _Group(rows[:middle]), _Group(rows[middle:])
        first.sibling = second
        self._queue.extend((first, second))
