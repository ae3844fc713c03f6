"""The pool: hands splits to workers and sees that every row of a plan ends in the journal.

The durable unit is the row, so a lost worker costs what it had not journalled: its splits,
less the rows that the journal holds, go to another worker. Distribution, placement and the
detection of dead nodes are Ray's.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from overnight.errors import OvernightError, WorkersLostError
from overnight.workers.actor import Assignment, Worker, WorkerInfo
from overnight.workers.cluster import NAMESPACE, ClusterConfig, connected, worker_count
from overnight.workers.piece import Piece
from overnight.workers.progress import PoolProgress

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType
    from typing import Self

    from overnight.engines.base import EngineSpec
    from overnight.plan import Plan
    from overnight.workers.loop import Progress

log = logging.getLogger(__name__)

PREFIX = "engine:"
AHEAD = 2  # splits that a worker holds at once, so that its engine's window stays full
FAILED_STARTS_IN_A_ROW = 5


@dataclass(slots=True)
class _Member:
    """One worker, as the pool sees it."""

    index: int
    handle: Any
    placing: Any
    leasing: Any
    info: WorkerInfo | None = None
    pieces: dict[Any, Piece] = field(default_factory=dict)
    asking: Any = None
    progress: Progress | None = None


class Pool:
    """Workers for one attempt at one partition; use it in `with`.

    `samples` is the progress over time.

    Args:
        config: where workers run.
        spec: the engine that each of them starts.
        report: called every `report_every_s` seconds while rows are inferred.
        report_every_s: seconds between reports.
        name: of the engine; workers of the same name are shared.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        config: ClusterConfig,
        spec: EngineSpec,
        *,
        name: str,
        report: Callable[[PoolProgress], None],
        report_every_s: float = 2.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._config = config
        self._spec = spec
        self._name = f"{PREFIX}{name}"
        self._report = report
        self._report_every_s = report_every_s
        self._clock = clock
        self._started = clock()
        self._lost = 0
        self._failed_starts = 0
        self._waited = 0.0
        self._gone: list[Progress] = []
        self._members: list[_Member] = []
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
            if self._members and not self._stays:
                import ray

                closing = [member.handle.close.remote() for member in self._members]
                ray.wait(closing, num_returns=len(closing), timeout=20)

    def infer(self, plan: Plan, assignment: Assignment) -> list[WorkerInfo]:
        """Have every row of the plan's splits journalled; returns the workers that did it.

        Raises:
            WorkersLostError: if workers keep dying without one row getting done.
            EngineBrokenError: if the engine fails whatever it is given.
            StaleAttemptError: if a newer attempt took over.
            StoreError: if the journal cannot be written.
        """
        if not plan.splits:
            return []
        self._stays = self._ray.enter_context(connected(self._config))
        self._count, self._gpus = worker_count(self._config)
        self._total = sum(split.rows for split in plan.splits)
        self._members = [self._hire(index, assignment) for index in range(self._count)]
        try:
            return self._work(self._members, plan, assignment)
        finally:
            self._release(self._members, assignment.attempt)

    def _hire(self, index: int, assignment: Assignment) -> _Member:
        import ray

        options: dict[str, Any] = {
            "name": f"{self._name}-{index}",
            "namespace": NAMESPACE,
            "get_if_exists": True,
            "max_concurrency": 32,
            "max_restarts": 0,
            "num_cpus": 0 if self._gpus else 1,
            "num_gpus": self._gpus,
            "scheduling_strategy": "SPREAD",
        }
        if self._stays:
            options["lifetime"] = "detached"
        handle: Any = (
            ray.remote(Worker)
            .options(**options)
            .remote(
                self._spec,
                idle_timeout_s=self._config.idle_timeout_s,
                lease_timeout_s=self._config.lease_timeout_s,
                leave=leave,
            )
        )
        return _Member(
            index=index,
            handle=handle,
            placing=handle.placed.remote(),
            leasing=handle.lease.remote(assignment),
        )

    def _work(self, members: list[_Member], plan: Plan, assignment: Assignment) -> list[WorkerInfo]:
        import ray

        hired: list[WorkerInfo] = []
        queue: deque[Piece] = deque()
        planned = False
        reported = self._clock()
        while not planned or queue or any(member.pieces for member in members):
            for member in members:
                while queue and _takes(member, queue[0]):
                    self._hand_out(member, queue.popleft(), plan, assignment)
            waiting = [ref for member in members for ref in _references(member)]
            ready, _ = ray.wait(waiting, num_returns=1, timeout=self._report_every_s / 4)
            for reference in ready:
                at = next(i for i, m in enumerate(members) if reference in _references(m))
                try:
                    self._settle(members[at], reference, _answer(reference), hired)
                except (ray.exceptions.ActorDiedError, ray.exceptions.ActorUnavailableError):
                    members[at] = self._replace(members[at], plan, assignment, queue)
            if hired and not planned:
                # Now that no older attempt is at work, what it left is known.
                queue.extend(self._pieces(plan, assignment))
                planned = True
            if self._clock() - reported >= self._report_every_s:
                reported = self._clock()
                self._ask(members, assignment)
                self._tell(members)
        for member in members:
            # Every row is journalled: a worker that is lost only now is missed by nobody.
            if member.info:
                with contextlib.suppress(ray.exceptions.RayError):
                    member.progress = ray.get(member.handle.progress.remote(assignment.attempt))
        self._tell(members)
        return hired

    def _pieces(self, plan: Plan, assignment: Assignment) -> list[Piece]:
        """The plan's splits less what is journalled by now; cut finer where workers would idle."""
        done = assignment.journal.done().select("input_hash")
        left = [Piece(split).less(done, plan) for split in plan.splits]
        pieces = [piece for piece in left if piece.rows]
        self._total = sum(piece.rows for piece in pieces)
        while pieces and len(pieces) < self._count and max(map(_rows, pieces)) > 1:
            largest = max(pieces, key=_rows)
            pieces.remove(largest)
            pieces.extend(largest.halves(plan))
        return pieces

    def _hand_out(self, member: _Member, piece: Piece, plan: Plan, assignment: Assignment) -> None:
        rows = plan.table(piece.split, piece.hashes)
        reference = member.handle.infer.remote(
            assignment.attempt, f"{assignment.attempt}-{piece.split.index}", rows
        )
        member.pieces[reference] = piece

    def _settle(self, member: _Member, reference: Any, value: Any, hired: list[WorkerInfo]) -> None:
        if reference == member.leasing:
            member.info, member.leasing = value, None
            if not hired:
                self._waited = self._clock() - self._started
            hired.append(value)
            self._failed_starts = 0
            log.info("worker %d is ready on %s (pid %d)", member.index, value.machine, value.pid)
        elif reference == member.placing:
            member.placing = None
        elif reference == member.asking:
            member.progress, member.asking = value, None
        else:
            del member.pieces[reference]

    def _replace(
        self, member: _Member, plan: Plan, assignment: Assignment, queue: deque[Piece]
    ) -> _Member:
        """A worker died: what it had not journalled goes to the front of the queue."""
        self._lost += 1
        self._failed_starts += member.info is None
        if member.progress:
            self._gone.append(member.progress)
        done = assignment.journal.done().select("input_hash")
        remainders = [piece.less(done, plan) for piece in member.pieces.values()]
        lost = [piece for piece in remainders if piece.rows]
        log.warning(
            "worker %d is lost; %d rows that it had not journalled are handed out again",
            member.index,
            sum(piece.rows for piece in lost),
        )
        if self._failed_starts >= FAILED_STARTS_IN_A_ROW:
            raise WorkersLostError(
                f"{self._failed_starts} workers in a row died while they started: see the "
                "workers' own logs in Ray's session directory"
            )
        alone = len(member.pieces) == 1
        for piece in sorted(lost, key=_rows):
            left = piece.after_death(plan, alone=alone)
            queue.extendleft(left)
            if not left:
                self._bury(piece, plan, assignment)
        return self._hire(member.index, assignment)

    def _bury(self, piece: Piece, plan: Plan, assignment: Assignment) -> None:
        row = plan.table(piece.split, piece.hashes)
        reason = f"killed its worker: {piece.deaths} died with this row alone on them"
        record = row.drop_columns(["row", "request"])
        for name, value, kind in (
            ("failure", reason, pa.string()),
            ("run_id", assignment.run_id, pa.string()),
            ("attempt", assignment.attempt, pa.int64()),
            ("machine", None, pa.string()),
        ):
            record = record.append_column(name, pa.array([value], kind))
        for column in self._spec.result_schema:
            record = record.append_column(column.name, pa.nulls(1, column.type))
        writer = assignment.journal.writer(attempt=assignment.attempt, worker="pool")
        try:
            writer.append(record)
            writer.flush()
        finally:
            writer.close()

    def _ask(self, members: list[_Member], assignment: Assignment) -> None:
        """Ask how far workers are, and make room for those that wait for a machine."""
        for member in members:
            if member.info and member.asking is None:
                member.asking = member.handle.progress.remote(assignment.attempt)
        if any(member.placing is not None for member in members):
            make_room(self._name)

    def _tell(self, members: list[_Member]) -> None:
        """Report the sum over the workers, lost ones included."""
        known = [*self._gone, *(member.progress for member in members if member.progress)]
        progress = PoolProgress(
            seconds=self._clock() - self._started,
            rows=sum(p.rows for p in known),
            total=self._total,
            prompt_tokens=sum(p.prompt_tokens for p in known),
            output_tokens=sum(p.output_tokens for p in known),
            in_flight=sum(m.progress.in_flight for m in members if m.progress),
            workers=sum(1 for member in members if member.info),
            lost=self._lost,
            waited=self._waited,
        )
        self.samples.append(progress)
        self._report(progress)

    def _release(self, members: list[_Member], attempt: int) -> None:
        import ray

        references = [member.handle.release.remote(attempt) for member in members if member.info]
        if references:
            ray.wait(references, num_returns=len(references), timeout=10)


def make_room(name: str) -> None:
    """Ask warm engines that nobody uses, other than those of a name, to give up their place."""
    import ray

    for other in ray.util.list_named_actors():
        if other.startswith(PREFIX) and not other.startswith(name):
            with contextlib.suppress(ValueError):
                ray.get_actor(other, namespace=NAMESPACE).make_room.remote()


def leave() -> None:
    """End the actor that this is called in, from any of its threads."""
    import ray

    ray.kill(ray.get_runtime_context().current_actor)


def _answer(reference: Any) -> Any:
    """What a worker answered; what it raised is raised as it was, without Ray's wrapping."""
    import ray

    try:
        return ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, OvernightError):
            raise error.cause from error
        raise


def _references(member: _Member) -> list[Any]:
    single = [ref for ref in (member.placing, member.leasing, member.asking) if ref is not None]
    return [*single, *member.pieces]


def _rows(piece: Piece) -> int:
    return piece.rows


def _takes(member: _Member, piece: Piece) -> bool:
    """Whether a worker has room for a piece; a suspect one needs it for itself."""
    if not member.info or any(held.suspect for held in member.pieces.values()):
        return False
    return len(member.pieces) < (1 if piece.suspect else AHEAD)
