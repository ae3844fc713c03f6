"""How fast an engine generates, and how far its rows still have to go: what a drain goes by."""

from __future__ import annotations

import bisect
from collections import deque

_REMEMBERED = 512
_ENOUGH = 8
_SHARE = 0.9
_SMOOTHING = 0.1


class Pace:
    """Measured while rows are computed together."""

    def __init__(self) -> None:
        self.seconds_per_token = 0.0
        self._last: float | None = None
        self._lengths: deque[int] = deque(maxlen=_REMEMBERED)

    def stepped(self, now: float, *, busy: bool, tokens: float = 1.0) -> None:
        """A step has ended.

        Args:
            now: when, in monotonic seconds.
            busy: whether rows still run after it.
            tokens: how many each row generated in it, on average.
        """
        if self._last is not None:
            took = (now - self._last) / max(1.0, tokens)
            known = self.seconds_per_token
            self.seconds_per_token += (took - known) * (_SMOOTHING if known else 1.0)
        self._last = now if busy else None

    def finished(self, tokens: int) -> None:
        """A row has ended after so many tokens."""
        self._lengths.append(tokens)

    def tokens_left(self, generated: int, most: int) -> int:
        """Tokens that a row probably still takes: nine in ten rows that got so far took fewer.

        Args:
            generated: tokens it has.
            most: tokens it may have.
        """
        longer = sorted(self._lengths)
        longer = longer[bisect.bisect_right(longer, generated) :]
        if len(longer) >= _ENOUGH:
            most = min(most, longer[int(_SHARE * (len(longer) - 1))])
        return max(0, most - generated)
