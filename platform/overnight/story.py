"""What happened to a partition, in order, in words: read from lineage for `overnight why`."""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

__all__ = ["story"]

_ATTEMPTS = """
SELECT a.*, r.published, r.inference_seconds, l.dollars, l.interruptions, l.recomputed_tokens
FROM lineage.attempts a
LEFT JOIN lineage.runs r ON r.attempt = a.attempt
LEFT JOIN (
    SELECT attempt, sum(dollars) AS dollars, sum(interruptions) AS interruptions,
           sum(recomputed_tokens) AS recomputed_tokens
    FROM lineage.ledger GROUP BY attempt
) l ON l.attempt = a.attempt
WHERE a.job = :job AND a.partition_key = :partition ORDER BY a.attempt
"""
_REPAIRS = """
SELECT action, asked_by, asked_at, reason, array_agg(key ORDER BY key) AS keys
FROM lineage.repairs WHERE job = :job AND partition_key = :partition
GROUP BY action, asked_by, asked_at, reason
"""
_FENCE = """
SELECT published_attempt, published_at FROM lineage.partitions
WHERE job = :job AND partition_key = :partition
"""
_CHECKS = """
SELECT c.key AS name, c.value ->> 'message' AS message
FROM lineage.latest_runs r, jsonb_each(r.summary -> 'checks') c
WHERE r.job = :job AND r.partition_key = :partition AND c.value ->> 'passed' = 'false'
ORDER BY c.key
"""
_NAMED = 5


def story(connection: sa.Connection, job: str, partition: str) -> Iterator[str]:
    """Yield lines, each with its time in UTC, the oldest first; what readers see comes last.

    Args:
        connection: to read with.
        job: the job.
        partition: one that the job has worked on.
    """
    bound = {"job": job, "partition": partition}
    told: list[tuple[dt.datetime, str]] = []
    for attempt in connection.execute(sa.text(_ATTEMPTS), bound).mappings():
        told += _of_attempt(dict(attempt))
    for repair in connection.execute(sa.text(_REPAIRS), bound).mappings():
        named = ", ".join(repair["keys"][:_NAMED])
        more = f" and {len(repair['keys']) - _NAMED} more" if len(repair["keys"]) > _NAMED else ""
        verb = "asked to infer again" if repair["action"] == "retry" else "dropped"
        because = f": {repair['reason']}" if repair["reason"] else ""
        told.append((repair["asked_at"], f"{repair['asked_by']} {verb} {named}{more}{because}"))
    yield f"{job} {partition} (times in UTC)"
    # Stable: an attempt's own order decides where times are equal.
    for at, text in sorted(told, key=lambda event: event[0]):
        yield f"{at.astimezone(dt.UTC):%Y-%m-%d %H:%M:%S}  {text}"
    yield from _now(connection, job, partition)


def _of_attempt(attempt: Mapping[str, Any]) -> Iterator[tuple[dt.datetime, str]]:
    began = attempt["started_at"]
    name = f"attempt {attempt['attempt']}"
    yield began, f"{name} (run {attempt['run_id']}) began on {attempt['machine']}"
    at = began
    for decision in attempt["decisions"]:
        if "at" in decision:
            # Noted to the second: never before what it follows.
            at = max(at, dt.datetime.fromisoformat(decision["at"]))
        yield at, f"{name}: {decision.get('decision', 'decision')}: {decision.get('reason', '')}"
    if attempt["ended_at"] is not None:
        yield max(at, attempt["ended_at"]), f"{name} {_end(attempt)}{_cost(attempt)}"


def _end(attempt: Mapping[str, Any]) -> str:
    rows = ""
    if attempt["rows_in"] is not None:
        rows = f"{attempt['rows_in']} rows in, {attempt['rejected']} rejected"
    if attempt["outcome"] == "published":
        return (
            f"published {attempt['published']} rows: {rows}, {attempt['dead_lettered']} dead "
            f"letters; {attempt['inferred']} inferred, {attempt['reused']} reused"
        )
    if attempt["outcome"] == "interrupted" and not attempt["error"]:
        return "was interrupted: its process or machine was gone; finished rows are kept"
    after = f" after reading {rows}" if rows else ""
    return f"{attempt['outcome']}{after}: {attempt['error'] or 'no error on record'}"


def _cost(attempt: Mapping[str, Any]) -> str:
    parts = []
    if attempt["dollars"] is not None:
        parts.append(f"cost ${attempt['dollars']:.4f}")
    if attempt["interruptions"]:
        parts.append(f"{attempt['interruptions']} interruptions")
    if attempt["recomputed_tokens"]:
        parts.append(f"{attempt['recomputed_tokens']} tokens generated again")
    return f" ({', '.join(parts)})" if parts else ""


def _now(connection: sa.Connection, job: str, partition: str) -> Iterator[str]:
    from overnight.lineage.dead_letters import newest_dead_letters
    from overnight.lineage.live import running

    bound = {"job": job, "partition": partition}
    for one in running(connection):
        if (one.job, one.partition_key) == (job, partition):
            yield (
                f"Now: attempt {one.attempt} runs"
                if one.alive
                else f"Now: attempt {one.attempt} has no end on record, but its process is gone: "
                "run the partition again, it goes on from there"
            )
    fence = connection.execute(sa.text(_FENCE), bound).one()
    yield (
        "Readers see nothing of it"
        if fence.published_attempt is None
        else f"Readers see attempt {fence.published_attempt}"
    )
    for check in connection.execute(sa.text(_CHECKS), bound):
        yield f"  check {check.name} failed: {check.message}"
    letters = newest_dead_letters(connection, job, partition)
    open_ = [one for one in letters if one.dropped_at is None]
    for letter in open_[:_NAMED]:
        yield f"  dead letter {letter.key}: {letter.reason}"
    if open_:
        yield f"  overnight dead-letters list {job} --partition {partition}"
    query = sa.text(
        "SELECT source, file, line, reason FROM lineage.current_rejects "
        "WHERE job = :job AND partition_key = :partition ORDER BY file, line LIMIT :limit"
    )
    for reject in connection.execute(query, {**bound, "limit": _NAMED}):
        yield f"  rejected {reject.file}:{reject.line}: {reject.reason}"
