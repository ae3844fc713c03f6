"""What is still to be inferred: pieces of splits, handed to workers and taken back from them.

The durable unit is the row: whatever comes back is handed out again less the rows that the
journal holds by then.
"""

from __future__ import annotations

import logging
import math
from collections import deque
from typing import TYPE_CHECKING, Any

import polars as pl
import pyarrow as pa

from overnight.crashpoints import reach, register
from overnight.engines.base import PARTIAL, ResumableSpec
from overnight.workers.piece import DEATHS_TO_BURY, DEATHS_TO_HALVE, Piece

if TYPE_CHECKING:
    from collections.abc import Iterable

    from overnight.engines.base import EngineSpec
    from overnight.plan import Plan
    from overnight.workers.actor import Assignment
    from overnight.workers.member import Member

log = logging.getLogger(__name__)

PIECES = 4
"""Pieces for each of several workers: those that start late, or are slow, have fewer."""
LEAST_ROWS = 16
"""Of a piece, unless workers would idle."""

_GIVING, _GIVEN = "pool.before_hand_out", "pool.after_hand_out"
_REQUEUING, _REQUEUED = "pool.before_requeue", "pool.after_requeue"
register(_GIVING, _GIVEN, _REQUEUING, _REQUEUED)


class Backlog:
    """The rows of a plan that an attempt has to see journalled.

    Args:
        spec: the engine; whether rows can go on where they were interrupted.
        plan: the rows.
        assignment: the attempt, and its journal.

    Attributes:
        total: rows to infer.
        planned: whether it is known what older attempts left to do.
    """

    def __init__(self, spec: EngineSpec, plan: Plan, assignment: Assignment) -> None:
        self._spec = spec
        self._plan, self._assignment = plan, assignment
        self._queue: deque[Piece] = deque()
        self._begun: dict[bytes, Any] = {}
        self.total = sum(split.rows for split in plan.splits)
        self._largest = 0
        self.planned = False

    def begin(self, workers: int) -> None:
        """No older attempt is at work any more: what it left is known now.

        Args:
            workers: among whom the rows are to be shared evenly, those that come late included.
        """
        self._queue.extend(self._pieces(workers))
        self.planned = True

    def is_done(self, members: Iterable[Member]) -> bool:
        """Whether every row is journalled."""
        return self.planned and not self._queue and not any(m.pieces for m in members)

    def left(self, members: Iterable[Member]) -> int:
        """Rows that are not known to be journalled, those that the workers hold included."""
        held = [piece for member in members for piece in member.pieces.values()]
        return sum(piece.rows for piece in (*self._queue, *held)) if self.planned else self.total

    def hand_out(self, members: list[Member]) -> None:
        """Give workers as much as they take; none to those whose machines may go, if others can.

        While others are still to come, each has no more of its share than keeps it busy.
        """
        safe = any(member.ready and not member.advised for member in members)
        counted = [member for member in members if member.stays]
        share = min(self._largest, math.ceil(self.total / max(1, len(counted))))
        complete = all(member.ready for member in counted)
        for member in members:
            if member.advised and safe:
                continue
            rows = share
            if member.info is not None and not complete:
                rows = min(share, member.info.capacity // 2)
            while self._queue and member.takes(self._queue[0], rows):
                self._hand_out(member, self._queue.popleft())

    def requeue(self, pieces: list[Piece]) -> None:
        """Give what is left of pieces out again, first of all, the largest first."""
        reach(_REQUEUING)
        done = self._assignment.journal.done().select("input_hash")
        left = [piece.less(done, self._plan) for piece in pieces]
        self._read_partials()
        self._queue.extendleft(sorted((p for p in left if p.rows), key=_rows))
        reach(_REQUEUED)

    def requeue_rest(self, piece: Piece, finishing: Iterable[bytes]) -> Piece | None:
        """Give a piece out again, less what its worker still finishes; that part of it, if any."""
        hashes = pl.DataFrame({"input_hash": list(finishing)}, schema=_HASHES)
        self.requeue([piece.less(hashes, self._plan)])
        return piece.only(hashes, self._plan) if hashes.height else None

    def retry(self, pieces: list[Piece]) -> int:
        """Go on with pieces whose worker died, perhaps of one of their rows; how many rows."""
        done = self._assignment.journal.done().select("input_hash")
        lost = [left for piece in pieces if (left := piece.less(done, self._plan)).rows]
        self._read_partials()
        for piece in sorted(lost, key=_rows):
            again = piece.after_death(self._plan, alone=len(pieces) == 1)
            self._queue.extendleft(again)
            if not again:
                self._bury(piece)
        return sum(piece.rows for piece in lost)

    def _pieces(self, workers: int) -> list[Piece]:
        """The plan's splits less what is journalled by now; cut finer if there are few for many."""
        done = self._assignment.journal.done().select("input_hash")
        left = [Piece(split).less(done, self._plan) for split in self._plan.splits]
        pieces = [piece for piece in left if piece.rows]
        self.total = sum(piece.rows for piece in pieces)
        self._largest = max(map(_rows, pieces), default=0)
        enough = workers * PIECES if workers > 1 else 1
        while pieces and len(pieces) < enough:
            largest = max(pieces, key=_rows)
            if largest.rows < (2 if len(pieces) < workers else 2 * LEAST_ROWS):
                break
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

    def _bury(self, piece: Piece) -> None:
        plan, assignment = self._plan, self._assignment
        row = plan.table(piece.split, piece.hashes)
        reason = (
            f"killed its worker: the last {DEATHS_TO_BURY - DEATHS_TO_HALVE} died with this row "
            "alone on them"
        )
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


def _rows(piece: Piece) -> int:
    return piece.rows


_HASHES = {"input_hash": pl.Binary}
