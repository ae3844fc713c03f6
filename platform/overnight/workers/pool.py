"""The pool: sees that every row of a plan ends in the journal, whatever becomes of its workers.

Who works is in `crew`, what is to be done in `backlog`, what becomes of a loss in `losses`; here
is what workers are asked and what they answer.
"""

from __future__ import annotations

import contextlib
import logging
import time
from typing import TYPE_CHECKING, Any

from overnight.errors import DeadlineMissedError, DrainingError, OvernightError
from overnight.workers.backlog import Backlog
from overnight.workers.cluster import connected
from overnight.workers.crew import Crew
from overnight.workers.losses import LOOK_S, Losses
from overnight.workers.progress import Histogram, PoolProgress, Progress, joined

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from types import TracebackType
    from typing import Self

    from overnight.engines.base import EngineSpec
    from overnight.plan import Plan
    from overnight.workers.actor import Assignment, WorkerInfo
    from overnight.workers.buying import Buyer
    from overnight.workers.cluster import ClusterConfig
    from overnight.workers.machine_time import MachineTime
    from overnight.workers.member import Member

log = logging.getLogger(__name__)

LAST_S = 5.0  # for workers to say how far they got in the end
RECENT_S = 0.05  # what was said so lately is the end


class Pool:
    """Workers for one attempt at one partition; use it in `with`.

    `samples` is the progress over time.

    Args:
        config: where workers run.
        spec: the engine that each of them starts.
        report: called every `report_every_s` seconds while rows are inferred.
        report_every_s: seconds between reports.
        name: of the engine; workers of the same name are shared.
        retry_on_interrupt: whether to go on when a machine is taken away.
        ends_in_s: seconds from now until the deadline; None for no deadline.
        buyer: says on which market to ask for workers, where machines have a label for that.
        note: puts on record what happened to machines.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        config: ClusterConfig,
        spec: EngineSpec,
        *,
        name: str,
        retry_on_interrupt: bool = True,
        ends_in_s: float | None = None,
        buyer: Buyer | None = None,
        note: Callable[[Mapping[str, Any]], None] = lambda _: None,
        report: Callable[[PoolProgress], None],
        report_every_s: float = 2.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._config = config
        self._spec = spec
        self._name = name
        self._report = report
        self._report_every_s = report_every_s
        self._clock = clock
        self._started = clock()
        self._retry_on_interrupt = retry_on_interrupt
        self._buyer = buyer
        self._note = note
        self._ends_at = None if ends_in_s is None else clock() + ends_in_s
        self._prepared = 0.0
        self._waited = 0.0
        self._attempt = 0
        self._hired: list[WorkerInfo] = []
        self._crew: Crew | None = None
        self._ray = contextlib.ExitStack()
        self.samples: list[PoolProgress] = []

    def __enter__(self) -> Self:
        """The pool; Ray is only connected to when there is something to infer."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End a Ray that was started for this pool, engines first."""
        with self._ray:
            if self._crew is not None:
                self._crew.release()
                self._crew.close()

    def prepare(self, assignment: Assignment) -> None:
        """Have workers come while it is still being planned what `infer` will have them do.

        Raises:
            ConfigError: if the configured Ray head does not answer.
        """
        self._crew = self._gathered(assignment)
        self._crew.hire_early()
        self._prepared = self._clock()

    def infer(self, plan: Plan, assignment: Assignment) -> list[WorkerInfo]:
        """Have every row of the plan's splits journalled; returns the workers that did it.

        A machine that is taken away costs no budget: its rows go to others, and with none left
        the pool waits for one, until the deadline.

        Raises:
            DeadlineMissedError: if rows are left at the deadline; the journal is kept.
            InterruptedRunError: if a machine is taken away and `retry_on_interrupt` is off.
            WorkersLostError: if workers keep dying without one row getting done.
            EngineBrokenError: if the engine fails whatever it is given.
            StaleAttemptError: if a newer attempt took over.
            StoreError: if the journal cannot be written.
        """
        if not plan.splits:
            return []
        self._started = self._clock()
        self._attempt, self._hired = assignment.attempt, []
        self._backlog = Backlog(self._spec, plan, assignment)
        self._crew = crew = self._crew or self._gathered(assignment)
        crew.backlog = self._backlog
        self._losses = Losses(
            crew,
            self._backlog,
            assignment,
            lease_timeout_s=self._config.lease_timeout_s,
            retry_on_interrupt=self._retry_on_interrupt,
            note=self._note,
            clock=self._clock,
        )
        try:
            if not crew.members:
                crew.hire_missing()
            elif self._clock() - self._prepared > self._config.lease_timeout_s / 4:
                crew.lease_again()
            self._work(crew)
        finally:
            crew.release()
        return self._hired

    def spent(self) -> list[MachineTime]:
        """What the attempt's machines did, for the ledger."""
        return self._crew.spent(self._clock()) if self._crew is not None else []

    def _gathered(self, assignment: Assignment) -> Crew:
        return Crew(
            self._config,
            self._spec,
            name=self._name,
            assignment=assignment,
            stays=self._ray.enter_context(connected(self._config)),
            buyer=self._buyer,
        )

    def _work(self, crew: Crew) -> None:
        reported = self._clock()
        while not self._backlog.is_done(crew.members):
            self._check_deadline(crew)
            self._losses.look_for_missing()
            self._backlog.hand_out(crew.members)
            self._hear(crew)
            if self._hired and not self._backlog.planned:
                self._backlog.begin(len(crew.members))
            if self._clock() - reported >= self._report_every_s:
                reported = self._clock()
                crew.hire_missing()
                self._ask(crew)
                self._tell(crew)
        self._ask_last(*crew.members)
        self._tell(crew)

    def _hear(self, crew: Crew) -> None:
        """Wait a little for an answer, and see what follows."""
        import ray

        missing = any(member.missing for member in crew.members)
        timeout = LOOK_S if missing else self._report_every_s / 4
        waiting = [ref for member in crew.members for ref in member.references()]
        if not waiting:
            time.sleep(timeout)
            return
        ready, _ = ray.wait(waiting, num_returns=1, timeout=timeout)
        for reference in ready:
            member = next(m for m in crew.members if reference in m.references())
            try:
                self._settle(crew, member, reference, _answer(reference))
            except DrainingError as error:
                self._take_back(crew, member, reference, error)
            except ray.exceptions.ActorUnavailableError as error:
                self._losses.miss(member, error)
            except ray.exceptions.ActorDiedError as error:
                self._losses.died(member, error)

    def _check_deadline(self, crew: Crew) -> None:
        if self._ends_at is not None and self._clock() >= self._ends_at:
            left, total = self._backlog.left(crew.members), self._backlog.total
            raise DeadlineMissedError(
                f"the deadline has passed with {left} of {total} rows to go; "
                "what was inferred is kept: run the partition again to go on from there"
            )

    def _settle(self, crew: Crew, member: Member, reference: Any, value: Any) -> None:
        if member.missing is not None:
            self._losses.find(member)
        elif reference == member.leasing:
            member.info, member.leasing = value, None
            if not self._hired:
                self._waited = self._clock() - self._started
            self._hired.append(value)
            self._losses.failed_starts = 0
            log.info("%s is ready on %s (pid %d)", member.name, value.machine, value.pid)
            member.watching = member.handle.going.remote(self._attempt)
            self._relieve(crew)
        elif reference == member.placing:
            member.node, member.placing, member.placed = value, None, self._clock()
            machine = crew.machine(value)
            member.labels = machine.get("Labels", {})
            member.gpus = machine.get("Resources", {}).get("GPU", 0.0)
        elif reference == member.watching:
            member.watching = None
            if value:
                self._goes(crew, member, value)
        elif reference == member.asking:
            member.asking = None
            member.hear(value, self._clock())
        else:
            piece = member.pieces.pop(reference)
            if isinstance(value, Progress):
                member.hear(value, self._clock())
            if reference in member.finishing:
                self._backlog.requeue([piece])
                self._dismiss_if_done(crew, member)

    def _goes(self, crew: Crew, member: Member, why: str) -> None:
        """A worker's machine goes: another one is hired, and takes over when it is ready."""
        if not member.going:
            member.going = True
            if not member.gives_way:
                self._losses.interrupted_by(member, f"loses its machine: {why}")
            crew.hire_missing()
        self._relieve(crew)

    def _relieve(self, crew: Crew) -> None:
        """Those whose machines go hand their rows back once there is somebody to take them."""
        if crew.has_taker():
            for member in crew.members:
                if member.going and not member.draining and member.missing is None:
                    member.handle.drain.remote()

    def _take_back(self, crew: Crew, member: Member, reference: Any, error: DrainingError) -> None:
        """A worker drains: what it does not finish goes to the others, now."""
        piece = member.pieces.pop(reference, None)
        member.draining = True
        if reference == member.leasing:
            member.leasing = None
        self._goes(crew, member, "it drains")
        if piece is not None:
            rest = self._backlog.requeue_rest(piece, error.finishing)
            if rest is not None:
                still = member.handle.drained.remote(self._attempt)
                member.pieces[still] = rest
                member.finishing.add(still)
        self._dismiss_if_done(crew, member)

    def _dismiss_if_done(self, crew: Crew, member: Member) -> None:
        """A drained worker is not needed any more, and should end before its machine does."""
        if member.draining and not member.pieces:
            self._ask_last(member)
            crew.forget(member)
            member.handle.release.remote(self._attempt)

    def _ask(self, crew: Crew) -> None:
        """Ask how far workers are, and make room for those that wait for a machine."""
        for member in crew.members:
            silent = member.draining or member.missing is not None
            if member.info and not silent and member.asking is None:
                member.asking = member.handle.progress.remote(self._attempt)
        crew.make_room()

    def _ask_last(self, *members: Member) -> None:
        """How far they got in the end; what one does not say in time is as it was last known."""
        import ray

        attempt, now = self._attempt, self._clock()
        asked = {
            member.handle.progress.remote(attempt): member
            for member in members
            if member.info
            and not member.missing
            and (member.answered is None or now - member.answered > RECENT_S)
        }
        if not asked:
            return
        answered, late = ray.wait(list(asked), num_returns=len(asked), timeout=LAST_S)
        for reference in answered:
            with contextlib.suppress(ray.exceptions.RayError, OvernightError):
                asked[reference].hear(_answer(reference), self._clock())
        for reference in late:
            log.warning("%s does not say how far it got", asked[reference].name)

    def _tell(self, crew: Crew) -> None:
        """Report the sum over the workers, lost ones included."""
        members = crew.members
        known = [m.progress for m in (*crew.gone, *members) if m.progress]
        progress = PoolProgress(
            seconds=self._clock() - self._started,
            rows=sum(p.rows for p in known),
            total=self._backlog.total,
            prompt_tokens=sum(p.prompt_tokens for p in known),
            output_tokens=sum(p.output_tokens for p in known),
            in_flight=sum(m.progress.in_flight for m in members if m.progress),
            workers=sum(1 for member in members if member.ready),
            lost=self._losses.lost,
            waited=self._waited,
            interrupted=crew.interrupted,
            waiting=sum(m.progress.waiting for m in members if m.progress),
            ttft=sum((p.ttft for p in known), Histogram()),
            latency=sum((p.latency for p in known), Histogram()),
            gauges=joined([m.progress.gauges for m in members if m.progress]),
        )
        self.samples.append(progress)
        self._report(progress)


def _answer(reference: Any) -> Any:
    """What a worker answered; what it raised is raised as it was, without Ray's wrapping."""
    import ray

    try:
        return ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, OvernightError):
            raise error.cause from error
        raise
