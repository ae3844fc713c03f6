"""A row that kills real vLLM whenever it is computed: it is lost, nothing else, and soon."""

from __future__ import annotations

import dataclasses
import datetime as dt
import math
from typing import TYPE_CHECKING

import pytest
import sqlalchemy as sa

from assets.demo.articles import articles
from assets.models.lead_summarizer.reference import prompt
from overnight.run import run_partition
from tests.support import shop
from tests.support.summaries import Deadly, land, summarizing

if TYPE_CHECKING:
    from pathlib import Path

    from overnight.warehouse.connect import Warehouse

ROWS = 20


@pytest.mark.sweep
@pytest.mark.parametrize(
    ("at_once", "at"),
    [(2, 10), *((4, n) for n in range(0, ROWS, 3))],
)
def test_an_engine_that_dies_of_a_row_loses_that_row_alone(
    warehouse: Warehouse, home: Path, ray_head: str, at_once: int, at: int
) -> None:
    day = dt.date(2026, 9, 1) + dt.timedelta(days=at)
    land(home, day, count=ROWS)
    rows = list(articles(day, count=ROWS))
    starts = home / "starts"
    job = summarizing(
        Deadly,
        at_once=at_once,
        split_rows=ROWS,
        killer=prompt(str(rows[at]["body"])),
        starts=str(starts),
    )
    house = shop.house(warehouse, home)
    cluster = dataclasses.replace(house.cluster, idle_timeout_s=1.0)

    report = run_partition(
        job, day.isoformat(), run_id="r", house=dataclasses.replace(house, cluster=cluster)
    )

    assert (report.published, report.dead_lettered) == (ROWS - 1, 1)
    with warehouse.connect() as connection:
        query = "SELECT key, reason FROM lineage.current_dead_letters WHERE partition_key = :day"
        (dead,) = connection.execute(sa.text(query), {"day": day.isoformat()})
        query = "SELECT article_id FROM published.daily_summaries WHERE partition_key = :day"
        published = connection.execute(sa.text(query), {"day": day.isoformat()}).scalars()
        assert {*published, dead.key} == {row["article_id"] for row in rows}
    assert dead.key == rows[at]["article_id"]
    assert dead.reason.startswith("killed_engine: killed the engine, the last time alone")
    # The engine takes twice as many rows as it computes at once, so that it never waits for one.
    window = 2 * at_once
    assert starts.stat().st_size <= math.log2(window) + 2
