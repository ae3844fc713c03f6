"""Without a Ray head, Ray and its workers belong to the step process, and end with it."""

from __future__ import annotations

import signal
import time
from typing import TYPE_CHECKING

import psutil
import pytest

from tests.chaos.lab import Lab, open_lab, rows_of, wait_for
from tests.chaos.step import PUBLISHED
from tests.chaos.verdict import verdict
from tests.chaos.watch import Flushes

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="module")
def lone_lab() -> Iterator[Lab]:
    with open_lab(None) as made:
        yield made


@pytest.mark.parametrize(
    "rows", [80, *(pytest.param(rows, marks=pytest.mark.sweep) for rows in (1, 160, 240, 320))]
)
def test_a_killed_step_takes_its_workers_along_and_leaves_no_process(
    lone_lab: Lab, rows: int
) -> None:
    lab, day = lone_lab, f"2026-07-{1 + rows // 16:02}"
    landed = lab.land(day, "a")
    log = lab.tail()
    with Flushes(lab.journal, day) as flushes:
        step = lab.start(day)
        assert wait_for(lambda: rows_of(log.inferred()) >= rows, step), step.output
        family = psutil.Process(step.process.pid).children(recursive=True)
        assert any("raylet" in process.name() for process in family)
        step.signal(signal.SIGKILL)
        killed_at = time.time()
        step.process.wait()
        _, left = psutil.wait_procs(family, timeout=30)
        assert not alive(left)
        again = lab.start(day)
        assert again.wait() == PUBLISHED, again.output
    found = verdict(
        expected=landed.expected,
        dead=landed.dead,
        published=lab.published(day),
        dead_lettered=lab.dead_letters(day),
        before={},
        seen=[],
        inferred=log.inferred(),
        killed_at=killed_at,
        interval_s=flushes.longest_gap(),
    )
    print(found)  # noqa: T201
    assert (found.lost, found.duplicated, found.unexpected) == (0, 0, 0), found
    assert found.twice <= found.bound, found


def alive(processes: list[psutil.Process]) -> list[psutil.Process]:
    """Those that still run; a zombie waits for whoever adopted it, and does nothing."""
    return [p for p in processes if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]
