"""What led to a publication: the attempts it took, their interruptions, the rejects on the way."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import sqlalchemy as sa

if TYPE_CHECKING:
    from collections.abc import Sequence

    from overnight.warehouse.connect import Warehouse

__all__ = ["RejectedFile", "Trail", "trail_of"]

FILES = 10

# Attempts since the publication before: an attempt that was killed counts as an interruption,
# beside the machines that were taken away from attempts.
_ATTEMPTS = sa.text(
    """
    SELECT count(*) AS attempts,
        count(*) FILTER (WHERE a.outcome = 'interrupted') + coalesce(sum(taken.away), 0)
            AS interruptions,
        count(*) FILTER (WHERE a.outcome = 'failed') AS failures
    FROM lineage.attempts a
    CROSS JOIN LATERAL (
        SELECT count(*) AS away FROM jsonb_array_elements(a.decisions) d
        WHERE d ->> 'decision' = 'interruption'
    ) taken
    WHERE a.job = :job AND a.partition_key = :partition AND a.attempt <= :attempt
        AND a.attempt > coalesce((
            SELECT max(r.attempt) FROM lineage.runs r
            WHERE r.job = :job AND r.partition_key = :partition AND r.attempt < :attempt
        ), 0)
    """
)
_REJECTS = sa.text(
    "SELECT source, file, count(DISTINCT line) AS rows FROM lineage.rejects "
    "WHERE attempt = :attempt GROUP BY source, file ORDER BY rows DESC, file LIMIT :files"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class RejectedFile:
    """A landing file with rejects.

    Attributes:
        source: the source it belongs to.
        file: where it is.
        rows: how many of its rows are rejects, as far as they are on record.
    """

    source: str
    file: str
    rows: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Trail:
    """What led to a publication.

    Attributes:
        attempts: since the publication before, the one that published included.
        failures: how many of them failed.
        interruptions: processes and machines that were taken away from them.
        rejected: the files with the most rejects.
    """

    attempts: int = 1
    failures: int = 0
    interruptions: int = 0
    rejected: Sequence[RejectedFile] = ()


def trail_of(warehouse: Warehouse, *, job: str, partition_key: str, attempt: int) -> Trail:
    """What led to the publication of an attempt."""
    what = {"job": job, "partition": partition_key, "attempt": attempt}
    with warehouse.connect() as connection:
        tried = connection.execute(_ATTEMPTS, what).one()
        files = connection.execute(_REJECTS, {"attempt": attempt, "files": FILES}).all()
    return Trail(
        attempts=tried.attempts,
        failures=tried.failures,
        interruptions=int(tried.interruptions),
        rejected=tuple(RejectedFile(source=f.source, file=f.file, rows=f.rows) for f in files),
    )
