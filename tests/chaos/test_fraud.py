"""kill -9 of the step that scores a day's transactions, at ten seeded moments."""

from __future__ import annotations

import datetime as dt
import json
import os
import random
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest
import sqlalchemy as sa

from assets.demo.cards import transactions as simulated
from assets.sources import TIMEZONE
from overnight.crashpoints import VARIABLE
from overnight.warehouse.connect import Warehouse
from tests.chaos.lab import PATIENCE_S, ROOT, environment
from tests.chaos.step import PUBLISHED
from tests.support.payments import DAYS_TO_TRAIN, LAST, TOWN, land_days, trained
from tests.support.shop import house as house_in
from tests.warehouse.helpers import open_home

if TYPE_CHECKING:
    from collections.abc import Iterator

    from overnight.run import House

SEEDS = range(10)
BY_DEFAULT = (0, 1, 9)
_KILLED = -signal.SIGKILL
_STEP_S = 2.2
"""A step takes about as long, most of it imports and planning."""
_POINTS = ("stage.before_copy", "stage.after_copy", "publish.before_commit", "publish.after_commit")


@pytest.fixture(scope="module")
def house(ray_head: str) -> Iterator[House]:
    with open_home() as home, Warehouse.open(home=home) as warehouse:
        (home / "ray.json").write_text(json.dumps({"address": ray_head, "pid": os.getpid()}))
        made = house_in(warehouse, home)
        land_days(made.store.open(), DAYS_TO_TRAIN + len(SEEDS))
        assert trained(made, last=LAST).check.passed
        yield made


@pytest.mark.parametrize(
    "seed", [s if s in BY_DEFAULT else pytest.param(s, marks=pytest.mark.sweep) for s in SEEDS]
)
def test_a_kill_leaves_every_transaction_scored_once(house: House, seed: int) -> None:
    rng = random.Random(seed)
    day = LAST - dt.timedelta(days=seed)
    known = simulated(TOWN, [day], timezone=TIMEZONE)["transaction_id"].to_list()
    # Half of the kills come at a boundary of the step's own, the others at any time.
    at_point = rng.random() < 0.5
    crash = {VARIABLE: f"{rng.choice(_POINTS)}:1"} if at_point else {}
    step = start(house, day, **crash)
    if not at_point:
        time.sleep(rng.uniform(0.5, _STEP_S))
        step.kill()
    codes = [ended(step)[0]]
    assert not at_point or codes == [_KILLED]
    while codes[-1] != PUBLISHED and len(codes) < 4:
        codes.append(ended(start(house, day))[0])
    assert codes[-1] == PUBLISHED
    print(f"seed {seed}: {crash or 'at any time'}, exit codes {codes}")  # noqa: T201
    assert published(house, day) == sorted(known)
    # And doing it once more infers nothing.
    code, said = ended(start(house, day))
    assert code == PUBLISHED, said
    assert f"inferred 0, reused {len(known)}" in said


def ended(step: subprocess.Popen[str]) -> tuple[int, str]:
    """Wait for a step; its exit code and what it said."""
    said, _ = step.communicate(timeout=PATIENCE_S)
    return step.returncode, said


def start(house: House, day: dt.date, **variables: str) -> subprocess.Popen[str]:
    home = house.scratch.parent
    return subprocess.Popen(
        [sys.executable, "-m", "tests.chaos.fraud_step", day.isoformat()],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=ROOT,
        env={**environment(home), **variables},
    )


def published(house: House, day: dt.date) -> list[str]:
    query = sa.text(
        "SELECT transaction_id FROM published.fraud_scores WHERE partition_key = :day ORDER BY 1"
    )
    with house.warehouse.connect() as connection:
        return list(connection.execute(query, {"day": day.isoformat()}).scalars())
