"""One thread that owns an engine: keeps it full, journals what finishes, survives its deaths.

Splits go in, tickets come back; a ticket is done when every row of its split is durable. The
engine is kept by `keeper`, what it dies of is found by `suspicion`, what it finishes goes through
`records`, and `draining` ends it all when the machine goes. No Ray here.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections import deque
from concurrent.futures import Future
from typing import TYPE_CHECKING, TypeVar

from overnight.engines.base import ResumableSpec
from overnight.errors import (
    ConfigError,
    DrainingError,
    EngineBrokenError,
    EngineDied,
    ModelError,
    StaleAttemptError,
)
from overnight.workers.draining import Draining
from overnight.workers.keeper import Keeper
from overnight.workers.meter import Meter
from overnight.workers.progress import Progress
from overnight.workers.records import Records, fail, has_finished, refuse
from overnight.workers.suspicion import Suspicion
from overnight.workers.window import Provenance, Window

if TYPE_CHECKING:
    from collections.abc import Callable

    import pyarrow as pa

    from overnight.engines.base import Engine, EngineSpec
    from overnight.journal import JournalWriter
    from overnight.workers.window import Held

__all__ = ["Progress", "Provenance", "WorkerLoop"]

log = logging.getLogger(__name__)

T = TypeVar("T")


class _ClosedError(RuntimeError):
    def __init__(self) -> None:
        super().__init__("this worker loop is closed")


class WorkerLoop:
    """Runs splits through one engine, which it starts when it is first needed.

    Thread-safe: any thread may call its methods; the engine belongs to a thread of its own.

    Args:
        spec: the engine.
        budget: starts or deaths in a row, without a row finishing in between, after which the
            engine counts as broken.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        spec: EngineSpec,
        *,
        budget: int = 3,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if budget < 1:
            msg = f"WorkerLoop: budget={budget}; allow at least 1 start"
            raise ConfigError(msg)
        self._clock = clock
        self.meter = Meter(clock)
        partial_type = spec.partial_type if isinstance(spec, ResumableSpec) else None
        self._window = Window(spec.result_schema, partial_type)
        self._records = Records(self._window, resumes=partial_type is not None, clock=clock)
        self._keeper = Keeper(spec, budget=budget, meter=self.meter, on_death=self._on_death)
        self._suspicion = Suspicion(self._window, self._keeper, spec.result_schema)
        self._draining = Draining(
            self._window, self._keeper, self._records, journal=self._journal, clock=clock
        )
        self._gauges: dict[str, float] = {}
        self._orders: deque[Callable[[], None]] = deque()
        self._changed = threading.Condition()
        self._closing = False
        self._thread = threading.Thread(target=self._main, name="overnight-engine", daemon=True)
        self._thread.start()

    # What other threads call.

    def ready(self) -> float:
        """Wait until the engine is started; the seconds that took, 0 if it already was.

        Raises:
            ModelError: if the model is missing or not the declared one.
            EngineBrokenError: if it does not start within the budget.
        """
        return self._ordered(self._warm).result()

    @property
    def capacity(self) -> int:
        """Rows that keep the engine busy; 0 if none runs."""
        engine = self._keeper.engine
        return 0 if engine is None else engine.capacity

    def run(
        self, split_id: str, table: pa.Table, writer: JournalWriter, provenance: Provenance
    ) -> Future[int]:
        """Hand a split over: columns `row, key, input_hash, request` and the carried ones.

        Returns:
            A ticket; its result is the number of rows, once all are durable in the journal.
            It fails with EngineBrokenError, ModelError, StoreError, or StaleAttemptError
            when the attempt was aborted.

        Raises:
            ConfigError: if a column is missing or a carried one is named like a result's.
        """
        self._window.check(table)
        accepted = self._ordered(lambda: self._accept(split_id, table, writer, provenance))
        ticket: Future[int] = Future()
        accepted.add_done_callback(lambda done: _follow(done, ticket))
        return ticket

    def abort(self, attempt: int) -> None:
        """Drop what an attempt has queued and in flight; what it finished is flushed first."""
        with contextlib.suppress(_ClosedError):
            self._ordered(lambda: self._drop(attempt)).result()

    def drain(self, seconds: float) -> None:
        """The machine goes in `seconds`: admit nothing more, finish what fits, keep the rest.

        Tickets of splits that are not finished fail with `DrainingError` at once, and their
        rows are the caller's to give to another worker, but for those that the error says are
        still being finished. A second call can only bring the end forward.
        """
        until = self._clock() + seconds
        with contextlib.suppress(_ClosedError):
            self._ordered(lambda: self._drain(until))

    def drained(self, timeout: float | None = None) -> bool:
        """Wait until a drain has ended and all that it kept is durable; whether it has."""
        return self._draining.ended.wait(timeout)

    def progress(self, attempt: int | None = None) -> Progress:
        """How far the rows of an attempt are, or of all attempts."""
        known = self._records.tallies
        tallies = list(known.values())
        if attempt is not None:
            tallies = [known[attempt]] if attempt in known else []
        total = Progress()
        ttft, latency = total.ttft, total.latency
        for tally in tallies:
            one = tally.histograms()
            ttft, latency = ttft + one[0], latency + one[1]
        return Progress(
            rows=sum(t.rows for t in tallies),
            failed=sum(t.failed for t in tallies),
            prompt_tokens=sum(t.prompt_tokens for t in tallies),
            output_tokens=sum(t.output_tokens for t in tallies),
            in_flight=self._keeper.in_flight,
            waiting=self._window.waiting,
            engine_starts=self._keeper.starts,
            engine_deaths=self._keeper.deaths,
            ttft=ttft,
            latency=latency,
            gauges=self._gauges,
            seconds={} if attempt is None else self.meter.seconds(attempt),
        )

    def close(self, timeout: float = 10.0) -> None:
        """Stop and free the engine; rows that are not finished stay undecided.

        Waits `timeout` seconds for the engine to come back from its step, then closes it
        under its feet. Safe to call twice.
        """
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._thread.join(timeout)
        engine = self._keeper.engine
        if self._thread.is_alive() and engine is not None:
            log.warning("the engine does not answer for %g s: closing it anyway", timeout)
            engine.close()
            self._thread.join(timeout)

    def _ordered(self, order: Callable[[], T]) -> Future[T]:
        answer: Future[T] = Future()

        def carry_out() -> None:
            try:
                answer.set_result(order())
            except BaseException as error:  # noqa: BLE001 - raised again where it is asked for
                answer.set_exception(error)

        with self._changed:
            if self._closing:
                raise _ClosedError
            self._orders.append(carry_out)
            self._changed.notify_all()
        return answer

    # The engine's thread from here on.

    def _main(self) -> None:
        try:
            while self._await_work():
                self._obey()
                try:
                    self._turn()
                except (EngineBrokenError, ModelError, ConfigError) as error:
                    self._give_up(error)
        except BaseException as error:
            self._give_up(error)
            raise
        finally:
            with self._changed:
                self._closing = True
            self._obey()
            self._give_up(EngineDied("this worker loop was closed"))
            self._draining.ended.set()

    def _await_work(self) -> bool:
        with self._changed:
            if not (self._closing or self._orders or self._has_work()):
                while not (self._closing or self._orders or self._has_work()):
                    self._changed.wait()
                self.meter.book("idle")
            return not self._closing

    def _has_work(self) -> bool:
        return bool(len(self._window) or self._records.settling)

    def _obey(self) -> None:
        while self._orders:
            self._orders.popleft()()

    def _turn(self) -> None:
        """Admit, compute, journal, settle: one round."""
        drain = self._draining.drain
        if len(self._window) and (drain is None or self._keeper.engine is not None):
            engine = self._keeper.started()
            weights = self._window.weights()
            try:
                self._admit(engine)
                results = engine.step() if engine.in_flight else None
                self.meter.book("useful" if drain is None else "draining", weights)
            except Exception as error:  # noqa: BLE001 - an engine may fail in any way
                if drain is None:
                    self._die(error)
                else:
                    self._keeper.bury(error)
            else:
                if results is not None:
                    self._journal(results)
                self._records.look(engine, drain)
                self._keeper.in_flight = engine.in_flight
                self._gauges = dict(engine.stats())
        self._draining.go_on()
        self._records.settle()

    def _admit(self, engine: Engine) -> None:
        if self._draining.drain is not None:
            return
        if self._suspicion.active:
            if engine.in_flight or self._suspicion.submit_next(engine):
                return
            self._suspicion.end()
        room = engine.capacity - engine.in_flight
        if room >= max(1, engine.capacity // 8) or not engine.in_flight:
            rows = self._window.take(room)
            if rows.num_rows:
                engine.submit(rows)

    def _journal(self, results: pa.Table) -> None:
        if results.num_rows:
            if has_finished(results):
                self._keeper.finished(searching=self._suspicion.active)
            self._records.journal(results)

    def _die(self, error: BaseException) -> None:
        suspects = self._keeper.bury(error)
        condemned = self._suspicion.died(suspects, error)
        if condemned is not None:
            self._journal(condemned)

    def _on_death(self) -> None:
        """What an engine did last was in vain, as far as it is not kept."""
        weights = self._window.weights()
        self.meter.book("useful", weights)
        self.meter.lose(self._clock() - self._records.last_kept, weights)
        if self._keeper.engine is not None:
            self._records.go_back()

    def _warm(self) -> float:
        if self._draining.drain is not None:
            raise DrainingError("this machine will be taken away")
        if self._keeper.engine is not None:
            return 0.0
        if self._closing:
            raise _ClosedError
        began = self._clock()
        try:
            self._keeper.started()
        except (EngineBrokenError, ModelError, ConfigError) as error:
            self._give_up(error)
            raise
        return self._clock() - began

    # Taking splits in and letting them go.

    def _drain(self, until: float) -> None:
        self._suspicion.end()
        self._draining.begin(until)

    def _accept(
        self, split_id: str, table: pa.Table, writer: JournalWriter, provenance: Provenance
    ) -> Future[int]:
        if self._draining.drain is not None:
            raise DrainingError("this machine will be taken away")
        held = self._window.add(split_id, table, writer, provenance)
        self._records.tally(held)
        if not held.left:
            held.ticket.set_result(0)
        return held.ticket

    def _drop(self, attempt: int) -> None:
        def of_attempt(held: Held) -> bool:
            return held.provenance["attempt"] == attempt

        writers = {id(h.writer): h.writer for h in self._records.settling if of_attempt(h)}
        dropped = self._window.drop(of_attempt)
        writers |= {id(h.writer): h.writer for h in dropped}
        rows = [i for held in dropped for i in held.ids]
        if rows and self._keeper.engine is not None:
            self._keeper.engine.abort(rows)
        error: BaseException = StaleAttemptError(f"attempt {attempt} was aborted on this worker")
        for writer in writers.values():
            try:
                writer.flush()
            except Exception as failed:  # noqa: BLE001 - the tickets carry it
                error = failed
        self._records.settle()
        fail(dropped, error)

    def _give_up(self, error: BaseException) -> None:
        """Fail every ticket; the next split starts from nothing."""
        self._keeper.close()
        self._suspicion.end()
        self._keeper.forgive()
        self._records.settle()
        fail(self._window.drop(lambda _: True), error)
        fail(self._records.settling, error)
        self._records.settling = []


def _follow(accepted: Future[Future[int]], ticket: Future[int]) -> None:
    def copy(done: Future[int]) -> None:
        error = done.exception()
        if error is not None:
            refuse(ticket, error)
        else:
            ticket.set_result(done.result())

    error = accepted.exception()
    if error is not None:
        refuse(ticket, error)
    else:
        accepted.result().add_done_callback(copy)
