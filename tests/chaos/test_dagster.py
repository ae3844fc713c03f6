"""Dagster's own retries bring a step back that was killed in mid-inference."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import psutil

from tests.chaos.definitions import LOG
from tests.chaos.lab import PATIENCE_S, ROOT, environment, rows_of, wait_for
from tests.chaos.verdict import bound
from tests.chaos.watch import Flushes

if TYPE_CHECKING:
    from tests.chaos.lab import Lab

DAY = "2026-06-21"


def test_a_killed_step_is_retried_by_dagster_and_the_run_succeeds(lab: Lab) -> None:
    landed = lab.land(DAY, "a")
    log = lab.tail()
    with Flushes(lab.journal, DAY) as flushes, materialize(lab) as dagster:
        try:
            assert wait_for(lambda: rows_of(log.inferred()) > 100)
            step = step_of(psutil.Process(dagster.pid))
            step.send_signal(signal.SIGKILL)
            said, _ = dagster.communicate(timeout=PATIENCE_S)
        finally:
            dagster.kill()
    assert dagster.returncode == 0, said
    assert "STEP_UP_FOR_RETRY" in said
    assert "RUN_SUCCESS" in said
    assert dict(lab.published(DAY)) == landed.expected
    inferred = log.inferred()
    assert rows_of(inferred) == len(landed.expected)
    assert len(inferred) - rows_of(inferred) <= bound(flushes.longest_gap())
    outcomes = lab.attempts(DAY)
    assert outcomes == ["interrupted", "published"]


def materialize(lab: Lab) -> subprocess.Popen[str]:
    """Run the asset as `dagster asset materialize` does: the step in a process of its own."""
    history = lab.home / "dagster"
    history.mkdir()
    (history / "dagster.yaml").write_text("telemetry:\n  enabled: false\n")
    return subprocess.Popen(
        [
            *(sys.executable, "-m", "dagster", "asset", "materialize"),
            *("-m", "tests.chaos.definitions"),
            *("--select", "reversed_lines", "--partition", DAY),
        ],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=ROOT,
        env={**environment(lab.home), "DAGSTER_HOME": str(history), LOG: str(lab.log)},
    )


def step_of(dagster: psutil.Process) -> psutil.Process:
    """The process that the multiprocess executor started for the step."""
    (step,) = [
        child
        for child in dagster.children(recursive=True)
        if any("spawn_main" in part for part in child.cmdline())
    ]
    assert step.pid != os.getpid()
    return step
