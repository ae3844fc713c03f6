"""PostgreSQL is killed exactly where its unlogged staging table is full, and then empty."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

import psutil  # type: ignore[import-untyped]
import pytest

from tests.chaos.lab import wait_for
from tests.chaos.step import PUBLISHED, RETRY, reached

if TYPE_CHECKING:
    from pathlib import Path

    from tests.chaos.lab import Lab


@pytest.mark.parametrize("where", ["audit", "publish"])
def test_a_stage_that_a_crash_emptied_is_staged_again_and_nothing_inferred_again(
    lab: Lab, tmp_path: Path, where: str
) -> None:
    day = {"audit": "2026-06-11", "publish": "2026-06-12"}[where]
    landed = lab.land(day, "a")
    log = lab.tail()
    gate = tmp_path / "gate"
    step = lab.start(day, "--gate-at", where, "--gate", str(gate))
    assert wait_for(reached(gate).exists, step), step.output
    pid = lab.warehouse.server_pid
    assert pid is not None
    psutil.Process(pid).send_signal(signal.SIGKILL)
    gate.touch()
    assert step.wait() == RETRY, step.output
    again = lab.start(day)
    assert again.wait() == PUBLISHED, again.output
    assert dict(lab.published(day)) == landed.expected
    assert len(log.inferred()) == len(landed.expected)
