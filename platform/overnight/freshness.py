"""Whether a table is as new as it should be by now, in partitions and not in clock time.

Publishing an old day again makes no table fresh: what counts is the newest day that is due.
"""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from overnight.checks import Check, passing, query
from overnight.errors import NotLandedError, OvernightError
from overnight.home import code_location
from overnight.job import WHOLE
from overnight.landing import DerivedSource, landing_version

if TYPE_CHECKING:
    from overnight.job import InferenceJob
    from overnight.landing import Source
    from overnight.store import Store
    from overnight.warehouse.connect import Warehouse

__all__ = ["FRESHNESS", "deadline", "due_day", "freshness", "freshness_meaning", "newest_published"]

FRESHNESS = "freshness"

_NEWEST = sa.text(
    "SELECT partition_key, published_at FROM lineage.latest_runs WHERE job = :job "
    "ORDER BY partition_key DESC LIMIT 1"
)
_PUBLISHED = sa.text(
    "SELECT published_at FROM lineage.latest_runs WHERE job = :job AND partition_key = :day"
)
_REFRESHED = sa.text(
    "SELECT max(ended_at) FROM lineage.attempts WHERE job = :job AND partition_key = :day "
    "AND outcome IN ('published', 'unchanged')"
)
_TRIED = sa.text(
    "SELECT attempt, outcome, started_at, error FROM lineage.attempts "
    "WHERE job = :job AND partition_key = :day ORDER BY attempt DESC LIMIT 1"
)
_ERROR = 300  # characters


def deadline(due: dt.time, now: dt.datetime) -> dt.datetime:
    """The last time at which something was due.

    Args:
        due: a time of day with its time zone. At a change of the clocks it is the same time on
            the wall.
        now: with a time zone.
    """
    local = now.astimezone(due.tzinfo)
    today = dt.datetime.combine(local.date(), due)
    return today if today <= local else dt.datetime.combine(local.date() - _DAY, due)


def due_day(due: dt.time, now: dt.datetime) -> str:
    """The newest day that should be published by now: the one that ended before `deadline`."""
    return f"{deadline(due, now).date() - _DAY}"


def newest_published(connection: sa.Connection, job: str) -> tuple[str, dt.datetime] | None:
    """A table's newest partition and when it was published; None if it has none."""
    found = connection.execute(_NEWEST, {"job": job}).first()
    return None if found is None else (found.partition_key, found.published_at)


def freshness_meaning(job: InferenceJob) -> str:
    """What the check means."""
    due = job.expects.due
    assert due is not None
    what = "the day before" if job.partitioned else "the last refresh"
    return (
        f"By {due:%H:%M} ({due.tzinfo}), {what} is published. Old partitions that are published "
        "again do not count. A warning; its message says what the newest attempt came to."
    )


def freshness(warehouse: Warehouse, store: Store, job: InferenceJob, now: dt.datetime) -> Check:
    """Whether the newest day that is due is published, and if not, why.

    A table that has never been published is not in use yet: it passes.

    Args:
        warehouse: where it is published.
        store: where its sources land.
        job: whose `expects.due` counts; there must be one.
        now: with a time zone.
    """
    due = job.expects.due
    assert due is not None
    last = deadline(due, now)
    day = due_day(due, now) if job.partitioned else WHOLE
    with warehouse.connect() as connection:
        newest = newest_published(connection, job.name)
        if newest is None:
            return passing(FRESHNESS, "nothing has been published yet")
        what = {"job": job.name, "day": day}
        done = connection.execute(_PUBLISHED if job.partitioned else _REFRESHED, what).scalar()
        tried = connection.execute(_TRIED, what).first()
    if done is not None and not job.partitioned and done <= last - _DAY:
        done = None
    by = f"{last:%Y-%m-%d %H:%M} {due.tzinfo}"
    name = f"{day}, the newest day that is due," if job.partitioned else "the refresh"
    figures = {"due_by": by, "newest": newest[0]} | ({"expected": day} if job.partitioned else {})
    if done is not None:
        message = f"{name} was published at {done.astimezone(due.tzinfo):%Y-%m-%d %H:%M}"
        return passing(FRESHNESS, message, **figures)
    have = (
        f"the newest day that readers see is {newest[0]}"
        if job.partitioned
        else f"the last one was at {newest[1].astimezone(due.tzinfo):%Y-%m-%d %H:%M}"
    )
    message = f"{name} was due by {by} and is not published; {have}. "
    return Check(
        FRESHNESS,
        passed=False,
        message=message + _why(job, day, tried, store),
        figures=figures,
        blocking=False,
    )


def _why(job: InferenceJob, day: str, tried: sa.Row[Any] | None, store: Store) -> str:
    selected = f"--select {job.name}" + (f" --partition {day}" if job.partitioned else "")
    run = f"`dagster asset materialize -m {code_location()} {selected}`"
    attempts = query(
        "select * from lineage.attempts where job = '{job}' and partition_key = '{day}'",
        job=job.name,
        day=day,
    )
    if tried is not None and tried.outcome == "running":
        seen = query("select * from lineage.progress where attempt = {n}", n=tried.attempt)
        return (
            f"Attempt {tried.attempt} works on it since {tried.started_at:%Y-%m-%d %H:%M %Z}: "
            f"{seen} shows how far it is"
        )
    if tried is not None:
        error = f": {tried.error[:_ERROR]}" if tried.error else ""
        return (
            f"Attempt {tried.attempt} came to nothing ({tried.outcome}{error}). {attempts} shows "
            f"all of them; {run} tries again"
        )
    if job.partitioned and (missing := _not_landed(job, day, store)):
        return (
            f"Its data has not landed: {', '.join(missing)}. Ask the producer, or land it with "
            f"`overnight land {missing[0]} {day} FILES`"
        )
    return f"No run has tried: {run} does, or look why its schedule or sensor is off"


def _not_landed(job: InferenceJob, day: str, store: Store) -> list[str]:
    """The sources that must land on a day and have not."""
    return [source.name for source in _needed(job) if not _landed(source, day, store)]


def _needed(job: InferenceJob) -> list[Source]:
    if isinstance(job.source, DerivedSource):
        return [look.source for look in job.source.inputs if look.required and look.last == 0]
    return [job.source]


def _landed(source: Source, day: str, store: Store) -> bool:
    try:
        landing_version(store, source, day)
    except NotLandedError:
        return False
    except OvernightError:
        return True  # something is there; what is wrong with it, the run says
    return True


_DAY = dt.timedelta(days=1)
