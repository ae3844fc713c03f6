"""The pool: hands splits to workers and sees that every row of a plan ends in the journal.

The durable unit is the row, so a lost worker costs what it had not journalled: its splits,
less the rows that the journal holds, go to another worker. Distribution, placement and the
detection of dead nodes are Ray's.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import itertools
import logging
import time
from collections import deque
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import polars as pl
import pyarrow as pa

from overnight.crashpoints import reach, register
from overnight.engines.base import PARTIAL, ResumableSpec
from overnight.errors import (
    DeadlineMissedError,
    DrainingError,
    InterruptedRunError,
    OvernightError,
    WorkersLostError,
)
from overnight.workers.actor import Assignment, Worker, WorkerInfo
from overnight.workers.cluster import NAMESPACE, ClusterConfig, connected, worker_count
from overnight.workers.machines import (
    MARKET_LABEL,
    ZONE_LABEL,
    alive_nodes,
    has_markets,
    say_draining,
    taken_away,
)
from overnight.workers.member import Member
from overnight.workers.meter import KINDS
from overnight.workers.piece import Piece
from overnight.workers.progress import Histogram, PoolProgress, joined

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from types import TracebackType
    from typing import Self

    from overnight.engines.base import EngineSpec
    from overnight.plan import Plan
    from overnight.workers.buying import Buyer
    from overnight.workers.machine_time import MachineTime

log = logging.getLogger(__name__)

_GIVING, _GIVEN = "pool.before_hand_out", "pool.after_hand_out"
_REQUEUING, _REQUEUED = "pool.before_requeue", "pool.after_requeue"
register(_GIVING, _GIVEN, _REQUEUING, _REQUEUED)

PREFIX = "engine:"
FAILED_STARTS_IN_A_ROW = 5
LOST_S = 0.1  # of work that a worker without notice had not flushed: see the journal's interval
VERDICT_S = 30.0  # within which Ray knows whether a worker that does not answer is dead


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
        self._name = f"{PREFIX}{name}"
        self._report = report
        self._report_every_s = report_every_s
        self._clock = clock
        self._started = clock()
        self._retry_on_interrupt = retry_on_interrupt
        self._buyer = buyer
        self._note = note
        self._market: str | None = None
        self._ends_at = None if ends_in_s is None else clock() + ends_in_s
        self._lost = 0
        self._interrupted = 0
        self._replaced = 0
        self._failed_starts = 0
        self._queue: deque[Piece] = deque()
        self._planned = False
        self._begun: dict[bytes, Any] = {}
        self._refused: set[str] = set()
        self._waited = 0.0
        self._gone: list[Member] = []
        self._members: list[Member] = []
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
        self._stays = self._ray.enter_context(connected(self._config))
        self._total = sum(split.rows for split in plan.splits)
        self._plan, self._assignment = plan, assignment
        try:
            self._hire_missing()
            return self._work()
        finally:
            self._release(assignment.attempt)

    def _hire_missing(self) -> None:
        """As many workers as the cluster carries now; those that run already come first."""
        import ray

        self._market = self._choose_market()
        self._replace_others()
        count, self._gpus = worker_count(
            self._config, without=self._going_nodes(), market=self._market
        )
        prefix = f"{self._name}-{self._market}-" if self._market else f"{self._name}-"
        taken = {member.name for member in self._members} | self._refused
        warm = [n for n in ray.util.list_named_actors() if n.removeprefix(prefix).isdecimal()]
        names = itertools.chain(sorted(warm), (f"{prefix}{n}" for n in itertools.count()))
        while sum(self._wanted(member) for member in self._members) < count:
            name = next(name for name in names if name not in taken)
            taken.add(name)
            member = self._hire(name)
            # Those that come for machines that were taken away start their engines for it.
            member.replaces = self._replaced < self._interrupted
            self._replaced += member.replaces
            self._members.append(member)

    def _wanted(self, member: Member) -> bool:
        return not member.going and not member.gives_way and member.market == self._market

    def _choose_market(self) -> str | None:
        if self._buyer is None or not has_markets():
            return None
        done = sum(m.progress.rows for m in (*self._gone, *self._members) if m.progress)
        spent = sum(
            m.progress.seconds.get("useful", 0.0)
            for m in (*self._gone, *self._members)
            if m.progress
        )
        return self._buyer.decide(
            self._members,
            left=self._rows_left(),
            total=self._total,
            pace=done / spent if done and spent else None,
        )

    def _replace_others(self) -> None:
        """Workers of another market give way: at once if they wait, else when others are ready."""
        import ray

        others = [m for m in self._members if m.market != self._market and not m.going]
        for member in others:
            if member.node is None:
                ray.kill(member.handle)
                self._members.remove(member)
            elif not member.gives_way and any(m.ready and self._wanted(m) for m in self._members):
                member.gives_way = True
                member.handle.give_way.remote()

    def _going_nodes(self) -> set[str]:
        # Until Ray misses a machine, which takes a while, it counts those that are gone, too.
        lost = {member.node for member in self._gone if member.interrupted and member.node}
        return lost | {member.node for member in self._members if member.going and member.node}

    def _hire(self, name: str) -> Member:
        import ray

        options: dict[str, Any] = {
            "name": name,
            "namespace": NAMESPACE,
            "get_if_exists": True,
            "max_concurrency": 128,
            "max_restarts": 0,
            "num_cpus": 0 if self._gpus else 1,
            "num_gpus": self._gpus,
            "scheduling_strategy": "SPREAD",
        }
        if self._stays:
            options["lifetime"] = "detached"
        if self._buyer is not None and self._market is not None:
            options["label_selector"] = self._buyer.selector(self._market)
        handle: Any = (
            ray.remote(Worker)
            .options(**options)
            .remote(
                self._spec,
                idle_timeout_s=self._config.idle_timeout_s,
                lease_timeout_s=self._config.lease_timeout_s,
                leave=leave,
                tell=say_draining,
                place=placed_on,
            )
        )
        return Member(
            name=name,
            handle=handle,
            market=self._market,
            placing=handle.placed.remote(),
            leasing=handle.lease.remote(self._assignment),
        )

    def _work(self) -> list[WorkerInfo]:
        import ray

        hired: list[WorkerInfo] = []
        queue = self._queue
        reported = self._clock()
        while not self._planned or queue or any(member.pieces for member in self._members):
            self._check_deadline()
            self._hand_out_all()
            waiting = [ref for member in self._members for ref in member.references()]
            ready, _ = ray.wait(waiting, num_returns=1, timeout=self._report_every_s / 4)
            for reference in ready:
                member = next(m for m in self._members if reference in m.references())
                try:
                    self._settle(member, reference, _answer(reference), hired)
                except DrainingError as error:
                    self._take_back(member, reference, error)
                except (ray.exceptions.ActorDiedError, ray.exceptions.ActorUnavailableError) as e:
                    self._lose(member, _verdict(member, e))
            if hired and not self._planned:
                # Now that no older attempt is at work, what it left is known.
                queue.extend(self._pieces())
                self._planned = True
            if self._clock() - reported >= self._report_every_s:
                reported = self._clock()
                self._hire_missing()
                self._ask()
                self._tell()
        for member in self._members:
            self._ask_last(member)
        self._tell()
        return hired

    def _check_deadline(self) -> None:
        if self._ends_at is not None and self._clock() >= self._ends_at:
            raise DeadlineMissedError(
                f"the deadline has passed with {self._rows_left()} of {self._total} rows to go; "
                "what was inferred is kept: run the partition again to go on from there"
            )

    def _rows_left(self) -> int:
        held = [piece for member in self._members for piece in member.pieces.values()]
        return sum(piece.rows for piece in (*self._queue, *held)) if self._planned else self._total

    def _pieces(self) -> list[Piece]:
        """The plan's splits less what is journalled by now; cut finer where workers would idle."""
        done = self._assignment.journal.done().select("input_hash")
        left = [Piece(split).less(done, self._plan) for split in self._plan.splits]
        pieces = [piece for piece in left if piece.rows]
        self._total = sum(piece.rows for piece in pieces)
        while pieces and len(pieces) < len(self._members) and max(map(_rows, pieces)) > 1:
            largest = max(pieces, key=_rows)
            pieces.remove(largest)
            pieces.extend(largest.halves(self._plan))
        self._read_partials()
        return pieces

    def _read_partials(self) -> None:
        """Learn how far rows were when they were interrupted."""
        if not isinstance(self._spec, ResumableSpec) or self._spec.partial_type is None:
            return
        table = self._assignment.journal.partials()
        if table is not None and table.schema.field(PARTIAL).type == self._spec.partial_type:
            self._begun = dict(
                zip(table["input_hash"].to_pylist(), table[PARTIAL].to_pylist(), strict=True)
            )

    def _hand_out_all(self) -> None:
        safe = any(member.ready and not member.advised for member in self._members)
        for member in self._members:
            if member.advised and safe:
                continue
            while self._queue and member.takes(self._queue[0]):
                self._hand_out(member, self._queue.popleft())

    def _hand_out(self, member: Member, piece: Piece) -> None:
        rows = self._plan.table(piece.split, piece.hashes)
        if self._begun and isinstance(self._spec, ResumableSpec):
            begun = [self._begun.get(h) for h in rows["input_hash"].to_pylist()]
            if any(begun):
                rows = rows.append_column(PARTIAL, pa.array(begun, self._spec.partial_type))
        attempt = self._assignment.attempt
        reach(_GIVING)
        reference = member.handle.infer.remote(attempt, f"{attempt}-{piece.split.index}", rows)
        member.pieces[reference] = piece
        reach(_GIVEN)

    def _settle(self, member: Member, reference: Any, value: Any, hired: list[WorkerInfo]) -> None:
        if reference == member.leasing:
            member.info, member.leasing = value, None
            if not hired:
                self._waited = self._clock() - self._started
            hired.append(value)
            self._failed_starts = 0
            log.info("%s is ready on %s (pid %d)", member.name, value.machine, value.pid)
            member.watching = member.handle.going.remote(self._assignment.attempt)
            self._relieve()
        elif reference == member.placing:
            member.node, member.placing, member.placed = value, None, self._clock()
            machine = alive_nodes().get(value, {})
            member.labels = machine.get("Labels", {})
            member.gpus = machine.get("Resources", {}).get("GPU", 0.0)
        elif reference == member.watching:
            member.watching = None
            if value:
                self._goes(member, value)
        elif reference == member.asking:
            member.progress, member.asking, member.answered = value, None, self._clock()
        else:
            piece = member.pieces.pop(reference)
            if reference in member.finishing:
                self._requeue([piece])
                self._dismiss_if_done(member)

    def _goes(self, member: Member, why: str) -> None:
        """A worker's machine goes: another one is hired, and takes over when it is ready."""
        if not member.going:
            member.going = True
            if not member.gives_way:
                self._interrupted_by(member, f"loses its machine: {why}")
            self._hire_missing()
        self._relieve()

    def _relieve(self) -> None:
        """Those whose machines go hand their rows back once there is somebody to take them."""
        if any(self._wanted(member) and member.ready for member in self._members):
            for member in self._members:
                if member.going and not member.draining:
                    member.handle.drain.remote()

    def _take_back(self, member: Member, reference: Any, error: DrainingError) -> None:
        """A worker drains: what it does not finish goes to the others, now."""
        piece = member.pieces.pop(reference, None)
        member.draining = True
        if reference == member.leasing:
            member.leasing = None
        self._goes(member, "it drains")
        if piece is not None:
            hashes = pl.DataFrame({"input_hash": list(error.finishing)}, schema=_HASHES)
            self._requeue([piece.less(hashes, self._plan)])
            if hashes.height:
                still = member.handle.drained.remote(self._assignment.attempt)
                member.pieces[still] = piece.only(hashes, self._plan)
                member.finishing.add(still)
        self._dismiss_if_done(member)

    def _dismiss_if_done(self, member: Member) -> None:
        """A drained worker is not needed any more, and should end before its machine does."""
        if member.draining and not member.pieces:
            self._refused.add(member.name)
            self._ask_last(member)
            self._forget(member)
            member.handle.release.remote(self._assignment.attempt)

    def _requeue(self, pieces: list[Piece]) -> None:
        """Give what is left of pieces out again, first of all, the largest first."""
        reach(_REQUEUING)
        done = self._assignment.journal.done().select("input_hash")
        left = [piece.less(done, self._plan) for piece in pieces]
        self._read_partials()
        self._queue.extendleft(sorted((p for p in left if p.rows), key=_rows))
        reach(_REQUEUED)

    def _forget(self, member: Member) -> None:
        self._members.remove(member)
        self._gone.append(member)

    def spent(self) -> list[MachineTime]:
        """What the attempt's machines did, for the ledger."""
        everyone = [*self._gone, *self._members]
        now = self._clock()
        return [
            member.spent(now, sum(other.node == member.node for other in self._members))
            for member in everyone
            if member.node is not None
        ]

    def _interrupted_by(self, member: Member, what: str) -> None:
        if member.node is None:
            log.warning("%s %s before it had begun", member.name, what)
            return
        self._interrupted += 1
        member.interrupted = True
        log.warning("%s %s", member.name, what)
        self._note(
            {
                "decision": "interruption",
                "at": dt.datetime.now(tz=dt.UTC).isoformat(timespec="seconds"),
                "machine": member.info.machine if member.info else None,
                "market": member.labels.get(MARKET_LABEL),
                "zone": member.labels.get(ZONE_LABEL),
                "reason": f"{member.name} {what}",
                "rows_left": self._rows_left(),
            }
        )
        if not self._retry_on_interrupt:
            raise InterruptedRunError(
                f"{member.name} {what}, and the job has retry_on_interrupt=False; what was "
                "inferred is kept: run the partition again to go on from there"
            )

    def _lose(self, member: Member, error: BaseException) -> None:
        """A worker is gone: what it had not journalled goes to the front of the queue."""
        self._lost += 1
        self._forget(member)
        self._book_lost(member)
        pieces = list(member.pieces.values())
        if member.going or taken_away(member.node, error):
            # Until Ray misses the machine, it gives whoever asks by this name the dead worker.
            self._refused.add(member.name)
            self._requeue(pieces)
            if not member.going:
                self._interrupted_by(member, "is lost with its machine")
        else:
            self._suspect(member, pieces)
        self._hire_missing()

    def _book_lost(self, member: Member) -> None:
        """It worked until now, as far as anybody knows; what it had not flushed is lost."""
        if member.progress is None or member.answered is None:
            return
        since = self._clock() - member.answered
        lost = min(since, LOST_S)
        seconds = dict.fromkeys(KINDS, 0.0) | member.progress.seconds
        seconds["useful"] += since - lost
        seconds["recomputed"] += lost
        member.progress = replace(member.progress, seconds=seconds)

    def _suspect(self, member: Member, pieces: list[Piece]) -> None:
        """A worker died on a machine that lives: perhaps of one of its rows."""
        self._failed_starts += member.info is None
        done = self._assignment.journal.done().select("input_hash")
        lost = [left for piece in pieces if (left := piece.less(done, self._plan)).rows]
        log.warning(
            "%s is lost; %d rows that it had not journalled are handed out again",
            member.name,
            sum(piece.rows for piece in lost),
        )
        if self._failed_starts >= FAILED_STARTS_IN_A_ROW:
            raise WorkersLostError(
                f"{self._failed_starts} workers in a row died while they started: see the "
                "workers' own logs in Ray's session directory"
            )
        self._read_partials()
        for piece in sorted(lost, key=_rows):
            again = piece.after_death(self._plan, alone=len(pieces) == 1)
            self._queue.extendleft(again)
            if not again:
                self._bury(piece, self._plan, self._assignment)

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

    def _ask(self) -> None:
        """Ask how far workers are, and make room for those that wait for a machine."""
        for member in self._members:
            if member.info and not member.draining and member.asking is None:
                member.asking = member.handle.progress.remote(self._assignment.attempt)
        if any(member.placing is not None for member in self._members):
            make_room(self._name)

    def _ask_last(self, member: Member) -> None:
        """How far it got in the end; one that is lost only now is missed by nobody."""
        import ray

        if member.info:
            with contextlib.suppress(ray.exceptions.RayError, OvernightError):
                asked = member.handle.progress.remote(self._assignment.attempt)
                member.progress, member.answered = _answer(asked), self._clock()

    def _tell(self) -> None:
        """Report the sum over the workers, lost ones included."""
        members = self._members
        known = [m.progress for m in (*self._gone, *members) if m.progress]
        progress = PoolProgress(
            seconds=self._clock() - self._started,
            rows=sum(p.rows for p in known),
            total=self._total,
            prompt_tokens=sum(p.prompt_tokens for p in known),
            output_tokens=sum(p.output_tokens for p in known),
            in_flight=sum(m.progress.in_flight for m in members if m.progress),
            workers=sum(1 for member in members if member.ready),
            lost=self._lost,
            waited=self._waited,
            interrupted=self._interrupted,
            waiting=sum(m.progress.waiting for m in members if m.progress),
            ttft=sum((p.ttft for p in known), Histogram()),
            latency=sum((p.latency for p in known), Histogram()),
            gauges=joined([m.progress.gauges for m in members if m.progress]),
        )
        self.samples.append(progress)
        self._report(progress)

    def _release(self, attempt: int) -> None:
        import ray

        references = [m.handle.release.remote(attempt) for m in self._members if m.info]
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


def _verdict(member: Member, error: Exception) -> Exception:
    """What a worker that did not answer died of.

    A broken connection tells less than Ray knows a moment later: whether the machine is gone.
    """
    import ray

    deadline = time.monotonic() + VERDICT_S
    while isinstance(error, ray.exceptions.ActorUnavailableError):
        left = deadline - time.monotonic()
        try:
            ray.get(member.handle.placed.remote(), timeout=max(0.1, left))
        except ray.exceptions.RayError as newer:
            if left <= 0 or not isinstance(newer, ray.exceptions.ActorUnavailableError):
                return newer
            time.sleep(0.1)  # between two questions
        else:
            return error  # what it was asked is lost all the same
    return error


def placed_on() -> str:
    """Ray's id of the machine that this is called on."""
    import ray

    node: str = ray.get_runtime_context().get_node_id()
    return node


def _rows(piece: Piece) -> int:
    return piece.rows


_HASHES = {"input_hash": pl.Binary}
