"""Running a job's asset from the command line, with the trace that every run leaves."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import dagster as dg

from overnight.errors import OvernightError
from overnight.job import WHOLE
from overnight.orchestration.runs import reason

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

__all__ = ["materialize"]

_LOGGERS = {"loggers": {"console": {"config": {"log_level": "WARNING"}}}}


def materialize(
    definitions: dg.Definitions,
    job: str,
    partition: str,
    *,
    dagster_home: Path,
    environment: Mapping[str, str],
    tags: Mapping[str, str],
) -> str:
    """Run a partition in this process; its run, checks and metadata are in Dagster's history.

    Args:
        definitions: the code location.
        job: the inference job, whose asset job is `<job>_job`.
        partition: of the job.
        dagster_home: where Dagster keeps its history.
        environment: for this process from now on; Dagster and Ray read theirs from it.
        tags: of the run.

    Returns:
        The run's id.

    Raises:
        OvernightError: if the run did not succeed; says why, as the asset told it.
    """
    os.environ.update(environment)
    chosen: dict[str, Any] = {} if partition == WHOLE else {"partition_key": partition}
    with dg.DagsterInstance.from_config(str(dagster_home)) as instance:
        result = definitions.resolve_job_def(f"{job}_job").execute_in_process(
            instance=instance,
            run_config=_LOGGERS,
            tags=dict(tags),
            raise_on_error=False,
            **chosen,
        )
        why = "" if result.success else reason(instance, result.run_id)
    if not result.success:
        raise OvernightError(
            f"run {result.run_id} of {job} {partition} failed: {why}\n"
            f"`overnight why {job} {partition}` tells more"
        )
    return str(result.run_id)
