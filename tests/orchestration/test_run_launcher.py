"""The launcher with real processes: forked with libraries, interrupted, missed, told apart."""

from __future__ import annotations

import json
import logging
import os
import signal
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg
import psutil
import pytest
from dagster._core.definitions.reconstruct import ReconstructableJob, ReconstructableRepository
from dagster._core.launcher.base import WorkerStatus
from dagster._daemon.monitoring.run_monitoring import monitor_started_run

from overnight.dev import DAGSTER_YAML
from overnight.errors import OvernightError
from overnight.orchestration import run_launcher
from overnight.orchestration.run_launcher import PROCESS_TAG, ForkingRunLauncher
from tests.orchestration import launched
from tests.support.processes import command
from tests.support.waiting import until

if TYPE_CHECKING:
    from collections.abc import Iterator

DEADLINE_S = 60


@pytest.fixture(scope="module")
def instance(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dg.DagsterInstance]:
    home = tmp_path_factory.mktemp("dagster")
    (home / "dagster.yaml").write_text(DAGSTER_YAML)
    with (
        pytest.MonkeyPatch.context() as patch,
        dg.DagsterInstance.from_config(str(home)) as opened,
    ):
        patch.setenv(launched.TOLD, str(home / "told"))
        yield opened
        for run in opened.get_runs():
            opened.run_launcher.terminate(run.run_id)


@pytest.fixture
def launcher(instance: dg.DagsterInstance) -> ForkingRunLauncher:
    assert isinstance(instance.run_launcher, ForkingRunLauncher)
    return instance.run_launcher


def launch(instance: dg.DagsterInstance, job: Any) -> str:
    """Launch a run as Dagster's daemon does; its id."""
    code = job if isinstance(job, ReconstructableJob) else dg.reconstructable(job)
    run = instance.create_run_for_job(
        code.get_definition(),
        status=dg.DagsterRunStatus.STARTING,
        job_code_origin=code.get_python_origin(),
    )
    instance.launch_run(run.run_id, workspace=None)  # type: ignore[arg-type] # it needs none
    return run.run_id


def told() -> dict[str, Any]:
    """What the run's process says of itself."""
    file = Path(os.environ[launched.TOLD])
    until(file.exists, "the run did not start", seconds=DEADLINE_S)
    said: dict[str, Any] = json.loads(file.read_text())
    file.unlink()
    return said


def run_of(instance: dg.DagsterInstance, run_id: str) -> dg.DagsterRun:
    run = instance.get_run_by_id(run_id)
    assert run is not None
    return run


def await_end(instance: dg.DagsterInstance, run_id: str) -> dg.DagsterRunStatus:
    until(lambda: run_of(instance, run_id).is_finished, "the run did not end", seconds=DEADLINE_S)
    return run_of(instance, run_id).status


def test_runs_are_forked_from_one_process_that_has_imported_what_they_need(
    instance: dg.DagsterInstance, launcher: ForkingRunLauncher
) -> None:
    launcher.warm_up()
    (template,) = {
        child.pid
        for child in psutil.Process().children()
        if "overnight.run_template" in command(child)
    }
    runs = [launch(instance, launched.telling)]
    said = [told()]
    runs.append(launch(instance, launched.telling))
    said.append(told())
    for run in runs:
        assert await_end(instance, run) is dg.DagsterRunStatus.SUCCESS
        assert launcher.check_run_worker_health(run_of(instance, run)).status in {
            WorkerStatus.SUCCESS,
            WorkerStatus.RUNNING,  # its process may still be ending
        }
    assert said[0]["pid"] != said[1]["pid"]
    assert {one["parent"] for one in said} == {template}
    for one in said:
        assert {"dagster", "ray", "pandas", "matplotlib.figure"} <= set(one["imported"])
    template = Path(f"/proc/{said[0]['parent']}")
    # Others' threads would hold what their forks wait for; these two have handlers for that.
    threads = {(task / "comm").read_text().strip() for task in (template / "task").iterdir()}
    assert threads <= {"python", "jemalloc_bg_thd"}


