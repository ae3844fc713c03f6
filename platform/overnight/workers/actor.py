"""What runs on a machine: one warm engine, leased by runs; the pool makes an actor of it.

Several runs may hold a lease at once: their rows share the engine's window. A lease that its
run does not renew is given up, and its rows with it, so that a run that was killed leaves no
work behind; a newer attempt at the same partition takes over from an older one at once.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import socket
import threading
import time
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from overnight.crashpoints import reach, register
from overnight.engines.cores import share_cores
from overnight.engines.gpu import GpuGauges
from overnight.errors import StaleAttemptError, WorkersLostError
from overnight.journal import Journal
from overnight.spot.notice import Notice, NoticeWatcher
from overnight.workers.loop import Progress, WorkerLoop
from overnight.workers.window import Provenance

if TYPE_CHECKING:
    from collections.abc import Callable

    import polars as pl
    import pyarrow as pa

    from overnight.engines.base import EngineSpec
    from overnight.journal import JournalWriter
    from overnight.store import StoreConfig

log = logging.getLogger(__name__)

GIVE_WAY_S = 60.0
# What a drain may take of the time after a notice.
DRAIN_SHARE = 0.2
LEAST_DRAIN_S = 5.0
_LEASING, _LEASED = "worker.before_lease", "worker.after_lease"
_RELEASING, _RELEASED = "worker.before_release", "worker.after_release"
register(_LEASING, _LEASED, _RELEASING, _RELEASED)


@dataclass(frozen=True, slots=True, kw_only=True)
class Assignment:
    """Whose rows a worker infers, and where it journals them."""

    job: str
    partition: str
    attempt: int
    run_id: str
    fingerprint: str
    store: StoreConfig
    again: pl.DataFrame | None = field(default=None, repr=False, compare=False)

    @property
    def journal(self) -> Journal:
        """The journal of this job, fingerprint and partition."""
        return Journal(
            self.store.open(), self.job, self.fingerprint, self.partition, again=self.again
        )


@dataclass(frozen=True, slots=True)
class WorkerInfo:
    """Where a worker runs, and since when its engine has been ready.

    Attributes:
        machine: host name.
        pid: the actor's process.
        engine_seconds: what starting the engine took; 0 if it was warm.
        capacity: rows that keep its engine busy, see `Engine.capacity`.
        watches: what is asked for notices of this machine's end; None: there is nothing to ask.
    """

    machine: str
    pid: int
    engine_seconds: float
    capacity: int
    watches: str | None = None


@dataclass(slots=True)
class _Lease:
    assignment: Assignment
    writer: JournalWriter
    renewed: float


class Worker:
    """One engine and the leases on it.

    Args:
        spec: the engine to start.
        idle_timeout_s: seconds without a lease after which the worker ends itself.
        lease_timeout_s: seconds without a sign of life after which a lease is given up.
        leave: what ends the process; called from the watching thread.
        tell: what tells the cluster that this machine goes: a reason, and when (Unix seconds).
        place: what tells the cluster's id of this machine.
        sharing: how many engines share the cores of this machine, this one among them.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        spec: EngineSpec,
        *,
        idle_timeout_s: float,
        lease_timeout_s: float,
        leave: Callable[[], None],
        tell: Callable[[str, float], None] = lambda *_: None,
        place: Callable[[], str] = socket.gethostname,
        sharing: int = 1,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._clock = clock
        self._tell = tell
        self._place = place
        self._idle_timeout_s = idle_timeout_s
        self._lease_timeout_s = lease_timeout_s
        self._leave = leave
        self._lock = threading.Lock()
        self._leases: dict[int, _Lease] = {}
        self._idle_since = clock()
        self._closing = False
        self._machine = socket.gethostname()
        if sharing > 1:
            share_cores(sharing)
        self._loop = WorkerLoop(spec)
        self._gpus = GpuGauges()
        self._going: str | None = None
        self._noticed = threading.Event()
        self._drain_now = threading.Event()
        self._advised = False
        self._notices = NoticeWatcher(on_notice=self.notice)
        self._notices.start()
        threading.Thread(target=self._watch, name="overnight-leases", daemon=True).start()

    def lease(self, assignment: Assignment) -> WorkerInfo:
        """Let an attempt use the engine; returns once the engine is ready.

        An older attempt at the same partition loses its lease: what it finished is flushed
        first, so that a journal read after this call shows all of it.

        Raises:
            StaleAttemptError: if a newer attempt at the partition holds a lease.
        """
        reach(_LEASING)
        with self._lock:
            older = [
                lease
                for lease in self._leases.values()
                if (lease.assignment.job, lease.assignment.partition)
                == (assignment.job, assignment.partition)
            ]
            newest = max((lease.assignment.attempt for lease in older), default=0)
            if newest > assignment.attempt:
                raise StaleAttemptError(
                    f"attempt {assignment.attempt} at {assignment.job} {assignment.partition} "
                    f"asks for a worker, but attempt {newest} has it"
                )
        for lease in older:
            if lease.assignment.attempt < assignment.attempt:
                self.release(lease.assignment.attempt)
        self._loop.meter.open(assignment.attempt)
        with self._lock:
            if assignment.attempt not in self._leases:
                self._leases[assignment.attempt] = _Lease(
                    assignment=assignment,
                    writer=assignment.journal.writer(
                        attempt=assignment.attempt, worker=f"{self._machine}-{os.getpid()}"
                    ),
                    # Nobody can give a sign of life to an engine that is still starting.
                    renewed=math.inf,
                )
        try:
            seconds = self._loop.ready()
        except BaseException:
            self.release(assignment.attempt)
            raise
        with self._lock:
            if assignment.attempt in self._leases:
                self._leases[assignment.attempt].renewed = self._clock()
        reach(_LEASED)
        return WorkerInfo(
            machine=self._machine,
            pid=os.getpid(),
            engine_seconds=seconds,
            capacity=self._loop.capacity,
            watches=self._notices.state().source,
        )

    def infer(self, attempt: int, split: str, rows: pa.Table) -> Progress:
        """Infer rows and journal them; how far the attempt is once every one is durable.

        Raises:
            WorkersLostError: if the attempt holds no lease (any more).
            EngineBrokenError: if the engine fails whatever it is given.
            StoreError: if the journal cannot be written.
        """
        lease = self._leased(attempt)
        provenance = Provenance(
            run_id=lease.assignment.run_id, attempt=attempt, machine=self._machine
        )
        try:
            self._loop.run(split, rows, lease.writer, provenance).result()
        except StaleAttemptError as error:
            raise self._lost(attempt) from error
        return self.progress(attempt)

    def progress(self, attempt: int) -> Progress:
        """How far the attempt's rows are on this worker; renews the lease."""
        self._leased(attempt).renewed = self._clock()
        progress = self._loop.progress(attempt)
        gauges = progress.gauges | self._gpus.read()
        return replace(progress, advised=self._advised, gauges=gauges)

    def notice(self, notice: Notice) -> None:
        """This machine will, or may, be taken away; returns at once."""
        log.warning("notice from %s: %s", notice.source, notice.detail)
        if notice.kind == "rebalance":
            self._advised = True
            return
        self._go(notice.detail, notice.deadline or time.time(), tell=True)

    def going(self, attempt: int) -> str:
        """Wait for a notice that this machine goes; why. Empty when the lease ends before."""
        while not self._noticed.wait(timeout=1.0):
            with self._lock:
                if attempt not in self._leases:
                    return ""
        return self._going or ""

    def drain(self) -> None:
        """Others can take its rows: drain now, and not only when the time is nearly up."""
        self._drain_now.set()

    def give_way(self) -> None:
        """Drain in order: the machine stays, but one of another market is wanted instead."""
        self._drain_now.set()
        self._go("gives way to another market", time.time() + GIVE_WAY_S, tell=False)

    def drained(self, attempt: int) -> str:
        """Wait until what the drain still finishes is done and kept; why the machine goes."""
        while not self._loop.drained(timeout=1.0):
            with self._lock:
                lease = self._leases.get(attempt)
            if lease is not None:
                lease.renewed = self._clock()
        return self._going or ""

    def release(self, attempt: int, _leased: WorkerInfo | None = None) -> None:
        """Give a lease back: unfinished rows are dropped, finished ones flushed.

        Given what `lease` will answer, Ray calls this after that.
        """
        with self._lock:
            lease = self._leases.pop(attempt, None)
            self._idle_since = self._clock()
        self._loop.meter.close(attempt)
        if lease is not None:
            reach(_RELEASING)
            self._loop.abort(attempt)
            lease.writer.close()
            reach(_RELEASED)

    def placed(self) -> str:
        """The cluster's id of the machine; answered as soon as the worker has one."""
        return self._place()

    def make_room(self) -> None:
        """End this worker if nobody holds a lease: another engine needs its place."""
        with self._lock:
            if self._leases or self._closing:
                return
            self._closing = True
        log.info("this engine is idle and another one needs its place")
        self.close()
        self._leave()

    def close(self) -> None:
        """Free the engine; the process is the caller's to end."""
        self._notices.close()
        self._loop.close()

    def _go(self, why: str, deadline: float, *, tell: bool) -> None:
        self._going = why
        threading.Thread(
            target=self._end, args=(why, deadline, tell), name="overnight-drain", daemon=True
        ).start()

    def _end(self, why: str, deadline: float, tell: bool) -> None:
        """Work on as long as nobody else can, then drain.

        What a drain cuts off goes on elsewhere where it was, so every second until then counts.
        """
        if tell:
            # First of all, or the worker that comes in its place is put on this machine as well.
            with contextlib.suppress(Exception):  # Ray then learns it when the machine is gone
                self._tell(why, deadline)
        self._noticed.set()
        left = deadline - time.time()
        if self._leases:
            reserve = min(max(LEAST_DRAIN_S, DRAIN_SHARE * left), left / 2)
            self._drain_now.wait(timeout=max(0.0, left - reserve))
        self._loop.drain(deadline - time.time())
        self._loop.drained()
        self._notices.drained()

    def _leased(self, attempt: int) -> _Lease:
        with self._lock:
            if attempt not in self._leases:
                raise self._lost(attempt)
            return self._leases[attempt]

    def _lost(self, attempt: int) -> WorkersLostError:
        return WorkersLostError(
            f"attempt {attempt} holds no lease on this worker any more: a newer attempt took over, "
            f"or it gave no sign of life for {self._lease_timeout_s:g} s"
        )

    def _watch(self) -> None:
        while True:
            time.sleep(min(1.0, self._idle_timeout_s / 4, self._lease_timeout_s / 4))
            now = self._clock()
            with self._lock:
                silent = [
                    attempt
                    for attempt, lease in self._leases.items()
                    if now - lease.renewed > self._lease_timeout_s
                ]
                idle = not self._leases and now - self._idle_since > self._idle_timeout_s
            for attempt in silent:
                log.warning("attempt %d gives no sign of life: its lease ends", attempt)
                self.release(attempt)
            if idle or (self._going is not None and self._loop.drained(timeout=0)):
                self.make_room()
