"""When Dagster's daemon, as it runs here, looks at backfills."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

import dagster as dg
import pytest
from click.testing import CliRunner
from dagster._core.storage.tags import BACKFILL_ID_TAG

from overnight.cli import main
from overnight.orchestration import backfill, daemon
from overnight.orchestration.daemon import _ShutdownOrIdleBackfill

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

# Longer than a test may last.
FOR_EVER_S = 3600.0
DAYS = ["2026-07-01", "2026-07-02"]


@dg.asset(partitions_def=dg.DailyPartitionsDefinition("2026-07-01", end_date="2026-07-10"))
def summaries() -> None:
    """A table with days."""


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.instance_for_test() as opened:
        yield opened


@pytest.fixture(autouse=True)
def looks_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(daemon, "LOOK_S", 0.01)


def launch(instance: dg.DagsterInstance) -> str:
    graph = dg.Definitions([summaries]).resolve_asset_graph()
    return backfill.launch(instance, graph, "summaries", DAYS)


def test_it_wakes_for_a_backfill_that_is_launched_while_it_waits(
    instance: dg.DagsterInstance,
) -> None:
    waiting = _ShutdownOrIdleBackfill(threading.Event(), instance)
    launched = threading.Thread(target=launch, args=(instance,))
    launched.start()
    assert not waiting.wait(FOR_EVER_S)
    launched.join()


def test_it_lets_a_backfill_whose_runs_are_not_over_wait_and_wakes_when_they_have_ended(
    instance: dg.DagsterInstance,
) -> None:
    number = launch(instance)
    job = dg.Definitions([summaries]).resolve_implicit_global_asset_job_def()
    run = instance.create_run_for_job(job, tags={BACKFILL_ID_TAG: number})
    waiting = _ShutdownOrIdleBackfill(threading.Event(), instance)
    looks = 20
    began = time.monotonic()
    assert not waiting.wait(looks * daemon.LOOK_S)
    assert time.monotonic() - began >= looks * daemon.LOOK_S
    instance.report_run_canceled(run)
    assert not waiting.wait(FOR_EVER_S)


def test_it_ends_with_the_daemon(instance: dg.DagsterInstance) -> None:
    shutdown = threading.Event()
    waiting = _ShutdownOrIdleBackfill(shutdown, instance)
    assert not waiting.is_set()
    shutdown.set()
    assert waiting.wait(FOR_EVER_S)
    assert waiting.is_set()


def test_a_workspace_file_that_does_not_exist_is_named(home: Path) -> None:
    done = CliRunner().invoke(
        main, ["daemon", "--workspace", "nowhere.yaml"], env={"OVERNIGHT_HOME": str(home)}
    )
    assert done.exit_code == 1
    assert "there is no file 'nowhere.yaml' here" in done.output
    assert not (home / "dagster").exists()
