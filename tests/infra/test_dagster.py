"""Dagster's settings: production's and the development twin's, read and acted on by Dagster."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import dagster as dg
import psutil
import pytest
import yaml
from dagster import DagsterInstance

from overnight.dev import DAGSTER_YAML, dagster_home
from overnight.home import Home
from overnight.warehouse.connect import Warehouse
from overnight.warehouse.embedded import EmbeddedServer
from resources.history import EmbeddedHistory, history_url
from tests.infra.dying import PIDS
from tests.support import daemons
from tests.support.waiting import until

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]
PRODUCTION = ROOT / "infra" / "dagster" / "dagster.yaml"
DEADLINE_S = 120


@pytest.fixture
def production(
    tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[DagsterInstance]:
    """A Dagster instance that is set up by production's file, on a PostgreSQL of its own."""
    server = EmbeddedServer(home / "warehouse")
    server.join()
    try:
        monkeypatch.setenv("OVERNIGHT_DAGSTER_URL", history_url(server))
        shutil.copy(PRODUCTION, tmp_path / "dagster.yaml")
        with DagsterInstance.from_config(str(tmp_path)) as instance:
            yield instance
    finally:
        server.leave()


@pytest.fixture
def daemon(production: DagsterInstance, tmp_path: Path) -> Iterator[dict[str, str]]:
    """Dagster's daemon at work on it; yields the environment for other programs beside it."""
    environment = {
        **os.environ,
        "DAGSTER_HOME": str(tmp_path),
        PIDS: str(tmp_path / "pids"),
    }
    with daemons.daemon("tests.infra.dying", environment):
        yield environment


def test_dagster_reads_the_settings_as_they_are_meant(production: DagsterInstance) -> None:
    assert production.telemetry_enabled is False
    assert production.run_retries_enabled
    assert production.run_retries_max_retries == 3
    assert production.run_retries_retry_on_asset_or_op_failure is False
    assert production.run_monitoring_enabled
    assert production.run_monitoring_poll_interval_seconds == 10
    assert production.run_monitoring_start_timeout_seconds == 180
    assert production.run_monitoring_cancel_timeout_seconds == 180
    assert production.run_monitoring_settings["free_slots_after_run_end_seconds"] == 60
    queue = production.get_concurrency_config()
    assert queue.run_queue_config is not None
    assert queue.run_queue_config.max_concurrent_runs == 6
    assert queue.pool_config.default_pool_limit == 4
    assert queue.pool_config.pool_granularity is not None
    assert queue.pool_config.pool_granularity.value == "run"
    assert production.run_coordinator.dequeue_interval_seconds == 1


def test_development_has_productions_settings_but_for_the_storage() -> None:
    production = yaml.safe_load(PRODUCTION.read_text())
    production.pop("storage", None)
    assert yaml.safe_load(DAGSTER_YAML) == production


def test_development_keeps_its_history_in_the_embedded_postgresql(home: Path) -> None:
    place = dagster_home(Home(path=home, store_url=(home / "store").as_uri()))
    with DagsterInstance.from_config(str(place)) as instance:
        instance.add_dynamic_partitions("a", ["b"])
        # As a run's own process gets it.
        with DagsterInstance.from_ref(instance.get_ref()) as again:
            assert again.get_dynamic_partitions("a") == ["b"]
            assert isinstance(again.get_ref().storage, EmbeddedHistory)
    assert not list(place.rglob("*.db"))


def test_development_goes_on_with_its_history_when_the_server_was_killed(home: Path) -> None:
    place = dagster_home(Home(path=home, store_url=(home / "store").as_uri()))
    with (
        DagsterInstance.from_config(str(place)) as instance,
        Warehouse.open(home=home) as warehouse,
    ):
        instance.add_dynamic_partitions("a", ["b"])
        pid = warehouse.server_pid
        assert pid is not None
        backends = psutil.Process(pid).children()
        os.kill(pid, signal.SIGKILL)
        psutil.wait_procs(backends, timeout=DEADLINE_S)
        with warehouse.connect():
            assert warehouse.server_pid != pid
        assert instance.get_dynamic_partitions("a") == ["b"]


def test_a_password_is_in_no_settings() -> None:
    storage = yaml.safe_load(PRODUCTION.read_text())["storage"]
    assert storage == {"postgres": {"postgres_url": {"env": "OVERNIGHT_DAGSTER_URL"}}}


def test_a_run_whose_process_is_killed_is_run_again(
    production: DagsterInstance, daemon: dict[str, str]
) -> None:
    launched = subprocess.run(
        [
            *(sys.executable, "-m", "dagster", "job", "launch"),
            *("-m", "tests.infra.dying", "-j", "stuck_once"),
        ],
        cwd=ROOT,
        env=daemon,
        capture_output=True,
        text=True,
        check=False,
    )
    assert launched.returncode == 0, launched.stdout + launched.stderr
    pids = Path(daemon[PIDS])
    until(
        lambda: pids.exists() and pids.read_text().endswith("\n"),
        "the run did not start",
        seconds=DEADLINE_S,
    )
    os.kill(int(pids.read_text()), signal.SIGKILL)

    def ended() -> bool:
        runs = production.get_runs()
        return len(runs) == 2 and all(run.is_finished for run in runs)

    until(ended, "the killed run was not run again", seconds=DEADLINE_S)
    again, killed = production.get_runs()
    assert killed.status is dg.DagsterRunStatus.FAILURE
    assert again.status is dg.DagsterRunStatus.SUCCESS
    assert again.parent_run_id == killed.run_id
