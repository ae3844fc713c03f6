"""One thread that owns an engine: keeps it full, journals what finishes, survives its deaths.

Splits go in, tickets come back; a ticket is done when every row of its split is durable. What
the rows of a dead engine are worth is decided here: those that were not being computed just
wait, the suspects are bisected until the row that kills is found. No Ray here.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections import deque
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, TypeVar

import pyarrow as pa

from overnight.engines.base import (
    FAILURE,
    REQUEST,
    ROW,
    Engine,
    EngineSpec,
    Resumable,
    ResumableSpec,
)
from overnight.errors import (
    ConfigError,
    DrainingError,
    EngineBrokenError,
    EngineDied,
    ModelError,
    StaleAttemptError,
)
from overnight.workers.bisection import Bisection
from overnight.workers.drain import Drain
from overnight.workers.meter import Meter
from overnight.workers.progress import Progress, Tally
from overnight.workers.window import Held, Provenance, Window

if TYPE_CHECKING:
    from collections.abc import Callable

    from overnight.journal import JournalWriter

__all__ = ["Progress", "Provenance", "WorkerLoop"]

log = logging.getLogger(__name__)

T = TypeVar("T")

_TALLIES_KEPT = 64
_PROBE_ROW = -1
# Looking at what rows have generated takes the engine's thread; it may have 1% of its time.
_LOOKS = 100
_SHORTEST_LOOK_S = 0.1


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
        self._spec = spec
        self._budget = budget
        self._clock = clock
        self._engine: Engine | None = None
        partial_type = spec.partial_type if isinstance(spec, ResumableSpec) else None
        self._resumes = partial_type is not None
        self._window = Window(spec.result_schema, partial_type)
        self._states: pa.Table | None = None
        self._next_look = clock()
        self._last_kept = clock()
        self._drain: Drain | None = None
        self.meter = Meter(clock)
        self._drained = threading.Event()
        self._search: Bisection | None = None
        self._settling: list[Held] = []
        self._fruitless = 0
        self._unexplained = 0
        self._proven = False
        self._last_error: BaseException | None = None
        self._starts = 0
        self._deaths = 0
        self._gauges: dict[str, float] = {}
        self._in_flight = 0
        self._tallies: dict[int, Tally] = {}
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
            self._ordered(lambda: self._begin_drain(until))

    def drained(self, timeout: float | None = None) -> bool:
        """Wait until a drain has ended and all that it kept is durable; whether it has."""
        return self._drained.wait(timeout)

    def progress(self, attempt: int | None = None) -> Progress:
        """How far the rows of an attempt are, or of all attempts."""
        tallies = list(self._tallies.values())
        if attempt is not None:
            tallies = [self._tallies[attempt]] if attempt in self._tallies else []
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
            in_flight=self._in_flight,
            waiting=self._window.waiting,
            engine_starts=self._starts,
            engine_deaths=self._deaths,
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
        if self._thread.is_alive() and self._engine is not None:
            log.warning("the engine does not answer for %g s: closing it anyway", timeout)
            self._engine.close()
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
            self._drained.set()

    def _await_work(self) -> bool:
        with self._changed:
            if not (self._closing or self._orders or self._has_work()):
                while not (self._closing or self._orders or self._has_work()):
                    self._changed.wait()
                self.meter.book("idle")
            return not self._closing

    def _has_work(self) -> bool:
        return bool(len(self._window) or self._settling)

    def _obey(self) -> None:
        while self._orders:
            self._orders.popleft()()

    def _turn(self) -> None:
        """Admit, compute, journal, settle: one round."""
        if len(self._window) and (self._drain is None or self._engine is not None):
            engine = self._started()
            weights = self._window.weights()
            try:
                self._admit(engine)
                results = engine.step() if engine.in_flight else None
                self.meter.book("useful" if self._drain is None else "draining", weights)
            except Exception as error:  # noqa: BLE001 - an engine may fail in any way
                if self._drain is None:
                    self._died(error)
                else:
                    self._bury(error)
            else:
                if results is not None:
                    self._journal(results)
                self._look(engine)
                self._in_flight = engine.in_flight
                self._gauges = dict(engine.stats())
        if self._drain is not None:
            self._go_on_draining(self._drain)
        self._settle()

    def _look(self, engine: Engine) -> None:
        """Keep what rows have generated so far, as often as that costs nothing to speak of."""
        began = self._clock()
        if began < self._next_look or not (self._resumes and isinstance(engine, Resumable)):
            return
        self._keep(engine.partials())
        self._next_look = began + max(_LOOKS * (self._clock() - began), _SHORTEST_LOOK_S)

    def _keep(self, states: pa.Table, *, for_good: bool = False) -> None:
        """Note how far rows are; `for_good` if they will not be noted again."""
        self._states = states
        self._last_kept = self._clock()
        noted: dict[int, tuple[JournalWriter, list[pa.Table]]] = {}
        for held, records in self._window.partial_records(states):
            mine = noted.setdefault(id(held.writer), (held.writer, []))[1]
            if self._drain is not None and for_good:
                self._drain.keep(held.writer, records)
            else:
                mine.append(records)
        for writer, tables in noted.values():
            kept = self._drain.kept(writer) if self._drain is not None else []
            writer.note(pa.concat_tables([*kept, *tables]))

    def _admit(self, engine: Engine) -> None:
        if self._drain is not None:
            return
        if self._search is not None:
            if engine.in_flight or self._next_group(engine):
                return
            self._search = None
        room = engine.capacity - engine.in_flight
        if room >= max(1, engine.capacity // 8) or not engine.in_flight:
            rows = self._window.take(room)
            if rows.num_rows:
                engine.submit(rows)

    def _next_group(self, engine: Engine) -> bool:
        """Submit the next group of suspects; False when all are decided."""
        search = self._search
        while search is not None:
            if search.running:
                search.passed()
            group = search.next()
            if group is None:
                return False
            rows = self._window.requests(group)
            if rows.num_rows:
                engine.submit(rows)
                return True
            search.passed()
        return False

    def _journal(self, results: pa.Table) -> None:
        if not results.num_rows:
            return
        if results[FAILURE].null_count:
            self._fruitless = 0
            self._proven = True
            if self._search is None:
                self._unexplained = 0
        self._last_kept = self._clock()
        for held, mine, records in self._window.finish(results):
            try:
                held.sequence = held.writer.append(records)
            except Exception as error:  # noqa: BLE001 - the ticket carries it
                self._fail([held, *self._window.drop(_writes_to(held.writer))], error)
                continue
            self._tally(held).count(mine)
            if not held.left:
                self._settling.append(held)

    def _tally(self, held: Held) -> Tally:
        attempt = held.provenance["attempt"]
        if attempt not in self._tallies:
            while len(self._tallies) >= _TALLIES_KEPT:
                self._tallies.pop(next(iter(self._tallies)))
            self._tallies[attempt] = Tally()
        return self._tallies[attempt]

    def _settle(self) -> None:
        """Complete the tickets whose rows are durable; with nothing else to do, wait for it."""
        idle = not len(self._window)
        for held in list(self._settling):
            try:
                if idle:
                    held.writer.flush()
                if held.writer.flushed() < held.sequence:
                    continue
                held.ticket.set_result(len(held.done))
            except Exception as error:  # noqa: BLE001 - the ticket carries it
                _refuse(held.ticket, error)
            self._settling.remove(held)

    # Starts, deaths and what they prove.

    def _warm(self) -> float:
        if self._drain is not None:
            raise DrainingError("this machine will be taken away")
        if self._engine is not None:
            return 0.0
        if self._closing:
            raise _ClosedError
        began = self._clock()
        try:
            self._started()
        except (EngineBrokenError, ModelError, ConfigError) as error:
            self._give_up(error)
            raise
        return self._clock() - began

    def _started(self) -> Engine:
        while self._engine is None:
            self._check_budget()
            self._starts += 1
            self.meter.book("idle")
            try:
                self._engine = self._spec.start()
                self.meter.book("cold_start")
            except (ConfigError, ModelError):
                raise
            except Exception as error:  # noqa: BLE001 - counted against the budget
                log.warning("the engine %s did not start: %r", self._spec.kind, error)
                self._fruitless += 1
                self._last_error = error
        return self._engine

    def _check_budget(self) -> None:
        if max(self._fruitless, self._unexplained) >= self._budget:
            raise self._broken()

    def _broken(self) -> EngineBrokenError:
        error = EngineBrokenError(
            f"the engine {self._spec.kind} failed {self._budget} times in a row whatever it was "
            f"given; last: {self._last_error!r}. Look at the machine and the engine's settings "
            "(memory, sizes, model), not at the rows"
        )
        error.__cause__ = self._last_error
        return error

    def _died(self, error: BaseException) -> None:
        suspects = self._bury(error)
        search = self._search
        if search is None:
            undecided = self._window.undecided()
            asked = set(suspects) & set(undecided)
            chosen = [i for i in undecided if i in asked] or undecided
            blamed = set(chosen)
            self._window.requeue(i for i in undecided if i not in blamed)
            if chosen:
                self._search = Bisection(chosen)
                self._proven = False
                self._unexplained += 1
            return
        if not search.running:
            return
        killer = search.died()
        if (killer is not None and not self._proven) or self._fruitless >= self._budget:
            self._prove()
        if killer is not None:
            self._condemn(killer, error)

    def _bury(self, error: BaseException) -> list[int]:
        log.warning("the engine %s died: %r", self._spec.kind, error)
        self._deaths += 1
        weights = self._window.weights()
        self.meter.book("useful", weights)
        self.meter.lose(self._clock() - self._last_kept, weights)
        self._fruitless += 1
        self._last_error = error
        engine, self._engine, self._in_flight = self._engine, None, 0
        if engine is None:
            return []
        if self._states is not None:
            self._window.begun(self._states)
        suspects = engine.suspects()
        engine.close()
        return suspects

    def _prove(self) -> None:
        """Have a fresh engine answer the probe: rows are only blamed if an engine works.

        Raises:
            EngineBrokenError: if it dies on the probe too.
        """
        self._fruitless = min(self._fruitless, self._budget - 1)
        engine = self._started()
        try:
            engine.submit(
                pa.table({ROW: pa.array([_PROBE_ROW], pa.int64()), REQUEST: [self._spec.probe]})
            )
            while engine.in_flight:
                engine.step()
        except Exception as error:
            self._bury(error)
            raise self._broken() from error
        self._fruitless = 0
        self._proven = True

    def _condemn(self, killer: int, error: BaseException) -> None:
        # Its deaths are explained, and an engine has answered others meanwhile.
        self._fruitless = self._unexplained = 0
        reason = f"killed_engine: killed the engine, the last time alone: {error}"
        columns: dict[str, Any] = {
            ROW: pa.array([killer], pa.int64()),
            FAILURE: pa.array([reason], pa.string()),
        }
        columns |= {f.name: pa.nulls(1, f.type) for f in self._spec.result_schema}
        self._journal(pa.table(columns))

    # The machine goes.

    def _begin_drain(self, until: float) -> None:
        now = self._clock()
        if self._drain is not None:
            self._drain.bring_forward(until, now)
            return
        self._drain = drain = Drain(until, now)
        for held in (*self._window.held, *self._settling):
            drain.concerns(held.writer)
        log.warning(
            "this machine goes in %.1f s: %d rows in flight, %d waiting",
            until - now, self._in_flight, self._window.waiting,
        )  # fmt: skip
        finishing: set[int] = set()
        engine, self._search = self._engine, None
        if engine is not None:
            try:
                finishing = self._take_out_late(engine, drain)
            except EngineDied as error:
                self._bury(error)
        self._hand_back(drain, finishing)

    def _take_out_late(self, engine: Engine, drain: Drain) -> set[int]:
        """Keep and forget the rows that would not be finished in time; those that stay."""
        asked = set(self._window.undecided())
        if not (self._resumes and isinstance(engine, Resumable)):
            return asked
        left = drain.left(self._clock())
        late = [row for row, seconds in engine.time_left().items() if seconds > left]
        self._keep(engine.suspend(late), for_good=True)
        return asked & set(engine.time_left())

    def _take_out_all(self, engine: Engine) -> None:
        if self._resumes and isinstance(engine, Resumable):
            self._keep(engine.suspend(self._window.undecided()), for_good=True)
            # Some may have been finished all the same.
            self._journal(engine.step())

    def _hand_back(self, drain: Drain, finishing: set[int]) -> None:
        handed = []
        for held, hashes in self._window.hand_back(finishing):
            handed.append((held.ticket, hashes))
            # Whoever is told now waits for the end of the drain, not for this ticket.
            held.ticket = Future()
        for writer in drain.writers:
            self._flush(writer)
        for ticket, hashes in handed:
            _refuse(ticket, DrainingError("this machine will be taken away", tuple(hashes)))
        self._settle()
        if not len(self._window):
            self._end_drain(drain)

    def _go_on_draining(self, drain: Drain) -> None:
        """Take out what is left when time is up; once nothing is, the engine is not needed."""
        if self._drained.is_set():
            return
        engine = self._engine
        if engine is not None and len(self._window) and drain.left(self._clock()) <= 0:
            try:
                self._take_out_all(engine)
            except EngineDied as error:
                self._bury(error)
            self._hand_back(drain, set())
        elif not len(self._window) or engine is None:
            self._hand_back(drain, set())

    def _end_drain(self, drain: Drain) -> None:
        now = self._clock()
        log.warning(
            "drained in %.1f s, %.1f s before the machine goes", now - drain.began, drain.spare(now)
        )
        # Closing can take longer than the machine has, and nobody needs to wait for it.
        self._drained.set()
        if self._engine is not None:
            self._engine.close()
            self._engine, self._in_flight = None, 0

    def _flush(self, writer: JournalWriter) -> None:
        try:
            writer.flush()
        except Exception as error:  # noqa: BLE001 - what is not kept is inferred again
            log.warning("what was finished last is not kept: %s", error)

    # Taking splits in and letting them go.

    def _accept(
        self, split_id: str, table: pa.Table, writer: JournalWriter, provenance: Provenance
    ) -> Future[int]:
        if self._drain is not None:
            raise DrainingError("this machine will be taken away")
        held = self._window.add(split_id, table, writer, provenance)
        self._tally(held)
        if not held.left:
            held.ticket.set_result(0)
        return held.ticket

    def _drop(self, attempt: int) -> None:
        def of_attempt(held: Held) -> bool:
            return held.provenance["attempt"] == attempt

        writers = {id(h.writer): h.writer for h in self._settling if of_attempt(h)}
        dropped = self._window.drop(of_attempt)
        writers |= {id(h.writer): h.writer for h in dropped}
        rows = [i for held in dropped for i in held.ids]
        if rows and self._engine is not None:
            self._engine.abort(rows)
        error: BaseException = StaleAttemptError(f"attempt {attempt} was aborted on this worker")
        for writer in writers.values():
            try:
                writer.flush()
            except Exception as failed:  # noqa: BLE001 - the tickets carry it
                error = failed
        self._settle()
        self._fail(dropped, error)

    def _give_up(self, error: BaseException) -> None:
        """Fail every ticket; the next split starts from nothing."""
        if self._engine is not None:
            self._engine.close()
        self._engine, self._search, self._in_flight = None, None, 0
        self._fruitless = self._unexplained = 0
        self._settle()
        self._fail(self._window.drop(lambda _: True), error)
        self._fail(self._settling, error)
        self._settling = []

    def _fail(self, helds: list[Held], error: BaseException) -> None:
        for held in helds:
            _refuse(held.ticket, error)


def _writes_to(writer: JournalWriter) -> Callable[[Held], bool]:
    return lambda held: held.writer is writer


def _refuse(ticket: Future[int], error: BaseException) -> None:
    if not ticket.done():
        ticket.set_exception(error)


def _follow(accepted: Future[Future[int]], ticket: Future[int]) -> None:
    def copy(done: Future[int]) -> None:
        error = done.exception()
        if error is not None:
            _refuse(ticket, error)
        else:
            ticket.set_result(done.result())

    error = accepted.exception()
    if error is not None:
        _refuse(ticket, error)
    else:
        accepted.result().add_done_callback(copy)
