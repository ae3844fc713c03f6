"""Backfills: Dagster's own daemon at work for many days, behind what the night needs."""

from __future__ import annotations

import functools
import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg
import pytest
from click.testing import CliRunner
from dagster._core.storage.tags import PARTITION_NAME_TAG

from overnight.cli import main
from overnight.dev import dagster_home, environment
from overnight.home import Home
from overnight.orchestration.backfill import DAEMONS
from overnight.orchestration.pools import PRIORITY, pool_of
from overnight.spot.policy import SpotPolicy
from overnight.warehouse.connect import Warehouse
from tests.support import daemons
from tests.support.nights import LOG, PACE
from tests.support.shop import line, reversing, write_lines
from tests.support.waiting import until

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]
LOCATION = "tests.support.nights"
DEADLINE_S = 150
LIMIT = 2


wait_until = functools.partial(until, seconds=DEADLINE_S)


@dataclass
class Installation:
    home: Path
    instance: dg.DagsterInstance
    variables: dict[str, str]

    def command(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-W", "ignore", "-m", "overnight.cli", *arguments],
            cwd=ROOT,
            env=self.variables,
            capture_output=True,
            text=True,
            check=False,
        )

    def runs(self) -> list[dg.DagsterRun]:
        return list(reversed(self.instance.get_runs()))

    def published(self) -> dict[str, int]:
        query = "SELECT partition_key, count(*) FROM published.reversed_lines GROUP BY 1"
        with Warehouse.open(home=self.home) as warehouse, warehouse.connect() as connection:
            return dict(map(tuple, connection.exec_driver_sql(query)))

    def attempts_of(self, day: str) -> int:
        query = f"SELECT count(*) FROM lineage.attempts WHERE partition_key = '{day}'"
        with Warehouse.open(home=self.home) as warehouse, warehouse.connect() as connection:
            count: int = connection.exec_driver_sql(query).scalar_one()
            return count

    def status(self, run: dg.DagsterRun) -> dg.DagsterRunStatus:
        found = self.instance.get_run_by_id(run.run_id)
        assert found is not None
        return found.status


@pytest.fixture
def installed(home: Path, ray_head: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Installation]:
    """One with a Ray head that is kept up, and history in the embedded PostgreSQL."""
    monkeypatch.setenv("OVERNIGHT_HOME", str(home))
    monkeypatch.setenv("OVERNIGHT_DEFINITIONS", LOCATION)
    monkeypatch.delenv("DAGSTER_HOME", raising=False)
    monkeypatch.setenv(LOG, str(home / "inferred"))
    (home / "ray.json").write_text(json.dumps({"address": ray_head, "pid": os.getpid()}))
    settings = Home.from_env()
    with dg.DagsterInstance.from_config(str(dagster_home(settings))) as instance:
        variables = {
            **environment(settings),
            "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'platform'}",
            PACE: "0.5",
        }
        yield Installation(home, instance, variables)


@pytest.fixture
def daemon(installed: Installation) -> Iterator[None]:
    with daemons.daemon(LOCATION, installed.variables):
        seen = installed.instance.get_daemon_heartbeats
        wait_until(lambda: set(DAEMONS) <= set(seen()), "the daemon did not start")
        yield


@pytest.mark.usefixtures("daemon")
def test_a_failed_day_stops_no_other_and_is_run_again_alone(installed: Installation) -> None:
    days = [f"2026-07-{day:02d}" for day in range(1, 4)]
    for number, day in enumerate(days):
        rows = ["{broken"] * 5 if day == days[1] else [line(number * 100 + n) for n in range(30)]
        write_lines(installed.home, rows, day=day)
    first = installed.command("backfill", "reversed_lines", f"{days[0]}..{days[-1]}", "--wait")
    assert first.returncode == 1, first.stdout + first.stderr
    assert "2 of 3 done, 1 failed" in first.stdout
    assert f"{days[1]} failed: 5 of 5 source rows rejected" in first.stderr
    assert f"overnight backfill reversed_lines {days[0]}..{days[-1]} --failed" in first.stderr
    assert installed.published() == {days[0]: 30, days[2]: 30}
    materialized = installed.instance.get_materialized_partitions(dg.AssetKey("reversed_lines"))
    assert materialized == {days[0], days[2]}
    log = installed.home / "inferred"
    assert len(log.read_text().splitlines()) == 60

    write_lines(installed.home, [line(n) for n in range(7)], day=days[1])
    again = installed.command(
        "backfill", "reversed_lines", f"{days[0]}..{days[-1]}", "--failed", "--wait"
    )
    assert again.returncode == 0, again.stdout + again.stderr
    assert "1 of 1 done" in again.stdout
    assert installed.published() == {**dict.fromkeys(days, 30), days[1]: 7}
    assert [run.tags[PARTITION_NAME_TAG] for run in installed.runs()] == [*days, days[1]]
    assert len(log.read_text().splitlines()) == 67
    nothing = installed.command("backfill", "reversed_lines", f"{days[0]}..{days[-1]}", "--failed")
    assert nothing.returncode == 0
    assert "no day of reversed_lines" in nothing.stdout


