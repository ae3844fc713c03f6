"""Progress of a running partition as observations of its asset, for those who watch the UI.

Nothing depends on them. They are written by a thread of their own, so that a slow or broken
event log keeps nobody from working.
"""

# Dagster evaluates the annotations of what it calls, so they are no strings here.
import contextlib
import queue
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

import dagster as dg

from overnight.progress import eta_s, line, speed
from overnight.workers.progress import PoolProgress

EVERY_S = 10.0
_LAST_S = 5.0  # within which the event log takes what is left when the work is done


class Observer:
    """Tells Dagster how far a partition is; use it in `with`, and call it with each progress.

    Args:
        log: takes an observation, such as `context.log_event`.
        asset: the asset's name.
        partition: its partition; None for an asset without any.
        every_s: seconds between two observations; `EVERY_S` by default.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        log: Callable[[dg.AssetObservation], None],
        *,
        asset: str,
        partition: str | None,
        every_s: float | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._log = log
        self._asset = asset
        self._partition = partition
        self._every_s = EVERY_S if every_s is None else every_s
        self._clock = clock
        self._told_at = clock()
        self._before: PoolProgress | None = None
        self._next: queue.Queue[dg.AssetObservation | None] = queue.Queue(maxsize=1)
        self._thread = threading.Thread(target=self._write, name="overnight-observer", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with contextlib.suppress(queue.Full):
            self._next.put(None, timeout=_LAST_S)
        self._thread.join(_LAST_S)

    def __call__(self, progress: PoolProgress) -> None:
        """Have it observed, unless that was done a moment ago; returns at once."""
        if self._clock() - self._told_at < self._every_s:
            return
        self._told_at = self._clock()
        self._put(
            dg.AssetObservation(
                asset_key=self._asset,
                partition=self._partition,
                description=line(progress, self._before),
                metadata=state(progress, self._before),
            )
        )
        self._before = progress

    def _put(self, observation: dg.AssetObservation) -> None:
        # What is not written yet when the next one comes is out of date.
        with contextlib.suppress(queue.Empty):
            self._next.get_nowait()
        self._next.put_nowait(observation)

    def _write(self) -> None:
        while (observation := self._next.get()) is not None:
            try:
                self._log(observation)
            except Exception:  # noqa: BLE001, S112 - whoever watches misses one, the work goes on
                continue


def state(progress: PoolProgress, before: PoolProgress | None) -> dict[str, Any]:
    """What an observation shows; keys are those of a materialization where it has them, too.

    Args:
        progress: now.
        before: at the observation before; speeds are those since then.
    """
    rows_per_s, tokens_per_s = speed(progress, before)
    shown: dict[str, Any] = {
        "rows": progress.rows,
        "total": progress.total,
        "rows_per_s": round(rows_per_s, 2),
        "tokens_per_s": round(tokens_per_s, 1),
        "seconds": round(progress.seconds, 1),
        "workers": progress.workers,
        "interruptions": progress.interrupted,
        "batch": progress.batch,
        "queue": progress.queue,
        **{name: round(value, 4) for name, value in progress.shares.items()},
    }
    left = eta_s(progress, rows_per_s)
    return shown if left is None else {**shown, "eta_s": round(left, 1)}