def test_a_job_that_was_changed_runs_as_it_is_now(
    instance: dg.DagsterInstance, tmp_path: Path
) -> None:
    file = tmp_path / "changing.py"

    def launch_saying(word: str) -> str:
        file.write_text(
            "import dagster as dg\n@dg.op\ndef say(context):\n"
            f"    context.log.info('it says {word}')\n"
            "@dg.job(executor_def=dg.in_process_executor)\ndef saying():\n    say()\n"
        )
        code = ReconstructableJob(ReconstructableRepository.for_file(str(file), "saying"), "saying")
        run = launch(instance, code)
        assert await_end(instance, run) is dg.DagsterRunStatus.SUCCESS
        return " ".join(entry.user_message for entry in instance.all_logs(run))

    assert "it says first" in launch_saying("first")
    assert "it says second" in launch_saying("second")


def test_a_run_that_is_terminated_is_canceled(
    instance: dg.DagsterInstance, launcher: ForkingRunLauncher
) -> None:
    run = launch(instance, launched.waiting)
    pid = told()["pid"]
    assert launcher.check_run_worker_health(run_of(instance, run)).status is WorkerStatus.RUNNING
    assert launcher.terminate(run)
    assert await_end(instance, run) is dg.DagsterRunStatus.CANCELED
    until(lambda: not psutil.pid_exists(pid), "its process stays")
    assert not launcher.terminate(run)


def test_a_run_whose_process_was_killed_has_failed(
    instance: dg.DagsterInstance, launcher: ForkingRunLauncher
) -> None:
    run = launch(instance, launched.waiting)
    pid = told()["pid"]
    os.kill(pid, signal.SIGKILL)
    until(lambda: not psutil.pid_exists(pid), "it was not killed")
    health = launcher.check_run_worker_health(run_of(instance, run))
    assert health.status is WorkerStatus.FAILED
    assert str(pid) in (health.msg or "")
    assert not launcher.terminate(run)


def test_runs_go_on_when_the_process_that_they_were_forked_from_ends(
    instance: dg.DagsterInstance, launcher: ForkingRunLauncher
) -> None:
    first = launch(instance, launched.waiting)
    before = told()
    os.kill(before["parent"], signal.SIGKILL)
    second = launch(instance, launched.telling)
    after = told()
    assert after["parent"] != before["parent"]
    assert await_end(instance, second) is dg.DagsterRunStatus.SUCCESS
    launcher.dispose()
    until(lambda: not psutil.pid_exists(after["parent"]), "it does not end with the launcher")
    assert launcher.check_run_worker_health(run_of(instance, first)).status is WorkerStatus.RUNNING
    assert launcher.terminate(first)
    assert await_end(instance, first) is dg.DagsterRunStatus.CANCELED


def test_another_process_is_not_taken_for_a_runs(
    instance: dg.DagsterInstance, launcher: ForkingRunLauncher
) -> None:
    run_id = launch(instance, launched.waiting)
    told()
    run = run_of(instance, run_id)
    tag = json.loads(run.tags[PROCESS_TAG])
    other = run.with_tags({PROCESS_TAG: json.dumps({**tag, "started": tag["started"] - 1})})
    assert launcher.check_run_worker_health(other).status is WorkerStatus.FAILED


@pytest.mark.parametrize("host", [None, "elsewhere", socket.gethostname()])
def test_dagsters_monitoring_fails_only_runs_of_this_machine_whose_process_is_gone(
    instance: dg.DagsterInstance, host: str | None
) -> None:
    gone = json.dumps({"host": host, "pid": os.getpid(), "started": 1})
    run = instance.create_run_for_job(
        launched.waiting,
        status=dg.DagsterRunStatus.STARTED,
        tags={} if host is None else {PROCESS_TAG: gone},
    )
    record = instance.get_run_record_by_id(run.run_id)
    monitor_started_run(instance, None, record, logging.getLogger())  # type: ignore[arg-type] # it needs no workspace
    failed = run_of(instance, run.run_id).status is dg.DagsterRunStatus.FAILURE
    assert failed == (host == socket.gethostname())


def test_a_process_that_does_not_start_is_an_error_that_says_so(
    instance: dg.DagsterInstance, launcher: ForkingRunLauncher, monkeypatch: pytest.MonkeyPatch
) -> None:
    launcher.dispose()
    monkeypatch.setattr(run_launcher, "_TEMPLATE", ["/bin/sh", "-c", "exit 3"])
    with pytest.raises(OvernightError, match="has ended with status 3"):
        launch(instance, launched.telling)
