"""Two attempts at one partition: at the same time, or one that wakes up when the other is done."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

import pytest

from tests.chaos.lab import rows_of, wait_for
from tests.chaos.step import BUSY, PUBLISHED, RETRY, STALE, reached
from tests.chaos.watch import Reader, digest

if TYPE_CHECKING:
    from pathlib import Path

    from tests.chaos.lab import Lab, Step

CUT_OFF = (
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
    "WHERE application_name = 'overnight' AND pid <> pg_backend_pid()"
)


def test_of_two_runs_at_once_one_publishes_and_the_other_says_who_is_at_work(lab: Lab) -> None:
    day = "2026-06-01"
    landed = lab.land(day, "a")
    log = lab.tail()
    steps = {name: lab.start(day, run_id=name) for name in ("first", "second")}
    codes = {name: step.wait() for name, step in steps.items()}
    assert sorted(codes.values()) == [PUBLISHED, BUSY], codes
    winner, loser = sorted(codes, key=lambda name: codes[name])
    said = steps[loser].output
    assert f"Partition {day} of reversed_lines is being worked on by attempt" in said
    assert f"of run {winner} on" in said
    assert dict(lab.published(day)) == landed.expected
    assert len(log.inferred()) == rows_of(log.inferred()) == len(landed.expected)


# Before it publishes, it finds its workers or its staging table gone: the next try is refused, or
# takes over what the newer attempt did.
@pytest.mark.parametrize(
    ("where", "ends", "outcome"),
    [
        pytest.param("inference", RETRY, "failed", marks=pytest.mark.sweep),
        pytest.param("audit", RETRY, "failed", marks=pytest.mark.sweep),
        ("publish", STALE, "refused"),
    ],
)
def test_an_attempt_that_wakes_up_after_a_newer_one_cannot_publish(
    lab: Lab, tmp_path: Path, where: str, ends: int, outcome: str
) -> None:
    day = {"inference": "2026-06-02", "publish": "2026-06-03", "audit": "2026-06-04"}[where]
    before = lab.land(day, "a")
    lab.publish(day)
    lab.land(day, "b")
    with Reader(lab.warehouse.url(hide_password=False), day) as reader:
        sleeper = stopped(lab, day, where, tmp_path / "gate")
        # It holds its lease as long as the warehouse takes it for connected.
        refused = lab.start(day, run_id="too-early")
        assert refused.wait() == BUSY, refused.output
        assert "of run sleeper on" in refused.output
        # Other input than the sleeper's, so that what it would publish can be told apart.
        newest = lab.land(day, "c")
        cut_off(lab)
        newer = lab.start(day, run_id="newer")
        assert newer.wait() == PUBLISHED, newer.output
        (tmp_path / "gate").touch()
        sleeper.signal(signal.SIGCONT)
        assert sleeper.wait() == ends, sleeper.output
        assert dict(lab.published(day)) == newest.expected
    assert reader.seen == [digest(before.expected), digest(newest.expected)]
    assert "newer" in sleeper.output.splitlines()[-1]
    assert lab.attempts(day) == ["published", outcome, "published"]


def stopped(lab: Lab, day: str, where: str, gate: Path) -> Step:
    """A step process that was stopped at work."""
    log = lab.tail()
    if where == "inference":
        step = lab.start(day, run_id="sleeper")
        assert wait_for(lambda: rows_of(log.inferred()) > 50, step), step.output
    else:
        step = lab.start(day, "--gate-at", where, "--gate", str(gate), run_id="sleeper")
        assert wait_for(reached(gate).exists, step), step.output
    step.signal(signal.SIGSTOP)
    return step


def cut_off(lab: Lab) -> None:
    """Break every connection to the warehouse, as a network that parts in two does."""
    with lab.warehouse.connect() as connection:
        connection.exec_driver_sql(CUT_OFF)
