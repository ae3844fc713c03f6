"""kill -9 of the step that recommends for a day, at ten seeded moments."""

from __future__ import annotations

import dataclasses
import datetime as dt
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
import sqlalchemy as sa

from assets.recommendations import ITEMS, recommendations
from overnight.crashpoints import VARIABLE
from overnight.engines.sizes import BatchSizes
from overnight.engines.top_k import TopK, TopKEngine
from overnight.run import run_partition
from overnight.warehouse.connect import Warehouse
from tests.chaos.lab import PATIENCE_S, ROOT, environment
from tests.chaos.watch import until_journalled
from tests.support.shop import house as house_in
from tests.support.visitors import DAYS_TO_TRAIN, LAST, land_days, trained
from tests.warehouse.helpers import open_home

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pyarrow as pa

    from overnight.run import House

SEEDS = range(10)
BY_DEFAULT = (0,)
_POINTS = ("stage.before_copy", "stage.after_copy", "publish.before_commit", "publish.after_commit")
_PACE_S = 0.04
"""A day takes two seconds at this pace, and a shard is written ten times in each."""
_SHARES = 0.05, 0.6
"""Of the rows, journalled at the kill: enough are left for the next attempt to have work."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Paced(TopK):
    """Takes its time for each step, so that a kill falls between the rows of a day."""

    def start(self) -> PacedEngine:
        return PacedEngine(self)


class PacedEngine(TopKEngine):
    def step(self) -> pa.Table:
        time.sleep(_PACE_S)
        return super().step()


_engine: Any = recommendations.engine
JOB = dataclasses.replace(
    recommendations,
    engine=Paced(model=_engine.model, sizes=BatchSizes(batch_rows=4, window_rows=8)),
    split_rows=25,
)


@pytest.fixture(scope="module")
def house(ray_head: str) -> Iterator[House]:
    with open_home() as home, Warehouse.open(home=home) as warehouse:
        (home / "ray.json").write_text(json.dumps({"address": ray_head, "pid": os.getpid()}))
        made = house_in(warehouse, home)
        land_days(
            made.store.open(), DAYS_TO_TRAIN + len(SEEDS), last=LAST + dt.timedelta(len(SEEDS))
        )
        assert trained(made).check.passed
        run_partition(JOB, LAST.isoformat(), run_id="warm", house=made)
        yield made


@pytest.mark.parametrize(
    "seed", [s if s in BY_DEFAULT else pytest.param(s, marks=pytest.mark.sweep) for s in SEEDS]
)
def test_a_kill_leaves_every_user_with_one_list_and_infers_nobody_twice(
    house: House, seed: int
) -> None:
    rng = random.Random(seed)
    day = (LAST + dt.timedelta(days=seed + 1)).isoformat()
    # A third of the kills come at a boundary of the step's own, the others while it infers.
    point = rng.choice(_POINTS) if rng.random() < 1 / 3 else None
    step = start(house, day, **({VARIABLE: f"{point}:1"} if point else {}))
    least = round(rng.uniform(*_SHARES) * len(published(house, LAST.isoformat())))
    if point is None:
        until_journalled(house, JOB.name, day, least, step)
        step.kill()
    assert step.wait(PATIENCE_S) == -signal.SIGKILL
    visible = len(published(house, day))

    report = run_partition(JOB, day, run_id="again", house=house)

    lists = published(house, day)
    assert len(lists) == report.published == report.rows_in
    assert all(ranks == list(range(1, ITEMS + 1)) for ranks, _ in lists.values())
    runs = Counter(run for _, run in lists.values())
    assert runs["again"] == report.inferred
    assert runs["again"] + runs["killed"] == len(lists)
    assert visible in {0, len(lists)}
    assert not visible or not report.inferred
    if point is None:
        assert least <= runs["killed"] < len(lists), "the kill came in the middle"
    print(f"seed {seed}: {point or 'while it infers'}, {runs['killed']} of {len(lists)} kept")  # noqa: T201


def start(house: House, day: str, **variables: str) -> subprocess.Popen[bytes]:
    arguments = ["tests.chaos.job_step", "tests.chaos.test_recommendations", "JOB", day]
    return subprocess.Popen(
        [sys.executable, "-m", *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd=ROOT,
        env={**environment(house.scratch.parent), **variables},
    )


def published(house: House, day: str) -> dict[str, tuple[list[int], str]]:
    """Ranks of each user's list, and the run that inferred it."""
    query = sa.text(
        "SELECT user_id, array_agg(rank ORDER BY rank), min(_run_id) "
        "FROM published.recommendations WHERE partition_key = :day GROUP BY 1"
    )
    with house.warehouse.connect() as connection:
        return {user: (ranks, run) for user, ranks, run in connection.execute(query, {"day": day})}
