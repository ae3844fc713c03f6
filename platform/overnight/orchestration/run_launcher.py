"""Dagster's run launcher for one machine, whose runs begin with everything imported.

Most of what an unchanged day costs is Python's imports, in a process of its own for each run.
Here one process imports the large libraries once (`overnight.run_template`), and each run is
forked from it. This project's own code is imported by each run anew, so that what was changed
and reloaded counts.

In `dagster.yaml`:

    run_launcher:
      module: overnight.orchestration.run_launcher
      class: ForkingRunLauncher
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dagster._core.launcher.base import (
    CheckRunHealthResult,
    LaunchRunContext,
    RunLauncher,
    WorkerStatus,
)
from dagster._grpc.types import ExecuteRunArgs
from dagster._serdes import ConfigurableClass, serialize_value

from overnight.errors import OvernightError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Self

    from dagster import DagsterRun
    from dagster._serdes.config_class import ConfigurableClassData

__all__ = ["PROCESS_TAG", "ForkingRunLauncher"]

PROCESS_TAG = "overnight/process"
"""The tag that says which process a run is: `host`, `pid`, `started` (ticks since boot)."""

_TEMPLATE = [sys.executable, "-m", "overnight.run_template"]


class ForkingRunLauncher(RunLauncher[Any], ConfigurableClass):
    """Forks a process for each run from one that has imported the large libraries.

    Runs go on when the process that launched them ends.
    """

    def __init__(self, inst_data: ConfigurableClassData | None = None) -> None:
        """Starts nothing yet: most processes of Dagster launch no run."""
        self._inst_data = inst_data
        self._lock = threading.Lock()
        self._template: subprocess.Popen[str] | None = None
        super().__init__()  # type: ignore[no-untyped-call] # Dagster's has no types

    @property
    def inst_data(self) -> ConfigurableClassData | None:
        """What `dagster.yaml` said."""
        return self._inst_data

    @classmethod
    def config_type(cls) -> dict[str, Any]:
        """There is nothing to configure."""
        return {}

    @classmethod
    def from_config_value(
        cls, inst_data: ConfigurableClassData, config_value: Mapping[str, Any]
    ) -> Self:
        """As Dagster makes it."""
        del config_value
        return cls(inst_data)

    def warm_up(self) -> None:
        """Begin with the imports, for whoever is going to launch runs; does not wait for them."""
        with self._lock:
            self._running_template()

    def launch_run(self, context: LaunchRunContext) -> None:
        """Fork a process that executes the run.

        Raises:
            OvernightError: if that is not possible; says why.
        """
        run, origin = context.dagster_run, context.job_code_origin
        if origin is None:
            raise OvernightError(f"run {run.run_id} does not say where its code is")
        arguments = ExecuteRunArgs(
            job_origin=origin, run_id=run.run_id, instance_ref=self._instance.get_ref()
        )
        process = self._fork(serialize_value(arguments))
        self._instance.add_run_tags(run.run_id, {PROCESS_TAG: process.tag()})

    def terminate(self, run_id: str) -> bool:
        """Interrupt a run's process; whether there is one."""
        run = self._instance.get_run_by_id(run_id)
        if run is None or run.is_finished:
            return False
        process = _Process.of(run)
        if process is None or not process.alive():
            return False
        self._instance.report_run_canceling(run)
        process.interrupt()
        return True

    def dispose(self) -> None:
        """Let go of the process that runs are forked from; it ends by itself then."""
        with self._lock:
            self._let_go()

    @property
    def supports_check_run_worker_health(self) -> bool:
        """Dagster's run monitoring may ask."""
        return True

    def check_run_worker_health(self, run: DagsterRun) -> CheckRunHealthResult:
        """Whether a run's process is there.

        Of a run that somebody else executes, such as a command in its own process, or another
        machine, nothing is known: it counts as running, for Dagster fails all that does not.
        """
        process = _Process.of(run)
        if process is None or process.host != socket.gethostname() or process.alive():
            return CheckRunHealthResult(WorkerStatus.RUNNING)
        # It may have ended in order since Dagster looked the run up.
        now = self._instance.get_run_by_id(run.run_id)
        if now is not None and now.is_finished:
            return CheckRunHealthResult(WorkerStatus.SUCCESS)
        return CheckRunHealthResult(WorkerStatus.FAILED, f"its process {process.pid} is gone")

    def _fork(self, arguments: str) -> _Process:
        with self._lock:
            template = self._running_template()
            assert template.stdin is not None
            assert template.stdout is not None
            pid = ""
            with contextlib.suppress(BrokenPipeError):
                print(json.dumps(arguments), file=template.stdin, flush=True)
                pid = template.stdout.readline()
            if not pid:
                raise OvernightError(
                    "the process that runs are forked from has ended with status "
                    f"{template.wait()}: its output says why"
                )
        return _Process.running(int(pid))

    def _running_template(self) -> subprocess.Popen[str]:
        if self._template is None or self._template.poll() is not None:
            self._let_go()
            self._template = subprocess.Popen(  # noqa: S603 - our own module
                _TEMPLATE, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
            )
        return self._template

    def _let_go(self) -> None:
        if self._template is not None:
            self._template.communicate()
            self._template = None


@dataclass(frozen=True, slots=True)
class _Process:
    """A run's process: `started`, in ticks since boot, tells it from others of its number."""

    host: str
    pid: int
    started: int | None

    @classmethod
    def running(cls, pid: int) -> Self:
        """A process of this machine."""
        return cls(socket.gethostname(), pid, _started(pid))

    @classmethod
    def of(cls, run: DagsterRun) -> Self | None:
        """A run's, if it has been launched."""
        tag = run.tags.get(PROCESS_TAG)
        return None if tag is None else cls(**json.loads(tag))

    def tag(self) -> str:
        """As a run carries it."""
        return json.dumps(asdict(self))

    def alive(self) -> bool:
        """Whether it runs, on this machine."""
        here = self.host == socket.gethostname() and self.started is not None
        return here and _started(self.pid) == self.started

    def interrupt(self) -> None:
        """Tell it to stop, as Ctrl-C does."""
        os.kill(self.pid, signal.SIGINT)


def _started(pid: int) -> int | None:
    """When a process began, in clock ticks since boot; None if there is none."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return int(fields[19])  # the 22nd of all, see proc(5)
