"""Dagster's own daemon sees files land, and a run of their day starts and publishes them."""

from __future__ import annotations

import datetime as dt
import functools
import os
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

import dagster as dg

from tests.support.daemons import daemon
from tests.support.shop import line, write_lines
from tests.support.waiting import until

if TYPE_CHECKING:
    from pathlib import Path

DEADLINE_S = 100
# The daemon goes by the real clock.
DAY = (dt.datetime.now(tz=ZoneInfo("Europe/Berlin")) - dt.timedelta(days=1)).date().isoformat()


wait_until = functools.partial(until, seconds=DEADLINE_S)


def test_the_daemon_starts_a_run_when_files_land_and_none_after_a_restart(
    home: Path, tmp_path: Path, ray_head: str
) -> None:
    environment = {
        **os.environ,
        "DAGSTER_HOME": str(tmp_path),
        "OVERNIGHT_HOME": str(home),
        "OVERNIGHT_RAY_ADDRESS": ray_head,
    }
    (tmp_path / "dagster.yaml").write_text("telemetry:\n  enabled: false\n")

    def ticks() -> int:
        # Opened anew: the daemon makes the tables.
        with dg.DagsterInstance.from_config(str(tmp_path)) as opened:
            return sum(
                len(opened.get_ticks(state.instigator_origin_id, state.selector_id))
                for state in opened.all_instigator_state()
            )

    with dg.DagsterInstance.from_config(str(tmp_path)) as instance:
        with daemon("tests.orchestration.sensed", environment):
            wait_until(ticks, "no tick came")
            write_lines(home, [line(1), line(2)], DAY)
            write_lines(home, [], DAY, "_SUCCESS")
            wait_until(
                lambda: [run for run in instance.get_runs() if run.is_finished],
                "no run of the day that landed came to its end",
            )
        (run,) = instance.get_runs()
        assert run.status is dg.DagsterRunStatus.SUCCESS
        assert run.tags["dagster/partition"] == DAY
        assert run.tags["dagster/sensor_name"] == "lines_landing"
        assert run.tags["overnight/why"] == f"1 files of lines have landed for {DAY}"
        before = ticks()
        with daemon("tests.orchestration.sensed", environment):
            wait_until(lambda: ticks() > before, "no tick came after the restart")
        assert len(instance.get_runs()) == 1
