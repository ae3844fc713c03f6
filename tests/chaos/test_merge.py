"""kill -9 while a partition is published by merge: what stays stays, and nothing is lost.

Most of a published partition lands again as it was. While the rest is inferred, staged and
merged, the step or Postgres is killed at a seeded moment, and the step is started again.
"""

from __future__ import annotations

import random
import signal
import time
from typing import TYPE_CHECKING

import psutil
import pytest

from overnight.crashpoints import VARIABLE
from tests.chaos.lab import rows_of, wait_for
from tests.chaos.step import PUBLISHED
from tests.chaos.test_kill import retried
from tests.chaos.verdict import verdict
from tests.chaos.watch import Flushes, Reader

if TYPE_CHECKING:
    from tests.chaos.lab import Lab, Step

MERGE = ("--publish", "merge")
VICTIMS = ("step", "postgres")
_POINTS = (
    *("stage.before_copy", "stage.after_copy", "merge.before_keep", "merge.after_keep"),
    *("publish.before_commit", "publish.after_commit"),
)


@pytest.mark.parametrize(
    ("victim", "seed"),
    [
        ("step", 0), ("postgres", 0),
        *(
            pytest.param(victim, seed, marks=pytest.mark.sweep)
            for victim in VICTIMS for seed in range(1, 25)
        ),
    ],
)  # fmt: skip
def test_a_kill_while_merging_loses_nothing_and_touches_nothing_that_stays(
    lab: Lab, victim: str, seed: int
) -> None:
    day = f"2026-{7 + VICTIMS.index(victim):02d}-{seed + 1:02d}"
    before = lab.land(day, "a")
    lab.publish(day, publish="merge")
    places = lab.places(day)
    landed = lab.land_changes(day, before, "b")
    changed = {key for key, text in landed.expected.items() if before.expected.get(key) != text}
    log = lab.tail()
    with (
        Reader(lab.warehouse.url(hide_password=False), day) as reader,
        Flushes(lab.journal, day) as flushes,
    ):
        rng = random.Random(f"{victim}-{seed}")
        # One kill in two falls into staging and publishing, the others into inference.
        late = rng.random() < 0.5
        if late and victim == "step":
            step = lab.start(day, *MERGE, variables={VARIABLE: f"{rng.choice(_POINTS)}:1"})
            assert step.wait() == -signal.SIGKILL, step.output
        else:
            step = lab.start(day, *MERGE)
            after = len(changed) if late else rng.randrange(1, len(changed))
            assert wait_for(lambda: rows_of(log.inferred()) >= after, step), step.output
            kill(lab, victim, step)
        killed_at = time.time()
        retried(lab, day, step, *MERGE)
    verdict(
        expected=landed.expected,
        dead=landed.dead,
        published=lab.published(day),
        dead_lettered=lab.dead_letters(day),
        before=before.expected,
        seen=reader.seen,
        inferred=log.inferred(),
        killed_at=killed_at,
        interval_s=flushes.longest_gap(),
    ).check()
    assert rows_of(log.inferred()) == len(changed)
    stayed = {key for key, place in lab.places(day).items() if places.get(key) == place}
    assert stayed == landed.expected.keys() - changed


def test_an_attempt_that_wakes_up_after_a_newer_one_cannot_merge(lab: Lab) -> None:
    day = "2026-09-01"
    before = lab.land(day, "a")
    lab.publish(day, publish="merge")
    stale = lab.land_changes(day, before, "b")
    log = lab.tail()
    sleeper = lab.start(day, *MERGE, run_id="sleeper")
    assert wait_for(lambda: rows_of(log.inferred()) > 20, sleeper), sleeper.output
    sleeper.signal(signal.SIGSTOP)
    with lab.warehouse.connect() as connection:
        connection.exec_driver_sql(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE application_name = 'overnight' AND pid <> pg_backend_pid()"
        )
    newest = lab.land_changes(day, before, "c")
    newer = lab.start(day, *MERGE, run_id="newer")
    assert newer.wait() == PUBLISHED, newer.output
    sleeper.signal(signal.SIGCONT)
    assert sleeper.wait() != PUBLISHED, sleeper.output
    assert dict(lab.published(day)) == newest.expected != stale.expected


def kill(lab: Lab, victim: str, step: Step) -> None:
    """Kill the step, which must be at work, or the Postgres that it works with."""
    if victim == "step":
        step.signal(signal.SIGKILL)
        assert step.wait() == -signal.SIGKILL, "it ended before it could be killed"
        return
    pid = lab.warehouse.server_pid
    assert pid is not None
    assert step.running, "it ended before Postgres could be killed"
    psutil.Process(pid).kill()
