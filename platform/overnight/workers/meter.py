"""What a worker's time goes into, for each attempt that holds a lease on it."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

KINDS = ("useful", "recomputed", "cold_start", "idle", "draining")


class Meter:
    """Books every second once, on what it went into, shared out among attempts. Thread-safe.

    Args:
        clock: monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._last = clock()
        self._open: set[int] = set()
        self._accounts: dict[int, dict[str, float]] = {}

    def open(self, attempt: int) -> None:
        """An attempt has a lease from now on."""
        with self._lock:
            self._book("idle", dict.fromkeys(self._open, 1.0))
            self._open.add(attempt)
            self._account(attempt)

    def close(self, attempt: int) -> None:
        """It has none any more."""
        with self._lock:
            self._book("idle", dict.fromkeys(self._open, 1.0))
            self._open.discard(attempt)

    def book(self, kind: str, weights: Mapping[int, float] | None = None) -> None:
        """The time since the last booking went into `kind`.

        Args:
            kind: one of `KINDS`.
            weights: how it is shared out; None: evenly, among the attempts with a lease.
        """
        with self._lock:
            self._book(kind, dict.fromkeys(self._open, 1.0) if weights is None else weights)

    def lose(self, seconds: float, weights: Mapping[int, float]) -> None:
        """The last so many useful seconds were in vain: their work has to be done again."""
        with self._lock:
            for attempt, share in _shares(weights).items():
                account = self._account(attempt)
                lost = min(seconds * share, account["useful"])
                account["useful"] -= lost
                account["recomputed"] += lost

    def seconds(self, attempt: int) -> dict[str, float]:
        """By kind, what an attempt has spent up to the last booking."""
        with self._lock:
            return dict(self._account(attempt))

    def forget(self, attempt: int) -> None:
        """An attempt's account is not needed any more."""
        with self._lock:
            self._accounts.pop(attempt, None)

    def _account(self, attempt: int) -> dict[str, float]:
        return self._accounts.setdefault(attempt, dict.fromkeys(KINDS, 0.0))

    def _book(self, kind: str, weights: Mapping[int, float]) -> None:
        now = self._clock()
        spent, self._last = now - self._last, now
        for attempt, share in _shares(weights).items():
            self._account(attempt)[kind] += spent * share


def _shares(weights: Mapping[int, float]) -> dict[int, float]:
    total = sum(weights.values())
    return {attempt: weight / total for attempt, weight in weights.items()} if total else {}
