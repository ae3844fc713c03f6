"""How far the attempts are that run now: kept in `lineage.progress`, read by whoever watches.

What is told here is for people and monitoring. Nothing depends on it: a warehouse that does not
take it for a moment costs a line in the log.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert

from overnight.errors import OvernightError
from overnight.lineage import tables
from overnight.lineage.lease import held_leases, lease_key
from overnight.progress import speed

if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import Callable, Mapping

    from overnight.lineage.record import Attempt
    from overnight.warehouse.connect import Warehouse
    from overnight.workers.progress import PoolProgress

__all__ = ["EVERY_S", "Running", "Teller", "running"]

EVERY_S = 4.0

_log = logging.getLogger(__name__)


class Teller:
    """Keeps an attempt's row in `lineage.progress` up to date.

    Args:
        warehouse: where to.
        attempt: whose progress it is.
        clock: monotonic seconds.
    """

    def __init__(
        self, warehouse: Warehouse, attempt: Attempt, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._warehouse = warehouse
        self._attempt = attempt
        self._clock = clock
        self._told_at = clock()
        self._before: PoolProgress | None = None

    def __call__(self, progress: PoolProgress) -> None:
        """Tell, unless that was done a moment ago; short work is never told."""
        if self._clock() - self._told_at < EVERY_S:
            return
        rows_per_s, tokens_per_s = speed(progress, self._before)
        self._told_at, self._before = self._clock(), progress
        state = {
            "told_at": sa.func.now(),
            "seconds": progress.seconds,
            "rows": progress.rows,
            "total": progress.total,
            "rows_per_s": rows_per_s,
            "tokens_per_s": tokens_per_s,
            "prompt_tokens": progress.prompt_tokens,
            "output_tokens": progress.output_tokens,
            "in_flight": progress.in_flight,
            "waiting": progress.waiting,
            "workers": progress.workers,
            "lost": progress.lost,
            "interrupted": progress.interrupted,
            "gauges": dict(progress.gauges),
            "ttft": list(progress.ttft.counts),
            "latency": list(progress.latency.counts),
        }
        row = insert(tables.progress).values(attempt=self._attempt.attempt, **state)
        try:
            with self._warehouse.begin() as connection:
                connection.execute(
                    row.on_conflict_do_update(index_elements=["attempt"], set_=state)
                )
        except OvernightError as error:
            _log.info("progress is not on record: %s", error)


@dataclass(frozen=True, slots=True, kw_only=True)
class Running:
    """An attempt without an end.

    Attributes:
        attempt: its number.
        run_id: the orchestrator's run.
        job: the inference job.
        partition_key: the partition.
        machine: where its driver runs.
        started_at: when it began.
        alive: whether it still holds the partition's lease; if not, its process is gone.
        progress: its row in `lineage.progress`, by column; empty until it has told anything.
    """

    attempt: int
    run_id: str
    job: str
    partition_key: str
    machine: str | None
    started_at: dt.datetime
    alive: bool
    progress: Mapping[str, Any]

    @property
    def eta_s(self) -> float | None:
        """Seconds until its last row is inferred, at the present speed; None if unknown."""
        if not self.progress.get("rows_per_s"):
            return None
        left = self.progress["total"] - self.progress["rows"]
        return float(left / self.progress["rows_per_s"])


def running(connection: sa.Connection) -> list[Running]:
    """The attempts that have no end on record and are their partition's newest, oldest first."""
    attempts, told = tables.attempts, tables.progress
    newest = tables.partitions.c.token == attempts.c.attempt
    query = (
        sa.select(attempts, *(column.label(f"told_{column.name}") for column in told.columns))
        .join(tables.partitions, newest)
        .outerjoin(told, told.c.attempt == attempts.c.attempt)
        .where(attempts.c.outcome == "running")
        .order_by(attempts.c.attempt)
    )
    leases = held_leases(connection)
    return [
        Running(
            attempt=row["attempt"],
            run_id=row["run_id"],
            job=row["job"],
            partition_key=row["partition_key"],
            machine=row["machine"],
            started_at=row["started_at"],
            alive=lease_key(row["job"], row["partition_key"]) in leases,
            progress={}
            if row["told_attempt"] is None
            else {column.name: row[f"told_{column.name}"] for column in told.columns},
        )
        for row in connection.execute(query).mappings()
    ]
