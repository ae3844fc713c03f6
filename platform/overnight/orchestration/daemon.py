"""Dagster's daemon, which does not keep whoever asks for a backfill waiting.

Dagster's own looks at backfills every thirty seconds, which no setting changes. This one looks
within two at a backfill that has no run queued or running, because it is new, or because its
next runs are due, or all are over. All else is Dagster's: schedules, sensors, the queue of runs
and their monitoring.
"""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Any

from dagster._cli.workspace.cli_target import workspace_opts_to_load_target
from dagster._core.execution.backfill import BulkActionsFilter, BulkActionStatus
from dagster._core.storage.dagster_run import NOT_FINISHED_STATUSES, RunsFilter
from dagster._core.storage.tags import BACKFILL_ID_TAG
from dagster._daemon.controller import create_daemon_of_type, daemon_controller_from_instance
from dagster._daemon.daemon import BackfillDaemon
from dagster._utils.interrupts import capture_interrupts, setup_interrupt_handlers

from overnight.orchestration.run_launcher import ForkingRunLauncher

if TYPE_CHECKING:
    from collections.abc import Iterator

    import dagster as dg
    from dagster._core.workspace.context import IWorkspaceProcessContext
    from dagster._daemon.daemon import DaemonIterator, DagsterDaemon
    from dagster_shared.cli import WorkspaceOpts

LOOK_S = 2.0
_IN_PROGRESS = [BulkActionStatus.REQUESTED, BulkActionStatus.CANCELING, BulkActionStatus.FAILING]


class PromptBackfillDaemon(BackfillDaemon):
    """Dagster's own, woken by a backfill that nothing is done for."""

    def core_loop(
        self,
        workspace_process_context: IWorkspaceProcessContext[Any],
        shutdown_event: threading.Event,
    ) -> DaemonIterator:
        """Dagster's loop, which waits for this event between its looks."""
        woken = _ShutdownOrIdleBackfill(shutdown_event, workspace_process_context.instance)
        return super().core_loop(workspace_process_context, woken)


class _ShutdownOrIdleBackfill(threading.Event):
    """The shutdown's event, whose `wait` also ends for a backfill without a run."""

    def __init__(self, shutdown: threading.Event, instance: dg.DagsterInstance) -> None:
        super().__init__()
        self._shutdown = shutdown
        self._instance = instance

    def is_set(self) -> bool:
        return self._shutdown.is_set()

    def wait(self, timeout: float | None = None) -> bool:
        end = time.monotonic() + (timeout or 0.0)
        while (left := end - time.monotonic()) > 0 and not self._shutdown.wait(min(left, LOOK_S)):
            if self._is_any_idle():
                break
        return self._shutdown.is_set()

    def _is_any_idle(self) -> bool:
        in_progress = BulkActionsFilter(statuses=_IN_PROGRESS)
        return any(
            not self._instance.get_runs_count(
                RunsFilter(
                    tags={BACKFILL_ID_TAG: backfill.backfill_id}, statuses=NOT_FINISHED_STATUSES
                )
            )
            for backfill in self._instance.get_backfills(filters=in_progress)
        )


def run(instance: dg.DagsterInstance, workspace: WorkspaceOpts) -> None:
    """Run Dagster's daemons in this process until SIGINT or SIGTERM.

    Args:
        instance: Dagster's, whose settings say which daemons there are.
        workspace: where the code is.
    """
    setup_interrupt_handlers()
    with (
        capture_interrupts(),
        daemon_controller_from_instance(
            instance,
            workspace_load_target=workspace_opts_to_load_target(workspace),
            gen_daemons=_daemons,
        ) as controller,
    ):
        if isinstance(instance.run_launcher, ForkingRunLauncher):
            instance.run_launcher.warm_up()
        controller.check_daemon_loop()


def _daemons(instance: dg.DagsterInstance) -> Iterator[DagsterDaemon[Any]]:
    for kind in instance.get_required_daemon_types():
        if kind == BackfillDaemon.daemon_type():
            yield PromptBackfillDaemon(settings=instance.get_backfill_settings())
        else:
            yield create_daemon_of_type(kind, instance)
