"""Which partition a run is for, however it was launched."""

from __future__ import annotations

import dagster as dg


def partition_of(context: dg.OpExecutionContext) -> str | None:
    """The run's partition; None for a run without any.

    A backfill that was launched in the UI names the day of each of its runs as a range of one.

    Raises:
        dg.Failure: if the run is for several.
    """
    if context.has_partition_key:
        return context.partition_key
    if not context.has_partition_key_range:
        return None
    keys = context.partition_key_range
    if keys.start == keys.end:
        return keys.start
    raise dg.Failure(
        f"the run is for {keys.start} to {keys.end}, but a run is for one partition: launch a "
        "backfill, which starts a run for each",
        allow_retries=False,
    )
