"""What a partition is compared with: what was published on the days before it.

All of it comes from `lineage.latest_runs`, a row for each day: the published tables are not read.
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING

import polars as pl
import sqlalchemy as sa

from overnight.checks import Check, passing, query
from overnight.job import WHOLE

if TYPE_CHECKING:
    from collections.abc import Mapping

    from overnight.job import InferenceJob
    from overnight.warehouse.connect import Warehouse

__all__ = ["ROW_COUNT", "History", "row_count", "row_count_meaning"]

ROW_COUNT = "row_count"
WEEKS = 4
LEAST_WEEKS = 2
_WEEK = 7

_RUNS = sa.text(
    "SELECT partition_key, published, summary -> 'lengths' AS lengths "
    "FROM lineage.latest_runs WHERE job = :job AND partition_key = ANY(:keys) "
    "ORDER BY partition_key"
)


@dataclass(frozen=True, slots=True)
class History:
    """What was published before a partition.

    Attributes:
        weekdays: published rows on the same weekday of the last four weeks, by day; of a job
            without days, what is published now.
        lengths: of the week before, by day: how many `rows` had a text of length `value`.
    """

    weekdays: Mapping[str, int]
    lengths: Mapping[str, pl.DataFrame]

    @classmethod
    def read(cls, warehouse: Warehouse, job: InferenceJob, partition: str) -> History:
        """Ask lineage; days that have no publication are left out."""
        if partition == WHOLE:
            same = week = [WHOLE]
        else:
            day = dt.date.fromisoformat(partition)
            same = [f"{day - dt.timedelta(days=_WEEK * ago)}" for ago in range(1, WEEKS + 1)]
            week = [f"{day - dt.timedelta(days=ago)}" for ago in range(1, _WEEK + 1)]
        with warehouse.connect() as connection:
            keys = {"job": job.name, "keys": sorted({*same, *week})}
            runs = {run.partition_key: run for run in connection.execute(_RUNS, keys)}
        return cls(
            weekdays={key: runs[key].published for key in sorted(same) if key in runs},
            lengths={
                key: _frame(runs[key].lengths)
                for key in sorted(week)
                if key in runs and runs[key].lengths
            },
        )


def _frame(pairs: list[list[int]]) -> pl.DataFrame:
    return pl.DataFrame(pairs, schema={"value": pl.Int64, "rows": pl.Int64}, orient="row")


def row_count_meaning(job: InferenceJob) -> str:
    """What the check of the number of rows means."""
    usual = "the same weekday of the last four weeks" if job.partitioned else "the time before"
    return (
        f"Published rows against {usual} (median), at most {job.expects.row_change:.0%} more or "
        "fewer. A warning: look whether everything has landed."
    )


def row_count(job: InferenceJob, partition: str, rows: int, history: History) -> Check:
    """Hold the number of published input rows against the same weekday of the weeks before."""
    known = history.weekdays
    if len(known) < (LEAST_WEEKS if job.partitioned else 1):
        message = (
            f"{rows} rows; not enough history: {len(known)} of the {WEEKS} weeks before have "
            f"their {_weekday(partition)} published, {LEAST_WEEKS} are needed"
            if job.partitioned
            else f"{rows} rows; nothing was published before"
        )
        return passing(ROW_COUNT, message, rows=rows)
    usual = median(known.values())
    change = (rows - usual) / usual if usual else float(rows > 0)
    when = f"a {_weekday(partition)}: {', '.join(known)}" if job.partitioned else "published now"
    message = (
        f"{rows} rows, {usual:g} as a rule ({when}): {change:+.0%} "
        f"(at most {job.expects.row_change:.0%} allowed)"
    )
    figures = {"rows": rows, "usual_rows": usual, "change": change}
    if abs(change) <= job.expects.row_change:
        return passing(ROW_COUNT, message, **figures)
    files = query(
        "select i.uri, i.rows from lineage.inputs i join lineage.latest_runs r using (attempt) "
        "where r.job = '{job}' and r.partition_key = '{partition}'",
        job=job.name,
        partition=partition,
    )
    return Check(
        ROW_COUNT,
        passed=False,
        message=f"{message}. {files} shows the files it was made from: if some are missing, land "
        "them and run the partition again; if the day is just different, there is nothing to do. "
        "`Expectations.row_change` allows more",
        figures=figures,
        blocking=False,
    )


def _weekday(partition: str) -> str:
    return f"{dt.date.fromisoformat(partition):%A}"
