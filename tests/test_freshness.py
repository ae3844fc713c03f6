"""Which day is due, and what is said when it is not published."""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

import pytest

from overnight.expectations import Expectations
from overnight.freshness import due_day, freshness
from overnight.landing import mark_complete
from overnight.run import run_partition
from tests.support.shop import house, line, lines, newest_lines, reversing, write_lines
from tests.warehouse.helpers import forget_lineage

if TYPE_CHECKING:
    from pathlib import Path

    from overnight.checks import Check
    from overnight.job import InferenceJob
    from overnight.warehouse.connect import Warehouse

BERLIN = ZoneInfo("Europe/Berlin")
SIX = dt.time(6, tzinfo=BERLIN)
EXPECTS = Expectations(due=SIX)
NOON = dt.datetime(2026, 11, 21, 12, tzinfo=BERLIN)


@pytest.fixture(autouse=True)
def no_history(warehouse: Warehouse) -> None:
    with warehouse.begin() as connection:
        forget_lineage(connection)


def look(
    warehouse: Warehouse, home: Path, job: InferenceJob | None = None, now: dt.datetime = NOON
) -> Check:
    store = house(warehouse, home).store.open()
    return freshness(warehouse, store, job or reversing(expects=EXPECTS), now)


def publish(warehouse: Warehouse, home: Path, day: str, job: InferenceJob | None = None) -> None:
    write_lines(home, map(line, range(5)), day=day)
    declared = job or reversing(expects=EXPECTS)
    run_partition(
        declared,
        day if declared.partitioned else "all",
        run_id="test",
        house=house(warehouse, home),
    )


@pytest.mark.parametrize(
    ("now", "due"),
    [
        (dt.datetime(2026, 11, 21, 5, 59, tzinfo=BERLIN), "2026-11-19"),
        (dt.datetime(2026, 11, 21, 6, 0, tzinfo=BERLIN), "2026-11-20"),
        (dt.datetime(2026, 11, 21, 5, 0, tzinfo=dt.UTC), "2026-11-20"),
        (dt.datetime(2026, 11, 21, 23, 30, tzinfo=dt.UTC), "2026-11-20"),
        # The clocks change at night: six o'clock is 4:00 UTC before, 5:00 UTC after.
        (dt.datetime(2026, 10, 24, 4, 0, tzinfo=dt.UTC), "2026-10-23"),
        (dt.datetime(2026, 10, 25, 4, 59, tzinfo=dt.UTC), "2026-10-23"),
        (dt.datetime(2026, 10, 25, 5, 0, tzinfo=dt.UTC), "2026-10-24"),
        (dt.datetime(2026, 3, 29, 3, 59, tzinfo=dt.UTC), "2026-03-27"),
        (dt.datetime(2026, 3, 29, 4, 0, tzinfo=dt.UTC), "2026-03-28"),
    ],
)
def test_the_day_before_is_due_from_a_time_on_the_wall_on(now: dt.datetime, due: str) -> None:
    assert due_day(SIX, now) == due


def test_a_table_that_is_not_in_use_yet_is_not_late(warehouse: Warehouse, home: Path) -> None:
    check = look(warehouse, home)
    assert (check.passed, check.message) == (True, "nothing has been published yet")


@pytest.mark.usefixtures("ray_head")
def test_only_the_newest_due_day_makes_a_table_fresh(warehouse: Warehouse, home: Path) -> None:
    publish(warehouse, home, "2026-11-18")
    late = look(warehouse, home)
    assert (late.passed, late.blocking) == (False, False)
    assert "2026-11-20, the newest day that is due, was due by 2026-11-21 06:00" in late.message
    assert "the newest day that readers see is 2026-11-18" in late.message
    # Filling in an old day makes no difference, whenever it is published.
    publish(warehouse, home, "2026-11-10")
    assert not look(warehouse, home).passed
    publish(warehouse, home, "2026-11-20")
    fresh = look(warehouse, home)
    assert fresh.passed
    assert fresh.figures["expected"] == fresh.figures["newest"] == "2026-11-20"
    # Nobody waits for the next day before it is due.
    assert look(warehouse, home, now=NOON.replace(day=22, hour=5)).passed
    assert not look(warehouse, home, now=NOON.replace(day=22, hour=6)).passed


@pytest.mark.usefixtures("ray_head")
def test_a_late_table_says_what_it_waits_for(
    warehouse: Warehouse, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(warehouse, home, "2026-11-18")
    day = "2026-11-20"
    message = look(warehouse, home).message
    assert "Its data has not landed: lines. Ask the producer, or land it with `overnight land" in (
        message
    )
    mark_complete(house(warehouse, home).store.open(), lines, day)
    monkeypatch.setenv("OVERNIGHT_DEFINITIONS", "shop.jobs")
    message = look(warehouse, home).message
    assert "No run has tried: `dagster asset materialize -m shop.jobs --select" in message
    assert f"--partition {day}`" in message
    write_lines(home, ["{broken"] * 3, day=day)
    with pytest.raises(Exception, match="3 of 3 source rows rejected"):
        run_partition(reversing(expects=EXPECTS), day, run_id="test", house=house(warehouse, home))
    message = look(warehouse, home).message
    assert "came to nothing (failed: TooManyRejectsError: 3 of 3 source rows rejected" in message


@pytest.mark.usefixtures("ray_head")
def test_a_table_without_days_must_be_refreshed_each_day(warehouse: Warehouse, home: Path) -> None:
    job = newest_lines(expects=EXPECTS)
    publish(warehouse, home, "2026-11-18", job)
    with warehouse.connect() as connection:
        (at,) = connection.exec_driver_sql(
            "SELECT published_at FROM lineage.latest_runs WHERE job = 'newest_lines'"
        ).one()
    assert look(warehouse, home, job, at + dt.timedelta(minutes=1)).passed
    late = look(warehouse, home, job, at + dt.timedelta(days=2))
    assert not late.passed
    assert "the refresh was due by" in late.message
