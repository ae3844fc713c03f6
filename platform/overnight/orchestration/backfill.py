"""Backfills: many days of one table as runs of their own, behind the nightly ones in the queue.

A backfill is Dagster's; here it is asked for and watched. Dagster's daemon starts its runs, so
it goes on without whoever asked for it.
"""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import dagster as dg
from dagster._core.execution.backfill import (
    BULK_ACTION_TERMINAL_STATUSES,
    BulkActionStatus,
    PartitionBackfill,
)
from dagster._core.storage.tags import BACKFILL_ID_TAG, PARTITION_NAME_TAG
from dagster._core.utils import make_new_backfill_id

from overnight.errors import ConfigError
from overnight.landing import check_partition
from overnight.orchestration.pools import BACKFILL, PRIORITY, declare_limits

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dagster._core.definitions.assets.graph.base_asset_graph import BaseAssetGraph

DAEMONS = ("BACKFILL", "QUEUED_RUN_COORDINATOR")
# A daemon says every thirty seconds that it is alive.
ALIVE_S = 120
# A process for each run, and not another for its only step: half of what an unchanged day costs.
IN_PROCESS: dict[str, Any] = {"execution": {"config": {"in_process": {}}}}
_FAILED = (dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED)
_WORDS = {
    dg.DagsterRunStatus.SUCCESS: "done",
    dg.DagsterRunStatus.FAILURE: "failed",
    dg.DagsterRunStatus.CANCELED: "canceled",
    dg.DagsterRunStatus.STARTING: "running",
    dg.DagsterRunStatus.STARTED: "running",
    dg.DagsterRunStatus.CANCELING: "running",
}
_ORDER = ("done", "failed", "canceled", "running", "waiting")


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a backfill is.

    Attributes:
        days: each day's state: `done`, `failed`, `canceled`, `running` or `waiting`.
        runs: the newest run of each day that has one.
        over: whether nothing more will happen.
        error: why Dagster itself gave the backfill up, if it did.
    """

    days: dict[str, str]
    runs: dict[str, str]
    over: bool
    error: str | None

    def __str__(self) -> str:
        """In words, such as `3 of 30 done, 1 failed, 2 running, 24 waiting`."""
        counts = Counter(self.days.values())
        done = f"{counts.pop('done', 0)} of {len(self.days)} done"
        return ", ".join([done, *(f"{counts[word]} {word}" for word in _ORDER if counts[word])])


def days_between(graph: BaseAssetGraph[Any], asset: str, first: str, last: str) -> list[str]:
    """The partitions of a table from one day to another, both included.

    Raises:
        ConfigError: if the table has no days, or those are not all days that it has by now.
    """
    partitions = graph.get(dg.AssetKey(asset)).partitions_def
    if not isinstance(partitions, dg.TimeWindowPartitionsDefinition):
        raise ConfigError(f"{asset} has no daily partitions, so there is nothing to backfill")
    first, last = check_partition(first), check_partition(last)
    if last < first:
        raise ConfigError(f"{first}..{last} ends before it begins: write the earlier day first")
    days = partitions.get_partition_keys()
    if not days:
        raise ConfigError(f"{asset} has no day yet: it begins with {partitions.start:%Y-%m-%d}")
    if first < days[0]:
        raise ConfigError(f"{asset} begins with {days[0]}: {first} is before that")
    if last > days[-1]:
        raise ConfigError(
            f"{last} has not ended yet in {partitions.timezone}: the last day of {asset} that can "
            f"be run is {days[-1]}"
        )
    return [day for day in days if first <= day <= last]


def check_daemon(instance: dg.DagsterInstance) -> None:
    """Refuse to go on where nobody would start the runs.

    Raises:
        ConfigError: if Dagster's daemon has not said lately that it is alive.
    """
    seen = instance.get_daemon_heartbeats()
    oldest = min((seen[name].timestamp if name in seen else 0.0) for name in DAEMONS)
    if time.time() - oldest > ALIVE_S:
        raise ConfigError(
            f"no Dagster daemon is at work on {instance.root_directory}, so nothing would start "
            "the runs: start `make dev` (or `overnight daemon`) in another terminal, and again"
        )


def failed_days(instance: dg.DagsterInstance, asset: str, days: Sequence[str]) -> list[str]:
    """Those days whose newest run failed or was canceled."""
    return [day for day in days if _newest(instance, asset, day) in _FAILED]


def launch(
    instance: dg.DagsterInstance, graph: BaseAssetGraph[Any], asset: str, days: Sequence[str]
) -> str:
    """Ask Dagster for a backfill of some of a table's days; its id."""
    declare_limits(instance, graph)
    backfill = PartitionBackfill.from_asset_partitions(
        backfill_id=make_new_backfill_id(),
        asset_graph=graph,
        partition_names=list(days),
        asset_selection=[dg.AssetKey(asset)],
        backfill_timestamp=time.time(),
        tags={PRIORITY: BACKFILL},
        dynamic_partitions_store=instance,
        all_partitions=False,
        title=f"{asset} {days[0]}..{days[-1]}",
        description=None,
        run_config=IN_PROCESS,
    )
    instance.add_backfill(backfill)
    return backfill.backfill_id


def progress(instance: dg.DagsterInstance, backfill_id: str, days: Sequence[str]) -> Progress:
    """How far a backfill of some days is."""
    # Looked up first: what is over then has all its runs.
    backfill = instance.get_backfill(backfill_id)
    states = dict.fromkeys(days, "waiting")
    runs: dict[str, str] = {}
    for run in instance.get_runs(dg.RunsFilter(tags={BACKFILL_ID_TAG: backfill_id})):
        day = run.tags.get(PARTITION_NAME_TAG)
        if day in states and day not in runs:  # the newest come first
            runs[day] = run.run_id
            states[day] = _WORDS.get(run.status, "waiting")
    error = None
    if backfill is None:
        error = "Dagster has forgotten it"
    elif backfill.status is BulkActionStatus.FAILED:
        error = backfill.error.message.strip() if backfill.error else "Dagster gave it up"
    over = backfill is None or backfill.status in BULK_ACTION_TERMINAL_STATUSES
    return Progress(states, runs, over, error)


def _newest(instance: dg.DagsterInstance, asset: str, day: str) -> dg.DagsterRunStatus | None:
    """How the newest run of a table's day goes, or went."""
    for run in instance.get_runs(dg.RunsFilter(tags={PARTITION_NAME_TAG: day})):
        selected = run.asset_selection or ()
        if dg.AssetKey(asset) in selected or run.job_name == f"{asset}_job":
            return run.status
    return None
