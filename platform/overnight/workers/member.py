"""A worker as its pool sees it: what it was asked, what it holds, whether it can take more."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from overnight.workers.actor import WorkerInfo
    from overnight.workers.piece import Piece
    from overnight.workers.progress import Progress

AHEAD = 2  # splits that a worker holds at once, so that its engine's window stays full


@dataclass(slots=True)
class Member:
    """One worker.

    Attributes:
        name: of the actor.
        handle: the actor.
        hired: when it was asked for, monotonic seconds.
        placing: the question where it is, until that is answered.
        leasing: the request for a lease, until that is granted.
        node: Ray's id of its machine, once it has one.
        info: of the lease.
        pieces: by what is answered when they are done.
        finishing: those of the answers that a draining worker gives.
        asking: the question how far it is.
        progress: the last answer.
        draining: whether its machine goes.
    """

    name: str
    handle: Any
    hired: float
    placing: Any
    leasing: Any
    node: str | None = None
    info: WorkerInfo | None = None
    pieces: dict[Any, Piece] = field(default_factory=dict)
    finishing: set[Any] = field(default_factory=set)
    asking: Any = None
    progress: Progress | None = None
    draining: bool = False

    @property
    def ready(self) -> bool:
        """Whether its engine runs and its machine stays."""
        return self.info is not None and not self.draining

    @property
    def advised(self) -> bool:
        """Whether its machine is likely to be taken away."""
        return self.progress is not None and self.progress.advised

    def references(self) -> list[Any]:
        """All that it has not answered yet."""
        single = [ref for ref in (self.placing, self.leasing, self.asking) if ref is not None]
        return [*single, *self.pieces]

    def takes(self, piece: Piece) -> bool:
        """Whether it has room for a piece; a suspect one needs it for itself."""
        if not self.ready or any(held.suspect for held in self.pieces.values()):
            return False
        return len(self.pieces) < (1 if piece.suspect else AHEAD)
