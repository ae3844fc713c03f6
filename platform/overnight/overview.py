"""Last night at a glance: what `overnight status` shows, read from lineage."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from overnight.lineage.live import running

if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import Sequence

    from overnight.lineage.live import Running

__all__ = ["Overview", "Problem", "Table", "overview"]

_NEWEST = """
SELECT p.job, p.partition_key AS newest, r.published_at, r.rows_in, r.published, r.rejected,
       r.dead_lettered, r.summary -> 'checks' AS checks, a.outcome,
       (SELECT cast(sum(l.dollars) AS double precision) FROM lineage.ledger l
        WHERE l.job = p.job AND l.partition_key = p.partition_key) AS dollars
FROM lineage.partitions p
JOIN lineage.attempts a ON a.attempt = p.token
LEFT JOIN lineage.runs r ON r.attempt = p.published_attempt
WHERE (p.job, p.partition_key) IN (
    SELECT job, max(partition_key) FROM lineage.partitions GROUP BY job
)
"""
_PROBLEMS = """
SELECT a.job, a.partition_key, a.outcome, a.ended_at, a.error,
       (SELECT d -> 'checks' FROM jsonb_array_elements(a.decisions) d
        WHERE d ->> 'decision' = 'audit' LIMIT 1) AS checks
FROM lineage.attempts a JOIN lineage.partitions p ON p.token = a.attempt
WHERE a.outcome IN ('failed', 'interrupted') ORDER BY a.attempt
"""
_HEAD = ("table", "newest", "age", "rows in", "published", "rejected", "dead", "checks", "cost")
_WIDTH = 100
_UNITS = (("d", 86_400), ("h", 3600), ("min", 60), ("s", 1))


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """A job's newest partition.

    Attributes:
        job: the job.
        newest: the partition; None if the job has never run.
        outcome: of its newest attempt.
        published_at: when readers came to see it; None if they do not.
        rows_in: rows read = published + rejected + dead_lettered; None if not published.
        published: rows that readers see.
        rejected: rows that broke the input contract.
        dead_lettered: rows that could not be inferred.
        checks: how many passed.
        failed_checks: names of those that did not.
        dollars: USD, of all attempts at it; None if not known.
    """

    job: str
    newest: str | None = None
    outcome: str | None = None
    published_at: dt.datetime | None = None
    rows_in: int | None = None
    published: int | None = None
    rejected: int | None = None
    dead_lettered: int | None = None
    checks: int = 0
    failed_checks: tuple[str, ...] = ()
    dollars: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """A partition whose newest attempt came to nothing, and why."""

    job: str
    partition: str
    outcome: str
    ended_at: dt.datetime | None
    failed_checks: tuple[str, ...]
    error: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Overview:
    """All tables, what failed, and what runs, at a time (`at`, aware)."""

    at: dt.datetime
    tables: Sequence[Table]
    problems: Sequence[Problem]
    running: Sequence[Running]

    def as_json(self) -> dict[str, Any]:
        """JSON-able but for times."""
        return {
            "at": self.at,
            "tables": [asdict(table) for table in self.tables],
            "problems": [asdict(problem) for problem in self.problems],
            "running": [
                {
                    "job": one.job,
                    "partition": one.partition_key,
                    "attempt": one.attempt,
                    "run_id": one.run_id,
                    "started_at": one.started_at,
                    "alive": one.alive,
                    "rows": one.progress.get("rows"),
                    "total": one.progress.get("total"),
                    "eta_s": one.eta_s,
                }
                for one in self.running
            ],
        }

    def lines(self) -> list[str]:
        """As text of at most 100 columns."""
        cells = [_HEAD, *(self._cells(table) for table in self.tables)]
        widths = [max(len(row[n]) for row in cells) for n in range(len(_HEAD))]
        lines = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in cells]
        told = [(problem, _problem(problem, self.at)) for problem in self.problems]
        for problem, text in told:
            see = f"    overnight why {problem.job} {problem.partition}"
            lines += ["", _cut(text), see]
        known = {(problem.job, problem.partition) for problem in self.problems}
        for table in self.tables:
            if table.failed_checks and (table.job, table.newest) not in known:
                text = f"{table.job} {table.newest} is published, but checks failed: "
                see = f"    overnight why {table.job} {table.newest}"
                lines += ["", _cut(text + ", ".join(table.failed_checks)), see]
        for one in self.running:
            lines += ["", *map(_cut, _running(one, self.at))]
        if not self.running:
            lines += ["", "Nothing runs now."]
        return lines

    def _cells(self, table: Table) -> tuple[str, ...]:
        if table.newest is None:
            return (table.job, "never run", *[""] * 7)
        counts = (table.rows_in, table.published, table.rejected, table.dead_lettered)
        checks = f"{len(table.failed_checks)} failed" if table.failed_checks else ""
        return (
            table.job,
            table.newest,
            _ago(table.published_at, self.at) if table.published_at else "none",
            *("" if count is None else str(count) for count in counts),
            checks or (f"{table.checks} ok" if table.checks else ""),
            "?" if table.dollars is None else f"${table.dollars:,.2f}",
        )


def overview(connection: sa.Connection, jobs: Sequence[str], at: dt.datetime) -> Overview:
    """What there is to see of some jobs, in their order.

    Args:
        connection: to read with.
        jobs: their names.
        at: the time, with a time zone.
    """
    problems = []
    for row in connection.execute(sa.text(_PROBLEMS)).mappings():
        if row["job"] in jobs:
            problem = Problem(
                job=row["job"],
                partition=row["partition_key"],
                outcome=row["outcome"],
                ended_at=row["ended_at"],
                failed_checks=_failed(row["checks"]),
                error=row["error"],
            )
            problems.append(problem)
    failed = {(one.job, one.partition): one.failed_checks for one in problems}
    found = {}
    for row in connection.execute(sa.text(_NEWEST)).mappings():
        checks = row["checks"] or {}
        values = {name: value for name, value in row.items() if name != "checks"}
        found[row["job"]] = Table(
            **values,
            checks=len(checks) - len(_failed(checks)),
            failed_checks=failed.get((row["job"], row["newest"])) or _failed(checks),
        )
    return Overview(
        at=at,
        tables=[found.get(job) or Table(job=job) for job in jobs],
        problems=problems,
        running=[one for one in running(connection) if one.job in jobs],
    )


def _failed(checks: dict[str, Any] | None) -> tuple[str, ...]:
    return tuple(name for name, check in (checks or {}).items() if not check["passed"])


def _problem(problem: Problem, at: dt.datetime) -> str:
    ago = f" {_ago(problem.ended_at, at)} ago" if problem.ended_at else ""
    text = f"{problem.job} {problem.partition} {problem.outcome}{ago}"
    if problem.failed_checks:
        text += f", checks failed: {', '.join(problem.failed_checks)}"
    if problem.error:
        text += f": {problem.error.splitlines()[0]}"
    return text


def _running(one: Running, at: dt.datetime) -> list[str]:
    who = f"{one.job} {one.partition_key}"
    if not one.alive:
        return [
            f"{who}: attempt {one.attempt} is on record as running, but its process is gone.",
            "    Run it again: it goes on where it was, and infers no finished row twice.",
        ]
    text = f"{who} runs since {_ago(one.started_at, at)}"
    if one.progress:
        text += f": {one.progress['rows']} of {one.progress['total']} rows"
    eta = "not known yet" if one.eta_s is None else _span(one.eta_s)
    return [f"{text}, ETA {eta} (attempt {one.attempt})"]


def _ago(then: dt.datetime, at: dt.datetime) -> str:
    return _span((at - then).total_seconds())


def _span(seconds: float) -> str:
    for unit, size in _UNITS:
        if seconds >= size:
            return f"{int(seconds // size)} {unit}"
    return "0 s"


def _cut(text: str) -> str:
    return text if len(text) <= _WIDTH else text[: _WIDTH - 1] + "…"
