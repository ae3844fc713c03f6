"""The dead letters of a partition's newest attempt that was audited, published or not.

A partition with too many dead letters is not published; theirs are the ones that a person has
to read.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import polars as pl
import sqlalchemy as sa

if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import Sequence

__all__ = ["DeadLetter", "as_frame", "newest_dead_letters", "partitions_tried"]

_QUERY = """
SELECT d.partition_key, d.key, d.reason, d.run_id, d.machine, d.inferred_attempt,
       d.input_hash, i.uri AS file, d.line, a.outcome = 'published' AS published,
       dropped.asked_at AS dropped_at, dropped.asked_by AS dropped_by,
       dropped.reason AS dropped_because
FROM lineage.dead_letters d
JOIN lineage.attempts a ON a.attempt = d.attempt
JOIN (
    SELECT max(attempt) AS attempt FROM lineage.attempts
    WHERE dead_lettered IS NOT NULL GROUP BY job, partition_key
) newest ON newest.attempt = d.attempt
LEFT JOIN lineage.inputs i ON i.attempt = d.attempt AND i.input_id = d.input_id
LEFT JOIN LATERAL (
    SELECT r.asked_at, r.asked_by, r.reason FROM lineage.repairs r
    WHERE r.action = 'drop' AND r.job = d.job AND r.partition_key = d.partition_key
    AND r.input_hash = d.input_hash AND r.inferred_attempt >= d.inferred_attempt
    ORDER BY r.asked_at DESC LIMIT 1
) dropped ON true
WHERE d.job = :job AND (cast(:partition AS text) IS NULL OR d.partition_key = :partition)
ORDER BY d.partition_key, i.uri, d.line, d.key
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetter:
    """A row that could not be inferred.

    Attributes:
        partition_key: its partition.
        key: its key.
        reason: why it could not be inferred.
        run_id: the run that tried.
        machine: the machine that tried.
        inferred_attempt: the attempt that tried.
        input_hash: digest of the row and its request.
        file: the landing file; None if it is not on record.
        line: the row in the file, counted from 1.
        published: whether the others of its partition were published without it.
        dropped_at: when somebody decided to do without it; None if nobody did.
        dropped_by: who.
        dropped_because: why.
    """

    partition_key: str
    key: str
    reason: str
    run_id: str | None
    machine: str | None
    inferred_attempt: int
    input_hash: bytes
    file: str | None
    line: int | None
    published: bool
    dropped_at: dt.datetime | None
    dropped_by: str | None
    dropped_because: str | None


def newest_dead_letters(
    connection: sa.Connection, job: str, partition: str | None = None
) -> list[DeadLetter]:
    """A job's dead letters as of the newest audited attempt of each partition, or of one."""
    bound = {"job": job, "partition": partition}
    rows = connection.execute(sa.text(_QUERY), bound).mappings()
    return [DeadLetter(**{**row, "input_hash": bytes(row["input_hash"])}) for row in rows]


def as_frame(letters: Sequence[DeadLetter]) -> pl.DataFrame:
    """Dead letters as `overnight.lineage.repairs.decide` takes them."""
    return pl.DataFrame(
        [(one.partition_key, one.key, one.input_hash, one.inferred_attempt) for one in letters],
        schema={
            "partition_key": pl.String,
            "key": pl.String,
            "input_hash": pl.Binary,
            "inferred_attempt": pl.Int64,
        },
        orient="row",
    )


def partitions_tried(connection: sa.Connection, jobs: Sequence[str]) -> list[str]:
    """The partitions that jobs have ever worked on, the newest first."""
    query = sa.text(
        "SELECT DISTINCT partition_key FROM lineage.partitions "
        "WHERE job = ANY(:jobs) ORDER BY 1 DESC"
    )
    return list(connection.execute(query, {"jobs": list(jobs)}).scalars())
