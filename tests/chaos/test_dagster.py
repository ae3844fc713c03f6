"""Dagster's own retries bring a step back that was killed in mid-inference."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import psutil
import pytest

from overnight.orchestration.asset import RETRIES
from tests.chaos.definitions import BROKEN, LOG
from tests.chaos.lab import PATIENCE_S, ROOT, environment, rows_of, wait_for
from tests.chaos.verdict import bound
from tests.chaos.watch import Flushes
from tests.support.processes import command

if TYPE_CHECKING:
    from tests.chaos.lab import Lab


@pytest.mark.parametrize(
    ("day", "number"),
    [
        pytest.param("2026-06-21", signal.SIGKILL, marks=pytest.mark.sweep),
        ("2026-06-22", signal.SIGTERM),
    ],
)
def test_a_step_that_is_ended_is_retried_by_dagster_and_the_run_succeeds(
    lab: Lab, day: str, number: signal.Signals
) -> None:
    landed = lab.land(day, "a")
    log = lab.tail()
    with Flushes(lab.journal, day) as flushes, materialize(lab, day) as dagster:
        try:
            assert wait_for(lambda: rows_of(log.inferred()) > 100)
            step = step_of(psutil.Process(dagster.pid))
            step.send_signal(number)
            said, _ = dagster.communicate(timeout=PATIENCE_S)
        finally:
            dagster.kill()
    assert dagster.returncode == 0, said
    assert "STEP_UP_FOR_RETRY" in said
    assert "RUN_SUCCESS" in said
    assert dict(lab.published(day)) == landed.expected
    inferred = log.inferred()
    assert rows_of(inferred) == len(landed.expected)
    assert len(inferred) - rows_of(inferred) <= bound(flushes.longest_gap())
    outcomes = lab.attempts(day)
    assert outcomes == ["interrupted", "published"]


def test_errors_have_a_budget_that_interruptions_do_not_spend(lab: Lab) -> None:
    day = "2026-06-23"
    lab.land(day, "a")
    with materialize(lab, day, **{BROKEN: "1"}) as dagster:
        said, _ = dagster.communicate(timeout=PATIENCE_S)
    assert dagster.returncode != 0, said
    assert f"(tried {RETRIES + 1} times)" in said
    assert lab.attempts(day) == ["failed"] * (RETRIES + 1)


def materialize(lab: Lab, day: str, **variables: str) -> subprocess.Popen[str]:
    """Run the asset as `dagster asset materialize` does: the step in a process of its own."""
    history = lab.home / "dagster"
    history.mkdir(exist_ok=True)
    (history / "dagster.yaml").write_text("telemetry:\n  enabled: false\n")
    return subprocess.Popen(
        [
            *(sys.executable, "-m", "dagster", "asset", "materialize"),
            *("-m", "tests.chaos.definitions"),
            *("--select", "reversed_lines", "--partition", day),
        ],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=ROOT,
        env={
            **environment(lab.home),
            "DAGSTER_HOME": str(history),
            LOG: str(lab.log),
            **variables,
        },
    )


def step_of(dagster: psutil.Process) -> psutil.Process:
    """The process that the multiprocess executor started for the step."""
    (step,) = [
        child for child in dagster.children(recursive=True) if "spawn_main" in command(child)
    ]
    assert step.pid != os.getpid()
    return step