@pytest.mark.sweep
@pytest.mark.usefixtures("daemon")
def test_two_backfills_and_a_night_keep_the_limit_and_the_night_goes_first(
    installed: Installation,
) -> None:
    installed.instance.event_log_storage.set_concurrency_slots("trivial", LIMIT)
    days = [f"2026-07-{day:02d}" for day in range(1, 4)]
    night = "2026-07-20"
    for number, day in enumerate([*days, night]):
        write_lines(installed.home, [line(number * 100 + n) for n in range(60)], day=day)
    for job in ("reversed_lines", "mirrored_lines"):
        started = installed.command("backfill", job, f"{days[0]}..{days[-1]}")
        assert started.returncode == 0, started.stderr
    wait_until(
        lambda: len(installed.runs()) == 6 and any(run.is_success for run in installed.runs()),
        "the backfills did not start",
    )
    launched = subprocess.run(
        [
            *(sys.executable, "-W", "ignore", "-m", "dagster", "job", "launch", "-m", LOCATION),
            *("-j", "reversed_lines_job", "--tags", json.dumps({PARTITION_NAME_TAG: night})),
        ],
        cwd=ROOT,
        env=installed.variables,
        capture_output=True,
        text=True,
        check=False,
    )
    assert launched.returncode == 0, launched.stdout + launched.stderr
    wait_until(lambda: len(installed.runs()) == 7, "the night was not launched")
    wait_until(lambda: all(run.is_finished for run in installed.runs()), "runs got stuck")
    assert all(run.is_success for run in installed.runs())
    records = installed.instance.get_run_records()
    assert most_at_once(records) <= LIMIT
    (nightly,) = [r for r in records if r.dagster_run.tags[PARTITION_NAME_TAG] == night]
    assert nightly.dagster_run.tags[PRIORITY] == "10"
    began = {r.dagster_run.run_id: float(r.start_time) for r in records}
    waited = nightly.create_timestamp.timestamp()
    between = [at for at in began.values() if waited < at < began[nightly.dagster_run.run_id]]
    # As many may have been on their way just then.
    assert len(between) <= LIMIT
    assert any(at > began[nightly.dagster_run.run_id] for at in began.values())


def most_at_once(records: Any) -> int:
    events = sorted(
        change for record in records for change in ((record.start_time, 1), (record.end_time, -1))
    )
    most = now = 0
    for _, change in events:
        now += change
        most = max(most, now)
    return most


@pytest.mark.usefixtures("daemon")
def test_a_run_whose_process_is_killed_gives_its_place_to_another(
    installed: Installation,
) -> None:
    installed.instance.event_log_storage.set_concurrency_slots("trivial", 1)
    days = ["2026-07-01", "2026-07-02"]
    write_lines(installed.home, [line(1, "!slow 1000000 steps")], day=days[0])
    write_lines(installed.home, [line(n) for n in range(5)], day=days[1])
    started = installed.command("backfill", "reversed_lines", f"{days[0]}..{days[1]}")
    assert started.returncode == 0, started.stderr
    wait_until(lambda: installed.attempts_of(days[0]), "the first day did not begin")
    holder, waiting = installed.runs()
    assert holder.tags[PARTITION_NAME_TAG] == days[0]
    assert installed.status(holder) is dg.DagsterRunStatus.STARTED
    assert installed.status(waiting) is dg.DagsterRunStatus.QUEUED
    os.kill(pid_of(installed.instance, holder), signal.SIGKILL)
    wait_until(
        lambda: installed.status(waiting) is dg.DagsterRunStatus.SUCCESS,
        "nobody got the dead run's place",
    )
    assert installed.status(holder) is dg.DagsterRunStatus.FAILURE
    assert installed.published() == {days[1]: 5}


def pid_of(instance: dg.DagsterInstance, run: dg.DagsterRun) -> int:
    """The process that a run was started in."""
    events = instance.get_records_for_run(run.run_id, of_type=dg.DagsterEventType.ENGINE_EVENT)
    for record in events.records:
        event = record.event_log_entry.dagster_event
        pid = event.engine_event_data.metadata.get("pid") if event else None
        if pid is not None:
            return int(str(pid.value))
    raise AssertionError("no event of the run tells its process")


def test_jobs_share_a_pool_by_engine_and_class_of_machines() -> None:
    def pool(*types: str) -> str:
        return pool_of(reversing(spot=SpotPolicy(instance_types=types)))

    assert pool() == "trivial"
    assert pool("g6.2xlarge", "g5.2xlarge") == pool("g6.xlarge") == "trivial_g6"
    assert pool("p5.48xlarge") == "trivial_p5"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("nothing", "2026-07-01..2026-07-02"), "there is no job 'nothing'; there are: mirrored"),
        (("reversed_lines", "2026-07-01"), "is no range of days"),
        (("reversed_lines", "2026-07-01..2026-02-30"), "'2026-02-30' is not a date"),
        (("reversed_lines", "2026-07-02..2026-07-01"), "ends before it begins"),
        (("reversed_lines", "2026-05-31..2026-07-01"), "reversed_lines begins with 2026-06-01"),
        (("reversed_lines", "2026-07-01..2999-01-01"), "2999-01-01 has not ended yet"),
        (("newest_lines", "2026-07-01..2026-07-02"), "newest_lines has no daily partitions"),
        (("reversed_lines", "2026-07-01..2026-07-02"), "no Dagster daemon is at work"),
    ],
)
def test_a_backfill_that_cannot_be_says_why(
    installed: Installation, arguments: tuple[str, ...], says: str
) -> None:
    result = CliRunner().invoke(main, ["backfill", *arguments])
    assert result.exit_code == 1
    assert says in result.output
    assert installed.instance.get_backfills() == []
