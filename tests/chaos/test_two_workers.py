"""Two workers share a partition: one is killed, or the step that both work for."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

import psutil
import pytest

from tests.chaos.lab import rows_of, wait_for
from tests.chaos.step import PUBLISHED
from tests.chaos.verdict import bound
from tests.chaos.watch import Flushes

if TYPE_CHECKING:
    from tests.chaos.lab import Lab

WORKERS = 2
# Slow enough for the second worker to get its share, whatever has to make room for it.
PACE = ("--workers", str(WORKERS), "--step-seconds", "0.15")


@pytest.mark.parametrize("victim", ["worker", pytest.param("step", marks=pytest.mark.sweep)])
def test_what_one_of_two_workers_leaves_undone_is_done_once(lab: Lab, victim: str) -> None:
    day = {"worker": "2026-06-15", "step": "2026-06-16"}[victim]
    landed = lab.land(day, "a")
    log = lab.tail()
    with Flushes(lab.journal, day) as flushes:
        step = lab.start(day, *PACE)
        assert wait_for(
            lambda: (
                rows_of(log.inferred()) > 100 and len({e.pid for e in log.inferred()}) == WORKERS
            ),
            step,
        ), step.output
        if victim == "worker":
            psutil.Process(log.inferred()[-1].pid).kill()
        else:
            step.signal(signal.SIGKILL)
            step.process.wait()
            step = lab.start(day, *PACE)
        assert step.wait() == PUBLISHED, step.output
    assert dict(lab.published(day)) == landed.expected
    inferred = log.inferred()
    assert rows_of(inferred) == len(landed.expected)
    assert len(inferred) - rows_of(inferred) <= bound(flushes.longest_gap())
