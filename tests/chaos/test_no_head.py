"""Without a Ray head, Ray and its workers belong to the step process, and end with it."""

from __future__ import annotations

import contextlib
import signal
import time
from typing import TYPE_CHECKING

import psutil
import pytest

from tests.chaos.lab import Lab, open_lab, rows_of, wait_for
from tests.chaos.step import PUBLISHED
from tests.chaos.verdict import verdict
from tests.chaos.watch import Flushes
from tests.support.processes import alive

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


# They wait a minute for Ray's control service to come back before they give up.
AGENTS = ("ray::DashboardAgent", "ray::RuntimeEnvAgent")


@pytest.fixture(scope="module")
def lone_lab() -> Iterator[Lab]:
    with open_lab(None) as made:
        yield made


@pytest.mark.parametrize(
    "rows", [80, *(pytest.param(rows, marks=pytest.mark.sweep) for rows in (1, 160, 240, 320))]
)
def test_a_killed_step_takes_its_ray_and_its_workers_along(lone_lab: Lab, rows: int) -> None:
    lab, day = lone_lab, f"2026-07-{1 + rows // 16:02}"
    landed = lab.land(day, "a")
    log = lab.tail()
    with Flushes(lab.journal, day) as flushes:
        family = killed(lab, day, lambda: rows_of(log.inferred()) >= rows)
        killed_at = time.time()
        agents = [process for process, name in family.items() if name in AGENTS]
        try:
            _, left = psutil.wait_procs([p for p in family if p not in agents], timeout=30)
            assert not [process for process in left if alive(process.pid)]
        finally:
            for process in agents:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
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


@pytest.mark.sweep
def test_the_agents_of_a_killed_steps_ray_end_by_themselves(lone_lab: Lab) -> None:
    log = lone_lab.tail()
    lone_lab.land("2026-07-30", "a")
    family = killed(lone_lab, "2026-07-30", lambda: rows_of(log.inferred()) > 0)
    _, left = psutil.wait_procs(list(family), timeout=150)
    assert not [process for process in left if alive(process.pid)]


def killed(lab: Lab, day: str, when: Callable[[], bool]) -> dict[psutil.Process, str]:
    """Kill a step process; the processes, by name, that were its descendants."""
    step = lab.start(day)
    assert wait_for(when, step), step.output
    family = psutil.Process(step.process.pid).children(recursive=True)
    names: dict[psutil.Process, str] = {}
    for process in family:
        with contextlib.suppress(psutil.NoSuchProcess):
            names[process] = process.name()
    assert "raylet" in names.values()
    step.signal(signal.SIGKILL)
    step.process.wait()
    return names
