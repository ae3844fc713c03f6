"""A worker as its pool sees it: what it was asked, what it holds, whether it can take more."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

from overnight.workers.machine_time import MachineTime
from overnight.workers.machines import INSTANCE_LABEL, MARKET_LABEL, ZONE_LABEL
from overnight.workers.meter import KINDS
from overnight.workers.progress import Progress

if TYPE_CHECKING:
    from collections.abc import Collection

    from overnight.workers.actor import WorkerInfo
    from overnight.workers.piece import Piece

AHEAD = 2  # pieces that a worker holds at once, so that its engine's window stays full


@dataclass(slots=True)
class Missing:
    """That a worker does not answer.

    Attributes:
        since: when that was noticed, monotonic seconds.
        look_at: when to look for it again, likewise.
        asked: the request to give its lease back, until that is answered.
    """

    since: float
    look_at: float
    asked: Any = None


@dataclass(slots=True, eq=False)
class Member:
    """One worker.

    Attributes:
        name: of the actor.
        handle: the actor.
        market: it was asked for on; None where machines do not say.
        placing: the question where it is, until that is answered.
        leasing: the request for a lease, until that is granted.
        node: Ray's id of its machine, once it has one.
        placed: since when it has had one, monotonic seconds.
        answered: when it last said how far it is, likewise.
        info: of the lease.
        pieces: by what is answered when they are done.
        finishing: those of the answers that a draining worker gives.
        asking: the question how far it is.
        progress: the last answer.
        watching: the question whether its machine goes, from the lease on.
        going: whether it does.
        draining: whether it hands back what it has.
        interrupted: whether its machine was taken away from it.
        gives_way: whether it drains because the policy wants another market.
        missing: whether it does not answer; nobody knows then whether it lives.
        avoids: machines on which it must not be put, by Ray's id.
        replaces: whether it was only needed because another one's machine was taken away.
        labels: of its machine: see `machines`.
        gpus: of its machine.
    """

    name: str
    handle: Any
    market: str | None
    placing: Any
    leasing: Any
    node: str | None = None
    placed: float | None = None
    answered: float | None = None
    info: WorkerInfo | None = None
    pieces: dict[Any, Piece] = field(default_factory=dict)
    finishing: set[Any] = field(default_factory=set)
    asking: Any = None
    progress: Progress | None = None
    watching: Any = None
    going: bool = False
    draining: bool = False
    interrupted: bool = False
    gives_way: bool = False
    missing: Missing | None = None
    avoids: frozenset[str] = frozenset()
    replaces: bool = False
    labels: dict[str, str] = field(default_factory=dict)
    gpus: float = 0.0

    @property
    def stays(self) -> bool:
        """Whether it can be counted on: it answers, and its machine does not go."""
        return not self.going and self.missing is None

    @property
    def ready(self) -> bool:
        """Whether its engine runs and it stays."""
        return self.info is not None and self.stays

    @property
    def advised(self) -> bool:
        """Whether its machine is likely to be taken away."""
        return self.progress is not None and self.progress.advised

    def awaited(self, elsewhere: Collection[str]) -> bool:
        """Whether nobody can take its place before it is known if it lives."""
        return self.missing is not None and not self.going and not elsewhere

    def references(self) -> list[Any]:
        """All that it has not answered yet."""
        if self.missing is not None:
            return [] if self.missing.asked is None else [self.missing.asked]
        single = (self.placing, self.leasing, self.watching, self.asking)
        return [*(ref for ref in single if ref is not None), *self.pieces]

    def hear(self, progress: Progress, now: float) -> None:
        """Note how far it is; what it said before may arrive after that."""
        if self.progress is None or self.progress.rows <= progress.rows:
            self.progress, self.answered = progress, now

    def takes(self, piece: Piece, rows: int) -> bool:
        """Whether it has room for a piece; a suspect one needs it for itself.

        Args:
            piece: that is to be given out.
            rows: it may hold, where small pieces come to fewer.
        """
        held = self.pieces.values()
        if not self.ready or any(one.suspect for one in held):
            return False
        if piece.suspect:
            return not held
        return len(held) < AHEAD or sum(one.rows for one in held) + piece.rows <= rows

    def spent(self, now: float, neighbours: int) -> MachineTime:
        """What its machine was paid for, as far as is known.

        Args:
            now: monotonic seconds; until then the machine of a worker that is gone worked on.
            neighbours: workers on the same machine, itself included: each has its share.
        """
        known = self.progress or Progress()
        seconds = dict.fromkeys(KINDS, 0.0) | known.seconds
        if self.info is None:
            # It waited for its engine to start, and nobody can say how far that was.
            seconds["cold_start"] += max(0.0, now - self.placed) if self.placed else 0.0
        pace = known.output_tokens / seconds["useful"] if seconds["useful"] else 0.0
        share = 1.0 / max(1, neighbours)
        market = {"spot": "spot", "on-demand": "on_demand"}.get(self.labels.get(MARKET_LABEL, ""))
        return MachineTime(
            machine=self.info.machine if self.info else self.name,
            instance_type=self.labels.get(INSTANCE_LABEL),
            zone=self.labels.get(ZONE_LABEL),
            market=cast("Any", market or "unknown"),
            gpus=self.gpus or 1.0,
            useful_s=seconds["useful"] * share,
            recomputed_s=seconds["recomputed"] * share,
            cold_start_s=seconds["cold_start"] * share,
            restart_s=seconds["cold_start"] * share if self.replaces else 0.0,
            idle_s=seconds["idle"] * share,
            draining_s=seconds["draining"] * share,
            rows=known.rows,
            prompt_tokens=known.prompt_tokens,
            output_tokens=known.output_tokens,
            recomputed_tokens=round(pace * seconds["recomputed"]),
            interruptions=int(self.interrupted),
        )
