"""kill -9 of the step that scores a day's transactions, at ten seeded moments."""

from __future__ import annotations

import datetime as dt
import json
import os
import random
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
import sqlalchemy as sa

from assets.demo.cards import transactions as simulated
from assets.sources import TIMEZONE
from overnight.crashpoints import VARIABLE
from overnight.warehouse.connect import Warehouse
from tests.chaos.fraud_job import JOB
from tests.chaos.lab import PATIENCE_S, ROOT, environment
from tests.chaos.step import PUBLISHED
from tests.chaos.watch import until_journalled
from tests.support.payments import DAYS_TO_TRAIN, LAST, TOWN, land_days, trained
from tests.support.shop import house as house_in
from tests.warehouse.helpers import open_home

if TYPE_CHECKING:
    from collections.abc import Iterator

    from overnight.run import House

SEEDS = range(10)
BY_DEFAULT = (0,)
_KILLED = -signal.SIGKILL
_SHARES = 0.05, 0.6
"""Of the rows, journalled at the kill: enough are left for the next attempt to have work."""
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
    # Half of the kills come at a boundary of the step's own, the others while it infers.
    at_point = rng.random() < 0.5
    crash = {VARIABLE: f"{rng.choice(_POINTS)}:1"} if at_point else {}
    step = start(house, day, **crash)
    least = round(rng.uniform(*_SHARES) * len(known))
    if not at_point:
        until_journalled(house, JOB.name, day.isoformat(), least, step)
        step.kill()
    codes, said = [ended(step)[0]], ""
    assert codes == [_KILLED]
    while codes[-1] != PUBLISHED and len(codes) < 4:
        code, said = ended(start(house, day))
        codes.append(code)
    assert codes[-1] == PUBLISHED, said
    reused = int(said.rpartition("reused ")[2])
    assert at_point or least <= reused < len(known), "the kill came in the middle"
    print(f"seed {seed}: {crash or 'while it infers'}, exit codes {codes}, {reused} kept")  # noqa: T201
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
