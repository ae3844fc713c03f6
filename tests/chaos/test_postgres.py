"""PostgreSQL is killed where it hurts: with a full staging table, or leaving a lock behind."""

from __future__ import annotations

import os
import signal
import subprocess
from typing import TYPE_CHECKING

import psutil
import pytest

from overnight.warehouse.connect import Warehouse
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


def test_a_socket_lock_whose_number_belongs_to_another_process_stops_no_restart(
    home: Path,
) -> None:
    with Warehouse.open(home=home) as warehouse:
        data = home / "warehouse"
        pid = warehouse.server_pid
        assert pid is not None
        owner = data.stat().st_uid
        # Of the server's own user: PostgreSQL does not mind the processes of others.
        other = subprocess.Popen(
            ["sleep", "600"], user=owner if owner != os.geteuid() else None, cwd="/"
        )
        try:
            lock = data / ".s.PGSQL.5432.lock"
            left = lock.read_text().replace(str(pid), str(other.pid))
            server = psutil.Process(pid)
            backends = server.children()
            server.send_signal(signal.SIGKILL)
            # Until they notice, they still answer on connections of the pool.
            assert not psutil.wait_procs(backends, timeout=20)[1]
            lock.write_text(left)
            with warehouse.connect() as connection:
                assert connection.exec_driver_sql("SELECT 1").scalar_one() == 1
        finally:
            other.kill()
            other.wait()
